"""The facts that a page shows about an incident."""

from collections.abc import Iterator

from schemas.alerts import Contribution
from stream.formatting import format_duration, format_number, format_quantity, format_time
from stream.replay.incidents import Incident

RELATED_MAX = 6


def by_share(incident: Incident) -> list[Contribution]:
    """The contributions to an incident's top alert, the largest share first."""
    return sorted(incident.top_alert.contributions, key=lambda part: -part.share)


def expected_text(part: Contribution) -> str:
    """The range in which a feature's value was expected."""
    low = "…" if part.expected_low is None else format_number(part.expected_low)
    high = "…" if part.expected_high is None else format_number(part.expected_high)
    return low if low == high else f"{low} – {high}"


def incident_facts(incident: Incident) -> Iterator[tuple[str, str]]:
    """Term and text of each fact about an incident."""
    alert = incident.top_alert
    action = alert.action
    enforced = "" if alert.run.enforceable else f" (not enforceable: {alert.run.reason})"
    yield (
        "Recommended",
        (
            f"{action.type} {action.scope} for {format_duration(action.ttl_s * 1000)}"
            f", {action.reason_code}{enforced}"
        ),
    )
    yield (
        "Counterfactual",
        f"no alert if {', '.join(alert.counterfactual)} had expected values"
        if alert.counterfactual
        else "no three features with expected values would have prevented the alert",
    )
    yield "Rarity", f"p = {alert.p_value:.2g}, alert at {alert.threshold:.2g}, by {alert.detector}"
    last = format_time(incident.last_ms)
    yield "Alerts", f"{incident.alerts} sent, {incident.suppressed} suppressed, last seen {last}"
    if alert.related:
        yield (
            "Related",
            ", ".join(f"{entity.type} {entity.id}" for entity in alert.related[:RELATED_MAX]),
        )
    if incident.evidence:
        yield (
            "Alerted on",
            ", ".join(
                f"{event.event_id} ({event.topic}/{event.partition}/{event.offset})"
                for event in incident.evidence
            ),
        )
    if incident.events is not None:
        amount = "" if incident.amount is None else f", amount {format_number(incident.amount)}"
        shown = len(incident.first_events)
        cut = f"; here the first {shown}" if 0 < shown < incident.events else ""
        yield "Events", f"{format_quantity(incident.events, 'event')} of the entity{amount}{cut}"
