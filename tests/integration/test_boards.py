"""`invoke on BOARD`: over a real ssh, to a real sshd on the loopback."""

from __future__ import annotations

import json
import os
import platform
import pwd
import signal
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from ..processes import alive, eventually
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
    script,
    succeeded,
)

pytestmark = pytest.mark.integration

#: Where the tests run on a riscv64 machine, so does the board.
NATIVE = platform.machine() == "riscv64"


@pytest.fixture
def there(project: Project) -> Iterator[Board]:
    with board(project) as made:
        yield made


def on(there: Board, *words: str, options: Sequence[str] = ("--any-arch",)) -> Done:
    return there.project.invoke("on", NAME, *options, "--", *words)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# What is done there.


def test_building(there: Board, upstream: Upstream) -> None:
    project = there.project
    there.take_python()
    done = succeeded(on(there, "build-binaries"))
    assert f"BuildKit {PINNED} for linux-" in done.stderr
    target = project.target()
    assert f"brought back dist/{target.name}/ (" in done.stderr
    assert contents(target) == contents(there.folder / "dist" / target.name)
    assert os.access(target / "bin" / "buildctl", os.X_OK)
    assert upstream.commits[PINNED] in json.dumps(project.manifest())
    succeeded(project.invoke("check-binaries"))
    assert [p.name for p in project.dist.iterdir() if not p.name.endswith(".lock")] == [target.name]
    # Nothing has changed: nothing is compiled, nothing comes back.
    again = succeeded(on(there, "build-binaries"))
    assert "brought back" not in again.stderr
    # What is lost here is there.
    remove(target)
    assert "brought back" in succeeded(on(there, "true")).stderr
    succeeded(project.invoke("check-binaries"))


def test_building_the_submodule(there: Board) -> None:
    project = there.project
    submodule = project.fetch_submodule()
    # Git has it although it ignores it, so it is not missing there.
    assert (submodule / ".gitignore").read_text().startswith("/bin\n")
    there.take_python()
    succeeded(on(there, "build-binaries", "--source", "submodule"))
    assert project.manifest()["source"]["kind"] == "submodule"
    assert project.manifest()["source"]["dirty"] is False


def test_a_board_in_the_configuration(there: Board) -> None:
    (there.project.root / "invoke.yaml").write_text(f"boards:\n  f3: {NAME}\n")
    done = succeeded(there.project.invoke("on", "f3", "--any-arch", "--", "echo", "here"))
    assert done.stdout == "here\n"
    assert "on f3 (" in done.stderr


def test_the_exit_code_is_passed_on(there: Board) -> None:
    done = on(there, "sh", "-c", "exit 7")
    assert done.code == 7
    assert "Traceback" not in done.stderr
    assert "error:" not in done.stderr


def test_a_task_that_fails_there_tells_why_once(there: Board) -> None:
    there.take_python()
    done = on(there, "check-binaries", "--target", "linux-riscv64")
    assert done.code == 7
    assert done.stderr.count("error:") == 1


def test_output_stays_apart(there: Board) -> None:
    done = succeeded(on(there, "sh", "-c", "echo out; echo err >&2"))
    assert done.stdout == "out\n"
    assert done.stderr.splitlines()[-1] == "err"


def test_words_arrive_as_they_are(there: Board) -> None:
    words = ["a b", "", "'", '"', "$HOME", "$(id)", "`id`", "*", "\\", "a\nb", "-x", "--", "é", ";"]
    done = succeeded(on(there, "printf", r"%s\0", *words))
    assert done.stdout.split("\0")[:-1] == words


def test_it_runs_in_the_far_checkout(there: Board) -> None:
    done = succeeded(on(there, "sh", "-c", "pwd; cat; ls -d tests"))
    assert done.stdout == f"{there.folder}\ntests\n"


# What is refused, and what fails.


def test_only_riscv64_is_taken_without_asking(there: Board) -> None:
    done = on(there, "true", options=())
    if NATIVE:
        succeeded(done)
        return
    refused(done, 5, NAME, "not for RISC-V")
    assert not there.folder.exists()


def test_nobody_is_there(there: Board) -> None:
    there.stop()
    refused(on(there, "true"), 13, NAME, "Connection refused")


def test_another_host_key(there: Board) -> None:
    there.known_host(key(there.home.parent / "other").with_suffix(".pub"))
    refused(on(there, "true"), 13, NAME, "Host key verification failed")
    assert not there.folder.exists()


def test_an_unknown_host_key_is_not_taken(there: Board) -> None:
    known = there.config.parent / "known_hosts"
    known.write_text("")
    refused(on(there, "true"), 13, NAME, "Host key verification failed")
    assert known.read_text() == ""


def test_a_key_that_is_not_authorized(there: Board) -> None:
    (there.home.parent / "user_key.pub").write_text("")
    refused(on(there, "true"), 13, NAME, "Permission denied")


def test_without_rsync(there: Board, tmp_path: Path) -> None:
    there.start(PATH=path_with(tmp_path / "bin", "sh", "uname", "id", "env", "git", "python3"))
    refused(on(there, "true"), 3, f"{NAME} lacks rsync")
    assert not there.folder.exists()


def test_a_login_shell_that_talks(there: Board) -> None:
    shell = pwd.getpwuid(os.getuid()).pw_shell
    assert shell.endswith("bash"), f"bash reads ~/.bashrc for sshd, and this user has {shell}"
    (there.home / ".bashrc").write_text("echo Welcome to this board\n")
    refused(on(there, "true"), 13, "answers something else than a shell would")


def test_names_that_ssh_would_take_for_options(there: Board) -> None:
    trace = there.home / "trace"
    command = script(there.home / "command", f"touch {trace}")
    # By Invoke, which takes it for an option, or by us.
    for words in ([f"-oProxyCommand={command}"], ["--machine", f"-oProxyCommand={command}"]):
        assert there.project.invoke("on", *words, "--", "true").code in {1, 2}
        assert not trace.exists()


# What travels.


def test_what_travels(there: Board) -> None:
    project, far = there.project, there.folder
    succeeded(on(there, "true"))

    script(project.root / ".git" / "hooks" / "pre-push", "exit 1")
    project.git("config", "http.extraHeader", "secret")
    (project.root / "new folder").mkdir()
    (project.root / "new folder" / "é $x").write_text("new")
    (project.root / "link").symlink_to("README.md")
    (project.root / "run").write_text("#!/bin/sh\n")
    (project.root / "run").chmod(0o755)
    (project.root / "README.md").write_text("changed")
    (project.root / "pyproject.toml").unlink()
    (project.root / ".nox").mkdir()
    (project.root / ".nox" / "here").write_text("ignored")
    (project.dist / "here").mkdir(parents=True)
    kept = ["dist/linux-x/file", ".venv/file", ".mypy_cache/file"]
    for name in kept:
        (far / name).parent.mkdir(parents=True, exist_ok=True)
        (far / name).write_text("of the far side")
    (far / "stray").write_text("of nobody")
    untouched = (far / "LICENSE").stat()
    succeeded(on(there, "true"))
    assert (far / "new folder" / "é $x").read_text() == "new"
    assert (far / "link").readlink() == Path("README.md")
    assert (far / "run").stat().st_mode & stat.S_IXUSR
    assert (far / "README.md").read_text() == "changed"
    assert not (far / "pyproject.toml").exists()
    assert not (far / "stray").exists()
    assert not (far / ".nox").exists()
    assert not (far / "dist" / "here").exists()
    for name in kept:
        assert (far / name).read_text() == "of the far side"
    # Transferred only once.
    now = (far / "LICENSE").stat()
    assert (now.st_ino, now.st_ctime_ns) == (untouched.st_ino, untouched.st_ctime_ns)
    # Of git's own, nothing that may hold credentials or would be run there.
    assert not (far / ".git" / "config").exists()
    assert not (far / ".git" / "hooks").exists()
    assert "secret" not in "".join(p.read_text(errors="replace") for p in far.rglob("config"))
    # And yet it is the same checkout.
    there_says = succeeded(on(there, "git", "status", "--porcelain")).stdout
    assert there_says == project.git("status", "--porcelain")


def test_what_git_tracks_travels_even_where_it_is_ignored(there: Board) -> None:
    project = there.project
    for name in ("dist-info/x.egg-info/deep/file", "tests/__pycache__/kept"):
        (project.root / name).parent.mkdir(parents=True, exist_ok=True)
        (project.root / name).write_text("tracked")
        project.git("add", "--force", name)
    project.git("commit", "--quiet", "--message", "ignored and tracked")
    assert succeeded(on(there, "git", "status", "--porcelain")).stdout == ""
    assert (there.folder / "tests/__pycache__/kept").read_text() == "tracked"


# What ends.

TREE = "sleep 1000 & echo $!; (sleep 1000 & echo $!); echo $$; "


def far_pids(there: Board, run: Started) -> list[int]:
    """The processes that it says it has started, once it has."""
    said = there.folder / "pids"
    # rsync has no part in it: it is written there.
    assert eventually(
        lambda: (
            run.process.poll() is not None or (said.exists() and len(said.read_text().split()) == 3)
        )
    )
    assert run.process.poll() is None, run.said()
    pids = [int(word) for word in said.read_text().split()]
    assert all(map(alive, pids))
    return pids


def forget_sockets(project: Project) -> None:
    """What kill -9 gives nobody the time to remove: a folder with ssh's socket."""
    for left in Path(project.env["TMPDIR"]).glob("bk-*"):
        remove(left)


LONG = ("on", NAME, "--any-arch", "--", "sh", "-c", f"{{ {TREE} }} >pids; wait")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_what_runs_there_ends_with_us(there: Board, number: signal.Signals) -> None:
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


def test_a_connection_that_is_cut(there: Board) -> None:
    with there.project.started(*LONG) as run:
        pids = far_pids(there, run)
        there.cut()
        done = run.wait()
    refused(done, 13, f"no connection to {NAME}", "while the command ran")
    assert eventually(lambda: not any(map(alive, pids)))
    # And goes on.
    assert succeeded(on(there, "echo", "again")).stdout == "again\n"


def test_interrupted_while_it_compiles(there: Board, tmp_path: Path) -> None:
    """Nothing half-made is there either, and the next run goes on."""
    there.take_python()
    there.start(GOCACHE=str(tmp_path / "gocache"), TMPDIR=str(tmp_path))
    with there.project.started("on", NAME, "--any-arch", "--", "build-binaries") as run:
        run.wait_for(f"BuildKit {PINNED}")
        done = run.end(signal.SIGINT)
    assert done.code == 130
    # The far side says so too.
    assert done.stderr.splitlines()[-2].startswith("error: interrupted")
    assert not list((there.folder / "dist").glob("linux-*"))
    assert not list(there.project.dist.glob("linux-*"))
    succeeded(on(there, "build-binaries"))
    assert json.loads((there.project.target() / "manifest.json").read_text())
