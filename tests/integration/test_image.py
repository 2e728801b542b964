"""The image of the real BuildKit: built both ways, run on a real docker engine, interrupted.

With BUILDKIT_TEST_DIST, the binaries are those of that dist/.
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

from buildkit_riscv64 import dist, host, pins, storage
from buildkit_riscv64.arch import Target
from buildkit_riscv64.image import layout

from ..processes import BUILD_BOUND, eventually
from ..unit.image import picture
from . import dockerd
from .miniature import Done, Project, refused, remove, succeeded, with_mounts

pytestmark = [pytest.mark.integration, pytest.mark.image]

TARGET = Target.here()
VARIANTS = ("root", "rootless")
#: Upstream's: docs/rootless.md of moby/buildkit says why each.
ROOTLESS = [
    "--security-opt=seccomp=unconfined", "--security-opt=apparmor=unconfined",
    "--security-opt=systempaths=unconfined",
]  # fmt: skip


@pytest.fixture(scope="module")
def project(
    tmp_path_factory: pytest.TempPathFactory, upstream_project: Project, upstream_target: Path
) -> Iterator[Project]:
    """A checkout with the real binaries, and with caches in which nothing is."""
    folder = tmp_path_factory.mktemp("image")
    shutil.copytree(upstream_project.root, folder / "checkout", symlinks=True)
    (folder / "tmp").mkdir()
    made = Project(
        folder / "checkout",
        {
            **upstream_project.env,
            "XDG_CACHE_HOME": str(folder / "cache"),
            "TMPDIR": str(folder / "tmp"),
        },
    )
    yield made
    made.no_strays()
    left = list((folder / "tmp").iterdir())
    remove(folder)
    assert not left, f"left behind: {left}"


def build(project: Project, *words: str, env: dict[str, str] | None = None) -> Any:
    """Build an image, and return its manifest."""
    done = project.invoke("build-image", "--json", *words, env=env, timeout=BUILD_BOUND)
    return succeeded(done).json


def folder(project: Project, variant: str) -> Path:
    return project.dist / TARGET.name / dist.IMAGE / variant


@pytest.fixture(scope="module")
def built(project: Project) -> dict[str, Any]:
    """Both variants, built by the freshly built BuildKit: their manifests."""
    return {
        "root": build(project, "--engine=buildkit"),
        "rootless": build(project, "--engine=buildkit", "--rootless"),
    }


# By BuildKit itself.


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_left_in_dist(project: Project, built: dict[str, Any], variant: str) -> None:
    place = folder(project, variant)
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
    done = succeeded(project.invoke("check-image", "--json", timeout=BUILD_BOUND))
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


def test_nothing_to_do(project: Project, built: dict[str, Any]) -> None:
    done = succeeded(project.invoke("build-image", timeout=BUILD_BOUND))
    assert "is up to date" in done.stderr
    assert "#1 " not in done.stderr


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_same_inputs_give_the_same_image(project: Project, built: dict[str, Any], variant: str) -> None:  # fmt: skip
    # As after a clone by who has the umask 002, which Debian 13 gives to users.
    picture.give_to_the_group(project.root / "dockerfiles")
    words = ["--rootless"] if variant == "rootless" else []
    again = build(project, "--engine=buildkit", "--force", *words)
    assert again["up_to_date"] is False
    assert again["digest"] == built[variant]["digest"]


def test_it_is_as_small_as_we_say(built: dict[str, Any]) -> None:
    """In bytes: what it is compared with is in the benchmarks."""
    assert built["root"]["size"] < 100 << 20
    assert built["rootless"]["size"] < 110 << 20


# By docker.


@pytest.fixture(scope="module")
def loaded(project: Project, built: dict[str, Any], docker: dict[str, str]) -> dict[str, str]:
    """Both variants, built by docker and loaded into it: their names there."""
    for variant, words in (("root", []), ("rootless", ["--rootless"])):
        made = build(project, "--engine=docker", "--force", "--load", *words, env=docker)
        assert made["build"]["engine"] == "docker"
        assert made["digest"] == built[variant]["digest"]
    version = pins.load().version
    return {
        "root": f"buildkit-riscv64:{version}", "rootless": f"buildkit-riscv64:{version}-rootless"
    }  # fmt: skip


Run = Callable[..., str]


@pytest.fixture(scope="module")
def run(docker: dict[str, str]) -> Run:
    """Runs a command that must succeed, with docker at hand; what it says, all together."""

    def start(*args: str | Path) -> str:
        done = subprocess.run(
            args, env={**os.environ, **docker}, stdin=subprocess.DEVNULL, timeout=BUILD_BOUND,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{args}: {done.stdout}"
        return done.stdout

    return start


def test_both_engines_give_the_same_digest(loaded: dict[str, str]) -> None:
    """Each was compared when it was built."""
    assert set(loaded) == set(VARIANTS)


def test_nothing_of_docker_is_left(loaded: dict[str, str], run: Run) -> None:
    assert run("docker", "ps", "--all", "--quiet") == ""
    tags = run("docker", "images", "--format", "{{.Repository}}:{{.Tag}}").split()
    assert set(tags) == set(loaded.values())
    assert "buildkit-riscv64" not in run("docker", "buildx", "ls")
    assert run("docker", "volume", "ls", "--quiet") == ""


@pytest.fixture
def context(tmp_path: Path, binaries: Path) -> Path:
    """A Dockerfile that needs no registry: what it runs is the static buildctl."""
    folder = tmp_path / "context"
    folder.mkdir()
    shutil.copy(binaries / "buildctl", folder)
    (folder / "Dockerfile").write_text(
        'FROM scratch\nCOPY buildctl /\nRUN ["/buildctl", "--version"]\n'
    )
    return folder


def test_buildx_starts_it_as_a_builder(loaded: dict[str, str], run: Run, context: Path) -> None:
    try:
        run("docker", "buildx", "create", "--name=ours", "--driver=docker-container",
            f"--driver-opt=image={loaded['root']}")  # fmt: skip
        # Where starting takes long, buildx has no time left to ask: it gives up after 20 s.
        run("docker", "buildx", "inspect", "--bootstrap", "ours")
        said = run("docker", "buildx", "inspect", "ours")
        assert f"linux/{TARGET.arch}" in said
        logs = run("docker", "logs", "buildx_buildkit_ours0")
        assert "found 1 workers" in logs
        assert "tini" not in logs.lower()
        said = run("docker", "buildx", "build", "--builder=ours", "--progress=plain", context)
        assert f"buildctl github.com/moby/buildkit {pins.load().version}" in said
    finally:
        run("docker", "buildx", "rm", "--force", "ours")


def test_standalone(loaded: dict[str, str], run: Run, context: Path) -> None:
    run("docker", "run", "--detach", "--name=alone", "--privileged", loaded["root"])
    try:
        _answers(run, "alone")
        _builds(run, "alone", context, "/tmp/context")
        run("docker", "stop", "--time=60", "alone")
        state = json.loads(run("docker", "inspect", "--format={{json .State}}", "alone"))
        # Not 137, for SIGKILL: it ended by itself. With 1, upstream says that it was asked to.
        assert state["ExitCode"] == 1
    finally:
        run("docker", "rm", "--force", "--volumes", "alone")


def _answers(run: Run, name: str) -> None:
    """Until the health check says so."""

    def healthy() -> bool:
        said = run("docker", "inspect", "--format={{.State.Status}} {{.State.Health.Status}}", name)
        assert said.startswith("running"), run("docker", "logs", name)
        return "running healthy" in said

    assert eventually(healthy, BUILD_BOUND), run("docker", "logs", name)


def _builds(run: Run, name: str, context: Path, place: str) -> None:
    """In a running container, of a context that is copied there."""
    run("docker", "cp", context, f"{name}:{place}")
    said = run(
        "docker", "exec", name, "buildctl", "build", "--progress=plain", "--frontend=dockerfile.v0",
        f"--local=context={place}", f"--local=dockerfile={place}",
    )  # fmt: skip
    assert f"buildctl github.com/moby/buildkit {pins.load().version}" in said


def test_rootless_with_the_least_that_works(loaded: dict[str, str], run: Run, context: Path) -> None:  # fmt: skip
    run("docker", "run", "--detach", "--name=less", *ROOTLESS, loaded["rootless"])
    try:
        _answers(run, "less")
        _builds(run, "less", context, "/home/user/context")
        # Nothing in there is root's, seen from outside.
        users = set(run("docker", "top", "less", "-eo", "pid,uid").split()[3::2])
        assert users
        assert "0" not in users
    finally:
        run("docker", "rm", "--force", "--volumes", "less")


def test_a_daemon_for_one_build(loaded: dict[str, str], run: Run, context: Path) -> None:
    run(
        "docker", "create", "--name=once", "--privileged", "--entrypoint=buildctl-daemonless.sh",
        loaded["root"], "build", "--progress=plain", "--frontend=dockerfile.v0",
        "--local=context=/context", "--local=dockerfile=/context",
    )  # fmt: skip
    try:
        run("docker", "cp", context, "once:/context")
        said = run("docker", "start", "--attach", "once")
        assert f"buildctl github.com/moby/buildkit {pins.load().version}" in said
    finally:
        run("docker", "rm", "--force", "--volumes", "once")


def test_tcp_without_tls_is_refused(loaded: dict[str, str], docker: dict[str, str]) -> None:
    done = subprocess.run(
        ["docker", "run", "--rm", "--privileged", loaded["root"], "--addr=tcp://0.0.0.0:1234"],
        env={**os.environ, **docker}, capture_output=True, text=True, timeout=BUILD_BOUND, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("error: --addr tcp:// without --tlscacert")
    half = subprocess.run(
        ["docker", "run", "--rm", "--privileged", loaded["root"], "--addr=tcp://0.0.0.0:1234",
         "--tlscacert=/ca.pem"],
        env={**os.environ, **docker}, capture_output=True, text=True, timeout=BUILD_BOUND, check=False,
    )  # fmt: skip
    assert half.returncode == 2
    assert half.stderr.startswith("error: --addr tcp:// without --tlscert")


# Broken on purpose, behind the back of what checks it.


def drop_tini(place: Path) -> None:
    """Have an image start without it, and all that is said of the image agree."""
    before = layout.load(place / dist.LAYOUT)
    command = before.config["config"]["Entrypoint"]
    assert command[0] == "/usr/bin/tini"
    before.config["config"]["Entrypoint"] = command[command.index("--") + 1 :]
    after = picture.with_config(before)
    (archive,) = place.glob("*.image.tar")
    layout.archive(after, archive, f"buildkit-riscv64:{pins.load().version}")
    manifest = json.loads((place / dist.MANIFEST).read_text())
    storage.write_json(place / dist.MANIFEST, {**manifest, "digest": after.digest})
    picture.record_anew(place)


def test_without_tini_the_right_scenario_fails(
    project: Project, built: dict[str, Any], docker: dict[str, str], tmp_path: Path
) -> None:
    place = folder(project, "root")
    shutil.copytree(place, tmp_path / "before")
    try:
        drop_tini(place)
        done = project.invoke(
            "validate", "--only=buildx", "--select=alone or bootstrap or load_and_run", "--json",
            env=docker, timeout=BUILD_BOUND,
        )  # fmt: skip
    finally:
        shutil.rmtree(place)
        shutil.copytree(tmp_path / "before", place)
        shutil.rmtree(project.target() / dist.EVIDENCE, ignore_errors=True)
    assert done.code == 7
    assert {one["name"]: one["outcome"] for one in done.json["suites"]["buildx"]["scenarios"]} == {
        "test_alone": "failed", "test_bootstrap": "passed", "test_load_and_run": "passed",
    }  # fmt: skip


# What goes wrong.


def refused_aloud(done: Done, code: int, *words: str) -> None:
    """As `refused`, where BuildKit has said its own word before ours."""
    kept = [
        line for line in done.stderr.splitlines() if not line.lower().startswith("error: failed to")
    ]
    refused(Done(done.code, done.stdout, "\n".join(kept)), code, *words)


@pytest.fixture
def before(project: Project, built: dict[str, Any]) -> Iterator[dict[str, str]]:
    """What dist/ holds: after the test it holds the same, and nobody is at work."""
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
        ("asking Debian", signal.SIGTERM), ("#1 ", signal.SIGINT),
        ("[common 2/3]", signal.SIGKILL), ("[common 2/3]", signal.SIGTERM),
        ("checking the image", signal.SIGINT), ("checking the image", signal.SIGKILL),
    ],
)  # fmt: skip
def test_interrupted(
    project: Project, before: dict[str, str], moment: str, number: signal.Signals
) -> None:
    with project.started("build-image", "--engine=buildkit", "--force") as run:
        run.wait_for(moment)
        assert run.process.poll() is None, run.said()
        done = run.end(number)
    if number is signal.SIGKILL:
        project.no_strays()
        # The next run removes what is left.
        for left in Path(project.env["TMPDIR"]).iterdir():
            remove(left)
        dist.sweep(TARGET, project.dist)
        for left in project.dist.glob(".*staging*"):
            remove(left)
    else:
        refused_aloud(done, 130, "interrupted")


@pytest.mark.parametrize("number", SIGNALS)
def test_interrupted_with_docker(
    project: Project, before: dict[str, str], loaded: dict[str, str], run: Run,
    docker: dict[str, str], number: signal.Signals,
) -> None:  # fmt: skip
    project.env |= docker
    try:
        with project.started("build-image", "--engine=docker", "--force") as started:
            started.wait_for("building the root image with docker")
            assert eventually(
                lambda: "buildx_buildkit" in run("docker", "ps", "--format={{.Names}}")
                or started.process.poll() is not None,
                BUILD_BOUND,
            )  # fmt: skip
            done = started.end(number)
    finally:
        for name in docker:
            project.env[name] = os.environ.get(name, "")
    if number is signal.SIGKILL:
        assert eventually(lambda: run("docker", "ps", "--all", "--quiet") == "", BUILD_BOUND)
        for left in [*Path(project.env["TMPDIR"]).iterdir(), *project.dist.glob(".*staging*")]:
            remove(left)
    else:
        refused_aloud(done, 130, "interrupted")
    assert eventually(
        lambda: (
            set(run("docker", "images", "--format", "{{.Repository}}:{{.Tag}}").split())
            == set(loaded.values())
        ),
        BUILD_BOUND,
    )
    assert run("docker", "ps", "--all", "--quiet") == ""
    assert "buildkit-riscv64" not in run("docker", "buildx", "ls")


@pytest.mark.parametrize("size", ["220m", "330m"])
def test_a_disk_that_gets_full(project: Project, before: dict[str, str], size: str) -> None:
    """dist/ on a small disk, with what it holds."""
    place = project.dist
    then = (
        f"mkdir {place}.small; mount -t tmpfs -o size={size} tmpfs {place}.small\n"
        f"mkdir {place}.small/{TARGET.name}; cp -a {place}/{TARGET.name}/[!i]* {place}.small/{TARGET.name}/\n"
        f"mount --bind {place}.small {place}"
    )
    program = (
        "import sys\nfrom buildkit_riscv64.image import build\nbuild.NEEDED_BYTES = 0\n"
        "from invoke.main import program\n"
        "sys.argv = ['invoke', 'build-image', '--engine=buildkit']\nprogram.run()\n"
    )
    ended = subprocess.run(
        [*with_mounts(then), sys.executable, "-c", program], cwd=project.root, env=project.env,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=BUILD_BOUND, check=False,
    )  # fmt: skip
    Path(f"{place}.small").rmdir()
    refused_aloud(Done(ended.returncode, ended.stdout, ended.stderr), 9, "no space left")


def test_a_disk_that_is_too_small_is_told_at_once(project: Project, before: dict[str, str]) -> None:
    then = f"mount -t tmpfs -o size=1g tmpfs {project.env['XDG_CACHE_HOME']}"
    done = project.invoke("build-image", "--force", prefix=with_mounts(then))
    refused(done, 9, "only 1.0 GiB free")
    assert "asking Debian" not in done.stderr


def test_no_engine(project: Project, before: dict[str, str], docker: dict[str, str]) -> None:
    env = {**docker, "DOCKER_HOST": "unix:///nonexistent/docker.sock"}
    done = project.invoke("build-image", "--engine=docker", "--force", env=env)
    refused(done, 3, "no docker engine answers at unix:///nonexistent/docker.sock")
    assert "checking the binaries" not in done.stderr


def test_an_engine_that_goes_away(project: Project, before: dict[str, str], tmp_path: Path) -> None:
    with dockerd.own(tmp_path) as engine:
        project.env |= engine.env
        try:
            with project.started("build-image", "--engine=docker", "--force") as run:
                run.wait_for("#1 ")
                engine.kill()
                refused_aloud(run.wait(), 6)
        finally:
            for name in engine.env:
                project.env[name] = os.environ.get(name, "")


@pytest.fixture
def another(project: Project, tmp_path: Path) -> Project:
    """A checkout with the same binaries, to be spoilt."""
    copy = Path(shutil.copytree(project.root, tmp_path / "checkout", symlinks=True))
    shutil.rmtree(copy / "dist" / TARGET.name / dist.IMAGE, ignore_errors=True)
    return Project(copy, project.env)


def test_no_binaries(another: Project) -> None:
    shutil.rmtree(another.dist)
    refused(another.invoke("build-image"), 7, "no artifacts in")
    refused(another.invoke("check-image"), 7, "no image in")


def test_binaries_that_are_damaged(another: Project) -> None:
    program = another.target() / "bin" / "buildkitd"
    content = bytearray(program.read_bytes())
    content[len(content) // 2] ^= 1
    program.write_bytes(content)
    refused(another.invoke("build-image"), 7, "bin/buildkitd: sha256")


def test_binaries_that_were_compiled_elsewhere(another: Project) -> None:
    path = another.target() / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["host"]["arch"] = "arm64" if TARGET.arch != "arm64" else "amd64"
    path.write_text(json.dumps(manifest))
    refused(another.invoke("build-image"), 5, f"were compiled on {manifest['host']['arch']}")


@pytest.mark.parametrize(
    ("words", "code", "what"),
    [
        (["--engine=podman"], 2, "no such engine"),
        (["--base=alpine"], 2, "no such base"),
        (["--target=linux-vax"], 2, "is not a target"),
        (["--target=linux-arm64"], 5, "is built and tested on arm64"),
    ],
)
def test_bad_input_is_told_at_once(
    project: Project, before: dict[str, str], words: list[str], code: int, what: str
) -> None:
    done = project.invoke("build-image", *words)
    refused(done, code, what)
    assert len(done.stderr.splitlines()) == 2


def test_dry(project: Project, before: dict[str, str]) -> None:
    done = succeeded(project.invoke("--dry", "build-image"))
    assert "would build the target root of buildkit.Dockerfile with buildkit" in done.stderr
