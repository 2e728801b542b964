"""Debian's packages for the commands that we call, and how they are installed."""

from __future__ import annotations

from collections.abc import Iterable

from . import process
from .console import confirm, say
from .errors import MissingRequirementError

#: Debian's package for each command that we call, or several with spaces between.
PACKAGES = {
    "apt-ftparchive": "apt-utils",
    "arch-test": "arch-test",
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

#: What a package is called in another release, where the first name is not known; nothing
#: where that has no such package.
OTHER_NAMES = {
    "docker-buildx": "",
    "docker-cli": "docker.io",
    "qemu-user-static": "qemu-user-binfmt",
}


def install(packages: list[str], *, yes: bool, dry: bool = False) -> bool:
    """Install Debian packages, after a question.

    Args:
        packages: their names.
        yes: do not ask.
        dry: only say what would run.

    Returns:
        False when the answer was no.

    Raises:
        MissingRequirementError: not Debian, not root, or apt-get failed.
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
    if not dry and not confirm(f"Install {names} with apt-get?", yes=yes):
        return False
    if as_root and not dry:
        # Asks for the password here and now: what `run` starts may not read the terminal.
        process.read(["sudo", "true"], timeout=300, error=MissingRequirementError)
    env = process.environment({"DEBIAN_FRONTEND": "noninteractive"})
    hint = "its output is above; check /etc/apt/sources.list and the network"
    process.run(
        [*as_root, "apt-get", "update", "--quiet"],
        env=env, dry=dry, error=MissingRequirementError, hint=hint,
    )  # fmt: skip
    # apt-cache succeeds for a name that other packages only mention.
    known = [
        OTHER_NAMES[name]
        if name in OTHER_NAMES and not process.probe(["apt-cache", "show", name]).stdout
        else name
        for name in packages
    ]
    process.run(
        [*as_root, "apt-get", "install", "--yes", "--quiet", "--no-install-recommends",
         *filter(None, known)],
        env=env, dry=dry, error=MissingRequirementError, hint=hint,
    )  # fmt: skip
    return True


def have(what: str, packages: list[str], *, yes: bool) -> None:
    """Install packages, if any, after one question.

    Args:
        what: is missing without them.
        packages: Debian's.
        yes: do not ask.

    Raises:
        MissingRequirementError: the answer was no, or they could not be installed.
    """
    if packages and not install(packages, yes=yes):
        raise MissingRequirementError(
            f"missing: {what}",
            f"run it again with --yes, or: apt-get install {' '.join(packages)}",
        )


def provide(tools: Iterable[str], *, yes: bool) -> None:
    """Have commands, or install what brings them, after one question.

    Raises:
        MissingRequirementError: the answer was no, or they could not be installed.
    """
    missing = [name for name in tools if process.which(name) is None]
    packages = sorted({package for name in missing for package in PACKAGES[name].split()})
    have(", ".join(missing), packages, yes=yes)


def offer(error: MissingRequirementError, *, yes: bool) -> bool:
    """Offer to install what an error says is missing.

    Returns:
        True when it was installed, and another try is worth it.
    """
    package = PACKAGES.get(error.tool)
    if package is None:
        return False
    if not confirm(f"{error.brief}. Install {package} with apt-get?", yes=yes):
        return False
    say(f"{error.brief}: installing {package}")
    return install(package.split(), yes=True) and process.which(error.tool) is not None
