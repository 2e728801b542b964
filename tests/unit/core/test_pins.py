from __future__ import annotations

import re
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import pytest

from buildkit_riscv64.binaries import source
from buildkit_riscv64.core import pins, process, project
from buildkit_riscv64.core.errors import SourceError, UsageError
from buildkit_riscv64.core.pins import PinnedRelease

from ..factories import COMMIT, TIME


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
def test_invalid_release_tags(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        pins.release_tag(text)
    assert repr(text) in caught.value.brief


def test_load(checkout: Path) -> None:
    loaded = pins.load()
    assert (loaded.version, loaded.commit, loaded.go) == ("v0.32.2", COMMIT, "1.26.10")
    assert loaded.time == datetime(2026, 8, 4, 12, 27, 40, tzinfo=UTC)
    assert loaded.go_version == "go1.26.10"
    assert loaded.go_sums == {}
    assert loaded.bundle["rootlesskit"] == PinnedRelease(version="v3.0.1", time=TIME)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("[buildkit]", "[other]", "no 'buildkit'"),
        ("commit", "comit", "no 'commit'"),
        ("[buildkit]", "[buildkit", "Expected"),
        ('"v0.32.2"', '"v0.32.2-rc1"', "v0.32.2-rc1"),
        ('"v0.32.2"', "5", "expected string"),
        (COMMIT, COMMIT[:12], f"'{COMMIT[:12]}'"),
        (COMMIT, COMMIT.upper(), COMMIT.upper()),
        (COMMIT, f"{COMMIT}\\n", COMMIT),
        ('"1.26.10"', "1.26", "expected string"),
        ('"1.26.10"', '"1.26rc1"', "1.26rc1"),
        ("2026-08-04T12:27:40Z", '"yesterday"', "yesterday"),
        ("2026-08-04T12:27:40Z", "2026-08-04T12:27:40", "2026-08-04 12:27:40"),
        ('version = "1.26.10"', 'version = "1.26.10"\nsums = []', "go.sums"),
        ('"v1.4.3"', '"main"', "'main'"),
        ('"v1.4.3"', '"v1.4.3"\ncommit = "abc"', "'abc'"),
        ('"v1.4.3"', "5", "expected string"),
        ("[bundle.runc]", "[bundle.runc]\nx = 1\n[other]", "no 'version'"),
        ("[buildkit]", "bundle = 5\n[buildkit]", ""),
    ],
)
def test_invalid_pins(checkout: Path, old: str, new: str, reason: str) -> None:
    text = project.PINS.read_text()
    assert old in text
    project.PINS.write_text(text.replace(old, new))
    with pytest.raises(SourceError, match=f"pins/pins.toml: .*{reason}"):
        pins.load()


@pytest.mark.parametrize("version", ["v1.5.0", "v1.5.0-rc.1"])
def test_releases_that_upstream_pins(version: str) -> None:
    text = f"# ARG RUNC_VERSION=v0.1.0\nARG RUNC_VERSION={version}\nFROM x\nARG RUNC_VERSION\n"
    assert pins.others(text, "RUNC_VERSION") == version


@pytest.mark.parametrize(
    "line", ["", "ARG RUNC_VERSION", "ARG RUNC_VERSION=", "ARG RUNC_VERSION=main",
             "ARG RUNC_VERSION=${OTHER}", "ARG XRUNC_VERSION=v1.0.0", "ARG RUNC_VERSION=v1.0.0/../x"],
)  # fmt: skip
def test_upstream_pins_no_release(line: str) -> None:
    with pytest.raises(SourceError, match="RUNC_VERSION"):
        pins.others(f"FROM x\n{line}\n", "RUNC_VERSION")


def test_with_release(checkout: Path) -> None:
    text = project.PINS.read_text()
    moved = pins.with_release(
        text, "runc", PinnedRelease(version="v1.5.0", time=TIME, commit=COMMIT)
    )
    assert moved.splitlines() == [
        *text.partition("[bundle.runc]")[0].splitlines(),
        "[bundle.runc]", 'version = "v1.5.0"', f'commit = "{COMMIT}"', "time = 2026-08-04T12:27:40Z",
        "", *("[bundle.cni" + text.partition("[bundle.cni")[2]).splitlines(),
    ]  # fmt: skip
    back = pins.with_release(moved, "runc", PinnedRelease(version="v1.4.3", time=TIME))
    assert back == text


def test_missing_and_binary_pins(checkout: Path) -> None:
    project.PINS.write_bytes(b"\xff\xfe\0")
    with pytest.raises(SourceError, match=r"pins\.toml: .*(?i:utf-8)"):
        pins.load()
    project.PINS.unlink()
    with pytest.raises(SourceError, match="No such file"):
        pins.load()


def test_our_pins_are_consistent() -> None:
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
    for name, digest in pins.load().go_sums.items():
        assert re.fullmatch(r"linux-(amd64|arm64|riscv64)", name)
        assert re.fullmatch(r"h1:[A-Za-z0-9+/]{43}=", digest)


def test_versions_are_pinned_in_one_place() -> None:
    pinned = tomllib.loads(project.PINS.read_text())
    for path in Path(pins.__file__).parents[1].rglob("*.py"):
        text = path.read_text()
        assert pinned["buildkit"]["commit"] not in text, path
        # Examples in docstrings, comments and hints may name a version; code may not.
        assert f'"{pinned["buildkit"]["version"]}"' not in text, path
        assert f'"{pinned["go"]["version"]}"' not in text, path
