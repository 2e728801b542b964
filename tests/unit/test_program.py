"""The command line: errors for wrong input, and help."""

from __future__ import annotations

import json
import os
import re
import shlex
import string
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tasks
from buildkit_riscv64 import program
from buildkit_riscv64.core import errors, pins, project
from buildkit_riscv64.examples import EXAMPLES, FIRST
from buildkit_riscv64.validation.environment.scripts import script

from .factories import Commands
from .test_cli import whole

NAMES = sorted(tasks.ns.task_names)


def run(*words: str) -> int:
    """Run the command line in this process, and return its exit code."""
    line = program.CommandLine(namespace=None, name="Invoke", binary="invoke")
    try:
        line.run(["invoke", *words])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def parsed(*words: str) -> list[str]:
    """The tasks that a command line runs."""
    line = program.CommandLine(name="Invoke", binary="invoke")
    line.create_config()
    line.parse_core(list(words))
    line.parse_collection()
    line.parse_tasks()
    return [str(task.name) for task in line.tasks]


def json_tasks() -> list[str]:
    return [name for name in NAMES if "--json" in flags(name)]


def flags(name: str) -> Any:
    return next(c for c in tasks.ns.to_contexts() if c.name == name).flags


@pytest.mark.parametrize("name", NAMES)
def test_one_letter_flags(name: str) -> None:
    short = {f"-{letter}" for letter in string.ascii_letters if f"-{letter}" in flags(name)}
    assert short == ({"-y"} if "--yes" in flags(name) else set())


@pytest.mark.parametrize("name", NAMES)
def test_help_shows_usage_defaults_and_examples(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(name, "--help") == 0
    output = capsys.readouterr().out
    assert output.startswith(f"Usage: invoke {name}")
    assert max(map(len, output.splitlines())) <= 100
    long = [flag for flag in flags(name) if len(flag) > 2]
    for flag in long:
        assert flag in output or flag.removeprefix("--").upper() in output
    assert output.count("Default") >= len(re.findall(r"^  --", output, re.MULTILINE))
    assert all(example in output for example in EXAMPLES[name])
    assert run("--help", name) == 0
    assert capsys.readouterr().out == output


@pytest.mark.parametrize("name", NAMES)
def test_examples_parse(name: str) -> None:
    assert len(EXAMPLES[name]) >= 2
    for example in EXAMPLES[name]:
        assert parsed(*shlex.split(example)) == [name]


def test_the_overview_names_every_task(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    output = capsys.readouterr().out
    assert all(re.search(rf"^  {re.escape(name)}\b", output, re.MULTILINE) for name in NAMES)
    assert all(command in output for command, _ in FIRST)


@pytest.mark.parametrize("words", [[], ["--list"], ["--help"], ["status", "--help"], ["--version"]])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_closed_pipe(words: list[str], unbuffered: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = whole(*words, stdout=writer)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize(
    ("words", "candidates"),
    [
        (["invoke", "machine.cr"], {"machine.create"}),
        (["./invoke", "build-binaries", "--bu"], {"--bundle"}),
        (["invoke", "status", "--"], {"--target", "--json"}),
        (["invoke", "--list-d"], {"--list-depth"}),
    ],
)
def test_bash_completes(words: list[str], candidates: set[str], tmp_path: Path) -> None:
    script(tmp_path / "invoke", f'exec "{sys.executable}" -m buildkit_riscv64 "$@"')
    typed = """
        source <(invoke --print-completion-script bash)
        complete -p "$1" >&2
        COMP_WORDS=("$@")
        _complete_invoke "$1" "${@: -1}"
        printf '%s\n' "${COMPREPLY[@]}"
    """
    done = subprocess.run(
        ["bash", "-euc", typed, "bash", *words], cwd=project.ROOT, capture_output=True, text=True,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}, check=False,
    )  # fmt: skip
    assert set(done.stdout.split()) == candidates, done.stderr


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert pins.load().version in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "facts"),
    [
        (["bild-binaries"], ["bild-binaries", "build-binaries"]),
        (["machine.creat"], ["machine.create"]),
        (["--help", "bild-binaries"], ["build-binaries"]),
        (["build-binaries", "--bundel"], ["--bundel", "--bundle"]),
        (["--hepl"], ["--hepl", "--help"]),
        (["release", "-r", "me/repo"], ["-r"]),
        (["machine.logs", "-l", "5"], ["-l"]),
        (["check-binaries", "--target"], ["--target"]),
        (["check-binaries", "--target", "--json"], ["--target"]),
        (["check-binaries", "--target", "--dry"], ["--target"]),
        (["machine.create", "--cpus", "two"], ["--cpus", "two"]),
        (["machine.create", "--cpus=2.5"], ["--cpus", "2.5"]),
        (["pins.update"], ["VERSION"]),
        (["on"], ["MACHINE"]),
        (["status", "extra"], ["extra"]),
        (["--list", "nothing"], ["nothing"]),
        (["--list-format", "xml", "--list"], ["--list-format", "xml", "json"]),
        (["--list-depth=two"], ["--list-depth", "two"]),
        (["--command-timeout", "soon", "status"], ["--command-timeout", "soon"]),
        (["--command-timeout"], ["--command-timeout"]),
        (["--config"], ["--config", "value"]),
        (["build-binaries", "--yes=maybe"], ["--yes", "value"]),
        (["build-binaries", "--yes", "no"], ["'no'", "build-binaries"]),
        (["status", "--target", "linux-amd64", "--target=linux-arm64"], ["--target", "twice"]),
        (
            ["pins.update", "v0.33.1", "v0.34.2"],
            ["v0.34.2", "usage: invoke pins.update VERSION"],
        ),
        (["machine"], ["machine.create", "machine.stop"]),
        (["--print-completion-script", "csh"], ["csh", "bash"]),
    ],
)
def test_bad_usage(words: list[str], facts: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*words) == 2
    out, err = capsys.readouterr()
    assert bool(out) is ("--json" in words)
    brief, hint = err.splitlines()
    assert brief.startswith("error: ")
    assert hint.startswith("  fix: ")
    assert all(fact in err for fact in facts)


@pytest.mark.parametrize("name", json_tasks())
def test_json_on_failure(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(name, "--json", "--no-such-flag") == 2
    document = json.loads(capsys.readouterr().out)
    assert document["code"] == 2
    assert "--no-such-flag" in document["error"]
    assert document["fix"]


def test_the_same_flag_for_two_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--dry", "pins.show", "--json", "pins.show", "--json") == 0
    capsys.readouterr()


@pytest.mark.parametrize("name", json_tasks())
def test_json_in_a_fresh_clone(
    name: str, checkout: Path, commands: Commands, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a fresh clone, with commands without output, under --dry."""
    code = run("--dry", name, "--json")
    document = json.loads(capsys.readouterr().out)
    assert code in {one.exit_code for one in errors.documented()} | {0}
    # A task with findings prints them and then fails.
    if code and isinstance(document, dict):
        assert (document["code"], bool(document["error"])) == (code, True)


def test_arguments_after_two_dashes(capsys: pytest.CaptureFixture[str]) -> None:
    assert parsed("invoke", "on", "riscv64", "--", "ls", "-l", "--help", "--json") == ["on"]
    assert not capsys.readouterr().out


@pytest.mark.parametrize(
    ("former", "name"), [pair for pair in program.RENAMED.items() if not pair[0].startswith("--")]
)
def test_former_names_of_tasks(former: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(former, "--help") == 0
    output = capsys.readouterr()
    assert output.out.startswith(f"Usage: invoke {name}")
    assert name in output.err
    # Arguments of another command are not changed.
    assert run("on", "--", former) != 0
    assert name not in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--via", "bazel"], ["--via=bazel"]])
def test_former_name_of_a_flag(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("build-binaries", *words) == 2
    shown = capsys.readouterr().err
    assert "--via is now called --method" in shown
    assert "--method bazel" in shown
