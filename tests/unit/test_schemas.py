from __future__ import annotations

from pathlib import Path

import pytest

from buildkit_riscv64 import project, schemas

ALL = sorted((project.ROOT / "schemas").glob("*.json"))


def test_each_schema_has_a_name() -> None:
    named = [
        schemas.BINARIES, schemas.IMAGE, schemas.EVIDENCE, schemas.PACKAGES, schemas.BENCHMARK,
    ]  # fmt: skip
    assert sorted(named) == ALL


@pytest.mark.parametrize("schema", ALL, ids=lambda path: path.name)
def test_nothing_is_no_document(schema: Path) -> None:
    assert schemas.objection({}, schema).startswith("data must contain ")


def test_an_objection_names_what_is_wrong(tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text('{"properties": {"size": {"type": "integer"}}}')
    assert schemas.objection({"size": 1}, schema) == ""
    assert schemas.objection({"size": "1"}, schema) == "data.size must be integer"
