from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from buildkit_riscv64.binaries import compile as compiler
from buildkit_riscv64.core import host, process
from buildkit_riscv64.core.errors import BuildError, Failure, MissingRequirementError, StorageError
from buildkit_riscv64.core.pins import MODULE

from ..factories import COMMIT, GO, Commands, make_source

GB = 1 << 30
LDFLAGS = (
    f"-X {MODULE}/version.Version=v0.32.2 -X {MODULE}/version.Revision={COMMIT}"
    f" -X {MODULE}/version.Package={MODULE} -extldflags '-static'"
)
FLAGS = [
    "-trimpath", "-buildvcs=false", "-mod=readonly", "-tags=osusergo,netgo,static_build,seccomp",
    f"-ldflags={LDFLAGS}",
]  # fmt: skip


def test_flags() -> None:
    assert compiler.flags(make_source()) == FLAGS


def test_flags_of_a_dirty_source() -> None:
    stamped = compiler.ldflags(make_source(version="v0.32.2.m", revision=f"{COMMIT}.m"))
    assert f"version.Version=v0.32.2.m -X {MODULE}/version.Revision={COMMIT}.m " in stamped


@pytest.mark.parametrize(
    ("memory", "cpus", "expected"),
    [
        (4 * GB, 4, {"GOGC": "200"}), (3 * GB, 4, {}), (4 * GB, 2, {"GOGC": "off"}),
        (8 * GB, 8, {"GOGC": "200"}), (16 * GB, 8, {"GOGC": "off"}), (24 * GB, 2, {"GOGC": "off"}),
        (2 * GB, 1, {"GOGC": "off"}), (0, 4, {}),
    ],
)  # fmt: skip
def test_collector(memory: int, cpus: int, expected: dict[str, str]) -> None:
    settings = compiler.collector(memory, cpus)
    limit = int(settings.pop("GOMEMLIMIT", 0))
    assert settings == expected
    assert bool(limit) is bool(expected)
    assert limit * cpus <= memory * 3 // 4


@pytest.mark.parametrize(("cpus", "threads"), [(1, "1"), (2, "1"), (3, None), (8, None)])
def test_threads(cpus: int, threads: str | None) -> None:
    assert compiler.threads(cpus, host.Execution.NATIVE).get("GOMAXPROCS") == threads
    assert compiler.threads(cpus, host.Execution.QEMU_SYSTEM) == {}


def test_collector_is_off_only_where_the_linker_fits() -> None:
    for memory in range(0, 32 * GB, GB // 4):
        for cpus in range(1, 65):
            settings = compiler.collector(memory, cpus)
            if settings.get("GOGC") == "off":
                assert int(settings["GOMEMLIMIT"]) >= compiler.LINKER_BYTES
            elif settings:
                assert int(settings["GOMEMLIMIT"]) >= compiler.LINKER_BYTES // 2


LISTING = """\
runtime
fmt runtime
net runtime fmt
lib fmt net
cmd/a lib fmt
cmd/b lib C unsafe-unknown
"""


def packages_of(listing: str, *started: str) -> compiler._Packages:
    packages = compiler._Packages(lambda: listing)
    for name in started:
        packages.start(name)
    if packages._thread is not None:
        packages._thread.join()
    return packages


def test_no_package_started() -> None:
    assert packages_of(LISTING).state == (0, 0, "")


def test_started_packages_imply_finished_imports() -> None:
    packages = packages_of(LISTING, "runtime")
    assert packages.state == (0, 6, "runtime")
    packages.start("fmt")
    assert packages.state == (1, 6, "fmt")
    packages.start("net")
    assert packages.state == (2, 6, "net")
    packages.start("lib")
    assert packages.state == (3, 6, "lib")
    packages.start("cmd/a")
    packages.start("cmd/b")
    assert packages.state == (4, 6, "cmd/b")


def test_cached_packages_count_as_done() -> None:
    assert packages_of(LISTING, "lib").state == (3, 6, "lib")


def test_progress_never_goes_back() -> None:
    packages = packages_of(LISTING, "cmd/a")
    before = packages.state
    packages.start("runtime")
    assert packages.state[:2] == before[:2]


def test_started_packages_are_counted_without_a_list() -> None:
    packages = packages_of("", "runtime", "fmt")
    assert packages.state == (2, 0, "fmt")


def test_unlisted_packages() -> None:
    assert packages_of(LISTING, "unknown").state == (0, 6, "unknown")


def test_list_is_not_loaded_if_everything_is_cached() -> None:
    packages = compiler._Packages(lambda: pytest.fail("asked"))
    assert packages.state == (0, 0, "")
    assert packages._thread is None


def test_plain_lines_at_intervals(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    meter = compiler._PlainProgress()
    for later, done, total in ((5, 1, 9), (15, 0, 9), (16, 3, 0), (20, 4, 9), (31.5, 5, 9)):
        now = 100.0 + later
        meter.update(done, total, "net/http")
    assert capsys.readouterr().err.splitlines() == [
        "  16.0 s: 3 packages, compiling net/http", "  31.5 s: 5 of 9 packages, compiling net/http",
    ]  # fmt: skip


def test_no_bar_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with compiler.progress() as meter:
        assert isinstance(meter, compiler._PlainProgress)


def test_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", Terminal())
    with compiler.progress() as meter:
        assert isinstance(meter, compiler._BarProgress)
        meter.update(0, 0, "")
        meter.update(3, 9, "net/http")
        bar: Any = meter._bar
        assert (bar.tasks[0].completed, bar.tasks[0].total) == (3, 9)
        assert bar.tasks[0].fields["current"] == "net/http"


@pytest.mark.parametrize(
    ("code", "output", "cls", "brief"),
    [
        (1, ["write /x: no space left on device"], StorageError, "no space"),
        (1, ["write /x: disk quota exceeded"], StorageError, "no space"),
        (1, ["# net/http", "compile: signal: killed"], MissingRequirementError, "memory"),
        (-9, [], MissingRequirementError, "memory"),
        (1, ["# net/http", "", "x.go:1:2: syntax error"], BuildError, "exit code 1): x.go:1:2: syntax error"),
        (1, [], BuildError, "exit code 1"),
        (-15, ["# x"], BuildError, "SIGTERM"),
    ],
)  # fmt: skip
def test_failure(code: int, output: list[str], cls: type[Failure], brief: str) -> None:
    failure = compiler._failure(code, output)
    assert type(failure) is cls
    assert brief in failure.brief
    assert failure.hint
    assert "apt-get" not in failure.hint


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, commands: Commands) -> Commands:
    """A machine with 24 GB and 2 processors; Go's environment has only our variables."""
    monkeypatch.setattr(compiler, "environment", lambda _go, extra: dict(extra))
    monkeypatch.setattr(host, "memory_bytes", lambda field: {"MemAvailable": 24 * GB}[field])
    monkeypatch.setattr(host, "cpus", lambda: 2)
    monkeypatch.setattr(host, "execution", lambda: host.Execution.NATIVE)
    return commands


def run(**options: Any) -> None:
    compiler.compile_commands(
        make_source(), GO, Path("/stage/bin"), Path("/scratch"), {"GORISCV64": "rva22u64"}, **options
    )  # fmt: skip


def test_compiling_is_one_go_invocation(machine: Commands) -> None:
    run()
    assert machine.args == [
        ["/go/bin/go", "build", "-v", "-p=2", *FLAGS, "-o", "/stage/bin/",
         f"{MODULE}/cmd/buildctl", f"{MODULE}/cmd/buildkitd"],
    ]  # fmt: skip
    call = machine.calls[0]
    assert call.verb == "stream"
    assert call.options["cwd"] == Path("/upstream")
    assert call.options["env"] == {
        "GOTMPDIR": "/scratch", "GOGC": "off", "GOMEMLIMIT": str(9 * GB), "GOMAXPROCS": "1",
        "GORISCV64": "rva22u64",
    }  # fmt: skip


def test_compiling_packages_are_reported(
    machine: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int, str]] = []
    monkeypatch.setattr(compiler._PlainProgress, "update", lambda _self, *state: seen.append(state))
    monkeypatch.setattr(compiler._Packages, "_load_imports", lambda _self: None)
    machine.answer("build", stdout="runtime\nfmt\n# fmt\nx.go:1: a warning\n")
    run()
    assert seen == [(1, 0, "runtime"), (2, 0, "fmt"), (2, 0, "fmt"), (2, 0, "fmt")]


def test_package_list_uses_the_same_flags(machine: Commands) -> None:
    machine.answer("build", stdout="runtime\n")
    done: list[Callable[[], str]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiler._Packages, "_load_imports", lambda self: done.append(self._listing))
        run()
    done[0]()
    assert machine.args[-1] == [
        "/go/bin/go", "list", "-deps", "-f", "{{.ImportPath}}{{range .Imports}} {{.}}{{end}}",
        "-mod=readonly", "-tags=osusergo,netgo,static_build,seccomp",
        f"{MODULE}/cmd/buildctl", f"{MODULE}/cmd/buildkitd",
    ]  # fmt: skip
    assert machine.calls[-1].options["cwd"] == Path("/upstream")


def test_failure_shows_compiler_output(
    machine: Commands, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compiler._Packages, "_load_imports", lambda _self: None)
    machine.answer("build", code=1, stdout="fmt\n# fmt\nx.go:1:2: undefined: y\n")
    with pytest.raises(BuildError, match="undefined: y"):
        run(show_progress=False)
    assert capsys.readouterr().err == "# fmt\nx.go:1:2: undefined: y\n"


def test_interruption_passes_through(machine: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_args: object, **_options: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(process, "stream", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run()
