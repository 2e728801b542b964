"""A buildkitd of dist/ with its own socket and state, and its buildctl."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from buildkit_riscv64.core import process
from buildkit_riscv64.validation.environment.waiting import BOUND, alive, eventually


@dataclass(frozen=True)
class Result:
    """The result of a command.

    Args:
        args: the command.
        code: its exit code.
        stdout: its standard output.
        stderr: its standard error, with buildctl's progress.
    """

    args: Sequence[str]
    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """Its standard output as JSON."""
        return json.loads(self.stdout)

    @property
    def cached(self) -> list[bool]:
        """For each RUN, COPY and ADD in order: whether progress reports it as cached."""
        steps = re.findall(r"^#(\d+) \[[^]]*\] (?:RUN|COPY|ADD)\b", self.stderr, re.MULTILINE)
        return [f"\n#{step} CACHED\n" in self.stderr for step in sorted(set(steps), key=int)]

    def good(self) -> Result:
        """Fail the test unless the command succeeded."""
        assert self.code == 0, f"{process.show(self.args)} ended with {self.code}:\n{self.stdout}{self.stderr}"  # fmt: skip
        return self

    def bad(self, *words: str) -> Result:
        """Fail the test unless the command failed with these words on standard error."""
        assert self.code != 0, f"{process.show(self.args)} succeeded:\n{self.stdout}{self.stderr}"
        for word in words:
            assert word in self.stderr, f"{word!r} is not in:\n{self.stderr}"
        return self


def run(
    *args: str | Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = BOUND,
) -> Result:
    """Run a command to its end.

    Args:
        args: the command.
        env: variables added to the environment.
        cwd: its working directory.
        timeout: seconds, after which the test fails.
    """
    words = [os.fspath(arg) for arg in args]
    done = subprocess.run(
        words, env={**os.environ, **(env or {})}, cwd=cwd, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, errors="replace", timeout=timeout, check=False,
    )  # fmt: skip
    return Result(words, done.returncode, done.stdout, done.stderr)


class Daemon:
    """buildkitd as root; a restart keeps the state.

    Args:
        binaries: the directory with buildkitd and buildctl.
        directory: for its state, its log and its configuration.
        config: its buildkitd.toml.
        flags: additional flags.
        wrap: a command prefix, as in `["setpriv", …]`.
    """

    def __init__(
        self,
        binaries: Path,
        directory: Path,
        *,
        config: str = "",
        flags: Sequence[str] = (),
        wrap: Sequence[str] = (),
    ) -> None:
        self.binaries = binaries
        self.directory = directory
        #: Its state, the value of `--root`.
        self.root = directory / "root"
        self.log_file = directory / "buildkitd.log"
        #: Flags of the next start.
        self.flags = list(flags)
        # The path of a socket must be short.
        self._sockets = tempfile.TemporaryDirectory(prefix="bk-")
        self.address = f"unix://{self._sockets.name}/buildkitd.sock"
        self.configure(config)
        self._wrap = list(wrap)
        self._running: tuple[process.Group, subprocess.Popen[bytes]] | None = None

    def configure(self, config: str) -> None:
        """Replace its buildkitd.toml, for the next start."""
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / "buildkitd.toml").write_text(config)

    @property
    def log(self) -> str:
        """Its complete log."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    @property
    def pid(self) -> int:
        """The process id of buildkitd, which runs in a namespace."""
        assert self._running is not None, "not running"
        (inside,) = process.children(self._running[1].pid)
        return inside

    @property
    def running(self) -> bool:
        """Whether it is running."""
        return self._running is not None and self._running[1].poll() is None

    def start(self, *, wait: bool = True) -> Daemon:
        """Start it, and wait until it answers.

        Args:
            wait: False to return at once.
        """
        assert not self.running, "already running"
        Path(self.address.removeprefix("unix://")).unlink(missing_ok=True)
        group = process.Group()
        with self.log_file.open("ab") as log:
            child = group.start(
                [
                    *self._wrap, *process.namespaced(), self.binaries / "buildkitd",
                    f"--root={self.root}", f"--addr={self.address}",
                    f"--config={self.directory / 'buildkitd.toml'}",
                    f"--otel-socket-path={self._sockets.name}/otel.sock",
                    "--containerd-worker=false", *self.flags,
                ],
                stdout=log.fileno(), stderr=log.fileno(),
            )  # fmt: skip
        self._running = group, child
        if wait:
            self.wait_until_ready()
        return self

    def wait_until_ready(self) -> None:
        """Wait until it answers; fail the test if it ends."""
        answered = eventually(lambda: not self.running or self.answers())
        assert self.running, f"buildkitd ended: {self.log[-3000:]}"
        assert answered, f"buildkitd does not answer: {self.log[-3000:]}"

    def answers(self) -> bool:
        """Whether it lists its workers."""
        return run(self.binaries / "buildctl", "--addr", self.address, "debug", "workers").code == 0

    def stop(self) -> int:
        """Stop it by SIGTERM; return its exit code."""
        return self._end(signal.SIGTERM)

    def kill(self) -> int:
        """Kill buildkitd and its child processes, as a crash would."""
        return self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> int:
        if self._running is None:
            return 0
        (group, child), self._running = self._running, None
        inside = process.children(child.pid)
        for pid in inside:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(BOUND)
        group.close(child)
        # The first process of a namespace ends last.
        assert eventually(lambda: not any(map(alive, inside))), "buildkitd does not end"
        return child.returncode

    def close(self) -> None:
        """Kill it, and remove its socket."""
        self.kill()
        self._sockets.cleanup()

    def buildctl(self, *args: str | Path, **options: Any) -> Result:
        """Run buildctl, with the options of :func:`run`."""
        return run(self.binaries / "buildctl", "--addr", self.address, *args, **options)

    def build_command(self, context: Path, *args: str | Path) -> list[str]:
        """The command that builds a directory with a Dockerfile."""
        return [
            str(self.binaries / "buildctl"), "--addr", self.address, "build", "--progress=plain",
            "--frontend=dockerfile.v0", f"--local=context={context}",
            f"--local=dockerfile={context}", *map(str, args),
        ]  # fmt: skip

    def build(self, context: Path, *args: str | Path, **options: Any) -> Result:
        """Build a directory with a Dockerfile, with the options of :func:`run`."""
        return run(*self.build_command(context, *args), **options)

    def du(self) -> list[dict[str, Any]]:
        """The records of its cache."""
        reported = self.buildctl("du", "--format={{json .}}").good().stdout
        return json.loads(reported) or [] if reported.strip() else []


#: Creates a daemon with the options of :class:`Daemon`; does not start it.
NewDaemon = Callable[..., Daemon]
