from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest

from buildkit_riscv64.core import dist
from buildkit_riscv64.core.errors import CheckError
from buildkit_riscv64.validation import report
from buildkit_riscv64.validation.suites import SUITES
from buildkit_riscv64.validation.validate import Outcomes

from .factories import Publish, result, scene

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
def test_progress(
    capsys: pytest.CaptureFixture[str], one: dict[str, Any], lines: list[str]
) -> None:
    report.progress(SUITES["standalone"], 12, 61, one)
    output = capsys.readouterr()
    assert (output.out, output.err.splitlines()) == ("", lines)


def test_passed(
    publish: Publish,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "page"))
    report.validated(Outcomes(publish(WHOLE), list(SUITES), 130), json=True)
    output = capsys.readouterr()
    assert json.loads(output.out)["counts"]["passed"] == 4
    assert output.err.splitlines()[-4:] == [
        "BuildKit v0.32.2 for linux-riscv64, validated natively on riscv64, 2026-11-25T11:10:00Z",
        "complete: no release blockers",
        "read the evidence: dist/linux-riscv64/evidence/index.html",
        "4 scenarios passed in 2 min 10 s",
    ]
    assert "| rootless | 1 | 0 | 0 |" in (tmp_path / "page").read_text()


def test_failed_scenarios_are_listed(publish: Publish, capsys: pytest.CaptureFixture[str]) -> None:
    bad = [scene(name, "failed") for name in ("test_a", "test_b")]
    found = publish({**WHOLE, "buildx": result(*bad)})
    with pytest.raises(CheckError) as caught:
        report.validated(Outcomes(found, ["buildx"], 1), json=False)
    assert caught.value.brief.startswith("2 scenarios failed: buildx/cache: The title of test_a")
    assert "dist/linux-riscv64/evidence/index.html" in caught.value.hint
    output = capsys.readouterr().err
    for name in ("test_a", "test_b"):
        assert f"FAILED buildx/cache: The title of {name}\n    AssertionError: no\n" in output


def test_earlier_failures_are_listed_without_an_error(
    publish: Publish, capsys: pytest.CaptureFixture[str]
) -> None:
    found = publish({**WHOLE, "buildx": result(scene(outcome="failed"))})
    report.validated(Outcomes(found, ["standalone"], 1), json=False)
    output = capsys.readouterr().err
    assert "FAILED buildx/cache" in output
    assert "  suite buildx: 1 failed\n" in output


def test_aborted_suite(publish: Publish) -> None:
    found = publish({**WHOLE, "buildx": result(aborted="pytest ended early (killed by SIGKILL)")})
    with pytest.raises(CheckError, match="buildx: pytest ended early"):
        report.validated(Outcomes(found, ["buildx"], 1), json=False)


def test_dry_run_reports_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    report.validated(Outcomes(None, [], 0), json=True)
    assert capsys.readouterr() == ("", "")


def test_shown(publish: Publish, capsys: pytest.CaptureFixture[str]) -> None:
    found = publish({"standalone": result(scene(), scene("test_b", "not proven"), partial=True, select="x")})  # fmt: skip
    report.shown(found, json=True)
    output = capsys.readouterr()
    assert "--select x" in json.loads(output.out)["incomplete"][0]
    assert (
        "not proven standalone/cache: The title of test_b\n    another kernel would\n" in output.err
    )
    assert "a release is blocked" in output.err
    assert "in part: x" in output.err


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
    return dist.Artifacts(Path("other"), document)


def test_compared(publish: Publish, capsys: pytest.CaptureFixture[str]) -> None:
    here = publish({"standalone": result(*map(scene, ("test_a", "test_b", "test_c")))})
    other = changed(here)
    report.compared(other, here, json=True)
    output = capsys.readouterr()
    reported = json.loads(output.out)
    assert reported["about"].keys() == {"host execution", "images", "runc"}
    assert reported["about"]["host execution"] == ["qemu-system", "native"]
    assert [(one["name"], one["before"], one["after"]) for one in reported["scenarios"]] == [
        ("test_b", "failed", "passed"), ("test_new", "passed", None), ("test_c", None, "passed"),
    ]  # fmt: skip
    assert reported["seconds"] == [15.0, 1.5]
    assert re.search(r"15\.0 s .* 1\.5 s", output.err)
    assert "3 scenarios" in output.err
    assert "absent" in output.err


def test_compared_with_itself(publish: Publish, capsys: pytest.CaptureFixture[str]) -> None:
    here = publish(WHOLE)
    assert report.differences(here.manifest, here.manifest) == {
        "about": {}, "scenarios": [], "seconds": [6.0, 6.0]
    }  # fmt: skip
    report.compared(here, here, json=False)
    assert capsys.readouterr().err.splitlines()[-1].startswith("0 scenarios")
