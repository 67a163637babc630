"""labels.parquet: the final label of every event in a replay.

One row per labelled event or entity, ordered by known_time. The verdict is that of the last label; the
known_time is that of the first label after which no label had the opposite verdict. Only the evaluation
reads this table: models learn each label at its own time.
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
        column("scenario", pa.string(), "the label's scenario: its kind of fraud"),
        column("known_time", TIME, "when that verdict became known, UTC"),
    ]
)
"""The first columns of labels.parquet. Entity columns follow if any label names no event: they hold ids
or pseudonyms, and are null where there is an event id."""

_ROWS_MAX: Final = 1_000_000_000_000
"""More than the rows of a table: known_time and row number are one number, the label's position."""
_POSITION: Final = f"epoch_ms(known_time)::HUGEINT * {_ROWS_MAX} + file_row_number"
"""SQL for a label's position: it orders labels by the time they became known, then by arrival."""
_KNOWN_MS: Final = f"(first_position // {_ROWS_MAX})::BIGINT"
"""SQL for the time at which the final verdict became known, in milliseconds, from its position."""
_ENTITY_COLUMNS: Final = (
    column(name, pa.string(), f"{name} of a label that names no event") for name in ENTITY_FIELDS
)
_COLLECTED_SCHEMA: Final = pa.schema([*SCHEMA, *_ENTITY_COLUMNS])


class LabelBatch(NamedTuple):
    """k labels. texts: field → Arrow string[k], null where a field is missing. time_ms: when they became
    known, Arrow int64[k]."""

    texts: dict[str, pa.StringArray]
    time_ms: pa.Int64Array


def labels_among(events: EventBatch) -> LabelBatch:
    """The labels among events."""
    rows = np.flatnonzero(events.type_code == LABEL_TYPE)
    indexes = pa.array(rows)
    texts = {name: column.take(indexes) for name, column in events.text.items()}
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
        self._work_dir = work_dir
        self._display_ids = display_ids
        self._collected_path = work_dir / "labels_accepted.parquet"
        self._open_files = ExitStack()
        self._collected: TableFile | None = None

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
        """Collect labels. Raises ExtraMissing without DuckDB, now rather than at the end."""
        count = len(labels.time_ms)
        if not count:
            return
        if self._collected is None:
            database.check_installed()
            self._collected = self._open_files.enter_context(
                TableFile(self._collected_path, _COLLECTED_SCHEMA)
            )
        absent = pa.nulls(count, pa.string())
        label_columns = ("labelled_event_id", "verdict", "kind")
        event_id, *verdict_and_kind = (labels.texts.get(name, absent) for name in label_columns)
        entities = (
            self._display_ids(name, pc.if_else(event_id.is_null(), labels.texts[name], absent))
            if name in labels.texts
            else absent
            for name in ENTITY_FIELDS
        )
        self._collected.write([event_id, *verdict_and_kind, labels.time_ms.cast(TIME), *entities])

    def finish(self) -> None:
        """Write labels.parquet."""
        if self._collected is None:
            pq.write_table(SCHEMA.empty_table(), self._path)
            return
        self._open_files.close()
        with database.open_database(self._work_dir) as connection:
            counts = connection.execute(
                f"SELECT {', '.join(f'count({name})' for name in ENTITY_FIELDS)} "
                f"FROM {database.parquet_source(self._collected_path)}"
            ).fetchall()[0]
            entity_fields = [
                name for name, count in zip(ENTITY_FIELDS, counts, strict=True) if count
            ]
            # groups and joins of numbers can spill to disk; window functions over rows hardly can
            connection.execute(
                f"CREATE VIEW all_labels AS SELECT *, {_subject_key(['event_id', *entity_fields])} AS subject, "
                f"{_POSITION} AS position FROM {database.parquet_source(self._collected_path, numbered=True)}"
            )
            # last_opposite: the last label with the other verdict than the last label; -1 if there is none
            connection.execute(
                "CREATE TABLE final_labels AS SELECT subject, max(position) AS position, "
                "min(position) AS first_position, "
                "least(coalesce(max(position) FILTER (verdict = 'fraud'), -1), "
                "coalesce(max(position) FILTER (verdict IS DISTINCT FROM 'fraud'), -1)) "
                "AS last_opposite FROM all_labels GROUP BY subject"
            )
            connection.execute(
                "UPDATE final_labels SET first_position = unopposed.position FROM (SELECT subject, "
                "min(all_labels.position) AS position FROM all_labels JOIN final_labels USING (subject) "
                "WHERE last_opposite >= 0 AND all_labels.position > last_opposite "
                "GROUP BY subject) AS unopposed WHERE unopposed.subject = final_labels.subject"
            )
            label_columns = [
                name for name in (*SCHEMA.names, *entity_fields) if name != "known_time"
            ]
            final_labels = connection.sql(
                f"SELECT {', '.join(label_columns)}, make_timestamp_ms({_KNOWN_MS}) AS known_time "
                "FROM all_labels JOIN final_labels USING (subject, position) ORDER BY first_position"
            ).to_arrow_reader(ROW_GROUP_ROWS)
            schema = pa.schema(
                [_COLLECTED_SCHEMA.field(name) for name in (*SCHEMA.names, *entity_fields)]
            )
            with TableFile(self._path, schema) as file:
                file.write_batches(final_labels)


def _subject_key(names: list[str]) -> str:
    """SQL for a number that identifies the values of these columns together."""
    hashes = (f"coalesce(md5({name}), '-')" for name in names)
    return f"md5_number(concat({', '.join(hashes)}))"
