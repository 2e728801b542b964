"""This checkout's git files, sent to a remote host as one `.git` directory.

In a worktree, in its submodule and after `git clone --separate-git-dir`, the local
`.git` is a file with the path of another directory. The remote host has no such directory.
"""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..core import git, project
from ..core.errors import SourceError

#: Not sent: credentials, or specific to this machine.
PRIVATE = ("config", "hooks", "logs")
# Files that a worktree shares with its repository, and its own files.
_SHARED = ("info", "objects", "packed-refs", "refs", "shallow")
_OWN = ("HEAD", "index")
# The submodule on the remote host: the local configuration has a local path.
_MODULE = "modules/buildkit"
_MODULE_CONFIG = "[core]\n\trepositoryformatversion = 0\n\tworktree = ../../../buildkit\n"


def are_elsewhere() -> bool:
    """True when `.git` is a file or a link, not a directory."""
    top = project.ROOT / ".git"
    return top.is_file() or top.is_symlink()


def _sources() -> dict[str, Path]:
    """The files and directories to send, by their name in the remote `.git`."""
    top = project.ROOT / ".git"
    if not are_elsewhere():
        found = {path.name: path for path in top.iterdir()} if top.is_dir() else {}
    else:
        own, common = git.directories(project.ROOT)
        found = {name: common / name for name in _SHARED} | {name: own / name for name in _OWN}
        if git.is_checkout(project.SUBMODULE):
            found["modules"], _ = git.directories(project.SUBMODULE)
    return {name: path for name, path in found.items() if name not in PRIVATE and path.exists()}


def state() -> str:
    """A text that changes when one of the sent files changes."""
    digest = hashlib.sha256()
    for _, source in sorted(_sources().items()):
        for path in (source, *sorted(source.rglob("*"))):
            with contextlib.suppress(FileNotFoundError):
                stat = path.lstat()
                digest.update(f"{path} {stat.st_mtime_ns} {stat.st_size}\n".encode())
    return f"git:{digest.hexdigest()}"


def refuse_borrowed_objects() -> None:
    """Check that the checkout needs no other local repository (`git clone --shared`).

    Raises:
        SourceError: the checkout or its submodule borrows objects.
    """
    sources = _sources()
    top, modules = sources.get("objects", project.ROOT), sources.get("modules", project.ROOT)
    stores = {
        top: project.ROOT,
        # In a checkout, in a worktree, and where the submodule was cloned by hand.
        modules / "buildkit" / "objects": project.SUBMODULE,
        modules / "objects": project.SUBMODULE,
        project.SUBMODULE / ".git" / "objects": project.SUBMODULE,
    }
    for objects, checkout in stores.items():
        borrowed = objects / "info" / "alternates"
        if borrowed.is_file():
            raise SourceError(
                f"cannot send {checkout}: it borrows git objects from {borrowed.read_text().strip()}",
                f"git -C {checkout} repack -a -d && rm {borrowed}",
            )


@contextlib.contextmanager
def gathered() -> Iterator[Path]:
    """Yield a directory with `.git`, and the submodule's, as links for rsync to follow."""
    with tempfile.TemporaryDirectory(prefix="bk-git-") as temporary:
        root = Path(temporary)
        top = root / ".git"
        top.mkdir()
        sources = _sources()
        submodule = sources.pop("modules", None)
        for name, source in sources.items():
            (top / name).symlink_to(source)
        if submodule:
            module = top / _MODULE
            module.mkdir(parents=True)
            for source in submodule.iterdir():
                if source.name not in PRIVATE:
                    (module / source.name).symlink_to(source)
            (module / "config").write_text(_MODULE_CONFIG)
            pointer = root / project.SUBMODULE.name / ".git"
            pointer.parent.mkdir()
            pointer.write_text(f"gitdir: ../.git/{_MODULE}\n")
        yield root
