from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import records
from buildkit_riscv64.core import dist, filesystem, project
from buildkit_riscv64.core.arch import Architecture
from buildkit_riscv64.core.errors import (
    CheckError,
    Failure,
    MachineError,
    MissingRequirementError,
    NotNativeError,
    UsageError,
)
from buildkit_riscv64.image.variants import Variant
from buildkit_riscv64.machine import machines, remote
from buildkit_riscv64.machine.machines import Machine
from buildkit_riscv64.machine.remote import RemoteHost
from buildkit_riscv64.machine.ssh import Destination
from buildkit_riscv64.validation.artifacts import programs
from buildkit_riscv64.validation.environment.waiting import BOUND, alive, eventually

from .. import documents
from ..factories import IRREGULAR, promptly
from ..image_factories import make_image
from .conftest import MachineCommands

TASKS = ["build-binaries", "build-image", "validate", "doctor", "machine.list", "pins.show"]
BOARD = Destination("me@board")


def remote_host(
    arch: Architecture = Architecture.RISCV64, home: str = "/home/me", *missing: str
) -> RemoteHost:
    return RemoteHost(BOARD, arch, home, missing=missing, checksums={})


HOST = remote_host()

# Command.


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["build-binaries", "--yes"], ["./invoke", "build-binaries", "--yes"]),
        (["machine.list"], ["./invoke", "machine.list"]),
        (["--list"], ["./invoke", "--list"]),
        (["nox"], ["./nox"]),
        (["nox", "-s", "unit", "--", "-k", "a b"], ["./nox", "-s", "unit", "--", "-k", "a b"]),
        (["uname", "-a"], ["uname", "-a"]),
        (["echo", "build-binaries"], ["echo", "build-binaries"]),
        (["./invoke", "doctor"], ["./invoke", "doctor"]),
    ],
)
def test_words(arguments: list[str], words: list[str]) -> None:
    assert remote.words(arguments, TASKS) == words


def test_words_without_a_command() -> None:
    with pytest.raises(UsageError, match="no command") as caught:
        remote.words([], TASKS)
    assert "-- build-binaries" in caught.value.hint


# Destination.


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of started machines."""
    names: list[str] = []
    monkeypatch.setattr(machines, "start", lambda machine: names.append(machine.name))
    return names


def test_resolve_prefers_a_board(machine: Machine, started: list[str]) -> None:
    assert remote.resolve("one", {"one": "me@192.168.1.185"}) == Destination("me@192.168.1.185")
    assert started == []


def test_resolve_does_not_start_an_answering_machine(
    machine: Machine, started: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Machine, "answered", True)
    assert remote.resolve("one", {}) == machine.destination
    assert started == []


def test_resolve_starts_a_machine(
    machine: Machine, started: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert remote.resolve("one", {"two": "x"}) == machine.destination
    assert started == ["one"]
    assert "machine one" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["board", "me@192.168.1.185", "me@fe80::1%eth0", "o.n.e", "ONE"])
def test_resolve_falls_back_to_ssh(machine: Machine, started: list[str], name: str) -> None:
    assert remote.resolve(name, {}) == Destination(name)
    assert started == []


@pytest.mark.parametrize(
    "name",
    ["", "-oProxyCommand=touch /tmp/x", "-oProxyCommand=x", "-F", "a b", " one", "a\nb", "a\tb", "--"],
)  # fmt: skip
def test_resolve_invalid_destination(name: str, started: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        remote.resolve(name, {})
    assert "machine.list" in caught.value.hint


def test_resolve_missing_default_machine(started: list[str]) -> None:
    with pytest.raises(MachineError, match="machine riscv64 ") as caught:
        remote.resolve("riscv64", {})
    assert caught.value.hint == "invoke machine.create"


# Question and answer.


def asked(home: Path, **settings: str) -> RemoteHost:
    """Run the question in a local shell."""
    done = subprocess.run(
        ["sh", "-c", remote._QUESTION, "sh", remote._directory(), *remote.ESSENTIAL], env={**os.environ, "HOME": str(home), **settings}, check=True,
        capture_output=True, text=True,
    )  # fmt: skip
    return remote.understand(BOARD, done.stdout)


def test_understand() -> None:
    assert remote.understand(BOARD, "riscv64\n/home/me\n") == HOST


def test_question_in_a_shell(tmp_path: Path) -> None:
    for tool in ("sh", "uname", "id", "git"):
        found = shutil.which(tool)
        assert found
        (tmp_path / tool).symlink_to(found)
    seen = asked(Path("/a b"), PATH=str(tmp_path))
    assert seen.arch is Architecture.here()
    assert seen.home == "/a b"
    assert seen.missing == ("python3", "rsync")
    assert (seen.checksums, seen.git) == ({}, "")


def test_understand_missing_commands() -> None:
    seen = remote.understand(BOARD, "x86_64\n/root\ngit\nrsync\n")
    assert (seen.arch, seen.missing) == (Architecture.AMD64, ("git", "rsync"))


@pytest.mark.parametrize(
    "stdout",
    [
        "", "\n", "riscv64\n", "riscv64\n\n",
        "Welcome to board!\nriscv64\n/home/me\n",
        "Linux board\nLast login: today\n\nriscv64\n/home/me\n",
    ],
)  # fmt: skip
def test_understand_noisy_login_shell(stdout: str) -> None:
    with pytest.raises(MachineError, match="me@board") as caught:
        remote.understand(BOARD, stdout)
    assert "login shell" in caught.value.hint


def test_understand_unknown_architecture() -> None:
    with pytest.raises(Failure, match="sparc64"):
        remote.understand(BOARD, "sparc64\n/home/me\n")


def test_each_checkout_has_its_own_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    first = HOST.directory
    assert first.startswith("/home/me/.cache/buildkit-riscv64/checkouts/")
    assert len(Path(first).name) == 12
    assert HOST.directory == first
    monkeypatch.setattr(project, "ROOT", Path("/somewhere/else"))
    second = HOST.directory
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "other", "1", "1", "x")))
    assert len({first, second, HOST.directory}) == 3


# Missing packages.


def test_install_essential(commands: MachineCommands) -> None:
    remote._install_essential(remote_host(Architecture.RISCV64, "/h", "git", "rsync"), yes=True)
    (call,) = commands.calls
    assert call.verb == "run"
    assert call.args == BOARD.command(["sh", "-c", remote._INSTALL, "sh", "git", "rsync"])


@pytest.mark.parametrize(("uid", "sudo"), [(0, ""), (1000, "sudo -n ")])
def test_install_script(
    tmp_path: Path, script: Callable[[str, str], Path], uid: int, sudo: str
) -> None:
    script("bin/id", f"echo {uid}")
    script("bin/sudo", f'printf "sudo -n " >>{tmp_path}/log; shift; exec "$@"')
    directory = script("bin/apt-get", f'echo "apt-get $*" >>{tmp_path}/log').parent
    subprocess.run(
        ["sh", "-c", remote._INSTALL, "sh", "git", "rsync"], check=True,
        env={"PATH": f"{directory}:{os.environ['PATH']}"},
    )  # fmt: skip
    assert (tmp_path / "log").read_text() == (
        f"{sudo}apt-get update -q\n{sudo}apt-get install -yq --no-install-recommends git rsync\n"
    )


def test_install_essential_asks(commands: MachineCommands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "confirm", lambda _question, yes: yes)
    lacking = remote_host(Architecture.RISCV64, "/h", "rsync")
    with pytest.raises(MissingRequirementError, match=r"me@board .*rsync") as caught:
        remote._install_essential(lacking, yes=False)
    assert "apt-get install rsync" in caught.value.hint
    assert commands.calls == []


# Push, execute, pull.


def test_push(commands: MachineCommands, checkout: Path) -> None:
    remote.push(HOST)
    (rsync,) = commands.calls
    assert rsync.args[:2] == ["rsync", "--rsh=ssh"]
    assert {"--archive", "--delete-after", "--exclude=/dist", "--filter=:- .gitignore"} <= set(
        rsync.args
    )
    assert {"--exclude=/.git/config", "--exclude=/.git/hooks"} <= set(rsync.args)
    assert rsync.args[-2:] == [f"{checkout}/", f"me@board:{HOST.directory}/"]
    # Ignored files, such as dist/, are not deleted.
    assert "--delete-excluded" not in rsync.args


def test_push_sends_git_files_once(commands: MachineCommands, checkout: Path) -> None:
    (checkout / ".git" / "objects" / "ab").mkdir(parents=True)
    (checkout / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    state = remote.push(HOST)
    assert "--exclude=/.git" not in commands.last.args
    known = replace(HOST, git=state)
    assert remote.push(known) == state
    assert "--exclude=/.git" in commands.last.args
    # Files that are not sent do not matter.
    (checkout / ".git" / "config").write_text("x")
    assert remote.push(known) == state
    (checkout / ".git" / "objects" / "ab" / "cd").write_text("x")
    assert remote.push(known) != state
    assert "--exclude=/.git" not in commands.last.args


def test_remote_git_use_invalidates_the_state(runner: Runner, tmp_path: Path) -> None:
    far = remote_host(home=str(tmp_path))
    git = Path(far.directory) / ".git"
    git.mkdir(parents=True)
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    os.utime(git / "HEAD", (1, 1))
    assert asked(tmp_path).git == ""
    assert outcome(runner("true", directory=Path(far.directory)))[0] == 0
    assert asked(tmp_path).git == "git:ab"
    os.utime(git / "HEAD", (time.time() + 1, time.time() + 1))
    assert asked(tmp_path).git == ""


def test_push_includes_tracked_ignored_files(commands: MachineCommands, checkout: Path) -> None:
    (checkout / ".git").mkdir()
    commands.answer("git", stdout="a/b.x/c[1]*\0")
    remote.push(HOST)
    assert commands.args[0] == [
        "git", "-C", str(checkout), "ls-files", "-z", "--cached", "--ignored", "--exclude-standard",
    ]  # fmt: skip
    rules = [a for a in commands.last.args if a.startswith(("--include", "--filter"))]
    assert rules == [
        "--include=/a", "--include=/a/b.x", r"--include=/a/b.x/c\[1\]\*", "--filter=:- .gitignore",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("yes", "actions", "settings"),
    [(False, "", []), (True, "", ["CI=true"]), (True, "true", ["CI=true", "GITHUB_ACTIONS=true"])],
)
def test_execute(
    commands: MachineCommands,
    monkeypatch: pytest.MonkeyPatch,
    yes: bool,
    actions: str,
    settings: list[str],
) -> None:
    if actions:
        monkeypatch.setenv("GITHUB_ACTIONS", actions)
    commands.answer("ssh", code=7)
    assert remote.execute(HOST, ["echo", "a b"], "git:ab", yes=yes) == 7
    assert commands.last.verb == "attached"
    words = [
        *(["env"] if settings else []),
        *settings,
        "sh",
        "-c",
        remote._RUNNER,
        "sh",
        HOST.directory,
        "git:ab",
        "echo",
        "a b",
    ]
    assert commands.last.args == BOARD.command(words)


def test_execute_lost_connection(commands: MachineCommands) -> None:
    commands.answer("ssh", code=255)  # `ssh -O check` too
    with pytest.raises(MachineError, match=r"me@board: .*while"):
        remote.execute(HOST, ["true"], "", yes=False)


def test_execute_command_with_exit_code_255(commands: MachineCommands) -> None:
    commands.answer("ssh", "-T", code=255)
    commands.answer("ssh", "-O", code=0)
    assert remote.execute(HOST, ["false"], "", yes=False) == 255


RESULTS = {
    "dist/linux-riscv64/SHA256SUMS": "ab12",
    "dist/linux-riscv64-rva22u64/SHA256SUMS": "cd34",
    "dist/linux-riscv64/image/root/SHA256SUMS": "0a1b",
    "dist/linux-riscv64/evidence/SHA256SUMS": "2c3d",
    "benchmarks/results/a b.json": "ef56",
}
ANSWER = "".join(f"{digest}  {path}\n" for path, digest in RESULTS.items())


def test_understand_results() -> None:
    seen = remote.understand(BOARD, f"riscv64\n/home/me\n{ANSWER}rsync\n")
    assert (seen.checksums, seen.missing) == (RESULTS, ("rsync",))


def test_question_lists_results(tmp_path: Path) -> None:
    far = remote_host(home=str(tmp_path / "a b"))
    assert asked(tmp_path / "a b").checksums == {}
    directory = Path(far.directory) / "dist"
    directory.mkdir(parents=True)
    assert asked(tmp_path / "a b").checksums == {}
    (directory / "linux-riscv64").mkdir()
    (directory / ".linux-riscv64.staging").mkdir()
    (directory / "linux-amd64").mkdir()
    listed = directory / "linux-riscv64" / dist.SUMS
    listed.write_text("x\n")
    image = directory / "linux-riscv64" / dist.IMAGE / "root" / dist.SUMS
    image.parent.mkdir(parents=True)
    image.write_text("y\n")
    (directory / "linux-riscv64" / dist.IMAGE / "rootless").mkdir()
    proof = directory / "linux-riscv64" / dist.EVIDENCE / dist.SUMS
    proof.parent.mkdir()
    proof.write_text("z\n")
    packages = directory / "linux-riscv64" / dist.PACKAGES / dist.SUMS
    packages.parent.mkdir()
    packages.write_text("p\n")
    # Releases are not copied back.
    (directory / "linux-riscv64" / dist.RELEASE).mkdir()
    (directory / "linux-riscv64" / dist.RELEASE / dist.SUMS).write_text("r\n")
    result = Path(far.directory) / remote.RESULTS / "one.json"
    result.parent.mkdir(parents=True)
    result.write_text("{}")
    (result.parent / "directory").mkdir()
    expected = {
        "dist/linux-riscv64/SHA256SUMS": filesystem.sha256(listed),
        "dist/linux-riscv64/image/root/SHA256SUMS": filesystem.sha256(image),
        "dist/linux-riscv64/evidence/SHA256SUMS": filesystem.sha256(proof),
        "dist/linux-riscv64/packages/SHA256SUMS": filesystem.sha256(packages),
        "benchmarks/results/one.json": filesystem.sha256(result),
    }
    assert asked(tmp_path / "a b").checksums == expected
    assert list(asked(tmp_path / "a b").checksums) == list(
        expected
    )  # in this order: binaries, images, evidence


@pytest.fixture
def far(
    pristine: Path,
    tmp_path: Path,
    checkout: Path,
    monkeypatch: pytest.MonkeyPatch,
    on: Callable[[str], None],
) -> Path:
    """The remote dist/linux-riscv64; this host is an amd64 machine without a dist/."""
    on("x86_64")
    directory = Path(shutil.copytree(pristine, tmp_path / "far" / "linux-riscv64"))

    def rsync(_self: Destination, *args: str) -> None:
        *_, source, target = args
        start = f":{HOST.directory}/dist/linux-riscv64/"
        assert source.startswith(start)
        for name in asked_for(args):
            copied = Path(target) / name
            copied.parent.mkdir(parents=True, exist_ok=True)
            # Copies anything, unlike rsync.
            command = ["cp", "-a", str(directory / source.removeprefix(start) / name), str(copied)]
            subprocess.run(command, check=False, stderr=subprocess.DEVNULL)

    monkeypatch.setattr(Destination, "rsync", rsync)
    return directory


def asked_for(args: Sequence[str]) -> list[str]:
    """The files that rsync shall copy."""
    (path,) = (arg.partition("=")[2] for arg in args if arg.startswith("--files-from="))
    return Path(path).read_text().split("\0")[:-1]


@pytest.fixture
def damage(far: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Path], object]], None]:  # fmt: skip
    """Damage each copy of a whole directory."""

    def install(change: Callable[[Path], object]) -> None:
        rsync = Destination.rsync

        def damaged(self: Destination, *args: str) -> None:
            rsync(self, *args)
            if asked_for(args) != [dist.SUMS]:
                change(Path(args[-1]))

        monkeypatch.setattr(Destination, "rsync", damaged)

    return install


def after(far: Path, arch: Architecture = Architecture.RISCV64) -> RemoteHost:
    """The remote host with these results."""
    sums = [
        *far.glob(dist.SUMS), *sorted(far.glob(f"{dist.IMAGE}/*/{dist.SUMS}")),
        *far.glob(f"{dist.EVIDENCE}/{dist.SUMS}"), *far.glob(f"{dist.PACKAGES}/{dist.SUMS}"),
    ]  # fmt: skip
    checksums = {f"dist/{path.relative_to(far.parent)}": filesystem.sha256(path) for path in sums}
    return replace(HOST, arch=arch, checksums=checksums)


def files(directory: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()
    }


def test_pull_copies_results_once(far: Path) -> None:
    here = project.DIST / "linux-riscv64"
    assert remote.pull({}, after(far)) == [here]
    assert files(here) == files(far)
    assert [p.name for p in project.DIST.iterdir() if not p.name.endswith(".lock")] == [here.name]
    assert remote.pull({}, after(far)) == []


def test_pull_copies_old_results_that_are_missing_here(far: Path) -> None:
    before = after(far).checksums
    assert remote.pull(before, after(far)) == [project.DIST / "linux-riscv64"]


def test_pull_without_results(far: Path) -> None:
    shutil.rmtree(far)
    assert remote.pull({}, after(far)) == []
    assert not project.DIST.exists()


def corrupt(name: str) -> Callable[[Path], object]:
    def change(directory: Path) -> None:
        path = directory / name
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)

    return change


TRANSFERS: dict[str, Callable[[Path], object]] = {
    "bin/buildctl": corrupt("bin/buildctl"),
    "manifest.json": corrupt("manifest.json"),
    "SHA256SUMS": corrupt("SHA256SUMS"),
    "buildctl.cdx.json": lambda directory: (directory / "buildctl.cdx.json").unlink(),
    "bin/buildkitd": lambda directory: (directory / "bin/buildkitd").write_bytes(b""),
    "SHA256SUMS empty": lambda directory: (directory / "SHA256SUMS").write_bytes(b""),
    "SHA256SUMS missing": lambda directory: (directory / "SHA256SUMS").unlink(),
}


@pytest.mark.parametrize("what", TRANSFERS)
@pytest.mark.parametrize("known", [False, True])
def test_pull_rejects_a_damaged_transfer(
    far: Path,
    pristine: Path,
    damage: Callable[[Callable[[Path], object]], None],
    what: str,
    known: bool,
) -> None:
    here = project.DIST / "linux-riscv64"
    if known:
        shutil.copytree(pristine, here)
        (here / dist.SUMS).write_text("older\n")
    before = files(project.DIST) if known else {}
    damage(TRANSFERS[what])
    with pytest.raises(CheckError) as caught:
        remote.pull({}, after(far))
    for fact in (f"linux-riscv64/{what.split(maxsplit=1)[0]} ", "me@board"):
        assert fact in caught.value.brief
    left = {n: c for n, c in files(project.DIST).items() if not n.endswith(".lock")}
    assert left == before
    assert not list(project.DIST.glob(".*staging*"))


@pytest.mark.parametrize("content", ["not checksums\n", "0" * 64 + "  ../../../etc/passwd\n", "  \n", "\xff"])  # fmt: skip
def test_pull_rejects_invalid_checksums(far: Path, content: str) -> None:
    (far / dist.SUMS).write_text(content, encoding="latin-1")
    with pytest.raises(CheckError, match="me@board"):
        remote.pull({}, after(far))
    assert not (project.DIST / "linux-riscv64").exists()


NAMES = [
    "../x", "/etc/x", "bin/../../x", ".hidden", "bin/.hidden", "bin//x", "bin/", "", "x\x1b[2J", "x\r", "x\u2028y",
    dist.VERDICT, f"{dist.VERDICT}/x", "evidence/evidence.json", "image/root/x", "packages/x", "release/x", "bin/buildctl",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_pull_refuses_a_list_of_other_files(far: Path, name: str) -> None:
    """Names outside the directory, verdicts, parts with lists of their own, and repeated names."""
    shutil.copytree(far, project.DIST / far.name)
    before = files(project.DIST)
    with (far / dist.SUMS).open("a") as listed:
        listed.write(f"{hashlib.sha256(b'{}').hexdigest()}  {name}\n")
    path = far / name
    if name and path.resolve().is_relative_to(far) and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    with pytest.raises(CheckError, match="me@board"):
        remote.pull({}, after(far))
    left = {n: c for n, c in files(project.DIST).items() if not n.endswith(".lock")}
    assert left == before
    assert not list(project.DIST.glob(".*staging*"))


@pytest.mark.parametrize("kind", IRREGULAR)
@pytest.mark.parametrize("name", ["bin/buildctl", dist.MANIFEST])
def test_pull_refuses_irregular_files(far: Path, name: str, kind: str) -> None:
    """Whatever rsync lets pass."""
    remote_host = after(far)
    IRREGULAR[kind](far / name)
    with promptly(), pytest.raises(CheckError, match=rf"linux-riscv64/{name}\b"):
        remote.pull({}, remote_host)
    assert not (project.DIST / "linux-riscv64").exists()


@pytest.mark.parametrize("name", ["other", dist.VERDICT, "bin/other", "directory/x", "evidence/evidence.json"])  # fmt: skip
def test_pull_refuses_files_that_are_not_listed(
    far: Path, damage: Callable[[Callable[[Path], object]], None], name: str
) -> None:
    def add(directory: Path) -> None:
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text("{}")

    damage(add)
    with pytest.raises(CheckError, match=name.split("/", maxsplit=1)[0]):
        remote.pull({}, after(far))
    assert not (project.DIST / "linux-riscv64").exists()


@pytest.fixture
def real_rsync(
    pristine: Path,
    tmp_path: Path,
    checkout: Path,
    monkeypatch: pytest.MonkeyPatch,
    on: Callable[[str], None],
    script: Callable[[str, str], Path],
) -> tuple[Path, Callable[[], RemoteHost]]:
    """The remote dist/linux-riscv64 behind the real rsync, and a function that lists it."""
    on("x86_64")
    ssh = script("bin/ssh", 'while [ "$1" != rsync ]; do shift; done; exec sh -c "$*"')
    monkeypatch.setenv("PATH", f"{ssh.parent}:{os.environ['PATH']}")
    home = str(tmp_path / "home")
    directory = Path(replace(HOST, home=home).directory) / "dist/linux-riscv64"
    shutil.copytree(pristine, directory)
    return directory, lambda: replace(after(directory), home=home)


RealRsync = tuple[Path, Callable[[], RemoteHost]]


@pytest.mark.needs("rsync")
def test_rsync_copies_only_listed_files(real_rsync: RealRsync) -> None:
    far, look = real_rsync
    listed = files(far)
    (far / "bin/buildctl").chmod(0o6777)
    (far / dist.VERDICT).write_text("{}")
    (far / "link").symlink_to("/etc/passwd")
    os.mkfifo(far / "fifo")
    (far / "bin/other").write_text("other")
    assert remote.pull({}, look()) == [project.DIST / "linux-riscv64"]
    here = project.DIST / "linux-riscv64"
    assert files(here) == listed
    assert {path.name for path in here.rglob("*")} == {Path(name).name for name in listed} | {"bin"}
    assert (here / "bin/buildctl").stat().st_mode & 0o7777 == 0o755


@pytest.mark.needs("rsync")
@pytest.mark.parametrize("kind", IRREGULAR)
@pytest.mark.parametrize("name", ["bin/buildctl", dist.SUMS])
def test_rsync_skips_irregular_files(real_rsync: RealRsync, name: str, kind: str) -> None:
    far, look = real_rsync
    listed = look()
    IRREGULAR[kind](far / name)
    with promptly(), pytest.raises(CheckError, match=name):
        remote.pull({}, listed)
    assert not (project.DIST / "linux-riscv64").exists()


@pytest.mark.needs("rsync")
@pytest.mark.parametrize("name", ["bin/buildctl", dist.SUMS])
def test_rsync_of_a_missing_file(real_rsync: RealRsync, name: str) -> None:
    far, look = real_rsync
    listed = look()
    (far / name).unlink()
    with pytest.raises(CheckError, match=name):
        remote.pull({}, listed)
    assert not (project.DIST / "linux-riscv64").exists()


@pytest.mark.needs("rsync")
@pytest.mark.parametrize("limit", ["_LARGEST_LIST", "_LARGEST_FILE"])
def test_rsync_skips_large_files(
    real_rsync: RealRsync, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    _, look = real_rsync
    monkeypatch.setattr(remote, limit, 10)
    with pytest.raises(CheckError):
        remote.pull({}, look())
    assert not (project.DIST / "linux-riscv64").exists()


# Results of benchmarks.

BENCHMARK = f"{remote.RESULTS}/builds.linux-riscv64.native.json"
RUN: dict[str, Any] = {
    "date": "2026-11-27T12:00:00Z", "host": documents.HOST, "load": 0.5,
    "binaries": [{"label": "ours", "version": "v0.32.2", "sha256": {}}],
    "cases": [{"name": "simple", "description": "simple", "samples": {"ours": [{"seconds": 1.5}]}}],
}  # fmt: skip


def results(*runs: Mapping[str, Any]) -> str:
    return json.dumps({"name": "builds", "format": 1, "runs": runs})


Measured = Callable[[str, str], RemoteHost]


@pytest.fixture
def measured(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Measured:
    """A remote host with one file of results; rsync copies it."""

    def rsync(_self: Destination, *args: str) -> None:
        assert args[-2] == f":{HOST.directory}/{remote.RESULTS}/"
        for name in asked_for(args):
            shutil.copy(tmp_path / name, args[-1], follow_symlinks=False)

    monkeypatch.setattr(Destination, "rsync", rsync)

    def write(path: str, text: str) -> RemoteHost:
        (tmp_path / Path(path).name).write_text(text)
        return replace(HOST, checksums={path: hashlib.sha256(text.encode()).hexdigest()})

    return write


def recorded(text: str) -> Path:
    """Results that are recorded here."""
    here = project.ROOT / BENCHMARK
    here.parent.mkdir(parents=True)
    here.write_text(text)
    return here


NEW = {**RUN, "load": 1.5}


@pytest.mark.parametrize("before", [[], [RUN]])
def test_pull_copies_new_runs(measured: Measured, before: list[dict[str, Any]]) -> None:
    here = recorded(results(*before)) if before else project.ROOT / BENCHMARK
    assert remote.pull({}, measured(BENCHMARK, results(*before, NEW))) == []
    assert json.loads(here.read_text()) == json.loads(results(*before, NEW))
    assert [path.name for path in here.parent.iterdir()] == [here.name]
    records.load(here)


def test_name_of_benchmark_results(checkout: Path) -> None:
    """The module that writes results uses the name that this one expects."""
    path = records.save(dict(RUN), project.ROOT / remote.RESULTS)
    assert path == project.ROOT / BENCHMARK
    assert remote._BENCHMARK.fullmatch(BENCHMARK)


@pytest.mark.parametrize("runs", [[NEW], [{**RUN, "load": 2}, NEW], [NEW, RUN]])
def test_pull_keeps_recorded_runs(measured: Measured, runs: list[dict[str, Any]]) -> None:
    here = recorded(results(RUN))
    with pytest.raises(CheckError, match=BENCHMARK):
        remote.pull({}, measured(BENCHMARK, results(*runs)))
    assert here.read_text() == results(RUN)


@pytest.mark.parametrize(
    "text",
    [
        "", "{}", "[" * 5000, "<script>", '{"name": "other", "format": 1, "runs": []}', results(),
        results({**RUN, "more": 1}), results({**RUN, "host": {**documents.HOST, "execution": "qemu-system"}}),
        results({**RUN, "host": {**documents.HOST, "arch": "amd64"}}),
    ],
)  # fmt: skip
def test_pull_refuses_invalid_results(measured: Measured, text: str) -> None:
    with pytest.raises(CheckError, match="me@board"):
        remote.pull({}, measured(BENCHMARK, text))
    assert not (project.ROOT / BENCHMARK).exists()


def test_pull_refuses_damaged_results(measured: Measured) -> None:
    host = measured(BENCHMARK, results(RUN))
    measured(BENCHMARK, results(NEW))
    with pytest.raises(CheckError, match=BENCHMARK):
        remote.pull({}, host)
    assert not (project.ROOT / BENCHMARK).exists()


@pytest.mark.parametrize(
    "path",
    [
        f"{remote.RESULTS}/{name}" for name in
        ("conftest.py", "x.json", "../x.json", "builds.linux-amd64.native.json", "builds.linux-riscv64.other.json",
         "image.linux-riscv64.native.json", "builds.linux-riscv64.native.json\n", "../../.git/hooks/post-merge")
    ] + ["pins/pins.toml", "/etc/x.json"],
)  # fmt: skip
def test_pull_leaves_other_files(
    transfers: list[tuple[str, ...]], path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert remote.pull({}, replace(HOST, checksums={path: "ab12"})) == []
    assert transfers == []
    assert "me@board" in capsys.readouterr().err


def test_pull_leaves_known_results(transfers: list[tuple[str, ...]]) -> None:
    here = recorded(results(RUN))
    same = replace(HOST, checksums={BENCHMARK: filesystem.sha256(here)})
    assert remote.pull({}, same) == []
    other = replace(HOST, checksums={BENCHMARK: "other"})
    assert remote.pull(other.checksums, other) == []
    assert transfers == []


@pytest.fixture
def transfers(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Recorded arguments of rsync."""
    calls: list[tuple[str, ...]] = []
    monkeypatch.setattr(Destination, "rsync", lambda _self, *args: calls.append(args))
    return calls


@pytest.fixture
def with_images(far: Path, tmp_path: Path) -> Path:
    """The remote results, with both images."""
    for variant in ("root", "rootless"):
        image = make_image(tmp_path / "made", variant=variant)
        shutil.copytree(image, far / dist.IMAGE / variant)
    return far


IMAGES = [f"linux-riscv64/image/{variant}" for variant in ("root", "rootless")]


def test_pull_copies_images_after_binaries(
    with_images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, ...]] = []
    rsync = Destination.rsync

    def record(self: Destination, *args: str) -> None:
        asked.append(args)
        rsync(self, *args)

    monkeypatch.setattr(Destination, "rsync", record)
    names = ["linux-riscv64", *IMAGES]
    assert remote.pull({}, after(with_images)) == [project.DIST / name for name in names]
    assert files(project.DIST / "linux-riscv64") == files(with_images)
    assert [source for *_, source, _ in asked] == [
        f":{HOST.directory}/dist/{name}/" for name in names for _ in ("SHA256SUMS", "files")
    ]
    assert remote.pull({}, after(with_images)) == []


def test_pull_copies_only_a_new_image(with_images: Path, tmp_path: Path) -> None:
    remote.pull({}, after(with_images))
    before = after(with_images)
    shutil.rmtree(with_images / dist.IMAGE / "root")
    shutil.copytree(make_image(tmp_path / "new", payload=b"new"), with_images / dist.IMAGE / "root")
    assert remote.pull(before.checksums, after(with_images)) == [project.DIST / IMAGES[0]]
    assert files(project.DIST / "linux-riscv64") == files(with_images)


def test_pull_copies_images_of_new_binaries(with_images: Path) -> None:
    remote.pull({}, after(with_images))
    shutil.rmtree(project.DIST / "linux-riscv64" / "bin")
    (project.DIST / "linux-riscv64" / dist.SUMS).write_text("older\n")
    names = ["linux-riscv64", *IMAGES]
    assert remote.pull({}, after(with_images)) == [project.DIST / name for name in names]


IMAGE_TRANSFERS: dict[str, Callable[[Path], object]] = {
    "manifest.json": corrupt("manifest.json"),
    "SHA256SUMS": corrupt("SHA256SUMS"),
    "layout/index.json": lambda directory: (directory / "layout/index.json").unlink(),
    "buildkit-v0.32.2.linux-riscv64.image.tar": corrupt("buildkit-v0.32.2.linux-riscv64.image.tar"),
}


@pytest.mark.parametrize("what", IMAGE_TRANSFERS)
@pytest.mark.parametrize("known", [False, True])
def test_pull_rejects_a_damaged_image(
    with_images: Path,
    tmp_path: Path,
    damage: Callable[[Callable[[Path], object]], None],
    what: str,
    known: bool,
) -> None:
    shutil.rmtree(with_images / dist.IMAGE / "rootless")
    if known:
        older = make_image(tmp_path / "older", payload=b"older")
        shutil.copytree(with_images, project.DIST / "linux-riscv64")
        shutil.rmtree(project.DIST / IMAGES[0])
        shutil.copytree(older, project.DIST / IMAGES[0])
    else:
        shutil.copytree(
            with_images, project.DIST / "linux-riscv64", ignore=shutil.ignore_patterns("image")
        )
    before = files(project.DIST)
    damage(IMAGE_TRANSFERS[what])
    with pytest.raises(CheckError) as caught:
        remote.pull({}, after(with_images))
    for fact in (f"linux-riscv64/image/root/{what} ", "me@board"):
        assert fact in caught.value.brief
    left = {n: c for n, c in files(project.DIST).items() if not n.endswith(".lock")}
    assert left == before
    assert not list(project.DIST.glob(".*staging*"))


EVIDENCE = "linux-riscv64/evidence"


def evidence_of(directory: Path, execution: str) -> str:
    """Evidence of the artifacts in a directory."""
    images = {
        variant: dist.load(directory / dist.IMAGE / variant).manifest["digest"]
        for variant in Variant
    }
    evidence = documents.on_host(documents.EVIDENCE, execution=execution)
    return json.dumps({**evidence, "images": images, "binaries": programs(dist.load(directory))})


@pytest.fixture
def with_evidence(with_images: Path) -> Path:
    """The remote results, with images and evidence."""
    directory = with_images / dist.EVIDENCE
    directory.mkdir()
    (directory / dist.RESULTS).write_text(evidence_of(with_images, "qemu-system"))
    (directory / "index.html").write_text("<!doctype html>")
    names = [dist.RESULTS, "index.html"]
    (directory / dist.SUMS).write_text(dist.sums(dist.record(directory, names)))
    return with_images


def test_pull_copies_evidence_last(with_evidence: Path) -> None:
    names = ["linux-riscv64", *IMAGES, EVIDENCE]
    assert remote.pull({}, after(with_evidence)) == [project.DIST / name for name in names]
    assert files(project.DIST / "linux-riscv64") == files(with_evidence)
    assert remote.pull({}, after(with_evidence)) == []


def test_pull_copies_packages(with_evidence: Path) -> None:
    directory = with_evidence / dist.PACKAGES
    directory.mkdir()
    (directory / "buildkit_1_riscv64.deb").write_bytes(b"!<arch>")
    (directory / dist.MANIFEST).write_text(json.dumps(documents.valid(documents.PACKAGES)))
    names = ["buildkit_1_riscv64.deb", dist.MANIFEST]
    (directory / dist.SUMS).write_text(dist.sums(dist.record(directory, names)))
    assert remote.pull({}, after(with_evidence))[-1] == project.DIST / "linux-riscv64/packages"
    assert files(project.DIST / "linux-riscv64") == files(with_evidence)


def test_pull_copies_only_new_evidence(with_evidence: Path) -> None:
    remote.pull({}, after(with_evidence))
    directory = with_evidence / dist.EVIDENCE
    (directory / dist.RESULTS).write_text(evidence_of(with_evidence, "native"))
    (directory / dist.SUMS).write_text(
        dist.sums(dist.record(directory, [dist.RESULTS, "index.html"]))
    )
    assert remote.pull({}, after(with_evidence)) == [project.DIST / EVIDENCE]
    assert dist.load(project.DIST / EVIDENCE).manifest["host"]["execution"] == "native"
    assert files(project.DIST / "linux-riscv64") == files(with_evidence)


@pytest.mark.parametrize("name", [dist.RESULTS, "index.html", dist.SUMS])
def test_pull_rejects_damaged_evidence(
    with_evidence: Path, damage: Callable[[Callable[[Path], object]], None], name: str
) -> None:
    remote.pull({}, after(with_evidence))
    before = files(project.DIST / "linux-riscv64")
    (with_evidence / dist.EVIDENCE / dist.SUMS).write_text(
        dist.sums(dist.record(with_evidence / dist.EVIDENCE, ["index.html", dist.RESULTS]))
    )
    damage(corrupt(name))
    with pytest.raises(CheckError) as caught:
        remote.pull({}, after(with_evidence))
    for fact in (f"{EVIDENCE}/{name} ", "me@board"):
        assert fact in caught.value.brief
    assert files(project.DIST / "linux-riscv64") == before
    assert not list(project.DIST.glob(".*staging*"))


@pytest.mark.parametrize(
    "path",
    [
        "SHA256SUMS", "/etc/SHA256SUMS", "dist/../../x/SHA256SUMS", "dist/linux-vax/SHA256SUMS",
        "dist/linux-riscv64/image/../SHA256SUMS", "dist/linux-riscv64/image/other/SHA256SUMS",
        "dist/linux-riscv64/image/SHA256SUMS", "dist/linux-riscv64/other/root/SHA256SUMS",
        "dist/linux-riscv64/image/root/deeper/SHA256SUMS",
        "dist/linux-riscv64/evidence/deeper/SHA256SUMS", "dist/linux-riscv64/image/evidence/SHA256SUMS",
    ],
)  # fmt: skip
def test_pull_rejects_unknown_paths(transfers: list[tuple[str, ...]], path: str) -> None:
    with pytest.raises(UsageError):
        remote.pull({}, replace(HOST, checksums={path: "ab12"}))
    assert transfers == []


def test_pull_lost_connection_publishes_nothing(far: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lose(_self: Destination, *args: str) -> None:
        (Path(args[-1]) / "half").write_text("half")
        raise MachineError("rsync failed")

    monkeypatch.setattr(Destination, "rsync", lose)
    with pytest.raises(MachineError):
        remote.pull({}, after(far))
    assert [p.name for p in project.DIST.iterdir() if not p.name.endswith(".lock")] == []


def test_pull_rejects_cross_compiled_binaries(far: Path) -> None:
    with pytest.raises(NotNativeError, match="compiled on amd64"):
        remote.pull({}, after(far, Architecture.AMD64))
    assert not (project.DIST / "linux-riscv64").exists()


# `on`.


@pytest.fixture
def board(
    commands: MachineCommands, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., None]:
    """A board of an architecture; commands are recorded."""

    class Connected:
        def __enter__(self) -> tuple[Destination, Callable[[], str]]:
            return BOARD, lambda: answer[-1]

        def __exit__(self, *_: object) -> None:
            pass

    answer: list[str] = []
    monkeypatch.setattr(Destination, "connected", lambda _self, *_question: Connected())

    def board(uname: str, reported: str = "") -> None:
        answer.append(f"{uname}\n/home/me\n{reported}")

    return board


def run_on(*arguments: str, any_arch: bool = False) -> int:
    return remote.on("me@board", arguments, TASKS, {}, any_arch=any_arch, yes=False)


def test_on(
    board: Callable[..., None], commands: MachineCommands, capsys: pytest.CaptureFixture[str]
) -> None:
    board("riscv64")
    assert run_on("doctor") == 0
    assert [call.verb for call in commands.calls] == ["run", "attached"]
    assert capsys.readouterr().err == "on me@board (riscv64): ./invoke doctor\n"


@pytest.mark.parametrize(
    ("task", "known"),
    [("build-image", False), ("build-binaries", False), ("validate", False), ("doctor", True)],
)
def test_on_copies_results_that_were_up_to_date(
    board: Callable[..., None], monkeypatch: pytest.MonkeyPatch, task: str, known: bool
) -> None:
    pulled: list[Mapping[str, str]] = []

    def pull(before: Mapping[str, str], _remote: RemoteHost) -> list[Path]:
        pulled.append(before)
        return []

    monkeypatch.setattr(remote, "pull", pull)
    board("riscv64", ANSWER)
    run_on(task)
    assert pulled == [RESULTS if known else {}]


def test_on_refuses_another_architecture(
    board: Callable[..., None], commands: MachineCommands, capsys: pytest.CaptureFixture[str]
) -> None:
    board("x86_64")
    with pytest.raises(NotNativeError, match="me@board is amd64") as caught:
        run_on("doctor")
    assert "--any-arch" in caught.value.hint
    assert commands.calls == []
    assert "me@board is amd64" in capsys.readouterr().err
    assert run_on("doctor", any_arch=True) == 0


def test_on_without_a_command_does_not_connect(commands: MachineCommands) -> None:
    with pytest.raises(UsageError):
        run_on()
    assert commands.calls == []


def test_explain_lost_connection(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = BOARD.lost("")
    machine.answered_file.write_text("7")
    assert remote._explain("me@board", lost) is lost
    gone = remote._explain("one", lost)
    assert gone.exit_code == 13
    assert "qemu" in gone.brief
    assert "machine one" in gone.brief
    assert gone.hint.startswith("invoke machine.start --name one")
    monkeypatch.setattr(Machine, "pid", 7)
    restarted = remote._explain("one", lost)
    assert "restarted" in restarted.brief
    assert not machine.answered_file.exists()
    assert "machine.logs --name one" in restarted.hint


def test_on_lost_connection(board: Callable[..., None], commands: MachineCommands) -> None:
    board("riscv64")
    commands.answer("ssh", "-O", code=255)
    attached = commands.attached
    commands.attached = lambda args, **options: attached(args, **options) or 255  # type: ignore[method-assign]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("buildkit_riscv64.core.process.attached", commands.attached)
        with pytest.raises(MachineError, match="me@board"):
            run_on("doctor")


# The remote script, run locally.


Runner = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[Runner]:
    """Start the script as sshd does; its processes are killed after the test."""
    children: list[subprocess.Popen[bytes]] = []

    def start(*command: str, directory: Path = tmp_path) -> subprocess.Popen[bytes]:
        children.append(
            subprocess.Popen(
                [
                    "sh",
                    "-c",
                    remote._RUNNER.replace("sleep 10;", "sleep 0.5;"),
                    "sh",
                    str(directory),
                    "git:ab",
                    *command,
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        )
        return children[-1]

    yield start
    for child in children:
        for pipe in (child.stdin, child.stdout, child.stderr):
            if pipe:
                pipe.close()
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def outcome(child: subprocess.Popen[bytes]) -> tuple[int, bytes, bytes]:
    """Exit code and output while the input stays open."""
    assert child.stdout is not None
    assert child.stderr is not None
    code = child.wait(BOUND)
    return code, child.stdout.read(), child.stderr.read()


@pytest.mark.parametrize("code", [0, 1, 7, 130, 254])
def test_script_passes_on_the_exit_code(runner: Runner, code: int) -> None:
    assert outcome(runner("sh", "-c", f"exit {code}"))[0] == code


def test_script_passes_on_a_signal(runner: Runner) -> None:
    assert outcome(runner("sh", "-c", "kill -TERM $$"))[0] == 128 + signal.SIGTERM


def test_script_keeps_output_and_errors_apart(runner: Runner) -> None:
    assert outcome(runner("sh", "-c", "echo out; echo err >&2")) == (0, b"out\n", b"err\n")


def test_script_does_not_interpret_words(runner: Runner) -> None:
    words = ["a b", "", "$(id)", "*", "'", '"', "a\nb", "-n"]
    code, out, _ = outcome(runner("printf", r"%s\0", *words))
    assert (code, out.decode().split("\0")[:-1]) == (0, words)


def test_script_runs_in_the_directory_without_input(runner: Runner, tmp_path: Path) -> None:
    directory = tmp_path / "-a b"
    directory.mkdir()
    code, out, _ = outcome(runner("sh", "-c", "pwd; cat", directory=directory))
    assert (code, out) == (0, f"{directory}\n".encode())


def test_script_with_a_missing_directory(runner: Runner, tmp_path: Path) -> None:
    assert outcome(runner("true", directory=tmp_path / "none"))[0] == 254


def test_script_with_a_missing_command(runner: Runner) -> None:
    code, _, err = outcome(runner("no-such-command"))
    assert code == 127
    assert b"no-such-command" in err


TREE = "sleep 1000 >/dev/null 2>&1 & echo $!; (sleep 1000 >/dev/null 2>&1 & echo $!); echo $$; "


def pids_of(child: subprocess.Popen[bytes], count: int = 3) -> list[int]:
    assert child.stdout is not None
    return [int(child.stdout.readline()) for _ in range(count)]


def hung_up(child: subprocess.Popen[bytes], count: int) -> int:
    """Close the connection; return the exit code when all `count` processes have ended."""
    pids = pids_of(child, count)
    assert child.stdin is not None
    child.stdin.close()
    code = child.wait(BOUND)
    assert eventually(lambda: not any(map(alive, pids)))
    return code


def test_closing_the_connection_ends_all_processes(runner: Runner) -> None:
    child = runner("sh", "-c", TREE + "wait")
    pids = pids_of(child)
    assert all(map(alive, pids))
    assert child.stdin is not None
    child.stdin.close()
    assert eventually(lambda: not any(map(alive, pids)))
    assert child.wait(BOUND) == 128 + signal.SIGTERM


def test_command_may_clean_up(runner: Runner, tmp_path: Path) -> None:
    script = (
        f"trap 'echo cleaned >{tmp_path}/trace; exit 3' TERM; echo $$; while :; do sleep 0.1; done"
    )
    child = runner("sh", "-c", script)
    pids_of(child, 1)
    assert child.stdin is not None
    child.stdin.close()
    assert child.wait(BOUND) == 3
    assert (tmp_path / "trace").read_text() == "cleaned\n"


def test_script_kills_a_command_that_ignores_sigterm(runner: Runner) -> None:
    stubborn = "trap '' TERM; sleep 1000 >/dev/null 2>&1 & echo $!; echo $$; wait"
    child = runner("sh", "-c", stubborn)
    assert hung_up(child, 2) == 128 + signal.SIGKILL


def test_script_kills_a_child_that_ignores_sigterm(runner: Runner) -> None:
    child = runner("sh", "-c", "(trap '' TERM; exec sleep 1000) >/dev/null 2>&1 & echo $!; wait")
    assert hung_up(child, 1) == 128 + signal.SIGTERM


def test_script_kills_background_processes(runner: Runner) -> None:
    child = runner("sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo $!")
    pids = pids_of(child, 1)
    assert child.wait(BOUND) == 0
    assert eventually(lambda: not any(map(alive, pids)))
