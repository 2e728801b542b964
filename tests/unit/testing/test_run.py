from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from buildkit_riscv64.binaries import c_toolchain, toolchain
from buildkit_riscv64.core import dry_run, process, project
from buildkit_riscv64.core.errors import CheckError, MissingRequirementError, UsageError
from buildkit_riscv64.system import apt
from buildkit_riscv64.testing import capabilities
from buildkit_riscv64.testing import run as testing
from buildkit_riscv64.testing.capabilities import BROWSER, TOOLS, Limits
from buildkit_riscv64.testing.run import Request, Totals, run

from ..factories import GO, Commands

NO_CAPS = "root lacks CAP_SYS_ADMIN"


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Set the limits of the host; none by default."""
    monkeypatch.delenv(capabilities.ANNOUNCED, raising=False)
    monkeypatch.setattr(capabilities, "needs_sudo", lambda _sessions: False)

    def lack(lacking: Mapping[str, str], sessions: Mapping[str, str] | None = None) -> None:
        found = Limits(lacking, sessions or {})
        monkeypatch.setattr(capabilities, "examine", lambda _sessions: found)

    lack({})
    return lack


@pytest.fixture
def installed_tools(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tools that would have been installed."""
    found: list[str] = []

    def provide(tools: Sequence[str], *, yes: bool) -> None:
        found.extend(tools)

    def ensure(_pins: object) -> toolchain.Go:
        found.append("Go")
        return GO

    monkeypatch.setattr(apt, "ensure_installed", provide)
    monkeypatch.setattr(c_toolchain, "ensure_installed", lambda *, yes: found.append("C"))
    monkeypatch.setattr(toolchain, "ensure", ensure)
    return found


@pytest.fixture
def counts(commands: Commands) -> Callable[..., None]:
    """Write the counts of tests and the report of nox."""

    def answer(*runs: dict[str, Any], code: int = 0, **sessions: str) -> None:
        def write(words: list[str]) -> None:
            env = commands.calls[-1].options["env"]
            with Path(env[capabilities.TALLY]).open("a") as tally:
                for one in runs:
                    tally.write(json.dumps({"outcomes": {}, "failed": [], "left_out": {}, "not_proven": 0, "seconds": 1, **one}) + "\n")  # fmt: skip
            report = {"sessions": [{"name": k, "result": v} for k, v in sessions.items()]}
            Path(words[-1]).write_text(json.dumps(report))

        commands.answer("nox", code=code, does=write)

    return answer


Limit = Callable[..., None]
Count = Callable[..., None]


@pytest.mark.parametrize(
    ("session", "chosen"),
    [("", capabilities.chosen("")), ("unit", ["unit"]), ("lint,unit", ["lint", "unit"])],
)
def test_run_starts_nox(
    commands: Commands, limits: Limit, installed_tools: list[str], session: str, chosen: list[str]
) -> None:
    run(Request(sessions=session))
    (call,) = commands.calls
    assert call.args[:-1] == [sys.executable, "-m", "nox", "--sessions", *chosen, "--report"]
    assert call.options["cwd"] == project.ROOT
    assert call.options["env"]["HOME"] == str(Path.home())


def test_tools_are_installed(commands: Commands, limits: Limit, installed_tools: list[str]) -> None:
    run(Request())
    assert installed_tools == [*TOOLS, BROWSER, "C", "Go"]


@pytest.mark.parametrize(("sessions", "tools"), [("unit,types", ["git"]), ("lint", ["git", "Go"])])
def test_tools_of_sessions_without_real_tests(
    commands: Commands, limits: Limit, installed_tools: list[str], sessions: str, tools: list[str]
) -> None:
    run(Request(sessions=sessions))
    assert installed_tools == tools


def test_tools_that_the_host_cannot_have_are_not_installed(
    commands: Commands, limits: Limit, installed_tools: list[str]
) -> None:
    limits(dict.fromkeys(("pages", "lintian", "c", "go"), NO_CAPS))
    run(Request())
    assert installed_tools == [name for name in TOOLS if name != "lintian"]


def test_limits_are_announced_first_and_passed_on(
    commands: Commands,
    limits: Limit,
    installed_tools: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limits({"daemons": NO_CAPS}, {"validate": NO_CAPS})
    passed_on: list[Any] = []

    def read(_words: list[str]) -> None:
        passed_on.append(json.loads(Path(commands.calls[-1].options["env"][capabilities.LIMITS]).read_text()))  # fmt: skip

    commands.answer("nox", does=read)
    monkeypatch.setattr(
        apt, "ensure_installed", lambda *_, yes: print("installing", file=sys.stderr)
    )
    run(Request())
    output = capsys.readouterr().err
    assert output.index(NO_CAPS) < output.index("installing")
    assert passed_on == [{"capabilities": {"daemons": NO_CAPS}, "sessions": {"validate": NO_CAPS}}]


def test_limits_are_announced_once(
    commands: Commands,
    limits: Limit,
    installed_tools: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(capabilities.ANNOUNCED, "1")
    limits({"daemons": NO_CAPS})
    run(Request())
    assert NO_CAPS not in capsys.readouterr().err


def test_all_fails_with_the_limits(
    commands: Commands,
    limits: Limit,
    installed_tools: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    limits({"daemons": NO_CAPS})
    with pytest.raises(MissingRequirementError, match="daemons") as caught:
        run(Request(all_=True))
    assert caught.value.code == 3
    assert NO_CAPS in capsys.readouterr().err
    assert (commands.calls, installed_tools) == ([], [])


def test_a_host_that_can_run_no_session(
    commands: Commands, limits: Limit, installed_tools: list[str]
) -> None:
    limits({"daemons": NO_CAPS}, {"validate": NO_CAPS})
    with pytest.raises(MissingRequirementError):
        run(Request(sessions="validate"))
    assert (commands.calls, installed_tools) == ([], [])


def test_counts(
    commands: Commands,
    limits: Limit,
    installed_tools: list[str],
    counts: Count,
    capsys: pytest.CaptureFixture[str],
) -> None:
    limits({"daemons": NO_CAPS}, {"validate": NO_CAPS, "lint: actionlint": "no Go"})
    counts(
        {"outcomes": {"passed": 100}, "left_out": {NO_CAPS: 20, "no Go": 3}, "seconds": 61.5},
        {"outcomes": {"passed": 11}, "not_proven": 7}, {"left_out": {NO_CAPS: 151}},
        lint="success", tests="success", validate="skipped",
    )  # fmt: skip
    run(Request())
    output = capsys.readouterr().err
    assert "ran: 111 passed\n" in output
    assert "not run here: 174 tests" in output
    assert f"  171: {NO_CAPS}\n" in output
    assert "  3: no Go\n" in output
    assert "7 scenarios" in output
    assert "sessions success: lint, tests\n" in output
    assert "sessions skipped: validate\n" in output
    assert output.splitlines()[-1].strip("= ") == "111 passed, 174 deselected in 63.50s (0:01:04)"


def test_counts_after_a_failure(
    commands: Commands,
    limits: Limit,
    installed_tools: list[str],
    counts: Count,
    capsys: pytest.CaptureFixture[str],
) -> None:
    counts(
        {"outcomes": {"failed": 1, "passed": 5, "error": 2}, "failed": ["test_a.py::test_it"]},
        code=1,
        tests="failed",
    )
    with pytest.raises(CheckError):
        run(Request())
    output = capsys.readouterr().err
    assert "ran: 1 failed, 5 passed, 2 error\n" in output
    assert "sessions failed: tests\nfailed: test_a.py::test_it\n" in output
    assert output.splitlines()[-1].strip("= ").startswith("1 failed, 5 passed, 2 error in")


def test_with_all_a_skipped_test_fails(
    commands: Commands, limits: Limit, installed_tools: list[str], counts: Count
) -> None:
    counts({"outcomes": {"passed": 5}, "left_out": {"not today": 1}})
    run(Request())
    with pytest.raises(CheckError, match=r"--all.*\b1\b"):
        run(Request(all_=True))


def test_counts_when_nox_ends_early(
    commands: Commands,
    limits: Limit,
    installed_tools: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    commands.answer("nox", code=2)
    with pytest.raises(CheckError):
        run(Request())
    assert "no tests ran" in capsys.readouterr().err


def test_an_interrupted_run_has_no_counts(
    commands: Commands,
    limits: Limit,
    installed_tools: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """pytest has not counted the interrupted run."""

    def interrupt(_words: list[str]) -> None:
        raise KeyboardInterrupt

    commands.answer("nox", does=interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(Request())
    assert "ran:" not in capsys.readouterr().err


def test_no_such_session(commands: Commands, limits: Limit, installed_tools: list[str]) -> None:
    with pytest.raises(UsageError):
        run(Request(sessions="units"))
    assert (commands.calls, installed_tools) == ([], [])


def test_a_dry_run_examines_and_installs_nothing(
    commands: Commands, installed_tools: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capabilities, "examine", lambda _sessions: pytest.fail("examined"))
    monkeypatch.setattr(dry_run, "active", lambda: True)
    run(Request())
    assert installed_tools == []
    # Under --dry, `process.run` only prints.
    assert [call.args for call in commands.calls] == [
        [sys.executable, "-m", "nox", "--sessions", *capabilities.chosen("")]
    ]


def test_a_user_with_sudo_becomes_root(
    commands: Commands, limits: Limit, installed_tools: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced: list[list[str]] = []

    def replace(args: list[str]) -> None:
        replaced.append(args)
        raise SystemExit

    monkeypatch.setattr(process, "replace", replace)
    monkeypatch.setattr(capabilities, "needs_sudo", lambda _sessions: True)
    with pytest.raises(SystemExit):
        run(Request(sessions="tests,lint", all_=True, yes=True))
    ((sudo, *words),) = replaced
    assert sudo == "sudo"
    assert words[-6:] == ["-m", "buildkit_riscv64", "test", "--session=tests,lint", "--all", "--yes"]  # fmt: skip
    assert installed_tools == []


# Files of root.


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch, checkout: Path) -> dict[str, tuple[int, int]]:
    """The files with a changed owner, in a checkout of user 1000 with files of root."""
    found: dict[str, tuple[int, int]] = {}

    def chown(path: Path, user: int, group: int, *, follow_symlinks: bool) -> None:
        assert not follow_symlinks
        found[str(path.relative_to(checkout))] = (user, group)

    stat, lstat = Path.stat, Path.lstat

    def owned(real: Callable[[Path], os.stat_result], owner: int) -> Callable[..., os.stat_result]:
        def seen(path: Path, **_: Any) -> os.stat_result:
            return os.stat_result([*list(real(path))[:4], owner, owner, *list(real(path))[6:10]])

        return seen

    monkeypatch.setattr(Path, "stat", owned(stat, 1000))
    monkeypatch.setattr(Path, "lstat", owned(lstat, 0))
    monkeypatch.setattr(os, "chown", chown)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return found


@pytest.mark.parametrize(("user", "owner"), [("1000", (1000, 100)), ("1001", None), ("", None)])
def test_files_of_root_are_given_back(
    given: dict[str, tuple[int, int]],
    monkeypatch: pytest.MonkeyPatch,
    user: str,
    owner: tuple[int, int] | None,
) -> None:
    monkeypatch.setenv("SUDO_UID", user)
    monkeypatch.setenv("SUDO_GID", "100")
    with pytest.raises(KeyboardInterrupt), testing._ownership_kept():
        raise KeyboardInterrupt
    assert set(given.values()) == ({owner} if owner else set())


def test_no_runs() -> None:
    assert Totals.read(Path("/nonexistent")).closing_line().strip("= ").startswith("no tests ran")
