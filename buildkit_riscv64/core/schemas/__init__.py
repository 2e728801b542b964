"""JSON schemas of the documents that we write and read."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from datetime import datetime
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


@functools.cache
def _validator(schema: Path, part: str) -> Callable[[Any], Any]:
    import fastjsonschema

    definition = json.loads(schema.read_text())
    if part:
        definition = {**definition, "$ref": f"#/definitions/{part}"}
    validator: Callable[[Any], Any] = fastjsonschema.compile(
        definition, formats={"date-time": _is_time}
    )
    return validator


def _is_time(text: str) -> bool:
    """True for a time that Python can read, which excludes RFC 3339's leap seconds."""
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
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
