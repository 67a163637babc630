"""Label files: each label gets the entities of its event and the time from which it counts.

A file of labels may hold only event ids and verdicts. DuckDB joins it to the events of the other
inputs and orders it by the time at which each label became known. The replay then merges the joined
labels with the events by time, as it does for any input, so that a label reaches the stages at the
time it became known. A label whose time is before its event counts from 1 ms after the event. A label
that names an entity keeps its own entities and gets none from the event.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa

from detectors.numeric.hashing import hash_key, hash_text
from schemas.codecs.table import EDDY_FIELDS
from schemas.columns import I64, Bools, EventBatch
from schemas.dead_letters import DeadLetter
from schemas.events import ENTITY_FIELDS, LABEL_TYPE
from schemas.labels import LABEL_FIELDS
from stream.config import Config, extracted_fields, label_entity_fields
from stream.errors import InputError
from stream.evaluation import database
from stream.evaluation.database import SqlSession, parquet_source
from stream.inputs import FileReader, InputReader
from stream.inputs.files import find_files
from stream.inputs.order import LogOrder
from stream.pipeline.decoding import Decoder
from stream.pipeline.stages.repairs import FieldRepairs
from stream.pipeline.stages.route import Route, labels_without_entity, to_dead_letter
from stream.replay.label_verdicts import count_verdicts, most_common_verdicts, split_unclear
from stream.replay.tables import TableFile

UNREADABLE_MAX: Final = 100_000
"""Limit of labels that become dead letters, which are held in memory. A file with more has a wrong
mapping."""
EXAMPLES_MAX: Final = 10_000
"""Limit of labels with a repaired field that are kept in memory as examples; all repairs are counted."""
ID_KEY: Final = hash_key("")
"""Event ids are joined by their 128-bit hashes. The key need not be secret: a collision would only
join a label to another event of the same file."""
_ID: Final = [("id_low", pa.int64()), ("id_high", pa.int64())]
_ROWS: Final = 1_000_000_000_000
"""More than the rows of one table, so that row numbers of several tables are distinct."""
EFFECTIVE_MS: Final = "greatest(label_ms, due_ms + 1)"
"""A label counts from its own time, but at the earliest 1 ms after due_ms, when its event is processed.
So it follows the event even in a partition that is not in time order."""


class EventTable:
    """The events of one input that labels may be joined to, in a Parquet file.

    entity_fields: the entity fields that labels take from these events. last_ms: the latest due time,
    -1 without events.
    """

    def __init__(self, path: Path, entity_fields: Sequence[str]) -> None:
        self.path = path
        self.last_ms = -1
        self._entity_fields = entity_fields
        texts = [(name, pa.string()) for name in entity_fields]
        times = [("event_ms", pa.int64()), ("due_ms", pa.int64())]
        self._schema = pa.schema([*_ID, *times, *texts])

    def read(self, readers: Sequence[InputReader], route: Callable[[], Route]) -> None:
        """Write all events of the input. route: makes the route stage of a partition, which drops the
        same records as in the run, such as duplicates."""
        routes: dict[int, Route] = {}
        with TableFile(self.path, self._schema) as file:
            for reader in readers:
                order = LogOrder(reader)  # no lateness limit: the run checks it
                for parts in reader:
                    routed = []
                    for records in parts:
                        if records.partition not in routes:
                            routes[records.partition] = route()
                        events = routes[records.partition].process(records).events
                        routed.append((records.partition, events))
                    # due times include labels among the events, as in the run
                    for (_, events), due_ms in zip(routed, order.due_times(routed), strict=True):
                        self._write(file, events, due_ms)

    def _write(self, file: TableFile, events: EventBatch, due_ms: I64) -> None:
        rows = np.flatnonzero(events.type_code != LABEL_TYPE)
        if not len(rows):
            return
        events, due_ms = events.take(rows), due_ms[rows]
        self.last_ms = max(self.last_ms, int(due_ms.max()))
        times = [pa.array(events.time_ms), pa.array(due_ms)]
        file.write([*_id_columns(events.event_id), *times, *_texts(events, self._entity_fields)])


@dataclass(frozen=True, slots=True)
class JoinedLabels:
    """A label file after the join.

    - reader: reads the labels that models learn from, ordered by the time from which they count.
    - evaluation_only: a table of the same form with labels that only the evaluation uses. Their
      events have no entity that models learn by, or they became known after the last event.
    - counts: labels `read`, which is the sum of `with_entity` (the label names an entity), `joined`,
      `event_without_entity`, `unknown_event`, `unclear` and `dead_letters`. Also `before_event` (the
      label's time was before its event), `after_last_event`, `ambiguous` (several events have the
      id; the first by event time is taken), and repairs by field.
    - dead_letters: includes examples of labels with a repaired field.
    - unclear: the number of labels by verdict, where it is neither fraud nor honest; they are
      ignored.
    """

    reader: FileReader
    evaluation_only: Path
    counts: dict[str, int]
    dead_letters: list[DeadLetter]
    unclear: Counter[str | None]


def join(
    config: Config,
    name: str,
    readers: Sequence[InputReader],
    events: Sequence[EventTable],
    folder: Path,
) -> JoinedLabels:
    """Join the labels of an input to the events of the other inputs, with temporary tables in folder.

    Raises InputError for files that cannot be read, ExtraMissing without DuckDB.
    """
    database.check_installed()
    labels = _LabelTable(config, name, folder / f"{name}.read.part")
    labels.read(readers)
    learning = label_entity_fields(config, name)
    paths = [folder / f"{name}.{what}.part" for what in ("labels", "evaluation")]
    with database.open_database(folder) as connection:
        joined = _Join(SqlSession(connection), labels, events, learning)
        for path, condition in zip(paths, (_LEARNED, _EVALUATION_ONLY), strict=True):
            joined.write(path, condition)
        counts = labels.counts | joined.counts()
    outcomes = (
        *("with_entity", "joined", "event_without_entity", "unknown_event"),
        *("unclear", "dead_letters"),
    )
    assert counts["read"] == sum(counts[outcome] for outcome in outcomes), counts
    details = ("before_event", "after_last_event", "ambiguous")
    ordered_counts = {
        key: counts[key] for key in ("read", *outcomes, *details)
    } | labels.repairs.counts()
    reader = FileReader(name, find_files(str(paths[0])), config.inputs[name])
    return JoinedLabels(reader, paths[1], ordered_counts, labels.dead_letters, labels.unclear)


class _LabelTable:
    """Writes the readable labels of an input to a Parquet file, and counts the others.

    texts: the text columns. counts: those known before the join.
    """

    def __init__(self, config: Config, name: str, path: Path) -> None:
        fields = extracted_fields(config, name)
        if "verdict" not in fields:
            raise InputError(
                f"inputs.{name}.fields.verdict: missing; expected where a label says fraud or honest"
            )
        entities = [field for field in fields if field in ENTITY_FIELDS]
        self.path = path
        self.texts = ["event_id", *LABEL_FIELDS, *entities]
        self.unclear: Counter[str | None] = Counter()
        self.repairs = FieldRepairs()
        self._name = name
        self._spec = config.inputs[name]
        self._decoder = Decoder(self._spec, config.limits, fields)
        self._has_entities = bool(entities)
        self._read = 0
        self._dead_letters: list[DeadLetter] = []
        self._examples: list[DeadLetter] = []
        self._faults: Counter[str] = Counter()
        join_columns = [("label_ms", pa.int64()), ("without_entity", pa.bool_())]
        texts = [(field, pa.string()) for field in self.texts]
        self._schema = pa.schema([*_ID, *join_columns, *texts])

    @property
    def dead_letters(self) -> list[DeadLetter]:
        """The unreadable labels, then the examples of repaired ones."""
        return self._dead_letters + self._examples

    @property
    def counts(self) -> dict[str, int]:
        """Labels read, and the unusable ones among them."""
        unclear, dead_letters = self.unclear.total(), len(self._dead_letters)
        return {"read": self._read, "unclear": unclear, "dead_letters": dead_letters}

    def read(self, readers: Sequence[InputReader]) -> None:
        """Write all readable labels. Raises InputError where no label can be used."""
        with TableFile(self.path, self._schema) as file:
            for labels in self._decoded(readers):
                texts = _texts(labels, self.texts[1:])
                ids = _id_columns(texts[LABEL_FIELDS.index("labelled_event_id")])
                without_entity = pa.array(self._without_entity(labels))
                times = pa.array(labels.time_ms)
                file.write([*ids, times, without_entity, labels.event_id, *texts])
        unclear, unreadable = self.unclear.total(), len(self._dead_letters)
        if self._read and unreadable == self._read:
            raise self._unreadable()
        if unclear and unclear + unreadable == self._read:
            raise InputError(
                f"{self._name}: none of {self._read} labels says fraud or honest; they say "
                f"{most_common_verdicts(self.unclear)}; expected that "
                f"inputs.{self._name}.fields.verdict names the path of the verdict, and that its "
                'values translate it, such as { path = "…", values = { "True" = "fraud" } }'
            )

    def _decoded(self, readers: Sequence[InputReader]) -> Iterator[EventBatch]:
        for records in (part for reader in readers for parts in reader for part in parts):
            labels, faults, tombstones, repaired = self._decoder.read(records)
            self._read += len(records) - tombstones
            self._dead_letters += [to_dead_letter(fault, records) for fault in faults]
            examples = self.repairs.count(repaired, labels, records)
            room = EXAMPLES_MAX - len(self._examples)
            self._examples += [to_dead_letter(example, records) for example in examples[:room]]
            self._faults.update(fault.message for fault in faults)
            if len(self._dead_letters) > UNREADABLE_MAX:
                raise self._unreadable()
            clear, unclear = split_unclear(labels)
            count_verdicts(self.unclear, unclear)
            yield labels.take(clear) if unclear else labels

    def _without_entity(self, labels: EventBatch) -> Bools:
        if self._has_entities:
            return labels_without_entity(labels)
        return np.ones(len(labels), np.bool_)

    def _unreadable(self) -> InputError:
        """The error for unreadable labels. The usual cause is a mapping for another file."""
        [(message, count)] = self._faults.most_common(1)
        name = self._name
        expected = (
            f"expected a file that inputs.{name}.fields maps"
            if self._spec.fields
            else f"inputs.{name} has no fields, so labels are read by Eddy's own names (event_id, "
            "time, labelled_event_id, verdict, entities); expected such a file, or in the "
            f'configuration [inputs.{name}] with type = "label" and where each field is: fields = '
            '{ event_id = "…", time = "…", labelled_event_id = "…", verdict = "…" }'
        )
        return InputError(
            f"{name}: {len(self._dead_letters)} of {self._read} labels cannot be read, {count} of "
            f"them because of {message}; {expected}"
        )


_LEARNED: Final = "is_learned AND NOT is_late"
_EVALUATION_ONLY: Final = "is_learned AND is_late OR has_event AND NOT is_learned"


class _Join:
    """Joins labels to events in the table `joined`, one row for each label. It holds only numbers, which
    DuckDB can move to disk at every step; `write` adds the texts.

    Columns of `joined`:

    - label_row, event_row: row numbers of the label and of its event. has_event: the event exists.
    - label_ms: the label's own time. time_ms: the time from which it counts.
    - is_learned: models learn from it. is_late: it counts from after the last event.
    - ambiguous: several events have the id.
    """

    def __init__(
        self,
        sql: SqlSession,
        labels: _LabelTable,
        events: Sequence[EventTable],
        learning: list[str],
    ) -> None:
        self._sql = sql
        self._texts = labels.texts
        self._learning = learning
        last_ms = max((table.last_ms for table in events), default=-1)
        entities = f"coalesce({', '.join(learning)}) IS NOT NULL" if learning else "true"
        tables = (
            f"SELECT *, file_row_number + {i * _ROWS} AS event_row, {entities} AS has_entity "
            f"FROM {parquet_source(table.path, numbered=True)}"
            for i, table in enumerate(events)
        )
        source = parquet_source(labels.path, numbered=True)
        sql.execute(f"CREATE VIEW events AS {' UNION ALL BY NAME '.join(tables)}")
        sql.execute(f"CREATE VIEW labels AS SELECT *, file_row_number AS label_row FROM {source}")
        # separate statements: one query with all joins and groups would exceed the memory limit
        sql.execute(
            f"CREATE TABLE pairs AS SELECT label_row, event_ms::HUGEINT * {_ROWS * _ROWS} + event_row AS "
            "event_order, due_ms, has_entity FROM labels JOIN events USING (id_low, id_high)"
        )
        sql.execute(
            "CREATE TABLE matches AS SELECT label_row, count(*) AS event_count, "
            f"(min(event_order) % {_ROWS * _ROWS})::BIGINT AS event_row, arg_min(due_ms, event_order) AS due_ms, "
            "arg_min(has_entity, event_order) AS has_entity FROM pairs GROUP BY label_row"
        )
        sql.execute("DROP TABLE pairs")
        sql.execute(
            "CREATE TABLE joined AS SELECT *, NOT without_entity OR has_event AND has_entity AS "
            f"is_learned, {last_ms} >= 0 AND time_ms > {last_ms} AS is_late FROM (SELECT label_row, label_ms, "
            "without_entity, due_ms, event_row, event_row IS NOT NULL AS has_event, has_entity, "
            f"CASE WHEN event_row IS NULL THEN label_ms ELSE {EFFECTIVE_MS} END AS time_ms, "
            "event_count > 1 AS ambiguous FROM labels LEFT JOIN matches USING (label_row))"
        )
        sql.execute("DROP TABLE matches")

    def counts(self) -> dict[str, int]:
        """Labels by the outcome of the join."""
        conditions = {
            "with_entity": "NOT without_entity",
            "joined": "without_entity AND has_event AND has_entity",
            "event_without_entity": "without_entity AND has_event AND NOT has_entity",
            "unknown_event": "without_entity AND NOT has_event",
            "before_event": "has_event AND label_ms < due_ms",
            "after_last_event": "is_learned AND is_late",
            "ambiguous": "ambiguous",
        }
        each = (f"count(*) FILTER ({condition})" for condition in conditions.values())
        [row] = self._sql.fetch_rows(f"SELECT {', '.join(each)} FROM joined")
        return dict(zip(conditions, map(int, row), strict=True))

    def write(self, path: Path, condition: str) -> None:
        """Write the labels for which the condition holds, in Eddy's own fields, ordered by time.

        Labels that count from the same time are ordered by their own time, so that the latest
        becomes the final one.
        """
        texts = ", ".join(map(self._text, self._texts))
        columns = [(name, pa.string()) for name in ("type", *self._texts)]
        schema = pa.schema([("time", pa.int64()), *columns], metadata=EDDY_FIELDS)
        entities = "".join(f", {name} AS event_{name}" for name in self._learning)
        self._sql.execute(
            f"CREATE OR REPLACE TABLE with_entities AS SELECT label_row, time_ms, label_ms, without_entity"
            f"{entities} FROM (SELECT * FROM joined WHERE {condition}) LEFT JOIN events USING (event_row)"
        )
        self._sql.execute(
            "CREATE OR REPLACE TABLE output_rows AS SELECT time_ms AS time, f.label_ms, label_row, 'label' AS "
            f"type, {texts} FROM with_entities f JOIN labels l USING (label_row)"
        )
        rows = self._sql.fetch_batches(
            f"SELECT time, type, {', '.join(self._texts)} FROM output_rows ORDER BY time, label_ms, label_row"
        )
        with TableFile(path, schema) as file:
            file.write_batches(rows)

    def _text(self, name: str) -> str:
        """SQL for a text of a label. An entity field that models learn by is taken from the event where
        the label names no entity."""
        if name not in self._learning:
            return f"l.{name} AS {name}"
        event_text = f"CASE WHEN f.without_entity THEN f.event_{name} END"
        return f"coalesce(l.{name}, {event_text}) AS {name}"


def _id_columns(ids: pa.StringArray) -> Iterator[pa.Array]:
    """The hashes of ids as two columns; a missing id has a hash that no event's id has."""
    hashed = hash_text(ids, ID_KEY).view(np.int64)
    return (pa.array(np.ascontiguousarray(hashed[:, i])) for i in range(2))


def _texts(events: EventBatch, names: Sequence[str]) -> list[pa.StringArray]:
    absent = pa.nulls(len(events), pa.string())
    return [events.text.get(name, absent) for name in names]
