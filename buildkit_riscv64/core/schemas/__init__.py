"""JSON schemas of the documents that we write and read.

A string in a document of ours is one line of printable text, unless its schema gives it another
format: a builder on another machine must not break a page or a terminal that shows it. The format
`text` is text of several lines.
"""

from __future__ import annotations

import datetime as dt
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

_DIRECTORY = Path(__file__).parent
#: The manifest of binaries.
BINARIES = _DIRECTORY / "manifest.schema.json"
IMAGE = _DIRECTORY / "image.schema.json"
EVIDENCE = _DIRECTORY / "evidence.schema.json"
PACKAGES = _DIRECTORY / "packages.schema.json"
#: Results of benchmarks.
BENCHMARK = _DIRECTORY / "benchmark.schema.json"
#: Measurements of this project's own commands.
MEASUREMENT = _DIRECTORY / "measurement.schema.json"
RELEASE = _DIRECTORY / "release.schema.json"
REPOSITORY = _DIRECTORY / "repository.schema.json"
CROSS_CHECK = _DIRECTORY / "cross-check.schema.json"
MACHINE = _DIRECTORY / "machine.schema.json"
#: Documents of image layouts, one definition each.
OCI = _DIRECTORY / "oci.schema.json"
DOCKER_CONFIG = _DIRECTORY / "docker-config.schema.json"
#: Responses of GitHub, one definition each.
GITHUB = _DIRECTORY / "github.schema.json"


#: Documents of other programs: any text is valid in them.
_FOREIGN = {OCI, DOCKER_CONFIG, GITHUB}


def line(text: str) -> str:
    """A text as one line of printable text, as our documents need it."""
    return " ".join("".join(one if one.isprintable() else " " for one in text).split())


def _require_lines(definition: Any) -> None:
    """Give strings and keys in a schema the format `line`, where they have no other format."""
    if isinstance(definition, dict):
        if "string" in definition.get("type", ()):
            definition.setdefault("format", "line")
        if isinstance(definition.get("additionalProperties"), dict):
            definition.setdefault("propertyNames", {"format": "line"})
        for part in definition.values():
            _require_lines(part)
    elif isinstance(definition, list):
        for part in definition:
            _require_lines(part)


@functools.cache
def _validator(schema: Path, part: str) -> Callable[[Any], Any]:
    import fastjsonschema

    definition = json.loads(schema.read_text())
    if schema not in _FOREIGN:
        _require_lines(definition)
    if part:
        definition = {**definition, "$ref": f"#/definitions/{part}"}
    validator: Callable[[Any], Any] = fastjsonschema.compile(
        definition, formats={"date-time": _is_time, "line": str.isprintable}
    )
    return validator


def _is_time(text: str) -> bool:
    """True for a time that Python can read, which excludes RFC 3339's leap seconds."""
    try:
        # Python accepts every character between date and time.
        found = dt.datetime.fromisoformat(text)
        found.astimezone(dt.UTC)
        return text.isprintable() and found.tzinfo is not None
    except (ValueError, OverflowError):
        return False


def validation_error(document: Any, schema: Path, part: str = "") -> str:
    """The validation error, or an empty string.

    Args:
        document: the document.
        schema: the schema.
        part: the definition in the schema that the document must match; empty for all of it.
    """
    import fastjsonschema

    try:
        _validator(schema, part)(document)
    except fastjsonschema.JsonSchemaValueException as error:
        return str(error.message)
    return ""
