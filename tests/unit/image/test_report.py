from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from buildkit_riscv64.core import dist, project
from buildkit_riscv64.core.console import size
from buildkit_riscv64.image import report
from buildkit_riscv64.image.build import ImageResult
from buildkit_riscv64.image.variants import Variant

from ..factories import edit_manifest
from .fake_image import TARGET, FakeImage

TITLE = "BuildKit v0.32.2, root image for linux-riscv64"


@pytest.fixture
def image(finished: Path, monkeypatch: pytest.MonkeyPatch) -> dist.Artifacts:
    monkeypatch.chdir(project.ROOT)
    return dist.load(FakeImage(dist.load(finished)).finish())


def test_build(
    image: dist.Artifacts,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "page"))
    report.built(ImageResult(image, up_to_date=False, seconds=130), json=False)
    output = capsys.readouterr()
    assert output.out == ""
    execution = image.manifest["host"]["execution"]
    assert output.err.splitlines()[-3:] == [
        f"{TITLE}: built by buildkit ({execution}), tested, 2 min 10 s in all",
        f"digest {image.manifest['digest']}",
        "the files are in dist/linux-riscv64/image/root/",
    ]
    page = (tmp_path / "page").read_text()
    assert f"### {TITLE}" in page
    for text in (output.err, page):
        for what in ("Debian's packages", "BuildKit", "all", "compressed", "unpacked"):
            assert what in text
        assert size(image.manifest["layers"][0]["size"]) in text
        assert "rootless" not in text


def test_rootless_layers_are_named(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake = FakeImage(dist.load(finished), Variant.ROOTLESS)
    fake.layers = [*fake.layers[:2], [], *fake.layers[2:], []]
    assert len(fake.layers) == len(report.LAYERS)
    fake.finish()
    image = dist.load(dist.image_directory(TARGET, Variant.ROOTLESS))
    report.built(ImageResult(image, up_to_date=False, seconds=1), json=False)
    reported = [line.strip().partition("  ")[0] for line in capsys.readouterr().err.splitlines()]
    assert [name for name in reported if name in report.LAYERS] == list(report.LAYERS)


def test_up_to_date(image: dist.Artifacts, capsys: pytest.CaptureFixture[str]) -> None:
    report.built(ImageResult(image, up_to_date=True, seconds=0.1), json=True)
    output = capsys.readouterr()
    assert output.err.splitlines() == [
        f"{TITLE} in dist/linux-riscv64/image/root/ is up to date",
        f"digest {image.manifest['digest']}",
        "the files are in dist/linux-riscv64/image/root/",
    ]
    assert json.loads(output.out) == {**image.manifest, "up_to_date": True}


def test_loaded_name(image: dist.Artifacts, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = ImageResult(image, up_to_date=True, seconds=1, loaded="buildkit-riscv64:v0.32.2")
    report.built(outcome, json=False)
    assert "buildkit-riscv64:v0.32.2\n" in capsys.readouterr().err
    report.built(replace(outcome, loaded=""), json=False)
    assert "docker" not in capsys.readouterr().err


def test_development_build_is_reported(
    image: dist.Artifacts, capsys: pytest.CaptureFixture[str]
) -> None:
    edit_manifest(image.path, lambda manifest: manifest.update(pinned=False))
    report.built(ImageResult(dist.load(image.path), up_to_date=True, seconds=1), json=False)
    assert "development build" in capsys.readouterr().err


def test_dry_build_reports_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    report.built(ImageResult(None, up_to_date=False, seconds=0.1), json=True)
    assert capsys.readouterr() == ("", "")
