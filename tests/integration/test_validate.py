"""`invoke validate` on the real binaries: its evidence, interrupted, refused, and with the product broken.

With BUILDKIT_TEST_DIST, the binaries are those of that dist/.
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

from buildkit_riscv64 import binfmt, dist, host, storage
from buildkit_riscv64.arch import Platform

from ..processes import BUILD_BOUND, eventually
from ..unit.making import edit_manifest
from .miniature import CHECKOUT, Done, Project, refused, remove, script, succeeded

pytestmark = pytest.mark.integration

#: The scenarios that everything here is about: quick ones, of the daemon's life.
LIFE = {"test_versions", "test_worker_and_platform", "test_a_restart_keeps_the_cache"}
SELECTED = ["validate", "--only=standalone", f"--select={' or '.join(sorted(LIFE))}"]


@pytest.fixture(scope="module")
def project(
    tmp_path_factory: pytest.TempPathFactory, upstream_project: Project, upstream_target: Path
) -> Iterator[Project]:
    """A checkout with the real binaries, and no images."""
    folder = tmp_path_factory.mktemp("validate")
    shutil.copytree(upstream_project.root, folder / "checkout", symlinks=True)
    # Other tests may have made them by now.
    for part in dist.PARTS:
        shutil.rmtree(
            folder / "checkout" / "dist" / upstream_target.name / part, ignore_errors=True
        )
    (folder / "tmp").mkdir()
    made = Project(folder / "checkout", {**upstream_project.env, "TMPDIR": str(folder / "tmp")})
    yield made
    made.no_strays()
    left = list((folder / "tmp").iterdir())
    remove(folder)
    assert not left, f"left behind: {left}"


def evidence(project: Project) -> Path:
    return project.target() / dist.EVIDENCE


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def validated(project: Project) -> Done:
    """A run in which everything passes."""
    return succeeded(project.invoke(*SELECTED, "--json", timeout=BUILD_BOUND))


def outcomes(project: Project) -> dict[str, str]:
    """What became of each scenario."""
    document = json.loads((evidence(project) / dist.RESULTS).read_text())
    scenarios = document["suites"]["standalone"]["scenarios"]
    return {one["name"]: one["outcome"] for one in scenarios}


def test_the_evidence(project: Project, validated: Done) -> None:
    schema = json.loads((CHECKOUT / "schemas" / "evidence.schema.json").read_text())
    document = fastjsonschema.validate(schema, validated.json)
    assert document == json.loads((evidence(project) / dist.RESULTS).read_text())
    assert outcomes(project) == dict.fromkeys(LIFE, "passed")
    for command, sha256 in document["binaries"].items():
        assert storage.sha256(project.target() / dist.binary(command)) == sha256
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
    # It is nothing that checks of the binaries would not expect.
    succeeded(project.invoke("check-binaries"))


def test_what_it_says(validated: Done) -> None:
    for number in (1, 2, 3):
        assert re.search(rf"^standalone {number}/3  ok  [\d.]+ s  \S", validated.stderr, re.M)
    # pytest's own last line, as it is.
    assert re.search(r"^=+ 3 passed, .* in .*=+$", validated.stderr, re.M)


def test_showing_it(project: Project, validated: Done) -> None:
    done = succeeded(project.invoke("evidence.show", "--json"))
    assert {**validated.json, "incomplete": done.json["incomplete"]} == done.json
    assert "suite buildx has not run" in done.json["incomplete"]
    same = succeeded(
        project.invoke(
            "evidence.show", "--json", "--compare", str(evidence(project) / dist.RESULTS)
        )
    ).json
    assert (same["about"], same["scenarios"]) == ({}, [])


def test_a_dry_run(project: Project, validated: Done) -> None:
    before = project.files()
    done = succeeded(project.invoke("--dry", *SELECTED))
    assert "would run: " in done.stderr
    assert project.files() == before


# Interrupted.


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted(project: Project, validated: Done, number: signal.Signals) -> None:
    before = files(evidence(project))
    with project.started(*SELECTED) as run:
        # The last one restarts a daemon.
        run.wait_for("standalone 2/3")
        assert eventually(lambda: any("buildkitd" in one for one in project.strays()), BUILD_BOUND)
        (workshop,) = set(re.findall(r"--basetemp=(/var/tmp/validation-[^/]+)", " ".join(project.strays())))  # fmt: skip
        done = run.end(number)
    if number is signal.SIGKILL:
        assert done.code == -number
        # What was found until then is still there, until the next run.
        (record,) = project.dist.glob(".*.validation.staging/standalone.jsonl")
        assert record.read_text().count('"outcome": "passed"') == 2
    else:
        refused(done, 130, "interrupted")
        assert not list(project.dist.glob(".*staging*"))
    project.no_strays()
    assert eventually(lambda: not Path(workshop).exists(), BUILD_BOUND)
    assert files(evidence(project)) == before


def test_and_once_more(project: Project, validated: Done) -> None:
    succeeded(project.invoke(*SELECTED, timeout=BUILD_BOUND))
    assert outcomes(project) == dict.fromkeys(LIFE, "passed")
    assert not list(project.dist.glob(".*staging*"))


# Refused.


def test_what_is_not_there(project: Project) -> None:
    refused(project.invoke("validate", "--only=buildx"), 7, "no root image")
    refused(project.invoke("validate", "--only=nothing"), 2, "no suite")
    refused(project.invoke("validate", "--target=linux-arm64"), 5, "linux-arm64")
    done = project.invoke("validate", "--only=standalone", "--select=no_such_scenario", timeout=BUILD_BOUND)  # fmt: skip
    refused(done, 2, "no scenario of standalone")


# Broken on purpose.


@pytest.fixture
def broken(project: Project, validated: Done, tmp_path: Path) -> Iterator[Callable[[str, str], None]]:  # fmt: skip
    """Puts a script in the place of a command, which finds the real one as $real."""
    place, before = project.target(), tmp_path / "before"
    shutil.copytree(place, before)

    def put(command: str, text: str) -> None:
        script(place / dist.binary(command), f"real={before / 'bin' / command}\n{text}")

    yield put
    shutil.rmtree(place)
    shutil.copytree(before, place)


def forge(project: Project) -> None:
    """Have the manifest say that these are the programs."""

    def update(manifest: dict[str, Any]) -> None:
        for file in manifest["files"]:
            path = project.target() / file["name"]
            file.update(size=path.stat().st_size, sha256=storage.sha256(path))

    edit_manifest(project.target(), update)


Broken = Callable[[str, str], None]

OTHER_VERSION = """\
[ "$*" != --version ] || { echo "buildctl github.com/moby/buildkit v0.1.0 0"; exit; }
exec "$real" "$@"
"""
# As if what it keeps on the disk were damaged whenever it starts.
NO_MEMORY = """\
for word; do
    case $word in --root=*) find "${word#--root=}" -name '*.db' -delete 2>/dev/null ;; esac
done
exec "$real" "$@"
"""


def test_a_program_of_another_build_is_refused(project: Project, broken: Broken) -> None:
    before = files(evidence(project))
    broken("buildctl", OTHER_VERSION)
    refused(project.invoke(*SELECTED), 7, "not those of its manifest")
    assert files(evidence(project)) == before


@pytest.mark.parametrize(
    ("command", "text", "failing"),
    [
        ("buildctl", OTHER_VERSION, "test_versions"),
        ("buildkitd", NO_MEMORY, "test_a_restart_keeps_the_cache"),
    ],
)
def test_exactly_the_right_scenario_fails(project: Project, broken: Broken, command: str, text: str, failing: str) -> None:  # fmt: skip
    broken(command, text)
    forge(project)
    done = project.invoke(*SELECTED, timeout=BUILD_BOUND)
    refused(done, 7, "1 scenario failed: standalone/life: ")
    assert outcomes(project) == {**dict.fromkeys(LIFE, "passed"), failing: "failed"}
    page = (evidence(project) / "index.html").read_text()
    assert page.count("<details open>") == 1
    assert f"::{failing}</code>" in page


@contextlib.contextmanager
def turned_off(platform: Platform) -> Iterator[None]:
    """The kernel starts no programs of a platform; afterwards it does again."""
    entry = binfmt.REGISTRY / platform.binfmt
    entry.write_text("0")
    try:
        yield
    finally:
        entry.write_text("1")


def test_without_an_emulator_the_right_scenario_fails(project: Project, validated: Done) -> None:
    selected = ["validate", "--only=platforms", "--select=worker_platforms or copy_only", "--json"]
    before = succeeded(project.invoke(*selected, "--yes", timeout=BUILD_BOUND))
    assert before.json["counts"]["passed"] == 5
    with turned_off(Platform.S390X):
        done = project.invoke(*selected, timeout=BUILD_BOUND)
    assert done.code == 7
    scenarios = done.json["suites"]["platforms"]["scenarios"]
    assert {one["name"]: one["outcome"] for one in scenarios} == {
        "test_worker_platforms": "failed", "test_copy_only": "passed",
    }  # fmt: skip
    (failed,) = (one for one in scenarios if one["outcome"] == "failed")
    assert "no emulator for linux/s390x: `invoke doctor --fix --phase validation`" in failed["failure"]  # fmt: skip
