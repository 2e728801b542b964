from __future__ import annotations

from pathlib import Path

import pytest

from buildkit_riscv64.core import project


@pytest.mark.parametrize(("value", "base"), [("/x", "/x"), ("", "~"), ("relative", "~"), (None, "~")])  # fmt: skip
def test_cache(monkeypatch: pytest.MonkeyPatch, value: str | None, base: str) -> None:
    """https://specifications.freedesktop.org/basedir-spec/: a relative path is ignored."""
    monkeypatch.delenv("XDG_CACHE_HOME")
    if value is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", value)
    expected = Path.home() / ".cache" if base == "~" else Path(base)
    assert project.cache() == expected / "buildkit-riscv64"
