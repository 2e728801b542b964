from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from buildkit_riscv64.core import dist, dry_run, filesystem, project
from buildkit_riscv64.core.arch import Target
from buildkit_riscv64.core.errors import (
    BusyError,
    CheckError,
    MismatchError,
    NetworkError,
    UsageError,
)
from buildkit_riscv64.packages import contents, signing
from buildkit_riscv64.release import gate, phase_status, report
from buildkit_riscv64.release import release as releases
from buildkit_riscv64.release.notes import code_span
from buildkit_riscv64.release.release import ReleaseOptions

from ...fake_github import OURS, Hub, release
from ...pages import blocks_of, closed_files
from .. import documents
from ..factories import IRREGULAR, Commands, edit_manifest, promptly
from ..phase4 import PACKAGES, confirm, forge
from ..validation.factories import TARGET

PREFIX = "buildkit-v0.32.2.linux-riscv64"
NAMES = [
    f"{PREFIX}.tar.gz",
    *sorted(PACKAGES),
    f"{PREFIX}.image.tar",
    f"{PREFIX}.image-root.cdx.json",
    "buildkit-rootless-v0.32.2.linux-riscv64.image.tar",
    f"{PREFIX}.image-rootless.cdx.json",
    f"{PREFIX}.buildctl.cdx.json",
    f"{PREFIX}.buildkitd.cdx.json",
    f"{PREFIX}.provenance.intoto.json",
    f"{PREFIX}.manifest.json",
    f"{PREFIX}.cross-check.json",
    f"{PREFIX}.evidence.json",
    f"{PREFIX}.evidence.html",
]


def run(*, dry: bool = False, **changes: Any) -> releases.ReleaseResult:
    with dry_run.running(dry=dry):
        return releases.release(ReleaseOptions(target=TARGET, **changes))


def test_release_files(releasable: Path, gh: Commands) -> None:
    outcome = run()
    assert outcome.state == "released"
    directory = releasable / dist.RELEASE
    assert outcome.artifacts is not None
    assert outcome.artifacts.path == directory
    listed = [*NAMES, releases.PUBLIC_KEY, releases.DESCRIPTION]
    assert [file["name"] for file in outcome.description["files"]] == listed
    own = {dist.SUMS, releases.SIGNATURE, releases.NOTES}
    assert {path.name for path in directory.iterdir()} == {*listed, *own}
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", dist.SUMS], cwd=directory, check=True)  # fmt: skip
    assert len((directory / dist.SUMS).read_text().splitlines()) == len(listed)
    for name, path in ((NAMES[0], releasable / NAMES[0]), (f"{PREFIX}.evidence.html", releasable / "evidence/index.html")):  # fmt: skip
        assert (directory / name).read_bytes() == path.read_bytes()


def test_pages_of_the_builder_are_not_published(releasable: Path, gh: Commands) -> None:
    """The page of the evidence is rendered again; there is no other page."""
    forged = "<script>alert(1)</script>"
    evidence = releasable / dist.EVIDENCE
    (evidence / "index.html").write_text(forged)
    names = sorted(path.name for path in evidence.iterdir() if path.name != dist.SUMS)
    (evidence / dist.SUMS).write_text(dist.sums(dist.record(evidence, names)))
    (project.DIST / "benchmark").mkdir()
    (project.DIST / "benchmark" / "index.html").write_text(forged)
    run()
    pages = [path.read_text() for path in (releasable / dist.RELEASE).glob("*.html")]
    assert len(pages) == 1
    assert forged not in pages[0]


def test_notes_name_programs_that_were_compared_by_record(releasable: Path, gh: Commands) -> None:
    confirm(releasable, compared_by_record=[{"name": "bin/buildkit-runc", "differences": []}])
    run()
    assert "(amd64) compiled the same source and got identical binaries" in notes(releasable)
    assert "`bin/buildkit-runc` contains C code" in notes(releasable)


def notes(target: Path) -> str:
    return (target / dist.RELEASE / releases.NOTES).read_text()


def test_notes(releasable: Path, gh: Commands) -> None:
    run()
    text = notes(releasable)
    for words in (
        "compiled natively on riscv64 and validated",
        "| standalone | ", "- `another kernel would` (4 scenarios)", "go1.26.10",
        f"gpg --import buildkit-riscv64.asc   # {'F' * 40}", f"| {NAMES[0]} | ",
    ):  # fmt: skip
        assert words in text
    assert "{" not in text
    (install, _) = blocks_of(text, "notes")
    assert closed_files(install.commands) == set()


MARKUP = "Debian `13` ``x`` <img src=x> [a](https://example.org) **b** @moby | # 1 &lt; \\"


def test_notes_show_a_builders_text_literally(releasable: Path, gh: Commands) -> None:
    """Each text is in one code span, whose fence is longer than the backticks in the text."""
    edit_manifest(releasable, lambda m: m["host"].update(distribution=MARKUP))
    edit_manifest(releasable, lambda m: m["source"].update(location=MARKUP))
    path = releasable / dist.EVIDENCE / dist.RESULTS
    evidence = json.loads(path.read_text())
    evidence["host"].update(distribution=MARKUP, kernel=MARKUP)
    for suite in evidence["suites"].values():
        for scenario in suite["scenarios"]:
            scenario["reason"] = MARKUP
    filesystem.write_json(path, evidence)
    names = [path.name for path in path.parent.iterdir() if path.name != dist.SUMS]
    (path.parent / dist.SUMS).write_text(dist.sums(dist.record(path.parent, names)))
    run()
    text = notes(releasable)
    assert text.count(f"``` {MARKUP} ```") == text.count("<img") == 5


@pytest.mark.parametrize("text", ["", " ", "`", "``", "a`b", "`a`", "a", "|"])
def test_code_span(text: str) -> None:
    span = code_span(text)
    fence = span[: len(span) - len(span.lstrip("`"))]
    assert span.endswith(fence)
    inside = span[len(fence) : -len(fence)]
    assert fence not in inside
    assert inside.strip(" ") == text.strip(" ")
    assert inside


@pytest.mark.parametrize("name", ["a|b.image.tar", "<img>.image.tar", "a b.image.tar", "é.image.tar"])  # fmt: skip
def test_names_that_github_would_change(releasable: Path, gh: Commands, name: str) -> None:
    directory = releasable / dist.IMAGE / "root"
    (old,) = directory.glob("*.image.tar")
    old.rename(directory / name)
    manifest = json.loads((directory / dist.MANIFEST).read_text())
    for file in manifest["files"]:
        if file["name"] == old.name:
            file["name"] = name
    dist.write_manifest(directory, manifest)
    with pytest.raises(CheckError, match=re.escape(name)):
        run()


def test_gh_command(releasable: Path, gh: Commands) -> None:
    outcome = run()
    (call,) = [one for one in gh.calls if one.args[:3] == ["gh", "release", "create"]]
    assert call.args[3:5] == ["v0.32.2", f"--repo={OURS}"]
    assert "--latest=true" in call.args
    stage = project.DIST / ".linux-riscv64.release.staging"
    files = [*NAMES, releases.PUBLIC_KEY, releases.DESCRIPTION, dist.SUMS, releases.SIGNATURE]
    assert call.args[-len(files) :] == [str(stage / name) for name in files]
    assert call.options["env"]["GH_TOKEN"].startswith("ghp_")
    assert outcome.latest


def test_second_release_of_the_same_content(releasable: Path, gh: Commands, hub: Hub) -> None:
    run()
    again = run()
    assert (again.state, len(hub.ours.releases)) == ("released before", 1)
    assert len([one for one in gh.args if one[:3] == ["gh", "release", "create"]]) == 1


@pytest.mark.parametrize("status", ["", "ahead", "diverged"])
def test_tag_that_is_not_merged(releasable: Path, gh: Commands, hub: Hub, status: str) -> None:
    hub.ours.compared["v0.32.2"] = status
    assert run(dry=True).state == "would be released"
    with pytest.raises(CheckError, match=r"v0\.32\.2"):
        run()
    assert hub.ours.releases == []
    assert not (releasable / dist.RELEASE).exists()


def test_second_release_after_another_cross_check(releasable: Path, gh: Commands, hub: Hub) -> None:
    """A rerun of the workflow checks again, and continues."""
    run()
    confirm(releasable, checked_at="2026-11-26T08:00:00Z", seconds=1.0)
    assert run().state == "released before"


def test_the_gate_holds_the_lock(
    releasable: Path, gh: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing in dist/ can be replaced between the gate and the release."""
    blockers = gate.release_blockers

    def judge(*args: Any) -> list[str]:
        with pytest.raises(BusyError), dist.lock(TARGET):
            pass
        return blockers(*args)

    monkeypatch.setattr(gate, "release_blockers", judge)
    assert run().state == "released"


@pytest.mark.parametrize(
    ("part", "pattern"),
    [
        ("", "*.tar.gz"), ("packages", "*.deb"), ("packages", "*.rpm"), ("image/root", "*.image.tar"),
        ("image/rootless", "*.image.tar"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("dry", [False, True])
def test_forged_files_are_refused(
    releasable: Path, gh: Commands, hub: Hub, tmp_path: Path, part: str, pattern: str, dry: bool
) -> None:
    """Files of other programs, although manifests and checksums agree with them."""
    directory = releasable / part
    path = next(directory.glob(pattern))
    forge(path, directory, tmp_path / "other")
    with pytest.raises(CheckError, match=path.name):
        run(dry=dry)
    assert hub.ours.releases == []
    assert not (releasable / dist.RELEASE).exists()


def test_the_published_copies_are_compared(
    releasable: Path, gh: Commands, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is replaced in dist/ after the comparison does not reach the release."""
    compared: list[Path] = []
    compare = contents.require_verified

    def record(archives: Sequence[Path], *rest: Any) -> None:
        compared.extend(archives)
        compare(archives, *rest)

    monkeypatch.setattr(contents, "require_verified", record)
    run()
    assert len(compared) == 5
    assert not [path for path in compared if path.is_relative_to(releasable)]


def test_release_with_different_content_is_refused(
    releasable: Path, gh: Commands, hub: Hub
) -> None:
    run()
    hub.ours.releases[0]["assets"][0]["digest"] = f"sha256:{'0' * 64}"
    before = (releasable / dist.RELEASE / releases.NOTES).stat().st_ino
    for dry in (False, True):
        with pytest.raises(MismatchError) as caught:
            run(dry=dry)
        for fact in ("v0.32.2 ", f"{PREFIX}.tar.gz"):
            assert fact in caught.value.brief
    assert (releasable / dist.RELEASE / releases.NOTES).stat().st_ino == before
    assert run(revision=2).description["tag"] == "v0.32.2-2"


@pytest.mark.parametrize(
    ("tags", "latest"),
    [
        ([], True),
        (["v0.32.1", "v0.31.7-3"], True),
        (["v0.33.0"], False),
        (["v0.32.2-2"], False),
        (["something", "v1", "dockerfile/1.9.0"], True),
        (
            [
                "v0.32.2-٣",
                "v0.32.2--3",
                "v0.32.2-+3",
                "v0.32.2-1_0",
                "v0.32.2- 3",
                "v0.32.2-03",
                "v0.32.2-1",
                "v0.32.2-",
            ],
            True,
        ),
        ([f"v0.32.2-{'9' * 5000}", "v٩.0.0", f"v{'9' * 5000}.0.0"], True),
    ],
)
def test_only_the_newest_release_is_the_latest(
    releasable: Path, gh: Commands, hub: Hub, tags: list[str], latest: bool
) -> None:
    hub.ours.releases += [release(tag) for tag in tags]
    hub.ours.releases += [release("v9.0.0", draft=True), release("v8.0.0", prerelease=True)]
    assert run().latest is latest
    (call,) = [one for one in gh.args if one[0] == "gh"]
    assert f"--latest={str(latest).lower()}" in call


def test_interrupted_release_is_replaced(releasable: Path, gh: Commands, hub: Hub) -> None:
    hub.ours.releases.append(release("v0.32.2", draft=True, id=17))
    hub.moods.append(("DELETE .*/releases/17", (204, {}, "")))
    assert run().state == "released"
    assert hub.changes == [f"DELETE /repos/{OURS}/releases/17"]


def test_gh_fails(releasable: Path, commands: Commands, signer: None, hub: Hub) -> None:
    commands.answer("gh", code=1)
    with pytest.raises(NetworkError) as caught:
        run()
    assert "nothing was published" in caught.value.hint
    assert not (releasable / dist.RELEASE).exists()
    assert not list(project.DIST.glob(".*staging*"))


# Refusals.


def refused(*words: str, target: Target = TARGET) -> None:
    with pytest.raises(CheckError) as caught:
        releases.release(ReleaseOptions(target=target))
    assert all(word in caught.value.brief for word in words), caught.value.brief
    assert caught.value.hint == f"invoke status --target {target.name}"


def test_another_architecture_is_refused(releasable: Path, gh: Commands) -> None:
    shutil.copytree(releasable, project.DIST / "linux-amd64")
    refused("linux-amd64", "riscv64", target=Target.parse("linux-amd64"))
    assert gh.args == []


Damage = Callable[[Path], object]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda t: edit_manifest(t, lambda m: m["host"].update(arch="amd64")), "binaries: they were compiled on amd64"),
        (lambda t: edit_manifest(t, lambda m: m["source"].update(pinned=False)), "binaries: they are a development build"),
        (lambda t: filesystem.write_json(t / dist.VERDICT, documents.valid(documents.CROSS_CHECK, identical=False)), "cross-check: "),
        (lambda t: shutil.rmtree(t / dist.EVIDENCE), "validation: no evidence"),
        (lambda t: shutil.rmtree(t / dist.PACKAGES), "packages: no packages"),
        (lambda t: shutil.rmtree(t / dist.IMAGE / "root"), "root image: no artifacts"),
        (shutil.rmtree, "binaries: no artifacts"),
    ],
)  # fmt: skip
def test_blocked_release(
    releasable: Path, gh: Commands, damage: Damage, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(releasable)
    refused("linux-riscv64", words)
    assert f"refused: {words}" in capsys.readouterr().err
    assert gh.args == []


def test_damaged_artifact(releasable: Path, gh: Commands) -> None:
    """Size and time are unchanged; only the checksum differs."""
    path = releasable / NAMES[0]
    stat = path.stat()
    path.write_bytes(bytes(stat.st_size))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(CheckError, match=NAMES[0]):
        run()
    assert not [one for one in gh.args if one[0] == "gh"]


@pytest.mark.parametrize(("kind", "dry"), [("fifo", False), ("fifo", True), ("link", False)])
@pytest.mark.parametrize("name", ["manifest.json", "SHA256SUMS", "bin/buildctl", NAMES[0], "evidence/index.html"])  # fmt: skip
def test_only_regular_files_are_released(
    releasable: Path, gh: Commands, name: str, kind: str, dry: bool
) -> None:
    IRREGULAR[kind](releasable / name)
    with promptly(), pytest.raises(CheckError, match=name):
        run(dry=dry)
    assert not [one for one in gh.args if one[0] == "gh"]
    assert not (releasable / dist.RELEASE).exists()


def test_no_changed_byte_is_published(releasable: Path, gh: Commands) -> None:
    """In every file in dist/, with the same size and time."""
    good = run(dry=True).description
    refused = set()
    for path in sorted(path for path in releasable.rglob("*") if path.is_file()):
        content, times = path.read_bytes(), path.stat()
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        try:
            assert run(dry=True).description == good, path
        except CheckError:
            refused.add(path.name)
        path.write_bytes(content)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert {*PACKAGES, dist.VERDICT, dist.MANIFEST, dist.RESULTS, NAMES[0]} <= refused
    assert run(dry=True).description == good


@pytest.mark.parametrize(("tag", "revision"), [("v0.32.2", 1), ("v0.32.2-2", 2)])
def test_tag_sets_the_revision(releasable: Path, tag: str, revision: int) -> None:
    options = ReleaseOptions.parse(target="", revision="1", tag=tag)
    assert options.revision == revision
    phases = phase_status.phases(options.target)
    releases._refuse_another_tag(options, phases)
    releases._refuse_another_tag(ReleaseOptions.parse(target="", revision="7"), phases)


@pytest.mark.parametrize("tag", ["v0.33.0", "v0.33.0-2", "v0.32.2-1", "v0.32.2-02"])
def test_tag_of_other_artifacts_is_refused(releasable: Path, tag: str) -> None:
    options = ReleaseOptions.parse(target="", revision="1", tag=tag)
    with pytest.raises(CheckError, match=f"{tag}: .*dist/"):
        releases.release(options)


@pytest.mark.parametrize("tag", ["0.32.2", "v0.32", "v0.32.2-rc1", "v0.32.2-", "v0.32.2-0", "latest"])  # fmt: skip
def test_invalid_tag(tag: str) -> None:
    with pytest.raises(UsageError):
        ReleaseOptions.parse(target="", revision="1", tag=tag)


@pytest.mark.parametrize("revision", ["0", "-1", "one", ""])
def test_invalid_revision(revision: str) -> None:
    with pytest.raises(UsageError, match="--revision"):
        ReleaseOptions.parse(target="", revision=revision)


def test_default_target() -> None:
    assert ReleaseOptions.parse(target="", revision="1").target == TARGET


# Dry run.


def test_dry_run(
    releasable: Path, gh: Commands, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = run(dry=True, key="-----BEGIN PGP PRIVATE KEY BLOCK-----")
    assert outcome.state == "would be released"
    assert outcome.artifacts is None
    assert not (releasable / dist.RELEASE).exists()
    assert (hub.changes, [one for one in gh.args if one[0] == "gh"]) == ([], [])
    report.released(outcome, json=True)
    out, err = capsys.readouterr()
    assert '"state": "would be released"' in out
    for name in NAMES:
        assert name in err
    assert "nothing was published" in err


def test_dry_run_without_a_key_and_github(
    releasable: Path,
    gh: Commands,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("GITHUB_REPOSITORY")
    monkeypatch.delenv(signing.KEY, raising=False)
    outcome = run(dry=True)
    assert [file["name"] for file in outcome.description["files"]] == [*NAMES, releases.DESCRIPTION]
    assert outcome.latest is None
    report.released(outcome, json=False)
    err = capsys.readouterr().err
    assert "newest stable" not in err
    assert f"warning: no signing key in {signing.KEY}" in err
    assert "existing releases" in err


def test_missing_repository_is_reported_first(
    releasable: Path, gh: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GITHUB_REPOSITORY")
    with pytest.raises(UsageError):
        run()
    assert gh.args == []
