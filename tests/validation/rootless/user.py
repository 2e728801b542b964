"""An ordinary user, and daemons of theirs under RootlessKit."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from buildkit_riscv64 import process

from ...integration.miniature import script
from ..daemon import Daemon, NewDaemon

#: As many user ids as Debian grants somebody.
USUAL = 65536

# Arguments: a folder, the user's name and id, the group's, and what to run as them. This is the first process
# of the daemon's namespaces, so nothing that it mounts is on the machine. In there the user
# exists, may use what udev opens to everybody, and may reach the binaries. It ends after
# everything else has, or tells what has not.
_INIT = r"""
folder=$1 name=$2 user=$3 group=$4
shift 4
for file in "$folder"/etc/*; do
    [ ! -e "$file" ] || mount --bind "$file" "/etc/${file##*/}"
done
for device in fuse:229 net/tun:200; do
    node=$folder/device-${device##*:}
    [ -e "$node" ] || mknod -m 666 "$node" c 10 "${device##*:}"
    [ ! -e "/dev/${device%:*}" ] || mount --bind "$node" "/dev/${device%:*}"
done
mount --bind "$folder/bin/real" "$folder/program"
cat /proc/self/mounts >"$folder/mounts.before"
setpriv --reuid "$user" --regid "$group" --clear-groups env --chdir="$folder/own" \
    HOME="$folder/own" USER="$name" LOGNAME="$name" TMPDIR="$folder/own/tmp" XDG_RUNTIME_DIR="$folder/own/run" "$@" &
child=$!
trap 'kill -TERM $child' TERM
while kill -0 $child 2>/dev/null; do wait $child && code=0 || code=$?; done
cat /proc/self/mounts >"$folder/mounts.after"
for _ in $(seq 50); do
    left=
    for place in /proc/[0-9]*; do
        [ "$place" != /proc/1 ] && read -r line <"$place/stat" || continue
        case $line in *") Z "*) ;; *) left="$left $line" ;; esac
    done
    [ -n "$left" ] || break
    sleep 0.1
done
echo "$left" >"$folder/left"
exit $code
"""


@dataclass(frozen=True)
class User:
    """An ordinary user who is granted user ids.

    Args:
        name: theirs.
        uid: theirs.
        gid: theirs.
        first: the first id that they are granted.
        granted: how many.
        files: what /etc has to say so that they exist, by name; nothing if they do.
    """

    name: str
    uid: int
    gid: int
    first: int
    granted: int
    files: dict[str, str] = field(default_factory=dict)

    def seen(self, inside: int) -> int:
        """A user id in their namespace, as the host numbers it."""
        return self.uid if inside == 0 else self.first + inside - 1


def existing() -> User | None:
    """The first of this machine's users who is granted user ids."""
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
    """A user who exists only where their daemon runs."""
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
    """A daemon of an ordinary user's.

    Args:
        new_daemon: makes it.
        user: whose it is.
        net: RootlessKit's flags for the network.
        flags: buildkitd's.
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
        folder = daemon.folder
        # All can pass, and nothing of it is secret.
        folder.parent.chmod(0o755)
        real, daemon.binaries = daemon.binaries, folder / "bin"
        for name, content in user.files.items():
            (folder / "etc").mkdir(exist_ok=True)
            (folder / "etc" / name).write_text(content)
        self._own = [daemon.root, folder / "own"]
        for place in (*self._own, folder / "own/tmp", folder / "own/run", self._socket.parent):
            place.mkdir(exist_ok=True, mode=0o700)
            os.chown(place, user.uid, user.gid)
        command = process.show(
            ["sh", "-uc", _INIT, "sh", folder, user.name, str(user.uid), str(user.gid),
             "rootlesskit", *net, folder / "program"]
        )  # fmt: skip
        script(daemon.binaries / "buildkitd", f'PATH="$PATH:/usr/sbin:/sbin"; exec {command} "$@"')
        (daemon.binaries / "buildctl").symlink_to(real / "buildctl")
        (daemon.binaries / "real").symlink_to(real / "buildkitd")
        (folder / "program").touch()

    @property
    def _socket(self) -> Path:
        return Path(self.daemon.address.removeprefix("unix://"))

    @property
    def pid(self) -> int:
        """Of buildkitd, as the host numbers it: the last of those that RootlessKit starts."""
        (pid,) = (
            pid for pid in _below(self.daemon.pid)
            if Path(f"/proc/{pid}/comm").read_text().strip() == "program"
        )  # fmt: skip
        return pid

    def owners(self) -> dict[int, Path]:
        """Whose the files are that it has written, as the host numbers users: and one of each."""
        found: dict[int, Path] = {}
        for top in self._own:
            for place in (top, *top.rglob("*")):
                found[place.lstat().st_uid] = place
        return found

    def stop(self) -> None:
        """End it by SIGTERM; no process and no mount may be left, and no file of anybody else's."""
        self.daemon.stop()
        folder = self.daemon.folder
        left = (folder / "left").read_text().strip()
        assert not left, f"processes left behind: {left}"
        before, after = ((folder / f"mounts.{when}").read_text() for when in ("before", "after"))
        assert before == after
        granted = {self.user.uid, *range(self.user.first, self.user.first + self.user.granted)}
        others = {uid: path for uid, path in self.owners().items() if uid not in granted}
        assert not others, f"files of somebody else's: {others}"


def _below(pid: int) -> Iterator[int]:
    for child in process.children(pid):
        yield child
        yield from _below(child)
