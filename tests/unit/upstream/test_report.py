from __future__ import annotations

import json

import pytest

from buildkit_riscv64.upstream import report


def test_pins(capsys: pytest.CaptureFixture[str]) -> None:
    report.pinned({"version": "v0.32.2"}, json=False)
    assert "v0.32.2" in capsys.readouterr().err
    report.pinned({"version": "v0.32.2"}, json=True)
    assert json.loads(capsys.readouterr().out) == {"version": "v0.32.2"}
