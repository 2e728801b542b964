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


def test_one_that_is_stopped(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machines._ssh_config(machine, 2222)  # of when it ran
    report.machine(machine, json=True)
    told = capsys.readouterr()
    assert told.err == ""
    assert json.loads(told.out) == {
        "name": "one", "state": "stopped", "uptime_seconds": 0.0, "cpus": 2, "memory": "8G",
        "disk": "40G", "disk_used_bytes": 0, "execution": "qemu-system", "icount": False,
        "base": machine.settings["base"], "address": "", "folder": str(machine.path),
    }  # fmt: skip


def test_one_that_runs(running: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    facts = report.facts(running)
    assert (facts["state"], facts["address"]) == ("running", "127.0.0.1:2222")
    assert facts["uptime_seconds"] >= 0
    report.machine(running, json=False)
    told = capsys.readouterr()
    assert told.out == ""
    assert f"ssh: ssh -F {running.path}/ssh_config one\n" in told.err


def test_one_that_is_damaged_is_listed(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    (machine.path / "machine.json").write_text("{")
    facts = report.facts(machine)
    assert (facts["name"], facts["state"]) == ("one", "damaged")
    assert facts["reason"].startswith("machine one is damaged")
    report.machines([machine], json=False)
    report.machine(machine, json=False)
    assert "damaged" in capsys.readouterr().err


def test_a_list(running: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    report.machines([running], json=False)
    told = capsys.readouterr()
    assert told.out == ""
    for word in ("one", "running", "2 x 8G", "of 40G", "qemu-system", "127.0.0.1:2222"):
        assert word in told.err
    report.machines([running], json=True)
    assert [one["name"] for one in json.loads(capsys.readouterr().out)] == ["one"]


def test_one_that_counts_is_told_as_such(running: Machine, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(Machine, "icount", property(lambda _self: True))
    report.machines([running], json=False)
    told = capsys.readouterr().err
    assert "qemu-system, icount" in told
    assert "1 x 8G" in told


def test_no_machines(capsys: pytest.CaptureFixture[str]) -> None:
    report.machines([], json=True)
    assert capsys.readouterr() == ("[]\n", "")
    report.machines([], json=False)
    assert "invoke machine.create" in capsys.readouterr().err


def test_one_that_has_never_been_started(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pid may be there before its ssh_config is, for another process."""
    assert not Path(machine.path / "ssh_config").exists()
    assert report.facts(machine)["address"] == ""
