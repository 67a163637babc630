"""Label files: each label gets the entities of its event and the moment from which it counts.

A file of labels may name nothing but event ids. It is joined to the events of all other inputs: both
lie on disk in parts by the hash of the event's id, and one part at a time is in memory. It comes out
as a table in the order in which its labels became known. That is an input like any other: it is
merged with the events by event time, so that a label reaches the stages when it became known and not
before. A label that claims to have been known before its event counts from right behind its event,
whatever it names. Labels that name an entity themselves get no other. Nothing is learned or evaluated
here.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from detectors.numeric.hashing import hash_key, hash_text
from schemas.codecs.table import EDDY_FIELDS
from schemas.columns import I64, Bools, EventBatch
from schemas.dead_letters import DeadLetter
from schemas.events import ENTITY_FIELDS, LABEL_TYPE
from schemas.labels import is_known_verdict
from stream.config import LABEL_FIELDS, Config, extracted_fields, label_entity_fields
from stream.errors import InputError
from stream.evaluation import database
from stream.inputs import FileReader, InputReader
from stream.inputs.files import find_files
from stream.inputs.order import LogOrder
from stream.pipeline.decoding import Decoder
from stream.pipeline.stages.repairs import FieldRepairs
from stream.pipeline.stages.route import Route, labels_without_entity, to_dead_letter
from stream.replay.spilling import PARTS, PartitionedRows, SortedRows, concat_batches
from stream.replay.tables import TableFile

UNREADABLE_MAX: Final = 100_000
"""Labels that may be dead letters: these wait in memory, and so many are no accident."""
EXAMPLES_MAX: Final = 10_000
"""Labels with a repaired field that are examples, which wait there, too; all are counted."""
ID_KEY: Final = hash_key("")
"""Event ids are joined by their hashes. The key is no secret: who knows it would still have to find
two texts with the same 128 bits, and won no more than a label on another event of his own file."""
_HASHED: Final = [("part", pa.uint8()), ("low", pa.int64()), ("high", pa.int64())]
NOT_FOUND: Final = -1
VERDICTS_MAX: Final = 1_000
"""Verdicts that are told apart where none is clear: a mapping may well name a column of ids."""


def effective_ms(label_ms: I64, due_ms: I64) -> I64:
    """int64[n]: from when labels of known events count. An event goes in at due_ms, when the latest
    time up to it has passed: a millisecond later is behind it, even where its partition is not in the
    order of time."""
    return np.maximum(label_ms, due_ms + 1)


def split_unclear(events: EventBatch) -> tuple[I64, Counter[str | None]]:
    """The rows of all but labels that say neither fraud nor honest, and what these say instead."""
    if not (events.type_code == LABEL_TYPE).any():
        return np.arange(len(events)), Counter()
    absent = pa.nulls(len(events), pa.string())
    said = events.text.get("verdict", absent)
    unclear = (events.type_code == LABEL_TYPE) & ~is_known_verdict(said)
    found = pc.value_counts(said.filter(pa.array(unclear))).to_pylist()
    values: Counter[str | None] = Counter({one["values"]: one["counts"] for one in found})
    return np.flatnonzero(~unclear), values


def count_verdicts(into: Counter[str | None], more: Counter[str | None]) -> None:
    """Count verdicts; when too many are known, others together."""
    for text, count in more.items():
        into[text if text in into or len(into) < VERDICTS_MAX else "…"] += count


def most_common_verdicts(verdicts: Counter[str | None]) -> str:
    """The commonest verdicts, and how often each; cut short, since anything may stand there."""
    each = (
        f"{'nothing' if text is None else repr(text[:40])} ({count:,})"
        for text, count in verdicts.most_common(3)
    )
    return ", ".join(each) + (", …" if len(verdicts) > 3 else "")


class EventTable:
    """The events of one input that labels may be joined to, in parts. learned: the entities that
    labels get of them."""

    def __init__(self, path: Path, entity_fields: Sequence[str]) -> None:
        texts = [(name, pa.string()) for name in entity_fields]
        schema = pa.schema([*_HASHED, ("time", pa.int64()), ("due", pa.int64()), *texts])
        self._parts = PartitionedRows(path, schema)
        self._entity_fields = entity_fields
        self.last_ms = NOT_FOUND
        """When the last of them goes in."""

    def read(self, readings: Sequence[InputReader], route: Callable[[], Route]) -> None:
        """Take all events of the input. route: makes what reads a partition of it as the run will;
        so what the run takes for no event, or for a duplicate, is none here."""
        routes: dict[int, Route] = {}
        for reading in readings:
            order = LogOrder(reading)  # the run looks whether it is good enough
            for parts in reading:
                taken = []
                for records in parts:
                    place = records.partition
                    if place not in routes:
                        routes[place] = route()
                    taken.append((place, routes[place].process(records).events))
                # labels among them move its time as they do in the run
                for (_, events), due_ms in zip(taken, order.due_times(taken), strict=True):
                    self._add(events, due_ms)

    def _add(self, events: EventBatch, due_ms: I64) -> None:
        rows = np.flatnonzero(events.type_code != LABEL_TYPE)
        if not len(rows):
            return
        found = events.take(rows)
        self.last_ms = max(self.last_ms, int(due_ms[rows].max()))
        columns = [
            *_hash_columns(found.event_id),
            pa.array(found.time_ms),
            pa.array(due_ms[rows]),
            *_texts(found, self._entity_fields),
        ]
        self._parts.add(pa.RecordBatch.from_arrays(columns, schema=self._parts.schema))

    def part(self, number: int, names: Sequence[str]) -> pa.RecordBatch:
        """A part's events, with these of the entities."""
        columns = [*(name for name, _ in _HASHED), "time", "due", *names]
        return concat_batches(list(self._parts.part(number)), self._parts.schema).select(columns)


@dataclass(frozen=True, slots=True)
class JoinedLabels:
    """What became of a label file.

    reading: its labels as an input, in the order in which they became known. aside: a table like it of
    those that can teach nobody and still say what their events were: their events name none of the
    entities that learn from labels, or they became known behind the last event of all. counts:
    labels read, and what became of them: named an entity themselves, joined, of_nobody, of an
    unknown event, unclear, or dead letters; and of these how many claimed to be known before their
    event, how many became known only after the last event, too late to teach, and how many are
    ambiguous: several events have the id, and the first in event time is meant; and how often a
    field was repaired. dead_letters: with examples of labels with a repaired field. unclear: of labels
    that say neither fraud nor honest, how often each verdict; they teach nobody, and their events
    are evaluated as events without a label are.
    """

    reading: FileReader
    evaluation_only: Path
    counts: dict[str, int]
    dead_letters: list[DeadLetter]
    unclear: Counter[str | None]


def join(
    config: Config,
    name: str,
    readings: Sequence[InputReader],
    events: Sequence[EventTable],
    folder: Path,
) -> JoinedLabels:
    """Join the logs of an input of labels to the events of the others; the tables lie in the folder.

    Raises InputError for files that cannot be read, ExtraMissing without DuckDB, which judges by
    what is joined here.
    """
    database.check_installed()
    joining = _LabelJoin(config, name, folder)
    for reading in readings:
        joining.read(reading)
    joining.join(events)
    return joining.written()


class _LabelJoin:
    """A label file on its way."""

    def __init__(self, config: Config, name: str, folder: Path) -> None:
        self._config = config
        self._name = name
        self._folder = folder
        self._learning = label_entity_fields(config, name)
        self._fields = extracted_fields(config, name)
        if "verdict" not in self._fields:
            raise InputError(
                f"inputs.{name}.fields.verdict: missing; expected where a label says fraud or honest"
            )
        self._decoder = Decoder(config.inputs[name], config.limits, self._fields)
        entities = [field for field in self._fields if field in ENTITY_FIELDS]
        self._texts = ["event_id", *LABEL_FIELDS, *entities]
        placed = [("own_time", pa.int64()), ("line", pa.int64())]
        texts = [(field, pa.string()) for field in self._texts]
        read = pa.schema([*_HASHED, *placed, ("nameless", pa.bool_()), *texts])
        self._labels = PartitionedRows(folder / f"{name}.read.part", read)
        # of those that become known at once, with their event, the latest is the last word
        self._schema = pa.schema([("time", pa.int64()), *placed, *texts])
        self._teaching, self._evaluation_only = (
            SortedRows(folder / f"{name}.{what}.part", self._schema)
            for what in ("teaching", "beside")
        )
        self._dead_letters: list[DeadLetter] = []
        self._examples: list[DeadLetter] = []
        self._repairs = FieldRepairs()
        self._faults: Counter[str] = Counter()
        self._read = self._lines = 0
        self._counts: Counter[str] = Counter()
        self._unclear: Counter[str | None] = Counter()

    def read(self, reading: InputReader) -> None:
        """Take all labels of a log."""
        for records in (part for parts in reading for part in parts):
            labels, faults, tombstones, repaired = self._decoder.read(records)
            self._read += len(records) - tombstones
            self._dead_letters += [to_dead_letter(fault, records) for fault in faults]
            examples = self._repairs.take(repaired, labels, records)
            room = EXAMPLES_MAX - len(self._examples)
            self._examples += [to_dead_letter(example, records) for example in examples[:room]]
            self._faults.update(fault.message for fault in faults)
            if len(self._dead_letters) > UNREADABLE_MAX:
                raise self._unreadable()
            clear, unclear = split_unclear(labels)
            count_verdicts(self._unclear, unclear)
            labels = labels if not unclear else labels.take(clear)
            texts = _texts(labels, self._texts[1:])
            line = np.arange(self._lines, self._lines + len(labels))
            self._lines += len(labels)
            columns = [
                *_hash_columns(texts[LABEL_FIELDS.index("labelled_event_id")]),
                pa.array(labels.time_ms),
                pa.array(line),
                pa.array(self._without_entity(labels)),
                labels.event_id,
                *texts,
            ]
            self._labels.add(pa.RecordBatch.from_arrays(columns, schema=self._labels.schema))

    def _unreadable(self) -> InputError:
        """Why labels cannot be read: most often the mapping is not that of the file."""
        [(message, count)] = self._faults.most_common(1)
        spec, name = self._config.inputs[self._name], self._name
        shape = (
            f"expected a file that inputs.{name}.fields maps"
            if spec.fields
            else f"inputs.{name} has no fields, so labels are read by Eddy's own names (event_id, "
            "time, labelled_event_id, verdict, entities); expected such a file, or in the "
            f'configuration [inputs.{name}] with type = "label" and where each field is: fields = '
            '{ event_id = "…", time = "…", labelled_event_id = "…", verdict = "…" }'
        )
        return InputError(
            f"{name}: {len(self._dead_letters)} of {self._read} labels cannot be read, {count} of them "
            f"because of {message}; {shape}"
        )

    def _without_entity(self, labels: EventBatch) -> Bools:
        if len(self._texts) == 1 + len(LABEL_FIELDS):
            return np.ones(len(labels), np.bool_)
        return labels_without_entity(labels)

    def join(self, tables: Sequence[EventTable]) -> None:
        """Join each label to the first event that has its id."""
        if self._read and len(self._dead_letters) == self._read:
            raise self._unreadable()
        unclear = self._unclear.total()
        if unclear and unclear + len(self._dead_letters) == self._read:
            raise InputError(
                f"{self._name}: none of {self._read} labels says fraud or honest; they say "
                f"{most_common_verdicts(self._unclear)}; expected that "
                f"inputs.{self._name}.fields.verdict names the path of the verdict, and that its "
                'values translate it, such as { path = "…", values = { "True" = "fraud" } }'
            )
        last_ms = max((one.last_ms for one in tables), default=NOT_FOUND)
        for number in range(PARTS):
            parts = [one.part(number, self._learning) for one in tables]
            events = _EventIndex(pa.concat_batches(parts))
            for labels in self._labels.part(number):
                self._take(labels, events, last_ms)

    def _take(self, labels: pa.RecordBatch, events: "_EventIndex", last_ms: int) -> None:
        row, several = events.find(labels)
        known = row != NOT_FOUND
        without_entity: Bools = labels.column("nameless").to_numpy(zero_copy_only=False)
        filled, named = self._filled(labels, events.rows, row, known & without_entity)
        label_ms: I64 = labels.column("own_time").to_numpy()
        due_ms = np.full(len(row), NOT_FOUND, np.int64)
        due_ms[known] = events.due_ms[row[known]]
        time_ms = np.where(known, effective_ms(label_ms, due_ms), label_ms)
        placed = [labels.column(column) for column in ("own_time", "line")]
        columns = [pa.array(time_ms), *placed, *filled]
        joined = pa.RecordBatch.from_arrays(columns, schema=self._schema)
        teaching = ~without_entity | known & named
        # What is saved of a run's state is then as of its last event, and knows nothing of later.
        behind = (last_ms != NOT_FOUND) & (time_ms > last_ms)
        self._teaching.add(joined.filter(pa.array(teaching & ~behind)))
        self._evaluation_only.add(joined.filter(pa.array(teaching & behind | known & ~teaching)))
        became = {
            "with_entity": ~without_entity,
            "joined": without_entity & known & named,
            "event_without_entity": without_entity & known & ~named,
            "unknown_event": without_entity & ~known,
            "before_event": known & (label_ms < due_ms),
            "after_last_event": teaching & behind,
            "ambiguous": several,
        }
        self._counts.update({what: int(np.count_nonzero(of)) for what, of in became.items()})

    def _filled(
        self, labels: pa.RecordBatch, events: pa.RecordBatch, row: I64, fill: Bools
    ) -> tuple[list[pa.StringArray], Bools]:
        """The labels' texts, entities those of their events where they are to be filled, and
        bool[n]: whether the event names any that learns."""
        picked = pa.array(row, mask=~fill)
        of_events = {name: events.column(name).take(picked) for name in self._learning}
        named = np.full(len(row), not of_events)
        for column in of_events.values():
            named |= column.is_valid().to_numpy(zero_copy_only=False)
        texts = [
            pc.coalesce(labels.column(name), of_events[name])
            if name in of_events
            else labels.column(name)
            for name in self._texts
        ]
        return texts, named

    def written(self) -> JoinedLabels:
        """Write what came of it."""
        name, counts = self._name, self._counts
        path, evaluation_only = (
            self._folder / f"{name}.{what}.part" for what in ("labels", "aside")
        )
        self._write(path, self._teaching)
        self._write(evaluation_only, self._evaluation_only)
        said = {
            "read": self._read,
            **{
                what: counts[what]
                for what in ("with_entity", "joined", "event_without_entity", "unknown_event")
            },
            "unclear": self._unclear.total(),
            "dead_letters": len(self._dead_letters),
        }
        assert self._read == sum(said.values()) - self._read, said
        of_these = ("before_event", "after_last_event", "ambiguous")
        said |= {what: counts[what] for what in of_these} | self._repairs.counts()
        reading = FileReader(name, find_files(str(path)), self._config.inputs[name])
        letters = self._dead_letters + self._examples
        return JoinedLabels(reading, evaluation_only, said, letters, self._unclear)

    def _write(self, path: Path, labels: SortedRows) -> None:
        """Write a table of Eddy's own fields, in the order in which the labels became known."""
        texts = [(name, pa.string()) for name in self._texts]
        schema = pa.schema(
            [("time", pa.int64()), ("type", pa.string()), *texts], metadata=EDDY_FIELDS
        )
        with TableFile(path, schema) as file:
            for batch in labels.batches():
                kind = pa.repeat("label", len(batch))
                texts_of = [batch.column(field) for field in self._texts]
                file.write([batch.column("time"), kind, *texts_of])


class _EventIndex:
    """A part's events by their id. rows: as an event table has them."""

    def __init__(self, rows: pa.RecordBatch) -> None:
        self.rows = rows
        self.due_ms: I64 = rows.column("due").to_numpy()
        by_time = np.argsort(rows.column("time").to_numpy(), kind="stable")
        # of equal ids the first in this order, so that of two at the same time the first stands
        self._ids, first, count = np.unique(
            _id_hashes(rows)[by_time], return_index=True, return_counts=True
        )
        self._row: I64 = by_time[first]
        self._several = count > 1

    def find(self, labels: pa.RecordBatch) -> tuple[I64, Bools]:
        """int64[n], the row of the event that each label means, or NOWHERE; and bool[n], whether
        several have its id."""
        wanted = _id_hashes(labels)
        row: I64 = np.full(len(wanted), NOT_FOUND)
        several = np.zeros(len(wanted), np.bool_)
        place = np.searchsorted(self._ids, wanted)
        known = np.flatnonzero(place < len(self._ids))
        known = known[self._ids[place[known]] == wanted[known]]
        row[known] = self._row[place[known]]
        several[known] = self._several[place[known]]
        return row, several


def _hash_columns(ids: pa.StringArray) -> Iterator[pa.Array]:
    """The columns by which rows are joined. What has no id has the hash of none."""
    hashed = hash_text(ids, ID_KEY).view(np.int64)
    yield pa.array((hashed[:, 0] & (PARTS - 1)).astype(np.uint8))
    yield from (pa.array(np.ascontiguousarray(hashed[:, i])) for i in range(2))


def _id_hashes(rows: pa.RecordBatch) -> NDArray[np.void]:
    """V16[n]: the ids' hashes."""
    halves = [rows.column(name).to_numpy() for name in ("low", "high")]
    return np.stack(halves, axis=1).view("V16")[:, 0]


def _texts(events: EventBatch, names: Sequence[str]) -> list[pa.StringArray]:
    absent = pa.nulls(len(events), pa.string())
    return [events.text.get(name, absent) for name in names]
