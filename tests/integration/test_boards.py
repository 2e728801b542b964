"""`invoke on BOARD` over ssh to an sshd on the loopback."""

from __future__ import annotations

import getpass
import json
import os
import platform
import pwd
import shutil
import signal
import stat
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from buildkit_riscv64.testing.pytest_plugin import needs
from buildkit_riscv64.validation.environment.scripts import script
from buildkit_riscv64.validation.environment.waiting import alive, eventually

from .board import NAME, Board, board, key
from .miniature import (
    PINNED,
    Done,
    Project,
    Started,
    Upstream,
    path_with,
    refused,
    remove,
    succeeded,
)

pytestmark = pytest.mark.integration

#: True on a riscv64 machine: the board is this machine.
NATIVE = platform.machine() == "riscv64"


@pytest.fixture
@needs("loopback", "sshd", "ssh", "rsync")
def there(project: Project) -> Iterator[Board]:
    with board(project) as remote:
        yield remote


def on(there: Board, *words: str, options: Sequence[str] = ("--any-arch",)) -> Done:
    return there.project.invoke("on", NAME, *options, "--", *words)


def contents(directory: Path) -> dict[str, bytes]:
    files = (p for p in directory.rglob("*") if p.is_file())
    return {str(p.relative_to(directory)): p.read_bytes() for p in files}


# Tasks and commands.


def test_build(there: Board, upstream: Upstream) -> None:
    project = there.project
    there.take_python()
    done = succeeded(on(there, "build-binaries"))
    assert f"BuildKit {PINNED} for linux-" in done.stderr
    target = project.target()
    copied = f"dist/{target.name}/ ("
    assert copied in done.stderr
    assert contents(target) == contents(there.folder / "dist" / target.name)
    assert os.access(target / "bin" / "buildctl", os.X_OK)
    assert upstream.commits[PINNED] in json.dumps(project.manifest())
    succeeded(project.invoke("check-binaries"))
    assert [p.name for p in project.dist.iterdir() if not p.name.endswith(".lock")] == [target.name]
    # An up-to-date build copies nothing back.
    again = succeeded(on(there, "build-binaries"))
    assert copied not in again.stderr
    # Results that were deleted here are copied again.
    remove(target)
    assert copied in succeeded(on(there, "true")).stderr
    succeeded(project.invoke("check-binaries"))


def test_build_from_the_submodule(there: Board) -> None:
    project = there.project
    submodule = project.fetch_submodule()
    # Tracked files that .gitignore matches are sent.
    assert (submodule / ".gitignore").read_text().startswith("/bin\n")
    there.take_python()
    succeeded(on(there, "build-binaries", "--source", "submodule"))
    assert project.manifest()["source"]["kind"] == "submodule"
    assert project.manifest()["source"]["dirty"] is False


def test_configured_board(there: Board) -> None:
    (there.project.root / "invoke.yaml").write_text(f"boards:\n  f3: {NAME}\n")
    done = succeeded(there.project.invoke("on", "f3", "--any-arch", "--", "echo", "here"))
    assert done.stdout == "here\n"
    assert "on f3 (" in done.stderr


@pytest.mark.parametrize(
    ("host", "configured"),
    [("127.0.0.1", False), ("127.0.0.1", True), ("[::1]", False), ("[::1]", True), ("::1", True)],
)
def test_port_and_ipv6_address(there: Board, host: str, configured: bool) -> None:
    """ssh and rsync reach the same host."""
    plain = host.strip("[]")
    user = getpass.getuser()
    name = f"{user}@{host}" if configured else f"ssh://{user}@{host}:{there.port}"
    there.add_host(plain, port=configured)
    (there.project.root / "new-here").write_text("")
    done = succeeded(there.project.invoke("on", name, "--any-arch", "--", "ls", "new-here"))
    assert done.stdout == "new-here\n"
    assert [path.name for path in there.home.iterdir()] == [".cache"]


@pytest.mark.parametrize(
    "text", ["ssh://root@127.0.0.1:x", "root@127.0.0.1:22422", "root@[::1", "ssh://"]
)
def test_invalid_destination(there: Board, text: str) -> None:
    refused(there.project.invoke("on", text, "--any-arch", "--", "ls"), 2, text)
    assert not list(there.home.iterdir())


@pytest.mark.parametrize("name", ["a b", "it's", "%h", '"', "x" * 100])
def test_any_directory_for_temporary_files(there: Board, name: str) -> None:
    temporary = there.home.parent / name
    temporary.mkdir()
    there.project.env["TMPDIR"] = str(temporary)
    assert succeeded(on(there, "echo", "here")).stdout == "here\n"
    assert not list(temporary.iterdir())


def test_exit_code_is_passed_on(there: Board) -> None:
    done = on(there, "sh", "-c", "exit 7")
    assert done.code == 7
    assert "Traceback" not in done.stderr
    assert "error:" not in done.stderr


def test_failed_task_logs_one_error(there: Board) -> None:
    there.take_python()
    done = on(there, "check-binaries", "--target", "linux-riscv64")
    assert done.code == 7
    assert done.stderr.count("error:") == 1


def test_output_and_errors_stay_apart(there: Board) -> None:
    done = succeeded(on(there, "sh", "-c", "echo out; echo err >&2"))
    assert done.stdout == "out\n"
    assert done.stderr.splitlines()[-1] == "err"


def test_words_arrive_unchanged(there: Board) -> None:
    words = ["a b", "", "'", '"', "$HOME", "$(id)", "`id`", "*", "\\", "a\nb", "-x", "--", "é", ";"]
    done = succeeded(on(there, "printf", r"%s\0", *words))
    assert done.stdout.split("\0")[:-1] == words


def test_command_runs_in_the_remote_checkout(there: Board) -> None:
    done = succeeded(on(there, "sh", "-c", "pwd; cat; ls -d tests"))
    assert done.stdout == f"{there.folder}\ntests\n"


# Failures.


def test_other_architectures_are_refused(there: Board) -> None:
    done = on(there, "true", options=())
    if NATIVE:
        succeeded(done)
        return
    refused(done, 5, NAME, "riscv64")
    assert not there.folder.exists()


def test_no_sshd(there: Board) -> None:
    there.stop()
    refused(on(there, "true"), 13, NAME, "Connection refused")


def test_another_host_key(there: Board) -> None:
    there.known_host(key(there.home.parent / "other").with_suffix(".pub"))
    refused(on(there, "true"), 13, NAME, "Host key verification failed")
    assert not there.folder.exists()


def test_unknown_host_key_is_refused(there: Board) -> None:
    known = there.config.parent / "known_hosts"
    known.write_text("")
    refused(on(there, "true"), 13, NAME, "Host key verification failed")
    assert known.read_text() == ""


def test_unauthorized_key(there: Board) -> None:
    (there.home.parent / "user_key.pub").write_text("")
    refused(on(there, "true"), 13, NAME, "Permission denied")


def test_without_rsync(there: Board, tmp_path: Path) -> None:
    there.start(PATH=path_with(tmp_path / "bin", "sh", "uname", "id", "env", "git", "python3"))
    refused(on(there, "true"), 3, NAME, "rsync")
    assert not there.folder.exists()


def test_noisy_login_shell(there: Board) -> None:
    shell = pwd.getpwuid(os.getuid()).pw_shell
    assert shell.endswith("bash"), f"bash reads ~/.bashrc for sshd, and this user has {shell}"
    (there.home / ".bashrc").write_text("echo Welcome to this board\n")
    refused(on(there, "true"), 13, NAME, "answer")


def test_names_that_look_like_options(there: Board) -> None:
    trace = there.home / "trace"
    command = script(there.home / "command", f"touch {trace}")
    # Invoke or the task refuses the option.
    for words in ([f"-oProxyCommand={command}"], ["--machine", f"-oProxyCommand={command}"]):
        assert there.project.invoke("on", *words, "--", "true").code in {1, 2}
        assert not trace.exists()


# Push.


def test_push(there: Board) -> None:
    project, far = there.project, there.folder
    succeeded(on(there, "true"))

    script(project.root / ".git" / "hooks" / "pre-push", "exit 1")
    project.git("config", "http.extraHeader", "secret")
    (project.root / "new directory").mkdir()
    (project.root / "new directory" / "é $x").write_text("new")
    (project.root / "link").symlink_to("README.md")
    (project.root / "run").write_text("#!/bin/sh\n")
    (project.root / "run").chmod(0o755)
    (project.root / "README.md").write_text("changed")
    (project.root / "pyproject.toml").unlink()
    (project.root / ".nox").mkdir()
    (project.root / ".nox" / "here").write_text("ignored")
    (project.dist / "here").mkdir(parents=True)
    ignored = ["dist/linux-x/file", ".venv/file", ".mypy_cache/file"]
    for name in ignored:
        (far / name).parent.mkdir(parents=True, exist_ok=True)
        (far / name).write_text("remote")
    (far / "stray").write_text("stray")
    untouched = (far / "LICENSE").stat()
    succeeded(on(there, "true"))
    assert (far / "new directory" / "é $x").read_text() == "new"
    assert (far / "link").readlink() == Path("README.md")
    assert (far / "run").stat().st_mode & stat.S_IXUSR
    assert (far / "README.md").read_text() == "changed"
    assert not (far / "pyproject.toml").exists()
    assert not (far / "stray").exists()
    assert not (far / ".nox").exists()
    assert not (far / "dist" / "here").exists()
    for name in ignored:
        assert (far / name).read_text() == "remote"
    # Unchanged files are not sent again.
    now = (far / "LICENSE").stat()
    assert (now.st_ino, now.st_ctime_ns) == (untouched.st_ino, untouched.st_ctime_ns)
    # No git files with credentials, no hooks.
    assert not (far / ".git" / "config").exists()
    assert not (far / ".git" / "hooks").exists()
    assert "secret" not in "".join(p.read_text(errors="replace") for p in far.rglob("config"))
    # The remote checkout has the same state.
    remote = succeeded(on(there, "git", "status", "--porcelain")).stdout
    assert remote == project.git("status", "--porcelain")


def test_push_tracked_ignored_files(there: Board) -> None:
    project = there.project
    for name in ("dist-info/x.egg-info/deep/file", "tests/__pycache__/kept"):
        (project.root / name).parent.mkdir(parents=True, exist_ok=True)
        (project.root / name).write_text("tracked")
        project.git("add", "--force", name)
    project.git("commit", "--quiet", "--message", "ignored and tracked")
    assert succeeded(on(there, "git", "status", "--porcelain")).stdout == ""
    assert (there.folder / "tests/__pycache__/kept").read_text() == "tracked"


def test_worktree_with_the_submodule(there: Board) -> None:
    """In a worktree, `.git` is a file."""
    root = there.project.root.parent / "worktree"
    there.project.git("worktree", "add", "--quiet", root)
    project = Project(root, there.project.env)
    project.fetch_submodule()
    far = replace(there, project=project)
    project.git("commit", "--quiet", "--allow-empty", "--message", "in the worktree")
    state = ("sh", "-c", "git status --porcelain && git log -1 --format=%s && git -C buildkit rev-parse HEAD")  # fmt: skip
    commit = project.git("-C", "buildkit", "rev-parse", "HEAD")
    succeeded(on(far, "true"))
    # Unchanged git files are not sent again.
    (far.folder / ".git" / "description").write_text("remote")
    succeeded(on(far, "true"))
    assert (far.folder / ".git" / "description").exists()
    assert succeeded(on(far, *state)).stdout == f"in the worktree\n{commit}"
    project.git("commit", "--quiet", "--allow-empty", "--message", "again")
    assert succeeded(on(far, *state)).stdout == f"again\n{commit}"
    far.take_python()
    succeeded(on(far, "build-binaries", "--source", "submodule"))
    assert project.manifest()["source"]["dirty"] is False


def test_git_refuses_the_checkout(there: Board, tmp_path: Path) -> None:
    """Nothing is sent: only git knows which ignored files are tracked."""
    real = shutil.which("git")
    script(tmp_path / "git", f'GIT_TEST_ASSUME_DIFFERENT_OWNER=1 exec {real} "$@"')
    env = {"PATH": f"{tmp_path}:{there.project.env['PATH']}"}
    done = there.project.invoke("on", NAME, "--any-arch", "--", "true", env=env)
    refused(done, 4)
    assert "safe.directory" in done.stderr
    assert not there.folder.exists()


# Interruption.

TREE = "sleep 1000 & echo $!; (sleep 1000 & echo $!); echo $$; "


def far_pids(there: Board, run: Started) -> list[int]:
    """Wait for the remote processes and return their PIDs."""
    file = there.folder / "pids"
    assert eventually(
        lambda: (
            run.process.poll() is not None or (file.exists() and len(file.read_text().split()) == 3)
        )
    )
    assert run.process.poll() is None, run.output()
    pids = [int(word) for word in file.read_text().split()]
    assert all(map(alive, pids))
    return pids


def forget_sockets(project: Project) -> None:
    """Remove the directories with ssh's socket that SIGKILL leaves."""
    for left in Path(project.env["TMPDIR"]).glob("bk-*"):
        remove(left)


LONG = ("on", NAME, "--any-arch", "--", "sh", "-c", f"{{ {TREE} }} >pids; wait")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_remote_command_ends_with_the_local_one(there: Board, number: signal.Signals) -> None:
    with there.project.started(*LONG) as run:
        pids = far_pids(there, run)
        done = run.end(number)
    if number is signal.SIGKILL:
        assert done.code == -number
    else:
        refused(done, 130, "interrupted")
    assert eventually(lambda: not any(map(alive, pids)))
    if number is signal.SIGKILL:
        forget_sockets(there.project)


def test_lost_connection(there: Board) -> None:
    with there.project.started(*LONG) as run:
        pids = far_pids(there, run)
        there.cut()
        done = run.wait()
    refused(done, 13, NAME, "while the command ran")
    assert eventually(lambda: not any(map(alive, pids)))
    # The next command connects again.
    assert succeeded(on(there, "echo", "again")).stdout == "again\n"


def test_interrupted_build(there: Board, tmp_path: Path) -> None:
    """The remote host has no partial output, and the next run succeeds."""
    there.take_python()
    there.start(GOCACHE=str(tmp_path / "gocache"), TMPDIR=str(tmp_path))
    with there.project.started("on", NAME, "--any-arch", "--", "build-binaries") as run:
        run.wait_for(f"BuildKit {PINNED}")
        done = run.end(signal.SIGINT)
    assert done.code == 130
    # The remote task reports it, too.
    assert done.stderr.splitlines()[-2].startswith("error: interrupted")
    assert not list((there.folder / "dist").glob("linux-*"))
    assert not list(there.project.dist.glob("linux-*"))
    succeeded(on(there, "build-binaries"))
    assert json.loads((there.project.target() / "manifest.json").read_text())
