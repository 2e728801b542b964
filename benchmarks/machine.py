"""An emulated machine: create it, connect to it, compile in it.

Compares our settings with the defaults of qemu, and with qemu-user, by compiling
`encoding/json` of Go's standard library with its dependencies. Measures both the host's
qemu-user and that of the release of the machine's qemu; they are registered with the
kernel in turns, which requires root. This takes half an hour, and so does the real build,
cold and warm, with `--full`.
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
from benchmarks.measure import Case, Sample, alternate, run, save
from buildkit_riscv64.binaries import compile as compiler
from buildkit_riscv64.core import arch, host, process, project, values
from buildkit_riscv64.machine import base_disk as bases
from buildkit_riscv64.machine import machines
from buildkit_riscv64.system import binfmt, debian

NAME = "benchmark"
PACKAGES = "encoding/json"
#: Prints the path of the machine's Go, which is not on PATH because tasks use the pinned Go.
GO_PATH = "readlink -f /usr/lib/go-*/bin/go | head -1"
USER_EMULATOR = f"qemu-{arch.Architecture.RISCV64.uname}"


class Bench:
    """Machines in a separate cache."""

    def __init__(self, directory: Path, ready: Path | None) -> None:
        self.directory = directory
        os.environ["XDG_CACHE_HOME"] = str(directory)
        self.spec = machines.MachineSpec.parse(0, "", "")
        if ready:
            bases = project.cache() / "bases"
            bases.parent.mkdir(parents=True, exist_ok=True)
            bases.symlink_to(ready / "bases")

    def invoke(self, *args: str) -> Sample:
        """Run one of our tasks."""
        return run([sys.executable, "-m", "buildkit_riscv64", *args], project.ROOT, os.environ)

    def create(self) -> Sample:
        """Create a machine."""
        return self.invoke("machine.create", "--name", NAME, "--yes")

    def destroy(self) -> None:
        """Destroy the machine."""
        if machines.exists(NAME):
            machines.destroy(machines.find(NAME))

    def create_again(self) -> Sample:
        """Create a machine from the cached base."""
        self.destroy()
        return self.create()

    def start(self) -> Sample:
        """Start a stopped machine until it answers ssh."""
        machines.stop(machines.find(NAME))
        return self.invoke("machine.start", "--name", NAME)

    def on_true(self) -> Sample:
        """Run `true` in the machine with `invoke on`."""
        return self.invoke("on", NAME, "--", "true")

    def ssh_true(self) -> Sample:
        """Run `true` in the machine with ssh."""
        return run(machines.find(NAME).destination.command(["true"]), project.ROOT, os.environ)

    def build(self) -> Sample:
        """Run the real build in the machine."""
        return self.invoke("on", NAME, "--", "build-binaries", "--yes", "--force")

    @contextlib.contextmanager
    def machine(self) -> Iterator[machines.Machine]:
        """Create and start a machine; destroy it afterwards."""
        self.destroy()
        machine = machines.create(NAME, self.spec)
        machines.start(machine)
        try:
            yield machine
        finally:
            machines.destroy(machine)

    def go_build(self, settings: Sequence[str] = (), *options: str) -> Sample:
        """Compile the packages with an empty cache in a newly started machine."""
        with self.machine() as machine, machine.destination.connected() as (shared, _):
            words = ["env", "CGO_ENABLED=0", "GOCACHE=/root/empty", *settings]
            go = shared.read(["sh", "-c", GO_PATH]).strip()
            # Do not measure the rest of the boot.
            shared.probe(["systemctl", "is-system-running", "--wait"], timeout=300)
            return run(
                shared.command([*words, go, "build", *options, PACKAGES]),
                project.ROOT,
                os.environ,
            )

    def ours(self) -> Sample:
        """Compile with our settings of qemu and Go."""
        memory = values.size("--memory", self.spec.memory)
        cpus = self.spec.cpus
        chosen = compiler.collector(memory, cpus) | compiler.threads(
            cpus, host.Execution.QEMU_SYSTEM
        )
        return self.go_build([f"{key}={value}" for key, value in chosen.items()], f"-p={cpus}")

    def with_defaults(self) -> Sample:
        """Compile with the defaults of qemu and Go."""
        chosen = machines.ACCELERATOR, machines.KERNEL_OPTIONS
        machines.ACCELERATOR, machines.KERNEL_OPTIONS = "tcg", ""
        try:
            return self.go_build()
        finally:
            machines.ACCELERATOR, machines.KERNEL_OPTIONS = chosen

    def with_host_qemu(self) -> Sample:
        """Compile with our settings, but the host's qemu."""
        own = bases.BaseDisk.emulator
        bases.BaseDisk.emulator = property(lambda _base: [bases.PROGRAM])  # type: ignore[assignment]
        try:
            return self.ours()
        finally:
            bases.BaseDisk.emulator = own  # type: ignore[method-assign]

    def fetch_go(self) -> Path:
        """Copy the machine's Go and its libraries, for qemu-user."""
        root = self.directory / "root"
        root.mkdir()
        with self.machine() as machine, machine.destination.connected() as (shared, _):
            go = shared.read(["sh", "-c", GO_PATH]).strip()
            goroot = Path(shared.read([go, "env", "GOROOT"]).strip())
            linked = shared.read(["sh", "-c", f"ldd {go} || :"])
            wanted = [str(goroot), *(word for word in linked.split() if word.startswith("/"))]
            shared.rsync(
                "--archive", "--copy-links", "--relative", *(f":{path}" for path in wanted), f"{root}/"
            )  # fmt: skip
        return root / goroot.relative_to("/")

    def user_emulators(self) -> dict[str, Path]:
        """The qemu-user emulators by label, with their versions."""
        root = self.directory / "qemu-user"
        process.run(
            debian.unpack_command(debian.release(arch.Architecture.here()), ["qemu-user"], root)
        )
        hosts = shutil.which(f"{USER_EMULATOR}-static") or shutil.which(USER_EMULATOR)
        found = [*map(Path, filter(None, [hosts])), root / "usr/bin" / USER_EMULATOR]
        return {f"qemu-user {version(path)}": path for path in found}

    def in_user_mode(self, emulator: Path, goroot: Path) -> Callable[[], Sample]:
        """Compile with qemu-user on the host."""

        def compile_() -> Sample:
            with tempfile.TemporaryDirectory(dir=self.directory) as cache, registered(emulator):
                env = {
                    "PATH": os.environ["PATH"], "HOME": cache, "GOROOT": str(goroot),
                    "QEMU_LD_PREFIX": str(self.directory / "root"), "CGO_ENABLED": "0",
                    "GOTOOLCHAIN": "local", "GOCACHE": f"{cache}/empty",
                }  # fmt: skip
                return run([emulator, goroot / "bin/go", "build", PACKAGES], goroot / "src", env)

        return compile_


def version(emulator: str | Path) -> str:
    """The version of an emulator."""
    # "QEMU emulator version 7.2.22 (Debian …)", "qemu-riscv64 version 10.0.13 (Debian …)"
    return process.read([emulator, "--version"]).partition("version ")[2].split()[0]


@contextlib.contextmanager
def registered(emulator: Path) -> Iterator[None]:
    """Register an emulator for riscv64 programs; restore the registration afterwards."""

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
    """Measure: `--full` only the real build; `--compile` only compiling.

    `--ready` uses the base in the user's cache.
    """
    ready = project.cache() if "--ready" in argv else None
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR") or "/var/tmp") as name:
        bench = Bench(Path(name), ready)
        try:
            if "--full" in argv:
                cases = list(_build_cases(bench))
            elif "--compile" in argv:
                cases = [_compile(bench)]
            else:
                cases = [*_machine_cases(bench), _compile(bench)]
        finally:
            bench.destroy()
    print(f"wrote {save('machine', cases, execution='qemu-system')}")
    report.main()


def _build_cases(bench: Bench) -> Iterator[Case]:
    bench.create()
    machines.start(machines.find(NAME))
    yield alternate(
        Case(name="cold build", description="`invoke on … -- build-binaries`, nothing there yet"),
        1, {"ours": bench.build},
    )  # fmt: skip
    yield alternate(
        Case(name="warm build", description="the same with `--force`, full build cache"),
        2, {"ours": bench.build},
    )  # fmt: skip


def _machine_cases(bench: Bench) -> Iterator[Case]:
    yield alternate(
        Case(name="create", description="with no base in the cache", limit_seconds=480),
        1, {"ours": bench.create},
    )  # fmt: skip
    yield alternate(
        Case(name="create again", description="from the cached base", limit_seconds=5),
        5, {"ours": bench.create_again},
    )  # fmt: skip
    yield alternate(
        Case(name="start", description="until it answers ssh", limit_seconds=60),
        3, {"ours": bench.start},
    )  # fmt: skip
    time.sleep(20)
    bench.on_true()
    yield alternate(
        Case(name="round trip", description="`invoke on … -- true`", limit_more=1.5),
        7, {"bare ssh": bench.ssh_true, "ours": bench.on_true},
    )  # fmt: skip


def _compile(bench: Bench) -> Case:
    goroot = bench.fetch_go()
    hosts = shutil.which(bases.PROGRAM)
    return alternate(
        Case(
            name="compile",
            description=f"`go build {PACKAGES}`, empty build cache, against qemu's and Go's"
            " own settings, the host's qemu with ours, and qemu-user",
            limit=1 / 1.5,
        ),
        2,
        {
            "defaults": bench.with_defaults,
            **({f"qemu {version(hosts)}": bench.with_host_qemu} if hosts else {}),
            **{
                name: bench.in_user_mode(emulator, goroot)
                for name, emulator in bench.user_emulators().items()
            },
            "ours": bench.ours,
        },
    )


if __name__ == "__main__":
    main(sys.argv[1:])
