"""Configuration of the documentation site.

Pages are Markdown (MyST). A line `<!-- generated: NAME -->` in a page is replaced by the Markdown
that `generate.GENERATED[NAME]()` returns, before the page is parsed: the reference is made from the
code each time the site is built.
"""

import re
import sys
from importlib.metadata import version as version_of
from pathlib import Path

from sphinx.application import Sphinx

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from generate import GENERATED  # noqa: E402  # found by the path above

project = "Eddy"
author = "the authors of Eddy"
copyright = "the authors of Eddy, Apache-2.0"  # noqa: A001  # Sphinx gives the name
release = version = version_of("eddywatch")

extensions = ["myst_parser"]
myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3
exclude_patterns = ["README.md"]
nitpicky = True
smartquotes = False  # an option is --out, not –out

html_theme = "furo"
html_title = f"Eddy {release}"
html_static_path = ["static"]
html_css_files = ["eddy.css"]
html_copy_source = False
html_show_sphinx = False
templates_path: list[str] = []

_MARKER = re.compile(r"^<!-- generated: (?P<name>[a-z_]+) -->$", re.MULTILINE)


def _insert_generated(app: Sphinx, page: str, source: list[str]) -> None:
    """Replace every marker of a page by the Markdown that it names."""
    del app, page
    source[0] = _MARKER.sub(lambda marker: GENERATED[marker["name"]](), source[0])


def _generated_pages(app: Sphinx, *_: object) -> list[str]:
    """The pages with generated parts: read again in every build, since the code may have changed."""
    paths = ((page, Path(app.env.doc2path(page))) for page in app.env.found_docs)
    return [page for page, path in paths if _MARKER.search(path.read_text())]


def setup(app: Sphinx) -> None:
    """Register the generator with Sphinx."""
    app.connect("source-read", _insert_generated)
    app.connect("env-get-outdated", _generated_pages)
