"""The binaries that are compared: those of dist/, and others."""

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

from benchmarks.declaration import Declared
from buildkit_riscv64 import dist, locks, pins, process, project, storage
from buildkit_riscv64.arch import Platform, Target
from buildkit_riscv64.binaries import compile as compiler
from buildkit_riscv64.binaries import source as sources
from buildkit_riscv64.binaries import toolchain, update
from buildkit_riscv64.console import step
from buildkit_riscv64.errors import UsageError
from buildkit_riscv64.image import daemon
from tests.validation.bases import BaseImage

OURS = "ours"
#: Of `--against`: the pinned source with the flags of upstream's Dockerfile.
UPSTREAM = "upstream"
#: Of `--against`: the builder that is in Debian's docker engine.
DOCKER = "docker"
_ANSWER_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Build:
    """A build, however it is asked for.

    Args:
        context: the folder, with its Dockerfile.
        platform: what for; None for this machine's.
        number: the value of the build argument NUMBER.
        arguments: what buildctl and buildx both take, as in `--secret=…`.
    """

    context: Path
    platform: Platform | None = None
    number: int = 0
    arguments: Sequence[str] = ()


@dataclass(frozen=True)
class Running:
    """A daemon that answers.

    Args:
        pid: of the daemon itself.
        command: what asks it for a build.
        env: the whole environment of that.
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
class Side:
    """Binaries under the name that results have for them.

    Args:
        label: the name.
        binaries: the folder with buildkitd and buildctl.
    """

    label: str
    binaries: Path

    def as_json(self) -> dict[str, Any]:
        """For the results: which binaries these are, whatever they are called."""
        return {
            "label": self.label,
            "version": self._version(),
            "sha256": {one: storage.sha256(self.binaries / one) for one in dist.COMMANDS},
        }

    def _version(self) -> str:
        said = process.read([self.binaries / "buildkitd", "--version"], timeout=_ANSWER_SECONDS)
        # buildkitd github.com/moby/buildkit v0.32.2 991535e…
        return " ".join(said.split()[2:3])

    @contextlib.contextmanager
    def started(
        self, folder: Path, base: BaseImage, flags: Sequence[str] = ()
    ) -> Iterator[Running]:
        """A daemon that knows nothing yet; what it learns stays in the folder.

        Args:
            folder: for its state.
            base: what `FROM base` will mean.
            flags: of buildkitd besides.
        """
        state = Path(tempfile.mkdtemp(prefix="state-", dir=folder))
        with daemon.started(self.binaries, state, flags) as running:
            client = [str(self.binaries / "buildctl"), "--addr", running.address, "build"]
            yield Running(running.pid, lambda one: [*client, *_for_buildctl(one, base)])

    def reason_not_to(self, _case: Declared) -> str:
        """Why this side cannot do a case; nothing when it can."""
        return ""


def _cached(name: str, make: Callable[[Path], object]) -> Path:
    """A folder with binaries in the cache; made now if it is not there."""
    place = project.cache() / "benchmark"
    final = place / name
    with locks.held(place / f".{name}.lock"):
        if not dist.has_commands(final):
            with tempfile.TemporaryDirectory(prefix=".making-", dir=place) as aside:
                folder = Path(aside) / "bin"
                folder.mkdir()
                make(folder)
                shutil.rmtree(final, ignore_errors=True)
                folder.rename(final)
    return final


def _unpack(archive: Path) -> Path:
    """The binaries of a tarball like that of dist/.

    Raises:
        UsageError: it is none.
    """

    def make(folder: Path) -> None:
        with tarfile.open(archive) as tar:
            for command in dist.COMMANDS:
                member = tar.extractfile(dist.binary(command))
                if member is None:
                    raise KeyError(command)
                with (folder / command).open("wb") as file:
                    shutil.copyfileobj(member, file)
                (folder / command).chmod(0o755)

    try:
        return _cached(storage.sha256(archive)[:16], make)
    except (tarfile.TarError, EOFError, KeyError, OSError) as error:
        raise UsageError(
            f"--against {archive}: no tarball with bin/buildkitd and bin/buildctl: {error}",
            "give one as in dist/, or upstream's",
        ) from error


def upstream_builds(source: sources.Source) -> list[list[str]]:
    """Upstream's own `go build`s, as its Dockerfile has them: arguments before `-o`.

    Its vendor folder is not in a Go module; the same code comes from the module cache.
    """
    stamps = compiler.ldflags(source).removesuffix(" -extldflags '-static'")
    return [
        [source.mod_flag, "-ldflags", stamps],
        [
            source.mod_flag, "-gcflags=", "-ldflags", compiler.ldflags(source),
            "-tags", " ".join(compiler.TAGS),
        ],
    ]  # fmt: skip


def _compile(source: sources.Source, go: toolchain.Go, folder: Path, builds: Sequence[Sequence[str]]) -> None:  # fmt: skip
    env = toolchain.environment(go, Target.here().go_level())
    for command, package, flags in zip(dist.COMMANDS, source.packages, builds, strict=True):
        process.run(
            [go.command, "build", *flags, "-o", folder / command, package],
            cwd=source.directory, env=env, title=f"go build {package}",
        )  # fmt: skip


def _upstream() -> Path:
    """The pinned source, compiled with upstream's flags."""
    pinned = pins.load()

    def make(folder: Path) -> None:
        with step(f"compiling {pinned.version} with upstream's flags"):
            go = toolchain.ensure(pinned)
            source = sources.resolve("module", pinned)
            sources.prepare(source, go)
            _compile(source, go, folder, upstream_builds(source))

    return _cached(f"upstream-{pinned.version}-{pinned.go_version}", make)


def _release(tag: str) -> Path:
    """A release of upstream's, compiled as `invoke build-binaries` compiles the pinned one."""
    pinned = pins.load()

    def make(folder: Path) -> None:
        with (
            step(f"compiling {tag} as build-binaries would"),
            tempfile.TemporaryDirectory() as name,
        ):
            go = toolchain.ensure(pinned)
            module = update.fetch_module(tag, go, Path(name))
            source = dataclasses.replace(
                sources.resolve("module", pinned), directory=Path(name), version=tag,
                revision=(module.get("Origin") or {}).get("Hash", "unknown"), pinned=False,
            )  # fmt: skip
            _compile(source, go, folder, [compiler.flags(source)] * len(dist.COMMANDS))

    return _cached(f"{tag}-{pinned.go_version}", make)


def ours() -> Side:
    """What dist/ has for this machine.

    Raises:
        CheckError: it has nothing.
    """
    return Side(OURS, dist.load(dist.folder(Target.here())).path / "bin")


def against(text: str) -> Side:
    """What `--against` means.

    Args:
        text: a folder with the programs, or with a bin/ of them; a tarball; `upstream`;
            or a release of upstream's.

    Raises:
        UsageError: it is none of these.
    """
    if text == UPSTREAM:
        return Side(text, _upstream())
    path = Path(text).expanduser()
    if path.is_file():
        return Side(path.name.removesuffix(".tar.gz"), _unpack(path))
    for folder in (path, path / "bin"):
        if dist.has_commands(folder):
            return Side(_label(path), folder)
    if path.exists() or "/" in text:
        raise UsageError(
            f"--against {text}: no buildkitd and buildctl there",
            "give the folder that has them, a tarball, `upstream`, or a release like v0.32.1",
        )
    return Side(text, _release(pins.release_tag(text)))


def _label(path: Path) -> str:
    """A folder's name; never where it is, which is nobody else's business."""
    resolved = path.resolve()
    name = resolved.parent.name if resolved.name == "bin" else resolved.name
    return f"{name}'s" if name == OURS else name


def compared(text: str, folder: Path) -> list[Side]:
    """Ours, and what `--against` means, if that is anything.

    Args:
        text: as in :func:`against`, or `docker`.
        folder: for what has to run meanwhile.
    """
    if text == DOCKER:
        from benchmarks import engine

        return engine.sides(ours().binaries, folder)
    return [ours(), *([against(text)] if text else [])]
