"""The documentation: its commands, flags, links and files exist."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from buildkit_riscv64.core import project

from ..pages import BLOCKS, PAGES, Block, blocks_of, closed_files
from .test_workflows import errors, load, sessions  # noqa: F401 - a fixture

#: Placeholders, and flags of Invoke and nox.
FREE = re.compile(r"invoke (TASK|--list|--debug TASK|--print-completion|--dry TASK)|nox (--list|…)|invoke …")  # fmt: skip
#: Where `nox -s walkthrough` runs commands of pages.
PLACES = {"checkout", "debian", "docker"}


def ours(line: str) -> str:
    """Our command in a line, in the form of workflows; empty where there is none."""
    line = re.sub(r"^(sudo )?((\w+=\S* )*)(\./|\.venv/bin/)?(?=(invoke|nox)\b)", "./", line)
    return line if line.startswith(("./invoke", "./nox")) else ""


LINES = sorted({
    (block.page, line)
    for block in BLOCKS
    for line in map(ours, block.commands)
    if line and not FREE.search(line)
})  # fmt: skip


def test_number_of_commands() -> None:
    assert len(LINES) > 60


@pytest.mark.parametrize(("page", "line"), LINES)
def test_each_command_exists_with_its_flags(page: str, line: str, sessions: set[str]) -> None:  # noqa: F811 # fmt: skip
    assert list(errors(line, sessions)) == []


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("invoke status", "./invoke status"), ("sudo .venv/bin/invoke validate", "./invoke validate"),
        ("A=1 B= nox -s unit", "./nox -s unit"), ("./invoke doctor", "./invoke doctor"),
        ("docker run invoke", ""), ("ssh board invoke status", ""),
    ],
)  # fmt: skip
def test_ours(line: str, command: str) -> None:
    assert ours(line) == command


PAGE = """x
<!-- run in: docker -->
```sh
a \\
    b   # c
# alone
d#e
```
```toml
f
```
1. g

   <!-- not run: because -->
   ```sh
   h
   ```
<!-- run by: nox -s unit -->

Something else.
```sh
i
```
"""


def test_blocks_of_a_page() -> None:
    one, two, three = blocks_of(PAGE, "page.md")
    assert list(one.commands) == ["a b", "d#e"]
    assert (str(one), one.how, one.where) == ("page.md:3", "run in", "docker")
    assert (two.script, two.how, two.where) == ("h\n", "not run", "because")
    assert (three.how, three.where) == ("", "")


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_each_block_runs_or_has_a_reason(block: Block, sessions: set[str]) -> None:  # noqa: F811 # fmt: skip
    match block.how, block.where.split():
        case "run in", [place]:
            assert place in PLACES
        case "run by", ["nox", "-s", session]:
            assert session in sessions
        case "run by", [path]:
            assert (project.ROOT / path).exists()
        case "not run", [_, *_]:
            pass
        case _:
            pytest.fail(f"{block}: declare where this block runs, or why it does not")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        # From a page on GitHub, `../../` leads to the repository's other pages.
        if target.startswith("../../actions/workflows/"):
            workflow = target.split("/")[4]
            assert (project.ROOT / ".github" / "workflows" / workflow).exists(), target
        elif not target.startswith(("http:", "https:", "../../releases")):
            assert (page.parent / target).exists() or "reference/" in target, target


def test_every_page_is_in_the_index() -> None:
    index = (project.ROOT / "docs" / "index.md").read_text()
    for page in PAGES:
        name = page.relative_to(project.ROOT)
        if name.parts[0] == "docs" and name.name != "index.md":
            entry = re.escape(str(name.relative_to("docs").with_suffix("")))
            assert re.search(rf"^({entry}|[^\n]+ <{entry}>)$", index, re.MULTILINE), name


def test_tested_hardware_matches_its_sources() -> None:
    text = (project.ROOT / "docs" / "limits.md").read_text()
    rows = [
        line.split(" | ") for line in text.splitlines() if line.startswith("| ") and "](" in line
    ]
    assert len(rows) >= 5
    for machine, kernel, execution, _, date, link in rows:
        path = (project.ROOT / "docs" / link.split("](")[1].split(")")[0].split("#")[0]).resolve()
        source = path.read_text()
        assert execution.strip("`") in source
        assert date in source
        if path.suffix == ".json":
            document = json.loads(source)
            facts = document["runs"][-1]["host"] if "runs" in document else document["host"]
            assert facts["kernel"] == f"Linux {kernel}"
            assert facts["arch"] in machine


def test_ci_examples_run_the_same_commands() -> None:
    """`nox -s docs` validates them against the schemas of GitHub and GitLab."""
    directory = project.ROOT / "docs" / "ci"
    github = load(directory / "github.yml")["jobs"]["build"]
    gitlab = load(directory / "gitlab.yml")["build"]
    steps = [step["run"] for step in github["steps"] if "run" in step]
    assert steps == gitlab["before_script"] + gitlab["script"] + gitlab["after_script"]
    assert github["steps"][-1]["if"] == "always()", "a runner keeps a builder that no step removes"
    assert github["env"].keys() == {"IMAGE", "BUILDER"} == gitlab["variables"].keys()
    (checkout,) = (step["uses"] for step in github["steps"] if "uses" in step)
    assert re.fullmatch(r"actions/checkout@[0-9a-f]{40}", checkout)


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_files_of_the_system_are_readable_for_all(block: Block) -> None:
    assert closed_files(block.commands) == set()


@pytest.mark.parametrize(
    "line",
    [
        "sudo curl -fsSL -o /etc/apt/keyrings/x https://x", "echo x | sudo tee /etc/x", "x >/etc/x",
        "sudo mkdir -p /etc/systemd/x", "echo x | sudo tee -a /etc/x/y",
    ],
)  # fmt: skip
def test_closed_files(line: str) -> None:
    assert closed_files([line])
    path = next(word for word in line.replace(">", "> ").split() if word.startswith("/etc"))
    assert not closed_files([line, f"sudo chmod 644 {path}"])
