"""Fixtures of the buildx suite: docker with our image, a registry in its network."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from buildkit_riscv64.core import dist
from buildkit_riscv64.validation.environment import docker_engine, registry
from buildkit_riscv64.validation.environment.registry import Registry

from ..bases import BaseImage
from .docker import Docker


@pytest.fixture(scope="session")
def client(
    engine: docker_engine.Access,
    images: Mapping[str, dist.Artifacts],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Docker]:
    """docker and buildx, with our image loaded."""
    with Docker(engine, tmp_path_factory.mktemp("buildx")).loaded(images["root"]) as client:
        yield client


@pytest.fixture(scope="session")
def builder(client: Docker) -> Iterator[str]:
    """A running builder for scenarios that only build; it reaches `engine_registry`."""
    with client.builder("--driver-opt=network=host", "--bootstrap") as name:
        yield name


@pytest.fixture
def engine_registry(client: Docker, tmp_path: Path) -> Iterator[Registry]:
    """An empty registry on the loopback of the engine's network."""
    with registry.running(tmp_path / "registry", inside=client.inside) as started:
        yield started


@pytest.fixture
def bake_file(tmp_path: Path, base: BaseImage) -> Path:
    """A bake file with two images that inherit from one target, and a group of both."""
    directory = tmp_path / "bake"
    directory.mkdir()
    (directory / "Dockerfile").write_text(
        "FROM base AS common\nARG GREETING\nRUN echo $GREETING >/greeting\n"
        "FROM common AS one\nRUN echo one >/which\n"
        "FROM common AS two\nRUN echo two >/which\n"
    )
    name, context = base.context().split("=", 1)
    (directory / "docker-bake.hcl").write_text(
        f"""
variable "GREETING" {{ default = "from the file" }}
variable "TAG" {{ default = "none" }}
group "default" {{ targets = ["one", "two"] }}
target "common" {{
  contexts = {{ {name} = {json.dumps(context)} }}
  args = {{ GREETING = "${{GREETING}}" }}
}}
target "one" {{
  inherits = ["common"]
  target = "one"
  tags = ["${{TAG}}-one"]
}}
target "two" {{
  inherits = ["common"]
  target = "two"
  tags = ["${{TAG}}-two"]
  args = {{ GREETING = upper("${{GREETING}}") }}
}}
"""
    )
    return directory
