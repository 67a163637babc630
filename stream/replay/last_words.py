"""labels.parquet: of everything that labels said of an event in a replay, the last word.

A row a labelled event, and a row for each label that names no event but only entities, in the order
in which they became known. By it a run is judged: what had become known at which time is in the
events' own order, not here.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from detectors.monitor import LABEL
from schemas.columns import EventBatch
from schemas.events import ENTITY_FIELDS
from stream import database
from stream.replay.tables import ROW_GROUP_ROWS, TIME, TableFile, batches_in, column

SCHEMA: Final = pa.schema(
    [
        column("event_id", pa.string(), "the event; null where a label names entities alone"),
        column("verdict", pa.string(), "fraud or honest, the last word"),
        column("scenario", pa.string(), "the label's kind"),
        column("known_time", TIME, "when that became known, UTC"),
    ]
)
"""Of labels.parquet. Behind these stand, where labels name no event, the
entities that they name; they are null beside an event id."""

_PLACE: Final = "epoch_ms(known_time)::HUGEINT * 1_000_000_000_000 + file_row_number"
"""Orders labels by when they became known, then by when they were heard."""
_ENTITIES: Final = (
    column(name, pa.string(), f"{name} of a label that names no event") for name in ENTITY_FIELDS
)
_HEARD: Final = pa.schema([*SCHEMA, *_ENTITIES])


class LabelBatch(NamedTuple):
    """k labels. texts: field → Arrow string[k], fields that are missing are null. time_ms: when
    they became known, Arrow int64[k]."""

    texts: dict[str, pa.StringArray]
    time_ms: pa.Int64Array


def labels_of(events: EventBatch) -> LabelBatch:
    """The labels among events."""
    rows = np.flatnonzero(events.type_code == LABEL)
    picked = pa.array(rows)
    texts = {name: column.take(picked) for name, column in events.text.items()}
    return LabelBatch(texts, pa.array(events.time_ms[rows]))


def labels_in(path: Path) -> Iterator[LabelBatch]:
    """The labels in a table of Eddy's own fields."""
    for batch in batches_in(path):
        texts = {name: batch.column(name) for name in batch.schema.names if name != "time"}
        yield LabelBatch(texts, batch.column("time"))


class LastWords:
    """Hears every label, and writes the last word on each event at the end.

    path: of labels.parquet. work: a folder for what it has heard until then.
    """

    def __init__(self, path: Path, work: Path) -> None:
        self._path = path
        self._work = work
        self._heard = work / "labels_heard.parquet"
        self._opened = ExitStack()
        self._file: TableFile | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._opened.close()

    def add(self, labels: LabelBatch) -> None:
        """Hear labels. Raises ExtraMissing without DuckDB: better now than at the end."""
        count = len(labels.time_ms)
        if not count:
            return
        if self._file is None:
            database.check_installed()
            self._file = self._opened.enter_context(TableFile(self._heard, _HEARD))
        absent = pa.nulls(count, pa.string())
        said = ("labelled_event_id", "verdict", "kind")
        columns = [
            *(labels.texts.get(name, absent) for name in said),
            labels.time_ms.cast(pa.timestamp("ms")),
            *(labels.texts.get(name, absent) for name in ENTITY_FIELDS),
        ]
        self._file.write(columns)

    def finish(self) -> None:
        """Write labels.parquet."""
        if self._file is None:
            pq.write_table(SCHEMA.empty_table(), self._path)
            return
        self._opened.close()
        with database.opened(self._work) as tables:
            heard, path = "read_parquet(?, file_row_number = true)", [str(self._heard)]
            counted = ", ".join(f"count({name})" for name in ENTITY_FIELDS)
            [counts] = tables.execute(
                f"SELECT {counted} FROM {heard} WHERE event_id IS NULL", path
            ).fetchall()
            named = [name for name, count in zip(ENTITY_FIELDS, counts, strict=True) if count]
            alone = [f"CASE WHEN event_id IS NULL THEN {name} END AS {name}" for name in named]
            # numbers in groups can be spilled to disk, rows in windows hardly
            tables.execute(
                f"CREATE TABLE last AS SELECT max({_PLACE}) AS place FROM {heard} "
                "GROUP BY coalesce(event_id, ''), CASE WHEN event_id IS NULL THEN file_row_number END",
                path,
            )
            last = tables.sql(
                f"SELECT {', '.join([*SCHEMA.names, *alone])} FROM {heard} AS heard "
                f"SEMI JOIN last ON last.place = {_PLACE} ORDER BY known_time, file_row_number",
                params=path,
            ).to_arrow_reader(ROW_GROUP_ROWS)
            schema = pa.schema([_HEARD.field(name) for name in (*SCHEMA.names, *named)])
            with TableFile(self._path, schema) as file:
                file.write_batches(last)
