"""The remote driver, on standalone daemons of dist/."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from buildkit_riscv64.core.arch import Platform
from buildkit_riscv64.validation.environment import docker_engine
from buildkit_riscv64.validation.environment.loopback import LOOPBACK, free_port, make_certificates
from buildkit_riscv64.validation.environment.registry import Registry

from ..bases import BaseImage
from ..conftest import NewContext
from ..daemon import Daemon, NewDaemon, Result
from .docker import Docker

HELLO = "FROM base\nRUN echo hello from afar >/hello\nFROM scratch\nCOPY --from=0 /hello /\n"


@pytest.fixture(scope="session")
def remote(engine: docker_engine.Access, tmp_path_factory: pytest.TempPathFactory) -> Docker:
    """docker and buildx in this machine's network, where standalone daemons listen."""
    return Docker(docker_engine.Access(engine.env), tmp_path_factory.mktemp("buildx"))


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    """Certificates for a daemon on the loopback and its clients."""
    return make_certificates(tmp_path / "certs")


def pem(directory: Path, form: str) -> list[str]:
    """Options with the three certificate files of a server or client."""
    return [form.format(name, directory / f"{name}.pem") for name in ("ca", "cert", "key")]


def driver_options(directory: Path) -> str:
    """The option of buildx with the client's certificate files."""
    return "--driver-opt=" + ",".join(pem(directory, "{}={}")).replace("ca=", "cacert=", 1)


@pytest.fixture
def tcp(new_daemon: NewDaemon, authority: Path) -> str:
    """The address of a daemon that requires a client certificate."""
    address = f"tcp://{LOOPBACK}:{free_port()}"
    flags = [f"--addr={address}", *pem(authority / "server", "--tls{}={}")]
    new_daemon(flags=[flag.replace("--tlsca=", "--tlscacert=") for flag in flags]).start()
    return address


def test_unix_socket(
    remote: Docker,
    daemon: Daemon,
    base: BaseImage,
    new_context: NewContext,
    tmp_path: Path,
    version: str,
) -> None:
    """buildx builds on a standalone daemon through its unix socket"""
    with remote.builder(daemon.address, driver="remote") as name:
        assert version in remote.buildx("inspect", "--bootstrap", name).good().stdout
        out = tmp_path / "out"
        remote.build(name, new_context(HELLO), f"--output={out}", f"--build-context={base.context()}").good()  # fmt: skip
        assert (out / "hello").read_text() == "hello from afar\n"


def test_mutual_tls(
    remote: Docker,
    tcp: str,
    authority: Path,
    base: BaseImage,
    new_context: NewContext,
    tmp_path: Path,
) -> None:
    """buildx builds on a standalone daemon over TCP with mutual TLS"""
    with remote.builder(driver_options(authority / "client"), tcp, driver="remote") as name:
        out = tmp_path / "out"
        remote.build(name, new_context(HELLO), f"--output={out}", f"--build-context={base.context()}").good()  # fmt: skip
        assert (out / "hello").read_text() == "hello from afar\n"


def test_certificate_required(
    remote: Docker, tcp: str, authority: Path, new_context: NewContext, tmp_path: Path
) -> None:
    """The daemon refuses clients without a certificate, or with one of another authority"""
    ca = authority / "client" / "ca.pem"
    stranger = make_certificates(tmp_path / "stranger") / "client"
    shutil.copyfile(ca, stranger / "ca.pem")
    context = new_context("FROM scratch\nCOPY Dockerfile /\n")

    def build(options: str) -> Result:
        with remote.builder(options, tcp, driver="remote") as name:
            return remote.build(name, context)

    # buildx tries for 20 seconds, and then does not report the daemon's error.
    with ThreadPoolExecutor() as pool:
        for done in pool.map(build, [f"--driver-opt=cacert={ca}", driver_options(stranger)]):
            done.bad("waiting for connection")
            assert "COPY" not in done.stderr
    build(driver_options(authority / "client")).good()


def test_two_nodes(
    remote: Docker, new_daemon: NewDaemon, new_context: NewContext, local_registry: Registry
) -> None:
    """A builder of two daemons sends each platform to its daemon, and combines the results"""
    here = Platform.here()
    other = next(one for one in (Platform.ARM64, Platform.RISCV64) if one is not here)
    nodes = {platform: new_daemon().start() for platform in (here, other)}
    context = new_context("FROM scratch\nARG TARGETARCH\nCOPY for-$TARGETARCH /which\n", **{f"for-{one.architecture}": one for one in nodes})  # fmt: skip
    tag = f"{local_registry.host}/two:nodes"
    with remote.builder(f"--platform={here}", nodes[here].address, driver="remote") as name:
        remote.buildx("create", "--append", f"--name={name}", "--driver=remote", f"--platform={other}", nodes[other].address).good()  # fmt: skip
        remote.build(name, context, f"--platform={here},{other}", "--push", f"--tag={tag}").good()
        index = remote.buildx("imagetools", "inspect", "--raw", tag).good().json
        assert [one["platform"]["architecture"] for one in index["manifests"]] == [here.architecture, other.architecture]  # fmt: skip
        for platform, daemon in nodes.items():
            copies = [one["description"] for one in daemon.du() if "COPY" in one["description"]]
            assert len(copies) == 1
            assert f"COPY for-{platform.architecture} " in copies[0]
