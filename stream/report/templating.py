"""Pages from templates.

A page may show texts written by attackers. So templates escape every value, the data of the charts are
JSON that cannot end their element, and a content policy allows only the page's own two scripts.
"""

import base64
import hashlib
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Final

import orjson
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from stream import formatting
from stream.report.charts import Chart
from stream.report.estimates import ratio_interval
from stream.report.incidents import by_share, expected_text, incident_facts

PACKAGE: Final = "stream.report"


def render(
    template: str,
    title: str,
    sections: Mapping[str, str],
    charts: Iterable[Chart],
    variables: Mapping[str, Any],
) -> str:
    """The page of a template: one HTML file that loads nothing.

    sections: id → heading, in the order of the page. charts: those that the template shows. variables:
    the others that the template uses.
    """
    by_key = {chart.key: chart for chart in charts}
    return (
        _environment()
        .get_template(template)
        .render(
            title=title,
            sections=sections,
            charts=by_key,
            document=_document({key: chart.data for key, chart in by_key.items()}),
            **variables,
        )
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader(PACKAGE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        name: function for name, function in vars(formatting).items() if name.startswith("format_")
    }
    environment.globals |= {
        "UNDEFINED": formatting.UNDEFINED,
        "by_share": by_share,
        "expected_text": expected_text,
        "incident_facts": incident_facts,
        "ratio_interval": ratio_interval,
    }
    return environment


def _document(charts: Mapping[str, Any]) -> dict[str, str]:
    """The parts of the document that every page shares: policy, styles, scripts and chart data."""
    style, script, library = _asset("page.css"), _asset("page.js"), get_plotlyjs()
    policy = (
        "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; "
        f"script-src {_hashes(library, script)}; base-uri 'none'; form-action 'none'"
    )
    return {
        "policy": policy,
        "style": Markup(style),  # noqa: S704  # our own files
        "script": Markup(script),  # noqa: S704
        "library": Markup(library),  # noqa: S704
        "data": Markup(_embeddable_json(charts)),  # noqa: S704  # holds no character of markup
    }


def _asset(name: str) -> str:
    return (files(PACKAGE) / name).read_text("utf-8")


def _hashes(*scripts: str) -> str:
    digests = (hashlib.sha256(script.encode()).digest() for script in scripts)
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)


def _embeddable_json(value: Any) -> str:
    """JSON without any character that could end or open an element."""
    text = orjson.dumps(value).decode()
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
