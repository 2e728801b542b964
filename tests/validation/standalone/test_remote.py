"""A daemon that is reached over TCP, by mutual TLS and not otherwise."""

from __future__ import annotations

import shutil
import socket
import ssl
from pathlib import Path

import pytest

from buildkit_riscv64.image import certs

from ...loopback import LOOPBACK, free_port
from ..bases import BaseImage
from ..conftest import NewContext
from ..daemon import Daemon, Ended, NewDaemon, run


def _certificates(folder: Path) -> Path:
    made = certs.make(
        certs.Options.parse(names="", days=2, output=str(folder), new_ca=False, dry=False)
    )
    assert made
    return folder


class Remote:
    """A daemon over TCP, as somebody elsewhere sees it."""

    def __init__(self, daemon: Daemon, port: int, certificates: Path) -> None:
        self.daemon = daemon
        self.port = port
        self.certificates = certificates

    def buildctl(self, *args: str | Path, host: str = LOOPBACK) -> Ended:
        """Run buildctl over TCP."""
        return run(self.daemon.binaries / "buildctl", "--addr", f"tcp://{host}:{self.port}", *args)

    def refusal(self, shown: Path, *, certificate: bool = True) -> str:
        """Why the daemon ends a connection with what is in a folder; nothing if it does not.

        A client that writes before it has read cannot always tell.
        """
        context = ssl.create_default_context(cafile=str(shown / "ca.pem"))
        context.set_alpn_protocols(["h2"])
        if certificate:
            context.load_cert_chain(shown / "cert.pem", shown / "key.pem")
        with (
            socket.create_connection((LOOPBACK, self.port), timeout=60) as plain,
            context.wrap_socket(plain, server_hostname=LOOPBACK) as wrapped,
        ):
            try:
                # A server of HTTP/2 speaks first.
                return "" if wrapped.recv(1) else "it closed"
            except ssl.SSLError as error:
                return str(error.reason)


@pytest.fixture
def remote(new_daemon: NewDaemon, tmp_path: Path) -> Remote:
    """A daemon over TCP, with certificates as `invoke certs` makes them."""
    certificates = _certificates(tmp_path / "certs")
    server = certificates / "server"
    port = free_port()
    flags = [
        f"--addr=tcp://{LOOPBACK}:{port}", f"--tlscacert={server / 'ca.pem'}",
        f"--tlscert={server / 'cert.pem'}", f"--tlskey={server / 'key.pem'}",
    ]  # fmt: skip
    return Remote(new_daemon(flags=flags).start(), port, certificates)


def test_mutual_tls(remote: Remote, base: BaseImage, new_context: NewContext, tmp_path: Path) -> None:  # fmt: skip
    """A build over TCP with mutual TLS; refused without a certificate, with another's, and in plain"""
    client = remote.certificates / "client"
    context = new_context("FROM base AS work\nRUN echo remote >/it\nFROM scratch\nCOPY --from=work /it /\n")  # fmt: skip
    remote.buildctl(
        "--tlsdir", client, "build", "--frontend=dockerfile.v0", f"--local=context={context}",
        f"--local=dockerfile={context}", *base.flags(), f"--output=type=local,dest={tmp_path / 'out'}",
    ).good()  # fmt: skip
    assert (tmp_path / "out" / "it").read_text() == "remote\n"
    workers = ("debug", "workers")
    # Without any, with the daemon's own, and with one of another authority.
    strangers = _certificates(tmp_path / "strangers") / "client"
    for number, (side, refusal) in enumerate(
        (
            (None, "CERTIFICATE_REQUIRED"),
            (remote.certificates / "server", "BAD_CERTIFICATE"),
            (strangers, "UNKNOWN_CA"),
        )
    ):
        shown = tmp_path / f"shown-{number}"
        shutil.copytree(side or client, shown)
        shutil.copyfile(client / "ca.pem", shown / "ca.pem")
        flags = ["--tlsdir", str(shown)] if side else ["--tlscacert", str(shown / "ca.pem")]
        remote.buildctl(*flags, *workers).bad("Unavailable")
        assert refusal in remote.refusal(shown, certificate=side is not None)
    # A client does not take any daemon for this one, either.
    remote.buildctl("--tlsdir", strangers, *workers).bad("certificate signed by unknown authority")
    remote.buildctl("--tlsdir", client, "--tlsservername", "example.org", *workers).bad(
        "certificate is valid for"
    )
    remote.buildctl(*workers).bad()
    # None of them has hurt it.
    assert remote.refusal(client) == ""
    remote.buildctl("--tlsdir", client, *workers).good()
    remote.buildctl("--tlsdir", client, *workers, host="localhost").good()
    assert remote.daemon.answers()


def test_incomplete_tls(new_daemon: NewDaemon, tmp_path: Path) -> None:
    """A daemon with a certificate that it cannot use does not start, rather than serve in plain"""
    server = _certificates(tmp_path / "certs") / "server"
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
            f"--otel-socket-path={daemon.folder / 'otel'}", "--containerd-worker=false",
        ).bad(words)  # fmt: skip
