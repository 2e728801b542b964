"""The HTML report: one file without scripts, with all results."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import Element

from benchmarks import measure, ratios, records
from benchmarks.records import METRICS, display
from buildkit_riscv64.core import filesystem, html, schemas
from buildkit_riscv64.core.errors import CheckError

if TYPE_CHECKING:
    import pygal

_TEMPLATE = Path(__file__).with_name("page.html.jinja")
#: Wide enough for a desktop, narrow enough for a phone.
_WIDTH = 380
_LETTERS = 13
_ROW = 24
_AROUND = 74
#: Half of a date beside the last point.
_BESIDE = 44
#: The possible ranges of a plot, in percent.
_SCALES = (10, 20, 50, 100)
#: For each measurement the case of its headline; its beginning and its baseline in words.
_HEADLINES = {
    "build-binaries": ("cold", "A cold build takes", "two plain builds"),
    "image": (
        "root, compressed",
        "The compressed root image has",
        "a plain image of Debian's packages",
    ),
    "machine": ("round trip", "A command in the machine takes", "the same command over plain ssh"),
}


def _chart(kind: type[pygal.graph.graph.Graph], **options: Any) -> pygal.graph.graph.Graph:
    from pygal.style import Style

    style = Style(
        background="transparent", plot_background="transparent", foreground="var(--soft)",
        foreground_strong="var(--text)", foreground_subtle="var(--line)",
        colors=("var(--accent)", "var(--second)", "var(--passed)", "var(--open)"),
        font_family="system-ui, sans-serif", label_font_size=_LETTERS, major_label_font_size=_LETTERS,
        legend_font_size=_LETTERS, value_font_size=_LETTERS, guide_stroke_color="var(--line)",
        major_guide_stroke_color="var(--soft)", ci_colors=("var(--text)",), opacity=".75",
    )  # fmt: skip
    chart = kind(
        width=_WIDTH, style=style, js=[], pretty_print=False, show_legend=False, margin=4,
        margin_right=_BESIDE, disable_xml_declaration=True, explicit_size=False, **options,
    )  # fmt: skip
    chart.add_xml_filter(_without_scripts)
    return chart


def _without_scripts(root: Element) -> Element:
    for parent in list(root.iter()):
        for child in list(parent):
            if str(child.tag).endswith("script"):
                parent.remove(child)
    return root


def _svg(chart: pygal.graph.graph.Graph) -> str:
    return str(chart.render(is_unicode=True))


def _percent(ratio: float, most: int) -> float:
    return max(-most, min(most, (ratio - 1) * 100))


def _scale(compared: Iterable[ratios.Ratio]) -> int:
    """The range of a plot, in percent, in which every interval fits."""
    ends = (end for one in compared for end in (one.low, one.high))
    widest = max((abs(end - 1) * 100 for end in ends), default=0)
    # Longer bars end at the edge; a wide range would hide small ones.
    return next((scale for scale in _SCALES if widest <= scale), _SCALES[-1])


def over_cases(compared: Sequence[tuple[str, ratios.Ratio]], most: int) -> str:
    """A bar for each case: the difference of ours to the other in percent, with its interval.

    Args:
        compared: the name and the ratio of each case.
        most: the range of the plot, in percent.
    """
    import pygal

    chart = _chart(
        pygal.HorizontalBar, height=_ROW * len(compared) + _AROUND, print_values=False,
        value_formatter=lambda value: f"{value:+.0f} %" if round(value) else "0 %", truncate_label=-1, zero=0,
        range=(-most, most),
    )  # fmt: skip
    chart.y_labels = [-most, 0, most]
    # The chart draws the first bar at the bottom.
    rows = list(reversed(compared))
    chart.x_labels = [name for name, _ in rows]
    chart.add(
        "ours",
        [
            {
                "value": _percent(one.median, most),
                "ci": {"low": _percent(one.low, most), "high": _percent(one.high, most)},
            }
            for _, one in rows
        ],
    )
    return _svg(chart)


def over_time(points: Mapping[str, Sequence[tuple[str, float]]], metric: str) -> str:
    """A line for each case: the median at each date."""
    import pygal

    dates = sorted({date for series in points.values() for date, _ in series})
    chart = _chart(
        pygal.Line, height=200, value_formatter=lambda value: display(metric, value),
        x_label_rotation=20 if len(dates) > 3 else 0, dots_size=3,
        include_x_axis=True, max_scale=6,
    )  # fmt: skip
    chart.x_labels = [date[:10] for date in dates]
    for name, series in points.items():
        known = dict(series)
        chart.add(name, [known.get(date) for date in dates])
    return _svg(chart)


def _rows(run: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The table of a run; only the first row of a case has its name."""
    before = ""
    for row in records.rows(run):
        case, before = row.case if row.case != before else "", row.case
        yield {**vars(row), "case": case, "verdict": row.verdict[1]}


def _comparison(run: Mapping[str, Any]) -> dict[str, Any]:
    """A comparison with its sentences, table and plots."""
    by_metric = records.by_metric(run)
    labels = [one["label"] for one in run["binaries"]]
    most = _scale(ratio for compared in by_metric.values() for _, ratio in compared)
    return {
        **run, "rows": list(_rows(run)), "labels": labels,
        "sentences": records.sentences(run),
        "skipped": [case for case in run["cases"] if "skipped" in case],
        "plots": [
            {"title": METRICS[metric], "svg": over_cases(compared, most)}
            for metric, compared in by_metric.items()
            if metric != "size_bytes"
        ],
    }  # fmt: skip


def _measurement(result: Mapping[str, Any]) -> dict[str, Any]:
    """A measurement of one of this project's commands, each case in words."""
    rows = []
    headline = result["name"]
    chosen, subject, baseline = _HEADLINES.get(result["name"], ("", "", ""))
    for case in result["cases"]:
        ours = case["samples"]["ours"]
        shares = {
            label: f"{measure.typical(ours) / middle:.2f} of the {METRICS[measure.metric(theirs)]}"
            for label, theirs in case["samples"].items()
            if label != "ours" and (middle := measure.typical(theirs))
        }
        if case["name"] == chosen and shares:
            headline = f"{subject} {next(iter(shares.values()))} of {baseline}"
        rows.append({**case, "ours": measure.display(ours), "shares": shares})
    return {**result, "rows": rows, "headline": headline}


def _trend(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Plots over time for each case that was measured more than once on a machine."""
    plots = []
    names = dict.fromkeys(case["name"] for run in runs for case in run["cases"])
    for name in names:
        for metric in ("seconds", "cpu_seconds", "size_bytes"):
            series = [
                (run["date"], median(records.values(case, run["binaries"][0]["label"], metric)))
                for run in runs
                for case in run["cases"]
                if case["name"] == name and metric in case.get("metrics", [])
            ]
            if len(series) > 1:
                plots.append(
                    {
                        "title": f"{name}: {METRICS[metric]}",
                        "svg": over_time({name: series}, metric),
                    }
                )
    return plots


def render(
    results: Sequence[Mapping[str, Any]], measurements: Sequence[Mapping[str, Any]] = ()
) -> str:
    """Render all results as a page.

    Args:
        results: the results of `invoke benchmark`, one for each kind of machine.
        measurements: the measurements of this project's own commands.
    """
    from markupsafe import Markup

    machines = []
    for one in results:
        # Do not compare different hardware over time.
        groups: dict[str, list[Mapping[str, Any]]] = {}
        for run in one["runs"]:
            host = run["host"]
            groups.setdefault(f"{host['cpus']} x {host['cpu']}", []).append(run)
        machines += [
            {
                "host": runs[-1]["host"], "trend": _trend(runs),
                "comparisons": [_comparison(one) for one in records.comparisons(runs)],
            }
            for runs in groups.values()
        ]  # fmt: skip
    return html.render(
        _TEMPLATE, {"svg": Markup}, machines=machines,
        measurements=[_measurement(one) for one in measurements],
    )  # fmt: skip


def write(results: Path, output: Path) -> Path:
    """Write the report.

    Args:
        results: the directory of the results.
        output: the directory of the report.

    Returns:
        The path of the report.

    Raises:
        CheckError: no results exist.
    """
    paths = sorted(results.glob(f"{records.NAME}.*.json"))
    if not paths:
        raise CheckError(
            f"no results in {filesystem.display_path(results)}", "run `invoke benchmark` first"
        )
    others = [
        records.load(path, schemas.MEASUREMENT)
        for path in sorted(results.glob("*.json"))
        if path not in paths
    ]
    page = output / html.INDEX
    # Do not change the modes of other files in the directory.
    public = page if output.exists() else output
    output.mkdir(parents=True, exist_ok=True)
    filesystem.write_whole(page, render([records.load(path) for path in paths], others))
    filesystem.make_public(public)
    return page
