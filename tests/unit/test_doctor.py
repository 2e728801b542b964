from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any

import pytest

from buildkit_riscv64 import apt, doctor, host, project
from buildkit_riscv64.console import Status
from buildkit_riscv64.doctor import Phase, Seen
from buildkit_riscv64.errors import (
    DoctorError,
    Failure,
    UsageError,
)

from .making import Commands

GIB = 1 << 30


@pytest.mark.parametrize(
    ("machine", "execution", "status", "detail"),
    [
        ("riscv64", "native", "OK", "riscv64, native"),
        ("riscv64", "qemu-system", "OK", "riscv64, qemu-system"),
        ("riscv64", "qemu-user", "WARN", "riscv64, qemu-user"),
        ("x86_64", "native", "OK", "amd64, native: development builds only; riscv64 is what is released"),
        ("i686", "native", "FAIL", "machine architecture 'i686' is not supported"),
    ],
)  # fmt: skip
def test_architecture(monkeypatch: pytest.MonkeyPatch, on: Callable[[str], None], machine: str, execution: str, status: str, detail: str) -> None:  # fmt: skip
    on(machine)
    monkeypatch.setattr(host, "execution", lambda: host.Execution(execution))
    seen = doctor._architecture()
    assert (seen.status, seen.detail) == (status, detail)


@pytest.mark.parametrize(("year", "status"), [(1970, "FAIL"), (2026, "FAIL"), (2027, "OK")])
def test_clock(checkout: Path, monkeypatch: pytest.MonkeyPatch, year: int, status: str) -> None:
    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Clock:
            return cls(year, 1, 1, tzinfo=tz)

    monkeypatch.setattr(doctor, "datetime", Clock)
    seen = doctor._clock()
    assert seen.status == status
    assert f"{year}-01-01" in seen.detail


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[doctor.Check]:
    """A doctor with three checks; tests change what they see."""
    seen = {
        "good": Seen(Status.OK, "there"),
        "so-so": Seen(Status.WARN, "slow", "make it fast", "fast-package"),
        "other": Seen(Status.OK, "there"),
    }
    phases = {"good": Phase.BINARIES, "so-so": Phase.BINARIES, "other": Phase.IMAGE}
    made = [
        doctor.Check(name, frozenset({phases[name]}), f"why {name}", lambda name=name: seen[name])  # type: ignore[misc]
        for name in seen
    ]
    doctor.needed([])  # whatever registers itself has done so now
    monkeypatch.setattr(doctor, "CHECKS", made)
    return made


def replace_check(checks: list[doctor.Check], look: Callable[[], Seen]) -> None:
    checks[0] = doctor.Check("good", checks[0].phases, "why", look)


def run(phase: str = "", *, fix: bool = False, json: bool = False, dry: bool = False) -> None:
    doctor.main(phase, fix=fix, yes=True, json=json, dry=dry)


def test_every_check_says_why_and_for_whom() -> None:
    found = doctor.needed(Phase)
    assert len({check.name for check in found}) == len(found) > 40
    for check in found:
        assert check.phases
        assert check.why.endswith(".")


def test_what_several_need_is_looked_at_once(checks: list[doctor.Check]) -> None:
    image = frozenset({Phase.IMAGE})
    checks.append(doctor.Check("good", image, "why image", lambda: Seen(Status.WARN, "worse")))
    good, *others = doctor.examine([Phase.BINARIES, Phase.IMAGE])
    assert good.seen.detail == "there"
    assert good.check.phases == {Phase.BINARIES, Phase.IMAGE}
    assert [one.check.name for one in others] == ["so-so", "other"]
    (_, alone) = doctor.examine([Phase.IMAGE])
    assert alone.seen.detail == "worse"


def test_troubleshooting_names_the_checks_that_there_are() -> None:
    text = (project.ROOT / "docs/troubleshooting.md").read_text()
    named = {
        name
        for names in re.findall(r"checks? (`[^`]+`(?:(?:,| and) `[^`]+`)*)", text)
        for name in re.findall(r"`([^`]+)`", names)
    }
    # What users of riscv64, rootless and buildx's driver docker-container report most.
    assert named >= {
        "docker-init", "binfmt_misc", "seccomp", "overlayfs", "cgroups", "delegation",
        "user namespaces", "bootstrap", "runc", "memory", "clock",
    }  # fmt: skip
    assert named <= {one.name for one in doctor.needed(Phase)}


def test_a_warning_is_no_failure(checks: list[doctor.Check], capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    run()
    said = capsys.readouterr()
    assert "WARN so-so: slow\n  why: why so-so\n  fix: make it fast\n" in said.err
    assert said.out == ""


def test_a_failure_ends_with_12(checks: list[doctor.Check]) -> None:
    replace_check(checks, lambda: Seen(Status.FAIL, "gone", "get it"))
    with pytest.raises(DoctorError, match="this machine is not ready: good") as caught:
        run()
    assert caught.value.code == 12


def test_phase_narrows(checks: list[doctor.Check], capsys: pytest.CaptureFixture[str]) -> None:
    run("image", json=True)
    assert [finding["name"] for finding in json.loads(capsys.readouterr().out)] == ["other"]


@pytest.mark.parametrize("phase", ["none", "BINARIES", "binaries,image", " "])
def test_an_unknown_phase(checks: list[doctor.Check], phase: str) -> None:
    with pytest.raises(UsageError, match="no such phase"):
        run(phase)


def test_json(checks: list[doctor.Check], capsys: pytest.CaptureFixture[str]) -> None:
    replace_check(checks, lambda: Seen(Status.FAIL, "gone", "get it"))
    with pytest.raises(DoctorError):
        run("binaries", json=True)
    said = capsys.readouterr()
    findings: list[dict[str, Any]] = json.loads(said.out)
    assert said.err == ""
    assert [finding["status"] for finding in findings] == ["FAIL", "WARN"]
    assert findings[1].items() >= {
        "name": "so-so", "phases": ["binaries"], "why": "why so-so", "status": "WARN",
        "detail": "slow", "fix": "make it fast", "package": "fast-package",
    }.items()  # fmt: skip


@pytest.mark.parametrize(
    ("error", "status", "detail"),
    [
        (Failure("it broke", "mend it"), "FAIL", "it broke"),
        (PermissionError(13, "Permission denied", "/proc/x"), "WARN", "cannot be found out: "),
    ],
)
def test_a_check_that_breaks_is_a_finding(checks: list[doctor.Check], error: Exception, status: str, detail: str) -> None:  # fmt: skip
    def broken() -> Seen:
        raise error

    replace_check(checks, broken)
    first, *others = doctor.examine([Phase.BINARIES])
    assert first.seen.status == status
    assert first.seen.detail.startswith(detail)
    assert len(others) == 1


UPDATE = ["apt-get", "update", "--quiet"]


INSTALL = ["apt-get", "install", "--yes", "--quiet", "--no-install-recommends"]


def test_fix_installs_what_is_missing(checks: list[doctor.Check], installed: set[str], commands: Commands) -> None:  # fmt: skip
    replace_check(checks, lambda: Seen(Status.FAIL, "gone", "get it", "its-library a-package"))
    with pytest.raises(DoctorError):  # apt-get is only recorded, so it is still missing
        run(fix=True)
    assert commands.args == [UPDATE, [*INSTALL, "a-package", "fast-package", "its-library"]]
    for call in commands.calls:
        assert call.verb == "run"
        assert call.options["env"]["DEBIAN_FRONTEND"] == "noninteractive"
        assert call.options["dry"] is False


def test_fix_looks_again(checks: list[doctor.Check], installed: set[str], commands: Commands) -> None:  # fmt: skip
    replace_check(
        checks,
        lambda: (
            Seen(Status.OK, "there") if commands.calls else Seen(Status.FAIL, "", "", "package")
        ),
    )
    run(fix=True)
    assert [*INSTALL, "fast-package", "package"] in commands.args


def test_fix_dry(checks: list[doctor.Check], installed: set[str], commands: Commands) -> None:
    run(fix=True, dry=True)
    assert commands.args == [UPDATE, [*INSTALL, "fast-package"]]
    assert all(call.options["dry"] for call in commands.calls)


def test_nothing_to_fix(checks: list[doctor.Check], installed: set[str], commands: Commands) -> None:  # fmt: skip
    run("image", fix=True)
    assert commands.calls == []


@pytest.mark.parametrize(("user", "prefix"), [(0, []), (1000, ["sudo", "--preserve-env"])])
def test_what_no_package_mends_is_mended(
    checks: list[doctor.Check], installed: set[str], commands: Commands,
    monkeypatch: pytest.MonkeyPatch, user: int, prefix: list[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(os, "geteuid", lambda: user)

    def look() -> Seen:
        if "update-binfmts" not in installed:
            return Seen(Status.FAIL, "none", "", "binfmt-support")
        return Seen(Status.FAIL, "none", commands=(("mount", "x"), ("update-binfmts", "y")))

    def install(packages: list[str], *, yes: bool, dry: bool) -> bool:
        installed.add("update-binfmts")
        return packages == ["binfmt-support"]

    monkeypatch.setattr(apt, "install", install)
    checks.append(doctor.Check("emulators", frozenset({Phase.MACHINE}), "why", look))
    found = doctor.mend([Phase.MACHINE], yes=True)
    assert [call.args for call in commands.calls if call.verb == "run"] == [
        [*prefix, "mount", "x"], [*prefix, "update-binfmts", "y"],
    ]  # fmt: skip
    assert [one.check.name for one in found if one.seen.status is Status.FAIL] == ["emulators"]
