"""Run an image with umoci and runc: on any machine, without an engine.

Everything runs in namespaces that end with this process. Users other than root are
root only in these namespaces.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core import process
from ..core.errors import CheckError
from ..system import host_checks
from . import layout as layouts

#: Commands that unpack and run images.
TOOLS = ("runc", "umoci")
#: Timeout of a container in seconds; under emulation one may take a minute.
END_SECONDS = 180.0

#: Docker's default capabilities, which suffice for rootless.
CAPABILITIES = (
    "CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL",
    "CAP_MKNOD", "CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP",
    "CAP_SETUID", "CAP_SYS_CHROOT",
)  # fmt: skip
#: The root daemon also needs this to start, because it mounts. (Builds need more.)
MOUNTING = "CAP_SYS_ADMIN"

# Runs in the namespaces: starts the container with bundle $1 and runc's state in $2,
# waits until its daemon answers, and ends it as an engine does.
_RUN_DAEMON = """\
runc --root "$2" run --detach --pid-file "$2/pid" --bundle "$1" one >"$2/log" 2>&1 </dev/null || {
    echo "start failed: $(tail -n 1 "$2/log")"; exit 0; }
now() { cut -d' ' -f1 /proc/uptime; }
started=$(now)
until answer=$(runc --root "$2" exec one buildctl debug workers 2>&1); do
    if ! [ -d "/proc/$(cat "$2/pid")" ] || [ "$(now | cut -d. -f1)" -gt $((${started%.*} + 120)) ]; then
        echo "no answer: $answer $(grep -v level= "$2/log" | head -n 2 | tr '\\n' ' ')"
        exit 0
    fi
    sleep 0.2
done
ready=$(now)
runc --root "$2" kill one TERM
while [ -d "/proc/$(cat "$2/pid")" ] && [ "$(now | cut -d. -f1)" -lt $((${ready%.*} + 60)) ]; do
    sleep 0.1
done
ended=$(now)
[ ! -d "/proc/$(cat "$2/pid")" ] || echo "still running"
runc --root "$2" delete --force one
echo "times $started $ready $ended"
cat "$2/log"
"""


@dataclass(frozen=True)
class DaemonRun:
    """Result of running an image's daemon.

    Args:
        problem: why the run failed, or empty.
        ready: seconds from start to first answer.
        stop: seconds from SIGTERM to the end.
        output: the daemon's output.
    """

    problem: str
    ready: float
    stop: float
    output: str


@dataclass(frozen=True)
class Container:
    """An unpacked image.

    Args:
        bundle: an OCI runtime bundle.
    """

    bundle: Path

    def _configure(self, change: dict[str, Any]) -> None:
        """Write the bundle's configuration: umoci's, which grants almost nothing, with changes."""
        original = self.bundle / "config.umoci.json"
        config = self.bundle / "config.json"
        if not original.exists():
            config.rename(original)
        value = json.loads(original.read_text())
        value["process"] |= {"terminal": False, **change}
        if not change["noNewPrivileges"]:
            value["linux"] |= {"maskedPaths": [], "readonlyPaths": []}
        # umoci mounts volumes as root's; engines give them to the image's user.
        value["mounts"] = [
            mount
            for mount in value["mounts"]
            if mount["type"] != "tmpfs" or mount["destination"].startswith("/dev")
        ]
        config.write_text(json.dumps(value))

    def run(self, words: Sequence[str]) -> process.Result:
        """Run a command without privileges and network.

        Raises:
            MissingRequirementError: runc is missing.
        """
        # A program with file capabilities starts only if the bounding set has them.
        capabilities = {"bounding": list(CAPABILITIES)}
        self._configure(
            {"args": list(words), "capabilities": capabilities, "noNewPrivileges": True}
        )
        with tempfile.TemporaryDirectory(prefix="bk-") as state:
            return process.probe(
                [*process.namespaced(), "runc", "--root", state, "run",
                 "--bundle", self.bundle, "one"],
                timeout=END_SECONDS, changes=True,
            )  # fmt: skip

    def run_daemon(self) -> DaemonRun:
        """Start the daemon as an engine would, wait for its answer, and end it.

        Raises:
            MissingRequirementError: runc is missing.
        """
        sets = ("bounding", "effective", "permitted", "inheritable", "ambient")
        user = json.loads((self.bundle / "config.json").read_text())["process"]["user"]["uid"]
        # An ordinary user gets capabilities only through programs with file capabilities.
        capabilities = (
            {name: [*CAPABILITIES, MOUNTING] for name in sets}
            if user == 0
            else {"bounding": list(CAPABILITIES)}
        )
        self._configure({"capabilities": capabilities, "noNewPrivileges": False})
        with tempfile.TemporaryDirectory(prefix="bk-") as state:
            answer = process.probe(
                [*process.namespaced(), "sh", "-c", _RUN_DAEMON, "sh", self.bundle, state],
                timeout=END_SECONDS + 120,
                changes=True,
            )
        first, _, output = answer.stdout.partition("\n")
        if not first.startswith("times "):
            problem = first or answer.last_line or process.describe_exit(answer.code)
            if "nosuid" in host_checks.mount_flags(self.bundle):
                # newuidmap of the rootless image needs its file capabilities.
                problem += f" ({host_checks.mount_point(self.bundle)} is mounted nosuid)"
            return DaemonRun(problem, 0, 0, output)
        started, ready, ended = map(float, first.split()[1:])
        return DaemonRun("", ready - started, ended - ready, output)


@contextlib.contextmanager
def unpacked(layout: Path) -> Iterator[Container]:
    """Unpack an image of a layout for the duration of a block.

    Raises:
        MissingRequirementError: umoci is missing.
        CheckError: the image has no name, or cannot be unpacked.
    """
    name = layouts.load(layout).descriptor.get("annotations", {}).get(layouts.REF_NAME)
    if not name:
        raise CheckError("the image in the layout has no name", "build it again")
    with tempfile.TemporaryDirectory(prefix=".bundle-", dir=layout.parent) as directory:
        bundle = Path(directory) / "bundle"
        try:
            process.read(
                [*process.namespaced(), "umoci", "unpack", "--image", f"{layout}:{name}", bundle],
                timeout=None, changes=True, error=CheckError, hint="is there space? df -h .",
            )  # fmt: skip
            yield Container(bundle)
        finally:
            # The files may belong to users that exist only in the namespace.
            process.probe([*process.namespaced(), "rm", "-rf", bundle], timeout=None, changes=True)
