"""The cache: invalidation, export and import, pruning, garbage collection."""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path
from typing import Any

import pytest

from buildkit_riscv64.validation.environment.registry import Registry
from buildkit_riscv64.validation.environment.waiting import eventually

from ..bases import BaseImage
from ..conftest import NewContext
from ..daemon import NewDaemon
from .results import Builder

MEGABYTE = 1_000_000


@pytest.fixture
def new_builder(new_daemon: NewDaemon, base: BaseImage, tmp_path: Path) -> Builder:
    """Builds on a new daemon with an empty cache."""
    return Builder(new_daemon().start(), base, tmp_path)


def forget(builder: Builder) -> None:
    """Empty the daemon's cache."""
    builder.daemon.buildctl("prune", "--all").good()
    assert builder.daemon.du() == []


def test_invalidation(builder: Builder, new_context: NewContext) -> None:
    """A change of files, arguments or earlier steps invalidates a step; a change of timestamps does not"""
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
def test_cache_import(
    new_builder: Builder, new_context: NewContext, local_registry: Registry, kind: str
) -> None:
    """A daemon with an empty cache imports the cache of another build"""
    context = new_context(
        "FROM base AS early\nRUN cat /proc/sys/kernel/random/uuid >/early\n"
        "FROM base\nCOPY --from=early /early /early\nRUN cat /early /proc/sys/kernel/random/uuid >/late\n"
    )
    image, cache = (f"{local_registry.host}/{it}" for it in ("image", "cache"))
    directory = new_builder.place("cache")
    outside, inside = {
        "local": (f"type=local,dest={directory},mode=max", f"type=local,src={directory}"),
        "registry": (f"type=registry,ref={cache},mode=max", f"type=registry,ref={cache}"),
        "inline": ("type=inline", f"type=registry,ref={image}"),
    }[kind]
    push = f"--output=type=image,name={image},push=true"
    new_builder.build(context, push, f"--export-cache={outside}").good()
    before = (new_builder.directory(context) / "late").read_text()
    forget(new_builder)
    # Equal random content proves that the step did not run again.
    again = new_builder.directory(context, f"--import-cache={inside}")
    assert (again / "late").read_text() == before
    # Without the import, every step runs again.
    forget(new_builder)
    assert not any(new_builder.build(context).good().cached)


def test_min_and_max(new_builder: Builder, new_context: NewContext) -> None:
    """A cache exported in mode max has all stages; in mode min only those of the result"""
    context = new_context(
        "FROM base AS early\nRUN echo 1 >/early && echo 2 >/changes\n"
        "FROM base\nARG IT\nRUN --mount=from=early,target=/e cat /e/early >/late\n"
    )
    found = {}
    for mode in ("min", "max"):
        directory = new_builder.place("cache")
        new_builder.build(context, f"--export-cache=type=local,dest={directory},mode={mode}").good()
        forget(new_builder)
        # A new use of the early stage needs its result.
        (context / "Dockerfile").write_text(
            (context / "Dockerfile").read_text().replace("/e/early", f"/e/changes; : {mode};")
        )
        reported = new_builder.build(context, f"--import-cache=type=local,src={directory}").good()
        found[mode] = reported.cached
        forget(new_builder)
        (context / "Dockerfile").write_text(
            (context / "Dockerfile").read_text().replace(f"/e/changes; : {mode};", "/e/early")
        )
    assert found == {"min": [False, False], "max": [True, False]}


def _megabytes(builder: Builder, context: NewContext, numbers: range) -> None:
    """Builds that each add a megabyte to the cache."""
    for number in numbers:
        builder.build(
            context(f"FROM base\nRUN dd if=/dev/urandom of=/{number} bs=1000000 count=1\n")
        ).good()


def _left(builder: Builder) -> dict[int, Any]:
    """The cache records of :func:`_megabytes`, by number."""
    found = {}
    for one in builder.daemon.du():
        if match := re.search(r"dd if=\S+ of=/(\d+) ", one["description"]):
            found[int(match[1])] = one
    return dict(sorted(found.items()))


def _size(builder: Builder) -> int:
    return sum(one["size"] for one in builder.daemon.du())


def _snapshots(builder: Builder) -> Path:
    """The directory with the files of build steps."""
    return builder.daemon.root / "runc-overlayfs" / "snapshots" / "snapshots"


def _on_disk(directory: Path) -> int:
    """The size of the files that still exist."""
    return sum(path.lstat().st_size for path in directory.rglob("*") if path.is_file())


def test_du_and_prune(new_builder: Builder, new_context: NewContext) -> None:
    """du lists the cache; prune frees disk space: by size, by filter, all"""
    _megabytes(new_builder, new_context, range(6))
    left = _left(new_builder)
    assert list(left) == list(range(6))
    for one in left.values():
        assert MEGABYTE <= one["size"] < 1.2 * MEGABYTE
    assert re.search(r"Total:\s+\d", new_builder.daemon.buildctl("du").good().stdout)
    snapshots = _snapshots(new_builder)
    assert _on_disk(snapshots) >= 6 * MEGABYTE
    # The oldest records are pruned first, and no more than necessary.
    before = _size(new_builder)
    limit = before - 2.5 * MEGABYTE
    new_builder.daemon.buildctl("prune", f"--keep-storage={limit / MEGABYTE}").good()
    left = _left(new_builder)
    assert list(left) == [3, 4, 5]
    assert limit - MEGABYTE * 1.2 <= _size(new_builder) <= limit
    new_builder.daemon.buildctl("prune", f"--filter=id=={left[4]['id']}").good()
    assert list(_left(new_builder)) == [3, 5]
    new_builder.daemon.buildctl("prune", "--keep-duration=1h").good()
    assert list(_left(new_builder)) == [3, 5]
    forget(new_builder)
    assert eventually(lambda: _on_disk(snapshots) < MEGABYTE)


def test_gc_policy(
    new_daemon: NewDaemon, base: BaseImage, new_context: NewContext, tmp_path: Path
) -> None:
    """Garbage collection limits the cache, on disk too, to the size in buildkitd.toml"""
    limit = 6 * MEGABYTE
    config = (
        "debug = true\n[worker.oci]\n  gc = {}\n"
        f"  [[worker.oci.gcpolicy]]\n    all = true\n    maxUsedSpace = {limit}\n"
    )
    builder = Builder(new_daemon(config=config.format("false")).start(), base, tmp_path)
    daemon = builder.daemon
    _megabytes(builder, new_context, range(8))
    assert list(_left(builder)) == list(range(8))
    # It runs at the start, and then at most once a minute, which is long to wait.
    daemon.stop()
    daemon.configure(config.format("true"))
    daemon.start()
    (worker,) = daemon.buildctl("debug", "workers", "--format={{json .}}").good().json
    (policy,) = worker["gcPolicy"]
    assert (policy["all"], policy["maxUsedSpace"]) == (True, limit)
    assert eventually(lambda: "gc cleaned up" in daemon.log)
    assert limit - 2 * MEGABYTE < _size(builder) <= limit
    left = list(_left(builder))
    assert left
    assert left == list(range(8))[-len(left) :]
    assert eventually(lambda: _on_disk(_snapshots(builder)) <= limit)
    # Builds can use the remaining cache.
    builder.build(new_context("FROM base\nRUN true\n")).good()
