"""Joins label files to the events: each label gets the entities of its event and its effective time.

A label file may hold only event ids and verdicts. DuckDB joins it to the events of the other inputs
and orders it by effective time, which is the label's own time, or just after its event if that is
later. The result is an input like any other, merged with the events by time: a label reaches the
stages when it became known, and not before. A label that names an entity itself keeps its own
entities and gets no others.
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
"""Bound on unreadable labels. They are held in memory; more of them mean a wrong mapping."""
EXAMPLES_MAX: Final = 10_000
"""Bound on labels with a repaired field that are kept in memory as examples; all are counted."""
ID_KEY: Final = hash_key("")
"""Event ids are joined by their 128-bit hashes. The key needs no secrecy: a collision would only
attach a label to another event of the same file."""
_ID: Final = [("id_low", pa.int64()), ("id_high", pa.int64())]
_ROWS_MAX: Final = 1_000_000_000_000
"""More than the rows of one table. Row r of the i-th event table is event i·`_ROWS_MAX` + r; a time t and
an event are one number, t·`_ROWS_MAX`² + event, whose minimum is the first event."""
EFFECTIVE_MS: Final = "greatest(label_ms, due_ms + 1)"
"""SQL for the time from which a label is effective: its own time, but not before 1 ms after due_ms, when
its event is processed. So it follows the event even in a partition out of time order."""


class EventTable:
    """The events of one input, in a Parquet file, for the join with labels.

    entity_fields: the entity fields that labels copy from them. last_due_ms: the due time of the last event,
    -1 without events.
    """

    def __init__(self, path: Path, entity_fields: Sequence[str]) -> None:
        self.path = path
        self.last_due_ms = -1
        self._entity_fields = entity_fields
        texts = [(name, pa.string()) for name in entity_fields]
        times = [("event_ms", pa.int64()), ("due_ms", pa.int64())]
        self._schema = pa.schema([*_ID, *times, *texts])

    def fill(self, readers: Sequence[InputReader], make_route: Callable[[], Route]) -> None:
        """Read all events of the input into the file.

        make_route: makes the route stage of a partition, which drops the same records as in the run,
        such as duplicates.
        """
        routes: dict[int, Route] = {}
        with TableFile(self.path, self._schema) as file:
            for reader in readers:
                order = LogOrder(reader)  # without a limit: the run checks the order
                for partitions in reader:
                    routed = []
                    for records in partitions:
                        if records.partition not in routes:
                            routes[records.partition] = make_route()
                        events = routes[records.partition].process(records).events
                        routed.append((records.partition, events))
                    # labels among the events advance the due times, as in the run
                    for (_, events), due_ms in zip(routed, order.due_times(routed), strict=True):
                        self._write(file, events, due_ms)

    def _write(self, file: TableFile, events: EventBatch, due_ms: I64) -> None:
        rows = np.flatnonzero(events.type_code != LABEL_TYPE)
        if not len(rows):
            return
        events, due_ms = events.take(rows), due_ms[rows]
        self.last_due_ms = max(self.last_due_ms, int(due_ms.max()))
        times = [pa.array(events.time_ms), pa.array(due_ms)]
        file.write([*_id_columns(events.event_id), *times, *_texts(events, self._entity_fields)])


@dataclass(frozen=True, slots=True)
class JoinedLabels:
    """A label file after the join.

    reader: reads the labels that models learn from, ordered by effective time. evaluation_only: a table
    with the same columns, of labels that only the evaluation uses: their events have none of the
    entities that learn from labels, or they became known after the last event. counts: labels
    `read`, which is the sum of `with_entity` (they name an entity themselves), `joined`,
    `event_without_entity`, `unknown_event`, `unclear` and `dead_letters`; of these, `before_event`
    (their time was before their event), `after_last_event`, and `ambiguous` (several events have the
    id; the first in event time is used); and repairs by field. dead_letters: unreadable labels, and
    examples of labels with a repaired field. unclear_verdicts: counts of verdicts that are neither fraud
    nor honest; such labels are ignored.
    """

    reader: FileReader
    evaluation_only: Path
    counts: dict[str, int]
    dead_letters: list[DeadLetter]
    unclear_verdicts: Counter[str | None]


def join(
    config: Config,
    name: str,
    readers: Sequence[InputReader],
    events: Sequence[EventTable],
    work_dir: Path,
) -> JoinedLabels:
    """Join a label input to the events of the other inputs. work_dir: for temporary tables.

    Raises InputError for files that cannot be read, ExtraMissing without DuckDB.
    """
    database.check_installed()
    labels = _LabelTable(config, name, work_dir / f"{name}.read.part")
    labels.fill(readers)
    learning_fields = label_entity_fields(config, name)
    paths = [work_dir / f"{name}.{use}.part" for use in ("labels", "evaluation")]
    with database.open_database(work_dir) as connection:
        joined = _Join(SqlSession(connection), labels, events, learning_fields)
        for path, condition in zip(paths, (_LEARNED, _EVALUATION_ONLY), strict=True):
            joined.write(path, condition)
        counts = labels.counts | joined.counts()
    outcomes = (
        *("with_entity", "joined", "event_without_entity", "unknown_event"),
        *("unclear", "dead_letters"),
    )
    assert counts["read"] == sum(counts[outcome] for outcome in outcomes), counts
    properties = ("before_event", "after_last_event", "ambiguous")
    label_counts = {
        key: counts[key] for key in ("read", *outcomes, *properties)
    } | labels.repairs.counts()
    reader = FileReader(name, find_files(str(paths[0])), config.inputs[name])
    return JoinedLabels(
        reader, paths[1], label_counts, labels.dead_letters, labels.unclear_verdicts
    )


class _LabelTable:
    """The readable labels of an input, in a Parquet file; the others are counted.

    texts: the text columns. counts: those known before the join.
    """

    def __init__(self, config: Config, name: str, path: Path) -> None:
        fields = extracted_fields(config, name)
        if "verdict" not in fields:
            raise InputError(
                f"inputs.{name}.fields.verdict: missing; expected the path of the verdict, fraud or honest"
            )
        entities = [field for field in fields if field in ENTITY_FIELDS]
        self.path = path
        self.texts = ["event_id", *LABEL_FIELDS, *entities]
        self.unclear_verdicts: Counter[str | None] = Counter()
        self.repairs = FieldRepairs()
        self._name = name
        self._spec = config.inputs[name]
        self._decoder = Decoder(self._spec, config.limits, fields)
        self._has_entities = bool(entities)
        self._labels_read = 0
        self._dead_letters: list[DeadLetter] = []
        self._examples: list[DeadLetter] = []
        self._faults: Counter[str] = Counter()
        added = [("label_ms", pa.int64()), ("without_entity", pa.bool_())]
        texts = [(field, pa.string()) for field in self.texts]
        self._schema = pa.schema([*_ID, *added, *texts])

    @property
    def dead_letters(self) -> list[DeadLetter]:
        """The unreadable labels, then the examples of repaired ones."""
        return self._dead_letters + self._examples

    @property
    def counts(self) -> dict[str, int]:
        """Labels read, and the unusable labels among them."""
        unclear, dead_letters = self.unclear_verdicts.total(), len(self._dead_letters)
        return {"read": self._labels_read, "unclear": unclear, "dead_letters": dead_letters}

    def fill(self, readers: Sequence[InputReader]) -> None:
        """Read all labels of the logs into the file. Raises InputError where none can be used."""
        with TableFile(self.path, self._schema) as file:
            for labels in self._decoded(readers):
                texts = _texts(labels, self.texts[1:])
                ids = _id_columns(texts[LABEL_FIELDS.index("labelled_event_id")])
                without_entity = pa.array(self._without_entity(labels))
                times = pa.array(labels.time_ms)
                file.write([*ids, times, without_entity, labels.event_id, *texts])
        unclear, unreadable = self.unclear_verdicts.total(), len(self._dead_letters)
        if self._labels_read and unreadable == self._labels_read:
            raise self._unreadable()
        if unclear and unclear + unreadable == self._labels_read:
            raise InputError(
                f"{self._name}: none of {self._labels_read} labels is fraud or honest; their verdicts are "
                f"{most_common_verdicts(self.unclear_verdicts)}; expected that "
                f"inputs.{self._name}.fields.verdict names the path of the verdict, and that its "
                'values translate it, such as { path = "…", values = { "True" = "fraud" } }'
            )

    def _decoded(self, readers: Sequence[InputReader]) -> Iterator[EventBatch]:
        for records in (
            records for reader in readers for partitions in reader for records in partitions
        ):
            labels, faults, tombstones, repaired = self._decoder.read(records)
            self._labels_read += len(records) - tombstones
            self._dead_letters += [to_dead_letter(fault, records) for fault in faults]
            examples = self.repairs.count(repaired, labels, records)
            examples_left = EXAMPLES_MAX - len(self._examples)
            self._examples += [
                to_dead_letter(example, records) for example in examples[:examples_left]
            ]
            self._faults.update(fault.message for fault in faults)
            if len(self._dead_letters) > UNREADABLE_MAX:
                raise self._unreadable()
            clear_rows, unclear_verdicts = split_unclear(labels)
            count_verdicts(self.unclear_verdicts, unclear_verdicts)
            yield labels.take(clear_rows) if unclear_verdicts else labels

    def _without_entity(self, labels: EventBatch) -> Bools:
        if self._has_entities:
            return labels_without_entity(labels)
        return np.ones(len(labels), np.bool_)

    def _unreadable(self) -> InputError:
        """The error for unreadable labels. The usual cause is a mapping that does not fit the file."""
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
            f"{name}: {len(self._dead_letters)} of {self._labels_read} labels cannot be read, {count} of "
            f"them because of {message}; {expected}"
        )


_LEARNED: Final = "learned AND NOT after_last_event"
_EVALUATION_ONLY: Final = "learned AND after_last_event OR has_event AND NOT learned"


class _Join:
    """The join, as the table `joined`: a row for each label, of numbers only, which DuckDB can move to disk
    at every step. Texts are added when the labels are written.

    Columns of joined: label_row, event_row, has_event (the label's event was read), time_ms (the
    effective time), label_ms (the label's own time), learned (models learn from it), after_last_event
    (effective after the last event), ambiguous (several events have the id).
    """

    def __init__(
        self,
        sql: SqlSession,
        labels: _LabelTable,
        events: Sequence[EventTable],
        learning_fields: list[str],
    ) -> None:
        self._sql = sql
        self._texts = labels.texts
        self._learning_fields = learning_fields
        last_due_ms = max((table.last_due_ms for table in events), default=-1)
        fields = ", ".join(learning_fields)
        has_entity = f"coalesce({fields}) IS NOT NULL" if learning_fields else "true"
        tables = (
            f"SELECT *, file_row_number + {i * _ROWS_MAX} AS event_row, {has_entity} AS has_entity "
            f"FROM {parquet_source(table.path, numbered=True)}"
            for i, table in enumerate(events)
        )
        source = parquet_source(labels.path, numbered=True)
        sql.execute(f"CREATE VIEW events AS {' UNION ALL BY NAME '.join(tables)}")
        sql.execute(f"CREATE VIEW labels AS SELECT *, file_row_number AS label_row FROM {source}")
        # one join or grouping at a time, because both would exceed the memory limit
        sql.execute(
            f"CREATE TABLE pairs AS SELECT label_row, event_ms::HUGEINT * {_ROWS_MAX * _ROWS_MAX} + "
            "event_row AS time_and_row, due_ms, has_entity FROM labels JOIN events USING (id_low, id_high)"
        )
        sql.execute(
            "CREATE TABLE matches AS SELECT label_row, count(*) AS events_with_id, "
            f"(min(time_and_row) % {_ROWS_MAX * _ROWS_MAX})::BIGINT AS event_row, "
            "arg_min(due_ms, time_and_row) AS due_ms, "
            "arg_min(has_entity, time_and_row) AS has_entity FROM pairs GROUP BY label_row"
        )
        sql.execute("DROP TABLE pairs")
        sql.execute(
            "CREATE TABLE joined AS SELECT *, NOT without_entity OR has_event AND has_entity AS "
            f"learned, {last_due_ms} >= 0 AND time_ms > {last_due_ms} AS after_last_event FROM (SELECT "
            "label_row, label_ms, without_entity, due_ms, event_row, event_row IS NOT NULL AS has_event, "
            f"has_entity, CASE WHEN event_row IS NULL THEN label_ms ELSE {EFFECTIVE_MS} END AS time_ms, "
            "events_with_id > 1 AS ambiguous FROM labels LEFT JOIN matches USING (label_row))"
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
            "after_last_event": "learned AND after_last_event",
            "ambiguous": "ambiguous",
        }
        columns = (f"count(*) FILTER ({condition})" for condition in conditions.values())
        [row] = self._sql.fetch_rows(f"SELECT {', '.join(columns)} FROM joined")
        return dict(zip(conditions, map(int, row), strict=True))

    def write(self, path: Path, condition: str) -> None:
        """Write the labels for which the condition holds, with Eddy's own field names, ordered by time.

        Labels of an event may have the same effective time. Then the one with the latest own time comes
        last, and so is the final one.
        """
        texts = ", ".join(map(self._text, self._texts))
        columns = [(name, pa.string()) for name in ("type", *self._texts)]
        schema = pa.schema([("time", pa.int64()), *columns], metadata=EDDY_FIELDS)
        entities = "".join(f", {name} AS event_{name}" for name in self._learning_fields)
        self._sql.execute(
            f"CREATE OR REPLACE TABLE with_entities AS SELECT label_row, time_ms, label_ms, without_entity"
            f"{entities} FROM (SELECT * FROM joined WHERE {condition}) LEFT JOIN events USING (event_row)"
        )
        self._sql.execute(
            "CREATE OR REPLACE TABLE written AS SELECT time_ms AS time, e.label_ms, label_row, "
            f"'label' AS type, {texts} FROM with_entities e JOIN labels l USING (label_row)"
        )
        rows = self._sql.fetch_batches(
            f"SELECT time, type, {', '.join(self._texts)} FROM written "
            "ORDER BY time, label_ms, label_row"
        )
        with TableFile(path, schema) as file:
            file.write_batches(rows)

    def _text(self, name: str) -> str:
        """SQL for a text of a label. For an entity field that learns: the label's own entity, or its event's if
        the label names no entity."""
        if name not in self._learning_fields:
            return f"l.{name} AS {name}"
        event = f"CASE WHEN e.without_entity THEN e.event_{name} END"
        return f"coalesce(l.{name}, {event}) AS {name}"


def _id_columns(ids: pa.StringArray) -> Iterator[pa.Array]:
    """The two halves of the 128-bit hash of each id; the hash of a missing id equals that of no event's
    id."""
    hashed = hash_text(ids, ID_KEY).view(np.int64)
    return (pa.array(np.ascontiguousarray(hashed[:, i])) for i in range(2))


def _texts(events: EventBatch, names: Sequence[str]) -> list[pa.StringArray]:
    absent = pa.nulls(len(events), pa.string())
    return [events.text.get(name, absent) for name in names]
