"""An emulated machine: making it, reaching it, and compiling in it.

Our settings are compared with qemu's own and with qemu-user over the same
packages: `encoding/json` of Go's standard library and all that it imports. qemu-user is
the host's, and the one of the release that the machine's qemu is from: to take turns,
they are registered with the kernel one after the other, which only root may do.
That takes half an hour; so does the real build, cold and warm, with `--full`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks import report
from benchmarks.measure import Case, Sample, in_turns, keep, run
from buildkit_riscv64 import arch, binfmt, debian, host, process, project
from buildkit_riscv64.binaries import compile as compiler
from buildkit_riscv64.machine import base as bases
from buildkit_riscv64.machine import machines

NAME = "benchmark"
PACKAGES = "encoding/json"
#: Prints where Debian has put the machine's Go: not on PATH, since tasks look for the pinned one.
GO_THERE = "readlink -f /usr/lib/go-*/bin/go | head -1"
USER_EMULATOR = f"qemu-{arch.Architecture.RISCV64.uname}"


class Bench:
    """Machines in a cache of their own."""

    def __init__(self, folder: Path, ready: Path | None) -> None:
        self.folder = folder
        os.environ["XDG_CACHE_HOME"] = str(folder)
        self.shape = machines.Shape.parse(0, "", "")
        if ready:
            bases = project.cache() / "bases"
            bases.parent.mkdir(parents=True, exist_ok=True)
            bases.symlink_to(ready / "bases")

    def invoke(self, *args: str) -> Sample:
        """One of our tasks."""
        return run([sys.executable, "-m", "invoke", *args], project.ROOT, os.environ)

    def create(self) -> Sample:
        """A machine, from whatever there is."""
        return self.invoke("machine.create", "--name", NAME, "--yes")

    def forget(self) -> None:
        """No machine."""
        if machines.exists(NAME):
            machines.destroy(machines.find(NAME))

    def create_again(self) -> Sample:
        """A machine, from the cached base."""
        self.forget()
        return self.create()

    def start(self) -> Sample:
        """From nothing running to an answer by ssh."""
        machines.stop(machines.find(NAME))
        return self.invoke("machine.start", "--name", NAME)

    def on_true(self) -> Sample:
        """Nothing, done there."""
        return self.invoke("on", NAME, "--", "true")

    def ssh_true(self) -> Sample:
        """The same, by bare ssh."""
        return run(machines.find(NAME).destination.command(["true"]), project.ROOT, os.environ)

    def build(self) -> Sample:
        """The real build."""
        return self.invoke("on", NAME, "--", "build-binaries", "--yes", "--force")

    @contextlib.contextmanager
    def machine(self) -> Iterator[machines.Machine]:
        """A new machine that runs."""
        self.forget()
        machine = machines.create(NAME, self.shape)
        machines.start(machine)
        try:
            yield machine
        finally:
            machines.destroy(machine)

    def compile_there(self, settings: Sequence[str] = (), *options: str) -> Sample:
        """The packages, from an empty cache, in a new machine that has just started."""
        with self.machine() as machine, machine.destination.connected() as (shared, _):
            words = ["env", "CGO_ENABLED=0", "GOCACHE=/root/empty", *settings]
            go = shared.read(["sh", "-c", GO_THERE]).strip()
            # What a start leaves to do is not what is measured.
            shared.probe(["systemctl", "is-system-running", "--wait"], timeout=300)
            return run(
                shared.command([*words, go, "build", *options, PACKAGES]),
                project.ROOT,
                os.environ,
            )

    def ours(self) -> Sample:
        """With what we chose, of qemu's settings and of Go's."""
        memory = machines.size_bytes(self.shape.memory, "memory")
        cpus = self.shape.cpus
        chosen = compiler.collector(memory, cpus) | compiler.threads(
            cpus, host.Execution.QEMU_SYSTEM
        )
        return self.compile_there([f"{key}={value}" for key, value in chosen.items()], f"-p={cpus}")

    def with_defaults(self) -> Sample:
        """With what qemu and Go choose themselves."""
        chosen = machines.ACCELERATOR, machines.KERNEL_OPTIONS
        machines.ACCELERATOR, machines.KERNEL_OPTIONS = "tcg", ""
        try:
            return self.compile_there()
        finally:
            machines.ACCELERATOR, machines.KERNEL_OPTIONS = chosen

    def on_the_hosts(self) -> Sample:
        """With what we chose, but by the qemu that this host's release has."""
        own = bases.Base.emulator
        bases.Base.emulator = property(lambda _base: [bases.PROGRAM])  # type: ignore[assignment]
        try:
            return self.ours()
        finally:
            bases.Base.emulator = own  # type: ignore[method-assign]

    def fetch_go(self) -> Path:
        """The machine's Go, with what it is linked to, for qemu-user."""
        root = self.folder / "root"
        root.mkdir()
        with self.machine() as machine, machine.destination.connected() as (shared, _):
            go = shared.read(["sh", "-c", GO_THERE]).strip()
            goroot = Path(shared.read([go, "env", "GOROOT"]).strip())
            linked = shared.read(["sh", "-c", f"ldd {go} || :"])
            wanted = [str(goroot), *(word for word in linked.split() if word.startswith("/"))]
            shared.rsync(
                "--archive", "--copy-links", "--relative", *(f":{path}" for path in wanted), f"{root}/"
            )  # fmt: skip
        return root / goroot.relative_to("/")

    def user_emulators(self) -> dict[str, Path]:
        """Emulators for programs, by what they are called here: with their versions."""
        root = self.folder / "qemu-user"
        process.run(
            bases.unpack_command(debian.release(arch.Architecture.here()), ["qemu-user"], root)
        )
        hosts = shutil.which(f"{USER_EMULATOR}-static") or shutil.which(USER_EMULATOR)
        found = [*map(Path, filter(None, [hosts])), root / "usr/bin" / USER_EMULATOR]
        return {f"qemu-user {version(path)}": path for path in found}

    def in_user_mode(self, emulator: Path, goroot: Path) -> Callable[[], Sample]:
        """By qemu-user, on the host."""

        def compile_() -> Sample:
            with tempfile.TemporaryDirectory(dir=self.folder) as cache, registered(emulator):
                env = {
                    "PATH": os.environ["PATH"], "HOME": cache, "GOROOT": str(goroot),
                    "QEMU_LD_PREFIX": str(self.folder / "root"), "CGO_ENABLED": "0",
                    "GOTOOLCHAIN": "local", "GOCACHE": f"{cache}/empty",
                }  # fmt: skip
                return run([emulator, goroot / "bin/go", "build", PACKAGES], goroot / "src", env)

        return compile_


def version(emulator: str | Path) -> str:
    """What an emulator says."""
    # "QEMU emulator version 7.2.22 (Debian …)", "qemu-riscv64 version 10.0.13 (Debian …)"
    return process.read([emulator, "--version"]).partition("version ")[2].split()[0]


@contextlib.contextmanager
def registered(emulator: Path) -> Iterator[None]:
    """Have the kernel start riscv64 programs by this emulator, for a while."""

    def register(line: str) -> None:
        entry = binfmt.REGISTRY / USER_EMULATOR
        if entry.exists():
            entry.write_text("-1")
        (binfmt.REGISTRY / "register").write_text(line)

    line = (binfmt.FORMATS / f"{USER_EMULATOR}.conf").read_text()
    *how, _, _ = line.split(":")
    register(":".join([*how, str(emulator), "F"]))
    try:
        yield
    finally:
        register(line)


def main(argv: Sequence[str] = ()) -> None:
    """Measure: `--full` only the real build; `--compile` only compiling packages.

    `--ready` takes the base from the user's cache.
    """
    ready = project.cache() if "--ready" in argv else None
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR") or "/var/tmp") as name:
        bench = Bench(Path(name), ready)
        try:
            if "--full" in argv:
                cases = list(_full(bench))
            elif "--compile" in argv:
                cases = [_compile(bench)]
            else:
                cases = [*_reach(bench), _compile(bench)]
        finally:
            bench.forget()
    print(f"wrote {keep('machine', cases, execution='qemu-system')}")
    report.main()


def _full(bench: Bench) -> Iterator[Case]:
    bench.create()
    machines.start(machines.find(NAME))
    yield in_turns(
        Case(name="cold build", description="`invoke on … -- build-binaries`, nothing there yet"),
        1, {"ours": bench.build},
    )  # fmt: skip
    yield in_turns(
        Case(name="warm build", description="the same with `--force`, full build cache"),
        2, {"ours": bench.build},
    )  # fmt: skip


def _reach(bench: Bench) -> Iterator[Case]:
    yield in_turns(
        Case(name="create", description="with no base in the cache", limit_seconds=480),
        1, {"ours": bench.create},
    )  # fmt: skip
    yield in_turns(
        Case(name="create again", description="from the cached base", limit_seconds=5),
        5, {"ours": bench.create_again},
    )  # fmt: skip
    yield in_turns(
        Case(name="start", description="until it answers ssh", limit_seconds=60),
        3, {"ours": bench.start},
    )  # fmt: skip
    time.sleep(20)
    bench.on_true()
    yield in_turns(
        Case(name="round trip", description="`invoke on … -- true`", limit_more=1.5),
        7, {"bare ssh": bench.ssh_true, "ours": bench.on_true},
    )  # fmt: skip


def _compile(bench: Bench) -> Case:
    goroot = bench.fetch_go()
    hosts = shutil.which(bases.PROGRAM)
    return in_turns(
        Case(
            name="compile",
            description=f"`go build {PACKAGES}`, empty build cache, against qemu's and Go's"
            " own settings, the host's qemu with ours, and qemu-user",
            limit=1 / 1.5,
        ),
        2,
        {
            "defaults": bench.with_defaults,
            **({f"qemu {version(hosts)}": bench.on_the_hosts} if hosts else {}),
            **{
                name: bench.in_user_mode(emulator, goroot)
                for name, emulator in bench.user_emulators().items()
            },
            "ours": bench.ours,
        },
    )


if __name__ == "__main__":
    main(sys.argv[1:])
