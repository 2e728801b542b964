"""Host capabilities: what tests and sessions need of this host, and why it is missing.

This is the only table of capabilities. A capability is something that the host allows or
forbids. A tool that can be installed is never missing: it is installed, or its tests fail.

`./invoke test` runs this module before the environment exists (see :func:`main`), so the module
and its imports need only the standard library.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import importlib.util
import json
import os
import pwd
import socket
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..core import pins, process, project
from ..core.arch import Architecture, Platform
from ..core.console import Status, log
from ..core.errors import Failure, MissingRequirementError, UsageError
from ..system import apt, binfmt, checks, host_checks

#: Commands that the tests call. The tests unpack a docker engine and a registry themselves:
#: their packages would install services on this machine.
TOOLS = (
    "apt-ftparchive", "bsdtar", "cpio", "createrepo_c", "dnf", "gh", "git", "gpg", "iptables", "lintian",
    "make", "mmdebstrap", "newuidmap", "openssl", "perf", "pgrep", "rpmlint", "rpmsign", "rsync", "runc",
    "skopeo", "sshd", "umoci", "xz",
)  # fmt: skip
#: The browser for the tests of pages.
BROWSER = "chromium-headless-shell"
#: The variable with the path of the limits that `invoke test` found.
LIMITS = "BUILDKIT_TEST_LIMITS"
#: The variable with the path of a file to which every test run appends its counts.
TALLY = "BUILDKIT_TEST_TALLY"
#: The variable with a reason to run no test and only count the tests.
LEFT_OUT = "BUILDKIT_TEST_LEFT_OUT"
#: The variable that says that the limits have been announced.
ANNOUNCED = "BUILDKIT_TEST_ANNOUNCED"
#: The requirements of every session; a complete environment of a session has a copy.
LOCK = project.ROOT / "requirements/dev.txt"
#: Scenarios and engines write here; /tmp may be in memory.
_STATE = Path("/var/tmp")  # noqa: S108 - every run creates its own directory
# The text before the reason why a tool cannot be installed.
_NOT_INSTALLED = "not installed, and "
#: pytest's outcomes, in the order of pytest's summary line.
OUTCOMES = ("failed", "passed", "skipped", "deselected", "xfailed", "xpassed", "error")
#: The outcomes of executed tests.
RAN = tuple(name for name in OUTCOMES if name not in {"skipped", "deselected"})
#: Timeout of network requests in seconds: of the first, and of the second after a timeout.
_TIMEOUT, _LONG_TIMEOUT = 5.0, 25.0


@dataclass(frozen=True)
class Capability:
    """An operation that a host allows or forbids.

    Args:
        name: the name in tests and sessions.
        gives: the tests that it enables, in a few words.
        error: try it; returns why this host cannot do it, or an empty string.
        needs: other capabilities and tools that it requires.
    """

    name: str
    gives: str
    error: Callable[[], str] = lambda: ""
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Session:
    """A nox session, or a step of a session.

    Args:
        needs: required capabilities and tools; without any of them the session is left out.
        real: its tests start daemons as root and call :data:`TOOLS`.
        default: nox runs the session by default.
    """

    needs: tuple[str, ...] = ()
    real: bool = False
    default: bool = False


@dataclass(frozen=True)
class Limits:
    """The limits of this host.

    Args:
        capabilities: the reason by missing capability or tool.
        sessions: the reason by session or step that is left out.
    """

    capabilities: Mapping[str, str] = field(default_factory=dict)
    sessions: Mapping[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """True when a test or a session is left out."""
        return bool(self.capabilities or self.sessions)

    def write(self, path: Path) -> None:
        """Write the limits to a file for sessions and tests."""
        path.write_text(json.dumps(asdict(self)))


def _loopback() -> str:
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), timeout=_TIMEOUT).close()
    except OSError as error:
        return f"127.0.0.1 does not answer: {error.strerror or error}"
    return ""


def _ask(args: process.Arguments, **options: Any) -> process.Result:
    """Ask a server on the network. A slow answer must not leave out hundreds of tests."""
    answer = process.probe(args, timeout=_TIMEOUT, **options)
    if answer.code == process.TIMED_OUT:
        answer = process.probe(args, timeout=_LONG_TIMEOUT, **options)
    return answer


def _index() -> str:
    """The sessions' environments are complete, or the package index answers."""
    environments = [project.ROOT / ".nox" / name for name in SESSIONS]
    stamps = [one / LOCK.name for one in environments if one.exists()]
    lock = LOCK.read_bytes()
    if stamps and all(stamp.exists() and stamp.read_bytes() == lock for stamp in stamps):
        return ""
    # Without pip, there is no environment yet; the launcher creates it or fails.
    if importlib.util.find_spec("pip") is None:
        return ""
    with tempfile.TemporaryDirectory() as temporary:
        answer = _ask(
            [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
             "--no-deps", "--no-cache-dir", "--retries=0", f"--timeout={_LONG_TIMEOUT:g}",
             f"--dest={temporary}", "invoke"],
            env=process.whole_environment(),
        )  # fmt: skip
    return "" if answer.ok else f"the package index does not answer: {answer.last_line}"


def _go() -> str:
    from ..binaries import toolchain

    pinned = pins.load()
    if toolchain.find(pinned) is not None:
        return ""
    try:
        toolchain.bootstrap(pinned)
    except MissingRequirementError as error:
        reason = apt.install_error()
        return f"{error.brief}: {_NOT_INSTALLED}{reason}" if reason else ""
    return _modules()


@functools.cache
def _modules() -> str:
    from ..binaries import toolchain

    pinned = pins.load()
    try:
        go = toolchain.bootstrap(pinned)
    except MissingRequirementError:
        return host_checks.network_error()  # without Go, the module proxy is unknown
    with tempfile.TemporaryDirectory() as empty:
        answer = _ask(
            [go.command, "list", "-m", f"github.com/moby/buildkit@{pinned.version}"],
            cwd=Path(empty), env=toolchain.environment(go),
        )  # fmt: skip
    return "" if answer.ok else f"the module proxy does not answer: {answer.last_line}"


def _doctor(package: str, *names: str) -> str:
    """The first failed doctor check of these names."""
    importlib.import_module(f"..{package}.doctor_checks", __package__)
    for check in checks.CHECKS:
        if check.name in names and (result := check.look()).status is Status.FAIL:
            return f"{check.name}: {result.detail}"
    return ""


def _root() -> str:
    if os.geteuid() == 0:
        return ""
    return f"this user is not root, and {host_checks.sudo_error() or 'has not used sudo'}"


def _c() -> str:
    from ..binaries import c_toolchain

    lacking = c_toolchain.missing()
    reason = apt.install_error() if lacking else ""
    return f"{', '.join(lacking)}: {_NOT_INSTALLED}{reason}" if reason else ""


def _daemons() -> str:
    """The operations of buildkitd and docker engines at their start."""
    return (
        host_checks.mount_error()
        or host_checks.overlay_error(_STATE)
        or host_checks.node_error()
        or host_checks.command_error(*process.namespaced(), "--net", "true")
        or host_checks.command_error("setpriv", "--reuid=65534", "--clear-groups", "true")
    )


def _emulators(platforms: Sequence[Platform]) -> str:
    """Programs of these platforms run, or their emulators can be installed and registered."""
    missing = [one for one in platforms if not binfmt.runs(one)]
    if not missing:
        return ""
    if not any(map(binfmt.is_installed, missing)) and (reason := apt.install_error()):
        return f"emulators of {', '.join(missing)}: {_NOT_INSTALLED}{reason}"
    register = binfmt.REGISTRY / "register"
    if binfmt.is_mounted():
        # A user with sudo can register them as root.
        writable = os.access(register, os.W_OK) or not host_checks.sudo_error()
        return "" if writable else f"{register} cannot be written"
    mount = ("mount", "-t", "binfmt_misc", "binfmt_misc", "/tmp")  # noqa: S108 - in a namespace
    return host_checks.command_error(*process.namespaced(), *mount)


def _machine() -> str:
    from ..machine import doctor_checks

    tools = next(filter(None, map(_tool, doctor_checks.TOOLS)), "")
    return tools or _emulators([Platform.RISCV64]) or _doctor("machine", "disk for machines")


#: Capabilities that hosts of an architecture never have, with the reason.
_ARCHITECTURES: Mapping[str, Mapping[str, str]] = {
    Architecture.RISCV64: {
        "wheels": "sphinx, shellcheck and zizmor have no packages for riscv64",
        "pages": "Debian has no Chromium for riscv64",
        "machine": "this is riscv64, which needs no emulated machine",
    }
}

#: Every capability.
CAPABILITIES = {
    one.name: one
    for one in (
        Capability("loopback", "servers of the tests", _loopback),
        Capability("index", "environments of the sessions", _index),
        Capability("wheels", "the site, shellcheck and zizmor"),
        Capability("go", "compiling with the pinned Go", _go),
        Capability("c", "compiling C, with libseccomp", _c),
        Capability("modules", "modules from the Go module proxy", _modules),
        Capability("compiling", "compiling the real BuildKit",
                   lambda: _doctor("binaries", "memory", "disk"), ("go", "modules")),
        Capability("debian", "packages from Debian's archive", host_checks.network_error),
        Capability("mounts", "filesystems of the tests", host_checks.private_mount_error),
        Capability("namespaces", "root directories of the tests", host_checks.mount_error),
        Capability("owners", "checkouts of other users", host_checks.owner_error),
        Capability("root", "tests as root", _root),
        Capability("daemons", "buildkitd and docker engines", _daemons, ("root", "mounts", "namespaces", "owners")),
        Capability("systemd", "a Debian that systemd has booted", host_checks.cgroup_error, ("daemons",)),
        Capability("emulators", "programs of other architectures", lambda: _emulators(list(Platform))),
        Capability("machine", "an emulated riscv64 machine", _machine,
                   ("mounts", "namespaces", "debian", "modules", "loopback")),
        Capability("pages", "pages in a real browser", needs=(BROWSER, "loopback")),
    )
}  # fmt: skip

_ENGINE = ("daemons", "debian", "mmdebstrap")
_REAL = ("loopback", "compiling", *_ENGINE)

#: The needs of the marks in pyproject.toml; the mark `needs` names capabilities and tools itself.
MARKS: Mapping[str, tuple[str, ...]] = {
    "image": (*_REAL, "runc", "skopeo", "umoci"),
    "machine": ("machine",),
    "pages": ("pages",),
    "walkthrough": (*_REAL, "systemd", *TOOLS),
}


def _validation() -> tuple[str, ...]:
    from ..validation import suites

    return (*_REAL, "emulators", *suites.tools(suites.SUITES.values()))


#: The sessions of noxfile.py and, after a colon, their steps with other needs.
SESSIONS: Mapping[str, Session] = {
    "lint": Session(("index",), default=True),
    "lint: shellcheck": Session(("wheels",)),
    "lint: actionlint": Session(("go", "modules")),
    "docs": Session(("wheels", "index"), default=True),
    "types": Session(("index",), default=True),
    "unit": Session(("index",)),
    "tests": Session(("index",), real=True, default=True),
    "walkthrough": Session(("index", *MARKS["walkthrough"]), real=True, default=True),
    "validate": Session(_validation(), real=True, default=True),
    "standalone": Session(_validation(), real=True),
    "buildx": Session(_validation(), real=True),
    "rootless": Session(_validation(), real=True),
    "platforms": Session(_validation(), real=True),
    "image": Session(("index",), real=True),
    "packages": Session(("index",), real=True),
    "pages": Session(("index",), real=True),
    "machine": Session(("index",), real=True),
    "riscv64": Session(MARKS["machine"], real=True),
    "fresh": Session(_ENGINE, real=True),
    "benchmark": Session(("index", *_REAL), real=True),
    "clean": Session(),
}  # fmt: skip


def chosen(names: str) -> list[str]:
    """The sessions of `--session`; nox's default sessions for an empty value.

    Raises:
        UsageError: there is no such session.
    """
    if not names:
        return [name for name, session in SESSIONS.items() if session.default]
    known = [name for name in SESSIONS if ":" not in name]
    sessions = [name.strip() for name in names.split(",")]
    if unknown := [name for name in sessions if name not in known]:
        raise UsageError(
            f"--session {names}: no session {unknown[0]!r}", f"one of: {', '.join(known)}"
        )
    return sessions


def are_real(sessions: Iterable[str]) -> bool:
    """True when tests of these sessions start daemons as root and call :data:`TOOLS`."""
    return any(SESSIONS[name].real for name in sessions)


def is_known(name: str) -> bool:
    """True for the name of a capability, or of a tool in :data:`.apt.PACKAGES`."""
    return name in CAPABILITIES or name in apt.PACKAGES


def _tool(name: str) -> str:
    if process.which(name) is not None:
        return ""
    reason = next(filter(None, map(apt.install_error, apt.PACKAGES[name].split())), "")
    return f"{name}: {_NOT_INSTALLED}{reason}" if reason else ""


def _of_the_architecture() -> Mapping[str, str]:
    try:
        return _ARCHITECTURES.get(Architecture.here(), {})
    except Failure:  # other code reports an unknown architecture
        return {}


def _error(name: str) -> str:
    if known := _of_the_architecture().get(name):
        return known
    try:
        return _tool(name) if name in apt.PACKAGES else CAPABILITIES[name].error()
    except Failure as error:
        return error.brief
    except ModuleNotFoundError:  # there is no environment yet; `invoke test` checks again
        return ""


def all_needs(name: str) -> Iterator[str]:
    """A capability or tool after all of its needs, the deepest first."""
    if name in CAPABILITIES:
        for need in CAPABILITIES[name].needs:
            yield from all_needs(need)
    yield name


def missing(names: Iterable[str]) -> dict[str, str]:
    """The capabilities and tools that this host cannot have, with the reason."""
    deciding = {name: list(all_needs(name)) for name in names}
    tried = sorted({one for ones in deciding.values() for one in ones})
    with ThreadPoolExecutor(max_workers=max(1, len(tried))) as pool:
        errors = dict(zip(tried, pool.map(_error, tried), strict=True))
    reasons = {name: next((errors[one] for one in ones if errors[one]), "") for name, ones in deciding.items()}  # fmt: skip
    return {name: reason for name, reason in reasons.items() if reason}


def _limits(lacking: Mapping[str, str], sessions: Mapping[str, Session]) -> Limits:
    reasons = {
        name: next((lacking[need] for need in session.needs if need in lacking), "")
        for name, session in sessions.items()
    }
    return Limits(lacking, {name: reason for name, reason in reasons.items() if reason})


def examine(sessions: Sequence[str]) -> Limits:
    """Try every need of these sessions; takes a few seconds."""
    parts = {name: session for name, session in SESSIONS.items() if name.partition(":")[0] in sessions}  # fmt: skip
    names = [need for part in parts.values() for need in part.needs]
    if are_real(sessions):
        names += [*CAPABILITIES, *TOOLS, *(need for needs in MARKS.values() for need in needs)]
    return _limits(missing(dict.fromkeys(names)), parts)


@functools.cache
def load() -> Limits:
    """The limits that `invoke test` found; outside it, the limits of the architecture."""
    if path := os.environ.get(LIMITS):
        return Limits(**json.loads(Path(path).read_text()))
    return _limits(_of_the_architecture(), SESSIONS)


def announce(limits: Limits) -> None:
    """Log the tests that are left out on this host, with the reasons."""
    if not limits:
        log("this host can run every test of these sessions")
        return
    log("this host cannot run every test:")
    lacking: dict[str, list[str]] = {}
    for name, reason in limits.capabilities.items():
        known = CAPABILITIES.get(name)
        cause = reason.rpartition(_NOT_INSTALLED)[2]
        lacking.setdefault(cause, []).append(known.gives if known else name)
    for reason, things in lacking.items():
        log(f"  {reason}")
        log(f"    left out: {'; '.join(things)}")
    if limits.sessions:
        log(f"  sessions left out: {', '.join(limits.sessions)}")
    log("the other tests run; with `--all`, the run fails instead")


def refuse(limits: Limits) -> None:
    """Fail if a test is left out.

    Raises:
        MissingRequirementError: this host cannot run every test.
    """
    if limits:
        raise MissingRequirementError(
            f"--all: this host cannot run every test; it lacks: {', '.join(limits.capabilities)}",
            "see the reasons above; use another host, or leave --all out",
        )


def as_root(command: Sequence[str]) -> list[str]:
    """A command of ours through sudo, with this environment but root's home and caches."""
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    unset = [f"--unset={name}" for name in os.environ if name.startswith("XDG_")]
    own = [f"HOME={pwd.getpwuid(0).pw_dir}", "USER=root", "LOGNAME=root", f"PATH={path}"]
    return ["sudo", "--preserve-env", "env", *unset, *own, *command]


def needs_sudo(sessions: Iterable[str]) -> bool:
    """True when these sessions need root, and this user can become root with sudo."""
    return os.geteuid() != 0 and are_real(sessions) and not host_checks.sudo_error()


def main(arguments: Sequence[str]) -> None:
    """Announce the limits before the environment exists, for `./invoke test`.

    Args:
        arguments: the arguments of `./invoke`.

    Raises:
        Failure: the arguments are wrong, or --all is given and this host has limits.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--session", default="")
    parser.add_argument("--all", action="store_true")
    options, _ = parser.parse_known_args(arguments)
    sessions = chosen(options.session)
    if needs_sudo(sessions):
        again = [sys.executable, "-B", "-m", f"{__package__}.capabilities", *arguments]
        process.replace(as_root(again))
    limits = examine(sessions)
    announce(limits)
    if options.all:
        refuse(limits)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Failure as failure:
        log(str(failure.message))
        sys.exit(failure.code)
