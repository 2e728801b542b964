"""The site: `nox -s docs` makes it of these pages, and of the code where that knows better."""

import sys
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent
sys.path[:0] = [str(_HERE), str(_HERE.parent)]

import reference  # noqa: E402 - it is beside this file

from buildkit_riscv64.core import pins  # noqa: E402

project = "buildkit-riscv64"
author = "the engineers of buildkit-riscv64"
copyright = "the engineers of buildkit-riscv64; Apache-2.0"  # noqa: A001 - Sphinx's own name
release = version = pins.load().version

extensions = ["myst_parser", "sphinx_copybutton"]
# `invoke TASK` is typed, and `$` is not.
copybutton_prompt_text = r"\$ "
copybutton_prompt_is_regexp = True
myst_enable_extensions = ["attrs_block", "colon_fence", "deflist"]
# Links to a heading, as GitHub has them.
myst_heading_anchors = 3
nitpicky = True
# --flag is no dash.
smartquotes = False
exclude_patterns = ["README.md", "_build"]
# Someone else's pages may be away for a moment, and GitHub's lines have no anchors.
linkcheck_retries = 3
linkcheck_anchors_ignore_for_url = [r"https://github\.com/"]
linkcheck_ignore = [r"http://localhost", r"http://127\.0\.0\.1"]

html_theme = "furo"
html_title = f"buildkit-riscv64 {release}"
# Nothing is fetched from elsewhere, so that it can be read and searched offline.
html_theme_options = {
    "source_repository": "", "navigation_with_keys": True, "top_of_page_buttons": [],
}  # fmt: skip
html_show_sphinx = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["site.js"]


def setup(app: Any) -> None:
    """Have the generated pages written before the others are read."""
    app.connect("builder-inited", lambda app: reference.write(Path(app.srcdir) / "reference"))
