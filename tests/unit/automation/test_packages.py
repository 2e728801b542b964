from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from buildkit_riscv64 import dist, gotools, pins, process, project, schemas, storage
from buildkit_riscv64.arch import Target
from buildkit_riscv64.automation import packages
from buildkit_riscv64.automation.packages import Options
from buildkit_riscv64.binaries import toolchain
from buildkit_riscv64.errors import BuildError, BusyError, CheckError, UsageError

from ..making import GO, edit_manifest

MAINTAINER = "Somebody <somebody@example.org>"
TARGET = Target.parse("linux-riscv64")
FILES = [
    "buildkit_0.32.2-1_riscv64.deb", "buildkit-0.32.2-1.riscv64.rpm",
    "buildkit-rootless_0.32.2-1_riscv64.deb", "buildkit-rootless-0.32.2-1.riscv64.rpm",
]  # fmt: skip


def options(**changes: Any) -> Options:
    values: dict[str, Any] = {"target": "linux-riscv64", "revision": "1", "maintainer": MAINTAINER}
    return Options.parse(**values | changes)


@pytest.fixture
def nfpm(
    finished: Path, monkeypatch: pytest.MonkeyPatch, script: Callable[[str, str], Path], tmp_path: Path
) -> Path:  # fmt: skip
    """A checkout with declarations, and an nfpm that writes down which declaration it got."""
    shutil.copytree(Path(__file__).parents[3] / "packaging", project.ROOT / "packaging")
    (project.ROOT / "LICENSE").write_text("the license\n")
    made = script("nfpm", f'cp "$3" {tmp_path}/; echo "$5" >"$7"; cat bin/* >>"$7"')
    monkeypatch.setattr(gotools, "compiled", lambda *_: made)
    monkeypatch.setattr(toolchain, "ensure", lambda _pins: GO)
    packed = {program: storage.sha256(finished / dist.binary(program)) for program in dist.COMMANDS}
    monkeypatch.setattr(packages, "programs", lambda _deb: iter(packed.items()))
    return made


def test_packages(nfpm: Path, tmp_path: Path) -> None:
    outcome = packages.build(options())
    assert not outcome.up_to_date
    assert outcome.artifacts is not None
    place = project.DIST / "linux-riscv64" / "packages"
    assert outcome.artifacts.path == place
    manifest = outcome.artifacts.manifest
    assert [file["name"] for file in manifest["files"]] == FILES
    assert [(file["package"], file["format"], file["arch"]) for file in manifest["files"]] == [
        ("buildkit", "deb", "riscv64"), ("buildkit", "rpm", "riscv64"),
        ("buildkit-rootless", "deb", "riscv64"), ("buildkit-rootless", "rpm", "riscv64"),
    ]  # fmt: skip
    assert manifest["package_version"] == "0.32.2-1"
    assert manifest["binaries"].keys() == set(dist.COMMANDS)
    assert sorted(path.name for path in place.iterdir()) == sorted([*FILES, "SHA256SUMS", "manifest.json"])  # fmt: skip
    assert all((place / name).stat().st_mode & 0o777 == 0o644 for name in FILES)
    assert not list(project.DIST.glob(".*staging*"))
    assert packages.load(TARGET).manifest == manifest


def test_the_declarations(nfpm: Path, tmp_path: Path) -> None:
    packages.build(options(revision="3", maintainer='Jürgen O. "x <a@b.example>'.replace('"', "")))
    deb, rpm = ((tmp_path / f"buildkit.{form}.yaml").read_text() for form in packages.FORMATS)
    for text in (deb, rpm):
        assert "version: 0.32.2\n" in text
        assert 'release: "3"\n' in text
        assert "arch: riscv64\n" in text
        assert "mtime: 2026-08-04T12:27:40Z\n" in text
        assert 'maintainer: "Jürgen O. x <a@b.example>"\n' in text
        assert "src: bin/buildkitd, dst: /usr/bin/buildkitd, file_info: {mode: 0755}" in text
        assert "type: config|noreplace" in text
        assert "{{" not in text
    assert "- runc (>= 1.1.0)" in deb
    assert "type: doc" not in deb, "nfpm leaves such files out of a .deb"
    assert "- runc\n" in rpm
    rootless = (tmp_path / "buildkit-rootless.deb.yaml").read_text()
    assert "- buildkit (= 0.32.2-3)" in rootless
    assert "- rootlesskit (>= 1.1.0)" in rootless
    assert "buildctl.cdx.json" not in rootless


def test_what_is_compressed_says_nothing_of_who_did_it() -> None:
    packed = packages.gzipped(b"content")
    assert gzip.decompress(packed) == b"content"
    # RFC 1952: deflate, no flags, no time, as small as possible, made on Unix.
    assert packed[:10] == bytes.fromhex("1f8b0800000000000203")


def test_the_bundle(
    nfpm: Path, bundled: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    packed = {p: storage.sha256(bundled / dist.binary(p)) for p in (*dist.COMMANDS, *dist.BUNDLE)}
    monkeypatch.setattr(packages, "programs", lambda _deb: iter(packed.items()))
    outcome = packages.build(options())
    assert outcome.artifacts is not None
    assert outcome.artifacts.manifest["binaries"] == packed
    deb, rpm = ((tmp_path / f"buildkit.{form}.yaml").read_text() for form in packages.FORMATS)
    for text in (deb, rpm):
        for program in dist.BUNDLE:
            assert (f"dst: /usr/bin/{program}," in text) is (program != "rootlesskit")
        assert "src: man/bundle.8.gz, dst: /usr/share/man/man8/buildkit-runc.8.gz" in text
        assert "/usr/share/doc/buildkit/buildkit-runc.cdx.json" in text
        assert "- runc" not in text, "it has its own"
        assert "- iptables\n" in text
    for form in packages.FORMATS:
        text = (tmp_path / f"buildkit-rootless.{form}.yaml").read_text()
        assert "src: bin/rootlesskit, dst: /usr/libexec/buildkit/rootlesskit" in text
        assert "- rootlesskit" not in text, "it has its own"
        assert "/usr/share/doc/buildkit-rootless/rootlesskit.cdx.json" in text
    assert "/etc/apparmor.d/buildkit-rootlesskit" in (tmp_path / "buildkit-rootless.deb.yaml").read_text()  # fmt: skip


def test_what_is_declared_is_there(nfpm: Path, tmp_path: Path) -> None:
    packages.build(options())
    made = {"changelog.yaml", "LICENSE", dist.PROVENANCE}
    for text in ((tmp_path / f"{n}.{f}.yaml").read_text() for n in packages.NAMES for f in packages.FORMATS):  # fmt: skip
        for line in text.splitlines():
            if "src: " in line:
                name = line.partition("src: ")[2].partition(",")[0]
                if (
                    name not in made
                    and not name.startswith("bin/")
                    and not name.endswith(".cdx.json")
                ):
                    assert (packages.declarations() / name.removesuffix(".gz")).is_file(), name


def test_nothing_to_do(nfpm: Path) -> None:
    packages.build(options())
    nfpm.write_text("#!/bin/sh\nexit 1\n")
    assert packages.build(options()).up_to_date
    with pytest.raises(BuildError, match="nfpm cannot make buildkit_"):
        packages.build(options(force=True))
    with pytest.raises(BuildError):
        packages.build(options(revision="2"))
    assert packages.load(TARGET).manifest["package_version"] == "0.32.2-1", "what was there stays"


@pytest.mark.parametrize("change", ["declaration", "package", "binary"])
def test_what_has_changed_is_made_anew(nfpm: Path, finished: Path, change: str) -> None:
    packages.build(options())
    match change:
        case "declaration":
            (project.ROOT / "packaging" / "buildkitd.toml").write_text("debug = true\n")
        case "package":
            (finished / "packages" / FILES[0]).write_text("damaged")
        case "binary":
            edit_manifest(finished, lambda m: m["source"].update(time="2026-08-05T00:00:00Z"))
    outcome = packages.build(options())
    assert not outcome.up_to_date


def test_dry(nfpm: Path, finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(project.DIST.rglob("*"))
    assert packages.build(options(dry=True)).artifacts is None
    assert sorted(project.DIST.rglob("*")) == before
    said = capsys.readouterr().err
    assert all(name in said for name in FILES)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"revision": "0"}, "--revision '0' is no revision"),
        ({"revision": "1~rc1"}, "is no revision"),
        ({"revision": ""}, "is no revision"),
        ({"revision": "1\n"}, "is no revision"),
        ({"maintainer": "nobody"}, "is no maintainer"),
        ({"maintainer": 'a "b" <c@d.example>'}, "is no maintainer"),
        ({"maintainer": "a\nDepends: evil <c@d.example>"}, "is no maintainer"),
        ({"target": "linux-riscv64-rva22u64"}, "does not run on every riscv64 machine"),
        ({"target": "linux-riscv64-pgo"}, "does not run on every riscv64 machine"),
        ({"target": "linux-sparc"}, "is not a target"),
    ],
)
def test_bad_options(changes: dict[str, str], reason: str) -> None:
    with pytest.raises(UsageError, match=reason) as caught:
        options(**changes)
    assert caught.value.hint


def _tamper(folder: Path) -> None:
    path = folder / "bin" / "buildkitd"
    stat = path.stat()
    path.write_bytes(path.read_bytes()[:-1] + b"X")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (shutil.rmtree, "no artifacts in"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "cannot read"),
        (lambda folder: edit_manifest(folder, lambda m: m.pop("host")), "must contain"),
        (lambda folder: (folder / "bin" / "buildctl").unlink(), "not those of its manifest"),
        (lambda folder: (folder / "bin" / "buildctl").write_text("another"), "not those of its"),
        (_tamper, "buildkitd is not that of its manifest"),
        (lambda f: edit_manifest(f, lambda m: m.update(target="linux-amd64")), "for linux-amd64"),
        (lambda f: edit_manifest(f, lambda m: m.update(version="v0.33.0-rc1")), "is no release"),
    ],
)
def test_bad_binaries_are_refused(
    nfpm: Path, finished: Path, harm: Callable[[Path], object], reason: str
) -> None:
    harm(finished)
    with pytest.raises(CheckError, match=reason) as caught:
        packages.build(options())
    assert "invoke build-binaries" in caught.value.hint
    assert not (finished / "packages").exists()
    assert not list(project.DIST.glob(".*staging*"))


def test_another_run_is_at_work(nfpm: Path) -> None:
    with dist.lock(TARGET), pytest.raises(BusyError):
        packages.build(options())


@pytest.mark.parametrize("packed", [{}, {"buildctl": "0" * 64, "buildkitd": "0" * 64}])
def test_other_programs_in_the_packages_are_refused(
    nfpm: Path, finished: Path, monkeypatch: pytest.MonkeyPatch, packed: dict[str, str]
) -> None:
    monkeypatch.setattr(packages, "programs", lambda _deb: iter(packed.items()))
    with pytest.raises(CheckError, match="the buildctl in the packages is not that of dist/"):
        packages.build(options())
    assert not (finished / "packages").exists()


def test_what_is_read_of_a_deb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for name in ("./usr/bin/buildctl", "./usr/libexec/buildkit/rootlesskit", "./etc/other"):
            entry = tarfile.TarInfo(name)
            entry.size = 1
            tar.addfile(entry, io.BytesIO(b"x"))
    asked: list[Any] = []

    def filtered(args: list[str], data: bytes, **_: object) -> bytes:
        asked.append((args, data))
        return content.getvalue()

    monkeypatch.setattr(process, "filtered", filtered)
    (tmp_path / "x.deb").write_bytes(b"a package")
    found = dict(packages.programs(tmp_path / "x.deb"))
    assert asked == [(["dpkg-deb", "--fsys-tarfile", "/dev/stdin"], b"a package")]
    assert found.keys() == {"buildctl", "rootlesskit"}


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (shutil.rmtree, "no packages in"),
        (lambda f: (f / FILES[0]).unlink(), "is missing, or damaged"),
        (lambda f: (f / FILES[1]).write_text("another"), "is missing, or damaged"),
        (lambda f: edit_manifest(f, lambda m: m.pop("binaries")), "must contain"),
        (lambda f: edit_manifest(f, lambda m: m["binaries"].update(buildctl="0" * 64)), "of other binaries"),
        (lambda f: edit_manifest(f, lambda m: m["files"][0].update(name="../evil.deb")), "must match pattern"),
    ],
)  # fmt: skip
def test_bad_packages_are_refused(
    nfpm: Path, finished: Path, harm: Callable[[Path], object], reason: str
) -> None:
    packages.build(options())
    harm(finished / "packages")
    with pytest.raises(CheckError, match=reason) as caught:
        packages.load(TARGET)
    assert "invoke build-packages" in caught.value.hint


def test_the_schema_is_that_of_what_is_written(nfpm: Path) -> None:
    outcome = packages.build(options())
    assert outcome.artifacts is not None
    schema = json.loads(schemas.PACKAGES.read_text())
    assert schema["properties"].keys() == outcome.artifacts.manifest.keys()
    assert pins.load().version == outcome.artifacts.manifest["version"]
