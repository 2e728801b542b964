"""Documents from outside: parse JSON, TOML and YAML strictly, and validate them before use.

A file may be damaged, and a server may answer anything. A validated document has finite numbers,
printable text, unique keys and the structure of its schema, so its readers need no checks.
"""

from __future__ import annotations

import functools
import json
import reprlib
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import filesystem, schemas
from .errors import CheckError, Failure

#: Integers are sizes, counts and times, which have 64 bits.
_LARGEST = 2**63
#: Shortens a wrong value in a message; YAML's aliases can make a short file an endless value.
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother, _SHORT.maxlong = 2, 60, 60, 40


class InvalidDocumentError(ValueError):
    """A text is not a valid document; the message is the reason."""


def shown(value: object) -> str:
    """A short form of a wrong value, for a message."""
    if value is None:
        return "empty"
    try:
        return _SHORT.repr(value)
    except ValueError:
        return "a number of thousands of digits"


def _integer(text: str) -> int:
    number = int(text)
    if abs(number) >= _LARGEST:
        raise InvalidDocumentError(f"the number {text[:20]} is too large")
    return number


def _finite(text: str) -> float:
    number = float(text)
    if not abs(number) < float("inf"):
        raise InvalidDocumentError(f"{text[:20]} is not a finite number")
    return number


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        duplicate = next(name for name in names if names.count(name) > 1)
        raise InvalidDocumentError(f"duplicate key {shown(duplicate)}")
    return found


def _decoded(text: str | bytes) -> str:
    try:
        return text.decode() if isinstance(text, bytes) else text
    except UnicodeDecodeError as error:
        raise InvalidDocumentError(f"not text in UTF-8: {error.reason} at byte {error.start}") from error  # fmt: skip


def _strictly(parse: Callable[[str], Any], text: str | bytes) -> Any:
    """Parse a text.

    Raises:
        InvalidDocumentError: the parser refuses the text, or its value cannot be used.
    """
    try:
        return parse(_decoded(text))
    except InvalidDocumentError:
        raise
    except RecursionError as error:
        raise InvalidDocumentError("nested too deeply") from error
    except UnicodeEncodeError as error:
        raise InvalidDocumentError("a string has half of a surrogate pair") from error
    except ValueError as error:
        raise InvalidDocumentError(str(error)) from error


def _json(text: str) -> Any:
    found = json.loads(
        text, parse_int=_integer, parse_float=_finite, parse_constant=_finite, object_pairs_hook=_pairs
    )  # fmt: skip
    if "\\u" in text:
        # Refuse half of a surrogate pair: it cannot be printed or written.
        json.dumps(found, ensure_ascii=False).encode()
    return found


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        InvalidDocumentError: the text is not valid JSON.
    """
    return _strictly(_json, text)


def parse_toml(text: str | bytes) -> dict[str, Any]:
    """The table of a TOML text.

    Raises:
        InvalidDocumentError: the text is not valid TOML.
    """
    found: dict[str, Any] = _strictly(lambda toml: tomllib.loads(toml, parse_float=_finite), text)
    return found


_TEXT, _MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"


@functools.cache
def _yaml() -> tuple[Any, Any]:
    """Invoke's copy of PyYAML, which has no wheel for riscv64, and a loader.

    The loader reads keys as unique texts: `yes` and `no` are booleans in YAML 1.1.
    """
    import invoke.util

    yaml: Any = vars(invoke.util)["yaml"]

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        def construct_mapping(self, node: Any, *, deep: bool = False) -> dict[Any, Any]:
            seen: set[str] = set()
            for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
                if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
                    if key.value in seen:
                        raise yaml.MarkedYAMLError(
                            problem=f"duplicate key {shown(key.value)}",
                            problem_mark=key.start_mark,
                        )
                    seen.add(key.value)
            self.flatten_mapping(node)
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode):
                    key.tag = _TEXT
            found: dict[Any, Any] = super().construct_mapping(node, deep=deep)
            return found

    return yaml, Loader


def parse_yaml(text: bytes) -> Any:
    """The value of a YAML or JSON text; None for an empty text.

    Raises:
        InvalidDocumentError: the text is not valid YAML.
    """
    yaml, loader = _yaml()
    try:
        return yaml.load(text, Loader=loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}: " if mark else ""
        raise InvalidDocumentError(f"{place}{error.problem or error.context}") from error
    except RecursionError as error:
        raise InvalidDocumentError("nested too deeply") from error
    except Exception as error:  # explicit tags can raise anything, as in `!!bool x`
        raise InvalidDocumentError(f"not YAML: {error}") from error


def validate(document: Any, schema: Path, part: str = "") -> None:
    """Validate a document against a schema.

    Args:
        document: the document.
        schema: the schema.
        part: the definition in the schema that the document must match; empty for all of it.

    Raises:
        InvalidDocumentError: names the first invalid part.
    """
    if error := schemas.validation_error(document, schema, part):
        raise InvalidDocumentError(error)


def load(path: Path, schema: Path, *, error: type[Failure] = CheckError, hint: str = "") -> Any:
    """Read a JSON file, and validate it against a schema.

    Args:
        path: the file.
        schema: the schema.
        error: the class of the failure for an invalid file.
        hint: what to do about an invalid file.

    Raises:
        FileNotFoundError: there is no such file.
        Failure: of the class `error`; names the file and the reason.
    """
    try:
        document = parse_json(filesystem.read_bytes(path))
        validate(document, schema)
    except FileNotFoundError:
        raise
    except (OSError, InvalidDocumentError) as cause:
        reason = cause.strerror if isinstance(cause, OSError) else cause
        raise error(f"cannot read {filesystem.display_path(path)}: {reason}", hint) from cause
    return document
