"""Label files: each label gets the entities of its event and the moment from which it counts.

A file of labels may name nothing but event ids. It is joined to the events of all other inputs, in
DuckDB and so within bounded memory, and comes out as a table in the order in which its labels
became known. That is an input like any other: it is merged with the events by event time, so that a
label reaches the stages when it became known and not before. A label that claims to have been known
before its event counts from right behind its event. Labels that name an entity themselves are only
put in order. Nothing is learned or judged here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa

from detectors.monitor import LABEL
from schemas.codecs.table import OWN
from schemas.columns import Bools, EventBatch
from schemas.dead_letters import DeadLetter
from schemas.events import ENTITY_FIELDS
from stream import database
from stream.config import LABEL_FIELDS, Config, entities_of_labels, fields_wanted
from stream.decoding import Decoder
from stream.errors import InputError
from stream.inputs import FileReading, Reading
from stream.inputs.places import files_at
from stream.replay.tables import ROW_GROUP_ROWS, TableFile
from stream.stages.route import labels_of_nobody, letter

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

UNREADABLE_MAX: Final = 100_000
"""Labels that may be dead letters: these wait in memory, and so many are no accident."""

LINES_MAX: Final = 1_000_000_000_000
KNOWN_MS: Final = "greatest(label.time, coalesce(event.due_ms + 1, label.time))"
"""From when a label counts. Its event goes in at due_ms, when the latest time up to it has passed: a
millisecond later is behind it, even where its partition is not in the order of time."""


@dataclass(frozen=True, slots=True)
class JoinedLabels:
    """What became of a label file.

    reading: its labels as an input, in the order in which they became known. aside: a table like it of
    those that can teach nobody and still say what their events were: their events name none of the
    entities that learn from labels, or they became known behind the last event of all. counts:
    labels read, and what became of them: named an entity themselves, joined, of_nobody, of an
    unknown event, or dead letters; and of these how many claimed to be known before their event, and
    of how many several events, not only repetitions of one, have the id.
    """

    reading: FileReading
    aside: Path
    counts: dict[str, int]
    dead_letters: list[DeadLetter]


def join(config: Config, labels: Reading, events: Sequence[Reading], folder: Path) -> JoinedLabels:
    """Join a file of labels to the files of the other inputs; the tables lie in the folder.

    Raises InputError for files that cannot be read, ExtraMissing without DuckDB.
    """
    with database.opened(folder) as tables:
        joining = _Joining(config, labels, tables)
        joining.read_labels()
        joining.read_events(events)
        return joining.written(folder)


class _Joining:
    """A label file on its way through the database.

    Tables: label, event, and joined, which has what is known of every label.
    """

    def __init__(self, config: Config, labels: Reading, tables: "DuckDBPyConnection") -> None:
        self._config = config
        self._labels = labels
        self._tables = tables
        self._learning = entities_of_labels(config, labels.name)
        self._fields = fields_wanted(config, labels.name)
        self._entities = [name for name in self._fields if name in ENTITY_FIELDS]
        self._letters: list[DeadLetter] = []
        self._read = 0

    def read_labels(self) -> None:
        """All labels of the file into a table; `line` says which is which."""
        if "verdict" not in self._fields:
            where = f"inputs.{self._labels.name}.fields.verdict"
            raise InputError(f"{where}: missing; expected where a label says fraud or honest")
        texts = ("event_id", *LABEL_FIELDS, *self._entities)
        columns = ", ".join(f"{name} VARCHAR" for name in texts)
        self._tables.execute(
            f"CREATE TABLE label (line BIGINT, time BIGINT, nameless BOOLEAN, {columns})"
        )
        decoder = _decoder(self._config, self._labels, self._fields)
        line = 0
        for records in (part for parts in self._labels for part in parts):
            labels, faults, tombstones = decoder.read(records)
            self._letters += [letter(fault, records) for fault in faults]
            if len(self._letters) > UNREADABLE_MAX:
                raise InputError(
                    f"{self._labels.name}: more than {UNREADABLE_MAX} labels cannot be read, of late "
                    f"because of {faults[0].message}: is the mapping that of this file?"
                )
            self._read += len(records) - tombstones
            own = {
                "line": pa.array(np.arange(line, line + len(labels))),
                "time": pa.array(labels.time_ms),
                "nameless": pa.array(self._nameless(labels)),
                "event_id": labels.event_id,
            }
            line += len(labels)
            self._insert("label", own | _texts(labels, [*LABEL_FIELDS, *self._entities]))
        if line and not self._count("label WHERE verdict IN ('fraud', 'honest')"):
            raise InputError(
                f"{self._labels.name}: none of {line} labels says fraud or honest; expected a file of "
                "labels, its verdicts translated by the mapping's values"
            )

    def _nameless(self, labels: EventBatch) -> Bools:
        if not self._entities:
            return np.ones(len(labels), np.bool_)
        return labels_of_nobody(labels)

    def read_events(self, events: Sequence[Reading]) -> None:
        """Ids and entities of all events into a table."""
        columns = "".join(f", {name} VARCHAR" for name in self._learning)
        self._tables.execute(
            "CREATE TABLE event (line BIGINT, input INTEGER, time_ms BIGINT, due_ms BIGINT, "
            f"event_id VARCHAR{columns})"
        )
        line = 0
        for number, reading in enumerate(events):
            decoder = _decoder(self._config, reading, self._learning)
            reached_ms: dict[int, int] = {}
            for records in (part for parts in reading for part in parts):
                read, _, _ = decoder.read(records)
                found = read.take(np.flatnonzero(read.type_code != LABEL))
                due_ms = np.maximum.accumulate(
                    np.maximum(found.time_ms, reached_ms.get(records.partition, 0))
                )
                if len(found):
                    reached_ms[records.partition] = int(due_ms[-1])
                own = {
                    "line": pa.array(np.arange(line, line + len(found))),
                    "input": pa.array(np.full(len(found), number)),
                    "time_ms": pa.array(found.time_ms),
                    "due_ms": pa.array(due_ms),
                    "event_id": found.event_id,
                }
                line += len(found)
                self._insert("event", own | _texts(found, self._learning))

    def _insert(self, table: str, columns: dict[str, pa.Array]) -> None:
        self._tables.register("incoming", pa.table(columns))
        self._tables.execute(f"INSERT INTO {table} BY NAME SELECT * FROM incoming")
        self._tables.unregister("incoming")

    def written(self, folder: Path) -> JoinedLabels:
        """Join, and write what came of it."""
        self._join()
        path = folder / f"{self._labels.name}.labels.part"
        aside = folder / f"{self._labels.name}.aside.part"
        teaching = "NOT nameless OR (known AND named)"
        # What is saved of a run's state is then as of its last event, and knows nothing of later.
        last = "(SELECT max(due_ms) FROM event)"
        self._write(path, f"({teaching}) AND coalesce(time <= {last}, true)")
        self._write(aside, f"known AND NOT ({teaching}) OR ({teaching}) AND time > {last}")
        name = self._labels.name
        reading = FileReading(name, files_at(str(path)), self._config.inputs[name])
        return JoinedLabels(reading, aside, self._counts(), self._letters)

    def _join(self) -> None:
        # Of several events with the same id the first in event time is meant, as where they are
        # judged. That is found by numbers alone, which DuckDB can spill to disk.
        self._tables.execute(
            "CREATE TABLE pair AS SELECT label.line AS label, "
            f"CAST(min(event.time_ms::HUGEINT * {LINES_MAX} + event.line) % {LINES_MAX} AS BIGINT) "
            "AS event, min(event.time_ms) < max(event.time_ms) OR min(input) < max(input) AS ambiguous "
            "FROM label JOIN event ON label.labelled_event_id = event.event_id "
            "WHERE label.nameless GROUP BY label.line"
        )
        filled = [
            f"coalesce(label.{name}, event.{name}) AS {name}"
            if name in self._learning
            else f"label.{name} AS {name}"
            for name in self._entities
        ]
        said = [f"label.{name} AS {name}" for name in ("line", "event_id", *LABEL_FIELDS)]
        names = [f"event.{name} IS NOT NULL" for name in self._learning]
        self._tables.execute(
            f"CREATE TABLE joined AS SELECT {', '.join([*said, *filled])}, "
            f"{KNOWN_MS} AS time, label.nameless AS nameless, "
            "label.time < event.due_ms AS before_its_event, event.line IS NOT NULL AS known, "
            f"{' OR '.join(names) or 'true'} AS named "
            "FROM label LEFT JOIN pair ON pair.label = label.line "
            "LEFT JOIN event ON event.line = pair.event"
        )

    def _write(self, path: Path, condition: str) -> None:
        """Write a table of Eddy's own fields, in the order in which the labels became known."""
        texts = ("event_id", *LABEL_FIELDS, *self._entities)
        schema = pa.schema(
            [("time", pa.int64()), ("type", pa.string()), *((one, pa.string()) for one in texts)],
            metadata=OWN,
        )
        found = self._tables.sql(
            f"SELECT time, 'label' AS type, {', '.join(texts)} FROM joined "
            f"WHERE {condition} ORDER BY time, line"
        ).to_arrow_reader(ROW_GROUP_ROWS)
        with TableFile(path, schema) as file:
            file.write_batches(found)

    def _counts(self) -> dict[str, int]:
        counts = {
            "read": self._read,
            "named": self._count("joined WHERE NOT nameless"),
            "joined": self._count("joined WHERE nameless AND known AND named"),
            "of_nobody": self._count("joined WHERE nameless AND known AND NOT named"),
            "unknown_event": self._count("joined WHERE nameless AND NOT known"),
            "dead_letters": len(self._letters),
        }
        assert counts["read"] == sum(counts.values()) - counts["read"], counts
        return counts | {
            "before_their_event": self._count("joined WHERE before_its_event"),
            "ambiguous": self._count("pair WHERE ambiguous"),
        }

    def _count(self, what: str) -> int:
        [[count]] = self._tables.execute(f"SELECT count(*) FROM {what}").fetchall()
        return int(count)


def _decoder(config: Config, reading: Reading, fields: list[str]) -> Decoder:
    """What decodes an input as the stage will."""
    return Decoder(config.inputs[reading.name], config.limits, fields)


def _texts(events: EventBatch, names: Sequence[str]) -> dict[str, pa.Array]:
    absent = pa.nulls(len(events), pa.string())
    return {name: events.text.get(name, absent) for name in names}
