from __future__ import annotations

import json
from pathlib import Path

import pytest

from buildkit_riscv64.machine import machines, report
from buildkit_riscv64.machine.machines import Machine


@pytest.fixture
def running(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Machine:
    machines._ssh_config(machine, 2222)
    monkeypatch.setattr(Machine, "pid", 7)
    (machine.path / "qemu.pid").write_text("7")
    return machine


def test_stopped_machine(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machines._ssh_config(machine, 2222)  # left by an earlier start
    report.machine(machine, json=True)
    reported = capsys.readouterr()
    assert reported.err == ""
    assert json.loads(reported.out) == {
        "name": "one", "state": "stopped", "uptime_seconds": 0.0, "cpus": 2, "memory": "8G",
        "disk": "40G", "disk_used_bytes": 0, "execution": "qemu-system", "icount": False,
        "base": machine.settings["base"], "address": "", "folder": str(machine.path),
    }  # fmt: skip


def test_running_machine(running: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    facts = report.facts(running)
    assert (facts["state"], facts["address"]) == ("running", "127.0.0.1:2222")
    assert facts["uptime_seconds"] >= 0
    report.machine(running, json=False)
    reported = capsys.readouterr()
    assert reported.out == ""
    assert f"ssh: ssh -F {running.path}/ssh_config one\n" in reported.err


def test_damaged_machine(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    (machine.path / "machine.json").write_text("{")
    facts = report.facts(machine)
    assert (facts["name"], facts["state"]) == ("one", "damaged")
    assert "machine.json" in facts["reason"]
    report.machines([machine], json=False)
    report.machine(machine, json=False)
    assert "damaged" in capsys.readouterr().err


def test_machine_list(running: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    report.machines([running], json=False)
    reported = capsys.readouterr()
    assert reported.out == ""
    for word in ("one", "running", "2 x 8G", "of 40G", "qemu-system", "127.0.0.1:2222"):
        assert word in reported.err
    report.machines([running], json=True)
    assert [one["name"] for one in json.loads(capsys.readouterr().out)] == ["one"]


def test_machine_that_counts_instructions(
    running: Machine, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Machine, "icount", property(lambda _self: True))
    report.machines([running], json=False)
    reported = capsys.readouterr().err
    assert "qemu-system, icount" in reported
    assert "1 x 8G" in reported


def test_no_machines(capsys: pytest.CaptureFixture[str]) -> None:
    report.machines([], json=True)
    assert capsys.readouterr() == ("[]\n", "")
    report.machines([], json=False)
    assert "invoke machine.create" in capsys.readouterr().err


def test_machine_that_never_started(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """qemu.pid may exist before ssh_config."""
    assert not Path(machine.path / "ssh_config").exists()
    assert report.facts(machine)["address"] == ""
