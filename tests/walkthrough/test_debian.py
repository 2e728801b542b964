"""Pages whose commands a user of a booted Debian 13 runs."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.checkout import copy_checkout
from buildkit_riscv64.core import dist
from buildkit_riscv64.core.arch import Platform, Target
from buildkit_riscv64.packages import signing
from buildkit_riscv64.validation.environment.waiting import BOUND

from ..integration.debianroot import Root, debian_root
from ..integration.keys import Keyring
from ..integration.miniature import Project, succeeded
from ..pages import BLOCKS

pytestmark = pytest.mark.walkthrough

HOST = "packages.example.org"
# Arguments: a directory, a certificate and its key. Prints "ready" when it listens.
_SERVE = """
import functools, http.server, ssl, sys
class Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # apt requires a clean end of TLS connections
handler = functools.partial(Handler, directory=sys.argv[1])
server = http.server.ThreadingHTTPServer(("127.0.0.1", 443), handler)
context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
context.load_cert_chain(sys.argv[2], sys.argv[3])
server.socket = context.wrap_socket(server.socket, server_side=True)
print("ready", flush=True)
server.serve_forever()
"""


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the repository, packages, and the server's certificates."""
    directory = tmp_path_factory.mktemp("published")
    project = Project(directory / "checkout", dict(os.environ))
    copy_checkout(project.root)
    target = Target.here().name
    ignored = shutil.ignore_patterns("image", "evidence")
    shutil.copytree(dist.directory(Target.here()), project.dist / target, ignore=ignored)
    with Keyring(tmp_path_factory.mktemp("ring")) as ring:
        key = ring.private(ring.make("Packages <packages@example.org>"))
        succeeded(project.invoke("build-packages", timeout=BOUND))
        succeeded(project.invoke("publish-repo", "--url", f"https://{HOST}", env={signing.KEY: key}, timeout=BOUND))  # fmt: skip
    succeeded(project.invoke("create-certs", "--names", HOST))
    return project.root


@contextlib.contextmanager
def serving(system: Root, published: Path) -> Iterator[None]:
    """Serve the repository at its address in the booted system."""
    certs = published / "certs"
    side = certs / "server"
    shutil.copy(certs / "ca.pem", system.path / "usr/local/share/ca-certificates/example.crt")
    system.run("update-ca-certificates")
    system.shell(f"echo 127.0.0.1 localhost $(hostname) {HOST} >/etc/hosts; ip link set lo up")
    command = [
        "nsenter", f"--net=/proc/{system.init}/ns/net", sys.executable, "-c", _SERVE,
        str(published / "dist/repo"), str(side / "cert.pem"), str(side / "key.pem"),
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == b"ready\n"
            yield
        finally:
            server.terminate()


@pytest.fixture
def system(published: Path) -> Iterator[Root]:
    """A booted Debian with a user who can use sudo, and packages in the home directory."""
    with debian_root() as root:
        root.write("/etc/apt/apt.conf.d/yes", 'APT::Get::Assume-Yes "true";\n')
        root.write("/etc/sudoers.d/user", "user ALL=(ALL) NOPASSWD: ALL\n")
        with root.booted() as booted:
            booted.run("useradd", "--create-home", "--shell=/bin/bash", "user")
            target = published / "dist" / Target.here().name
            for package in target.glob("packages/*.deb"):
                shutil.copy(package, root.path / "home/user")
            shutil.copytree(published / "certs/server", root.path / "home/user/buildkit-certs")
            with serving(booted, published):
                yield booted


def types(system: Root, text: str) -> str:
    """Run a block in a session of the user; return its output if every line succeeds.

    Files that the user creates are private, unless the page changes their modes.
    """
    text = text.replace("_riscv64.deb", f"_{Platform.here().debian}.deb")
    session = ("systemd-run", "--quiet", "--wait", "--collect", "--pipe", "--uid=user",
               "--property=PAMName=login", "--property=WorkingDirectory=/home/user")  # fmt: skip
    return system.run(*session, "bash", "-leuo", "pipefail", "-c", f"umask 077\nset -x\n{text}")


@pytest.mark.parametrize(
    "page", sorted({block.page for block in BLOCKS if block.where == "debian"})
)
def test_page(page: str, system: Root) -> None:
    for block in BLOCKS:
        if block.page == page and block.where == "debian":
            print(f"{block}\n{types(system, block.script)}")
    if page != "docs/troubleshooting.md":
        assert types(system, "sudo systemctl is-active buildkit.socket").splitlines()[-1] == "active"  # fmt: skip
