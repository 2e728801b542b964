"""The documents that we write and read: what each has to look like, by its JSON schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from . import project

_FOLDER = project.ROOT / "schemas"
#: The manifest of binaries.
BINARIES = _FOLDER / "manifest.schema.json"
IMAGE = _FOLDER / "image.schema.json"
EVIDENCE = _FOLDER / "evidence.schema.json"
PACKAGES = _FOLDER / "packages.schema.json"
#: Results of benchmarks.
BENCHMARK = _FOLDER / "benchmark.schema.json"


def objection(document: Any, schema: Path) -> str:
    """What a schema has against a document; nothing when it is good."""
    import fastjsonschema

    try:
        # Formats are not validated: the library would need a regular expression for each.
        fastjsonschema.validate(json.loads(schema.read_text()), document)
    except fastjsonschema.JsonSchemaValueException as error:
        return str(error.message)
    return ""
