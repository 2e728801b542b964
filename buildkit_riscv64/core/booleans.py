"""Booleans in the environment and in `invoke.yaml`; the launcher has the same rule in shell."""

from __future__ import annotations

import os

_NO = {"", "0", "false", "no", "off"}
_YES = {"1", "true", "yes", "on"}


def is_yes(text: str) -> bool:
    """False for an empty text, 0, false, no and off; true for any other text."""
    return text.strip().lower() not in _NO


def in_ci() -> bool:
    """True where CI is set, as in CI=true or CI=woodpecker."""
    return is_yes(os.environ.get("CI", ""))


def in_actions() -> bool:
    """True in a job of GitHub Actions."""
    return is_yes(os.environ.get("GITHUB_ACTIONS", ""))


def parse(value: object) -> bool | None:
    """The boolean of a setting's value; None for any other value."""
    if isinstance(value, str):
        text = value.strip().lower()
        return is_yes(text) if text in _YES | _NO else None
    return bool(value) if isinstance(value, int) and value in {0, 1} else None
