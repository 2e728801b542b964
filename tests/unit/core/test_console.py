from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path

import pytest

from buildkit_riscv64.core import console
from buildkit_riscv64.core.errors import UsageError


def test_lines_go_to_stderr_and_data_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    console.log("hello")
    console.emit_json({"name": "é"})
    output = capsys.readouterr()
    assert output.err == "hello\n"
    assert json.loads(output.out) == {"name": "é"}
    assert "é" in output.out


def test_a_closed_pipe_raises_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed(io.StringIO):
        def flush(self) -> None:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Closed())
    with pytest.raises(BrokenPipeError):
        console.emit_json({})


def test_warnings(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    console.warn("careful")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    console.warn("careful")
    assert capsys.readouterr().err == "warning: careful\n::warning::careful\n"


def test_workflow_commands_are_escaped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another line could be a workflow command."""
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    console.warn("100 %\r\n::add-mask::x")
    assert capsys.readouterr().err == "::warning::100 %25%0D%0A::add-mask::x\n"


def test_annotate_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    console.annotate_failure("it is broken", "fix it")
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    console.annotate_failure("it is broken", "fix it")
    console.annotate_failure("it is broken", "")
    reported = "::error::it is broken%0Afix: fix it\n::error::it is broken\n"
    assert capsys.readouterr().err == reported


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536, "1.5 KiB"), (1 << 20, "1.0 MiB"),
        ((1 << 20) - 1, "1.0 MiB"), ((1 << 30) - 4096, "1.0 GiB"), (1 << 30, "1.0 GiB"), (1 << 42, "4096.0 GiB"),
    ],
)  # fmt: skip
def test_size(number: int, text: str) -> None:
    assert console.size(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"), (2.44, "2.4 s"), (59.9, "59.9 s"), (60, "1 min 00 s"), (109, "1 min 49 s"),
        (3599.9, "1 h 00 min"), (3725, "1 h 02 min"),
    ],
)  # fmt: skip
def test_duration(seconds: float, text: str) -> None:
    assert console.duration(seconds) == text


def test_count() -> None:
    assert [console.count(n, "check") for n in (0, 1, 2)] == ["0 checks", "1 check", "2 checks"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("typed", "agreed"),
    [("\n", True), ("y\n", True), ("Yes\n", True), ("n\n", False), ("nope\n", False), ("", False), ("y", False)],
)  # fmt: skip
def test_confirm_asks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], typed: str, agreed: bool
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(typed))
    assert console.confirm("Sure?", yes=False) is agreed
    assert capsys.readouterr().err == "Sure? [Y/n] \n"


def test_confirm_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert console.confirm("Sure?", yes=False) is False


@pytest.mark.parametrize(
    ("ci", "agreed"),
    [
        *((word, True) for word in ("true", "1", "yes", "woodpecker", "GitLab")),
        *((word, False) for word in ("", "false", "False", "no", "off", "0")),
    ],
)
def test_confirm_in_ci(monkeypatch: pytest.MonkeyPatch, ci: str, agreed: bool) -> None:
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert console.confirm("Sure?", yes=False) is agreed
    assert console.confirm("Sure?", yes=True) is True


@pytest.mark.parametrize(
    ("typed", "agreed"),
    [
        ("y\n", True),
        (" YES \n", True),
        ("\n", False),
        ("n\n", False),
        ("nope\n", False),
        ("", False),
    ],
)
def test_require_confirmation(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], typed: str, agreed: bool
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(typed))
    with contextlib.nullcontext() if agreed else pytest.raises(UsageError, match="not confirmed"):
        console.require_confirmation("delete it", yes=False)
    assert capsys.readouterr().err == "delete it? [y/N] \n"


def test_require_confirmation_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    with pytest.raises(UsageError) as caught:
        console.require_confirmation("delete it", yes=False)
    assert "--yes" in caught.value.hint
    console.require_confirmation("delete it", yes=True)
    monkeypatch.setenv("CI", "true")
    console.require_confirmation("delete it", yes=False)


def test_step(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with console.step("work"):
        console.log("busy")
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["work …", "busy"]
    assert lines[2].startswith("work: ")


def test_a_failed_step_ends_its_group(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    with pytest.raises(ValueError, match="broken"), console.step("work"):
        raise ValueError("broken")
    assert capsys.readouterr().err == "::group::work\n::endgroup::\n"


def test_a_table_is_not_cut_off(capsys: pytest.CaptureFixture[str]) -> None:
    console.table(("file", "sha256"), [("[bold]name[/bold]", "f" * 64)])
    output = capsys.readouterr()
    assert "f" * 64 in output.err
    assert "[bold]name[/bold]" in output.err
    assert output.out == ""


def test_step_summary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    page = tmp_path / "page"
    console.step_summary("Title", ("a", "b"), [("1", "2")])
    assert not page.exists()
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(page))
    console.step_summary("Title", ("a", "b"), [("1", "2")])
    table = "### Title\n\n| a | b |\n| --- | --- |\n| 1 | 2 |\n\n"
    assert page.read_text() == table
    console.step_summary("Title", ("a", "b"), [("1", "2")])
    assert page.read_text() == table * 2


def test_a_table_with_a_title_is_in_the_step_summary(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(page))
    console.table(("a",), [("1",)])
    assert not page.exists()
    console.table(("a",), [("1",)], title="Title")
    assert page.read_text() == "### Title\n\n| a |\n| --- |\n| 1 |\n\n"
    assert "Title" not in capsys.readouterr().err


def test_cells_of_the_step_summary_are_escaped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    page = tmp_path / "page"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(page))
    console.step_summary("Title", ("a",), [("1 | 2\n| 3 |",)])
    assert page.read_text().splitlines()[4] == r"| 1 \| 2 \| 3 \| |"
    console.step_summary("Title", ("a",), [("\\\\| <b> [x](y) `z` &lt;",)])
    assert page.read_text().splitlines()[10] == r"| \\\\\| \<b\> \[x\](y) \`z\` \&lt; |"


def test_a_table_is_as_narrow_as_its_content(capsys: pytest.CaptureFixture[str]) -> None:
    console.table(("phase", "state"), [("binaries", "done"), ("image", "")])
    lines = [line.rstrip() for line in capsys.readouterr().err.splitlines()]
    assert lines == ["phase     state", "─" * 15, "binaries  done", "image", ""]


def test_colours_only_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    console.table(("", "state"), [("x", "FAIL")])
    assert "\x1b" not in capsys.readouterr().err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    console.table(("", "state"), [("x", "FAIL")])
    assert "\x1b[31mFAIL" in capsys.readouterr().err
    monkeypatch.setenv("NO_COLOR", "1")
    console.table(("", "state"), [("x", "FAIL")])
    assert "\x1b[31m" not in capsys.readouterr().err
