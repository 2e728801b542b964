from __future__ import annotations

import fcntl
import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from buildkit_riscv64.core import process, project
from buildkit_riscv64.core.arch import Architecture
from buildkit_riscv64.core.errors import (
    MissingRequirementError,
    NetworkError,
    SourceError,
    StorageError,
)
from buildkit_riscv64.image import packages
from buildkit_riscv64.image.packages import Archive, Package
from buildkit_riscv64.system import debian

from ..factories import Commands

MIRROR = "http://mirror.invalid/debian"
SIGNED = "signed-by=/usr/share/keyrings/debian-archive-keyring.gpg target=Packages"
MAIN = f"deb [{SIGNED}] {MIRROR} trixie main\n"
UPDATES = f"deb [{SIGNED}] {MIRROR}-security trixie-security main\n"
CONTENT = b"a package"


def package(name: str = "tini", version: str = "0.19.0-3", **changes: Any) -> Package:
    """A package whose file contains CONTENT."""
    values: dict[str, Any] = {
        "name": name, "version": version, "architecture": "riscv64",
        "sha256": hashlib.sha256(CONTENT).hexdigest(), "size": len(CONTENT),
    }  # fmt: skip
    return Package(**values | changes)


def uri(one: Package) -> str:
    """The line of `apt-get --print-uris`."""
    return f"'{MIRROR}/pool/{one.file.replace('%', '%25')}' {one.file} {one.size} SHA256:{one.sha256}\n"  # fmt: skip


TINI, GIT = package(), package("git", "1:2.47.3-0+deb13u1", architecture="amd64", size=8306616)


@pytest.fixture
def archive(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> Archive:
    """Debian's archive for riscv64, locked; apt has no answers yet."""
    monkeypatch.setattr(process, "which", lambda name: Path("/usr/bin", name))
    commands.answer("apt-get", "indextargets", stdout=f"{MIRROR} Debian\n")
    archive = Archive(Architecture.RISCV64)
    with archive.locked():
        pass
    return archive


def state() -> Path:
    return project.cache() / "apt" / "riscv64"


def apt(*words: str) -> list[str]:
    """The complete command for arguments of apt-get."""
    settings = {
        "APT::Architecture": "riscv64", "APT::Architectures": "riscv64",
        "APT::Install-Recommends": "false", "APT::Sandbox::User": "",
        "Acquire::ForceHash": "sha256", "Acquire::Languages": "none", "Acquire::Retries": "3",
        "Dir::Cache": f"{state()}/cache", "Dir::Cache::pkgcache": "pkgcache.bin",
        "Dir::Cache::srcpkgcache": "srcpkgcache.bin", "Dir::Etc::preferences": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null", "Dir::Etc::sourcelist": f"{state()}/sources.list",
        "Dir::Etc::sourceparts": "/dev/null", "Dir::State": str(state()),
        "Dir::State::lists": f"{state()}/lists", "Dir::State::status": f"{state()}/status",
    }  # fmt: skip
    options = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
    return ["apt-get", "--quiet", *options, *words]


UPDATE = ("update", "-o", "APT::Update::Error-Mode=any")


def apt_calls(commands: Commands) -> list[list[str]]:
    """Arguments of apt, without this machine's package sources."""
    return [args for args in commands.args if "indextargets" not in args]


# apt's output.


def test_parsed_package() -> None:
    line = (
        f"'{MIRROR}/pool/main/g/git/git_2.47.3-0%2bdeb13u1_riscv64.deb'"
        f" git_1%3a2.47.3-0+deb13u1_riscv64.deb 8306616 SHA256:{'ab' * 32}"
    )
    assert packages._parse(line) == Package(
        name="git", version="1:2.47.3-0+deb13u1", architecture="riscv64", sha256="ab" * 32,
        size=8306616,
    )  # fmt: skip


@pytest.mark.parametrize("one", [TINI, GIT, package("base-files", "13.8+deb13u1~1")])
def test_parsing_is_the_reverse_of_printing(one: Package) -> None:
    assert packages._parse(uri(one)) == one


@pytest.mark.parametrize(
    "line",
    [
        "", "Reading package lists...", "0 upgraded, 1 newly installed, 0 to remove.",
        uri(TINI).replace("SHA256:", "MD5Sum:"), uri(TINI).replace("SHA256:", "SHA512:"),
        uri(TINI).rpartition(" ")[0], uri(TINI)[:-2], uri(TINI).replace(".deb ", ".dsc "),
        uri(TINI).replace(" 9 ", " nine "), uri(TINI) + "more",
    ],
)  # fmt: skip
def test_lines_without_a_package_or_hash(line: str) -> None:
    assert packages._parse(line) is None


def test_file_name() -> None:
    assert TINI.file == "tini_0.19.0-3_riscv64.deb"
    assert GIT.file == "git_1%3a2.47.3-0+deb13u1_amd64.deb"


def test_package_as_json() -> None:
    assert package(only="usr/bin/tini").as_json() == {
        "name": "tini", "version": "0.19.0-3", "architecture": "riscv64", "size": len(CONTENT),
        "sha256": TINI.sha256, "only": "usr/bin/tini",
    }  # fmt: skip


# Indexes.


def test_state_is_locked_and_released(archive: Archive) -> None:
    with (state() / ".lock").open("w") as other:
        with archive.locked(), pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_indexes_are_fetched_with_security_updates(archive: Archive, commands: Commands) -> None:
    assert archive.update() is True
    assert apt_calls(commands) == [apt(*UPDATE)]
    assert (state() / "sources.list").read_text() == MAIN + UPDATES


def test_fetching_has_no_timeout(archive: Archive, commands: Commands) -> None:
    archive.update()
    assert commands.calls[-1].options["timeout"] is None


def test_missing_security_updates_are_a_warning(
    archive: Archive, commands: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    def security_is_asked(_words: list[str]) -> None:
        if "-security" in (state() / "sources.list").read_text():
            raise NetworkError("apt-get update failed: Failed to fetch security")

    commands.answer("apt-get", "update", does=security_is_asked)
    assert archive.update() is False
    assert apt_calls(commands) == [apt(*UPDATE)] * 3
    assert (state() / "sources.list").read_text() == MAIN
    assert capsys.readouterr().err == (
        "warning: without Debian's security updates: apt-get update failed: Failed to fetch security\n"
    )


def test_former_state_keeps_security_updates(archive: Archive, commands: Commands) -> None:
    older = MAIN.replace(" trixie ", " stable ")

    def whole_as_stable(_words: list[str]) -> None:
        if not (state() / "sources.list").read_text().startswith(older):
            raise NetworkError("apt-get update failed: File has unexpected size")

    commands.answer("apt-get", "update", does=whole_as_stable)
    commands.answer("indextargets", "$(CODENAME)", "Release: stable", stdout="trixie\n")
    assert archive.update() is True
    assert (state() / "sources.list").read_text() == older + UPDATES


@pytest.mark.parametrize(
    ("stdout", "stderr", "reason"),
    [
        ("Err:1 x\n", "W: old\nE: The repository is not signed.\nE: second\n", "The repository is not signed."),
        ("E: on stdout\n", "E: on stderr\n", "on stdout"),
        ("Hit:1\n", "W: Some index files failed to download. They have been ignored.\n",
         "W: Some index files failed to download. They have been ignored."),
        ("", "", ""),
    ],
)  # fmt: skip
def test_no_index(
    archive: Archive, commands: Commands, stdout: str, stderr: str, reason: str
) -> None:
    commands.answer("apt-get", "update", code=100, stdout=stdout, stderr=stderr)
    with pytest.raises(NetworkError) as caught:
        archive.update()
    assert "apt-get update" in caught.value.brief
    assert reason in caught.value.brief


def test_full_disk_is_a_storage_error(archive: Archive, commands: Commands) -> None:
    full = "E: Write error - write (28: No space left on device)\n"
    commands.answer("apt-get", "update", code=100, stderr=full)
    with pytest.raises(StorageError, match=re.escape(str(state()))):
        archive.update()


def test_no_apt(archive: Archive, commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "which", lambda _name: None)
    with pytest.raises(MissingRequirementError, match="apt-get") as caught:
        archive.update()
    assert "invoke on riscv64 -- build-image" in caught.value.hint
    assert commands.calls == []


# Resolving.


@pytest.fixture
def lists(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Write lists of packages."""
    monkeypatch.setattr(packages, "LISTS", tmp_path)

    def write(**contents: str) -> None:
        for name, content in {"without": "", **contents}.items():
            (tmp_path / name).write_text(content)

    return write


def test_packages_of_a_list_with_dependencies(
    archive: Archive, commands: Commands, lists: Callable[..., None]
) -> None:
    lists(root="# why\ntini\n\ngit\n")
    commands.answer("install", stdout=f"Reading package lists...\n{uri(TINI)}{uri(GIT)}")
    assert archive.resolve("root") == [GIT, TINI]
    assert apt_calls(commands) == [apt("install", "--yes", "--print-uris", "tini", "git")]


def test_packages_of_several_lists(
    archive: Archive, commands: Commands, lists: Callable[..., None]
) -> None:
    lists(root="tini\n", rootless="slirp4netns\n")
    archive.resolve("root", "rootless")
    assert apt_calls(commands) == [apt("install", "--yes", "--print-uris", "tini", "slirp4netns")]


def test_single_file_of_a_package(
    archive: Archive, commands: Commands, lists: Callable[..., None]
) -> None:
    lists(root="tini\nutil-linux usr/bin/unshare\n")
    whole = package("util-linux")
    commands.answer("install", stdout=uri(TINI))
    commands.answer("download", stdout=uri(whole))
    assert archive.resolve("root") == [TINI, package("util-linux", only="usr/bin/unshare")]
    # Their dependencies are not resolved.
    assert apt_calls(commands) == [
        apt("install", "--yes", "--print-uris", "tini"),
        apt("download", "--print-uris", "util-linux"),
    ]


def test_several_files_of_a_package(
    archive: Archive, commands: Commands, lists: Callable[..., None]
) -> None:
    lists(root="util-linux usr/bin/unshare\n", rootless="util-linux usr/bin/nsenter\n")
    commands.answer("download", stdout=uri(package("util-linux")))
    assert archive.resolve("root", "rootless") == [
        package("util-linux", only="usr/bin/nsenter"), package("util-linux", only="usr/bin/unshare")
    ]  # fmt: skip
    assert apt_calls(commands) == [apt("download", "--print-uris", "util-linux")]


def test_list_of_single_files_installs_nothing(
    archive: Archive, commands: Commands, lists: Callable[..., None]
) -> None:
    lists(helpers="libcap2-bin usr/sbin/setcap\n")
    commands.answer("download", stdout=uri(package("libcap2-bin")))
    (found,) = archive.resolve("helpers")
    assert found.only == "usr/sbin/setcap"
    assert apt_calls(commands) == [apt("download", "--print-uris", "libcap2-bin")]


def test_excluded_packages_count_as_installed(archive: Archive, lists: Callable[..., None]) -> None:
    lists(root="tini\ndpkg\n", without="# why\nperl\ndpkg\nmount\n")
    archive.resolve("root")
    entries = (state() / "status").read_text().split("\n\n")
    assert entries.pop() == ""
    # An explicitly listed package is included.
    assert [entry.splitlines()[0] for entry in entries] == ["Package: perl", "Package: mount"]
    assert entries[0].splitlines()[1:] == [
        "Status: install ok installed", "Version: 1:99999", "Architecture: all",
        "Multi-Arch: foreign", "Maintainer: nobody <nobody@invalid>", "Description: stand-in",
    ]  # fmt: skip


def test_no_solution(archive: Archive, commands: Commands, lists: Callable[..., None]) -> None:
    lists(root="nosuch\n")
    commands.answer("install", code=100, stderr="E: Unable to locate package nosuch\n")
    with pytest.raises(NetworkError) as caught:
        archive.resolve("root")
    assert "nosuch" in caught.value.brief


def test_our_own_lists() -> None:
    """Each package is listed once, completely or by its files, and no excluded one."""
    listed = {
        path.name: [line.split() for line in debian.listed(path)]
        for path in packages.LISTS.iterdir()
        if path.name in {"root", "rootless", "tools", "helpers", "without"}
    }
    assert len(listed) == 5
    entries = [tuple(words) for name in ("root", "rootless") for words in listed[name]]
    assert len(set(entries)) == len(entries)
    whole = {words[0] for words in entries if len(words) == 1}
    assert not whole & {words[0] for words in entries if len(words) == 2}
    assert all(len(words) <= 2 for lines in listed.values() for words in lines)
    assert not whole & {words[0] for words in listed["without"]}


# Fetching.


def debs() -> Path:
    return project.cache() / "packages"


def downloads(content: bytes = CONTENT) -> Callable[[list[str]], None]:
    """Fake apt download of tini, which keeps an existing file of the right size."""

    def download(_words: list[str]) -> None:
        path = debs() / TINI.file
        if not path.exists() or path.stat().st_size != TINI.size:
            path.write_bytes(content)

    return download


def test_missing_packages_are_fetched(
    archive: Archive, commands: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    (debs() / GIT.file).write_bytes(CONTENT)
    commands.answer("download", does=downloads())
    archive.fetch([GIT, TINI])
    (call,) = commands.calls
    assert call.args == apt("download", "tini=0.19.0-3")
    assert call.options["cwd"] == debs()
    assert capsys.readouterr().err == "fetching 1 packages, 9 B\n"
    assert archive.path(TINI).read_bytes() == CONTENT
    archive.fetch([GIT, TINI])
    assert len(commands.calls) == 1


def test_cached_packages_are_not_fetched(archive: Archive, commands: Commands) -> None:
    archive.fetch([])
    assert commands.calls == []


def test_fetched_versions_have_their_epoch(archive: Archive, commands: Commands) -> None:
    with pytest.raises(SourceError):
        archive.fetch([GIT])
    assert commands.args == [apt("download", "git=1:2.47.3-0+deb13u1")]


@pytest.mark.parametrize("content", [b"", b"a package of another's", CONTENT[:-1], b"A" + CONTENT[1:]])  # fmt: skip
def test_wrong_file_is_refused(archive: Archive, commands: Commands, content: bytes) -> None:
    commands.answer("download", does=downloads(content))
    with pytest.raises(SourceError) as caught:
        archive.fetch([TINI])
    assert TINI.file in caught.value.brief
    assert "mirror" in caught.value.hint


@pytest.mark.parametrize("damaged", [b"", CONTENT[:-1], CONTENT + b"x", b"A" + CONTENT[1:]])
def test_damaged_cached_file_is_fetched_again(
    archive: Archive, commands: Commands, damaged: bytes
) -> None:
    archive.path(TINI).write_bytes(damaged)
    commands.answer("download", does=downloads())
    archive.fetch([TINI])
    assert archive.path(TINI).read_bytes() == CONTENT


def test_file_cannot_be_fetched(archive: Archive, commands: Commands) -> None:
    commands.answer("download", code=100, stderr="E: Failed to fetch x  404 Not Found\n")
    with pytest.raises(NetworkError) as caught:
        archive.fetch([TINI])
    assert "Failed to fetch x 404 Not Found" in caught.value.brief


def test_files_are_copied_with_their_list(archive: Archive, tmp_path: Path) -> None:
    only = package("util-linux", only="usr/bin/unshare")
    for one in (GIT, only):
        (debs() / one.file).write_bytes(one.name.encode())
    archive.place([GIT, only], tmp_path / "scratch" / "root")
    placed = {path.name: path.read_text() for path in (tmp_path / "scratch/root").iterdir()}
    assert placed == {
        GIT.file: "git", only.file: "util-linux",
        "list": f"{GIT.file}\n{only.file} usr/bin/unshare\n",
    }  # fmt: skip
