from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from buildkit_riscv64 import dist
from buildkit_riscv64.errors import CheckError
from buildkit_riscv64.validation import report
from buildkit_riscv64.validation.suites import SUITES
from buildkit_riscv64.validation.validate import Outcomes

from .scenes import Publish, result, scene

WHOLE = {name: result() for name in SUITES}


@pytest.mark.parametrize(
    ("one", "lines"),
    [
        (scene(title="Builds", seconds=3.14), ["standalone 12/61  ok  3.1 s  Builds"]),
        (scene(outcome="failed", title="Builds"),
         ["standalone 12/61  FAILED  1.5 s  Builds", "    AssertionError: no"]),
        (scene(outcome="not proven", title="Builds", seconds=0.0),
         ["standalone 12/61  not proven  0.0 s  Builds", "    another kernel would"]),
    ],
)  # fmt: skip
def test_progress(capsys: pytest.CaptureFixture[str], one: dict[str, Any], lines: list[str]) -> None:  # fmt: skip
    report.progress(SUITES["standalone"], 12, 61, one)
    said = capsys.readouterr()
    assert (said.out, said.err.splitlines()) == ("", lines)


def test_all_is_well(publish: Publish, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:  # fmt: skip
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "page"))
    report.validated(Outcomes(publish(WHOLE), list(SUITES), 130), json=True)
    said = capsys.readouterr()
    assert json.loads(said.out)["counts"]["passed"] == 4
    assert said.err.splitlines()[-4:] == [
        "BuildKit v0.32.2 for linux-riscv64, validated natively on riscv64, 2026-11-25T11:10:00Z",
        "complete: a release may be gated on it",
        "the evidence is in dist/linux-riscv64/evidence/; to read it: index.html",
        "4 scenarios passed, 2 min 10 s in all",
    ]
    assert "| rootless | 1 | 0 | 0 |" in (tmp_path / "page").read_text()


def test_what_failed_is_named(publish: Publish, capsys: pytest.CaptureFixture[str]) -> None:
    bad = [scene(name, "failed") for name in ("test_a", "test_b")]
    found = publish({**WHOLE, "buildx": result(*bad)})
    with pytest.raises(CheckError) as caught:
        report.validated(Outcomes(found, ["buildx"], 1), json=False)
    assert caught.value.brief == "2 scenarios failed: buildx/life: The title of test_a (and 1 more)"
    assert caught.value.hint == "read dist/linux-riscv64/evidence/index.html"
    said = capsys.readouterr().err
    for name in ("test_a", "test_b"):
        assert f"FAILED buildx/life: The title of {name}\n    AssertionError: no\n" in said


def test_what_failed_before_is_told_and_no_failure_of_now(publish: Publish, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    found = publish({**WHOLE, "buildx": result(scene(outcome="failed"))})
    report.validated(Outcomes(found, ["standalone"], 1), json=False)
    said = capsys.readouterr().err
    assert "FAILED buildx/life" in said
    assert "  suite buildx: 1 failed\n" in said


def test_a_suite_that_was_ended(publish: Publish) -> None:
    found = publish({**WHOLE, "buildx": result(aborted="pytest ended early (killed by SIGKILL)")})
    with pytest.raises(CheckError, match="not all scenarios have run: buildx: pytest ended early"):
        report.validated(Outcomes(found, ["buildx"], 1), json=False)


def test_a_dry_run_reports_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    report.validated(Outcomes(None, [], 0), json=True)
    assert capsys.readouterr() == ("", "")


def test_showing(publish: Publish, capsys: pytest.CaptureFixture[str]) -> None:
    found = publish({"standalone": result(scene(), scene("test_b", "not proven"), partial=True, select="x")})  # fmt: skip
    report.shown(found, json=True)
    said = capsys.readouterr()
    assert json.loads(said.out)["incomplete"][0].startswith("suite standalone has run only in part")
    assert "not proven standalone/life: The title of test_b\n    another kernel would\n" in said.err
    assert "no release may be gated on it:\n" in said.err
    assert "in part: x" in said.err


def changed(found: dist.Artifacts) -> dist.Artifacts:
    """Evidence of another machine and another build."""
    document: dict[str, Any] = copy.deepcopy(dict(found.manifest))
    document["host"]["execution"] = "qemu-system"
    document["images"]["root"] = None
    document["versions"]["runc"] = "1.3.0"
    scenes = document["suites"]["standalone"]["scenarios"]
    scenes[0]["seconds"] = 15.0
    scenes[1]["outcome"] = "failed"
    scenes[2]["name"] = "test_new"
    return dist.Artifacts(Path("there"), document)


def test_comparing(publish: Publish, capsys: pytest.CaptureFixture[str]) -> None:
    here = publish({"standalone": result(*map(scene, ("test_a", "test_b", "test_c")))})
    there = changed(here)
    report.compared(there, here, json=True)
    said = capsys.readouterr()
    told = json.loads(said.out)
    assert told["about"].keys() == {"host execution", "images", "runc"}
    assert told["about"]["host execution"] == ["qemu-system", "native"]
    assert [(one["name"], one["before"], one["after"]) for one in told["scenarios"]] == [
        ("test_b", "failed", "passed"), ("test_new", "passed", None), ("test_c", None, "passed"),
    ]  # fmt: skip
    assert told["seconds"] == [15.0, 1.5]
    assert "what passes in both took 15.0 s there and 1.5 s here\n" in said.err
    assert "3 scenarios with another outcome\n" in said.err
    assert "is not here" in said.err


def test_comparing_with_itself(publish: Publish, capsys: pytest.CaptureFixture[str]) -> None:
    here = publish(WHOLE)
    assert report.differences(here.manifest, here.manifest) == {
        "about": {}, "scenarios": [], "seconds": [6.0, 6.0]
    }  # fmt: skip
    report.compared(here, here, json=False)
    assert capsys.readouterr().err.splitlines()[-1] == "0 scenarios with another outcome"
