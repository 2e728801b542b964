"""Wrong input, damaged sources and unsuitable machines: a documented exit code, an error, a fix."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import zipfile
from pathlib import Path

import pytest

from buildkit_riscv64.core.arch import Architecture
from buildkit_riscv64.validation.environment.scripts import script

from .miniature import (
    HIDE_GO,
    MODULE,
    NEWER,
    PINNED,
    STRANGER,
    Project,
    Upstream,
    as_root,
    path_with,
    refused,
    remove,
    succeeded,
    with_mounts,
)

pytestmark = pytest.mark.integration

MODULE_CACHE = f"{MODULE}@{PINNED}"


# Options and configuration.


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["--source", "/nonexistent"], 2, "/nonexistent"),
        (["--source", "submodul"], 2, "submodul"),
        (["--source", "."], 4, "BuildKit"),
        (["--source", "submodule"], 4, "has not been fetched"),
        (["--method", "bazel"], 2, "bazel"),
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
    refused(done, 4, str(checkout), "git")


@pytest.mark.parametrize("task", ["check-binaries", "verify-binaries"])
def test_nothing_built_yet(project: Project, task: str) -> None:
    refused(project.invoke(task), 7, "dist")
    name = f"linux-{Architecture.here()}"
    refused(project.invoke(task, "--target", name), 7, name)
    refused(project.invoke(task, "--target", "windows-386"), 2, "windows-386")


def test_configuration_of_another_type(project: Project) -> None:
    (project.root / "invoke.yaml").write_text("binaries:\n  source: [module]\n")
    refused(project.invoke("build-binaries"), 2, "source")


def test_configuration_is_read(project: Project) -> None:
    (project.root / "invoke.yaml").write_text("binaries:\n  source: /nonexistent\n")
    refused(project.invoke("build-binaries"), 2, "/nonexistent")
    # The environment overrides the file, and a flag overrides the environment.
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


def test_native_values_are_allowed(built: Project) -> None:
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
    (project.root / "pins/pins.toml").write_text(text)
    refused(project.invoke("build-binaries"), 4, "pins/pins.toml")


def test_pins_and_module_disagree(project: Project) -> None:
    pins = project.root / "pins/pins.toml"
    pins.write_text(pins.read_text().replace(PINNED, "v0.98.1"))
    refused(project.invoke("build-binaries"), 4, "pins/upstream/go.mod", "v0.98.1")
    shutil.rmtree(project.root / "pins" / "upstream")
    refused(project.invoke("build-binaries"), 4, "go.mod")


@pytest.mark.parametrize("change", ["changed", "added", "removed", "dependency"])
def test_tampered_module_cache(built: Project, tmp_path: Path, change: str) -> None:
    """The go command does not verify extracted modules; we do."""
    cache = tmp_path / "modcache"
    shutil.copytree(built.env["GOMODCACHE"], cache)
    built.env["GOMODCACHE"] = str(cache)
    built.build("--force")
    before = built.files()
    module = cache / MODULE_CACHE
    version = module / "version"
    version.chmod(0o755)
    match change:
        case "changed":
            file = version / "version.go"
            file.chmod(0o644)
            file.write_text(file.read_text() + "\nconst Evil = true\n")
        case "added":
            (version / "evil.go").write_text("package version\n")
        case "removed":
            module.chmod(0o755)
            (module / "Makefile").unlink()
        case "dependency":
            (file,) = cache.glob("example.org/greeting@*/greeting.go")
            file.chmod(0o644)
            file.write_text(file.read_text().replace("USAGE:", "USAGE: evil"))
    refused(built.invoke("build-binaries", "--force"), 4, "module cache")
    assert built.files() == before
    refused(built.invoke("verify-binaries", "--rebuild"), 4, "module cache")
    remove(cache)


def test_tampered_module_that_does_not_compile(built: Project, tmp_path: Path) -> None:
    """The error names the change, not the compiler's error."""
    cache = tmp_path / "modcache"
    shutil.copytree(built.env["GOMODCACHE"], cache)
    file = cache / MODULE_CACHE / "version" / "version.go"
    file.chmod(0o644)
    file.write_text("package oops oops\n")
    done = built.invoke("build-binaries", "--force", env={"GOMODCACHE": str(cache)})
    refused(done, 4, "module cache")
    remove(cache)


@pytest.mark.parametrize("line", ["h1 of the module", "h1 of its go.mod", "h1 of a dependency"])
def test_tampered_sums(built: Project, line: str) -> None:
    sums = built.root / "pins" / "upstream" / "go.sum"
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
    (built.root / "pins" / "upstream" / "go.sum").write_text("")
    refused(built.invoke("build-binaries"), 4, "go.sum", PINNED)


def test_tampered_download(built: Project, upstream: Upstream, tmp_path: Path) -> None:
    proxy = tmp_path / "proxy"
    shutil.copytree(upstream.proxy, proxy)
    versions = proxy / MODULE / "@v"
    # The names in a module's archive contain its version.
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
    refused(built.invoke("build-binaries", "--force", env=env), 10, MODULE)
    assert built.files() == before
    # An up-to-date build needs no network.
    built.build(env=env)


@pytest.mark.needs("mounts")
def test_no_go(project: Project, tmp_path: Path) -> None:
    env = {"PATH": path_with(tmp_path / "bin", "git", "sh", "mount", "unshare")}
    done = project.invoke("build-binaries", env=env, prefix=with_mounts(HIDE_GO))
    refused(done, 3, "Go")
    assert not list(project.dist.glob("linux-*"))


@pytest.mark.needs("mounts")
def test_no_go_and_no_network(project: Project, tmp_path: Path) -> None:
    """The installed Go is older, so the pinned Go must be downloaded."""
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
    refused(done, 10, "go1.", "no such host")


@pytest.mark.needs("mounts")
def test_fetched_go_with_another_hash(project: Project, tmp_path: Path) -> None:
    go = "\n".join(
        [
            f'case "$1" in version) echo "go version go1.24.0 linux/{Architecture.here()}" ;;',
            "env) echo '{}' ;;",
            f'*) echo \'{{"Sum": "h1:other=", "Dir": "{tmp_path}"}}\' ;; esac',
        ]
    )
    pins = project.root / "pins/pins.toml"
    pins.write_text(f'{pins.read_text()}\nlinux-riscv64 = "h1:pinned="\n')
    script(tmp_path / "bin" / "go", go)
    path = f"{tmp_path / 'bin'}:{path_with(tmp_path / 'more', 'git', 'sh', 'mount', 'unshare')}"
    done = project.invoke("build-binaries", env={"PATH": path}, prefix=with_mounts(HIDE_GO))
    refused(done, 4, "h1:other=")


@pytest.mark.needs("mounts")
def test_go_too_old(project: Project, tmp_path: Path) -> None:
    go = f'echo "go version go1.18.1 linux/{Architecture.here()}"'
    script(tmp_path / "bin" / "go", go)
    path = f"{tmp_path / 'bin'}:{path_with(tmp_path / 'more', 'git', 'sh', 'mount', 'unshare')}"
    done = project.invoke("build-binaries", env={"PATH": path}, prefix=with_mounts(HIDE_GO))
    refused(done, 3, "go1.18.1")


def test_no_git(project: Project, tmp_path: Path) -> None:
    project.fetch_submodule()
    env = {"PATH": path_with(tmp_path / "bin", "sh")}
    refused(project.invoke("build-binaries", env=env), 3, "git")
    refused(project.invoke("pins.update", NEWER, env=env), 3, "git")
    # A dry run installs nothing.
    done = project.invoke("--dry", "build-binaries", "--yes", env=env)
    refused(done, 3, "git")


def test_module_needs_no_git(project: Project, tmp_path: Path, pinned_go: Path) -> None:
    project.build(env={"PATH": f"{pinned_go.parent}:{path_with(tmp_path / 'bin', 'sh')}"})


@pytest.mark.needs("mounts")
def test_read_only_dist(built: Project) -> None:
    before = built.files()
    read_only = with_mounts("mount --bind dist dist\nmount -o remount,bind,ro dist")
    refused(built.invoke("build-binaries", "--force", prefix=read_only), 9, "dist")
    assert built.files() == before
    # An up-to-date build and a check write nothing.
    succeeded(built.invoke("build-binaries", prefix=read_only))
    succeeded(built.invoke("check-binaries", prefix=read_only))


@pytest.mark.needs("mounts")
def test_read_only_checkout(project: Project) -> None:
    root = project.root
    read_only = with_mounts(
        f'mount --bind "{root}" "{root}"\nmount -o remount,bind,ro "{root}"\ncd "{root}"'
    )
    done = project.invoke("build-binaries", prefix=read_only)
    refused(done, 9, "dist")


@pytest.mark.needs("mounts")
def test_dist_mounted_noexec(project: Project, built: Project) -> None:
    noexec = with_mounts("mkdir -p dist\nmount --bind dist dist\nmount -o remount,bind,noexec dist")
    done = project.invoke("build-binaries", prefix=noexec)
    refused(done, 9, "dist", "noexec")
    assert "compiling" not in done.stderr
    refused(built.invoke("check-binaries", prefix=noexec), 9, "dist", "noexec")
    findings = built.invoke("doctor", "--phase", "binaries", "--json", prefix=noexec).json
    assert any("noexec" in one["detail"] and one["status"] == "FAIL" for one in findings)


@pytest.mark.needs("mounts")
def test_caches_mounted_noexec(built: Project, tmp_path: Path) -> None:
    noexec = with_mounts(f"mount -t tmpfs -o noexec tmpfs {tmp_path}")
    env = {"XDG_CACHE_HOME": str(tmp_path)}
    done = built.invoke("build-packages", "--yes", env=env, prefix=noexec)
    refused(done, 9, str(tmp_path), "noexec")


@pytest.mark.parametrize("name", ["GOPATH", "GOCACHE", "GOMODCACHE"])
def test_a_relative_directory_of_go(project: Project, name: str) -> None:
    done = project.invoke("build-binaries", env={name: "relative"})
    refused(done, 2, f"{name}=relative")


@pytest.mark.needs("owners")
def test_a_checkout_of_another_user(project: Project) -> None:
    """Root, under sudo or in a container, can use the checkout, as git allows."""
    project.fetch_submodule()
    change = f'chown -R {STRANGER} "{project.root}"'
    for env in ({}, {"SUDO_UID": str(STRANGER)}):
        prefix = [*as_root(), "sh", "-euc", f'{change}\nexec "$@"', "sh"]
        try:
            reported = succeeded(project.invoke("pins.show", "--json", env=env, prefix=prefix)).json
        finally:
            subprocess.run([*as_root(), "chown", "-hR", "0:0", project.root], check=True)
        assert "submodule" in json.dumps(reported)


def test_file_in_the_place_of_dist(project: Project) -> None:
    project.dist.write_text("")
    refused(project.invoke("build-binaries"), 9, "dist")


@pytest.mark.needs("mounts")
def test_too_little_space(project: Project) -> None:
    project.dist.mkdir()
    small = with_mounts("mount -t tmpfs -o size=16m tmpfs dist")
    refused(project.invoke("build-binaries", prefix=small), 9, "MiB free")


@pytest.mark.needs("mounts")
@pytest.mark.parametrize("inodes", range(2, 13, 2))
def test_no_space_while_writing(project: Project, inodes: int) -> None:
    """The filesystem has space, but only a few free inodes."""
    project.dist.mkdir()
    full = with_mounts(
        f"mount -t tmpfs -o size=700m,nr_inodes={inodes} tmpfs dist\n"
        # Print leftovers of the run on stdout.
        '"$@" || code=$?\nfind dist -path "dist/linux-*"\nexit ${code:-0}'
    )
    done = project.invoke("build-binaries", "--force", prefix=full)
    refused(done, 9, "space")
    assert done.stdout == ""


@pytest.mark.needs("mounts")
def test_no_space_for_the_compiler(project: Project) -> None:
    """dist/ has inodes for the first directories, and none for the compiler."""
    project.dist.mkdir()
    full = with_mounts("mount -t tmpfs -o size=700m,nr_inodes=7 tmpfs dist")
    refused(project.invoke("build-binaries", prefix=full), 9, "space", "compiling")


@pytest.mark.needs("mounts")
def test_no_space_for_the_cache(built: Project, tmp_path: Path) -> None:
    """Go can build without a cache."""
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


def test_concurrent_run(built: Project) -> None:
    with built.started("build-binaries", "--force") as first:
        first.wait_for("BuildKit")
        lock = next(built.dist.glob(".*.lock"))
        while first.process.poll() is None and str(first.process.pid) not in lock.read_text():
            pass
        # Stop the first run while the second starts.
        first.process.send_signal(signal.SIGSTOP)
        second = built.invoke("build-binaries", "--force")
        first.process.send_signal(signal.SIGCONT)
        refused(second, 11, str(first.process.pid))
        succeeded(first.wait())
    succeeded(built.invoke("check-binaries"))
