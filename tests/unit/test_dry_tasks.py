"""Every task of the collection under `--dry`: nothing changes, here or elsewhere.

The tests do not rely on :mod:`buildkit_riscv64.core.dry_run`: they compare files before and after,
an audit hook of this module records each process, and the fake GitHub records each request.
"""

from __future__ import annotations

import ctypes
import io
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests
from invoke.collection import Collection

import tasks
from buildkit_riscv64 import cli, program
from buildkit_riscv64.binaries import build, toolchain
from buildkit_riscv64.binaries import source as sources
from buildkit_riscv64.core import dist, filesystem, pins, process, project
from buildkit_riscv64.core.arch import Target
from buildkit_riscv64.core.config import Config
from buildkit_riscv64.machine import base_disk, machines

from ..fake_github import UPSTREAM, Hub, release
from .factories import COMMIT, describe, edit_manifest
from .machine.conftest import make_base, make_machine
from .packages.conftest import make_packages
from .phase4 import hub, releasable  # noqa: F401

#: Arguments of every task; a task without an entry fails the test.
ARGUMENTS: Mapping[str, tuple[str, ...]] = {
    "benchmark": ("", "--baseline upstream --only simple --profile cpu.pprof", "--instructions"),
    "build-binaries": ("--force --bundle --yes", "--goriscv64 rva22u64"),
    "build-image": ("--force --yes", "--rootless --base rootfs"),
    "build-packages": ("--force --yes", "--revision 2"),
    "create-certs": ("--names example.org", "--output elsewhere --new-ca"),
    "check-binaries": ("", "--json"),
    "check-image": ("--yes",),
    "doctor": ("--fix --yes", "--phase machine --fix --yes"),
    "evidence.show": ("", "--json"),
    "machine.create": ("--name new --memory 1G", "--name stopped --if-missing"),
    "machine.destroy": ("--name stopped", "--name running", "--name running --yes"),
    "machine.list": ("",),
    "machine.logs": ("--name running",),
    "machine.reset": ("--name stopped", "--name running", "--name running --yes"),
    "machine.ssh": ("--name stopped", "--name running"),
    "machine.start": ("--name stopped --icount", "--name running"),
    "machine.status": ("--name running",),
    "machine.stop": ("--name stopped", "--name running"),
    "on": ("stopped --yes -- build-binaries", "me@192.0.2.1 -- doctor --fix"),
    "publish-repo": ("--unsigned --force", "--url https://x.org --key signing.asc"),
    "push-image": ("--force", "--registry localhost:5000/me/buildkit --yes"),
    "release": ("", "--key signing.asc"),
    "notify-build": ("failure", "success"),
    "pins.show": ("",),
    "pins.update": ("v0.33.0",),
    "pins.update-go": ("1.26.11",),
    "status": ("",),
    "test": ("--yes", "--session unit"),
    "track-releases": ("", "--json"),
    "validate": ("--yes", "--only standalone"),
    "verify-release": ("v0.32.2 --repository me/buildkit",),
    "verify-binaries": ("", "--rebuild", "--cross-check --target linux-amd64"),
}  # fmt: skip

#: Exit codes of tasks whose check fails.
VERDICTS = {"check-binaries": 7, "doctor": 12}

#: Commands that only read: the name of the program and its arguments.
READS = (
    # The reader of the fake packages.
    r"cat",
    r"(buildctl|buildkitd) --help",
    r"apt-cache show \S+",
    r"apt-get indextargets .*",
    r"docker (version|context inspect|buildx version).*",
    r"dpkg-query --(search|show) .*",
    r"gcc (--version|-print-file-name=\S+)",
    r"git config --file \S+ submodule\.buildkit\.url",
    r"git -C \S+ ls-files .*",
    r"git ls-remote .*",
    r"go (version|version -m -json \S+|env -json.*)",
    r"\S+ (--)?version",
    r"openssl (x509|pkey) .*",
    r"skopeo .*(list-tags|inspect) .*",
    r"systemd-detect-virt --vm",
    # Checks in a namespace whether this machine can mount.
    r"unshare --mount --pid --fork --kill-child=SIGKILL --mount-proc mount -t tmpfs tmpfs /tmp",
)

#: The output of programs, by a shell pattern of the command line.
ANSWERS = {
    '"go version"': "go version go1.26.10 linux/riscv64",
    '"go env"*': '{"GOMODCACHE": "/nowhere"}',
    '"git config"*': "https://example.org/buildkit",
    '"git ls-remote"*': f"{COMMIT}\trefs/tags/v0.33.0",
    '"skopeo "*list-tags*': '{"Tags": ["latest", "v0.32.1"]}',
}
PROGRAMS = (
    "apt-cache", "apt-get", "docker", "git", "go", "gpg", "mmdebstrap", "nft", "openssl", "qemu-img", "rsync",
    "runc", "skopeo", "ssh", "ssh-keygen", "umoci",
)  # fmt: skip


class _Starts:
    """An audit hook that records every process that Python starts while it is on."""

    def __init__(self) -> None:
        self.on = False
        self.seen: list[str] = []

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if self.on and event in {"subprocess.Popen", "os.exec", "os.posix_spawn", "os.system"}:
            words = args[1] if event != "os.system" else [args[0]]
            words = [os.fsdecode(word) for word in words]
            self.seen.append(shlex.join([Path(words[0]).name, *words[1:]]))


STARTS = _Starts()
sys.addaudithook(STARTS)


def tree(*directories: Path) -> dict[str, tuple[object, ...]]:
    """Every file and directory below directories, with metadata and content."""
    found: dict[str, tuple[object, ...]] = {}
    for directory in directories:
        for path in [directory, *directory.rglob("*")]:
            status = path.lstat()
            content = str(path.readlink()) if path.is_symlink() else filesystem.sha256(path) if path.is_file() else ""  # fmt: skip
            found[str(path)] = (
                status.st_mode,
                status.st_uid,
                status.st_mtime_ns,
                status.st_ino,
                content,
            )
    return found


@dataclass
class Observed:
    """The effects of a command line.

    Args:
        code: its exit code.
        changed: changed files and directories.
        started: processes, except processes that only read.
        requests: requests, except requests that only read.
    """

    code: int
    changed: list[str] = field(default_factory=list)
    started: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


class Place:
    """A checkout, a home directory and a fake GitHub."""

    def __init__(self, root: Path, github: Hub) -> None:
        self.root = root
        self.github = github

    def run(self, *words: str, namespace: Collection = tasks.ns) -> Observed:
        """Run a command line, and observe its effects."""
        scratch = Path(tempfile.gettempdir())
        directories = (self.root, Path.home())
        before, requests_before = tree(*directories), len(self.github.requests)
        line = program.CommandLine(
            namespace=namespace, name="Invoke", binary="invoke", config_class=Config
        )
        STARTS.seen.clear()
        STARTS.on = True
        code = 0
        try:
            line.run(["invoke", *words])
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            STARTS.on = False
        after = {**tree(*directories), **tree(*scratch.iterdir())}
        return Observed(
            code,
            sorted(p for p in before.keys() | after.keys() if before.get(p) != after.get(p)),
            [one for one in STARTS.seen if not any(re.fullmatch(r, one) for r in READS)],
            [one for one, _ in self.github.requests[requests_before:] if not one.startswith(("GET", "HEAD"))],
        )  # fmt: skip


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    """Restore the signal handlers, which tasks replace."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fake programs that only print prepared output."""
    answers = "\n".join(f"{pattern}) echo '{output}';;" for pattern, output in ANSWERS.items())
    directory = tmp_path / "programs"
    directory.mkdir()
    for name in PROGRAMS:
        (directory / name).write_text(f'#!/bin/sh\ncase "{name} $*" in\n{answers}\nesac\n')
        (directory / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(directory))
    monkeypatch.setattr(toolchain, "_USUAL_PLACES", ())
    monkeypatch.setattr(
        process, "which", lambda name: directory / name if name in PROGRAMS else None
    )


@pytest.fixture
def running(releasable: Path) -> Iterator[machines.Machine]:  # noqa: F811
    """A stopped machine, and a running machine with its process."""
    base = make_base(base_disk.bases() / base_disk.recipe_hash(pins.load()))
    make_machine(base, "stopped")
    machine = make_machine(base, "running")
    (machine.path / "disk.qcow2").write_text("a disk")
    (machine.path / "console.log").write_text("login:\n")
    (machine.path / "ssh_config").write_text("Host running\n  Port 2222\n")
    sleep = "import time; time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", sleep, machine.path / "qemu.pid"]) as child:
        (machine.path / "qemu.pid").write_text(f"{child.pid}\n")
        (machine.path / "answered.pid").write_text(f"{child.pid}\n")
        yield machine
        assert child.poll() is None, "the machine was stopped"
        child.kill()


def _match_the_pins(path: Path) -> None:
    """Change finished artifacts so that `verify-binaries` accepts them."""
    pinned = pins.load()
    source = sources.resolve("module", pinned)
    inputs = build.inputs(source, Target.parse(path.name), build.BuildMethod.GO, pinned)
    recorded = {"kind": str(source.kind), "location": source.location, "dirty": False}
    edit_manifest(path, lambda manifest: manifest["build"].update(inputs=inputs))
    edit_manifest(path, lambda manifest: manifest["source"].update(recorded))


@pytest.fixture
def place(
    releasable: Path,  # noqa: F811 - a fixture
    running: machines.Machine,
    hub: Hub,  # noqa: F811 - a fixture
    programs: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Place:
    """Finished artifacts, machines, certificates and releases that a task could change."""
    shutil.rmtree(releasable / dist.PACKAGES)
    make_packages(releasable)
    with (project.UPSTREAM_MODULE / "go.mod").open("a") as file:
        file.write("\ngo 1.26.3\n")
    describe(project.DIST / "linux-amd64", Target.parse("linux-amd64"))
    for path in (releasable, project.DIST / "linux-amd64"):
        _match_the_pins(path)
    (project.ROOT / "signing.asc").write_text("-----BEGIN PGP PRIVATE KEY BLOCK-----\n")
    (project.ROOT / "README.md").write_text("```sh\ninvoke pins.update v0.32.2\n```\n")
    hub.repositories[UPSTREAM].releases.append(release("v0.33.0"))
    for name, value in {
        "GITHUB_WORKFLOW": "weekly-build", "GITHUB_SERVER_URL": "https://github.com",
        "GITHUB_RUN_ID": "77", "GITHUB_REF_NAME": "main",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    monkeypatch.chdir(project.ROOT)
    return Place(project.ROOT, hub)


CASES = [(name, words) for name in sorted(tasks.ns.task_names) for words in ARGUMENTS.get(name, (None,))]  # fmt: skip


@pytest.mark.parametrize(("name", "words"), CASES)
def test_a_dry_task_changes_nothing(
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    words: str | None,
) -> None:
    assert words is not None, f"{name} has no entry in ARGUMENTS"
    typed = ["--dry", name, *shlex.split(words)]
    monkeypatch.setattr(sys, "argv", ["invoke", *typed])
    observed = place.run(*typed)
    # A failed check has the same exit code without --dry.
    assert observed.code in {0, VERDICTS.get(name, 0)}
    assert observed == Observed(observed.code)


@pytest.mark.parametrize("name", ["machine.destroy", "machine.reset"])
def test_nothing_is_deleted_without_consent(
    place: Place, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """This test does not use --dry."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert place.run(name, "--name", "stopped") == Observed(2)
    machine = machines.find("stopped")
    monkeypatch.setenv("INVOKE_YES", "true")
    place.run(name, "--name", "stopped")
    assert machine.path.exists() is (name == "machine.reset")


@pytest.mark.parametrize("name", sorted(tasks.ns.task_names))
def test_a_dry_task_changes_nothing_in_a_fresh_clone(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """In a fresh clone, a task may fail because of missing artifacts."""
    shutil.rmtree(project.DIST)
    shutil.rmtree(project.cache())
    typed = ["--dry", name, *shlex.split(ARGUMENTS[name][0])]
    monkeypatch.setattr(sys, "argv", ["invoke", *typed])
    observed = place.run(*typed)
    assert observed.code != 1
    assert observed == Observed(observed.code)
    if name in {"build-binaries", "doctor", "machine.create", "test"}:
        assert "would " in capsys.readouterr().err


def test_every_entry_is_a_task() -> None:
    assert ARGUMENTS.keys() == set(tasks.ns.task_names)


# Broken tasks: the test above fails for each of them.


def _unlink_behind_python(path: Path) -> None:
    """Delete a file without an audit event."""
    assert ctypes.CDLL(None).unlink(os.fsencode(path)) == 0


def _post(github: Hub) -> None:
    requests.post(f"{github.address}/repos/me/buildkit-riscv64/issues", json={}, timeout=9)


BROKEN: Mapping[str, Callable[[Path, Hub], object]] = {
    "deletes": lambda root, _hub: (root / "signing.asc").unlink(),
    "writes": lambda root, _hub: (root / "new").write_text("x"),
    "caches": lambda _root, _hub: (Path.home() / ".cache").mkdir(),
    "leaves a temporary directory": lambda _root, _hub: tempfile.mkdtemp(),
    "deletes behind Python": lambda root, _hub: _unlink_behind_python(root / "signing.asc"),
    "starts": lambda _root, _hub: process.stream(["git", "commit"], print),
    "starts by itself": lambda _root, _hub: subprocess.run(["git", "commit"], check=False),
    "says that it reads": lambda _root, _hub: process.read(["git", "commit"]),
    "sends": lambda _root, hub: _post(hub),  # noqa: F811
    "machine.destroy as it was": lambda _root, _hub: shutil.rmtree(
        base_disk.bases().parent / "machines" / "stopped"
    ),
}  # fmt: skip


@pytest.mark.parametrize("changes", [cli.NOTHING, "a file"])
@pytest.mark.parametrize("fault", BROKEN)
def test_a_task_that_ignores_dry_fails(place: Place, fault: str, changes: str) -> None:
    @cli.command(changes=changes)
    def broken(_context: Any) -> None:
        """Ignore --dry."""
        BROKEN[fault](place.root, place.github)

    assert place.run("--dry", "broken", namespace=Collection(broken)) != Observed(0)


def test_a_task_that_respects_dry_passes(place: Place) -> None:
    @cli.command(changes="a file")
    def good(_context: Any) -> None:
        """Respect --dry."""
        process.run(["git", "commit"])
        with tempfile.TemporaryDirectory() as scratch:
            (Path(scratch) / "file").write_text("x")
        process.read(["git", "ls-remote", "x"])

    assert place.run("--dry", "good", namespace=Collection(good)) == Observed(0)
