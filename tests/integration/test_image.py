"""The image of the real BuildKit: built with both engines, run on a real docker engine, interrupted.

With BUILDKIT_TEST_DIST, the binaries come from that dist/.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from buildkit_riscv64.core import dist, filesystem, host, pins
from buildkit_riscv64.core.arch import Target
from buildkit_riscv64.image import layout
from buildkit_riscv64.validation.environment import docker_engine
from buildkit_riscv64.validation.environment.waiting import BOUND, eventually

from ..unit.image import fake_image
from .miniature import Done, Project, refused, remove, succeeded, with_mounts

pytestmark = [pytest.mark.integration, pytest.mark.image]

TARGET = Target.here()
VARIANTS = ("root", "rootless")
#: Upstream's flags, explained in docs/rootless.md of moby/buildkit.
ROOTLESS = [
    "--security-opt=seccomp=unconfined", "--security-opt=apparmor=unconfined",
    "--security-opt=systempaths=unconfined",
]  # fmt: skip


@pytest.fixture(scope="module")
def project(
    tmp_path_factory: pytest.TempPathFactory, upstream_project: Project, upstream_target: Path
) -> Iterator[Project]:
    """A checkout with the real binaries and empty caches."""
    directory = tmp_path_factory.mktemp("image")
    shutil.copytree(upstream_project.root, directory / "checkout", symlinks=True)
    (directory / "tmp").mkdir()
    copy = Project(
        directory / "checkout",
        {
            **upstream_project.env,
            "XDG_CACHE_HOME": str(directory / "cache"),
            "TMPDIR": str(directory / "tmp"),
        },
    )
    yield copy
    copy.no_strays()
    left = list((directory / "tmp").iterdir())
    remove(directory)
    assert not left, f"left behind: {left}"


def build(project: Project, *words: str, env: dict[str, str] | None = None) -> Any:
    """Build an image, and return its manifest."""
    done = project.invoke("build-image", "--json", *words, env=env, timeout=BOUND)
    return succeeded(done).json


def directory(project: Project, variant: str) -> Path:
    return project.dist / TARGET.name / dist.IMAGE / variant


@pytest.fixture(scope="module")
def built(project: Project) -> dict[str, Any]:
    """The manifests of both variants, built by the freshly built BuildKit."""
    return {
        "root": build(project, "--engine=buildkit"),
        "rootless": build(project, "--engine=buildkit", "--rootless"),
    }


# Engine buildkit.


@pytest.mark.parametrize("variant", VARIANTS)
def test_published_files(project: Project, built: dict[str, Any], variant: str) -> None:
    place = directory(project, variant)
    manifest = json.loads((place / "manifest.json").read_text())
    assert manifest["target"] == TARGET.name
    assert manifest["version"] == pins.load().version
    assert manifest["build"]["engine"] == "buildkit"
    assert manifest["host"]["execution"] == str(host.execution())
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=place, check=True)  # fmt: skip
    bill = json.loads((place / "sbom.cdx.json").read_text())
    names = {component["name"] for component in bill["components"]}
    assert {"buildkitd", "buildctl", "runc", "git", "libc6"} <= names
    assert ("rootlesskit" in names) is (variant == "rootless")


def test_check(project: Project, built: dict[str, Any]) -> None:
    done = succeeded(project.invoke("check-image", "--json", timeout=BOUND))
    for variant in VARIANTS:
        seen = {
            (one["subject"], one["check"]): one for one in done.json[f"{TARGET.name} {variant}"]
        }
        assert all(one["status"] != "FAIL" for one in seen.values())
        for wanted in (
            ("tini", "zombies"), ("tini", "no complaint"), ("buildkitd", "ends on SIGTERM"),
            ("runc", "runs"), ("layers", "setuid and setgid"), ("layers", "file capabilities"), ("layers", "libraries"),
        ):  # fmt: skip
            assert seen[wanted]["status"] == "OK"


def test_up_to_date(project: Project, built: dict[str, Any]) -> None:
    done = succeeded(project.invoke("build-image", timeout=BOUND))
    assert "is up to date" in done.stderr
    assert "#1 " not in done.stderr


@pytest.mark.parametrize("variant", VARIANTS)
def test_same_inputs_give_the_same_image(
    project: Project, built: dict[str, Any], variant: str
) -> None:
    # As in a clone with umask 002, the default of users in Debian 13.
    fake_image.give_to_the_group(project.root / "dockerfiles")
    words = ["--rootless"] if variant == "rootless" else []
    again = build(project, "--engine=buildkit", "--force", *words)
    assert again["up_to_date"] is False
    assert again["digest"] == built[variant]["digest"]


def test_size(built: dict[str, Any]) -> None:
    """Limits in bytes; the benchmarks compare sizes."""
    assert built["root"]["size"] < 100 << 20
    assert built["rootless"]["size"] < 110 << 20


# Engine docker.


@pytest.fixture(scope="module")
def loaded(project: Project, built: dict[str, Any], docker: dict[str, str]) -> dict[str, str]:
    """The names of both variants in docker, which built and loaded them."""
    for variant, words in (("root", []), ("rootless", ["--rootless"])):
        manifest = build(project, "--engine=docker", "--force", "--load", *words, env=docker)
        assert manifest["build"]["engine"] == "docker"
        assert manifest["digest"] == built[variant]["digest"]
    version = pins.load().version
    return {
        "root": f"buildkit-riscv64:{version}", "rootless": f"buildkit-riscv64:{version}-rootless"
    }  # fmt: skip


Run = Callable[..., str]


@pytest.fixture(scope="module")
def run(docker: dict[str, str]) -> Run:
    """Run a command that must succeed with docker; its output."""

    def start(*args: str | Path) -> str:
        done = subprocess.run(
            args, env={**os.environ, **docker}, stdin=subprocess.DEVNULL, timeout=BOUND,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{args}: {done.stdout}"
        return done.stdout

    return start


def test_both_engines_give_the_same_digest(loaded: dict[str, str]) -> None:
    """The fixture compares the digests."""
    assert set(loaded) == set(VARIANTS)


def test_no_leftovers_in_docker(loaded: dict[str, str], run: Run) -> None:
    assert run("docker", "ps", "--all", "--quiet") == ""
    tags = run("docker", "images", "--format", "{{.Repository}}:{{.Tag}}").split()
    assert set(tags) == set(loaded.values())
    assert "buildkit-riscv64" not in run("docker", "buildx", "ls")
    assert run("docker", "volume", "ls", "--quiet") == ""


@pytest.fixture
def context(tmp_path: Path, binaries: Path) -> Path:
    """A Dockerfile that needs no registry: it runs the static buildctl."""
    directory = tmp_path / "context"
    directory.mkdir()
    shutil.copy(binaries / "buildctl", directory)
    (directory / "Dockerfile").write_text(
        'FROM scratch\nCOPY buildctl /\nRUN ["/buildctl", "--version"]\n'
    )
    return directory


def test_buildx_builder(loaded: dict[str, str], run: Run, context: Path) -> None:
    try:
        run("docker", "buildx", "create", "--name=ours", "--driver=docker-container",
            f"--driver-opt=image={loaded['root']}")  # fmt: skip
        # buildx gives up after 20 s, so a slow start leaves no time for its queries.
        run("docker", "buildx", "inspect", "--bootstrap", "ours")
        output = run("docker", "buildx", "inspect", "ours")
        assert f"linux/{TARGET.arch}" in output
        logs = run("docker", "logs", "buildx_buildkit_ours0")
        assert "found 1 workers" in logs
        assert "tini" not in logs.lower()
        output = run("docker", "buildx", "build", "--builder=ours", "--progress=plain", context)
        assert f"buildctl github.com/moby/buildkit {pins.load().version}" in output
    finally:
        run("docker", "buildx", "rm", "--force", "ours")


def test_standalone(loaded: dict[str, str], run: Run, context: Path) -> None:
    try:
        run("docker", "run", "--detach", "--name=alone", "--privileged", loaded["root"])
        _answers(run, "alone")
        _builds(run, "alone", context, "/tmp/context")
        run("docker", "stop", "--time=60", "alone")
        state = json.loads(run("docker", "inspect", "--format={{json .State}}", "alone"))
        # Not 137 (SIGKILL): it ended by itself. Upstream exits with 1 after a signal.
        assert state["ExitCode"] == 1
    finally:
        run("docker", "rm", "--force", "--volumes", "alone")


def _answers(run: Run, name: str) -> None:
    """Wait for the health check."""

    def healthy() -> bool:
        output = run(
            "docker", "inspect", "--format={{.State.Status}} {{.State.Health.Status}}", name
        )
        assert output.startswith("running"), run("docker", "logs", name)
        return "running healthy" in output

    assert eventually(healthy), run("docker", "logs", name)


def _builds(run: Run, name: str, context: Path, place: str) -> None:
    """Build in a running container from a copied context."""
    run("docker", "cp", context, f"{name}:{place}")
    output = run(
        "docker", "exec", name, "buildctl", "build", "--progress=plain", "--frontend=dockerfile.v0",
        f"--local=context={place}", f"--local=dockerfile={place}",
    )  # fmt: skip
    assert f"buildctl github.com/moby/buildkit {pins.load().version}" in output


def test_rootless_with_minimal_flags(loaded: dict[str, str], run: Run, context: Path) -> None:
    try:
        run("docker", "run", "--detach", "--name=less", *ROOTLESS, loaded["rootless"])
        _answers(run, "less")
        _builds(run, "less", context, "/home/user/context")
        # No process is root's, seen from outside.
        users = set(run("docker", "top", "less", "-eo", "pid,uid").split()[3::2])
        assert users
        assert "0" not in users
    finally:
        run("docker", "rm", "--force", "--volumes", "less")


def test_daemonless_build(loaded: dict[str, str], run: Run, context: Path) -> None:
    run(
        "docker", "create", "--name=once", "--privileged", "--entrypoint=buildctl-daemonless.sh",
        loaded["root"], "build", "--progress=plain", "--frontend=dockerfile.v0",
        "--local=context=/context", "--local=dockerfile=/context",
    )  # fmt: skip
    try:
        run("docker", "cp", context, "once:/context")
        output = run("docker", "start", "--attach", "once")
        assert f"buildctl github.com/moby/buildkit {pins.load().version}" in output
    finally:
        run("docker", "rm", "--force", "--volumes", "once")


def test_tcp_without_tls_is_refused(loaded: dict[str, str], docker: dict[str, str]) -> None:
    done = subprocess.run(
        ["docker", "run", "--rm", "--privileged", loaded["root"], "--addr=tcp://0.0.0.0:1234"],
        env={**os.environ, **docker}, capture_output=True, text=True, timeout=BOUND, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("error: --addr tcp:// without --tlscacert")
    half = subprocess.run(
        ["docker", "run", "--rm", "--privileged", loaded["root"], "--addr=tcp://0.0.0.0:1234",
         "--tlscacert=/ca.pem"],
        env={**os.environ, **docker}, capture_output=True, text=True, timeout=BOUND, check=False,
    )  # fmt: skip
    assert half.returncode == 2
    assert half.stderr.startswith("error: --addr tcp:// without --tlscert")


# An image broken after its checks.


def drop_tini(place: Path) -> None:
    """Remove tini from an image's entrypoint, and update every record of it."""
    before = layout.load(place / dist.LAYOUT)
    command = before.config["config"]["Entrypoint"]
    assert command[0] == "/usr/bin/tini"
    before.config["config"]["Entrypoint"] = command[command.index("--") + 1 :]
    after = fake_image.with_config(before)
    (archive,) = place.glob("*.image.tar")
    layout.archive(after, archive, f"buildkit-riscv64:{pins.load().version}")
    manifest = json.loads((place / dist.MANIFEST).read_text())
    filesystem.write_json(place / dist.MANIFEST, {**manifest, "digest": after.digest})
    fake_image.record_again(place)


def test_scenario_finds_missing_tini(
    project: Project, built: dict[str, Any], docker: dict[str, str], tmp_path: Path
) -> None:
    place = directory(project, "root")
    shutil.copytree(place, tmp_path / "before")
    try:
        drop_tini(place)
        done = project.invoke(
            "validate", "--only=buildx", "--select=alone or bootstrap or load_and_run", "--json",
            env=docker, timeout=BOUND,
        )  # fmt: skip
    finally:
        shutil.rmtree(place)
        shutil.copytree(tmp_path / "before", place)
        shutil.rmtree(project.target() / dist.EVIDENCE, ignore_errors=True)
    assert done.code == 7
    assert {one["name"]: one["outcome"] for one in done.json["suites"]["buildx"]["scenarios"]} == {
        "test_alone": "failed", "test_bootstrap": "passed", "test_load_and_run": "passed",
    }  # fmt: skip


# Failures.


def refused_after_errors(done: Done, code: int, *words: str) -> None:
    """As `refused`, if BuildKit prints its own error first."""
    lines = [
        line for line in done.stderr.splitlines() if not line.lower().startswith("error: failed to")
    ]
    refused(Done(done.code, done.stdout, "\n".join(lines)), code, *words)


@pytest.fixture
def before(project: Project, built: dict[str, Any]) -> Iterator[dict[str, str]]:
    """The files in dist/, which the test must not change; afterwards no process may run."""
    files = project.files()
    yield files
    project.no_strays()
    assert project.files() == files
    below = str(project.root.parent)
    assert not [line for line in Path("/proc/mounts").read_text().splitlines() if below in line]


SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGKILL]


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        ("resolving Debian", signal.SIGTERM), ("#1 ", signal.SIGINT),
        ("[common 2/3]", signal.SIGKILL), ("[common 2/3]", signal.SIGTERM),
        ("checking the image", signal.SIGINT), ("checking the image", signal.SIGKILL),
    ],
)  # fmt: skip
def test_interrupted(
    project: Project, before: dict[str, str], moment: str, number: signal.Signals
) -> None:
    with project.started("build-image", "--engine=buildkit", "--force") as run:
        run.wait_for(moment)
        assert run.process.poll() is None, run.output()
        done = run.end(number)
    if number is signal.SIGKILL:
        project.no_strays()
        # The next run removes leftovers.
        for left in Path(project.env["TMPDIR"]).iterdir():
            remove(left)
        dist.sweep(TARGET, project.dist)
        for left in project.dist.glob(".*staging*"):
            remove(left)
    else:
        refused_after_errors(done, 130, "interrupted")


@pytest.mark.parametrize("number", SIGNALS)
def test_interrupted_with_docker(
    project: Project,
    before: dict[str, str],
    loaded: dict[str, str],
    run: Run,
    docker: dict[str, str],
    number: signal.Signals,
) -> None:
    project.env |= docker
    try:
        with project.started("build-image", "--engine=docker", "--force") as started:
            started.wait_for("building the root image with docker")
            assert eventually(
                lambda: "buildx_buildkit" in run("docker", "ps", "--format={{.Names}}")
                or started.process.poll() is not None
            )  # fmt: skip
            done = started.end(number)
    finally:
        for name in docker:
            project.env[name] = os.environ.get(name, "")
    if number is signal.SIGKILL:
        assert eventually(lambda: run("docker", "ps", "--all", "--quiet") == "")
        for left in [*Path(project.env["TMPDIR"]).iterdir(), *project.dist.glob(".*staging*")]:
            remove(left)
    else:
        refused_after_errors(done, 130, "interrupted")
    assert eventually(
        lambda: (
            set(run("docker", "images", "--format", "{{.Repository}}:{{.Tag}}").split())
            == set(loaded.values())
        )
    )
    assert run("docker", "ps", "--all", "--quiet") == ""
    assert "buildkit-riscv64" not in run("docker", "buildx", "ls")


@pytest.mark.parametrize("size", ["220m", "330m"])
def test_full_disk(project: Project, before: dict[str, str], size: str) -> None:
    """dist/ with its files on a small disk."""
    place = project.dist
    then = (
        f"mkdir {place}.small; mount -t tmpfs -o size={size} tmpfs {place}.small\n"
        f"mkdir {place}.small/{TARGET.name}; cp -a {place}/{TARGET.name}/[!i]* {place}.small/{TARGET.name}/\n"
        f"mount --bind {place}.small {place}"
    )
    program = (
        "import sys\nfrom buildkit_riscv64.image import build\nbuild.NEEDED_BYTES = 0\n"
        "from buildkit_riscv64.program import program\n"
        "sys.argv = ['invoke', 'build-image', '--engine=buildkit']\nprogram.run()\n"
    )
    ended = subprocess.run(
        [*with_mounts(then), sys.executable, "-c", program], cwd=project.root, env=project.env,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=BOUND, check=False,
    )  # fmt: skip
    Path(f"{place}.small").rmdir()
    refused_after_errors(Done(ended.returncode, ended.stdout, ended.stderr), 9, "no space left")


def test_too_little_space_is_reported_first(project: Project, before: dict[str, str]) -> None:
    then = f"mount -t tmpfs -o size=1g tmpfs {project.env['XDG_CACHE_HOME']}"
    done = project.invoke("build-image", "--force", prefix=with_mounts(then))
    refused(done, 9, "1.0 GiB")
    assert "resolving Debian" not in done.stderr


def test_no_engine(project: Project, before: dict[str, str], docker: dict[str, str]) -> None:
    env = {**docker, "DOCKER_HOST": "unix:///nonexistent/docker.sock"}
    done = project.invoke("build-image", "--engine=docker", "--force", env=env)
    refused(done, 3, "unix:///nonexistent/docker.sock")
    assert "checking the binaries" not in done.stderr


def test_killed_engine(project: Project, before: dict[str, str], tmp_path: Path) -> None:
    with docker_engine.private_engine(tmp_path) as engine:
        project.env |= engine.env
        try:
            with project.started("build-image", "--engine=docker", "--force") as run:
                run.wait_for("#1 ")
                engine.kill()
                refused_after_errors(run.wait(), 6)
        finally:
            for name in engine.env:
                project.env[name] = os.environ.get(name, "")


@pytest.fixture
def another(project: Project, tmp_path: Path) -> Project:
    """A checkout with the same binaries, which tests may damage."""
    copy = Path(shutil.copytree(project.root, tmp_path / "checkout", symlinks=True))
    shutil.rmtree(copy / "dist" / TARGET.name / dist.IMAGE, ignore_errors=True)
    return Project(copy, project.env)


def test_no_binaries(another: Project) -> None:
    shutil.rmtree(another.dist)
    refused(another.invoke("build-image"), 7, "no artifacts in")
    refused(another.invoke("check-image"), 7, "no image in")


def test_damaged_binaries(another: Project) -> None:
    program = another.target() / "bin" / "buildkitd"
    content = bytearray(program.read_bytes())
    content[len(content) // 2] ^= 1
    program.write_bytes(content)
    refused(another.invoke("build-image"), 7, "bin/buildkitd: sha256")


def test_cross_compiled_binaries(another: Project) -> None:
    path = another.target() / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["host"]["arch"] = "arm64" if TARGET.arch != "arm64" else "amd64"
    path.write_text(json.dumps(manifest))
    refused(another.invoke("build-image"), 5, manifest["host"]["arch"])


@pytest.mark.parametrize(
    ("words", "code", "what"),
    [
        (["--engine=podman"], 2, "--engine podman"),
        (["--base=alpine"], 2, "--base alpine"),
        (["--target=linux-vax"], 2, "linux-vax"),
        (["--target=linux-arm64"], 5, "linux-arm64"),
    ],
)
def test_bad_input_is_reported_first(
    project: Project, before: dict[str, str], words: list[str], code: int, what: str
) -> None:
    done = project.invoke("build-image", *words)
    refused(done, code, what)
    assert len(done.stderr.splitlines()) == 2


def test_dry(project: Project, before: dict[str, str]) -> None:
    done = succeeded(project.invoke("--dry", "build-image"))
    assert "would build the target root" in done.stderr
