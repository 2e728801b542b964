from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from buildkit_riscv64 import dist, project, storage
from buildkit_riscv64.automation import report, status
from buildkit_riscv64.errors import CheckError, UsageError

from ..validation.scenes import TARGET


def test_all_is_there(releasable: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (found,) = status.chains("")
    assert found.blocked == []
    assert found.next == "invoke release --target linux-riscv64"
    report.chains([found], json=True)
    out, err = capsys.readouterr()
    assert '"releasable": true' in out
    assert "all is there: invoke release --target linux-riscv64" in err
    assert "v0.32.2" in err


def test_what_blocks_it(releasable: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(releasable / dist.IMAGE / "rootless")
    (found,) = status.chains(TARGET.name)
    assert any(why.startswith("rootless image: no artifacts in ") for why in found.blocked)
    assert found.next == "invoke build-image --rootless"
    report.chains([found], json=False)
    out, err = capsys.readouterr()
    assert out == ""
    assert "blocked by rootless image: no artifacts in " in err
    assert "next: invoke build-image --rootless" in err


def test_what_identifies_each_phase(releasable: Path) -> None:
    (found,) = status.chains("")
    told = {one["name"]: one for one in found.as_json()["phases"]}
    binaries = told["binaries"]["sha256"]
    assert binaries == {
        name: storage.sha256(releasable / name) for name in ("bin/buildctl", "bin/buildkitd")
    }
    assert told["validation"]["sha256"] == {"of": binaries["bin/buildkitd"]}
    assert told["root image"]["sha256"]["digest"].startswith("sha256:")
    assert told["packages"]["sha256"].keys() == {"buildkit_0.32.2-1_riscv64.deb"}
    assert told["binaries"]["execution"] == "native"
    assert told["binaries"]["arch"] == "riscv64"


def test_a_terminal_of_80_columns_has_room_for_it(releasable: Path, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    report.chains(status.chains(""), json=False)
    _, *rows = (line.rstrip() for line in capsys.readouterr().err.partition("\n\n")[0].splitlines())
    assert max(map(len, rows)) <= 80
    daemon = storage.sha256(releasable / dist.binary("buildkitd"))[:8]
    for name in ("binaries", "validation"):
        (row,) = (row for row in rows if row.startswith(name))
        assert re.fullmatch(
            rf"{name} +done  v0\.32\.2  riscv64, native +20\d\d-\d\d-\d\d \d\d:\d\d  {daemon}", row
        )


def test_every_target(releasable: Path) -> None:
    shutil.copytree(releasable, project.DIST / "linux-riscv64-rva22u64")
    (project.DIST / "linux-something").mkdir()
    found = status.chains("")
    assert [one.target.name for one in found] == ["linux-riscv64", "linux-riscv64-rva22u64"]
    assert found[1].blocked[0] == "linux-riscv64-rva22u64 does not run on every riscv64 machine"


def test_what_is_for_development_goes_no_further(releasable: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    (found,) = status.chains("")
    monkeypatch.setattr(status, "refusals", lambda *_: ["it is for development"])
    assert found.next == ""
    report.chains([found], json=False)
    said = capsys.readouterr().err
    assert "blocked by it is for development" in said
    assert "next" not in said


@pytest.mark.parametrize(("machine", "hint"), [("riscv64", "invoke build-binaries"), ("x86_64", "invoke on riscv64 -- build-binaries")])  # fmt: skip
def test_nothing_is_there(checkout: Path, on: Callable[[str], None], machine: str, hint: str) -> None:  # fmt: skip
    on(machine)
    with pytest.raises(CheckError, match="nothing has been built yet") as caught:
        status.chains("")
    assert caught.value.hint == hint


def test_no_such_target(checkout: Path) -> None:
    with pytest.raises(UsageError, match="not a target"):
        status.chains("linux-sparc")
