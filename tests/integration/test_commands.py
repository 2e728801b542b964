"""The command line: list, help, JSON, GitHub Actions, errors."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import fastjsonschema
import pytest

from buildkit_riscv64.validation.environment.scripts import script

from .miniature import CHECKOUT, Project, refused, succeeded

pytestmark = pytest.mark.integration

DOCUMENTED = ["build-binaries", "check-binaries", "doctor", "test", "verify-binaries"]


@pytest.fixture(scope="module")
def here() -> Project:
    """This checkout, for commands that only print."""
    return Project(CHECKOUT, dict(os.environ))


def test_list(here: Project) -> None:
    listed = re.findall(r"^  ([a-z][\w.-]*)", succeeded(here.invoke("--list")).stdout, re.M)
    assert set(DOCUMENTED) <= set(listed)
    assert [name for name in listed if name.startswith("pins.")] == [
        "pins.show",
        "pins.update",
        "pins.update-go",
    ]
    data = succeeded(here.invoke("--list", "--list-format", "json")).json
    assert {t["name"] for t in data["tasks"]} >= set(DOCUMENTED)
    # The first line of the documentation is a sentence.
    assert all(task["help"].endswith(".") for task in data["tasks"])


def test_help_of_every_task(here: Project) -> None:
    listed = re.findall(r"^  ([a-z][\w.-]*)", succeeded(here.invoke("--list")).stdout, re.M)
    for name in listed:
        text = succeeded(here.invoke("--help", name)).stdout
        assert text.startswith(f"Usage: invoke {name}")
        assert "\nExamples:\n" in text


def test_unknown_task_and_option(here: Project) -> None:
    refused(here.invoke("no-such-task"), 2, "no-such-task")
    refused(here.invoke("build-binaries", "--no-such-option"), 2, "--no-such-option")


def test_json_of_a_build(built: Project) -> None:
    shown = succeeded(built.invoke("build-binaries", "--json")).json
    assert shown.pop("up_to_date") is True
    assert shown == built.manifest()
    done = succeeded(built.invoke("build-binaries", "--force", "--json"))
    shown = done.json
    assert shown.pop("up_to_date") is False
    assert shown == built.manifest()


def test_doctor_as_json(built: Project) -> None:
    done = built.invoke("doctor", "--phase", "binaries", "--json")
    assert done.code in {0, 12}
    assert {f["status"] for f in done.json} <= {"OK", "WARN", "FAIL"}
    assert (done.code == 12) == any(f["status"] == "FAIL" for f in done.json)
    for finding in done.json:
        assert finding["why"]
        assert finding["status"] == "OK" or finding["fix"]
    refused(built.invoke("doctor", "--phase", "five"), 2, "five")


def test_annotations_and_summary_in_github_actions(built: Project, tmp_path: Path) -> None:
    summary = tmp_path / "summary.md"
    env = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(summary)}
    built.build("--force", env=env)
    for file in built.manifest()["files"]:
        assert f"| {file['name']} |" in summary.read_text()
        assert file["sha256"] in summary.read_text()


def test_closed_pipe(built: Project) -> None:
    """`invoke … | head` ends without an error message."""
    script(built.root / "pipe", '"$@" | head -n 0; true')
    done = built.invoke("build-binaries", "--json", prefix=[str(built.root / "pipe")])
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


def test_unexpected_error(built: Project) -> None:
    """An unexpected error is one line; --debug shows the traceback."""
    with (built.root / "buildkit_riscv64" / "core" / "dist.py").open("a") as file:
        file.write("\n\ndef find(path):\n    return 1 / 0\n")
    refused(built.invoke("build-binaries"), 1, "ZeroDivisionError")
    done = built.invoke("--debug", "build-binaries")
    assert done.code == 1
    assert "Traceback" in done.stderr


def test_manifest_schema(built: Project) -> None:
    schema = json.loads(
        (CHECKOUT / "buildkit_riscv64/core/schemas" / "manifest.schema.json").read_text()
    )
    schema_only = fastjsonschema.compile(schema, use_formats=False)
    schema_only(built.manifest())
