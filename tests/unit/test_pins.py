from __future__ import annotations

import re
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import pytest

from buildkit_riscv64 import pins, process, project
from buildkit_riscv64.binaries import source
from buildkit_riscv64.errors import SourceError, UsageError
from buildkit_riscv64.pins import Release

from .making import COMMIT, TIME


@pytest.mark.parametrize("tag", ["v0.32.2", "v0.0.0", "v1.0.0", "v10.20.30"])
def test_release_tags(tag: str) -> None:
    assert pins.release_tag(tag) == tag


@pytest.mark.parametrize(
    "text",
    [
        "", "v0.32", "0.32.2", "v0.32.2-rc1", "v0.32.2\n", " v0.32.2", "v0.032.2", "v0.32.2.1",
        "dockerfile/1.2.3", "master", "v0.32.2/../x", "--upload-pack=x", "V0.32.2", "v\u0660.1.1",
        "latest", "v0.32.x",
    ],
)  # fmt: skip
def test_anything_else_is_no_release_tag(text: str) -> None:
    with pytest.raises(UsageError, match="is not a BuildKit release tag"):
        pins.release_tag(text)


def test_load(checkout: Path) -> None:
    loaded = pins.load()
    assert (loaded.version, loaded.commit, loaded.go) == ("v0.32.2", COMMIT, "1.26.10")
    assert loaded.time == datetime(2026, 8, 4, 12, 27, 40, tzinfo=UTC)
    assert loaded.go_version == "go1.26.10"
    assert loaded.go_sums == {}
    assert loaded.bundle["rootlesskit"] == Release(version="v3.0.1", time=TIME)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("[buildkit]", "[other]", "no 'buildkit'"),
        ("commit", "comit", "no 'commit'"),
        ("[buildkit]", "[buildkit", "Expected"),
        ('"v0.32.2"', '"v0.32.2-rc1"', "is not a BuildKit release tag"),
        ('"v0.32.2"', "5", "expected string"),
        (COMMIT, COMMIT[:12], "is not a full commit"),
        (COMMIT, COMMIT.upper(), "is not a full commit"),
        (COMMIT, f"{COMMIT}\\n", "is not a full commit"),
        ('"1.26.10"', "1.26", "expected string"),
        ('"1.26.10"', '"1.26rc1"', "is not a Go release"),
        ("2026-08-04T12:27:40Z", '"yesterday"', "is not a time with its zone"),
        ("2026-08-04T12:27:40Z", "2026-08-04T12:27:40", "is not a time with its zone"),
        ('version = "1.26.10"', 'version = "1.26.10"\nsums = []', "is not a table"),
        ('"v1.4.3"', '"main"', "'main' is not a release tag"),
        ('"v1.4.3"', '"v1.4.3"\ncommit = "abc"', "'abc' is not a full commit"),
        ('"v1.4.3"', "5", "expected string"),
        ("[bundle.runc]", "[bundle.runc]\nx = 1\n[other]", "no 'version'"),
        ("[buildkit]", "bundle = 5\n[buildkit]", ""),
    ],
)
def test_pins_that_are_not_as_we_write_them(
    checkout: Path, old: str, new: str, reason: str
) -> None:
    text = project.PINS.read_text()
    assert old in text
    project.PINS.write_text(text.replace(old, new))
    with pytest.raises(SourceError, match=f"cannot read the pins in pins.toml: .*{reason}"):
        pins.load()


@pytest.mark.parametrize("version", ["v1.5.0", "v1.5.0-rc.1"])
def test_what_upstream_pins_of_others(version: str) -> None:
    text = f"# ARG RUNC_VERSION=v0.1.0\nARG RUNC_VERSION={version}\nFROM x\nARG RUNC_VERSION\n"
    assert pins.others(text, "RUNC_VERSION") == version


@pytest.mark.parametrize(
    "line", ["", "ARG RUNC_VERSION", "ARG RUNC_VERSION=", "ARG RUNC_VERSION=main",
             "ARG RUNC_VERSION=${OTHER}", "ARG XRUNC_VERSION=v1.0.0", "ARG RUNC_VERSION=v1.0.0/../x"],
)  # fmt: skip
def test_what_upstream_does_not_pin(line: str) -> None:
    with pytest.raises(SourceError, match="pins no release as RUNC_VERSION"):
        pins.others(f"FROM x\n{line}\n", "RUNC_VERSION")


def test_a_release_is_written_where_it_was(checkout: Path) -> None:
    text = project.PINS.read_text()
    moved = pins.with_release(text, "runc", Release(version="v1.5.0", time=TIME, commit=COMMIT))
    assert moved.splitlines() == [
        *text.partition("[bundle.runc]")[0].splitlines(),
        "[bundle.runc]", 'version = "v1.5.0"', f'commit = "{COMMIT}"', "time = 2026-08-04T12:27:40Z",
        "", *("[bundle.cni" + text.partition("[bundle.cni")[2]).splitlines(),
    ]  # fmt: skip
    back = pins.with_release(moved, "runc", Release(version="v1.4.3", time=TIME))
    assert back == text


def test_missing_and_binary_pins(checkout: Path) -> None:
    project.PINS.write_bytes(b"\xff\xfe\0")
    with pytest.raises(SourceError, match="cannot read the pins"):
        pins.load()
    project.PINS.unlink()
    with pytest.raises(SourceError, match="No such file"):
        pins.load()


def test_our_pins_agree_with_each_other() -> None:
    pinned = pins.load()
    assert source.module_sum(pinned).startswith("h1:")
    gitlink = process.read(["git", "-C", project.ROOT, "ls-files", "--stage", "buildkit"]).split()
    assert gitlink == ["160000", pinned.commit, "0", "buildkit"]
    modules = process.read(["git", "config", "--file", project.ROOT / ".gitmodules", "--list"])
    assert "submodule.buildkit.url=https://github.com/moby/buildkit.git" in modules
    assert f"submodule.buildkit.path={project.SUBMODULE.name}" in modules


def test_the_pinned_go_is_new_enough_for_upstream() -> None:
    required = (project.UPSTREAM_MODULE / "go.mod").read_text()
    found = re.search(r"^go (\d+)\.(\d+)\.(\d+)$", required, re.M)
    assert found
    assert [int(n) for n in pins.load().go.split(".")] >= [int(n) for n in found.groups()]


def test_our_hashes_are_dirhashes() -> None:
    for name, kept in pins.load().go_sums.items():
        assert re.fullmatch(r"linux-(amd64|arm64|riscv64)", name)
        assert re.fullmatch(r"h1:[A-Za-z0-9+/]{43}=", kept)


def test_versions_are_pinned_in_one_place() -> None:
    pinned = tomllib.loads(project.PINS.read_text())
    for path in Path(pins.__file__).parent.rglob("*.py"):
        text = path.read_text()
        assert pinned["buildkit"]["commit"] not in text, path
        # Examples in docstrings, comments and hints may name a version; code may not.
        assert f'"{pinned["buildkit"]["version"]}"' not in text, path
        assert f'"{pinned["go"]["version"]}"' not in text, path
