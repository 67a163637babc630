"""incidents.parquet: a row an incident, with what its entity did and, where labels are known, what
of it was fraud.

Follows from the run's other tables, each read once: alerts.parquet tells when an incident opened
and how far it has come, scores.parquet which events lie between.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas.columns import F64, I64, Bools
from stream.replay.tables import INCIDENT_COLUMNS, TIME, TableFile, batches_in

TIME_BITS: Final = 42
"""Milliseconds since 1970 fit into these until 2109, and two million entities above them."""
WHO: Final = ["incident_id", "monitor", "entity_type", "entity"]
SO_FAR: Final = ["score", "severity", "suppressed", "first_seen", "last_seen"]


@dataclass(frozen=True, slots=True)
class Sums:
    """Of some events of each incident. events: int64[incidents]. hundredths: int64[incidents],
    their amounts, any where one has an amount."""

    events: I64
    hundredths: I64
    any_amount: Bools


def write_incidents(path: Path, alerts: Path, scores: Path, frauds: Path | None) -> None:
    """Write incidents.parquet, by opening.

    alerts, scores, frauds: the tables that it follows from; alerts in the order in which they were
    published, frauds None where there are no labels.
    """
    told = _told(pq.read_table(alerts, columns=[*WHO, *SO_FAR]))
    events = _sums(told, batches_in(scores))
    columns: dict[str, Any] = {name: told[name] for name in told.column_names}
    columns["events"] = events.events
    columns["amount"] = pa.array(events.hundredths / 100, mask=~events.any_amount)
    if frauds is None:
        columns |= dict.fromkeys(("frauds", "fraud_amount", "verdict"), pa.nulls(len(told)))
    else:
        fraud = _sums(told, batches_in(frauds))
        columns["frauds"] = fraud.events
        columns["fraud_amount"] = fraud.hundredths / 100
        columns["verdict"] = np.where(fraud.events > 0, "fraud", "honest").astype(object)
    with TableFile(path, INCIDENT_COLUMNS) as file:
        file.write_batches(pa.table(columns).to_batches())


def _told(alerts: pa.Table) -> pa.Table:
    """What alerts tell of the incidents that they belong to, a row each, by opening."""
    which = alerts["incident_id"].combine_chunks().dictionary_encode().indices
    incident = which.to_numpy().astype(np.int64)
    rows = np.arange(len(incident))
    order = np.lexsort((rows, -alerts["score"].to_numpy(), incident))
    starts = np.flatnonzero(np.diff(incident[order], prepend=-1))
    top, latest = order[starts], np.maximum.reduceat(rows[order], starts)
    last_ms = alerts["last_seen"].cast(pa.int64()).to_numpy()
    told = {name: alerts[name].take(top) for name in WHO}
    told["opened"] = alerts["first_seen"].take(top)
    told["last"] = pa.array(np.maximum.reduceat(last_ms[order], starts)).cast(TIME)
    told["alerts"] = pa.array(np.bincount(incident))
    told["suppressed"] = alerts["suppressed"].take(latest)
    told["top_score"] = alerts["score"].take(top)
    told["severity"] = alerts["severity"].take(top)
    return pa.table(told).sort_by([("opened", "ascending"), ("incident_id", "ascending")])


class _OfMonitor:
    """The incidents of one monitor, found by entity and time: those of an entity do not overlap."""

    def __init__(self, told: pa.Table, monitor: str) -> None:
        self._place = np.flatnonzero(pc.equal(told["monitor"], monitor).to_numpy())
        own = told.take(self._place)
        self.field = own["entity_type"][0].as_py()
        entity = own["entity"].combine_chunks()
        self._entities = entity.unique()
        code = pc.index_in(entity, self._entities).to_numpy().astype(np.int64)
        self._key = (code << TIME_BITS) + own["opened"].cast(pa.int64()).to_numpy()
        self._last = own["last"].cast(pa.int64()).to_numpy()
        order = np.argsort(self._key)
        self._key, self._last, self._place = (
            one[order] for one in (self._key, self._last, self._place)
        )

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


def _sums(told: pa.Table, batches: Iterable[pa.RecordBatch]) -> Sums:
    """What lies in each incident."""
    of_monitors = [_OfMonitor(told, monitor.as_py()) for monitor in told["monitor"].unique()]
    events, hundredths = np.zeros((2, len(told)), np.int64)
    sums = Sums(events, hundredths, np.zeros(len(told), np.bool_))
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
