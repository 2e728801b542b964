"""The cases that `cases.toml` declares."""

from __future__ import annotations

import dataclasses
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from buildkit_riscv64.errors import UsageError

FILE = Path(__file__).parent / "cases.toml"
#: The folder with the contexts.
CONTEXTS = Path(__file__).parent / "cases"
#: What can be measured, in the order in which it is shown.
METRICS = ("seconds", "cpu_seconds", "peak_bytes", "size_bytes", "instructions")
#: The most that a case may make, so that a slip fills no disk.
MOST_BYTES = 4 << 30


@dataclass(frozen=True, kw_only=True)
class Declared:
    """A case as it is declared; `cases.toml` says what each field means."""

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
        """Refuse what cannot be measured.

        Raises:
            ValueError: naming what is wrong.
        """
        wrong = next((text for bad, text in self._objections() if bad), "")
        if wrong:
            raise ValueError(f"case {self.name!r}: {wrong}")

    def _objections(self) -> Iterator[tuple[bool, str]]:
        yield not self.name.replace("-", "").isalnum(), "a name is letters, digits and dashes"
        yield not self.description, "no description"
        yield not 1 <= self.count <= 1000, "count is not 1 to 1000"
        yield not self.metrics or not set(self.metrics) <= set(METRICS), "unknown metrics"
        yield (
            sum(map(bool, (self.program, self.start, self.context))) != 1,
            ("one of program, start and context says what it does"),
        )
        yield self.program not in {"", "buildkitd", "buildctl"}, "no such program"
        yield not 1 <= self.parallel <= 1024, "parallel is not 1 to 1024"
        yield (
            self.files < 0 or self.bytes < 0 or self.files * self.bytes > MOST_BYTES,
            ("files and bytes are negative or too much"),
        )
        yield self.change and not (self.again and self.files), "change needs again and files"
        if self.context:
            there = (
                Path(self.context).name == self.context
                and (CONTEXTS / self.context / "Dockerfile").is_file()
            )
            yield not there, f"no Dockerfile in cases/{self.context}/"


def _typed(key: str, value: Any, wanted: Any) -> Any:
    """A value of TOML's as its field has it."""
    if typing.get_origin(wanted) is tuple:
        if isinstance(value, list) and all(isinstance(one, str) for one in value):
            return tuple(value)
    elif type(value) is wanted:
        return value
    shown = wanted.__name__ if isinstance(wanted, type) and not isinstance(wanted, types.GenericAlias) else "list of strings"  # fmt: skip
    raise ValueError(f"{key} is {value!r}, and must be a {shown}")


def load(path: Path = FILE) -> list[Declared]:
    """The cases, in their order.

    Raises:
        UsageError: the file is not as it should be.
    """
    types_of = typing.get_type_hints(Declared)
    try:
        data = tomllib.loads(path.read_text())
        defaults, tables = data.pop("defaults", {}), data.pop("case", [])
        if data or not isinstance(defaults, dict) or not isinstance(tables, list) or not tables:
            raise ValueError("it is [defaults] and at least one [[case]], and nothing else")
        cases = []
        for table in tables:
            fields = defaults | dict(table)
            if unknown := fields.keys() - types_of.keys():
                raise ValueError(f"unknown key {min(unknown)}")
            required = {
                one.name
                for one in dataclasses.fields(Declared)
                if one.default is dataclasses.MISSING
            }
            if missing := required - fields.keys():
                raise ValueError(f"a case without {min(missing)}")
            cases.append(Declared(**{k: _typed(k, v, types_of[k]) for k, v in fields.items()}))
        names = [case.name for case in cases]
        if len(set(names)) != len(names):
            raise ValueError("two cases have the same name")
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(f"cannot use {path.name}: {error}", f"correct {path.name}") from error
    return cases


def chosen(cases: Sequence[Declared], only: str, count: int) -> list[Declared]:
    """The cases that a command line means.

    Args:
        cases: all.
        only: names separated by commas, or beginnings of names; empty for all.
        count: how often, instead of what is declared; 0 for that.

    Raises:
        UsageError: there is no such case.
    """
    wanted = [name.strip() for name in only.split(",") if name.strip()]
    for name in wanted:
        if not any(case.name.startswith(name) for case in cases):
            known: Mapping[str, None] = dict.fromkeys(case.name for case in cases)
            raise UsageError(f"--only {name}: no such case", f"one of: {', '.join(known)}")
    if not 0 <= count <= 1000:
        raise UsageError(f"--count {count}: not 1 to 1000", "give how often each case is to run")
    return [
        dataclasses.replace(case, count=count or case.count)
        for case in cases
        if not wanted or case.name.startswith(tuple(wanted))
    ]
