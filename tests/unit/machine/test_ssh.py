from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from buildkit_riscv64.core.errors import (
    ConnectionLostError,
    MachineError,
    MissingRequirementError,
    StorageError,
    UsageError,
)
from buildkit_riscv64.machine.ssh import Destination

from ..factories import Commands

BOARD = Destination("me@board")
MACHINE = Destination("riscv64", Path("/a b/ssh_config"), ("-o", "ConnectTimeout=20"))

HOSTILE = [
    "a b", "", "'", '"', "\\", "$HOME", "$(id)", "`id`", "*", "~", "!x", "a\nb", "a\tb", ";", "&&",
    "|", "-n", "--", "#", "é…", "'\\''", "{a,b}", "<", "x=y", "\x01",
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "name", "port", "target"),
    [
        ("board", "board", 0, "board"),
        ("me@board", "me@board", 0, "me@board"),
        ("me@corp@board", "me@corp@board", 0, "me@corp@board"),
        ("ssh://board", "board", 0, "board"),
        ("ssh://me@board/", "me@board", 0, "me@board"),
        ("ssh://me@board:22422", "me@board", 22422, "me@board"),
        ("ssh://me%40corp@board:1", "me@corp@board", 1, "me@corp@board"),
        ("::1", "::1", 0, "[::1]"),
        ("root@::1", "root@::1", 0, "root@[::1]"),
        ("root@[::1]", "root@::1", 0, "root@[::1]"),
        ("[fe80::1%eth0]", "fe80::1%eth0", 0, "[fe80::1%eth0]"),
        ("root@fe80::1%eth0", "root@fe80::1%eth0", 0, "root@[fe80::1%eth0]"),
        ("ssh://root@[::1]:65535", "root@::1", 65535, "root@[::1]"),
        ("ssh://root@[::1]", "root@::1", 0, "root@[::1]"),
        ("ssh://root@::1", "root@::1", 0, "root@[::1]"),
        ("::ffff:10.0.0.1", "::ffff:10.0.0.1", 0, "[::ffff:10.0.0.1]"),
    ],
)
def test_parse(commands: Commands, text: str, name: str, port: int, target: str) -> None:
    destination = Destination.parse(text)
    assert (destination.name, destination.port) == (name, port)
    # ssh and rsync both use the port.
    flags = ["-p", str(port)] if port else []
    assert destination.command(["true"]) == ["ssh", *flags, "-T", name, "--", "true"]
    destination.rsync("/here/", ":/there/")
    assert commands.args[-1] == ["rsync", f"--rsh={' '.join(['ssh', *flags])}", "--timeout=300", "/here/", f"{target}:/there/"]  # fmt: skip
    # The label is a valid destination.
    assert Destination.parse(destination.label) == destination


@pytest.mark.parametrize(
    "text",
    [
        "", "@", "me@", "@board", "ssh://", "ssh://@board", "ssh://me@", "ssh:///path", "-oProxyCommand=x",
        "ssh://-oProxyCommand=x", "me@-oProxyCommand=x", "-x@board", "ssh://%2Dx@board", "ssh://me@board/path",
        "a b", "me@a b", "a\nb", "ssh://a%0Ab@board", "board;id", "$(id)", "me@`id`", "board/path",
        "ssh://me:password@board", "ssh://me@board:0", "ssh://me@board:65536", "ssh://me@board:", "ssh://me@board:x",
        "ssh://me@board:-1", "ssh://me@board:" + "9" * 9999, "ssh://me@board:٢٢", "me@board:22422", "board:22",
        "board:/srv", "root@[::1]:22", "[::1", "[board]", "[board]:22", "root@[::1]x", "1::2::3", "http://board", "\udcff",
    ],
)  # fmt: skip
def test_parse_invalid(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        Destination.parse(text)
    assert "ssh://" in caught.value.hint
    assert len(caught.value.brief) < 200
    assert "password@" not in caught.value.brief + caught.value.hint


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("me@board:22422", "ssh://me@board:22422"),
        ("board:22", "ssh://board:22"),
        ("root@[::1]:22", "ssh://root@[::1]:22"),
    ],
)
def test_parse_port_without_url(text: str, url: str) -> None:
    with pytest.raises(UsageError, match=re.escape(text)) as caught:
        Destination.parse(text)
    assert url in caught.value.hint
    assert Destination.parse(url).port


@given(st.text())
def test_parse_any_text(text: str) -> None:
    with contextlib.suppress(UsageError):
        destination = Destination.parse(text)
        assert destination.name
        assert not destination.name.startswith("-")


def test_shared_connection_keeps_the_port(fake_ssh: Callable[[str], None]) -> None:
    fake_ssh(f'{SKIP_OPTIONS}exec sh -c "$*"')
    with Destination.parse("ssh://me@board:22422").connected() as (shared, _):
        assert shared.ssh()[:3] == ["ssh", "-p", "22422"]
        assert shared.name == "me@board"


def test_ssh_command() -> None:
    assert BOARD.ssh("-N") == ["ssh", "-N"]
    assert MACHINE.ssh() == ["ssh", "-F", "/a b/ssh_config", "-o", "ConnectTimeout=20"]


def test_command_is_one_word_for_the_remote_shell() -> None:
    assert BOARD.command(["uname", "-m"]) == ["ssh", "-T", "me@board", "--", "uname -m"]
    assert MACHINE.command(["echo", "a b"]) == [
        "ssh", "-F", "/a b/ssh_config", "-o", "ConnectTimeout=20", "-T", "riscv64", "--",
        "echo 'a b'",
    ]  # fmt: skip


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_hostile_words_arrive_unchanged(shell: str) -> None:
    sent = BOARD.command(["printf", r"%s\0", *HOSTILE])[-1]
    # sshd runs it with the user's login shell.
    done = subprocess.run([shell, "-c", sent], capture_output=True, check=True)
    assert done.stdout.decode().split("\0")[:-1] == HOSTILE


def test_probe_and_read(commands: Commands) -> None:
    commands.answer("ssh", stdout="riscv64\n")
    assert BOARD.probe(["true"], timeout=5).ok
    assert BOARD.read(["uname", "-m"], timeout=7) == "riscv64\n"
    assert [call.options["timeout"] for call in commands.calls] == [5, 7]
    assert commands.args[1] == ["ssh", "-T", "me@board", "--", "uname -m"]


@pytest.mark.parametrize(
    ("code", "stderr", "contains"),
    [
        (255, "noise\nssh: connect to host board port 22: Connection refused\n",
         "me@board: ssh: connect to host board port 22: Connection refused"),
        (255, "", "me@board: it was closed"),
        (124, "no answer within 60 s", "me@board: no answer within 60 s"),
        (3, "mkdir: no\n", "`mkdir x` failed on me@board (exit code 3): mkdir: no"),
    ],
)  # fmt: skip
def test_read_failures(commands: Commands, code: int, stderr: str, contains: str) -> None:
    commands.answer("ssh", code=code, stderr=stderr)
    with pytest.raises(MachineError) as caught:
        BOARD.read(["mkdir", "x"])
    assert contains in caught.value.brief
    assert isinstance(caught.value, ConnectionLostError) is (code != 3)


def test_rsync_command(commands: Commands) -> None:
    MACHINE.rsync("--archive", "/here/", ":/there/", error=StorageError)
    (call,) = commands.calls
    assert call.args == [
        "rsync", "--rsh=ssh -F '/a b/ssh_config' -o ConnectTimeout=20", "--timeout=300",
        "--archive", "/here/", "riscv64:/there/",
    ]  # fmt: skip
    assert call.options["error"] is StorageError


SKIP_OPTIONS = 'while [ "$1" != -- ]; do shift; done; shift; '


@pytest.fixture
def fake_ssh(
    script: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], None]:
    """Replace ssh with a shell script."""

    def put(body: str) -> None:
        directory = script("bin/ssh", body).parent
        monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")

    return put


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("echo first >&2; echo 'Permission denied (publickey).' >&2; exit 255", "Permission denied (publickey)."),
        ("exit 255", "it was closed"),
        (r"printf '\377\n' >&2; exit 255", "�"),
    ],
)  # fmt: skip
def test_no_connection(fake_ssh: Callable[[str], None], body: str, reason: str) -> None:
    fake_ssh(body)
    with pytest.raises(MachineError) as caught, BOARD.connected():
        pytest.fail("connected")
    assert caught.value.brief.endswith(f"me@board: {reason}")
    assert "`ssh me@board`" in caught.value.hint


def test_shared_connection(fake_ssh: Callable[[str], None], tmp_path: Path) -> None:
    fake_ssh(f'printf "%s\\n" "$@" >{tmp_path}/master\n{SKIP_OPTIONS}exec sh -c "$*"')
    with MACHINE.connected("printf '%s\\n' \"$@\"; exit 3", "a b", "--", "ÿ") as (shared, ask):
        assert ask() == "a b\n--\nÿ\n"
        assert ask() == ask()
        reported = (tmp_path / "master").read_text().splitlines()
        path = next(o for o in shared.options if o.startswith("ControlPath="))
        assert reported[:4] == ["-F", "/a b/ssh_config", "-o", "ConnectTimeout=20"]
        assert reported[reported.index("--") - 1] == "riscv64"
        assert {"ControlMaster=yes", path, "BatchMode=yes", "ServerAliveInterval=15"} <= set(
            reported
        )
        assert shared.name == MACHINE.name
        assert shared.config == MACHINE.config
        assert shared.options[:2] == MACHINE.options
        assert "ControlMaster=no" in shared.options
        # ssh must not ask on the terminal.
        assert "BatchMode=yes" in shared.options
        socket = Path(path.partition("=")[2])
        assert len(str(socket)) < 107
    assert not socket.parent.exists()


def test_ask_after_a_lost_connection(
    fake_ssh: Callable[[str], None],
) -> None:
    fake_ssh(f'{SKIP_OPTIONS}exec sh -c "$*"')
    with BOARD.connected("echo half; echo gone >&2; kill $$") as (_, ask):
        for _ in range(2):
            with pytest.raises(ConnectionLostError, match="me@board"):
                ask()


@pytest.mark.parametrize("command", ["echo Welcome", "printf Welcome"])
def test_answer_contains_login_shell_output(fake_ssh: Callable[[str], None], command: str) -> None:
    fake_ssh(f'{SKIP_OPTIONS}{command}; exec sh -c "$*"')
    with BOARD.connected("echo x; printf y") as (_, ask):
        assert ask() == ask()
        assert "".join(ask().split()) == "Welcomexy"


@pytest.mark.parametrize(
    "body", ["exec sleep 60", f'{SKIP_OPTIONS}sh -c "$*" & wait; exec sleep 60']
)
def test_remote_shell_hangs(
    fake_ssh: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    """The host answers the network, but the shell waits for its disk, for example."""
    monkeypatch.setattr("buildkit_riscv64.machine.ssh.ANSWER_SECONDS", 0.3)
    fake_ssh(body)
    with (
        pytest.raises(ConnectionLostError, match=r"0\.3 s"),
        BOARD.connected("exec sleep 60") as (_, ask),
    ):
        ask()


def test_missing_ssh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingRequirementError) as caught, BOARD.connected():
        pytest.fail("connected")
    assert caught.value.tool == "ssh"
