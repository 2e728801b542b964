"""Inputs that once ended in a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from buildkit_riscv64.core import project
from buildkit_riscv64.validation.environment.waiting import BOUND

DIGITS = "9" * 5000


@pytest.mark.parametrize(
    ("words", "env"),
    [
        (["create-certs", "--output", "/"], {}),
        (["create-certs", "--output", "README.md"], {}),
        (["create-certs", "--output", "README.md/x"], {}),
        (["create-certs", "--output", "~nobody-of-that-name/x"], {}),
        (["create-certs", "--output", "a" * 300], {}),
        (["create-certs", "--days", "abc"], {}),
        (["create-certs", "--days", DIGITS], {}),
        (["create-certs", "--days", "0"], {}),
        (["machine.create", "--cpus", "two"], {}),
        (["machine.create", "--cpus", "33"], {}),
        (["machine.create", "--memory", f"{DIGITS}G"], {}),
        (["machine.logs", "--lines=-5"], {}),
        (["benchmark", "--count=-1", "--output", "/"], {}),
        (["evidence.show", "--compare", "~nobody-of-that-name"], {}),
        (["build-packages", "--revision", DIGITS], {}),
        (["release", "--revision", DIGITS], {}),
        (["release", "--tag", "v0.32.2-x"], {}),
        (["--command-timeout", "abc", "pins.show"], {}),
        (["--list-depth", "x", "--list"], {}),
        (["--config", "missing.yaml", "pins.show"], {}),
        (["track-releases"], {"GITHUB_API_URL": "https://[::1"}),
        (["track-releases"], {"GITHUB_API_URL": "https://host:port"}),
        (["pins.show"], {"INVOKE_YES": "perhaps"}),
        (["pins.show"], {"INVOKE_BINARY_SOURCE": "module"}),
        (["pins.show"], {"INVOKE_RUNTIME_CONFIG": "missing.yaml"}),
        (["on", "root@127.0.0.1:22422", "--", "ls"], {}),
        (["on", "ssh://root@[::1", "--", "ls"], {}),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else None,
)
def test_invalid_input(words: list[str], env: dict[str, str], tmp_path: Path) -> None:
    before = sorted(path.name for path in project.ROOT.iterdir())
    done = subprocess.run(
        [sys.executable, "-m", "buildkit_riscv64", *words],
        cwd=project.ROOT, env={**os.environ, "GITHUB_REPOSITORY": "me/x", **env},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=BOUND,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    error, fix = done.stderr.strip().splitlines()
    assert error.startswith("error: ")
    assert fix.startswith("  fix: ")
    assert "defect" not in done.stderr
    assert len(error) < 1500
    assert sorted(path.name for path in project.ROOT.iterdir()) == before


@pytest.mark.parametrize("text", ["boards:", "binaries: module", "plain text", "image: {enginee: docker}", "a: [", "[" * 5000])  # fmt: skip
def test_invalid_configuration(text: str, tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text(text)
    test_invalid_input(["--config", str(tmp_path / "broken.yaml"), "pins.show"], {}, tmp_path)
