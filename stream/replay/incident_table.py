"""incidents.parquet: a row for each incident, with its events and, with labels, the frauds among them.

Computed from the run's other tables: alerts.parquet gives when an incident opened, scores.parquet which
later events of its entity were counted in it, how long it lasts, and the events in between. It ends
where its entity has no alerted event for `incident_gap`. A late event from before its
incident's first is counted, but does not stretch it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from detectors.spec import seconds
from schemas.columns import F64, I64, Bools
from stream.config import Config
from stream.config.stage_graph import nodes
from stream.evaluation.labelled_run import ALERTED
from stream.replay.table_columns import INCIDENT_COLUMNS, TIME
from stream.replay.tables import TableFile, read_table_batches
from stream.replay.time_split import EvaluationSpan

TIME_BITS: Final = 42
"""Milliseconds since 1970 fit into these until 2109, and two million entities above them."""
TIME_MASK: Final = (1 << TIME_BITS) - 1
IDENTITY_COLUMNS: Final = ["incident_id", "monitor", "entity_type", "entity"]
STATUS_COLUMNS: Final = ["score", "severity", "first_seen", "last_seen"]


@dataclass(frozen=True, slots=True)
class IncidentSums:
    """Sums over some events of each incident. events: int64[incidents]. cents: int64[incidents],
    their amounts, any where one has an amount."""

    events: I64
    cents: I64
    any_amount: Bools


def write_incidents(
    config: Config,
    span: EvaluationSpan,
    path: Path,
    alerts: Path,
    scores: Path,
    known: tuple[Path, Path] | None,
) -> None:
    """Write incidents.parquet, by opening; evaluated are those that opened in the span.

    alerts, scores: the tables that it follows from; alerts in the order in which they were
    published. known: frauds and labels, None where there are none.
    """
    incidents = _from_alerts(pq.read_table(alerts, columns=[*IDENTITY_COLUMNS, *STATUS_COLUMNS]))
    columns: dict[str, Any] = {name: incidents[name] for name in incidents.column_names}
    columns["evaluated"] = span.contains(incidents["opened"].cast(pa.int64()).to_numpy())
    gaps_ms = _gaps_ms(config)
    by_monitor = [
        _MonitorIncidents(incidents, name, gaps_ms[name])
        for name in incidents["monitor"].unique().to_pylist()
    ]
    columns["suppressed"] = np.zeros(len(incidents), np.int64)
    for one in by_monitor:
        one.extend(scores, columns["suppressed"])
    last_ms = incidents["last"].cast(pa.int64()).to_numpy().copy()
    for one in by_monitor:
        last_ms[one.place] = one.last_ms
    columns["last"] = pa.array(last_ms).cast(TIME)
    events = _sums(by_monitor, len(incidents), scores)
    columns["events"] = events.events
    columns["amount"] = pa.array(events.cents / 100, mask=~events.any_amount)
    if known is None:
        columns |= dict.fromkeys(("frauds", "fraud_amount", "verdict"), pa.nulls(len(incidents)))
    else:
        frauds, labels = known
        fraud = _sums(by_monitor, len(incidents), frauds)
        columns["frauds"] = fraud.events
        columns["fraud_amount"] = fraud.cents / 100
        is_fraud = (fraud.events > 0) | _labelled_fraud(incidents, labels)
        columns["verdict"] = np.where(is_fraud, "fraud", "honest").astype(object)
    with TableFile(path, INCIDENT_COLUMNS) as file:
        file.write_batches(pa.table(columns).to_batches())


def _gaps_ms(config: Config) -> dict[str, float]:
    """`incident_gap` of every stage that raises alerts."""
    return {
        node.name: 1000.0 * seconds(node.policy.incident_gap)
        for node in nodes(config)
        if node.policy
    }


def _from_alerts(alerts: pa.Table) -> pa.Table:
    """The incidents of the alerts, a row each, by opening time."""
    which = alerts["incident_id"].combine_chunks().dictionary_encode().indices
    incident = which.to_numpy().astype(np.int64)
    rows = np.arange(len(incident))
    order = np.lexsort((rows, -alerts["score"].to_numpy(), incident))
    starts = np.flatnonzero(np.diff(incident[order], prepend=-1))
    top = order[starts]
    last_ms = alerts["last_seen"].cast(pa.int64()).to_numpy()
    incidents = {name: alerts[name].take(top) for name in IDENTITY_COLUMNS}
    incidents["opened"] = alerts["first_seen"].take(top)
    incidents["last"] = pa.array(np.maximum.reduceat(last_ms[order], starts)).cast(TIME)
    incidents["alerts"] = pa.array(np.bincount(incident))
    incidents["top_score"] = alerts["score"].take(top)
    incidents["severity"] = alerts["severity"].take(top)
    return pa.table(incidents).sort_by([("opened", "ascending"), ("incident_id", "ascending")])


def _labelled_fraud(incidents: pa.Table, labels: Path) -> Bools:
    """bool[incidents]: whether a label names the entity itself as fraudulent."""
    found = np.zeros(len(incidents), np.bool_)
    known = pq.read_schema(labels).names
    for field in incidents["entity_type"].unique().to_pylist():
        if field in known:
            fraud = pc.field("verdict") == "fraud"
            names = pq.read_table(labels, columns=[field], filters=fraud)[field].drop_null()
            here = pc.equal(incidents["entity_type"], field)
            found |= pc.and_(here, pc.is_in(incidents["entity"], names)).to_numpy()
    return found


class _MonitorIncidents:
    """The incidents of one monitor, found by entity and time: those of an entity do not overlap.
    place: int64[own], their rows among all; last_ms: int64[own], their last events."""

    def __init__(self, incidents: pa.Table, monitor: str, gap_ms: float) -> None:
        self._gap_ms = gap_ms
        place = np.flatnonzero(pc.equal(incidents["monitor"], monitor).to_numpy())
        own = incidents.take(place)
        self._activity = f"activity_{monitor}"
        self.field = own["entity_type"][0].as_py()
        entity = own["entity"].combine_chunks()
        self._entities = entity.unique()
        code = pc.index_in(entity, self._entities).to_numpy().astype(np.int64)
        key = (code << TIME_BITS) + own["opened"].cast(pa.int64()).to_numpy()
        order = np.argsort(key)
        last_ms = own["last"].cast(pa.int64()).to_numpy()
        self._key, self.last_ms, self.place = (one[order] for one in (key, last_ms, place))

    def extend(self, scores: Path, suppressed: I64) -> None:
        """Let them last until their last events, and count those that were suppressed; suppressed:
        int64[incidents] of all. Rows are in the order of their logs: 9 bytes of each event in an
        incident wait until all can be put in the order of time."""
        key, counted = self._in_incidents(scores)
        at = np.searchsorted(self._key, key, side="right") - 1
        # an incident reaches as far as its events follow each other without a longer gap
        run = np.cumsum(np.diff(key, prepend=key[:1]) > self._gap_ms)
        since = np.searchsorted(key, self._key)  # each one's opening is among the keys
        inside = self._same_entity(key, at) & (run == run[since[at]])
        np.maximum.at(self.last_ms, at[inside], key[inside] & TIME_MASK)
        # an event outside of all incidents is late: it belongs to the incident that opened after it
        of = np.minimum(at + ~inside, len(self._key) - 1)
        np.add.at(suppressed, self.place[of[counted & self._same_entity(key, of)]], 1)

    def _in_incidents(self, scores: Path) -> tuple[I64, Bools]:
        """(keys, counted): the events in incidents, and all openings, by entity and time; and which
        of them were suppressed."""
        keys, counted = [self._key], [np.zeros(len(self._key), np.bool_)]
        for batch in read_table_batches(scores, ["event_time", self.field, self._activity]):
            among = batch.filter(pc.is_in(batch[self._activity], pa.array(ALERTED)))
            rows, key = self._keys(among)
            only = pc.equal(among[self._activity], "suppressed").to_numpy(zero_copy_only=False)
            keys.append(key)
            counted.append(only[rows])
        key = np.concatenate(keys)
        order = np.argsort(key, kind="stable")
        return key[order], np.concatenate(counted)[order]

    def locate(self, batch: pa.RecordBatch) -> tuple[I64, I64]:
        """(rows, incidents): the batch's events that lie in an incident, and which."""
        rows, key = self._keys(batch)
        at = np.searchsorted(self._key, key, side="right") - 1
        inside = self._same_entity(key, at) & (key & TIME_MASK <= self.last_ms[at])
        return rows[inside], self.place[at[inside]]

    def _same_entity(self, key: I64, at: I64) -> Bools:
        """Whether the own incidents at these places are of the keys' entities."""
        theirs: Bools = (at >= 0) & (self._key[at] >> TIME_BITS == key >> TIME_BITS)
        return theirs

    def _keys(self, batch: pa.RecordBatch) -> tuple[I64, I64]:
        """(rows, keys): the events of entities that have an incident, and their keys."""
        code = pc.index_in(batch.column(self.field), self._entities)
        rows = np.flatnonzero(code.is_valid().to_numpy(zero_copy_only=False))
        entity = code.drop_null().to_numpy().astype(np.int64)
        time_ms = batch.column("event_time").cast(TIME).cast(pa.int64()).to_numpy()[rows]
        return rows, (entity << TIME_BITS) + time_ms


def _sums(
    by_monitor: Sequence[_MonitorIncidents], incident_count: int, table: Path
) -> IncidentSums:
    """Sums over the events of a table in each incident."""
    events, cents = np.zeros((2, incident_count), np.int64)
    sums = IncidentSums(events, cents, np.zeros(incident_count, np.bool_))
    fields = list(dict.fromkeys(one.field for one in by_monitor))
    for batch in read_table_batches(table, ["event_time", "amount", *fields]):
        amount = batch.column("amount").to_numpy(zero_copy_only=False)
        cents = in_cents(amount)
        for one in by_monitor:
            rows, places = one.locate(batch)
            np.add.at(sums.events, places, 1)
            np.add.at(sums.cents, places, cents[rows])
            sums.any_amount[places[~np.isnan(amount[rows])]] = True
    return sums


def in_cents(amount: F64) -> I64:
    """int64[n]: amounts as whole cents, whose sums do not depend on their order; NaN is 0, and
    one below 0 counts like one above."""
    found: I64 = np.rint(np.minimum(np.abs(np.nan_to_num(amount)) * 100, 9e15)).astype(np.int64)
    return found
