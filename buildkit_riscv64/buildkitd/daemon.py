"""A temporary buildkitd."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..core import filesystem, locks, process, project
from ..core.console import log
from ..core.errors import BuildError
from ..system import apt

#: Timeout of the daemon's first answer in seconds; on an idle emulated processor it takes four.
READY_SECONDS = 180.0
#: Seconds for the daemon to end: it writes its databases, perhaps to a slow disk.
STOP_SECONDS = 60.0
#: Seconds between checks for its answer.
LOOK_SECONDS = 0.02


@dataclass(frozen=True)
class Daemon:
    """A running buildkitd.

    Args:
        address: of its socket, for buildctl.
        pid: of buildkitd itself.
    """

    address: str
    pid: int


def tools() -> list[str]:
    """Required commands: runc, and newuidmap for ordinary users."""
    return ["runc"] if os.geteuid() == 0 else ["runc", "newuidmap"]


@contextlib.contextmanager
def running(binaries: Path, *, yes: bool) -> Iterator[str]:
    """Run buildkitd for the duration of a block, on a socket for this user only.

    Ordinary users run it in a user namespace. Its cache is in the user's cache directory.

    Args:
        binaries: the directory with `buildkitd` and `buildctl`.
        yes: install missing packages without asking.

    Returns:
        The address for buildctl.

    Raises:
        MissingRequirementError: runc or newuidmap is missing.
        BuildError: buildkitd does not start.
    """
    apt.ensure_installed(tools(), yes=yes)
    state = project.cache() / "buildkitd"
    with (
        locks.held(state / ".lock", "another run uses our buildkitd; waiting for it"),
        started(binaries, state) as daemon,
    ):
        yield daemon.address


@contextlib.contextmanager
def started(binaries: Path, state: Path, flags: Sequence[str] = ()) -> Iterator[Daemon]:
    """Run buildkitd for the duration of a block, on a socket for this user only.

    Args:
        binaries: the directory with `buildkitd` and `buildctl`.
        state: the directory for its state, not used by others.
        flags: further flags.

    Raises:
        BuildError: buildkitd does not start.
    """
    with (
        filesystem.socket_directory() as directory,
        (Path(directory) / "log").open("wb") as output,
    ):
        address = f"unix://{directory}/buildkitd.sock"
        command = [
            *process.namespaced(), str(binaries / "buildkitd"), f"--root={state}",
            f"--addr={address}",
            # The default is in /run, which may belong to another daemon.
            f"--otel-socket-path={directory}/otel.sock", "--containerd-worker=false", "--oci-worker-net=host",
            *([] if os.geteuid() == 0 else ["--rootless"]), *flags,
        ]  # fmt: skip
        # runc keeps its state in the first, except as root. buildkitd tries emulators in the
        # second, and leaves files there if it is killed.
        env = process.environment({"XDG_RUNTIME_DIR": directory, "TMPDIR": str(state)})
        with process.child_process(
            command, env=env, stdout=output.fileno(), stderr=output.fileno()
        ) as child:
            deadline = time.monotonic() + READY_SECONDS
            question = [str(binaries / "buildctl"), "--addr", address, "debug", "workers"]
            while not process.probe(question, timeout=READY_SECONDS).ok:
                if child.poll() is not None or time.monotonic() > deadline:
                    output_lines = Path(output.name).read_text(errors="replace").splitlines()
                    for line in output_lines[-30:]:
                        log(f"  {line}")
                    # After its error, buildkitd prints a stack trace.
                    reasons = [line for line in output_lines if line.startswith("buildkitd:")]
                    raise BuildError(
                        f"buildkitd does not answer: {(reasons or output_lines or ['no output'])[-1]}",
                        "its output is above; `invoke doctor --phase image` checks its requirements",
                    )
                time.sleep(LOOK_SECONDS)
            try:
                yield Daemon(address, *process.children(child.pid))
            finally:
                # Signal buildkitd itself: unshare would end and kill everything at once.
                for pid in process.children(child.pid):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGTERM)
                with contextlib.suppress(Exception):
                    child.wait(STOP_SECONDS)
