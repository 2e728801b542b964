"""Somewhere that ssh reaches: a board, or an emulated machine. No task can tell them apart."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .. import process
from ..errors import ConnectionLostError, Failure, MachineError

#: ssh's own exit code for "could not connect, or lost the connection".
SSH_FAILED = 255


@dataclass(frozen=True)
class Destination:
    """How to reach a machine.

    Args:
        name: what ssh calls it: a host, `user@host`, or a name in its configuration.
        config: an ssh configuration file of its own; the user's where there is none.
        options: more of ssh's options.
    """

    name: str
    config: Path | None = None
    options: tuple[str, ...] = field(default=())

    def ssh(self, *args: str) -> list[str]:
        """The ssh command, without the destination."""
        config = ["-F", str(self.config)] if self.config else []
        return ["ssh", *config, *self.options, *args]

    def command(self, remote: Sequence[str]) -> list[str]:
        """The command that runs `remote` there; its words arrive as they are."""
        # ssh joins its arguments with spaces and hands them to a shell.
        return [*self.ssh("-T"), self.name, "--", shlex.join(remote)]

    def probe(self, remote: Sequence[str], *, timeout: float | None = 60.0) -> process.Result:
        """Run something short there and capture what it says."""
        return process.probe(self.command(remote), timeout=timeout)

    def read(self, remote: Sequence[str], *, timeout: float | None = 60.0) -> str:
        """The output of something short that must succeed there.

        Raises:
            ConnectionLostError: the machine cannot be reached.
            MachineError: it failed.
        """
        answer = self.probe(remote, timeout=timeout)
        if answer.code in {SSH_FAILED, 124}:
            raise self.lost(answer.last_line)
        if not answer.ok:
            raise MachineError(
                f"`{process.show(remote)}` failed on {self.name}"
                f" ({process.describe_exit(answer.code)}): {answer.last_line}"
            )
        return answer.stdout

    def alive(self) -> bool:
        """True while the connection of :meth:`connected` is up."""
        return process.probe([*self.ssh("-O", "check"), self.name], timeout=10).ok

    def lost(self, reason: str) -> ConnectionLostError:
        """The failure that a connection which fails amounts to."""
        return ConnectionLostError(
            f"no connection to {self.name}: {reason or 'it was closed'}",
            f"is it up? try `ssh {self.name}`, or `invoke machine.status`",
        )

    @contextlib.contextmanager
    def connected(self) -> Iterator[Destination]:
        """The same destination with one connection that everything shares.

        Under emulation a handshake takes a second; this makes it one a run.

        Raises:
            ConnectionLostError: it cannot be reached.
        """
        # BatchMode: what runs in a group of its own cannot ask on the terminal, it
        # would stop there. An unknown host key, a password: `ssh NAME` by hand, once.
        options = (*self.options, "-o", "BatchMode=yes")
        # A short path: a socket's may have no more than 107 characters.
        with tempfile.TemporaryDirectory(prefix="bk-") as folder:
            socket = f"{folder}/ssh"
            shared = Destination(
                self.name, self.config,
                (*options, "-o", "ControlMaster=no", "-o", f"ControlPath={socket}"),
            )  # fmt: skip
            master = Destination(self.name, self.config, options).ssh(
                "-T", "-N", "-o", "ControlMaster=yes", "-o", f"ControlPath={socket}",
                "-o", "ControlPersist=no", "-o", "ServerAliveInterval=15",
                "-o", "ServerAliveCountMax=4", "-o", "ConnectTimeout=30",
            )  # fmt: skip
            with process.guarded(
                [*master, self.name], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
            ) as child:
                assert child.stderr is not None
                with child.stderr:
                    while not os.path.exists(socket):  # noqa: PTH110 - a socket, many times a second
                        try:
                            child.wait(0.02)
                        except subprocess.TimeoutExpired:
                            continue
                        said = child.stderr.read().decode(errors="replace").strip().splitlines()
                        raise self.lost(said[-1] if said else "")
                    yield shared

    def rsync(self, *args: str, error: type[Failure] = MachineError) -> None:
        """Run rsync to or from it; say paths there as `:path`.

        Raises:
            Failure: of the class `error`, when it fails.
        """
        placed = [f"{self.name}{arg}" if arg.startswith(":") else arg for arg in args]
        process.run(
            ["rsync", f"--rsh={shlex.join(self.ssh())}", *placed], error=error,
            hint=f"is {self.name} still up, and is there space?",
        )  # fmt: skip
