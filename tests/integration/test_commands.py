"""What the command line says about itself."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import fastjsonschema
import pytest

from .miniature import CHECKOUT, Project, refused, script, succeeded

pytestmark = pytest.mark.integration

DOCUMENTED = ["build-binaries", "check-binaries", "doctor", "test", "verify-binaries"]


@pytest.fixture(scope="module")
def here() -> Project:
    """This checkout itself; only asked what it can do."""
    return Project(CHECKOUT, dict(os.environ))


def test_list(here: Project) -> None:
    listed = re.findall(r"^  ([a-z][\w.-]*)", succeeded(here.invoke("--list")).stdout, re.M)
    assert set(DOCUMENTED) <= set(listed)
    assert [name for name in listed if name.startswith("source.")] == [
        "source.show",
        "source.update",
        "source.update-go",
    ]
    data = succeeded(here.invoke("--list", "--list-format", "json")).json
    assert {t["name"] for t in data["tasks"]} >= set(DOCUMENTED)
    # Each says in its first line what it does.
    assert all(task["help"].endswith(".") for task in data["tasks"])


def test_help_of_every_task(here: Project) -> None:
    listed = re.findall(r"^  ([a-z][\w.-]*)", succeeded(here.invoke("--list")).stdout, re.M)
    for name in listed:
        text = succeeded(here.invoke("--help", name)).stdout
        docstring, options = text.split("Options:\n")
        assert "none" not in docstring.split("Docstring:\n")[1].splitlines()[0], name
        assert len(docstring.split("Docstring:\n")[1].strip()) > 20, name
        if options.strip() != "none":
            flags = [line for line in options.splitlines() if line.startswith("  -")]
            assert flags
            for line in flags:
                assert re.search(r"\S {2,}\S", line), f"{name}: no help for {line}"


def test_unknown_task_and_option(here: Project) -> None:
    for args in (["no-such-task"], ["build-binaries", "--no-such-option"]):
        done = here.invoke(*args)
        assert done.code == 1
        assert "Traceback" not in done.stderr


def test_from_a_folder_below(built: Project) -> None:
    below = Project(built.root / "docs", built.env)
    below.root.mkdir(exist_ok=True)
    assert "up to date" in succeeded(below.invoke("build-binaries")).stderr


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


def test_reader_that_has_seen_enough(built: Project) -> None:
    """`invoke … | head` ends quietly."""
    script(built.root / "pipe", '"$@" | head -n 0; true')
    done = built.invoke("build-binaries", "--json", prefix=[str(built.root / "pipe")])
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


def test_defect_of_ours(built: Project) -> None:
    """What nobody thought of is told in one line too; --debug shows where it was."""
    with (built.root / "buildkit_riscv64" / "dist.py").open("a") as file:
        file.write("\n\ndef find(path):\n    return 1 / 0\n")
    refused(built.invoke("build-binaries"), 1, "ZeroDivisionError")
    done = built.invoke("--debug", "build-binaries")
    assert done.code == 1
    assert "Traceback" in done.stderr


def test_manifest_fits_its_schema(built: Project) -> None:
    schema = json.loads((CHECKOUT / "schemas" / "manifest.schema.json").read_text())
    schema_only = fastjsonschema.compile(schema, use_formats=False)
    schema_only(built.manifest())
