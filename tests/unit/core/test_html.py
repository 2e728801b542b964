from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
import pytest
from markupsafe import Markup

from buildkit_riscv64.core import html


def render(directory: Path, body: str, **values: Any) -> str:
    template = directory / "page.html.jinja"
    template.write_text(
        '{% extends "base.html.jinja" %}{% block title %}{{ title }}{% endblock %}'
        f"{{% block body %}}{body}{{% endblock %}}"
    )
    return html.render(template, {"html": Markup}, **{"title": "a page"} | values)


def test_render(tmp_path: Path) -> None:
    page = render(tmp_path, "<main>{{ 75 | duration }}, {{ 2048 | size }}</main>")
    assert page.startswith('<!doctype html>\n<html lang="en">')
    assert "<title>a page</title>" in page
    assert "<main>1 min 15 s, 2.0 KiB</main>" in page
    assert page.endswith("</html>")


def test_values_are_escaped(tmp_path: Path) -> None:
    page = render(tmp_path, "{{ it }}{{ it | html }}", it="<b>", title="<i>")
    assert "&lt;b&gt;<b>" in page
    assert "<title>&lt;i&gt;</title>" in page


def test_a_missing_value_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(jinja2.UndefinedError, match="missing"):
        render(tmp_path, "{{ missing }}")
