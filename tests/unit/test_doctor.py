from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any

import pytest

from buildkit_riscv64 import doctor, host, process, project
from buildkit_riscv64.binaries import toolchain
from buildkit_riscv64.console import Status
from buildkit_riscv64.doctor import Phase, Seen
from buildkit_riscv64.errors import (
    DoctorError,
    Failure,
    MissingRequirementError,
    UsageError,
)

from .making import Commands, elf

GIB = 1 << 30


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The commands that are there."""
    there: set[str] = {"apt-get", "sudo"}
    monkeypatch.setattr(process, "which", lambda name: Path("/usr/bin", name) if name in there else None)  # fmt: skip
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return there


def fake_file(monkeypatch: pytest.MonkeyPatch, files: dict[str, str]) -> None:
    """The kernel's files; none but these."""
    monkeypatch.setattr(Path, "exists", lambda self: str(self) in files)

    def read(self: Path) -> str:
        if str(self) not in files:
            raise FileNotFoundError(2, "No such file or directory", str(self))
        return files[str(self)]

    monkeypatch.setattr(Path, "read_text", read)


# What each check sees.


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


def test_git(installed: set[str], commands: Commands) -> None:
    assert doctor._git() == Seen(Status.FAIL, "not installed", "apt-get install git", "git")
    installed.add("git")
    commands.answer("git", "--version", stdout="git version 2.47\nmore\n")
    assert doctor._git() == Seen(Status.OK, "git version 2.47")
    assert commands.args == [["git", "--version"]]


def test_make_is_only_for_those_who_want_it(installed: set[str]) -> None:
    assert doctor._make() == Seen(Status.WARN, "not installed", "apt-get install make", "make")


@pytest.mark.parametrize(
    ("versions", "status", "detail"),
    [
        ([], "FAIL", "not installed"),
        (["go1.26.10"], "OK", "go1.26.10, the pinned one, at /go0"),
        (["go1.19", "go1.26.10"], "OK", "go1.26.10, the pinned one, at /go1"),
        (["go1.19"], "OK", "go1.19; a build fetches the pinned go1.26.10 with it"),
        (["go1.27-devel_abc"], "OK", "go1.27-devel_abc; a build fetches the pinned go1.26.10 with it"),
        (["go1.15.15"], "FAIL", "go1.15.15 is too old to fetch go1.26.10"),
        (["go1.15.15", "go1.21.0"], "OK", "go1.21.0; a build fetches the pinned go1.26.10 with it"),
    ],
)  # fmt: skip
def test_go(checkout: Path, monkeypatch: pytest.MonkeyPatch, versions: list[str], status: str, detail: str) -> None:  # fmt: skip
    found = [toolchain.Go(Path(f"/go{n}"), v, "system") for n, v in enumerate(versions)]
    monkeypatch.setattr(toolchain, "candidates", lambda _pins: iter(found))
    seen = doctor._go()
    assert (seen.status, seen.detail) == (status, detail)
    assert (seen.package == "golang-go") is (status == "FAIL")


@pytest.mark.parametrize(
    ("available", "status"), [(GIB, "FAIL"), (2 * GIB, "WARN"), (3 * GIB, "OK"), (64 * GIB, "OK")]
)
def test_memory(monkeypatch: pytest.MonkeyPatch, available: int, status: str) -> None:
    amounts = {"MemTotal": 64 * GIB, "MemAvailable": available}
    monkeypatch.setattr(host, "memory_bytes", lambda field="MemTotal": amounts[field])
    monkeypatch.setattr(host, "cpus", lambda: 8)
    seen = doctor._memory()
    assert seen.status == status
    assert seen.detail.startswith("64.0 GiB, ")
    assert seen.detail.endswith(" of it available, 8 processors")


@pytest.mark.parametrize(
    ("checkout_free", "home_free", "status"),
    [(GIB // 2, 9 * GIB, "FAIL"), (9 * GIB, GIB // 2, "FAIL"), (9 * GIB, 2 * GIB, "WARN"), (9 * GIB, 9 * GIB, "OK")],
)  # fmt: skip
def test_disk(monkeypatch: pytest.MonkeyPatch, checkout_free: int, home_free: int, status: str) -> None:  # fmt: skip
    monkeypatch.setattr(host, "free_bytes", lambda path: checkout_free if path == project.DIST else home_free)  # fmt: skip
    assert doctor._disk().status == status


def test_dist(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []

    def access(path: Path, _mode: int) -> bool:
        asked.append(path)
        return len(asked) < 3

    monkeypatch.setattr(os, "access", access)
    assert doctor._dist().status is Status.OK
    project.DIST.mkdir()
    assert doctor._dist().status is Status.OK
    assert doctor._dist().status is Status.FAIL
    assert asked == [project.ROOT, project.DIST, project.DIST]


def test_docker(installed: set[str], commands: Commands) -> None:
    seen = doctor._docker()
    assert (seen.status, seen.package) == (Status.WARN, "docker.io docker-cli docker-buildx")
    installed.add("docker")
    commands.answer("docker", "version", code=1, stderr="Cannot connect to the Docker daemon")
    seen = doctor._docker()
    assert (seen.status, seen.detail) == (
        Status.WARN, "no engine answers: Cannot connect to the Docker daemon",
    )  # fmt: skip
    commands.answer("docker", "version", stdout="28.0\n")
    assert doctor._docker() == Seen(Status.OK, "engine 28.0")
    assert commands.args[-2:] == [
        ["docker", "version", "--format", "{{.Server.Version}}"], ["docker", "buildx", "version"],
    ]  # fmt: skip
    commands.answer("docker", "buildx", code=1)
    seen = doctor._docker()
    assert (seen.status, seen.detail, seen.package) == (
        Status.WARN, "engine 28.0, without buildx", "docker-buildx",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("known", "config", "status"),
    [("nodev overlay", "", "OK"), ("ext4", "m", "OK"), ("ext4", "?", "OK"), ("ext4", "", "WARN")],
)
def test_overlay(monkeypatch: pytest.MonkeyPatch, known: str, config: str, status: str) -> None:
    fake_file(monkeypatch, {"/proc/filesystems": known})
    monkeypatch.setattr(doctor, "_kernel_config", lambda _option: config)
    assert doctor._overlay().status == status


@pytest.mark.parametrize(
    ("files", "status"),
    [
        ({"/proc/self/status": "Seccomp_filters:\t0"}, "OK"),
        ({"/proc/self/status": "", "/proc/sys/kernel/seccomp": ""}, "OK"),
        ({"/proc/self/status": "Name: python"}, "WARN"),
    ],
)
def test_seccomp(monkeypatch: pytest.MonkeyPatch, files: dict[str, str], status: str) -> None:
    fake_file(monkeypatch, files)
    assert doctor._seccomp().status == status


@pytest.mark.parametrize(
    ("files", "status", "detail"),
    [
        ({"/sys/fs/cgroup/cgroup.controllers": "cpu memory\n"}, "OK", "version 2: cpu memory"),
        ({"/sys/fs/cgroup/cgroup.controllers": "\n"}, "OK", "version 2: no controllers here"),
        ({}, "WARN", "version 1, or not mounted"),
    ],
)
def test_cgroups(monkeypatch: pytest.MonkeyPatch, files: dict[str, str], status: str, detail: str) -> None:  # fmt: skip
    fake_file(monkeypatch, files)
    seen = doctor._cgroups()
    assert (seen.status, seen.detail) == (status, detail)


MOST = "/proc/sys/user/max_user_namespaces"
APPARMOR = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"


@pytest.mark.parametrize(
    ("files", "status", "detail"),
    [
        ({}, "WARN", "off"), ({MOST: "0\n"}, "WARN", "off"), ({MOST: "junk"}, "WARN", "off"),
        ({MOST: "15000\n"}, "OK", "up to 15000"),
        ({MOST: "15000\n", APPARMOR: "0\n"}, "OK", "up to 15000"),
        ({MOST: "15000\n", APPARMOR: "1\n"}, "WARN", "restricted by AppArmor"),
    ],
)  # fmt: skip
def test_user_namespaces(installed: set[str], monkeypatch: pytest.MonkeyPatch, files: dict[str, str], status: str, detail: str) -> None:  # fmt: skip
    fake_file(monkeypatch, files)
    seen = doctor._user_namespaces()
    assert (seen.status, seen.detail) == (status, detail)


def test_user_namespaces_of_others_need_newuidmap(installed: set[str], monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    fake_file(monkeypatch, {MOST: "15000\n"})
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    seen = doctor._user_namespaces()
    assert (seen.status, seen.package) == (Status.WARN, "uidmap")


DELEGATED = "/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service/cgroup.controllers"


@pytest.mark.parametrize(
    ("user", "files", "status", "detail"),
    [
        (0, {}, "OK", "root needs none"),
        (1000, {}, "WARN", "no control groups of yours"),
        (1000, {DELEGATED: "memory pids\n"}, "WARN", "not delegated: cpu"),
        (1000, {DELEGATED: "\n"}, "WARN", "not delegated: cpu memory pids"),
        (1000, {DELEGATED: "cpu memory pids\n"}, "OK", "cpu memory pids"),
    ],
)
def test_delegation(monkeypatch: pytest.MonkeyPatch, user: int, files: dict[str, str], status: str, detail: str) -> None:  # fmt: skip
    fake_file(monkeypatch, files)
    monkeypatch.setattr(os, "geteuid", lambda: user)
    seen = doctor._delegation()
    assert (seen.status, seen.detail) == (status, detail)


@pytest.mark.parametrize(
    ("interpreter", "status"), [("", "OK"), ("/lib/ld-linux-riscv64-lp64d.so.1", "WARN")]
)
def test_docker_init(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interpreter: str, status: str) -> None:  # fmt: skip
    (tmp_path / "tini-static").write_bytes(elf(interpreter=interpreter))
    (tmp_path / "docker-init").symlink_to("tini-static")
    monkeypatch.setattr(process, "which", lambda name: tmp_path / name)
    seen = doctor._docker_init()
    assert (seen.status, interpreter in seen.detail) == (status, True)


def test_no_docker_init(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "which", lambda _name: None)
    fake_file(monkeypatch, {})
    assert doctor._docker_init() == Seen(Status.OK, "none here")


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


@pytest.mark.parametrize(
    ("option", "value"), [("CONFIG_A", "y"), ("CONFIG_B", "m"), ("CONFIG_C", ""), ("CONFIG", "")]
)
def test_kernel_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str, value: str) -> None:  # fmt: skip
    (tmp_path / "config").write_text("CONFIG_A=y\nCONFIG_B=m\n# CONFIG_C is not set\n")
    monkeypatch.setattr("platform.release", lambda: f"/../..{tmp_path}/config")
    monkeypatch.setattr(doctor, "Path", lambda _name: tmp_path / "config")
    assert doctor._kernel_config(option) == value


def test_no_kernel_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "Path", lambda _name: tmp_path / "none")
    assert doctor._kernel_config("CONFIG_A") == "?"


# The command.


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
    list(doctor.examine([]))  # whatever registers itself has done so now
    monkeypatch.setattr(doctor, "CHECKS", made)
    return made


def replace_check(checks: list[doctor.Check], look: Callable[[], Seen]) -> None:
    checks[0] = doctor.Check("good", checks[0].phases, "why", look)


def run(phase: str = "", *, fix: bool = False, json: bool = False, dry: bool = False) -> None:
    doctor.main(phase, fix=fix, yes=True, json=json, dry=dry)


def test_every_check_says_why_and_for_whom() -> None:
    list(doctor.examine([]))
    assert len({check.name for check in doctor.CHECKS}) == len(doctor.CHECKS) > 10
    for check in doctor.CHECKS:
        assert check.phases
        assert check.why.endswith(".")


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


def test_others_than_root_use_sudo(installed: set[str], commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert doctor.install(["git"], yes=True)
    # First the password, where it can be asked for; see `install`.
    assert commands.args[0] == ["sudo", "true"]
    assert commands.calls[0].verb == "probe"
    assert commands.args[1:] == [
        ["sudo", "--preserve-env", *UPDATE], ["sudo", "--preserve-env", *INSTALL, "git"],
    ]  # fmt: skip


def test_a_wrong_password(installed: set[str], commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    commands.answer("sudo", "true", code=1, stderr="3 incorrect password attempts")
    with pytest.raises(MissingRequirementError, match="3 incorrect password attempts"):
        doctor.install(["git"], yes=True)
    assert len(commands.calls) == 1


def test_neither_root_nor_sudo(installed: set[str], commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    installed.remove("sudo")
    with pytest.raises(MissingRequirementError, match="missing: git make") as caught:
        doctor.install(["git", "make"], yes=True)
    assert caught.value.hint == "as root: apt-get install --no-install-recommends git make"
    assert commands.calls == []


def test_not_debian(installed: set[str], commands: Commands) -> None:
    installed.remove("apt-get")
    with pytest.raises(MissingRequirementError, match="missing: git, and this is not Debian"):
        doctor.install(["git"], yes=True)
    assert commands.calls == []


def test_no_means_no(installed: set[str], commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(doctor, "confirm", lambda _question, *, yes: False)
    assert doctor.install(["git"], yes=False) is False
    assert commands.calls == []


def test_apt_get_fails(installed: set[str], commands: Commands) -> None:
    commands.answer("apt-get", "install", code=100)
    with pytest.raises(MissingRequirementError, match="apt-get install") as caught:
        doctor.install(["git"], yes=True)
    assert "its output is above" in caught.value.hint


def test_offer(installed: set[str], commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    error = MissingRequirementError("there is no Go", tool="go")
    assert doctor.offer(error, yes=True) is False, "apt-get ran, and there is still none"
    assert commands.args == [UPDATE, [*INSTALL, "golang-go"]]
    installed.add("go")
    assert doctor.offer(error, yes=True) is True
    monkeypatch.setattr(doctor, "confirm", lambda _question, *, yes: False)
    commands.calls.clear()
    assert doctor.offer(error, yes=False) is False
    assert commands.calls == []


@pytest.mark.parametrize("tool", ["", "no-such"])
def test_nothing_to_offer(installed: set[str], commands: Commands, tool: str) -> None:
    assert doctor.offer(MissingRequirementError("no memory", tool=tool), yes=True) is False
    assert commands.calls == []


def test_what_is_there_is_not_provided(installed: set[str], commands: Commands) -> None:
    installed.update({"rsync", "ssh"})
    doctor.provide(["rsync", "ssh"], yes=False)
    assert commands.calls == []


def test_what_is_missing_is_provided_at_once(installed: set[str], commands: Commands) -> None:
    installed.add("ssh")
    # mke2fs and qemu-img twice: one question, each package once.
    doctor.provide(["ssh", "rsync", "qemu-img", "mke2fs", "qemu-img"], yes=True)
    assert commands.args == [
        ["apt-get", "update", "--quiet"],
        [*INSTALL, "e2fsprogs", "qemu-utils", "rsync"],
    ]


def test_another_release_calls_it_something_else(installed: set[str], commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setitem(doctor.PACKAGES, "qemu-riscv64-static", "qemu-user-static")
    commands.answer("apt-cache", "show", "qemu-user-static", code=100)
    doctor.provide(["qemu-riscv64-static"], yes=True)
    assert commands.args[-1] == [*INSTALL, "qemu-user-binfmt"]


@pytest.mark.parametrize(
    ("unknown", "packages"),
    [
        ((), ["docker-buildx", "docker-cli", "docker.io"]),
        (("docker-buildx", "docker-cli"), ["docker.io", "docker.io"]),
    ],
)
def test_docker_is_three_packages_or_one(installed: set[str], commands: Commands, unknown: tuple[str, ...], packages: list[str]) -> None:  # fmt: skip
    commands.answer("apt-cache", "show", stdout="Package: one\n")
    for name in unknown:
        commands.answer("apt-cache", "show", name, code=100)
    doctor.provide(["docker"], yes=True)
    assert commands.args[-1] == [*INSTALL, *packages]


def test_nothing_is_provided_unasked(installed: set[str], commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(doctor, "confirm", lambda _question, yes: yes)
    with pytest.raises(MissingRequirementError, match="missing: rsync, cpio") as caught:
        doctor.provide(["rsync", "cpio"], yes=False)
    assert "apt-get install cpio rsync" in caught.value.hint
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

    monkeypatch.setattr(doctor, "install", install)
    checks.append(doctor.Check("emulators", frozenset({Phase.MACHINE}), "why", look))
    found = doctor.mend([Phase.MACHINE], yes=True)
    assert [call.args for call in commands.calls if call.verb == "run"] == [
        [*prefix, "mount", "x"], [*prefix, "update-binfmts", "y"],
    ]  # fmt: skip
    assert [one.check.name for one in found if one.seen.status is Status.FAIL] == ["emulators"]
