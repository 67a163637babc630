"""The route stage: reads an input's records, passes on events and writes dead letters.

A decoder decodes, maps and checks the records; each record that is no event becomes a dead letter.
Events with a repaired field pass, and examples of them go to the dead-letter topic. Duplicates are
dropped: a duplicate has the id and all fields, the time included, of a recent event. An event with a
recent id and other fields passes, and is counted in addition. State: counters and the recent events.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from detectors.numeric.hashing import HashKey, hash_key, hash_rows, hash_text
from detectors.state import Arrays
from schemas.codecs.table_rows import row_as_json
from schemas.columns import I64, U64, Bools, EventBatch
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
from stream.config import Config, StateConfig, extracted_fields, is_input_read
from stream.config.stage_graph import (
    OutputTopic,
    ReadPath,
    StageDeclaration,
    StageNode,
    StateInputs,
)
from stream.pipeline.context import Placement, StageContext
from stream.pipeline.counters import RECORD_COUNTERS, REUSED_IDS, ROUTE_COUNTERS
from stream.pipeline.decoding import Decoder, SharedDecoder
from stream.pipeline.stages import Stage, StageOutput
from stream.pipeline.stages.recent_events import REUSED, SAME, RecentEvents
from stream.pipeline.stages.repairs import FieldRepairs

READ, PASSED, DUPLICATE, TOMBSTONE, FIRST_CODE = range(5)
"""Indices into the tally, which is in the order of `RECORD_COUNTERS`; from FIRST_CODE on it has a count
for each dead-letter code."""

LABEL_WITHOUT_ENTITY: Final[DeadLetterCode] = "label_without_entity"
LABEL_WITHOUT_ENTITY_MESSAGE: Final = "a label names none of the entities that its input maps"
LABEL_WITHOUT_VERDICT: Final[DeadLetterCode] = "label_without_verdict"
LABEL_WITHOUT_VERDICT_MESSAGE: Final = "verdict: missing; expected a text such as fraud or honest"

FIELD_NUMBER: Final = {name: number for number, name in enumerate(FIELDS)}


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteOutput(StageOutput):
    """A batch's events and dead letters, both in the order of their records; examples of repaired
    events are among the dead letters."""

    events: EventBatch


class Route(Stage):
    """The stage of one partition of an input. is_read: whether any stage reads the input's events;
    where none does, labels need not name an entity."""

    def __init__(
        self,
        decoder: Decoder | SharedDecoder,
        duplicate_window: int,
        hash_key: HashKey,
        *,
        is_read: bool = True,
    ) -> None:
        self._is_read = is_read
        self._decoder = decoder
        self._hash_key = hash_key
        self._recent = RecentEvents(duplicate_window)
        self._repairs = FieldRepairs()
        self._tally: I64 = np.zeros(len(RECORD_COUNTERS), np.int64)
        self._reused: I64 = np.zeros(1, np.int64)

    def process(self, batch: Records) -> RouteOutput:
        """Return the batch's events except duplicates, and a dead letter for each record that is no event."""
        events, faults, tombstones, repaired = self._decoder.read(batch)
        if self._is_read:
            events, unusable = _without_unusable_labels(events, batch)
            faults = sorted([*faults, *unusable]) if unusable else faults
        examples = self._repairs.count(repaired, events, batch)
        ids = np.ascontiguousarray(hash_text(events.event_id, self._hash_key)[:, 0])
        classes = self._recent.classify(ids, _content(events, self._hash_key))
        duplicates = int(np.count_nonzero(classes == SAME))
        self._reused += np.count_nonzero(classes == REUSED)
        passed = events if duplicates == 0 else events.take(np.flatnonzero(classes != SAME))
        self._count(len(batch), len(passed), duplicates, tombstones, faults)
        # Each row has a fault or an example, never both.
        letters: list[Fault | RepairExample] = [*faults, *examples]
        letters.sort(key=lambda letter: letter.row)
        dead_letters = [to_dead_letter(letter, batch) for letter in letters]
        return RouteOutput(events=passed, dead_letters=dead_letters)

    def events_passed(self) -> int:
        """Events that were neither duplicates nor dead letters."""
        return int(self._tally[PASSED])

    def counts(self) -> dict[str, int]:
        """Records by outcome; in addition, reused ids and repaired fields, which are no outcomes."""
        keys = (counter.key for counter in RECORD_COUNTERS)
        counts = dict(zip(keys, self._tally.tolist(), strict=True))
        return {**counts, REUSED_IDS.key: int(self._reused[0])} | self._repairs.counts()

    def save(self) -> Arrays:
        """The counters, the remembered ids and the repairs."""
        return {
            "tally": self._tally,
            "reused": self._reused,
            **self._recent.save(),
            **self._repairs.save(),
        }

    def load(self, state: Arrays) -> None:
        """Replace counters, remembered ids and repairs by saved ones."""
        self._tally[:] = state["tally"]
        self._reused[:] = state["reused"]
        self._recent.load(state)
        self._repairs.load(state)

    def _count(
        self, read: int, passed: int, duplicates: int, tombstones: int, faults: list[Fault]
    ) -> None:
        assert read == passed + duplicates + tombstones + len(faults), (read, passed, duplicates)
        self._tally[:FIRST_CODE] += (read, passed, duplicates, tombstones)
        for fault in faults:
            self._tally[FIRST_CODE + CODES.index(fault.code)] += 1
        assert self._tally[READ] == self._tally[PASSED:].sum(), self.counts()


def _content(events: EventBatch, key: HashKey) -> U64:
    """uint64[n]: the keyed hash of each event's time, type and fields, without its id."""
    texts = {FIELD_NUMBER[name]: column for name, column in events.text.items()}
    numbers = {FIELD_NUMBER[name]: column for name, column in events.number.items()}
    numbers |= {-1: events.time_ms.astype(np.float64), -2: events.type_code.astype(np.float64)}
    return hash_rows(texts, numbers, key)


def _without_unusable_labels(events: EventBatch, batch: Records) -> tuple[EventBatch, list[Fault]]:
    """The events without unusable labels, and a fault for each of these."""
    faults: list[Fault] = []
    unusable = np.zeros(len(events), np.bool_)
    checks: tuple[tuple[DeadLetterCode, str, Bools], ...] = (
        (LABEL_WITHOUT_VERDICT, LABEL_WITHOUT_VERDICT_MESSAGE, labels_without_verdict(events)),
        (LABEL_WITHOUT_ENTITY, LABEL_WITHOUT_ENTITY_MESSAGE, labels_without_entity(events)),
    )
    for code, message, labels in checks:
        rows = np.searchsorted(batch.offset, events.offset[labels & ~unusable]).tolist()
        faults += (Fault(row, code, message) for row in rows)
        unusable |= labels
    return (events.take(np.flatnonzero(~unusable)) if faults else events), faults


def labels_without_verdict(events: EventBatch) -> Bools:
    """bool[n]: labels without a verdict, in inputs that map one."""
    is_label: Bools = events.type_code == LABEL_TYPE
    if "verdict" not in events.text or not is_label.any():
        return np.zeros(len(events), np.bool_)
    missing: Bools = events.text["verdict"].is_null().to_numpy(zero_copy_only=False)
    return is_label & missing


def labels_without_entity(events: EventBatch) -> Bools:
    """bool[n]: labels in which every entity field that the input maps is absent."""
    is_label: Bools = events.type_code == LABEL_TYPE
    named = [events.text[name] for name in ENTITY_FIELDS if name in events.text]
    if not named or not is_label.any():
        return np.zeros(len(events), np.bool_)
    for column in named:
        is_label = is_label & column.is_null().to_numpy(zero_copy_only=False)
    return is_label


def to_dead_letter(fault: Fault | RepairExample, batch: Records) -> DeadLetter:
    """The dead letter for a fault, or for an example of a repair; it holds a table's row as JSON."""
    row = fault.row
    value: Any = (
        batch.values[row] if isinstance(batch.values, list) else row_as_json(batch.values, row)
    )
    headers = () if batch.headers is None else batch.headers[row]
    return dead_letter(
        fault, value or b"", headers, batch.topic, batch.partition, int(batch.offset[row])
    )


# -- the declaration ------------------------------------------------------------------------------


def make_route(config: Config, input_name: str, decoder: SharedDecoder | None = None) -> Route:
    """The stage that reads a partition of an input. decoder: shared with other configurations."""
    spec, limits = config.inputs[input_name], config.limits
    input_decoder = decoder or Decoder(spec, limits, extracted_fields(config, input_name))
    is_read = is_input_read(config, input_name)
    return Route(input_decoder, limits.duplicate_window, hash_key(config.secret), is_read=is_read)


def _nodes(config: Config) -> list[StageNode]:
    path = ReadPath(None, "it reads the inputs")
    return [StageNode(ROUTE, ROUTE.name, "inputs", path, inputs=(*config.inputs,))]


def _make(_node: StageNode, context: StageContext, placement: Placement) -> Route:
    name = placement.log.name
    return make_route(context.config, name, context.decoders.get(name))


def _outputs(_node: StageNode, config: Config) -> list[OutputTopic]:
    return [
        OutputTopic("outputs.dead_letters", config.outputs.dead_letters, "the record's own key")
    ]


def _state_inputs(state: StateConfig) -> dict[str, StateInputs]:
    window = state.limits.duplicate_window
    return {ROUTE.name: {"the secret": state.secret, "limits.duplicate_window": window}}


ROUTE: Final = StageDeclaration(
    name="route",
    reads=("records",),
    writes=("events", "dead_letters"),
    make=_make,
    counters=ROUTE_COUNTERS,
    nodes=_nodes,
    outputs=_outputs,
    state_inputs=_state_inputs,
    learned_arrays=("recent_",),
)
