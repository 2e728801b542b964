"""Builds for platforms other than this machine's."""

from __future__ import annotations

from pathlib import Path

import pytest

from buildkit_riscv64.binaries import toolchain
from buildkit_riscv64.core import pins
from buildkit_riscv64.core.arch import Platform

from ..bases import BaseImage
from ..conftest import NewContext
from ..daemon import Daemon, run
from . import foreign

#: The platforms of this project's machines.
COMMON = [Platform.AMD64, Platform.ARM64, Platform.RISCV64]


def targets(platforms: list[Platform]) -> str:
    return f"--opt=platform={','.join(platforms)}"


def output(oci: Path) -> str:
    return f"--output=type=oci,tar=false,dest={oci}"


def test_worker_platforms(daemon: Daemon) -> None:
    """The daemon reports every platform that has an emulator"""
    (worker,) = daemon.buildctl("debug", "workers", "--format={{json .}}").good().json
    reported = {one["architecture"] for one in worker["platforms"]}
    assert {one.architecture for one in Platform if foreign.runs(one)} <= reported


def test_copy_only(daemon: Daemon, new_context: NewContext, tmp_path: Path) -> None:
    """Images with only files, for every platform in one index"""
    files = {f"for-{one.architecture}{one.variant}": f"{one}\n" for one in Platform}
    context = new_context(
        "FROM scratch\nARG TARGETARCH TARGETVARIANT\nCOPY for-$TARGETARCH$TARGETVARIANT /which\n",
        **files,
    )
    out, oci = tmp_path / "out", tmp_path / "oci"
    daemon.build(context, targets([*Platform]), output(oci), f"--output=type=local,dest={out}").good()  # fmt: skip
    assert list(foreign.images(oci)) == [*Platform]
    assert {path.name for path in out.iterdir()} == {one.replace("/", "_") for one in Platform}
    for one in Platform:
        assert (out / one.replace("/", "_") / "which").read_text() == f"{one}\n"


def test_cross_stage(
    daemon: Daemon, every_base: BaseImage, new_context: NewContext, tmp_path: Path
) -> None:
    """A stage for $BUILDPLATFORM runs natively, with the target platform as argument"""
    context = new_context(
        "FROM --platform=$BUILDPLATFORM base AS build\n"
        "ARG BUILDPLATFORM TARGETPLATFORM TARGETOS TARGETARCH TARGETVARIANT\n"
        "RUN echo $(uname -m) $BUILDPLATFORM $TARGETPLATFORM $TARGETOS $TARGETARCH $TARGETVARIANT >/platform\n"
        "FROM scratch\nCOPY --from=build /platform /\n"
    )
    here = Platform.here()
    out = tmp_path / "out"
    daemon.build(context, *every_base.flags(), targets([*Platform]), f"--output=type=local,dest={out}").good()  # fmt: skip
    for one in Platform:
        platform = (out / one.replace("/", "_") / "platform").read_text()
        wanted = f"{here.uname} {here} {one} linux {one.architecture} {one.variant}".strip()
        assert platform == f"{wanted}\n"


@pytest.mark.may_be_not_proven
def test_cross_compiling(
    daemon: Daemon, every_base: BaseImage, new_context: NewContext, tmp_path: Path, other: Platform
) -> None:
    """Go compiles for two platforms, and the programs run on each"""
    foreign.require(other)
    # The minimum for a program that imports only the runtime; the rest is 200 MB.
    parts = ("bin/go", "pkg/include", "pkg/tool", "src/internal", "src/math/bits", "src/runtime", "src/unsafe", "go.env", "VERSION")  # fmt: skip
    context = new_context(
        "FROM --platform=$BUILDPLATFORM base AS build\n"
        + "".join(f"COPY --from=go {part} /go/{part}\n" for part in parts)
        + "COPY main.go /program/\n"
        "ARG TARGETOS TARGETARCH\n"
        "RUN cd /program && CGO_ENABLED=0 GOCACHE=/tmp/go GOGC=off GOTOOLCHAIN=local GOPROXY=off"
        " GOOS=$TARGETOS GOARCH=$TARGETARCH /go/bin/go build -o /hello main.go\n"
        "FROM scratch\nCOPY --from=build /hello /\n",
        **{"main.go": 'package main\nimport "runtime"\nfunc main() { println("hello from", runtime.GOARCH) }\n'},
    )  # fmt: skip
    # Debian's Go has links into /usr/share, which are invalid in a context.
    root, go = toolchain.ensure(pins.load()).command.resolve().parent.parent, tmp_path / "go"
    for part in parts:
        (go / part).parent.mkdir(parents=True, exist_ok=True)
        run("cp", "--recursive", "--dereference", root / part, go / part).good()
    both = [Platform.here(), other]
    oci = tmp_path / "oci"
    daemon.build(context, *every_base.flags(), f"--local=go={go}", "--opt=context:go=local:go", targets(both), output(oci)).good()  # fmt: skip
    images = foreign.images(oci)
    for one in both:
        assert foreign.start(images[one], "/hello") == f"hello from {one.architecture}\n"


@pytest.mark.may_be_not_proven
@pytest.mark.parametrize("platform", Platform)
def test_run(
    daemon: Daemon,
    every_base: BaseImage,
    new_context: NewContext,
    tmp_path: Path,
    platform: Platform,
) -> None:
    """RUN steps and their child processes run in an emulator"""
    foreign.require(platform)
    context = new_context(
        "FROM base AS run\n"
        # Paths, because busybox's shell would not start a child process.
        "RUN uname -m >/machine && /bin/sh -c '/bin/uname -m; /bin/env /bin/uname -m' >>/machine\n"
        'RUN ["/bin/cp", "/machine", "/copy"]\n'
        "FROM scratch\nCOPY --from=run /copy /\n"
    )
    out = tmp_path / "out"
    daemon.build(context, *every_base.flags(), targets([platform]), f"--output=type=local,dest={out}").good()  # fmt: skip
    assert (out / "copy").read_text().split() == [platform.uname] * 3


@pytest.mark.may_be_not_proven
def test_index(
    daemon: Daemon, every_base: BaseImage, new_context: NewContext, tmp_path: Path
) -> None:
    """One index holds an image for each platform, and each image runs"""
    for one in COMMON:
        foreign.require(one)
    platforms = [one for one in Platform if foreign.runs(one)]
    context = new_context("FROM base\nRUN uname -m >/built-on\n")
    oci = tmp_path / "oci"
    daemon.build(context, *every_base.flags(), targets(platforms), output(oci)).good()
    images = foreign.images(oci)
    assert list(images) == platforms
    for one in platforms:
        reported = foreign.start(images[one], "/bin/sh", "-c", "/bin/uname -m; /bin/cat /built-on")
        assert reported.split() == [one.uname, one.uname]
