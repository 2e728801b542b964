"""A buildkitd of our own: freshly built, for as long as it is needed, and gone with us."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import apt, locks, process, project
from ..console import say
from ..errors import BuildError

#: Seconds for the daemon to answer: on an emulated processor it takes four.
READY_SECONDS = 60.0
#: Seconds for it to end when asked to.
STOP_SECONDS = 10.0
#: Seconds between looks for its socket, which is there when it is ready.
LOOK_SECONDS = 0.02


@dataclass(frozen=True)
class Daemon:
    """A buildkitd that answers.

    Args:
        address: for buildctl.
        pid: of buildkitd itself.
    """

    address: str
    pid: int


def tools() -> list[str]:
    """The commands that it needs: to run containers and, where we are not root, for its users."""
    return ["runc"] if os.geteuid() == 0 else ["runc", "newuidmap"]


@contextlib.contextmanager
def running(binaries: Path, *, yes: bool) -> Iterator[str]:
    """Run buildkitd on a socket that only we can reach.

    As root it runs as root; anybody else's runs in a user namespace of theirs.
    What it remembers of earlier builds is in the user's cache.

    Args:
        binaries: the folder with `buildkitd` and `buildctl`.
        yes: install what is missing without asking.

    Returns:
        Its address.

    Raises:
        MissingRequirementError: there is no runc.
        BuildError: it does not start.
    """
    apt.provide(tools(), yes=yes)
    state = project.cache() / "buildkitd"
    with (
        locks.held(state / ".lock", "another run uses our buildkitd; waiting for it"),
        started(binaries, state) as daemon,
    ):
        yield daemon.address


@contextlib.contextmanager
def started(binaries: Path, state: Path, flags: Sequence[str] = ()) -> Iterator[Daemon]:
    """Run buildkitd on a socket that only we can reach, until the block ends.

    Args:
        binaries: the folder with `buildkitd` and `buildctl`.
        state: what it remembers; nobody else's.
        flags: its flags besides.

    Raises:
        BuildError: it does not start.
    """
    with (
        tempfile.TemporaryDirectory(prefix="bk-") as folder,
        process.afterwards([["rm", "-rf", folder]]),
        (Path(folder) / "log").open("wb") as log,
    ):
        address = f"unix://{folder}/buildkitd.sock"
        command = [
            *process.namespaced(), str(binaries / "buildkitd"), f"--root={state}",
            f"--addr={address}",
            # Its default is in /run, which is another daemon's, or closed to us.
            f"--otel-socket-path={folder}/otel.sock", "--containerd-worker=false", "--oci-worker-net=host",
            *([] if os.geteuid() == 0 else ["--rootless"]), *flags,
        ]  # fmt: skip
        # In the first runc keeps its state, unless it is really root; in the second
        # buildkitd tries emulators, and forgets that when it is killed.
        env = process.environment({"XDG_RUNTIME_DIR": folder, "TMPDIR": str(state)})
        with process.guarded(command, env=env, stdout=log.fileno(), stderr=log.fileno()) as child:
            deadline = time.monotonic() + READY_SECONDS
            question = [str(binaries / "buildctl"), "--addr", address, "debug", "workers"]
            while not process.probe(question, timeout=READY_SECONDS).ok:
                if child.poll() is not None or time.monotonic() > deadline:
                    said = Path(log.name).read_text(errors="replace").splitlines()
                    for line in said[-30:]:
                        say(f"  {line}")
                    # Behind that line it prints where in its source it was.
                    reasons = [line for line in said if line.startswith("buildkitd:")]
                    raise BuildError(
                        f"buildkitd does not answer: {(reasons or said or ['no word'])[-1]}",
                        "what it said is above; `invoke doctor --phase image` knows what it needs",
                    )
                time.sleep(LOOK_SECONDS)
            try:
                yield Daemon(address, *process.children(child.pid))
            finally:
                # unshare would be ended by the signal, and everything at once with it.
                for pid in process.children(child.pid):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGTERM)
                with contextlib.suppress(Exception):
                    child.wait(STOP_SECONDS)
