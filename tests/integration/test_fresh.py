"""The container of `nox -s fresh`: privileges, devices, isolation and removal.

Its Debian is a copy of the Debian of other tests, because building one from packages is slow.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from buildkit_riscv64.core import process, project
from buildkit_riscv64.testing.pytest_plugin import needs
from buildkit_riscv64.validation.environment.waiting import BOUND, eventually

from .. import fresh
from ..fresh import As, FreshHost
from . import debianroot
from .debianroot import debian_root

pytestmark = pytest.mark.integration

# A run that copies its Debian. Arguments: the Debian, or an empty text for a build that never ends;
# and the arguments of `nox -s fresh`.
_RUN = """
import subprocess, sys
from tests import fresh
def make_root(root, suite, who):
    print("making", flush=True)
    copy = ["cp", "--archive", "--link", sys.argv[1], root]
    fresh.process.run(copy if sys.argv[1] else ["sleep", "1000"])
fresh.make_root, fresh.NEEDED_BYTES = make_root, 0
sys.exit(fresh.main(sys.argv[2:]))
"""


@pytest.fixture(scope="module")
@needs(*debianroot.NEEDS, "runc")
def debian() -> Iterator[Path]:
    """The Debian with a user for the tests."""
    with debian_root() as root:
        root.run("useradd", "--create-home", f"--uid={fresh.UID}", "--shell=/bin/bash", fresh.USER)
        root.write(f"/etc/sudoers.d/{fresh.USER}", f"{fresh.USER} ALL=(ALL) NOPASSWD: ALL\n")
        yield root.path


def left_of(name: str) -> list[str]:
    """The remaining directories, control groups, mounts and processes of a fresh Debian."""
    # Groups may vanish meanwhile; find continues.
    groups = process.probe(["find", "/sys/fs/cgroup", "-name", f"*{name}*"]).stdout
    found = groups.split() + [str(path) for path in Path("/var/tmp").glob(name)]
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            # Mounts show processes in the container, arguments show processes outside.
            text = f"{(entry / 'cmdline').read_text()} {(entry / 'mountinfo').read_text()}"
        except OSError:
            continue
        if name in text:
            found.append(f"process {entry.name}: {text[:200]}")
    return found


@pytest.fixture(scope="module", params=list(As))
def host(
    request: pytest.FixtureRequest, debian: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FreshHost]:
    """A fresh Debian, with a check of its removal."""

    def make_root(root: Path, suite: str, who: As) -> None:
        # The copies share their files, and so also changes of files.
        subprocess.run(["cp", "--archive", "--link", debian, root], check=True)

    with (
        pytest.MonkeyPatch.context() as patch,
        (tmp_path_factory.mktemp("fresh") / "log").open("w") as log,
    ):
        patch.setattr(fresh, "make_root", make_root)
        with fresh.fresh_host("trixie", request.param, log) as container:
            yield container
    assert left_of(container.place.name) == []


def output_of(host: FreshHost, script: str) -> list[str]:
    """The output of a script that must succeed."""
    done = host.type(script, Path(host.who.home))
    assert done.code == 0, done
    return list(done.closing[1:])


def fails(host: FreshHost, script: str) -> bool:
    """True when a script fails."""
    return host.type(script, Path(host.who.home)).code != 0


def test_user(host: FreshHost) -> None:
    number = 0 if host.who is As.ROOT else fresh.UID
    assert output_of(host, "id -u; echo $HOME; hostname; pwd") == [
        str(number), host.who.home, "fresh", host.who.home,
    ]  # fmt: skip
    # Only processes of the container are visible, and zombies are reaped soon.
    (first, *_) = output_of(host, "(sleep 0.1 &); cat /proc/1/comm")
    assert first in {"sh", "sleep"}
    assert eventually(lambda: not [line for line in output_of(host, "ps -eo stat=") if "Z" in line])


def test_privileges(host: FreshHost) -> None:
    mounts = ("mount -t tmpfs tmpfs /mnt", "unshare --mount true", "mknod /tmp/null c 1 3")
    spaces = "unshare --user --map-root-user true"
    match host.who:
        case As.ROOT:
            assert not any(fails(host, script) for script in (*mounts, spaces))
            # In a container that shares its mounts, also a slave of them.
            assert "shared" in output_of(host, "findmnt -no PROPAGATION /")[0].split(",")
            group = "d=$(mktemp -d -p /sys/fs/cgroup/pids 2>/dev/null || mktemp -d -p /sys/fs/cgroup); rmdir $d"
            assert not fails(host, group)
        case As.USER:
            assert all(fails(host, script) for script in mounts)
            assert output_of(host, "sudo id -u; grep CapEff /proc/self/status") == ["0", "CapEff:\t0000000000000000"]  # fmt: skip
            assert not any(fails(host, f"sudo {script}") for script in mounts)
        case As.UNPRIVILEGED:
            assert all(fails(host, script) for script in (*mounts, spaces, "sudo true"))
            assert output_of(host, "grep CapBnd /proc/self/status") == ["CapBnd:\t0000000000000000"]
            assert output_of(host, "bash -c 'sleep 0 & wait'; echo alive") == ["alive"]


def test_modes_of_devices(host: FreshHost) -> None:
    assert output_of(host, "stat -c %a /dev/null /dev/zero /dev/tty") == ["666"] * 3
    expected = [] if host.who is As.UNPRIVILEGED else [one["path"] for one in fresh.devices()]
    for path in expected:
        assert output_of(host, f"stat -c '%a %U' {path}") == ["600 root"]
    assert bool(expected) is not fails(host, "test -e /dev/net/tun")


def test_isolation(host: FreshHost) -> None:
    (host.root / "root").chmod(0o755)
    assert fails(host, f"test -e {project.ROOT} || test -e {project.cache()}")
    assert fails(host, "command -v go")
    names = {line.partition("=")[0] for line in output_of(host, "env | tail -11")}
    ours = {"HOME", "LOGNAME", "PATH", "PWD", "SHELL", "SHLVL", "TERM", "USER", "_"}
    assert names <= ours | set(fresh.network_settings())


def run(debian: Path | str, *args: str, cache: Path) -> subprocess.Popen[str]:
    """Start a run."""
    return subprocess.Popen(
        [sys.executable, "-c", _RUN, str(debian), "trixie", *args], cwd=project.ROOT,
        env={**os.environ, "XDG_CACHE_HOME": str(cache)}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, process_group=0,
    )  # fmt: skip


def test_results(debian: Path, tmp_path: Path) -> None:
    with run(debian, "--command=cat README.md | head -1", "--command=exit 3", "--command=echo no", cache=tmp_path) as child:  # fmt: skip
        output, _ = child.communicate(timeout=BOUND)
    assert child.returncode == 7
    assert "Traceback" not in output
    log = tmp_path / "buildkit-riscv64/fresh/trixie-root.log"
    assert "# buildkit-riscv64" in log.read_text()
    summary = output[output.rindex("Debian 13") :]
    assert "passed" in summary
    assert "exit code 3" in summary
    assert "echo no" not in summary
    assert str(log) in summary


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("while_making", [True, False])
def test_interrupted(
    debian: Path, tmp_path: Path, number: signal.Signals, while_making: bool
) -> None:
    before = set(Path("/var/tmp").glob("fresh-*"))
    word: str = "making" if while_making else "typed"
    source: Path | str = "" if while_making else debian
    with run(source, "--command=sleep 1000 & echo typed; wait", cache=tmp_path) as child:
        assert child.stdout is not None
        # End a run that does not print the word.
        watch = threading.Timer(BOUND, child.kill)
        watch.start()
        lines = iter(child.stdout.readline, "")
        assert any(line.strip() == word for line in lines)
        (new,) = set(Path("/var/tmp").glob("fresh-*")) - before
        child.send_signal(number)
        rest = child.stdout.read()
        watch.cancel()
    assert child.returncode == (-number if number is signal.SIGKILL else 130), rest
    assert eventually(lambda: not left_of(new.name)), left_of(new.name)
