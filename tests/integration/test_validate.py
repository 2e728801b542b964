"""`invoke validate` on real binaries: evidence, interruption, refusal, and broken binaries.

BUILDKIT_TEST_DIST sets the dist/ directory with the binaries.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fastjsonschema
import pytest

from buildkit_riscv64.core import dist, filesystem, host
from buildkit_riscv64.core.arch import Platform
from buildkit_riscv64.system import binfmt
from buildkit_riscv64.testing.pytest_plugin import needs
from buildkit_riscv64.validation import suites
from buildkit_riscv64.validation.environment.scripts import script
from buildkit_riscv64.validation.environment.waiting import BOUND, eventually

from ..unit.factories import edit_manifest
from .miniature import CHECKOUT, Done, Project, refused, remove, succeeded

pytestmark = pytest.mark.integration

#: The scenarios of these tests: quick scenarios of the daemon's lifecycle.
LIFECYCLE = {"test_versions", "test_worker_and_platform", "test_restart_keeps_cache"}
SELECTED = ["validate", "--only=standalone", f"--select={' or '.join(sorted(LIFECYCLE))}"]


@pytest.fixture(scope="module")
def project(
    tmp_path_factory: pytest.TempPathFactory, upstream_project: Project, upstream_target: Path
) -> Iterator[Project]:
    """A checkout with the real binaries and without images."""
    directory = tmp_path_factory.mktemp("validate")
    shutil.copytree(upstream_project.root, directory / "checkout", symlinks=True)
    # Other tests may have built images.
    for part in dist.PARTS:
        shutil.rmtree(
            directory / "checkout" / "dist" / upstream_target.name / part, ignore_errors=True
        )
    (directory / "tmp").mkdir()
    env = {**upstream_project.env, "TMPDIR": str(directory / "tmp")}
    project = Project(directory / "checkout", env)
    yield project
    project.no_strays()
    left = list((directory / "tmp").iterdir())
    remove(directory)
    assert not left, f"left behind: {left}"


def evidence(project: Project) -> Path:
    return project.target() / dist.EVIDENCE


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.fixture(scope="module")
@needs("daemons", "debian", "emulators", *suites.SUITES["standalone"].tools)
def validated(project: Project) -> Done:
    """A run in which every scenario passes."""
    return succeeded(project.invoke(*SELECTED, "--json", timeout=BOUND))


def outcomes(project: Project) -> dict[str, str]:
    """The result of each scenario."""
    document = json.loads((evidence(project) / dist.RESULTS).read_text())
    scenarios = document["suites"]["standalone"]["scenarios"]
    return {one["name"]: one["outcome"] for one in scenarios}


def test_evidence(project: Project, validated: Done) -> None:
    schema = json.loads(
        (CHECKOUT / "buildkit_riscv64/core/schemas" / "evidence.schema.json").read_text()
    )
    document = fastjsonschema.validate(schema, validated.json)
    assert document == json.loads((evidence(project) / dist.RESULTS).read_text())
    assert outcomes(project) == dict.fromkeys(LIFECYCLE, "passed")
    for command, sha256 in document["binaries"].items():
        assert filesystem.sha256(project.target() / dist.binary(command)) == sha256
    assert document["images"] == {"root": None, "rootless": None}
    assert document["host"]["execution"] == str(host.execution())
    assert document["versions"]["runc"]
    assert document["suites"]["standalone"]["partial"] is True
    subprocess.run(
        ["sha256sum", "--check", "--strict", "--quiet", dist.SUMS],
        cwd=evidence(project),
        check=True,
    )
    assert "3 passed" in (evidence(project) / "pytest-standalone.log").read_text()
    # The evidence is valid content of dist/.
    succeeded(project.invoke("check-binaries"))


def test_output(validated: Done) -> None:
    for number in (1, 2, 3):
        assert re.search(rf"^standalone {number}/3  ok  [\d.]+ s  \S", validated.stderr, re.M)
    # The last line of pytest.
    assert re.search(r"^=+ 3 passed, .* in .*=+$", validated.stderr, re.M)


def test_show(project: Project, validated: Done) -> None:
    done = succeeded(project.invoke("evidence.show", "--json"))
    assert {**validated.json, "incomplete": done.json["incomplete"]} == done.json
    assert "suite buildx has not run" in done.json["incomplete"]
    same = succeeded(
        project.invoke(
            "evidence.show", "--json", "--compare", str(evidence(project) / dist.RESULTS)
        )
    ).json
    assert (same["about"], same["scenarios"]) == ({}, [])


def test_dry_run(project: Project, validated: Done) -> None:
    before = project.files()
    done = succeeded(project.invoke("--dry", *SELECTED))
    assert "-m pytest" in done.stderr
    assert project.files() == before


# Interrupted.


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted(project: Project, validated: Done, number: signal.Signals) -> None:
    before = files(evidence(project))
    with project.started(*SELECTED) as run:
        # The third scenario restarts a daemon.
        run.wait_for("standalone 2/3")
        assert eventually(lambda: any("buildkitd" in one for one in project.strays()))
        (workspace,) = set(re.findall(r"--basetemp=(/var/tmp/validation-[^/]+)", " ".join(project.strays())))  # fmt: skip
        done = run.end(number)
    if number is signal.SIGKILL:
        assert done.code == -number
        # The results until then remain until the next run.
        (record,) = project.dist.glob(".*.validation.staging/standalone.jsonl")
        assert record.read_text().count('"outcome": "passed"') == 2
    else:
        refused(done, 130, "interrupted")
        assert not list(project.dist.glob(".*staging*"))
    project.no_strays()
    assert eventually(lambda: not Path(workspace).exists())
    assert files(evidence(project)) == before


def test_run_after_an_interruption(project: Project, validated: Done) -> None:
    succeeded(project.invoke(*SELECTED, timeout=BOUND))
    assert outcomes(project) == dict.fromkeys(LIFECYCLE, "passed")
    assert not list(project.dist.glob(".*staging*"))


# Refused.


def test_missing_artifacts_and_bad_options(project: Project) -> None:
    refused(project.invoke("validate", "--only=buildx"), 7, "no root image")
    refused(project.invoke("validate", "--only=nothing"), 2, "--only nothing")
    refused(project.invoke("validate", "--target=linux-arm64"), 5, "linux-arm64")
    done = project.invoke("validate", "--only=standalone", "--select=no_such_scenario", timeout=BOUND)  # fmt: skip
    refused(done, 2, "--select no_such_scenario")


# Broken binaries.


@pytest.fixture
def broken(
    project: Project, validated: Done, tmp_path: Path
) -> Iterator[Callable[[str, str], None]]:
    """Replaces a command by a script, which can call the real one as $real."""
    place, before = project.target(), tmp_path / "before"
    shutil.copytree(place, before)

    def put(command: str, text: str) -> None:
        script(place / dist.binary(command), f"real={before / 'bin' / command}\n{text}")

    yield put
    shutil.rmtree(place)
    shutil.copytree(before, place)


def forge(project: Project) -> None:
    """Write the checksums of the present programs into the manifest."""

    def update(manifest: dict[str, Any]) -> None:
        for file in manifest["files"]:
            path = project.target() / file["name"]
            file.update(size=path.stat().st_size, sha256=filesystem.sha256(path))

    edit_manifest(project.target(), update)


Broken = Callable[[str, str], None]

OTHER_VERSION = """\
[ "$*" != --version ] || { echo "buildctl github.com/moby/buildkit v0.1.0 0"; exit; }
exec "$real" "$@"
"""
# Simulates a damaged state at each start.
NO_STATE = """\
for word; do
    case $word in --root=*) find "${word#--root=}" -name '*.db' -delete 2>/dev/null ;; esac
done
exec "$real" "$@"
"""


def test_program_of_another_build_is_refused(project: Project, broken: Broken) -> None:
    before = files(evidence(project))
    broken("buildctl", OTHER_VERSION)
    refused(project.invoke(*SELECTED), 7, "manifest")
    assert files(evidence(project)) == before


@pytest.mark.parametrize(
    ("command", "text", "failing"),
    [
        ("buildctl", OTHER_VERSION, "test_versions"),
        ("buildkitd", NO_STATE, "test_restart_keeps_cache"),
    ],
)
def test_exactly_one_scenario_fails(
    project: Project, broken: Broken, command: str, text: str, failing: str
) -> None:
    broken(command, text)
    forge(project)
    done = project.invoke(*SELECTED, timeout=BOUND)
    refused(done, 7, "1 scenario failed: standalone/lifecycle: ")
    assert outcomes(project) == {**dict.fromkeys(LIFECYCLE, "passed"), failing: "failed"}
    page = (evidence(project) / "index.html").read_text()
    assert page.count('<details class="failed" open>') == 1
    assert f"::{failing}</code>" in page


@contextlib.contextmanager
def disabled(platform: Platform) -> Iterator[None]:
    """Disable the emulator of a platform, and enable it afterwards."""
    entry = binfmt.REGISTRY / platform.binfmt
    entry.write_text("0")
    try:
        yield
    finally:
        entry.write_text("1")


def test_scenario_fails_without_an_emulator(project: Project, validated: Done) -> None:
    selected = ["validate", "--only=platforms", "--select=worker_platforms or copy_only", "--json"]
    before = succeeded(project.invoke(*selected, "--yes", timeout=BOUND))
    assert before.json["counts"]["passed"] == 5
    with disabled(Platform.S390X):
        done = project.invoke(*selected, timeout=BOUND)
    assert done.code == 7
    scenarios = done.json["suites"]["platforms"]["scenarios"]
    assert {one["name"]: one["outcome"] for one in scenarios} == {
        "test_worker_platforms": "failed", "test_copy_only": "passed",
    }  # fmt: skip
    (failed,) = (one for one in scenarios if one["outcome"] == "failed")
    assert "linux/s390x: `invoke doctor --fix --phase validation`" in failed["failure"]
