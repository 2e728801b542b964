from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from buildkit_riscv64.core import project
from buildkit_riscv64.core.errors import SourceError
from buildkit_riscv64.machine import git_files


def git(directory: Path, *args: str | Path) -> str:
    settings = ("user.name=a", "user.email=a@b", "protocol.file.allow=always")
    options = [word for setting in settings for word in ("-c", setting)]
    return subprocess.run(
        ["git", "-C", directory, *options, *args], check=True, capture_output=True, text=True
    ).stdout


def repository(directory: Path) -> Path:
    directory.mkdir()
    git(directory, "init", "--quiet", "--initial-branch=main")
    (directory / "file").write_text(directory.name)
    git(directory, "add", "--all")
    git(directory, "commit", "--quiet", "--message", "one")
    return directory


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A repository with a checked-out submodule."""
    upstream, clone = repository(tmp_path / "upstream"), repository(tmp_path / "clone")
    git(clone, "submodule", "--quiet", "add", upstream, "buildkit")
    git(clone, "commit", "--quiet", "--message", "two")
    return clone


def use(monkeypatch: pytest.MonkeyPatch, checkout: Path) -> None:
    monkeypatch.setattr(project, "ROOT", checkout)
    monkeypatch.setattr(project, "SUBMODULE", checkout / "buildkit")


def copy(checkout: Path, directory: Path) -> None:
    """Copy a checkout as `push` does."""
    shutil.copytree(checkout, directory, ignore=shutil.ignore_patterns(".git"))
    with git_files.gathered() as gathered:
        shutil.copytree(gathered, directory, dirs_exist_ok=True)


@pytest.mark.parametrize("kind", ["worktree", "separate", "link"])
def test_git_files_elsewhere(
    clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    checkout = tmp_path / "checkout"
    if kind == "worktree":
        git(clone, "worktree", "add", "--quiet", checkout)
        git(checkout, "submodule", "--quiet", "update", "--init")
        (checkout / "file").write_text("committed in the worktree")
        git(checkout, "commit", "--quiet", "--all", "--message", "three")
    elif kind == "separate":
        git(tmp_path, "clone", "--quiet", "--separate-git-dir", tmp_path / "moved", clone, checkout)
        git(checkout, "submodule", "--quiet", "update", "--init")
    else:
        # git cannot fetch the submodule of such a checkout.
        git(tmp_path, "clone", "--quiet", clone, checkout)
        (checkout / ".git").rename(tmp_path / "moved")
        (checkout / ".git").symlink_to(tmp_path / "moved")
    git(checkout, "config", "http.extraHeader", "secret")
    use(monkeypatch, checkout)
    assert git_files.are_elsewhere()
    far = tmp_path / "far"
    copy(checkout, far)
    # The remote host has no other directory.
    for path in (clone, tmp_path / "upstream", tmp_path / "moved"):
        if path.exists():
            path.rename(path.with_name(f"{path.name}-away"))
    assert git(far, "status", "--porcelain") == ""
    assert len(git(far, "log", "--format=%s").split()) == (3 if kind == "worktree" else 2)
    if kind != "link":
        assert git(far / "buildkit", "status", "--porcelain") == ""
        top = git(far / "buildkit", "rev-parse", "--show-toplevel").strip()
        assert top == str(far / "buildkit")
    assert "secret" not in "".join(p.read_text(errors="replace") for p in far.rglob("config"))


def test_state_follows_the_worktree(
    clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worktree = tmp_path / "worktree"
    git(clone, "worktree", "add", "--quiet", worktree)
    use(monkeypatch, worktree)
    before = git_files.state()
    assert git_files.state() == before
    git(worktree, "commit", "--quiet", "--allow-empty", "--message", "x")
    committed = git_files.state()
    assert committed != before
    git(worktree, "submodule", "--quiet", "update", "--init")
    assert git_files.state() != committed


def test_checkout_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, tmp_path)
    assert not git_files.are_elsewhere()
    assert git_files.state() == git_files.state()
    git_files.refuse_borrowed_objects()


@pytest.mark.parametrize("kind", ["checkout", "worktree", "submodule", "embedded"])
def test_borrowed_objects(
    clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    checkout = tmp_path / "checkout"
    shared = ["--shared"] if kind in {"checkout", "worktree"} else []
    git(tmp_path, "clone", "--quiet", *shared, clone, checkout)
    if kind == "worktree":
        git(checkout, "worktree", "add", "--quiet", tmp_path / "worktree")
        checkout = tmp_path / "worktree"
    elif kind == "submodule":
        git(checkout, "submodule", "--quiet", "update", "--init", "--reference", tmp_path / "upstream")  # fmt: skip
    elif kind == "embedded":
        git(checkout, "clone", "--quiet", "--shared", tmp_path / "upstream", "buildkit")
    use(monkeypatch, checkout)
    with pytest.raises(SourceError, match="git objects") as caught:
        git_files.refuse_borrowed_objects()
    subprocess.run(["sh", "-c", caught.value.hint], check=True)
    git_files.refuse_borrowed_objects()
    assert git(checkout / "buildkit", "status", "--porcelain") == ""
