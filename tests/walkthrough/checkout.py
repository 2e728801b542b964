"""A checkout with the artifacts in dist/, docker, a registry, a fake GitHub, and a board by ssh."""

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

from benchmarks.checkout import copy_checkout
from buildkit_riscv64.core import dist, pins, process
from buildkit_riscv64.core.arch import Target
from buildkit_riscv64.release import release
from buildkit_riscv64.validation.environment import docker_engine, registry
from buildkit_riscv64.validation.environment.scripts import script
from buildkit_riscv64.validation.environment.waiting import BOUND, eventually
from buildkit_riscv64.validation.scenarios.daemon import Daemon

from ..fake_github import OURS, Hub
from ..fake_github import release as released
from ..integration import board
from ..integration.keys import Keyring

#: The nodes of a farm, with their names in the documentation; ssh reaches the first one.
NODES = {"board.lan": "127.0.0.2", "server.lan": "127.0.0.3"}


@dataclass
class Checkout:
    """A checkout for the commands of the documentation.

    Args:
        root: the directory of the checkout, which containers can mount.
        engine: docker.
        env: the environment of the shell.
        replacements: texts of the pages, and their replacements here.
    """

    root: Path
    engine: docker_engine.Access
    env: dict[str, str]
    replacements: dict[str, str] = field(default_factory=dict)

    def type(self, text: str, **replacements: str) -> str:
        """Run a block in a new shell; return its output if every line succeeds."""
        for written, here in {**self.replacements, **replacements}.items():
            text = text.replace(written, here)
        names = self.root.parent / "hosts"
        # The names of other machines are only in this shell's /etc/hosts.
        shell = f"mount --bind {names} /etc/hosts\n. .venv/bin/activate\nset -x\n{text}"
        done = subprocess.run(
            ["unshare", "--mount", "bash", "-euo", "pipefail", "-c", shell],
            cwd=self.root, env=self.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="replace", timeout=BOUND, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"ended with {done.returncode}:\n{done.stdout}"
        # A container starts faster than a person types the next command.
        assert eventually(lambda: "starting" not in self.docker("ps")), self.docker("ps")
        return done.stdout

    def docker(self, *args: str) -> str:
        """Run docker; return its output."""
        return subprocess.run(
            ["docker", *args], env=self.env, capture_output=True, text=True, check=True
        ).stdout

    def forget(self) -> None:
        """Remove builders and containers from docker, but keep images."""
        for builder in ("ours", "board", "farm"):
            subprocess.run(["docker", "buildx", "rm", builder], env=self.env, capture_output=True, check=False)  # fmt: skip
        if left := self.docker("ps", "--all", "--quiet").split():
            self.docker("rm", "--force", "--volumes", *left)

    @contextlib.contextmanager
    def nodes(self) -> Iterator[None]:
        """Start the daemons of a farm, with certificates for both."""
        self.type(f"invoke create-certs --names {','.join(NODES)}")
        certs = self.root / "certs" / "server"
        with contextlib.ExitStack() as stack:
            for address in NODES.values():
                directory = Path(
                    stack.enter_context(tempfile.TemporaryDirectory(dir=self.root.parent))
                )
                directory.chmod(0o755)
                flags = [
                    f"--addr=tcp://{address}:1234", f"--tlscacert={certs / 'ca.pem'}",
                    f"--tlscert={certs / 'cert.pem'}", f"--tlskey={certs / 'key.pem'}",
                ]  # fmt: skip
                daemon = Daemon(self.root / "dist" / Target.here().name / "bin", directory, flags=flags, wrap=self.engine.inside)  # fmt: skip
                stack.enter_context(contextlib.closing(daemon))
                daemon.start()
            yield


def _programs(directory: Path, engine: docker_engine.Access, binaries: Path) -> None:
    """Write wrappers of docker and buildctl that run in the engine's network."""
    path = engine.env.get("PATH", os.environ["PATH"])
    docker = shutil.which("docker", path=path)
    assert docker
    for name, program in {"docker": docker, "buildctl": str(binaries / "buildctl")}.items():
        script(directory / name, f'exec {process.show([*engine.inside, program])} "$@"')


def _by_ssh(directory: Path, bin_: Path, variables: Mapping[str, str]) -> None:
    """Write an ssh wrapper that reaches a real sshd by the board's name, without a network."""
    directory.mkdir()
    for name in ("host_key", "user_key"):
        board.key(directory / name)
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    (directory / "sshd_config").write_text(
        f"HostKey {directory}/host_key\nAuthorizedKeysFile {directory}/user_key.pub\nUsePAM no\n"
        "StrictModes no\nPasswordAuthentication no\n"
        # sshd changes to the home directory in the password file.
        'ForceCommand cd "$HOME" && exec sh -c "$SSH_ORIGINAL_COMMAND"\n'
        "SetEnv " + " ".join(f'"{name}={value}"' for name, value in variables.items()) + "\n"
    )
    name = next(iter(NODES))
    (directory / "known_hosts").write_text(f"{name} {(directory / 'host_key.pub').read_text()}")
    (directory / "config").write_text(
        f"Host {name}\n  ProxyCommand {board.SSHD} -i -e -f {directory}/sshd_config\n"
        f"  User {getpass.getuser()}\n  IdentityFile {directory}/user_key\n  IdentitiesOnly yes\n"
        f"  UserKnownHostsFile {directory}/known_hosts\n  GlobalKnownHostsFile /dev/null\n"
    )
    real = shutil.which("ssh")
    assert real, "the walkthrough needs ssh"
    script(bin_ / "ssh", f'exec {real} -F {directory}/config "$@"')


def _released(directory: Path, ring: Keyring) -> None:
    """The files of a release for downloads, with signed checksums."""
    directory.mkdir()
    target = dist.directory(Target.here())
    wanted = ("*.tar.gz", "packages/*.deb", "image/*/*.image.tar")
    files = [file for pattern in wanted for file in sorted(target.glob(pattern))]
    for file in files:
        (directory / file.name).symlink_to(file)
    record = dist.record(directory, [file.name for file in files])
    (directory / dist.SUMS).write_text(dist.sums(record))
    key = ring.make("Release <release@example.org>")
    (directory / release.PUBLIC_KEY).write_text(ring.public(key))
    ring.gpg("--armor", "--detach-sign", directory / dist.SUMS)


def _same(source: str, copy: str) -> None:
    """Hard-link a file, or copy it if that fails; files are only replaced, never changed."""
    try:
        os.link(source, copy)
    except OSError:
        shutil.copy2(source, copy)


@contextlib.contextmanager
def checkout(directory: Path) -> Iterator[Checkout]:
    """A copy of this checkout and dist/, removed afterwards with its processes.

    Args:
        directory: for small files.
    """
    target = Target.here()
    with contextlib.ExitStack() as stack:
        engine = stack.enter_context(docker_engine.engine(directory))
        place = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="pages-", dir=engine.shared))
        )
        root = place / "buildkit-riscv64"
        copy_checkout(root)
        shutil.copytree(dist.directory(target), root / "dist" / target.name, symlinks=True, copy_function=_same)  # fmt: skip
        (root / ".dockerignore").write_text("*\n!README.md\n")
        (root / "Dockerfile").write_text("FROM scratch\nCOPY README.md /\n")
        (place / "hosts").write_text(
            Path("/etc/hosts").read_text()
            + "".join(f"{address} {name}\n" for name, address in NODES.items())
        )
        (directory / "ring").mkdir()
        ring = stack.enter_context(Keyring(directory / "ring"))
        _released(root / "release", ring)
        (root / "key.asc").write_text(ring.private(ring.make("Packages <packages@example.org>")))
        (directory / "gnupg").mkdir()
        reader = stack.enter_context(Keyring(directory / "gnupg"))
        inner = stack.enter_context(registry.running(directory / "inner", inside=engine.inside))
        outer = stack.enter_context(registry.running(directory / "outer"))
        hub = Hub()
        hub.upstream.releases = [released(pins.load().version)]
        stack.enter_context(hub.running())
        env = {**os.environ, **engine.env, **hub.environment(), "GNUPGHOME": str(reader.home)}
        _programs(place / "bin", engine, root / "dist" / target.name / "bin")
        env["PATH"] = f"{place / 'bin'}:{env['PATH']}"
        home = place / "home"
        home.mkdir()
        variables = {name: env[name] for name in ("PATH", *engine.env)}
        _by_ssh(place / "ssh", place / "bin", {**variables, "HOME": str(home)})
        replacements = {
            "$HOME": str(home),
            "HOST/REPO": f"{inner.host}/buildkit",
            "OWNER/NAME": OURS,
            "ghcr.io/me/buildkit": f"{outer.host}/me/buildkit",
            "registry.example.org/you/buildkit": f"{outer.host}/you/buildkit",
            "linux-riscv64": target.name,
        }
        prepared = Checkout(root, engine, env, replacements)
        # Every page starts with a prepared checkout; docker needs the image.
        subprocess.run(["./invoke", "--list"], cwd=root, env=env, capture_output=True, check=True)
        prepared.type("invoke build-image --load\ninvoke build-image --load --rootless")
        try:
            yield prepared
        finally:
            prepared.forget()
