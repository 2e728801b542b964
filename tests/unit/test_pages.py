from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
import pytest
from markupsafe import Markup

from buildkit_riscv64 import pages


def render(folder: Path, body: str, **values: Any) -> str:
    template = folder / "page.html.jinja"
    template.write_text(
        '{% extends "base.html.jinja" %}{% block title %}{{ title }}{% endblock %}'
        f"{{% block body %}}{body}{{% endblock %}}"
    )
    return pages.render(template, {"html": Markup}, **{"title": "a page"} | values)


def test_a_page_is_whole(tmp_path: Path) -> None:
    page = render(tmp_path, "<main>{{ 75 | duration }}, {{ 2048 | size }}</main>")
    assert page.startswith('<!doctype html>\n<html lang="en">')
    assert "<title>a page</title>" in page
    assert "<main>1 min 15 s, 2.0 KiB</main>" in page
    assert page.endswith("</html>")


def test_what_is_shown_is_a_text(tmp_path: Path) -> None:
    page = render(tmp_path, "{{ it }}{{ it | html }}", it="<b>", title="<i>")
    assert "&lt;b&gt;<b>" in page
    assert "<title>&lt;i&gt;</title>" in page


def test_what_is_not_there_is_not_left_out(tmp_path: Path) -> None:
    with pytest.raises(jinja2.UndefinedError, match="missing"):
        render(tmp_path, "{{ missing }}")
