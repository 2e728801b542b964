"""HTML pages from Jinja templates."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .console import duration, size

#: The name of a page in a directory of its own.
INDEX = "index.html"

#: The directory of `base.html.jinja`, which the other templates extend.
_BASE = Path(__file__).parent


def render(template: Path, filters: dict[str, Callable[..., object]], **values: Any) -> str:
    """Render a page.

    Args:
        template: the template's file. Values are escaped, unless a filter marks them as HTML.
        filters: filters in addition to `duration` and `size`.
        values: values for the template.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, _BASE]), autoescape=True,
        trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters |= {"duration": duration, "size": size, **filters}
    return environment.get_template(template.name).render(**values)
