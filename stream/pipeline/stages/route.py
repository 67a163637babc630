"""route: records in, events out; what is no event becomes a dead letter.

How records are decoded, mapped and checked is its decoder's business. Of events with a repaired
field it sends examples along with the dead letters. Events of monitors that
cannot read this partition directly it re-keys to their internal topics, by entity. Keeps no state
but counters and a bounded memory of recent events, by which duplicates are known: a duplicate has
the id and all fields of an earlier event, its time included. An id with other fields is another
event; it passes and is counted as `id_reused`. Scores no event: later stages do.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from detectors.numeric.hashing import HashKey, hash_rows, hash_text
from detectors.numeric.kernels import kernel
from detectors.state import Arrays, WriteHook, add_prefix, select_prefix
from schemas.codecs.internal_events import InternalEventCodec
from schemas.codecs.table import row_as_json
from schemas.columns import I64, U8, U64, Bools, EventBatch
from schemas.dead_letters import (
    CODES,
    DeadLetter,
    DeadLetterCode,
    Fault,
    RepairExample,
    dead_letter,
)
from schemas.events import ENTITY_FIELDS, FIELDS, LABEL_TYPE
from schemas.records import Records
from stream.config import Log
from stream.pipeline.decoding import Decoder, SharedDecoder
from stream.pipeline.rekeying import Rekeyer
from stream.pipeline.stages import InternalRecord
from stream.pipeline.stages.repairs import FieldRepairs

COUNTS: Final = (
    *("read", "passed", "duplicate", "tombstone"),
    *(f"dead_letter_{code}" for code in CODES),
)
"""What can become of a record; `read` is the sum of all others."""
READ, PASSED, DUPLICATE, TOMBSTONE, FIRST_CODE = range(5)
ID_REUSED: Final = "id_reused"
"""Counted in addition: of the records passed, those with the id of another recent event."""
NEW, SAME, REUSED = range(3)
"""An event's id is new; the event is a duplicate; its id was another event's."""


LABEL_WITHOUT_ENTITY: Final[DeadLetterCode] = "label_without_entity"
LABEL_WITHOUT_ENTITY_MESSAGE: Final = "a label names none of the entities that its input maps"
LABEL_WITHOUT_VERDICT: Final[DeadLetterCode] = "label_without_verdict"
LABEL_WITHOUT_VERDICT_MESSAGE: Final = "verdict: missing; expected a text such as fraud or honest"

SENT, NOT_APPLICABLE = range(2)
HASH_MULTIPLIER: Final = np.uint64(0x9E3779B97F4A7C15)
FIELD_NUMBER: Final = {name: number for number, name in enumerate(FIELDS)}


@dataclass(frozen=True, slots=True)
class RouteOutput:
    """A batch's events and dead letters, both in the order of their records, examples of repaired
    events among the latter; and what goes into internal logs, in that order for each of their
    partitions."""

    events: EventBatch
    dead_letters: list[DeadLetter]
    internal: list[InternalRecord]


class InternalTopicWriter:
    """The way into one reader's internal log, from one partition of an input: a monitor's events, or
    the labels that assess learns from. entity: the field that chooses the partition; concerns: the
    events that are to go."""

    def __init__(
        self,
        log: Log,
        entity: str,
        concerns: Callable[[EventBatch], Bools],
        codec: InternalEventCodec,
        hash_key: HashKey,
    ) -> None:
        self.name = log.name
        self._concerns = concerns
        self._codec = codec
        self._rekeyer = Rekeyer(log, entity, codec, hash_key)
        self._tally: I64 = np.zeros(2, np.int64)

    def process(self, events: EventBatch) -> Iterator[InternalRecord]:
        """The messages with the events that concern the reader; each entity has one partition."""
        wanted = np.flatnonzero(self._concerns(events)).astype(np.int64)
        self._tally += (len(wanted), len(events) - len(wanted))
        return self._rekeyer.process(self._codec.select_fields(events).take(wanted))

    def counts(self) -> dict[str, int]:
        """Events sent to the internal log, and events that do not concern its reader."""
        sent, not_applicable = self._tally.tolist()
        return {"sent": sent, "not_applicable": not_applicable}

    def backfill_not_applicable(self, events: int) -> None:
        """Start with so many events behind it that it has not seen: they did not apply to it."""
        self._tally[NOT_APPLICABLE] += events

    def save(self) -> Arrays:
        """The counters."""
        return {"tally": self._tally}

    def load(self, state: Arrays) -> None:
        """Replace the counters by saved ones."""
        self._tally[:] = state["tally"]


class Route:
    """The stage of one partition of an input. hops: to those that do not read it directly. is_read:
    by anybody at all; else no label need name whom it teaches."""

    def __init__(
        self,
        decoder: Decoder | SharedDecoder,
        duplicate_window: int,
        hash_key: HashKey,
        writers: Sequence[InternalTopicWriter] = (),
        *,
        is_read: bool = True,
    ) -> None:
        self.writers = writers
        self._is_read = is_read
        self._decoder = decoder
        self._hash_key = hash_key
        self._recent = RecentEvents(duplicate_window)
        self._repairs = FieldRepairs()
        self._tally: I64 = np.zeros(len(COUNTS), np.int64)
        self._reused: I64 = np.zeros(1, np.int64)

    def process(self, batch: Records) -> RouteOutput:
        """The batch's events that were not seen before, and a dead letter for each bad record."""
        events, faults, tombstones, repaired = self._decoder.read(batch)
        if self._is_read:
            events, unusable = _without_unusable_labels(events, batch)
            faults = sorted([*faults, *unusable]) if unusable else faults
        examples = self._repairs.take(repaired, events, batch)
        ids = np.ascontiguousarray(hash_text(events.event_id, self._hash_key)[:, 0])
        known = self._recent.classify(ids, _content(events, self._hash_key))
        duplicates = int(np.count_nonzero(known == SAME))
        self._reused += np.count_nonzero(known == REUSED)
        fresh = events if duplicates == 0 else events.take(np.flatnonzero(known != SAME))
        self._count(len(batch), len(fresh), duplicates, tombstones, faults)
        internal = [record for writer in self.writers for record in writer.process(fresh)]
        # a record is a fault or an event, so that each row has either
        letters: list[Fault | RepairExample] = [*faults, *examples]
        letters.sort(key=lambda one: one.row)
        return RouteOutput(fresh, [to_dead_letter(one, batch) for one in letters], internal)

    def counts(self) -> dict[str, int]:
        """Records by what became of them, `COUNTS` the names; `ID_REUSED` and repairs of fields,
        which are in no sum of these."""
        counts = dict(zip(COUNTS, self._tally.tolist(), strict=True))
        return {**counts, ID_REUSED: int(self._reused[0])} | self._repairs.counts()

    def save(self) -> Arrays:
        """The counters, the hops', the remembered ids and the repairs."""
        writers = add_prefix({f"hop/{writer.name}": writer.save() for writer in self.writers})
        return {
            "tally": self._tally,
            "reused": self._reused,
            **writers,
            **self._recent.save(),
            **self._repairs.save(),
        }

    def load(self, state: Arrays) -> None:
        """Replace counters, remembered ids and repairs by saved ones."""
        self._tally[:] = state["tally"]
        self._reused[:] = state["reused"]
        for writer in self.writers:
            writer.load(select_prefix(f"hop/{writer.name}", state))
        self._recent.load(state)
        self._repairs.load(state)

    def hooked_arrays(self) -> set[str]:
        """None: events are remembered all over their panes."""
        return set()

    def on_write(self, before_write: WriteHook | None) -> None:
        """Nothing is announced."""

    def _count(
        self, read: int, passed: int, duplicates: int, tombstones: int, faults: list[Fault]
    ) -> None:
        assert read == passed + duplicates + tombstones + len(faults), (read, passed, duplicates)
        self._tally[:FIRST_CODE] += (read, passed, duplicates, tombstones)
        for fault in faults:
            self._tally[FIRST_CODE + CODES.index(fault.code)] += 1
        assert self._tally[READ] == self._tally[PASSED:].sum(), self.counts()


class RecentEvents:
    """The latest events, by id and content: at least half a window of distinct ones, at most a
    whole one.

    Two panes, each an open-addressing table kept at most half full. Events enter the current pane;
    when it holds half a window, the older pane is emptied and becomes current. The remembered events
    therefore depend on the order of events alone. An entry is a 64-bit hash that gives its place and the
    64-bit hash of the content: the first is of the id, and where that place is another event's, of
    both, so that a reused id makes no long run of entries. 32 to 64 bytes an event of the window.
    """

    def __init__(self, window: int) -> None:
        self._per_pane = max(1, window // 2)
        slot_count = 1 << (2 * self._per_pane - 1).bit_length()
        self._slots: U64 = np.zeros((2, slot_count, 2), np.uint64)
        self._marks: I64 = np.zeros(2, np.int64)  # current pane, events in it

    def classify(self, ids: U64, contents: U64) -> U8:
        """uint8[n]: `NEW`, `SAME` or `REUSED`, each event's own batch included. ids, contents:
        uint64[n], keyed hashes."""
        found = np.zeros(len(ids), np.uint8)
        _remember(ids, contents, self._slots, self._marks, self._per_pane, found)
        return found

    def save(self) -> Arrays:
        """Both panes and which of them is current."""
        return {"recent_slots": self._slots, "recent_marks": self._marks}

    def load(self, state: Arrays) -> None:
        """Replace both panes by saved ones of the same window."""
        self._slots[:] = state["recent_slots"]
        self._marks[:] = state["recent_marks"]


@kernel
def _find_slot(pane: U64, hashed: np.uint64) -> np.int64:
    """The slot that holds the hash, or the free one where it would go."""
    mask = len(pane) - 1
    slot = np.int64(hashed & np.uint64(mask))
    while pane[slot, 0] != 0 and pane[slot, 0] != hashed:
        slot = (slot + 1) & mask
    return slot


@kernel
def _combined_hash(one: np.uint64, content: np.uint64) -> np.uint64:
    """A hash of an id and a content, never 0."""
    mixed = (one ^ (content << np.uint64(23)) ^ (content >> np.uint64(41))) * HASH_MULTIPLIER
    mixed ^= mixed >> np.uint64(32)
    return mixed | np.uint64(1)


@kernel
def _remember(ids: U64, contents: U64, slots: U64, marks: I64, per_pane: int, found: U8) -> None:
    for i in range(len(ids)):
        content = contents[i]
        hashed = ids[i] | np.uint64(1)  # 0 is a free slot
        current, older = slots[marks[0]], slots[1 - marks[0]]
        here, there = _find_slot(current, hashed), _find_slot(older, hashed)
        same = current[here, 0] != 0 and current[here, 1] == content
        same |= older[there, 0] != 0 and older[there, 1] == content
        reused = not same and (current[here, 0] != 0 or older[there, 0] != 0)
        if reused:
            both = _combined_hash(hashed, content)
            at, before = _find_slot(current, both), _find_slot(older, both)
            same = current[at, 0] != 0 and current[at, 1] == content
            same |= older[before, 0] != 0 and older[before, 1] == content
            if current[here, 0] != 0:
                here, hashed = at, both
        if same:
            found[i] = SAME
            continue
        found[i] = REUSED if reused else NEW
        current[here, 0] = hashed
        current[here, 1] = content
        marks[1] += 1
        if marks[1] == per_pane:
            marks[0] = 1 - marks[0]
            marks[1] = 0
            slots[marks[0]] = 0


def _content(events: EventBatch, key: HashKey) -> U64:
    """uint64[n]: the keyed hash of all that was decoded of an event but its id."""
    texts = {FIELD_NUMBER[name]: column for name, column in events.text.items()}
    numbers = {FIELD_NUMBER[name]: column for name, column in events.number.items()}
    numbers |= {-1: events.time_ms.astype(np.float64), -2: events.type_code.astype(np.float64)}
    return hash_rows(texts, numbers, key)


def _without_unusable_labels(events: EventBatch, batch: Records) -> tuple[EventBatch, list[Fault]]:
    """The events without labels from which nothing can be learned, and a fault for each of these."""
    faults: list[Fault] = []
    unusable = np.zeros(len(events), np.bool_)
    reasons: tuple[tuple[DeadLetterCode, str, Bools], ...] = (
        (LABEL_WITHOUT_VERDICT, LABEL_WITHOUT_VERDICT_MESSAGE, labels_without_verdict(events)),
        (LABEL_WITHOUT_ENTITY, LABEL_WITHOUT_ENTITY_MESSAGE, labels_without_entity(events)),
    )
    for code, message, found in reasons:
        rows = np.searchsorted(batch.offset, events.offset[found & ~unusable]).tolist()
        faults += (Fault(row, code, message) for row in rows)
        unusable |= found
    return (events.take(np.flatnonzero(~unusable)) if faults else events), faults


def labels_without_verdict(events: EventBatch) -> Bools:
    """bool[n]: labels without a verdict, where their input maps one."""
    found: Bools = events.type_code == LABEL_TYPE
    if "verdict" not in events.text or not found.any():
        return np.zeros(len(events), np.bool_)
    missing: Bools = events.text["verdict"].is_null().to_numpy(zero_copy_only=False)
    return found & missing


def labels_without_entity(events: EventBatch) -> Bools:
    """bool[n]: labels that name none of the entities for which their input has a place."""
    found: Bools = events.type_code == LABEL_TYPE
    named = [events.text[name] for name in ENTITY_FIELDS if name in events.text]
    if not named or not found.any():
        return np.zeros(len(events), np.bool_)
    for column in named:
        found = found & column.is_null().to_numpy(zero_copy_only=False)
    return found


def to_dead_letter(fault: Fault | RepairExample, batch: Records) -> DeadLetter:
    """The dead letter of a record, or the example that it is; a table's row is in it as JSON."""
    row = fault.row
    value: Any = (
        batch.values[row] if isinstance(batch.values, list) else row_as_json(batch.values, row)
    )
    headers = () if batch.headers is None else batch.headers[row]
    return dead_letter(
        fault, value or b"", headers, batch.topic, batch.partition, int(batch.offset[row])
    )
