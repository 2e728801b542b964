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

from buildkit_riscv64.buildkitd import daemon
from buildkit_riscv64.core import process, project
from buildkit_riscv64.core.errors import BuildError
from buildkit_riscv64.validation.environment.waiting import BOUND, alive, eventually

Script = Callable[[str, str], Path]

# Records its arguments, serves until SIGTERM, and records its end.
SERVES = """\
echo "$XDG_RUNTIME_DIR" >"$0.runtime"
echo "$@" >"$0.flags"
echo $$ >"$0.pid"
trap 'echo ended >"$0.ended"; exit 0' TERM
touch "$0.socket"
for flag; do case $flag in --addr=unix://*) touch "${flag#--addr=unix://}" ;; esac; done
while :; do sleep 0.02; done
"""
# Answers once the daemon serves.
ASKS = """\
echo "$@" >"$0.flags"
[ -e "$(dirname "$0")/buildkitd.socket" ]
"""
# Like unshare: a signal immediately ends its child.
UNSHARE = '"$@" & child=$!; trap "kill -KILL $child; exit 137" TERM; wait $child'


@pytest.fixture(params=[0, 1000], ids=["root", "user"])
def user(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(os, "geteuid", lambda: request.param)
    return int(request.param)


@pytest.fixture
def binaries(
    script: Script,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A fake daemon and client."""
    script("bin/buildkitd", SERVES)
    script("bin/buildctl", ASKS)
    unshare = script("unshare", UNSHARE)
    monkeypatch.setattr(process, "namespaced", lambda: [str(unshare)])
    # A short path, for sockets.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("t")))
    return tmp_path / "bin"


pytestmark = pytest.mark.usefixtures("provided")


def output(binaries: Path, name: str) -> str:
    return (binaries / name).read_text().strip()


def gone(binaries: Path) -> bool:
    """The daemon and its directory are gone."""
    pid = int(output(binaries, "buildkitd.pid"))
    return eventually(lambda: not alive(pid)) and not list(Path(tempfile.gettempdir()).iterdir())


def test_daemon_on_a_private_socket(binaries: Path, user: int) -> None:
    with daemon.running(binaries, yes=False) as address:
        (directory,) = Path(tempfile.gettempdir()).iterdir()
        assert address == f"unix://{directory}/buildkitd.sock"
        assert directory.stat().st_mode & 0o777 == 0o700
        state = project.cache() / "buildkitd"
        assert output(binaries, "buildkitd.flags").split() == [
            f"--root={state}", f"--addr={address}", f"--otel-socket-path={directory}/otel.sock",
            "--containerd-worker=false", "--oci-worker-net=host", *(["--rootless"] if user else []),
        ]  # fmt: skip
        assert output(binaries, "buildkitd.runtime") == str(directory)
        assert output(binaries, "buildctl.flags") == f"--addr {address} debug workers"
        assert state.is_dir()
    assert gone(binaries)


def test_requirements_are_installed(binaries: Path, user: int, provided: list[object]) -> None:
    with daemon.running(binaries, yes=True):
        assert provided == [(["runc", *(["newuidmap"] if user else [])], True)]


@pytest.mark.parametrize("error", [None, KeyboardInterrupt, BuildError])
def test_daemon_ends_gracefully(binaries: Path, error: type[BaseException] | None) -> None:
    """Signals through unshare would kill it immediately."""

    def use() -> None:
        with daemon.running(binaries, yes=False):
            if error:
                raise error("x")

    if error:
        with pytest.raises(error):
            use()
    else:
        use()
    assert output(binaries, "buildkitd.ended") == "ended"
    assert gone(binaries)


def test_hanging_daemon_is_killed(
    binaries: Path, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
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
        ("", "no output"),
    ],
)  # fmt: skip
def test_daemon_ends_immediately(
    binaries: Path, script: Script, capsys: pytest.CaptureFixture[str], words: str, reason: str
) -> None:
    script("bin/buildkitd", f"echo $$ >$0.pid; {words}\nexit 1")
    with pytest.raises(BuildError) as caught, daemon.running(binaries, yes=False):
        pytest.fail("used")
    assert caught.value.brief.endswith(f": {reason}")
    assert "invoke doctor --phase image" in caught.value.hint
    reported = [word.partition(";")[0] for word in words.replace(" >&2", "").split("echo ")[1:]]
    assert capsys.readouterr().err == "".join(f"  {line}\n" for line in reported)
    assert gone(binaries)


def test_only_the_last_output_is_logged(
    binaries: Path, script: Script, capsys: pytest.CaptureFixture[str]
) -> None:
    script("bin/buildkitd", "seq 1000; exit 1")
    with pytest.raises(BuildError, match=r"buildkitd .*: 1000"), daemon.running(binaries, yes=False):  # fmt: skip
        pass
    assert capsys.readouterr().err.split() == [str(number) for number in range(971, 1001)]


def test_daemon_never_answers(
    binaries: Path, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    script("bin/buildkitd", SERVES.replace("touch", "echo stuck; touch"))
    script("bin/buildctl", 'until [ -e "${0%ctl}kitd.socket" ]; do sleep 0.02; done; exit 1')
    clock = iter([0.0])
    late = SimpleNamespace(sleep=time.sleep, monotonic=lambda: next(clock, 1e9))
    monkeypatch.setattr(daemon, "time", late)
    with pytest.raises(BuildError, match=r"buildkitd .*: stuck"), daemon.running(binaries, yes=False):  # fmt: skip
        pytest.fail("used")
    assert gone(binaries)


def test_concurrent_runs_wait_for_the_daemon(
    binaries: Path, capfd: pytest.CaptureFixture[str]
) -> None:
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
        reported: list[str] = []

        def waiting() -> bool:
            reported.append(capfd.readouterr().err)
            return "".join(reported) == "another run uses our buildkitd; waiting for it\n"

        assert eventually(waiting), reported
        assert not used.is_set()
    second.join(BOUND)
    assert used.is_set()
