from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from buildkit_riscv64.errors import (
    ConnectionLostError,
    MachineError,
    MissingRequirementError,
    StorageError,
)
from buildkit_riscv64.machine.destination import Destination

from ..making import Commands

BOARD = Destination("me@board")
MACHINE = Destination("riscv64", Path("/a b/ssh_config"), ("-o", "ConnectTimeout=20"))

HOSTILE = [
    "a b", "", "'", '"', "\\", "$HOME", "$(id)", "`id`", "*", "~", "!x", "a\nb", "a\tb", ";", "&&",
    "|", "-n", "--", "#", "é…", "'\\''", "{a,b}", "<", "x=y", "\x01",
]  # fmt: skip


def test_the_ssh_command() -> None:
    assert BOARD.ssh("-N") == ["ssh", "-N"]
    assert MACHINE.ssh() == ["ssh", "-F", "/a b/ssh_config", "-o", "ConnectTimeout=20"]


def test_a_command_there_is_one_word_for_its_shell() -> None:
    assert BOARD.command(["uname", "-m"]) == ["ssh", "-T", "me@board", "--", "uname -m"]
    assert MACHINE.command(["echo", "a b"]) == [
        "ssh", "-F", "/a b/ssh_config", "-o", "ConnectTimeout=20", "-T", "riscv64", "--",
        "echo 'a b'",
    ]  # fmt: skip


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_hostile_words_arrive_as_they_are(shell: str) -> None:
    sent = BOARD.command(["printf", r"%s\0", *HOSTILE])[-1]
    # So does sshd run it: with the user's login shell.
    done = subprocess.run([shell, "-c", sent], capture_output=True, check=True)
    assert done.stdout.decode().split("\0")[:-1] == HOSTILE


def test_probe_and_read(commands: Commands) -> None:
    commands.answer("ssh", stdout="riscv64\n")
    assert BOARD.probe(["true"], timeout=5).ok
    assert BOARD.read(["uname", "-m"], timeout=7) == "riscv64\n"
    assert [call.options["timeout"] for call in commands.calls] == [5, 7]
    assert commands.args[1] == ["ssh", "-T", "me@board", "--", "uname -m"]


@pytest.mark.parametrize(
    ("code", "stderr", "brief"),
    [
        (255, "noise\nssh: connect to host board port 22: Connection refused\n",
         "no connection to me@board: ssh: connect to host board port 22: Connection refused"),
        (255, "", "no connection to me@board: it was closed"),
        (124, "no answer within 60 s", "no connection to me@board: no answer within 60 s"),
        (3, "mkdir: no\n", "`mkdir x` failed on me@board (exit code 3): mkdir: no"),
    ],
)  # fmt: skip
def test_what_fails_there_is_told(commands: Commands, code: int, stderr: str, brief: str) -> None:
    commands.answer("ssh", code=code, stderr=stderr)
    with pytest.raises(MachineError) as caught:
        BOARD.read(["mkdir", "x"])
    assert caught.value.brief == brief


def test_the_rsync_command(commands: Commands) -> None:
    MACHINE.rsync("--archive", "/here/", ":/there/", error=StorageError)
    (call,) = commands.calls
    assert call.args == [
        "rsync", "--rsh=ssh -F '/a b/ssh_config' -o ConnectTimeout=20", "--archive", "/here/",
        "riscv64:/there/",
    ]  # fmt: skip
    assert call.options["error"] is StorageError


@pytest.fixture
def fake_ssh(
    script: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], None]:
    """Puts a shell script in the place of ssh."""

    def put(body: str) -> None:
        folder = script("bin/ssh", body).parent
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    return put


@pytest.mark.parametrize(
    ("says", "reason"),
    [
        ("echo first >&2; echo 'Permission denied (publickey).' >&2; exit 255", "Permission denied (publickey)."),
        ("exit 255", "it was closed"),
        (r"printf '\377\n' >&2; exit 255", "�"),
    ],
)  # fmt: skip
def test_no_connection(fake_ssh: Callable[[str], None], says: str, reason: str) -> None:
    fake_ssh(says)
    with pytest.raises(MachineError) as caught, BOARD.connected():
        pytest.fail("connected")
    assert caught.value.brief == f"no connection to me@board: {reason}"
    assert "`ssh me@board`" in caught.value.hint


def test_one_connection_is_shared(fake_ssh: Callable[[str], None], tmp_path: Path) -> None:
    fake_ssh(f'printf "%s\\n" "$@" >{tmp_path}/master\n{THERE}exec sh -c "$*"')
    with MACHINE.connected("printf '%s\\n' \"$@\"; exit 3", "a b", "--", "ÿ") as (shared, ask):
        assert ask() == "a b\n--\nÿ\n"
        assert ask() == ask()
        told = (tmp_path / "master").read_text().splitlines()
        path = next(o for o in shared.options if o.startswith("ControlPath="))
        assert told[:4] == ["-F", "/a b/ssh_config", "-o", "ConnectTimeout=20"]
        assert told[told.index("--") - 1] == "riscv64"
        assert {"ControlMaster=yes", path, "BatchMode=yes", "ServerAliveInterval=15"} <= set(told)
        assert shared.name == MACHINE.name
        assert shared.config == MACHINE.config
        assert shared.options[:2] == MACHINE.options
        assert "ControlMaster=no" in shared.options
        # Nothing may ask on the terminal: where it runs, it would be stopped.
        assert "BatchMode=yes" in shared.options
        socket = Path(path.partition("=")[2])
        assert len(str(socket)) < 107
    assert not socket.parent.exists()


THERE = 'while [ "$1" != -- ]; do shift; done; shift; '


def test_a_connection_that_ends_is_told_when_it_is_used(fake_ssh: Callable[[str], None]) -> None:
    fake_ssh(f'{THERE}exec sh -c "$*"')
    with BOARD.connected("echo half; echo gone >&2; kill $$") as (_, ask):
        for _ in range(2):
            with pytest.raises(ConnectionLostError, match="me@board"):
                ask()


def test_what_a_login_shell_prints_is_in_the_answer(fake_ssh: Callable[[str], None]) -> None:
    fake_ssh(f'{THERE}echo Welcome; exec sh -c "$*"')
    with BOARD.connected("echo x") as (_, ask):
        assert ask() == ask() == "Welcome\nx\n"


def test_a_missing_ssh_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingRequirementError) as caught, BOARD.connected():
        pytest.fail("connected")
    assert caught.value.tool == "ssh"
