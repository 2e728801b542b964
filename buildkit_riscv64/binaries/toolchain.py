"""The pinned Go: found on this machine, or fetched with any other Go.

Go's toolchains are modules (golang.org/toolchain). Any Go can download one and checks it
against Go's checksum database; if our pins contain its hash, we check that too.
"""

from __future__ import annotations

import functools
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core import dry_run, process
from ..core.arch import Architecture
from ..core.errors import (
    MissingRequirementError,
    NetworkError,
    NotNativeError,
    SourceError,
    UsageError,
)
from ..core.pins import OLDEST_BOOTSTRAP_GO, Pins
from ..system import host_checks

# Where distributions and go.dev install Go outside PATH.
_USUAL_PLACES = ("/usr/local/go/bin/go", "/usr/lib/go-{minor}/bin/go", "/usr/lib/go/bin/go")

# The user's Go settings that reach our builds: module proxy, caches, checksum database.
# They cannot change the output, because every module is checked against pinned hashes.
_NETWORK_SETTINGS = (
    "GOAUTH", "GOCACHE", "GOINSECURE", "GOMODCACHE", "GONOPROXY", "GONOSUMDB", "GOPATH",
    "GOPRIVATE", "GOPROXY", "GOSUMDB", "GOVCS",
)  # fmt: skip

# Go requires absolute paths here, and fails on a relative one.
_DIRECTORIES = ("GOCACHE", "GOMODCACHE", "GOPATH")

_NO_GO_HINT = "run `invoke doctor --fix` (or `sudo apt-get install golang-go`)"


@dataclass(frozen=True)
class Go:
    """A Go toolchain.

    Args:
        command: the go command.
        version: such as `go1.26.10`.
        origin: `system`, or `module` if fetched through the module proxy.
        sum: the module's dirhash, if it came as a module.
    """

    command: Path
    version: str
    origin: str
    sum: str = ""


#: Go counts its runs in the user's configuration directory (https://go.dev/doc/telemetry), and
#: no variable disables this. Commands that only read get no such directory.
NO_TELEMETRY = {"XDG_CONFIG_HOME": os.devnull}


def _user_settings() -> Path:
    """The file of `go env -w`; with :data:`NO_TELEMETRY`, Go would not find it."""
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "go" / "env"


def _asked() -> dict[str, str]:
    """Go settings from the environment.

    Raises:
        UsageError: go would reject a setting, and fail.
    """
    asked = {n: os.environ[n] for n in ("GOENV", *_NETWORK_SETTINGS) if n in os.environ}
    for name in _DIRECTORIES:
        value = asked.get(name, "")
        entries = value.split(os.pathsep) if name == "GOPATH" else [value]
        if not all(Path(entry).is_absolute() for entry in entries if entry):
            raise UsageError(
                f"{name}={value} in the environment: go accepts absolute directories only",
                f"unset {name}, or write the whole path",
            )
    return asked


def _ask(command: Path, *args: str, timeout: float = 60.0) -> process.Result:
    asked = _asked()
    return process.probe(
        [command, *args],
        env=process.environment(
            {
                "GOENV": str(_user_settings()),
                **asked,
                **NO_TELEMETRY,
                "GOTOOLCHAIN": "local",
                "GOFLAGS": "",
            }
        ),
        timeout=timeout,
    )


def _version_here(command: Path) -> str:
    """Go's version, such as 'go1.26.10'; empty if it is not a Go for this architecture.

    A Go with more in its output, such as an experiment (`X:boringcrypto`), compiles other programs
    than the release of that version.
    """
    answer = _ask(command, "version")
    form = rf"go version (go[0-9][\w.+-]*) linux/{Architecture.here()}\n?"
    found = re.fullmatch(form, answer.stdout, re.ASCII) if answer.ok else None
    return found[1] if found else ""


def candidates(pins: Pins) -> Iterator[Go]:
    """Every Go on this machine, the one on PATH first.

    Raises:
        UsageError: a Go setting in the environment keeps Go from running.
    """
    minor = ".".join(pins.go.split(".")[:2])
    places = [process.which("go"), *(Path(p.format(minor=minor)) for p in _USUAL_PLACES)]
    seen = set()
    for place in places:
        if place is None or not os.access(place, os.X_OK) or place.resolve() in seen:
            continue
        seen.add(place.resolve())
        if version := _version_here(place):
            yield Go(place, version, "system")


def older_than(version: str, oldest: str) -> bool:
    """True when a version such as `go1.19` is older than `oldest`, such as `1.19`."""
    from packaging.version import InvalidVersion, Version

    try:
        return Version(version.removeprefix("go")) < Version(oldest)
    except InvalidVersion:
        # A development version ("devel go1.28-abcdef") is new enough.
        return False


def find(pins: Pins) -> Go | None:
    """The pinned Go, if installed; fetches nothing."""
    for go in candidates(pins):
        if go.version == pins.go_version:
            return go
    return None


def bootstrap(pins: Pins) -> Go:
    """An installed Go that can fetch another, preferably the pinned one.

    Raises:
        MissingRequirementError: no Go, or only older ones.
    """
    found = list(candidates(pins))
    if not found:
        raise MissingRequirementError("there is no Go on this machine", _NO_GO_HINT, "go")
    recent = [go for go in found if not older_than(go.version, OLDEST_BOOTSTRAP_GO)]
    if not recent:
        raise MissingRequirementError(
            f"{found[0].command} is {found[0].version}, too old to fetch {pins.go_version}"
            f" (at least {OLDEST_BOOTSTRAP_GO})",
            _NO_GO_HINT,
        )
    same = (go for go in recent if go.version == pins.go_version)
    return next(same, recent[0])


def ensure(pins: Pins) -> Go:
    """The pinned Go; fetched if missing, except under `--dry`.

    Raises:
        EndedError: a dry run would have to fetch it.
        MissingRequirementError: no Go, or only older ones.
        NetworkError: the pinned Go could not be fetched.
        SourceError: the fetched Go does not have its pinned hash.
    """
    go = bootstrap(pins)
    if go.version == pins.go_version:
        return go
    if dry_run.active():
        return _fetched(go, pins)
    return fetch(go, pins)


def _fetched(go: Go, pins: Pins) -> Go:
    """The pinned Go, if it is in the module cache.

    Raises:
        EndedError: the pinned Go is missing.
    """
    platform = f"linux-{Architecture.here()}"
    module = Path(_settings(go.command)["GOMODCACHE"], _module(pins.go_version, platform))
    command = module / "bin" / "go"
    if os.access(command, os.X_OK) and _version_here(command) == pins.go_version:
        return Go(command, pins.go_version, "module")
    fetching = download_command(go, pins.go_version, platform)
    raise dry_run.EndedError(f"would run: {process.show(fetching)}")


def download_command(go: Go, version: str, platform: str) -> process.Arguments:
    """The command that fetches a Go toolchain; arguments as in :func:`download`."""
    return [go.command, "mod", "download", "-json", _module(version, platform)]


def _module(version: str, platform: str) -> str:
    return f"golang.org/toolchain@v0.0.1-{version}.{platform}"


def download(go: Go, version: str, platform: str) -> dict[str, Any]:
    """Fetch a Go toolchain into the module cache, checked against Go's checksum database.

    Args:
        go: the toolchain that fetches.
        version: such as `go1.26.10`.
        platform: such as `linux-riscv64`.

    Returns:
        The output of `go mod download -json`.

    Raises:
        NetworkError: the toolchain could not be fetched.
        SourceError: the checksum database has another hash.
    """
    with tempfile.TemporaryDirectory() as empty:
        answer = process.probe(
            download_command(go, version, platform),
            cwd=Path(empty),
            env=environment(go),
            timeout=None,
            changes=True,
        )
    try:
        reply: dict[str, Any] = json.loads(answer.stdout)
    except ValueError:
        reply = {"Error": answer.last_line}
    if error := reply.get("Error"):
        raise fetch_error(f"cannot fetch {version} for {platform}", error)
    return reply


def fetch(go: Go, pins: Pins) -> Go:
    """Fetch the pinned Go with another Go; a no-op if it is in the module cache.

    Raises:
        NetworkError: the pinned Go could not be fetched.
        SourceError: the fetched Go does not have its pinned hash.
    """
    if modules := _settings(go.command).get("GOMODCACHE"):
        host_checks.require_exec(Path(modules))
    platform = f"linux-{Architecture.here()}"
    module = download(go, pins.go_version, platform)
    pinned = pins.go_sums.get(platform)
    if pinned and pinned != module["Sum"]:
        raise SourceError(
            f"the fetched {pins.go_version} has hash {module['Sum']}, not the pinned {pinned}",
            "remove it with `go clean -modcache`; if it comes back, do not use that module proxy",
        )
    root = Path(module["Dir"])
    # Module archives carry no permissions. The go command adds these only when it
    # switches toolchains itself (cmd/go/internal/toolchain).
    for program in [*root.glob("bin/*"), *root.glob("pkg/tool/*/*")]:
        if not os.access(program, os.X_OK):
            program.chmod(program.stat().st_mode | 0o111)
    go = Go(root / "bin" / "go", pins.go_version, "module", module["Sum"])
    if _version_here(go.command) != pins.go_version:
        raise SourceError(
            f"{go.command} is not a working {pins.go_version}", "run `go clean -modcache`"
        )
    return go


_NETWORK_SIGNS = (
    "dial tcp", "no such host", "connection refused", "connection reset", "i/o timeout",
    "TLS handshake", "unexpected EOF", "network is unreachable", "module lookup disabled",
    "server response", "Bad Gateway", "Service Unavailable", "not found", "context deadline",
)  # fmt: skip


def fetch_error(what: str, output: str) -> NetworkError | SourceError:
    """The failure that a go command's output about a download indicates."""
    lines = [line.strip() for line in output.strip().splitlines() if line.strip()]
    if "checksum mismatch" in output or "SECURITY ERROR" in output:
        return SourceError(
            f"{what}: checksum mismatch, the download differs from the pin",
            "run `go clean -modcache`; if it comes back, do not use that module proxy",
        )
    signs = (line for line in lines if any(sign in line for sign in _NETWORK_SIGNS))
    reason = next(signs, lines[-1] if lines else "no answer")
    return NetworkError(
        f"{what}: {reason}", "check the network, the proxy settings and `go env GOPROXY`"
    )


@functools.cache
def _settings(command: Path) -> Mapping[str, str]:
    answer = _ask(command, "env", "-json")
    try:
        settings: dict[str, str] = json.loads(answer.stdout)
    except ValueError as error:
        raise MissingRequirementError(
            f"`{command} env` failed: {answer.last_line}", "check your Go settings with `go env`"
        ) from error
    return settings


# Variables that select another target.
_TARGET_VARIABLES = (
    "GOOS", "GOARCH", "GOAMD64", "GOARM64", "GORISCV64", "GOARM", "GO386", "GOMIPS", "GOMIPS64",
    "GOPPC64", "GOWASM",
)  # fmt: skip


def refuse_cross_compilation(asked: Mapping[str, str] = os.environ) -> None:
    """Refuse an environment that selects another architecture or level.

    Raises:
        NotNativeError: the message names the variable.
    """
    arch = Architecture.here()
    native = {"GOOS": "linux", "GOARCH": str(arch), arch.level_variable: arch.default_level}
    for name in _TARGET_VARIABLES:
        value = asked.get(name)
        if value and value != native.get(name):
            remedy = f"unset {name}"
            if name == "GORISCV64" and arch is Architecture.RISCV64:
                remedy += f", and ask for it with --goriscv64 {value}"
            raise NotNativeError(
                f"{name}={value} in the environment, and this machine is linux/{arch}:"
                " artifacts are compiled natively only",
                remedy,
            )


def environment(go: Go, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a go command: only the network settings come from the user.

    Args:
        go: the toolchain.
        extra: further variables, such as GOTMPDIR.
    """
    settings = _settings(go.command)
    network = {name: settings[name] for name in _NETWORK_SETTINGS if settings.get(name)}
    return process.environment(
        {
            **network,
            "GOENV": "off",
            "GOFLAGS": "",
            "GOWORK": "off",
            "GOTOOLCHAIN": "local",
            "GO111MODULE": "on",
            "CGO_ENABLED": "0",
            **(extra or {}),
        }
    )
