"""`buildkit-rootless-check` in a Debian root with one problem at a time."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from buildkit_riscv64.testing.pytest_plugin import needs

from . import debianroot
from .debianroot import Done, Root, debian_root

pytestmark = pytest.mark.integration

CHECK = Path(__file__).resolve().parents[2] / "packaging/buildkit-rootless-check"
#: First directory of PATH, for fake commands.
OWN = "/tmp/bin"


@pytest.fixture(scope="module")
@needs(*debianroot.NEEDS)
def root() -> Iterator[Root]:
    with debian_root() as root:
        shutil.copy(CHECK, root.path / "usr/bin")
        root.run("useradd", "--create-home", "--uid=1000", "member")
        yield root


def check(
    root: Root,
    before: str = "",
    *flags: str,
    prefix: str = "runuser -u member --",
    env: str = "XDG_RUNTIME_DIR=/run/user/1000",
) -> Done:
    """Run the check as a user, after commands that change the mounts of this run only."""
    script = f"""
    install -d -o member /run/user/1000 {OWN}
    cd /tmp
    {before}
    {prefix} env HOME=/home/member PATH={OWN}:$PATH {env} buildkit-rootless-check {" ".join(flags)}
    """
    return root.attempt("bash", "-euc", script)


def test_no_problems(root: Root) -> None:
    done = check(root, "", "--quiet")
    assert (done.code, done.output) == (0, "")
    done = check(root)
    assert done.code == 0
    assert "ok    rootlesskit starts\n" in done.output
    assert "ok    overlayfs in /home/member\n" in done.output
    assert not list((root.path / "home/member").glob(".buildkit-check*"))


def hidden(path: str) -> str:
    """Replace a program with a file that is not executable."""
    return f"mount --bind /dev/null {path}"


def replaced(path: str, content: str) -> str:
    """Replace the content of a file, also in /proc."""
    return f"echo '{content}' >replaced; mount --bind replaced {path}"


def setting(name: str, value: int) -> str:
    """Fake a kernel setting."""
    return f"mount -t tmpfs tmpfs /proc/sys/kernel; echo {value} >/proc/sys/kernel/{name}"


def command(name: str, body: str) -> str:
    """Put a fake command first on PATH."""
    return f"printf '#!/bin/sh\\n{body}\\n' >{OWN}/{name}; chmod 755 {OWN}/{name}"


ON_AN_OVERLAY = """
mkdir lower upper work
mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work{} /home/member
chown member /home/member
"""

ERRORS = {
    "tun for root alone": (
        "chmod 600 /dev/net/tun",
        "/dev/net/tun cannot be opened: Permission denied", "chmod 666 /dev/net/tun",
    ),
    "no tun": ("rm /dev/net/tun", "/dev/net/tun does not exist", "modprobe tun"),
    "no driver of tun": (
        "rm /dev/net/tun; mknod -m 666 /dev/net/tun c 10 254",
        "/dev/net/tun cannot be opened: No such device", "modprobe tun",
    ),
    "tun on nodev": (
        "mount -t tmpfs -o nodev tmpfs /dev/net; mknod -m 666 /dev/net/tun c 10 200",
        "/dev/net/tun cannot be opened: Permission denied", "mount -o remount,dev /dev/net",
    ),
    "no rootlesskit": (hidden("/usr/bin/rootlesskit"), "there is no rootlesskit", "rootlesskit"),
    "no newuidmap": (hidden("/usr/bin/newuidmap"), "there is no newuidmap", "package uidmap"),
    "no runc": (hidden("$(command -v runc)"), "there is no runc", "package runc"),
    "newuidmap without setuid": (
        "cp /usr/bin/newuidmap copy; mount --bind copy /usr/bin/newuidmap"
        f"; {command('getcap', 'exit 0')}",
        "/usr/bin/newuidmap is not setuid root", "chmod u+s /usr/bin/newuidmap",
    ),
    "newgidmap on nosuid": (
        "mount --bind /usr /usr; mount -o remount,bind,nosuid /usr",
        "/usr/bin/newgidmap is on a filesystem that is mounted nosuid", "mount -o remount,suid /usr",
    ),
    "too few user ids": (
        replaced("/etc/subuid", "member:100000:65535"), "/etc/subuid has no 65536 ids", "usermod",
    ),
    "no group ids": (
        replaced("/etc/subgid", "other:100000:65536"), "/etc/subgid has no 65536 ids", "usermod",
    ),
    "no user namespaces": (
        replaced("/proc/sys/user/max_user_namespaces", "0"),
        "the kernel forbids namespaces", "sysctl user.max_user_namespaces=15000",
    ),
    "no network namespaces": (
        replaced("/proc/sys/user/max_net_namespaces", "0"),
        "the kernel forbids namespaces", "sysctl user.max_net_namespaces=15000",
    ),
    "user namespaces for root alone": (
        setting("unprivileged_userns_clone", 0),
        "the kernel forbids namespaces", "sysctl kernel.unprivileged_userns_clone=1",
    ),
    "AppArmor": (
        setting("apparmor_restrict_unprivileged_userns", 1),
        "AppArmor forbids", "sysctl kernel.apparmor_restrict_unprivileged_userns=0",
    ),
    "another's home": (
        "mkdir -m 755 other; mount --bind other /home/member",
        "/home/member cannot be written", "chown member /home/member",
    ),
    "a masked /proc": (
        "mount -t tmpfs tmpfs /proc/fs", "build steps cannot have a /proc", "unmount",
    ),
    "a state without owners": (
        command("chown", "exit 1"), "cannot hold files of other owners", "XDG_DATA_HOME",
    ),
    "noexec without overlayfs": (
        ON_AN_OVERLAY.format("") + "mount -o remount,bind,noexec /home/member",
        "/home/member, which is mounted noexec", "local filesystem",
    ),
    "a reason that is not known": (
        command("slirp4netns", "echo out of luck >\\&2; exit 1"),
        "rootlesskit does not start: ", "https://",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_error(root: Root, name: str) -> None:
    before, error, fix = ERRORS[name]
    done = check(root, before, "--quiet")
    assert done.code == 1
    lines = dict(zip(done.output.splitlines()[::2], done.output.splitlines()[1::2], strict=True))
    found = [line for line in lines if error in line]
    assert [line.startswith("error: ") for line in found] == [True], done.output
    assert lines[found[0]].startswith("  fix: ")
    assert fix in lines[found[0]]
    # The check reports the cause only, not its consequences.
    assert len(lines) == (2 if "newgidmap" in name else 1), done.output


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"prefix": ""}, "you are root"),
        ({"prefix": "setpriv --reuid=1000 --regid=1000 --clear-groups --no-new-privs"}, "no_new_privs"),
        ({"env": "--unset=XDG_RUNTIME_DIR"}, "XDG_RUNTIME_DIR is not set"),
        ({"env": "XDG_RUNTIME_DIR=/etc"}, "not a directory of yours"),
    ],
)  # fmt: skip
def test_session_errors(root: Root, options: dict[str, str], error: str) -> None:
    done = check(root, "", "--quiet", **options)
    assert done.code == 1
    assert error in done.output


WARNINGS = {
    "an overlay": (ON_AN_OVERLAY.format(""), "overlayfs does not work in /home/member", "not on an overlay"),
    "no fuse either": (
        ON_AN_OVERLAY.format("") + "chmod 600 /dev/fuse",
        "/dev/fuse cannot be opened", "chmod 666 /dev/fuse",
    ),
    "control groups of version 1": (
        "mount -t tmpfs tmpfs /sys/fs/cgroup", "control groups are of version 1", "systemd.unified_cgroup_hierarchy=1",
    ),
    "nothing is delegated": (
        "mount -t tmpfs tmpfs /sys/fs/cgroup; echo cpu >/sys/fs/cgroup/cgroup.controllers",
        "systemd does not delegate cpu memory pids", "Delegate=",
    ),
    "few keys": (
        replaced("/proc/key-users", " 1000:   190 190/190 190/200 3800/20000"),
        "only 10 kernel keys left", "sysctl kernel.keys.maxkeys=2000",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WARNINGS)
def test_warning(root: Root, name: str) -> None:
    before, warning, fix = WARNINGS[name]
    done = check(root, before)
    _, _, rest = done.output.partition(warning)
    assert fix in rest.splitlines()[1], done.output
    quiet = check(root, before, "--quiet")
    assert warning not in quiet.output
    # Files mounted over /proc also prevent build steps from mounting /proc.
    if "/proc/" not in before:
        assert (done.code, quiet.code, quiet.output) == (0, 0, "")


def test_usage(root: Root) -> None:
    assert check(root, "", "--help").code == 0
    assert check(root, "", "--other").code == 2


def test_interrupted_check_leaves_no_files(root: Root) -> None:
    """A fake slirp4netns blocks."""
    before = command("slirp4netns", "exec sleep 600")
    script = "timeout --signal=INT 2"
    done = check(root, before, "--quiet", prefix=f"{script} runuser -u member --")
    assert done.code in {124, 130}
    assert not list((root.path / "home/member").glob(".buildkit-check*"))
