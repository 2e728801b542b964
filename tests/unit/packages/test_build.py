from __future__ import annotations

import gzip
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from buildkit_riscv64.binaries import gotools, toolchain
from buildkit_riscv64.core import dist, dry_run, filesystem, pins, project, schemas
from buildkit_riscv64.core.arch import Target
from buildkit_riscv64.core.errors import BuildError, BusyError, CheckError, UsageError
from buildkit_riscv64.packages import build, contents
from buildkit_riscv64.packages.build import PackageOptions

from ..factories import GO, edit_manifest

MAINTAINER = "Somebody <somebody@example.org>"
TARGET = Target.parse("linux-riscv64")
FILES = [
    "buildkit_0.32.2-1_riscv64.deb", "buildkit-0.32.2-1.riscv64.rpm",
    "buildkit-rootless_0.32.2-1_riscv64.deb", "buildkit-rootless-0.32.2-1.riscv64.rpm",
]  # fmt: skip


def options(**changes: Any) -> PackageOptions:
    values: dict[str, Any] = {"target": "linux-riscv64", "revision": "1", "maintainer": MAINTAINER}
    return PackageOptions.parse(**values | changes)


@pytest.fixture
def nfpm(
    finished: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: Callable[[str, str], Path],
    tmp_path: Path,
) -> Path:
    """A checkout with declarations, and a fake nfpm that saves the declarations it gets."""
    shutil.copytree(Path(__file__).parents[3] / "packaging", project.ROOT / "packaging")
    (project.ROOT / "LICENSE").write_text("the license\n")
    program = script("nfpm", f'cp "$3" {tmp_path}/; echo "$5" >"$7"; cat bin/* >>"$7"')
    monkeypatch.setattr(gotools, "compiled", lambda *_: program)
    monkeypatch.setattr(toolchain, "ensure", lambda _pins: GO)
    packed = {
        program: filesystem.sha256(finished / dist.binary(program)) for program in dist.COMMANDS
    }
    monkeypatch.setattr(contents, "programs", lambda *_: iter(packed.items()))
    return program


def test_packages(nfpm: Path, tmp_path: Path) -> None:
    outcome = build.build(options())
    assert not outcome.up_to_date
    assert outcome.artifacts is not None
    directory = project.DIST / "linux-riscv64" / "packages"
    assert outcome.artifacts.path == directory
    manifest = outcome.artifacts.manifest
    assert [file["name"] for file in manifest["files"]] == FILES
    assert [(file["package"], file["format"], file["arch"]) for file in manifest["files"]] == [
        ("buildkit", "deb", "riscv64"), ("buildkit", "rpm", "riscv64"),
        ("buildkit-rootless", "deb", "riscv64"), ("buildkit-rootless", "rpm", "riscv64"),
    ]  # fmt: skip
    assert manifest["package_version"] == "0.32.2-1"
    assert manifest["binaries"].keys() == set(dist.COMMANDS)
    assert sorted(path.name for path in directory.iterdir()) == sorted([*FILES, "SHA256SUMS", "manifest.json"])  # fmt: skip
    assert all((directory / name).stat().st_mode & 0o777 == 0o644 for name in FILES)
    assert not list(project.DIST.glob(".*staging*"))
    assert build.load(TARGET).manifest == manifest


def test_declarations(nfpm: Path, tmp_path: Path) -> None:
    build.build(options(revision="3", maintainer='Jürgen O. "x <a@b.example>'.replace('"', "")))
    deb, rpm = ((tmp_path / f"buildkit.{form}.yaml").read_text() for form in build.FORMATS)
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
    assert "type: doc" not in deb, "nfpm omits such files from a .deb"
    assert "- runc\n" in rpm
    rootless = (tmp_path / "buildkit-rootless.deb.yaml").read_text()
    assert "- buildkit (= 0.32.2-3)" in rootless
    assert "- rootlesskit (>= 1.1.0)" in rootless
    assert "buildctl.cdx.json" not in rootless


def test_compression_is_reproducible() -> None:
    packed = build.gzipped(b"content")
    assert gzip.decompress(packed) == b"content"
    # RFC 1952: deflate, no flags, no time, best compression, Unix.
    assert packed[:10] == bytes.fromhex("1f8b0800000000000203")


def test_bundle(nfpm: Path, bundled: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    packed = {
        p: filesystem.sha256(bundled / dist.binary(p)) for p in (*dist.COMMANDS, *dist.BUNDLE)
    }
    monkeypatch.setattr(contents, "programs", lambda *_: iter(packed.items()))
    outcome = build.build(options())
    assert outcome.artifacts is not None
    assert outcome.artifacts.manifest["binaries"] == packed
    deb, rpm = ((tmp_path / f"buildkit.{form}.yaml").read_text() for form in build.FORMATS)
    for text in (deb, rpm):
        for program in dist.BUNDLE:
            assert (f"dst: /usr/bin/{program}," in text) is (program != "rootlesskit")
        assert "src: man/bundle.8.gz, dst: /usr/share/man/man8/buildkit-runc.8.gz" in text
        assert "/usr/share/doc/buildkit/buildkit-runc.cdx.json" in text
        assert "- runc" not in text, "the package contains its own"
        assert "- iptables\n" in text
    for form in build.FORMATS:
        text = (tmp_path / f"buildkit-rootless.{form}.yaml").read_text()
        assert "src: bin/rootlesskit, dst: /usr/libexec/buildkit/rootlesskit" in text
        assert "- rootlesskit" not in text, "the package contains its own"
        assert "/usr/share/doc/buildkit-rootless/rootlesskit.cdx.json" in text
    assert "/etc/apparmor.d/buildkit-rootlesskit" in (tmp_path / "buildkit-rootless.deb.yaml").read_text()  # fmt: skip


def test_declared_files_exist(nfpm: Path, tmp_path: Path) -> None:
    build.build(options())
    generated = {"changelog.yaml", "LICENSE", dist.PROVENANCE}
    for text in ((tmp_path / f"{n}.{f}.yaml").read_text() for n in build.NAMES for f in build.FORMATS):  # fmt: skip
        for line in text.splitlines():
            if "src: " in line:
                name = line.partition("src: ")[2].partition(",")[0]
                if (
                    name not in generated
                    and not name.startswith("bin/")
                    and not name.endswith(".cdx.json")
                ):
                    assert (build.declarations() / name.removesuffix(".gz")).is_file(), name


def test_up_to_date_packages_are_not_rebuilt(nfpm: Path, steps: list[str]) -> None:
    build.build(options())
    assert steps == ["build-packages"]
    nfpm.write_text("#!/bin/sh\nexit 1\n")
    assert build.build(options()).up_to_date
    assert steps == ["build-packages"]
    with pytest.raises(BuildError, match="buildkit_"):
        build.build(options(force=True))
    with pytest.raises(BuildError):
        build.build(options(revision="2"))
    assert build.load(TARGET).manifest["package_version"] == "0.32.2-1"


@pytest.mark.parametrize("change", ["declaration", "package", "binary"])
def test_changed_inputs_are_rebuilt(nfpm: Path, finished: Path, change: str) -> None:
    build.build(options())
    match change:
        case "declaration":
            (project.ROOT / "packaging" / "buildkitd.toml").write_text("debug = true\n")
        case "package":
            (finished / "packages" / FILES[0]).write_text("damaged")
        case "binary":
            edit_manifest(finished, lambda m: m["source"].update(time="2026-08-05T00:00:00Z"))
    outcome = build.build(options())
    assert not outcome.up_to_date


def test_dry(nfpm: Path, finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(project.DIST.rglob("*"))
    with dry_run.running(dry=True):
        assert build.build(options()).artifacts is None
    assert sorted(project.DIST.rglob("*")) == before
    output = capsys.readouterr().err
    assert all(name in output for name in FILES)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"revision": "0"}, "--revision 0"),
        ({"revision": "1~rc1"}, "--revision"),
        ({"revision": ""}, "--revision"),
        ({"revision": "1\n"}, "--revision"),
        ({"maintainer": "nobody"}, "maintainer"),
        ({"maintainer": 'a "b" <c@d.example>'}, "maintainer"),
        ({"maintainer": "a\nDepends: evil <c@d.example>"}, "maintainer"),
        ({"target": "linux-riscv64-rva22u64"}, "linux-riscv64-rva22u64"),
        ({"target": "linux-riscv64-pgo"}, "linux-riscv64-pgo"),
        ({"target": "linux-sparc"}, "linux-sparc"),
    ],
)
def test_invalid_options(changes: dict[str, str], reason: str) -> None:
    with pytest.raises(UsageError, match=reason) as caught:
        options(**changes)
    assert caught.value.hint


def _tamper(directory: Path) -> None:
    path = directory / "bin" / "buildkitd"
    stat = path.stat()
    path.write_bytes(path.read_bytes()[:-1] + b"X")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (shutil.rmtree, "no artifacts"),
        (lambda f: (f / "manifest.json").write_text("{"), r"manifest\.json"),
        (lambda f: edit_manifest(f, lambda m: m.pop("host")), "host"),
        (lambda f: (f / "bin" / "buildctl").unlink(), "its manifest"),
        (lambda f: (f / "bin" / "buildctl").write_text("another"), "its manifest"),
        (_tamper, "buildkitd .*its manifest"),
        (lambda f: edit_manifest(f, lambda m: m.update(target="linux-amd64")), "for linux-amd64"),
        (lambda f: edit_manifest(f, lambda m: m.update(version="v0.33.0-rc1")), "v0.33.0-rc1"),
    ],
)
def test_bad_binaries_are_refused(
    nfpm: Path, finished: Path, damage: Callable[[Path], object], reason: str
) -> None:
    damage(finished)
    with pytest.raises(CheckError, match=reason) as caught:
        build.build(options())
    assert "invoke build-binaries" in caught.value.hint
    assert not (finished / "packages").exists()
    assert not list(project.DIST.glob(".*staging*"))


def test_another_run_holds_the_lock(nfpm: Path) -> None:
    with dist.lock(TARGET), pytest.raises(BusyError):
        build.build(options())


@pytest.mark.parametrize("packed", [{}, {"buildctl": "0" * 64, "buildkitd": "0" * 64}])
def test_packages_with_other_programs_are_refused(
    nfpm: Path, finished: Path, monkeypatch: pytest.MonkeyPatch, packed: dict[str, str]
) -> None:
    monkeypatch.setattr(contents, "programs", lambda *_: iter(packed.items()))
    with pytest.raises(CheckError, match="buildctl"):
        build.build(options())
    assert not (finished / "packages").exists()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (shutil.rmtree, "no packages"),
        (lambda f: (f / FILES[0]).unlink(), FILES[0]),
        (lambda f: (f / FILES[1]).write_text("another"), FILES[1]),
        (lambda f: edit_manifest(f, lambda m: m.pop("binaries")), "binaries"),
        (lambda f: edit_manifest(f, lambda m: m["binaries"].update(buildctl="0" * 64)), "current binaries"),
        (lambda f: edit_manifest(f, lambda m: m["files"][0].update(name="../evil.deb")), "must match pattern"),
    ],
)  # fmt: skip
def test_bad_packages_are_refused(
    nfpm: Path, finished: Path, damage: Callable[[Path], object], reason: str
) -> None:
    build.build(options())
    damage(finished / "packages")
    with pytest.raises(CheckError, match=reason) as caught:
        build.load(TARGET)
    assert "invoke build-packages" in caught.value.hint


def test_manifest_has_every_property_of_the_schema(nfpm: Path) -> None:
    outcome = build.build(options())
    assert outcome.artifacts is not None
    schema = json.loads(schemas.PACKAGES.read_text())
    assert schema["properties"].keys() == outcome.artifacts.manifest.keys()
    assert pins.load().version == outcome.artifacts.manifest["version"]
