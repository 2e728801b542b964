"""The tasks for machines: `machine.*` and `on`."""

from __future__ import annotations

import sys
from typing import Any

from ..cli import YES, command

_NAME = "The machine's name. Default: riscv64."


@command(
    help={
        "name": _NAME,
        "cpus": "Processors. Default: as many as this host has.",
        "memory": "As in 8G. Default: half of this host's, at most 8G.",
        "disk": "As in 40G; takes only what is used. Default: 40G.",
        "if-missing": "Leave a machine that is there as it is.",
        "yes": YES,
    },
)
def create(
    context: Any,
    name: str = "riscv64",
    cpus: int = 0,
    memory: str = "",
    disk: str = "",
    if_missing: bool = False,
    yes: bool = False,
) -> None:
    """Create an emulated riscv64 machine: Debian, its own kernel, docker, Go.

    The first one takes minutes, in which its disk is made from Debian's packages;
    the next ones take seconds, over the same disk. Needs root or sudo for the
    first.
    """
    import time

    from .. import config
    from ..console import duration, say
    from . import machines

    started = time.monotonic()
    shape = machines.Shape.parse(cpus, memory, disk)
    if if_missing and machines.exists(name):
        say(f"machine {name} is there already")
        return
    machine = machines.create(name, shape, yes=yes or config.read(context.config).yes)
    say(
        f"machine {name}: {shape.cpus} processors, {shape.memory} memory, {shape.disk} disk,"
        f" created in {duration(time.monotonic() - started)}"
    )
    say(f"all of it is in {machine.path}/")
    say(f"next: invoke on {name} -- build-binaries")


@command(
    help={
        "name": _NAME,
        "icount": "Have it count instructions, for `benchmark --instructions`: each takes a nanosecond"
        " of its clock, and it has one processor.",
    },
)
def start(context: Any, name: str = "riscv64", icount: bool = False) -> None:
    """Start a machine and wait until it answers ssh."""
    import time

    from ..console import duration, say
    from . import machines

    started = time.monotonic()
    machine = machines.find(name)
    machines.start(machine, icount=icount)
    counts = ", and counts instructions" if machine.icount else ""
    say(f"machine {name} answers after {duration(time.monotonic() - started)}{counts}")


@command(help={"name": _NAME})
def stop(context: Any, name: str = "riscv64") -> None:
    """Shut a machine down. Its disk stays."""
    from ..console import say
    from . import machines

    machines.stop(machines.find(name))
    say(f"machine {name} is stopped")


@command(help={"name": _NAME, "json": "Print it as JSON on stdout."})
def status(context: Any, name: str = "riscv64", json: bool = False) -> None:
    """Show one machine: state, uptime, size, how to reach it."""
    from . import machines, report

    report.machine(machines.find(name), json=json)


@command(name="list", help={"json": "Print them as JSON on stdout."})
def list_(context: Any, json: bool = False) -> None:
    """List all machines: state, uptime, size, disk, how they execute."""
    from . import machines, report

    report.machines(machines.everyone(), json=json)


@command(help={"name": _NAME})
def ssh(context: Any, name: str = "riscv64") -> None:
    """Open a shell on a running machine, as root."""
    from .. import process
    from . import machines

    machine = machines.find(name)
    machines.start(machine)
    process.replace([*machine.destination.ssh(), name])


@command(
    help={"name": _NAME, "lines": "How many of the last lines. 0 for all."},
)
def logs(context: Any, name: str = "riscv64", lines: int = 100) -> None:
    """Print what the machine's kernel and systemd have said on its console."""
    from . import machines

    text = machines.find(name).log
    said = text.read_text(errors="replace").splitlines() if text.exists() else []
    print("\n".join(said[-lines:]))


@command(help={"name": _NAME})
def reset(context: Any, name: str = "riscv64") -> None:
    """Put a machine back to how it was created: everything on its disk is lost."""
    from ..console import say
    from . import machines

    machines.reset(machines.find(name))
    say(f"machine {name} is as it was created, and stopped")


@command(help={"name": _NAME})
def destroy(context: Any, name: str = "riscv64") -> None:
    """Remove a machine and all of it. The disk it started from stays cached."""
    from ..console import say
    from . import machines

    machines.destroy(machines.find(name))
    say(f"machine {name} is gone")


@command(
    positional=["machine"],
    help={
        "machine": "An emulated machine, a board named in the configuration, or any ssh destination.",
        "any-arch": "Accept a destination that is not riscv64; what it builds is for development.",
        "yes": "Install missing packages there without asking. Implied where CI is set.",
    },
)
def on(context: Any, machine: str, any_arch: bool = False, yes: bool = False) -> None:
    """Run a task or a nox session natively on another machine.

    invoke on riscv64 -- build-binaries
    invoke on riscv64 -- nox -s unit
    invoke on me@192.168.1.185 -- doctor --fix

    The checkout is synchronised (what git ignores is not), the output comes
    as it is printed, the exit code is passed on, and dist/ comes back with its
    checksums verified. Ctrl-C ends the far side too. An emulated machine that is
    not running is started. Anything that is no task is run as a command there.
    """
    from tasks import ns

    from .. import config
    from .remote import on as run_on

    settings = config.read(context.config)
    # Invoke joins what follows `--` with spaces, and quotes are lost.
    arguments = sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else []
    code = run_on(
        machine, arguments, sorted(ns.task_names), settings.boards,
        any_arch=any_arch, yes=yes or settings.yes,
    )  # fmt: skip
    if code:
        raise SystemExit(code)
