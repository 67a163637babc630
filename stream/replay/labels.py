"""Label files: each label gets the entities of its event and the time from which it counts.

A file of labels may hold nothing but event ids and verdicts. DuckDB joins it to the events of the
other inputs and orders it by the time at which each label became known. The result is an input
like any other: it is merged with the events by event time, so that a label reaches the stages when
it became known, and not before. A label whose time is before its event counts from just after the
event. A label that names an entity itself keeps its own entities and gets no others.
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
"""Labels that may be dead letters. They are held in memory, and more means a wrong mapping."""
EXAMPLES_MAX: Final = 10_000
"""Labels with a repaired field that are kept as examples, in memory; all repairs are counted."""
ID_KEY: Final = hash_key("")
"""Event ids are joined by their 128-bit hashes. The key needs no secrecy: a collision would only
attach a label to another event of the same file."""
_ID: Final = [("id_low", pa.int64()), ("id_high", pa.int64())]
_ROWS: Final = 1_000_000_000_000
"""More than the rows of one table: the row numbers of several tables stay distinct."""
EFFECTIVE_MS: Final = "greatest(label_ms, due_ms + 1)"
"""A label counts from its own time, but never earlier than 1 ms after its event is processed, at
due_ms: so it follows the event even in a partition out of time order."""


class EventTable:
    """The events of one input that labels may be joined to, in a Parquet file.

    entity_fields: the entities that labels get from them. last_ms: when the last of them is
    processed, -1 without events.
    """

    def __init__(self, path: Path, entity_fields: Sequence[str]) -> None:
        self.path = path
        self.last_ms = -1
        self._entity_fields = entity_fields
        texts = [(name, pa.string()) for name in entity_fields]
        times = [("event_ms", pa.int64()), ("due_ms", pa.int64())]
        self._schema = pa.schema([*_ID, *times, *texts])

    def read(self, readers: Sequence[InputReader], route: Callable[[], Route]) -> None:
        """Write all events of the input. route: makes the route stage of a partition, so that
        records which the run drops, duplicates among them, are no events here."""
        routes: dict[int, Route] = {}
        with TableFile(self.path, self._schema) as file:
            for reader in readers:
                order = LogOrder(reader)  # without a limit: the run checks the order
                for parts in reader:
                    routed = []
                    for records in parts:
                        if records.partition not in routes:
                            routes[records.partition] = route()
                        events = routes[records.partition].process(records).events
                        routed.append((records.partition, events))
                    # labels among the events move the times as they do in the run
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

    reader: the labels that models learn from, as an input ordered by the time from which they
    count. evaluation_only: a table of the same form with labels that only the evaluation uses:
    their events have none of the entities that learn from labels, or they became known after the
    last event. counts: labels `read`, and of these `with_entity` (they name one themselves),
    `joined`, `event_without_entity`, `unknown_event`, `unclear` and `dead_letters`, which add up;
    further `before_event` (their time was before their event), `after_last_event`, `ambiguous`
    (several events have the id; the first in event time is taken), and repairs by field.
    dead_letters: examples of labels with a repaired field included. unclear: verdicts that are
    neither fraud nor honest, counted; such labels are ignored.
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
    """Join the logs of an input of labels to the events of the others, by way of tables in folder.

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
    assert counts["read"] == sum(counts[one] for one in outcomes), counts
    also = ("before_event", "after_last_event", "ambiguous")
    ordered = {one: counts[one] for one in ("read", *outcomes, *also)} | labels.repairs.counts()
    reader = FileReader(name, find_files(str(paths[0])), config.inputs[name])
    return JoinedLabels(reader, paths[1], ordered, labels.dead_letters, labels.unclear)


class _LabelTable:
    """All readable labels of a file in a Parquet file, and the other ones counted.

    texts: the text columns. counts: what is known before the join.
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
        known = [("label_ms", pa.int64()), ("without_entity", pa.bool_())]
        texts = [(field, pa.string()) for field in self.texts]
        self._schema = pa.schema([*_ID, *known, *texts])

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
        """Write all labels of the logs. Raises InputError where none of them can be used."""
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
        """The error for unreadable labels: most often the mapping is not that of the file."""
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


_LEARNED: Final = "learned AND NOT late"
_EVALUATION_ONLY: Final = "learned AND late OR known AND NOT learned"


class _Join:
    """The join, as the table `joined`: a row a label with numbers alone, which DuckDB can move to
    disk at every step; texts are added when the labels are written.

    joined: line (the label's row), event (the event's row), known (it has an event), time_ms (from
    when it counts), label_ms, learned (models learn from it), late (it counts after the last event),
    ambiguous.
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
        last_ms = max((one.last_ms for one in events), default=-1)
        entities = f"coalesce({', '.join(learning)}) IS NOT NULL" if learning else "true"
        tables = (
            f"SELECT *, file_row_number + {i * _ROWS} AS event, {entities} AS has_entity "
            f"FROM {parquet_source(one.path, numbered=True)}"
            for i, one in enumerate(events)
        )
        source = parquet_source(labels.path, numbered=True)
        sql.execute(f"CREATE VIEW events AS {' UNION ALL BY NAME '.join(tables)}")
        sql.execute(f"CREATE VIEW labels AS SELECT *, file_row_number AS line FROM {source}")
        # one join or group at a time: together they would not fit into the memory limit
        sql.execute(
            f"CREATE TABLE pairs AS SELECT line, event_ms::HUGEINT * {_ROWS * _ROWS} + event AS "
            "place, due_ms, has_entity FROM labels JOIN events USING (id_low, id_high)"
        )
        sql.execute(
            "CREATE TABLE matches AS SELECT line, count(*) AS events, "
            f"(min(place) % {_ROWS * _ROWS})::BIGINT AS event, arg_min(due_ms, place) AS due_ms, "
            "arg_min(has_entity, place) AS has_entity FROM pairs GROUP BY line"
        )
        sql.execute("DROP TABLE pairs")
        sql.execute(
            "CREATE TABLE joined AS SELECT *, NOT without_entity OR known AND has_entity AS "
            f"learned, {last_ms} >= 0 AND time_ms > {last_ms} AS late FROM (SELECT line, label_ms, "
            "without_entity, due_ms, event, event IS NOT NULL AS known, has_entity, "
            f"CASE WHEN event IS NULL THEN label_ms ELSE {EFFECTIVE_MS} END AS time_ms, "
            "events > 1 AS ambiguous FROM labels LEFT JOIN matches USING (line))"
        )
        sql.execute("DROP TABLE matches")

    def counts(self) -> dict[str, int]:
        """Labels by the outcome of the join."""
        conditions = {
            "with_entity": "NOT without_entity",
            "joined": "without_entity AND known AND has_entity",
            "event_without_entity": "without_entity AND known AND NOT has_entity",
            "unknown_event": "without_entity AND NOT known",
            "before_event": "known AND label_ms < due_ms",
            "after_last_event": "learned AND late",
            "ambiguous": "ambiguous",
        }
        each = (f"count(*) FILTER ({condition})" for condition in conditions.values())
        [row] = self._sql.fetch_rows(f"SELECT {', '.join(each)} FROM joined")
        return dict(zip(conditions, map(int, row), strict=True))

    def write(self, path: Path, condition: str) -> None:
        """Write the labels for which the condition holds, in Eddy's own fields, ordered by time.

        Of labels that count from the same time, with their event, the one with the latest own time
        comes last, and so is the final one.
        """
        texts = ", ".join(map(self._text, self._texts))
        columns = [(name, pa.string()) for name in ("type", *self._texts)]
        schema = pa.schema([("time", pa.int64()), *columns], metadata=EDDY_FIELDS)
        entities = "".join(f", {name} AS event_{name}" for name in self._learning)
        self._sql.execute(
            f"CREATE OR REPLACE TABLE filled AS SELECT line, time_ms, label_ms, without_entity"
            f"{entities} FROM (SELECT * FROM joined WHERE {condition}) LEFT JOIN events USING (event)"
        )
        self._sql.execute(
            "CREATE OR REPLACE TABLE written AS SELECT time_ms AS time, f.label_ms, line, 'label' AS "
            f"type, {texts} FROM filled f JOIN labels l USING (line)"
        )
        rows = self._sql.fetch_batches(
            f"SELECT time, type, {', '.join(self._texts)} FROM written ORDER BY time, label_ms, line"
        )
        with TableFile(path, schema) as file:
            file.write_batches(rows)

    def _text(self, name: str) -> str:
        """A label's text; of an entity that learns, its event's, unless the label names any."""
        if name not in self._learning:
            return f"l.{name} AS {name}"
        event = f"CASE WHEN f.without_entity THEN f.event_{name} END"
        return f"coalesce(l.{name}, {event}) AS {name}"


def _id_columns(ids: pa.StringArray) -> Iterator[pa.Array]:
    """The hashes of ids as two columns; a missing id has a hash that no event's id has."""
    hashed = hash_text(ids, ID_KEY).view(np.int64)
    return (pa.array(np.ascontiguousarray(hashed[:, i])) for i in range(2))


def _texts(events: EventBatch, names: Sequence[str]) -> list[pa.StringArray]:
    absent = pa.nulls(len(events), pa.string())
    return [events.text.get(name, absent) for name in names]
