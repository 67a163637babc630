"""The first events of the incidents shown on a page, with time, amount and score."""

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
    """The incidents with `first_events`: the first events of each entity from first_ms to last_ms.

    scores: scores.parquet, read once, a row group at a time. Scores are those of the incident's monitor.
    """
    if not incidents:
        return []
    score_columns = [f"score_{incident.monitor}" for incident in incidents]
    fields = {incident.entity.type for incident in incidents}
    first_events: list[pa.Table | None] = [None] * len(incidents)
    for batch in read_table_batches(
        scores, ["event_id", "event_time", "amount", *{*score_columns, *fields}]
    ):
        for field in fields:
            indexes = [i for i, each in enumerate(incidents) if each.entity.type == field]
            ids = pa.array([incidents[i].entity.id for i in indexes])
            rows = batch.filter(pc.is_in(batch[field], ids))
            for i in indexes if len(rows) else ():
                events = _events_of(rows, incidents[i], score_columns[i])
                first_events[i] = _earliest(first_events[i], events)
    return [
        replace(incident, first_events=_as_events(table))
        for incident, table in zip(incidents, first_events, strict=True)
    ]


def _events_of(rows: pa.RecordBatch, incident: Incident, score_column: str) -> pa.Table:
    time_ms = rows["event_time"].cast(TIME).cast(pa.int64())
    during = pc.and_(
        pc.greater_equal(time_ms, incident.first_ms), pc.less_equal(time_ms, incident.last_ms)
    )
    inside = pc.and_(during, pc.equal(rows[incident.entity.type], incident.entity.id))
    columns = [rows["event_id"], time_ms, rows["amount"], rows[score_column]]
    return pa.table(columns, ["event_id", "event_time", "amount", "score"]).filter(inside)


def _earliest(earlier: pa.Table | None, added: pa.Table) -> pa.Table:
    events = added if earlier is None else pa.concat_tables([earlier, added])
    return events.sort_by(EARLIEST_FIRST).slice(0, EVENTS_SHOWN).combine_chunks()


def _as_events(table: pa.Table | None) -> list[IncidentEvent]:
    rows = [] if table is None else table.to_pylist()
    return [IncidentEvent(time_ms=row.pop("event_time"), **row) for row in rows]
