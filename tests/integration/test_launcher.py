"""`./invoke`, before there is an environment."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from .miniature import Done, Project, path_with, refused, script

pytestmark = pytest.mark.integration


def launch(project: Project, *args: str, **env: str) -> Done:
    done = subprocess.run(
        [project.root / "invoke", *args], cwd=project.root, env={**project.env, **env},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return Done(done.returncode, done.stdout, done.stderr)


def fake_python(path: Path) -> Path:
    return script(path, 'case "$1" in --version) echo "Python 3.9.2" ;; *) exit 1 ;; esac')


def test_python_too_old(project: Project, tmp_path: Path) -> None:
    fake_python(tmp_path / "bin" / "python3")
    done = launch(project, "--list", PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    refused(done, 3, "3.9.2", "3.11")
    refused(launch(project, "--list", PYTHON=str(tmp_path / "bin" / "python3")), 3, "3.9.2")
    assert not (project.root / ".venv").exists()


def test_no_python(project: Project, tmp_path: Path) -> None:
    tools = path_with(tmp_path / "bin", "sh", "dirname", "cmp", "flock")
    refused(launch(project, "--list", PATH=tools), 3, "python3")


def test_environment_that_is_there_is_used(project: Project) -> None:
    """From any folder, with all arguments as they were, and its exit code passed on."""
    environment = project.root / ".venv"
    script(environment / "bin" / "python", 'pwd; printf "<%s>" "$@"; exit 7')
    lock = (project.root / "requirements.txt").read_text()
    (environment / "requirements.txt").write_text(lock)
    done = subprocess.run(
        [project.root / "invoke", "build-binaries", "--source", "a b"], cwd="/", env=project.env,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 7
    assert done.stdout == f"{project.root}\n<-m><invoke><build-binaries><--source><a b>"


def test_no_network(project: Project) -> None:
    """pip tells what is wrong; the next run starts over."""
    env = {
        "PIP_INDEX_URL": "http://127.0.0.1:1/simple",
        "PIP_RETRIES": "0",
        "PIP_CONFIG_FILE": "/dev/null",
    }
    for _ in range(2):
        done = launch(project, "--list", **env)
        refused(done, 10, "requirements.txt")
    assert not (project.root / ".venv" / "requirements.txt").exists()
