"""Rows of any log, to compare what stages wrote with what is in a topic."""

from typing import Any, NamedTuple

import orjson
import pyarrow as pa

from schemas.alerts import Alert, alert_record
from schemas.columns import EventBatch
from schemas.reports import ReportBatch
from stream.kafka.positions import Partition
from stream.pipeline.alert_batches import AlertBatch


class Row(NamedTuple):
    """A row of a log: its event's position, the stage that wrote it ("" for the reader of the input),
    and all its columns; absent numbers are None."""

    source: Partition
    offset: int
    writer: str
    columns: tuple[Any, ...]


def rows(batch: Any) -> list[Row]:
    """Every row of a batch of events, reports or alerts; of an alert without `run`."""
    columns: list[tuple[Any, ...]]
    match batch:
        case EventBatch():
            writers = [""] * len(batch)
            columns = list(zip(*event_columns(batch), strict=True))
        case ReportBatch():
            writers = [name or "" for name in batch.monitor.to_pylist()]
            numbers = [batch.p_value, *batch.features.values()]
            own = (pa.array(column, from_pandas=True).to_pylist() for column in numbers)
            columns = list(zip(*event_columns(batch.events), *own, strict=True))
        case AlertBatch():
            writers = [alert.monitor for alert in batch.alerts]
            columns = [(_without_run(alert),) for alert in batch.alerts]
    sources = [Partition(*batch.sources[i]) for i in batch.source.tolist()]
    found = zip(sources, batch.offset.tolist(), writers, columns, strict=True)
    return [Row(*row) for row in found]


def event_columns(events: EventBatch) -> list[list[Any]]:
    """Time, type, id and all fields; absent numbers are None."""
    numbers = (pa.array(column, from_pandas=True).to_pylist() for column in events.number.values())
    texts = (column.to_pylist() for column in events.text.values())
    return [
        events.time_ms.tolist(),
        events.type_code.tolist(),
        events.event_id.to_pylist(),
        *texts,
        *numbers,
    ]


def _without_run(alert: Alert) -> bytes:
    body = orjson.loads(alert_record(alert).value)
    del body["run"]
    return orjson.dumps(body)
