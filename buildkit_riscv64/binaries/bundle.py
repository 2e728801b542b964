"""The bundle: the other programs of upstream's tarball, and rootlesskit.

Upstream's Dockerfile pins their versions. `invoke pins.update` reads them and
writes a go.mod and go.sum for each component to `pins/upstream/`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core import cache_keys, pins, process, project, timestamps
from ..core.arch import Target
from ..core.errors import CheckError, SourceError
from . import c_toolchain, toolchain
from . import compile as compiler
from . import source as sources

#: Increase when the same inputs would give different output.
RECIPE = 1
#: Upper bound of what the bundle adds to a build's files below `dist/`.
NEEDED_BYTES = 200 << 20


@dataclass(frozen=True, kw_only=True)
class Component:
    """A Go module with one or more programs of the bundle.

    Args:
        name: in `pins/upstream/`, in `pins/pins.toml` and in manifests.
        argument: the version's ARG in upstream's Dockerfile.
        path: the Go module, without a major version.
        packages: each program's package, relative to the module.
        tags: build tags.
        ldflags: linker flags; `{version}` is replaced.
        cgo: the component contains C.
    """

    name: str
    argument: str
    path: str
    packages: Mapping[str, str]
    tags: Sequence[str] = ()
    ldflags: str = ""
    cgo: bool = False

    @property
    def directory(self) -> Path:
        """The directory of its go.mod and go.sum."""
        return project.UPSTREAM_MODULE / self.name

    def module(self, version: str) -> str:
        """The Go module at a version (https://go.dev/ref/mod#major-version-suffixes)."""
        major = version.partition(".")[0]
        return self.path if major in {"v0", "v1"} else f"{self.path}/{major}"

    def commands(self, version: str) -> dict[str, str]:
        """The import path of each program at a version."""
        module = self.module(version)
        return {
            command: "/".join(filter(None, (module, below)))
            for command, below in self.packages.items()
        }


COMPONENTS = (
    # As in upstream's Dockerfile, stage `runc`.
    Component(
        name="runc",
        argument="RUNC_VERSION",
        path="github.com/opencontainers/runc",
        packages={"buildkit-runc": ""},
        tags=("apparmor", "seccomp", "netgo", "cgo", "static_build", "osusergo"),
        ldflags="-extldflags -static",
        cgo=True,
    ),
    # Upstream uses the published binaries, built with these flags (release.yaml).
    Component(
        name="cni-plugins",
        argument="CNI_VERSION",
        path="github.com/containernetworking/plugins",
        packages={
            "buildkit-cni-bridge": "plugins/main/bridge",
            "buildkit-cni-firewall": "plugins/meta/firewall",
            "buildkit-cni-host-local": "plugins/ipam/host-local",
            "buildkit-cni-loopback": "plugins/main/loopback",
        },
        ldflags="-extldflags -static"
        " -X github.com/containernetworking/plugins/pkg/utils/buildversion.BuildVersion={version}",
    ),
    # As in upstream's Dockerfile, stage `rootlesskit`.
    Component(
        name="rootlesskit",
        argument="ROOTLESSKIT_VERSION",
        path="github.com/rootless-containers/rootlesskit",
        packages={"rootlesskit": "cmd/rootlesskit"},
    ),
)


@dataclass(frozen=True, kw_only=True)
class Part:
    """A component at its pinned release.

    Args:
        component: the component.
        release: the pinned release.
        sum: the dirhash of the module.
        state: changes whenever any compiled source could.
    """

    component: Component
    release: pins.PinnedRelease
    sum: str
    state: str
    mod_flag: str = field(default="-mod=readonly", init=False)

    @property
    def directory(self) -> Path:
        """The directory to run go in."""
        return self.component.directory

    @property
    def module(self) -> str:
        """The Go module."""
        return self.component.module(self.release.version)

    @property
    def location(self) -> str:
        """Module and version, such as `github.com/opencontainers/runc@v1.4.3`."""
        return f"{self.module}@{self.release.version}"

    @property
    def commands(self) -> dict[str, str]:
        """The import path of each program."""
        return self.component.commands(self.release.version)

    @property
    def flags(self) -> list[str]:
        """The arguments of go build that decide the output."""
        one = self.component
        ldflags = one.ldflags.format(version=self.release.version)
        return [
            *compiler.ANYWHERE,
            self.mod_flag,
            *([f"-tags={','.join(one.tags)}"] if one.tags else []),
            *([f"-ldflags={ldflags}"] if ldflags else []),
        ]

    @property
    def job(self) -> compiler.Job:
        """The go invocation."""
        return compiler.Job(
            directory=self.directory, packages=list(self.commands.values()), flags=self.flags
        )

    def environment(self, target: Target) -> dict[str, str]:
        """The variables that decide the output."""
        return {"CGO_ENABLED": str(int(self.component.cgo)), **target.go_level()}

    def as_json(self, target: Target) -> dict[str, Any]:
        """The manifest's entry, without the C toolchain."""
        return {
            "name": self.component.name,
            "module": self.module,
            "version": self.release.version,
            "revision": self.release.commit,
            "sum": self.sum,
            "time": timestamps.utc(self.release.time),
            "commands": self.commands,
            "flags": self.flags,
            "environment": self.environment(target),
        }


def parts(pinned: pins.Pins) -> list[Part]:
    """Every component at its pinned release.

    Raises:
        SourceError: a component is not pinned, or `pins/upstream/` has another version.
    """
    return [_part(component, pinned) for component in COMPONENTS]


def _part(component: Component, pinned: pins.Pins) -> Part:
    release = pinned.bundle.get(component.name)
    if release is None:
        raise SourceError(
            f"pins/pins.toml has no {component.name} for {pinned.version}",
            f"run `invoke pins.update {pinned.version}`",
        )
    module = component.module(release.version)
    dirhash = sources.pinned_hash(component.directory, module, release.version, pinned)
    state = sources.module_state(component.directory, dirhash)
    return Part(component=component, release=release, sum=dirhash, state=state)


def inputs(every: Sequence[Part], target: Target, pinned: pins.Pins) -> str:
    """Cache key: a digest of everything that decides the output, except the C toolchain.

    Args:
        every: all parts.
        target: of the programs.
        pinned: the pins.
    """
    decisive = {
        "recipe": RECIPE,
        "target": target.name,
        "go": pinned.go_version,
        "parts": [[one.location, one.release.commit, one.state, one.flags] for one in every],
    }
    return cache_keys.inputs(decisive)


def prepare(every: Sequence[Part], go: toolchain.Go) -> None:
    """Fetch the modules, so that compiling needs no network.

    Raises:
        NetworkError: a module could not be fetched.
        SourceError: a fetched module does not have its pinned hash.
    """
    for part in every:
        sources.prepare(part, go)


def verify(every: Sequence[Part], go: toolchain.Go) -> None:
    """Check the module cache against the pinned hashes.

    Raises:
        SourceError: a file does not match its module's hash.
    """
    for part in every:
        sources.verify_modules(part, go, part.component.name)


def compile_part(
    part: Part, go: toolchain.Go, output: Path, scratch: Path, extra_env: Mapping[str, str]
) -> None:
    """Compile a part's programs under our names.

    Args:
        part: the component.
        go: the pinned toolchain.
        output: the directory for the programs.
        scratch: a directory for Go's temporary files.
        extra_env: variables that select the target.

    Raises:
        BuildError: compilation failed.
        StorageError: no space left.
        MissingRequirementError: the compiler ran out of memory.
    """
    aside = scratch / "out"
    aside.mkdir()
    cgo = {"CGO_ENABLED": "1"} if part.component.cgo else {}
    compiler.run(part.job, go, aside, scratch, {**cgo, **extra_env})
    for command, package in part.commands.items():
        # Go names a program after the last element of its package, without the major version.
        *_, name = (word for word in package.split("/") if not re.fullmatch(r"v\d+", word))
        (aside / name).rename(output / command)
    aside.rmdir()


def of(manifest: Mapping[str, Any], command: str) -> Mapping[str, Any]:
    """The manifest's entry for the component of a program.

    Raises:
        CheckError: the manifest has none.
    """
    component: Mapping[str, Any]
    for component in manifest["bundle"]["components"]:
        if command in component["commands"]:
            return component
    raise CheckError(
        f"the manifest has no component for {command}",
        "run `invoke build-binaries --bundle --force` to rebuild it",
    )


def differences(
    part: Part,
    info: Mapping[str, Any],
    go: toolchain.Go,
    target: Target,
    extra_env: Mapping[str, str],
) -> list[str]:
    """Differences between a program's build information and the current build's.

    Used where the same C cannot be compiled: Go's version, package, settings, and each
    linked module with its hash.

    Args:
        part: the program's component.
        info: the build information in the program.
        go: the pinned toolchain.
        target: of the program.
        extra_env: variables that select the target.
    """
    form = "{{with .Module}}{{.Path}} {{.Version}} {{.Sum}}{{end}}"
    (package,) = part.commands.values()
    env = toolchain.environment(go, {**part.environment(target), **extra_env})
    listing = process.read(
        [go.command, "list", "-deps", "-f", form, *part.job.selecting, package],
        cwd=part.directory, env=env, timeout=600, error=SourceError,
    )  # fmt: skip
    linked = [info.get("Main") or {}, *(info.get("Deps") or [])]
    settings = info["Settings"]
    seen = {
        "Go": info.get("GoVersion", "").partition(" ")[0],
        "package": info.get("Path"),
        "tags": settings.get("-tags"),
        "-trimpath": settings.get("-trimpath"),
        "CGO_ENABLED": settings.get("CGO_ENABLED"),
        "architecture": settings.get("GOARCH"),
        target.arch.level_variable: settings.get(target.arch.level_variable),
        "modules": sorted(f"{m.get('Path')} {m.get('Version')} {m.get('Sum')}" for m in linked),
    }
    expected = {
        "Go": go.version,
        "package": package,
        "tags": ",".join(part.component.tags),
        "-trimpath": "true",
        "CGO_ENABLED": "1",
        "architecture": str(target.arch),
        target.arch.level_variable: target.level or target.arch.default_level,
        "modules": sorted({line for line in listing.splitlines() if line}),
    }
    return [
        f"{what}: {seen[what]}, expected {expected[what]}"
        for what in expected
        if seen[what] != expected[what]
    ]


def is_current(manifest: Mapping[str, Any], digest: str) -> bool:
    """True when a manifest's bundle is what this machine would build now.

    Without a C toolchain, this machine cannot build any other bundle.

    Args:
        manifest: of published artifacts.
        digest: the current cache key.
    """
    bundle = manifest.get("bundle")
    if not isinstance(bundle, dict) or bundle.get("inputs") != digest:
        return False
    recorded = [one["c"] for one in bundle["components"] if "c" in one]
    return bool(c_toolchain.missing()) or all(map(c_toolchain.is_here, recorded))
