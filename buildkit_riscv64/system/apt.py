"""Debian's packages for the commands that we call, and their installation."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..core import dry_run, process
from ..core.console import confirm, log
from ..core.errors import MissingRequirementError
from . import host_checks

#: Debian's package, or packages separated by spaces, for each command that we call.
PACKAGES = {
    "apt-ftparchive": "apt-utils",
    "arch-test": "arch-test",
    "bsdtar": "libarchive-tools",
    "chromium-headless-shell": "chromium-headless-shell",
    "cpio": "cpio",
    "createrepo_c": "createrepo-c",
    "depmod": "kmod",
    "dnf": "dnf",
    "docker": "docker.io docker-cli docker-buildx",
    "dpkg-deb": "dpkg",
    "fuse-overlayfs": "fuse-overlayfs",
    "gh": "gh",
    "git": "git",
    "go": "golang-go",
    "gpg": "gnupg",
    "ip": "iproute2",
    "iptables": "iptables",
    "lintian": "lintian",
    "make": "make",
    "mke2fs": "e2fsprogs",
    "mmdebstrap": "mmdebstrap",
    "newuidmap": "uidmap",
    "openssl": "openssl",
    "perf": "linux-perf",
    "pgrep": "procps",
    "qemu-img": "qemu-utils",
    "rootlesskit": "rootlesskit",
    "rpmlint": "rpmlint",
    "rpmsign": "rpm",
    "rsync": "rsync",
    "runc": "runc",
    "skopeo": "skopeo",
    "slirp4netns": "slirp4netns",
    "ssh": "openssh-client",
    "sshd": "openssh-server",
    "umoci": "umoci",
    "xz": "xz-utils",
    "zstd": "zstd",
}

#: A package's name in releases that do not have the first name; empty if there is no package.
OTHER_NAMES = {
    "docker-buildx": "",
    "docker-cli": "docker.io",
    "qemu-user-static": "qemu-user-binfmt",
}

#: Packages that root without capabilities cannot install: they have files of other users, or
#: scripts that change owners.
NEED_CAPABILITIES = frozenset({"chromium-headless-shell", "lintian", "openssh-server"})


def _restricted() -> bool:
    """True for root without the capabilities to become apt's user or to use its directories."""
    return os.geteuid() == 0 and bool(host_checks.lacking_capabilities())


def install_error(package: str = "") -> str:
    """Why packages, or one package, cannot be installed; empty outside Debian."""
    if process.which("apt-get") is None:
        return ""
    if os.geteuid() != 0 and (error := host_checks.sudo_error()):
        return f"this user is not root, and {error}"
    if package in NEED_CAPABILITIES and _restricted():
        return f"root lacks {', '.join(host_checks.lacking_capabilities())} here"
    return host_checks.network_error()


@contextlib.contextmanager
def _environment() -> Iterator[dict[str, str]]:
    """The environment of apt, with temporary directories for a restricted root."""
    env = process.environment({"DEBIAN_FRONTEND": "noninteractive"})
    if not _restricted():
        yield env
        return
    with tempfile.TemporaryDirectory(prefix="apt-") as name:
        parent = Path(name)
        for directory in ("lists/partial", "cache/archives/partial"):
            (parent / directory).mkdir(parents=True)
        settings = {"APT::Sandbox::User": "root", "Dir::State::lists": parent / "lists", "Dir::Cache": parent / "cache"}  # fmt: skip
        lines = [f'{key} "{value}";\n' for key, value in settings.items()]
        (parent / "apt.conf").write_text("".join(lines))
        yield {**env, "APT_CONFIG": str(parent / "apt.conf")}


def install(packages: list[str], *, yes: bool) -> bool:
    """Install Debian packages, after a question.

    Args:
        packages: their names.
        yes: do not ask.

    Returns:
        False when the answer was no.

    Raises:
        MissingRequirementError: this is not Debian, this user cannot be root, or apt-get failed.
    """
    names = " ".join(packages)
    if process.which("apt-get") is None:
        raise MissingRequirementError(
            f"missing: {names}, and this is not Debian", "install them with your package manager"
        )
    try:
        as_root = process.as_root()
    except MissingRequirementError as error:
        raise MissingRequirementError(
            f"missing: {names}", f"as root: apt-get install --no-install-recommends {names}"
        ) from error
    if not dry_run.active() and not confirm(f"Install {names} with apt-get?", yes=yes):
        return False
    if as_root and not dry_run.active():
        # Ask for the password now: commands of `run` cannot read the terminal.
        process.read(["sudo", "true"], timeout=300, changes=True, error=MissingRequirementError)
    hint = "see its output above; check /etc/apt/sources.list and the network"
    with _environment() as env:
        process.run(
            [*as_root, "apt-get", "update", "--quiet"],
            env=env, error=MissingRequirementError, hint=hint,
        )  # fmt: skip
        # apt-cache succeeds for a name that other packages only mention.
        known = [
            OTHER_NAMES[name]
            if name in OTHER_NAMES
            and not process.probe(["apt-cache", "show", name], env=env).stdout
            else name
            for name in packages
        ]
        process.run(
            [*as_root, "apt-get", "install", "--yes", "--quiet", "--no-install-recommends",
             *filter(None, known)],
            env=env, error=MissingRequirementError, hint=hint,
        )  # fmt: skip
    return True


def install_missing(missing: str, packages: list[str], *, yes: bool) -> None:
    """Install packages, if any, after one question.

    Args:
        missing: the missing tools, for messages.
        packages: names of Debian packages.
        yes: do not ask.

    Raises:
        MissingRequirementError: the answer was no, or the installation failed.
    """
    if packages and not install(packages, yes=yes):
        raise MissingRequirementError(
            f"missing: {missing}",
            f"run it again with --yes, or: apt-get install {' '.join(packages)}",
        )


def ensure_installed(tools: Iterable[str], *, yes: bool) -> None:
    """Install the packages of missing commands, after one question.

    Raises:
        MissingRequirementError: the answer was no, or the installation failed.
    """
    missing = [name for name in tools if process.which(name) is None]
    packages = sorted({package for name in missing for package in PACKAGES[name].split()})
    install_missing(", ".join(missing), packages, yes=yes)


def offer_install(error: MissingRequirementError, *, yes: bool) -> bool:
    """Offer to install the tool that an error names.

    Returns:
        True when the tool was installed, so that the task can be tried again.
    """
    package = PACKAGES.get(error.tool)
    if package is None:
        return False
    if dry_run.active():
        install(package.split(), yes=yes)
        raise dry_run.EndedError(error.brief)
    if not confirm(f"{error.brief}. Install {package} with apt-get?", yes=yes):
        return False
    log(f"{error.brief}: installing {package}")
    return install(package.split(), yes=True) and process.which(error.tool) is not None
