"""The tasks `machine.*` and `on`."""

from __future__ import annotations

import sys
from typing import Any

from ..cli import NOTHING, YES, command

_NAME = "The machine's name. Default: riscv64."
_DELETE = "Delete without asking. Implied where CI is set."


def _confirm(context: Any, question: str, *, yes: bool) -> None:
    """Ask before data is deleted; a dry run deletes nothing."""
    from ..core import config, console, dry_run

    if not dry_run.active():
        console.require_confirmation(question, yes=yes or config.read(context.config).yes)


@command(
    changes="machines and their disk in the cache; installs missing packages",
    help={
        "name": _NAME,
        "cpus": "Processors. Default: as many as this host has.",
        "memory": "As in 8G. Default: half of this host's memory, at most 8G.",
        "disk": "As in 40G; the file grows with use. Default: 40G.",
        "if-missing": "Do nothing if the machine exists.",
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

    The first machine takes minutes and needs root or sudo: its base disk is built
    from Debian's packages. Further machines share the base and take seconds.
    """
    import time

    from ..core import config, dry_run
    from ..core.console import duration, log
    from . import machines

    started = time.monotonic()
    spec = machines.MachineSpec.parse(cpus, memory, disk)
    if if_missing and machines.exists(name):
        log(f"machine {name} already exists")
        return
    machine = machines.create(name, spec, yes=yes or config.read(context.config).yes)
    if dry_run.active():
        return
    log(
        f"machine {name}: {spec.cpus} processors, {spec.memory} memory, {spec.disk} disk,"
        f" created in {duration(time.monotonic() - started)}"
    )
    log(f"its files are in {machine.path}/")
    log(f"next: invoke on {name} -- build-binaries")


@command(
    changes="the machine: starts it, with new ssh settings",
    help={
        "name": _NAME,
        "icount": "Count instructions, for `benchmark --instructions`: each takes a nanosecond of the"
        " machine's clock. The machine gets one processor.",
    },
)
def start(context: Any, name: str = "riscv64", icount: bool = False) -> None:
    """Start a machine and wait until it answers ssh."""
    import time

    from ..core import dry_run
    from ..core.console import duration, log
    from . import machines

    started = time.monotonic()
    machine = machines.find(name)
    machines.start(machine, icount=icount)
    if dry_run.active():
        return
    counts = ", and counts instructions" if machine.icount else ""
    log(f"machine {name} answers after {duration(time.monotonic() - started)}{counts}")


@command(changes="the machine: stops it", help={"name": _NAME})
def stop(context: Any, name: str = "riscv64") -> None:
    """Shut a machine down. The disk stays."""
    from ..core import dry_run
    from ..core.console import log
    from . import machines

    machines.stop(machines.find(name))
    if not dry_run.active():
        log(f"stopped machine {name}")


@command(changes=NOTHING, help={"name": _NAME, "json": "Print it as JSON on stdout."})
def status(context: Any, name: str = "riscv64", json: bool = False) -> None:
    """Show one machine: state, uptime, size, ssh address."""
    from . import machines, report

    report.machine(machines.find(name), json=json)


@command(changes=NOTHING, name="list", help={"json": "Print them as JSON on stdout."})
def list_(context: Any, json: bool = False) -> None:
    """List all machines: state, uptime, size, disk, execution, ssh address."""
    from . import machines, report

    report.machines(machines.list_machines(), json=json)


@command(changes="the machine: starts it", help={"name": _NAME})
def ssh(context: Any, name: str = "riscv64") -> None:
    """Open a root shell on a machine; start the machine if necessary."""
    from ..core import process
    from . import machines

    machine = machines.find(name)
    machines.start(machine)
    process.replace([*machine.destination.ssh(), name])


@command(
    changes=NOTHING,
    help={"name": _NAME, "lines": "Number of last lines; 0 for all. Default: 100."},
)
def logs(context: Any, name: str = "riscv64", lines: int = 100) -> None:
    """Print the console log: output of the machine's kernel and systemd."""
    from ..core import values
    from . import machines

    values.number("--lines", lines, 0, 10**9)
    log = machines.find(name).log
    text = log.read_text(errors="replace").splitlines() if log.exists() else []
    print("\n".join(text[-lines:]))


@command(
    changes="the machine: stops it and deletes its disk",
    help={"name": _NAME, "yes": _DELETE},
)
def reset(context: Any, name: str = "riscv64", yes: bool = False) -> None:
    """Reset a machine to its base: everything on its disk is deleted.

    Asks before it deletes. Without a terminal, --yes is needed: exit code 2.
    """
    from ..core import dry_run
    from ..core.console import log
    from . import machines

    machine = machines.find(name)
    _confirm(context, f"delete everything on the disk of machine {name}", yes=yes)
    machines.reset(machine)
    if not dry_run.active():
        log(f"reset machine {name}; it is stopped")


@command(changes="the machine: stops and deletes it", help={"name": _NAME, "yes": _DELETE})
def destroy(context: Any, name: str = "riscv64", yes: bool = False) -> None:
    """Delete a machine. Its base disk stays in the cache.

    Asks before it deletes. Without a terminal, --yes is needed: exit code 2.
    """
    from ..core import dry_run
    from ..core.console import log
    from . import machines

    machine = machines.find(name)
    _confirm(context, f"delete machine {name} and its disk", yes=yes)
    machines.destroy(machine)
    if not dry_run.active():
        log(f"deleted machine {name}")


@command(
    changes="the remote checkout, and what the task changes; dist/ and benchmarks/results/ here",
    positional=["machine"],
    help={
        "machine": "An emulated machine, a board named in the configuration, or any ssh destination.",
        "any-arch": "Accept a destination that is not riscv64; its builds are for development.",
        "yes": "Install missing packages on the machine without asking. Implied where CI is set.",
    },
)
def on(context: Any, machine: str, any_arch: bool = False, yes: bool = False) -> None:
    """Run a task or a nox session natively on another machine.

    Copies the checkout without the files that git ignores, streams the output,
    passes on the exit code, and copies dist/ back with verified checksums. Ctrl-C
    also ends the remote task. Starts an emulated machine that is not running.
    Runs anything that is not a task as a command.
    """
    from ..core import config
    from ..examples import EXAMPLES
    from .remote import on as run_on

    settings = config.read(context.config)
    # Invoke joins what follows `--` with spaces, and quotes are lost.
    arguments = sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else []
    code = run_on(
        machine, arguments, sorted(EXAMPLES), settings.boards,
        any_arch=any_arch, yes=yes or settings.yes,
    )  # fmt: skip
    if code:
        raise SystemExit(code)
