"""An ordinary user's daemon, under RootlessKit."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from ..bases import BaseImage
from ..conftest import NewContext
from .conftest import NewRootless

#: Its own network, as upstream recommends.
SLIRP4NETNS = ("--net=slirp4netns", "--copy-up=/etc", "--disable-host-loopback")
BUILD = "FROM base\nRUN id -u >/who && echo data >/data && chown 1000:1000 /data\nRUN cat /data\n"


@pytest.mark.parametrize("snapshotter", ["overlayfs", "fuse-overlayfs", "native"])
def test_snapshotters(
    new_rootless: NewRootless,
    base: BaseImage,
    new_context: NewContext,
    tmp_path: Path,
    snapshotter: str,
) -> None:
    """A user builds with RUN, cache and export; no process, mount or file of root remains"""
    rootless = new_rootless(flags=[f"--oci-worker-snapshotter={snapshotter}"])
    daemon = rootless.daemon.start()
    (worker,) = daemon.buildctl("debug", "workers", "--format={{json .}}").good().json
    assert worker["labels"]["org.mobyproject.buildkit.worker.snapshotter"] == snapshotter
    assert Path(f"/proc/{rootless.pid}").stat().st_uid == rootless.user.uid

    context = new_context(BUILD)
    daemon.build(context, *base.flags()).good()
    archive = tmp_path / "image.tar"
    again = daemon.build(context, *base.flags(), f"--output=type=tar,dest={archive}").good()
    assert again.cached == [True, True]
    with tarfile.open(archive) as tar:
        data, who = tar.getmember("data"), tar.extractfile("who")
        assert (data.uid, data.gid) == (1000, 1000)
        assert who is not None
        assert who.read() == b"0\n"
    # Root in the build is the user; user 1000 is one of the granted ids.
    host_ids = {path.lstat().st_uid for path in daemon.root.rglob("data") if path.is_file()}
    assert host_ids == {rootless.user.host_id(1000)}
    rootless.stop()


def test_slirp4netns(new_rootless: NewRootless, base: BaseImage, new_context: NewContext) -> None:
    """With slirp4netns RUN uses the daemon's network and name server, not the host's"""
    rootless = new_rootless(net=SLIRP4NETNS)
    daemon = rootless.daemon.start()
    mine, theirs = (Path(f"/proc/{pid}/ns/net").readlink() for pid in ("self", rootless.pid))
    assert mine != theirs
    context = new_context(
        "FROM base\nRUN readlink /proc/self/ns/net; ip address; cat /etc/resolv.conf\n"
    )
    reported = daemon.build(context, *base.flags()).good().stderr
    assert str(theirs) in reported
    assert "tap0" in reported
    assert "nameserver 10.0.2.3" in reported
    rootless.stop()
