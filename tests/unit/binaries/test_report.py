from __future__ import annotations

import json
from pathlib import Path

import pytest

from buildkit_riscv64.binaries import report
from buildkit_riscv64.core import dist
from buildkit_riscv64.core.dist import BuildResult

from ..factories import edit_manifest


def test_build(
    finished: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "page"))
    artifacts = dist.load(finished)
    report.built(BuildResult(artifacts, up_to_date=False, seconds=130), json=False)
    output = capsys.readouterr()
    assert output.out == ""
    for file in artifacts.files.values():
        assert file["name"] in output.err
        assert file["sha256"] in output.err
    execution = artifacts.manifest["host"]["execution"]
    assert (
        f"compiled in 1 min 40 s ({execution}), all checks passed, 2 min 10 s in all" in output.err
    )
    assert "development build" not in output.err
    assert "### BuildKit v0.32.2 for linux-riscv64" in (tmp_path / "page").read_text()


def test_build_with_a_bundle(bundled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    artifacts = dist.load(bundled)
    report.built(BuildResult(artifacts, up_to_date=False, seconds=130), json=False)
    output = capsys.readouterr().err
    execution = artifacts.manifest["host"]["execution"]
    assert (
        f"compiled in 1 min 40 s ({execution}), the bundle in 1 min 40 s ({execution})," in output
    )
    assert "bin/buildkit-cni-host-local" in output


def test_verdict_by_build_information(capsys: pytest.CaptureFixture[str]) -> None:
    one = {"name": "bin/buildkit-runc", "why": "C is linked in", "differences": []}
    verdict = {
        "target": "linux-riscv64", "seconds": 109.2, "files": [], "compared_by_record": [one],
        "compiled_on": {"arch": "riscv64", "execution": "native"},
        "checked_on": {"arch": "amd64", "execution": "native"},
    }  # fmt: skip
    report.verified([verdict], json=False)
    output = capsys.readouterr().err
    assert "except bin/buildkit-runc" in output
    assert "C is linked in\n" in output


def test_development_build_is_reported(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit_manifest(finished, lambda manifest: manifest["source"].update(pinned=False))
    report.built(BuildResult(dist.load(finished), up_to_date=False, seconds=1), json=False)
    assert "development build" in capsys.readouterr().err


def test_up_to_date_build(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report.built(BuildResult(dist.load(finished), up_to_date=True, seconds=0.1), json=True)
    output = capsys.readouterr()
    assert "is up to date" in output.err
    assert json.loads(output.out) == {**dist.load(finished).manifest, "up_to_date": True}


def test_dry_build_reports_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    report.built(BuildResult(None, up_to_date=False, seconds=0.1), json=True)
    assert capsys.readouterr() == ("", "")


def test_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    verdict = {
        "target": "linux-riscv64", "seconds": 109.2, "files": [{"name": "bin/buildctl", "artifact_sha256": "ab"}],
        "compiled_on": {"arch": "riscv64", "execution": "native"},
        "checked_on": {"arch": "amd64", "execution": "qemu-system"},
    }  # fmt: skip
    report.verified([verdict], json=True)
    output = capsys.readouterr()
    assert json.loads(output.out) == [verdict]
    assert (
        "linux-riscv64: bit-identical: compiled on riscv64 (native), again on amd64 (qemu-system)"
        " in 1 min 49 s" in output.err
    )
