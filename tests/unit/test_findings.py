from __future__ import annotations

import json

import pytest

from buildkit_riscv64.console import Status
from buildkit_riscv64.errors import CheckError
from buildkit_riscv64.findings import Finding, equal, judged, refuse_failed, report

GOOD = Finding("bin/buildctl", "machine", Status.OK, "EM_RISCV")
MEH = Finding("bin/buildctl", "runs", Status.WARN, "not run")
BAD = Finding("bin/buildctl", "linked", Status.FAIL, "/lib/ld.so, expected statically")
FIX = "make it anew"


def bad(subject: str) -> Finding:
    return Finding(subject, "check", Status.FAIL, "detail")


def test_what_is_good_is_shown_and_what_is_not_says_what_was_expected() -> None:
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


def test_warnings_are_not_refused() -> None:
    refuse_failed({"linux-amd64": [GOOD, MEH], "linux-arm64": []}, FIX)


def test_the_first_failure_is_named_and_the_others_are_told_before(capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    findings = {"linux-amd64": [GOOD, bad("one"), bad("two")], "linux-arm64": [bad("three")]}
    with pytest.raises(CheckError) as caught:
        refuse_failed(findings, FIX)
    assert caught.value.brief == "linux-amd64: one: check: detail (and 2 more)"
    assert (caught.value.hint, caught.value.code) == (FIX, 7)
    assert capsys.readouterr().err == "  two: check: detail\n  three: check: detail\n"


def test_one_failure_has_no_others(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CheckError) as caught:
        refuse_failed({"linux-amd64": [GOOD], "linux-arm64": [bad("one")]}, FIX)
    assert caught.value.brief == "linux-arm64: one: check: detail"
    assert capsys.readouterr().err == ""


def test_checks_that_passed(capsys: pytest.CaptureFixture[str]) -> None:
    report({"linux-riscv64": [GOOD, MEH], "linux-amd64": [GOOD, GOOD]}, FIX, json=False)
    said = capsys.readouterr()
    assert said.out == ""
    assert "linux-riscv64: 1 check passed, 1 warning\n" in said.err
    assert "linux-amd64: 2 checks passed, 0 warnings\n" in said.err
    assert "EM_RISCV" in said.err


def test_checks_that_failed_are_all_told_before(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CheckError, match="linux-amd64: bin/buildctl: linked"):
        report({"linux-riscv64": [GOOD], "linux-amd64": [BAD, GOOD]}, FIX, json=True)
    said = capsys.readouterr()
    assert json.loads(said.out)["linux-amd64"][0] == {
        "subject": "bin/buildctl", "check": "linked", "status": "FAIL",
        "detail": "/lib/ld.so, expected statically",
    }  # fmt: skip
    assert "/lib/ld.so, expected statically" in said.err
    assert "passed" not in said.err
