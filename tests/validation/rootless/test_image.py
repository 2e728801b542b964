"""The rootless image on a docker engine, with the least options that work."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from buildkit_riscv64 import dist, process
from buildkit_riscv64.image import layout

from ...integration.dockerd import Access
from ...processes import eventually
from ..bases import BaseImage
from ..buildx.docker import Docker, unique
from ..conftest import NewContext
from ..daemon import BOUND, Ended, run
from ..scenario import not_proven

#: What docs/image.md says that it needs.
LEAST = ("seccomp=unconfined", "apparmor=unconfined", "systempaths=unconfined")


@pytest.fixture(scope="session")
def client(
    engine: Access, images: Mapping[str, dist.Artifacts], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Docker]:
    """docker, with the rootless image loaded."""
    place = images["rootless"].path
    (archive,) = place.glob("*.image.tar")
    client = Docker(engine, tmp_path_factory.mktemp("rootless"))
    config = layout.load(place / "layout").manifest["config"]["digest"]
    with client.loaded(archive, config) as client.image:
        yield client


class Container:
    """A container of the image, its daemon, and buildctl against it.

    Args:
        client: docker.
        buildctl: the command.
        name: the container's.
    """

    def __init__(self, client: Docker, buildctl: Path, name: str) -> None:
        self._client = client
        self._buildctl = buildctl
        self.name = name

    def running(self) -> bool:
        """True until it has ended."""
        return bool(self._client.inspect("container", self.name)["State"]["Running"])

    def answers(self) -> bool:
        """True as soon as the daemon does; False when it ends instead."""
        settled = eventually(lambda: not self.running() or self.workers().code == 0, BOUND)
        assert settled, self.said()
        return self.running()

    def workers(self) -> Ended:
        """What its daemon tells of its workers."""
        return self._client("exec", self.name, "buildctl", "debug", "workers", "--verbose")

    def said(self) -> str:
        """What it has said."""
        logs = self._client("logs", self.name).good()
        return logs.stdout + logs.stderr

    def users(self) -> set[str]:
        """Whose its processes are, as the host numbers users."""
        return set(self._client("top", self.name, "-eo", "pid,uid").good().stdout.split()[3::2])

    def processes(self) -> str:
        """Its processes, as `ps` shows them."""
        return self._client("top", self.name, "-eo", "pid,args").good().stdout

    def build_command(self, context: Path, *args: str) -> list[str]:
        """The command that builds a folder with a Dockerfile; it needs docker's environment."""
        return [
            *self._client.inside, str(self._buildctl), f"--addr=docker-container://{self.name}",
            "build", "--progress=plain", "--frontend=dockerfile.v0", f"--local=context={context}",
            f"--local=dockerfile={context}", *args,
        ]  # fmt: skip

    def build(self, context: Path, *args: str) -> Ended:
        """Build a folder with a Dockerfile."""
        return run(*self.build_command(context, *args), env=self._client.env)


@contextlib.contextmanager
def container(client: Docker, binaries: Path, *security: str, flags: tuple[str, ...] = ()) -> Iterator[Container]:  # fmt: skip
    """A container with these security options, gone afterwards with its state."""
    name = unique()
    remove = ["docker", "rm", "--force", "--volumes", name]
    with process.afterwards([remove]):
        try:
            client(
                "run", "--detach", f"--name={name}",
                *(f"--security-opt={option}" for option in security), client.image, *flags,
            ).good()  # fmt: skip
            yield Container(client, binaries / "buildctl", name)
        finally:
            client(*remove[1:]).good()


@pytest.fixture
def context(new_context: NewContext) -> Path:
    """What is built: two steps that run something, one of them as another user."""
    return new_context(
        "FROM base\nRUN id -u >/who && chown 1000:1000 /who\nUSER 1000\nRUN cat /who\n"
    )


def test_least_options(
    client: Docker, binaries: Path, base: BaseImage, context: Path, new_context: NewContext
) -> None:
    """Build with seccomp, apparmor and systempaths unconfined; seen from outside, no process is root's"""
    with container(client, binaries, *LEAST) as one:
        assert one.answers(), one.said()
        assert one.build(context, *base.flags()).good().cached == [False, False]
        assert one.build(context, *base.flags()).good().cached == [True, True]
        assert client("exec", one.name, "id", "-u").good().stdout.strip() == "1000"
        sleeping = new_context("FROM base\nRUN exec sleep 10000\n")
        with process.guarded(
            one.build_command(sleeping, *base.flags()), env={**os.environ, **client.env},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        ):  # fmt: skip
            assert eventually(lambda: "sleep 10000" in one.processes(), BOUND)
            assert one.users() == {"1000"}


def test_without_seccomp_unconfined(client: Docker, binaries: Path) -> None:
    """Without seccomp=unconfined RootlessKit may not make its namespaces, and the container ends"""
    with container(client, binaries, *_without("seccomp")) as one:
        assert not one.answers()
        assert "fork/exec /proc/self/exe: operation not permitted" in one.said()


def test_without_apparmor_unconfined(
    client: Docker, binaries: Path, base: BaseImage, context: Path
) -> None:
    """Without apparmor=unconfined mounting is forbidden where docker has AppArmor, and a build fails"""
    # What docker itself tells is whether the kernel could.
    profile = client("run", "--rm", "--entrypoint=cat", client.image, "/proc/self/attr/current")
    if "docker-default" not in profile.stdout:
        not_proven("docker confines nothing by AppArmor here: the option changes nothing")
    with container(client, binaries, *_without("apparmor")) as one:
        said = one.build(context, *base.flags()).bad().stderr if one.answers() else ""
        assert "permission denied" in said + one.said()


def test_without_systempaths_unconfined(
    client: Docker, binaries: Path, base: BaseImage, context: Path
) -> None:
    """Without systempaths=unconfined the daemon starts, and RUN cannot mount its /proc"""
    with container(client, binaries, *_without("systempaths")) as one:
        assert one.answers(), one.said()
        one.build(context, *base.flags()).bad('error mounting "proc"', "operation not permitted")


def test_no_process_sandbox_instead(
    client: Docker, binaries: Path, base: BaseImage, context: Path
) -> None:
    """--oci-worker-no-process-sandbox builds without systempaths=unconfined"""
    flags = ("--oci-worker-no-process-sandbox",)
    with container(client, binaries, *_without("systempaths"), flags=flags) as one:
        assert one.answers(), one.said()
        one.build(context, *base.flags()).good()


def _without(option: str) -> list[str]:
    return [word for word in LEAST if not word.startswith(option)]
