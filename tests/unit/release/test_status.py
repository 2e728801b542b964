from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from buildkit_riscv64.core import dist, filesystem, project
from buildkit_riscv64.core.errors import UsageError
from buildkit_riscv64.machine import machines
from buildkit_riscv64.release import gate, report, status

from ..factories import IRREGULAR, promptly
from ..phase4 import PACKAGES
from ..validation.factories import TARGET


def test_ready_to_release(releasable: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (found,) = status.statuses("")
    assert found.blocked == []
    assert found.next == "invoke release --target linux-riscv64"
    report.statuses([found], json=True)
    out, err = capsys.readouterr()
    assert '"releasable": true' in out
    assert err.splitlines()[-1] == "next: invoke release --target linux-riscv64"
    assert "v0.32.2" in err


def test_blocked_release(releasable: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(releasable / dist.IMAGE / "rootless")
    (found,) = status.statuses(TARGET.name)
    assert any(why.startswith("rootless image: ") for why in found.blocked)
    assert found.next == "invoke build-image --rootless"
    report.statuses([found], json=False)
    out, err = capsys.readouterr()
    assert out == ""
    assert "blocked by rootless image: " in err
    assert "next: invoke build-image --rootless" in err


@pytest.mark.parametrize(
    ("machine", "command"),
    [("x86_64", "invoke verify-binaries --cross-check --target linux-riscv64"), ("riscv64", "")],
)
def test_only_the_cross_check_is_missing(
    releasable: Path, on: Callable[[str], None], machine: str, command: str
) -> None:
    """The machine that compiled the binaries cannot confirm them."""
    on(machine)
    (releasable / dist.VERDICT).unlink()
    (found,) = status.statuses("")
    assert len(found.blocked) == 1
    assert found.next == command


def test_next_command_after_the_pins_moved(
    releasable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        gate, "phase_blockers", lambda phase: iter(["old"] * (phase.name == "packages"))
    )
    (found,) = status.statuses("")
    assert found.next.endswith("build-packages")


def test_identifying_hashes(releasable: Path) -> None:
    (found,) = status.statuses("")
    reported = {one["name"]: one for one in found.as_json()["phases"]}
    binaries = reported["binaries"]["sha256"]
    assert binaries == {
        name: filesystem.sha256(releasable / name) for name in ("bin/buildctl", "bin/buildkitd")
    }
    assert reported["validation"]["sha256"] == {"of": binaries["bin/buildkitd"]}
    assert reported["root image"]["sha256"]["digest"].startswith("sha256:")
    assert reported["packages"]["sha256"].keys() == set(PACKAGES)
    assert reported["binaries"]["execution"] == "native"
    assert reported["binaries"]["arch"] == "riscv64"


def test_table_fits_80_columns(releasable: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report.statuses(status.statuses(""), json=False)
    _, *rows = (line.rstrip() for line in capsys.readouterr().err.partition("\n\n")[0].splitlines())
    assert max(map(len, rows)) <= 80
    daemon = filesystem.sha256(releasable / dist.binary("buildkitd"))[:8]
    for name in ("binaries", "validation"):
        (row,) = (row for row in rows if row.startswith(name))
        assert re.fullmatch(
            rf"{name} +done  v0\.32\.2  riscv64, native +20\d\d-\d\d-\d\d \d\d:\d\d  {daemon}", row
        )


def test_every_target(releasable: Path) -> None:
    shutil.copytree(releasable, project.DIST / "linux-riscv64-rva22u64")
    (project.DIST / "linux-something").mkdir()
    found = status.statuses("")
    assert [one.target.name for one in found] == ["linux-riscv64", "linux-riscv64-rva22u64"]
    assert "linux-riscv64-rva22u64" in found[1].blocked[0]


def test_development_target_has_no_next_command(
    releasable: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (found,) = status.statuses("")
    monkeypatch.setattr(gate, "release_blockers", lambda *_: ["it is for development"])
    assert found.next == ""
    report.statuses([found], json=False)
    output = capsys.readouterr().err
    assert "blocked by it is for development" in output
    assert "next" not in output


@pytest.mark.parametrize(
    ("machine", "exists", "command"),
    [
        ("riscv64", False, "invoke build-binaries"),
        ("x86_64", True, "invoke on riscv64 -- build-binaries"),
        ("x86_64", False, "invoke machine.create"),
    ],
)
def test_nothing_has_been_built(
    checkout: Path,
    on: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    machine: str,
    exists: bool,
    command: str,
) -> None:
    """The next command creates a missing riscv64 machine."""
    on(machine)
    monkeypatch.setattr(machines, "exists", lambda _name: exists)
    assert status.statuses("") == []
    report.statuses([], json=True)
    out, err = capsys.readouterr()
    assert json.loads(out) == []
    assert err.splitlines()[-1] == f"next: {command}"


def test_unknown_target(checkout: Path) -> None:
    with pytest.raises(UsageError, match="not a target"):
        status.statuses("linux-sparc")


@pytest.mark.parametrize("kind", ["fifo", "link"])
@pytest.mark.parametrize(
    ("name", "phase"),
    [
        ("manifest.json", "binaries"), ("SHA256SUMS", "binaries"), ("bin/buildkitd", "binaries"),
        ("cross-check.json", "binaries"), ("image/root/manifest.json", "root image"),
        ("image/root/layout/index.json", "root image"), ("evidence/evidence.json", "validation"),
        ("evidence/SHA256SUMS", "validation"), (f"packages/{PACKAGES[0]}", "packages"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_regular_blocks_a_release(
    releasable: Path, kind: str, name: str, phase: str
) -> None:
    """Reading a fifo would wait forever; a link could lead to a file that changes later."""
    path = releasable / name
    path.touch()
    IRREGULAR[kind](path)
    with promptly():
        (found,) = status.statuses("")
    reasons = {one.name: one.reasons for one in found.phases}
    assert any(str(filesystem.display_path(path)) in why for why in reasons[phase])
    assert found.blocked


def test_a_directory_of_files_that_is_a_link_blocks_a_release(releasable: Path) -> None:
    shutil.move(releasable / "bin", project.DIST / "outside")
    (releasable / "bin").symlink_to(project.DIST / "outside")
    (found,) = status.statuses("")
    assert any("bin/" in why for why in found.phases[0].reasons)


def test_dist_may_be_a_link(releasable: Path) -> None:
    shutil.move(releasable, project.ROOT / "elsewhere")
    releasable.symlink_to(project.ROOT / "elsewhere")
    (found,) = status.statuses("")
    assert found.blocked == []
