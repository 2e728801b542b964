"""docker and buildx, with builders that a test creates and removes."""

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

from buildkit_riscv64.core import dist, process
from buildkit_riscv64.image import layout
from buildkit_riscv64.validation.environment.docker_engine import Access

from ..daemon import Result, run


def unique() -> str:
    """A unique name: the engine may be in use."""
    return f"validation-{uuid.uuid4().hex[:12]}"


def container(builder: str) -> str:
    """The name of a builder's container."""
    return f"buildx_buildkit_{builder}0"


def volume(builder: str) -> str:
    """The name of a builder's volume."""
    return f"{container(builder)}_state"


def cached(done: Result, step: str) -> bool:
    """Whether a build took a step from the cache."""
    (number,) = set(re.findall(rf"^#(\d+) \[.*\] {re.escape(step)}", done.stderr, re.M))
    return f"\n#{number} CACHED\n" in done.stderr


class Docker:
    """The docker command for an engine, with its own configuration of buildx.

    Args:
        access: how to use the engine.
        directory: for the configuration of buildx.
    """

    def __init__(self, access: Access, directory: Path) -> None:
        #: The prefix of a command that runs in the engine's network.
        self.inside = access.inside
        self.env = {**access.env, "BUILDX_CONFIG": str(directory), "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}  # fmt: skip
        #: The name of our image in this engine.
        self.image = ""

    def __call__(self, *args: str | Path, **options: Any) -> Result:
        """Run docker, with the options of :func:`run`."""
        env = {**self.env, **options.pop("env", {})}
        return run(*self.inside, "docker", *args, env=env, **options)

    def buildx(self, *args: str | Path, **options: Any) -> Result:
        """Run buildx."""
        return self("buildx", *args, **options)

    def build(self, builder: str, context: Path, *args: str | Path, **options: Any) -> Result:
        """Build a directory with a builder."""
        return self.buildx("build", f"--builder={builder}", "--progress=plain", *args, context, **options)  # fmt: skip

    def inspect(self, kind: str, name: str) -> Any:
        """Inspect a container, an image or a volume; None if it does not exist."""
        done = self(kind, "inspect", name)
        return done.json[0] if done.code == 0 else None

    @property
    def version(self) -> Version:
        """The version of buildx."""
        # "github.com/docker/buildx 0.13.1+ds1 0.13.1+ds1-3", "… v0.24.0 d0e5e86"
        return Version(self.buildx("version").good().stdout.split()[1].partition("+")[0])

    def options(self, *args: str) -> str:
        """The help text of a command of buildx."""
        return self.buildx(*args, "--help", env={"BUILDX_EXPERIMENTAL": "1"}).good().stdout

    @contextlib.contextmanager
    def loaded(self, artifacts: dist.Artifacts) -> Iterator[Docker]:
        """Load our image under a unique name; yields this client."""
        (archive,) = artifacts.path.glob("*.image.tar")
        image = layout.load(artifacts.path / dist.LAYOUT)
        # Engines use one of them as the image's id.
        digests = image.digest, image.manifest["config"]["digest"]
        with tarfile.open(archive) as tar:
            content = tar.extractfile("manifest.json")
            assert content is not None
            (name,) = json.load(content)[0]["RepoTags"]
        before = self.inspect("image", name)
        self.image = ours = unique()
        with process.run_if_killed([["docker", "rmi", "--force", ours]]):
            try:
                assert name in self("load", "--input", archive).good().stdout
                self("tag", name, ours).good()
                assert self.inspect("image", ours)["Id"] in digests
                # The engine may already have an image with the name in the archive.
                self("tag", before["Id"], name).good() if before else self("rmi", name).good()
                yield self
            finally:
                self("rmi", "--force", ours).good()

    @contextlib.contextmanager
    def builder(self, *args: str | Path, driver: str = "docker-container") -> Iterator[str]:
        """Create a builder with our image, not started; remove it with its state.

        Args:
            args: options of `buildx create`, and an endpoint.
            driver: the driver of buildx.
        """
        name = unique()
        image = [f"--driver-opt=image={self.image}"] if driver == "docker-container" else []
        left = [["docker", "rm", "--force", "--volumes", container(name)], ["docker", "volume", "rm", "--force", volume(name)]]  # fmt: skip
        with process.run_if_killed(left):
            try:
                self.buildx("create", f"--name={name}", f"--driver={driver}", *image, *args).good()
                yield name
            finally:
                self.buildx("rm", "--force", name)
                # A scenario may have removed the builder and kept its state.
                for command in left:
                    self(*command[1:])
        assert self.inspect("container", container(name)) is None
        assert self.inspect("volume", volume(name)) is None

    @contextlib.contextmanager
    def running(self, *options: str, flags: Collection[str] = ()) -> Iterator[str]:
        """Start a container of our image with these options; remove it afterwards."""
        name = unique()
        remove = ["docker", "rm", "--force", "--volumes", name]
        with process.run_if_killed([remove]):
            try:
                self("run", "--detach", f"--name={name}", *options, self.image, *flags).good()
                yield name
            finally:
                self(*remove[1:]).good()

    @contextlib.contextmanager
    def images(self, *names: str) -> Iterator[None]:
        """Remove the images with these names afterwards."""
        with process.run_if_killed([["docker", "rmi", "--force", *names]]):
            try:
                yield
            finally:
                self("rmi", "--force", *names)
        assert not [name for name in names if self.inspect("image", name)]
