from __future__ import annotations

import json

import pytest

from buildkit_riscv64.core.check_results import (
    Finding,
    equal,
    judged,
    refuse_failed,
    report,
    summary,
)
from buildkit_riscv64.core.console import Status
from buildkit_riscv64.core.errors import CheckError

GOOD = Finding("bin/buildctl", "machine", Status.OK, "EM_RISCV")
MEH = Finding("bin/buildctl", "runs", Status.WARN, "not run")
BAD = Finding("bin/buildctl", "linked", Status.FAIL, "/lib/ld.so, expected statically")
FIX = "rebuild it"


def bad(subject: str) -> Finding:
    return Finding(subject, "check", Status.FAIL, "detail")


def test_a_failure_shows_the_expected_value() -> None:
    assert judged("one", "size", True, 5, 7) == Finding("one", "size", Status.OK, "5")
    assert judged("one", "size", False, 5, 7) == Finding(
        "one", "size", Status.FAIL, "5, expected 7"
    )


@pytest.mark.parametrize(
    ("seen", "expected", "status", "detail"),
    [
        ("a", "a", Status.OK, "a"),
        ([], [], Status.OK, "[]"),
        (["a", "b"], ["a", "b"], Status.OK, "a, b"),
        ("a", "b", Status.FAIL, "a, expected b"),
        (None, "b", Status.FAIL, "None, expected b"),
        ("5", 5, Status.FAIL, "5, expected 5"),
    ],
)
def test_equal(seen: object, expected: object, status: Status, detail: str) -> None:
    assert equal("one", "is", seen, expected) == Finding("one", "is", status, detail)


def test_warnings_do_not_fail() -> None:
    refuse_failed({"linux-amd64": [GOOD, MEH], "linux-arm64": []}, FIX)


def test_several_failures(
    capsys: pytest.CaptureFixture[str],
) -> None:
    findings = {"linux-amd64": [GOOD, bad("one"), bad("two")], "linux-arm64": [bad("three")]}
    with pytest.raises(CheckError, match=r"linux-amd64: one: check: detail.*2") as caught:
        refuse_failed(findings, FIX)
    assert caught.value.hint == FIX
    assert [line.split(":")[0].strip() for line in capsys.readouterr().err.splitlines()] == [
        "two",
        "three",
    ]


def test_one_failure(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CheckError, match="linux-arm64: one: check: detail"):
        refuse_failed({"linux-amd64": [GOOD], "linux-arm64": [bad("one")]}, FIX)
    assert capsys.readouterr().err == ""


def test_report_of_passed_checks(capsys: pytest.CaptureFixture[str]) -> None:
    report({"linux-riscv64": [GOOD, MEH], "linux-amd64": [GOOD, GOOD]}, FIX, json=False)
    output = capsys.readouterr()
    assert output.out == ""
    assert "linux-riscv64: 1 check passed, 1 warning\n" in output.err
    assert "linux-amd64: 2 checks passed, 0 warnings\n" in output.err


def test_summary() -> None:
    findings = [
        GOOD, GOOD, MEH, bad("bin/buildctl"),
        equal("one.json", "sha256", 1, 1), equal("two.json", "sha256", 1, 1), bad("three.json"),
    ]  # fmt: skip
    assert summary(findings) == [
        ("bin/buildctl", "2 checks", "OK", ""), ("2 others", "2 checks", "OK", ""),
        ("bin/buildctl", "runs", "WARN", "not run"), ("bin/buildctl", "check", "FAIL", "detail"),
        ("three.json", "check", "FAIL", "detail"),
    ]  # fmt: skip
    assert summary([GOOD]) == [("bin/buildctl", "1 check", "OK", "")]
    assert summary([]) == []


@pytest.mark.parametrize("verbose", [False, True])
def test_verbose_shows_passed_checks(capsys: pytest.CaptureFixture[str], verbose: bool) -> None:
    report({"linux-riscv64": [GOOD, MEH]}, FIX, json=False, verbose=verbose)
    output = capsys.readouterr().err
    assert ("EM_RISCV" in output) is verbose
    assert "not run" in output


def test_report_of_failed_checks(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CheckError, match="linux-amd64: bin/buildctl: linked"):
        report({"linux-riscv64": [GOOD], "linux-amd64": [BAD, GOOD]}, FIX, json=True)
    output = capsys.readouterr()
    assert json.loads(output.out)["linux-amd64"][0] == {
        "subject": "bin/buildctl", "check": "linked", "status": "FAIL",
        "detail": "/lib/ld.so, expected statically",
    }  # fmt: skip
    assert "/lib/ld.so, expected statically" in output.err
    assert "passed" not in output.err
