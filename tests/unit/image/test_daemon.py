from __future__ import annotations

import fcntl
import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from buildkit_riscv64 import process, project
from buildkit_riscv64.errors import BuildError
from buildkit_riscv64.image import daemon

from ...processes import BOUND, alive, eventually

Script = Callable[[str, str], Path]

# Says what it was given, serves until it is asked to end, and then tells so.
SERVES = """\
echo "$XDG_RUNTIME_DIR" >"$0.runtime"
echo "$@" >"$0.flags"
echo $$ >"$0.pid"
trap 'echo ended >"$0.ended"; exit 0' TERM
touch "$0.socket"
for flag; do case $flag in --addr=unix://*) touch "${flag#--addr=unix://}" ;; esac; done
while :; do sleep 0.02; done
"""
# Answers as soon as that serves.
ASKS = """\
echo "$@" >"$0.flags"
[ -e "$(dirname "$0")/buildkitd.socket" ]
"""
# As unshare: whoever signals it ends all it has started, at once.
UNSHARE = '"$@" & child=$!; trap "kill -KILL $child; exit 137" TERM; wait $child'


@pytest.fixture(params=[0, 1000], ids=["root", "user"])
def user(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(os, "geteuid", lambda: request.param)
    return int(request.param)


@pytest.fixture
def binaries(script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A daemon that serves, and a client."""
    script("bin/buildkitd", SERVES)
    script("bin/buildctl", ASKS)
    unshare = script("unshare", UNSHARE)
    monkeypatch.setattr(process, "namespaced", lambda: [str(unshare)])
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path / "bin"


pytestmark = pytest.mark.usefixtures("provided")


def said(binaries: Path, name: str) -> str:
    return (binaries / name).read_text().strip()


def gone(binaries: Path) -> bool:
    """Nothing of it is left."""
    pid = int(said(binaries, "buildkitd.pid"))
    return eventually(lambda: not alive(pid)) and not list(Path(tempfile.gettempdir()).iterdir())


def test_a_daemon_on_a_socket_of_its_own(binaries: Path, user: int) -> None:
    with daemon.running(binaries, yes=False) as address:
        (folder,) = Path(tempfile.gettempdir()).iterdir()
        assert address == f"unix://{folder}/buildkitd.sock"
        assert folder.stat().st_mode & 0o777 == 0o700
        state = project.cache() / "buildkitd"
        assert said(binaries, "buildkitd.flags").split() == [
            f"--root={state}", f"--addr={address}", f"--otel-socket-path={folder}/otel.sock",
            "--containerd-worker=false", "--oci-worker-net=host", *(["--rootless"] if user else []),
        ]  # fmt: skip
        assert said(binaries, "buildkitd.runtime") == str(folder)
        assert said(binaries, "buildctl.flags") == f"--addr {address} debug workers"
        assert state.is_dir()
    assert gone(binaries)


def test_what_it_needs_is_there_or_installed(binaries: Path, user: int, provided: list[object]) -> None:  # fmt: skip
    with daemon.running(binaries, yes=True):
        assert provided == [(["runc", *(["newuidmap"] if user else [])], True)]


@pytest.mark.parametrize("error", [None, KeyboardInterrupt, BuildError])
def test_it_is_asked_to_end_and_has_time_for_it(binaries: Path, error: type[BaseException] | None) -> None:  # fmt: skip
    """Not by the way of unshare, which would end it at once."""

    def use() -> None:
        with daemon.running(binaries, yes=False):
            if error:
                raise error("x")

    if error:
        with pytest.raises(error):
            use()
    else:
        use()
    assert said(binaries, "buildkitd.ended") == "ended"
    assert gone(binaries)


def test_what_does_not_end_is_ended(binaries: Path, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    script("bin/buildkitd", SERVES.replace('echo ended >"$0.ended"; exit 0', ":"))
    monkeypatch.setattr(daemon, "STOP_SECONDS", 0.05)
    with daemon.running(binaries, yes=False):
        pass
    assert gone(binaries)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("echo first; echo buildkitd: no worker found; echo github.com/moby/x.go:5", "buildkitd: no worker found"),
        ("echo first; echo last >&2", "last"),
        ("echo buildkitd: first; echo buildkitd: second", "buildkitd: second"),
        ("", "no word"),
    ],
)  # fmt: skip
def test_a_daemon_that_ends_at_once(binaries: Path, script: Script, capsys: pytest.CaptureFixture[str], words: str, reason: str) -> None:  # fmt: skip
    script("bin/buildkitd", f"echo $$ >$0.pid; {words}\nexit 1")
    with pytest.raises(BuildError) as caught, daemon.running(binaries, yes=False):
        pytest.fail("it is used")
    assert caught.value.brief == f"buildkitd does not answer: {reason}"
    assert caught.value.hint == (
        "what it said is above; `invoke doctor --phase image` knows what it needs"
    )
    told = [word.partition(";")[0] for word in words.replace(" >&2", "").split("echo ")[1:]]
    assert capsys.readouterr().err == "".join(f"  {line}\n" for line in told)
    assert gone(binaries)


def test_only_its_last_words_are_told(binaries: Path, script: Script, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    script("bin/buildkitd", "seq 1000; exit 1")
    with pytest.raises(BuildError, match="buildkitd does not answer: 1000"), daemon.running(binaries, yes=False):  # fmt: skip
        pass
    assert capsys.readouterr().err.split() == [str(number) for number in range(971, 1001)]


def test_a_daemon_that_never_answers(binaries: Path, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    script("bin/buildkitd", SERVES.replace("touch", "echo stuck; touch"))
    script("bin/buildctl", 'until [ -e "${0%ctl}kitd.socket" ]; do sleep 0.02; done; exit 1')
    clock = iter([0.0])
    late = SimpleNamespace(sleep=time.sleep, monotonic=lambda: next(clock, 1e9))
    monkeypatch.setattr(daemon, "time", late)
    with pytest.raises(BuildError, match="buildkitd does not answer: stuck"), daemon.running(binaries, yes=False):  # fmt: skip
        pytest.fail("it is used")
    assert gone(binaries)


def test_a_daemon_is_one_run_s_at_a_time(binaries: Path, capfd: pytest.CaptureFixture[str]) -> None:
    state = project.cache() / "buildkitd"
    state.mkdir(parents=True)
    used = threading.Event()

    def use() -> None:
        with daemon.running(binaries, yes=False):
            used.set()

    with (state / ".lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        second = threading.Thread(target=use)
        second.start()
        told: list[str] = []

        def waiting() -> bool:
            told.append(capfd.readouterr().err)
            return "".join(told) == "another run uses our buildkitd; waiting for it\n"

        assert eventually(waiting), told
        assert not used.is_set()
    second.join(BOUND)
    assert used.is_set()
