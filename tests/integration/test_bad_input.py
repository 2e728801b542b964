"""Everything that can be wrong with what a user asks for, or with the machine.

Each gets one line of what is wrong, one of what to do, and a documented exit code.
"""

from __future__ import annotations

import shutil
import signal
import zipfile
from pathlib import Path

import pytest

from buildkit_riscv64.arch import Architecture

from .miniature import (
    HIDE_GO,
    MODULE,
    NEWER,
    PINNED,
    Project,
    Upstream,
    path_with,
    refused,
    remove,
    script,
    succeeded,
    with_mounts,
)

pytestmark = pytest.mark.integration

MODULE_CACHE = f"{MODULE}@{PINNED}"


# What the user types.


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["--source", "/nonexistent"], 2, "/nonexistent"),
        (["--source", "submodul"], 2, "submodul"),
        (["--source", "."], 4, "not BuildKit's source"),
        (["--source", "submodule"], 4, "has not been fetched"),
        (["--via", "bazel"], 2, "bazel"),
        (["--goriscv64", "rva99"], 2, "rva99"),
    ],
)
def test_options(project: Project, args: list[str], code: int, words: str) -> None:
    before = project.files()
    refused(project.invoke("build-binaries", *args), code, words)
    assert project.files() == before


def test_path_without_git(project: Project, upstream: Upstream, tmp_path: Path) -> None:
    checkout = upstream.clone(tmp_path / "elsewhere")
    shutil.rmtree(checkout / ".git")
    done = project.invoke("build-binaries", "--source", str(checkout))
    refused(done, 4, "not a git checkout")


@pytest.mark.parametrize("task", ["check-binaries", "verify-binaries"])
def test_nothing_built_yet(project: Project, task: str) -> None:
    refused(project.invoke(task), 7, "nothing in dist")
    refused(project.invoke(task, "--target", f"linux-{Architecture.here()}"), 7, "no artifacts")
    refused(project.invoke(task, "--target", "windows-386"), 2, "windows-386")


def test_configuration_of_another_type(project: Project) -> None:
    (project.root / "invoke.yaml").write_text("binaries:\n  source: [module]\n")
    refused(project.invoke("build-binaries"), 2, "source")


def test_configuration_is_read(project: Project) -> None:
    (project.root / "invoke.yaml").write_text("binaries:\n  source: /nonexistent\n")
    refused(project.invoke("build-binaries"), 2, "/nonexistent")
    # The environment beats the file, and a flag beats the environment.
    env = {"INVOKE_BINARIES_SOURCE": "/nowhere"}
    refused(project.invoke("build-binaries", env=env), 2, "/nowhere")
    succeeded(project.invoke("--dry", "build-binaries", "--source", "module", env=env))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GOARCH", "mips64"),
        ("GOOS", "freebsd"),
        ("GOARM", "7"),
        (Architecture.here().level_variable, "v9"),
    ],
)
def test_cross_compilation(project: Project, name: str, value: str) -> None:
    refused(project.invoke("build-binaries", env={name: value}), 5, f"{name}={value}")
    assert not project.dist.exists()


def test_this_architecture_by_name_is_no_cross_compilation(built: Project) -> None:
    built.build(env={"GOOS": "linux", "GOARCH": str(Architecture.here())})


# The pins and the source.


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[buildkit",
        '[buildkit]\nversion = "v0.1.0-rc1"\n',
        f'[buildkit]\nversion = "{PINNED}"\ncommit = "abc"\ntime = 2026-01-02T03:04:05Z\n'
        '[go]\nversion = "1.26.10"\n',
    ],
    ids=["empty", "no TOML", "no release", "short commit"],
)
def test_pins(project: Project, text: str) -> None:
    (project.root / "pins.toml").write_text(text)
    refused(project.invoke("build-binaries"), 4, "pins.toml")


def test_pins_and_module_disagree(project: Project) -> None:
    pins = project.root / "pins.toml"
    pins.write_text(pins.read_text().replace(PINNED, "v0.98.1"))
    refused(project.invoke("build-binaries"), 4, "upstream/go.mod", "v0.98.1")
    shutil.rmtree(project.root / "upstream")
    refused(project.invoke("build-binaries"), 4, "go.mod")


@pytest.mark.parametrize("what", ["changed", "added", "removed", "dependency"])
def test_tampered_module_cache(built: Project, tmp_path: Path, what: str) -> None:
    """The go command does not look at what it once extracted; we do."""
    cache = tmp_path / "modcache"
    shutil.copytree(built.env["GOMODCACHE"], cache)
    built.env["GOMODCACHE"] = str(cache)
    built.build("--force")
    before = built.files()
    folder = cache / MODULE_CACHE
    version = folder / "version"
    version.chmod(0o755)
    match what:
        case "changed":
            file = version / "version.go"
            file.chmod(0o644)
            file.write_text(file.read_text() + "\nconst Evil = true\n")
        case "added":
            (version / "evil.go").write_text("package version\n")
        case "removed":
            folder.chmod(0o755)
            (folder / "Makefile").unlink()
        case "dependency":
            (file,) = cache.glob("example.org/greeting@*/greeting.go")
            file.chmod(0o644)
            file.write_text(file.read_text().replace("USAGE:", "USAGE: evil"))
    refused(built.invoke("build-binaries", "--force"), 4, "module cache has been changed")
    assert built.files() == before
    refused(built.invoke("verify-binaries", "--rebuild"), 4, "module cache has been changed")
    remove(cache)


def test_tampered_module_that_does_not_compile(built: Project, tmp_path: Path) -> None:
    """The change is a better reason than what the compiler makes of it."""
    cache = tmp_path / "modcache"
    shutil.copytree(built.env["GOMODCACHE"], cache)
    file = cache / MODULE_CACHE / "version" / "version.go"
    file.chmod(0o644)
    file.write_text("package oops oops\n")
    done = built.invoke("build-binaries", "--force", env={"GOMODCACHE": str(cache)})
    refused(done, 4, "module cache has been changed")
    remove(cache)


@pytest.mark.parametrize("line", ["h1 of the module", "h1 of its go.mod", "h1 of a dependency"])
def test_tampered_sums(built: Project, line: str) -> None:
    sums = built.root / "upstream" / "go.sum"
    start = {
        "h1 of the module": f"{MODULE} {PINNED} h1:",
        "h1 of its go.mod": f"{MODULE} {PINNED}/go.mod h1:",
        "h1 of a dependency": "example.org/greeting v1.0.0 h1:",
    }[line]
    lines = sums.read_text().splitlines()
    assert any(one.startswith(start) for one in lines)
    wrong = "A" * 43 + "="
    sums.write_text("".join(f"{start}{wrong}\n" if one.startswith(start) else f"{one}\n" for one in lines))  # fmt: skip
    before = built.files()
    refused(built.invoke("build-binaries"), 4, "checksum mismatch")
    assert built.files() == before


def test_missing_sums(built: Project) -> None:
    (built.root / "upstream" / "go.sum").write_text("")
    refused(built.invoke("build-binaries"), 4, "no hash")


def test_tampered_download(built: Project, upstream: Upstream, tmp_path: Path) -> None:
    proxy = tmp_path / "proxy"
    shutil.copytree(upstream.proxy, proxy)
    versions = proxy / MODULE / "@v"
    # The names in a module's archive have its version in them.
    with (
        zipfile.ZipFile(versions / f"{NEWER}.zip") as other,
        zipfile.ZipFile(versions / f"{PINNED}.zip", "w") as forged,
    ):
        for name in other.namelist():
            forged.writestr(name.replace(NEWER, PINNED), other.read(name))
    cache = tmp_path / "modcache"
    cache.mkdir()
    before = built.files()
    env = {"GOPROXY": proxy.as_uri(), "GOMODCACHE": str(cache)}
    refused(built.invoke("build-binaries", "--force", env=env), 4, "checksum mismatch")
    assert built.files() == before
    remove(cache)


# The machine.


@pytest.mark.parametrize("proxy", ["off", "http://127.0.0.1:1", "file:///nonexistent"])
def test_no_network(built: Project, tmp_path: Path, proxy: str) -> None:
    before = built.files()
    cache = tmp_path / "modcache"
    env = {"GOPROXY": proxy, "GOMODCACHE": str(cache)}
    refused(built.invoke("build-binaries", "--force", env=env), 10, "cannot fetch")
    assert built.files() == before
    # Nothing to do needs no network.
    built.build(env=env)


def test_no_go(project: Project, tmp_path: Path) -> None:
    env = {"PATH": path_with(tmp_path / "bin", "git", "sh", "mount", "unshare")}
    done = project.invoke("build-binaries", env=env, prefix=with_mounts(HIDE_GO))
    refused(done, 3, "no Go")
    assert not list(project.dist.glob("linux-*"))


def test_no_go_and_no_network(project: Project, tmp_path: Path) -> None:
    """Only an older Go is there, so the pinned one has to be fetched."""
    go = "\n".join(
        [
            f'case "$1" in version) echo "go version go1.24.0 linux/{Architecture.here()}" ;;',
            "env) echo '{}' ;;",
            '*) echo \'{"Error": "dial tcp: lookup proxy.invalid: no such host"}\'; exit 1 ;; esac',
        ]
    )
    script(tmp_path / "bin" / "go", go)
    path = f"{tmp_path / 'bin'}:{path_with(tmp_path / 'more', 'git', 'sh', 'mount', 'unshare')}"
    done = project.invoke("build-binaries", env={"PATH": path}, prefix=with_mounts(HIDE_GO))
    refused(done, 10, "cannot fetch go", "no such host")


def test_fetched_go_with_another_hash(project: Project, tmp_path: Path) -> None:
    go = "\n".join(
        [
            f'case "$1" in version) echo "go version go1.24.0 linux/{Architecture.here()}" ;;',
            "env) echo '{}' ;;",
            f'*) echo \'{{"Sum": "h1:other=", "Dir": "{tmp_path}"}}\' ;; esac',
        ]
    )
    pins = project.root / "pins.toml"
    pins.write_text(f'{pins.read_text()}\nlinux-riscv64 = "h1:pinned="\n')
    script(tmp_path / "bin" / "go", go)
    path = f"{tmp_path / 'bin'}:{path_with(tmp_path / 'more', 'git', 'sh', 'mount', 'unshare')}"
    done = project.invoke("build-binaries", env={"PATH": path}, prefix=with_mounts(HIDE_GO))
    refused(done, 4, "h1:other=")


def test_go_too_old(project: Project, tmp_path: Path) -> None:
    go = f'echo "go version go1.18.1 linux/{Architecture.here()}"'
    script(tmp_path / "bin" / "go", go)
    path = f"{tmp_path / 'bin'}:{path_with(tmp_path / 'more', 'git', 'sh', 'mount', 'unshare')}"
    done = project.invoke("build-binaries", env={"PATH": path}, prefix=with_mounts(HIDE_GO))
    refused(done, 3, "go1.18.1", "too old")


def test_no_git(project: Project, tmp_path: Path) -> None:
    project.fetch_submodule()
    env = {"PATH": path_with(tmp_path / "bin", "sh")}
    refused(project.invoke("build-binaries", env=env), 3, "git")
    refused(project.invoke("source.update", NEWER, env=env), 3, "git")
    # Nobody installs anything when only asked what would be done.
    done = project.invoke("--dry", "build-binaries", "--yes", env=env)
    refused(done, 3, "git")


def test_module_needs_no_git(project: Project, tmp_path: Path, pinned_go: Path) -> None:
    project.build(env={"PATH": f"{pinned_go.parent}:{path_with(tmp_path / 'bin', 'sh')}"})


def test_read_only_dist(built: Project) -> None:
    before = built.files()
    read_only = with_mounts("mount --bind dist dist\nmount -o remount,bind,ro dist")
    refused(built.invoke("build-binaries", "--force", prefix=read_only), 9, "dist")
    assert built.files() == before
    # Looking needs no writing, and neither does nothing to do.
    succeeded(built.invoke("build-binaries", prefix=read_only))
    succeeded(built.invoke("check-binaries", prefix=read_only))


def test_read_only_checkout(project: Project) -> None:
    root = project.root
    read_only = with_mounts(
        f'mount --bind "{root}" "{root}"\nmount -o remount,bind,ro "{root}"\ncd "{root}"'
    )
    done = project.invoke("build-binaries", prefix=read_only)
    refused(done, 9, "dist")


def test_file_in_the_place_of_dist(project: Project) -> None:
    project.dist.write_text("")
    refused(project.invoke("build-binaries"), 9, "dist")


def test_too_little_space(project: Project) -> None:
    project.dist.mkdir()
    small = with_mounts("mount -t tmpfs -o size=16m tmpfs dist")
    refused(project.invoke("build-binaries", prefix=small), 9, "MiB free")


@pytest.mark.parametrize("inodes", range(2, 13, 2))
def test_no_space_while_writing(project: Project, inodes: int) -> None:
    """There is space at the start, but the file system can hold only so many more files."""
    project.dist.mkdir()
    full = with_mounts(
        f"mount -t tmpfs -o size=700m,nr_inodes={inodes} tmpfs dist\n"
        # Whatever is there when the run has ended is told on stdout.
        '"$@" || code=$?\nfind dist -path "dist/linux-*"\nexit ${code:-0}'
    )
    done = project.invoke("build-binaries", "--force", prefix=full)
    refused(done, 9, "space")
    assert done.stdout == ""


def test_no_space_for_the_compiler(project: Project) -> None:
    """dist/ can hold the folders that are made first, and none of the compiler's."""
    project.dist.mkdir()
    full = with_mounts("mount -t tmpfs -o size=700m,nr_inodes=7 tmpfs dist")
    refused(project.invoke("build-binaries", prefix=full), 9, "no space left while compiling")


def test_no_space_for_the_cache(built: Project, tmp_path: Path) -> None:
    """Go does without what it cannot keep."""
    cache = tmp_path / "gocache"
    cache.mkdir()
    small = with_mounts(f'mount -t tmpfs -o size=2m tmpfs "{cache}"')
    env = {"GOCACHE": str(cache)}
    succeeded(built.invoke("build-binaries", "--force", env=env, prefix=small))
    succeeded(built.invoke("check-binaries"))


def test_compiler_killed_for_memory(built: Project, tmp_path: Path, pinned_go: Path) -> None:
    before = built.files()
    go = f"""case "$1" in
build) echo "example.org/greeting: /go/pkg/tool/compile: signal: killed" >&2; exit 1 ;;
*) exec "{pinned_go}" "$@" ;;
esac"""
    script(tmp_path / "bin" / "go", go)
    env = {"PATH": f"{tmp_path / 'bin'}:{built.env['PATH']}"}
    refused(built.invoke("build-binaries", "--force", env=env), 3, "memory")
    assert built.files() == before


def test_another_run_at_work(built: Project) -> None:
    with built.started("build-binaries", "--force") as first:
        first.wait_for("BuildKit")
        lock = next(built.dist.glob(".*.lock"))
        while first.process.poll() is None and str(first.process.pid) not in lock.read_text():
            pass
        # It holds still while the other one comes.
        first.process.send_signal(signal.SIGSTOP)
        second = built.invoke("build-binaries", "--force")
        first.process.send_signal(signal.SIGCONT)
        refused(second, 11, str(first.process.pid))
        succeeded(first.wait())
    succeeded(built.invoke("check-binaries"))
