"""ssh destinations: boards and emulated machines, used alike."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv6Address
from pathlib import Path
from urllib.parse import unquote

from ..core import filesystem, process
from ..core.documents import shown
from ..core.errors import ConnectionLostError, Failure, MachineError, UsageError

#: ssh's own exit code for "could not connect, or lost the connection".
SSH_FAILED = 255

# Ends each answer of the remote shell, on a line of its own.
_END = "--end--"
#: Seconds that an answer of the remote shell, or the next block of a file, may take. Two cores at
#: load 7 took 67 s to boot a machine and to answer (qemu-system).
ANSWER_SECONDS = 300

# Characters that ssh refuses in a host's or a user's name (OpenSSH's ssh.c), and a leading
# dash, which would be an option.
_REFUSED = re.compile(r"^-|[\s\x00-\x1f\x7f\ud800-\udfff'`\"$\\;&<>|(){}]")
_URL = "ssh://"
_FORMS = "give HOST, USER@HOST or ssh://USER@HOST:PORT; see `invoke machine.list`"


def _is_ipv6(text: str) -> bool:
    """True for an IPv6 address, with or without an interface, as in fe80::1%eth0."""
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class Destination:
    """An ssh destination.

    Args:
        name: a host, `user@host`, or a name in ssh's configuration.
        config: an ssh configuration file; None for the user's.
        options: more ssh options.
        port: sshd's port; 0 for the port in ssh's configuration.
    """

    name: str
    config: Path | None = None
    options: tuple[str, ...] = ()
    port: int = 0

    @classmethod
    def parse(cls, text: str) -> Destination:
        """Parse a destination.

        Args:
            text: `HOST`, `USER@HOST` or `ssh://USER@HOST:PORT`; an IPv6 address with or
                without brackets.

        Raises:
            UsageError: the text is not a destination, or has a port but no `ssh://`.
        """
        is_url = text.startswith(_URL)
        user, at, location = text.removeprefix(_URL).rpartition("@")
        if is_url:
            location = location.removesuffix("/")
            user = unquote(user)
            if ":" in user:
                raise UsageError("an ssh destination cannot contain a password", _FORMS)
        found = re.fullmatch(r"\[(?P<address>[^]]*)\](?::(?P<port>.*))?", location)
        if found:
            host, port = found["address"], found["port"]
        elif _is_ipv6(location):
            host, port = location, None
        else:
            host, colon, after = location.partition(":")
            port = after if colon else None
        if (
            not host
            or (at and not user)
            or _REFUSED.search(host)
            or _REFUSED.search(user)
            or "/" in host
            or ("[" in location and not (found and _is_ipv6(host)))
        ):
            raise UsageError(f"{shown(text)} is not an ssh destination", _FORMS)
        name = f"{user}@{host}" if user else host
        if port is None:
            return cls(name)
        if not re.fullmatch("[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
            raise UsageError(f"{shown(text)}: {shown(port)} is not a port", _FORMS)
        if not is_url:
            raise UsageError(
                f"{shown(text)}: HOST:PORT is not an ssh destination",
                f"write {_URL}{f'{user}@' if user else ''}{cls._bracketed(host)}:{port}",
            )
        return cls(name, port=int(port))

    @property
    def label(self) -> str:
        """The destination's name in messages."""
        user, at, host = self.name.rpartition("@")
        return f"{_URL}{user}{at}{self._bracketed(host)}:{self.port}" if self.port else self.name

    @staticmethod
    def _bracketed(host: str) -> str:
        return f"[{host}]" if ":" in host else host

    def ssh(self, *args: str) -> list[str]:
        """The ssh command, without the destination."""
        config = ["-F", str(self.config)] if self.config else []
        port = ["-p", str(self.port)] if self.port else []
        return ["ssh", *config, *port, *self.options, *args]

    def command(self, remote: Sequence[str]) -> list[str]:
        """The command that runs `remote` on the destination with the same arguments."""
        # ssh joins its arguments with spaces and passes them to a shell.
        return [*self.ssh("-T"), self.name, "--", shlex.join(remote)]

    def probe(self, remote: Sequence[str], *, timeout: float | None = 60.0) -> process.Result:
        """Run a short command on the destination and capture its output."""
        return process.probe(self.command(remote), timeout=timeout)

    def read(self, remote: Sequence[str], *, timeout: float | None = 60.0) -> str:
        """Return the output of a short command on the destination.

        Raises:
            ConnectionLostError: ssh cannot connect, or the command timed out.
            MachineError: the command failed.
        """
        answer = self.probe(remote, timeout=timeout)
        if answer.code in {SSH_FAILED, 124}:
            raise self.lost(answer.last_line)
        if not answer.ok:
            raise MachineError(
                f"`{process.show(remote)}` failed on {self.label}"
                f" ({process.describe_exit(answer.code)}): {answer.last_line}"
            )
        return answer.stdout

    def alive(self) -> bool:
        """True while the connection of :meth:`connected` is up."""
        return process.probe([*self.ssh("-O", "check"), self.name]).ok

    def lost(self, reason: str) -> ConnectionLostError:
        """The error for a failed connection."""
        return ConnectionLostError(
            f"no connection to {self.label}: {reason or 'it was closed'}",
            f"try `ssh {self.label}`, or `invoke machine.status`",
        )

    @contextlib.contextmanager
    def connected(
        self, question: str = ":", *args: str
    ) -> Iterator[tuple[Destination, Callable[[], str]]]:
        """Open one shared connection, with a remote shell that answers a question repeatedly.

        Under emulation a handshake takes a second and a new shell a tenth of a second.

        Args:
            question: a POSIX shell script; its output is the answer.
            args: the script's arguments.

        Returns:
            This destination over the shared connection, and a function that runs the
            question and returns the answer or raises ConnectionLostError. A question
            takes :data:`ANSWER_SECONDS` at most: the keepalive of ssh does not notice a
            host that answers the network while its disk hangs.

        Raises:
            ConnectionLostError: ssh cannot connect.
        """
        # BatchMode: ssh runs in its own process group and would stop when it asks on the
        # terminal. For a new host key or a password, the user runs `ssh NAME` once.
        # All options go to each ssh: without the shared connection, ssh opens one of its own.
        options = (
            *self.options, "-o", "BatchMode=yes", "-o", "ConnectTimeout=30",
            "-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4",
        )  # fmt: skip
        with filesystem.socket_directory() as directory:
            path = ("-o", f"ControlPath={directory}/ssh")
            shared = replace(self, options=(*options, "-o", "ControlMaster=no", *path))
            master = replace(
                self,
                options=(*options, "-o", "ControlMaster=yes", *path, "-o", "ControlPersist=no"),
            )
            # The connection stays up while this shell's input is open.
            loop = (
                f"ask() (\n{question}\n)\necho; echo {_END}\n"
                f'while read -r line; do ask "$@"; echo; echo {_END}; done'
            )
            pipe = subprocess.PIPE
            with (
                process.child_process(
                    master.command(["sh", "-c", loop, "sh", *args]),
                    stdin=pipe,
                    stdout=pipe,
                    stderr=pipe,
                ) as child,
                contextlib.ExitStack() as pipes,
            ):
                stdin, stdout, stderr = (
                    pipes.enter_context(end)
                    for end in (child.stdin, child.stdout, child.stderr)
                    if end is not None
                )

                def answer() -> str:
                    output: list[str] = []
                    limit = threading.Timer(ANSWER_SECONDS, child.kill)
                    limit.start()
                    try:
                        for line in stdout:
                            if line == f"{_END}\n".encode():
                                return "".join(output).removesuffix("\n")
                            output.append(line.decode(errors="replace"))
                        errors = stderr.read().decode(errors="replace").strip().splitlines()
                    finally:
                        limit.cancel()
                    if child.wait() == -signal.SIGKILL:
                        raise self.lost(f"no answer within {ANSWER_SECONDS} s")
                    raise self.lost(errors[-1] if errors else "")

                def ask() -> str:
                    with contextlib.suppress(BrokenPipeError):
                        os.write(stdin.fileno(), b"\n")
                    return noise + answer()

                noise = answer()
                yield shared, ask

    def rsync(self, *args: str, error: type[Failure] = MachineError) -> None:
        """Run rsync to or from the destination; write remote paths as `:path`.

        Raises:
            Failure: of the class `error`, when rsync fails.
        """
        user, at, host = self.name.rpartition("@")
        prefix = f"{user}{at}{self._bracketed(host)}"
        arguments = [f"{prefix}{arg}" if arg.startswith(":") else arg for arg in args]
        process.run(
            ["rsync", f"--rsh={shlex.join(self.ssh())}", f"--timeout={ANSWER_SECONDS}", *arguments],
            error=error, hint=f"check that {self.label} is up and has free space",
        )  # fmt: skip
