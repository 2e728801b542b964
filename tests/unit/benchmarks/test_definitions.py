from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import definitions
from buildkit_riscv64.core.errors import UsageError

#: From moby/buildkit-bench, or from our issue.
FIELD = (
    "simple", "multistage", "secret", "high-parallelization-16x", "high-parallelization-32x",
    "high-parallelization-64x", "high-parallelization-128x", "file-transfer",
    "file-transfer-cached", "tar-many-files", "tar-large-file", "emulator", "export-uncompressed",
    "export-gzip", "export-estargz", "export-zstd", "daemon-start", "size-buildkitd", "size-buildctl",
)  # fmt: skip


def test_cases_of_the_field() -> None:
    cases = {case.name: case for case in definitions.load()}
    assert set(FIELD) == cases.keys()
    for number in (16, 32, 64, 128):
        assert cases[f"high-parallelization-{number}x"].parallel == number
    for case in cases.values():
        wanted = ("size_bytes",) if case.program else ("seconds", "cpu_seconds", "peak_bytes")
        assert case.metrics == wanted


def test_each_context_is_used() -> None:
    used = {case.context for case in definitions.load() if case.context} | {"base"}
    assert {path.name for path in definitions.CONTEXTS.iterdir()} == used


GOOD = """\
[defaults]
count = 3
metrics = ["seconds"]
[[case]]
name = "a"
description = "a case"
context = "simple"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "cases.toml"
    path.write_text(GOOD)
    return path


def test_defaults(file: Path) -> None:
    (case,) = definitions.load(file)
    assert (case.count, case.metrics, case.parallel, case.arguments) == (3, ("seconds",), 1, ())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("[[case]]", "[[cases]]"), "at least one"), (("count = 3", "count = 0"), "1 to 1000"),
        (("count = 3", "count = true"), "count is True.* int"), (("count = 3", "count = '3'"), "count is '3'.* int"),
        (("count = 3", "cuont = 3"), "key cuont"), (("count = 3", ""), "without count"),
        (('["seconds"]', '["furlongs"]'), "metrics"), (('["seconds"]', "[]"), "metrics"),
        (('["seconds"]', "[1]"), "list of strings"), (('"a"', '"../a"'), "letters"),
        (('"a"', "1"), "name is 1.* str"), (('"simple"', '"../cases/simple"'), "no Dockerfile"),
        (('"simple"', '"none"'), "no Dockerfile"), (('"simple"', '"simple\\u0000"'), "cannot use"),
        (('"simple"', '"simple"\nstart = true'), "one of program"), (('context = "simple"', ""), "one of program"),
        (('context = "simple"', 'program = "sh"'), "no such program"),
        (('"simple"', '"simple"\nparallel = 100000'), "parallel"),
        (('"simple"', '"simple"\nfiles = 1000000\nbytes = 1000000'), "too large"),
        (('"simple"', '"simple"\nfiles = -1'), "negative"), (('"simple"', '"simple"\nchange = true'), "change"),
        (('"a case"', '""'), "no description"), (("[defaults]", "[defaults"), "cannot use"),
        (("[defaults]\ncount = 3\nmetrics = [\"seconds\"]\n", "defaults = 1\n"), "at least one"),
    ],
)  # fmt: skip
def test_invalid_cases(file: Path, change: tuple[str, str], reason: str) -> None:
    file.write_text(GOOD.replace(*change))
    with pytest.raises(UsageError, match=reason) as caught:
        definitions.load(file)
    assert "cases.toml" in caught.value.hint


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[[case]]\n" * 2, b"case = 1\n", b"x" * 9])
def test_hostile_files(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(UsageError, match=r"cannot use cases\.toml"):
        definitions.load(file)


def test_duplicate_names(file: Path) -> None:
    file.write_text(GOOD + GOOD[GOOD.index("[[case]]") :])
    with pytest.raises(UsageError, match="the same name"):
        definitions.load(file)
    file.unlink()
    with pytest.raises(UsageError, match="No such file"):
        definitions.load(file)


def names(only: str, count: int = 0) -> list[str]:
    return [case.name for case in definitions.select(definitions.load(), only, count)]


def test_select() -> None:
    assert names("") == [case.name for case in definitions.load()]
    assert names("size, simple") == ["size-buildkitd", "size-buildctl", "simple"]
    assert {case.count for case in definitions.select(definitions.load(), "", 7)} == {7}


@pytest.mark.parametrize(
    ("only", "count"), [("simpel", 0), ("simple,none", 0), ("", -1), ("", 1001)]
)
def test_invalid_selection(only: str, count: int) -> None:
    with pytest.raises(UsageError):
        names(only, count)
