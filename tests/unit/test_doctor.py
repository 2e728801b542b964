from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from datetime import datetime, tzinfo
from pathlib import Path

import pytest

from buildkit_riscv64 import doctor
from buildkit_riscv64.core import dry_run, host, project
from buildkit_riscv64.core.console import Status
from buildkit_riscv64.core.errors import DoctorError, Failure, UsageError
from buildkit_riscv64.system import apt
from buildkit_riscv64.system import checks as registry
from buildkit_riscv64.system.checks import CheckResult, Phase
from buildkit_riscv64.testing import capabilities

from .factories import Commands

GIB = 1 << 30


@pytest.mark.parametrize(
    ("machine", "execution", "status", "detail"),
    [
        ("riscv64", "native", "OK", "riscv64, native"),
        ("riscv64", "qemu-system", "OK", "riscv64, qemu-system"),
        ("riscv64", "qemu-user", "WARN", "riscv64, qemu-user"),
        ("x86_64", "native", "OK", "amd64, native"),
        ("i686", "native", "FAIL", "'i686'"),
    ],
)
def test_architecture(
    monkeypatch: pytest.MonkeyPatch,
    on: Callable[[str], None],
    machine: str,
    execution: str,
    status: str,
    detail: str,
) -> None:
    on(machine)
    monkeypatch.setattr(host, "execution", lambda: host.Execution(execution))
    result = registry._architecture()
    assert result.status == status
    assert detail in result.detail


@pytest.mark.parametrize(("year", "status"), [(1970, "FAIL"), (2026, "FAIL"), (2027, "OK")])
def test_clock(checkout: Path, monkeypatch: pytest.MonkeyPatch, year: int, status: str) -> None:
    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Clock:
            return cls(year, 1, 1, tzinfo=tz)

    monkeypatch.setattr(registry, "datetime", Clock)
    result = registry._clock()
    assert result.status == status
    assert f"{year}-01-01" in result.detail


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[registry.Check]:
    """A doctor with three checks."""
    results = {
        "good": CheckResult(Status.OK, "there"),
        "so-so": CheckResult(Status.WARN, "slow", "make it fast", "fast-package"),
        "other": CheckResult(Status.OK, "there"),
    }
    phases = {"good": Phase.BINARIES, "so-so": Phase.BINARIES, "other": Phase.IMAGE}
    fakes = [
        registry.Check(name, frozenset({phases[name]}), f"why {name}", lambda name=name: results[name])  # type: ignore[misc]
        for name in results
    ]  # fmt: skip
    monkeypatch.setattr(registry, "CHECKS", fakes)
    return fakes


def replace_check(checks: list[registry.Check], look: Callable[[], CheckResult]) -> None:
    checks[0] = registry.Check("good", checks[0].phases, "why", look)


def run(phase: str = "", *, fix: bool = False, json: bool = False) -> None:
    doctor.main(phase, fix=fix, yes=True, json=json)


def test_every_check_has_a_reason_and_phases() -> None:
    found = registry.needed(Phase)
    assert len({check.name for check in found}) == len(found) > 40
    for check in found:
        assert check.phases
        assert check.why.endswith(".")


def test_a_check_of_several_phases_runs_once(checks: list[registry.Check]) -> None:
    image = frozenset({Phase.IMAGE})
    checks.append(
        registry.Check("good", image, "why image", lambda: CheckResult(Status.WARN, "worse"))
    )
    good, *others = registry.examine([Phase.BINARIES, Phase.IMAGE])
    assert good.seen.detail == "there"
    assert good.check.phases == {Phase.BINARIES, Phase.IMAGE}
    assert [one.check.name for one in others] == ["so-so", "other"]
    (_, alone) = registry.examine([Phase.IMAGE])
    assert alone.seen.detail == "worse"


def test_troubleshooting_names_existing_checks() -> None:
    text = (project.ROOT / "docs/troubleshooting.md").read_text()
    named = {
        name
        for names in re.findall(r"checks? (`[^`]+`(?:(?:,| and) `[^`]+`)*)", text)
        for name in re.findall(r"`([^`]+)`", names)
    }
    # Checks for the most frequent reports of users.
    assert named >= {
        "docker-init", "binfmt_misc", "seccomp", "overlayfs", "cgroups", "delegation",
        "user namespaces", "bootstrap", "runc", "memory", "clock",
    }  # fmt: skip
    assert named <= {one.name for one in registry.needed(Phase)}


def test_warnings_do_not_fail(
    checks: list[registry.Check], capsys: pytest.CaptureFixture[str]
) -> None:
    run()
    output = capsys.readouterr()
    assert "WARN so-so: slow\n  why: why so-so\n  fix: make it fast\n" in output.err
    assert output.out == ""


def test_a_failure_has_exit_code_12(checks: list[registry.Check]) -> None:
    replace_check(checks, lambda: CheckResult(Status.FAIL, "gone", "get it"))
    with pytest.raises(DoctorError, match="good") as caught:
        run()
    assert caught.value.code == 12


def test_phase(checks: list[registry.Check], capsys: pytest.CaptureFixture[str]) -> None:
    run("image", json=True)
    found = json.loads(capsys.readouterr().out)
    assert [(one["kind"], one["name"]) for one in found] == [("verdict", "image"), ("check", "other")]  # fmt: skip


def shown(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The output without blank lines."""
    return [line for line in capsys.readouterr().err.splitlines() if line.strip()]


def test_order_of_the_output(
    checks: list[registry.Check], capsys: pytest.CaptureFixture[str]
) -> None:
    checks.append(registry.Check("last", frozenset({Phase.IMAGE}), "why", lambda: CheckResult(Status.FAIL, "gone", "get it")))  # fmt: skip
    with pytest.raises(DoctorError):
        run()
    lines = shown(capsys)
    assert lines[0] == "ready for: binaries, validation, automation"
    assert lines[1] == "not ready for: image"
    assert [line.split()[0] for line in lines[2:8]] == [
        "FAIL",
        "why:",
        "fix:",
        "WARN",
        "why:",
        "fix:",
    ]
    rest = [line.split()[0] for line in lines[9:]]
    assert rest[-2:] == ["good", "other"]


def test_a_machine_that_is_not_ready(
    checks: list[registry.Check], capsys: pytest.CaptureFixture[str]
) -> None:
    replace_check(checks, lambda: CheckResult(Status.FAIL, "gone", "get it"))
    with pytest.raises(DoctorError):
        run("binaries")
    assert shown(capsys)[0] == "not ready for: binaries"


def test_checks_of_the_phase_test() -> None:
    usual = {one.name for one in registry.needed(doctor.DEFAULT_PHASES)}
    tests = {one.name for one in registry.needed([Phase.TEST])}
    assert tests >= {*capabilities.TOOLS, "browser", "C compiler", "go"}
    assert not usual & {"lintian", "rpmlint", "cpio", "dnf", "sshd", "browser", "mke2fs"}


@pytest.mark.parametrize("phase", ["none", "BINARIES", "binaries,image", " "])
def test_an_unknown_phase(checks: list[registry.Check], phase: str) -> None:
    with pytest.raises(UsageError, match="--phase"):
        run(phase)


def test_json(checks: list[registry.Check], capsys: pytest.CaptureFixture[str]) -> None:
    replace_check(checks, lambda: CheckResult(Status.FAIL, "gone", "get it"))
    with pytest.raises(DoctorError):
        run("binaries", json=True)
    output = capsys.readouterr()
    verdict, *findings = json.loads(output.out)
    assert output.err == ""
    assert verdict.items() >= {
        "kind": "verdict", "name": "binaries", "phases": ["binaries"], "status": "FAIL",
        "detail": "not ready: good",
    }.items()  # fmt: skip
    assert verdict.keys() == findings[0].keys(), "a script that reads findings reads verdicts"
    assert [finding["status"] for finding in findings] == ["FAIL", "WARN"]
    assert findings[1].items() >= {
        "name": "so-so", "phases": ["binaries"], "why": "why so-so", "status": "WARN",
        "detail": "slow", "fix": "make it fast", "package": "fast-package",
    }.items()  # fmt: skip


@pytest.mark.parametrize(
    ("error", "status", "detail"),
    [
        (Failure("it broke", "fix it"), "FAIL", "it broke"),
        (PermissionError(13, "Permission denied", "/proc/x"), "WARN", "/proc/x"),
    ],
)
def test_a_failing_check_is_a_finding(
    checks: list[registry.Check], error: Exception, status: str, detail: str
) -> None:
    def broken() -> CheckResult:
        raise error

    replace_check(checks, broken)
    first, *others = registry.examine([Phase.BINARIES])
    assert first.seen.status == status
    assert detail in first.seen.detail
    assert len(others) == 1


UPDATE = ["apt-get", "update", "--quiet"]


INSTALL = ["apt-get", "install", "--yes", "--quiet", "--no-install-recommends"]


def test_fix_installs_packages(
    checks: list[registry.Check], installed: set[str], commands: Commands
) -> None:
    replace_check(
        checks, lambda: CheckResult(Status.FAIL, "gone", "get it", "its-library a-package")
    )
    with pytest.raises(DoctorError):  # the fake apt-get installs nothing
        run(fix=True)
    assert commands.args == [UPDATE, [*INSTALL, "a-package", "fast-package", "its-library"]]
    for call in commands.calls:
        assert call.verb == "run"
        assert call.options["env"]["DEBIAN_FRONTEND"] == "noninteractive"


def test_fix_checks_again(
    checks: list[registry.Check], installed: set[str], commands: Commands
) -> None:
    replace_check(
        checks,
        lambda: (
            CheckResult(Status.OK, "there")
            if commands.calls
            else CheckResult(Status.FAIL, "", "", "package")
        ),
    )
    run(fix=True)
    assert [*INSTALL, "fast-package", "package"] in commands.args


def test_fix_dry(
    checks: list[registry.Check],
    installed: set[str],
    commands: Commands,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(apt, "confirm", lambda *_a, **_o: pytest.fail("asked"))
    with dry_run.running(dry=True):
        doctor.main("", fix=True, yes=False, json=False)
    # Under --dry, `process.run` only prints.
    assert [(call.verb, call.args) for call in commands.calls] == [
        ("run", UPDATE),
        ("run", [*INSTALL, "fast-package"]),
    ]


def test_nothing_to_fix(
    checks: list[registry.Check], installed: set[str], commands: Commands
) -> None:
    run("image", fix=True)
    assert commands.calls == []


@pytest.mark.parametrize(("user", "prefix"), [(0, []), (1000, ["sudo", "--preserve-env"])])
def test_a_fix_without_a_package(
    checks: list[registry.Check],
    installed: set[str],
    commands: Commands,
    monkeypatch: pytest.MonkeyPatch,
    user: int,
    prefix: list[str],
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)

    def look() -> CheckResult:
        if "update-binfmts" not in installed:
            return CheckResult(Status.FAIL, "none", "", "binfmt-support")
        return CheckResult(Status.FAIL, "none", commands=(("mount", "x"), ("update-binfmts", "y")))

    def install(packages: list[str], *, yes: bool) -> bool:
        installed.add("update-binfmts")
        return packages == ["binfmt-support"]

    monkeypatch.setattr(apt, "install", install)
    checks.append(registry.Check("emulators", frozenset({Phase.MACHINE}), "why", look))
    found = registry.apply_fixes([Phase.MACHINE], yes=True)
    assert [call.args for call in commands.calls if call.verb == "run"] == [
        [*prefix, "mount", "x"], [*prefix, "update-binfmts", "y"],
    ]  # fmt: skip
    assert [one.check.name for one in found if one.seen.status is Status.FAIL] == ["emulators"]
