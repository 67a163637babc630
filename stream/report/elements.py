"""What every page is made of: the document around it, figures, tables, charts, incidents.

Everything inside a page may come from an attacker. So a text is escaped unless it is `Html`, which
only this package makes; data for the charts travels as JSON that cannot end its element; and a
content policy allows no script but the two that the document holds.
"""

import base64
import hashlib
import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any, Final

import orjson
from plotly.offline import get_plotlyjs

from schemas.alerts import Contribution
from stream.formatting import (
    UNDEFINED,
    amount,
    duration,
    format_contribution,
    format_count,
    format_quantity,
    format_time,
    number,
)
from stream.replay.incidents import Incident

ROWS_SHOWN: Final = 10
COLUMNS_MAX: Final = 6
"""More figures than these stand in rows of four."""


class Html(str):
    """Markup: what it holds of others' texts is escaped already."""

    __slots__ = ()


@dataclass(slots=True)
class Page:
    """A page as it grows: its sections in their order, and the data of their charts by id."""

    sections: list[tuple[str, str, Html]] = field(default_factory=list)
    charts: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, key: str, title: str, *content: Html) -> None:
        """Append a section. key: its id, ours alone, by which contents lead to it."""
        head = Html(f'<h2 id="{key}">{text(title)}</h2>')
        body = f'<section aria-labelledby="{key}">{head}{"".join(content)}</section>'
        self.sections.append((key, title, Html(body)))

    def chart(self, key: str, label: str, data: dict[str, Any], values: Html) -> Html:
        """A chart. label: what a reader who cannot see it is told; values: the same as a table."""
        self.charts[key] = data
        scrolled = Html(
            f'<div class="scroll" role="region" tabindex="0" aria-label="{text(label)}">{values}</div>'
        )
        return Html(
            f'<figure><div class="chart {data["kind"]}" id="chart-{key}" role="img"'
            f' aria-label="{text(label)}"></div><figcaption>{text(label)}</figcaption>'
            f"{collapsible('The same as a table', scrolled, 'values')}</figure>"
        )


def document(page: Page, title: str, head: Html, footer: str) -> str:
    """The whole HTML file; it loads nothing from anywhere. head: what is read first."""
    style, script, library = _asset("page.css"), _asset("page.js"), get_plotlyjs()
    policy = (
        "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; "
        f"script-src {_hashes(library, script)}; base-uri 'none'; form-action 'none'"
    )
    contents = "".join(f'<li><a href="#{key}">{text(t)}</a></li>' for key, t, _ in page.sections)
    return "\n".join(
        (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{text(title)}</title><style>{style}</style></head><body>",
            '<a class="skip" href="#content">To the content</a>',
            f"<header>{head}</header>",
            f'<nav aria-label="Contents"><ul>{contents}</ul></nav>',
            f'<main id="content">{"".join(body for _, _, body in page.sections)}</main>',
            f"<footer>{text(footer)}</footer>",
            f'<script type="application/json" id="data">{_json(page.charts)}</script>',
            f"<script>{library}</script><script>{script}</script></body></html>\n",
        )
    )


def text(value: str) -> Html:
    """A text as markup that shows it, whatever it holds; markup as it is."""
    return value if isinstance(value, Html) else Html(html.escape(value, quote=True))


def paragraph(value: str, kind: str = "") -> Html:
    """A paragraph. kind: its class."""
    return Html(f'<p class="{kind}">{text(value)}</p>' if kind else f"<p>{text(value)}</p>")


def collapsible(summary: str, content: Html, kind: str = "told") -> Html:
    """Content that is shown when its summary is chosen. kind: "values" are not printed: they repeat a
    chart."""
    return Html(f'<details class="{kind}"><summary>{text(summary)}</summary>{content}</details>')


def figures(items: Iterable[tuple[str, str, str]]) -> Html:
    """The headline: (what it is, its value, a note such as the interval, or "") each."""
    cells = [
        f"<div><dt>{text(what)}</dt><dd>{text(value)}</dd>{_note(note)}</div>"
        for what, value, note in items
    ]
    columns = len(cells) if len(cells) <= COLUMNS_MAX else COLUMNS_MAX - 2
    return Html(f'<dl class="figures" style="--columns: {columns}">{"".join(cells)}</dl>')


def _note(note: str) -> str:
    return f'<dd class="note">{text(note)}</dd>' if note else ""


def table(
    caption: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    below: Sequence[Html] = (),
) -> Html:
    """A table; the first cell of a row is its heading. On a phone each row becomes a card. below:
    what stands below each row, as wide as the table, or nothing.

    The roles repeat what the elements say: styled as blocks they would lose it.
    """
    heads = "".join(f'<th scope="col" role="columnheader">{text(name)}</th>' for name in columns)
    under = (
        f'<tr role="row" class="under"><td role="cell" colspan="{len(columns)}">{one}</td></tr>'
        if one
        else ""
        for one in below
    )
    body = "".join(_row(columns, row) + next(under, "") for row in rows)
    return Html(
        f'<div class="wide"><table role="table"><caption>{text(caption)}</caption>'
        f'<thead role="rowgroup"><tr role="row">{heads}</tr></thead>'
        f'<tbody role="rowgroup">{body}</tbody></table></div>'
    )


def first_rows(
    caption: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    more: str,
    below: Sequence[Html] = (),
) -> Html:
    """A table's first rows, and behind a summary of those words the others: on a phone a row is as
    high as a paragraph."""
    shown = table(caption, columns, rows[:ROWS_SHOWN], below[:ROWS_SHOWN])
    others = rows[ROWS_SHOWN:]
    if not others:
        return shown
    return Html(shown + collapsible(more, table(more, columns, others, below[ROWS_SHOWN:]), "more"))


def _row(columns: Sequence[str], row: Sequence[str]) -> str:
    first, *others = (
        (f'data-label="{text(name)}"', text(cell)) for name, cell in zip(columns, row, strict=True)
    )
    cells = "".join(f'<td role="cell" {label}>{cell}</td>' for label, cell in others)
    return f'<tr role="row"><th scope="row" role="rowheader" {first[0]}>{first[1]}</th>{cells}</tr>'


def bar(share: float, said: str) -> Html:
    """A share from 0 to 1 as a bar behind its words."""
    return Html(f'<span class="bar" style="--share:{share * 100:.0f}%">{text(said)}</span>')


def pill(said: str, kind: str) -> Html:
    """A word that is coloured by its kind, a class of ours."""
    return Html(f'<span class="pill {kind}">{text(said)}</span>')


def name(value: str) -> Html:
    """The name of an entity, a feature, an event: any length, broken where it must be."""
    return Html(f'<span class="id">{text(value)}</span>')


def at(when: str) -> Html:
    """A time, in one line where there is room."""
    return Html(f'<span class="at">{text(when)}</span>')


def incidents_table(incidents: Sequence[Incident], opened: int) -> Html:
    """Incidents, each with its explanation. opened: how many there are, shown or not."""
    if not incidents:
        return paragraph("No alert was raised.")
    judged = any(one.verdict for one in incidents)
    columns = [
        *("Entity", "Severity", *(["Verdict"] if judged else [])),
        *("First alert", "Monitor", "Score", "What was surprising"),
    ]
    rows = [
        (
            name(f"{one.entity.type} {one.entity.id}"),
            pill(one.severity, one.severity),
            *([_verdict(one)] if judged else []),
            at(format_time(one.first_ms)),
            one.monitor,
            f"{one.top_alert.score:.1f}",
            _surprising(one),
        )
        for one in incidents
    ]
    more = opened > len(incidents)
    note = paragraph(f"There are {format_count(opened)} incidents; these have the highest scores.")
    said = "One row an incident, the highest score first"
    rendered = [_explained(one) for one in incidents]
    return Html(
        (note if more else "") + first_rows(said, columns, rows, "More incidents", rendered)
    )


def _verdict(incident: Incident) -> Html:
    kinds = {"fraud": "worse", "honest": "better"}  # red for fraud, as for a high severity
    return pill(incident.verdict or UNDEFINED, kinds.get(incident.verdict or "", "same"))


def _parts(incident: Incident) -> list[Contribution]:
    return sorted(incident.top_alert.contributions, key=lambda part: -part.share)


def _surprising(incident: Incident) -> Html:
    words = "; ".join(map(format_contribution, _parts(incident)[:2])) or "no single feature"
    return Html(f'<span class="long">{text(words)}</span>')


def _explained(incident: Incident) -> Html:
    shares = _small_table(
        ("Feature", "Seen", "Expected", "p", "Share"),
        (
            (
                part.feature,
                number(part.actual),
                _expected(part),
                f"{part.p_value:.2g}",
                bar(part.share, f"{part.share * 100:.0f} %"),
            )
            for part in _parts(incident)
        ),
    )
    events = _small_table(
        ("Event", "Time", "Amount", "Score"),
        (
            (
                one.event_id,
                at(format_time(one.time_ms)),
                amount(one.amount),
                UNDEFINED if one.score is None else f"{one.score:.1f}",
            )
            for one in incident.first_events
        ),
    )
    sides = (shares + facts(_facts(incident)), events)
    rendered = "".join(f"<div>{one}</div>" for one in sides if one)
    said = "Explanation and events" if events else "Explanation"
    return collapsible(said, Html(f'<div class="explained">{rendered}</div>'))


def _small_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table inside a cell, "" where it has no row."""
    heads = "".join(f'<th scope="col">{one}</th>' for one in columns)
    body = "".join(
        f'<tr><th scope="row">{text(first)}</th>{"".join(f"<td>{text(one)}</td>" for one in others)}</tr>'
        for first, *others in rows
    )
    if not body:
        return ""
    return f'<table class="parts"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>'


def facts(items: Iterable[tuple[str, str]]) -> Html:
    """Short facts, (what it is, the fact) each."""
    rendered = "".join(f"<dt>{text(what)}</dt><dd>{text(fact)}</dd>" for what, fact in items)
    return Html(f'<dl class="facts">{rendered}</dl>')


def _expected(part: Contribution) -> str:
    low = "…" if part.expected_low is None else number(part.expected_low)
    high = "…" if part.expected_high is None else number(part.expected_high)
    return low if low == high else f"{low} – {high}"


def _facts(incident: Incident) -> Iterable[tuple[str, str]]:
    worst = incident.top_alert
    action = worst.action
    enforced = "" if worst.run.enforceable else f" (not enforceable: {worst.run.reason})"
    yield (
        "Recommended",
        (
            f"{action.type} {action.scope} for {duration(action.ttl_s * 1000)}"
            f", {action.reason_code}{enforced}"
        ),
    )
    yield (
        "Counterfactual",
        f"no alert with {', '.join(worst.counterfactual)} as expected"
        if worst.counterfactual
        else "no three features as expected would have prevented it",
    )
    yield "Rarity", f"p = {worst.p_value:.2g}, alert at {worst.threshold:.2g}, by {worst.detector}"
    last = format_time(incident.last_ms)
    yield "Alerts", f"{incident.alerts} sent, {incident.suppressed} only counted, last seen {last}"
    if worst.related:
        yield "Related", ", ".join(f"{other.type} {other.id}" for other in worst.related[:6])
    if incident.evidence:
        yield (
            "Alerted on",
            ", ".join(
                f"{one.event_id} ({one.topic}/{one.partition}/{one.offset})"
                for one in incident.evidence
            ),
        )
    if incident.events is not None:
        behind = "" if incident.amount is None else f", amount {number(incident.amount)}"
        shown = len(incident.first_events)
        cut = f"; here the first {shown}" if 0 < shown < incident.events else ""
        yield "Meanwhile", f"{format_quantity(incident.events, 'event')} of the entity{behind}{cut}"


def _asset(name: str) -> str:
    return (files("stream.report") / name).read_text("utf-8")


def _hashes(*scripts: str) -> str:
    digests = (hashlib.sha256(script.encode()).digest() for script in scripts)
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)


def _json(value: Any) -> str:
    """JSON that holds no character which could end or open an element."""
    written = orjson.dumps(value).decode()
    for sign in "<>&":
        written = written.replace(sign, f"\\u{ord(sign):04x}")
    return written
