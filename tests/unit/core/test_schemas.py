from __future__ import annotations

from pathlib import Path

import pytest

from buildkit_riscv64.core import project, schemas

ALL = sorted((project.ROOT / "buildkit_riscv64/core/schemas").glob("*.json"))


def test_each_schema_has_a_constant() -> None:
    named = [value for name, value in vars(schemas).items() if name.isupper() and name[0] != "_"]
    assert sorted(named) == ALL


@pytest.mark.parametrize("schema", ALL, ids=lambda path: path.name)
def test_a_list_is_invalid(schema: Path) -> None:
    assert schemas.validation_error([], schema)


def test_validation_error(tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text('{"properties": {"size": {"type": "integer"}}}')
    assert schemas.validation_error({"size": 1}, schema) == ""
    assert schemas.validation_error({"size": "1"}, schema) == "data.size must be integer"
