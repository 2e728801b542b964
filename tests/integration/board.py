"""This machine as a board: a real sshd on loopback, with its own keys, home and PATH."""

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
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from buildkit_riscv64.validation.environment.loopback import free_port
from buildkit_riscv64.validation.environment.scripts import script
from buildkit_riscv64.validation.environment.waiting import eventually

from .miniature import Project

NAME = "board"
SSHD = Path("/usr/sbin/sshd")


def key(path: Path) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path


@dataclass
class Board:
    """A board, and the checkout that uses it.

    Args:
        project: the checkout.
        home: the home directory on the board.
        config: the user's ssh configuration.
        port: sshd's port.
        sshd: sshd's process.
    """

    project: Project
    home: Path
    config: Path
    port: int
    sshd: subprocess.Popen[bytes] | None = None

    @property
    def folder(self) -> Path:
        """The checkout on the board."""
        identity = f"{os.uname().nodename}:{self.project.root}"
        name = hashlib.sha256(identity.encode()).hexdigest()[:12]
        return self.home / ".cache/buildkit-riscv64/checkouts" / name

    def start(self, **changes: str) -> None:
        """Start sshd; remote commands get the project's environment, with these changes."""
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
        assert eventually(self._answers), (place / "sshd.log").read_text()

    def _answers(self) -> bool:
        assert self.sshd is not None
        assert self.sshd.poll() is None, (self.home.parent / "sshd.log").read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
            return True
        return False

    def stop(self) -> None:
        """End sshd and each of its connections."""
        self.cut()
        if self.sshd is not None:
            self.sshd.terminate()
            self.sshd.wait()
            self.sshd = None

    def cut(self) -> None:
        """Kill the connections, as a lost network does."""
        for pid in self._connections():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _connections(self) -> list[int]:
        """The processes of sshd that serve connections, without the commands that they run."""
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
        """Write the board's key to the user's known_hosts."""
        (self.config.parent / "known_hosts").write_text(f"{NAME} {public.read_text()}")

    def add_host(self, host: str, *, port: bool) -> None:
        """Add an address of this board to the ssh configuration, with or without its port."""
        key = (self.home.parent / "host_key.pub").read_text()
        with (self.config.parent / "known_hosts").open("a") as file:
            file.write(f"{NAME} {key}")
        lines = [
            f"Host {host}", "  HostName 127.0.0.1", f"  HostKeyAlias {NAME}",
            f"  IdentityFile {self.home.parent}/user_key", "  IdentitiesOnly yes",
            f"  UserKnownHostsFile {self.config.parent}/known_hosts", "  GlobalKnownHostsFile /dev/null",
            *([f"  Port {self.port}"] if port else []),
        ]  # fmt: skip
        self.config.write_text("\n".join([*lines, self.config.read_text()]))

    def take_python(self) -> None:
        """Let the board's checkout use the tests' Python environment, without a download."""
        venv = self.folder / ".venv"
        program = script(venv / "bin" / "python", f'exec {sys.executable} "$@"')
        lock = (self.project.root / "requirements" / "runtime.txt").read_text()
        (venv / "stamp").write_text(f"{lock}{program.resolve()}\n")


@contextlib.contextmanager
def board(project: Project, **changes: str) -> Iterator[Board]:
    """A board for a project; sshd ends with the block."""
    place = project.root.parent / "board"
    (place / "home").mkdir(parents=True)
    (place / "user").mkdir()
    key(place / "host_key")
    key(place / "user_key")
    new = Board(project, place / "home", place / "user" / "config", free_port())
    new.known_host(place / "host_key.pub")
    new.config.write_text(
        f"Host {NAME}\n  HostName 127.0.0.1\n  Port {new.port}\n  User {getpass.getuser()}\n"
        f"  HostKeyAlias {NAME}\n  IdentityFile {place}/user_key\n  IdentitiesOnly yes\n"
        f"  UserKnownHostsFile {place}/user/known_hosts\n  GlobalKnownHostsFile /dev/null\n"
    )
    # ssh ignores HOME and reads ~/.ssh/config from the home in the password file.
    real = shutil.which("ssh")
    assert real, "the tests need ssh"
    assert SSHD.exists(), "the tests need sshd: apt-get install openssh-server"
    script(place / "bin" / "ssh", f'exec {real} -F {new.config} "$@"')
    far: Mapping[str, str] = {"PATH": project.env["PATH"], **changes}
    project.env["PATH"] = f"{place}/bin:{project.env['PATH']}"
    try:
        new.start(**far)
        yield new
    finally:
        new.stop()
