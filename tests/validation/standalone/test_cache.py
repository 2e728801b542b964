"""What is kept, for how long, and for whom."""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path
from typing import Any

import pytest

from ...integration.registry import Registry
from ...processes import eventually
from ..bases import BaseImage
from ..conftest import NewContext
from ..daemon import BOUND, NewDaemon
from .results import Builder

MEGABYTE = 1_000_000


@pytest.fixture
def fresh(new_daemon: NewDaemon, base: BaseImage, tmp_path: Path) -> Builder:
    """Builds on a daemon of the test's own, with an empty cache."""
    return Builder(new_daemon().start(), base, tmp_path)


def forget(builder: Builder) -> None:
    """Have the daemon forget all that it has."""
    builder.daemon.buildctl("prune", "--all").good()
    assert builder.daemon.du() == []


def test_invalidation(builder: Builder, new_context: NewContext) -> None:
    """A step runs again when its files, its arguments or a step before it change, and not for times"""
    mark = secrets.token_hex(4)
    context = new_context(
        f"FROM base AS work\nENV MARK={mark}\nCOPY one /one\nRUN cat /one >/first\n"
        "COPY two /two\nARG IT\nRUN echo $IT >/second\n"
        "FROM scratch\nCOPY --from=work /first /second /\n",
        one="1", two="2",
    )  # fmt: skip

    def cached(*args: str) -> list[bool]:
        return builder.build(context, *args).good().cached

    assert cached() == [False] * 5
    assert cached() == [True] * 5
    os.utime(context / "one", (1, 1))
    os.utime(context / "two", (10**9, 10**9))
    assert cached() == [True] * 5
    assert cached("--opt=build-arg:IT=1") == [True, True, True, False, False]
    (context / "two").write_text("3")
    assert cached()[:4] == [True, True, False, False]
    (context / "one").chmod(0o755)
    assert cached()[:4] == [False] * 4
    assert cached("--no-cache") == [False] * 5


@pytest.mark.parametrize("kind", ["local", "registry", "inline"])
def test_cache_elsewhere(fresh: Builder, new_context: NewContext, local_registry: Registry, kind: str) -> None:  # fmt: skip
    """The cache of a daemon serves one that has none"""
    context = new_context(
        "FROM base AS early\nRUN cat /proc/sys/kernel/random/uuid >/early\n"
        "FROM base\nCOPY --from=early /early /early\nRUN cat /early /proc/sys/kernel/random/uuid >/late\n"
    )
    image, cache = (f"{local_registry.host}/{it}" for it in ("image", "cache"))
    folder = fresh.place("cache")
    outside, inside = {
        "local": (f"type=local,dest={folder},mode=max", f"type=local,src={folder}"),
        "registry": (f"type=registry,ref={cache},mode=max", f"type=registry,ref={cache}"),
        "inline": ("type=inline", f"type=registry,ref={image}"),
    }[kind]
    push = f"--output=type=image,name={image},push=true"
    fresh.build(context, push, f"--export-cache={outside}").good()
    before = (fresh.folder(context) / "late").read_text()
    forget(fresh)
    # What is random and the same has not been made again.
    again = fresh.folder(context, f"--import-cache={inside}")
    assert (again / "late").read_text() == before
    # Without it, all is made anew.
    forget(fresh)
    assert not any(fresh.build(context).good().cached)


def test_min_and_max(fresh: Builder, new_context: NewContext) -> None:
    """An exported cache has all stages in mode max, and those of the result alone in mode min"""
    context = new_context(
        "FROM base AS early\nRUN echo 1 >/early && echo 2 >/changes\n"
        "FROM base\nARG IT\nRUN --mount=from=early,target=/e cat /e/early >/late\n"
    )
    found = {}
    for mode in ("min", "max"):
        folder = fresh.place("cache")
        fresh.build(context, f"--export-cache=type=local,dest={folder},mode={mode}").good()
        forget(fresh)
        # What is asked anew of the early stage needs its result.
        (context / "Dockerfile").write_text(
            (context / "Dockerfile").read_text().replace("/e/early", f"/e/changes; : {mode};")
        )
        said = fresh.build(context, f"--import-cache=type=local,src={folder}").good()
        found[mode] = said.cached
        forget(fresh)
        (context / "Dockerfile").write_text(
            (context / "Dockerfile").read_text().replace(f"/e/changes; : {mode};", "/e/early")
        )
    assert found == {"min": [False, False], "max": [True, False]}


def _megabytes(builder: Builder, context: NewContext, numbers: range) -> None:
    """Builds that each leave a megabyte in the cache that no other build shares."""
    for number in numbers:
        builder.build(
            context(f"FROM base\nRUN dd if=/dev/urandom of=/{number} bs=1000000 count=1\n")
        ).good()


def _left(builder: Builder) -> dict[int, Any]:
    """Which of those are still in the cache."""
    found = {}
    for one in builder.daemon.du():
        if match := re.search(r"dd if=\S+ of=/(\d+) ", one["description"]):
            found[int(match[1])] = one
    return dict(sorted(found.items()))


def _size(builder: Builder) -> int:
    return sum(one["size"] for one in builder.daemon.du())


def _snapshots(builder: Builder) -> Path:
    """Where the files are that steps have made."""
    return builder.daemon.root / "runc-overlayfs" / "snapshots" / "snapshots"


def _on_disk(folder: Path) -> int:
    """Bytes of all files, as far as they are still there."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


def test_du_and_prune(fresh: Builder, new_context: NewContext) -> None:
    """du tells what is used; prune frees it on the disk: up to a size, by filter, all"""
    _megabytes(fresh, new_context, range(6))
    left = _left(fresh)
    assert list(left) == list(range(6))
    for one in left.values():
        assert MEGABYTE <= one["size"] < 1.2 * MEGABYTE
    assert re.search(r"Total:\s+\d", fresh.daemon.buildctl("du").good().stdout)
    snapshots = _snapshots(fresh)
    assert _on_disk(snapshots) >= 6 * MEGABYTE
    # The oldest go first, and no more than need to.
    before = _size(fresh)
    limit = before - 2.5 * MEGABYTE
    fresh.daemon.buildctl("prune", f"--keep-storage={limit / MEGABYTE}").good()
    left = _left(fresh)
    assert list(left) == [3, 4, 5]
    assert limit - MEGABYTE * 1.2 <= _size(fresh) <= limit
    fresh.daemon.buildctl("prune", f"--filter=id=={left[4]['id']}").good()
    assert list(_left(fresh)) == [3, 5]
    fresh.daemon.buildctl("prune", "--keep-duration=1h").good()
    assert list(_left(fresh)) == [3, 5]
    forget(fresh)
    assert eventually(lambda: _on_disk(snapshots) < MEGABYTE)


def test_gc_policy(new_daemon: NewDaemon, base: BaseImage, new_context: NewContext, tmp_path: Path) -> None:  # fmt: skip
    """Garbage collection keeps the cache below what buildkitd.toml says, on the disk, too"""
    limit = 6 * MEGABYTE
    config = (
        "debug = true\n[worker.oci]\n  gc = {}\n"
        f"  [[worker.oci.gcpolicy]]\n    all = true\n    maxUsedSpace = {limit}\n"
    )
    builder = Builder(new_daemon(config=config.format("false")).start(), base, tmp_path)
    daemon = builder.daemon
    _megabytes(builder, new_context, range(8))
    assert list(_left(builder)) == list(range(8))
    # It collects when it starts, and then once a minute at most, which would be long to wait.
    daemon.stop()
    daemon.configure(config.format("true"))
    daemon.start()
    (worker,) = daemon.buildctl("debug", "workers", "--format={{json .}}").good().json
    (told,) = worker["gcPolicy"]
    assert (told["all"], told["maxUsedSpace"]) == (True, limit)
    assert eventually(lambda: "gc cleaned up" in daemon.log, BOUND)
    assert limit - 2 * MEGABYTE < _size(builder) <= limit
    left = list(_left(builder))
    assert left
    assert left == list(range(8))[-len(left) :]
    assert eventually(lambda: _on_disk(_snapshots(builder)) <= limit)
    # What is left can be built upon.
    builder.build(new_context("FROM base\nRUN true\n")).good()
