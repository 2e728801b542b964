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

from buildkit_riscv64 import process, project
from buildkit_riscv64.errors import CheckError, MissingRequirementError, SourceError

from ..processes import BOUND, alive, eventually

Script = Callable[[str, str], Path]


def test_environment_is_a_short_list(monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert env.keys() <= {*process._INHERITED, "LC_ALL", "EXTRA"}


@pytest.mark.parametrize("timeout", [60.0, None])
def test_a_child_sees_that_environment_and_no_other(monkeypatch: pytest.MonkeyPatch, timeout: float | None) -> None:  # fmt: skip
    monkeypatch.setenv("SECRET", "leak")
    child = [sys.executable, "-c", "import os; print(os.environ.get('SECRET'))"]
    assert process.probe(child, timeout=timeout).stdout == "None\n"
    explicit = {"SECRET": "told"}
    assert process.probe(child, env=explicit, timeout=timeout).stdout == "told\n"


def test_our_own_tests_see_everything(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_no_shell_sees_the_arguments() -> None:
    assert process.probe(["printf", "%s", "$HOME; `id`"]).stdout == "$HOME; `id`"


def test_probe_reads_nothing_of_our_input() -> None:
    assert process.probe(["cat"]).stdout == ""


def test_probe_survives_bytes_that_are_no_text() -> None:
    assert process.probe(["printf", r"\377"]).stdout == "�"


def test_probe_ends_what_does_not_answer() -> None:
    answer = process.probe(["sleep", "1000"], timeout=0.05)
    assert answer == process.Result(124, "", "no answer within 0.05 s")


@pytest.mark.parametrize("timeout", [60.0, None])
def test_a_missing_command(timeout: float | None) -> None:
    with pytest.raises(MissingRequirementError, match="command not found: no-such") as caught:
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


def test_a_file_that_may_not_be_executed(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_text("#!/bin/sh\n")
    assert process.probe([path]).code == 126
    with pytest.raises(CheckError, match=r"failed \(exit code 126\): .*Permission denied"):
        process.read([path], error=CheckError)


def test_a_missing_folder_is_not_a_missing_command(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        process.probe(["true"], cwd=tmp_path / "none")
    assert not isinstance(caught.value, MissingRequirementError)
    with pytest.raises(FileNotFoundError):
        process.run(["true"], cwd=tmp_path / "none")


def test_read() -> None:
    assert process.read(["echo", "yes"]) == "yes\n"
    with pytest.raises(SourceError) as caught:
        process.read(["sh", "-c", "echo why >&2; exit 4"], error=SourceError, hint="do this")
    assert caught.value.brief == "`sh -c 'echo why >&2; exit 4'` failed (exit code 4): why"
    assert caught.value.hint == "do this"


def test_read_says_who_was_killed() -> None:
    with pytest.raises(SourceError, match="killed by SIGKILL"):
        process.read(["sh", "-c", "kill -9 $$"], error=SourceError)


def test_run_keeps_stdout_free(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    with os.fdopen(os.dup(2), "w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        process.run(["echo", "made"])
    seen = capfd.readouterr()
    assert (seen.out, seen.err) == ("", "made\n")


def test_run_dry(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    process.run(["touch", tmp_path / "a b"], dry=True)
    assert not (tmp_path / "a b").exists()
    assert capsys.readouterr().err == f"would run: touch '{tmp_path}/a b'\n"


def test_run_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    with os.fdopen(os.dup(2), "w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        with pytest.raises(CheckError) as caught:
            process.run(["sh", "-c", "exit 7"], error=CheckError, hint="look above")
        assert caught.value.brief == "`sh -c 'exit 7'` failed (exit code 7)"
        with pytest.raises(MissingRequirementError) as missing:
            process.run(["no-such"])
        assert missing.value.tool == "no-such"


def lines_of(text: str) -> tuple[int, list[str]]:
    lines: list[str] = []
    code = process.stream(["sh", "-c", text], lines.append)
    return code, lines


def test_stream_splits_lines() -> None:
    assert lines_of("printf 'a\\n\\nb c\\n'") == (0, ["a", "", "b c"])


def test_stream_hands_over_a_last_line_without_end() -> None:
    assert lines_of("printf 'a\\nb'") == (0, ["a", "b"])


def test_stream_joins_stdout_and_stderr_in_order() -> None:
    assert lines_of("echo 1; echo 2 >&2; echo 3") == (0, ["1", "2", "3"])


def test_stream_of_nothing() -> None:
    assert lines_of("exit 5") == (5, [])


def test_stream_joins_a_line_that_comes_in_pieces() -> None:
    code, lines = lines_of("printf a; sleep 0.05; printf 'b\\nc'; sleep 0.05; echo d")
    assert (code, lines) == (0, ["ab", "cd"])


def test_stream_takes_lines_larger_than_a_pipe() -> None:
    code, lines = lines_of("head -c 300000 /dev/zero | tr '\\0' x; echo; echo end")
    assert (code, [len(line) for line in lines]) == (0, [300000, 3])


def test_stream_says_which_signal() -> None:
    assert lines_of("echo a; kill -9 $$") == (-signal.SIGKILL, ["a"])


def test_stream_ticks_while_nothing_is_said() -> None:
    ticks: list[int] = []
    gate, door = os.pipe()

    def on_tick() -> None:
        ticks.append(1)
        if len(ticks) == 3:
            # Only now may the child end, so three ticks come whatever the machine's speed.
            os.close(door)

    with os.fdopen(gate, "rb"):
        code = process.stream(
            ["sh", "-c", f"read -r _ < /proc/{os.getpid()}/fd/{gate}; exit 6"],
            lambda _line: None, on_tick=on_tick, tick=0.01,
        )  # fmt: skip
    assert code == 6
    assert len(ticks) >= 3


def test_stream_of_a_missing_command() -> None:
    with pytest.raises(MissingRequirementError) as caught:
        process.stream(["no-such"], lambda _line: None)
    assert caught.value.tool == "no-such"


def test_stream_ends_the_command_when_a_line_is_bad() -> None:
    pids: list[int] = []

    def on_line(line: str) -> None:
        pids.append(int(line))
        raise ValueError("bad line")

    with pytest.raises(ValueError, match="bad line"):
        process.stream(["sh", "-c", "echo $$; exec sleep 1000"], on_line)
    assert eventually(lambda: not alive(pids[0]))


# A command with a child and a grandchild, each of which says its pid. Their
# output is closed, so that nobody waits for them to close it.
TREE = "sleep 1000 >/dev/null 2>&1 & echo $!; (sleep 1000 >/dev/null 2>&1 & echo $!); echo $$; "


def test_the_group_ends_with_the_block() -> None:
    with process.guarded(["sh", "-c", TREE + "exec sleep 1000"], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        pids = [int(child.stdout.readline()) for _ in range(3)]
        assert all(map(alive, pids))
        child.stdout.close()
    assert eventually(lambda: not any(map(alive, pids)))


def test_what_a_command_leaves_behind_ends_too() -> None:
    code, lines = lines_of(TREE + "exit 0")
    assert code == 0
    assert eventually(lambda: not any(alive(int(pid)) for pid in lines))


def test_a_command_that_ignores_requests_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "GRACE_SECONDS", 0.05)
    stubborn = "trap '' TERM INT HUP; echo ready; while :; do sleep 1000; done"
    with process.guarded(["sh", "-c", stubborn], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        child.stdout.close()
    assert child.returncode == -signal.SIGKILL


def test_a_command_may_clean_up(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    polite = f"trap 'echo cleaned > {trace}; exit 0' TERM; echo ready; while :; do sleep 0.01; done"
    with process.guarded(["sh", "-c", polite], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        child.stdout.close()
    assert trace.read_text() == "cleaned\n"


def test_a_stopped_group_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "GRACE_SECONDS", 0.05)
    with process.guarded(["sleep", "1000"]) as child:
        # As the terminal does to a background group that reads from it.
        os.killpg(os.getpgid(child.pid), signal.SIGSTOP)
    assert child.returncode in {-signal.SIGKILL, -signal.SIGTERM}


def test_the_block_lets_no_descriptor_leak() -> None:
    def descriptors() -> set[str]:
        return {path.name for path in Path("/proc/self/fd").iterdir()}

    with process.guarded(["true"]) as child:
        child.wait()
    before = descriptors()
    for _ in range(3):
        with process.guarded(["true"]) as child:
            child.wait()
        with contextlib.suppress(MissingRequirementError), process.guarded(["no-such"]):
            raise AssertionError
    assert descriptors() == before


GUARDIAN = """
import sys
from buildkit_riscv64 import process
sys.stdout.reconfigure(line_buffering=True)
process.stream(["sh", "-c", sys.argv[1] + "wait"], print)
"""


#: Whoever starts the tests by nohup has SIGHUP ignored, in all that they start.
HEARS_HANGUPS = ("env", "--default-signal=HUP")


def start_guardian() -> tuple[subprocess.Popen[str], list[int]]:
    """A Python of its own that runs the tree, and the tree's pids."""
    guardian = subprocess.Popen(
        [*HEARS_HANGUPS, sys.executable, "-c", GUARDIAN, TREE],
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
def test_groups_do_not_outlive_us(number: signal.Signals) -> None:
    guardian, pids = start_guardian()
    guardian.send_signal(number)
    _, said = guardian.communicate(timeout=BOUND)
    assert guardian.returncode == -number, said
    assert eventually(lambda: not any(map(alive, pids)))


def test_ctrl_c_ends_the_group() -> None:
    """As on a terminal: only we get the signal, for the group is not the terminal's."""
    pids: list[int] = []

    def on_line(line: str) -> None:
        pids.append(int(line))
        if len(pids) == 3:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        process.stream(["sh", "-c", TREE + "wait"], on_line)
    assert eventually(lambda: not any(map(alive, pids)))


def test_ctrl_c_while_we_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    with os.fdopen(os.dup(2), "w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        with pytest.raises(KeyboardInterrupt):
            process.run(["sh", "-c", f"sleep 0.5; kill -INT {os.getpid()}; exec sleep 1000"])


# What machines need.


def test_as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert process.as_root() == []
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(process, "which", lambda _name: Path("/usr/bin/sudo"))
    assert process.as_root() == ["sudo", "--preserve-env"]
    monkeypatch.setattr(process, "which", lambda _name: None)
    with pytest.raises(MissingRequirementError, match="needs root"):
        process.as_root()


def test_a_filter() -> None:
    data = bytes(range(256)) * 4096  # more than a pipe holds
    assert process.filtered(["cat"], data) == data


def test_a_filter_that_fails() -> None:
    with pytest.raises(CheckError) as caught:
        process.filtered(
            ["sh", "-c", "cat >/dev/null; echo why >&2; exit 3"], b"x", error=CheckError
        )
    assert "failed (exit code 3): why" in caught.value.brief
    with pytest.raises(MissingRequirementError):
        process.filtered(["no-such"], b"")


def test_a_filter_works_in_a_folder(tmp_path: Path) -> None:
    assert process.filtered(["pwd"], b"", cwd=tmp_path) == f"{tmp_path}\n".encode()


def test_attached_passes_output_and_code(capfd: pytest.CaptureFixture[str]) -> None:
    assert process.attached(["sh", "-c", "echo out; echo err >&2; exit 7"]) == 7
    assert process.attached(["sh", "-c", "kill -9 $$"]) == -signal.SIGKILL
    assert capfd.readouterr() == ("out\n", "err\n")


def test_attached_keeps_the_input_open() -> None:
    """What waits for its end waits as long as we do; here until it is interrupted."""
    still = "cat & sleep 0.3; kill -0 $! && exit 5"
    # In the background a shell's own input is /dev/null, so cat gets ours by name.
    assert process.attached(["sh", "-c", f"exec 3<&0; {still.replace('cat', 'cat <&3')}"]) == 5


def test_attached_lets_a_command_end_by_itself(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    # Once we wait: one that came right before would be seen only after it.
    command = f"sleep 0.5; kill -INT {os.getpid()}; cat; echo closed >{trace}"
    with pytest.raises(KeyboardInterrupt):
        process.attached(["sh", "-c", command])
    assert trace.read_text() == "closed\n"


def test_attached_ends_what_does_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(process, "REMOTE_GRACE_SECONDS", 0.05)
    pid = tmp_path / "pid"
    command = f"echo $$ >{pid}; sleep 0.5; kill -INT {os.getpid()}; exec sleep 1000"
    with pytest.raises(KeyboardInterrupt):
        process.attached(["sh", "-c", command])
    assert eventually(lambda: not alive(int(pid.read_text())))


def test_attached_lets_no_descriptor_leak() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        process.attached(["true"])
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_which_finds_what_is_the_administrators(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:  # fmt: skip
    monkeypatch.setenv("PATH", str(tmp_path))
    assert process.which("no-such") is None
    assert process.which("chroot") == Path("/usr/sbin/chroot")


# What images need.


@pytest.mark.parametrize(
    ("user", "words"), [(0, []), (1000, ["--user", "--map-root-user", "--map-auto"])]
)
def test_namespaced(monkeypatch: pytest.MonkeyPatch, user: int, words: list[str]) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    assert process.namespaced() == [
        "unshare", *words, "--mount", "--pid", "--fork", "--kill-child=SIGKILL", "--mount-proc",
    ]  # fmt: skip


def test_children() -> None:
    with process.guarded(["sh", "-c", TREE + "wait"], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        with child.stdout:
            own, _grandchild, parent = (int(child.stdout.readline()) for _ in range(3))
        assert parent == child.pid
        assert process.children(parent) == [own]
        assert process.children(own) == []
    assert process.children(child.pid) == []


def test_children_of_a_thread() -> None:
    """As those of Go programs are: the kernel lists them by who forked."""
    started, over = threading.Event(), threading.Event()
    child: list[subprocess.Popen[bytes]] = []

    def fork() -> None:
        child.append(subprocess.Popen(["sleep", "60"]))
        started.set()
        over.wait()

    thread = threading.Thread(target=fork)
    thread.start()
    try:
        assert started.wait(10)
        assert child[0].pid in process.children(os.getpid())
    finally:
        child[0].kill()
        child[0].wait()
        over.set()
        thread.join()


@pytest.fixture
def left(tmp_path: Path) -> Path:
    """What shows that the commands were run; its name is not easy to quote."""
    return tmp_path / "a $HOME 'b'"


def test_what_ends_by_itself_needs_nothing_afterwards(left: Path) -> None:
    with process.afterwards([["touch", left]]):
        pass
    assert not left.exists()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_what_fails_cleans_up_itself(left: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), process.afterwards([["touch", left]]):
        raise error
    assert not left.exists()


KILLED = """
import sys
from buildkit_riscv64 import process
with process.afterwards([["false"], ["touch", sys.argv[1]]]):
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_what_is_killed_is_cleaned_up_after(left: Path, number: signal.Signals) -> None:
    killed = subprocess.Popen(
        [*HEARS_HANGUPS, sys.executable, "-c", KILLED, left],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(project.ROOT)},
        process_group=0,
    )
    with killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == b"ready\n"
        assert not left.exists()
        os.killpg(killed.pid, number)  # as a terminal or a supervisor: all of us
    assert killed.returncode == -number
    assert eventually(left.exists)


def test_afterwards_lets_no_descriptor_and_no_child_leak() -> None:
    def ours() -> tuple[int, list[int]]:
        return len(list(Path("/proc/self/fd").iterdir())), process.children(os.getpid())

    before = ours()
    with process.afterwards([["false"]]):
        pass
    assert ours() == before


def test_somebody_ends_what_would_have_cleaned_up() -> None:
    before = process.children(os.getpid())
    with process.afterwards([["false"]]):
        (watch,) = set(process.children(os.getpid())) - set(before)
        os.kill(watch, signal.SIGKILL)
        assert eventually(lambda: not alive(watch))
