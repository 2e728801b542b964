"""A board that is this machine: a real sshd on the loopback, with keys, a home and a PATH of its own."""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..loopback import free_port
from .miniature import Project, script

NAME = "board"
SSHD = Path("/usr/sbin/sshd")
#: For a machine that is slow and busy; what passes never waits so long.
BOUND = 120.0


def key(path: Path) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path


@dataclass
class Board:
    """A board, and the checkout from which it is used.

    Args:
        project: the checkout.
        home: the far side's home.
        config: the user's ssh configuration.
        sshd: its process; each start makes another one.
    """

    project: Project
    home: Path
    config: Path
    port: int
    sshd: subprocess.Popen[bytes] | None = None

    @property
    def folder(self) -> Path:
        """The far side's checkout."""
        identity = f"{os.uname().nodename}:{self.project.root}"
        name = hashlib.sha256(identity.encode()).hexdigest()[:12]
        return self.home / ".cache/buildkit-riscv64/checkouts" / name

    def start(self, **changes: str) -> None:
        """Start sshd; what runs there sees the project's environment, with these changes."""
        self.stop()
        place = self.home.parent
        env = {**self.project.env, "HOME": str(self.home), **changes}
        lines = [
            f"Port {self.port}",
            "ListenAddress 127.0.0.1",
            f"HostKey {place}/host_key",
            f"AuthorizedKeysFile {place}/user_key.pub",
            "PidFile none",
            "UsePAM no",
            "StrictModes no",
            "PasswordAuthentication no",
            "SetEnv " + " ".join(f'"{name}={value}"' for name, value in env.items()),
        ]
        (place / "sshd_config").write_text("\n".join(lines) + "\n")
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        with (place / "sshd.log").open("ab") as log:
            self.sshd = subprocess.Popen(
                [SSHD, "-D", "-e", "-f", place / "sshd_config"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        deadline = time.monotonic() + BOUND
        while self.sshd.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            time.sleep(0.02)
        raise AssertionError((place / "sshd.log").read_text())

    def stop(self) -> None:
        """End sshd and each of its connections."""
        self.cut()
        if self.sshd is not None:
            self.sshd.terminate()
            self.sshd.wait()
            self.sshd = None

    def cut(self) -> None:
        """End its connections as a network that goes does: nobody gets to say goodbye."""
        for pid in self._connections():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _connections(self) -> list[int]:
        """The processes of sshd's own that serve connections; not what they run."""
        if self.sshd is None:
            return []
        found: list[int] = []
        parents = {self.sshd.pid}
        while parents:
            children = set()
            for process in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError):
                    fields = (process / "stat").read_text().rpartition(")")[2].split()
                    name = (process / "comm").read_text().strip()
                    if int(fields[1]) in parents and name.startswith("sshd"):
                        children.add(int(process.name))
            found += children
            parents = children
        return found

    def known_host(self, public: Path) -> None:
        """What the user's known_hosts says of it."""
        (self.config.parent / "known_hosts").write_text(f"{NAME} {public.read_text()}")

    def take_python(self) -> None:
        """Give the far checkout the environment that tests run in: its launcher would fetch one."""
        venv = self.folder / ".venv"
        script(venv / "bin" / "python", f'exec {sys.executable} "$@"')
        shutil.copy(self.project.root / "requirements.txt", venv)


@contextlib.contextmanager
def board(project: Project, **changes: str) -> Iterator[Board]:
    """A board for a project; nothing of it runs afterwards."""
    place = project.root.parent / "board"
    (place / "home").mkdir(parents=True)
    (place / "user").mkdir()
    key(place / "host_key")
    key(place / "user_key")
    made = Board(project, place / "home", place / "user" / "config", free_port())
    made.known_host(place / "host_key.pub")
    made.config.write_text(
        f"Host {NAME}\n  HostName 127.0.0.1\n  Port {made.port}\n  User {getpass.getuser()}\n"
        f"  HostKeyAlias {NAME}\n  IdentityFile {place}/user_key\n  IdentitiesOnly yes\n"
        f"  UserKnownHostsFile {place}/user/known_hosts\n  GlobalKnownHostsFile /dev/null\n"
    )
    # ssh looks for ~/.ssh/config where the password file says that ~ is, whatever HOME says.
    real = shutil.which("ssh")
    assert real, "the tests need ssh"
    assert SSHD.exists(), "the tests need sshd: apt-get install openssh-server"
    script(place / "bin" / "ssh", f'exec {real} -F {made.config} "$@"')
    far: Mapping[str, str] = {"PATH": project.env["PATH"], **changes}
    project.env["PATH"] = f"{place}/bin:{project.env['PATH']}"
    try:
        made.start(**far)
        yield made
    finally:
        made.stop()
