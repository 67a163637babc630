"""incidents.parquet: a row for each incident, with its events and, with labels, the frauds among them.

Computed from the run's other tables: alerts.parquet gives the opening of an incident; scores.parquet
gives its alerted events and all events of its entity until the last of them. An incident ends when its
entity has no alerted event for `incident_gap`. A late event from before the opening is counted in the
incident, but does not move the opening.
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
"""Lower bits of a key, for milliseconds since 1970 until 2109. The upper bits hold the index of one of up
to two million entities."""
TIME_MASK: Final = (1 << TIME_BITS) - 1
IDENTITY_COLUMNS: Final = ["incident_id", "monitor", "entity_type", "entity"]
STATUS_COLUMNS: Final = ["score", "severity", "first_seen", "last_seen"]


@dataclass(frozen=True, slots=True)
class IncidentSums:
    """Sums over events of each incident, each an array over incidents. events: their number. cents: the
    sum of their amounts. any_amount: whether one of them has an amount."""

    events: I64
    cents: I64
    any_amount: Bools


def write_incidents(
    config: Config,
    span: EvaluationSpan,
    path: Path,
    alerts: Path,
    scores: Path,
    frauds_and_labels: tuple[Path, Path] | None,
) -> None:
    """Write incidents.parquet, ordered by opening. Incidents opened in the span are marked as evaluated.

    alerts, scores: alerts.parquet, in the order in which alerts were published, and scores.parquet.
    frauds_and_labels: frauds.parquet and labels.parquet; None without labels.
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
    for monitor_incidents in by_monitor:
        monitor_incidents.extend(scores, columns["suppressed"])
    last_ms = incidents["last"].cast(pa.int64()).to_numpy().copy()
    for monitor_incidents in by_monitor:
        last_ms[monitor_incidents.row] = monitor_incidents.last_ms
    columns["last"] = pa.array(last_ms).cast(TIME)
    event_sums = _sums(by_monitor, len(incidents), scores)
    columns["events"] = event_sums.events
    columns["amount"] = pa.array(event_sums.cents / 100, mask=~event_sums.any_amount)
    if frauds_and_labels is None:
        columns |= dict.fromkeys(("frauds", "fraud_amount", "verdict"), pa.nulls(len(incidents)))
    else:
        frauds, labels = frauds_and_labels
        fraud_sums = _sums(by_monitor, len(incidents), frauds)
        columns["frauds"] = fraud_sums.events
        columns["fraud_amount"] = fraud_sums.cents / 100
        is_fraud = (fraud_sums.events > 0) | _labelled_fraud(incidents, labels)
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
    codes = alerts["incident_id"].combine_chunks().dictionary_encode().indices
    incident = codes.to_numpy().astype(np.int64)
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
    is_fraud = np.zeros(len(incidents), np.bool_)
    label_columns = pq.read_schema(labels).names
    for field in incidents["entity_type"].unique().to_pylist():
        if field in label_columns:
            fraud_only = pc.field("verdict") == "fraud"
            ids = pq.read_table(labels, columns=[field], filters=fraud_only)[field].drop_null()
            has_field = pc.equal(incidents["entity_type"], field)
            is_fraud |= pc.and_(has_field, pc.is_in(incidents["entity"], ids)).to_numpy()
    return is_fraud


class _MonitorIncidents:
    """The m incidents of one monitor, sorted by entity and opening. Those of an entity do not overlap.

    row: int64[m], their rows among the incidents of all monitors. last_ms: int64[m], the times of their
    last events. A key is an entity's index and a time in one integer, see `TIME_BITS`.
    """

    def __init__(self, incidents: pa.Table, monitor: str, gap_ms: float) -> None:
        self._gap_ms = gap_ms
        row = np.flatnonzero(pc.equal(incidents["monitor"], monitor).to_numpy())
        monitor_incidents = incidents.take(row)
        self._activity = f"activity_{monitor}"
        self.field = monitor_incidents["entity_type"][0].as_py()
        entity = monitor_incidents["entity"].combine_chunks()
        self._entities = entity.unique()
        code = pc.index_in(entity, self._entities).to_numpy().astype(np.int64)
        key = (code << TIME_BITS) + monitor_incidents["opened"].cast(pa.int64()).to_numpy()
        order = np.argsort(key)
        last_ms = monitor_incidents["last"].cast(pa.int64()).to_numpy()
        self._key, self.last_ms, self.row = (column[order] for column in (key, last_ms, row))

    def extend(self, scores: Path, suppressed: I64) -> None:
        """Set last_ms to the last event of each incident, and add its events with the outcome "suppressed" to
        suppressed, int64[incidents of all monitors].

        Rows of scores are in the order of the logs, so 9 bytes of each event in an incident are held in
        memory until all can be sorted by time.
        """
        key, is_suppressed = self._alerted_events(scores)
        index = np.searchsorted(self._key, key, side="right") - 1  # the last incident opened before
        # a chain: events of one entity without a gap longer than `incident_gap` between them
        chain = np.cumsum(np.diff(key, prepend=key[:1]) > self._gap_ms)
        opening = np.searchsorted(key, self._key)  # the opening of each incident is among the keys
        inside = self._same_entity(key, index) & (chain == chain[opening[index]])
        np.maximum.at(self.last_ms, index[inside], key[inside] & TIME_MASK)
        # an event outside of all incidents is late: it belongs to the incident that opened after it
        index = np.minimum(index + ~inside, len(self._key) - 1)
        np.add.at(suppressed, self.row[index[is_suppressed & self._same_entity(key, index)]], 1)

    def _alerted_events(self, scores: Path) -> tuple[I64, Bools]:
        """(keys, is_suppressed): the sorted keys of all openings and alerted events; and whether each is an
        event with the outcome "suppressed"."""
        keys, is_suppressed = [self._key], [np.zeros(len(self._key), np.bool_)]
        for batch in read_table_batches(scores, ["event_time", self.field, self._activity]):
            alerted = batch.filter(pc.is_in(batch[self._activity], pa.array(ALERTED)))
            rows, key = self._keys(alerted)
            suppressed = pc.equal(alerted[self._activity], "suppressed").to_numpy(
                zero_copy_only=False
            )
            keys.append(key)
            is_suppressed.append(suppressed[rows])
        key = np.concatenate(keys)
        order = np.argsort(key, kind="stable")
        return key[order], np.concatenate(is_suppressed)[order]

    def locate(self, batch: pa.RecordBatch) -> tuple[I64, I64]:
        """(rows, incidents): the rows of the batch that lie in an incident, and the rows of their incidents
        among those of all monitors."""
        rows, key = self._keys(batch)
        index = np.searchsorted(self._key, key, side="right") - 1
        inside = self._same_entity(key, index) & (key & TIME_MASK <= self.last_ms[index])
        return rows[inside], self.row[index[inside]]

    def _same_entity(self, key: I64, index: I64) -> Bools:
        """Whether the incidents at these indexes are of the keys' entities."""
        is_same: Bools = (index >= 0) & (self._key[index] >> TIME_BITS == key >> TIME_BITS)
        return is_same

    def _keys(self, batch: pa.RecordBatch) -> tuple[I64, I64]:
        """(rows, keys): the rows of entities that have an incident, and their keys."""
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
    fields = list(dict.fromkeys(monitor_incidents.field for monitor_incidents in by_monitor))
    for batch in read_table_batches(table, ["event_time", "amount", *fields]):
        amount = batch.column("amount").to_numpy(zero_copy_only=False)
        cents = in_cents(amount)
        for monitor_incidents in by_monitor:
            rows, incident_rows = monitor_incidents.locate(batch)
            np.add.at(sums.events, incident_rows, 1)
            np.add.at(sums.cents, incident_rows, cents[rows])
            sums.any_amount[incident_rows[~np.isnan(amount[rows])]] = True
    return sums


def in_cents(amount: F64) -> I64:
    """int64[n]: absolute amounts as whole cents, whose sums do not depend on their order; 0 for NaN."""
    cents: I64 = np.rint(np.minimum(np.abs(np.nan_to_num(amount)) * 100, 9e15)).astype(np.int64)
    return cents
