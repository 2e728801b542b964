"""Pages whose commands run in a checkout on this machine, with and without docker."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest

from buildkit_riscv64.core import pins

from ..pages import BLOCKS
from .checkout import Checkout, checkout

pytestmark = pytest.mark.walkthrough

OURS = f"docker buildx create --name ours --driver-opt image=buildkit-riscv64:{pins.load().version}"


@pytest.fixture(scope="session")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    with checkout(tmp_path_factory.mktemp("pages")) as prepared:
        yield prepared


@contextlib.contextmanager
def in_the_release(here: Checkout) -> Iterator[None]:
    """Link the downloaded files into the working directory."""
    added = [here.root / file.name for file in (here.root / "release").iterdir()]
    for file in added:
        file.symlink_to(here.root / "release" / file.name)
    yield
    for file in added:
        file.unlink()


@contextlib.contextmanager
def with_a_builder(here: Checkout) -> Iterator[None]:
    """Create the builder of another page, in the network of the registry."""
    here.type(f"{OURS} --driver-opt network=host --use")
    yield


#: Preparations for a page.
BEFORE: dict[str, Callable[[Checkout], AbstractContextManager[None]]] = {
    "README.md": in_the_release,
    "docs/farm.md": Checkout.nodes,
    "docs/platforms.md": with_a_builder,
    "docs/releases.md": in_the_release,
    "docs/start/board.md": in_the_release,
    "docs/troubleshooting.md": with_a_builder,
}


def platforms(here: Checkout) -> set[str]:
    """The platforms of the image that a page pushed."""
    index = json.loads(
        here.docker("buildx", "imagetools", "inspect", "--raw", here.replacements["HOST/REPO"])
    )
    return {
        f"{one['platform']['os']}/{one['platform']['architecture']}" for one in index["manifests"]
    }


#: The platforms of an image at the end of a page; `unknown` are the attestations.
PLATFORMS = {
    "docs/farm.md": {"linux/riscv64", "linux/amd64"},
    "docs/platforms.md": {"linux/riscv64", "linux/amd64", "linux/arm64"},
}


@pytest.mark.parametrize(
    "page", sorted({block.page for block in BLOCKS if block.where in {"checkout", "docker"}})
)
def test_page(page: str, here: Checkout) -> None:
    with contextlib.ExitStack() as stack:
        stack.callback(here.forget)
        stack.enter_context(BEFORE.get(page, contextlib.nullcontext)(here))
        for block in BLOCKS:
            if block.page == page and block.where in {"checkout", "docker"}:
                print(f"{block}\n{here.type(block.script)}")
        if page in PLATFORMS:
            assert platforms(here) - {"unknown/unknown"} == PLATFORMS[page]


def test_failed_command_is_detected(here: Checkout) -> None:
    with pytest.raises(AssertionError, match="no-such-task"):
        here.type("invoke status\ninvoke no-such-task | cat\ntrue")
