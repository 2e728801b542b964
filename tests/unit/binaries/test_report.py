from __future__ import annotations

import json
from pathlib import Path

import pytest

from buildkit_riscv64 import dist
from buildkit_riscv64.binaries import report
from buildkit_riscv64.dist import Outcome

from ..making import edit_manifest


def test_a_build(finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:  # fmt: skip
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "page"))
    artifacts = dist.load(finished)
    report.built(Outcome(artifacts, up_to_date=False, seconds=130), json=False)
    said = capsys.readouterr()
    assert said.out == ""
    for file in artifacts.files.values():
        assert file["name"] in said.err
        assert file["sha256"] in said.err
    execution = artifacts.manifest["host"]["execution"]
    assert f"compiled in 1 min 40 s ({execution}), all checks passed, 2 min 10 s in all" in said.err
    assert "development build" not in said.err
    assert "### BuildKit v0.32.2 for linux-riscv64" in (tmp_path / "page").read_text()


def test_a_build_with_a_bundle(bundled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    artifacts = dist.load(bundled)
    report.built(Outcome(artifacts, up_to_date=False, seconds=130), json=False)
    said = capsys.readouterr().err
    execution = artifacts.manifest["host"]["execution"]
    assert f"compiled in 1 min 40 s ({execution}), the bundle in 1 min 40 s ({execution})," in said
    assert "bin/buildkit-cni-host-local" in said


def test_a_verdict_by_record(capsys: pytest.CaptureFixture[str]) -> None:
    one = {"name": "bin/buildkit-runc", "why": "C is linked in", "differences": []}
    verdict = {
        "target": "linux-riscv64", "seconds": 109.2, "files": [], "compared_by_record": [one],
        "compiled_on": {"arch": "riscv64", "execution": "native"},
        "checked_on": {"arch": "amd64", "execution": "native"},
    }  # fmt: skip
    report.verified([verdict], json=False)
    said = capsys.readouterr().err
    assert "linux-riscv64: bit-identical, but for bin/buildkit-runc: compiled on riscv64" in said
    assert "linux-riscv64: bin/buildkit-runc: not compared by its bytes: C is linked in\n" in said
    assert "  the same by its record: " in said


def test_a_development_build_says_so(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit_manifest(finished, lambda manifest: manifest["source"].update(pinned=False))
    report.built(Outcome(dist.load(finished), up_to_date=False, seconds=1), json=False)
    assert "a development build: not the pinned source, so it will not be released" in capsys.readouterr().err  # fmt: skip


def test_nothing_to_do(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report.built(Outcome(dist.load(finished), up_to_date=True, seconds=0.1), json=True)
    said = capsys.readouterr()
    assert "is up to date" in said.err
    assert json.loads(said.out) == {**dist.load(finished).manifest, "up_to_date": True}


def test_a_dry_build_reports_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    report.built(Outcome(None, up_to_date=False, seconds=0.1), json=True)
    assert capsys.readouterr() == ("", "")


def test_a_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    verdict = {
        "target": "linux-riscv64", "seconds": 109.2, "files": [{"name": "bin/buildctl", "artifact_sha256": "ab"}],
        "compiled_on": {"arch": "riscv64", "execution": "native"},
        "checked_on": {"arch": "amd64", "execution": "qemu-system"},
    }  # fmt: skip
    report.verified([verdict], json=True)
    said = capsys.readouterr()
    assert json.loads(said.out) == [verdict]
    assert (
        "linux-riscv64: bit-identical: compiled on riscv64 (native), again on amd64 (qemu-system)"
        " in 1 min 49 s" in said.err
    )


def test_pins(capsys: pytest.CaptureFixture[str]) -> None:
    report.pinned({"version": "v0.32.2"}, json=False)
    assert "v0.32.2" in capsys.readouterr().err
    report.pinned({"version": "v0.32.2"}, json=True)
    assert json.loads(capsys.readouterr().out) == {"version": "v0.32.2"}
