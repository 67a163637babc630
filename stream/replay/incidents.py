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
"""Incidents on the page, which says how many more there are."""
EVENTS_MAX: Final = 5
SEVERITIES: Final[tuple[Severity, ...]] = ("low", "medium", "high", "critical")


@dataclass(frozen=True, slots=True, kw_only=True)
class IncidentEvent:
    """An event of an incident's entity. score: its monitor's, null where it did not score it."""

    event_id: str
    time_ms: int
    amount: float | None
    score: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """The alerts of an entity that belong together. top_alert: the one with the highest score.

    severity: the highest of them. alerts: how many were published, suppressed: how many were only
    counted, as far as is known. evidence: the last events that raised one, the newest first.
    events: of the entity, from opening to last; amount: of these; verdict: "fraud" where one of
    them is, else "honest". Each is null where it is not known. first_events: the first of these
    events, as far as they are known.
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

    An incident that was dropped had no higher score than any kept one. If it returns with a higher
    score, that is its highest, and the new alert holds the counts of its earlier ones.
    """

    def __init__(self, limit: int = INCIDENTS_MAX) -> None:
        self._limit = limit
        self._by_id: dict[str, Incident] = {}
        self.opened = 0

    def add(self, alerts: list[Alert]) -> None:
        """Take alerts in the order in which they were published."""
        for alert in alerts:
            self.opened += alert.activity == "opened"
            known = self._by_id.get(alert.incident_id)
            self._by_id[alert.incident_id] = _with_alert(known, alert)
            if len(self._by_id) > 2 * self._limit:
                self._by_id = {one.top_alert.incident_id: one for one in self.top()}

    def top(self) -> list[Incident]:
        """The top incidents, the highest score first."""
        return heapq.nsmallest(self._limit, self._by_id.values(), key=_rank)


def _rank(incident: Incident) -> tuple[float, int, str]:
    """Sorts the highest score first; the rest makes the order unique."""
    return -incident.top_alert.score, incident.first_ms, incident.top_alert.incident_id


def _with_alert(known: Incident | None, alert: Alert) -> Incident:
    worst = known.top_alert if known and known.top_alert.score >= alert.score else alert
    severity = max(alert.severity, known.severity if known else "low", key=SEVERITIES.index)
    return Incident(
        severity=severity,
        monitor=alert.monitor,
        entity=alert.entity,
        first_ms=alert.first_seen_ms,
        last_ms=max(alert.last_seen_ms, known.last_ms if known else 0),
        alerts=alert.revision,
        suppressed=alert.suppressed,
        top_alert=worst,
        evidence=[*alert.evidence, *(known.evidence if known else [])][:EVENTS_MAX],
    )


class OpenedIncidents(NamedTuple):
    """Incidents in the evaluated time: the top ones, and the number of all."""

    incidents: list[Incident]
    total: int


def read_opened_incidents(incidents: Path, alerts: Path, lines: Path) -> OpenedIncidents:
    """The incidents that are evaluated, from incidents.parquet, alerts.parquet and, line for line
    the same alerts, alerts.ndjson."""
    evaluated = pc.field("evaluated")
    known = pq.read_table(
        incidents, columns=["incident_id", "opened", "top_score"], filters=evaluated
    )
    order = [("top_score", "descending"), ("opened", "ascending"), ("incident_id", "ascending")]
    ids = known.sort_by(order)["incident_id"].slice(0, INCIDENTS_MAX).combine_chunks()
    theirs = pc.is_in(pq.read_table(alerts, columns=["incident_id"])["incident_id"], ids)
    gathered = TopIncidents()
    with lines.open("rb") as file:
        for line, is_theirs in zip(file, theirs, strict=True):
            if is_theirs.as_py():
                gathered.add([msgspec.json.decode(line, type=Alert)])
    columns = ["incident_id", "last", "suppressed", "events", "amount", "verdict"]
    rows = pq.read_table(incidents, columns=columns, filters=pc.field("incident_id").isin(ids))
    ends = rows["last"].cast(pa.int64()).to_pylist()
    outcomes = {
        row["incident_id"]: {name: row[name] for name in columns[2:]} | {"last_ms": last_ms}
        for row, last_ms in zip(rows.to_pylist(), ends, strict=True)
    }
    worst = [replace(one, **outcomes[one.top_alert.incident_id]) for one in gathered.top()]
    return OpenedIncidents(worst, len(known))
