"""One self-contained HTML page: the traffic, the alerts on it, and why each was raised.

Takes what is to be shown and returns the file's text; it reads nothing and computes no result.
Everything inside a page may come from an attacker, so text is escaped on its way in, data for the
chart travels as JSON that cannot end its element, and a content policy allows no other script.
"""

import base64
import hashlib
import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any, Final

import orjson
from plotly.offline import get_plotlyjs

from schemas.alerts import Alert, Contribution, Severity

INCIDENTS_MAX: Final = 200
"""More would make the page slow and nobody would read them; the page says how many are left."""
_SEVERITIES: Final[tuple[Severity, ...]] = ("low", "medium", "high", "critical")
_SAME_PLACE: Final = 0.03
"""Attacks that begin within this share of the traffic's span share one label in the chart."""
_NARROWEST: Final = 0.004
"""Share of the span below which an attack's window would not be seen."""
_CHART: Final = (
    '<div id="chart" role="img" aria-label="Events per bucket by type, with alerts and attacks'
    ' marked; the tables below say the same"></div></section>'
)
_FOOTER: Final = (
    "</main><footer>Times are UTC. A score is −log10 of the p-value: 4 means one honest event in"
    " ten thousand.</footer>"
)


@dataclass(frozen=True, slots=True)
class Traffic:
    """Events per bucket: `by_type[t][i]` of them in the `bucket_ms` from start_ms + i·bucket_ms."""

    start_ms: int
    bucket_ms: int
    by_type: dict[str, list[int]]


@dataclass(frozen=True, slots=True)
class Finding:
    """A simulated attack and the alerts that found it, in their order.

    naming: those of them whose entity is the attack's own.
    """

    name: str
    what: str
    entity: str
    first_ms: int
    last_ms: int
    alerts: Sequence[Alert]
    naming: Sequence[Alert]


@dataclass(frozen=True, slots=True)
class Story:
    """All that a page tells. figures: the headline, (value, what it is) each."""

    title: str
    lead: str
    figures: Sequence[tuple[str, str]]
    traffic: Traffic
    alerts: Sequence[Alert]
    findings: Sequence[Finding]


def page(story: Story) -> str:
    """The whole HTML file; it loads nothing from anywhere."""
    style, script = _asset("page.css"), _asset("page.js")
    library = get_plotlyjs()
    policy = f"default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src {_hashes(library, script)}"
    incidents = _incidents(story.alerts)
    return "\n".join(
        (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{_text(story.title)}</title><style>{style}</style></head><body>",
            f"<header><h1>{_text(story.title)}</h1><p>{_text(story.lead)}</p></header><main>",
            _figures(story.figures),
            '<section aria-labelledby="traffic"><h2 id="traffic">Traffic and alerts</h2>',
            _CHART,
            _findings(story.findings) if story.findings else "",
            _incident_table(incidents),
            _FOOTER,
            f'<script type="application/json" id="data">{_json(_chart(story))}</script>',
            f"<script>{library}</script><script>{script}</script></body></html>\n",
        )
    )


def surprise(part: Contribution) -> str:
    """One contribution in words: "payments_1h: 41 seen, 0–6 expected (61 %)"."""
    expected = ""
    if part.expected_low is not None and part.expected_high is not None:
        low, high = number(part.expected_low), number(part.expected_high)
        expected = f", {low if low == high else f'{low}–{high}'} expected"
    elif part.expected_high is not None:
        expected = f", at most {number(part.expected_high)} expected"
    elif part.expected_low is not None:
        expected = f", at least {number(part.expected_low)} expected"
    return f"{part.feature}: {number(part.actual)} seen{expected} ({part.share * 100:.0f} %)"


def number(value: float) -> str:
    """A number for reading: about three digits, thousands apart."""
    if abs(value) >= 100:
        return f"{value:,.0f}".replace(",", " ")
    if value == round(value, 1):
        return f"{value:g}"
    return f"{value:.1f}" if abs(value) >= 1 else f"{value:.2g}"


def duration(ms: float) -> str:
    """A span of time for reading: "8 s", "4 min", "1.5 h", "2.1 d"."""
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000)):
        if ms >= size:
            return f"{number(round(ms / size, 1 if ms < 10 * size else 0))} {unit}"
    return f"{ms / 1000:.0f} s"


def first_alert(finding: Finding) -> str:
    """When the first alert of a found attack came: "after 8 s", or "1.5 h before it began"."""
    after_ms = finding.alerts[0].event_time_ms - finding.first_ms
    return (
        f"after {duration(after_ms)}" if after_ms >= 0 else f"{duration(-after_ms)} before it began"
    )


def moment(ms: int) -> str:
    """A time for reading, in UTC."""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%a %d %b %H:%M:%S")


def _asset(name: str) -> str:
    return (files("stream.page") / name).read_text("utf-8")


def _hashes(*scripts: str) -> str:
    digests = (hashlib.sha256(script.encode()).digest() for script in scripts)
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)


def _text(value: str) -> str:
    return html.escape(value, quote=True)


def _json(value: Any) -> str:
    """JSON that holds no character which could end or open an element."""
    text = orjson.dumps(value).decode()
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _entity(alert: Alert) -> str:
    return f"{alert.entity.type} {alert.entity.id}"


def _figures(figures: Iterable[tuple[str, str]]) -> str:
    cells = "".join(
        f"<div><dt>{_text(what)}</dt><dd>{_text(value)}</dd></div>" for value, what in figures
    )
    return f'<section aria-label="Headline"><dl class="figures">{cells}</dl></section>'


def _incidents(alerts: Sequence[Alert]) -> list[list[Alert]]:
    """The alerts of each incident, incidents by the time of their first alert."""
    grouped: dict[str, list[Alert]] = {}
    for alert in sorted(alerts, key=lambda alert: alert.event_time_ms):
        grouped.setdefault(alert.incident_id, []).append(alert)
    return list(grouped.values())


def _findings(findings: Sequence[Finding]) -> str:
    cards = "".join(_finding(count, finding) for count, finding in enumerate(findings, 1))
    return (
        '<section aria-labelledby="attacks"><h2 id="attacks">Simulated attacks</h2>'
        "<p>Numbered as in the chart above. Named: an alert is on the attacker itself; noticed:"
        " alerts are only on what it touched.</p>"
        f'<ol class="attacks">{cards}</ol></section>'
    )


def _finding(count: int, finding: Finding) -> str:
    found = bool(finding.alerts)
    verdict = ("named" if finding.naming else "noticed") if found else "missed"
    told = "No alert was raised on any of its events."
    if found:
        entities = list(dict.fromkeys(_entity(alert) for alert in finding.alerts))
        more = f" and {len(entities) - 4} more" if len(entities) > 4 else ""
        plural = "s" if len(finding.alerts) > 1 else ""
        told = (
            f"First alert {first_alert(finding)}; {len(finding.alerts)} alert{plural} on "
            f"{', '.join(entities[:4])}{more}."
        )
    return (
        f'<li class="{verdict}"><div class="head"><span class="no">{count}</span>'
        f'<h3>{_text(finding.name)}</h3><span class="verdict">{verdict}</span></div>'
        f'<p class="who">{_text(finding.entity)}</p>'
        f"<p>{_text(finding.what[:1].upper() + finding.what[1:])}.</p>"
        f'<p class="when">{moment(finding.first_ms)}, for '
        f"{duration(finding.last_ms - finding.first_ms)}</p>"
        f"<p>{_text(told)}</p></li>"
    )


_COLUMNS: Final = ("Severity", "First alert", "Monitor", "Entity", "Score", "What was surprising")


def _incident_table(incidents: Sequence[Sequence[Alert]]) -> str:
    heads = "".join(f'<th scope="col" role="columnheader">{name}</th>' for name in _COLUMNS)
    body = "".join(_incident(alerts) for alerts in incidents[:INCIDENTS_MAX])
    left = len(incidents) - INCIDENTS_MAX
    note = f"<p>{left} later incidents are not shown here.</p>" if left > 0 else ""
    table = (
        f'<table role="table"><caption>One row an incident; open it for its explanation'
        f'</caption><thead role="rowgroup"><tr role="row">{heads}</tr></thead>'
        f'<tbody role="rowgroup">{body}</tbody></table>{note}'
    )
    return (
        '<section aria-labelledby="incidents"><h2 id="incidents">Incidents</h2>'
        f"{table if incidents else '<p>No alert was raised.</p>'}</section>"
    )


def _incident(alerts: Sequence[Alert]) -> str:
    severity = max((alert.severity for alert in alerts), key=_SEVERITIES.index)
    worst = max(alerts, key=lambda alert: alert.score)
    first = alerts[0]
    cells = (
        f'<span class="severity {severity}">{severity}</span>',
        moment(first.event_time_ms),
        _text(first.monitor),
        f'<span class="id">{_text(_entity(first))}</span>',
        f'<span title="p = {worst.p_value:.2g}">{worst.score:.1f}</span>',
        _explained(alerts, worst),
    )
    row = "".join(
        f'<td role="cell" data-label="{name}">{cell}</td>'
        for name, cell in zip(_COLUMNS, cells, strict=True)
    )
    return f'<tr role="row">{row}</tr>'


def _explained(alerts: Sequence[Alert], worst: Alert) -> str:
    parts = sorted(worst.contributions, key=lambda part: -part.share)
    words = "; ".join(_text(surprise(part)) for part in parts[:2]) or "no single feature"
    rows = "".join(
        f'<tr><th scope="row">{_text(part.feature)}</th><td>{number(part.actual)}</td>'
        f"<td>{_range(part)}</td><td>{part.p_value:.1e}</td>"
        f'<td><span class="bar" style="--share:{part.share * 100:.0f}%">'
        f"{part.share * 100:.0f} %</span></td></tr>"
        for part in parts
    )
    heads = "".join(
        f'<th scope="col">{name}</th>' for name in ("Feature", "Seen", "Expected", "p", "Share")
    )
    table = f'<table class="parts"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>'
    facts = "".join(
        f"<dt>{name}</dt><dd>{_text(fact)}</dd>" for name, fact in _facts(alerts, worst)
    )
    return f'<details><summary>{words}</summary>{table}<dl class="facts">{facts}</dl></details>'


def _range(part: Contribution) -> str:
    low = "…" if part.expected_low is None else number(part.expected_low)
    high = "…" if part.expected_high is None else number(part.expected_high)
    return low if low == high else f"{low} – {high}"


def _facts(alerts: Sequence[Alert], worst: Alert) -> Iterable[tuple[str, str]]:
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
    suppressed = max(alert.suppressed for alert in alerts)
    last = moment(max(alert.last_seen_ms for alert in alerts))
    yield "Alerts", f"{len(alerts)} sent, {suppressed} held back, last seen {last}"
    if worst.related:
        yield "Related", ", ".join(f"{other.type} {other.id}" for other in worst.related[:6])
    if worst.evidence:
        yield (
            "Evidence",
            ", ".join(
                f"{one.event_id} ({one.topic}/{one.partition}/{one.offset})"
                for one in worst.evidence[:3]
            ),
        )


def _chart(story: Story) -> dict[str, Any]:
    """The figure's data in our own shape; `page.js` draws it in the reader's colours."""
    traffic = story.traffic
    series = list(traffic.by_type.values())
    totals = [sum(column) for column in zip(*series, strict=True)]
    count = len(totals)
    peak = max(totals, default=1)
    seen: dict[int, int] = {}
    alerts = []
    for alert in sorted(story.alerts, key=lambda alert: alert.event_time_ms):
        bucket = (alert.event_time_ms - traffic.start_ms) // traffic.bucket_ms
        bucket = min(max(bucket, 0), max(count - 1, 0))
        above = seen[bucket] = seen.get(bucket, 0) + 1
        height = (totals[bucket] if count else 0) + peak * 0.035 * min(above, 8)
        hover = (
            f"<b>{_text(_entity(alert))}</b><br>{moment(alert.event_time_ms)}<br>"
            f"monitor {_text(alert.monitor)}, score {alert.score:.1f}, {alert.severity}"
        )
        alerts.append([alert.event_time_ms, height, alert.severity, hover])
    middles = [traffic.start_ms + int((i + 0.5) * traffic.bucket_ms) for i in range(count)]
    return {
        "time": middles,
        "bucket": duration(traffic.bucket_ms),
        "types": list(traffic.by_type),
        "counts": series,
        "alerts": alerts,
        "attacks": _windows(story.findings, max(1, count * traffic.bucket_ms)),
    }


def _windows(findings: Sequence[Finding], span_ms: int) -> list[dict[str, Any]]:
    """Windows to shade; attacks that begin at nearly the same place share one, and its label."""
    windows: list[dict[str, Any]] = []
    for count, one in enumerate(findings, 1):
        last = windows[-1] if windows else None
        if last and one.first_ms - last["from"] < _SAME_PLACE * span_ms:
            last["to"] = max(last["to"], one.last_ms)
            last["label"] = f"{str(last['label']).partition('–')[0]}–{count}"
            continue
        shown_ms = max(one.last_ms, one.first_ms + int(_NARROWEST * span_ms))
        windows.append({"from": one.first_ms, "to": shown_ms, "label": str(count)})
    return windows
