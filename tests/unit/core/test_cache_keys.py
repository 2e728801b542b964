from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from buildkit_riscv64.core import cache_keys


def test_inputs() -> None:
    digest = cache_keys.inputs({"a": [1, "ü"], "b": None})
    # Another form of the JSON text would rebuild everything in dist/.
    text = '{"a": [1, "\\u00fc"], "b": null}'
    assert digest == f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
    assert cache_keys.inputs({"a": [1, "u"], "b": None}) != digest


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "below").mkdir()
    (tmp_path / "a").write_text("xy")
    (tmp_path / "below" / "b").write_text("z")
    return tmp_path


def test_the_digest_covers_files_and_names(directory: Path) -> None:
    first = cache_keys.of_directory(directory)
    (directory / "empty").mkdir()
    assert cache_keys.of_directory(directory) == first
    (directory / "a").rename(directory / "c")
    assert cache_keys.of_directory(directory) != first


def test_moving_bytes_between_files_changes_the_digest(directory: Path) -> None:
    first = cache_keys.of_directory(directory)
    (directory / "a").write_text("x")
    (directory / "below" / "b").write_text("yz")
    assert cache_keys.of_directory(directory) != first


def test_the_recipe_changes_the_digest(directory: Path) -> None:
    assert len({cache_keys.of_directory(directory, recipe) for recipe in ("", "1", "2")}) == 3
