"""Pages for people, in a browser."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .console import duration, size

#: What a page is called in a folder of its own.
INDEX = "index.html"

#: Where the template is that all others extend, `base.html.jinja`.
_BASE = Path(__file__).parent


def render(template: Path, filters: dict[str, Callable[..., object]], **values: Any) -> str:
    """Make a page.

    Args:
        template: the file of its template. All that it shows is a text, unless a filter
            says that it is HTML.
        filters: what it has besides `duration` and `size`.
        values: what it shows.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, _BASE]), autoescape=True,
        trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters |= {"duration": duration, "size": size, **filters}
    return environment.get_template(template.name).render(**values)
