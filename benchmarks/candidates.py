"""The candidates: the binaries of dist/, and a baseline."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.definitions import CaseSpec
from buildkit_riscv64.binaries import compile as compiler
from buildkit_riscv64.binaries import source as sources
from buildkit_riscv64.binaries import toolchain
from buildkit_riscv64.buildkitd import daemon
from buildkit_riscv64.core import dist, filesystem, locks, pins, process, project, values
from buildkit_riscv64.core.arch import Platform, Target
from buildkit_riscv64.core.console import step
from buildkit_riscv64.core.errors import UsageError
from buildkit_riscv64.upstream import update_pins
from buildkit_riscv64.validation.scenarios.bases import BaseImage

OURS = "ours"
#: A value of `--baseline`: the pinned source with the flags of upstream's Dockerfile.
UPSTREAM = "upstream"
#: A value of `--baseline`: the builder in Debian's docker engine.
DOCKER = "docker"
_ANSWER_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Build:
    """A build, for every client.

    Args:
        context: the directory with its Dockerfile.
        platform: the platform; None for this machine's.
        number: the value of the build argument NUMBER.
        arguments: options of both buildctl and buildx, as in `--secret=…`.
    """

    context: Path
    platform: Platform | None = None
    number: int = 0
    arguments: Sequence[str] = ()


@dataclass(frozen=True)
class Running:
    """A daemon that answers.

    Args:
        pid: the process id of the daemon.
        command: the command of a client that builds.
        env: the complete environment of the client.
    """

    pid: int
    command: Callable[[Build], list[str]]
    env: Mapping[str, str] = dataclasses.field(default_factory=process.environment)


def _for_buildctl(build: Build, base: BaseImage) -> list[str]:
    return [
        "--progress=plain", "--frontend=dockerfile.v0", f"--local=context={build.context}",
        f"--local=dockerfile={build.context}", f"--opt=build-arg:NUMBER={build.number}",
        *base.flags(), *([f"--opt=platform={build.platform}"] if build.platform else []),
        *build.arguments,
    ]  # fmt: skip


@dataclass(frozen=True)
class Candidate:
    """Binaries with a label.

    Args:
        label: the name in results.
        binaries: the directory with buildkitd and buildctl.
    """

    label: str
    binaries: Path

    def as_json(self) -> dict[str, Any]:
        """Label, version and digests for the results."""
        return {
            "label": self.label,
            "version": self._version(),
            "sha256": {one: filesystem.sha256(self.binaries / one) for one in dist.COMMANDS},
        }

    def _version(self) -> str:
        output = process.read([self.binaries / "buildkitd", "--version"], timeout=_ANSWER_SECONDS)
        # buildkitd github.com/moby/buildkit v0.32.2 991535e…
        return " ".join(output.split()[2:3])

    @contextlib.contextmanager
    def started(
        self, directory: Path, base: BaseImage, flags: Sequence[str] = ()
    ) -> Iterator[Running]:
        """Start a daemon with an empty cache.

        Args:
            directory: for its state.
            base: the base image, for `FROM base`.
            flags: additional flags of buildkitd.
        """
        state = Path(tempfile.mkdtemp(prefix="state-", dir=directory))
        with daemon.started(self.binaries, state, flags) as running:
            client = [str(self.binaries / "buildctl"), "--addr", running.address, "build"]
            yield Running(running.pid, lambda one: [*client, *_for_buildctl(one, base)])

    def skip_reason(self, _case: CaseSpec) -> str:
        """Why this candidate cannot run a case, or an empty string."""
        return ""


def _cached(name: str, make: Callable[[Path], object]) -> Path:
    """A cached directory with binaries, created if missing."""
    place = project.cache() / "benchmark"
    final = place / name
    with locks.held(place / f".{name}.lock"):
        if not dist.has_commands(final):
            with tempfile.TemporaryDirectory(prefix=".making-", dir=place) as aside:
                directory = Path(aside) / "bin"
                directory.mkdir()
                make(directory)
                shutil.rmtree(final, ignore_errors=True)
                directory.rename(final)
    return final


def _unpack(archive: Path) -> Path:
    """The binaries of a tarball like the one in dist/.

    Raises:
        UsageError: not such a tarball.
    """

    def make(directory: Path) -> None:
        with tarfile.open(archive) as tar:
            for command in dist.COMMANDS:
                member = tar.extractfile(dist.binary(command))
                if member is None:
                    raise KeyError(command)
                with (directory / command).open("wb") as file:
                    shutil.copyfileobj(member, file)
                (directory / command).chmod(0o755)

    try:
        return _cached(filesystem.sha256(archive)[:16], make)
    except (tarfile.TarError, EOFError, KeyError, OSError) as error:
        raise UsageError(
            f"--baseline {archive}: not a tarball with bin/buildkitd and bin/buildctl: {error}",
            "use one like the tarball in dist/, or upstream's",
        ) from error


def upstream_builds(source: sources.Source) -> list[list[str]]:
    """Arguments of upstream's `go build`s before `-o`, as in its Dockerfile.

    A Go module has no vendor directory; the same code comes from the module cache.
    """
    stamps = compiler.ldflags(source).removesuffix(" -extldflags '-static'")
    return [
        [source.mod_flag, "-ldflags", stamps],
        [
            source.mod_flag, "-gcflags=", "-ldflags", compiler.ldflags(source),
            "-tags", " ".join(compiler.TAGS),
        ],
    ]  # fmt: skip


def _compile(
    source: sources.Source, go: toolchain.Go, directory: Path, builds: Sequence[Sequence[str]]
) -> None:
    env = toolchain.environment(go, Target.here().go_level())
    for command, package, flags in zip(dist.COMMANDS, source.packages, builds, strict=True):
        process.run(
            [go.command, "build", *flags, "-o", directory / command, package],
            cwd=source.directory, env=env, title=f"go build {package}",
        )  # fmt: skip


def _upstream() -> Path:
    """The pinned source, compiled with upstream's flags."""
    pinned = pins.load()

    def make(directory: Path) -> None:
        with step(f"compiling {pinned.version} with upstream's flags"):
            go = toolchain.ensure(pinned)
            source = sources.resolve("module", pinned)
            sources.prepare(source, go)
            _compile(source, go, directory, upstream_builds(source))

    return _cached(f"upstream-{pinned.version}-{pinned.go_version}", make)


def _release(tag: str) -> Path:
    """A release of upstream, compiled like the pinned one."""
    pinned = pins.load()

    def make(directory: Path) -> None:
        with (
            step(f"compiling {tag} with our flags"),
            tempfile.TemporaryDirectory() as name,
        ):
            go = toolchain.ensure(pinned)
            module = update_pins.fetch_module(tag, go, Path(name))
            source = dataclasses.replace(
                sources.resolve("module", pinned), directory=Path(name), version=tag,
                revision=(module.get("Origin") or {}).get("Hash", "unknown"), pinned=False,
            )  # fmt: skip
            _compile(source, go, directory, [compiler.flags(source)] * len(dist.COMMANDS))

    return _cached(f"{tag}-{pinned.go_version}", make)


def ours() -> Candidate:
    """The binaries in dist/ for this machine.

    Raises:
        CheckError: dist/ has none.
    """
    return Candidate(OURS, dist.load(dist.directory(Target.here())).path / "bin")


def baseline(text: str) -> Candidate:
    """The candidate of `--baseline`.

    Args:
        text: a directory with the programs, or with bin/; a tarball; `upstream`; or a release
            of upstream.

    Raises:
        UsageError: none of these.
    """
    if text == UPSTREAM:
        return Candidate(text, _upstream())
    path = values.path("--baseline", text)
    if path.is_file():
        return Candidate(path.name.removesuffix(".tar.gz"), _unpack(path))
    for directory in (path, path / "bin"):
        if dist.has_commands(directory):
            return Candidate(_label(path), directory)
    if path.exists() or "/" in text:
        raise UsageError(
            f"--baseline {text}: no buildkitd and buildctl there",
            "use a directory with both, a tarball, `upstream`, or a release like v0.32.1",
        )
    return Candidate(text, _release(pins.release_tag(text)))


def _label(path: Path) -> str:
    """The name of a directory; results never contain its path."""
    resolved = path.resolve()
    name = resolved.parent.name if resolved.name == "bin" else resolved.name
    return f"{name}'s" if name == OURS else name
