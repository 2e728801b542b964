"""The remote driver, on standalone daemons of dist/."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from buildkit_riscv64.arch import Platform
from buildkit_riscv64.image import certs

from ...integration import dockerd
from ...integration.registry import Registry
from ...loopback import LOOPBACK, free_port
from ..bases import BaseImage
from ..conftest import NewContext
from ..daemon import Daemon, Ended, NewDaemon
from .docker import Docker

HELLO = "FROM base\nRUN echo hello from afar >/hello\nFROM scratch\nCOPY --from=0 /hello /\n"


@pytest.fixture(scope="session")
def afar(engine: dockerd.Access, tmp_path_factory: pytest.TempPathFactory) -> Docker:
    """docker and buildx in this machine's own network, where standalone daemons listen."""
    return Docker(dockerd.Access(engine.env), tmp_path_factory.mktemp("buildx"))


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    """Certificates for a daemon on the loopback, and for its clients."""
    return made(tmp_path / "certs")


def made(folder: Path) -> Path:
    certs.make(
        certs.Options.parse(names=LOOPBACK, days=1, output=str(folder), new_ca=False, dry=False)
    )
    return folder


def pem(folder: Path, form: str) -> list[str]:
    """What tells a side of a connection its three files."""
    return [form.format(name, folder / f"{name}.pem") for name in ("ca", "cert", "key")]


def driver_options(folder: Path) -> str:
    """buildx's way to say it."""
    return "--driver-opt=" + ",".join(pem(folder, "{}={}")).replace("ca=", "cacert=", 1)


@pytest.fixture
def tcp(new_daemon: NewDaemon, authority: Path) -> str:
    """The address of a daemon that asks who is there."""
    address = f"tcp://{LOOPBACK}:{free_port()}"
    flags = [f"--addr={address}", *pem(authority / "server", "--tls{}={}")]
    new_daemon(flags=[flag.replace("--tlsca=", "--tlscacert=") for flag in flags]).start()
    return address


def test_unix_socket(afar: Docker, daemon: Daemon, base: BaseImage, new_context: NewContext, tmp_path: Path, version: str) -> None:  # fmt: skip
    """buildx builds on a standalone daemon, through its unix socket"""
    with afar.builder(daemon.address, driver="remote") as name:
        assert version in afar.buildx("inspect", "--bootstrap", name).good().stdout
        out = tmp_path / "out"
        afar.build(name, new_context(HELLO), f"--output={out}", f"--build-context={base.context()}").good()  # fmt: skip
        assert (out / "hello").read_text() == "hello from afar\n"


def test_mutual_tls(afar: Docker, tcp: str, authority: Path, base: BaseImage, new_context: NewContext, tmp_path: Path) -> None:  # fmt: skip
    """buildx builds on a standalone daemon over TCP, where each side shows its certificate"""
    with afar.builder(driver_options(authority / "client"), tcp, driver="remote") as name:
        out = tmp_path / "out"
        afar.build(name, new_context(HELLO), f"--output={out}", f"--build-context={base.context()}").good()  # fmt: skip
        assert (out / "hello").read_text() == "hello from afar\n"


def test_refused(afar: Docker, tcp: str, authority: Path, new_context: NewContext, tmp_path: Path) -> None:  # fmt: skip
    """Clients without a certificate, or with one of another authority, are refused"""
    ca = authority / "client" / "ca.pem"
    stranger = made(tmp_path / "stranger") / "client"
    shutil.copyfile(ca, stranger / "ca.pem")
    context = new_context("FROM scratch\nCOPY Dockerfile /\n")

    def build(options: str) -> Ended:
        with afar.builder(options, tcp, driver="remote") as name:
            return afar.build(name, context)

    # buildx tries for 20 seconds, and then does not tell what the daemon has said.
    with ThreadPoolExecutor() as pool:
        for done in pool.map(build, [f"--driver-opt=cacert={ca}", driver_options(stranger)]):
            done.bad("waiting for connection")
            assert "COPY" not in done.stderr
    build(driver_options(authority / "client")).good()


def test_two_nodes(
    afar: Docker, new_daemon: NewDaemon, new_context: NewContext, local_registry: Registry
) -> None:
    """A builder of two daemons gives each the platforms that it is for, and joins what they make"""
    here = Platform.here()
    other = next(one for one in (Platform.ARM64, Platform.RISCV64) if one is not here)
    nodes = {platform: new_daemon().start() for platform in (here, other)}
    context = new_context("FROM scratch\nARG TARGETARCH\nCOPY for-$TARGETARCH /which\n", **{f"for-{one.architecture}": one for one in nodes})  # fmt: skip
    tag = f"{local_registry.host}/two:nodes"
    with afar.builder(f"--platform={here}", nodes[here].address, driver="remote") as name:
        afar.buildx("create", "--append", f"--name={name}", "--driver=remote", f"--platform={other}", nodes[other].address).good()  # fmt: skip
        afar.build(name, context, f"--platform={here},{other}", "--push", f"--tag={tag}").good()
        index = afar.buildx("imagetools", "inspect", "--raw", tag).good().json
        assert [one["platform"]["architecture"] for one in index["manifests"]] == [here.architecture, other.architecture]  # fmt: skip
        for platform, daemon in nodes.items():
            copies = [one["description"] for one in daemon.du() if "COPY" in one["description"]]
            assert len(copies) == 1
            assert f"COPY for-{platform.architecture} " in copies[0]
