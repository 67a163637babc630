"""The demo's page: the simulated traffic, the alerts on it, and how each attack was found."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from schemas.alerts import Alert
from stream.page.charts import Mark, Window, traffic_chart
from stream.page.parts import (
    Html,
    Page,
    document,
    figures,
    incidents_table,
    name,
    paragraph,
    pill,
    text,
)
from stream.replay.incidents import Incident
from stream.replay.traffic import Traffic
from stream.words import duration, moment

_SAME_PLACE: Final = 0.03
"""Attacks that begin within this share of the traffic's span share one label in the chart."""
_NARROWEST: Final = 0.004
"""Share of the span below which an attack's window would not be seen."""
_FOOTER: Final = (
    "Times are UTC. A score is −log10 of the p-value: 4 means one honest event in ten thousand."
)


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
    """All that the page tells. figures: the headline, (value, what it is) each. incidents: those
    to show, of incidents_opened."""

    title: str
    lead: str
    figures: Sequence[tuple[str, str]]
    traffic: Traffic
    alerts: Sequence[Alert]
    findings: Sequence[Finding]
    incidents: Sequence[Incident]
    incidents_opened: int


def demo_page(story: Story) -> str:
    """The whole HTML file; it loads nothing from anywhere."""
    page = Page()
    headline = figures((what, value, "") for value, what in story.figures)
    span_ms = max(1, max(map(len, story.traffic.by_type.values()), default=0)) * (
        story.traffic.bucket_ms
    )
    windows = _windows(story.findings, span_ms)
    page.add(
        "traffic", "Traffic and alerts", traffic_chart(page, story.traffic, _marks(story), windows)
    )
    if story.findings:
        page.add("attacks", "Simulated attacks", *_findings(story.findings))
    incidents = incidents_table(story.incidents, story.incidents_opened)
    page.add("incidents", "Incidents", incidents)
    head = Html(f"<h1>{text(story.title)}</h1>{paragraph(story.lead)}{headline}")
    return document(page, f"Eddy: {story.title}", head, _FOOTER)


def first_alert(finding: Finding) -> str:
    """When the first alert of a found attack came: "after 8 s", or "1.5 h before it began"."""
    after_ms = finding.alerts[0].event_time_ms - finding.first_ms
    return (
        f"after {duration(after_ms)}" if after_ms >= 0 else f"{duration(-after_ms)} before it began"
    )


def _marks(story: Story) -> list[Mark]:
    return [
        Mark(
            one.event_time_ms,
            one.severity,
            f"{one.entity.type} {one.entity.id}\n{moment(one.event_time_ms)}\n"
            f"monitor {one.monitor}, score {one.score:.1f}, {one.severity}",
        )
        for one in story.alerts
    ]


def _findings(findings: Sequence[Finding]) -> tuple[Html, Html]:
    cards = "".join(_finding(count, finding) for count, finding in enumerate(findings, 1))
    lead = (
        "Numbered as in the chart above. Named: an alert is on the attacker itself; noticed: alerts"
        " are only on what it touched."
    )
    return paragraph(lead), Html(f'<ol class="cards">{cards}</ol>')


def _finding(count: int, finding: Finding) -> str:
    found = bool(finding.alerts)
    verdict = ("named" if finding.naming else "noticed") if found else "missed"
    told = "No alert was raised on any of its events."
    if found:
        entities = list(
            dict.fromkeys(f"{one.entity.type} {one.entity.id}" for one in finding.alerts)
        )
        more = f" and {len(entities) - 4} more" if len(entities) > 4 else ""
        plural = "s" if len(finding.alerts) > 1 else ""
        told = (
            f"First alert {first_alert(finding)}; {len(finding.alerts)} alert{plural} on "
            f"{', '.join(entities[:4])}{more}."
        )
    when = f"{moment(finding.first_ms)}, for {duration(finding.last_ms - finding.first_ms)}"
    return (
        f'<li><div class="head"><span class="no">{count}</span>'
        f"<h3>{text(finding.name)}</h3>{pill(verdict, verdict)}</div>"
        f"<p>{name(finding.entity)}</p>"
        f"<p>{text(finding.what[:1].upper() + finding.what[1:])}.</p>"
        f"{paragraph(when, 'when')}{paragraph(told)}</li>"
    )


def _windows(findings: Sequence[Finding], span_ms: int) -> list[Window]:
    """Windows to shade; attacks that begin at nearly the same place share one, and its label."""
    windows: list[Window] = []
    for count, one in enumerate(findings, 1):
        last = windows[-1] if windows else None
        if last and one.first_ms - last.first_ms < _SAME_PLACE * span_ms:
            label = f"{last.label.partition('–')[0]}–{count}"
            windows[-1] = Window(last.first_ms, max(last.last_ms, one.last_ms), label)
            continue
        shown_ms = max(one.last_ms, one.first_ms + int(_NARROWEST * span_ms))
        windows.append(Window(one.first_ms, shown_ms, str(count)))
    return windows
