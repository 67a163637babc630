"""incidents.parquet: a row an incident, with what its entity did and, where labels are known, what
of it was fraud.

Alerts tell when an incident opened and how far it has come; which events lie between is found in
scores.parquet behind the run, in one pass. About half a kilobyte an incident is held in memory.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.alerts import Alert
from schemas.columns import F64, I64, Bools
from stream.replay.tables import INCIDENT_COLUMNS, ROW_GROUP_ROWS, TIME, TableFile, batches_in

TIME_BITS: Final = 42
"""Milliseconds since 1970 fit into these until 2109, and two million entities above them."""


@dataclass(slots=True)
class _Incident:
    incident_id: str
    monitor: str
    entity_type: str
    entity: str
    opened: int
    last: int
    alerts: int
    suppressed: int
    top_score: float
    severity: str


@dataclass(frozen=True, slots=True)
class Sums:
    """Of some events of each incident. events: int64[incidents]. hundredths: int64[incidents],
    their amounts, any where one has an amount."""

    events: I64
    hundredths: I64
    any_amount: Bools


class Incidents:
    """All incidents of a run."""

    def __init__(self) -> None:
        self._by_id: dict[str, _Incident] = {}

    def add(self, alerts: Iterable[Alert]) -> None:
        """Take alerts in the order in which they were published."""
        for alert in alerts:
            known = self._by_id.get(alert.incident_id)
            if known is None:
                self._by_id[alert.incident_id] = _Incident(
                    incident_id=alert.incident_id,
                    monitor=alert.monitor,
                    entity_type=alert.entity.type,
                    entity=alert.entity.id,
                    opened=alert.first_seen_ms,
                    last=alert.last_seen_ms,
                    alerts=1,
                    suppressed=alert.suppressed,
                    top_score=alert.score,
                    severity=alert.severity,
                )
            else:
                known.last = max(known.last, alert.last_seen_ms)
                known.alerts += 1
                known.suppressed = alert.suppressed
                if alert.score > known.top_score:
                    known.top_score, known.severity = alert.score, alert.severity

    def ordered(self) -> list[_Incident]:
        """By opening."""
        return sorted(self._by_id.values(), key=lambda one: (one.opened, one.incident_id))

    def write(self, path: Path, scores: Path, frauds: Path | None) -> None:
        """Write incidents.parquet. frauds: frauds.parquet, None where there are no labels."""
        incidents = self.ordered()
        events = _sums(incidents, batches_in(scores))
        fraud = None if frauds is None else _sums(incidents, batches_in(frauds))
        with TableFile(path, INCIDENT_COLUMNS) as file:
            for start in range(0, len(incidents), ROW_GROUP_ROWS):
                rows = range(start, min(start + ROW_GROUP_ROWS, len(incidents)))
                file.write_rows([_row(incidents[i], i, events, fraud) for i in rows])


def _row(incident: _Incident, i: int, events: Sums, fraud: Sums | None) -> dict[str, Any]:
    row = {name: getattr(incident, name) for name in _Incident.__slots__}
    row["events"] = int(events.events[i])
    row["amount"] = int(events.hundredths[i]) / 100 if events.any_amount[i] else None
    if fraud is not None:
        row["frauds"] = int(fraud.events[i])
        row["fraud_amount"] = int(fraud.hundredths[i]) / 100
        row["verdict"] = "fraud" if fraud.events[i] else "honest"
    return row


class _OfMonitor:
    """The incidents of one monitor, found by entity and time: those of an entity do not overlap."""

    def __init__(self, incidents: list[_Incident], places: list[int]) -> None:
        own = [incidents[place] for place in places]
        self.field = own[0].entity_type
        self._entities = pa.array(sorted({one.entity for one in own}), pa.string())
        code = pc.index_in(pa.array([one.entity for one in own]), self._entities).to_numpy()
        opened = np.array([one.opened for one in own], np.int64)
        key = (code.astype(np.int64) << TIME_BITS) + opened
        order = np.argsort(key)
        self._key = key[order]
        self._last = np.array([one.last for one in own], np.int64)[order]
        self._place = np.array(places, np.int64)[order]

    def found(self, batch: pa.RecordBatch) -> tuple[I64, I64]:
        """(rows, incidents): the batch's events that lie in an incident, and which."""
        code = pc.index_in(batch.column(self.field), self._entities)
        rows = np.flatnonzero(code.is_valid().to_numpy(zero_copy_only=False))
        entity = code.drop_null().to_numpy().astype(np.int64)
        time_ms = batch.column("event_time").cast(TIME).cast(pa.int64()).to_numpy()[rows]
        at = np.searchsorted(self._key, (entity << TIME_BITS) + time_ms, side="right") - 1
        near = np.maximum(at, 0)
        inside = (
            (at >= 0) & (self._key[near] >> TIME_BITS == entity) & (time_ms <= self._last[near])
        )
        return rows[inside], self._place[near[inside]]


def _sums(incidents: list[_Incident], batches: Iterable[pa.RecordBatch]) -> Sums:
    """What lies in each incident."""
    by_monitor: dict[str, list[int]] = {}
    for place, incident in enumerate(incidents):
        by_monitor.setdefault(incident.monitor, []).append(place)
    of_monitors = [_OfMonitor(incidents, places) for places in by_monitor.values()]
    events, hundredths = np.zeros((2, len(incidents)), np.int64)
    sums = Sums(events, hundredths, np.zeros(len(incidents), np.bool_))
    for batch in batches:
        amount = batch.column("amount").to_numpy(zero_copy_only=False)
        hundredths = in_hundredths(amount)
        for one in of_monitors:
            rows, places = one.found(batch)
            np.add.at(sums.events, places, 1)
            np.add.at(sums.hundredths, places, hundredths[rows])
            sums.any_amount[places[~np.isnan(amount[rows])]] = True
    return sums


def in_hundredths(amount: F64) -> I64:
    """int64[n]: amounts as whole hundredths, whose sums do not depend on their order; NaN is 0."""
    return np.rint(np.nan_to_num(amount) * 100).astype(np.int64)
