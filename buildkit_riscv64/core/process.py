"""Child processes: the only module that starts processes.

:func:`read` and :func:`probe` start commands that only read, and always run them. The other
functions start commands that change something: under `--dry`, :func:`run` and :func:`replace`
only print the command, and the others are refused (:mod:`.dry_run`). Arguments are always a list,
and no shell interprets them.

Commands that change something run in a process group that ends with this process, also after
`kill -9`: a `sh` in the same group blocks on a pipe that only this process holds open, and kills
the group when the pipe closes. (A parent death signal reaches only the direct child, and
`go build` has a tree of children.)
"""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import dry_run, project
from .console import log
from .errors import BuildError, Failure, MissingRequirementError

Arguments = Sequence[str | os.PathLike[str]]

# Seconds between SIGTERM and SIGKILL for a group.
GRACE_SECONDS = 5.0
# Seconds for a remote command to end; the remote side kills it after ten.
REMOTE_GRACE_SECONDS = 15.0

# The variables that a child inherits: user, directories, network and certificates.
_INHERITED = (
    "HOME", "LOGNAME", "PATH", "SHELL", "TMPDIR", "TZ", "USER", "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY",
    "http_proxy", "https_proxy", "no_proxy", "all_proxy",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "GIT_SSL_CAINFO", "SSH_AUTH_SOCK",
    "DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG",
)  # fmt: skip
# The specification says to ignore relative values; some programs do not.
_ABSOLUTE = ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR")


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a child: a short list of our variables, then `extra`."""
    inherited = {
        name: os.environ[name] for name in _INHERITED
        if name in os.environ and (name not in _ABSOLUTE or Path(os.environ[name]).is_absolute())
    }  # fmt: skip
    if os.geteuid() == 0:
        # Root's git also trusts checkouts of this user, such as ours.
        owner = project.ROOT.stat().st_uid
        inherited["SUDO_UID"] = os.environ.get("SUDO_UID") or str(owner)
    return {**inherited, "LC_ALL": "C.UTF-8", **(extra or {})}


def as_root() -> list[str]:
    """The prefix of a command that only root may run.

    Raises:
        MissingRequirementError: this user is not root, and sudo is not installed.
    """
    if os.geteuid() == 0:
        return []
    if which("sudo") is None:
        raise MissingRequirementError(
            "this needs root, and sudo is not installed", "run it as root"
        )
    return ["sudo", "--preserve-env"]


def namespaced() -> list[str]:
    """The prefix of a command that mounts filesystems or leaves processes behind.

    Its mount and PID namespaces end with the command. A user who is not root becomes root inside,
    with the user ids of /etc/subuid, which requires newuidmap.
    """
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user", "--map-auto"]
    return [
        "unshare", *user, "--mount", "--pid", "--fork", "--kill-child=SIGKILL", "--mount-proc",
    ]  # fmt: skip


def children(pid: int) -> list[int]:
    """The living children of a process, from all of its threads."""
    found: list[int] = []
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        # A thread may end meanwhile.
        with contextlib.suppress(OSError):
            found += map(int, listed.read_text().split())
    return found


def whole_environment() -> dict[str, str]:
    """Our whole environment, for our own tests."""
    return dict(os.environ)


def show(args: Arguments) -> str:
    """A command in shell syntax, for messages."""
    return shlex.join(os.fspath(arg) for arg in args)


def which(name: str) -> Path | None:
    """The path of a command in PATH, /usr/sbin or /sbin."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    return Path(found) if found else None


def describe_exit(code: int) -> str:
    """The end of a command, as in 'exit code 2' or 'killed by SIGKILL'."""
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


#: The exit code of a command that reached its timeout, as of timeout(1).
TIMED_OUT = 124
# Missing, not permitted, or for another architecture.
_NO_PROGRAM = {errno.ENOENT, errno.EACCES, errno.ENOEXEC}


def _is_missing(args: Arguments, error: OSError, cwd: Path | None) -> bool:
    """True when a start failed because the command does not exist."""
    tool = os.fspath(args[0])
    if error.errno not in _NO_PROGRAM or (cwd is not None and not cwd.is_dir()):
        return False
    return os.sep not in tool or not Path(tool).exists()


@dataclass(frozen=True)
class Result:
    """The exit code and the output of a command."""

    code: int
    stdout: str
    stderr: str

    @property
    def ok(self) -> bool:
        """True for exit code 0."""
        return self.code == 0

    @property
    def last_line(self) -> str:
        """The last line on stderr, else on stdout: usually the reason."""
        lines = (self.stderr.strip() or self.stdout.strip()).splitlines()
        return lines[-1].strip() if lines else ""


def probe(
    args: Arguments,
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float | None = 60.0,
    changes: bool = False,
) -> Result:
    """Run a command and capture its output, with any exit code.

    Args:
        args: the command.
        cwd: where to run it.
        env: the whole environment; by default :func:`environment`.
        timeout: seconds; then the code is :data:`TIMED_OUT`. A command without a timeout
            ends with this process.
        changes: the command changes something, so it is refused under `--dry`.

    Returns:
        The result. Code 126, as in a shell, means that the file cannot be executed: not
        permitted, for another architecture, or without its loader.

    Raises:
        MissingRequirementError: the command does not exist.
    """
    with contextlib.nullcontext() if changes else dry_run.reading():
        return _probe(args, cwd, env, timeout)


def _probe(
    args: Arguments, cwd: Path | None, env: Mapping[str, str] | None, timeout: float | None
) -> Result:
    try:
        if timeout is None:
            with child_process(
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
        reason = error.strerror
        if error.errno == errno.EACCES and os.statvfs(args[0]).f_flag & os.ST_NOEXEC:
            reason = "its filesystem is mounted noexec"
        return Result(126, "", f"{show(args[:1])}: cannot be executed: {reason}")
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
    changes: bool = False,
    error: type[Failure] = BuildError,
    hint: str = "",
) -> str:
    """The output of a command that must succeed.

    Args:
        args: the command.
        cwd: where to run it.
        env: the whole environment; by default :func:`environment`.
        timeout: as for :func:`probe`.
        changes: as for :func:`probe`.
        error: the class of the failure.
        hint: how to fix a failure.

    Raises:
        Failure: of the class `error`; the command failed.
        MissingRequirementError: the command does not exist.
    """
    result = probe(args, cwd=cwd, env=env, timeout=timeout, changes=changes)
    if not result.ok:
        raise error(
            f"`{show(args)}` failed ({describe_exit(result.code)}): {result.last_line}", hint
        )
    return result.stdout


class Group:
    """A process group that ends with this process, even after `kill -9`."""

    def __init__(self) -> None:
        pipe, self._open_while_alive = os.pipe()
        try:
            self._watch = subprocess.Popen(
                ["/bin/sh", "-c", 'trap "" INT TERM HUP; read -r _; kill -KILL 0'],
                stdin=pipe,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                process_group=0,
                env={},
            )
        finally:
            os.close(pipe)

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
        """Start a command in the group; the arguments are those of :func:`child_process`.

        Raises:
            MissingRequirementError: the command does not exist.
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
        """End the group: SIGTERM while `child` runs, then SIGKILL."""
        if child is not None and child.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._watch.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(grace)
        os.close(self._open_while_alive)
        # The watch does the same, unless it was stopped or ended before it set its trap.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._watch.pid, signal.SIGKILL)
        self._watch.wait()
        if child is not None:
            child.wait()


@contextlib.contextmanager
def child_process(
    args: Arguments,
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdout: int | None = None,
    stderr: int | None = None,
    stdin: int = subprocess.DEVNULL,
    grace: float = GRACE_SECONDS,
) -> Iterator[subprocess.Popen[bytes]]:
    """A running command; its whole group ends with the block.

    Args:
        args: the command.
        cwd: where to run it.
        env: the whole environment; by default :func:`environment`.
        stdout: a file descriptor, or a constant of subprocess.
        stderr: the same.
        stdin: the same; by default no input.
        grace: seconds between SIGTERM and SIGKILL.

    Raises:
        MissingRequirementError: the command does not exist.
    """
    group = Group()
    child = None
    try:
        child = group.start(args, cwd=cwd, env=env, stdout=stdout, stderr=stderr, stdin=stdin)
        yield child
    finally:
        group.close(child, grace=grace)


@contextlib.contextmanager
def run_if_killed(commands: Sequence[Arguments]) -> Iterator[None]:
    """Run commands if this process is killed within the block.

    They remove files and containers that a daemon keeps for us, which no signal ends.
    """
    pipe, open_while_alive = os.pipe()
    script = 'trap "" INT TERM HUP; read -r _ && exit; ' + "; ".join(map(show, commands))
    try:
        watch = subprocess.Popen(
            ["/bin/sh", "-c", script],
            stdin=pipe,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment(),
            start_new_session=True,
        )
    finally:
        os.close(pipe)
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
    title: str = "",
    error: type[Failure] = BuildError,
    hint: str = "",
) -> None:
    """Run a command that changes something; its output goes to our stderr.

    Under `--dry`, only print the command.

    Args:
        args: the command.
        cwd: where to run it.
        env: the whole environment; by default :func:`environment`.
        title: the command's name in a failure; by default the whole command.
        error: the class of the failure.
        hint: what to do about a failure.

    Raises:
        Failure: of the class `error`; the command failed.
        MissingRequirementError: the command does not exist.
    """
    if dry_run.active():
        log(f"would run: {show(args)}")
        return
    with child_process(args, cwd=cwd, env=env, stdout=sys.stderr.fileno()) as child:
        code = child.wait()
    if code:
        raise error(f"`{title or show(args)}` failed ({describe_exit(code)})", hint)


def attached(args: Arguments, *, env: Mapping[str, str] | None = None) -> int:
    """Run a command with our output, and an input that stays open until this process ends.

    An interruption first closes the input, which ends a remote command, and waits for the
    command.

    Returns:
        The exit code; negative for a signal.

    Raises:
        MissingRequirementError: the command does not exist.
    """
    with child_process(args, env=env, stdin=subprocess.PIPE) as child:
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
    """Run a command, and pass on each line of its stdout and stderr.

    Args:
        args: the command.
        on_line: called with each line, without its line end.
        cwd: where to run it.
        env: the whole environment; by default :func:`environment`.
        on_tick: called about every `tick` seconds while the command runs.
        tick: seconds.
        grace: seconds between SIGTERM and SIGKILL after an interruption.

    Returns:
        The exit code; negative for a signal.

    Raises:
        MissingRequirementError: the command does not exist.
    """
    with child_process(
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


def replace(args: Arguments) -> None:
    """Replace this process by a command; under `--dry`, print the command."""
    if dry_run.active():
        log(f"would run: {show(args)}")
        return
    os.execvp(os.fspath(args[0]), [os.fspath(arg) for arg in args])  # noqa: S606 - no shell


def pipe_through(
    args: Arguments,
    data: bytes,
    *,
    cwd: Path | None = None,
    error: type[Failure] = BuildError,
) -> bytes:
    """The output of a filter. A filter changes nothing, so it also runs under `--dry`.

    Args:
        args: the filter.
        data: its input.
        cwd: where to run it.
        error: the class of the failure.

    Raises:
        Failure: of the class `error`; the filter failed.
        MissingRequirementError: the command does not exist.
    """
    try:
        # If this process is killed, the filter reads the end of its input and ends.
        with dry_run.reading():
            done = subprocess.run(
                [os.fspath(arg) for arg in args], cwd=cwd, env=environment(), input=data,
                capture_output=True, check=False,
            )  # fmt: skip
    except OSError as failure:
        if _is_missing(args, failure, cwd):
            raise _not_found(args) from failure
        raise
    if done.returncode:
        raise error(
            f"`{show(args)}` failed ({describe_exit(done.returncode)}): {_text(done.stderr)}"
        )
    return done.stdout
