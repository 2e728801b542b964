"""The only place that starts processes.

:func:`read` asks something and always runs. :func:`run` and :func:`stream`
change things; :func:`run` honours ``--dry``. Arguments are always a list, and
no shell ever sees them.

What changes things runs in a process group that cannot outlive this process,
not even after `kill -9`: a `sh` in the same group blocks on a pipe that only
this process holds open, and kills the group when the pipe closes. (A parent
death signal would reach only the direct child, and `go build` has a whole tree
of them.)
"""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from .errors import BuildError, Failure, MissingRequirementError

Arguments = Sequence[str | os.PathLike[str]]

# Seconds a group gets between SIGTERM and SIGKILL.
GRACE_SECONDS = 5.0
# Seconds that a remote command gets; it has ten until it is killed there.
REMOTE_GRACE_SECONDS = 15.0

# What a child may see of our environment: who and where we are, how to reach
# the network, what to trust. Everything else is named by the caller.
_INHERITED = (
    "HOME", "LOGNAME", "PATH", "SHELL", "TMPDIR", "TZ", "USER", "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY",
    "http_proxy", "https_proxy", "no_proxy", "all_proxy",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "GIT_SSL_CAINFO", "SSH_AUTH_SOCK",
    "DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG",
)  # fmt: skip


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The explicit environment of a child: a short list of ours, then `extra`."""
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return {**inherited, "LC_ALL": "C.UTF-8", **(extra or {})}


def as_root() -> list[str]:
    """What to put before a command that only root may run.

    Raises:
        MissingRequirementError: not root, and there is no sudo.
    """
    if os.geteuid() == 0:
        return []
    if which("sudo") is None:
        raise MissingRequirementError("this needs root, and there is no sudo", "run it as root")
    return ["sudo", "--preserve-env"]


def namespaced() -> list[str]:
    """What to put before a command that mounts, or starts what might outlive it.

    It gets mounts and processes of its own, and they all end with it, however it
    ends. Whoever is not root gets to be it inside, with the user ids that
    /etc/subuid grants: for that, newuidmap must be installed.
    """
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user", "--map-auto"]
    return [
        "unshare", *user, "--mount", "--pid", "--fork", "--kill-child=SIGKILL", "--mount-proc",
    ]  # fmt: skip


def children(pid: int) -> list[int]:
    """The processes that a process has started, by any of its threads, and that are there still."""
    found: list[int] = []
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        # A thread may end while we look.
        with contextlib.suppress(OSError):
            found += map(int, listed.read_text().split())
    return found


def whole_environment() -> dict[str, str]:
    """Everything of ours, for a child that is to see what we see: our own tests."""
    return dict(os.environ)


def show(args: Arguments) -> str:
    """A command as one could paste it; only ever for people to read."""
    return shlex.join(os.fspath(arg) for arg in args)


def which(name: str) -> Path | None:
    """Where a command is found on PATH, or where Debian keeps those of the administrator."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    return Path(found) if found else None


def describe_exit(code: int) -> str:
    """'exit code 2', or 'killed by SIGKILL'."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def _not_found(args: Arguments) -> MissingRequirementError:
    tool = os.fspath(args[0])
    return MissingRequirementError(
        f"command not found: {tool}", "run `invoke doctor --fix` to install it", tool
    )


# There is none, it is not permitted, it is for another architecture.
_NO_PROGRAM = {errno.ENOENT, errno.EACCES, errno.ENOEXEC}


def _is_missing(args: Arguments, error: OSError, cwd: Path | None) -> bool:
    """True when a start failed because there is no such command."""
    tool = os.fspath(args[0])
    if error.errno not in _NO_PROGRAM or (cwd is not None and not cwd.is_dir()):
        return False
    return os.sep not in tool or not Path(tool).exists()


@dataclass(frozen=True)
class Result:
    """How a command that was only read ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def ok(self) -> bool:
        """True for exit code 0."""
        return self.code == 0

    @property
    def last_line(self) -> str:
        """The last line said on stderr, else on stdout: usually the reason."""
        lines = (self.stderr.strip() or self.stdout.strip()).splitlines()
        return lines[-1].strip() if lines else ""


def probe(
    args: Arguments,
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float | None = 60.0,
) -> Result:
    """Run a command that changes nothing of ours and capture its output, whatever its exit code.

    Args:
        args: the command.
        cwd: where to run it.
        env: the whole environment; by default :func:`environment`.
        timeout: seconds; code 124 when they pass, as timeout(1) has it. A
            command without one may run long, so it cannot outlive us.

    Returns:
        How it ended. Code 126, as a shell has it, is a file that cannot be executed: not
        permitted, for another architecture, or its loader is missing.

    Raises:
        MissingRequirementError: there is no such command.
    """
    try:
        if timeout is None:
            with guarded(
                args, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            ) as child:
                stdout, stderr = child.communicate()
                return Result(child.returncode, _text(stdout), _text(stderr))
        done = subprocess.run(
            [os.fspath(arg) for arg in args],
            cwd=cwd,
            env=dict(env) if env is not None else environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
    except OSError as error:
        if _is_missing(args, error, cwd):
            raise _not_found(args) from error
        if error.errno not in _NO_PROGRAM or (cwd is not None and not cwd.is_dir()):
            raise
        return Result(126, "", f"{show(args[:1])}: cannot be executed: {error.strerror}")
    except subprocess.TimeoutExpired:
        return Result(124, "", f"no answer within {timeout:g} s")
    return Result(done.returncode, _text(done.stdout), _text(done.stderr))


def _text(output: bytes) -> str:
    return output.decode(errors="replace")


def read(
    args: Arguments,
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float | None = 60.0,
    error: type[Failure] = BuildError,
    hint: str = "",
) -> str:
    """The output of a command that changes nothing and must succeed.

    Args:
        args: the command.
        cwd: where to run it.
        env: the whole environment; by default :func:`environment`.
        timeout: as that of :func:`probe`.
        error: what it raises when that fails.
        hint: how to mend that.

    Raises:
        Failure: of the class `error`, when it fails.
        MissingRequirementError: there is no such command.
    """
    result = probe(args, cwd=cwd, env=env, timeout=timeout)
    if not result.ok:
        raise error(
            f"`{show(args)}` failed ({describe_exit(result.code)}): {result.last_line}", hint
        )
    return result.stdout


class Group:
    """A process group that ends when this process does, however it ends."""

    def __init__(self) -> None:
        gate, self._open_while_alive = os.pipe()
        try:
            self._watch = subprocess.Popen(
                ["/bin/sh", "-c", 'trap "" INT TERM HUP; read -r _; kill -KILL 0'],
                stdin=gate,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                process_group=0,
                env={},
            )
        finally:
            os.close(gate)

    def start(
        self,
        args: Arguments,
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
        stdin: int = subprocess.DEVNULL,
    ) -> subprocess.Popen[bytes]:
        """Start a command in the group; its arguments are those of :func:`guarded`.

        Raises:
            MissingRequirementError: there is no such command.
        """
        try:
            return subprocess.Popen(
                [os.fspath(arg) for arg in args],
                cwd=cwd,
                env=dict(env) if env is not None else environment(),
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                process_group=self._watch.pid,
            )
        except OSError as error:
            if _is_missing(args, error, cwd):
                raise _not_found(args) from error
            raise

    def close(
        self, child: subprocess.Popen[bytes] | None = None, *, grace: float = GRACE_SECONDS
    ) -> None:
        """End whatever is left of the group: politely while `child` runs, then not."""
        if child is not None and child.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._watch.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(grace)
        os.close(self._open_while_alive)
        # The watch does the same, unless it was stopped, or ended before its trap was set.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._watch.pid, signal.SIGKILL)
        self._watch.wait()
        if child is not None:
            child.wait()


@contextlib.contextmanager
def guarded(
    args: Arguments,
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdout: int | None = None,
    stderr: int | None = None,
    stdin: int = subprocess.DEVNULL,
    grace: float = GRACE_SECONDS,
) -> Iterator[subprocess.Popen[bytes]]:
    """A running command whose whole group is gone when the block ends, `grace` seconds later.

    Args:
        args: the command.
        cwd: where to run it.
        env: the whole environment; by default :func:`environment`.
        stdout: a file descriptor, or what subprocess has for one.
        stderr: the same.
        stdin: the same; nothing by default.
        grace: seconds.

    Raises:
        MissingRequirementError: there is no such command.
    """
    group = Group()
    child = None
    try:
        child = group.start(args, cwd=cwd, env=env, stdout=stdout, stderr=stderr, stdin=stdin)
        yield child
    finally:
        group.close(child, grace=grace)


@contextlib.contextmanager
def afterwards(commands: Sequence[Arguments]) -> Iterator[None]:
    """Have commands run if this process is killed within the block; what ends otherwise is the caller's.

    Somebody else's daemon keeps what we have started there, and no signal reaches it.
    """
    gate, open_while_alive = os.pipe()
    script = 'trap "" INT TERM HUP; read -r _ && exit; ' + "; ".join(map(show, commands))
    try:
        watch = subprocess.Popen(
            ["/bin/sh", "-c", script],
            stdin=gate,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment(),
            start_new_session=True,
        )
    finally:
        os.close(gate)
    try:
        yield
    finally:
        with contextlib.suppress(BrokenPipeError):
            os.write(open_while_alive, b"\n")
        os.close(open_while_alive)
        watch.wait()


def run(
    args: Arguments,
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    dry: bool = False,
    title: str = "",
    error: type[Failure] = BuildError,
    hint: str = "",
) -> None:
    """Run a command that changes something; its output goes to our stderr.

    Args:
        args: the command.
        cwd: where to run it.
        env: the whole environment; by default :func:`environment`.
        dry: only print the command.
        title: what to call it when it fails, if all its arguments are too many to read.
        error: the failure to raise.
        hint: what to do when it fails.

    Raises:
        Failure: of the class `error`, when it fails.
        MissingRequirementError: there is no such command.
    """
    if dry:
        print(f"would run: {show(args)}", file=sys.stderr)
        return
    with guarded(args, cwd=cwd, env=env, stdout=sys.stderr.fileno()) as child:
        code = child.wait()
    if code:
        raise error(f"`{title or show(args)}` failed ({describe_exit(code)})", hint)


def attached(args: Arguments, *, env: Mapping[str, str] | None = None) -> int:
    """Run a command with our output, and an input that stays open as long as we live.

    When we are interrupted its input is closed first, and it gets time to end by
    itself: a remote command is ended by that, and tells so.

    Returns:
        The exit code; negative for a signal.

    Raises:
        MissingRequirementError: there is no such command.
    """
    with guarded(args, env=env, stdin=subprocess.PIPE) as child:
        assert child.stdin is not None
        with child.stdin:
            try:
                return child.wait()
            except KeyboardInterrupt:
                child.stdin.close()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(REMOTE_GRACE_SECONDS)
                raise


def stream(
    args: Arguments,
    on_line: Callable[[str], None],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    on_tick: Callable[[], None] = lambda: None,
    tick: float = 0.25,
    grace: float = GRACE_SECONDS,
) -> int:
    """Run a command and hand over its output, stdout and stderr together, line by line.

    Args:
        args: the command.
        on_line: called with each line, without its end.
        cwd: where to run it.
        env: the whole environment; by default :func:`environment`.
        on_tick: called about every `tick` seconds while the command runs.
        tick: seconds.
        grace: seconds that the command gets to end by itself when we are interrupted.

    Returns:
        The exit code; negative for a signal.

    Raises:
        MissingRequirementError: there is no such command.
    """
    import selectors

    with guarded(
        args, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, grace=grace
    ) as child:
        assert child.stdout is not None
        rest = b""
        next_tick = time.monotonic()
        with selectors.DefaultSelector() as selector, child.stdout as pipe:
            selector.register(pipe, selectors.EVENT_READ)
            while True:
                if selector.select(tick):
                    chunk = os.read(pipe.fileno(), 1 << 16)
                    if not chunk:
                        break
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        on_line(line.decode(errors="replace"))
                if time.monotonic() >= next_tick:
                    next_tick = time.monotonic() + tick
                    on_tick()
        if rest:
            on_line(rest.decode(errors="replace"))
        return child.wait()


def replace(args: Arguments) -> NoReturn:
    """Become another command, for one that a person talks to."""
    os.execvp(os.fspath(args[0]), [os.fspath(arg) for arg in args])  # noqa: S606 - no shell


def filtered(
    args: Arguments,
    data: bytes,
    *,
    cwd: Path | None = None,
    error: type[Failure] = BuildError,
) -> bytes:
    """What a filter makes of `data`.

    Args:
        args: the filter.
        data: its input.
        cwd: where to run it.
        error: what it raises when it fails.

    Raises:
        Failure: of the class `error`, when it fails.
        MissingRequirementError: there is no such command.
    """
    with guarded(
        args, cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        stdout, stderr = child.communicate(data)
    if child.returncode:
        raise error(f"`{show(args)}` failed ({describe_exit(child.returncode)}): {_text(stderr)}")
    return stdout
