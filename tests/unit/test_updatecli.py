"""updatecli's manifests, and what they have done.

updatecli itself is no tool of ours: what its manifests may say is from its documentation,
https://www.updatecli.io/docs/core/configuration/.
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version
from ruamel.yaml import YAML

from buildkit_riscv64 import pins, project
from buildkit_riscv64.binaries import update

from .test_tasks import TASKS

FOLDER = project.ROOT / "updatecli"
MANIFESTS = sorted((FOLDER / "updatecli.d").glob("*.yaml"))
#: What each kind of resource takes, of all that it takes.
SPECS = {
    "githubrelease": {"owner", "repository", "token", "typefilter", "versionfilter"},
    "golang": {"versionfilter"},
    "shell": {"command"},
}
FILTERS = {"kind", "pattern", "regex"}


def load(path: Path) -> Any:
    return YAML(typ="safe").load(path)


def resources() -> list[Any]:
    found = []
    for path in MANIFESTS:
        manifest = load(path)
        for part in ("sources", "targets"):
            found += [
                pytest.param(part, one, manifest, id=f"{path.stem}/{part}/{name}")
                for name, one in manifest.get(part, {}).items()
            ]
    return found


def test_the_pins_that_are_kept() -> None:
    assert [path.stem for path in MANIFESTS] == ["actions", "buildkit", "go"]


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_a_manifest(path: Path) -> None:
    manifest = load(path)
    assert manifest.keys() <= {"name", "pipelineid", "sources", "targets", "autodiscovery"}
    assert manifest["pipelineid"] == f"pins/{path.stem}"
    assert bool(manifest.get("autodiscovery")) is not bool(manifest.get("targets"))


@pytest.mark.parametrize(("part", "one", "manifest"), resources())
def test_a_resource(part: str, one: Any, manifest: Any) -> None:
    keys = {"name", "kind", "spec"} | ({"transformers"} if part == "sources" else {"sourceid"})
    assert one.keys() == keys
    assert one["spec"].keys() == SPECS[one["kind"]]
    assert one["spec"].get("versionfilter", {}).keys() <= FILTERS
    if part == "targets":
        assert one["sourceid"] in manifest["sources"]


@pytest.mark.parametrize("name", ["buildkit", "go"])
def test_what_it_runs_is_a_task_of_ours(name: str) -> None:
    command = load(FOLDER / "updatecli.d" / f"{name}.yaml")["targets"]["pins"]["spec"]["command"]
    script, fact, task = shlex.split(command)
    assert (project.ROOT / script).is_file()
    assert fact in update.show()
    assert task in TASKS


def test_the_line_of_go_is_the_pinned_one() -> None:
    pattern = load(FOLDER / "updatecli.d" / "go.yaml")["sources"]["go"]["spec"]["versionfilter"]["pattern"]  # fmt: skip
    release = Version(pins.load().go).release
    assert pattern == f"{release[0]}.{release[1]}.x"


def test_what_is_older_than_the_pinned_release_is_no_news() -> None:
    spec = load(FOLDER / "updatecli.d" / "buildkit.yaml")["sources"]["buildkit"]["spec"]
    assert Version(spec["versionfilter"]["pattern"].removeprefix(">=")) <= Version(pins.load().version)  # fmt: skip


Move = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def move(tmp_path: Path, script: Callable[[str, str], Path]) -> Move:
    """Runs our script beside an `invoke` that tells what it is asked."""
    shown = '{\\n  "version": "v0.32.2",\\n  "Go": "go1.26.10"\\n}\\n'
    script(
        "invoke",
        f"if [ $1 = source.show ]; then printf '{shown}'; exit; fi\n"
        'echo "$*" >>asked; [ "$2" != v0.99.0 ]',
    )

    def run(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [FOLDER / "move", *args], cwd=tmp_path, env={"PATH": "/usr/bin:/bin", **env},
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    return run


def test_a_pin_is_moved(move: Move, tmp_path: Path) -> None:
    done = move("version", "source.update", "v0.33.0", DRY_RUN="false")
    assert (done.returncode, done.stdout) == (0, "version v0.33.0\n")
    assert (tmp_path / "asked").read_text() == "source.update v0.33.0\n"


def test_dry_it_is_only_told(move: Move, tmp_path: Path) -> None:
    done = move("version", "source.update", "v0.33.0", DRY_RUN="true")
    assert (done.returncode, done.stdout) == (0, "version v0.33.0\n")
    assert not (tmp_path / "asked").exists()


@pytest.mark.parametrize(("fact", "version"), [("version", "v0.32.2"), ("Go", "go1.26.10")])
def test_what_is_pinned_is_not_moved(move: Move, tmp_path: Path, fact: str, version: str) -> None:
    done = move(fact, "source.update", version)
    assert (done.returncode, done.stdout) == (0, "")
    assert not (tmp_path / "asked").exists()


def test_a_task_that_fails_is_a_failure(move: Move) -> None:
    done = move("version", "source.update", "v0.99.0")
    assert done.returncode != 0
    assert done.stdout == ""


def test_a_word_is_missing(move: Move) -> None:
    assert move("version", "source.update").returncode != 0
