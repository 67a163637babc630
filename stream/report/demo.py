"""The demo's page: the simulated traffic, the alerts on it, and how each attack was found."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from schemas.alerts import Alert
from stream.formatting import format_duration, format_time
from stream.replay.incidents import Incident
from stream.replay.traffic import Traffic
from stream.report.charts import AlertMark, ShadedSpan, traffic_chart
from stream.report.templating import render

SHARED_LABEL_SHARE: Final = 0.03
"""Attacks that begin within this share of the traffic's span share one label in the chart."""
SPAN_SHARE_MIN: Final = 0.004
"""Smallest share of the traffic's span that is visible as a shaded span."""
ENTITIES_MAX: Final = 4


@dataclass(frozen=True, slots=True)
class AttackResult:
    """A simulated attack and the alerts on its events.

    naming_alerts: those of them whose entity is the attack's own.
    """

    name: str
    description: str
    entity: str
    first_ms: int
    last_ms: int
    alerts: Sequence[Alert]
    naming_alerts: Sequence[Alert]

    @property
    def outcome(self) -> str:
        """named: an alert is on the attacker itself; noticed: only on other entities; missed."""
        if not self.alerts:
            return "missed"
        return "named" if self.naming_alerts else "noticed"


@dataclass(frozen=True, slots=True)
class DemoFacts:
    """The facts on the demo's page. figures: (value, description) each. incidents: those with the
    highest scores, of incidents_opened."""

    title: str
    lead: str
    figures: Sequence[tuple[str, str]]
    traffic: Traffic
    alerts: Sequence[Alert]
    attack_results: Sequence[AttackResult]
    incidents: Sequence[Incident]
    incidents_opened: int


def render_demo(facts: DemoFacts) -> str:
    """The demo's page, one HTML file that loads nothing."""
    sections = {"traffic": "Traffic and alerts"}
    if facts.attack_results:
        sections["attacks"] = "Simulated attacks"
    sections["incidents"] = "Incidents"
    buckets = max(map(len, facts.traffic.by_type.values()), default=0)
    spans = _shaded_spans(facts.attack_results, max(1, buckets) * facts.traffic.bucket_ms)
    return render(
        "demo.html",
        facts.title,
        sections,
        [traffic_chart(facts.traffic, _marks(facts.alerts), spans)],
        {
            "demo": facts,
            "headline_figures": [(description, value, "") for value, description in facts.figures],
            "alerts_sentence": _alerts_sentence,
        },
    )


def first_alert_text(result: AttackResult) -> str:
    """When the first alert on an attack came: "after 8 s", or "1.5 h before it began"."""
    after_ms = result.alerts[0].event_time_ms - result.first_ms
    if after_ms >= 0:
        return f"after {format_duration(after_ms)}"
    return f"{format_duration(-after_ms)} before it began"


def _alerts_sentence(result: AttackResult) -> str:
    if not result.alerts:
        return "No alert was raised on any of its events."
    entities = list(
        dict.fromkeys(f"{alert.entity.type} {alert.entity.id}" for alert in result.alerts)
    )
    hidden = len(entities) - ENTITIES_MAX
    return (
        f"First alert {first_alert_text(result)}; {len(result.alerts)} "
        f"alert{'s' if len(result.alerts) > 1 else ''} on {', '.join(entities[:ENTITIES_MAX])}"
        f"{f' and {hidden} more' if hidden > 0 else ''}."
    )


def _marks(alerts: Sequence[Alert]) -> list[AlertMark]:
    return [
        AlertMark(
            alert.event_time_ms,
            alert.severity,
            f"{alert.entity.type} {alert.entity.id}\n{format_time(alert.event_time_ms)}\n"
            f"monitor {alert.monitor}, score {alert.score:.1f}, {alert.severity}",
        )
        for alert in alerts
    ]


def _shaded_spans(results: Sequence[AttackResult], traffic_ms: int) -> list[ShadedSpan]:
    """A span for each attack; attacks that begin at nearly the same time share one and its label."""
    spans: list[ShadedSpan] = []
    for number, attack in enumerate(results, 1):
        last = spans[-1] if spans else None
        if last and attack.first_ms - last.first_ms < SHARED_LABEL_SHARE * traffic_ms:
            label = f"{last.label.partition('–')[0]}–{number}"
            spans[-1] = ShadedSpan(last.first_ms, max(last.last_ms, attack.last_ms), label)
            continue
        end_ms = max(attack.last_ms, attack.first_ms + int(SPAN_SHARE_MIN * traffic_ms))
        spans.append(ShadedSpan(attack.first_ms, end_ms, str(number)))
    return spans
