from __future__ import annotations

import contextlib
import gzip
import lzma
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from buildkit_riscv64.core import dist, dry_run, filesystem, process, project
from buildkit_riscv64.core.arch import Target
from buildkit_riscv64.core.errors import BuildError, BusyError, CheckError, UsageError
from buildkit_riscv64.packages import repository, signing
from buildkit_riscv64.packages.repository import RepositoryOptions
from buildkit_riscv64.system import apt

from ...pages import closed_files
from ..factories import edit_manifest
from ..phase4 import forge

TARGET = Target.parse("linux-riscv64")
FINGERPRINT = "F" * 40
URL = "https://packages.example.org/buildkit"
INDEX = "Package: buildkit\nVersion: 0.32.2-1\n"


def options(**changes: Any) -> RepositoryOptions:
    values: dict[str, Any] = {"target": "", "url": URL, "key": "", "unsigned": False}
    return RepositoryOptions.parse(**values | changes)


class Tools:
    """Fake programs that record their arguments."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.failing = ""

    def read(self, args: list[Any], *, error: type[Exception] = BuildError, **others: Any) -> str:
        words = [str(word) for word in args]
        self.asked.append(words)
        if words[0] == self.failing:
            raise error(f"{words[0]} failed")
        match words:
            case ["apt-ftparchive", *_, "packages", "pool"]:
                return INDEX
            case ["apt-ftparchive", *_, "release", _]:
                return "Suite: stable\n"
            case ["createrepo_c", *_, directory]:
                (Path(directory) / "repodata").mkdir()
                (Path(directory) / "repodata" / "repomd.xml").write_text("<repomd/>")
        return ""


@pytest.fixture
def tools(packaged: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Tools:
    """Fake programs and a fake signer."""
    fake = Tools()
    monkeypatch.setattr(process, "read", fake.read)
    monkeypatch.setattr(process, "which", lambda name: Path("/usr/bin", name))

    class Signer(signing.Signer):
        def sign_detached(self, path: Path, signature: Path | None = None) -> Path:
            signature = signature or path.with_name(f"{path.name}.asc")
            signature.write_text(f"{path.name} by {self.fingerprint}")
            return signature

        def clearsign(self, path: Path, signed: Path) -> Path:
            signed.write_text(f"{path.read_text()}by {self.fingerprint}")
            return signed

        def public_key(self) -> str:
            return "the public key\n"

    @contextlib.contextmanager
    def opened(key: str = "") -> Iterator[signing.Signer]:
        if key == "bad":
            raise UsageError("the key cannot sign", "use another")
        yield Signer(tmp_path / "gnupg", FINGERPRINT, "Packages <packages@example.org>")

    monkeypatch.setattr(signing, "opened", opened)
    return fake


def repo() -> Path:
    return project.DIST / "repo"


def test_apt_repository(tools: Tools) -> None:
    repository.publish(options())
    deb = repo() / "deb"
    assert sorted(path.name for path in (deb / "pool/main/b/buildkit").iterdir()) == [
        "buildkit-rootless_0.32.2-1_riscv64.deb", "buildkit_0.32.2-1_riscv64.deb",
    ]  # fmt: skip
    index = deb / "dists/stable/main/binary-riscv64"
    assert (index / "Packages").read_text() == INDEX
    assert gzip.decompress((index / "Packages.gz").read_bytes()).decode() == INDEX
    assert lzma.decompress((index / "Packages.xz").read_bytes()).decode() == INDEX
    by_hash = {path.name for path in (index / "by-hash" / "SHA256").iterdir()}
    assert by_hash == {filesystem.sha256(path) for path in index.glob("Packages*")}
    release = deb / "dists/stable"
    assert (release / "InRelease").read_text() == f"Suite: stable\nby {FINGERPRINT}"
    assert (release / "Release.gpg").read_text() == f"Release by {FINGERPRINT}"
    (asked,) = [args for args in tools.asked if args[-2:] == ["release", "dists/stable"]]
    for wanted in (
        "APT::FTPArchive::Release::Acquire-By-Hash=yes",
        "APT::FTPArchive::Release::Architectures=riscv64",
        "APT::FTPArchive::Release::Codename=stable", "APT::FTPArchive::SHA1=false",
    ):  # fmt: skip
        assert wanted in asked
    assert (deb / "buildkit.sources").read_text() == (
        f"Types: deb\nURIs: {URL}/deb\nSuites: stable\nComponents: main\n"
        "Architectures: riscv64\nSigned-By: /etc/apt/keyrings/buildkit.asc\n"
    )


def test_dnf_repository(tools: Tools, tmp_path: Path) -> None:
    repository.publish(options())
    directory = repo() / "rpm" / "riscv64"
    files = ["buildkit-0.32.2-1.riscv64.rpm", "buildkit-rootless-0.32.2-1.riscv64.rpm"]
    assert sorted(path.name for path in (directory / "Packages").iterdir()) == files
    assert (directory / "repodata/repomd.xml.asc").read_text() == f"repomd.xml by {FINGERPRINT}"
    (signed,) = [args for args in tools.asked if args[0] == "rpmsign"]
    assert signed[:8] == [
        "rpmsign", "--define", "__gpg /usr/bin/gpg", "--define", f"_gpg_name {FINGERPRINT}",
        "--define", f"_gpg_path {tmp_path}/gnupg", "--addsign",
    ]  # fmt: skip
    assert [Path(path).name for path in signed[8:]] == files
    order = [args[0] for args in tools.asked]
    assert order.index("rpmsign") < order.index("createrepo_c"), "signing changes the files"
    (created,) = [args for args in tools.asked if args[0] == "createrepo_c"]
    assert created[created.index("--revision") + 1] == "1785846460"
    assert (repo() / "rpm/buildkit.repo").read_text() == (
        f"[buildkit]\nname=BuildKit\nbaseurl={URL}/rpm/$basearch\nenabled=1\n"
        f"gpgcheck=1\nrepo_gpgcheck=1\ngpgkey={URL}/buildkit.asc\n"
    )


def test_published_repositories(tools: Tools) -> None:
    outcome = repository.publish(options())
    assert outcome.artifacts is not None
    assert outcome.artifacts.path == repo()
    assert (repo() / "buildkit.asc").read_text() == "the public key\n"
    page = (repo() / "index.html").read_text()
    assert f"{URL}/deb/buildkit.sources" in page
    assert "Packages &lt;packages@example.org&gt;" in page
    assert FINGERPRINT in page
    assert closed_files(re.findall("<code>(.*)</code>", page)) == set()
    manifest = outcome.artifacts.manifest
    assert manifest["signed_by"] == FINGERPRINT
    assert manifest["packages"] == {"linux-riscv64": "0.32.2-1"}
    present = {str(p.relative_to(repo())) for p in repo().rglob("*") if p.is_file()}
    assert {file["name"] for file in manifest["files"]} == present - {"manifest.json", "SHA256SUMS"}
    listed = {line.split("  ")[1] for line in (repo() / "SHA256SUMS").read_text().splitlines()}
    assert listed == present - {"SHA256SUMS"}
    assert not list(project.DIST.glob(".repo.staging*"))


def test_up_to_date_repositories_are_not_rebuilt(tools: Tools) -> None:
    repository.publish(options())
    tools.asked.clear()
    assert repository.publish(options()).up_to_date
    assert not tools.asked
    assert not repository.publish(options(force=True)).up_to_date
    assert not repository.publish(options(url="https://elsewhere.example.org")).up_to_date


def test_unsigned(tools: Tools) -> None:
    outcome = repository.publish(options(unsigned=True, url=""))
    assert outcome.artifacts is not None
    assert outcome.artifacts.manifest["signed_by"] == ""
    assert "rpmsign" not in {args[0] for args in tools.asked}
    assert not list(repo().rglob("*.asc"))
    assert not list(repo().rglob("InRelease"))
    assert "Trusted: yes" in (repo() / "deb/buildkit.sources").read_text()
    assert "gpgcheck=0\nrepo_gpgcheck=0\n" in (repo() / "rpm/buildkit.repo").read_text()
    page = (repo() / "index.html").read_text()
    assert "not signed" in page
    assert closed_files(re.findall("<code>(.*)</code>", page)) == set()


@pytest.mark.parametrize("unsigned", [True, False])
def test_default_address(checkout: Path, unsigned: bool) -> None:
    """Only a test may lack the address: signed files must not name a placeholder."""
    if unsigned:
        options = RepositoryOptions.parse(target="", url="", key="", unsigned=True)
        assert options.url == f"file://{checkout}/dist/repo"
    else:
        with pytest.raises(UsageError, match="address") as caught:
            RepositoryOptions.parse(target="", url="", key="", unsigned=False)
        assert "--url" in caught.value.hint


def test_key_that_cannot_sign(tools: Tools) -> None:
    with pytest.raises(UsageError, match="cannot sign") as caught:
        repository.publish(options(key="bad"))
    assert caught.value.hint == "use another"
    assert not repo().exists()


def test_missing_key_suggests_unsigned(tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(signing.KEY, raising=False)

    @contextlib.contextmanager
    def opened(_key: str = "") -> Iterator[signing.Signer]:
        if _key != "never":
            raise UsageError("no signing key", "set it")
        yield signing.Signer(Path(), "", "")

    monkeypatch.setattr(signing, "opened", opened)
    with pytest.raises(UsageError, match="no signing key") as caught:
        repository.publish(options())
    assert "--unsigned" in caught.value.hint
    assert not tools.asked


def test_dry(
    tools: Tools, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(signing.KEY, raising=False)
    before = sorted(project.DIST.rglob("*"))
    with dry_run.running(dry=True):
        outcome = repository.publish(options())
    assert outcome.artifacts is None
    assert [one.manifest["target"] for one in outcome.published] == ["linux-riscv64"]
    assert sorted(project.DIST.rglob("*")) == before
    assert not tools.asked
    assert signing.KEY in capsys.readouterr().err


@pytest.mark.parametrize("failing", ["apt-ftparchive", "rpmsign", "createrepo_c"])
def test_failed_tool_leaves_the_repositories_unchanged(tools: Tools, failing: str) -> None:
    repository.publish(options())
    before = {p: p.read_bytes() for p in repo().rglob("*") if p.is_file()}
    tools.failing = failing
    with pytest.raises(BuildError, match=failing):
        repository.publish(options(force=True))
    assert {p: p.read_bytes() for p in repo().rglob("*") if p.is_file()} == before
    assert not list(project.DIST.glob(".repo.staging*"))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda f: (f / "buildkit_0.32.2-1_riscv64.deb").write_text("x"), "buildkit_0.32.2-1_riscv64.deb"),
        (lambda f: (f / "manifest.json").unlink(), "no packages"),
        (lambda f: edit_manifest(f, lambda m: m["binaries"].update(buildctl="0" * 64)), "current binaries"),
        (lambda f: (f.parent / "bin" / "buildctl").write_text("x"), "its manifest"),
    ],
)  # fmt: skip
def test_bad_packages_are_refused(
    tools: Tools, packaged: Path, damage: Callable[[Path], object], reason: str
) -> None:
    damage(packaged)
    with pytest.raises(CheckError, match=reason):
        repository.publish(options())
    assert not repo().exists()
    assert not tools.asked


def test_no_packages(finished: Path) -> None:
    with pytest.raises(CheckError, match="no packages"):
        repository.publish(options(unsigned=True))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"url": "packages.example.org"}, "--url"),
        ({"url": "https://host/\nEnabled: yes"}, "--url"),
        ({"url": "https://host/?a=b c"}, "--url"),
        ({"target": "linux-riscv64,linux-sparc"}, "linux-sparc"),
        ({"key": "file", "unsigned": True}, "--unsigned"),
    ],
)
def test_invalid_options(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        options(**changes)


def test_targets() -> None:
    assert options(target="linux-amd64, linux-riscv64,linux-amd64").targets == (
        Target.parse("linux-amd64"), TARGET,
    )  # fmt: skip
    assert options(url="file:/srv/repo/").url == "file:/srv/repo"


def test_another_run_holds_the_lock(tools: Tools) -> None:
    with dist.lock(TARGET), pytest.raises(BusyError):
        repository.publish(options())
    with dist.staging_repository(), pytest.raises(BusyError, match="repo"):
        repository.publish(options())


def test_missing_tools_are_installed(tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(
        apt, "ensure_installed", lambda names, yes: asked.append([*names, str(yes)])
    )
    repository.publish(options(yes=True))
    assert asked == [
        ["bsdtar", "dpkg-deb", "True"],
        ["gpg", "True"],
        ["apt-ftparchive", "createrepo_c", "rpmsign", "True"],
    ]
    assert {"gpg", "apt-ftparchive", "createrepo_c", "rpmsign"} <= apt.PACKAGES.keys()


@pytest.mark.parametrize("suffix", [".deb", ".rpm"])
def test_forged_packages_are_refused(packaged: Path, tools: Tools, tmp_path: Path, suffix: str) -> None:  # fmt: skip
    """Packages of other programs, although manifest and checksums agree with them."""
    path = next(packaged.glob(f"*{suffix}"))
    forge(path, packaged, tmp_path / "other")
    with pytest.raises(CheckError, match=path.name):
        repository.publish(options(unsigned=True))
    assert not dist.repository_directory().exists()
