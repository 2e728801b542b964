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

from buildkit_riscv64 import dist, project, storage
from buildkit_riscv64.console import Status
from buildkit_riscv64.errors import CheckError, UsageError
from buildkit_riscv64.findings import Finding
from buildkit_riscv64.image import check, layout
from buildkit_riscv64.image.container import Life
from buildkit_riscv64.image.variants import Variant
from buildkit_riscv64.process import Result

from ..making import COMMIT, edit_manifest, elf
from .picture import EPOCH, TARGET, Alive, Picture, Spoil, entry, folder, record_anew

KEY = b"-----BEGIN OPENSSH PRIVATE KEY-----\n"


@pytest.fixture
def elsewhere(on: Callable[[str], None], finished: Path) -> dist.Artifacts:
    """Binaries for riscv64, on a machine that cannot run them."""
    on("x86_64")
    return dist.load(finished)


@pytest.fixture(params=list(Variant))
def either(request: pytest.FixtureRequest, elsewhere: dist.Artifacts) -> Picture:
    return Picture(elsewhere, request.param)


@pytest.fixture
def picture(elsewhere: dist.Artifacts) -> Picture:
    return Picture(elsewhere)


def examine(picture: Picture) -> list[Finding]:
    place = dist.image_folder(TARGET, picture.variant)
    return check.examine(place, picture.variant, TARGET)


def told(findings: list[Finding], status: Status = Status.FAIL) -> list[str]:
    return [f"{f.subject}: {f.check}: {f.detail}" for f in findings if f.status is status]


def refused(picture: Picture) -> list[str]:
    """What is refused of it."""
    picture.finish()
    return told(examine(picture))


def test_a_good_image(either: Picture) -> None:
    place = either.finish()
    findings = examine(either)
    assert told(findings) == []
    assert told(findings, Status.WARN) == ["image: runs: not run: this machine is amd64"]
    assert {
        "schema", "target", "variant", "sha256", "complete", "nothing else", "BuildKit's commands",
        "those in dist/", "platform", "digest", "user",
        "entrypoint", "no TCP without mutual TLS", "exposed ports", "PATH", "volumes",
        "health check", "label version", "label revision", "label created", "annotation version",
        "annotation revision", "annotation created", "created", "setuid and setgid",
        "file capabilities", "writable for all", "secrets", "caches", "devices", "removed again",
        "there", "machine", "libraries", "newest file", "size", "runs",
    } == {f.check for f in findings}  # fmt: skip
    assert {f"{name}: sha256" for name in dist.load(place).files} <= {
        f"{f.subject}: {f.check}" for f in findings
    }
    check.require_good(place, either.variant, TARGET)


def test_what_is_refused_is_named_with_its_image(picture: Picture) -> None:
    picture.config["User"] = "1000"
    place = picture.finish()
    with pytest.raises(CheckError) as caught:
        check.require_good(place, Variant.ROOT, TARGET)
    assert caught.value.brief == "linux-riscv64 root: image: user: 1000, expected 0"
    assert caught.value.hint == "run `invoke build-image --force` to make it anew"


# Files and sums.


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


ARCHIVE = "buildkit-v0.32.2.linux-riscv64.image.tar"


@pytest.mark.parametrize("name", [ARCHIVE, "sbom.cdx.json", "layout/index.json"])
def test_a_damaged_or_missing_file(picture: Picture, name: str) -> None:
    place = picture.finish()
    right = storage.sha256(place / name)
    damage(place / name)
    wrong = storage.sha256(place / name)
    assert told(examine(picture)) == [f"{name}: sha256: {wrong}, expected {right}"]
    (place / name).unlink()
    assert told(examine(picture)) == [f"{name}: sha256: cannot be read: No such file or directory"]


def test_a_damaged_blob_in_sums_that_agree_with_it(picture: Picture) -> None:
    place = picture.finish()
    image = layout.load(place / dist.LAYOUT)
    for path in image.layers[-1:]:
        damage(path)
    record_anew(place)
    digest = image.manifest["layers"][-1]["digest"]
    assert told(examine(picture)) == [f"layout: digests: {digest} is damaged"]


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"0  manifest.json\n", None])
def test_wrong_sums(picture: Picture, content: bytes | None) -> None:
    sums = picture.finish() / dist.SUMS
    sums.unlink() if content is None else sums.write_bytes(content)
    assert told(examine(picture)) == ["SHA256SUMS: complete: differs, expected all files"]


def test_a_changed_manifest_is_seen_in_the_sums(picture: Picture) -> None:
    place = picture.finish()
    text = (place / dist.MANIFEST).read_text()
    (place / dist.MANIFEST).write_text(text.replace('"seconds": 1.0', '"seconds": 2.0'))
    assert told(examine(picture)) == ["SHA256SUMS: complete: differs, expected all files"]


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
def test_a_manifest_of_another_form(picture: Picture, keys: tuple[str, ...], value: object) -> None:
    """Nothing that it says is believed then."""
    path = picture.finish() / dist.MANIFEST
    manifest = json.loads(path.read_text())
    change(manifest, *keys, value=value)
    path.write_text(json.dumps(manifest))
    (one,) = told(examine(picture))
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
def test_a_manifest_of_something_else(picture: Picture, keys: tuple[str, ...], value: object, wrong: list[str]) -> None:  # fmt: skip
    place = picture.finish()
    seen = {
        "digest": layout.load(place / dist.LAYOUT).digest,
        "buildctl": storage.sha256(picture.binaries.path / "bin/buildctl"),
    }
    edit_manifest(place, lambda manifest: change(manifest, *keys, value=value))
    assert told(examine(picture)) == [line.format(**seen) for line in wrong]


def test_what_is_not_there_is_not_examined(picture: Picture) -> None:
    with pytest.raises(CheckError, match="no artifacts in"):
        examine(picture)
    shutil.rmtree(picture.finish() / dist.LAYOUT)
    assert told(examine(picture))


@pytest.mark.parametrize("name", ["extra", ".hidden", "layout/blobs/sha256/extra"])
def test_an_extra_file(picture: Picture, name: str) -> None:
    (picture.finish() / name).write_text("x")
    assert told(examine(picture)) == [f".: nothing else: {name}, expected nothing"]


def test_missing_security_updates_are_a_warning(picture: Picture) -> None:
    picture.updates = False
    picture.finish()
    findings = examine(picture)
    assert told(findings) == []
    assert told(findings, Status.WARN)[0] == (
        "packages: security updates: Debian's archive of them did not answer"
    )


# The binaries.


COMMANDS = [f"usr/bin/{command}" for command in dist.COMMANDS]


def test_binaries_that_are_not_those_of_phase_1(picture: Picture) -> None:
    """As after another `invoke build-binaries`."""
    picture.finish()
    other, seen = "8" * 64, storage.sha256(picture.binaries.path / "bin/buildctl")

    def edit(manifest: dict[str, Any]) -> None:
        manifest["files"][0]["sha256"] = other

    assert picture.binaries.manifest["files"][0]["name"] == "bin/buildctl"
    edit_manifest(picture.binaries.path, edit)
    assert told(examine(picture)) == [f"usr/bin/buildctl: those in dist/: {seen}, expected {other}"]


def test_without_binaries_there_is_nothing_to_compare_with(picture: Picture) -> None:
    place = picture.finish()
    (picture.binaries.path / dist.MANIFEST).unlink()
    findings = check.examine(place, Variant.ROOT, TARGET)
    assert told(findings) == []
    assert told(findings, Status.WARN)[:2] == [
        f"usr/bin/{command}: of phase 1: there are no binaries to compare with"
        for command in dist.COMMANDS
    ]


def test_binaries_with_a_garbage_manifest(picture: Picture) -> None:
    picture.finish()
    (picture.binaries.path / dist.MANIFEST).write_text('{"files": []}')
    findings = examine(picture)
    assert told(findings) == []
    assert "there are no binaries to compare with" in told(findings, Status.WARN)[0]


def test_a_command_that_is_missing(picture: Picture) -> None:
    picture.layers[1].pop()
    recorded = picture.binaries.files["bin/buildkitd"]["sha256"]
    assert refused(picture) == [
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
def test_another_command_above_the_right_one(picture: Picture, other: Any) -> None:
    """What counts is what a container would run."""
    picture.layers.append([other])
    (one,) = refused(picture)
    assert one.startswith("usr/bin/buildkitd: sha256: ")


@pytest.mark.parametrize("name", ["usr/local/bin/buildkitd", "opt/buildctl"])
def test_a_command_in_another_place(picture: Picture, name: str) -> None:
    """It may come first on PATH."""
    picture.add(entry(name, b"#!/bin/sh\n"))
    assert refused(picture) == [
        f"layers: BuildKit's commands: {sorted([*COMMANDS, name])}, expected {COMMANDS}"
    ]


# How it starts.


def config(**values: object) -> Spoil:
    return lambda picture: picture.config.update(values)


def label(name: str, value: str) -> Spoil:
    return lambda picture: picture.config["Labels"].update({f"org.opencontainers.image.{name}": value})  # fmt: skip


def annotation(name: str, value: str) -> Spoil:
    return lambda picture: picture.annotations.update({f"org.opencontainers.image.{name}": value})


TINI = ["/usr/bin/tini", "-s", "--", "/usr/bin/buildkitd-entrypoint"]
HEALTHY = ["CMD", "buildctl", "debug", "workers"]
TCP = ["--addr", "tcp://0.0.0.0:1234"]
TLS = ["--tlscacert", "/ca.pem", "--tlscert", "/cert.pem", "--tlskey", "/key.pem"]


@pytest.mark.parametrize(
    ("spoil", "wrong"),
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
def test_an_image_that_starts_otherwise(picture: Picture, spoil: Spoil, wrong: str) -> None:
    spoil(picture)
    assert refused(picture) == [f"image: {wrong}"]


@pytest.mark.parametrize(
    ("spoil", "wrong"),
    [
        (config(User=""), "user: 0, expected 1000:1000"),
        (config(User="user"), "user: user, expected 1000:1000"),
        (config(Volumes={"/var/lib/buildkit": {}}),
         "volumes: ['/var/lib/buildkit'], expected ['/home/user/.local/share/buildkit']"),
    ],
)  # fmt: skip
def test_a_rootless_image_that_starts_otherwise(elsewhere: dist.Artifacts, spoil: Spoil, wrong: str) -> None:  # fmt: skip
    picture = Picture(elsewhere, Variant.ROOTLESS)
    spoil(picture)
    assert refused(picture) == [f"image: {wrong}"]


@pytest.mark.parametrize("command", [[*TCP, *TLS], ["--addr", "unix:///run/bk.sock"], ["--debug"]])
def test_commands_that_open_no_door(picture: Picture, command: list[str]) -> None:
    picture.config["Cmd"] = command
    assert refused(picture) == []


def test_a_configuration_that_is_none(picture: Picture) -> None:
    picture.config = None  # type: ignore[assignment]
    assert refused(picture)


# What is in it.


def put(*entries: Any) -> Spoil:
    return lambda picture: picture.add(*entries)


def without(name: str) -> Spoil:
    def spoil(picture: Picture) -> None:
        for entries in picture.layers:
            entries[:] = [one for one in entries if one[0].name != name]

    return spoil


@pytest.mark.parametrize(
    ("spoil", "wrong"),
    [
        (put(entry("usr/bin/su", mode=0o4755)), "layers: setuid and setgid: ['usr/bin/su'], expected []"),
        (put(entry("usr/bin/write", mode=0o2755)), "layers: setuid and setgid: ['usr/bin/write'], expected []"),
        (put(entry("./usr/bin/su", mode=0o6755)), "layers: setuid and setgid: ['usr/bin/su'], expected []"),
        (put(entry("usr/bin/ping", capable=True)), "layers: file capabilities: ['usr/bin/ping'], expected []"),
        (put(entry("etc/free", mode=0o666)), "layers: writable for all: ['etc/free'], expected []"),
        (put(entry("etc/sticky", mode=0o1666)), "layers: writable for all: ['etc/sticky'], expected []"),
        (put(folder("srv", 0o777)), "layers: writable for all: ['srv'], expected []"),
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
        (put(folder("etc/new"), entry("etc/link", kind=tarfile.SYMTYPE, link="x", time=EPOCH + 9)),
         f"layers: newest file: {EPOCH + 9}, expected nothing later than {EPOCH}"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_should_not_be_in_it(picture: Picture, spoil: Spoil, wrong: str) -> None:
    spoil(picture)
    assert refused(picture) == [wrong]


@pytest.mark.parametrize("name", ["tmp", "etc/buildkit", "usr/bin/tini", "usr/sbin/docker-init"])
def test_what_must_be_in_it(picture: Picture, name: str) -> None:
    without(name)(picture)
    (one,) = refused(picture)
    assert one.startswith(f"/{name}: there: ")
    assert one.endswith(", expected in a layer")


@pytest.mark.parametrize(
    "harmless",
    [
        folder("var/cache/apt"), folder("var/tmp", 0o1777), folder("etc/group.d", 0o2755),
        entry("root/.bashrc"), entry("root/.profile"), entry("etc/public.pem", b"-----BEGIN CERTIFICATE-----"),
        entry("usr/bin/link", kind=tarfile.SYMTYPE, link="tini", mode=0o777),
        entry("usr/bin/hard", kind=tarfile.LNKTYPE, link="usr/bin/tini"),
        entry("usr/bin/keygen", elf("riscv64") + bytes(5000) + KEY), entry("etc/old", time=0),
    ],
)  # fmt: skip
def test_what_may_be_in_it(picture: Picture, harmless: Any) -> None:
    picture.add(harmless)
    assert refused(picture) == []


def test_rootless_maps_users_by_capabilities_of_files(elsewhere: dist.Artifacts) -> None:
    picture = Picture(elsewhere, Variant.ROOTLESS)
    picture.layers[-1].pop()
    assert refused(picture) == [
        "layers: file capabilities: ['usr/bin/newuidmap'], expected ['usr/bin/newgidmap', 'usr/bin/newuidmap']"
    ]  # fmt: skip


def test_layers_are_told_with_their_sizes(picture: Picture) -> None:
    picture.add(entry("usr/share/large", bytes(100_000)))
    place = picture.finish()
    image = layout.load(place / dist.LAYOUT)
    sizes = [f for f in examine(picture) if f.check == "size"]
    assert [f.subject for f in sizes] == ["layer 1", "layer 2", "layers"]
    assert f"{image.manifest['layers'][1]['size']} B compressed, 97." in sizes[1].detail
    assert dist.load(place).manifest["layers"][1]["unpacked"] > 100_000


@pytest.mark.parametrize("content", [b"", b"no archive", b"\x1f\x8b\x08" + bytes(20)])
def test_a_layer_that_is_no_archive(picture: Picture, tmp_path: Path, content: bytes) -> None:
    picture.write(tmp_path / "layout")
    image = layout.load(tmp_path / "layout")
    image.layers[0].write_bytes(content)
    with pytest.raises(CheckError, match=f"layer {image.layers[0].name[:12]} cannot be read"):
        check.read(image)


@pytest.mark.parametrize("keep", [3, 20, 100, 200])
def test_a_layer_that_is_cut_off(picture: Picture, tmp_path: Path, keep: int) -> None:
    picture.write(tmp_path / "layout")
    image = layout.load(tmp_path / "layout")
    image.layers[0].write_bytes(image.layers[0].read_bytes()[:keep])
    with pytest.raises(CheckError, match="cannot be read"):
        check.read(image)


# It runs.


@pytest.fixture
def here(elsewhere: dist.Artifacts, on: Callable[[str], None], alive: Alive) -> Picture:
    """An image for this machine."""
    on("riscv64")
    return Picture(elsewhere)


@pytest.mark.parametrize("variant", list(Variant))
def test_an_image_that_runs(here: Picture, alive: Alive, variant: Variant) -> None:
    picture = Picture(here.binaries, variant)
    picture.finish()
    findings = examine(picture)
    assert {f.status for f in findings} == {Status.OK}
    programs = [f.subject for f in findings if f.check == "runs"]
    assert programs == [
        *check.PROGRAMS, *(check.ROOTLESS_PROGRAMS if variant is Variant.ROOTLESS else [])
    ]  # fmt: skip
    seen = {(f.subject, f.check): f.detail for f in findings}
    assert seen["buildkitd", "answers"] == "after 1.5 s"
    assert seen["buildkitd", "ends on SIGTERM"] == "after 0.2 s"
    assert alive.ran[1] == [
        "/sbin/docker-init", "--", "/usr/bin/tini", "-s", "--", "/bin/sh", "-c", check._ORPHAN
    ]  # fmt: skip
    assert alive.lived == 1


def answer(**answers: str) -> Callable[[Alive], object]:
    return lambda alive: alive.answers.update(answers)


def code(**codes: int) -> Callable[[Alive], object]:
    return lambda alive: alive.codes.update(codes)


def life(*values: Any) -> Callable[[Alive], object]:
    return lambda alive: setattr(alive, "life", Life(*values))


def orphan(*values: Any) -> Callable[[Alive], object]:
    return lambda alive: setattr(alive, "orphan", Result(*values))


WANTED = f"v0.32.2 {COMMIT}"
WORKERS = "found 1 workers\n"


@pytest.mark.parametrize(
    ("spoil", "wrong"),
    [
        (code(runc=127) , ["runc: runs: exit code 127: runc github.com/moby/buildkit " + WANTED + ", expected it to run"]),
        (answer(buildctl="v0.32.1 x"), [f"buildctl: version: v0.32.1 x, expected {WANTED}"]),
        (answer(buildkitd=""), [f"buildkitd: version: , expected {WANTED}"]),
        (orphan(0, "zombies: 1\n", ""), ["tini: zombies: zombies: 1, expected zombies: 0"]),
        (orphan(1, "", "exec: no such file\n"),
         ["tini: zombies: exec: no such file, expected zombies: 0", "tini: no complaint: exec: no such file, expected none"]),
        (orphan(0, "zombies: 0\n", "[WARN  tini (7)] Tini is not running as PID 1\n"),
         ["tini: no complaint: [WARN  tini (7)] Tini is not running as PID 1, expected none"]),
        (life("no answer: x", 0, 0, ""), ["buildkitd: answers: no answer: x, expected `buildctl debug workers` to answer"]),
        (life("", 1, 10.1, WORKERS), ["buildkitd: ends on SIGTERM: after 10.1 s, expected within 10.0 s"]),
        (life("", 1, 1, "found 0 workers\n"), ["buildkitd: worker: found 0 workers\n, expected one"]),
    ],
)  # fmt: skip
def test_an_image_that_does_not_run(here: Picture, alive: Alive, spoil: Callable[[Alive], object], wrong: list[str]) -> None:  # fmt: skip
    spoil(alive)
    assert refused(here) == wrong


@pytest.mark.parametrize("stdout", ["", "runc: exec failed: exec format error\n", "a|b\n"])
def test_an_image_in_which_nothing_runs(here: Picture, alive: Alive, stdout: str) -> None:
    alive.broken = Result(1, stdout, "exec /bin/sh: exec format error\n")
    wrong = refused(here)
    assert [line.partition(": ")[0] for line in wrong] == [*check.PROGRAMS, *dist.COMMANDS]
    assert wrong[0] == (
        "buildkitd: runs: exit code -: exec /bin/sh: exec format error, expected it to run"
    )


def test_a_rootless_daemon_is_not_started_by_a_user(here: Picture, alive: Alive, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    picture = Picture(here.binaries, Variant.ROOTLESS)
    picture.finish()
    findings = examine(picture)
    assert told(findings, Status.WARN) == [
        "buildkitd: starts: not tried: user namespaces in one of ours need root"
    ]
    assert told(findings) == []
    assert alive.lived == 0
    here.finish()
    examine(here)
    assert alive.lived == 1


def test_the_script_tells_of_each_program(script: Callable[[str, str], Path]) -> None:
    """Its exit code, and the first line of what it says."""
    loud = script("loud", "echo first >&2; echo second; exit 3")
    text = check._script({"one": str(loud), "two words": "cat; true | grep x", "none": "no-such-program"})  # fmt: skip
    done = subprocess.run(["sh", "-c", text], capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    assert lines[:2] == ["one|3|first", "two words|1|"]
    assert lines[2].startswith("none|127|")


# The command.


def test_nothing_to_examine(checkout: Path, provided: list[object]) -> None:
    for place, target in ((project.DIST, ""), (project.DIST / "linux-riscv64", "linux-riscv64")):
        with pytest.raises(CheckError) as caught:
            check.examine_all(target, yes=False)
        assert caught.value.brief == f"no image in {place}/"
        assert caught.value.hint == "run `invoke build-image` first"
    with pytest.raises(UsageError, match="is not a target"):
        check.examine_all("../../etc", yes=False)
    assert provided == []


def test_binaries_alone_are_no_image(finished: Path) -> None:
    with pytest.raises(CheckError, match="no image in"):
        check.chosen()


@pytest.mark.parametrize("target", ["", "linux-riscv64"])
def test_all_images_are_examined(elsewhere: dist.Artifacts, provided: list[object], target: str) -> None:  # fmt: skip
    for variant in Variant:
        Picture(elsewhere, variant).finish()
    findings: Mapping[str, Any] = check.examine_all(target, yes=False)
    assert list(findings) == ["linux-riscv64 root", "linux-riscv64 rootless"]
    # Nothing can be run here, so nothing is needed for that.
    assert provided == []


def test_what_runs_them_is_there_or_installed(here: Picture, provided: list[object]) -> None:
    here.finish()
    check.examine_all("", yes=True)
    assert provided == [(["runc", "umoci"], True)]
