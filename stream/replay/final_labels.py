"""labels.parquet: the final label of every event in a replay.

One row per labelled event or entity: its final verdict, and the time of the first label with that
verdict that no later label contradicts. Rows are ordered by that time. Only the evaluation reads the
table; models learn from every label, in order.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas.columns import EventBatch
from schemas.events import ENTITY_FIELDS, LABEL_TYPE
from stream.evaluation import database
from stream.replay.table_columns import TIME, column
from stream.replay.tables import ROW_GROUP_ROWS, DisplayIds, TableFile, read_table_batches

SCHEMA: Final = pa.schema(
    [
        column("event_id", pa.string(), "the event; null where a label names entities alone"),
        column("verdict", pa.string(), "fraud or honest, by the final label"),
        column("scenario", pa.string(), "the label's scenario, that is its kind of fraud"),
        column("known_time", TIME, "when that verdict became known, UTC"),
    ]
)
"""The first columns of labels.parquet. Columns of entities follow, for labels that name no event, with
ids or pseudonyms; they are null beside an event id."""

_ROWS: Final = 1_000_000_000_000
_ORDER_KEY: Final = f"epoch_ms(known_time)::HUGEINT * {_ROWS} + file_row_number"
"""Orders labels by the time they became known, then by arrival."""
_KNOWN_MS: Final = f"(known_from // {_ROWS})::BIGINT"
"""The time of the order key `known_from`."""
_ENTITIES: Final = (
    column(name, pa.string(), f"{name} of a label that names no event") for name in ENTITY_FIELDS
)
_ALL_LABELS: Final = pa.schema([*SCHEMA, *_ENTITIES])


class LabelBatch(NamedTuple):
    """k labels. texts: field → Arrow string[k]; a missing field is null. time_ms: when each
    became known, Arrow int64[k]."""

    texts: dict[str, pa.StringArray]
    time_ms: pa.Int64Array


def labels_among(events: EventBatch) -> LabelBatch:
    """The labels among events."""
    rows = np.flatnonzero(events.type_code == LABEL_TYPE)
    indices = pa.array(rows)
    texts = {name: column.take(indices) for name, column in events.text.items()}
    return LabelBatch(texts, pa.array(events.time_ms[rows]))


def read_labels(path: Path) -> Iterator[LabelBatch]:
    """The labels in a table of Eddy's own fields."""
    for batch in read_table_batches(path):
        texts = {name: batch.column(name) for name in batch.schema.names if name != "time"}
        yield LabelBatch(texts, batch.column("time"))


class FinalLabels:
    """Collects all labels, and writes the final one of each event at the end.

    path: of labels.parquet. work_dir: a folder for the collected labels. display_ids: the ids or
    pseudonyms of entities.
    """

    def __init__(self, path: Path, work_dir: Path, display_ids: DisplayIds) -> None:
        self._path = path
        self._work = work_dir
        self._display_ids = display_ids
        self._all_labels = work_dir / "labels_accepted.parquet"
        self._open_files = ExitStack()
        self._file: TableFile | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open_files.close()

    def add(self, labels: LabelBatch) -> None:
        """Collect labels. Raises ExtraMissing at the first label if DuckDB is not installed."""
        count = len(labels.time_ms)
        if not count:
            return
        if self._file is None:
            database.check_installed()
            self._file = self._open_files.enter_context(TableFile(self._all_labels, _ALL_LABELS))
        absent = pa.nulls(count, pa.string())
        label_columns = ("labelled_event_id", "verdict", "kind")
        event_id, *others = (labels.texts.get(name, absent) for name in label_columns)
        entities = (
            self._display_ids(name, pc.if_else(event_id.is_null(), labels.texts[name], absent))
            if name in labels.texts
            else absent
            for name in ENTITY_FIELDS
        )
        self._file.write([event_id, *others, labels.time_ms.cast(TIME), *entities])

    def finish(self) -> None:
        """Write labels.parquet."""
        if self._file is None:
            pq.write_table(SCHEMA.empty_table(), self._path)
            return
        self._open_files.close()
        with database.open_database(self._work) as tables:
            counts = tables.execute(
                f"SELECT {', '.join(f'count({name})' for name in ENTITY_FIELDS)} "
                f"FROM {database.parquet_source(self._all_labels)}"
            ).fetchall()[0]
            entity_columns = [
                name for name, count in zip(ENTITY_FIELDS, counts, strict=True) if count
            ]
            # DuckDB moves groups and joins of numbers to disk; window functions would stay in memory
            tables.execute(
                f"CREATE VIEW all_labels AS SELECT *, {_subject_key(['event_id', *entity_columns])} AS subject_key, "
                f"{_ORDER_KEY} AS order_key FROM {database.parquet_source(self._all_labels, numbered=True)}"
            )
            tables.execute(
                "CREATE TABLE final_labels AS SELECT subject_key, max(order_key) AS order_key, "
                "min(order_key) AS known_from, least("
                "coalesce(max(order_key) FILTER (verdict = 'fraud'), -1), "
                "coalesce(max(order_key) FILTER (verdict IS DISTINCT FROM 'fraud'), -1)"
                ") AS last_contradiction FROM all_labels GROUP BY subject_key"
            )
            tables.execute(
                "UPDATE final_labels SET known_from = corrected.known_from FROM ("
                "SELECT subject_key, min(all_labels.order_key) AS known_from "
                "FROM all_labels JOIN final_labels USING (subject_key) "
                "WHERE last_contradiction >= 0 AND all_labels.order_key > last_contradiction "
                "GROUP BY subject_key"
                ") AS corrected WHERE corrected.subject_key = final_labels.subject_key"
            )
            label_columns = [
                name for name in (*SCHEMA.names, *entity_columns) if name != "known_time"
            ]
            final_rows = tables.sql(
                f"SELECT {', '.join(label_columns)}, make_timestamp_ms({_KNOWN_MS}) AS known_time "
                "FROM all_labels JOIN final_labels USING (subject_key, order_key) ORDER BY known_from"
            ).to_arrow_reader(ROW_GROUP_ROWS)
            schema = pa.schema(
                [_ALL_LABELS.field(name) for name in (*SCHEMA.names, *entity_columns)]
            )
            with TableFile(self._path, schema) as file:
                file.write_batches(final_rows)


def _subject_key(names: list[str]) -> str:
    """SQL for a hash of these columns together: it identifies the event or entity of a label."""
    each = (f"coalesce(md5({name}), '-')" for name in names)
    return f"md5_number(concat({', '.join(each)}))"
