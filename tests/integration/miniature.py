"""A miniature upstream, and a checkout of this project that uses it.

The miniature upstream has BuildKit's import path and commands, prints the same output and compiles
in a second. A directory serves it as a git repository and as Go modules; the tests never write to
the user's caches.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.checkout import copy_checkout
from buildkit_riscv64.binaries import bundle
from buildkit_riscv64.core import pins, process
from buildkit_riscv64.testing.pytest_plugin import require
from buildkit_riscv64.validation.environment.waiting import BOUND, eventually

CHECKOUT = Path(__file__).resolve().parents[2]
MODULE = "github.com/moby/buildkit"
PINNED = "v0.98.0"
NEWER = "v0.99.0"
#: The image that the miniature's Dockerfile compiles in.
IMAGE = "miniature.invalid/go"
#: Tags that `pins.update` refuses, each for a different reason.
CANDIDATE = "v0.99.1-rc1"
FRONTEND = "dockerfile/1.2.3"
NOT_IN_PROXY = "v0.100.0"
MOVED = "v0.101.0"
NEEDS_NEWER_GO = "v0.102.0"

#: The modules and versions of the bundle that each release pins.
PLUGINS = "github.com/containernetworking/plugins"
BUNDLE = {
    "RUNC_VERSION": ("github.com/opencontainers/runc", "v1.0.0"),
    "CNI_VERSION": (PLUGINS, "v1.1.0"),
    "ROOTLESSKIT_VERSION": ("github.com/rootless-containers/rootlesskit/v3", "v3.0.0"),
}
#: The runc that the newer release pins.
NEWER_RUNC = "v1.0.1"

DEPENDENCY = "example.org/greeting"
DEPENDENCY_VERSION = "v1.0.0"
_DEPENDENCY_FILES = {
    "go.mod": f"module {DEPENDENCY}\n\ngo 1.21\n",
    "greeting.go": 'package greeting\n\nfunc Usage() string { return "USAGE:" }\n',
}

_MAIN = """package main

import (
	"os"

	"example.org/greeting"
	"github.com/moby/buildkit/version"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "--version" {
		os.Stdout.WriteString("NAME " + version.Package + " " + version.Version + " " + version.Revision + "\\n")
		return
	}
	os.Stdout.WriteString("NAME: a miniature\\n" + greeting.Usage() + "\\n")
}
"""
_VERSION = """package version

var (
	Package  = "github.com/moby/buildkit"
	Version  = "0.0.0+unknown"
	Revision = ""
)

// Release makes each release another program.
const Release = "TAG"
"""
# It links libseccomp and prints its version, as runc does.
_RUNC = """package main

// #cgo pkg-config: libseccomp
// #include <seccomp.h>
import "C"

import (
	"os"
	"strconv"
)

func main() {
	v := C.seccomp_version()
	number := func(n C.uint) string { return strconv.Itoa(int(n)) }
	os.Stdout.WriteString("runc version VERSION\\nspec: 0\\n")
	os.Stdout.WriteString("libseccomp: " + number(v.major) + "." + number(v.minor) + "." + number(v.micro) + "\\n")
}
"""
_PLUGIN = """package main

import (
	"os"

	"github.com/containernetworking/plugins/pkg/utils/buildversion"
)

func main() {
	if os.Getenv("CNI_COMMAND") == "VERSION" {
		os.Stdout.WriteString(`{"cniVersion":"1.0.0","supportedVersions":["0.4.0","1.0.0"]}`)
		return
	}
	os.Stderr.WriteString("CNI NAME plugin " + buildversion.BuildVersion + "\\n")
}
"""
_ROOTLESSKIT = """package main

import "os"

func main() { os.Stdout.WriteString("rootlesskit version VERSION\\n") }
"""
# As in upstream's Makefile, docker buildx builds the target `binaries`.
_MAKEFILE = """binaries:
	docker buildx build --network none --target binaries --output type=local,dest=bin/build \\
		--build-arg VERSION=$$(git describe --tags --match 'v[0-9]*') \\
		--build-arg REVISION=$$(git rev-parse HEAD) .
"""
# The image has only Go, and no shell.
_DOCKERFILE = f"""FROM {IMAGE} AS build
ARG VERSION
ARG REVISION
ENV CGO_ENABLED=0 GOCACHE=/cache GOTMPDIR=/tmp HOME=/ GOTOOLCHAIN=local
ENV GOFLAGS="-mod=vendor '-ldflags=-X {MODULE}/version.Version=$VERSION -X {MODULE}/version.Revision=$REVISION'"
WORKDIR /tmp
WORKDIR /src
COPY . .
RUN ["/go/bin/go", "build", "-o", "/out/", "./cmd/buildctl", "./cmd/buildkitd"]

FROM scratch AS binaries
COPY --from=build /out /
"""


def isolated(directory: Path) -> dict[str, str]:
    """An environment with an author for git, and without the user's settings."""
    home = directory / "home"
    home.mkdir(parents=True, exist_ok=True)
    inherited = {name: os.environ[name] for name in ("PATH", "LANG", "TZ") if name in os.environ}
    when = "2026-01-02T03:04:05Z"
    return {
        **inherited,
        "HOME": str(home),
        "LC_ALL": "C.UTF-8",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": "A", "GIT_AUTHOR_EMAIL": "a@example.org", "GIT_AUTHOR_DATE": when,
        "GIT_COMMITTER_NAME": "A", "GIT_COMMITTER_EMAIL": "a@example.org",
        "GIT_COMMITTER_DATE": when,
    }  # fmt: skip


def command(args: Sequence[str | Path], cwd: Path, env: Mapping[str, str]) -> str:
    """The output of a command that must succeed."""
    done = subprocess.run(args, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{args}: {done.stdout}{done.stderr}"
    return done.stdout


def write_tree(directory: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def dirhash(files: Mapping[str, str]) -> str:
    """Go's hash "h1:" (golang.org/x/mod/sumdb/dirhash)."""
    lines = [f"{hashlib.sha256(files[n].encode()).hexdigest()}  {n}\n" for n in sorted(files)]
    return "h1:" + base64.b64encode(hashlib.sha256("".join(lines).encode()).digest()).decode()


def _sums(module: str, version: str, files: Mapping[str, str]) -> str:
    whole = dirhash({f"{module}@{version}/{name}": text for name, text in files.items()})
    return f"{module} {version} {whole}\n{module} {version}/go.mod {dirhash({'go.mod': files['go.mod']})}\n"


_DEPENDENCY_SUMS = _sums(DEPENDENCY, DEPENDENCY_VERSION, _DEPENDENCY_FILES)


def _component(argument: str, version: str) -> dict[str, str]:
    """The files of a component of the bundle."""
    module, _ = BUNDLE[argument]
    number = version.removeprefix("v")
    mains = {
        "RUNC_VERSION": {"main.go": _RUNC.replace("VERSION", number)},
        "ROOTLESSKIT_VERSION": {"cmd/rootlesskit/main.go": _ROOTLESSKIT.replace("VERSION", number)},
        "CNI_VERSION": {
            "pkg/utils/buildversion/buildversion.go": 'package buildversion\n\nvar BuildVersion = "unknown"\n',
            **{
                f"plugins/{name}/main.go": _PLUGIN.replace("NAME", name.rpartition("/")[2])
                for name in ("main/bridge", "main/loopback", "ipam/host-local", "meta/firewall")
            },
        },
    }
    return {"go.mod": f"module {module}\n\ngo 1.21\n", **mains[argument]}


def _pinned_by(tag: str) -> dict[str, str]:
    """The version of each argument in a release's Dockerfile."""
    pinned = {argument: version for argument, (_, version) in BUNDLE.items()}
    return {**pinned, "RUNC_VERSION": NEWER_RUNC} if tag == NEWER else pinned


def _bundle_modules() -> dict[str, str]:
    """The pins of the bundle, as `pins.update` writes them."""
    files = {}
    for component in bundle.COMPONENTS:
        module, version = BUNDLE[component.argument]
        packages = sorted(component.commands(version).values())
        tools = f"tool {packages[0]}" if len(packages) == 1 else "\n\t".join(["tool (", *packages]) + "\n)"  # fmt: skip
        directory = f"pins/upstream/{component.name}"
        head = (CHECKOUT / directory / "go.mod").read_text().partition("\ngo ")[0]
        files[f"{directory}/go.mod"] = (
            f"{head}\ngo 1.21\n\n{tools}\n\nrequire {module} {version} // indirect\n"
        )
        files[f"{directory}/go.sum"] = _sums(
            module, version, _component(component.argument, version)
        )
    return files


def _release(tag: str) -> dict[str, str]:
    """The files of a release, except its vendor directory."""
    go = "1.99" if tag == NEEDS_NEWER_GO else "1.21"
    return {
        "go.mod": f"module {MODULE}\n\ngo {go}\n\nrequire {DEPENDENCY} {DEPENDENCY_VERSION}\n",
        "go.sum": _DEPENDENCY_SUMS,
        "cmd/buildctl/main.go": _MAIN.replace("NAME", "buildctl"),
        "cmd/buildkitd/main.go": _MAIN.replace("NAME", "buildkitd"),
        "version/version.go": _VERSION.replace("TAG", tag),
        ".gitignore": "/bin\n*.local.go\n",
        "Makefile": _MAKEFILE,
        "Dockerfile": "".join(f"ARG {name}={value}\n" for name, value in _pinned_by(tag).items())
        + _DOCKERFILE,
    }


_VENDOR = {
    f"vendor/{DEPENDENCY}/greeting.go": _DEPENDENCY_FILES["greeting.go"],
    "vendor/modules.txt": f"# {DEPENDENCY} {DEPENDENCY_VERSION}\n## explicit; go 1.21\n{DEPENDENCY}\n",
}


class Upstream:
    """The miniature upstream: `repository` for git, `proxy` for Go."""

    def __init__(self, directory: Path) -> None:
        self.repository = directory / "repository"
        self.proxy = directory / "proxy"
        self.commits: dict[str, str] = {}
        self._env = isolated(directory)
        self.repository.mkdir(parents=True)
        self._git("init", "--quiet", "--initial-branch=master")
        for tag in (PINNED, CANDIDATE, NEWER, NOT_IN_PROXY, MOVED, NEEDS_NEWER_GO):
            write_tree(self.repository, {**_release(tag), **_VENDOR})
            self._git("add", "--all")
            self._git("commit", "--quiet", "--message", tag)
            self.commits[tag] = self._git("rev-parse", "HEAD").strip()
            # An annotated tag is an object that differs from the commit.
            self._git("tag", *(["--annotate", "--message", tag] if tag == NEWER else []), tag)
            if tag != NOT_IN_PROXY:
                commit = self.commits[PINNED if tag == MOVED else tag]
                self._serve(MODULE, tag, _release(tag), commit)
        self._git("tag", FRONTEND)
        self._serve(DEPENDENCY, DEPENDENCY_VERSION, _DEPENDENCY_FILES, "")
        for argument, (module, version) in BUNDLE.items():
            self._serve(module, version, _component(argument, version), "")
        runc, _ = BUNDLE["RUNC_VERSION"]
        self._serve(runc, NEWER_RUNC, _component("RUNC_VERSION", NEWER_RUNC), "1" * 40)

    def _git(self, *args: str) -> str:
        return command(["git", *args], self.repository, self._env)

    def _serve(self, module: str, version: str, files: Mapping[str, str], commit: str) -> None:
        """Add a version to the module proxy (https://go.dev/ref/mod#goproxy-protocol)."""
        directory = self.proxy / module / "@v"
        directory.mkdir(parents=True, exist_ok=True)
        info: dict[str, Any] = {"Version": version, "Time": "2026-01-02T03:04:05Z"}
        if commit:
            info["Origin"] = {"VCS": "git", "URL": f"https://{module}", "Hash": commit}
        (directory / f"{version}.info").write_text(json.dumps(info))
        (directory / f"{version}.mod").write_text(files["go.mod"])
        with zipfile.ZipFile(directory / f"{version}.zip", "w") as archive:
            for name, text in files.items():
                archive.writestr(f"{module}@{version}/{name}", text)
        with (directory / "list").open("a") as known:
            known.write(f"{version}\n")

    def clone(self, directory: Path, tag: str = PINNED) -> Path:
        """A clone at a tag."""
        command(
            ["git", "clone", "--quiet", self.repository, directory], directory.parent, self._env
        )
        command(["git", "checkout", "--quiet", "--detach", tag], directory, self._env)
        return directory


@dataclass(frozen=True)
class Done:
    """The result of a run."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """The JSON document on stdout."""
        return json.loads(self.stdout)


def refused(done: Done, code: int, *words: str) -> None:
    """Assert a documented failure: its exit code, one line with the error, one with the fix."""
    assert done.code == code, done
    assert "Traceback" not in done.stderr, done
    *before, error, fix = done.stderr.strip().splitlines()
    assert re.match(r"error: \S", error), done
    assert re.match(r"  fix: \S", fix), done
    assert not any(line.startswith("error:") for line in before), done
    for word in words:
        assert word in error, f"{word!r} is not in {error!r}"


def succeeded(done: Done) -> Done:
    assert done.code == 0, done
    assert "Traceback" not in done.stderr, done
    return done


@dataclass
class Project:
    """A checkout of this project, and the environment of its user."""

    root: Path
    env: dict[str, str] = field(default_factory=dict)

    @property
    def dist(self) -> Path:
        return self.root / "dist"

    def _argv(self, args: Sequence[str], prefix: Sequence[str]) -> list[str]:
        return [*prefix, sys.executable, "-m", "buildkit_riscv64", *args]

    def invoke(
        self,
        *args: str,
        env: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
        timeout: float = BOUND,
    ) -> Done:
        """Run `invoke …` and wait."""
        done = subprocess.run(
            self._argv(args, prefix), cwd=self.root, env={**self.env, **(env or {})},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip
        return Done(done.returncode, done.stdout, done.stderr)

    def build(self, *args: str, env: Mapping[str, str] | None = None) -> Done:
        """Run a build that must succeed."""
        return succeeded(self.invoke("build-binaries", *args, env=env))

    @contextlib.contextmanager
    def started(self, *args: str) -> Iterator[Started]:
        """Start `invoke …`; the end of the block kills it."""
        log = self.root.parent / f"log-{time.monotonic_ns()}"
        with log.open("wb") as stderr:
            child = subprocess.Popen(
                self._argv(args, ()), cwd=self.root, env=self.env, stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=stderr, start_new_session=True,
            )  # fmt: skip
        try:
            yield Started(child, log)
        finally:
            # Only a running process: no_strays() finds its orphans.
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
            log.unlink()

    def git(self, *args: str | Path) -> str:
        """The output of git in this checkout."""
        local = ("-c", "protocol.file.allow=always", "-c", "advice.detachedHead=false")
        return command(["git", *local, *args], self.root, self.env)

    def fetch_submodule(self) -> Path:
        self.git("submodule", "--quiet", "update", "--init", "buildkit")
        return self.root / "buildkit"

    def target(self) -> Path:
        """The directory of this machine's artifacts."""
        (found,) = self.dist.glob("linux-*")
        return found

    def manifest(self) -> Any:
        return json.loads((self.target() / "manifest.json").read_text())

    def files(self) -> dict[str, str]:
        """A digest of every file in the checkout, except bytecode, and git's index."""
        found = {
            str(path.relative_to(self.root)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(self.root.rglob("*"))
            if path.is_file()
            and "__pycache__" not in path.parts
            and ".git" not in path.relative_to(self.root).parts[:1]
            and not (path.parent == self.dist and path.name.endswith(".lock"))
        }
        return {**found, "git's index": self.git("ls-files", "--stage")}

    def strays(self) -> list[str]:
        """Processes that name this checkout in their command, directory or environment."""
        return processes_of(self.root.parent)

    def no_strays(self) -> None:
        """Assert that every process of a run has ended, or ends soon."""
        assert eventually(lambda: not self.strays()), self.strays()


@dataclass
class Started:
    """A running `invoke …`."""

    process: subprocess.Popen[bytes]
    log: Path

    def output(self) -> str:
        return self.log.read_text()

    def wait_for(self, words: str) -> None:
        """Wait until these words are in the output, or the process ends."""
        assert eventually(lambda: words in self.output() or self.process.poll() is not None), words

    def end(self, number: signal.Signals) -> Done:
        """Send a signal; SIGINT goes to the whole group, as Ctrl-C does."""
        with contextlib.suppress(ProcessLookupError):
            if number is signal.SIGINT:
                os.killpg(self.process.pid, number)
            else:
                self.process.send_signal(number)
        return self.wait()

    def wait(self) -> Done:
        code = self.process.wait(BOUND)
        return Done(code, "", self.output())


def processes_of(directory: Path) -> list[str]:
    """Processes that name a directory in their command, working directory or environment."""
    pattern = os.fsencode(directory)
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        if int(entry.name) == os.getpid():
            continue
        try:
            cmdline = (entry / "cmdline").read_bytes()
            text = cmdline + (entry / "environ").read_bytes()
            text += os.fsencode((entry / "cwd").readlink())
        except OSError:
            continue  # the process has just ended
        if pattern in text:
            found.append(f"{entry.name}: {cmdline!r}")
    return found


def remove(directory: Path) -> None:
    """Remove a directory, also a module cache with Go's read-only directories."""
    for path in (directory, *directory.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
    shutil.rmtree(directory)


def commit_checkout(directory: Path, gitlink: str, env: Mapping[str, str]) -> None:
    """Make a directory a git checkout with the submodule recorded."""
    for args in (
        ["init", "--quiet", "--initial-branch=main"],
        ["add", "--all"],
        ["update-index", "--add", "--cacheinfo", f"160000,{gitlink},buildkit"],
        ["commit", "--quiet", "--message", "all"],
    ):
        command(["git", *args], directory, env)
    (directory / "buildkit").mkdir()


def make_project(directory: Path, upstream: Upstream, env: Mapping[str, str]) -> Project:
    """A checkout of this project that uses the miniature upstream."""
    directory.mkdir(parents=True)
    copy_checkout(directory)
    text = (directory / "pins/pins.toml").read_text()
    for key, value in (
        ("version", f'"{PINNED}"'),
        ("commit", f'"{upstream.commits[PINNED]}"'),
        ("time", "2026-01-02T03:04:05Z"),
    ):
        text = re.sub(rf"^{key} = .*$", f"{key} = {value}", text, count=1, flags=re.M)
    when = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    for component in bundle.COMPONENTS:
        release = pins.PinnedRelease(version=BUNDLE[component.argument][1], time=when)
        text = pins.with_release(text, component.name, release)
    write_tree(
        directory,
        {
            "pins/pins.toml": text,
            ".gitmodules": f'[submodule "buildkit"]\n\tpath = buildkit\n\turl = {upstream.repository}\n',
            "pins/upstream/go.mod": "module buildkit-riscv64.invalid/upstream\n\ngo 1.24\n\n"
            f"require (\n\t{DEPENDENCY} {DEPENDENCY_VERSION} // indirect\n"
            f"\t{MODULE} {PINNED} // indirect\n)\n\n"
            f"tool (\n\t{MODULE}/cmd/buildctl\n\t{MODULE}/cmd/buildkitd\n)\n",
            "pins/upstream/go.sum": _DEPENDENCY_SUMS + _sums(MODULE, PINNED, _release(PINNED)),
            **_bundle_modules(),
        },
    )
    commit_checkout(directory, upstream.commits[PINNED], env)
    return Project(directory, dict(env))


def path_with(directory: Path, *names: str) -> str:
    """A PATH with only these commands."""
    directory.mkdir(parents=True)
    for name in names:
        found = shutil.which(name)
        assert found, f"the tests need {name}"
        (directory / name).symlink_to(found)
    return str(directory)


#: The id of a user without files.
STRANGER = 1234


def as_root() -> list[str]:
    """The prefix of a command that changes owners: a user namespace, except for root."""
    require("owners")
    return [] if os.geteuid() == 0 else process.namespaced()


def with_mounts(shell: str) -> list[str]:
    """The prefix of a command that runs with private mounts.

    The mounts end with the command. Unlike permissions, a read-only mount also stops root.
    """
    require("mounts")
    as_root = [] if os.geteuid() == 0 else ["--map-root-user"]
    return ["unshare", *as_root, "--mount", "sh", "-euc", f'{shell}\nexec "$@"', "sh"]


#: Hides the directories in which the product looks for Go.
HIDE_GO = """for directory in /usr/local/go /usr/lib/go /usr/lib/go-*; do
    if [ -d "$directory" ]; then mount -t tmpfs tmpfs "$directory"; fi
done"""
