"""Writers of the tables of a run, one Parquet file each.

Rows have a fixed order and row groups a fixed size, so that the same run gives the same bytes.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from detectors.monitor import value_names
from detectors.numeric.combination import P_MIN, combine
from detectors.numeric.kernels import kernel
from schemas.alerts import Alert
from schemas.columns import F64, Bools, EventBatch
from schemas.events import LABEL_TYPE
from stream.config import Config, learning_inputs
from stream.config.stage_graph import scoring_nodes
from stream.pipeline.cluster import ScoredEvents
from stream.replay.table_columns import (
    ACTIVITIES,
    ALERT_COLUMNS,
    TIME,
    entity_columns,
    feature_columns,
    score_columns,
)
from stream.replay.time_split import EvaluationSpan

ROW_GROUP_ROWS: Final = 100_000
ALERT_GROUP_ROWS: Final = 2_000
"""Smaller, because an alert takes about two kilobytes of memory until its row group is written."""
DisplayIds = Callable[[str, pa.StringArray], pa.StringArray]
"""An entity field and raw ids → the ids or pseudonyms that may be shown."""


class TableFile:
    """A Parquet file that is written batch by batch. It holds at most a row group in memory."""

    def __init__(self, path: Path, schema: pa.Schema, group_rows: int = ROW_GROUP_ROWS) -> None:
        self._schema = schema
        self._group_rows = group_rows
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")
        self._unwritten: list[pa.RecordBatch] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._flush(partial_group=True)
        self._writer.close()

    def write(self, columns: Sequence[Any]) -> None:
        """Append rows, given as columns."""
        self._unwritten.append(pa.RecordBatch.from_arrays(columns, schema=self._schema))
        self._flush()

    def write_batches(self, batches: Iterable[pa.RecordBatch]) -> None:
        """Append rows; their columns may be in any order and of types that can be cast."""
        for batch in batches:
            self.write(batch.select(self._schema.names).cast(self._schema).columns)

    def write_rows(self, rows: list[dict[str, Any]]) -> None:
        """Append rows."""
        if rows:
            self.write(pa.RecordBatch.from_pylist(rows, self._schema).columns)

    def _flush(self, *, partial_group: bool = False) -> None:
        """Write complete row groups. partial_group: also the remaining rows, at the end."""
        count = sum(map(len, self._unwritten))
        written = count if partial_group else count - count % self._group_rows
        if written:
            table = pa.Table.from_batches(self._unwritten, self._schema)
            self._writer.write_table(table.slice(0, written), row_group_size=self._group_rows)
            self._unwritten = table.slice(written).to_batches()


def read_table_batches(
    path: Path, columns: Sequence[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """A table's rows in batches, with at most a row group in memory."""
    with pq.ParquetFile(path, pre_buffer=False) as file:  # otherwise the whole file is read at once
        yield from file.iter_batches(ROW_GROUP_ROWS, columns=columns)


class ScoreFile(TableFile):
    """scores.parquet: a row for each event except labels, with its combined score, the scores and policy
    outcomes of each stage, and whether it is evaluated or only learned."""

    def __init__(
        self, path: Path, config: Config, span: EvaluationSpan, display_ids: DisplayIds
    ) -> None:
        super().__init__(path, score_columns(config))
        self._monitors = {monitor.name: value_names(monitor) for monitor in config.monitors}
        scorers, learns = scoring_nodes(config), bool(learning_inputs(config))
        self._scorers = [node.name for node in scorers]
        self._final_scorers = [node.name for node in scorers if node.combines_reports and learns]
        """The stage whose score is the event's combined score: assess, if it learns from labels, since
        only then it scores every event. Else empty: the monitors' p-values are combined here."""
        self._fields = entity_columns(config)
        self._span = span
        self._display_ids = display_ids

    def add(self, scored: ScoredEvents) -> None:
        """Append events."""
        events, scores_by_stage = scored.events, scored.scores
        no_score = np.full(len(events), np.nan)
        absent = pa.nulls(len(events), pa.string())
        p_values = [
            scores_by_stage[name].p_value if name in scores_by_stage else no_score
            for name in self._scorers
        ]
        activities = [
            ACTIVITIES.take(pa.array(scores_by_stage[name].activity))
            if name in scores_by_stage
            else absent
            for name in self._scorers
        ]
        final_scorer = next((name for name in self._final_scorers if name in scores_by_stage), None)
        combined = (
            scores_by_stage[final_scorer].p_value
            if final_scorer
            else combine(p_values[: len(self._monitors)])
        )
        topics = pa.array([topic for topic, _ in events.sources], pa.string())
        partitions = np.array([partition for _, partition in events.sources], np.int64)
        surprising = [
            surprising_names(
                feature_names,
                scores_by_stage[name].surprised,
                ~np.isnan(scores_by_stage[name].p_value),
            )
            if name in scores_by_stage
            else absent
            for name, feature_names in self._monitors.items()
        ]
        amount = events.number.get("amount", no_score)
        columns = [
            events.event_id,
            pa.array(events.time_ms).cast(TIME),
            topics.take(pa.array(events.source)),
            pa.array(partitions[events.source]),
            pa.array(events.offset),
            pa.array(scores_from_p(combined)),
            *(pa.array(scores_from_p(p), mask=np.isnan(p)) for p in p_values),
            *activities,
            *surprising,
            *(self._entities(events, field) for field in self._fields),
            pa.array(amount, mask=np.isnan(amount)),
            pa.array(self._span.contains(events.time_ms)),
        ]
        self.write(without_labels(events, columns))

    def _entities(self, events: EventBatch, field: str) -> pa.StringArray:
        if field not in events.text:
            return pa.nulls(len(events), pa.string())
        return self._display_ids(field, events.text[field])


class FeatureFile(TableFile):
    """features.parquet: a row for each event except labels, with the feature values of every monitor."""

    def __init__(self, path: Path, config: Config) -> None:
        super().__init__(path, feature_columns(config))
        self._monitors = {monitor.name: len(value_names(monitor)) for monitor in config.monitors}

    def add(self, scored: ScoredEvents) -> None:
        """Append events."""
        events = scored.events
        columns = [events.event_id, pa.array(events.time_ms).cast(TIME)]
        for name, k in self._monitors.items():
            monitor_scores = scored.scores.get(name)
            values = (
                monitor_scores.feature_values
                if monitor_scores
                else np.full((2 * k, len(events)), np.nan)
            )
            for j in range(k):
                columns += [pa.array(row, mask=np.isnan(row)) for row in (values[j], values[k + j])]
        self.write(without_labels(events, columns))


def without_labels(events: EventBatch, columns: list[Any]) -> list[Any]:
    """The columns without the rows of labels."""
    is_behaviour = events.type_code != LABEL_TYPE
    if is_behaviour.all():
        return columns
    mask = pa.array(is_behaviour)
    return [column.filter(mask) for column in columns]


def alert_rows(alerts: Sequence[Alert], span: EvaluationSpan) -> list[dict[str, Any]]:
    """Alerts as rows of alerts.parquet."""
    times_ms = np.array([alert.event_time_ms for alert in alerts], np.int64)
    evaluated = span.contains(times_ms).tolist()
    return [
        _alert_row(alert) | {"evaluated": is_evaluated}
        for alert, is_evaluated in zip(alerts, evaluated, strict=True)
    ]


def _alert_row(alert: Alert) -> dict[str, Any]:
    [evidence] = alert.evidence
    fields = {name: getattr(alert, name) for name in ALERT_COLUMNS.names if hasattr(alert, name)}
    return fields | {
        "entity_type": alert.entity.type,
        "entity": alert.entity.id,
        "pseudonym": alert.entity.pseudonym,
        "event_id": evidence.event_id,
        "event_time": alert.event_time_ms,
        "topic": evidence.topic,
        "partition": evidence.partition,
        "offset": evidence.offset,
        "first_seen": alert.first_seen_ms,
        "last_seen": alert.last_seen_ms,
        "action": alert.action.type,
        "ttl_s": alert.action.ttl_s,
        "reason_code": alert.action.reason_code,
        "contributions": msgspec.to_builtins(alert.contributions),
        "related": msgspec.to_builtins(alert.related),
    }


def scores_from_p(p_values: F64) -> F64:
    """float64[n]: −log10 of each p-value, 0 where it is NaN (no stage scored the event)."""
    out = np.zeros(len(p_values))
    _scores(p_values, out)
    return out


@kernel
def _scores(p_values: F64, out: F64) -> None:
    for i in range(len(p_values)):
        if not math.isnan(p_values[i]):
            out[i] = 0.0 - math.log10(max(p_values[i], P_MIN))  # never -0.0


def surprising_names(names: list[str], surprised: Bools, scored: Bools) -> pa.StringArray:
    """The names of each event's surprising features, separated by commas; null where the event was not scored.

    surprised: bool[names, n], whether each feature was surprising. scored: bool[n].
    """
    bits = np.ascontiguousarray(np.packbits(surprised, axis=0).T)
    n, width = bits.shape
    packed = pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), n, [None, pa.py_buffer(bits)])
    sets = packed.dictionary_encode()
    masks = (np.unpackbits(np.frombuffer(row, np.uint8)) for row in sets.dictionary.to_pylist())
    texts = [",".join(np.array(names)[np.flatnonzero(mask)]) for mask in masks]
    index = pa.array(sets.indices.to_numpy(), pa.int32(), mask=~scored)
    return pa.array(texts, pa.string()).take(index)
