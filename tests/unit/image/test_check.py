from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from buildkit_riscv64.core import dist, filesystem, project
from buildkit_riscv64.core.check_results import Finding
from buildkit_riscv64.core.console import Status
from buildkit_riscv64.core.errors import CheckError, UsageError
from buildkit_riscv64.core.process import Result
from buildkit_riscv64.image import build_request, check, layout
from buildkit_riscv64.image.container import DaemonRun
from buildkit_riscv64.image.variants import Variant

from ..factories import COMMIT, edit_manifest, elf
from .fake_image import (
    EPOCH,
    TARGET,
    Damage,
    FakeContainer,
    FakeImage,
    directory,
    entry,
    record_again,
)

KEY = b"-----BEGIN OPENSSH PRIVATE KEY-----\n"


@pytest.fixture
def elsewhere(on: Callable[[str], None], finished: Path) -> dist.Artifacts:
    """Binaries for riscv64, on a machine that cannot run them."""
    on("x86_64")
    return dist.load(finished)


@pytest.fixture(params=list(Variant))
def either(request: pytest.FixtureRequest, elsewhere: dist.Artifacts) -> FakeImage:
    return FakeImage(elsewhere, request.param)


@pytest.fixture
def fake(elsewhere: dist.Artifacts) -> FakeImage:
    return FakeImage(elsewhere)


def examine(fake: FakeImage) -> list[Finding]:
    place = dist.image_directory(TARGET, fake.variant)
    return check.examine(place, fake.variant, TARGET)


def reported(findings: list[Finding], status: Status = Status.FAIL) -> list[str]:
    return [f"{f.subject}: {f.check}: {f.detail}" for f in findings if f.status is status]


def refused(fake: FakeImage) -> list[str]:
    """The failed checks."""
    fake.finish()
    return reported(examine(fake))


def test_good_image(either: FakeImage) -> None:
    place = either.finish()
    findings = examine(either)
    assert reported(findings) == []
    assert reported(findings, Status.WARN) == ["image: runs: not run: this machine is amd64"]
    assert {
        "schema", "target", "variant", "sha256", "complete", "nothing else", "BuildKit's commands",
        "those in dist/", "platform", "digest", "user",
        "entrypoint", "our files", "no TCP without mutual TLS", "exposed ports", "PATH", "volumes",
        "health check", "label version", "label revision", "label created", "annotation version",
        "annotation revision", "annotation created", "created", "setuid and setgid",
        "file capabilities", "writable for all", "secrets", "caches", "devices", "removed again",
        "there", "machine", "libraries", "newest file", "size", "runs",
    } == {f.check for f in findings}  # fmt: skip
    assert {f"{name}: sha256" for name in dist.load(place).files} <= {
        f"{f.subject}: {f.check}" for f in findings
    }
    check.require_good(place, either.variant, TARGET)


@pytest.mark.parametrize("path", build_request.configuration(Variant.ROOTLESS))
def test_another_configuration(either: FakeImage, path: str) -> None:
    """A higher layer replaces one of our files, or removes it."""
    either.add(entry(path, b"other"))
    either.finish()
    wrong = [one for one in reported(examine(either)) if path in one]
    assert len(wrong) == (path in build_request.configuration(either.variant))


def test_refusal_names_the_image(fake: FakeImage) -> None:
    fake.config["User"] = "1000"
    place = fake.finish()
    with pytest.raises(CheckError) as caught:
        check.require_good(place, Variant.ROOT, TARGET)
    assert "linux-riscv64 root" in caught.value.brief
    assert "1000" in caught.value.brief
    assert "invoke build-image --force" in caught.value.hint


# Files and checksums.


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


ARCHIVE = "buildkit-v0.32.2.linux-riscv64.image.tar"


@pytest.mark.parametrize("name", [ARCHIVE, "sbom.cdx.json", "layout/index.json"])
def test_damaged_or_missing_file(fake: FakeImage, name: str) -> None:
    place = fake.finish()
    right = filesystem.sha256(place / name)
    damage(place / name)
    wrong = filesystem.sha256(place / name)
    assert reported(examine(fake)) == [f"{name}: sha256: {wrong}, expected {right}"]
    (place / name).unlink()
    assert reported(examine(fake)) == [f"{name}: sha256: cannot be read: No such file or directory"]


def test_damaged_blob_with_matching_checksums(fake: FakeImage) -> None:
    place = fake.finish()
    image = layout.load(place / dist.LAYOUT)
    for path in image.layers[-1:]:
        damage(path)
    record_again(place)
    digest = image.manifest["layers"][-1]["digest"]
    assert reported(examine(fake)) == [f"layout: digests: {digest} is damaged"]


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"0  manifest.json\n", None])
def test_wrong_checksums(fake: FakeImage, content: bytes | None) -> None:
    checksums = fake.finish() / dist.SUMS
    checksums.unlink() if content is None else checksums.write_bytes(content)
    assert reported(examine(fake)) == ["SHA256SUMS: complete: differs, expected all files"]


def test_changed_manifest_does_not_match_checksums(fake: FakeImage) -> None:
    place = fake.finish()
    text = (place / dist.MANIFEST).read_text()
    (place / dist.MANIFEST).write_text(text.replace('"seconds": 1.0', '"seconds": 2.0'))
    assert reported(examine(fake)) == ["SHA256SUMS: complete: differs, expected all files"]


def change(manifest: dict[str, Any], *keys: str, value: object) -> None:
    for key in keys[:-1]:
        manifest = manifest[key]
    manifest[keys[-1]] = value


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("manifest_version",), 2), (("target",), "linux-vax"), (("variant",), "rootful"),
        (("version",), ""), (("revision",), "main"), (("pinned",), "yes"), (("epoch",), -1),
        (("digest",), "sha256:0"), (("layers",), []), (("binaries",), {}), (("packages",), []),
        (("security_updates",), None), (("build", "engine"), "podman"),
        (("build", "base", "origin"), "auto"), (("host", "arch"), "mips"), (("more",), 1),
        (("files",), []), (("files",), [{"name": "../../etc/passwd", "size": 1, "sha256": "0" * 64}]),
        (("files",), [{"name": "/etc/passwd", "size": 1, "sha256": "0" * 64}]),
        (("files",), [{"name": "layout/.hidden", "size": 1, "sha256": "0" * 64}]),
    ],
)  # fmt: skip
def test_invalid_manifest(fake: FakeImage, keys: tuple[str, ...], value: object) -> None:
    """An invalid manifest ends the check."""
    path = fake.finish() / dist.MANIFEST
    manifest = json.loads(path.read_text())
    change(manifest, *keys, value=value)
    path.write_text(json.dumps(manifest))
    (one,) = reported(examine(fake))
    assert one.startswith("manifest.json: schema: ")


OTHER = f"sha256:{'9' * 64}"


@pytest.mark.parametrize(
    ("keys", "value", "wrong"),
    [
        (("target",), "linux-amd64", ["manifest.json: target: linux-amd64, expected linux-riscv64"]),
        (("digest",), OTHER, ["image: digest: {digest}, expected " + OTHER]),
        (("binaries", "buildctl"), "9" * 64, [
            "usr/bin/buildctl: sha256: {buildctl}, expected " + "9" * 64,
            f"usr/bin/buildctl: those in dist/: {'9' * 64}, expected " + "{buildctl}",
        ]),
        (("version",), "v1", [
            "image: label version: v0.32.2, expected v1", "image: annotation version: v0.32.2, expected v1",
        ]),
        (("created",), "2030-01-01T00:00:00Z", [
            f"image: {what}: 2026-08-04T12:27:40Z, expected 2030-01-01T00:00:00Z"
            for what in ("label created", "annotation created", "created")
        ]),
        (("epoch",), EPOCH - 1, [f"layers: newest file: {EPOCH}, expected nothing later than {EPOCH - 1}"]),
        (("variant",), "rootless", ["manifest.json: variant: rootless, expected root"]),
    ],
)  # fmt: skip
def test_wrong_manifest(
    fake: FakeImage, keys: tuple[str, ...], value: object, wrong: list[str]
) -> None:
    place = fake.finish()
    seen = {
        "digest": layout.load(place / dist.LAYOUT).digest,
        "buildctl": filesystem.sha256(fake.binaries.path / "bin/buildctl"),
    }
    edit_manifest(place, lambda manifest: change(manifest, *keys, value=value))
    assert reported(examine(fake)) == [line.format(**seen) for line in wrong]


def test_missing_image(fake: FakeImage) -> None:
    with pytest.raises(CheckError, match="no artifacts in"):
        examine(fake)
    shutil.rmtree(fake.finish() / dist.LAYOUT)
    assert reported(examine(fake))


@pytest.mark.parametrize("name", ["extra", ".hidden", "layout/blobs/sha256/extra"])
def test_extra_file(fake: FakeImage, name: str) -> None:
    (fake.finish() / name).write_text("x")
    assert reported(examine(fake)) == [f".: nothing else: {name}, expected nothing"]


def test_missing_security_updates_are_a_warning(fake: FakeImage) -> None:
    fake.updates = False
    fake.finish()
    findings = examine(fake)
    assert reported(findings) == []
    assert reported(findings, Status.WARN)[0] == (
        "packages: security updates: Debian's archive for them did not answer"
    )


# The binaries.


COMMANDS = [f"usr/bin/{command}" for command in dist.COMMANDS]


def test_other_binaries_than_in_dist(fake: FakeImage) -> None:
    """A later `invoke build-binaries` changed them."""
    fake.finish()
    other, seen = "8" * 64, filesystem.sha256(fake.binaries.path / "bin/buildctl")

    def edit(manifest: dict[str, Any]) -> None:
        manifest["files"][0]["sha256"] = other

    assert fake.binaries.manifest["files"][0]["name"] == "bin/buildctl"
    edit_manifest(fake.binaries.path, edit)
    assert reported(examine(fake)) == [
        f"usr/bin/buildctl: those in dist/: {seen}, expected {other}"
    ]


def test_no_binaries_to_compare_with(fake: FakeImage) -> None:
    place = fake.finish()
    (fake.binaries.path / dist.MANIFEST).unlink()
    findings = check.examine(place, Variant.ROOT, TARGET)
    assert reported(findings) == []
    assert reported(findings, Status.WARN)[:2] == [
        f"usr/bin/{command}: of phase 1: no binaries to compare with" for command in dist.COMMANDS
    ]


def test_binaries_with_a_garbage_manifest(fake: FakeImage) -> None:
    fake.finish()
    (fake.binaries.path / dist.MANIFEST).write_text('{"files": []}')
    findings = examine(fake)
    assert reported(findings) == []
    assert "no binaries" in reported(findings, Status.WARN)[0]


def test_missing_command(fake: FakeImage) -> None:
    fake.layers[1].pop()
    recorded = fake.binaries.files["bin/buildkitd"]["sha256"]
    assert refused(fake) == [
        f"layers: BuildKit's commands: ['usr/bin/buildctl'], expected {COMMANDS}",
        f"usr/bin/buildkitd: sha256: None, expected {recorded}",
    ]


@pytest.mark.parametrize(
    "other",
    [
        entry("usr/bin/buildkitd", elf("riscv64") + b"another"),
        entry("usr/bin/buildkitd", b"#!/bin/sh\n"),
        entry("usr/bin/buildkitd", kind=tarfile.SYMTYPE, link="/tmp/x", mode=0o777),
        entry("usr/bin/buildkitd", kind=tarfile.LNKTYPE, link="usr/bin/tini"),
    ],
    ids=["program", "script", "link", "hard link"],
)
def test_command_replaced_in_a_higher_layer(fake: FakeImage, other: Any) -> None:
    """The effective file counts."""
    fake.layers.append([other])
    (one,) = refused(fake)
    assert one.startswith("usr/bin/buildkitd: sha256: ")


@pytest.mark.parametrize("name", ["usr/local/bin/buildkitd", "opt/buildctl"])
def test_command_in_another_directory(fake: FakeImage, name: str) -> None:
    """Another directory may come first on PATH."""
    fake.add(entry(name, b"#!/bin/sh\n"))
    assert refused(fake) == [
        f"layers: BuildKit's commands: {sorted([*COMMANDS, name])}, expected {COMMANDS}"
    ]


# Configuration.


def config(**values: object) -> Damage:
    return lambda fake: fake.config.update(values)


def label(name: str, value: str) -> Damage:
    return lambda fake: fake.config["Labels"].update({f"org.opencontainers.image.{name}": value})  # fmt: skip


def annotation(name: str, value: str) -> Damage:
    return lambda fake: fake.annotations.update({f"org.opencontainers.image.{name}": value})


TINI = ["/usr/bin/tini", "-s", "--", "/usr/bin/buildkitd-entrypoint"]
HEALTHY = ["CMD", "buildctl", "debug", "workers"]
TCP = ["--addr", "tcp://0.0.0.0:1234"]
TLS = ["--tlscacert", "/ca.pem", "--tlscert", "/cert.pem", "--tlskey", "/key.pem"]


@pytest.mark.parametrize(
    ("damage", "wrong"),
    [
        (lambda p: setattr(p, "architecture", "amd64"), "platform: linux/amd64, expected linux/riscv64"),
        (config(User="1000:1000"), "user: 1000:1000, expected 0"),
        (config(Entrypoint=None), f"entrypoint: [], expected {TINI}"),
        (config(Entrypoint=["buildkitd"]), f"entrypoint: ['buildkitd'], expected {TINI}"),
        (config(Entrypoint=[word for word in TINI if word != "-s"]),
         f"entrypoint: ['/usr/bin/tini', '--', '/usr/bin/buildkitd-entrypoint'], expected {TINI}"),
        (config(Cmd=TCP), f"no TCP without mutual TLS: {TCP}, expected no tcp:// address"),
        (config(Cmd=[*TCP, *TLS[:2]]), f"no TCP without mutual TLS: {[*TCP, *TLS[:2]]}, expected no tcp:// address"),
        (config(ExposedPorts={"1234/tcp": {}}), "exposed ports: ['1234/tcp'], expected []"),
        (config(Env=["HOME=/"]), "PATH: None, expected one with /usr/bin"),
        (config(Env=None), "PATH: None, expected one with /usr/bin"),
        (config(Volumes=None), "volumes: [], expected ['/var/lib/buildkit']"),
        (config(Volumes={"/": {}}), "volumes: ['/'], expected ['/var/lib/buildkit']"),
        (config(Healthcheck=None), f"health check: None, expected {HEALTHY}"),
        (config(Healthcheck={"Test": ["NONE"]}), f"health check: ['NONE'], expected {HEALTHY}"),
        (label("version", "v1"), "label version: v1, expected v0.32.2"),
        (label("revision", "0"), f"label revision: 0, expected {COMMIT}"),
        (label("created", ""), "label created: , expected 2026-08-04T12:27:40Z"),
        (annotation("version", "v1"), "annotation version: v1, expected v0.32.2"),
        (annotation("revision", "0"), f"annotation revision: 0, expected {COMMIT}"),
        (annotation("created", ""), "annotation created: , expected 2026-08-04T12:27:40Z"),
        (lambda p: setattr(p, "created", "2026-11-23T00:00:00Z"),
         "created: 2026-11-23T00:00:00Z, expected 2026-08-04T12:27:40Z"),
    ],
)  # fmt: skip
def test_wrong_configuration(fake: FakeImage, damage: Damage, wrong: str) -> None:
    damage(fake)
    assert refused(fake) == [f"image: {wrong}"]


@pytest.mark.parametrize(
    ("damage", "wrong"),
    [
        (config(User=""), "user: 0, expected 1000:1000"),
        (config(User="user"), "user: user, expected 1000:1000"),
        (config(Volumes={"/var/lib/buildkit": {}}),
         "volumes: ['/var/lib/buildkit'], expected ['/home/user/.local/share/buildkit']"),
    ],
)  # fmt: skip
def test_wrong_rootless_configuration(
    elsewhere: dist.Artifacts, damage: Damage, wrong: str
) -> None:
    fake = FakeImage(elsewhere, Variant.ROOTLESS)
    damage(fake)
    assert refused(fake) == [f"image: {wrong}"]


@pytest.mark.parametrize("command", [[*TCP, *TLS], ["--addr", "unix:///run/bk.sock"], ["--debug"]])
def test_safe_commands(fake: FakeImage, command: list[str]) -> None:
    fake.config["Cmd"] = command
    assert refused(fake) == []


def test_missing_configuration(fake: FakeImage) -> None:
    fake.config = None  # type: ignore[assignment]
    assert refused(fake)


# Contents.


def put(*entries: Any) -> Damage:
    return lambda fake: fake.add(*entries)


def without(name: str) -> Damage:
    def damage(fake: FakeImage) -> None:
        for entries in fake.layers:
            entries[:] = [one for one in entries if one[0].name != name]

    return damage


@pytest.mark.parametrize(
    ("damage", "wrong"),
    [
        (put(entry("usr/bin/su", mode=0o4755)), "layers: setuid and setgid: ['usr/bin/su'], expected []"),
        (put(entry("usr/bin/write", mode=0o2755)), "layers: setuid and setgid: ['usr/bin/write'], expected []"),
        (put(entry("./usr/bin/su", mode=0o6755)), "layers: setuid and setgid: ['usr/bin/su'], expected []"),
        (put(entry("usr/bin/ping", capable=True)), "layers: file capabilities: ['usr/bin/ping'], expected []"),
        (put(entry("etc/free", mode=0o666)), "layers: writable for all: ['etc/free'], expected []"),
        (put(entry("etc/sticky", mode=0o1666)), "layers: writable for all: ['etc/sticky'], expected []"),
        (put(directory("srv", 0o777)), "layers: writable for all: ['srv'], expected []"),
        (put(entry("etc/conf", b"x\n" + KEY)), "layers: secrets: ['etc/conf'], expected []"),
        (put(entry("etc/one", b"-----BEGIN PRIVATE KEY-----")), "layers: secrets: ['etc/one'], expected []"),
        *((put(entry(name)), f"layers: secrets: ['{name}'], expected []") for name in (
            "root/keys/id_rsa", "home/user/.netrc", "etc/tls.key", "etc/shadow", "x/.ssh/known_hosts",
            "x/.docker/config.json", "x/.aws/credentials", "etc/ssh/ssh_host_ed25519_key",
        )),
        *((put(entry(name)), f"layers: caches: ['{name}'], expected []") for name in (
            "var/cache/apt/pkgcache.bin", "var/lib/apt/lists/x", "var/log/dpkg.log", "tmp/x",
            "var/tmp/x", "root/.wget-hsts", "usr/lib/a.pyc", "src/.git/HEAD", "var/a.deb",
        )),
        (put(entry("dev/sda", kind=tarfile.BLKTYPE)), "layers: devices: ['dev/sda'], expected []"),
        (put(entry("dev/null", kind=tarfile.CHRTYPE)), "layers: devices: ['dev/null'], expected []"),
        (put(entry("run/pipe", kind=tarfile.FIFOTYPE)), "layers: devices: ['run/pipe'], expected []"),
        (put(entry("etc/.wh.passwd")), "layers: removed again: ['etc/.wh.passwd'], expected []"),
        (put(entry("etc/.wh..wh..opq")), "layers: removed again: ['etc/.wh..wh..opq'], expected []"),
        (put(entry("usr/bin/foreign", elf("amd64"))), "layers: machine: ['usr/bin/foreign'], expected EM_RISCV"),
        (put(entry("usr/bin/short", elf("riscv64", needed="libmissing.so.1"))),
         "layers: libraries: ['libmissing.so.1 (of usr/bin/short)'], expected every one that a program asks for"),
        (without("usr/lib/libc.so.6"), "layers: libraries: "
         "['libc.so.6 (of usr/bin/tini)', 'libc.so.6 (of usr/sbin/docker-init)'], expected every one that a program asks for"),
        (put(entry("etc/new", time=EPOCH + 1)), f"layers: newest file: {EPOCH + 1}, expected nothing later than {EPOCH}"),
        (put(directory("etc/new"), entry("etc/link", kind=tarfile.SYMTYPE, link="x", time=EPOCH + 9)),
         f"layers: newest file: {EPOCH + 9}, expected nothing later than {EPOCH}"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_forbidden_contents(fake: FakeImage, damage: Damage, wrong: str) -> None:
    damage(fake)
    assert refused(fake) == [wrong]


@pytest.mark.parametrize("name", ["tmp", "etc/buildkit", "usr/bin/tini", "usr/sbin/docker-init"])
def test_required_contents(fake: FakeImage, name: str) -> None:
    without(name)(fake)
    (one,) = refused(fake)
    assert one.startswith(f"/{name}: there: ")
    assert one.endswith(", expected in a layer")


@pytest.mark.parametrize(
    "harmless",
    [
        directory("var/cache/apt"), directory("var/tmp", 0o1777), directory("etc/group.d", 0o2755),
        entry("root/.bashrc"), entry("root/.profile"), entry("etc/public.pem", b"-----BEGIN CERTIFICATE-----"),
        entry("usr/bin/link", kind=tarfile.SYMTYPE, link="tini", mode=0o777),
        entry("usr/bin/hard", kind=tarfile.LNKTYPE, link="usr/bin/tini"),
        entry("usr/bin/keygen", elf("riscv64") + bytes(5000) + KEY), entry("etc/old", time=0),
    ],
)  # fmt: skip
def test_permitted_contents(fake: FakeImage, harmless: Any) -> None:
    fake.add(harmless)
    assert refused(fake) == []


def test_rootless_needs_file_capabilities(elsewhere: dist.Artifacts) -> None:
    fake = FakeImage(elsewhere, Variant.ROOTLESS)
    fake.layers[-1].pop()
    assert refused(fake) == [
        "layers: file capabilities: ['usr/bin/newuidmap'], expected ['usr/bin/newgidmap', 'usr/bin/newuidmap']"
    ]  # fmt: skip


def test_layers_are_reported_with_their_sizes(fake: FakeImage) -> None:
    fake.add(entry("usr/share/large", bytes(100_000)))
    place = fake.finish()
    image = layout.load(place / dist.LAYOUT)
    sizes = [f for f in examine(fake) if f.check == "size"]
    assert [f.subject for f in sizes] == ["layer 1", "layer 2", "layers"]
    assert f"{image.manifest['layers'][1]['size']} B compressed, 97." in sizes[1].detail
    assert dist.load(place).manifest["layers"][1]["unpacked"] > 100_000


@pytest.mark.parametrize("content", [b"", b"no archive", b"\x1f\x8b\x08" + bytes(20)])
def test_layer_is_not_an_archive(fake: FakeImage, tmp_path: Path, content: bytes) -> None:
    fake.write(tmp_path / "layout")
    image = layout.load(tmp_path / "layout")
    image.layers[0].write_bytes(content)
    with pytest.raises(CheckError, match=f"layer {image.layers[0].name[:12]} cannot be read"):
        check.read(image)


@pytest.mark.parametrize("keep", [3, 20, 100, 200])
def test_truncated_layer(fake: FakeImage, tmp_path: Path, keep: int) -> None:
    fake.write(tmp_path / "layout")
    image = layout.load(tmp_path / "layout")
    image.layers[0].write_bytes(image.layers[0].read_bytes()[:keep])
    with pytest.raises(CheckError, match="cannot be read"):
        check.read(image)


# Running.


@pytest.fixture
def here(
    elsewhere: dist.Artifacts, on: Callable[[str], None], fake_container: FakeContainer
) -> FakeImage:
    """An image for this machine."""
    on("riscv64")
    return FakeImage(elsewhere)


@pytest.mark.parametrize("variant", list(Variant))
def test_running_image(here: FakeImage, fake_container: FakeContainer, variant: Variant) -> None:
    fake = FakeImage(here.binaries, variant)
    fake.finish()
    findings = examine(fake)
    assert {f.status for f in findings} == {Status.OK}
    programs = [f.subject for f in findings if f.check == "runs"]
    assert programs == [
        *check.PROGRAMS, *(check.ROOTLESS_PROGRAMS if variant is Variant.ROOTLESS else [])
    ]  # fmt: skip
    seen = {(f.subject, f.check): f.detail for f in findings}
    assert seen["buildkitd", "answers"] == "after 1.5 s"
    assert seen["buildkitd", "ends on SIGTERM"] == "after 0.2 s"
    assert fake_container.ran[1] == [
        "/sbin/docker-init", "--", "/usr/bin/tini", "-s", "--", "/bin/sh", "-c", check._ORPHAN
    ]  # fmt: skip
    assert fake_container.daemon_starts == 1


def answer(**answers: str) -> Callable[[FakeContainer], object]:
    return lambda fake_container: fake_container.answers.update(answers)


def code(**codes: int) -> Callable[[FakeContainer], object]:
    return lambda fake_container: fake_container.codes.update(codes)


def daemon_run(*values: Any) -> Callable[[FakeContainer], object]:
    return lambda fake_container: setattr(fake_container, "daemon_run", DaemonRun(*values))


def orphan(*values: Any) -> Callable[[FakeContainer], object]:
    return lambda fake_container: setattr(fake_container, "orphan", Result(*values))


WANTED = f"v0.32.2 {COMMIT}"
WORKERS = "found 1 workers\n"


@pytest.mark.parametrize(
    ("damage", "wrong"),
    [
        (code(runc=127) , ["runc: runs: exit code 127: runc github.com/moby/buildkit " + WANTED + ", expected it to run"]),
        (answer(buildctl="v0.32.1 x"), [f"buildctl: version: v0.32.1 x, expected {WANTED}"]),
        (answer(buildkitd=""), [f"buildkitd: version: , expected {WANTED}"]),
        (orphan(0, "zombies: 1\n", ""), ["tini: zombies: zombies: 1, expected zombies: 0"]),
        (orphan(1, "", "exec: no such file\n"),
         ["tini: zombies: exec: no such file, expected zombies: 0", "tini: no complaint: exec: no such file, expected none"]),
        (orphan(0, "zombies: 0\n", "[WARN  tini (7)] Tini is not running as PID 1\n"),
         ["tini: no complaint: [WARN  tini (7)] Tini is not running as PID 1, expected none"]),
        (daemon_run("no answer: x", 0, 0, ""), ["buildkitd: answers: no answer: x, expected `buildctl debug workers` to answer"]),
        (daemon_run("still running", 0, 0, ""), ["buildkitd: answers: still running, expected `buildctl debug workers` to answer"]),
        (daemon_run("", 1, 1, "found 0 workers\n"), ["buildkitd: worker: found 0 workers\n, expected one"]),
    ],
)  # fmt: skip
def test_image_does_not_run(
    here: FakeImage,
    fake_container: FakeContainer,
    damage: Callable[[FakeContainer], object],
    wrong: list[str],
) -> None:
    damage(fake_container)
    assert refused(here) == wrong


def test_slow_stop_is_a_warning(here: FakeImage, fake_container: FakeContainer) -> None:
    """The machine may be busy."""
    daemon_run("", 1, 10.1, WORKERS)(fake_container)
    here.finish()
    (late,) = [one for one in examine(here) if one.status is not Status.OK]
    assert (late.check, late.status) == ("ends on SIGTERM", Status.WARN)
    assert "after 10.1 s" in late.detail


@pytest.mark.parametrize("stdout", ["", "runc: exec failed: exec format error\n", "a|b\n"])
def test_image_without_a_working_shell(
    here: FakeImage, fake_container: FakeContainer, stdout: str
) -> None:
    fake_container.broken = Result(1, stdout, "exec /bin/sh: exec format error\n")
    wrong = refused(here)
    assert [line.partition(": ")[0] for line in wrong] == [*check.PROGRAMS, *dist.COMMANDS]
    assert wrong[0] == (
        "buildkitd: runs: exit code -: exec /bin/sh: exec format error, expected it to run"
    )


def test_users_do_not_start_a_rootless_daemon(
    here: FakeImage, fake_container: FakeContainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    fake = FakeImage(here.binaries, Variant.ROOTLESS)
    fake.finish()
    findings = examine(fake)
    assert reported(findings, Status.WARN) == [
        "buildkitd: starts: not tried: nested user namespaces need root"
    ]
    assert reported(findings) == []
    assert fake_container.daemon_starts == 0
    here.finish()
    examine(here)
    assert fake_container.daemon_starts == 1


def test_script_reports_each_program(script: Callable[[str, str], Path]) -> None:
    """The script prints the exit code and the first line of output."""
    loud = script("loud", "echo first >&2; echo second; exit 3")
    text = check._script({"one": str(loud), "two words": "cat; true | grep x", "none": "no-such-program"})  # fmt: skip
    done = subprocess.run(["sh", "-c", text], capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    assert lines[:2] == ["one|3|first", "two words|1|"]
    assert lines[2].startswith("none|127|")


# The task.


def test_nothing_to_check(checkout: Path, provided: list[object]) -> None:
    for place, target in ((project.DIST, ""), (project.DIST / "linux-riscv64", "linux-riscv64")):
        with pytest.raises(CheckError) as caught:
            check.examine_all(target, yes=False)
        assert f"{place}/" in caught.value.brief
        assert "invoke build-image" in caught.value.hint
    with pytest.raises(UsageError, match="is not a target"):
        check.examine_all("../../etc", yes=False)
    assert provided == []


def test_binaries_without_an_image(finished: Path) -> None:
    with pytest.raises(CheckError, match="no image in"):
        check.chosen()


@pytest.mark.parametrize("target", ["", "linux-riscv64"])
def test_every_image_is_checked(
    elsewhere: dist.Artifacts, provided: list[object], target: str
) -> None:
    for variant in Variant:
        FakeImage(elsewhere, variant).finish()
    findings: Mapping[str, Any] = check.examine_all(target, yes=False)
    assert list(findings) == ["linux-riscv64 root", "linux-riscv64 rootless"]
    # Images of another architecture need no tools.
    assert provided == []


def test_tools_are_installed(here: FakeImage, provided: list[object]) -> None:
    here.finish()
    check.examine_all("", yes=True)
    assert provided == [(["runc", "umoci"], True)]
