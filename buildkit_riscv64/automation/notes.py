"""Release notes, made of what was built, proved and measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import host
from ..console import duration, size
from ..validation.suites import SUITES, Outcome
from . import chain

_TEMPLATE = Path(__file__).with_name("notes.md.jinja")


def _unproven(evidence: Mapping[str, Any]) -> dict[str, int]:
    """Why scenarios are not proven, each reason once, with how many it keeps from being."""
    reasons: dict[str, int] = {}
    for suite in evidence["suites"].values():
        for one in suite["scenarios"]:
            if one["outcome"] == Outcome.NOT_PROVEN:
                reasons[one["reason"]] = reasons.get(one["reason"], 0) + 1
    return reasons


def render(release: Mapping[str, Any], links: Mapping[str, chain.Link]) -> str:
    """The notes of a release, in Markdown.

    Args:
        release: its description.
        links: what it was gathered from, by name.
    """
    import jinja2

    environment = jinja2.Environment(
        # Markdown, of data that has passed our schemas.
        autoescape=False,  # noqa: S701
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters |= {"duration": duration, "size": size, "executed": host.executed}
    binaries, evidence = links["binaries"], links["validation"].manifest
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        release=release, binaries=binaries.manifest, evidence=evidence, suites=SUITES,
        images={name: link.manifest for name, link in links.items() if "image" in name},
        verdict=binaries.artifacts and chain.verdict(binaries.artifacts),
        unproven=_unproven(evidence),
    )  # fmt: skip
