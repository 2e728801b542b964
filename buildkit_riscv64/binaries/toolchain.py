"""The pinned Go: found on this machine, or fetched by whatever Go there is.

Go's toolchains are ordinary modules, golang.org/toolchain, so any Go can
download one and check it against Go's checksum database; where our pins have
its hash, that is checked as well.
"""

from __future__ import annotations

import functools
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.version import InvalidVersion, Version

from .. import process
from ..arch import Architecture
from ..errors import MissingRequirementError, NetworkError, NotNativeError, SourceError
from ..pins import OLDEST_BOOTSTRAP_GO, Pins

# Where distributions and go.dev put a Go that is not on PATH.
_USUAL_PLACES = ("/usr/local/go/bin/go", "/usr/lib/go-{minor}/bin/go", "/usr/lib/go/bin/go")

# Of the user's Go settings these reach our builds: where to fetch and cache,
# and whom to ask about hashes. None of them can change the output, because
# every module is checked against the hashes in this repository.
_NETWORK_SETTINGS = (
    "GOAUTH", "GOCACHE", "GOINSECURE", "GOMODCACHE", "GONOPROXY", "GONOSUMDB", "GOPATH",
    "GOPRIVATE", "GOPROXY", "GOSUMDB", "GOVCS",
)  # fmt: skip

_NO_GO_HINT = "run `invoke doctor --fix` (or `sudo apt-get install golang-go`)"


@dataclass(frozen=True)
class Go:
    """A Go toolchain.

    Args:
        command: the go command.
        version: its version, as in `go1.26.10`.
        origin: `system`, or `module` when it came through the module proxy.
        sum: the dirhash of its module, where it came as one.
    """

    command: Path
    version: str
    origin: str
    sum: str = ""


def _ask(command: Path, *args: str, timeout: float = 60.0) -> process.Result:
    asked = {n: os.environ[n] for n in ("GOENV", *_NETWORK_SETTINGS) if n in os.environ}
    return process.probe(
        [command, *args],
        env=process.environment({**asked, "GOTOOLCHAIN": "local", "GOFLAGS": ""}),
        timeout=timeout,
    )


def _version_here(command: Path) -> str:
    """'go1.26.10', or nothing when it is not a Go for this machine's architecture."""
    # go version go1.26.10 linux/riscv64
    words = _ask(command, "version").stdout.split()
    if len(words) >= 4 and words[3] == f"linux/{Architecture.here()}":
        return words[2]
    return ""


def candidates(pins: Pins) -> Iterator[Go]:
    """Every Go on this machine, the one on PATH first."""
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
    """True when Go's version, as in `go1.19`, is an older one than `oldest`, as in `1.19`."""
    try:
        return Version(version.removeprefix("go")) < Version(oldest)
    except InvalidVersion:
        # A development version ("devel go1.28-abcdef"): young enough to fetch another.
        return False


def find(pins: Pins) -> Go | None:
    """The pinned Go, if it is on this machine already; fetches nothing."""
    for go in candidates(pins):
        if go.version == pins.go_version:
            return go
    return None


def bootstrap(pins: Pins) -> Go:
    """A Go of this machine that can fetch another; the pinned one, if it is here.

    Raises:
        MissingRequirementError: there is none, or only one that is too old.
    """
    found = list(candidates(pins))
    if not found:
        raise MissingRequirementError("there is no Go on this machine", _NO_GO_HINT, "go")
    young_enough = [go for go in found if not older_than(go.version, OLDEST_BOOTSTRAP_GO)]
    if not young_enough:
        raise MissingRequirementError(
            f"{found[0].command} is {found[0].version}, too old to fetch {pins.go_version}"
            f" (at least {OLDEST_BOOTSTRAP_GO})",
            _NO_GO_HINT,
        )
    same = (go for go in young_enough if go.version == pins.go_version)
    return next(same, young_enough[0])


def ensure(pins: Pins) -> Go:
    """The pinned Go; fetched if need be.

    Raises:
        MissingRequirementError: there is no Go at all, or one too old to fetch another.
        NetworkError: it could not be fetched.
        SourceError: what was fetched has another hash than the pinned one.
    """
    go = bootstrap(pins)
    return go if go.version == pins.go_version else fetch(go, pins)


def download(go: Go, version: str, platform: str) -> dict[str, Any]:
    """Have a Go toolchain in the module cache, checked against Go's checksum database.

    Args:
        go: what fetches it.
        version: as in `go1.26.10`.
        platform: what it runs on, as in `linux-riscv64`.

    Returns:
        What `go mod download -json` says of it.

    Raises:
        NetworkError: it could not be fetched.
        SourceError: the checksum database knows another.
    """
    module = f"golang.org/toolchain@v0.0.1-{version}.{platform}"
    with tempfile.TemporaryDirectory() as empty:
        answer = process.probe(
            [go.command, "mod", "download", "-json", module],
            cwd=Path(empty),
            env=environment(go),
            timeout=None,
        )
    try:
        told: dict[str, Any] = json.loads(answer.stdout)
    except ValueError:
        told = {"Error": answer.last_line}
    if error := told.get("Error"):
        raise fetch_error(f"cannot fetch {version} for {platform}", error)
    return told


def fetch(go: Go, pins: Pins) -> Go:
    """Download the pinned Go by means of another; a no-op when it is in the module cache.

    Raises:
        NetworkError: it could not be fetched.
        SourceError: it has another hash than the pinned one.
    """
    platform = f"linux-{Architecture.here()}"
    module = download(go, pins.go_version, platform)
    pinned = pins.go_sums.get(platform)
    if pinned and pinned != module["Sum"]:
        raise SourceError(
            f"the fetched {pins.go_version} has hash {module['Sum']}, not the pinned {pinned}",
            "remove it with `go clean -modcache`; if it comes back, do not use that module proxy",
        )
    root = Path(module["Dir"])
    # Module archives carry no permissions. Go itself adds these when it is the
    # one that switches toolchains (cmd/go/internal/toolchain).
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
    """The failure that the go command's words about a download amount to."""
    lines = [line.strip() for line in output.strip().splitlines() if line.strip()]
    if "checksum mismatch" in output or "SECURITY ERROR" in output:
        return SourceError(
            f"{what}: checksum mismatch, what was fetched is not what is pinned",
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


# What would make Go compile for something else than this machine.
_TARGET_VARIABLES = (
    "GOOS", "GOARCH", "GOAMD64", "GOARM64", "GORISCV64", "GOARM", "GO386", "GOMIPS", "GOMIPS64",
    "GOPPC64", "GOWASM",
)  # fmt: skip


def refuse_cross_compilation(asked: Mapping[str, str] = os.environ) -> None:
    """Native only: refuse an environment that asks for another architecture or level.

    Raises:
        NotNativeError: naming the variable.
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
    """The environment for a go command: the user's network settings and none of the rest.

    Args:
        go: which Go.
        extra: what to add, such as GOTMPDIR.
    """
    settings = _settings(go.command)
    kept = {name: settings[name] for name in _NETWORK_SETTINGS if settings.get(name)}
    return process.environment(
        {
            **kept,
            "GOENV": "off",
            "GOFLAGS": "",
            "GOWORK": "off",
            "GOTOOLCHAIN": "local",
            "GO111MODULE": "on",
            "CGO_ENABLED": "0",
            **(extra or {}),
        }
    )
