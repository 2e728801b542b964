from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from buildkit_riscv64.core import host, process
from buildkit_riscv64.core.host import Execution

from ..factories import Commands

Fake = Callable[[dict[str, str]], None]


@pytest.fixture
def proc(monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Fake files of the kernel."""

    def files(content: dict[str, str]) -> None:
        monkeypatch.setattr(host, "_text", lambda path: content.get(str(path), ""))

    files({})
    monkeypatch.setattr(Path, "readlink", lambda _self: Path("/usr/bin/python3.11"))
    monkeypatch.setattr(process, "which", lambda _name: None)
    return files


KERNEL = "/proc/sys/kernel/arch"
CPUINFO = "/proc/cpuinfo"
COMPATIBLE = "/proc/device-tree/compatible"


def test_a_machine_without_details_is_native(proc: Fake) -> None:
    assert host.execution() is Execution.NATIVE


def test_another_kernel_architecture_is_qemu_user(proc: Fake, on: Callable[[str], None]) -> None:
    on("riscv64")
    proc({KERNEL: "x86_64"})
    assert host.execution() is Execution.QEMU_USER


def test_the_same_kernel_architecture_is_native(proc: Fake, on: Callable[[str], None]) -> None:
    on("riscv64")
    proc({KERNEL: "riscv64"})
    assert host.execution() is Execution.NATIVE


def test_an_older_kernel_names_the_emulator(proc: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "readlink", lambda _self: Path("/usr/libexec/qemu-binfmt/qemu-riscv64-static"))  # fmt: skip
    assert host.execution() is Execution.QEMU_USER


def test_without_proc_the_machine_is_native(proc: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    def hidden(_self: Path) -> Path:
        raise PermissionError

    monkeypatch.setattr(Path, "readlink", hidden)
    assert host.execution() is Execution.NATIVE


@pytest.mark.parametrize(
    ("vendors", "expected"),
    [
        ("mvendorid\t: 0x0\nmvendorid\t: 0x0", Execution.QEMU_SYSTEM),
        ("", Execution.QEMU_SYSTEM),
        ("mvendorid\t: 0x710", Execution.NATIVE),
        ("mvendorid\t: 0x0\nmvendorid\t: 0x710", Execution.NATIVE),
    ],
)
def test_qemus_riscv_board(
    proc: Fake, on: Callable[[str], None], vendors: str, expected: Execution
) -> None:
    on("riscv64")
    proc({COMPATIBLE: "riscv-virtio\nqemu", CPUINFO: f"processor\t: 0\n{vendors}"})
    assert host.execution() is expected


def test_a_riscv_board_is_native(proc: Fake) -> None:
    proc({COMPATIBLE: "bananapi,bpi-f3\nspacemit,k1", CPUINFO: "mvendorid\t: 0x710"})
    assert host.execution() is Execution.NATIVE


@pytest.mark.parametrize(
    ("reported", "expected"),
    [
        ("qemu\n", Execution.QEMU_SYSTEM), ("kvm\n", Execution.NATIVE), ("none\n", Execution.NATIVE),
        ("vmware\n", Execution.NATIVE), ("", Execution.NATIVE),
    ],
)  # fmt: skip
def test_systemd_detect_virt(
    proc: Fake,
    commands: Commands,
    monkeypatch: pytest.MonkeyPatch,
    reported: str,
    expected: Execution,
) -> None:
    monkeypatch.setattr(process, "which", lambda name: Path("/usr/bin", name))
    commands.answer("systemd-detect-virt", "--vm", stdout=reported)
    assert host.execution() is expected
    assert commands.args == [["systemd-detect-virt", "--vm"]]


def test_tcg_without_systemd(proc: Fake) -> None:
    proc({CPUINFO: "model name\t: QEMU TCG CPU version 2.5+"})
    assert host.execution() is Execution.QEMU_SYSTEM


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("processor\t: 0\nmodel name\t: AMD EPYC\n\nmodel name\t: Other", "AMD EPYC"),
        ("hart\t: 0\nisa\t: rv64imafdc\nuarch\t: spacemit,x60", "spacemit,x60"),
        ("isa\t: rv64imafdc", "rv64imafdc"),
        ("CPU implementer\t: 0x41", "0x41"),
    ],
)
def test_cpu(proc: Fake, text: str, name: str) -> None:
    proc({CPUINFO: text})
    assert host.cpu() == name


def test_cpu_without_a_name(proc: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.processor", lambda: "")
    assert host.cpu() == "unknown"


def test_memory(proc: Fake) -> None:
    proc({"/proc/meminfo": "MemTotal:        8000 kB\nMemAvailable:    5000 kB"})
    assert host.memory_bytes() == 8000 * 1024
    assert host.memory_bytes("MemAvailable") == 5000 * 1024
    assert host.memory_bytes("SwapTotal") == 0


def test_text_of_kernel_files(tmp_path: Path) -> None:
    path = tmp_path / "compatible"
    path.write_bytes(b"riscv-virtio\0qemu\0\xff")
    assert host._text(path).splitlines()[:2] == ["riscv-virtio", "qemu"]
    assert host._text(tmp_path / "missing") == ""


def test_free_space_of_a_missing_directory(tmp_path: Path) -> None:
    assert host.free_bytes(tmp_path / "not" / "yet") > 0


def test_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.freedesktop_os_release", lambda: {"PRETTY_NAME": "Debian 13"})
    assert host.distribution() == "Debian 13"

    def missing() -> dict[str, str]:
        raise FileNotFoundError

    monkeypatch.setattr("platform.freedesktop_os_release", missing)
    assert host.distribution() == "unknown"


def test_facts(proc: Fake, on: Callable[[str], None]) -> None:
    on("riscv64")
    facts = host.facts().as_json()
    assert facts["arch"] == "riscv64"
    assert facts["execution"] == "native"
    assert facts["cpus"] == host.cpus() >= 1
    assert list(facts) == ["arch", "execution", "kernel", "cpu", "cpus", "memory_bytes", "distribution"]  # fmt: skip


def test_facts_are_single_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """The schemas of our documents refuse other text."""
    for name in ("cpu", "distribution"):
        monkeypatch.setattr(host, name, lambda: "a\tb\n\x1b[2Jc")
    facts = host.facts()
    assert facts.cpu == facts.distribution == "a b [2Jc"
    assert facts.kernel.isprintable()
