"""The manifests of updatecli, and their commands.

The tests do not run updatecli. Its documentation defines the valid keys:
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

from buildkit_riscv64.core import pins, project
from buildkit_riscv64.upstream import update_pins

from .test_tasks import TASKS

DIRECTORY = project.ROOT / ".github" / "updatecli"
MANIFESTS = sorted((DIRECTORY / "updatecli.d").glob("*.yaml"))
#: The keys that we use of each kind of resource.
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


def test_manifests() -> None:
    assert [path.stem for path in MANIFESTS] == ["actions", "buildkit", "go"]


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_keys_of_manifests(path: Path) -> None:
    manifest = load(path)
    assert manifest.keys() <= {"name", "pipelineid", "sources", "targets", "autodiscovery"}
    assert manifest["pipelineid"] == f"pins/{path.stem}"
    assert bool(manifest.get("autodiscovery")) is not bool(manifest.get("targets"))


@pytest.mark.parametrize(("part", "one", "manifest"), resources())
def test_keys_of_resources(part: str, one: Any, manifest: Any) -> None:
    keys = {"name", "kind", "spec"} | ({"transformers"} if part == "sources" else {"sourceid"})
    assert one.keys() == keys
    assert one["spec"].keys() == SPECS[one["kind"]]
    assert one["spec"].get("versionfilter", {}).keys() <= FILTERS
    if part == "targets":
        assert one["sourceid"] in manifest["sources"]


@pytest.mark.parametrize("name", ["buildkit", "go"])
def test_commands_are_tasks(name: str) -> None:
    command = load(DIRECTORY / "updatecli.d" / f"{name}.yaml")["targets"]["pins"]["spec"]["command"]
    script, fact, task = shlex.split(command)
    assert (project.ROOT / script).is_file()
    assert fact in update_pins.show()
    assert task in TASKS


def test_go_version_filter() -> None:
    pattern = load(DIRECTORY / "updatecli.d" / "go.yaml")["sources"]["go"]["spec"]["versionfilter"]["pattern"]  # fmt: skip
    release = Version(pins.load().go).release
    assert pattern == f"{release[0]}.{release[1]}.x"


def test_buildkit_version_filter() -> None:
    spec = load(DIRECTORY / "updatecli.d" / "buildkit.yaml")["sources"]["buildkit"]["spec"]
    assert Version(spec["versionfilter"]["pattern"].removeprefix(">=")) <= Version(pins.load().version)  # fmt: skip


Script = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def move(tmp_path: Path, script: Callable[[str, str], Path]) -> Script:
    """Run our script beside an `invoke` that records its arguments."""
    output = '{\\n  "version": "v0.32.2",\\n  "Go": "go1.26.10"\\n}\\n'
    script(
        "invoke",
        f"if [ $1 = pins.show ]; then printf '{output}'; exit; fi\n"
        'echo "$*" >>calls; [ "$2" != v0.99.0 ]',
    )

    def run(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [DIRECTORY / "move", *args], cwd=tmp_path, env={"PATH": "/usr/bin:/bin", **env},
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    return run


def test_update(move: Script, tmp_path: Path) -> None:
    done = move("version", "pins.update", "v0.33.0", DRY_RUN="false")
    assert (done.returncode, done.stdout) == (0, "version v0.33.0\n")
    assert (tmp_path / "calls").read_text() == "pins.update v0.33.0\n"


def test_dry_run(move: Script, tmp_path: Path) -> None:
    done = move("version", "pins.update", "v0.33.0", DRY_RUN="true")
    assert (done.returncode, done.stdout) == (0, "version v0.33.0\n")
    assert not (tmp_path / "calls").exists()


@pytest.mark.parametrize(("fact", "version"), [("version", "v0.32.2"), ("Go", "go1.26.10")])
def test_the_pinned_version_is_not_updated(
    move: Script, tmp_path: Path, fact: str, version: str
) -> None:
    done = move(fact, "pins.update", version)
    assert (done.returncode, done.stdout) == (0, "")
    assert not (tmp_path / "calls").exists()


def test_task_failure(move: Script) -> None:
    done = move("version", "pins.update", "v0.99.0")
    assert done.returncode != 0
    assert done.stdout == ""


def test_missing_argument(move: Script) -> None:
    assert move("version", "pins.update").returncode != 0
