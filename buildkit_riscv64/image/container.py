"""The image, run by umoci and runc: on any machine, without an engine.

Everything happens in namespaces that end with us. Whoever is not root is so
only in there.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import process
from ..errors import CheckError
from . import layout as layouts

#: Commands that unpack and run an image.
TOOLS = ("runc", "umoci")
#: Seconds for a container to end; under emulation it may take a minute.
END_SECONDS = 180.0

#: What docker grants by default. Rootless has to do with it.
CAPABILITIES = (
    "CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL",
    "CAP_MKNOD", "CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP",
    "CAP_SETUID", "CAP_SYS_CHROOT",
)  # fmt: skip
#: What root's daemon needs besides, to start: it mounts. (To build it needs more.)
MOUNTING = "CAP_SYS_ADMIN"

# Runs in the namespaces: starts the container in $1, whose runc keeps its state
# in $2; asks it $3 until it answers, and ends it as an engine does.
_LIFE = """\
runc --root "$2" run --detach --pid-file "$2/pid" --bundle "$1" one >"$2/said" 2>&1 </dev/null || {
    echo "start failed: $(tail -n 1 "$2/said")"; exit 0; }
now() { cut -d' ' -f1 /proc/uptime; }
started=$(now)
until answer=$(runc --root "$2" exec one buildctl debug workers 2>&1); do
    if ! [ -d "/proc/$(cat "$2/pid")" ] || [ "$(now | cut -d. -f1)" -gt $((${started%.*} + 120)) ]; then
        echo "no answer: $answer $(grep -v level= "$2/said" | head -n 2 | tr '\\n' ' ')"
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
[ ! -d "/proc/$(cat "$2/pid")" ] || echo "still there"
runc --root "$2" delete --force one
echo "times $started $ready $ended"
cat "$2/said"
"""


@dataclass(frozen=True)
class Life:
    """How the daemon of an image lived.

    Args:
        problem: why it did not; empty if it did.
        ready: seconds from its start to its first answer.
        stop: seconds from SIGTERM to its end.
        said: what it said.
    """

    problem: str
    ready: float
    stop: float
    said: str


@dataclass(frozen=True)
class Container:
    """An image, unpacked and ready to run.

    Args:
        bundle: an OCI runtime bundle.
    """

    bundle: Path

    def _configure(self, change: dict[str, Any]) -> None:
        """Write the bundle's configuration: umoci's, which grants next to nothing, changed."""
        original = self.bundle / "config.umoci.json"
        config = self.bundle / "config.json"
        if not original.exists():
            config.rename(original)
        value = json.loads(original.read_text())
        value["process"] |= {"terminal": False, **change}
        if not change["noNewPrivileges"]:
            value["linux"] |= {"maskedPaths": [], "readonlyPaths": []}
        # umoci mounts volumes as root's; an engine's belong to whom the image says.
        value["mounts"] = [
            mount
            for mount in value["mounts"]
            if mount["type"] != "tmpfs" or mount["destination"].startswith("/dev")
        ]
        config.write_text(json.dumps(value))

    def run(self, words: Sequence[str]) -> process.Result:
        """Run a command in it, without privileges and without a network.

        Raises:
            MissingRequirementError: there is no runc.
        """
        # Bounding: a program with capabilities of its own would not even start without.
        capabilities = {"bounding": list(CAPABILITIES)}
        self._configure(
            {"args": list(words), "capabilities": capabilities, "noNewPrivileges": True}
        )
        with tempfile.TemporaryDirectory(prefix="bk-") as state:
            return process.probe(
                [*process.namespaced(), "runc", "--root", state, "run",
                 "--bundle", self.bundle, "one"],
                timeout=END_SECONDS,
            )  # fmt: skip

    def live(self) -> Life:
        """Start its daemon as an engine would, wait until it answers, and end it.

        Raises:
            MissingRequirementError: there is no runc.
        """
        sets = ("bounding", "effective", "permitted", "inheritable", "ambient")
        user = json.loads((self.bundle / "config.json").read_text())["process"]["user"]["uid"]
        # An ordinary user has nothing but what programs with capabilities may take.
        capabilities = (
            {name: [*CAPABILITIES, MOUNTING] for name in sets}
            if user == 0
            else {"bounding": list(CAPABILITIES)}
        )
        self._configure({"capabilities": capabilities, "noNewPrivileges": False})
        with tempfile.TemporaryDirectory(prefix="bk-") as state:
            answer = process.probe(
                [*process.namespaced(), "sh", "-c", _LIFE, "sh", self.bundle, state],
                timeout=END_SECONDS + 120,
            )
        first, _, said = answer.stdout.partition("\n")
        if not first.startswith("times "):
            problem = first or answer.last_line or process.describe_exit(answer.code)
            return Life(problem, 0, 0, said)
        started, ready, ended = map(float, first.split()[1:])
        return Life("", ready - started, ended - ready, said)


@contextlib.contextmanager
def unpacked(layout: Path) -> Iterator[Container]:
    """An image of a layout, unpacked for as long as it is needed.

    Raises:
        MissingRequirementError: there is no umoci.
        CheckError: it cannot be unpacked, or has no name that it could be asked for by.
    """
    name = layouts.load(layout).descriptor.get("annotations", {}).get(layouts.REF_NAME)
    if not name:
        raise CheckError("the image in the layout has no name", "build it again")
    with tempfile.TemporaryDirectory(prefix=".bundle-", dir=layout.parent) as folder:
        bundle = Path(folder) / "bundle"
        try:
            process.read(
                [*process.namespaced(), "umoci", "unpack", "--image", f"{layout}:{name}", bundle],
                timeout=None, error=CheckError, hint="is there space? df -h .",
            )  # fmt: skip
            yield Container(bundle)
        finally:
            # Its files may be those of users that only exist in the namespace.
            process.probe([*process.namespaced(), "rm", "-rf", bundle], timeout=None)
