from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from buildkit_riscv64.buildkitd import daemon
from buildkit_riscv64.core import project
from buildkit_riscv64.core.errors import BuildError
from buildkit_riscv64.image import build_request, buildx_builder, engines
from buildkit_riscv64.image.build_request import Request
from buildkit_riscv64.image.engines import BuildKit, Docker, Engine, Name
from buildkit_riscv64.image.variants import Variant

from ..factories import Commands

CONTEXT = project.ROOT / "dockerfiles"
OUTPUT = (
    '"type=oci","dest=/stage/layout","tar=false","rewrite-timestamp=true","oci-mediatypes=true",'
    '"compression=gzip","force-compression=true","annotation.title=BuildKit, rootless"'
)


def test_variants() -> None:
    assert [(variant, variant.suffix) for variant in Variant] == [
        ("root", ""), ("rootless", "-rootless")
    ]  # fmt: skip


def test_each_variant_is_a_target_of_the_dockerfile() -> None:
    text = (CONTEXT / build_request.DOCKERFILE).read_text()
    for variant in Variant:
        assert f" AS {variant}\n" in text


def test_output_has_no_current_timestamp(wanted: Request) -> None:
    assert wanted.output(Path("/stage/layout")) == OUTPUT
    (row,) = csv.reader([OUTPUT])
    assert row[-1] == "annotation.title=BuildKit, rootless"


@pytest.mark.parametrize("name", ['/a "quoted" place', '/a,b"'])
def test_any_output_directory(wanted: Request, name: str) -> None:
    (row,) = csv.reader([wanted.output(Path(name))], strict=True)
    assert f"dest={name}" in row


def test_build_with_buildctl(wanted: Request, commands: Commands) -> None:
    BuildKit("unix:///run/bk.sock").build(wanted, Path("/stage/layout"))
    (call,) = commands.calls
    assert call.verb == "run"
    assert call.args == [
        "/dist/bin/buildctl", "--addr", "unix:///run/bk.sock", "build", "--frontend=dockerfile.v0",
        "--opt=target=rootless", "--opt=filename=buildkit.Dockerfile",
        f"--opt=context:base=oci-layout://base@{wanted.base.digest}",
        "--opt=context:packages=local:packages", "--opt=context:binaries=local:binaries",
        "--opt=build-arg:TITLE=BuildKit, rootless", "--opt=build-arg:SOURCE_DATE_EPOCH=1785846460",
        f"--local=context={CONTEXT}", f"--local=dockerfile={CONTEXT}",
        "--local=packages=/scratch", "--local=binaries=/dist/bin",
        f"--oci-layout=base={wanted.base.layout}", f"--output={OUTPUT}",
    ]  # fmt: skip


BUILDX = [
    "docker", "buildx", "build", "--builder=ours", "--target=rootless",
    f"--file={CONTEXT}/buildkit.Dockerfile",
]  # fmt: skip
REST = [
    "--build-context=packages=/scratch", "--build-context=binaries=/dist/bin",
    "--build-arg=TITLE=BuildKit, rootless", "--build-arg=SOURCE_DATE_EPOCH=1785846460",
]  # fmt: skip


def test_build_with_buildx(wanted: Request, commands: Commands) -> None:
    Docker("ours").build(wanted, Path("/stage/layout"))
    (call,) = commands.calls
    place = f"{wanted.base.layout}@{wanted.base.digest}"
    assert call.verb == "run"
    assert call.args == [
        *BUILDX, f"--build-context=base=oci-layout://{place}", *REST,
        "--provenance=false", f"--output={OUTPUT}", str(CONTEXT),
    ]  # fmt: skip


def test_buildx(wanted: Request) -> None:
    assert build_request.buildx(wanted, "ours", "docker-image://x", "--load", "--tag=y") == [
        *BUILDX, "--build-context=base=docker-image://x", *REST, "--load", "--tag=y", str(CONTEXT),
    ]  # fmt: skip


ENGINES: list[tuple[Engine, str]] = [
    (BuildKit("unix:///s"), "buildctl build"), (Docker("ours"), "docker buildx build")
]  # fmt: skip


@pytest.mark.parametrize(("engine", "title"), ENGINES)
def test_failed_step(wanted: Request, commands: Commands, engine: Engine, title: str) -> None:
    commands.answer(code=1)
    with pytest.raises(BuildError):
        engine.build(wanted, Path("/stage"))
    # The command itself would be too long.
    assert commands.calls[0].options["title"] == title


@pytest.mark.parametrize(("engine", "title"), ENGINES)
@pytest.mark.parametrize("cached", [True, False])
def test_no_cache_on_request(
    wanted: Request, commands: Commands, engine: Engine, title: str, cached: bool
) -> None:
    engine.build(replace(wanted, cached=cached), Path("/stage"))
    assert commands.args[0].count("--no-cache") == (0 if cached else 1)


@pytest.mark.parametrize("name", list(Name))
def test_engine_runs_during_the_block(
    wanted: Request, monkeypatch: pytest.MonkeyPatch, name: Name
) -> None:
    done: list[object] = []

    @contextmanager
    def started(*what: object, **options: object) -> Iterator[str]:
        done.extend([*what, options])
        yield "unix:///s"
        done.append("ended")

    monkeypatch.setattr(daemon, "running", started)
    monkeypatch.setattr(buildx_builder, "builder", started)
    with engines.running(name, wanted, yes=True) as engine:
        assert engine == (BuildKit if name is Name.BUILDKIT else Docker)("unix:///s")
        assert "ended" not in done
    assert done == (
        [Path("/dist/bin"), {"yes": True}, "ended"]
        if name is Name.BUILDKIT
        else [wanted, {}, "ended"]
    )
