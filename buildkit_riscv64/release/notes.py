"""Release notes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core import host
from ..core.console import duration, size
from ..validation.suites import SUITES, ScenarioOutcome
from . import gate, phase_status

_TEMPLATE = Path(__file__).with_name("notes.md.jinja")


def _unproven(evidence: Mapping[str, Any]) -> dict[str, int]:
    """Count the scenarios that are not proven, by reason."""
    reasons: dict[str, int] = {}
    for suite in evidence["suites"].values():
        for one in suite["scenarios"]:
            if one["outcome"] == ScenarioOutcome.NOT_PROVEN:
                reasons[one["reason"]] = reasons.get(one["reason"], 0) + 1
    return reasons


def code_span(text: str) -> str:
    """A builder's text as literal text in Markdown; the text is one line, outside tables.

    In a code span nothing is markup, a link, HTML or the name of a user. Only backticks could end
    it; a span cannot be empty.
    """
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    space = " " if longest or not text.strip() else ""
    return f"{fence}{space}{text}{space}{fence}"


def render(release: Mapping[str, Any], phases: Mapping[str, phase_status.PhaseStatus]) -> str:
    """Render the notes of a release, in Markdown.

    Args:
        release: the release's description.
        phases: the phases, by name.
    """
    import jinja2

    environment = jinja2.Environment(
        # Markdown; the schemas allow one line of any printable text, see code_span().
        autoescape=False,  # noqa: S701
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "duration": duration, "size": size, "executed": host.executed, "code": code_span,
    }  # fmt: skip
    binaries, evidence = phases["binaries"], phases["validation"].manifest
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        release=release, binaries=binaries.manifest, evidence=evidence, suites=SUITES,
        images={name: phase.manifest for name, phase in phases.items() if "image" in name},
        verdict=binaries.artifacts and gate.verdict(binaries.artifacts),
        unproven=_unproven(evidence),
    )  # fmt: skip
