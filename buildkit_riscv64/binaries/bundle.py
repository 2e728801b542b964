"""The bundle: what upstream's tarball has beside the commands, and rootlesskit.

Their versions are those that upstream's Dockerfile pins. `invoke source.update`
reads them there, and keeps for each a go.mod and go.sum in `upstream/`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import digests, pins, process, project, timestamps
from ..arch import Target
from ..errors import CheckError, SourceError
from . import cc, toolchain
from . import compile as compiler
from . import source as sources

#: Changes whenever this code would make something else of the same inputs.
RECIPE = 1
#: What it adds to what a build writes below `dist/`, at most.
NEEDED_BYTES = 200 << 20


@dataclass(frozen=True, kw_only=True)
class Component:
    """Where some of the programs come from.

    Args:
        name: ours: of its folder in `upstream/`, in `pins.toml` and in manifests.
        argument: what upstream's Dockerfile calls its version.
        path: its Go module, without a major version.
        packages: of each program, the package below the module.
        tags: build tags.
        ldflags: flags for the linker; `{version}` is the version.
        cgo: there is C in it.
    """

    name: str
    argument: str
    path: str
    packages: Mapping[str, str]
    tags: Sequence[str] = ()
    ldflags: str = ""
    cgo: bool = False

    @property
    def folder(self) -> Path:
        """Where its go.mod and go.sum are."""
        return project.UPSTREAM_MODULE / self.name

    def module(self, version: str) -> str:
        """Its module at a version (https://go.dev/ref/mod#major-version-suffixes)."""
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
    # As in the stage `runc` of upstream's Dockerfile.
    Component(
        name="runc",
        argument="RUNC_VERSION",
        path="github.com/opencontainers/runc",
        packages={"buildkit-runc": ""},
        tags=("apparmor", "seccomp", "netgo", "cgo", "static_build", "osusergo"),
        ldflags="-extldflags -static",
        cgo=True,
    ),
    # Upstream takes the release's, which is made with these flags (its release.yaml).
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
    # As in the stage `rootlesskit`.
    Component(
        name="rootlesskit",
        argument="ROOTLESSKIT_VERSION",
        path="github.com/rootless-containers/rootlesskit",
        packages={"rootlesskit": "cmd/rootlesskit"},
    ),
)


@dataclass(frozen=True, kw_only=True)
class Part:
    """A component as it is pinned: what is compiled of it, and from what.

    Args:
        component: the component.
        release: the pinned one.
        sum: the dirhash of its module.
        state: differs whenever anything that is compiled could.
    """

    component: Component
    release: pins.Release
    sum: str
    state: str
    mod_flag: str = field(default="-mod=readonly", init=False)

    @property
    def directory(self) -> Path:
        """Where to run go."""
        return self.component.folder

    @property
    def module(self) -> str:
        """Its Go module."""
        return self.component.module(self.release.version)

    @property
    def location(self) -> str:
        """For people, as in `github.com/opencontainers/runc@v1.4.3`."""
        return f"{self.module}@{self.release.version}"

    @property
    def commands(self) -> dict[str, str]:
        """The import path of each program."""
        return self.component.commands(self.release.version)

    @property
    def flags(self) -> list[str]:
        """Everything that decides the output, as arguments of go build."""
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
        """What to run."""
        return compiler.Job(
            directory=self.directory, packages=list(self.commands.values()), flags=self.flags
        )

    def environment(self, target: Target) -> dict[str, str]:
        """The variables that decide the output."""
        return {"CGO_ENABLED": str(int(self.component.cgo)), **target.go_level()}

    def as_json(self, target: Target) -> dict[str, Any]:
        """For a manifest, but for what compiles C."""
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
    """All of it, as it is pinned.

    Raises:
        SourceError: something is not pinned, or not as `upstream/` has it.
    """
    return [_part(component, pinned) for component in COMPONENTS]


def _part(component: Component, pinned: pins.Pins) -> Part:
    release = pinned.bundle.get(component.name)
    if release is None:
        raise SourceError(
            f"pins.toml does not say which {component.name} belongs to {pinned.version}",
            f"run `invoke source.update {pinned.version}`",
        )
    module = component.module(release.version)
    kept = sources.kept_sum(component.folder, module, release.version, pinned)
    state = sources.kept_state(component.folder, kept)
    return Part(component=component, release=release, sum=kept, state=state)


def inputs(every: Sequence[Part], target: Target, pinned: pins.Pins) -> str:
    """The digest of everything that decides the output, but for what compiles C.

    Args:
        every: all parts.
        target: what it is for.
        pinned: what is pinned.
    """
    decisive = {
        "recipe": RECIPE,
        "target": target.name,
        "go": pinned.go_version,
        "parts": [[one.location, one.release.commit, one.state, one.flags] for one in every],
    }
    return digests.inputs(decisive)


def prepare(every: Sequence[Part], go: toolchain.Go) -> None:
    """Fetch what it is compiled from, so that compiling needs no network.

    Raises:
        NetworkError: something could not be fetched.
        SourceError: something that was fetched has another hash than the pinned one.
    """
    for part in every:
        sources.prepare(part, go)


def verify(every: Sequence[Part], go: toolchain.Go) -> None:
    """Check what is compiled against the hashes in this repository.

    Raises:
        SourceError: a file is not what its module's hash says.
    """
    for part in every:
        sources.verify_modules(part, go, part.component.name)


def compile_part(
    part: Part, go: toolchain.Go, output: Path, scratch: Path, extra_env: Mapping[str, str]
) -> None:
    """Compile a part's programs, under our names.

    Args:
        part: what.
        go: the pinned toolchain.
        output: the folder for the programs.
        scratch: a folder for Go's temporary files.
        extra_env: what selects the target.

    Raises:
        BuildError: it did not compile.
        StorageError: no space left.
        MissingRequirementError: the compiler ran out of memory.
    """
    aside = scratch / "out"
    aside.mkdir()
    cgo = {"CGO_ENABLED": "1"} if part.component.cgo else {}
    compiler.run(part.job, go, aside, scratch, {**cgo, **extra_env})
    for command, package in part.commands.items():
        # Go calls a program by the last word of its package that is no major version.
        *_, name = (word for word in package.split("/") if not re.fullmatch(r"v\d+", word))
        (aside / name).rename(output / command)
    aside.rmdir()


def of(manifest: Mapping[str, Any], command: str) -> Mapping[str, Any]:
    """What a manifest says of the component that a program comes from.

    Raises:
        CheckError: nothing.
    """
    component: Mapping[str, Any]
    for component in manifest["bundle"]["components"]:
        if command in component["commands"]:
            return component
    raise CheckError(
        f"the manifest does not say what {command} comes from",
        "run `invoke build-binaries --bundle --force` to make it anew",
    )


def differences(
    part: Part, info: Mapping[str, Any], go: toolchain.Go, target: Target,
    extra_env: Mapping[str, str],
) -> list[str]:  # fmt: skip
    """How what Go recorded in a part's program is other than what it would record now.

    That is all that can be compared where the same C cannot be compiled: Go's version,
    the package, what is selected, and each module that is linked in, with its hash.

    Args:
        part: where the program comes from.
        info: what Go recorded in it.
        go: the pinned toolchain.
        target: what it is for.
        extra_env: what selects it.
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
    """True when a manifest's bundle is what would be made here and now.

    Where nothing can compile C, nothing else could be made either.

    Args:
        manifest: of finished artifacts.
        digest: of what would decide the output.
    """
    there = manifest.get("bundle")
    if not isinstance(there, dict) or there.get("inputs") != digest:
        return False
    recorded = [one["c"] for one in there["components"] if "c" in one]
    return bool(cc.missing()) or all(map(cc.is_here, recorded))
