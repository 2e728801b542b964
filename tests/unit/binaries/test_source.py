from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from buildkit_riscv64.binaries import source, toolchain
from buildkit_riscv64.binaries.source import Kind, resolve
from buildkit_riscv64.core import process, project
from buildkit_riscv64.core.errors import (
    Failure,
    MissingRequirementError,
    NetworkError,
    SourceError,
    UsageError,
)
from buildkit_riscv64.core.pins import MODULE, Pins

from ..factories import GO, PINS, SUM, Commands, make_source


def git(directory: Path, *args: str) -> str:
    return subprocess.run(
        ["git", "-C", directory, "-c", "user.name=a", "-c", "user.email=a@b", *args],
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A miniature of upstream: a commit with the tag v0.32.2."""
    directory = tmp_path_factory.mktemp("template")
    git(directory, "init", "--quiet")
    for name, text in {
        "go.mod": f"module {MODULE}\n\ngo 1.26\n",
        "cmd/buildctl/main.go": "package main\n",
        "cmd/buildkitd/main.go": "package main\n",
        ".gitignore": "/bin\n*_local.go\n*.syso\n*.log\n",
    }.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)
    git(directory, "add", ".")
    git(directory, "commit", "--quiet", "--message", "one")
    git(directory, "tag", "v0.32.2")
    return directory


@pytest.fixture
def upstream(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "upstream"))


@pytest.fixture
def submodule(template: Path, checkout: Path) -> Path:
    shutil.copytree(template, project.SUBMODULE, dirs_exist_ok=True)
    return project.SUBMODULE


def head(directory: Path) -> str:
    return git(directory, "rev-parse", "HEAD")


def pinned_to(directory: Path) -> Pins:
    return replace(PINS, commit=head(directory))


def commit(directory: Path, message: str = "two") -> str:
    git(directory, "commit", "--quiet", "--allow-empty", "--message", message)
    return head(directory)


def test_clean_submodule_at_the_pin(submodule: Path) -> None:
    pinned = pinned_to(submodule)
    found = resolve("submodule", pinned)
    assert found.kind is Kind.SUBMODULE
    assert found.directory == submodule
    assert (found.version, found.revision) == ("v0.32.2", pinned.commit)
    assert (found.dirty, found.pinned, found.sum) == (False, True, "")
    assert int(found.time.timestamp()) == int(git(submodule, "show", "-s", "--format=%ct"))


def test_shallow_submodule_without_tags_is_the_pinned_version(submodule: Path) -> None:
    git(submodule, "tag", "--delete", "v0.32.2")
    assert resolve("submodule", pinned_to(submodule)).version == "v0.32.2"


def test_submodule_at_another_commit(submodule: Path) -> None:
    pinned = pinned_to(submodule)
    other = commit(submodule)
    with pytest.raises(SourceError) as caught:
        resolve("submodule", pinned, allow_dirty=True)
    assert caught.value.brief == (
        f"buildkit/ is at {other[:12]}, not at the pinned {pinned.commit[:12]} (v0.32.2)"
    )
    assert "git submodule update --init buildkit" in caught.value.hint


def write(name: str, text: str = "package main // changed\n") -> Callable[[Path], object]:
    def change(directory: Path) -> None:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)

    return change


def hidden(flag: str) -> Callable[[Path], object]:
    def change(directory: Path) -> None:
        write("cmd/buildctl/main.go")(directory)
        git(directory, "update-index", flag, "cmd/buildctl/main.go")

    return change


def same_size_and_time(directory: Path) -> None:
    path = directory / "cmd" / "buildctl" / "main.go"
    stat = path.stat()
    path.write_text("package niam\n")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def rename(directory: Path) -> None:
    git(directory, "mv", "cmd/buildctl/main.go", "cmd/buildctl/new.go")


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "changed": (write("cmd/buildctl/main.go"), "cmd/buildctl/main.go (changed)"),
    "same size and time": (same_size_and_time, "cmd/buildctl/main.go (changed)"),
    "removed": (lambda f: (f / "cmd/buildctl/main.go").unlink(), "cmd/buildctl/main.go (changed)"),
    "executable": (lambda f: (f / "go.mod").chmod(0o755), "go.mod (changed)"),
    "staged": (lambda f: (write("go.mod", f"module {MODULE}\n")(f), git(f, "add", ".")), "go.mod (changed)"),
    "renamed": (rename, "cmd/buildctl/main.go (changed), cmd/buildctl/new.go (changed)"),
    "untracked": (write("cmd/buildctl/evil.go"), "cmd/buildctl/evil.go (untracked)"),
    "untracked directory": (write("new/deep/evil.go"), "new/deep/evil.go (untracked)"),
    "strange name": (write("a \"b'\n.go"), "a \"b' .go (untracked)"),
    "ignored go": (write("cmd/buildctl/x_local.go"), "cmd/buildctl/x_local.go (ignored by git)"),
    "ignored object": (write("cmd/buildctl/x.syso"), "cmd/buildctl/x.syso (ignored by git)"),
    "ignored directory": (write("bin/x.go"), "bin/x.go (ignored by git)"),
    "assume-unchanged": (
        hidden("--assume-unchanged"),
        "cmd/buildctl/main.go (hidden from git (assume-unchanged or skip-worktree))",
    ),
    "skip-worktree": (
        hidden("--skip-worktree"),
        "cmd/buildctl/main.go (hidden from git (assume-unchanged or skip-worktree))",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_changed_tree_is_refused_or_marked(submodule: Path, name: str) -> None:
    change, reported = CHANGES[name]
    change(submodule)
    pinned = pinned_to(submodule)
    with pytest.raises(SourceError) as caught:
        resolve("submodule", pinned)
    assert reported in caught.value.brief
    assert "--allow-dirty" in caught.value.hint
    found = resolve("submodule", pinned, allow_dirty=True)
    assert (found.version, found.revision) == ("v0.32.2.m", f"{pinned.commit}.m")
    assert (found.dirty, found.pinned) == (True, False)


def test_each_change_changes_the_state(submodule: Path) -> None:
    pinned = pinned_to(submodule)
    states = {resolve("submodule", pinned).state}
    for text in ("a", "b", "c"):
        write("cmd/buildctl/main.go", text)(submodule)
        states.add(resolve("submodule", pinned, allow_dirty=True).state)
    assert len(states) == 4
    assert resolve("submodule", pinned, allow_dirty=True).state in states


def test_ignored_file_that_is_not_compiled_is_accepted(submodule: Path) -> None:
    write("bin/output")(submodule)
    write("a.log")(submodule)
    assert not resolve("submodule", pinned_to(submodule)).dirty


def test_clean_tree_is_pinned_with_allow_dirty(submodule: Path) -> None:
    assert resolve("submodule", pinned_to(submodule), allow_dirty=True).pinned


def test_many_differences_are_counted(submodule: Path) -> None:
    for number in range(5):
        write(f"new{number}.go")(submodule)
    with pytest.raises(SourceError, match=r"new0.go \(untracked\), .* and 2 more"):
        resolve("submodule", pinned_to(submodule))


def test_unfetched_submodule(checkout: Path) -> None:
    with pytest.raises(SourceError, match="the submodule buildkit/ has not been fetched") as caught:
        resolve("submodule", PINS)
    assert "--source module" in caught.value.hint


def test_empty_submodule_inside_our_repository_is_no_checkout(checkout: Path) -> None:
    """In an empty buildkit/, git would use our own repository."""
    git(checkout, "init", "--quiet")
    ours = commit(checkout, "ours")
    assert not source.submodule_is_fetched()
    with pytest.raises(SourceError, match="has not been fetched"):
        resolve("submodule", replace(PINS, commit=ours))
    assert resolve("auto", PINS).kind is Kind.MODULE
    (project.SUBMODULE / "go.mod").write_text(f"module {MODULE}\n")
    with pytest.raises(SourceError, match="is not a git checkout"):
        resolve(str(project.SUBMODULE), replace(PINS, commit=ours))


def test_auto_takes_the_submodule_first(submodule: Path) -> None:
    assert resolve("auto", pinned_to(submodule)).kind is Kind.SUBMODULE


def test_auto_refuses_a_wrong_submodule(submodule: Path) -> None:
    with pytest.raises(SourceError, match="not at the pinned"):
        resolve("auto", PINS)


def test_path_at_the_pin(upstream: Path) -> None:
    found = resolve(str(upstream), pinned_to(upstream))
    assert (found.kind, found.directory, found.pinned) == (Kind.PATH, upstream, True)


def test_relative_path(upstream: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(upstream.parent)
    found = resolve("upstream", pinned_to(upstream))
    assert found.directory == upstream
    assert found.location == "upstream"


def test_path_in_the_home(upstream: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(upstream.parent))
    assert resolve("~/upstream", pinned_to(upstream)).directory == upstream


def test_path_elsewhere_is_described_as_upstream_does(upstream: Path) -> None:
    other = commit(upstream)
    found = resolve(str(upstream), PINS)
    assert found.version == f"v0.32.2-1-g{other[: len(found.version) - len('v0.32.2-1-g')]}"
    assert (found.revision, found.pinned) == (other, False)


def test_path_without_tags(upstream: Path) -> None:
    git(upstream, "tag", "--delete", "v0.32.2")
    found = resolve(str(upstream), PINS)
    assert head(upstream).startswith(found.version)


def test_dockerfile_tags_are_not_versions(upstream: Path) -> None:
    git(upstream, "tag", "--delete", "v0.32.2")
    git(upstream, "tag", "dockerfile/1.2.3")
    assert "dockerfile" not in resolve(str(upstream), PINS).version


@pytest.mark.parametrize("tag", ["v1'x", "v1$(id)", "v1/x", "v1é"])
def test_invalid_tag(upstream: Path, tag: str) -> None:
    git(upstream, "tag", "--delete", "v0.32.2")
    git(upstream, "tag", tag)
    with pytest.raises(SourceError, match="cannot be stamped"):
        resolve(str(upstream), PINS)


def test_worktree_is_a_checkout(upstream: Path, tmp_path: Path) -> None:
    git(upstream, "worktree", "add", "--quiet", str(tmp_path / "tree"))
    assert (tmp_path / "tree" / ".git").is_file()
    assert resolve(str(tmp_path / "tree"), pinned_to(upstream)).pinned


def test_user_git_settings_are_ignored(upstream: Path) -> None:
    (Path(os.environ["HOME"]) / ".gitconfig").write_text(
        "[log]\nshowSignature = true\n[status]\nshowUntrackedFiles = no\nshort = true\n"
        "[color]\nui = always\n[core]\nquotePath = true\nfileMode = true\n"
    )
    # Git would show gpg's verdict on a signed commit.
    text = git(upstream, "cat-file", "commit", "HEAD").replace(
        "\n\n", "\ngpgsig -----BEGIN PGP SIGNATURE-----\n \n x\n -----END PGP SIGNATURE-----\n\n", 1
    )
    commit = subprocess.run(
        ["git", "-C", upstream, "hash-object", "-t", "commit", "-w", "--stdin"],
        input=text + "\n", text=True, check=True, capture_output=True,
    ).stdout.strip()  # fmt: skip
    git(upstream, "update-ref", "HEAD", commit)
    assert resolve(str(upstream), replace(PINS, commit=commit)).time.year > 2000
    write("é.go")(upstream)
    with pytest.raises(SourceError, match=r"é.go \(untracked\)"):
        resolve(str(upstream), replace(PINS, commit=commit))


def test_repository_settings_cannot_hide_changes(submodule: Path) -> None:
    pinned = pinned_to(submodule)
    git(submodule, "config", "core.trustctime", "false")
    git(submodule, "config", "core.checkStat", "minimal")
    git(submodule, "config", "core.fsmonitor", "true")
    with pytest.MonkeyPatch.context() as patch:
        recorded = Commands()
        patch.setattr(process, "probe", recorded.probe)
        source._git(submodule, "status")
    assert recorded.args == [
        ["git", "-C", str(submodule), "-c", "core.fsmonitor=false", "-c", "core.trustctime=true",
         "-c", "core.checkStat=default", "status"],
    ]  # fmt: skip
    same_size_and_time(submodule)
    with pytest.raises(SourceError, match=r"main.go"):
        resolve("submodule", pinned)


def test_git_dir_in_the_environment_is_ignored(
    upstream: Path, template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = commit(upstream)
    monkeypatch.setenv("GIT_DIR", str(template / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(template))
    assert resolve(str(upstream), PINS).revision == other


@pytest.mark.parametrize("text", ["/no/such/place", "submodul", "", "a\nb", "x" * 5000, "~nobody-has-this-name/x"])  # fmt: skip
def test_missing_path(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    expected: type[Failure] = SourceError if text == "" else UsageError
    with pytest.raises(expected):
        resolve(text, PINS)


@pytest.mark.parametrize(
    "content",
    [b"", b"module example.com/other\n", b"\xff\xfe\0", f"// x\nmodule {MODULE}\n".encode(), f"module {MODULE}/v2\n".encode()],
)  # fmt: skip
def test_path_without_buildkit(upstream: Path, content: bytes) -> None:
    (upstream / "go.mod").write_bytes(content)
    with pytest.raises(SourceError, match="is not BuildKit's source"):
        resolve(str(upstream), PINS, allow_dirty=True)


def test_path_without_go_mod(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is not BuildKit's source"):
        resolve(str(tmp_path), PINS)


def test_path_without_git(upstream: Path) -> None:
    shutil.rmtree(upstream / ".git")
    with pytest.raises(SourceError, match="is not a git checkout"):
        resolve(str(upstream), PINS)


def test_repository_without_commits(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    (tmp_path / "go.mod").write_text(f"module {MODULE}\n")
    with pytest.raises(SourceError, match="rev-parse"):
        resolve(str(tmp_path), PINS)


def test_module(checkout: Path) -> None:
    found = resolve("module", PINS)
    assert (found.kind, found.location) == (Kind.MODULE, f"{MODULE}@v0.32.2")
    assert (found.version, found.revision, found.time) == ("v0.32.2", PINS.commit, PINS.time)
    assert (found.sum, found.pinned, found.dirty) == (SUM, True, False)
    assert found.mod_flag == "-mod=readonly"
    assert found.packages == [f"{MODULE}/cmd/buildctl", f"{MODULE}/cmd/buildkitd"]
    assert resolve("auto", PINS) == found


@pytest.mark.parametrize("name", ["go.mod", "go.sum"])
def test_each_hash_is_in_the_module_state(checkout: Path, name: str) -> None:
    before = resolve("module", PINS).state
    with (project.UPSTREAM_MODULE / name).open("a") as file:
        file.write("\n// another\n")
    assert resolve("module", PINS).state != before


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("go.mod", "v0.32.2", "v0.32.1", "pins/upstream/go.mod does not require the pinned"),
        ("go.mod", "v0.32.2", "v0.32.20", "pins/upstream/go.mod does not require the pinned"),
        ("go.mod", MODULE, "github.com/evil/buildkit", "does not require the pinned"),
        ("go.sum", "v0.32.2 h1:", "v0.32.1 h1:", "pins/upstream/go.sum has no hash"),
        ("go.sum", "v0.32.2 h1:", "v0.32.2 ", "pins/upstream/go.sum has no hash"),
    ],
)
def test_wrong_module_version(checkout: Path, name: str, old: str, new: str, message: str) -> None:
    path = project.UPSTREAM_MODULE / name
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(SourceError, match=message) as caught:
        resolve("module", PINS)
    assert "git checkout" in caught.value.hint


@pytest.mark.parametrize("name", ["go.mod", "go.sum"])
def test_module_file_is_missing(checkout: Path, name: str) -> None:
    (project.UPSTREAM_MODULE / name).unlink()
    with pytest.raises(SourceError, match=f"cannot read .*{name}: No such file"):
        resolve("module", PINS)


def test_vendored_tree_is_compiled_as_upstream_does(tmp_path: Path) -> None:
    (tmp_path / "vendor").mkdir()
    (tmp_path / "vendor" / "modules.txt").touch()
    assert make_source(directory=tmp_path).mod_flag == "-mod=vendor"


@pytest.fixture
def no_go(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment that go commands get."""
    env = {"GOENV": "off"}
    for module in (source, toolchain):
        monkeypatch.setattr(module, "environment", lambda _go, extra=None: {**env, **(extra or {})})
    return env


def test_prepare(commands: Commands, no_go: dict[str, str]) -> None:
    source.prepare(make_source(), GO)
    assert commands.args == [["/go/bin/go", "mod", "download"]]
    options = commands.calls[0].options
    assert options == {"cwd": Path("/upstream"), "env": no_go, "timeout": None, "changes": True}


@pytest.mark.parametrize(
    ("reported", "expected"),
    [("dial tcp: lookup proxy: no such host", NetworkError), ("verifying x: checksum mismatch", SourceError)],
)  # fmt: skip
def test_prepare_fails(
    commands: Commands, no_go: dict[str, str], reported: str, expected: type[Failure]
) -> None:
    commands.answer("download", code=1, stderr=reported)
    with pytest.raises(expected, match=r"cannot fetch github.com/moby/buildkit@v0.32.2"):
        source.prepare(make_source(), GO)


def test_vendored_tree_needs_no_network(commands: Commands, tmp_path: Path) -> None:
    (tmp_path / "vendor").mkdir()
    (tmp_path / "vendor" / "modules.txt").touch()
    source.prepare(make_source(directory=tmp_path), GO)
    source.verify_modules(make_source(directory=tmp_path), GO)
    assert commands.calls == []


@pytest.fixture
def modules(commands: Commands, no_go: dict[str, str], tmp_path: Path) -> Path:
    """Two modules in the module cache."""
    for name in ("one", "two"):
        write(f"cache/{name}/a.go")(tmp_path)
    listing = "\n".join(json.dumps({"Dir": str(tmp_path / "cache" / n)}, indent=1) for n in ("one", "two"))  # fmt: skip
    commands.answer("download", "-json", stdout=listing)
    return tmp_path / "cache"


VERIFY = ["/go/bin/go", "mod", "verify"]


def test_modules_are_verified_once(commands: Commands, modules: Path) -> None:
    source.verify_modules(make_source(), GO)
    assert commands.args == [["/go/bin/go", "mod", "download", "-json"], VERIFY]
    commands.calls.clear()
    source.verify_modules(make_source(), GO)
    assert VERIFY not in commands.args


@pytest.mark.parametrize(
    "change",
    [
        write("one/a.go", "package other\n"), write("two/new/b.go"), same_size_and_time,
        lambda f: (f / "one" / "a.go").unlink(), lambda f: (f / "one" / "a.go").chmod(0o600),
    ],
    ids=["changed", "added", "same size and time", "removed", "mode"],
)  # fmt: skip
def test_modules_are_verified_again_after_a_change(
    commands: Commands, modules: Path, change: Callable[[Path], object]
) -> None:
    write("one/cmd/buildctl/main.go", "package main\n")(modules)
    source.verify_modules(make_source(), GO)
    commands.calls.clear()
    change(modules / "one" if change is same_size_and_time else modules)
    source.verify_modules(make_source(), GO)
    assert VERIFY in commands.args


def test_modules_are_verified_again_for_another_source(commands: Commands, modules: Path) -> None:
    source.verify_modules(make_source(), GO)
    source.verify_modules(make_source(state="other"), GO)
    assert commands.args.count(VERIFY) == 2


@pytest.mark.parametrize("stamp", [b"", b"{}", b"\xff", b"[]"])
def test_damaged_stamp_file_is_ignored(commands: Commands, modules: Path, stamp: bytes) -> None:
    project.cache().mkdir(parents=True)
    (project.cache() / "verified-modules.json").write_bytes(stamp)
    source.verify_modules(make_source(), GO)
    assert VERIFY in commands.args


def test_changed_module_is_refused_every_time(commands: Commands, modules: Path) -> None:
    commands.answer("verify", code=1, stderr="one v1: dir has been modified (/cache/one)\nmore")
    for _ in range(2):
        with pytest.raises(SourceError, match=r"one v1: dir has been modified") as caught:  # fmt: skip
            source.verify_modules(make_source(), GO)
        assert "go clean -modcache" in caught.value.hint
    assert commands.args.count(VERIFY) == 2


def test_json_stream() -> None:
    text = '{"a": "1"}\n{\n "b": "2"\n}\n\n'
    assert list(source.json_stream(text)) == [{"a": "1"}, {"b": "2"}]
    assert list(source.json_stream("")) == []


def test_git_is_missing(upstream: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_args: Any, **_options: Any) -> process.Result:
        raise MissingRequirementError("command not found: git", tool="git")

    monkeypatch.setattr(process, "probe", missing)
    with pytest.raises(MissingRequirementError) as caught:
        resolve(str(upstream), PINS)
    assert caught.value.tool == "git"
