from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from buildkit_riscv64 import dist, project
from buildkit_riscv64.image import report
from buildkit_riscv64.image.build import Outcome
from buildkit_riscv64.image.variants import Variant

from ..making import edit_manifest
from .picture import TARGET, Picture

TITLE = "BuildKit v0.32.2, root image for linux-riscv64"


@pytest.fixture
def image(finished: Path, monkeypatch: pytest.MonkeyPatch) -> dist.Artifacts:
    monkeypatch.chdir(project.ROOT)
    return dist.load(Picture(dist.load(finished)).finish())


def test_a_build(image: dist.Artifacts, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:  # fmt: skip
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "page"))
    report.built(Outcome(image, up_to_date=False, seconds=130), json=False)
    said = capsys.readouterr()
    assert said.out == ""
    execution = image.manifest["host"]["execution"]
    assert said.err.splitlines()[-3:] == [
        f"{TITLE}: built by buildkit ({execution}), tested, 2 min 10 s in all",
        f"digest {image.manifest['digest']}",
        "the files are in dist/linux-riscv64/image/root/",
    ]
    page = (tmp_path / "page").read_text()
    assert f"### {TITLE}" in page
    for text in (said.err, page):
        for what in ("Debian's packages", "BuildKit", "all", "compressed", "unpacked"):
            assert what in text
        assert f"{image.manifest['layers'][0]['size']} B" in text
        assert "rootless" not in text


def test_each_layer_of_rootless_has_a_name(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    picture = Picture(dist.load(finished), Variant.ROOTLESS)
    picture.layers = [*picture.layers[:2], [], *picture.layers[2:], []]
    assert len(picture.layers) == len(report.LAYERS)
    picture.finish()
    image = dist.load(dist.image_folder(TARGET, Variant.ROOTLESS))
    report.built(Outcome(image, up_to_date=False, seconds=1), json=False)
    told = [line.strip().partition("  ")[0] for line in capsys.readouterr().err.splitlines()]
    assert [name for name in told if name in report.LAYERS] == list(report.LAYERS)


def test_nothing_to_do(image: dist.Artifacts, capsys: pytest.CaptureFixture[str]) -> None:
    report.built(Outcome(image, up_to_date=True, seconds=0.1), json=True)
    said = capsys.readouterr()
    assert said.err.splitlines() == [
        f"{TITLE} in dist/linux-riscv64/image/root/ is up to date",
        f"digest {image.manifest['digest']}",
        "the files are in dist/linux-riscv64/image/root/",
    ]
    assert json.loads(said.out) == {**image.manifest, "up_to_date": True}


def test_what_docker_calls_it(image: dist.Artifacts, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = Outcome(image, up_to_date=True, seconds=1, loaded="buildkit-riscv64:v0.32.2")
    report.built(outcome, json=False)
    assert "docker has it as buildkit-riscv64:v0.32.2\n" in capsys.readouterr().err
    report.built(replace(outcome, loaded=""), json=False)
    assert "docker" not in capsys.readouterr().err


def test_a_development_build_says_so(image: dist.Artifacts, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    edit_manifest(image.path, lambda manifest: manifest.update(pinned=False))
    report.built(Outcome(dist.load(image.path), up_to_date=True, seconds=1), json=False)
    assert "a development build: not the pinned source, so it will not be released\n" in capsys.readouterr().err  # fmt: skip


def test_a_dry_build_reports_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    report.built(Outcome(None, up_to_date=False, seconds=0.1), json=True)
    assert capsys.readouterr() == ("", "")
