from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from buildkit_riscv64 import dist, project, storage
from buildkit_riscv64.arch import Architecture
from buildkit_riscv64.errors import (
    CheckError,
    Failure,
    MachineError,
    MissingRequirementError,
    NotNativeError,
    UsageError,
)
from buildkit_riscv64.machine import machines, remote
from buildkit_riscv64.machine.destination import Destination
from buildkit_riscv64.machine.machines import Machine
from buildkit_riscv64.machine.remote import There

from ...processes import BOUND, alive, eventually
from ..making_images import make_image
from .conftest import MachineCommands

TASKS = ["build-binaries", "build-image", "validate", "doctor", "machine.list", "source.show"]
BOARD = Destination("me@board")


def there(arch: Architecture = Architecture.RISCV64, home: str = "/home/me", *missing: str) -> There:  # fmt: skip
    return There(BOARD, arch, home, missing=missing, made={})


THERE = there()

# What is run.


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


def test_nothing_to_run() -> None:
    with pytest.raises(UsageError, match="nothing to run there") as caught:
        remote.words([], TASKS)
    assert "-- build-binaries" in caught.value.hint


# Where it is run.


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of machines that were started."""
    names: list[str] = []
    monkeypatch.setattr(machines, "start", lambda machine: names.append(machine.name))
    return names


def test_a_board_comes_first(machine: Machine, started: list[str]) -> None:
    assert remote.resolve("one", {"one": "me@192.168.1.185"}) == Destination("me@192.168.1.185")
    assert started == []


def test_a_machine_that_has_answered_is_not_asked_again(machine: Machine, started: list[str], monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(Machine, "answered", True)
    assert remote.resolve("one", {}) == machine.destination
    assert started == []


def test_then_a_machine(machine: Machine, started: list[str], capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    assert remote.resolve("one", {"two": "x"}) == machine.destination
    assert started == ["one"]
    assert capsys.readouterr().err == "starting machine one\n"


@pytest.mark.parametrize("name", ["board", "me@192.168.1.185", "me@[fe80::1%eth0]", "o.n.e", "ONE"])
def test_then_whatever_ssh_knows(machine: Machine, started: list[str], name: str) -> None:
    assert remote.resolve(name, {}) == Destination(name)
    assert started == []


@pytest.mark.parametrize(
    "name",
    ["", "-oProxyCommand=touch /tmp/x", "-oProxyCommand=x", "-F", "a b", " one", "a\nb", "a\tb", "--"],
)  # fmt: skip
def test_what_cannot_be_a_destination(name: str, started: list[str]) -> None:
    with pytest.raises(UsageError, match="is not a machine") as caught:
        remote.resolve(name, {})
    assert "machine.list" in caught.value.hint


def test_the_default_machine_is_not_a_host(started: list[str]) -> None:
    with pytest.raises(MachineError, match="there is no machine riscv64 yet") as caught:
        remote.resolve("riscv64", {})
    assert caught.value.hint == "invoke machine.create"


# What is there.


def asked(home: Path, **settings: str) -> There:
    """The question, asked of a shell here."""
    done = subprocess.run(
        ["sh", "-c", remote._QUESTION, "sh", remote._folder(), *remote.ESSENTIAL], env={**os.environ, "HOME": str(home), **settings}, check=True,
        capture_output=True, text=True,
    )  # fmt: skip
    return remote.understand(BOARD, done.stdout)


def test_understanding() -> None:
    assert remote.understand(BOARD, "riscv64\n/home/me\n") == THERE


def test_asking_really(tmp_path: Path) -> None:
    for tool in ("sh", "uname", "id", "git"):
        found = shutil.which(tool)
        assert found
        (tmp_path / tool).symlink_to(found)
    seen = asked(Path("/a b"), PATH=str(tmp_path))
    assert seen.arch is Architecture.here()
    assert seen.home == "/a b"
    assert seen.missing == ("python3", "rsync")
    assert (seen.made, seen.git) == ({}, "")


def test_a_board_without_anything() -> None:
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
def test_noisy_login_shells(stdout: str) -> None:
    with pytest.raises(MachineError, match="answers something else than a shell would") as caught:
        remote.understand(BOARD, stdout)
    assert "login shell" in caught.value.hint


def test_a_machine_that_we_know_nothing_of() -> None:
    with pytest.raises(Failure, match="'sparc64' is not supported"):
        remote.understand(BOARD, "sparc64\n/home/me\n")


def test_each_checkout_has_its_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    first = THERE.folder
    assert first.startswith("/home/me/.cache/buildkit-riscv64/checkouts/")
    assert len(Path(first).name) == 12
    assert THERE.folder == first
    monkeypatch.setattr(project, "ROOT", Path("/somewhere/else"))
    second = THERE.folder
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "other", "1", "1", "x")))
    assert len({first, second, THERE.folder}) == 3


# What it lacks.


def test_installing_what_it_lacks(commands: MachineCommands) -> None:
    remote._install_essential(there(Architecture.RISCV64, "/h", "git", "rsync"), yes=True)
    (call,) = commands.calls
    assert call.verb == "run"
    assert call.args == BOARD.command(["sh", "-c", remote._INSTALL, "sh", "git", "rsync"])


@pytest.mark.parametrize(("uid", "sudo"), [(0, ""), (1000, "sudo -n ")])
def test_installing_really(tmp_path: Path, script: Callable[[str, str], Path], uid: int, sudo: str) -> None:  # fmt: skip
    script("bin/id", f"echo {uid}")
    script("bin/sudo", f'printf "sudo -n " >>{tmp_path}/said; shift; exec "$@"')
    folder = script("bin/apt-get", f'echo "apt-get $*" >>{tmp_path}/said').parent
    subprocess.run(
        ["sh", "-c", remote._INSTALL, "sh", "git", "rsync"], check=True,
        env={"PATH": f"{folder}:{os.environ['PATH']}"},
    )  # fmt: skip
    assert (tmp_path / "said").read_text() == (
        f"{sudo}apt-get update -q\n{sudo}apt-get install -yq --no-install-recommends git rsync\n"
    )


def test_nothing_is_installed_unasked(commands: MachineCommands, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(remote, "confirm", lambda _question, yes: yes)
    lacking = there(Architecture.RISCV64, "/h", "rsync")
    with pytest.raises(MissingRequirementError, match="me@board lacks rsync") as caught:
        remote._install_essential(lacking, yes=False)
    assert caught.value.hint == "apt-get install rsync there"
    assert commands.calls == []


# There and back.


def test_pushing(commands: MachineCommands, checkout: Path) -> None:
    remote.push(THERE)
    (rsync,) = commands.calls
    assert rsync.args[:2] == ["rsync", "--rsh=ssh"]
    assert {"--archive", "--delete-after", "--exclude=/dist", "--filter=:- .gitignore"} <= set(
        rsync.args
    )
    assert {"--exclude=/.git/config", "--exclude=/.git/hooks"} <= set(rsync.args)
    assert rsync.args[-2:] == [f"{checkout}/", f"me@board:{THERE.folder}/"]
    # Nothing ignored is deleted there: neither dist/ nor an environment.
    assert "--delete-excluded" not in rsync.args


def test_gits_files_are_sent_once(commands: MachineCommands, checkout: Path) -> None:
    (checkout / ".git" / "objects" / "ab").mkdir(parents=True)
    (checkout / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    state = remote.push(THERE)
    assert "--exclude=/.git" not in commands.last.args
    known = replace(THERE, git=state)
    assert remote.push(known) == state
    assert "--exclude=/.git" in commands.last.args
    # What does not travel does not matter.
    (checkout / ".git" / "config").write_text("x")
    assert remote.push(known) == state
    (checkout / ".git" / "objects" / "ab" / "cd").write_text("x")
    assert remote.push(known) != state
    assert "--exclude=/.git" not in commands.last.args


def test_what_was_sent_is_known_until_git_is_used_there(runner: Runner, tmp_path: Path) -> None:
    far = there(home=str(tmp_path))
    git = Path(far.folder) / ".git"
    git.mkdir(parents=True)
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    os.utime(git / "HEAD", (1, 1))
    assert asked(tmp_path).git == ""
    assert outcome(runner("true", folder=Path(far.folder)))[0] == 0
    assert asked(tmp_path).git == "git:ab"
    os.utime(git / "HEAD", (time.time() + 1, time.time() + 1))
    assert asked(tmp_path).git == ""


def test_pushing_what_git_tracks_though_it_ignores_it(commands: MachineCommands, checkout: Path) -> None:  # fmt: skip
    (checkout / ".git").mkdir()
    commands.answer("git", stdout="a/b.x/c[1]*\0")
    remote.push(THERE)
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
def test_executing(commands: MachineCommands, monkeypatch: pytest.MonkeyPatch, yes: bool, actions: str, settings: list[str]) -> None:  # fmt: skip
    if actions:
        monkeypatch.setenv("GITHUB_ACTIONS", actions)
    commands.answer("ssh", code=7)
    assert remote.execute(THERE, ["echo", "a b"], "git:ab", yes=yes) == 7
    assert commands.last.verb == "attached"
    words = [
        *(["env"] if settings else []),
        *settings,
        "sh",
        "-c",
        remote._RUNNER,
        "sh",
        THERE.folder,
        "git:ab",
        "echo",
        "a b",
    ]
    assert commands.last.args == BOARD.command(words)


def test_a_lost_connection_is_no_exit_code(commands: MachineCommands) -> None:
    commands.answer("ssh", code=255)  # `ssh -O check` too
    with pytest.raises(MachineError, match="no connection to me@board: it was closed while"):
        remote.execute(THERE, ["true"], "", yes=False)


def test_a_command_may_exit_as_ssh_does(commands: MachineCommands) -> None:
    commands.answer("ssh", "-T", code=255)
    commands.answer("ssh", "-O", code=0)
    assert remote.execute(THERE, ["false"], "", yes=False) == 255


MADE = {
    "dist/linux-riscv64/SHA256SUMS": "ab12",
    "dist/linux-riscv64-rva22u64/SHA256SUMS": "cd34",
    "dist/linux-riscv64/image/root/SHA256SUMS": "0a1b",
    "dist/linux-riscv64/evidence/SHA256SUMS": "2c3d",
    "benchmarks/results/a b.json": "ef56",
}
TOLD = "".join(f"{digest}  {path}\n" for path, digest in MADE.items())


def test_the_answer_tells_what_was_made() -> None:
    seen = remote.understand(BOARD, f"riscv64\n/home/me\n{TOLD}rsync\n")
    assert (seen.made, seen.missing) == (MADE, ("rsync",))


def test_what_was_made_really(tmp_path: Path) -> None:
    far = there(home=str(tmp_path / "a b"))
    assert asked(tmp_path / "a b").made == {}
    folder = Path(far.folder) / "dist"
    folder.mkdir(parents=True)
    assert asked(tmp_path / "a b").made == {}
    (folder / "linux-riscv64").mkdir()
    (folder / ".linux-riscv64.staging").mkdir()
    (folder / "linux-amd64").mkdir()
    listed = folder / "linux-riscv64" / dist.SUMS
    listed.write_text("x\n")
    image = folder / "linux-riscv64" / dist.IMAGE / "root" / dist.SUMS
    image.parent.mkdir(parents=True)
    image.write_text("y\n")
    (folder / "linux-riscv64" / dist.IMAGE / "rootless").mkdir()
    proof = folder / "linux-riscv64" / dist.EVIDENCE / dist.SUMS
    proof.parent.mkdir()
    proof.write_text("z\n")
    packages = folder / "linux-riscv64" / dist.PACKAGES / dist.SUMS
    packages.parent.mkdir()
    packages.write_text("p\n")
    # That is made where it is published.
    (folder / "linux-riscv64" / dist.RELEASE).mkdir()
    (folder / "linux-riscv64" / dist.RELEASE / dist.SUMS).write_text("r\n")
    result = Path(far.folder) / remote.RESULTS / "one.json"
    result.parent.mkdir(parents=True)
    result.write_text("{}")
    (result.parent / "folder").mkdir()
    expected = {
        "dist/linux-riscv64/SHA256SUMS": storage.sha256(listed),
        "dist/linux-riscv64/image/root/SHA256SUMS": storage.sha256(image),
        "dist/linux-riscv64/evidence/SHA256SUMS": storage.sha256(proof),
        "dist/linux-riscv64/packages/SHA256SUMS": storage.sha256(packages),
        "benchmarks/results/one.json": storage.sha256(result),
    }
    assert asked(tmp_path / "a b").made == expected
    assert list(asked(tmp_path / "a b").made) == list(
        expected
    )  # binaries, their images, evidence of both


@pytest.fixture
def far(pristine: Path, tmp_path: Path, checkout: Path, monkeypatch: pytest.MonkeyPatch, on: Callable[[str], None]) -> Path:  # fmt: skip
    """The far side's finished dist/linux-riscv64; here is an amd64 machine without any."""
    on("x86_64")
    folder = Path(shutil.copytree(pristine, tmp_path / "far" / "linux-riscv64"))

    def rsync(_self: Destination, *args: str) -> None:
        *options, source, target = args
        start = f":{THERE.folder}/dist/linux-riscv64/"
        assert source.startswith(start)
        shutil.copytree(folder / source.removeprefix(start), target, dirs_exist_ok=True)
        for option in options:
            if option.startswith("--exclude=/"):
                shutil.rmtree(target + option.removeprefix("--exclude=/"), ignore_errors=True)

    monkeypatch.setattr(Destination, "rsync", rsync)
    return folder


def after(far: Path, arch: Architecture = Architecture.RISCV64) -> There:
    """The far side when it has made this."""
    sums = [
        *far.glob(dist.SUMS), *sorted(far.glob(f"{dist.IMAGE}/*/{dist.SUMS}")),
        *far.glob(f"{dist.EVIDENCE}/{dist.SUMS}"), *far.glob(f"{dist.PACKAGES}/{dist.SUMS}"),
    ]  # fmt: skip
    made = {f"dist/{path.relative_to(far.parent)}": storage.sha256(path) for path in sums}
    return replace(THERE, arch=arch, made=made)


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_what_was_made_there_comes_back(far: Path) -> None:
    here = project.DIST / "linux-riscv64"
    assert remote.pull({}, after(far)) == [here]
    assert files(here) == files(far)
    assert [p.name for p in project.DIST.iterdir() if not p.name.endswith(".lock")] == [here.name]
    # Once.
    assert remote.pull({}, after(far)) == []


def test_what_was_there_before_comes_too_when_it_is_not_here(far: Path) -> None:
    before = after(far).made
    assert remote.pull(before, after(far)) == [project.DIST / "linux-riscv64"]


def test_nothing_comes_from_nothing(far: Path) -> None:
    shutil.rmtree(far)
    assert remote.pull({}, after(far)) == []
    assert not project.DIST.exists()


def corrupt(name: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        path = folder / name
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)

    return change


TRANSFERS: dict[str, Callable[[Path], object]] = {
    "bin/buildctl": corrupt("bin/buildctl"),
    "manifest.json": corrupt("manifest.json"),
    "SHA256SUMS": corrupt("SHA256SUMS"),
    "buildctl.cdx.json": lambda folder: (folder / "buildctl.cdx.json").unlink(),
    "bin/buildkitd": lambda folder: (folder / "bin/buildkitd").write_bytes(b""),
    "SHA256SUMS empty": lambda folder: (folder / "SHA256SUMS").write_bytes(b""),
    "SHA256SUMS missing": lambda folder: (folder / "SHA256SUMS").unlink(),
}


@pytest.mark.parametrize("what", TRANSFERS)
@pytest.mark.parametrize("known", [False, True])
def test_a_damaged_transfer_is_not_published(far: Path, pristine: Path, monkeypatch: pytest.MonkeyPatch, what: str, known: bool) -> None:  # fmt: skip
    here = project.DIST / "linux-riscv64"
    if known:
        shutil.copytree(pristine, here)
        (here / dist.SUMS).write_text("older\n")
    before = files(project.DIST) if known else {}
    rsync = Destination.rsync

    def damage(self: Destination, *args: str) -> None:
        rsync(self, *args)
        TRANSFERS[what](Path(args[-1]))

    monkeypatch.setattr(Destination, "rsync", damage)
    with pytest.raises(CheckError) as caught:
        remote.pull({}, after(far))
    assert (
        caught.value.brief == f"linux-riscv64/{what.split(maxsplit=1)[0]} is not what me@board made"
    )
    left = {n: c for n, c in files(project.DIST).items() if not n.endswith(".lock")}
    assert left == before
    assert not list(project.DIST.glob(".*staging*"))


@pytest.mark.parametrize("content", ["not sums at all\n", "0" * 64 + "  ../../../etc/passwd\n", "  \n", "\xff"])  # fmt: skip
def test_sums_that_are_none(far: Path, content: str) -> None:
    (far / dist.SUMS).write_text(content, encoding="latin-1")
    with pytest.raises(CheckError, match="is not what me@board made"):
        remote.pull({}, after(far))
    assert not (project.DIST / "linux-riscv64").exists()


@pytest.fixture
def transfers(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """What rsync was asked for."""
    calls: list[tuple[str, ...]] = []
    (checkout / remote.RESULTS).mkdir(parents=True)
    (checkout / remote.RESULTS / "known.json").write_text("{}")
    monkeypatch.setattr(Destination, "rsync", lambda _self, *args: calls.append(args))
    return calls


def test_results_come_back_when_they_are_new(transfers: list[tuple[str, ...]]) -> None:
    known = f"{remote.RESULTS}/known.json"
    same = replace(THERE, made={known: storage.sha256(project.ROOT / known)})
    assert remote.pull({}, same) == []
    other = replace(THERE, made={known: "other"})
    assert remote.pull(other.made, other) == []
    assert transfers == []
    assert remote.pull({}, other) == []
    ((*options, source, target),) = transfers
    assert "--update" in options
    assert source == f":{THERE.folder}/{remote.RESULTS}/"
    assert target == f"{project.ROOT / remote.RESULTS}/"


@pytest.fixture
def with_images(far: Path, tmp_path: Path) -> Path:
    """The far side has made both images of its binaries too."""
    for variant in ("root", "rootless"):
        made = make_image(tmp_path / "made", variant=variant)
        shutil.copytree(made, far / dist.IMAGE / variant)
    return far


IMAGES = [f"linux-riscv64/image/{variant}" for variant in ("root", "rootless")]


def test_images_come_back_after_their_binaries(with_images: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    asked: list[tuple[str, ...]] = []
    rsync = Destination.rsync

    def record(self: Destination, *args: str) -> None:
        asked.append(args)
        rsync(self, *args)

    monkeypatch.setattr(Destination, "rsync", record)
    names = ["linux-riscv64", *IMAGES]
    assert remote.pull({}, after(with_images)) == [project.DIST / name for name in names]
    assert files(project.DIST / "linux-riscv64") == files(with_images)
    own = ["--archive", "--no-owner", "--no-group"]
    assert [(list(options), source) for *options, source, _ in asked] == [
        ([*own, *([f"--exclude=/{part}" for part in dist.PARTS] if name == "linux-riscv64" else [])], f":{THERE.folder}/dist/{name}/")
        for name in names
    ]  # fmt: skip
    assert remote.pull({}, after(with_images)) == []


def test_a_new_image_comes_alone(with_images: Path, tmp_path: Path) -> None:
    remote.pull({}, after(with_images))
    before = after(with_images)
    shutil.rmtree(with_images / dist.IMAGE / "root")
    shutil.copytree(make_image(tmp_path / "new", payload=b"new"), with_images / dist.IMAGE / "root")
    assert remote.pull(before.made, after(with_images)) == [project.DIST / IMAGES[0]]
    assert files(project.DIST / "linux-riscv64") == files(with_images)


def test_new_binaries_bring_their_images_with_them(with_images: Path) -> None:
    """Ours go with the binaries that they are of."""
    remote.pull({}, after(with_images))
    shutil.rmtree(project.DIST / "linux-riscv64" / "bin")
    (project.DIST / "linux-riscv64" / dist.SUMS).write_text("older\n")
    names = ["linux-riscv64", *IMAGES]
    assert remote.pull({}, after(with_images)) == [project.DIST / name for name in names]


IMAGE_TRANSFERS: dict[str, Callable[[Path], object]] = {
    "manifest.json": corrupt("manifest.json"),
    "SHA256SUMS": corrupt("SHA256SUMS"),
    "layout/index.json": lambda folder: (folder / "layout/index.json").unlink(),
    "buildkit-v0.32.2.linux-riscv64.image.tar": corrupt("buildkit-v0.32.2.linux-riscv64.image.tar"),
}


@pytest.mark.parametrize("what", IMAGE_TRANSFERS)
@pytest.mark.parametrize("known", [False, True])
def test_a_damaged_image_leaves_what_was_there(with_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, known: bool) -> None:  # fmt: skip
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
    rsync = Destination.rsync

    def damage(self: Destination, *args: str) -> None:
        rsync(self, *args)
        IMAGE_TRANSFERS[what](Path(args[-1]))

    monkeypatch.setattr(Destination, "rsync", damage)
    with pytest.raises(CheckError) as caught:
        remote.pull({}, after(with_images))
    assert caught.value.brief == f"linux-riscv64/image/root/{what} is not what me@board made"
    left = {n: c for n, c in files(project.DIST).items() if not n.endswith(".lock")}
    assert left == before
    assert not list(project.DIST.glob(".*staging*"))


EVIDENCE = "linux-riscv64/evidence"


@pytest.fixture
def with_evidence(with_images: Path) -> Path:
    """The far side has validated all of it, too."""
    folder = with_images / dist.EVIDENCE
    folder.mkdir()
    (folder / dist.RESULTS).write_text('{"host": {"execution": "qemu-system"}}')
    (folder / "index.html").write_text("<!doctype html>")
    names = [dist.RESULTS, "index.html"]
    (folder / dist.SUMS).write_text(dist.sums(dist.record(folder, names)))
    return with_images


def test_evidence_comes_back_last(with_evidence: Path) -> None:
    names = ["linux-riscv64", *IMAGES, EVIDENCE]
    assert remote.pull({}, after(with_evidence)) == [project.DIST / name for name in names]
    assert files(project.DIST / "linux-riscv64") == files(with_evidence)
    assert remote.pull({}, after(with_evidence)) == []


def test_packages_come_back(with_evidence: Path) -> None:
    folder = with_evidence / dist.PACKAGES
    folder.mkdir()
    (folder / "buildkit_1_riscv64.deb").write_bytes(b"!<arch>")
    (folder / dist.MANIFEST).write_text('{"host": {"execution": "qemu-system"}}')
    names = ["buildkit_1_riscv64.deb", dist.MANIFEST]
    (folder / dist.SUMS).write_text(dist.sums(dist.record(folder, names)))
    assert remote.pull({}, after(with_evidence))[-1] == project.DIST / "linux-riscv64/packages"
    assert files(project.DIST / "linux-riscv64") == files(with_evidence)


def test_new_evidence_comes_alone(with_evidence: Path) -> None:
    remote.pull({}, after(with_evidence))
    folder = with_evidence / dist.EVIDENCE
    (folder / dist.RESULTS).write_text('{"host": {"execution": "native"}}')
    (folder / dist.SUMS).write_text(dist.sums(dist.record(folder, [dist.RESULTS, "index.html"])))
    assert remote.pull({}, after(with_evidence)) == [project.DIST / EVIDENCE]
    assert dist.load(project.DIST / EVIDENCE).manifest["host"]["execution"] == "native"
    assert files(project.DIST / "linux-riscv64") == files(with_evidence)


@pytest.mark.parametrize("name", [dist.RESULTS, "index.html", dist.SUMS])
def test_damaged_evidence_leaves_what_was_there(with_evidence: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:  # fmt: skip
    remote.pull({}, after(with_evidence))
    before = files(project.DIST / "linux-riscv64")
    (with_evidence / dist.EVIDENCE / dist.SUMS).write_text(
        dist.sums(dist.record(with_evidence / dist.EVIDENCE, ["index.html", dist.RESULTS]))
    )
    rsync = Destination.rsync

    def damage(self: Destination, *args: str) -> None:
        rsync(self, *args)
        corrupt(name)(Path(args[-1]))

    monkeypatch.setattr(Destination, "rsync", damage)
    with pytest.raises(CheckError) as caught:
        remote.pull({}, after(with_evidence))
    assert caught.value.brief == f"{EVIDENCE}/{name} is not what me@board made"
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
def test_a_far_side_that_tells_of_other_folders(transfers: list[tuple[str, ...]], path: str) -> None:  # fmt: skip
    with pytest.raises(UsageError):
        remote.pull({}, replace(THERE, made={path: "ab12"}))
    assert transfers == []


def test_a_lost_connection_publishes_nothing(far: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lose(_self: Destination, *args: str) -> None:
        (Path(args[-1]) / "half").write_text("half")
        raise MachineError("rsync failed")

    monkeypatch.setattr(Destination, "rsync", lose)
    with pytest.raises(MachineError):
        remote.pull({}, after(far))
    assert [p.name for p in project.DIST.iterdir() if not p.name.endswith(".lock")] == []


def test_what_was_not_compiled_there_is_no_artifact(far: Path) -> None:
    with pytest.raises(NotNativeError, match="compiled on amd64"):
        remote.pull({}, after(far, Architecture.AMD64))
    assert not (project.DIST / "linux-riscv64").exists()


# All of it.


@pytest.fixture
def whole(commands: MachineCommands, checkout: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:  # fmt: skip
    """A board of this architecture; what is done with it is recorded."""

    class Connected:
        def __enter__(self) -> tuple[Destination, Callable[[], str]]:
            return BOARD, lambda: answer[-1]

        def __exit__(self, *_: object) -> None:
            pass

    answer: list[str] = []
    monkeypatch.setattr(Destination, "connected", lambda _self, *_question: Connected())

    def board(uname: str, told: str = "") -> None:
        answer.append(f"{uname}\n/home/me\n{told}")

    return board


def run_on(*arguments: str, any_arch: bool = False) -> int:
    return remote.on("me@board", arguments, TASKS, {}, any_arch=any_arch, yes=False)


def test_on(whole: Callable[..., None], commands: MachineCommands, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    whole("riscv64")
    assert run_on("doctor") == 0
    assert [call.verb for call in commands.calls] == ["run", "attached"]
    assert capsys.readouterr().err == "on me@board (riscv64): ./invoke doctor\n"


@pytest.mark.parametrize(
    ("task", "known"),
    [("build-image", False), ("build-binaries", False), ("validate", False), ("doctor", True)],
)
def test_what_a_build_finds_up_to_date_comes_too(whole: Callable[..., None], monkeypatch: pytest.MonkeyPatch, task: str, known: bool) -> None:  # fmt: skip
    """Somebody has asked for it here."""
    pulled: list[Mapping[str, str]] = []

    def pull(before: Mapping[str, str], _there: There) -> list[Path]:
        pulled.append(before)
        return []

    monkeypatch.setattr(remote, "pull", pull)
    whole("riscv64", TOLD)
    run_on(task)
    assert pulled == [MADE if known else {}]


def test_another_architecture_is_refused(whole: Callable[..., None], commands: MachineCommands, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    whole("x86_64")
    with pytest.raises(
        NotNativeError, match="me@board is amd64: what it compiles is not"
    ) as caught:
        run_on("doctor")
    assert "--any-arch" in caught.value.hint
    assert commands.calls == []
    assert capsys.readouterr().err == "me@board is amd64, not riscv64\n"
    assert run_on("doctor", any_arch=True) == 0


def test_nothing_is_contacted_for_nothing(commands: MachineCommands) -> None:
    with pytest.raises(UsageError):
        run_on()
    assert commands.calls == []


def test_why_a_connection_was_lost(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = BOARD.lost("")
    machine.answered_file.write_text("7")
    assert remote._explain("me@board", lost) is lost
    gone = remote._explain("one", lost)
    assert (gone.exit_code, gone.brief) == (
        13, "machine one is gone: qemu ended while it was used",
    )  # fmt: skip
    assert gone.hint.startswith("invoke machine.start --name one")
    monkeypatch.setattr(Machine, "pid", 7)
    restarted = remote._explain("one", lost)
    assert "it may have restarted" in restarted.brief
    assert not machine.answered_file.exists()
    assert "machine.logs --name one" in restarted.hint


def test_a_lost_connection_is_explained(whole: Callable[..., None], commands: MachineCommands) -> None:  # fmt: skip
    whole("riscv64")
    commands.answer("ssh", "-O", code=255)
    attached = commands.attached
    commands.attached = lambda args, **options: attached(args, **options) or 255  # type: ignore[method-assign]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("buildkit_riscv64.process.attached", commands.attached)
        with pytest.raises(MachineError, match="no connection to me@board"):
            run_on("doctor")


# The script that runs there, run here.


Runner = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[Runner]:
    """Starts the script as sshd would; what is left of it is ended with the test."""
    children: list[subprocess.Popen[bytes]] = []

    def start(*command: str, folder: Path = tmp_path) -> subprocess.Popen[bytes]:
        children.append(
            subprocess.Popen(
                [
                    "sh",
                    "-c",
                    remote._RUNNER.replace("sleep 10;", "sleep 0.5;"),
                    "sh",
                    str(folder),
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
    """What it says while its input stays open."""
    assert child.stdout is not None
    assert child.stderr is not None
    code = child.wait(BOUND)
    return code, child.stdout.read(), child.stderr.read()


@pytest.mark.parametrize("code", [0, 1, 7, 130, 254])
def test_the_exit_code_is_passed_on(runner: Runner, code: int) -> None:
    assert outcome(runner("sh", "-c", f"exit {code}"))[0] == code


def test_a_signal_is_passed_on_as_a_shell_does(runner: Runner) -> None:
    assert outcome(runner("sh", "-c", "kill -TERM $$"))[0] == 128 + signal.SIGTERM


def test_the_output_passes_apart(runner: Runner) -> None:
    assert outcome(runner("sh", "-c", "echo out; echo err >&2")) == (0, b"out\n", b"err\n")


def test_the_words_are_not_looked_at_again(runner: Runner) -> None:
    words = ["a b", "", "$(id)", "*", "'", '"', "a\nb", "-n"]
    code, out, _ = outcome(runner("printf", r"%s\0", *words))
    assert (code, out.decode().split("\0")[:-1]) == (0, words)


def test_it_runs_in_the_folder_without_input(runner: Runner, tmp_path: Path) -> None:
    folder = tmp_path / "-a b"
    folder.mkdir()
    code, out, _ = outcome(runner("sh", "-c", "pwd; cat", folder=folder))
    assert (code, out) == (0, f"{folder}\n".encode())


def test_a_folder_that_is_gone(runner: Runner, tmp_path: Path) -> None:
    assert outcome(runner("true", folder=tmp_path / "none"))[0] == 254


def test_a_command_that_is_missing(runner: Runner) -> None:
    code, _, err = outcome(runner("no-such-command"))
    assert code == 127
    assert b"no-such-command" in err


TREE = "sleep 1000 >/dev/null 2>&1 & echo $!; (sleep 1000 >/dev/null 2>&1 & echo $!); echo $$; "


def pids_of(child: subprocess.Popen[bytes], count: int = 3) -> list[int]:
    assert child.stdout is not None
    return [int(child.stdout.readline()) for _ in range(count)]


def hung_up(child: subprocess.Popen[bytes], count: int) -> int:
    """The exit code when the connection is closed; none of `count` processes is left."""
    pids = pids_of(child, count)
    assert child.stdin is not None
    child.stdin.close()
    code = child.wait(BOUND)
    assert eventually(lambda: not any(map(alive, pids)))
    return code


def test_closing_its_input_ends_all_of_it(runner: Runner) -> None:
    child = runner("sh", "-c", TREE + "wait")
    pids = pids_of(child)
    assert all(map(alive, pids))
    assert child.stdin is not None
    child.stdin.close()
    assert eventually(lambda: not any(map(alive, pids)))
    assert child.wait(BOUND) == 128 + signal.SIGTERM


def test_it_may_clean_up(runner: Runner, tmp_path: Path) -> None:
    polite = (
        f"trap 'echo cleaned >{tmp_path}/trace; exit 3' TERM; echo $$; while :; do sleep 0.1; done"
    )
    child = runner("sh", "-c", polite)
    pids_of(child, 1)
    assert child.stdin is not None
    child.stdin.close()
    assert child.wait(BOUND) == 3
    assert (tmp_path / "trace").read_text() == "cleaned\n"


def test_what_does_not_listen_is_told(runner: Runner) -> None:
    stubborn = "trap '' TERM; sleep 1000 >/dev/null 2>&1 & echo $!; echo $$; wait"
    child = runner("sh", "-c", stubborn)
    assert hung_up(child, 2) == 128 + signal.SIGKILL


def test_what_it_leaves_behind_ends_too(runner: Runner) -> None:
    """A child that ignores requests, of a command that does not."""
    child = runner("sh", "-c", "(trap '' TERM; exec sleep 1000) >/dev/null 2>&1 & echo $!; wait")
    assert hung_up(child, 1) == 128 + signal.SIGTERM


def test_what_a_command_started_and_forgot_ends_with_it(runner: Runner) -> None:
    child = runner("sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo $!")
    pids = pids_of(child, 1)
    assert child.wait(BOUND) == 0
    assert eventually(lambda: not any(map(alive, pids)))
