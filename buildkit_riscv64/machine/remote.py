"""`invoke on MACHINE -- TASK …`: run a task on a remote host.

The checkout is copied to a directory of its own on the remote host. The command
runs there, and its results are copied back. The remote command ends when the
connection closes.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..core import dist, documents, dry_run, filesystem, git, process, project, schemas
from ..core.arch import Architecture, Target
from ..core.console import confirm, count, log, warn
from ..core.documents import shown
from ..core.errors import (
    CheckError,
    ConnectionLostError,
    Failure,
    MachineError,
    MissingRequirementError,
    NotNativeError,
    UsageError,
)
from ..core.host import Execution
from ..image.variants import Variant
from ..validation import evidence
from . import git_files, machines
from .ssh import SSH_FAILED, Destination

#: Commands that the remote host needs before tasks can install the rest, with their packages.
ESSENTIAL = {"git": "git", "python3": "python3", "rsync": "rsync"}

#: The results directory that is copied back, like `dist/`.
RESULTS = "benchmarks/results"

# Runs on the remote host before and after the command. Prints facts about the host and
# checksums of results in the checkout. Arguments: the checkout's directory in the home,
# and the required commands. Under emulation each process takes a twentieth of a second.
_QUESTION = f"""\
uname -m; printf "%s\\n" "$HOME"
cd "$HOME/$1" 2>/dev/null; here=$?; shift
for tool; do command -v "$tool" >/dev/null || echo "$tool"; done
[ $here = 0 ] || exit 0
sha256sum -- dist/linux-*/{dist.SUMS} dist/linux-*/{dist.IMAGE}/*/{dist.SUMS} dist/linux-*/{dist.EVIDENCE}/{dist.SUMS} dist/linux-*/{dist.PACKAGES}/{dist.SUMS} {RESULTS}/* 2>/dev/null
cd .git 2>/dev/null && [ -f sent ] || exit 0
# Git files that changed after they were sent must be sent again.
for file in HEAD index refs/heads packed-refs; do [ ! "$file" -nt sent ] || exit 0; done
cat sent
"""

# Runs on the remote host. Arguments: the directory, the state of the sent git files, and
# the command. The command gets its own session and no input. `cat` ends when the
# connection closes; the session then gets SIGTERM and, ten seconds later, SIGKILL.
# Processes that the command leaves behind are killed too, as process.py does locally.
# dash does not know `kill -TERM -- -1234`.
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


# Checksum files in dist/ whose directories may be copied back.
_RESULT = re.compile(
    rf"dist/(?P<target>[^/]+)/((?P<part>{dist.IMAGE}/({'|'.join(Variant)})|{dist.EVIDENCE}|{dist.PACKAGES})/)?{dist.SUMS}"
)

# Results of `invoke benchmark`, as benchmarks/records.py names them.
_BENCHMARK = re.compile(
    rf"{RESULTS}/builds\.linux-(?P<arch>[a-z0-9]+)\.(?P<execution>{'|'.join(Execution)})\.json"
)

#: Limits of sizes in bytes: of a SHA256SUMS or results of benchmarks, and of any other file. Image
#: archives have some hundred MiB.
_LARGEST_LIST = 16 << 20
_LARGEST_FILE = 4 << 30

_DAMAGED = "run it again; if it fails again, the remote files are damaged: rebuild with --force"

#: Tasks whose results are always copied back.
_BUILD_TASKS = {"build-binaries", "build-image", "validate", "build-packages"}

# Runs on the remote host; its arguments are packages.
_INSTALL = """\
[ "$(id -u)" = 0 ] || sudo="sudo -n"
apt="$sudo env DEBIAN_FRONTEND=noninteractive apt-get"
$apt update -q && $apt install -yq --no-install-recommends "$@"
"""


@dataclass(frozen=True)
class RemoteHost:
    """What is known of a remote host.

    Args:
        destination: the ssh destination.
        arch: the architecture.
        home: the user's home directory.
        missing: commands of :data:`ESSENTIAL` that the host lacks.
        checksums: results in the remote checkout, as digests by path: the SHA256SUMS of
            each target, image and evidence in `dist/`, and each file in :data:`RESULTS`.
        git: :func:`.git_files.state` of the remote git files; empty when unknown.
    """

    destination: Destination
    arch: Architecture
    home: str
    missing: tuple[str, ...]
    checksums: Mapping[str, str]
    git: str = ""

    @property
    def directory(self) -> str:
        """This checkout's directory on the remote host."""
        return f"{self.home}/{_directory()}"


def _directory() -> str:
    """This checkout's directory below the remote home: in the user's cache, one per checkout."""
    identity = hashlib.sha256(f"{os.uname().nodename}:{project.ROOT}".encode()).hexdigest()
    return f".cache/buildkit-riscv64/checkouts/{identity[:12]}"


def resolve(name: str, boards: Mapping[str, str]) -> Destination:
    """Resolve a name: a board, an emulated machine (started if necessary), or an ssh destination.

    Args:
        name: as on the command line.
        boards: destinations by name, from the configuration.

    Raises:
        UsageError: the name is not a destination.
        MachineError: the emulated machine does not start.
    """
    if name in boards:
        return Destination.parse(boards[name])
    if machines.exists(name):
        machine = machines.find(name)
        if not machine.answered:
            log(f"{'would start' if dry_run.active() else 'starting'} machine {name}")
            machines.start(machine)
        return machine.destination
    if name == machines.DEFAULT_NAME:
        raise MachineError(f"machine {name} does not exist", "invoke machine.create")
    return Destination.parse(name)


def understand(destination: Destination, answer: str) -> RemoteHost:
    """Parse the remote host's answer to the question.

    Raises:
        MachineError: the answer is not that of a shell, or the architecture is unknown.
    """
    lines = answer.splitlines()
    if len(lines) < 2 or not lines[1].startswith("/"):
        raise MachineError(
            f"unexpected answer from {destination.label}: not a shell's output",
            "check what its login shell prints: `ssh HOST true` must print nothing",
        )
    pairs = (line.partition("  ") for line in lines[2:])
    return RemoteHost(
        destination, Architecture.from_uname(lines[0]), home=lines[1],
        missing=tuple(tool for tool in ESSENTIAL if tool in lines[2:]),
        checksums={path: digest for digest, found, path in pairs if found},
        git=next((line for line in lines[2:] if line.startswith("git:")), ""),
    )  # fmt: skip


def _install_essential(remote: RemoteHost, *, yes: bool) -> None:
    packages = [ESSENTIAL[tool] for tool in remote.missing]
    name = remote.destination.label
    if not confirm(f"{name} lacks {', '.join(packages)}. Install with apt-get?", yes=yes):
        raise MissingRequirementError(
            f"{name} lacks {', '.join(packages)}",
            f"on {name}: apt-get install {' '.join(packages)}",
        )
    process.run(
        remote.destination.command(["sh", "-c", _INSTALL, "sh", *packages]),
        error=MissingRequirementError,
        hint=f"on {name}: apt-get install {' '.join(packages)}",
    )


def push(remote: RemoteHost) -> str:
    """Make the remote checkout equal to this one: tracked and new files, no others.

    Files that git ignores are neither sent nor deleted, so the remote `dist/`,
    environment and caches stay. Git's own files are sent when they have changed,
    except its configuration, hooks and logs.

    Returns:
        The state of the git files that were sent, for :func:`execute`.

    Raises:
        MachineError: the connection was lost, or the remote disk is full.
        SourceError: git refuses this checkout, or the copy would be incomplete.
    """
    git_files.refuse_borrowed_objects()
    excluded = [f"--exclude=/.git/{name}" for name in git_files.PRIVATE]
    state = git_files.state()
    if remote.git == state or git_files.are_elsewhere():
        # Comparing git's many small objects takes longer than the rest.
        excluded = ["--exclude=/.git"]
    if git_files.are_elsewhere():
        excluded.append(f"--exclude=/{project.SUBMODULE.name}/.git")
    arguments = (
        "--archive", "--mkpath", "--delete-after", "--compress", "--no-owner", "--no-group",
    )  # fmt: skip
    remote.destination.rsync(
        # --delete-after: rsync must have the new .gitignore before it deletes.
        *arguments,
        *excluded, "--exclude=/dist", *_tracked_though_ignored(), "--filter=:- .gitignore",
        f"{project.ROOT}/", f":{remote.directory}/",
    )  # fmt: skip
    if remote.git != state and git_files.are_elsewhere():
        submodule = project.SUBMODULE.name
        with git_files.gathered() as gathered:
            remote.destination.rsync(
                *arguments, "--copy-links",
                "--include=/.git/***", f"--include=/{submodule}/", f"--include=/{submodule}/.git",
                "--exclude=*", f"{gathered}/", f":{remote.directory}/",
            )  # fmt: skip
    return state


def _tracked_though_ignored() -> list[str]:
    """Exceptions for rsync: tracked files that .gitignore matches, as in upstream's vendored packages.

    Raises:
        SourceError: git refuses to list the files.
    """
    rules = []
    for checkout in filter(git.is_checkout, (project.ROOT, project.SUBMODULE)):
        listed = git.read(checkout, "ls-files", "-z", "--cached", "--ignored", "--exclude-standard")
        for name in filter(None, listed.split("\0")):
            path = (checkout / name).relative_to(project.ROOT)
            for part in (*reversed(path.parents[:-1]), path):
                escaped = re.sub(r"[][*?\\]", r"\\\g<0>", str(part))
                rules.append(f"--include=/{escaped}")
    return rules


def words(arguments: Sequence[str], tasks: Sequence[str]) -> list[str]:
    """The remote command for the words after `--`.

    Tasks and `nox` run through the launchers, which create the environment.
    Anything else runs as a command of the remote host.

    Args:
        arguments: the words after `--`.
        tasks: the names of all tasks.

    Raises:
        UsageError: no words follow `--`.
    """
    if not arguments:
        raise UsageError(
            "no command given", "write it after `--`, as in: invoke on riscv64 -- build-binaries"
        )
    first, *rest = arguments
    if first == "nox":
        return ["./nox", *rest]
    if first in tasks or first.startswith("-"):
        return ["./invoke", *arguments]
    return list(arguments)


def execute(remote: RemoteHost, command: Sequence[str], state: str, *, yes: bool) -> int:
    """Run a command in the remote checkout and stream its output.

    Args:
        remote: the remote host.
        command: the command's words.
        state: the result of :func:`push`.
        yes: the remote command asks no questions.

    Returns:
        The command's exit code.

    Raises:
        MachineError: the connection was lost.
    """
    settings = ["CI=true"] if yes else []
    if actions := os.environ.get("GITHUB_ACTIONS"):
        settings.append(f"GITHUB_ACTIONS={actions}")
    # No remote terminal: it would merge output and errors.
    arguments = [
        *(["env", *settings] if settings else []),
        "sh", "-c", _RUNNER, "sh", remote.directory, state, *command,
    ]  # fmt: skip
    code = process.attached(remote.destination.command(arguments))
    if code == SSH_FAILED and not remote.destination.alive():
        raise remote.destination.lost("it closed while the command ran")
    return code


def pull(before: Mapping[str, str], remote: RemoteHost) -> list[Path]:
    """Copy new results back and verify their checksums.

    Args:
        before: results before the command, as in :attr:`RemoteHost.checksums`.
        remote: the remote host after the command.

    Returns:
        The local directories that were replaced.

    Raises:
        MachineError: the connection was lost.
        CheckError: a file does not match its checksum, or is not one that the command writes.
        UsageError: the remote host lists an unknown path.
    """
    copied = []
    for path, digest in remote.checksums.items():
        here = project.ROOT / path
        if here.is_file() and (before.get(path) == digest or filesystem.sha256(here) == digest):
            continue
        if here.name == dist.SUMS:
            copied.append(_copy_back(remote, path, digest))
        else:
            _copy_benchmark(remote, path, digest)
    return copied


def _fetch(remote: RemoteHost, source: str, names: Iterable[str], to: Path, most: int) -> None:
    """Copy files of a directory on the remote host, as far as they are regular files.

    Args:
        remote: the remote host.
        source: the directory in the remote checkout.
        names: the files, relative to the directory.
        to: the local directory.
        most: the largest size in bytes; larger files are not copied.

    Raises:
        MachineError: the connection was lost.
    """
    with tempfile.NamedTemporaryFile() as listed:
        listed.write("".join(f"{name}\0" for name in names).encode())
        listed.flush()
        remote.destination.rsync(
            # Without --archive, rsync copies no links, devices and fifos, and no setuid mode.
            "--times", "--no-implied-dirs", "--ignore-missing-args", f"--max-size={most}", "--from0",
            f"--files-from={listed.name}", f":{remote.directory}/{source}/", f"{to}/",
        )  # fmt: skip


def _copy_back(remote: RemoteHost, path: str, digest: str) -> Path:
    """Copy one directory back atomically; `path` is its remote checksum file."""
    match = _RESULT.fullmatch(path)
    if match is None:
        raise UsageError(
            f"unexpected path {path!r} in the answer from {remote.destination.label}",
            "check what its login shell prints: `ssh HOST true` must print nothing",
        )
    target, part = Target.parse(match["target"]), match["part"] or ""
    source = str(Path(path).parent)
    with dist.lock(target), dist.staging(target, part=part) as stage:
        _fetch(remote, source, [dist.SUMS], stage, _LARGEST_LIST)
        _require_intact(remote, source, stage, {dist.SUMS: digest})
        listed = _listed(remote, stage / dist.SUMS, path)
        _fetch(remote, source, listed, stage, _LARGEST_FILE)
        _require_intact(remote, source, stage, {**listed, dist.SUMS: digest})
        if not part:
            return dist.publish(stage, target, machine=remote.arch).path
        artifacts = dist.publish_part(stage, target, part)
        evidence.mark_stale(target)
    return artifacts.path


def _listed(remote: RemoteHost, copy: Path, path: str) -> dict[str, str]:
    """The checksums in a copied SHA256SUMS, by file name; `path` is its remote path.

    Raises:
        CheckError: the list is invalid, or has a file that no build on the remote host writes.
    """
    place = f"{path} on {remote.destination.label}"
    try:
        listed = dist.parse_sums(copy.read_bytes())
    except ValueError as error:
        raise CheckError(f"cannot use {place}: {error}", _DAMAGED) from error
    for name in listed:
        # Each part has its own checksums, and only this host writes the verdict of a cross-check.
        if name.split("/")[0] in {dist.VERDICT, *dist.PARTS}:
            raise CheckError(f"{place} lists {shown(name)}, which is not a file of it", _DAMAGED)
    return listed


def _require_intact(
    remote: RemoteHost, source: str, copy: Path, checksums: Mapping[str, str]
) -> None:
    """Compare a copied directory with its checksums; it must contain nothing else.

    Raises:
        CheckError: names the first wrong file.
    """
    known = {Path(name) for name in checksums}
    known |= {parent for path in known for parent in path.parents}
    for path in copy.rglob("*"):
        found = path.relative_to(copy)
        if found not in known or path.is_symlink():
            raise CheckError(
                f"{remote.destination.label} sent {shown(f'{source}/{found}')}, which is not a listed regular file",
                _DAMAGED,
            )
    for name, wanted in checksums.items():
        try:
            good = filesystem.sha256(copy / name) == wanted
        except OSError:
            good = False
        if not good:
            raise CheckError(
                f"{source}/{name} does not match its checksum on {remote.destination.label}, or is not a regular file there",
                _DAMAGED,
            )


def _copy_benchmark(remote: RemoteHost, path: str, digest: str) -> None:
    """Copy new runs of `invoke benchmark` back; other files are only reported.

    Raises:
        MachineError: the connection was lost.
        CheckError: the results are damaged or invalid, or lack runs that are recorded here.
    """
    label = remote.destination.label
    match = _BENCHMARK.fullmatch(path)
    if match is None or match["arch"] != remote.arch:
        warn(f"{shown(path)} stays on {label}: `invoke benchmark` does not write it there")
        return
    here = project.ROOT / path
    name = here.name
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory)
        _fetch(remote, RESULTS, [name], copy, _LARGEST_LIST)
        _require_intact(remote, RESULTS, copy, {name: digest})
        try:
            new = documents.parse_json((copy / name).read_bytes())
            documents.validate(new, schemas.BENCHMARK)
        except documents.InvalidDocumentError as error:
            raise CheckError(f"cannot use {path} on {label}: {error}", _DAMAGED) from error
    runs = documents.load(here, schemas.BENCHMARK)["runs"] if here.exists() else []
    if new["runs"][: len(runs)] != runs:
        raise CheckError(
            f"{path} on {label} lacks runs that are recorded here, or has changed them",
            f"move {path} away, and copy the new runs by hand",
        )
    host = {"arch": match["arch"], "execution": match["execution"]}
    if any(host.items() - run["host"].items() for run in new["runs"]):
        raise CheckError(f"{path} on {label} has runs of another kind of machine", _DAMAGED)
    here.parent.mkdir(parents=True, exist_ok=True)
    filesystem.write_json(here, new)
    log(f"copied back {filesystem.display_path(here)}: {count(len(new['runs']) - len(runs), 'new run')}")  # fmt: skip


def on(
    name: str,
    arguments: Sequence[str],
    tasks: Sequence[str],
    boards: Mapping[str, str],
    *,
    any_arch: bool,
    yes: bool,
) -> int:
    """Run a task or a command on a machine or a board.

    Args:
        name: the machine.
        arguments: the words of the command.
        tasks: the names of all tasks.
        boards: destinations by name.
        any_arch: accept a destination that is not RISC-V.
        yes: install missing packages on the remote host without asking.

    Returns:
        The command's exit code.

    Raises:
        Failure: the command could not run, or its results could not be copied back.
    """
    command = words(arguments, tasks)
    destination = resolve(name, boards)
    if dry_run.active():
        # A dry run does not connect, so the remote home is unknown.
        push(RemoteHost(destination, Architecture.RISCV64, home="~", missing=(), checksums={}))
        log(f"would run on {name}: {process.show(command)}")
        log(f"would copy back new results in dist/ and {RESULTS}/")
        return 0
    try:
        with destination.connected(_QUESTION, _directory(), *ESSENTIAL) as (shared, ask):

            def look() -> RemoteHost:
                return understand(shared, ask())

            return _run_on(look, name, command, any_arch=any_arch, yes=yes)
    except ConnectionLostError as error:
        raise _explain(name, error) from error


def _run_on(
    look: Callable[[], RemoteHost], name: str, command: Sequence[str], *, any_arch: bool, yes: bool
) -> int:
    remote = look()
    if remote.arch is not Architecture.RISCV64:
        log(f"{name} is {remote.arch}, not riscv64")
        if not any_arch:
            raise NotNativeError(
                f"{name} is {remote.arch}: its builds are not for riscv64",
                "give --any-arch to run it there anyway",
            )
    if remote.missing:
        _install_essential(remote, yes=yes)
    state = push(remote)
    # A build that is up to date there may still be missing here.
    before = {} if _BUILD_TASKS & set(command) else remote.checksums
    log(f"on {name} ({remote.arch}): {process.show(command)}")
    code = execute(remote, command, state, yes=yes)
    for path in pull(before, look()):
        execution = dist.load(path).manifest["host"]["execution"]
        log(f"copied back {filesystem.display_path(path)}/ ({execution}), checksums verified")
    return code


def _explain(name: str, error: MachineError) -> Failure:
    """Replace a connection error with one that names an emulated machine's state."""
    if not machines.exists(name):
        return error
    machine = machines.find(name)
    # The next run waits until it answers again.
    machine.answered_file.unlink(missing_ok=True)
    if machine.pid is None:
        return MachineError(
            f"qemu of machine {name} ended during the command",
            f"invoke machine.start --name {name}, and run the command again: it continues",
        )
    return MachineError(
        f"{error.brief}; machine {name} may have restarted: {machine.last_console_line()}",
        f"see `invoke machine.logs --name {name}`, and run the command again: it continues",
    )
