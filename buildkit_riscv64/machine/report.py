"""Machine status output."""

from __future__ import annotations

from typing import Any

from ..core.console import duration, emit_json, log, size, table
from ..core.errors import MachineError
from ..core.host import Execution
from .machines import Machine


def facts(machine: Machine) -> dict[str, Any]:
    """Collect what is known of a machine without connecting to it."""
    try:
        settings = machine.settings
        running = machine.pid is not None
    except MachineError as error:
        return {"name": machine.name, "state": "damaged", "reason": error.brief}
    port = ""
    for line in (machine.path / "ssh_config").read_text().splitlines() if running else ():
        key, _, value = line.strip().partition(" ")
        port = value if key == "Port" else port
    return {
        "name": machine.name,
        "state": "running" if running else "stopped",
        "uptime_seconds": round(machine.uptime, 1),
        "cpus": 1 if machine.icount else settings["cpus"],
        "memory": settings["memory"],
        "disk": settings["disk"],
        "disk_used_bytes": machine.disk_bytes,
        "execution": str(Execution.QEMU_SYSTEM),
        "icount": machine.icount,
        "base": settings["base"],
        "address": f"127.0.0.1:{port}" if port else "",
        "folder": str(machine.path),
    }


def machine(one: Machine, *, json: bool) -> None:
    """Print the status of one machine."""
    known = facts(one)
    if json:
        emit_json(known)
        return
    table(("what", ""), [(key, str(value)) for key, value in known.items()])
    if known["state"] == "running":
        log(f"ssh: ssh -F {one.path}/ssh_config {one.name}")


def machines(all_: list[Machine], *, json: bool) -> None:
    """Print a table of machines."""
    known = [facts(one) for one in all_]
    if json:
        emit_json(known)
        return
    if not known:
        log("no machines; create one with `invoke machine.create`")
        return
    rows = [
        (
            k["name"],
            k["state"],
            duration(k["uptime_seconds"]) if k.get("uptime_seconds") else "",
            f"{k['cpus']} x {k['memory']}" if "cpus" in k else "",
            f"{size(k['disk_used_bytes'])} of {k['disk']}" if "disk" in k else "",
            k.get("execution", "") + (", icount" if k.get("icount") else ""),
            k.get("address", ""),
        )
        for k in known
    ]
    table(("name", "state", "up", "size", "disk", "executes", "ssh"), rows)
