from __future__ import annotations

import re
from pathlib import Path

import pytest
from invoke.exceptions import Exit

from buildkit_riscv64.core import errors, project
from buildkit_riscv64.core.errors import Failure, MissingRequirementError


def test_exit_codes_are_unique() -> None:
    codes = [cls.exit_code for cls in errors.documented()]
    assert codes == sorted(set(codes))
    assert 0 not in codes


def test_documented_returns_every_failure() -> None:
    defined = {
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, Failure) and "exit_code" in vars(value)
    }
    assert set(errors.documented()) == defined


def test_exit_codes_of_the_documentation() -> None:
    page = (project.ROOT / "docs" / "exit-codes.md").read_text()
    rows = re.findall(r"^\| \d+ \| `.*$", page, re.M)
    assert rows == [
        f"| {cls.exit_code} | `{cls.__name__}` | {cls.meaning} |" for cls in errors.documented()
    ]


@pytest.mark.parametrize("cls", errors.documented())
def test_a_failure_is_an_exit_of_invoke_with_its_code(cls: type[Failure]) -> None:
    failure = cls("what failed", "what to do")
    assert isinstance(failure, Exit)
    assert failure.code == cls.exit_code
    assert failure.message == "error: what failed\n  fix: what to do"


def test_a_failure_without_hint() -> None:
    assert Failure("what failed").message == "error: what failed"


def test_quoted_output_does_not_change_the_terminal() -> None:
    failure = Failure("board: \x1b[2J\x1b[31mred\x1b[0m\r\x07 text\x00", "see \x1b]0;title\x07 it")
    assert failure.brief == "board: red text"
    assert not re.search("[\x00\x07\x1b]", str(failure))


def test_briefs_and_hints_are_one_line() -> None:
    failure = Failure("a\nb\t c", "d\n\n e")
    assert failure.message == "error: a b c\n  fix: d e"


def test_long_messages_are_shortened() -> None:
    failure = Failure(f"beginning {'x' * 100_000} end", "y" * 100_000)
    assert failure.brief.startswith("beginning ")
    assert failure.brief.endswith(" end")
    assert len(str(failure.message)) < 3000


def test_a_missing_requirement_names_the_tool() -> None:
    assert MissingRequirementError("no git", "install it", "git").tool == "git"
    assert MissingRequirementError("no memory").tool == ""


def test_launcher_uses_documented_codes() -> None:
    launcher = (project.ROOT / "invoke").read_text()
    codes = {int(code) for code in re.findall(r"\bfail (\d+)", launcher)}
    assert codes
    assert codes <= {cls.exit_code for cls in errors.documented()}
    assert Path(project.ROOT / "invoke").stat().st_mode & 0o111 == 0o111
