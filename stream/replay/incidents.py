"""The incidents of a run with the highest scores, collected from alerts as they are published or from
the tables of a run.

An incident is shown by its alert with the highest score. Only the top incidents are held in memory.
"""

import heapq
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas.alerts import Alert, Entity, Evidence, Severity

INCIDENTS_MAX: Final = 25
"""Incidents shown on the page, which also states the number of all."""
EVENTS_MAX: Final = 5
SEVERITIES: Final[tuple[Severity, ...]] = ("low", "medium", "high", "critical")


@dataclass(frozen=True, slots=True, kw_only=True)
class IncidentEvent:
    """An event of an incident's entity. score: by the incident's monitor, null if it did not score the
    event."""

    event_id: str
    time_ms: int
    amount: float | None
    score: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """The alerts of an entity that belong together. top_alert: the one with the highest score.

    severity: the highest of all alerts. alerts: number of published alerts. suppressed: number of events
    without an alert of their own, as of the last alert or, in a run, of the whole incident. evidence:
    the last events with an alert, newest first. events: number of the entity's events from first_ms to
    last_ms. amount: of these events. verdict: "fraud" if one of them is fraud, else "honest". All three
    are null where unknown, as in the demo. first_events: the first of these events; empty in the demo.
    """

    severity: Severity
    monitor: str
    entity: Entity
    first_ms: int
    last_ms: int
    alerts: int
    suppressed: int
    top_alert: Alert
    evidence: list[Evidence]
    events: int | None = None
    amount: float | None = None
    verdict: str | None = None
    first_events: list[IncidentEvent] = field(default_factory=list)


class TopIncidents:
    """The incidents with the highest scores, and the number of all incidents opened.

    Incidents outside the top are dropped. If a dropped incident gets an alert with a higher score, it
    returns with correct values: that score is its highest, and an alert holds the counts of the
    earlier alerts.
    """

    def __init__(self, limit: int = INCIDENTS_MAX) -> None:
        self._limit = limit
        self._by_id: dict[str, Incident] = {}
        self.opened = 0

    def add(self, alerts: list[Alert]) -> None:
        """Add alerts, in the order in which they were published."""
        for alert in alerts:
            self.opened += alert.activity == "opened"
            earlier = self._by_id.get(alert.incident_id)
            self._by_id[alert.incident_id] = _with_alert(earlier, alert)
            if len(self._by_id) > 2 * self._limit:
                self._by_id = {incident.top_alert.incident_id: incident for incident in self.top()}

    def top(self) -> list[Incident]:
        """The top incidents, the highest score first."""
        return heapq.nsmallest(self._limit, self._by_id.values(), key=_rank)


def _rank(incident: Incident) -> tuple[float, int, str]:
    """Sorts the highest score first; the rest makes the order unique."""
    return -incident.top_alert.score, incident.first_ms, incident.top_alert.incident_id


def _with_alert(earlier: Incident | None, alert: Alert) -> Incident:
    top_alert = alert
    if earlier and earlier.top_alert.score >= alert.score:
        top_alert = earlier.top_alert
    severity = max(alert.severity, earlier.severity if earlier else "low", key=SEVERITIES.index)
    return Incident(
        severity=severity,
        monitor=alert.monitor,
        entity=alert.entity,
        first_ms=alert.first_seen_ms,
        last_ms=max(alert.last_seen_ms, earlier.last_ms if earlier else 0),
        alerts=alert.revision,
        suppressed=alert.suppressed,
        top_alert=top_alert,
        evidence=[*alert.evidence, *(earlier.evidence if earlier else [])][:EVENTS_MAX],
    )


class OpenedIncidents(NamedTuple):
    """Incidents opened in the evaluated time. incidents: the top ones. total: the number of all."""

    incidents: list[Incident]
    total: int


def read_opened_incidents(incidents: Path, alerts: Path, lines: Path) -> OpenedIncidents:
    """The incidents opened in the evaluated time.

    incidents, alerts: paths of the tables. lines: alerts.ndjson, whose lines are the rows of alerts.
    """
    evaluated = pc.field("evaluated")
    opened = pq.read_table(
        incidents, columns=["incident_id", "opened", "top_score"], filters=evaluated
    )
    order = [("top_score", "descending"), ("opened", "ascending"), ("incident_id", "ascending")]
    top_ids = opened.sort_by(order)["incident_id"].slice(0, INCIDENTS_MAX).combine_chunks()
    is_of_top = pc.is_in(pq.read_table(alerts, columns=["incident_id"])["incident_id"], top_ids)
    top = TopIncidents()
    with lines.open("rb") as file:
        for line, is_shown in zip(file, is_of_top, strict=True):
            if is_shown.as_py():
                top.add([msgspec.json.decode(line, type=Alert)])
    columns = ["incident_id", "last", "suppressed", "events", "amount", "verdict"]
    rows = pq.read_table(incidents, columns=columns, filters=pc.field("incident_id").isin(top_ids))
    last_times = rows["last"].cast(pa.int64()).to_pylist()
    table_values = {
        row["incident_id"]: {name: row[name] for name in columns[2:]} | {"last_ms": last_ms}
        for row, last_ms in zip(rows.to_pylist(), last_times, strict=True)
    }
    shown = [
        replace(incident, **table_values[incident.top_alert.incident_id]) for incident in top.top()
    ]
    return OpenedIncidents(shown, len(opened))
