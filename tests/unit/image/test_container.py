from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from buildkit_riscv64.core import process
from buildkit_riscv64.core.errors import CheckError
from buildkit_riscv64.image import container, layout
from buildkit_riscv64.image.base_image import BaseImage
from buildkit_riscv64.image.container import Container, DaemonRun
from buildkit_riscv64.system import host_checks

from ..factories import Commands

NAMESPACED = [
    "unshare", "--mount", "--pid", "--fork", "--kill-child=SIGKILL", "--mount-proc",
]  # fmt: skip
DEFAULTS: dict[str, Any] = {
    "process": {
        "terminal": True, "args": ["/usr/bin/tini"], "user": {"uid": 0, "gid": 0},
        "noNewPrivileges": True, "capabilities": {"bounding": []},
    },
    "linux": {"maskedPaths": ["/proc/keys"], "readonlyPaths": ["/proc/sys"]},
    "mounts": [
        {"type": "proc", "destination": "/proc"},
        {"type": "tmpfs", "destination": "/dev"}, {"type": "tmpfs", "destination": "/dev/shm"},
        {"type": "tmpfs", "destination": "/var/lib/buildkit"},
    ],
}  # fmt: skip


def capabilities(*more: str) -> list[str]:
    """Docker's default capabilities."""
    names = (
        "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD",
        "NET_BIND_SERVICE", "NET_RAW", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
    )  # fmt: skip
    return [f"CAP_{name}" for name in (*names, *more)]


@pytest.fixture(autouse=True)
def _root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)


@pytest.fixture
def bundle(tmp_path: Path) -> Container:
    """An image unpacked by umoci."""
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "config.json").write_text(json.dumps(DEFAULTS))
    return Container(tmp_path / "bundle")


def config(one: Container) -> Any:
    return json.loads((one.bundle / "config.json").read_text())


# Commands.


def test_command_runs_in_namespaces(bundle: Container, commands: Commands) -> None:
    commands.answer("runc", stdout="output\n", code=3)
    assert bundle.run(["sh", "-c", "a b"]) == process.Result(3, "output\n", "")
    (call,) = commands.calls
    state = call.args[8]
    assert call.args == [
        *NAMESPACED, "runc", "--root", state, "run", "--bundle", str(bundle.bundle), "one"
    ]  # fmt: skip
    assert call.options["timeout"] == container.END_SECONDS
    assert not Path(state).exists()


def test_command_has_no_privileges(bundle: Container, commands: Commands) -> None:
    """Programs with file capabilities still start, and volumes are not limited to root."""
    bundle.run(["sh", "-c", "a b"])
    wanted = json.loads(json.dumps(DEFAULTS))
    wanted["process"] |= {
        "terminal": False, "args": ["sh", "-c", "a b"], "noNewPrivileges": True,
        "capabilities": {"bounding": capabilities()},
    }  # fmt: skip
    del wanted["mounts"][3]
    assert config(bundle) == wanted


def test_users_run_it_as_root_of_a_namespace(
    bundle: Container, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    bundle.run(["true"])
    assert commands.args[0][:4] == ["unshare", "--user", "--map-root-user", "--map-auto"]


# The daemon.


def test_root_daemon_may_mount(bundle: Container, commands: Commands) -> None:
    commands.answer("sh", stdout="times 10.50 14.75 15.00\nfound 1 workers\nlast\n")
    daemon_run = bundle.run_daemon()
    assert daemon_run == DaemonRun("", ready=4.25, stop=0.25, output="found 1 workers\nlast\n")
    (call,) = commands.calls
    assert call.args == [
        *NAMESPACED, "sh", "-c", container._RUN_DAEMON, "sh", str(bundle.bundle), call.args[-1]
    ]  # fmt: skip
    assert not Path(call.args[-1]).exists()
    written = config(bundle)
    sets = ("bounding", "effective", "permitted", "inheritable", "ambient")
    assert written["process"] == {
        "terminal": False, "args": ["/usr/bin/tini"], "user": {"uid": 0, "gid": 0},
        "noNewPrivileges": False,
        "capabilities": {name: capabilities("SYS_ADMIN") for name in sets},
    }  # fmt: skip
    assert written["linux"] == {"maskedPaths": [], "readonlyPaths": []}


def test_user_daemon_has_only_bounding_capabilities(bundle: Container, commands: Commands) -> None:
    user = {"process": DEFAULTS["process"] | {"user": {"uid": 1000, "gid": 1000}}}
    (bundle.bundle / "config.json").write_text(json.dumps(DEFAULTS | user))
    bundle.run_daemon()
    assert config(bundle)["process"]["capabilities"] == {"bounding": capabilities()}


def test_each_run_starts_from_the_configuration_of_umoci(
    bundle: Container, commands: Commands
) -> None:
    bundle.run_daemon()
    bundle.run(["true"])
    assert config(bundle)["process"]["capabilities"] == {"bounding": capabilities()}
    assert config(bundle)["linux"] == DEFAULTS["linux"]
    assert config(bundle)["process"]["noNewPrivileges"] is True
    bundle.run_daemon()
    assert config(bundle)["process"]["args"] == ["/usr/bin/tini"]
    assert json.loads((bundle.bundle / "config.umoci.json").read_text()) == DEFAULTS


@pytest.mark.parametrize(
    ("answer", "daemon_run"),
    [
        ({"stdout": "start failed: no such file\n"}, DaemonRun("start failed: no such file", 0, 0, "")),
        ({"stdout": "still running\ntimes 1 2 3\nlog\n"}, DaemonRun("still running", 0, 0, "times 1 2 3\nlog\n")),
        ({"stderr": "unshare failed: Operation not permitted\n", "code": 1},
         DaemonRun("unshare failed: Operation not permitted", 0, 0, "")),
        ({"stderr": "no answer within 300 s", "code": 124}, DaemonRun("no answer within 300 s", 0, 0, "")),
    ],
)  # fmt: skip
def test_daemon_fails(
    bundle: Container,
    commands: Commands,
    monkeypatch: pytest.MonkeyPatch,
    answer: dict[str, Any],
    daemon_run: DaemonRun,
) -> None:
    monkeypatch.setattr(host_checks, "mount_flags", lambda _path: set())
    commands.answer("sh", **answer)
    assert bundle.run_daemon() == daemon_run


def test_daemon_on_a_nosuid_filesystem(
    bundle: Container, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """newuidmap of the rootless image has no capabilities there."""
    commands.answer("sh", stdout="newuidmap: write to uid_map failed\n")
    monkeypatch.setattr(host_checks, "mount_flags", lambda _path: {"nosuid"})
    monkeypatch.setattr(host_checks, "mount_point", lambda _path: Path("/mnt"))
    assert "/mnt is mounted nosuid" in bundle.run_daemon().problem


def test_daemon_without_output(bundle: Container, commands: Commands) -> None:
    commands.answer("sh", code=137)
    assert bundle.run_daemon().problem


# The script in the namespaces.


Lived = Callable[..., list[str]]
# The container is a process whose parent waits for it, as in a PID namespace.
STARTS = """
setsid sh -c '{container} & echo $! >"$1"; wait' sh "$6" >/dev/null 2>&1 </dev/null &
until [ -s "$6" ]; do sleep 0.01; done
"""
RUNC = """
echo "$*" >>"$2/calls"
case $3 in
run) {run} ;;
exec) {answers} ;;
kill) kill -s "$5" "$(cat "$2/pid")" ;;
esac
"""


@pytest.fixture
def live(
    script: Callable[[str, str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Lived:
    """Run the script with a fake runc; its output, line by line."""
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    (tmp_path / "state").mkdir()

    def run(container_: str = "sleep 1000", answers: str = ":", run: str = STARTS) -> list[str]:
        run = run.replace("{container}", container_)
        script("bin/runc", RUNC.replace("{run}", run).replace("{answers}", answers))
        done = subprocess.run(
            ["sh", "-c", container._RUN_DAEMON, "sh", "/bundle", tmp_path / "state"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stderr == ""
        return done.stdout.splitlines()

    return run


def calls(tmp_path: Path) -> list[list[str]]:
    reported = (tmp_path / "state" / "calls").read_text().replace(str(tmp_path), "").splitlines()
    return [line.removeprefix("--root /state ").split() for line in reported]


def test_daemon_starts_answers_ends_and_is_removed(live: Lived, tmp_path: Path) -> None:
    first, *output = live(run=STARTS + "echo found 1 workers")
    word, *times = first.split()
    assert word == "times"
    assert times == sorted(times, key=float)
    assert len(times) == 3
    assert output == ["found 1 workers"]
    assert calls(tmp_path) == [
        ["run", "--detach", "--pid-file", "/state/pid", "--bundle", "/bundle", "one"],
        ["exec", "one", "buildctl", "debug", "workers"],
        ["kill", "one", "TERM"], ["delete", "--force", "one"],
    ]  # fmt: skip


def test_daemon_is_asked_until_it_answers(live: Lived, tmp_path: Path) -> None:
    (first,) = live(answers='[ -e "$2/asked" ] || { touch "$2/asked"; exit 1; }')
    assert first.startswith("times ")
    assert [words[0] for words in calls(tmp_path)] == ["run", "exec", "exec", "kill", "delete"]


def test_container_cannot_start(live: Lived, tmp_path: Path) -> None:
    assert live(run="echo first; echo exec: no such file >&2; exit 1") == [
        "start failed: exec: no such file"
    ]
    assert len(calls(tmp_path)) == 1


def test_daemon_ends_immediately(live: Lived) -> None:
    (first,) = live(
        run=STARTS + "echo level=info x; echo buildkitd: no worker; echo more; echo third",
        container_="true", answers="echo container not running; exit 1",
    )  # fmt: skip
    assert first.split() == [
        "no",
        "answer:",
        "container",
        "not",
        "running",
        "buildkitd:",
        "no",
        "worker",
        "more",
    ]


# Unpacking.


@pytest.fixture
def image(base: BaseImage) -> Path:
    """A layout whose image has a name."""
    descriptor = dict(layout.load(base.layout).descriptor)
    layout.write_index(base.layout, [descriptor | {"annotations": {layout.REF_NAME: "latest"}}])
    return base.layout


def test_unpacked_image_is_removed(image: Path, commands: Commands) -> None:
    with container.unpacked(image) as one:
        (call,) = commands.calls
        assert call.args == [
            *NAMESPACED, "umoci", "unpack", "--image", f"{image}:latest", str(one.bundle)
        ]  # fmt: skip
        assert call.options["timeout"] is None
        assert one.bundle.parent.parent == image.parent
        assert one.bundle.parent.name.startswith(".bundle-")
    # The files may belong to users that exist only in the namespace.
    assert commands.args[1:] == [[*NAMESPACED, "rm", "-rf", str(one.bundle)]]
    assert not one.bundle.parent.exists()


def test_image_cannot_be_unpacked(image: Path, commands: Commands) -> None:
    commands.answer("umoci", code=1, stderr="x\nno space left on device\n")
    with pytest.raises(CheckError, match=r"umoci unpack .*: no space left on device"), container.unpacked(image):  # fmt: skip
        pytest.fail("it is used")
    assert commands.args[-1][-3:-1] == ["rm", "-rf"]
    assert not list(image.parent.glob(".bundle-*"))


@pytest.mark.parametrize("error", [KeyboardInterrupt, CheckError])
def test_failure_removes_everything(
    image: Path, commands: Commands, error: type[BaseException]
) -> None:
    commands.answer("umoci", does=lambda words: Path(words[-1]).mkdir())
    commands.answer("rm", does=lambda words: shutil.rmtree(words[-1]))
    with pytest.raises(error), container.unpacked(image):
        raise error("x")
    assert commands.args[-1][-3:-1] == ["rm", "-rf"]
    assert not list(image.parent.glob(".bundle-*"))


def test_image_without_a_name(base: BaseImage, commands: Commands) -> None:
    with pytest.raises(CheckError), container.unpacked(base.layout):
        pytest.fail("it is used")
