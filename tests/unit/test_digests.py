from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from buildkit_riscv64 import digests


def test_inputs() -> None:
    digest = digests.inputs({"a": [1, "ü"], "b": None})
    # Of the JSON text; another form would make everything anew that is in a dist/.
    text = '{"a": [1, "\\u00fc"], "b": null}'
    assert digest == f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
    assert digests.inputs({"a": [1, "u"], "b": None}) != digest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "below").mkdir()
    (tmp_path / "a").write_text("xy")
    (tmp_path / "below" / "b").write_text("z")
    return tmp_path


def test_a_folder_is_its_files_and_their_names(folder: Path) -> None:
    first = digests.of_folder(folder)
    (folder / "empty").mkdir()
    assert digests.of_folder(folder) == first
    (folder / "a").rename(folder / "c")
    assert digests.of_folder(folder) != first


def test_bytes_do_not_move_between_files_unseen(folder: Path) -> None:
    first = digests.of_folder(folder)
    (folder / "a").write_text("x")
    (folder / "below" / "b").write_text("yz")
    assert digests.of_folder(folder) != first


def test_what_else_decides(folder: Path) -> None:
    assert len({digests.of_folder(folder, recipe) for recipe in ("", "1", "2")}) == 3
