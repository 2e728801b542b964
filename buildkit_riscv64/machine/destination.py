"""Somewhere that ssh reaches: a board, or an emulated machine. No task can tell them apart."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import process
from ..errors import ConnectionLostError, Failure, MachineError

#: ssh's own exit code for "could not connect, or lost the connection".
SSH_FAILED = 255

# Ends what is said over there.
_END = "--end--"


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
    options: tuple[str, ...] = ()

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
    def connected(
        self, question: str = ":", *args: str
    ) -> Iterator[tuple[Destination, Callable[[], str]]]:
        """One connection that everything shares, and a question that can be asked over it.

        Under emulation a handshake takes a second, and a shell a tenth of one: this
        makes it one handshake a run, with a shell in it that answers more than once.

        Args:
            question: a script for a POSIX shell; what it prints is the answer.
            args: its arguments.

        Returns:
            The same destination over that connection, and what asks the question
            and returns the answer. That raises ConnectionLostError, too.

        Raises:
            ConnectionLostError: it cannot be reached.
        """
        # BatchMode: what runs in a group of its own cannot ask on the terminal, it
        # would stop there. An unknown host key, a password: `ssh NAME` by hand, once.
        options = (*self.options, "-o", "BatchMode=yes")
        # A short path: a socket's may have no more than 107 characters.
        with tempfile.TemporaryDirectory(prefix="bk-") as folder:
            path = ("-o", f"ControlPath={folder}/ssh")
            shared = Destination(
                self.name, self.config, (*options, "-o", "ControlMaster=no", *path)
            )  # fmt: skip
            master = Destination(
                self.name, self.config,
                (*options, "-o", "ControlMaster=yes", *path, "-o", "ControlPersist=no",
                 "-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4",
                 "-o", "ConnectTimeout=30"),
            )  # fmt: skip
            # The connection lasts for as long as this shell's input is open.
            loop = (
                f"ask() (\n{question}\n)\necho {_END}\n"
                f'while read -r line; do ask "$@"; echo {_END}; done'
            )
            pipe = subprocess.PIPE
            with (
                process.guarded(
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
                    said: list[str] = []
                    for line in stdout:
                        if line == f"{_END}\n".encode():
                            return "".join(said)
                        said.append(line.decode(errors="replace"))
                    told = stderr.read().decode(errors="replace").strip().splitlines()
                    raise self.lost(told[-1] if told else "")

                def ask() -> str:
                    with contextlib.suppress(BrokenPipeError):
                        os.write(stdin.fileno(), b"\n")
                    return noise + answer()

                noise = answer()
                yield shared, ask

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
