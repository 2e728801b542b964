from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from buildkit_riscv64 import apt, dist, project, storage
from buildkit_riscv64.arch import Target
from buildkit_riscv64.automation import chain, report, signing
from buildkit_riscv64.automation import release as releases
from buildkit_riscv64.automation.release import Options
from buildkit_riscv64.errors import CheckError, MismatchError, NetworkError, UsageError

from ...hub import OURS, Hub, release
from ..making import Commands, edit_manifest
from ..validation.scenes import TARGET

PREFIX = "buildkit-v0.32.2.linux-riscv64"
NAMES = [
    f"{PREFIX}.tar.gz",
    "buildkit_0.32.2-1_riscv64.deb",
    f"{PREFIX}.image.tar",
    f"{PREFIX}.image-root.cdx.json",
    "buildkit-rootless-v0.32.2.linux-riscv64.image.tar",
    f"{PREFIX}.image-rootless.cdx.json",
    f"{PREFIX}.buildctl.cdx.json",
    f"{PREFIX}.buildkitd.cdx.json",
    f"{PREFIX}.provenance.intoto.json",
    f"{PREFIX}.manifest.json",
    f"{PREFIX}.evidence.json",
    f"{PREFIX}.evidence.html",
]


class Signer:
    """A key that signs by saying so."""

    fingerprint = "F" * 40

    def sign_detached(self, path: Path) -> Path:
        signature = path.with_name(f"{path.name}.asc")
        signature.write_text("signed")
        return signature

    def public_key(self) -> str:
        return "the key"


@pytest.fixture
def signer(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.contextmanager
    def opened(key: str = "") -> Iterator[Signer]:
        yield Signer()

    monkeypatch.setattr(signing, "opened", opened)
    monkeypatch.setattr(apt, "provide", lambda tools, yes: None)


@pytest.fixture
def gh(commands: Commands, signer: None, hub: Hub) -> Commands:
    """gh makes the release that it is told to."""

    def create(words: list[str]) -> None:
        tag, files = words[3], [Path(word) for word in words if word.startswith(os.sep)]
        assets = [{"name": p.name, "digest": f"sha256:{storage.sha256(p)}"} for p in files]
        hub.ours.releases.insert(0, release(tag, assets=assets))

    commands.answer("gh", "release", "create", does=create)
    return commands


def run(**changes: Any) -> releases.Outcome:
    return releases.release(Options(target=TARGET, **changes))


def test_what_it_consists_of(releasable: Path, gh: Commands) -> None:
    made = run()
    assert made.state == "released"
    place = releasable / dist.RELEASE
    assert made.artifacts is not None
    assert made.artifacts.path == place
    listed = [*NAMES, releases.PUBLIC_KEY, releases.DESCRIPTION]
    assert [file["name"] for file in made.description["files"]] == listed
    own = {dist.SUMS, releases.SIGNATURE, releases.NOTES}
    assert {path.name for path in place.iterdir()} == {*listed, *own}
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", dist.SUMS], cwd=place, check=True)  # fmt: skip
    assert len((place / dist.SUMS).read_text().splitlines()) == len(listed)
    for name, path in ((NAMES[0], releasable / NAMES[0]), (f"{PREFIX}.evidence.html", releasable / "evidence/index.html")):  # fmt: skip
        assert (place / name).read_bytes() == path.read_bytes()


def test_benchmarks_and_the_cross_check_are_in_it(releasable: Path, gh: Commands) -> None:
    (project.DIST / "benchmark").mkdir()
    (project.DIST / "benchmark" / "index.html").write_text("<html>")
    files = dist.load(releasable).files
    verdict = {
        "identical": True, "checked_on": {"arch": "amd64"},
        "compared_by_record": [{"name": "bin/buildkit-runc", "differences": []}],
        "files": [{"name": name, "artifact_sha256": file["sha256"]} for name, file in files.items()],
    }  # fmt: skip
    storage.write_json(releasable / dist.VERDICT, verdict)
    made = run()
    names = {file["name"] for file in made.description["files"]}
    assert {f"{PREFIX}.benchmarks.html", f"{PREFIX}.cross-check.json"} <= names
    assert "(amd64) compiled the same source and got the same bytes" in notes(releasable)
    assert "`bin/buildkit-runc` has C code in it" in notes(releasable)


def notes(target: Path) -> str:
    return (target / dist.RELEASE / releases.NOTES).read_text()


def test_its_notes(releasable: Path, gh: Commands) -> None:
    run()
    text = notes(releasable)
    for words in (
        "compiled natively on riscv64, and proved to work there",
        "| standalone | ", "- another kernel would (4 scenarios)", "go1.26.10",
        "No machine of another architecture has compiled the same source",
        f"gpg --import buildkit-riscv64.asc   # {'F' * 40}", f"| {NAMES[0]} | ",
    ):  # fmt: skip
        assert words in text
    assert "{" not in text


def test_how_it_is_published(releasable: Path, gh: Commands) -> None:
    made = run()
    (call,) = [one for one in gh.calls if one.args[:3] == ["gh", "release", "create"]]
    assert call.args[3:5] == ["v0.32.2", f"--repo={OURS}"]
    assert "--latest=true" in call.args
    stage = project.DIST / ".linux-riscv64.release.staging"
    files = [*NAMES, releases.PUBLIC_KEY, releases.DESCRIPTION, dist.SUMS, releases.SIGNATURE]
    assert call.args[-len(files) :] == [str(stage / name) for name in files]
    assert call.options["env"]["GH_TOKEN"].startswith("ghp_")
    assert made.latest


def test_the_same_once_more(releasable: Path, gh: Commands, hub: Hub) -> None:
    run()
    again = run()
    assert (again.state, len(hub.ours.releases)) == ("released before", 1)
    assert len([one for one in gh.args if one[:3] == ["gh", "release", "create"]]) == 1


def test_other_bytes(releasable: Path, gh: Commands, hub: Hub) -> None:
    run()
    hub.ours.releases[0]["assets"][0]["digest"] = f"sha256:{'0' * 64}"
    before = (releasable / dist.RELEASE / releases.NOTES).stat().st_ino
    for dry in (False, True):
        with pytest.raises(MismatchError) as caught:
            run(dry=dry)
        assert caught.value.brief == f"v0.32.2 has been released with other bytes: {PREFIX}.tar.gz"
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
    ],
)
def test_only_the_newest_is_the_latest(releasable: Path, gh: Commands, hub: Hub, tags: list[str], latest: bool) -> None:  # fmt: skip
    hub.ours.releases += [release(tag) for tag in tags]
    hub.ours.releases += [release("v9.0.0", draft=True), release("v8.0.0", prerelease=True)]
    assert run().latest is latest
    (call,) = [one for one in gh.args if one[0] == "gh"]
    assert f"--latest={str(latest).lower()}" in call


def test_an_interrupted_one_is_made_anew(releasable: Path, gh: Commands, hub: Hub) -> None:
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


# Refused.


def refused(*words: str, target: Target = TARGET) -> None:
    with pytest.raises(CheckError) as caught:
        releases.release(Options(target=target))
    assert all(word in caught.value.brief for word in words), caught.value.brief
    assert caught.value.hint == f"invoke status --target {target.name}"


def test_not_riscv64(releasable: Path, gh: Commands) -> None:
    shutil.copytree(releasable, project.DIST / "linux-amd64")
    refused("linux-amd64 is not riscv64", target=Target.parse("linux-amd64"))
    assert gh.args == []


Spoil = Callable[[Path], object]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda t: edit_manifest(t, lambda m: m["host"].update(arch="amd64")), "binaries: they were compiled on amd64"),
        (lambda t: edit_manifest(t, lambda m: m["source"].update(pinned=False)), "binaries: they are a development build"),
        (lambda t: storage.write_json(t / dist.VERDICT, {"identical": False, "files": []}), "binaries: the cross-check"),
        (lambda t: shutil.rmtree(t / dist.EVIDENCE), "validation: no evidence"),
        (lambda t: shutil.rmtree(t / dist.PACKAGES), "packages: no packages"),
        (lambda t: shutil.rmtree(t / dist.IMAGE / "root"), "root image: no artifacts"),
        (shutil.rmtree, "binaries: no artifacts"),
    ],
)  # fmt: skip
def test_what_is_not_good(releasable: Path, gh: Commands, spoil: Spoil, words: str, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    spoil(releasable)
    refused("linux-riscv64 may not be released: ", words)
    assert f"refused: {words}" in capsys.readouterr().err
    assert gh.args == []


def test_a_file_that_nobody_looked_at_again(releasable: Path, gh: Commands) -> None:
    """Its size and its time are as they were; only reading it tells."""
    path = releasable / NAMES[0]
    stat = path.stat()
    path.write_bytes(bytes(stat.st_size))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(CheckError, match="is not what SHA256SUMS beside it says"):
        run()
    assert not [one for one in gh.args if one[0] == "gh"]


@pytest.mark.parametrize(("tag", "revision"), [("v0.32.2", 1), ("v0.32.2-2", 2)])
def test_a_tag_says_what_is_released(releasable: Path, tag: str, revision: int) -> None:
    options = Options.parse(target="", revision="1", tag=tag)
    assert options.revision == revision
    links = chain.links(options.target)
    releases._refuse_another_tag(options, links)
    releases._refuse_another_tag(Options.parse(target="", revision="7"), links)


@pytest.mark.parametrize("tag", ["v0.33.0", "v0.33.0-2", "v0.32.2-1", "v0.32.2-02"])
def test_a_tag_for_something_else_releases_nothing(releasable: Path, tag: str) -> None:
    options = Options.parse(target="", revision="1", tag=tag, dry=True)
    with pytest.raises(CheckError, match=f"{tag} is the tag, and what is in dist/ would be"):
        releases.release(options)


@pytest.mark.parametrize("tag", ["0.32.2", "v0.32", "v0.32.2-rc1", "v0.32.2-", "v0.32.2-0", "latest"])  # fmt: skip
def test_what_is_no_tag_of_ours(tag: str) -> None:
    with pytest.raises(UsageError):
        Options.parse(target="", revision="1", tag=tag)


@pytest.mark.parametrize("revision", ["0", "-1", "one", ""])
def test_no_revision(revision: str) -> None:
    with pytest.raises(UsageError, match="is no number from 1"):
        Options.parse(target="", revision=revision)


def test_riscv64_is_what_is_released() -> None:
    assert Options.parse(target="", revision="1").target == TARGET


# A dry run.


def test_a_dry_run(releasable: Path, gh: Commands, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    made = run(dry=True, key="a key")
    assert made.state == "would be released"
    assert made.artifacts is None
    assert not (releasable / dist.RELEASE).exists()
    assert (hub.changes, [one for one in gh.args if one[0] == "gh"]) == ([], [])
    report.released(made, json=True)
    out, err = capsys.readouterr()
    assert '"state": "would be released"' in out
    for name in NAMES:
        assert name in err
    assert "nothing was published" in err


def test_a_dry_run_without_a_key_and_github(
    releasable: Path, gh: Commands, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    monkeypatch.delenv("GITHUB_REPOSITORY")
    monkeypatch.delenv(signing.KEY, raising=False)
    made = run(dry=True)
    assert [file["name"] for file in made.description["files"]] == [*NAMES, releases.DESCRIPTION]
    assert made.latest is None
    report.released(made, json=False)
    err = capsys.readouterr().err
    assert "newest stable" not in err
    assert f"there is no key in {signing.KEY}" in err
    assert "whether it has been released is not known" in err


def test_nothing_slow_without_a_repository(releasable: Path, gh: Commands, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.delenv("GITHUB_REPOSITORY")
    with pytest.raises(UsageError):
        run()
    assert gh.args == []
