from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from buildkit_riscv64 import debian, process, project
from buildkit_riscv64.arch import Architecture
from buildkit_riscv64.errors import MissingRequirementError, NetworkError, SourceError
from buildkit_riscv64.image import packages
from buildkit_riscv64.image.packages import Archive, Package

from ..making import Commands

MIRROR = "http://mirror.invalid/debian"
SIGNED = "signed-by=/usr/share/keyrings/debian-archive-keyring.gpg target=Packages"
MAIN = f"deb [{SIGNED}] {MIRROR} trixie main\n"
UPDATES = f"deb [{SIGNED}] {MIRROR}-security trixie-security main\n"
CONTENT = b"a package"


def package(name: str = "tini", version: str = "0.19.0-3", **changes: Any) -> Package:
    """A package whose file is CONTENT."""
    values: dict[str, Any] = {
        "name": name, "version": version, "architecture": "riscv64",
        "sha256": hashlib.sha256(CONTENT).hexdigest(), "size": len(CONTENT),
    }  # fmt: skip
    return Package(**values | changes)


def uri(one: Package) -> str:
    """As `apt-get --print-uris` has it."""
    return f"'{MIRROR}/pool/{one.file.replace('%', '%25')}' {one.file} {one.size} SHA256:{one.sha256}\n"  # fmt: skip


TINI, GIT = package(), package("git", "1:2.47.3-0+deb13u1", architecture="amd64", size=8306616)


@pytest.fixture
def archive(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> Archive:
    """Debian's for riscv64, locked; apt answers nothing yet."""
    monkeypatch.setattr(process, "which", lambda name: Path("/usr/bin", name))
    commands.answer("apt-get", "indextargets", stdout=f"{MIRROR} Debian\n")
    made = Archive(Architecture.RISCV64)
    with made.locked():
        pass
    return made


def state() -> Path:
    return project.cache() / "apt" / "riscv64"


def apt(*words: str) -> list[str]:
    """The command for words of apt's."""
    settings = {
        "APT::Architecture": "riscv64", "APT::Architectures": "riscv64",
        "APT::Install-Recommends": "false", "APT::Sandbox::User": "",
        "Acquire::ForceHash": "sha256", "Acquire::Languages": "none", "Acquire::Retries": "3",
        "Dir::Cache": f"{state()}/cache", "Dir::Etc::preferences": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null", "Dir::Etc::sourcelist": f"{state()}/sources.list",
        "Dir::Etc::sourceparts": "/dev/null", "Dir::State": str(state()),
        "Dir::State::lists": f"{state()}/lists", "Dir::State::status": f"{state()}/status",
    }  # fmt: skip
    options = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
    return ["apt-get", "--quiet", *options, *words]


UPDATE = ("update", "-o", "APT::Update::Error-Mode=any")


def apt_calls(commands: Commands) -> list[list[str]]:
    """What was asked of apt, but for where this machine's packages come from."""
    return [args for args in commands.args if "indextargets" not in args]


# What apt says.


def test_a_package_of_apts() -> None:
    line = (
        f"'{MIRROR}/pool/main/g/git/git_2.47.3-0%2bdeb13u1_riscv64.deb'"
        f" git_1%3a2.47.3-0+deb13u1_riscv64.deb 8306616 SHA256:{'ab' * 32}"
    )
    assert packages._parse(line) == Package(
        name="git", version="1:2.47.3-0+deb13u1", architecture="riscv64", sha256="ab" * 32,
        size=8306616,
    )  # fmt: skip


@pytest.mark.parametrize("one", [TINI, GIT, package("base-files", "13.8+deb13u1~1")])
def test_what_apt_says_is_understood(one: Package) -> None:
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
def test_what_is_no_package_or_has_no_hash_is_none(line: str) -> None:
    assert packages._parse(line) is None


def test_the_file_is_named_as_apt_names_it() -> None:
    assert TINI.file == "tini_0.19.0-3_riscv64.deb"
    assert GIT.file == "git_1%3a2.47.3-0+deb13u1_amd64.deb"


def test_a_package_in_a_manifest() -> None:
    assert package(only="usr/bin/tini").as_json() == {
        "name": "tini", "version": "0.19.0-3", "architecture": "riscv64", "size": len(CONTENT),
        "sha256": TINI.sha256, "only": "usr/bin/tini",
    }  # fmt: skip


# The indexes.


def test_the_state_is_locked_and_let_go(archive: Archive) -> None:
    with (state() / ".lock").open("w") as other:
        with archive.locked(), pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_the_indexes_are_fetched_with_security_updates(archive: Archive, commands: Commands) -> None:  # fmt: skip
    (state() / "status").write_text("what an earlier run left")
    assert archive.update() is True
    # First the release alone: a mirror may not have it whole.
    assert apt_calls(commands) == [apt(*UPDATE), apt(*UPDATE)]
    assert (state() / "sources.list").read_text() == MAIN + UPDATES
    assert (state() / "status").read_text() == ""


def test_fetching_may_take_long(archive: Archive, commands: Commands) -> None:
    archive.update()
    assert commands.calls[-1].options["timeout"] is None


def test_without_security_updates_it_goes_on_and_says_so(archive: Archive, commands: Commands, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
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


def test_of_an_older_state_there_are_security_updates_too(archive: Archive, commands: Commands) -> None:  # fmt: skip
    older = MAIN.replace(" trixie ", " stable ")

    def whole_as_stable(_words: list[str]) -> None:
        if not (state() / "sources.list").read_text().startswith(older):
            raise NetworkError("apt-get update failed: File has unexpected size")

    commands.answer("apt-get", "update", does=whole_as_stable)
    commands.answer("indextargets", "$(CODENAME)", stdout="trixie\n")
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
def test_no_index_at_all(archive: Archive, commands: Commands, stdout: str, stderr: str, reason: str) -> None:  # fmt: skip
    commands.answer("apt-get", "update", code=100, stdout=stdout, stderr=stderr)
    with pytest.raises(NetworkError) as caught:
        archive.update()
    assert caught.value.brief == f"apt-get update failed: {reason}".strip()
    assert caught.value.hint == "check the network and this machine's package sources"
    assert len(apt_calls(commands)) == 2


def test_no_apt(archive: Archive, commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "which", lambda _name: None)
    with pytest.raises(MissingRequirementError, match="there is no apt-get here") as caught:
        archive.update()
    assert caught.value.hint == "use a Debian machine, or `invoke on riscv64 -- build-image`"
    assert commands.calls == []


# Which packages.


@pytest.fixture
def lists(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Writes the lists of packages."""
    monkeypatch.setattr(packages, "LISTS", tmp_path)

    def write(**contents: str) -> None:
        for name, content in {"without": "", **contents}.items():
            (tmp_path / name).write_text(content)

    return write


def test_packages_of_a_list_and_what_they_depend_on(archive: Archive, commands: Commands, lists: Callable[..., None]) -> None:  # fmt: skip
    lists(root="# why\ntini\n\ngit\n")
    commands.answer("install", stdout=f"Reading package lists...\n{uri(TINI)}{uri(GIT)}")
    assert archive.resolve("root") == [GIT, TINI]
    assert apt_calls(commands) == [apt("install", "--yes", "--print-uris", "tini", "git")]


def test_packages_of_several_lists_are_found_together(archive: Archive, commands: Commands, lists: Callable[..., None]) -> None:  # fmt: skip
    lists(root="tini\n", rootless="slirp4netns\n")
    archive.resolve("root", "rootless")
    assert apt_calls(commands) == [apt("install", "--yes", "--print-uris", "tini", "slirp4netns")]


def test_of_some_packages_one_file_is_taken(archive: Archive, commands: Commands, lists: Callable[..., None]) -> None:  # fmt: skip
    lists(root="tini\nutil-linux usr/bin/unshare\n")
    whole = package("util-linux")
    commands.answer("install", stdout=uri(TINI))
    commands.answer("download", stdout=uri(whole))
    assert archive.resolve("root") == [TINI, package("util-linux", only="usr/bin/unshare")]
    # What they depend on is not asked for.
    assert apt_calls(commands) == [
        apt("install", "--yes", "--print-uris", "tini"),
        apt("download", "--print-uris", "util-linux"),
    ]


def test_of_one_package_several_files_are_taken(archive: Archive, commands: Commands, lists: Callable[..., None]) -> None:  # fmt: skip
    lists(root="util-linux usr/bin/unshare\n", rootless="util-linux usr/bin/nsenter\n")
    commands.answer("download", stdout=uri(package("util-linux")))
    assert archive.resolve("root", "rootless") == [
        package("util-linux", only="usr/bin/nsenter"), package("util-linux", only="usr/bin/unshare")
    ]  # fmt: skip
    assert apt_calls(commands) == [apt("download", "--print-uris", "util-linux")]


def test_a_list_of_single_files_installs_nothing(archive: Archive, commands: Commands, lists: Callable[..., None]) -> None:  # fmt: skip
    lists(helpers="libcap2-bin usr/sbin/setcap\n")
    commands.answer("download", stdout=uri(package("libcap2-bin")))
    (found,) = archive.resolve("helpers")
    assert found.only == "usr/sbin/setcap"
    assert apt_calls(commands) == [apt("download", "--print-uris", "libcap2-bin")]


def test_what_the_image_does_without_counts_as_installed(archive: Archive, lists: Callable[..., None]) -> None:  # fmt: skip
    lists(root="tini\ndpkg\n", without="# why\nperl\ndpkg\nmount\n")
    archive.resolve("root")
    entries = (state() / "status").read_text().split("\n\n")
    assert entries.pop() == ""
    # Who asks for one by name gets it all the same.
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
    assert caught.value.brief == "apt-get install failed: Unable to locate package nosuch"


def test_our_own_lists() -> None:
    """Each package is taken once, whole or by its files, and none that is done without."""
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


# The files.


def debs() -> Path:
    return project.cache() / "packages"


def downloads(content: bytes = CONTENT) -> Callable[[list[str]], None]:
    """What apt does when it is asked for tini: a file of the right size it takes as fetched."""

    def download(_words: list[str]) -> None:
        path = debs() / TINI.file
        if not path.exists() or path.stat().st_size != TINI.size:
            path.write_bytes(content)

    return download


def test_what_is_missing_is_fetched(archive: Archive, commands: Commands, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
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


def test_nothing_is_fetched_for_nothing(archive: Archive, commands: Commands) -> None:
    archive.fetch([])
    assert commands.calls == []


def test_versions_are_exact_with_their_epoch(archive: Archive, commands: Commands) -> None:
    with pytest.raises(SourceError):
        archive.fetch([GIT])
    assert commands.args == [apt("download", "git=1:2.47.3-0+deb13u1")]


@pytest.mark.parametrize("content", [b"", b"a package of another's", CONTENT[:-1], b"A" + CONTENT[1:]])  # fmt: skip
def test_what_is_not_what_the_signed_index_says_is_refused(archive: Archive, commands: Commands, content: bytes) -> None:  # fmt: skip
    commands.answer("download", does=downloads(content))
    with pytest.raises(SourceError) as caught:
        archive.fetch([TINI])
    assert caught.value.brief == f"{TINI.file} is not what Debian's signed index says"
    assert "do not use that mirror" in caught.value.hint


@pytest.mark.parametrize("damaged", [b"", CONTENT[:-1], CONTENT + b"x", b"A" + CONTENT[1:]])
def test_a_damaged_file_in_the_cache_is_fetched_anew(archive: Archive, commands: Commands, damaged: bytes) -> None:  # fmt: skip
    archive.path(TINI).write_bytes(damaged)
    commands.answer("download", does=downloads())
    archive.fetch([TINI])
    assert archive.path(TINI).read_bytes() == CONTENT


def test_a_file_that_cannot_be_fetched(archive: Archive, commands: Commands) -> None:
    commands.answer("download", code=100, stderr="E: Failed to fetch x  404 Not Found\n")
    with pytest.raises(NetworkError) as caught:
        archive.fetch([TINI])
    assert caught.value.brief == "apt-get download failed: Failed to fetch x 404 Not Found"


def test_files_are_placed_with_their_list(archive: Archive, tmp_path: Path) -> None:
    only = package("util-linux", only="usr/bin/unshare")
    for one in (GIT, only):
        (debs() / one.file).write_bytes(one.name.encode())
    archive.place([GIT, only], tmp_path / "scratch" / "root")
    placed = {path.name: path.read_text() for path in (tmp_path / "scratch/root").iterdir()}
    assert placed == {
        GIT.file: "git", only.file: "util-linux",
        "list": f"{GIT.file}\n{only.file} usr/bin/unshare\n",
    }  # fmt: skip
