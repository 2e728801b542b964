from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from buildkit_riscv64.core import project, schemas

from .. import documents

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


UNPRINTABLE = ["a\nb", "a\n", "\x1b[2J", "a\tb", "a\x7f", "a\u2028b", "\u202eb", "a\r"]
DOCUMENTS = {
    schemas.BINARIES: documents.BINARIES, schemas.IMAGE: documents.IMAGE, schemas.EVIDENCE: documents.EVIDENCE,
    schemas.PACKAGES: documents.PACKAGES, schemas.RELEASE: documents.RELEASE, schemas.REPOSITORY: documents.REPOSITORY,
    schemas.CROSS_CHECK: documents.CROSS_CHECK, schemas.MACHINE: documents.MACHINE,
}  # fmt: skip


def places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Each container in a document, with each key of it that has a string."""
    items = list(node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ())  # fmt: skip
    for key, value in items:
        if isinstance(value, str):
            yield node, key
        yield from places(value)


@pytest.mark.parametrize("schema", DOCUMENTS, ids=lambda path: path.name)
def test_strings_of_our_documents_are_one_line(schema: Path) -> None:
    document = documents.valid(DOCUMENTS[schema])
    assert schemas.validation_error(document, schema) == ""
    for node, key in list(places(document)):
        before = node[key]
        for text in UNPRINTABLE if key != "failure" else ():
            node[key] = text
            assert schemas.validation_error(document, schema), (key, text)
        node[key] = before
    assert schemas.validation_error(document, schema) == ""


@pytest.mark.parametrize("text", UNPRINTABLE)
def test_one_line_after_a_valid_beginning(text: str) -> None:
    """Strings with a pattern that matches only the beginning."""
    document = documents.valid(documents.BINARIES)
    document["go"]["version"] += text
    assert schemas.validation_error(document, schemas.BINARIES)
    document = documents.valid(documents.BINARIES)
    document["build"]["environment"] = {text: "x"}
    assert schemas.validation_error(document, schemas.BINARIES)


def test_failures_have_several_lines() -> None:
    document = documents.valid(documents.EVIDENCE)
    scenario = document["suites"]["standalone"]["scenarios"][0]
    scenario.update(failure="a\n\tb\n", logs=[{"name": "log", "text": "a\nb"}])
    assert schemas.validation_error(document, schemas.EVIDENCE) == ""
    scenario["logs"][0]["name"] = "a\nb"
    assert schemas.validation_error(document, schemas.EVIDENCE)


@pytest.mark.parametrize(
    "time",
    [
        "2026-08-04\n12:27:40+00:00", "2026-08-04T12:27:40", "2026-08-04", "0001-01-01T00:00:00+01:00",
        "9999-12-31T23:59:59-01:00", "٢٣٢٦-08-04T12:27:40Z",
    ],
)  # fmt: skip
def test_invalid_times(time: str) -> None:
    document = documents.valid(documents.CROSS_CHECK, checked_at=time)
    assert schemas.validation_error(document, schemas.CROSS_CHECK)


@pytest.mark.parametrize(
    ("text", "line"), [("a", "a"), (" a\n\tb ", "a b"), ("a\xa0b\x1b", "a b"), ("", "")]
)
def test_line(text: str, line: str) -> None:
    assert schemas.line(text) == line
