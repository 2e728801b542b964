from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from buildkit_riscv64 import nox
from buildkit_riscv64.core import process, project
from buildkit_riscv64.core.errors import MissingRequirementError, UsageError
from buildkit_riscv64.system import apt, host_checks
from buildkit_riscv64.testing import capabilities
from buildkit_riscv64.testing.capabilities import (
    CAPABILITIES,
    MARKS,
    SESSIONS,
    Capability,
    Limits,
    Session,
)

Lack = Callable[..., None]


@pytest.fixture
def lack(monkeypatch: pytest.MonkeyPatch) -> Lack:
    """Replace the table: the error and the needs of each capability, by name."""

    def replace(**errors: tuple[str, ...]) -> None:
        table = {
            name: Capability(name, f"the {name}", lambda error=error: error, tuple(needs))  # type: ignore[misc]
            for name, (error, *needs) in errors.items()
        }
        monkeypatch.setattr(capabilities, "CAPABILITIES", table)

    return replace


# The table.


def test_every_need_is_known() -> None:
    needs = [need for one in CAPABILITIES.values() for need in one.needs]
    needs += [need for one in SESSIONS.values() for need in one.needs]
    needs += [need for names in MARKS.values() for need in names]
    assert not [need for need in needs if not capabilities.is_known(need)]


def test_every_session_of_nox_is_in_the_table() -> None:
    sessions = {name: function.default for name, function in nox.sessions().items()}
    assert sessions == {name: one.default for name, one in SESSIONS.items() if ":" not in name}


def test_every_mark_of_the_table_is_declared() -> None:
    declared = (project.ROOT / "pyproject.toml").read_text()
    assert all(f'\n    "{mark}: ' in declared for mark in MARKS)


# Missing capabilities.


def test_a_host_without_limits(lack: Lack) -> None:
    lack(one=("",), two=("", "one"))
    assert capabilities.missing(["one", "two"]) == {}


def test_a_missing_need_is_the_reason(lack: Lack) -> None:
    lack(one=("no caps",), two=("", "one"), three=("its own reason", "two"), four=("",))
    assert capabilities.missing(["three", "four", "two"]) == {
        "three": "no caps", "two": "no caps"
    }  # fmt: skip


def test_installable_tools_are_not_missing(
    installed: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apt, "install_error", lambda _package="": "")
    assert capabilities.missing(["rsync"]) == {}


def test_other_tools_are_missing(installed: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apt, "install_error", lambda _package="": "sudo is not installed")
    installed.add("git")
    assert capabilities.missing(["git", "rsync"]) == {
        "rsync": "rsync: not installed, and sudo is not installed"
    }


def test_checks_that_need_the_environment_are_skipped_without_it(
    lack: Lack, monkeypatch: pytest.MonkeyPatch
) -> None:
    def needs_the_environment() -> str:
        raise ModuleNotFoundError

    monkeypatch.setattr(
        capabilities, "CAPABILITIES", {"one": Capability("one", "", needs_the_environment)}
    )
    assert capabilities.missing(["one"]) == {}


@pytest.mark.parametrize(
    ("codes", "limited"), [([0], False), ([1], True), ([124, 0], False), ([124, 124], True)]
)
def test_slow_answer(monkeypatch: pytest.MonkeyPatch, codes: list[int], limited: bool) -> None:
    """A server gets a second, longer chance after a timeout, and only then."""
    timeouts: list[float] = []

    def probe(_args: object, *, timeout: float, **_: object) -> process.Result:
        timeouts.append(timeout)
        return process.Result(codes[len(timeouts) - 1], "", "no answer")

    monkeypatch.setattr(process, "probe", probe)
    monkeypatch.setattr(project, "ROOT", project.ROOT / "without-environments")
    assert bool(capabilities._index()) is limited
    assert timeouts == sorted(set(timeouts))
    assert len(timeouts) == len(codes)


def test_limits_of_an_architecture(
    on: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(capabilities.LIMITS, raising=False)
    on("riscv64")
    capabilities.load.cache_clear()
    limits = capabilities.load()
    capabilities.load.cache_clear()
    assert limits.capabilities.keys() == {"wheels", "pages", "machine"}
    assert limits.sessions.keys() == {"docs", "lint: shellcheck", "riscv64"}
    on("vax")
    assert not capabilities.load()
    capabilities.load.cache_clear()


def test_limits_of_sessions(lack: Lack, monkeypatch: pytest.MonkeyPatch) -> None:
    lack(one=("no caps",), two=("",))
    sessions = {
        "lint": Session(), "lint: step": Session(("two", "one")), "docs": Session(("two",)),
        "other": Session(("one",)),
    }  # fmt: skip
    monkeypatch.setattr(capabilities, "SESSIONS", sessions)
    limits = capabilities.examine(["lint", "docs"])
    assert limits == Limits({"one": "no caps"}, {"lint: step": "no caps"})
    assert not capabilities.examine(["docs"])


def test_sessions_with_real_tests_need_every_capability(
    lack: Lack, monkeypatch: pytest.MonkeyPatch
) -> None:
    lack(one=("no caps",))
    monkeypatch.setattr(capabilities, "MARKS", {})
    monkeypatch.setattr(capabilities, "TOOLS", ())
    monkeypatch.setattr(capabilities, "SESSIONS", {"tests": Session(real=True)})
    assert capabilities.examine(["tests"]) == Limits({"one": "no caps"}, {})


def test_limits_are_passed_on_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits({"one": "no caps"}, {"docs": "no caps"})
    limits.write(tmp_path / "limits")
    monkeypatch.setenv(capabilities.LIMITS, str(tmp_path / "limits"))
    capabilities.load.cache_clear()
    assert capabilities.load() == limits
    capabilities.load.cache_clear()


# Sessions by name.


def test_default_sessions() -> None:
    assert capabilities.chosen("") == ["lint", "docs", "types", "tests", "walkthrough", "validate"]


def test_named_sessions() -> None:
    assert capabilities.chosen("unit, lint") == ["unit", "lint"]


@pytest.mark.parametrize("names", ["units", "lint,", "lint: shellcheck"])
def test_no_such_session(names: str) -> None:
    with pytest.raises(UsageError, match="no session"):
        capabilities.chosen(names)


# Messages.


def test_announce(lack: Lack, capsys: pytest.CaptureFixture[str]) -> None:
    lack(one=("",), two=("",))
    reason = "rsync: not installed, and sudo is not installed"
    capabilities.announce(
        Limits({"one": "no caps", "two": "no caps", "rsync": reason}, {"docs": "no caps"})
    )
    output = capsys.readouterr().err
    assert output.count("no caps") == 1
    for word in ("the one", "the two", "rsync", "sudo is not installed", "docs", "--all"):
        assert word in output


def test_announce_without_limits(capsys: pytest.CaptureFixture[str]) -> None:
    capabilities.announce(Limits())
    assert "every test" in capsys.readouterr().err
    capabilities.refuse(Limits())


def test_refuse(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(MissingRequirementError, match="daemons, systemd"):
        capabilities.refuse(Limits({"daemons": "no caps", "systemd": "no caps"}, {}))


# Without an environment.


def test_the_module_needs_only_the_standard_library() -> None:
    program = f"import sys; sys.path[:0] = [{str(project.ROOT)!r}]; from buildkit_riscv64.testing import capabilities"
    program += "; from buildkit_riscv64.core.errors import UsageError; error = UsageError('a', 'b'); print(error.code, error.message)"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-B", "-c", program],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "2 error: a\n  fix: b\n"), done.stderr


@pytest.fixture
def examined(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The examined sessions, on a host with a missing capability."""
    found: list[list[str]] = []

    def examine(sessions: list[str]) -> Limits:
        found.append(sessions)
        return Limits({"daemons": "no caps"}, {})

    monkeypatch.setattr(capabilities, "examine", examine)
    monkeypatch.setattr(capabilities, "needs_sudo", lambda _sessions: False)
    return found


@pytest.mark.parametrize("words", [("--session", "unit,lint"), ("--session=unit,lint",)])
def test_main(
    examined: list[list[str]], words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    capabilities.main(["test", "--yes", *words])
    assert examined == [["unit", "lint"]]
    assert "no caps" in capsys.readouterr().err


def test_main_with_all(examined: list[list[str]]) -> None:
    with pytest.raises(MissingRequirementError):
        capabilities.main(["test", "--all"])


def test_main_with_sudo(examined: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    replaced: list[list[str]] = []

    def replace(args: list[str]) -> None:
        replaced.append(args)
        raise SystemExit

    monkeypatch.setattr(process, "replace", replace)
    monkeypatch.setattr(capabilities, "needs_sudo", lambda sessions: "tests" in sessions)
    monkeypatch.setenv("XDG_CACHE_HOME", "/home/user/cache")
    with pytest.raises(SystemExit):
        capabilities.main(["test", "--yes"])
    ((sudo, preserve, env, *words),) = replaced
    assert (sudo, preserve, env) == ("sudo", "--preserve-env", "env")
    assert {"--unset=XDG_CACHE_HOME", "HOME=/root", "USER=root"} <= set(words)
    assert words[-4:] == ["-m", capabilities.__name__, "test", "--yes"]
    assert examined == []


@pytest.mark.parametrize(
    ("user", "sudo", "sessions", "needed"),
    [
        (1000, "", ["tests"], True), (1000, "sudo is not installed", ["tests"], False),
        (1000, "", ["lint", "unit"], False), (0, "", ["tests"], False),
    ],
)  # fmt: skip
def test_sudo_only_for_tests_as_root(
    monkeypatch: pytest.MonkeyPatch, user: int, sudo: str, sessions: list[str], needed: bool
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setattr(host_checks, "sudo_error", lambda: sudo)
    assert capabilities.needs_sudo(sessions) is needed


def test_write(tmp_path: Path) -> None:
    Limits({"a": "b"}, {}).write(tmp_path / "limits")
    assert json.loads((tmp_path / "limits").read_text()) == {
        "capabilities": {"a": "b"}, "sessions": {}
    }  # fmt: skip
