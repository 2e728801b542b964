from __future__ import annotations

import copy
import html.parser
import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import builds, definitions, measure, page, ratios, records, report
from benchmarks.builds import BuildSettings
from buildkit_riscv64 import program
from buildkit_riscv64.core import dry_run, host, schemas
from buildkit_riscv64.core.errors import CheckError, StorageError, UsageError
from buildkit_riscv64.system import binfmt


def a_case(name: str, ours: list[float], theirs: list[float] | None = None) -> dict[str, Any]:
    labels = {"ours": ours, **({"upstream": theirs} if theirs else {})}
    return {
        "name": name, "description": "a case", "metrics": ["seconds", "peak_bytes"],
        "samples": {
            label: [{"seconds": seconds, "peak_bytes": 1 << 20} for seconds in samples]
            for label, samples in labels.items()
        },
    }  # fmt: skip


def a_run(
    *cases: dict[str, Any],
    date: str = "2026-11-25T11:12:13Z",
    labels: tuple[str, ...] = ("ours", "upstream"),
) -> dict[str, Any]:
    return {
        "date": date, "host": host.facts().as_json(), "load": 0.5,
        "binaries": [
            {"label": one, "version": "v0.32.2", "sha256": {"buildctl": "0" * 64, "buildkitd": "1" * 64}}
            for one in labels
        ],
        "cases": [*cases],
    }  # fmt: skip


@pytest.fixture
def run() -> dict[str, Any]:
    return a_run(
        a_case("simple", [1.0, 1.1, 0.9, 1.0, 1.2, 1.0], [2.0, 2.1, 1.9, 2.2, 2.0, 2.0]),
        {"name": "emulator", "description": "another", "skipped": "no <emulator>"},
    )


def test_runs_are_appended(run: dict[str, Any], tmp_path: Path) -> None:
    path = records.save(run, tmp_path)
    facts = host.facts()
    assert path.name == f"builds.linux-{facts.arch}.{facts.execution}.json"
    first = records.load(path)["runs"]
    later = {**run, "date": "2026-11-26T00:00:00Z"}
    assert records.load(records.save(later, tmp_path))["runs"] == [*first, later]


def changed(path: list[Any], value: Any) -> Callable[[dict[str, Any]], None]:
    def change(results: dict[str, Any]) -> None:
        node: Any = results
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        changed(["format"], 2), changed(["runs"], []), changed(["more"], 1),
        changed(["runs", 0, "date"], "yesterday"), changed(["runs", 0, "load"], "high"),
        changed(["runs", 0, "host", "execution"], "guessed"), changed(["runs", 0, "binaries"], []),
        changed(["runs", 0, "binaries", 0, "sha256", "buildkitd"], "0"),
        changed(["runs", 0, "cases", 0, "name"], "<script>"),
        changed(["runs", 0, "cases", 0, "metrics"], ["furlongs"]),
        changed(["runs", 0, "cases", 0, "samples", "ours"], []),
        changed(["runs", 0, "cases", 0, "samples", "ours", 0, "seconds"], -1),
        changed(["runs", 0, "cases", 1, "skipped"], ""),
    ],
)  # fmt: skip
def test_schema(
    run: dict[str, Any], tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    path = records.save(run, tmp_path)
    results = json.loads(path.read_text())
    assert schemas.validation_error(results, schemas.BENCHMARK) == ""
    change(results)
    assert schemas.validation_error(results, schemas.BENCHMARK)
    path.write_text(json.dumps(results))
    with pytest.raises(CheckError, match="cannot use"):
        records.save(run, tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000])
def test_invalid_results(tmp_path: Path, text: str) -> None:
    path = tmp_path / "builds.x.json"
    path.write_text(text)
    with pytest.raises(CheckError, match="cannot use"):
        records.load(path)


def test_invalid_run_is_not_saved(run: dict[str, Any], tmp_path: Path) -> None:
    path = records.save(run, tmp_path)
    before = path.read_bytes()
    with pytest.raises(CheckError, match="load"):
        records.save({**run, "load": -1}, tmp_path)
    assert path.read_bytes() == before


def test_recorded_results_are_valid() -> None:
    for path in measure.RESULTS.glob("builds.*.json"):
        records.load(path)


def test_compare(run: dict[str, Any]) -> None:
    ratios = {(case["name"], metric): ratio for case, metric, ratio in records.compare(run)}
    assert ratios.keys() == {("simple", "seconds"), ("simple", "peak_bytes")}
    assert ratios["simple", "seconds"].verdict == "less"
    assert ratios["simple", "peak_bytes"].verdict == "none shown"
    assert not list(records.compare(a_run(a_case("simple", [1.0]), labels=("ours",))))


def test_cases_with_instructions(capsys: pytest.CaptureFixture[str]) -> None:
    cases = builds._cases(BuildSettings(instructions=True))
    assert {case.metrics for case in cases} == {("instructions",)}
    assert not [case.name for case in cases if case.program or case.start]
    with dry_run.running(dry=True):
        builds.main(BuildSettings(instructions=True, count=2))
    reported = capsys.readouterr().err
    assert reported.count("2 times") == len(cases)
    for wrong in (BuildSettings(only="daemon-start,size"), BuildSettings(baseline="docker")):
        with pytest.raises(UsageError, match="--instructions"):
            builds.run(replace(wrong, instructions=True))


def test_former_flag(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["benchmark", "--against=upstream", "--against", "docker", "--", "--against"]
    program.CommandLine._rename(words)
    assert words == ["benchmark", "--baseline=upstream", "--baseline", "docker", "--", "--against"]
    assert capsys.readouterr().err.count("--baseline") == 2


# The report.


def test_documentation_is_generated() -> None:
    """`python -m benchmarks.report` writes it."""
    assert report.page() == report.PAGE.read_text(), "run: python -m benchmarks.report"


class Page(html.parser.HTMLParser):
    """The tags and references of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.asked: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.asked += [str(v) for k, v in attrs if k in {"src", "href", "xlink:href", "action"}]
        self.asked += [k for k, _ in attrs if k.startswith("on")]


def test_page_is_self_contained(run: dict[str, Any], tmp_path: Path) -> None:
    results = tmp_path / "results"
    records.save(run, results)
    records.save({**run, "date": "2026-11-26T00:00:00Z"}, results)
    text = page.write(results, tmp_path / "output").read_text()
    parsed = Page()
    parsed.feed(text)
    assert "script" not in parsed.tags
    assert parsed.asked == []
    assert "@import" not in text
    assert "url(" not in text
    assert parsed.tags.count("svg") >= 3, "two plots of cases, and plots over time"
    assert text.count("ours against upstream") == 1, "one card for each comparison"
    for words in (
        "0.50",
        "no &lt;emulator&gt;",
        "prefers-color-scheme: dark",
    ):
        assert words in text


def test_comparisons_have_the_newest_figures_of_each_case(run: dict[str, Any]) -> None:
    first = a_run(a_case("simple", [1.0]), a_case("unknown", [2.0]), a_case("secret", [3.0]))
    second = {**first, "date": "2026-11-26T00:00:00Z", "cases": [a_case("simple", [4.0])]}
    other = a_run(a_case("simple", [5.0]), labels=("ours",))
    merged, alone = records.comparisons([first, other, second])
    assert [(one["name"], one["samples"]["ours"][0]["seconds"]) for one in merged["cases"]] == [
        ("simple", 4.0), ("secret", 3.0), ("unknown", 2.0),
    ]  # fmt: skip
    assert merged["date"] == second["date"]
    assert alone == other


def test_counted_instructions_are_a_comparison_of_their_own() -> None:
    counted = {**a_case("simple", [1.0]), "metrics": ["instructions"]}
    both = records.comparisons([a_run(a_case("simple", [1.0])), a_run(counted)])
    assert [one["cases"][0]["metrics"][0] for one in both] == ["seconds", "instructions"]


def ratio(*interval: float, pairs: int = 6, exact: bool = False) -> ratios.Ratio:
    low, middle, high = interval
    return ratios.Ratio(middle, low, high, pairs, exact)


@pytest.mark.parametrize(
    ("compared", "sentence"),
    [
        ([ratio(0.8, 0.9, 0.95)], "Ours takes 0.90 of the time of docker in 1 of 1 case."),
        ([ratio(0.8, 0.9, 0.95), ratio(0.5, 0.6, 0.7), ratio(0.9, 1.0, 1.1)],
         "Ours takes 0.60 to 0.90 of the time of docker in 2 of 3 cases."
         " No difference was shown in 1 of 3 cases."),
        ([ratio(1.2, 1.3, 1.4), ratio(0.5, 0.6, 0.7)],
         "Ours takes 0.60 of the time of docker in 1 of 2 cases, and 1.30 in 1 of 2 cases."),
        ([ratio(0.9, 1.0, 1.1), ratio(0.5, 0.6, 0.7, pairs=5)],
         "No difference in time between ours and docker was shown in 1 of 2 cases."
         " 1 of 2 cases had too few runs to compare the time."),
        ([ratio(0.9, 0.9, 0.9, exact=True)], "Ours takes 0.900 of the time of docker in 1 of 1 case."),
    ],
)  # fmt: skip
def test_comparison_in_words(compared: list[ratios.Ratio], sentence: str) -> None:
    assert records.sentence("seconds", "docker", compared) == sentence


def test_card_begins_with_its_headline_and_names_the_execution(run: dict[str, Any]) -> None:
    run["host"] |= {"arch": "riscv64", "execution": "qemu-system"}
    text = page.render([{"runs": [run]}])
    card = " ".join(
        re.sub("<.*?>", "", text.partition("<article")[2].partition("</h3>")[0]).split()
    )
    assert card.endswith(
        "Ours takes 0.50 of the time of upstream in 1 of 1 case. (qemu-system, riscv64)"
    )


def test_plots_of_a_comparison_have_the_same_axes(run: dict[str, Any]) -> None:
    time, memory = page.render([{"runs": [run]}]).split("<svg")[1:]
    assert all(">+100 %<" in plot and ">+10 %<" not in plot for plot in (time, memory))


def measurement(**changes: Any) -> dict[str, Any]:
    samples = {"ours": [{"seconds": 90.0, "peak_bytes": 0}], "plain": [{"seconds": 100.0, "peak_bytes": 0}]}  # fmt: skip
    case = {"name": "cold", "description": "an <empty> cache:", "samples": samples}
    document = {
        "name": "build-binaries", "execution": "native", "date": "2026-11-23",
        "host": {**host.facts().as_json(), "arch": "amd64", "execution": "native"}, "cases": [case],
    }  # fmt: skip
    return document | changes


def test_own_commands(run: dict[str, Any], tmp_path: Path) -> None:
    records.save(run, tmp_path)
    path = tmp_path / "build-binaries.linux-amd64.native.json"
    path.write_text(json.dumps(measurement()))
    text = page.write(tmp_path, tmp_path / "output").read_text()
    assert "A cold build takes 0.90 of the time of two plain builds" in text
    assert "(native, amd64)" in text
    assert "an &lt;empty&gt; cache:</span> 90.00 s, 0.90 of the time of plain" in text
    path.write_text(json.dumps(measurement(cases=[])))
    with pytest.raises(CheckError, match=path.name):
        page.write(tmp_path, tmp_path / "output")


def test_emulated_own_commands() -> None:
    text = page.render([], [measurement(execution="qemu-system", name="other")])
    assert re.search(r"<h3>other .*\(qemu-system, host: amd64\)", text)
    assert "do not represent hardware" in text


def test_saved_measurements_are_valid() -> None:
    paths = set(measure.RESULTS.glob("*.json")) - set(measure.RESULTS.glob("builds.*"))
    assert len(paths) > 2
    for path in paths:
        document = records.load(path, schemas.MEASUREMENT)
        assert page._measurement(document)["headline"] != document["name"]


def test_hostile_results_are_escaped(tmp_path: Path) -> None:
    bad = "<img src=x onerror=alert(1)>"
    run = a_run(a_case("simple", [1.0]), labels=(bad,))
    run["cases"][0]["samples"] = {bad: run["cases"][0]["samples"].pop("ours")}
    run["cases"][0]["description"] = f'"{bad}'
    run["host"]["kernel"] = run["binaries"][0]["version"] = bad
    records.save(run, tmp_path)
    parsed = Page()
    parsed.feed(page.write(tmp_path, tmp_path / "output").read_text())
    assert "img" not in parsed.tags
    assert parsed.asked == []


def test_no_page_without_results(tmp_path: Path) -> None:
    with pytest.raises(CheckError, match=str(tmp_path)):
        page.write(tmp_path, tmp_path / "output")
    assert not (tmp_path / "output").exists()


def test_other_hardware_is_not_compared_over_time(run: dict[str, Any]) -> None:
    other = copy.deepcopy(run)
    other["host"]["cpu"] = "another"
    text = page.render([{"runs": [run, other]}])
    assert "Over time" not in text
    assert "Over time" in page.render([{"runs": [run, {**run, "date": "2026-11-26T00:00:00Z"}]}])


def test_table_of_the_documentation(run: dict[str, Any]) -> None:
    text = report.section({"name": "builds", "format": 1, "runs": [run]})
    assert "| simple | time | 1.00 s | 2.00 s | 0.50 (" in text
    assert "emulator: no <emulator>" in text


# Measurements.


def test_processor_time_includes_child_processes() -> None:
    before = measure.cpu_seconds(os.getpid())
    child = os.fork()
    if not child:
        end = time.process_time() + 0.3
        while time.process_time() < end:
            pass
        os._exit(0)
    os.waitpid(child, 0)
    assert 0.2 <= measure.cpu_seconds(os.getpid()) - before < 3


def test_reset_peak() -> None:
    large = bytearray(os.urandom(1)) * (64 << 20)
    assert len(large) == 64 << 20
    high = measure.peak_bytes(os.getpid())
    del large
    measure.reset_peak(os.getpid())
    assert measure.peak_bytes(os.getpid()) < high - (32 << 20)


def test_files_are_reproducible(tmp_path: Path) -> None:
    case = next(one for one in definitions.load() if one.name == "export-gzip")
    for name in ("a", "b"):
        builds._write_files(tmp_path / name, case)
    first, second = (sorted((tmp_path / name).iterdir()) for name in ("a", "b"))
    assert len(first) == case.files
    assert first[0].stat().st_size == case.bytes
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert first[0].read_bytes() != first[1].read_bytes()


def test_missing_emulator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binfmt, "runs", lambda _platform: False)
    skipped = [c.name for c in definitions.load() if builds.skip_reason(c, [])]
    assert skipped == ["emulator"]


def test_dry_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(builds, "run", lambda _options: pytest.fail("measured"))
    with dry_run.running(dry=True):
        assert builds.main(BuildSettings(only="simple", count=3)) is None
    assert re.search("3 times.* simple: ", capsys.readouterr().err)


def test_too_little_space(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(host, "free_bytes", lambda _path: builds.NEEDED_BYTES - 1)
    with pytest.raises(StorageError, match="GiB"), builds._workspace():
        pass
    assert not list(tmp_path.iterdir())


def test_profile_needs_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builds, "run", lambda _options: pytest.fail("measured"))
    with pytest.raises(UsageError, match="--profile"):
        builds.main(BuildSettings(profile=str(tmp_path / "none" / "cpu.pprof")))
