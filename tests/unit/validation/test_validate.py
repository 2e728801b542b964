from __future__ import annotations

import inspect
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from buildkit_riscv64.core import dist, dry_run, durations, filesystem, process, project
from buildkit_riscv64.core.errors import (
    BusyError,
    CheckError,
    MissingRequirementError,
    NotNativeError,
    UsageError,
)
from buildkit_riscv64.testing import capabilities
from buildkit_riscv64.validation import evidence
from buildkit_riscv64.validation.suites import SUITES, Suite
from buildkit_riscv64.validation.validate import (
    Outcomes,
    Record,
    ValidationOptions,
    environment,
    validate,
)

from ..factories import Commands
from .factories import TARGET, Publish, record, result, scene


def options(**changes: Any) -> ValidationOptions:
    asked: dict[str, Any] = {"only": "", "target": "linux-riscv64", "select": ""}
    return ValidationOptions.parse(**asked | changes)


Reported = list[tuple[str, int, int, str]]


@pytest.fixture
def reported() -> Reported:
    return []


def run(reported: Reported, *, dry: bool = False, **changes: Any) -> Outcomes:
    def progress(suite: Suite, number: int, total: int, one: Mapping[str, Any]) -> None:
        reported.append((suite.name, number, total, one["name"]))

    with dry_run.running(dry=dry):
        return validate(options(**changes), progress)


def option(words: list[str], name: str) -> Path:
    return Path(next(word for word in words if word.startswith(f"{name}=")).partition("=")[2])


def pytest_does(
    commands: Commands,
    suite: str,
    *results: dict[str, Any],
    code: int = 0,
    rest: str = "",
    **planned: Any,
) -> None:
    """Simulate pytest's results for a suite."""

    def leave(words: list[str]) -> None:
        record(option(words, "--record"), *results, rest=rest, **planned)
        option(words, "--junitxml").write_text(f"<testsuites name='{suite}'/>")
        assert option(words, "--basetemp").parent.is_dir()

    commands.answer(f"buildkit_riscv64/validation/scenarios/{suite}", stdout="…\n=== 1 passed in 2s ===\n", code=code, does=leave)  # fmt: skip


@pytest.fixture
def ready(complete_dist: Path, commands: Commands, provided: list[Any]) -> Commands:
    """Complete artifacts and tools; each suite has one scenario, which passes."""
    for name in SUITES:
        pytest_does(commands, name, scene())
    return commands


def started(commands: Commands) -> list[list[str]]:
    return [call.args for call in commands.calls if call.verb == "stream"]


# Options.


@pytest.mark.parametrize("changes", [{"only": "x"}, {"target": "linux-vax"}])
def test_bad_options(changes: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        options(**changes)


def test_command(ready: Commands, reported: Reported, capsys: pytest.CaptureFixture[str]) -> None:
    run(reported, only="standalone", select="a or b", yes=True)
    (words,) = started(ready)
    staging = project.DIST / ".linux-riscv64.validation.staging"
    workspace = option(words, "--basetemp").parent
    assert words == [
        sys.executable, "-m", "pytest", "buildkit_riscv64/validation/scenarios/standalone", "--color=no",
        "-p", "no:cacheprovider", "-p", "buildkit_riscv64.validation.pytest_plugin",
        f"--record={staging}/standalone.jsonl", f"--junitxml={staging}/junit-standalone.xml",
        "--override-ini", "junit_suite_name=standalone", f"--basetemp={workspace}/p",
        "--continue-on-collection-errors", "-k", "a or b",
    ]  # fmt: skip
    (call,) = [call for call in ready.calls if call.verb == "stream"]
    assert call.options["cwd"] == project.ROOT
    assert call.options["env"]["TMPDIR"] == str(workspace)
    assert call.options["grace"] == 60.0
    assert workspace.parent == Path("/var/tmp")
    assert not workspace.exists()
    assert "=== 1 passed in 2s ===\n" in capsys.readouterr().err


def test_environment(checkout: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYTEST_ADDOPTS", "-k nothing")
    secrets = ("BUILDKIT_SIGNING_KEY", "BUILDKIT_SIGNING_PASSPHRASE", "GH_TOKEN", "REGISTRY_PASSWORD")  # fmt: skip
    for name in secrets:
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example.org")
    monkeypatch.setenv(capabilities.TALLY, str(tmp_path / "tally"))
    variables = environment(options(online=True), tmp_path)
    assert variables["HYPOTHESIS_STORAGE_DIRECTORY"] == str(tmp_path / "hypothesis")
    assert "PYTEST_ADDOPTS" not in variables
    assert "secret" not in variables.values()
    assert variables[capabilities.TALLY] == str(tmp_path / "tally")
    assert variables["HTTPS_PROXY"] == "http://proxy.example.org"
    assert variables["BUILDKIT_VALIDATION_DIST"] == str(project.DIST)
    assert variables["BUILDKIT_VALIDATION_TARGET"] == "linux-riscv64"
    assert variables["BUILDKIT_VALIDATION_ONLINE"] == "1"
    assert environment(options(), tmp_path)["BUILDKIT_VALIDATION_ONLINE"] == ""


# Runs.


def test_all_suites(ready: Commands, reported: Reported, provided: list[Any]) -> None:
    outcomes = run(reported, yes=True)
    assert outcomes.ran == list(SUITES)
    assert reported == [(name, 1, 1, "test_one") for name in SUITES]
    assert outcomes.artifacts is not None
    staging = outcomes.artifacts.manifest
    assert evidence.load(outcomes.artifacts.path).manifest == staging
    assert staging["counts"] == {"passed": 4, "failed": 0, "not proven": 0}
    (tools, yes), emulators = provided
    assert yes
    assert {"rootlesskit", "runc", "openssl"} <= set(tools)
    assert emulators == ("emulators", True)
    place = dist.evidence_directory(TARGET)
    assert {path.name for path in place.iterdir()} == {
        "evidence.json", "index.html", "SHA256SUMS",
        *map(evidence.junit, SUITES), *map(evidence.log, SUITES),
    }  # fmt: skip
    assert (place / evidence.log("buildx")).read_text() == "…\n=== 1 passed in 2s ===\n"
    listed = [line.partition("  ") for line in (place / dist.SUMS).read_text().splitlines()]
    assert all(filesystem.sha256(place / name) == digest for digest, _, name in listed)
    assert len(listed) == len(list(place.iterdir())) - 1
    assert not list(project.DIST.glob(".*staging*"))


def test_durations_of_complete_suites_are_remembered(
    ready: Commands, reported: Reported, steps: list[str]
) -> None:
    wanted = [f"validate {name}" for name in SUITES]
    run(reported, select="one")
    assert steps == []
    pytest_does(ready, "buildx", scene(), code=3)
    run(reported)
    assert steps == wanted
    assert list(durations._load()) == [one for one in wanted if one != "validate buildx"]
    run(reported, only="rootless")
    assert len(durations._load()["validate rootless"]) == 2


def test_only_necessary_tools_are_installed(
    ready: Commands, reported: Reported, provided: list[Any]
) -> None:
    run(reported, only="standalone")
    ((tools, yes),) = provided
    assert not yes
    assert "rootlesskit" not in tools


def test_one_suite_replaces_its_own_results(ready: Commands, reported: Reported) -> None:
    run(reported)
    before = dist.load(dist.evidence_directory(TARGET)).manifest
    pytest_does(ready, "buildx", scene("test_two", "failed"), code=1)
    outcomes = run(reported, only="buildx")
    assert outcomes.artifacts is not None
    after = outcomes.artifacts.manifest
    assert [one["name"] for one in after["suites"]["buildx"]["scenarios"]] == ["test_two"]
    for name in ("standalone", "rootless", "platforms"):
        assert after["suites"][name] == before["suites"][name]
        assert (outcomes.artifacts.path / evidence.junit(name)).is_file()


def test_dry_run(ready: Commands, reported: Reported, capsys: pytest.CaptureFixture[str]) -> None:
    outcomes = run(reported, only="buildx", select="a b", dry=True)
    assert outcomes.artifacts is None
    assert started(ready) == []
    output = capsys.readouterr().err
    assert "-m pytest buildkit_riscv64/validation/scenarios/buildx" in output
    assert "-k 'a b'" in output
    assert "dist/linux-riscv64/evidence/" in output
    assert not dist.evidence_directory(TARGET).exists()
    assert not list(project.DIST.glob(".*"))


# Refused before anything starts.


def refused(
    ready: Commands, reported: Reported, error: type[Exception], match: str, **changes: Any
) -> None:
    with pytest.raises(error, match=match):
        run(reported, **changes)
    assert started(ready) == []
    assert not dist.evidence_directory(TARGET).exists()
    assert not list(project.DIST.glob(".*staging*"))


def test_mixed_builds(ready: Commands, reported: Reported, complete_dist: Path) -> None:
    path = complete_dist / dist.binary("buildctl")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    refused(ready, reported, CheckError, "its manifest")


def test_another_architecture(ready: Commands, reported: Reported) -> None:
    refused(ready, reported, NotNativeError, "linux-arm64", target="linux-arm64")


def test_not_root(ready: Commands, reported: Reported, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    refused(ready, reported, MissingRequirementError, "as root")


def test_another_run(ready: Commands, reported: Reported) -> None:
    with dist.lock(TARGET):
        refused(ready, reported, BusyError, "another run")


def test_no_scenario_selected(ready: Commands, reported: Reported) -> None:
    for name in SUITES:
        pytest_does(ready, name, code=5)
    with pytest.raises(UsageError, match=r"--select nonsense.*standalone, buildx"):
        run(reported, select="nonsense")
    assert not dist.evidence_directory(TARGET).exists()


def test_suite_without_selected_scenarios_is_unchanged(ready: Commands, reported: Reported) -> None:
    run(reported)
    pytest_does(ready, "standalone", code=5)
    outcomes = run(reported, select="one")
    assert outcomes.artifacts is not None
    partial = {name: s["partial"] for name, s in outcomes.artifacts.manifest["suites"].items()}
    assert partial == {"standalone": False, "buildx": True, "rootless": True, "platforms": True}


def test_invalid_expression(ready: Commands, reported: Reported) -> None:
    ready.answer("pytest", code=4, stdout="ERROR: Wrong expression passed to '-k': (\n")
    with pytest.raises(UsageError, match="Wrong expression"):
        run(reported, select="(")


# Failures.


@pytest.mark.parametrize(("code", "how"), [(-9, "killed by SIGKILL"), (3, "exit code 3")])
def test_pytest_crashes(ready: Commands, reported: Reported, code: int, how: str) -> None:
    torn = '{"result": {"name": "test_tw'
    pytest_does(
        ready, "standalone", scene(), collected=[scene("test_two")], code=code, rest=torn
    )  # fmt: skip
    outcomes = run(reported, only="standalone")
    assert outcomes.artifacts is not None
    suite = outcomes.artifacts.manifest["suites"]["standalone"]
    assert suite["aborted"] == f"pytest ended early ({how})"
    assert suite["counts"] == {"passed": 1, "failed": 0, "not proven": 1}
    assert suite["scenarios"][1]["name"] == "test_two"
    assert suite["scenarios"][1]["reason"] == f"never ran: pytest ended early ({how})"


def test_suite_without_scenarios(ready: Commands, reported: Reported) -> None:
    pytest_does(ready, "platforms", code=5)
    outcomes = run(reported, only="platforms")
    assert outcomes.artifacts is not None
    assert "no scenarios" in outcomes.artifacts.manifest["suites"]["platforms"]["aborted"]


def test_nothing_recorded(ready: Commands, reported: Reported) -> None:
    ready.answer("pytest", code=-11)
    outcomes = run(reported, only="standalone")
    assert outcomes.artifacts is not None
    suite = outcomes.artifacts.manifest["suites"]["standalone"]
    assert (suite["scenarios"], suite["aborted"]) == ([], "pytest ended early (killed by SIGSEGV)")
    assert not (outcomes.artifacts.path / evidence.junit("standalone")).exists()


def test_interrupted_run_keeps_the_earlier_evidence(ready: Commands, reported: Reported) -> None:
    run(reported)
    place = dist.evidence_directory(TARGET)
    before = {path.name: path.read_bytes() for path in place.iterdir()}

    def interrupt(_words: list[str]) -> None:
        raise KeyboardInterrupt

    ready.answer("buildkit_riscv64/validation/scenarios/standalone", does=interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(reported)
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before
    assert not list(project.DIST.glob(".*staging*"))


def test_interrupted_run_publishes_completed_suites(ready: Commands, reported: Reported) -> None:
    def interrupt(_words: list[str]) -> None:
        raise KeyboardInterrupt

    ready.answer("buildkit_riscv64/validation/scenarios/rootless", does=interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(reported)
    published = dist.load(dist.evidence_directory(TARGET)).manifest
    assert list(published["suites"]) == ["standalone", "buildx"]


@pytest.mark.parametrize("text", ["{", "[]", '{"evidence_version": 1}', '{"evidence_version": 2}'])
def test_damaged_evidence_is_replaced(
    ready: Commands, reported: Reported, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    place = dist.evidence_directory(TARGET)
    place.mkdir()
    (place / dist.RESULTS).write_text(text)
    run(reported, only="standalone")
    assert "dropped" in capsys.readouterr().err
    assert list(evidence.load(place).manifest["suites"]) == ["standalone"]


def test_results_of_another_build_are_dropped(
    ready: Commands, reported: Reported, publish: Publish, capsys: pytest.CaptureFixture[str]
) -> None:
    publish({"standalone": result(), "buildx": result()})
    place = dist.evidence_directory(TARGET)
    text = (place / dist.RESULTS).read_text()
    binary = dist.load(place).manifest["binaries"]["buildctl"]
    (place / dist.RESULTS).write_text(text.replace(binary, "0" * 64))
    run(reported, only="standalone")
    assert "dropped the earlier results of buildx" in capsys.readouterr().err
    assert list(dist.load(place).manifest["suites"]) == ["standalone"]


def test_each_suite_records_its_changes(ready: Commands, reported: Reported) -> None:
    first = run(reported).artifacts
    assert first is not None
    assert not any("changes" in suite for suite in first.manifest["suites"].values())
    for name in SUITES:
        pytest_does(ready, name, scene(), scene(f"test_{name}"))
    second = run(reported).artifacts
    assert second is not None
    for name, suite in evidence.load(second.path).manifest["suites"].items():
        assert suite["changes"]["since"] == first.manifest["suites"][name]["finished"]
        assert [one["name"] for one in suite["changes"]["scenarios"]] == [f"test_{name}"]


def test_changes_include_suites_whose_earlier_results_are_dropped(
    ready: Commands, reported: Reported, publish: Publish
) -> None:
    """Durations of another machine are not comparable, outcomes are."""
    slow = scene("test_one", seconds=0.0)
    for name in ("standalone", "buildx"):
        pytest_does(ready, name, scene("test_one", seconds=50.0), scene("test_two"))
    failed = result(slow, scene("test_two", "failed"))
    place = publish({"standalone": failed, "buildx": failed}).path / dist.RESULTS
    document = json.loads(place.read_text())
    document["host"]["kernel"] = "another"
    place.write_text(json.dumps(document))
    done = run(reported, only="standalone,buildx").artifacts
    assert done is not None
    assert list(done.manifest["suites"]) == ["standalone", "buildx"]
    for suite in done.manifest["suites"].values():
        assert [one["name"] for one in suite["changes"]["scenarios"]] == ["test_two"]


# The recorder's file.


def test_follow(tmp_path: Path) -> None:
    path = tmp_path / "record"
    followed = Record(path)
    assert followed.follow() == []
    record(path, scene("test_one"))
    assert [one["name"] for one in followed.follow()] == ["test_one"]
    with path.open("a") as file:
        file.write('{"result": {"group": "lifecycle", "na')
        file.flush()
        assert followed.follow() == []
        file.write('me": "test_two"}}\n{"used": {"docker": "26.1.5"}}\n')
    assert [one["name"] for one in followed.follow()] == ["test_two"]
    assert followed.follow() == []
    assert followed.used == {"docker": "26.1.5"}
    assert [one["name"] for one in followed.results] == ["test_one", "test_two"]


@pytest.mark.parametrize("rest", ["", '{"result"', "\x00\xff", "\n\n", "not JSON\n"])
def test_truncated_record(tmp_path: Path, rest: str) -> None:
    record(tmp_path / "record", scene("test_one"), collected=[scene("test_two")], rest=rest)
    one, two = Record(tmp_path / "record").all("")
    assert (one["name"], one["outcome"]) == ("test_one", "passed")
    assert two["outcome"] == "not proven"
    assert two["reason"].startswith("never ran: ")
    assert "suite" not in {*one, *two}


def test_process_stream_has_a_grace_period() -> None:
    """The fake accepts any argument."""
    assert "grace" in inspect.signature(process.stream).parameters
