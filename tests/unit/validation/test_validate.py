from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from buildkit_riscv64 import dist, process, project, storage
from buildkit_riscv64.errors import (
    BusyError,
    CheckError,
    MissingRequirementError,
    NotNativeError,
    UsageError,
)
from buildkit_riscv64.validation import evidence
from buildkit_riscv64.validation.suites import SUITES, Suite
from buildkit_riscv64.validation.validate import Options, Outcomes, Record, environment, validate

from ..making import Commands
from .scenes import TARGET, Publish, record, result, scene


def options(**changes: Any) -> Options:
    asked: dict[str, Any] = {"only": "", "target": "linux-riscv64", "select": ""}
    return Options.parse(**asked | changes)


Told = list[tuple[str, int, int, str]]


@pytest.fixture
def told() -> Told:
    return []


def run(told: Told, **changes: Any) -> Outcomes:
    def tell(suite: Suite, number: int, total: int, one: Mapping[str, Any]) -> None:
        told.append((suite.name, number, total, one["name"]))

    return validate(options(**changes), tell)


def option(words: list[str], name: str) -> Path:
    return Path(next(word for word in words if word.startswith(f"{name}=")).partition("=")[2])


def pytest_does(commands: Commands, suite: str, *results: dict[str, Any], code: int = 0, rest: str = "", **planned: Any) -> None:  # fmt: skip
    """Have pytest leave this of a suite."""

    def leave(words: list[str]) -> None:
        record(option(words, "--record"), *results, rest=rest, **planned)
        option(words, "--junitxml").write_text(f"<testsuites name='{suite}'/>")
        assert option(words, "--basetemp").parent.is_dir()

    commands.answer(f"tests/validation/{suite}", stdout="…\n=== 1 passed in 2s ===\n", code=code, does=leave)  # fmt: skip


@pytest.fixture
def ready(complete_dist: Path, commands: Commands, provided: list[Any]) -> Commands:
    """Everything is there; each suite has one scenario, which passes."""
    for name in SUITES:
        pytest_does(commands, name, scene())
    return commands


def started(commands: Commands) -> list[list[str]]:
    return [call.args for call in commands.calls if call.verb == "stream"]


# What is asked.


@pytest.mark.parametrize("changes", [{"only": "x"}, {"target": "linux-vax"}])
def test_bad_options(changes: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        options(**changes)


def test_the_command(ready: Commands, told: Told, capsys: pytest.CaptureFixture[str]) -> None:
    run(told, only="standalone", select="a or b", yes=True)
    (words,) = started(ready)
    made = project.DIST / ".linux-riscv64.validation.staging"
    workshop = option(words, "--basetemp").parent
    assert words == [
        sys.executable, "-m", "pytest", "tests/validation/standalone", "--color=no",
        "-p", "no:cacheprovider", "-p", "buildkit_riscv64.validation.recorder",
        f"--record={made}/standalone.jsonl", f"--junitxml={made}/junit-standalone.xml",
        "--override-ini", "junit_suite_name=standalone", f"--basetemp={workshop}/p",
        "--continue-on-collection-errors", "-k", "a or b",
    ]  # fmt: skip
    (call,) = [call for call in ready.calls if call.verb == "stream"]
    assert call.options["cwd"] == project.ROOT
    assert call.options["env"]["TMPDIR"] == str(workshop)
    assert call.options["grace"] == 60.0
    assert workshop.parent == Path("/var/tmp")
    assert not workshop.exists()
    assert "=== 1 passed in 2s ===\n" in capsys.readouterr().err


def test_the_environment(checkout: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYTEST_ADDOPTS", "-k nothing")
    monkeypatch.setenv("ANYTHING", "else")
    seen = environment(options(online=True), tmp_path)
    assert seen["HYPOTHESIS_STORAGE_DIRECTORY"] == str(tmp_path / "hypothesis")
    assert "PYTEST_ADDOPTS" not in seen
    assert seen["ANYTHING"] == "else"
    assert seen["BUILDKIT_VALIDATION_DIST"] == str(project.DIST)
    assert seen["BUILDKIT_VALIDATION_TARGET"] == "linux-riscv64"
    assert seen["BUILDKIT_VALIDATION_ONLINE"] == "1"
    assert environment(options(), tmp_path)["BUILDKIT_VALIDATION_ONLINE"] == ""


# What happens.


def test_all_suites(ready: Commands, told: Told, provided: list[Any]) -> None:
    outcomes = run(told, yes=True)
    assert outcomes.ran == list(SUITES)
    assert told == [(name, 1, 1, "test_one") for name in SUITES]
    assert outcomes.artifacts is not None
    document = outcomes.artifacts.manifest
    assert evidence.load(outcomes.artifacts.path).manifest == document
    assert document["counts"] == {"passed": 4, "failed": 0, "not proven": 0}
    (tools, yes), emulators = provided
    assert yes
    assert {"rootlesskit", "runc", "openssl"} <= set(tools)
    assert emulators == ("emulators", True)
    place = dist.evidence_folder(TARGET)
    assert {path.name for path in place.iterdir()} == {
        "evidence.json", "index.html", "SHA256SUMS",
        *map(evidence.junit, SUITES), *map(evidence.log, SUITES),
    }  # fmt: skip
    assert (place / evidence.log("buildx")).read_text() == "…\n=== 1 passed in 2s ===\n"
    listed = [line.partition("  ") for line in (place / dist.SUMS).read_text().splitlines()]
    assert all(storage.sha256(place / name) == digest for digest, _, name in listed)
    assert len(listed) == len(list(place.iterdir())) - 1
    assert not list(project.DIST.glob(".*staging*"))


def test_only_what_is_asked_for_is_provided(ready: Commands, told: Told, provided: list[Any]) -> None:  # fmt: skip
    run(told, only="standalone")
    ((tools, yes),) = provided
    assert not yes
    assert "rootlesskit" not in tools


def test_one_suite_replaces_its_own_results(ready: Commands, told: Told) -> None:
    run(told)
    before = dist.load(dist.evidence_folder(TARGET)).manifest
    pytest_does(ready, "buildx", scene("test_two", "failed"), code=1)
    outcomes = run(told, only="buildx")
    assert outcomes.artifacts is not None
    after = outcomes.artifacts.manifest
    assert [one["name"] for one in after["suites"]["buildx"]["scenarios"]] == ["test_two"]
    for name in ("standalone", "rootless", "platforms"):
        assert after["suites"][name] == before["suites"][name]
        assert (outcomes.artifacts.path / evidence.junit(name)).is_file()


def test_dry(ready: Commands, told: Told, capsys: pytest.CaptureFixture[str]) -> None:
    outcomes = run(told, only="buildx", select="a b", dry=True)
    assert outcomes.artifacts is None
    assert started(ready) == []
    said = capsys.readouterr().err
    assert "would run: " in said
    assert "-m pytest tests/validation/buildx" in said
    assert "-k 'a b'" in said
    assert "dist/linux-riscv64/evidence/" in said
    assert not dist.evidence_folder(TARGET).exists()
    assert not list(project.DIST.glob(".*"))


# What is refused, before anything starts.


def refused(ready: Commands, told: Told, error: type[Exception], match: str, **changes: Any) -> None:  # fmt: skip
    with pytest.raises(error, match=match):
        run(told, **changes)
    assert started(ready) == []
    assert not dist.evidence_folder(TARGET).exists()
    assert not list(project.DIST.glob(".*staging*"))


def test_mixed_builds(ready: Commands, told: Told, complete_dist: Path) -> None:
    path = complete_dist / dist.binary("buildctl")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    refused(ready, told, CheckError, "not that of its manifest|not those of its manifest")


def test_another_architecture(ready: Commands, told: Told) -> None:
    refused(ready, told, NotNativeError, "linux-arm64", target="linux-arm64")


def test_not_root(ready: Commands, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    refused(ready, told, MissingRequirementError, "as root")


def test_another_run(ready: Commands, told: Told) -> None:
    with dist.lock(TARGET):
        refused(ready, told, BusyError, "another run")


def test_nothing_is_selected(ready: Commands, told: Told) -> None:
    for name in SUITES:
        pytest_does(ready, name, code=5)
    with pytest.raises(UsageError, match="--select nonsense: no scenario of standalone, buildx"):
        run(told, select="nonsense")
    assert not dist.evidence_folder(TARGET).exists()


def test_a_suite_of_which_nothing_is_selected_stays(ready: Commands, told: Told) -> None:
    run(told)
    pytest_does(ready, "standalone", code=5)
    outcomes = run(told, select="one")
    assert outcomes.artifacts is not None
    partial = {name: s["partial"] for name, s in outcomes.artifacts.manifest["suites"].items()}
    assert partial == {"standalone": False, "buildx": True, "rootless": True, "platforms": True}


def test_an_expression_that_is_none(ready: Commands, told: Told) -> None:
    ready.answer("pytest", code=4, stdout="ERROR: Wrong expression passed to '-k': (\n")
    with pytest.raises(UsageError, match="Wrong expression"):
        run(told, select="(")


# What goes wrong.


@pytest.mark.parametrize(("code", "how"), [(-9, "killed by SIGKILL"), (3, "exit code 3")])
def test_pytest_crashes(ready: Commands, told: Told, code: int, how: str) -> None:
    torn = '{"result": {"name": "test_tw'
    pytest_does(
        ready, "standalone", scene(), collected=[scene("test_two")], code=code, rest=torn
    )  # fmt: skip
    outcomes = run(told, only="standalone")
    assert outcomes.artifacts is not None
    suite = outcomes.artifacts.manifest["suites"]["standalone"]
    assert suite["aborted"] == f"pytest ended early ({how})"
    assert suite["counts"] == {"passed": 1, "failed": 0, "not proven": 1}
    assert suite["scenarios"][1]["name"] == "test_two"
    assert suite["scenarios"][1]["reason"] == f"never ran: pytest ended early ({how})"


def test_a_suite_without_scenarios(ready: Commands, told: Told) -> None:
    pytest_does(ready, "platforms", code=5)
    outcomes = run(told, only="platforms")
    assert outcomes.artifacts is not None
    assert outcomes.artifacts.manifest["suites"]["platforms"]["aborted"] == "it has no scenarios"


def test_nothing_was_recorded_at_all(ready: Commands, told: Told) -> None:
    ready.answer("pytest", code=-11)
    outcomes = run(told, only="standalone")
    assert outcomes.artifacts is not None
    suite = outcomes.artifacts.manifest["suites"]["standalone"]
    assert (suite["scenarios"], suite["aborted"]) == ([], "pytest ended early (killed by SIGSEGV)")
    assert not (outcomes.artifacts.path / evidence.junit("standalone")).exists()


def test_an_interruption_leaves_the_earlier_evidence(ready: Commands, told: Told) -> None:
    run(told)
    place = dist.evidence_folder(TARGET)
    before = {path.name: path.read_bytes() for path in place.iterdir()}

    def interrupt(_words: list[str]) -> None:
        raise KeyboardInterrupt

    ready.answer("tests/validation/standalone", does=interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(told)
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before
    assert not list(project.DIST.glob(".*staging*"))


def test_what_has_ended_before_an_interruption_is_kept(ready: Commands, told: Told) -> None:
    def interrupt(_words: list[str]) -> None:
        raise KeyboardInterrupt

    ready.answer("tests/validation/rootless", does=interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(told)
    kept = dist.load(dist.evidence_folder(TARGET)).manifest
    assert list(kept["suites"]) == ["standalone", "buildx"]


@pytest.mark.parametrize("text", ["{", "[]", '{"evidence_version": 1}', '{"evidence_version": 2}'])
def test_damaged_evidence_is_replaced(ready: Commands, told: Told, capsys: pytest.CaptureFixture[str], text: str) -> None:  # fmt: skip
    place = dist.evidence_folder(TARGET)
    place.mkdir()
    (place / dist.RESULTS).write_text(text)
    run(told, only="standalone")
    assert "what it told is dropped" in capsys.readouterr().err
    assert list(evidence.load(place).manifest["suites"]) == ["standalone"]


def test_results_of_another_build_are_dropped(ready: Commands, told: Told, publish: Publish, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    publish({"standalone": result(), "buildx": result()})
    place = dist.evidence_folder(TARGET)
    text = (place / dist.RESULTS).read_text()
    binary = dist.load(place).manifest["binaries"]["buildctl"]
    (place / dist.RESULTS).write_text(text.replace(binary, "0" * 64))
    run(told, only="standalone")
    assert "dropped the earlier results of buildx" in capsys.readouterr().err
    assert list(dist.load(place).manifest["suites"]) == ["standalone"]


# What the recorder has written.


def test_a_record_is_followed_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "record"
    followed = Record(path)
    assert followed.follow() == []
    record(path, scene("test_one"))
    assert [one["name"] for one in followed.follow()] == ["test_one"]
    with path.open("a") as file:
        file.write('{"result": {"group": "life", "na')
        file.flush()
        assert followed.follow() == []
        file.write('me": "test_two"}}\n{"used": {"docker": "26.1.5"}}\n')
    assert [one["name"] for one in followed.follow()] == ["test_two"]
    assert followed.follow() == []
    assert followed.used == {"docker": "26.1.5"}
    assert [one["name"] for one in followed.results] == ["test_one", "test_two"]


@pytest.mark.parametrize("rest", ["", '{"result"', "\x00\xff", "\n\n", "not JSON\n"])
def test_a_record_that_was_cut(tmp_path: Path, rest: str) -> None:
    record(tmp_path / "record", scene("test_one"), collected=[scene("test_two")], rest=rest)
    one, two = Record(tmp_path / "record").all("")
    assert (one["name"], one["outcome"]) == ("test_one", "passed")
    assert (two["outcome"], two["reason"]) == ("not proven", "never ran: nothing was heard of it")
    assert "suite" not in {*one, *two}


def test_process_stream_has_the_grace_that_we_ask_for() -> None:
    """The fake above would accept anything."""
    import inspect

    assert "grace" in inspect.signature(process.stream).parameters
