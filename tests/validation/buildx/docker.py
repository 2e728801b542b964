"""docker and buildx: with builders of a test's own, of which nothing is left."""

from __future__ import annotations

import contextlib
import json
import re
import tarfile
import uuid
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from packaging.version import Version

from buildkit_riscv64 import process

from ...integration.dockerd import Access
from ..daemon import Ended, run


def unique() -> str:
    """A name that nobody has given to anything: the engine may be somebody's own."""
    return f"validation-{uuid.uuid4().hex[:12]}"


def container(builder: str) -> str:
    """What buildx calls a builder's container."""
    return f"buildx_buildkit_{builder}0"


def volume(builder: str) -> str:
    """What buildx calls a builder's state."""
    return f"{container(builder)}_state"


def cached(done: Ended, step: str) -> bool:
    """True when a build took a step from the cache; False when it did it."""
    (number,) = set(re.findall(rf"^#(\d+) \[.*\] {re.escape(step)}", done.stderr, re.M))
    return f"\n#{number} CACHED\n" in done.stderr


class Docker:
    """docker's command against an engine, with a configuration of buildx of its own.

    Args:
        access: to the engine.
        folder: for buildx's configuration.
    """

    def __init__(self, access: Access, folder: Path) -> None:
        #: What is put before a command that is to have the engine's network.
        self.inside = access.inside
        self.env = {**access.env, "BUILDX_CONFIG": str(folder), "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}  # fmt: skip
        #: Our image, as this engine has it.
        self.image = ""

    def __call__(self, *args: str | Path, **options: Any) -> Ended:
        """Run it, with the options of :func:`run`."""
        env = {**self.env, **options.pop("env", {})}
        return run(*self.inside, "docker", *args, env=env, **options)

    def buildx(self, *args: str | Path, **options: Any) -> Ended:
        """Run buildx."""
        return self("buildx", *args, **options)

    def build(self, builder: str, context: Path, *args: str | Path, **options: Any) -> Ended:
        """Build a folder with a builder."""
        return self.buildx("build", f"--builder={builder}", "--progress=plain", *args, context, **options)  # fmt: skip

    def inspect(self, kind: str, name: str) -> Any:
        """What the engine knows of a container, an image or a volume; None if there is none."""
        done = self(kind, "inspect", name)
        return done.json[0] if done.code == 0 else None

    @property
    def version(self) -> Version:
        """Of buildx."""
        # "github.com/docker/buildx 0.13.1+ds1 0.13.1+ds1-3", "… v0.24.0 d0e5e86"
        return Version(self.buildx("version").good().stdout.split()[1].partition("+")[0])

    def options(self, *args: str) -> str:
        """What a command of buildx says of its options."""
        return self.buildx(*args, "--help", env={"BUILDX_EXPERIMENTAL": "1"}).good().stdout

    @contextlib.contextmanager
    def loaded(self, archive: Path, digests: Collection[str]) -> Iterator[str]:
        """Our image, loaded from its archive under a name of our own.

        Args:
            archive: the file.
            digests: of its manifest and of its configuration: engines know it by one of them.
        """
        with tarfile.open(archive) as tar:
            content = tar.extractfile("manifest.json")
            assert content is not None
            (name,) = json.load(content)[0]["RepoTags"]
        before = self.inspect("image", name)
        ours = unique()
        with process.afterwards([["docker", "rmi", "--force", ours]]):
            try:
                assert name in self("load", "--input", archive).good().stdout
                self("tag", name, ours).good()
                assert self.inspect("image", ours)["Id"] in digests
                # The name in the archive may be one that the engine's owner uses.
                self("tag", before["Id"], name).good() if before else self("rmi", name).good()
                yield ours
            finally:
                self("rmi", "--force", ours).good()

    @contextlib.contextmanager
    def builder(self, *args: str | Path, driver: str = "docker-container") -> Iterator[str]:
        """A builder of our image, not started; gone afterwards with all that it had.

        Args:
            args: options of `buildx create`, and an endpoint.
            driver: buildx's.
        """
        name = unique()
        image = [f"--driver-opt=image={self.image}"] if driver == "docker-container" else []
        left = [["docker", "rm", "--force", "--volumes", container(name)], ["docker", "volume", "rm", "--force", volume(name)]]  # fmt: skip
        with process.afterwards(left):
            try:
                self.buildx("create", f"--name={name}", f"--driver={driver}", *image, *args).good()
                yield name
            finally:
                self.buildx("rm", "--force", name)
                # Where a scenario has lost the builder and kept its state.
                for command in left:
                    self(*command[1:])
        assert self.inspect("container", container(name)) is None
        assert self.inspect("volume", volume(name)) is None

    @contextlib.contextmanager
    def running(self, *options: str) -> Iterator[str]:
        """A container of our image as it is, started with these options; gone afterwards."""
        name = unique()
        remove = ["docker", "rm", "--force", "--volumes", name]
        with process.afterwards([remove]):
            try:
                self("run", "--detach", f"--name={name}", *options, self.image).good()
                yield name
            finally:
                self(*remove[1:]).good()

    @contextlib.contextmanager
    def images(self, *names: str) -> Iterator[None]:
        """For images that a scenario brings into the engine, by these names."""
        with process.afterwards([["docker", "rmi", "--force", *names]]):
            try:
                yield
            finally:
                self("rmi", "--force", *names)
        assert not [name for name in names if self.inspect("image", name)]
