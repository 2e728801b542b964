from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from buildkit_riscv64.core import dry_run, process, project
from buildkit_riscv64.core.errors import CheckError, MissingRequirementError, SourceError
from buildkit_riscv64.validation.environment.waiting import BOUND, alive, eventually

Script = Callable[[str, str], Path]


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GOFLAGS", "GOARCH", "CC", "LD_PRELOAD", "GIT_DIR", "PYTHONPATH", "SECRET"):
        monkeypatch.setenv(name, "leak")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    env = process.environment({"EXTRA": "1"})
    assert "leak" not in env.values()
    assert env["LC_ALL"] == "C.UTF-8"
    assert env["https_proxy"] == "http://proxy:3128"
    assert env["PATH"] == os.environ["PATH"]
    assert env["EXTRA"] == "1"
    assert env.keys() <= {*process._INHERITED, "LC_ALL", "EXTRA", "SUDO_UID"}


def test_relative_directories_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """The specification requires it; Go refuses a relative path."""
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("XDG_CONFIG_HOME", "/absolute")
    env = process.environment()
    assert "XDG_CACHE_HOME" not in env
    assert env["XDG_CONFIG_HOME"] == "/absolute"


def test_as_root_git_trusts_the_checkout_and_sudos_user(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("SUDO_UID", raising=False)
    monkeypatch.setattr(project, "ROOT", tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "SUDO_UID" not in process.environment()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert process.environment()["SUDO_UID"] == str(tmp_path.stat().st_uid)
    monkeypatch.setenv("SUDO_UID", "1234")
    assert process.environment()["SUDO_UID"] == "1234"


@pytest.mark.parametrize("timeout", [60.0, None])
def test_a_child_gets_only_that_environment(
    monkeypatch: pytest.MonkeyPatch, timeout: float | None
) -> None:
    monkeypatch.setenv("SECRET", "leak")
    child = [sys.executable, "-c", "import os; print(os.environ.get('SECRET'))"]
    assert process.probe(child, timeout=timeout).stdout == "None\n"
    explicit = {"SECRET": "reported"}
    assert process.probe(child, env=explicit, timeout=timeout).stdout == "reported\n"


def test_whole_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "seen")
    assert process.whole_environment()["SECRET"] == "seen"


def test_show_quotes() -> None:
    assert process.show(["a b", Path("/c"), "$d"]) == "'a b' /c '$d'"


@pytest.mark.parametrize(
    ("code", "text"),
    [(0, "exit code 0"), (2, "exit code 2"), (-9, "killed by SIGKILL"), (-200, "killed by signal 200")],
)  # fmt: skip
def test_describe_exit(code: int, text: str) -> None:
    assert process.describe_exit(code) == text


def test_last_line_is_the_reason() -> None:
    assert process.Result(1, "out\n", "first\n last \n\n").last_line == "last"
    assert process.Result(1, "out\nend\n", " \n").last_line == "end"
    assert process.Result(1, "", "").last_line == ""


@pytest.mark.parametrize("timeout", [60.0, None])
def test_probe_captures(timeout: float | None) -> None:
    answer = process.probe(["sh", "-c", "echo out; echo err >&2; exit 3"], timeout=timeout)
    assert answer == process.Result(3, "out\n", "err\n")
    assert not answer.ok


def test_no_shell_interprets_the_arguments() -> None:
    assert process.probe(["printf", "%s", "$HOME; `id`"]).stdout == "$HOME; `id`"


def test_probe_has_no_input() -> None:
    assert process.probe(["cat"]).stdout == ""


def test_probe_decodes_invalid_bytes() -> None:
    assert process.probe(["printf", r"\377"]).stdout == "�"


def test_probe_times_out() -> None:
    answer = process.probe(["sleep", "1000"], timeout=0.05)
    assert answer == process.Result(124, "", "no answer within 0.05 s")


@pytest.mark.parametrize("timeout", [60.0, None])
def test_a_missing_command(timeout: float | None) -> None:
    with pytest.raises(MissingRequirementError, match="no-such") as caught:
        process.probe(["no-such", "x"], timeout=timeout)
    assert caught.value.tool == "no-such"


@pytest.mark.parametrize("timeout", [60.0, None])
@pytest.mark.parametrize(
    "content",
    ["#!/no/such/interpreter\n", "not a program", "\x7fELF garbage"],
    ids=["interpreter", "text", "architecture"],
)
def test_a_file_that_cannot_be_executed(
    script: Script, content: str, timeout: float | None
) -> None:
    path = script("program", "")
    path.write_text(content)
    answer = process.probe([path], timeout=timeout)
    assert answer.code == 126
    assert f"{path}: cannot be executed: " in answer.stderr


def test_a_file_without_execute_permission(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_text("#!/bin/sh\n")
    assert process.probe([path]).code == 126
    with pytest.raises(CheckError, match=r"\b126\b.*Permission denied"):
        process.read([path], error=CheckError)


def test_a_missing_directory_is_not_a_missing_command(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        process.probe(["true"], cwd=tmp_path / "none")
    assert not isinstance(caught.value, MissingRequirementError)
    with pytest.raises(FileNotFoundError):
        process.run(["true"], cwd=tmp_path / "none")


def test_read() -> None:
    assert process.read(["echo", "yes"]) == "yes\n"
    with pytest.raises(SourceError) as caught:
        process.read(["sh", "-c", "echo why >&2; exit 4"], error=SourceError, hint="do this")
    assert all(fact in caught.value.brief for fact in ("echo why", "exit code 4", ": why"))
    assert caught.value.hint == "do this"


def test_read_reports_the_signal() -> None:
    with pytest.raises(SourceError, match="killed by SIGKILL"):
        process.read(["sh", "-c", "kill -9 $$"], error=SourceError)


def test_run_keeps_stdout_free(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with os.fdopen(os.dup(2), "w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        process.run(["echo", "made"])
    seen = capfd.readouterr()
    assert (seen.out, seen.err) == ("", "made\n")


def test_run_dry(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for verb in (process.run, process.replace):
        with dry_run.running(dry=True):
            verb(["touch", tmp_path / "a b"])
        assert not (tmp_path / "a b").exists()
        assert capsys.readouterr().err == f"would run: touch '{tmp_path}/a b'\n"


def test_run_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    with os.fdopen(os.dup(2), "w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        with pytest.raises(CheckError, match=r"sh -c .*exit 7.*exit code 7"):
            process.run(["sh", "-c", "exit 7"], error=CheckError, hint="look above")
        with pytest.raises(MissingRequirementError) as missing:
            process.run(["no-such"])
        assert missing.value.tool == "no-such"


def lines_of(text: str) -> tuple[int, list[str]]:
    lines: list[str] = []
    code = process.stream(["sh", "-c", text], lines.append)
    return code, lines


def test_stream_splits_lines() -> None:
    assert lines_of("printf 'a\\n\\nb c\\n'") == (0, ["a", "", "b c"])


def test_stream_passes_on_a_last_line_without_end() -> None:
    assert lines_of("printf 'a\\nb'") == (0, ["a", "b"])


def test_stream_joins_stdout_and_stderr_in_order() -> None:
    assert lines_of("echo 1; echo 2 >&2; echo 3") == (0, ["1", "2", "3"])


def test_stream_without_output() -> None:
    assert lines_of("exit 5") == (5, [])


def test_stream_joins_a_line_that_comes_in_pieces() -> None:
    code, lines = lines_of("printf a; sleep 0.05; printf 'b\\nc'; sleep 0.05; echo d")
    assert (code, lines) == (0, ["ab", "cd"])


def test_stream_takes_lines_larger_than_a_pipe() -> None:
    code, lines = lines_of("head -c 300000 /dev/zero | tr '\\0' x; echo; echo end")
    assert (code, [len(line) for line in lines]) == (0, [300000, 3])


def test_stream_returns_the_signal() -> None:
    assert lines_of("echo a; kill -9 $$") == (-signal.SIGKILL, ["a"])


def test_stream_ticks_without_output() -> None:
    ticks: list[int] = []
    reader, writer = os.pipe()

    def on_tick() -> None:
        ticks.append(1)
        if len(ticks) == 3:
            # Only now may the child end, so three ticks come whatever the machine's speed.
            os.close(writer)

    with os.fdopen(reader, "rb"):
        code = process.stream(
            ["sh", "-c", f"read -r _ < /proc/{os.getpid()}/fd/{reader}; exit 6"],
            lambda _line: None, on_tick=on_tick, tick=0.01,
        )  # fmt: skip
    assert code == 6
    assert len(ticks) >= 3


def test_stream_of_a_missing_command() -> None:
    with pytest.raises(MissingRequirementError) as caught:
        process.stream(["no-such"], lambda _line: None)
    assert caught.value.tool == "no-such"


def test_stream_ends_the_command_when_on_line_fails() -> None:
    pids: list[int] = []

    def on_line(line: str) -> None:
        pids.append(int(line))
        raise ValueError("bad line")

    with pytest.raises(ValueError, match="bad line"):
        process.stream(["sh", "-c", "echo $$; exec sleep 1000"], on_line)
    assert eventually(lambda: not alive(pids[0]))


# A command with a child and a grandchild, each of which prints its PID. Their output is closed,
# so that no reader waits for its end.
TREE = "sleep 1000 >/dev/null 2>&1 & echo $!; (sleep 1000 >/dev/null 2>&1 & echo $!); echo $$; "


def test_the_group_ends_with_the_block() -> None:
    with process.child_process(
        ["sh", "-c", TREE + "exec sleep 1000"], stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        pids = [int(child.stdout.readline()) for _ in range(3)]
        assert all(map(alive, pids))
        child.stdout.close()
    assert eventually(lambda: not any(map(alive, pids)))


def test_background_processes_end_with_the_block() -> None:
    code, lines = lines_of(TREE + "exit 0")
    assert code == 0
    assert eventually(lambda: not any(alive(int(pid)) for pid in lines))


def test_a_command_that_ignores_sigterm_is_killed() -> None:
    stubborn = "trap '' TERM INT HUP; echo ready; while :; do sleep 1000; done"
    with process.child_process(["sh", "-c", stubborn], stdout=subprocess.PIPE, grace=0.05) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        child.stdout.close()
    assert child.returncode == -signal.SIGKILL


def test_a_command_can_clean_up(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    tidy = f"trap 'echo cleaned > {trace}; exit 0' TERM; echo ready; while :; do sleep 0.01; done"
    with process.child_process(["sh", "-c", tidy], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        child.stdout.close()
    assert trace.read_text() == "cleaned\n"


def test_a_stopped_group_is_killed() -> None:
    with process.child_process(["sleep", "1000"], grace=0.05) as child:
        # As the terminal does to a background group that reads from it.
        os.killpg(os.getpgid(child.pid), signal.SIGSTOP)
    assert child.returncode in {-signal.SIGKILL, -signal.SIGTERM}


def test_child_process_leaks_no_descriptor() -> None:
    def descriptors() -> set[str]:
        return {path.name for path in Path("/proc/self/fd").iterdir()}

    with process.child_process(["true"]) as child:
        child.wait()
    before = descriptors()
    for _ in range(3):
        with process.child_process(["true"]) as child:
            child.wait()
        with contextlib.suppress(MissingRequirementError), process.child_process(["no-such"]):
            raise AssertionError
    assert descriptors() == before


GUARDIAN = """
import sys
from buildkit_riscv64.core import process
sys.stdout.reconfigure(line_buffering=True)
process.stream(["sh", "-c", sys.argv[1] + "wait"], print)
"""


#: Restores SIGHUP, which nohup ignores for the tests and their children.
DEFAULT_HANGUP = ("env", "--default-signal=HUP")


def start_guardian() -> tuple[subprocess.Popen[str], list[int]]:
    """A separate Python that runs the tree, and the PIDs of the tree."""
    guardian = subprocess.Popen(
        [*DEFAULT_HANGUP, sys.executable, "-c", GUARDIAN, TREE],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(project.ROOT)},
    )
    assert guardian.stdout is not None
    pids = [int(guardian.stdout.readline()) for _ in range(3)]
    assert all(map(alive, pids))
    return guardian, pids


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_groups_end_with_this_process(number: signal.Signals) -> None:
    guardian, pids = start_guardian()
    guardian.send_signal(number)
    _, output = guardian.communicate(timeout=BOUND)
    assert guardian.returncode == -number, output
    assert eventually(lambda: not any(map(alive, pids)))


def test_ctrl_c_ends_the_group() -> None:
    """On a terminal, only our process gets the signal."""
    pids: list[int] = []

    def on_line(line: str) -> None:
        pids.append(int(line))
        if len(pids) == 3:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        process.stream(["sh", "-c", TREE + "wait"], on_line)
    assert eventually(lambda: not any(map(alive, pids)))


#: A shell script that waits until our process sleeps in each of three samples: a signal before
#: that would only be handled later.
ONCE_WE_WAIT = f"""seen=0
until [ $seen = 3 ]; do
    sleep 0.1
    grep -q '^State:.S' /proc/{os.getpid()}/status && seen=$((seen + 1)) || seen=0
done
"""
INTERRUPT = f"{ONCE_WE_WAIT}kill -INT {os.getpid()}"


def test_ctrl_c_during_run(monkeypatch: pytest.MonkeyPatch) -> None:
    with os.fdopen(os.dup(2), "w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        with pytest.raises(KeyboardInterrupt):
            process.run(["sh", "-c", f"{INTERRUPT}; exec sleep 1000"])


# For machines.


def test_as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert process.as_root() == []
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(process, "which", lambda _name: Path("/usr/bin/sudo"))
    assert process.as_root() == ["sudo", "--preserve-env"]
    monkeypatch.setattr(process, "which", lambda _name: None)
    with pytest.raises(MissingRequirementError, match="needs root"):
        process.as_root()


def test_pipe_through() -> None:
    data = bytes(range(256)) * 4096  # more than a pipe holds
    assert process.pipe_through(["cat"], data) == data


def test_a_failing_filter() -> None:
    with pytest.raises(CheckError) as caught:
        process.pipe_through(
            ["sh", "-c", "cat >/dev/null; echo why >&2; exit 3"], b"x", error=CheckError
        )
    assert "failed (exit code 3): why" in caught.value.brief
    with pytest.raises(MissingRequirementError):
        process.pipe_through(["no-such"], b"")


def test_a_filter_in_a_directory(tmp_path: Path) -> None:
    assert process.pipe_through(["pwd"], b"", cwd=tmp_path) == f"{tmp_path}\n".encode()


def test_attached_passes_output_and_code(capfd: pytest.CaptureFixture[str]) -> None:
    assert process.attached(["sh", "-c", "echo out; echo err >&2; exit 7"]) == 7
    assert process.attached(["sh", "-c", "kill -9 $$"]) == -signal.SIGKILL
    assert capfd.readouterr() == ("out\n", "err\n")


def test_attached_keeps_the_input_open() -> None:
    """A command that reads its input to the end does not end before us."""
    still = "cat & sleep 0.3; kill -0 $! && exit 5"
    # In the background a shell's own input is /dev/null, so cat gets ours by name.
    assert process.attached(["sh", "-c", f"exec 3<&0; {still.replace('cat', 'cat <&3')}"]) == 5


def test_attached_lets_a_command_end_by_itself(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    command = f"{INTERRUPT}; cat; echo closed >{trace}"
    with pytest.raises(KeyboardInterrupt):
        process.attached(["sh", "-c", command])
    assert trace.read_text() == "closed\n"


def test_attached_kills_a_command_that_does_not_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(process, "REMOTE_GRACE_SECONDS", 0.05)
    pid = tmp_path / "pid"
    command = f"echo $$ >{pid}; {INTERRUPT}; exec sleep 1000"
    with pytest.raises(KeyboardInterrupt):
        process.attached(["sh", "-c", command])
    assert eventually(lambda: not alive(int(pid.read_text())))


def test_attached_leaks_no_descriptor() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        process.attached(["true"])
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_which_searches_sbin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert process.which("no-such") is None
    assert process.which("chroot") == Path("/usr/sbin/chroot")


# For images.


@pytest.mark.parametrize(
    ("user", "words"), [(0, []), (1000, ["--user", "--map-root-user", "--map-auto"])]
)
def test_namespaced(monkeypatch: pytest.MonkeyPatch, user: int, words: list[str]) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    assert process.namespaced() == [
        "unshare", *words, "--mount", "--pid", "--fork", "--kill-child=SIGKILL", "--mount-proc",
    ]  # fmt: skip


def test_children() -> None:
    with process.child_process(["sh", "-c", TREE + "wait"], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        with child.stdout:
            own, _grandchild, parent = (int(child.stdout.readline()) for _ in range(3))
        assert parent == child.pid
        assert process.children(parent) == [own]
        assert process.children(own) == []
    assert process.children(child.pid) == []


def test_children_of_a_thread() -> None:
    """The kernel lists children by the thread that forked, as in Go programs."""
    started, over = threading.Event(), threading.Event()
    child: list[subprocess.Popen[bytes]] = []

    def fork() -> None:
        child.append(subprocess.Popen(["sleep", "1000"]))
        started.set()
        over.wait()

    thread = threading.Thread(target=fork)
    thread.start()
    try:
        assert started.wait(BOUND)
        assert child[0].pid in process.children(os.getpid())
    finally:
        child[0].kill()
        child[0].wait()
        over.set()
        thread.join()


@pytest.fixture
def left(tmp_path: Path) -> Path:
    """The file that the commands create; its name needs quoting."""
    return tmp_path / "a $HOME 'b'"


def test_run_if_killed_after_success(left: Path) -> None:
    with process.run_if_killed([["touch", left]]):
        pass
    assert not left.exists()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_run_if_killed_after_a_failure(left: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), process.run_if_killed([["touch", left]]):
        raise error
    assert not left.exists()


KILLED = """
import sys
from buildkit_riscv64.core import process
with process.run_if_killed([["false"], ["touch", sys.argv[1]]]):
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_run_if_killed_after_a_signal(left: Path, number: signal.Signals) -> None:
    killed = subprocess.Popen(
        [*DEFAULT_HANGUP, sys.executable, "-c", KILLED, left],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(project.ROOT)},
        process_group=0,
    )
    with killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == b"ready\n"
        assert not left.exists()
        os.killpg(killed.pid, number)  # the whole group, as a terminal or a supervisor does
    assert killed.returncode == -number
    assert eventually(left.exists)


def test_run_if_killed_leaks_nothing() -> None:
    def ours() -> tuple[int, list[int]]:
        return len(list(Path("/proc/self/fd").iterdir())), process.children(os.getpid())

    before = ours()
    with process.run_if_killed([["false"]]):
        pass
    assert ours() == before


def test_run_if_killed_survives_a_killed_watch() -> None:
    before = process.children(os.getpid())
    with process.run_if_killed([["false"]]):
        (watch,) = set(process.children(os.getpid())) - set(before)
        os.kill(watch, signal.SIGKILL)
        assert eventually(lambda: not alive(watch))
