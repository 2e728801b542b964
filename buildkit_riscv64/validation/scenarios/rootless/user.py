"""An ordinary user, and daemons under RootlessKit."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from buildkit_riscv64.core import process
from buildkit_riscv64.validation.environment.cached_roots import DEVICES, UDEV_MODE
from buildkit_riscv64.validation.environment.scripts import script

from ..daemon import Daemon, NewDaemon

#: Number of user ids that Debian grants a user.
USUAL = 65536

# Arguments: a directory, the user's name and id, the group's id, and a command to run as the user.
# This is the first process of the daemon's namespaces, so the machine does not see its mounts. In the
# namespaces the user exists, may open the devices that udev opens to every user, and may execute the
# binaries. It ends after every other process, or writes the list of those that remain.
_INIT = rf"""{DEVICES}
directory=$1 name=$2 user=$3 group=$4
shift 4
for file in "$directory"/etc/*; do
    [ ! -e "$file" ] || mount --bind "$file" "/etc/${{file##*/}}"
done
make_devices /dev {UDEV_MODE} || exit
mount --bind "$directory/bin/real" "$directory/program"
cat /proc/self/mounts >"$directory/mounts.before"
setpriv --reuid "$user" --regid "$group" --clear-groups env --chdir="$directory/own" \
    HOME="$directory/own" USER="$name" LOGNAME="$name" TMPDIR="$directory/own/tmp" XDG_RUNTIME_DIR="$directory/own/run" "$@" &
child=$!
trap 'kill -TERM $child' TERM
while kill -0 $child 2>/dev/null; do wait $child && code=0 || code=$?; done
cat /proc/self/mounts >"$directory/mounts.after"
for _ in $(seq "$(cat "$directory/patience")"); do
    left=
    for place in /proc/[0-9]*; do
        [ "$place" != /proc/1 ] && read -r line <"$place/stat" || continue
        case $line in *") Z "*) ;; *) left="$left $line" ;; esac
    done
    [ -n "$left" ] || break
    sleep 0.1
done
echo "$left" >"$directory/left"
exit $code
"""


@dataclass(frozen=True)
class User:
    """An ordinary user with granted user ids.

    Args:
        name: the user's name.
        uid: the user's id.
        gid: the id of the user's group.
        first: the first granted id.
        granted: the number of granted ids.
        files: files of /etc that define the user, by name; empty if the user exists.
    """

    name: str
    uid: int
    gid: int
    first: int
    granted: int
    files: dict[str, str] = field(default_factory=dict)

    def host_id(self, inside: int) -> int:
        """The host's user id for an id in the user's namespace."""
        return self.uid if inside == 0 else self.first + inside - 1


def existing() -> User | None:
    """The first user of this machine with enough granted user ids."""
    try:
        lines = Path("/etc/subuid").read_text().splitlines()
    except OSError:
        return None
    for name, first, count in (line.split(":") for line in lines if line.count(":") == 2):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid and int(count) >= USUAL:
            return User(name, entry.pw_uid, entry.pw_gid, int(first), int(count))
    return None


def invented() -> User:
    """A user who exists only in the daemon's namespace."""
    uid, first = 64738, 1 << 20
    granted = f"tester:{first}:{USUAL}\n"
    files = {
        "passwd": f"{Path('/etc/passwd').read_text()}tester:x:{uid}:{uid}::/:/bin/sh\n",
        "group": f"{Path('/etc/group').read_text()}tester:x:{uid}:\n",
        "subuid": granted,
        "subgid": granted,
    }
    return User("tester", uid, uid, first, USUAL, files)


class RootlessDaemon:
    """A daemon of an ordinary user.

    Args:
        new_daemon: creates the daemon.
        user: the user.
        net: network flags of RootlessKit.
        flags: flags of buildkitd.
    """

    def __init__(
        self,
        new_daemon: NewDaemon,
        user: User,
        *,
        net: Sequence[str] = ("--net=host",),
        flags: Sequence[str] = (),
    ) -> None:
        daemon: Daemon = new_daemon(flags=flags)
        self.daemon = daemon
        self.user = user
        directory = daemon.directory
        # Every user may enter; the content is not secret.
        directory.parent.chmod(0o755)
        real, daemon.binaries = daemon.binaries, directory / "bin"
        for name, content in user.files.items():
            (directory / "etc").mkdir(exist_ok=True)
            (directory / "etc" / name).write_text(content)
        own = directory / "own"
        self._own = [daemon.root, own]
        for place in (*self._own, own / "tmp", own / "run", self._socket.parent):
            place.mkdir(exist_ok=True, mode=0o700)
            os.chown(place, user.uid, user.gid)
        command = process.show(
            ["sh", "-uc", _INIT, "sh", directory, user.name, str(user.uid), str(user.gid),
             "rootlesskit", *net, directory / "program"]
        )  # fmt: skip
        script(daemon.binaries / "buildkitd", f'PATH="$PATH:/usr/sbin:/sbin"; exec {command} "$@"')
        (daemon.binaries / "buildctl").symlink_to(real / "buildctl")
        (daemon.binaries / "real").symlink_to(real / "buildkitd")
        (directory / "program").touch()
        self.patience(1500)

    @property
    def _socket(self) -> Path:
        return Path(self.daemon.address.removeprefix("unix://"))

    @property
    def pid(self) -> int:
        """The host's process id of buildkitd, below RootlessKit."""
        (pid,) = (
            pid for pid in _below(self.daemon.pid)
            if Path(f"/proc/{pid}/comm").read_text().strip() == "program"
        )  # fmt: skip
        return pid

    def owners(self) -> dict[int, Path]:
        """One path for each owner of its files, by host user id."""
        found: dict[int, Path] = {}
        for top in self._own:
            for place in (top, *top.rglob("*")):
                found[place.lstat().st_uid] = place
        return found

    def patience(self, tenths: int) -> None:
        """Set the tenths of a second that processes get to end after the daemon."""
        (self.daemon.directory / "patience").write_text(f"{tenths}\n")

    def stop(self) -> None:
        """Stop it by SIGTERM; no process, mount or other user's file may remain."""
        self.daemon.stop()
        directory = self.daemon.directory
        left = (directory / "left").read_text().strip()
        assert not left, f"processes left behind: {left}"
        before, after = ((directory / f"mounts.{when}").read_text() for when in ("before", "after"))
        assert before == after
        granted = {self.user.uid, *range(self.user.first, self.user.first + self.user.granted)}
        others = {uid: path for uid, path in self.owners().items() if uid not in granted}
        assert not others, f"files of other users: {others}"


def _below(pid: int) -> Iterator[int]:
    for child in process.children(pid):
        yield child
        yield from _below(child)
