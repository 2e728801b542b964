"""The rootless image on a docker engine, with the minimal options."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from buildkit_riscv64.core import dist, process
from buildkit_riscv64.validation.environment.docker_engine import Access
from buildkit_riscv64.validation.environment.waiting import eventually

from ..bases import BaseImage
from ..buildx.docker import Docker
from ..conftest import NewContext
from ..daemon import Result, run
from ..scenario import not_proven

#: The options in docs/image.md.
LEAST = ("seccomp=unconfined", "apparmor=unconfined", "systempaths=unconfined")


@pytest.fixture(scope="session")
def client(
    engine: Access, images: Mapping[str, dist.Artifacts], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Docker]:
    """docker with the rootless image loaded."""
    with Docker(engine, tmp_path_factory.mktemp("rootless")).loaded(images["rootless"]) as client:
        yield client


class Container:
    """A container of the image with its daemon.

    Args:
        client: docker.
        buildctl: the path of buildctl.
        name: the name of the container.
    """

    def __init__(self, client: Docker, buildctl: Path, name: str) -> None:
        self._client = client
        self._buildctl = buildctl
        self.name = name

    def running(self) -> bool:
        """Whether it is running."""
        return bool(self._client.inspect("container", self.name)["State"]["Running"])

    def answers(self) -> bool:
        """Wait until the daemon answers; False if the container ends."""
        settled = eventually(lambda: not self.running() or self.workers().code == 0)
        assert settled, self.logs()
        return self.running()

    def workers(self) -> Result:
        """The workers that the daemon lists."""
        return self._client("exec", self.name, "buildctl", "debug", "workers", "--verbose")

    def logs(self) -> str:
        """The log of the container."""
        logs = self._client("logs", self.name).good()
        return logs.stdout + logs.stderr

    def users(self) -> set[str]:
        """The owners of its processes, as host user ids."""
        return set(self._client("top", self.name, "-eo", "pid,uid").good().stdout.split()[3::2])

    def processes(self) -> str:
        """Its processes, as `ps` shows them."""
        return self._client("top", self.name, "-eo", "pid,args").good().stdout

    def build_command(self, context: Path, *args: str) -> list[str]:
        """The command that builds a directory with a Dockerfile; it needs docker's environment."""
        return [
            *self._client.inside, str(self._buildctl), f"--addr=docker-container://{self.name}",
            "build", "--progress=plain", "--frontend=dockerfile.v0", f"--local=context={context}",
            f"--local=dockerfile={context}", *args,
        ]  # fmt: skip

    def build(self, context: Path, *args: str) -> Result:
        """Build a directory with a Dockerfile."""
        return run(*self.build_command(context, *args), env=self._client.env)


@contextlib.contextmanager
def container(
    client: Docker, binaries: Path, *security: str, flags: tuple[str, ...] = ()
) -> Iterator[Container]:
    """Start a container with these security options; remove it afterwards with its state."""
    options = [f"--security-opt={option}" for option in security]
    with client.running(*options, flags=flags) as name:
        yield Container(client, binaries / "buildctl", name)


@pytest.fixture
def context(new_context: NewContext) -> Path:
    """A context with two RUN steps, one as another user."""
    return new_context(
        "FROM base\nRUN id -u >/who && chown 1000:1000 /who\nUSER 1000\nRUN cat /who\n"
    )


def test_least_options(
    client: Docker, binaries: Path, base: BaseImage, context: Path, new_context: NewContext
) -> None:
    """Build with seccomp, apparmor and systempaths unconfined; no process of the host's root"""
    with container(client, binaries, *LEAST) as one:
        assert one.answers(), one.logs()
        assert one.build(context, *base.flags()).good().cached == [False, False]
        assert one.build(context, *base.flags()).good().cached == [True, True]
        assert client("exec", one.name, "id", "-u").good().stdout.strip() == "1000"
        sleeping = new_context("FROM base\nRUN exec sleep 10000\n")
        with process.child_process(
            one.build_command(sleeping, *base.flags()), env={**os.environ, **client.env},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        ):  # fmt: skip
            assert eventually(lambda: "sleep 10000" in one.processes())
            assert one.users() == {"1000"}


def test_without_seccomp_unconfined(client: Docker, binaries: Path) -> None:
    """Without seccomp=unconfined RootlessKit cannot create namespaces, and the container ends"""
    with container(client, binaries, *_without("seccomp")) as one:
        assert not one.answers()
        assert "fork/exec /proc/self/exe: operation not permitted" in one.logs()


@pytest.mark.may_be_not_proven
def test_without_apparmor_unconfined(
    client: Docker, binaries: Path, base: BaseImage, context: Path
) -> None:
    """Without apparmor=unconfined a build fails on mount, where docker uses AppArmor"""
    # docker reports only whether the kernel has AppArmor.
    profile = client("run", "--rm", "--entrypoint=cat", client.image, "/proc/self/attr/current")
    if "docker-default" not in profile.stdout:
        not_proven("docker does not use AppArmor here: the option has no effect")
    with container(client, binaries, *_without("apparmor")) as one:
        logs = one.build(context, *base.flags()).bad().stderr if one.answers() else ""
        assert "permission denied" in logs + one.logs()


def test_without_systempaths_unconfined(
    client: Docker, binaries: Path, base: BaseImage, context: Path
) -> None:
    """Without systempaths=unconfined the daemon starts, but RUN cannot mount /proc"""
    with container(client, binaries, *_without("systempaths")) as one:
        assert one.answers(), one.logs()
        one.build(context, *base.flags()).bad('error mounting "proc"', "operation not permitted")


def test_no_process_sandbox(client: Docker, binaries: Path, base: BaseImage, context: Path) -> None:
    """--oci-worker-no-process-sandbox builds without systempaths=unconfined"""
    flags = ("--oci-worker-no-process-sandbox",)
    with container(client, binaries, *_without("systempaths"), flags=flags) as one:
        assert one.answers(), one.logs()
        one.build(context, *base.flags()).good()


def _without(option: str) -> list[str]:
    return [word for word in LEAST if not word.startswith(option)]
