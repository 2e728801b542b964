"""`invoke on MACHINE -- TASK …`: our tasks, run natively somewhere else.

The checkout is synchronised to a folder of its own there, the command runs in
it, and what it made comes back. What runs there cannot outlive the connection:
it ends when the far end of its standard input closes, however that happens.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import dist, process, project, storage
from ..arch import Architecture, Target
from ..console import confirm, say
from ..errors import (
    CheckError,
    ConnectionLostError,
    Failure,
    MachineError,
    MissingRequirementError,
    NotNativeError,
    UsageError,
)
from ..image.variants import Variant
from ..validation import evidence
from . import machines
from .destination import SSH_FAILED, Destination

#: What the far side must have before ours can install the rest, as Debian's packages.
ESSENTIAL = {"git": "git", "python3": "python3", "rsync": "rsync"}

#: Beside `dist/`, the folder with results that come back.
RESULTS = "benchmarks/results"

#: Of git's own files, what does not travel: it may hold credentials, or is nobody else's.
_PRIVATE = ("config", "hooks", "logs")

# Runs there, before and after: what is it, and what does our checkout hold that
# may come back? Its arguments are the folder in the home, and the commands that
# there must be. Under emulation each process takes a twentieth of a second.
_QUESTION = f"""\
uname -m; printf "%s\\n" "$HOME"
cd "$HOME/$1" 2>/dev/null; here=$?; shift
for tool; do command -v "$tool" >/dev/null || echo "$tool"; done
[ $here = 0 ] || exit 0
sha256sum -- dist/linux-*/{dist.SUMS} dist/linux-*/{dist.IMAGE}/*/{dist.SUMS} dist/linux-*/{dist.EVIDENCE}/{dist.SUMS} dist/linux-*/{dist.PACKAGES}/{dist.SUMS} {RESULTS}/* 2>/dev/null
cd .git 2>/dev/null && [ -f sent ] || exit 0
# Where somebody has worked with git there since, what was sent says nothing.
for file in HEAD index refs/heads packed-refs; do [ ! "$file" -nt sent ] || exit 0; done
cat sent
"""

# Runs there; its arguments are the folder, the state of git's files that were
# sent, and the command. The command gets a session of its own and no input.
# `cat` ends when our end of the connection's input does; the session is then
# asked to end and, ten seconds later, told to. What the command leaves behind
# ends with it, as it does here (process.py).
# `kill -TERM -- -1234` is none of dash's.
_RUNNER = """\
cd -- "$1" || exit 254
[ ! -d .git ] || echo "$2" >.git/sent
shift 2
exec 3<&0 </dev/null
setsid "$@" 3<&- &
child=$!
{ cat <&3; kill -s TERM -- -$child; sleep 10; kill -s KILL -- -$child; } >/dev/null 2>&1 &
watch=$!
wait $child
code=$?
kill -s KILL -- -$child 2>/dev/null
kill $watch
exit $code
"""


# What may come back of dist/.
_MADE = re.compile(
    rf"dist/(?P<target>[^/]+)/((?P<part>{dist.IMAGE}/({'|'.join(Variant)})|{dist.EVIDENCE}|{dist.PACKAGES})/)?{dist.SUMS}"
)

#: The tasks that make what is brought back.
_MAKING = {"build-binaries", "build-image", "validate", "build-packages"}

# Runs there; its arguments are packages.
_INSTALL = """\
[ "$(id -u)" = 0 ] || sudo="sudo -n"
apt="$sudo env DEBIAN_FRONTEND=noninteractive apt-get"
$apt update -q && $apt install -yq --no-install-recommends "$@"
"""


@dataclass(frozen=True)
class There:
    """What is known of the far side.

    Args:
        destination: how to reach it.
        arch: its architecture.
        home: its user's home.
        missing: commands of :data:`ESSENTIAL` that it lacks.
        made: what our checkout there holds that may come back, as digests by path:
            the SHA256SUMS of each target, image and evidence in `dist/`, and each file
            in :data:`RESULTS`.
        git: what :func:`_git_state` was for git's files there; empty when it is not known.
    """

    destination: Destination
    arch: Architecture
    home: str
    missing: tuple[str, ...]
    made: Mapping[str, str]
    git: str = ""

    @property
    def folder(self) -> str:
        """Where this checkout goes."""
        return f"{self.home}/{_folder()}"


def _folder() -> str:
    """This checkout's folder in the far side's home: one for each, in its user's cache."""
    identity = hashlib.sha256(f"{os.uname().nodename}:{project.ROOT}".encode()).hexdigest()
    return f".cache/buildkit-riscv64/checkouts/{identity[:12]}"


def resolve(name: str, boards: Mapping[str, str]) -> Destination:
    """A named board, an emulated machine (started if need be), or whatever ssh makes of it.

    Args:
        name: as on the command line.
        boards: destinations by name, from the configuration.

    Raises:
        UsageError: it cannot be a destination.
        MachineError: the emulated machine does not start.
    """
    if name in boards:
        return Destination(boards[name])
    if machines.exists(name):
        machine = machines.find(name)
        if not machine.answered:
            say(f"starting machine {name}")
            machines.start(machine)
        return machine.destination
    if not name or name.startswith("-") or any(c.isspace() for c in name):
        raise UsageError(f"{name!r} is not a machine", "see `invoke machine.list`")
    if name == machines.DEFAULT_NAME:
        raise MachineError(f"there is no machine {name} yet", "invoke machine.create")
    return Destination(name)


def understand(destination: Destination, answer: str) -> There:
    """What the far side is, by what it answers to our question.

    Raises:
        MachineError: it is no Linux that we know.
    """
    told = answer.splitlines()
    if len(told) < 2 or not told[1].startswith("/"):
        raise MachineError(
            f"{destination.name} answers something else than a shell would",
            "check what its login shell prints: `ssh HOST true` must print nothing",
        )
    pairs = (line.partition("  ") for line in told[2:])
    return There(
        destination, Architecture.from_uname(told[0]), home=told[1],
        missing=tuple(tool for tool in ESSENTIAL if tool in told[2:]),
        made={path: digest for digest, found, path in pairs if found},
        git=next((line for line in told[2:] if line.startswith("git:")), ""),
    )  # fmt: skip


def _install_essential(there: There, *, yes: bool) -> None:
    packages = [ESSENTIAL[tool] for tool in there.missing]
    name = there.destination.name
    if not confirm(f"{name} lacks {', '.join(packages)}. Install with apt-get there?", yes=yes):
        raise MissingRequirementError(
            f"{name} lacks {', '.join(packages)}", f"apt-get install {' '.join(packages)} there"
        )
    process.run(
        there.destination.command(["sh", "-c", _INSTALL, "sh", *packages]),
        error=MissingRequirementError,
        hint=f"install them there by hand: {' '.join(packages)}",
    )


def push(there: There) -> str:
    """Make the far side's checkout what ours is: tracked and new files, and nothing else.

    What git ignores neither travels nor is deleted there, so its `dist/`, its
    environment and its caches stay. Git's own files travel when they have changed,
    but for its configuration and hooks.

    Returns:
        The state of git's files that are there now, for :func:`execute`.

    Raises:
        MachineError: the connection was lost, or there is no space.
    """
    private = [f"--exclude=/.git/{name}" for name in _PRIVATE]
    state = _git_state()
    if there.git == state:
        # Its objects are many small files, and looking at each takes longer than the rest.
        private = ["--exclude=/.git"]
    there.destination.rsync(
        # After: what is ignored is what our .gitignore says, and it has to be there for that.
        "--archive", "--mkpath", "--delete-after", "--compress", "--no-owner", "--no-group",
        *private, "--exclude=/dist", *_tracked_though_ignored(), "--filter=:- .gitignore",
        f"{project.ROOT}/", f":{there.folder}/",
    )  # fmt: skip
    return state


def _git_state() -> str:
    """What changes whenever one of git's files that travel does."""
    git = project.ROOT / ".git"
    known = hashlib.sha256()
    for path in sorted(git.rglob("*")):
        if path.relative_to(git).parts[0] not in _PRIVATE:
            with contextlib.suppress(FileNotFoundError):
                seen = path.lstat()
                known.update(f"{path} {seen.st_mtime_ns} {seen.st_size}\n".encode())
    return f"git:{known.hexdigest()}"


def _tracked_though_ignored() -> list[str]:
    """Rules for rsync: upstream's vendored packages have such files, and git would miss them."""
    rules = []
    for checkout in (project.ROOT, project.SUBMODULE):
        if not (checkout / ".git").exists():
            continue
        listed = process.probe(
            ["git", "-C", checkout, "ls-files", "-z", "--cached", "--ignored", "--exclude-standard"]
        ).stdout
        for name in filter(None, listed.split("\0")):
            path = (checkout / name).relative_to(project.ROOT)
            for part in (*reversed(path.parents[:-1]), path):
                escaped = re.sub(r"[][*?\\]", r"\\\g<0>", str(part))
                rules.append(f"--include=/{escaped}")
    return rules


def words(arguments: Sequence[str], tasks: Sequence[str]) -> list[str]:
    """The command there for what follows `--`.

    A task runs through the launcher, which makes its environment; so does
    `nox`. Anything else is a command of the far side's.

    Args:
        arguments: what follows `--`.
        tasks: the names of our tasks.

    Raises:
        UsageError: nothing follows.
    """
    if not arguments:
        raise UsageError(
            "nothing to run there", "put it behind `--`, as in: invoke on riscv64 -- build-binaries"
        )
    first, *rest = arguments
    if first == "nox":
        return ["./nox", *rest]
    if first in tasks or first.startswith("-"):
        return ["./invoke", *arguments]
    return list(arguments)


def execute(there: There, command: Sequence[str], state: str, *, yes: bool) -> int:
    """Run a command in the far side's checkout, with its output streamed.

    Args:
        there: the far side.
        command: its words.
        state: what :func:`push` returned.
        yes: nothing is asked there.

    Returns:
        Its exit code.

    Raises:
        MachineError: the connection was lost.
    """
    settings = ["CI=true"] if yes else []
    if actions := os.environ.get("GITHUB_ACTIONS"):
        settings.append(f"GITHUB_ACTIONS={actions}")
    # A terminal here is not one there, so that output and errors stay apart.
    remote = [
        *(["env", *settings] if settings else []),
        "sh", "-c", _RUNNER, "sh", there.folder, state, *command,
    ]  # fmt: skip
    code = process.attached(there.destination.command(remote))
    if code == SSH_FAILED and not there.destination.alive():
        raise there.destination.lost("it was closed while the command ran")
    return code


def pull(before: Mapping[str, str], there: There) -> list[Path]:
    """Bring back what the command made, checked against its own sums.

    Args:
        before: what was made before the command, as in :attr:`There.made`.
        there: the far side after it.

    Returns:
        The folders that are new here.

    Raises:
        MachineError: the connection was lost.
        CheckError: what arrived is not what was sent.
        UsageError: the far side tells of something else.
    """
    brought = []
    results = False
    for path, digest in there.made.items():
        here = project.ROOT / path
        if here.is_file() and (before.get(path) == digest or storage.sha256(here) == digest):
            continue
        if here.name != dist.SUMS:
            results = True
            continue
        brought.append(_bring(there, path, digest))
    if results:
        there.destination.rsync(
            "--archive", "--no-owner", "--no-group", "--update",
            f":{there.folder}/{RESULTS}/", f"{project.ROOT / RESULTS}/",
        )  # fmt: skip
    return brought


def _bring(there: There, path: str, digest: str) -> Path:
    """Bring back one folder, whole or not at all; `path` is where its sums are there."""
    match = _MADE.fullmatch(path)
    if match is None:
        raise UsageError(
            f"{there.destination.name} tells of {path!r}, which is nothing of ours",
            "check what its login shell prints: `ssh HOST true` must print nothing",
        )
    target, part = Target.parse(match["target"]), match["part"] or ""
    with dist.lock(target), dist.staging(target, part=part) as stage:
        there.destination.rsync(
            "--archive", "--no-owner", "--no-group",
            # Each part has sums of its own, and comes after its binaries.
            *([] if part else [f"--exclude=/{name}" for name in dist.PARTS]),
            f":{there.folder}/{Path(path).parent}/", f"{stage}/",
        )  # fmt: skip
        if damaged := _damaged(stage, digest):
            raise CheckError(
                f"{target.name}/{f'{part}/' if part else ''}{damaged} is not what {there.destination.name} made",
                "run it again: the transfer was damaged, or the files there are",
            )
        if not part:
            return dist.publish(stage, target, machine=there.arch).path
        artifacts = dist.publish_part(stage, target, part)
        evidence.tell_stale(target)
    return artifacts.path


def _damaged(stage: Path, digest: str) -> str:
    """The first file that is not what SHA256SUMS says, which must have this digest; or nothing."""
    try:
        if storage.sha256(stage / dist.SUMS) != digest:
            return dist.SUMS
        for line in (stage / dist.SUMS).read_text().splitlines():
            wanted, _, name = line.partition("  ")
            if not (stage / name).is_file() or storage.sha256(stage / name) != wanted:
                return name or dist.SUMS
    except (OSError, ValueError):
        return dist.SUMS
    return ""


def on(
    name: str,
    arguments: Sequence[str],
    tasks: Sequence[str],
    boards: Mapping[str, str],
    *,
    any_arch: bool,
    yes: bool,
) -> int:
    """Run something of ours on a machine or a board.

    Args:
        name: the machine.
        arguments: what to run there.
        tasks: the names of our tasks.
        boards: destinations by name.
        any_arch: accept a destination that is not RISC-V.
        yes: install what is missing there without asking.

    Returns:
        The exit code of what ran.

    Raises:
        Failure: it could not be run, or what it made could not be brought back.
    """
    command = words(arguments, tasks)
    destination = resolve(name, boards)
    try:
        with destination.connected(_QUESTION, _folder(), *ESSENTIAL) as (shared, ask):

            def look() -> There:
                return understand(shared, ask())

            return _run_on(look, name, command, any_arch=any_arch, yes=yes)
    except ConnectionLostError as error:
        raise _explain(name, error) from error


def _run_on(
    look: Callable[[], There], name: str, command: Sequence[str], *, any_arch: bool, yes: bool
) -> int:
    there = look()
    if there.arch is not Architecture.RISCV64:
        say(f"{name} is {there.arch}, not riscv64")
        if not any_arch:
            raise NotNativeError(
                f"{name} is {there.arch}: what it compiles is not for RISC-V",
                "give --any-arch if that is what you want",
            )
    if there.missing:
        _install_essential(there, yes=yes)
    state = push(there)
    # What a build finds up to date there is what was asked for here.
    before = {} if _MAKING & set(command) else there.made
    say(f"on {name} ({there.arch}): {process.show(command)}")
    code = execute(there, command, state, yes=yes)
    for path in pull(before, look()):
        execution = dist.load(path).manifest["host"]["execution"]
        say(f"brought back {storage.shown(path)}/ ({execution}), checksums good")
    return code


def _explain(name: str, error: MachineError) -> Failure:
    """Why there is no connection, where the machine is ours to look at."""
    if not machines.exists(name):
        return error
    machine = machines.find(name)
    # The next run waits until it answers again.
    machine.answered_file.unlink(missing_ok=True)
    if machine.pid is None:
        return MachineError(
            f"machine {name} is gone: qemu ended while it was used",
            f"invoke machine.start --name {name}, and run it again: it goes on where it was",
        )
    return MachineError(
        f"the connection to machine {name} was lost: it may have restarted",
        f"see `invoke machine.logs --name {name}`, and run it again: it goes on where it was",
    )
