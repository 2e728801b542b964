"""Random mutations of documents.

A part of the document is replaced (by another type, null, nonsense, a huge number, a path outside
the directory), or the text is damaged (cut, filled with bytes, nested thousands of levels deep).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from hypothesis import strategies as st

_DEEP: Any = "x"
for _ in range(200):
    _DEEP = [_DEEP]

#: Replacements of parts.
JUNK: list[Any] = [
    None, True, False, 0, -1, 1, 2, 10**30, 2**63, 1.5, -0.0, 1e300, "", " ", "x", "yes", "0", "-1", "null",
    "../../etc/passwd", "/etc/passwd", "a\0b", "a\nb", "\x1b[2J", "\ud800", "é", "x" * 5000, "9" * 5000,
    "2026-02-30T00:00:00Z", "2026-01-01T00:00:60Z", "0000-00-00", "v1.2.3", "sha256:", "linux-riscv64-pgo",
    [], [None], [[]], [{}], ["x"], [1, 2], {}, {"x": None}, {"name": 5}, {"": ""}, {"x": {"x": []}}, _DEEP,
]  # fmt: skip

#: Insertions into the text.
NOISE = [
    b"", b"{", b"}", b"[", b"]", b"[" * 5000, b'{"a":' * 5000, b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"null",
    b"NaN", b"Infinity", b"1e999", b"9" * 5000, b'"\\ud800"', b"<html>", b"%PDF", b",", b":", b"- ", b"\n", b"&a *a",
    b"!!python/object:os.system ", b"#", b"'", b'"', b"\t",
]  # fmt: skip


def _paths(node: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of each part of a document, the whole document first."""
    yield above
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()  # fmt: skip
    for key, value in items:
        yield from _paths(value, (*above, key))


def _changed(document: Any, path: tuple[Any, ...], change: str, junk: Any) -> Any:
    """A document with one part changed."""
    if not path:
        return junk
    node = document
    for key in path[:-1]:
        node = node[key]
    match change:
        case "drop":
            del node[path[-1]]
        case "add" if isinstance(node, dict):
            node["zzz"] = junk
        case "add":
            node.append(junk)
        case "twice" if isinstance(node, list):
            node.append(copy.deepcopy(node[path[-1]]))
        case _:
            node[path[-1]] = junk
    return document


def _as_json(document: Any) -> bytes:
    return json.dumps(document).encode()


@st.composite
def damaged(
    draw: st.DrawFn,
    document: Mapping[str, Any] | list[Any],
    write: Callable[[Any], bytes] = _as_json,
) -> bytes:
    """A damaged document as text.

    Args:
        draw: hypothesis's.
        document: a valid document.
        write: serializes a document.
    """
    result: Any = copy.deepcopy(document)
    for _ in range(draw(st.integers(0, 2))):
        path = draw(st.sampled_from(list(_paths(result))))
        change = draw(st.sampled_from(["replace", "replace", "replace", "drop", "add", "twice"]))
        result = _changed(result, path, change, copy.deepcopy(draw(st.sampled_from(JUNK))))
    text = write(result)
    if draw(st.integers(0, 3)):
        return text
    start = draw(st.integers(0, len(text)))
    end = draw(st.sampled_from([start, min(start + 1, len(text)), len(text)]))
    return text[:start] + draw(st.sampled_from(NOISE)) + text[end:]
