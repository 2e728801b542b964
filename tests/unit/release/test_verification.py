from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from buildkit_riscv64.binaries import verify
from buildkit_riscv64.core import dist, dry_run, filesystem, project
from buildkit_riscv64.core.errors import CheckError, MismatchError, NetworkError, UsageError
from buildkit_riscv64.release import release as releases
from buildkit_riscv64.release import report, verification
from buildkit_riscv64.system import apt

from ...fake_github import OURS, Hub
from ..factories import Commands
from ..image_factories import make_image
from ..phase4 import PACKAGES, write_package
from .test_release import PREFIX, run

KEY = "0123456789ABCDEF" * 2 + "01234567"
VALID = f"[GNUPG:] NEWSIG\n[GNUPG:] VALIDSIG {'A' * 40} 2026-11-26 1 0 4 0 22 10 00 {KEY}\n"


@pytest.fixture
def published(
    releasable: Path,
    gh: Commands,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """All files of a release, on a machine without dist/."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    verdict = json.loads((releasable / dist.VERDICT).read_text())
    run()
    directory = tmp_path / "downloaded"
    shutil.copytree(releasable / dist.RELEASE, directory)
    shutil.rmtree(project.DIST)

    def compile_again(artifacts: dist.Artifacts, _target: object) -> dict[str, Any]:
        for file in verdict["files"]:
            file["artifact_sha256"] = filesystem.sha256(artifacts.path / file["name"])
            if file["artifact_sha256"] != file["compiled_again_sha256"]:
                raise MismatchError(f"another {file['name']}")
        return dict(verdict)

    monkeypatch.setattr(verify, "compile_again", compile_again)
    gh.answer("gpg", "--verify", stdout=VALID)
    return directory


def again(directory: Path) -> None:
    """Rewrite SHA256SUMS, as a careful forger would."""
    described = json.loads((directory / releases.DESCRIPTION).read_text())
    for file in described["files"]:
        file.update(dist.record(directory, [file["name"]])[0])
    filesystem.write_json(directory / releases.DESCRIPTION, described)
    names = [*(file["name"] for file in described["files"]), releases.DESCRIPTION]
    (directory / dist.SUMS).write_text(dist.sums(dist.record(directory, names)))


def unlist(directory: Path, name: str) -> None:
    """Remove a file and its line in SHA256SUMS."""
    (directory / name).unlink()
    lines = (directory / dist.SUMS).read_text().splitlines(keepends=True)
    (directory / dist.SUMS).write_text("".join(line for line in lines if name not in line))


def test_a_release_is_verified(published: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = verification.verify_release(str(published))
    assert (found.fingerprint, found.description["tag"]) == (KEY, "v0.32.2")
    report.verified(found, json=True)
    out, err = capsys.readouterr()
    assert json.loads(out)["verdict"]["identical"] is True
    assert KEY in err
    assert "v0.32.2 is verified" in err
    assert list((project.cache() / "verification").iterdir()) == []


@pytest.mark.parametrize(
    "form", [KEY, KEY.lower(), " ".join(KEY[n : n + 4] for n in range(0, 40, 4))]
)
def test_expected_key(published: Path, form: str) -> None:
    assert verification.verify_release(str(published), fingerprint=form).fingerprint == KEY


def test_another_key(published: Path) -> None:
    with pytest.raises(CheckError, match=KEY):
        verification.verify_release(str(published), fingerprint="B" * 40)


@pytest.mark.parametrize("bad", ["x", KEY[:16], KEY + "0", "0x" + KEY])
def test_invalid_fingerprint(published: Path, bad: str) -> None:
    with pytest.raises(UsageError, match="--fingerprint"):
        verification.verify_release(str(published), fingerprint=bad)


@pytest.mark.parametrize(
    ("code", "stdout"),
    [(1, VALID), (0, ""), (0, VALID * 2), (0, VALID.replace("VALIDSIG", "EXPKEYSIG"))],
)
def test_bad_signature(published: Path, gh: Commands, code: int, stdout: str) -> None:
    gh.answer("gpg", "--verify", code=code, stdout=stdout)
    with pytest.raises(CheckError, match="signature"):
        verification.verify_release(str(published))


def test_changed_byte(published: Path) -> None:
    """In every file that exists, so that a new kind of file is covered, too."""
    # The notes are not signed: GitHub shows them as the text of the release.
    names = {path.name for path in published.iterdir()} - {releases.NOTES, releases.SIGNATURE}
    assert len(names) > 15
    for name in sorted(names):
        content = (published / name).read_bytes()
        middle = len(content) // 2
        changed = bytes([content[middle] ^ 1])
        (published / name).write_bytes(content[:middle] + changed + content[middle + 1 :])
        with pytest.raises(CheckError):
            verification.verify_release(str(published))
        (published / name).write_bytes(content)
    verification.verify_release(str(published))


@pytest.mark.parametrize(
    ("damage", "fact"),
    [
        (lambda d: (d / PACKAGES[0]).unlink(), PACKAGES[0]),
        (lambda d: (d / "more.deb").touch(), r"more\.deb"),
        (lambda d: (d / releases.SIGNATURE).unlink(), "not signed"),
        (lambda d: (d / releases.PUBLIC_KEY).unlink(), releases.PUBLIC_KEY),
        (lambda d: (d / dist.SUMS).unlink(), dist.SUMS),
        (lambda d: (d / dist.SUMS).write_text(""), dist.SUMS),
        (lambda d: (d / dist.SUMS).write_text("0" * 64 + "  ../x\n"), dist.SUMS),
        (lambda d: (d / dist.SUMS).write_bytes(b"\xff\n"), dist.SUMS),
        (lambda d: unlist(d, releases.DESCRIPTION), releases.DESCRIPTION),
        (lambda d: unlist(d, f"{PREFIX}.manifest.json"), "manifest"),
        (lambda d: unlist(d, f"{PREFIX}.evidence.html"), "evidence"),
        (lambda d: unlist(d, f"{PREFIX}.tar.gz"), "tar"),
    ],
)  # fmt: skip
def test_incomplete_release(published: Path, damage: Callable[[Path], object], fact: str) -> None:
    damage(published)
    with pytest.raises(CheckError, match=fact):
        verification.verify_release(str(published))


# Lies whose checksums and signature are good.


def other_programs(directory: Path) -> Path:
    """Programs that are not those of the release."""
    make_image(directory, version="v0.0.1")
    return directory / "linux-riscv64"


@pytest.mark.parametrize("name", [PACKAGES[0], PACKAGES[1]])
def test_package_of_other_programs(published: Path, tmp_path: Path, name: str) -> None:
    write_package(published / name, other_programs(tmp_path / "other"))
    again(published)
    with pytest.raises(CheckError, match=name):
        verification.verify_release(str(published))


def test_tarball_of_other_programs(published: Path, tmp_path: Path) -> None:
    write_package(published / f"{PREFIX}.tar.gz", other_programs(tmp_path / "other"))
    again(published)
    with pytest.raises((CheckError, MismatchError)):
        verification.verify_release(str(published))


def test_image_of_other_programs(published: Path, tmp_path: Path) -> None:
    (other,) = (other_programs(tmp_path / "other") / "image/root").glob("*.image.tar")
    shutil.copy(other, published / f"{PREFIX}.image.tar")
    again(published)
    with pytest.raises(CheckError, match=r"image\.tar"):
        verification.verify_release(str(published))


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (lambda e: e["binaries"].update(buildctl="0" * 64), "other programs"),
        (lambda e: e["counts"].update(failed=1), "failed"),
        (lambda e: e["images"].update(root=None), "root image"),
        (lambda e: e["images"].update(root="sha256:" + "0" * 64), "root image"),
    ],
)
def test_evidence_of_something_else(
    published: Path, change: Callable[[dict[str, Any]], object], fact: str
) -> None:
    path = published / f"{PREFIX}.evidence.json"
    evidence = json.loads(path.read_text())
    change(evidence)
    filesystem.write_json(path, evidence)
    again(published)
    with pytest.raises(CheckError, match=fact):
        verification.verify_release(str(published))


def test_what_is_no_tarball(published: Path) -> None:
    (published / f"{PREFIX}.tar.gz").write_bytes(b"no archive")
    again(published)
    with pytest.raises(CheckError, match=r"tar\.gz cannot be read"):
        verification.verify_release(str(published))


def test_manifest_of_another_release(published: Path) -> None:
    path = published / f"{PREFIX}.manifest.json"
    filesystem.write_json(path, json.loads(path.read_text()) | {"version": "v0.32.1"})
    again(published)
    with pytest.raises(CheckError, match="another release"):
        verification.verify_release(str(published))


def test_description_of_fewer_files(published: Path) -> None:
    path = published / releases.DESCRIPTION
    described = json.loads(path.read_text())
    gone = described["files"].pop()
    filesystem.write_json(path, described)
    again(published)
    with (published / dist.SUMS).open("a") as sums:
        sums.write(dist.sums([gone]))
    with pytest.raises(CheckError, match=gone["name"]):
        verification.verify_release(str(published))


def test_another_page_of_the_evidence(published: Path) -> None:
    with (published / f"{PREFIX}.evidence.html").open("a") as page:
        page.write("<script>alert(1)</script>")
    again(published)
    with pytest.raises(CheckError, match=r"evidence\.html"):
        verification.verify_release(str(published))


def test_program_that_was_not_compiled_again(
    published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_again = verify.compile_again

    def fewer(artifacts: dist.Artifacts, target: Any) -> dict[str, Any] | None:
        verdict = compile_again(artifacts, target)
        return verdict and {**verdict, "files": verdict["files"][1:]}

    monkeypatch.setattr(verify, "compile_again", fewer)
    with pytest.raises(CheckError, match="not verified"):
        verification.verify_release(str(published))


# Downloads.


def test_download(published: Path, gh: Commands, hub: Hub) -> None:
    def download(words: list[str]) -> None:
        (directory,) = (Path(w.partition("=")[2]) for w in words if w.startswith("--dir="))
        shutil.copytree(published, directory)

    gh.answer("gh", "release", "download", does=download)
    found = verification.verify_release("v0.32.2", repository=OURS)
    assert found.directory.is_relative_to(project.cache())


def test_dry_download(commands: Commands, signer: None, hub: Hub) -> None:
    with dry_run.running(dry=True), pytest.raises(dry_run.EndedError):
        verification.verify_release("v0.32.2", repository=OURS)
    assert commands.args == []


def test_download_fails(commands: Commands, signer: None, hub: Hub) -> None:
    commands.answer("gh", "release", "download", code=1)
    with pytest.raises(NetworkError):
        verification.verify_release("v0.32.2", repository=OURS)


@pytest.mark.parametrize("name", ["", "nowhere", "0.32.2", "v0.32", "/etc/passwd"])
def test_neither_a_directory_nor_a_tag(checkout: Path, name: str) -> None:
    with pytest.raises(UsageError, match="tag"):
        verification.verify_release(name)


def test_missing_tools_are_installed(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(apt, "ensure_installed", lambda tools, yes: asked.extend(tools))
    verification.verify_release(str(published), yes=True)
    assert {"gpg", "dpkg-deb", "bsdtar"} <= set(asked)


def test_dry_run(
    published: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A dry run checks the files, and compiles nothing."""
    monkeypatch.setattr(verify, "compile_again", lambda *_: None)
    with dry_run.running(dry=True):
        report.verified(verification.verify_release(str(published)), json=False)
    assert "nothing was compiled" in capsys.readouterr().err
