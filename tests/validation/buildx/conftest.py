"""What the scenarios of buildx share: docker, our image in it, a registry in its network."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from buildkit_riscv64 import dist
from buildkit_riscv64.image import layout

from ...integration import dockerd, registry
from ...integration.registry import Registry
from ..bases import BaseImage
from .docker import Docker


@pytest.fixture(scope="session")
def client(
    engine: dockerd.Access, images: Mapping[str, dist.Artifacts],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Docker]:  # fmt: skip
    """docker and buildx, with our image loaded."""
    place = images["root"].path
    (archive,) = place.glob("*.image.tar")
    client = Docker(engine, tmp_path_factory.mktemp("buildx"))
    image = layout.load(place / "layout")
    digests = image.digest, image.manifest["config"]["digest"]
    with client.loaded(archive, digests) as client.image:
        yield client


@pytest.fixture(scope="session")
def builder(client: Docker) -> Iterator[str]:
    """A builder that runs, for all that only build; it reaches `near`."""
    with client.builder("--driver-opt=network=host", "--bootstrap") as name:
        yield name


@pytest.fixture
def near(client: Docker, tmp_path: Path) -> Iterator[Registry]:
    """A registry on the loopback of the engine's network, empty."""
    with registry.running(tmp_path / "near", inside=client.inside) as started:
        yield started


@pytest.fixture
def bake_file(tmp_path: Path, base: BaseImage) -> Path:
    """Two images that inherit from one target, and a group of both."""
    folder = tmp_path / "bake"
    folder.mkdir()
    (folder / "Dockerfile").write_text(
        "FROM base AS common\nARG GREETING\nRUN echo $GREETING >/greeting\n"
        "FROM common AS one\nRUN echo one >/which\n"
        "FROM common AS two\nRUN echo two >/which\n"
    )
    name, context = base.context().split("=", 1)
    (folder / "docker-bake.hcl").write_text(
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
    return folder
