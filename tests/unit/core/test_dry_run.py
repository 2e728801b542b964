from __future__ import annotations

import contextlib
import http.client
import http.server
import os
import shutil
import sqlite3
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from buildkit_riscv64.core import dry_run, process
from buildkit_riscv64.core.errors import Failure
from buildkit_riscv64.validation.environment.waiting import BOUND

Change = Callable[[Path], object]


def write(path: Path) -> None:
    with path.open("r+") as file:
        file.write("x")


CHANGES: dict[str, Change] = {
    "append": lambda directory: (directory / "file").open("a").close(),
    "chmod": lambda directory: (directory / "file").chmod(0o600),
    "chown": lambda directory: os.chown(directory / "file", os.getuid(), os.getgid()),
    "copy": lambda directory: shutil.copy(directory / "file", directory / "copy"),
    "create": lambda directory: (directory / "new").touch(),
    "descriptor": lambda directory: os.close(os.open(directory / "new", os.O_CREAT | os.O_RDONLY)),
    "link": lambda directory: (directory / "new").hardlink_to(directory / "file"),
    "mkdir": lambda directory: (directory / "new").mkdir(),
    "move": lambda directory: shutil.move(directory / "file", directory / "new"),
    "move out of a temporary directory": lambda directory: Path(
        tempfile.mkdtemp(), "x"
    ).rename(directory / "new"),
    "remove": lambda directory: (directory / "file").unlink(),
    "rmdir": lambda directory: (directory / "empty").rmdir(),
    "rmtree": shutil.rmtree,
    "rmtree that ignores errors": lambda directory: shutil.rmtree(directory, ignore_errors=True),
    "sqlite": lambda directory: sqlite3.connect(directory / "new").close(),
    "symlink": lambda directory: (directory / "new").symlink_to("file"),
    "temporary directory elsewhere": lambda directory: tempfile.mkdtemp(dir=directory),
    "truncate": lambda directory: os.truncate(directory / "file", 0),
    "update": lambda directory: write(directory / "file"),
    "utime": lambda directory: os.utime(directory / "file", (0, 0)),
    "write": lambda directory: (directory / "file").write_text("x"),
}  # fmt: skip


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory outside the temporary directories."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    directory = tmp_path / "directory"
    (directory / "empty").mkdir(parents=True)
    (directory / "file").write_text("content")
    monkeypatch.chdir(directory)
    return directory


def state(directory: Path) -> dict[str, tuple[int, int, str]]:
    return {
        str(path): (path.lstat().st_mtime_ns, path.lstat().st_mode, path.read_text() if path.is_file() else "")
        for path in [directory.parent, *directory.rglob("*")]
    }  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_file_changes_are_refused(directory: Path, change: str) -> None:
    before = state(directory)
    with dry_run.running(dry=True), pytest.raises(Failure, match="--dry"):
        CHANGES[change](directory)
    assert state(directory) == before


@pytest.mark.parametrize(
    "change", CHANGES.keys() - {"append", "chown", "move out of a temporary directory"}
)
def test_without_dry_file_changes_are_allowed(directory: Path, change: str) -> None:
    before = state(directory)
    with dry_run.running(dry=False):
        CHANGES[change](directory)
    assert state(directory) != before


def test_relative_paths_are_refused(directory: Path) -> None:
    with dry_run.running(dry=True), pytest.raises(Failure, match="--dry"):
        Path("file").unlink()


@pytest.mark.parametrize(
    "start",
    [
        lambda: subprocess.run(["true"], check=False),
        lambda: os.system("true"),
        lambda: os.posix_spawn("/bin/true", ["true"], {}),
        lambda: process.stream(["true"], print),
        lambda: process.attached(["true"]),
        lambda: process.probe(["true"], changes=True),
        lambda: process.read(["true"], timeout=None, changes=True),
        lambda: os.kill(os.getppid(), 18),
        lambda: process.child_process(["true"]).__enter__(),
        lambda: process.run_if_killed([["true"]]).__enter__(),
    ],
)
def test_processes_are_refused(start: Callable[[], object]) -> None:
    with dry_run.running(dry=True), pytest.raises(Failure, match="--dry"):
        start()


def test_processes_that_only_read_are_allowed(directory: Path) -> None:
    with dry_run.running(dry=True):
        assert process.read(["cat", directory / "file"]) == "content"
        # Without a timeout, the command runs in its own process group.
        assert process.read(["cat", directory / "file"], timeout=None) == "content"
        assert process.probe(["sleep", "1000"], timeout=0.1).code == 124
        with pytest.raises(Failure, match="--dry"):
            subprocess.run(["true"], check=False)


def test_reading_is_allowed(directory: Path) -> None:
    with dry_run.running(dry=True):
        assert (directory / "file").read_text() == "content"
        assert sorted(directory.iterdir())
        with open(os.devnull, "w") as nothing:  # noqa: PTH123
            nothing.write("x")
        os.kill(os.getpid(), 0)
        with contextlib.closing(sqlite3.connect(":memory:")) as memory:
            assert memory.execute("select 1").fetchone() == (1,)


def test_temporary_directories_are_allowed(directory: Path) -> None:
    with dry_run.running(dry=True):
        with tempfile.TemporaryDirectory() as name:
            inside = Path(name) / "a" / "b"
            inside.mkdir(parents=True)
            (inside / "file").write_text("x")
            (inside / "file").rename(inside / "other")
            os.link(directory / "file", inside / "linked")
        assert not Path(name).exists()
        with tempfile.TemporaryFile() as file:
            file.write(b"x")
        with tempfile.NamedTemporaryFile() as file:
            file.write(b"x")
    assert list(Path(tempfile.gettempdir()).iterdir()) == []


def test_older_temporary_directories_are_refused(directory: Path) -> None:
    another = Path(tempfile.mkdtemp())
    with dry_run.running(dry=True), pytest.raises(Failure, match="--dry"):
        (another / "file").touch()


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """An HTTP server, and the methods of its requests."""
    methods: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            methods.append(self.command)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_POST = do_PUT = do_HEAD = do_DELETE = do_PATCH = do_GET  # noqa: N815

        def log_message(self, *_args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}", methods
        listening.shutdown()
        thread.join()


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_requests_that_change_something_are_refused(
    server: tuple[str, list[str]], method: str
) -> None:
    address, methods = server
    direct = http.client.HTTPConnection(address.removeprefix("http://"))
    with dry_run.running(dry=True), requests.Session() as session, contextlib.closing(direct):
        assert session.get(address, timeout=BOUND).ok
        assert session.head(address, timeout=BOUND).ok
        with pytest.raises(Failure, match=f"HTTP request {method}"):
            session.request(method, address, json={"a": 1}, timeout=BOUND)
        with pytest.raises(Failure, match=f"HTTP request {method}"):
            direct.request(method, "/", b"x")
    assert methods == ["GET", "HEAD"]


def test_a_dry_run_ends(directory: Path) -> None:
    with contextlib.suppress(ZeroDivisionError), dry_run.running(dry=True):
        assert dry_run.active()
        raise ZeroDivisionError
    assert not dry_run.active()
    (directory / "file").unlink()
