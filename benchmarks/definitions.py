"""The cases in `cases.toml`."""

from __future__ import annotations

import dataclasses
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from buildkit_riscv64.core import values
from buildkit_riscv64.core.errors import UsageError

FILE = Path(__file__).parent / "cases.toml"
#: The directory with the contexts.
CONTEXTS = Path(__file__).parent / "cases"
#: The metrics, in the order of the tables.
METRICS = ("seconds", "cpu_seconds", "peak_bytes", "size_bytes", "instructions")
#: The maximum size of a case's files, so that a typo cannot fill the disk.
MOST_BYTES = 4 << 30


@dataclass(frozen=True, kw_only=True)
class CaseSpec:
    """A case of `cases.toml`, which documents the fields."""

    name: str
    description: str
    count: int
    metrics: tuple[str, ...]
    program: str = ""
    start: bool = False
    context: str = ""
    files: int = 0
    bytes: int = 0
    again: bool = False
    change: bool = False
    parallel: int = 1
    foreign: bool = False
    arguments: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Validate the fields.

        Raises:
            ValueError: a field is invalid; the message names it.
        """
        wrong = next((text for bad, text in self._errors() if bad), "")
        if wrong:
            raise ValueError(f"case {self.name!r}: {wrong}")

    def _errors(self) -> Iterator[tuple[bool, str]]:
        yield (
            not self.name.replace("-", "").isalnum(),
            "name: only letters, digits and dashes",
        )
        yield not self.description, "no description"
        yield not 1 <= self.count <= 1000, "count must be 1 to 1000"
        yield not self.metrics or not set(self.metrics) <= set(METRICS), "unknown metrics"
        yield (
            sum(map(bool, (self.program, self.start, self.context))) != 1,
            "exactly one of program, start and context is required",
        )
        yield self.program not in {"", "buildkitd", "buildctl"}, "no such program"
        yield not 1 <= self.parallel <= 1024, "parallel must be 1 to 1024"
        yield (
            self.files < 0 or self.bytes < 0 or self.files * self.bytes > MOST_BYTES,
            "files and bytes are negative or too large",
        )
        yield self.change and not (self.again and self.files), "change requires again and files"
        if self.context:
            valid = (
                Path(self.context).name == self.context
                and (CONTEXTS / self.context / "Dockerfile").is_file()
            )
            yield not valid, f"no Dockerfile in cases/{self.context}/"


def _typed(key: str, value: Any, wanted: Any) -> Any:
    """Convert a TOML value to the type of its field."""
    if typing.get_origin(wanted) is tuple:
        if isinstance(value, list) and all(isinstance(one, str) for one in value):
            return tuple(value)
    elif type(value) is wanted:
        return value
    expected = wanted.__name__ if isinstance(wanted, type) and not isinstance(wanted, types.GenericAlias) else "list of strings"  # fmt: skip
    raise ValueError(f"{key} is {value!r}, not of type {expected}")


def load(path: Path = FILE) -> list[CaseSpec]:
    """The cases, in the order of the file.

    Raises:
        UsageError: the file is invalid.
    """
    types_of = typing.get_type_hints(CaseSpec)
    try:
        data = tomllib.loads(path.read_text())
        defaults, tables = data.pop("defaults", {}), data.pop("case", [])
        if data or not isinstance(defaults, dict) or not isinstance(tables, list) or not tables:
            raise ValueError("only [defaults] and at least one [[case]] are allowed")
        cases = []
        for table in tables:
            fields = defaults | dict(table)
            if unknown := fields.keys() - types_of.keys():
                raise ValueError(f"unknown key {min(unknown)}")
            required = {
                one.name
                for one in dataclasses.fields(CaseSpec)
                if one.default is dataclasses.MISSING
            }
            if missing := required - fields.keys():
                raise ValueError(f"a case without {min(missing)}")
            cases.append(CaseSpec(**{k: _typed(k, v, types_of[k]) for k, v in fields.items()}))
        names = [case.name for case in cases]
        if len(set(names)) != len(names):
            raise ValueError("two cases have the same name")
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(f"cannot use {path.name}: {error}", f"fix {path.name}") from error
    return cases


def select(cases: Sequence[CaseSpec], only: str, count: int) -> list[CaseSpec]:
    """Select cases by the options of the command line.

    Args:
        cases: all cases.
        only: names or prefixes of names, separated by commas; empty for all.
        count: runs of each case; 0 for the count in `cases.toml`.

    Raises:
        UsageError: unknown case.
    """
    wanted = [name.strip() for name in only.split(",") if name.strip()]
    for name in wanted:
        if not any(case.name.startswith(name) for case in cases):
            known: Mapping[str, None] = dict.fromkeys(case.name for case in cases)
            raise UsageError(f"--only {name}: no such case", f"one of: {', '.join(known)}")
    values.number("--count", count, 0, 1000, "use the number of runs of each case")
    return [
        dataclasses.replace(case, count=count or case.count)
        for case in cases
        if not wanted or case.name.startswith(tuple(wanted))
    ]
