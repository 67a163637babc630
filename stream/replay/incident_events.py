"""The events of the incidents that a reader sees first: when, over how much, how surprising."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from stream.evaluation.queries import EVENTS_SHOWN
from stream.replay.incidents import Incident, IncidentEvent
from stream.replay.table_columns import TIME
from stream.replay.tables import read_table_batches

EARLIEST_FIRST: Final = [("event_time", "ascending"), ("event_id", "ascending")]


def add_first_events(incidents: Sequence[Incident], scores: Path) -> list[Incident]:
    """The incidents with the first events of their entities from opening to last, as scores.parquet
    has them: read once, a row group at a time. The score is that of the incident's monitor."""
    if not incidents:
        return []
    score = [f"score_{one.monitor}" for one in incidents]
    fields = {one.entity.type for one in incidents}
    first: list[pa.Table | None] = [None] * len(incidents)
    for batch in read_table_batches(
        scores, ["event_id", "event_time", "amount", *{*score, *fields}]
    ):
        for field in fields:
            at = [i for i, one in enumerate(incidents) if one.entity.type == field]
            ids = pa.array([incidents[i].entity.id for i in at])
            rows = batch.filter(pc.is_in(batch[field], ids))
            for i in at if len(rows) else ():
                first[i] = _earliest(first[i], _events_of(rows, incidents[i], score[i]))
    return [
        replace(one, first_events=_as_events(found))
        for one, found in zip(incidents, first, strict=True)
    ]


def _events_of(rows: pa.RecordBatch, incident: Incident, score: str) -> pa.Table:
    time_ms = rows["event_time"].cast(TIME).cast(pa.int64())
    during = pc.and_(
        pc.greater_equal(time_ms, incident.first_ms), pc.less_equal(time_ms, incident.last_ms)
    )
    inside = pc.and_(during, pc.equal(rows[incident.entity.type], incident.entity.id))
    columns = [rows["event_id"], time_ms, rows["amount"], rows[score]]
    return pa.table(columns, ["event_id", "event_time", "amount", "score"]).filter(inside)


def _earliest(known: pa.Table | None, more: pa.Table) -> pa.Table:
    every = more if known is None else pa.concat_tables([known, more])
    return every.sort_by(EARLIEST_FIRST).slice(0, EVENTS_SHOWN).combine_chunks()


def _as_events(found: pa.Table | None) -> list[IncidentEvent]:
    rows = [] if found is None else found.to_pylist()
    return [IncidentEvent(time_ms=row.pop("event_time"), **row) for row in rows]
