from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from buildkit_riscv64.core import git
from buildkit_riscv64.core.errors import SourceError


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    path = tmp_path / "repository"
    subprocess.run(["git", "init", "--quiet", path], check=True)
    return path


def test_read(repository: Path) -> None:
    (repository / "new").write_text("")
    assert git.read(repository, "status", "--porcelain") == "?? new\n"
    setting = ["status.showUntrackedFiles=no"]
    assert git.read(repository, "status", "--porcelain", settings=setting) == ""


def test_a_failure_has_the_reason(repository: Path) -> None:
    with pytest.raises(SourceError, match=f"rev-parse.*{repository}: .+") as caught:
        git.read(repository, "rev-parse", "--verify", "HEAD", hint="commit")
    assert caught.value.hint == "commit"


def test_a_repository_of_another_user(
    repository: Path, script: Callable[[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = shutil.which("git")
    directory = script(
        "bin/git", f'export GIT_TEST_ASSUME_DIFFERENT_OWNER=1; exec {real} "$@"'
    ).parent
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    with pytest.raises(SourceError, match=str(repository)) as caught:
        git.read(repository, "status")
    assert caught.value.hint == f"git config --global --add safe.directory {repository}"


def test_directories(repository: Path, tmp_path: Path) -> None:
    assert git.directories(repository) == (repository / ".git", repository / ".git")
    author = ("-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run(["git", "-C", repository, *author, "commit", "--quiet", "--allow-empty", "-m", "x"], check=True)  # fmt: skip
    worktree = tmp_path / "worktree"
    subprocess.run(["git", "-C", repository, "worktree", "add", "--quiet", worktree], check=True)
    common = repository / ".git"
    assert git.directories(worktree) == (common / "worktrees" / "worktree", common)
