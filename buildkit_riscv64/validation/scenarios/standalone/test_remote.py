"""A daemon over TCP with mutual TLS."""

from __future__ import annotations

import shutil
import socket
import ssl
from pathlib import Path

import pytest

from buildkit_riscv64.validation.environment.loopback import LOOPBACK, free_port, make_certificates
from buildkit_riscv64.validation.environment.waiting import BOUND

from ..bases import BaseImage
from ..conftest import NewContext
from ..daemon import Daemon, NewDaemon, Result, run


class Remote:
    """A daemon over TCP, from a client's point of view."""

    def __init__(self, daemon: Daemon, port: int, certificates: Path) -> None:
        self.daemon = daemon
        self.port = port
        self.certificates = certificates

    def buildctl(self, *args: str | Path, host: str = LOOPBACK) -> Result:
        """Run buildctl over TCP."""
        return run(self.daemon.binaries / "buildctl", "--addr", f"tcp://{host}:{self.port}", *args)

    def refusal(self, directory: Path, *, certificate: bool = True) -> str:
        """Why the daemon refuses the certificates in a directory; empty if it accepts them.

        Read only: a client that writes first may miss the reason.
        """
        context = ssl.create_default_context(cafile=str(directory / "ca.pem"))
        context.set_alpn_protocols(["h2"])
        if certificate:
            context.load_cert_chain(directory / "cert.pem", directory / "key.pem")
        with (
            socket.create_connection((LOOPBACK, self.port), timeout=BOUND) as plain,
            context.wrap_socket(plain, server_hostname=LOOPBACK) as wrapped,
        ):
            try:
                # An HTTP/2 server sends first.
                return "" if wrapped.recv(1) else "closed"
            except ssl.SSLError as error:
                return str(error.reason)


@pytest.fixture
def remote(new_daemon: NewDaemon, tmp_path: Path) -> Remote:
    """A daemon over TCP, with certificates of `invoke create-certs`."""
    certificates = make_certificates(tmp_path / "certs")
    server = certificates / "server"
    port = free_port()
    flags = [
        f"--addr=tcp://{LOOPBACK}:{port}", f"--tlscacert={server / 'ca.pem'}",
        f"--tlscert={server / 'cert.pem'}", f"--tlskey={server / 'key.pem'}",
    ]  # fmt: skip
    return Remote(new_daemon(flags=flags).start(), port, certificates)


def test_mutual_tls(
    remote: Remote, base: BaseImage, new_context: NewContext, tmp_path: Path
) -> None:
    """Mutual TLS: a build succeeds; clients without a valid certificate, or without TLS, are refused"""
    client = remote.certificates / "client"
    context = new_context("FROM base AS work\nRUN echo remote >/it\nFROM scratch\nCOPY --from=work /it /\n")  # fmt: skip
    remote.buildctl(
        "--tlsdir", client, "build", "--frontend=dockerfile.v0", f"--local=context={context}",
        f"--local=dockerfile={context}", *base.flags(), f"--output=type=local,dest={tmp_path / 'out'}",
    ).good()  # fmt: skip
    assert (tmp_path / "out" / "it").read_text() == "remote\n"
    workers = ("debug", "workers")
    # Without a certificate, with the server's certificate, with one of another authority.
    strangers = make_certificates(tmp_path / "strangers") / "client"
    for number, (side, refusal) in enumerate(
        (
            (None, "CERTIFICATE_REQUIRED"),
            (remote.certificates / "server", "BAD_CERTIFICATE"),
            (strangers, "UNKNOWN_CA"),
        )
    ):
        directory = tmp_path / f"shown-{number}"
        shutil.copytree(side or client, directory)
        shutil.copyfile(client / "ca.pem", directory / "ca.pem")
        flags = ["--tlsdir", str(directory)] if side else ["--tlscacert", str(directory / "ca.pem")]
        remote.buildctl(*flags, *workers).bad("Unavailable")
        assert refusal in remote.refusal(directory, certificate=side is not None)
    # A client refuses a daemon with another certificate or name.
    remote.buildctl("--tlsdir", strangers, *workers).bad("certificate signed by unknown authority")
    remote.buildctl("--tlsdir", client, "--tlsservername", "example.org", *workers).bad(
        "certificate is valid for"
    )
    remote.buildctl(*workers).bad()
    # The daemon still works.
    assert remote.refusal(client) == ""
    remote.buildctl("--tlsdir", client, *workers).good()
    remote.buildctl("--tlsdir", client, *workers, host="localhost").good()
    assert remote.daemon.answers()


def test_incomplete_tls(new_daemon: NewDaemon, tmp_path: Path) -> None:
    """A daemon with an unusable certificate does not start"""
    server = make_certificates(tmp_path / "certs") / "server"
    port = free_port()
    address = f"--addr=tcp://{LOOPBACK}:{port}"
    daemon = new_daemon()
    cert, key = (f"--tls{it}={server / it}.pem" for it in ("cert", "key"))
    for flags, words in (
        ([cert], "you must specify key and cert file if one is specified"),
        ([cert, f"--tlskey={tmp_path / 'absent.pem'}"], "could not load server key pair"),
        ([cert, key, f"--tlscacert={tmp_path / 'absent.pem'}"], "could not read ca certificate"),
        ([cert, key, f"--tlscacert={server / 'key.pem'}"], "failed to append ca cert"),
    ):
        run(
            daemon.binaries / "buildkitd", f"--root={daemon.root}", address, *flags,
            f"--otel-socket-path={daemon.directory / 'otel'}", "--containerd-worker=false",
        ).bad(words)  # fmt: skip
