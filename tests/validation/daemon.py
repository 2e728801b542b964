"""A buildkitd of dist/ with a socket and a state of its own, and its buildctl."""

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

from buildkit_riscv64 import host, process
from buildkit_riscv64.host import Execution

from ..processes import alive, eventually

#: Seconds for one build. What passes never waits so long; an emulated machine takes its time.
BOUND = 300.0 if host.execution() is Execution.NATIVE else 1800.0


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Args:
        args: the command.
        code: its exit code.
        stdout: what it said there.
        stderr: what it said there; buildctl shows its progress there.
    """

    args: Sequence[str]
    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """What it printed for scripts."""
        return json.loads(self.stdout)

    @property
    def cached(self) -> list[bool]:
        """Of each RUN, COPY and ADD in order: was it taken from the cache, as progress says?"""
        steps = re.findall(r"^#(\d+) \[[^]]*\] (?:RUN|COPY|ADD)\b", self.stderr, re.MULTILINE)
        return [f"\n#{step} CACHED\n" in self.stderr for step in sorted(set(steps), key=int)]

    def good(self) -> Ended:
        """Itself, if it succeeded; a failed test otherwise."""
        assert self.code == 0, f"{process.show(self.args)} ended with {self.code}:\n{self.stdout}{self.stderr}"  # fmt: skip
        return self

    def bad(self, *words: str) -> Ended:
        """Itself, if it failed and said these words; a failed test otherwise."""
        assert self.code != 0, f"{process.show(self.args)} succeeded:\n{self.stdout}{self.stderr}"
        for word in words:
            assert word in self.stderr, f"{word!r} is not in:\n{self.stderr}"
        return self


def run(
    *args: str | Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = BOUND,
) -> Ended:
    """Run a command to its end, whatever that is.

    Args:
        args: the command.
        env: what it sees besides our environment.
        cwd: where.
        timeout: seconds, after which the test fails.
    """
    words = [os.fspath(arg) for arg in args]
    done = subprocess.run(
        words, env={**os.environ, **(env or {})}, cwd=cwd, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, errors="replace", timeout=timeout, check=False,
    )  # fmt: skip
    return Ended(words, done.returncode, done.stdout, done.stderr)


class Daemon:
    """buildkitd as root; stopped or killed and started again, it has the same state.

    Args:
        binaries: the folder with buildkitd and buildctl.
        folder: for its state, its log and its configuration.
        config: its buildkitd.toml.
        flags: its flags besides.
        wrap: what is put before it, as in `["setpriv", …]`.
    """

    def __init__(
        self,
        binaries: Path,
        folder: Path,
        *,
        config: str = "",
        flags: Sequence[str] = (),
        wrap: Sequence[str] = (),
    ) -> None:
        self.binaries = binaries
        self.folder = folder
        #: Its state: what `--root` names.
        self.root = folder / "root"
        self.log_file = folder / "buildkitd.log"
        #: Flags of the next start.
        self.flags = list(flags)
        # A socket's path is short.
        self._sockets = tempfile.TemporaryDirectory(prefix="bk-")
        self.address = f"unix://{self._sockets.name}/buildkitd.sock"
        self.configure(config)
        self._wrap = list(wrap)
        self._running: tuple[process.Group, subprocess.Popen[bytes]] | None = None

    def configure(self, config: str) -> None:
        """Give it another buildkitd.toml, from its next start on."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "buildkitd.toml").write_text(config)

    @property
    def log(self) -> str:
        """What it has said since it was made."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    @property
    def pid(self) -> int:
        """Of buildkitd itself, which runs in a namespace of processes."""
        assert self._running is not None, "it does not run"
        (inside,) = process.children(self._running[1].pid)
        return inside

    @property
    def running(self) -> bool:
        """True until it has ended."""
        return self._running is not None and self._running[1].poll() is None

    def start(self, *, wait: bool = True) -> Daemon:
        """Start it, and return when it answers.

        Args:
            wait: False to return at once.
        """
        assert not self.running, "it runs"
        Path(self.address.removeprefix("unix://")).unlink(missing_ok=True)
        group = process.Group()
        with self.log_file.open("ab") as log:
            child = group.start(
                [
                    *self._wrap, *process.namespaced(), self.binaries / "buildkitd",
                    f"--root={self.root}", f"--addr={self.address}",
                    f"--config={self.folder / 'buildkitd.toml'}",
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
        """Until it answers, or has ended, which fails the test."""
        answered = eventually(lambda: not self.running or self.answers(), BOUND)
        assert self.running, f"buildkitd ended: {self.log[-3000:]}"
        assert answered, f"buildkitd does not answer: {self.log[-3000:]}"

    def answers(self) -> bool:
        """True when it tells its workers."""
        return run(self.binaries / "buildctl", "--addr", self.address, "debug", "workers").code == 0

    def stop(self) -> int:
        """End it as an init system does, by SIGTERM; its exit code."""
        return self._end(signal.SIGTERM)

    def kill(self) -> int:
        """End it as a crash would: buildkitd and all that it has started, at once."""
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
            child.wait(60)
        group.close(child)
        # A namespace's first process is gone when all others are.
        assert eventually(lambda: not any(map(alive, inside))), "buildkitd does not end"
        return child.returncode

    def close(self) -> None:
        """End it, and remove all that it has made."""
        self.kill()
        self._sockets.cleanup()

    def buildctl(self, *args: str | Path, **options: Any) -> Ended:
        """Run buildctl against it, with the options of :func:`run`."""
        return run(self.binaries / "buildctl", "--addr", self.address, *args, **options)

    def build_command(self, context: Path, *args: str | Path) -> list[str]:
        """The command that builds a folder with a Dockerfile."""
        return [
            str(self.binaries / "buildctl"), "--addr", self.address, "build", "--progress=plain",
            "--frontend=dockerfile.v0", f"--local=context={context}",
            f"--local=dockerfile={context}", *map(str, args),
        ]  # fmt: skip

    def build(self, context: Path, *args: str | Path, **options: Any) -> Ended:
        """Build a folder with a Dockerfile, with the options of :func:`run`."""
        return run(*self.build_command(context, *args), **options)

    def du(self) -> list[dict[str, Any]]:
        """Its cache, record by record."""
        said = self.buildctl("du", "--format={{json .}}").good().stdout
        return json.loads(said) or [] if said.strip() else []


#: Makes a daemon, not started: with the options of :class:`Daemon`.
NewDaemon = Callable[..., Daemon]
