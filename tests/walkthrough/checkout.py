"""A checkout of one's own with what is in dist/, docker, a registry, a GitHub, and a board by ssh."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from buildkit_riscv64 import dist, pins, process
from buildkit_riscv64.arch import Target
from buildkit_riscv64.automation import release

from ..hub import OURS, Hub
from ..hub import release as released
from ..integration import board, dockerd, registry
from ..integration.keys import Keyring
from ..integration.miniature import copy_checkout, script
from ..processes import eventually
from ..validation.daemon import BOUND, Daemon

#: Of the nodes of a farm, whose names the pages use; the first is also reached by ssh.
NODES = {"board.lan": "127.0.0.2", "server.lan": "127.0.0.3"}


@dataclass
class Checkout:
    """Where blocks of pages are typed.

    Args:
        root: the checkout's folder, below what containers can have.
        engine: docker.
        env: what its shell has in its environment.
        said: what the pages write, and what it stands for here.
        hosts: names of other machines.
    """

    root: Path
    engine: dockerd.Access
    env: dict[str, str]
    said: dict[str, str] = field(default_factory=dict)

    def type(self, text: str, **said: str) -> str:
        """Type a block in a shell of its own; what it printed, if each line succeeded."""
        for written, here in {**self.said, **said}.items():
            text = text.replace(written, here)
        names = self.root.parent / "hosts"
        # Other machines have their names in this shell alone.
        shell = f"mount --bind {names} /etc/hosts\n. .venv/bin/activate\nset -x\n{text}"
        done = subprocess.run(
            ["unshare", "--mount", "bash", "-euo", "pipefail", "-c", shell],
            cwd=self.root, env=self.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="replace", timeout=BOUND, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"ended with {done.returncode}:\n{done.stdout}"
        # Whoever types is slower than a container is ready.
        assert eventually(lambda: "starting" not in self.docker("ps")), self.docker("ps")
        return done.stdout

    def docker(self, *args: str) -> str:
        """What docker says."""
        return subprocess.run(
            ["docker", *args], env=self.env, capture_output=True, text=True, check=True
        ).stdout

    def forget(self) -> None:
        """Leave nothing in docker but images."""
        for builder in ("ours", "board", "farm"):
            subprocess.run(["docker", "buildx", "rm", builder], env=self.env, capture_output=True, check=False)  # fmt: skip
        if left := self.docker("ps", "--all", "--quiet").split():
            self.docker("rm", "--force", "--volumes", *left)

    @contextlib.contextmanager
    def nodes(self) -> Iterator[None]:
        """The daemons of a farm, with certificates for both."""
        self.type(f"invoke certs --names {','.join(NODES)}")
        certs = self.root / "certs" / "server"
        with contextlib.ExitStack() as stack:
            for address in NODES.values():
                folder = Path(
                    stack.enter_context(tempfile.TemporaryDirectory(dir=self.root.parent))
                )
                folder.chmod(0o755)
                flags = [
                    f"--addr=tcp://{address}:1234", f"--tlscacert={certs / 'ca.pem'}",
                    f"--tlscert={certs / 'cert.pem'}", f"--tlskey={certs / 'key.pem'}",
                ]  # fmt: skip
                daemon = Daemon(self.root / "dist" / Target.here().name / "bin", folder, flags=flags, wrap=self.engine.inside)  # fmt: skip
                stack.enter_context(contextlib.closing(daemon))
                daemon.start()
            yield


def _programs(folder: Path, engine: dockerd.Access, binaries: Path) -> None:
    """docker and buildctl, each in the network that docker has."""
    path = engine.env.get("PATH", os.environ["PATH"])
    docker = shutil.which("docker", path=path)
    assert docker
    for name, program in {"docker": docker, "buildctl": str(binaries / "buildctl")}.items():
        script(folder / name, f'exec {process.show([*engine.inside, program])} "$@"')


def _by_ssh(folder: Path, bin_: Path, far: Mapping[str, str]) -> None:
    """Have ssh reach a real sshd for the name of the board, without a network between them."""
    folder.mkdir()
    for name in ("host_key", "user_key"):
        board.key(folder / name)
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    (folder / "sshd_config").write_text(
        f"HostKey {folder}/host_key\nAuthorizedKeysFile {folder}/user_key.pub\nUsePAM no\n"
        "StrictModes no\nPasswordAuthentication no\n"
        # sshd itself goes to the home that the password file knows.
        'ForceCommand cd "$HOME" && exec sh -c "$SSH_ORIGINAL_COMMAND"\n'
        "SetEnv " + " ".join(f'"{name}={value}"' for name, value in far.items()) + "\n"
    )
    name = next(iter(NODES))
    (folder / "known_hosts").write_text(f"{name} {(folder / 'host_key.pub').read_text()}")
    (folder / "config").write_text(
        f"Host {name}\n  ProxyCommand {board.SSHD} -i -e -f {folder}/sshd_config\n"
        f"  User {getpass.getuser()}\n  IdentityFile {folder}/user_key\n  IdentitiesOnly yes\n"
        f"  UserKnownHostsFile {folder}/known_hosts\n  GlobalKnownHostsFile /dev/null\n"
    )
    real = shutil.which("ssh")
    assert real, "the walkthrough needs ssh"
    script(bin_ / "ssh", f'exec {real} -F {folder}/config "$@"')


def _released(folder: Path, ring: Keyring) -> None:
    """The files of a release that people download, with their sums and the signature of these."""
    folder.mkdir()
    target = dist.folder(Target.here())
    wanted = ("*.tar.gz", "packages/*.deb", "image/*/*.image.tar")
    files = [file for pattern in wanted for file in sorted(target.glob(pattern))]
    for file in files:
        (folder / file.name).symlink_to(file)
    (folder / dist.SUMS).write_text(dist.sums(dist.record(folder, [file.name for file in files])))
    key = ring.make("Release <release@example.org>")
    (folder / release.PUBLIC_KEY).write_text(ring.public(key))
    ring.gpg("--armor", "--detach-sign", folder / dist.SUMS)


def _same(source: str, copy: str) -> None:
    """A file with two names, which does for what is only ever replaced; or a copy."""
    try:
        os.link(source, copy)
    except OSError:
        shutil.copy2(source, copy)


@contextlib.contextmanager
def checkout(folder: Path) -> Iterator[Checkout]:
    """A checkout with this one's files and dist/; gone afterwards with all that it has started.

    Args:
        folder: for what is not as large.
    """
    target = Target.here()
    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(dockerd.engine(folder))
        place = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="pages-", dir=engine.seen))
        )
        root = place / "buildkit-riscv64"
        copy_checkout(root)
        shutil.copytree(dist.folder(target), root / "dist" / target.name, symlinks=True, copy_function=_same)  # fmt: skip
        (root / ".dockerignore").write_text("*\n!README.md\n")
        (root / "Dockerfile").write_text("FROM scratch\nCOPY README.md /\n")
        (place / "hosts").write_text(
            Path("/etc/hosts").read_text()
            + "".join(f"{address} {name}\n" for name, address in NODES.items())
        )
        (folder / "ring").mkdir()
        ring = stack.enter_context(Keyring(folder / "ring"))
        _released(root / "release", ring)
        (root / "key.asc").write_text(ring.private(ring.make("Packages <packages@example.org>")))
        (folder / "gnupg").mkdir()
        reader = stack.enter_context(Keyring(folder / "gnupg"))
        near = stack.enter_context(registry.running(folder / "near", inside=engine.inside))
        far = stack.enter_context(registry.running(folder / "far"))
        hub = Hub()
        hub.upstream.releases = [released(pins.load().version)]
        stack.enter_context(hub.running())
        env = {**os.environ, **engine.env, **hub.environment(), "GNUPGHOME": str(reader.home)}
        _programs(place / "bin", engine, root / "dist" / target.name / "bin")
        env["PATH"] = f"{place / 'bin'}:{env['PATH']}"
        home = place / "home"
        home.mkdir()
        there = {name: env[name] for name in ("PATH", *engine.env)}
        _by_ssh(place / "ssh", place / "bin", {**there, "HOME": str(home)})
        said = {
            "$HOME": str(home),
            "HOST/REPO": f"{near.host}/buildkit",
            "OWNER/NAME": OURS,
            "ghcr.io/me/buildkit": f"{far.host}/me/buildkit",
            "registry.example.org/you/buildkit": f"{far.host}/you/buildkit",
            "linux-riscv64": target.name,
        }
        made = Checkout(root, engine, env, said)
        # What every page begins with; and docker has the image.
        subprocess.run(["./invoke", "--list"], cwd=root, env=env, capture_output=True, check=True)
        made.type("invoke build-image --load\ninvoke build-image --load --rootless")
        try:
            yield made
        finally:
            made.forget()
