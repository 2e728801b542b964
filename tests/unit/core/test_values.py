from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from invoke.tasks import Task

from buildkit_riscv64.core import values
from buildkit_riscv64.core.errors import UsageError
from tasks import ns

HOSTILE = ["", " ", "abc", "two", "1.5", "1e3", "0x10", "٢", "-", "+1", "1_000", "9" * 5000, "nan", "1\n"]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_invalid_numbers(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        values.number("--days", text, 0, 10)
    assert caught.value.brief.startswith("--days ")
    assert len(caught.value.brief) < 200


@pytest.mark.parametrize("value", [-1, 11, 10**30, "-1", "11"])
def test_numbers_out_of_range(value: int | str) -> None:
    with pytest.raises(UsageError, match="--days"):
        values.number("--days", value, 0, 10)


@pytest.mark.parametrize("value", [0, 10, "0", "10", "010"])
def test_a_number(value: int | str) -> None:
    assert values.number("--days", value, 0, 10) == int(value)


@pytest.mark.parametrize("text", [*HOSTILE, "8", "G", "8T", "-8G", "8 G", "8GB", "9" * 5000 + "G"])
def test_invalid_sizes(text: str) -> None:
    with pytest.raises(UsageError, match="--disk"):
        values.size("--disk", text)


def test_sizes() -> None:
    assert (values.size("--disk", "8G"), values.size("--disk", "512M")) == (8 << 30, 512 << 20)


PATHS = ["~nobody-of-that-name/x", "a" * 300, "a/" * 3000, "a\0b", "loop/x", "file/x"]


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("content")
    (tmp_path / "loop").symlink_to("loop")
    return tmp_path


@pytest.mark.parametrize("text", [*PATHS, "loop", "file", "/", "//", "/..", "/dev/null"])
def test_invalid_directories(directory: Path, text: str) -> None:
    with pytest.raises(UsageError, match="--output"):
        values.directory("--output", text)


def test_directories(directory: Path) -> None:
    (directory / "link").symlink_to("there")
    assert values.directory("--output", "new/one") == directory / "new/one"
    assert values.directory("--output", "link/x") == directory / "there/x"
    assert values.directory("--output", "a/..") == directory
    assert values.directory("--output", "~/x") == Path.home() / "x"


@pytest.mark.parametrize("text", [*PATHS, "loop", ".", "missing", "/dev/zero", "/dev/null", ""])
def test_invalid_files(directory: Path, text: str) -> None:
    with pytest.raises(UsageError, match="--key"):
        values.content("--key", text, 100)


@pytest.mark.parametrize("text", ["-----BEGIN secret", "secret" * 100, "~secret/x", "secret\0"])
def test_messages_have_no_secrets(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        values.content("--key", text, 100, secret=True)
    assert "secret" not in str(caught.value)
    # The traceback of --debug does not show it either.
    assert caught.value.__suppress_context__


def test_contents(directory: Path) -> None:
    assert values.content("--key", "file", 7) == b"content"
    with pytest.raises(UsageError, match="more than"):
        values.content("--key", "file", 6)
    # As in `--key <(gpg --export-secret-keys NAME)`.
    reader, writer = os.pipe()
    os.write(writer, b"piped")
    os.close(writer)
    try:
        assert values.content("--key", f"/dev/fd/{reader}", 100) == b"piped"
    finally:
        os.close(reader)


@pytest.mark.parametrize(
    "text",
    [
        "", "https://", "https://[::1", "https://[::1]x", "https://host:port", "https://host:0",
        "https://host:99999", "https://a b", "https://host/\n", "ftp://host", "host", "//host",
        "https://me:password@host", "https://host/?q=1", "https://host/#x", "https://höst", "https://\ud800",
    ],
)  # fmt: skip
def test_invalid_addresses(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        values.address("GITHUB_API_URL", text)
    assert "GITHUB_API_URL" in caught.value.brief
    assert "password@" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["https://host", "http://127.0.0.1:80/x/", "https://[::1]:8443/api"]
)
def test_addresses(text: str) -> None:
    assert values.address("GITHUB_API_URL", text).geturl() == text


@given(st.text())
def test_any_text_is_a_value_or_a_usage_error(text: str) -> None:
    for parse in (
        lambda: values.number("--x", text, 0, 9),
        lambda: values.size("--x", text),
        lambda: values.path("--x", text),
        lambda: values.directory("--x", text),
        lambda: values.address("X", text),
        lambda: values.revision("--x", text),
    ):
        with contextlib.suppress(UsageError):
            parse()


TASKS: dict[str, Task[Any]] = {name: ns[name] for name in ns.task_names}


@pytest.mark.parametrize("name", sorted(TASKS))
def test_flags_are_texts_numbers_or_switches(name: str) -> None:
    """The command line checks other kinds before Invoke converts them."""
    assert {argument.kind for argument in TASKS[name].get_arguments()} <= {str, int, bool}
