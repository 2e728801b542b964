from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import declaration
from buildkit_riscv64.errors import UsageError

#: Of moby/buildkit-bench, or of our issue where it has none.
FIELD = (
    "simple", "multistage", "secret", "high-parallelization-16x", "high-parallelization-32x",
    "high-parallelization-64x", "high-parallelization-128x", "file-transfer",
    "file-transfer-cached", "tar-many-files", "tar-large-file", "emulator", "export-uncompressed",
    "export-gzip", "export-estargz", "export-zstd", "daemon-start", "size-buildkitd", "size-buildctl",
)  # fmt: skip


def test_the_field_s_cases_are_declared() -> None:
    cases = {case.name: case for case in declaration.load()}
    assert set(FIELD) == cases.keys()
    for number in (16, 32, 64, 128):
        assert cases[f"high-parallelization-{number}x"].parallel == number
    for case in cases.values():
        wanted = ("size_bytes",) if case.program else ("seconds", "cpu_seconds", "peak_bytes")
        assert case.metrics == wanted


def test_each_context_is_used() -> None:
    used = {case.context for case in declaration.load() if case.context} | {"base"}
    assert {path.name for path in declaration.CONTEXTS.iterdir()} == used


GOOD = """\
[defaults]
count = 3
metrics = ["seconds"]
[[case]]
name = "a"
description = "what it is"
context = "simple"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "cases.toml"
    path.write_text(GOOD)
    return path


def test_defaults(file: Path) -> None:
    (case,) = declaration.load(file)
    assert (case.count, case.metrics, case.parallel, case.arguments) == (3, ("seconds",), 1, ())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("[[case]]", "[[cases]]"), "nothing else"), (("count = 3", "count = 0"), "1 to 1000"),
        (("count = 3", "count = true"), "must be a int"), (("count = 3", "count = '3'"), "must be a int"),
        (("count = 3", "cuont = 3"), "unknown key cuont"), (("count = 3", ""), "without count"),
        (('["seconds"]', '["furlongs"]'), "unknown metrics"), (('["seconds"]', "[]"), "unknown metrics"),
        (('["seconds"]', "[1]"), "list of strings"), (('"a"', '"../a"'), "letters"),
        (('"a"', "1"), "must be a str"), (('"simple"', '"../cases/simple"'), "no Dockerfile"),
        (('"simple"', '"none"'), "no Dockerfile"), (('"simple"', '"simple\\u0000"'), "cannot use"),
        (('"simple"', '"simple"\nstart = true'), "one of program"), (('context = "simple"', ""), "one of program"),
        (('context = "simple"', 'program = "sh"'), "no such program"),
        (('"simple"', '"simple"\nparallel = 100000'), "parallel"),
        (('"simple"', '"simple"\nfiles = 1000000\nbytes = 1000000'), "too much"),
        (('"simple"', '"simple"\nfiles = -1'), "negative"), (('"simple"', '"simple"\nchange = true'), "change needs"),
        (('"what it is"', '""'), "no description"), (("[defaults]", "[defaults"), "cannot use"),
        (("[defaults]\ncount = 3\nmetrics = [\"seconds\"]\n", "defaults = 1\n"), "nothing else"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_refused(file: Path, change: tuple[str, str], reason: str) -> None:  # fmt: skip
    file.write_text(GOOD.replace(*change))
    with pytest.raises(UsageError, match=reason) as caught:
        declaration.load(file)
    assert caught.value.hint == "correct cases.toml"


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[[case]]\n" * 2, b"case = 1\n", b"x" * 9])
def test_hostile_files(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(UsageError, match=r"cannot use cases\.toml"):
        declaration.load(file)


def test_two_of_a_name(file: Path) -> None:
    file.write_text(GOOD + GOOD[GOOD.index("[[case]]") :])
    with pytest.raises(UsageError, match="the same name"):
        declaration.load(file)
    file.unlink()
    with pytest.raises(UsageError, match="No such file"):
        declaration.load(file)


def names(only: str, count: int = 0) -> list[str]:
    return [case.name for case in declaration.chosen(declaration.load(), only, count)]


def test_chosen() -> None:
    assert names("") == [case.name for case in declaration.load()]
    assert names("size, simple") == ["size-buildkitd", "size-buildctl", "simple"]
    assert {case.count for case in declaration.chosen(declaration.load(), "", 7)} == {7}


@pytest.mark.parametrize(
    ("only", "count"), [("simpel", 0), ("simple,none", 0), ("", -1), ("", 1001)]
)
def test_bad_choices(only: str, count: int) -> None:
    with pytest.raises(UsageError):
        names(only, count)
