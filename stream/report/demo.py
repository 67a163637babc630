"""The demo's page: the simulated traffic, the alerts on it, and how each attack was found."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from schemas.alerts import Alert
from stream.formatting import duration, format_time
from stream.replay.incidents import Incident
from stream.replay.traffic import Traffic
from stream.report.charts import AlertMark, ShadedSpan, traffic_chart
from stream.report.elements import (
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

_SHARED_LABEL_SHARE: Final = 0.03
"""Attacks that begin within this share of the traffic's span share one label in the chart."""
_SPAN_SHARE_MIN: Final = 0.004
"""Share of the span below which an attack's window would not be seen."""
_FOOTER: Final = (
    "Times are UTC. A score is −log10 of the p-value: 4 means one honest event in ten thousand."
)


@dataclass(frozen=True, slots=True)
class AttackResult:
    """A simulated attack and the alerts that found it, in their order.

    naming: those of them whose entity is the attack's own.
    """

    name: str
    description: str
    entity: str
    first_ms: int
    last_ms: int
    alerts: Sequence[Alert]
    naming_alerts: Sequence[Alert]


@dataclass(frozen=True, slots=True)
class DemoFacts:
    """All that the page tells. figures: the headline, (value, what it is) each. incidents: those
    to show, of incidents_opened."""

    title: str
    lead: str
    figures: Sequence[tuple[str, str]]
    traffic: Traffic
    alerts: Sequence[Alert]
    attack_results: Sequence[AttackResult]
    incidents: Sequence[Incident]
    incidents_opened: int


def render_demo(demo_facts: DemoFacts) -> str:
    """The whole HTML file; it loads nothing from anywhere."""
    page = Page()
    headline = figures((what, value, "") for value, what in demo_facts.figures)
    span_ms = max(1, max(map(len, demo_facts.traffic.by_type.values()), default=0)) * (
        demo_facts.traffic.bucket_ms
    )
    windows = _windows(demo_facts.attack_results, span_ms)
    page.add(
        "traffic",
        "Traffic and alerts",
        traffic_chart(page, demo_facts.traffic, _marks(demo_facts), windows),
    )
    if demo_facts.attack_results:
        page.add("attacks", "Simulated attacks", *_attack_cards(demo_facts.attack_results))
    incidents = incidents_table(demo_facts.incidents, demo_facts.incidents_opened)
    page.add("incidents", "Incidents", incidents)
    head = Html(f"<h1>{text(demo_facts.title)}</h1>{paragraph(demo_facts.lead)}{headline}")
    return document(page, f"Eddy: {demo_facts.title}", head, _FOOTER)


def first_alert(attack_result: AttackResult) -> str:
    """When the first alert of a found attack came: "after 8 s", or "1.5 h before it began"."""
    after_ms = attack_result.alerts[0].event_time_ms - attack_result.first_ms
    return (
        f"after {duration(after_ms)}" if after_ms >= 0 else f"{duration(-after_ms)} before it began"
    )


def _marks(demo_facts: DemoFacts) -> list[AlertMark]:
    return [
        AlertMark(
            one.event_time_ms,
            one.severity,
            f"{one.entity.type} {one.entity.id}\n{format_time(one.event_time_ms)}\n"
            f"monitor {one.monitor}, score {one.score:.1f}, {one.severity}",
        )
        for one in demo_facts.alerts
    ]


def _attack_cards(attack_results: Sequence[AttackResult]) -> tuple[Html, Html]:
    cards = "".join(
        _attack_result(count, attack_result)
        for count, attack_result in enumerate(attack_results, 1)
    )
    lead = (
        "Numbered as in the chart above. Named: an alert is on the attacker itself; noticed: alerts"
        " are only on what it touched."
    )
    return paragraph(lead), Html(f'<ol class="cards">{cards}</ol>')


def _attack_result(count: int, attack_result: AttackResult) -> str:
    found = bool(attack_result.alerts)
    verdict = ("named" if attack_result.naming_alerts else "noticed") if found else "missed"
    rendered = "No alert was raised on any of its events."
    if found:
        entities = list(
            dict.fromkeys(f"{one.entity.type} {one.entity.id}" for one in attack_result.alerts)
        )
        more = f" and {len(entities) - 4} more" if len(entities) > 4 else ""
        plural = "s" if len(attack_result.alerts) > 1 else ""
        rendered = (
            f"First alert {first_alert(attack_result)}; {len(attack_result.alerts)} alert{plural} on "
            f"{', '.join(entities[:4])}{more}."
        )
    when = f"{format_time(attack_result.first_ms)}, for {duration(attack_result.last_ms - attack_result.first_ms)}"
    return (
        f'<li><div class="head"><span class="no">{count}</span>'
        f"<h3>{text(attack_result.name)}</h3>{pill(verdict, verdict)}</div>"
        f"<p>{name(attack_result.entity)}</p>"
        f"<p>{text(attack_result.description[:1].upper() + attack_result.description[1:])}.</p>"
        f"{paragraph(when, 'when')}{paragraph(rendered)}</li>"
    )


def _windows(attack_results: Sequence[AttackResult], span_ms: int) -> list[ShadedSpan]:
    """Windows to shade; attacks that begin at nearly the same place share one, and its label."""
    windows: list[ShadedSpan] = []
    for count, one in enumerate(attack_results, 1):
        last = windows[-1] if windows else None
        if last and one.first_ms - last.first_ms < _SHARED_LABEL_SHARE * span_ms:
            label = f"{last.label.partition('–')[0]}–{count}"
            windows[-1] = ShadedSpan(last.first_ms, max(last.last_ms, one.last_ms), label)
            continue
        shown_ms = max(one.last_ms, one.first_ms + int(_SPAN_SHARE_MIN * span_ms))
        windows.append(ShadedSpan(one.first_ms, shown_ms, str(count)))
    return windows
