"""The interface of stages. A stage reads one log and writes others; each module here defines one.

The worker, replay and demo run the same stages. A stage does no input or output: it processes a batch
of its log and returns alerts and records. A later stage selects its rows by a `Subscription`: with
`select_inline` in the same shard, else with `select_events` and `select_output` for its internal topic.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, Protocol, Self, TypeVar

import numpy as np
import pyarrow as pa

from detectors.state import Arrays, WriteHook
from schemas.alerts import Alert
from schemas.columns import I32, I64, EventBatch
from schemas.dead_letters import DeadLetter
from stream.pipeline.scores import ScoreColumns, ScoreSelection


class Batch(Protocol):
    """Rows of a log in its order, each with the position of the event that it comes from."""

    @property
    def sources(self) -> tuple[tuple[str, int], ...]:
        """The (topic, partition) pairs that the events come from."""

    @property
    def source(self) -> I32:
        """int32[n]: index into `sources`."""

    @property
    def offset(self) -> I64:
        """int64[n]: position in that partition."""

    @property
    def time_ms(self) -> I64:
        """int64[n]: the event's time."""

    def __len__(self) -> int: ...

    def take(self, rows: I64) -> Self:
        """The given rows, in the given order."""

    def slice(self, start: int, stop: int) -> Self:
        """The rows start … stop - 1."""


B = TypeVar("B", bound=Batch)


class BatchCodec(Protocol[B]):
    """Batches as messages of an internal topic. A message holds events of one source partition."""

    def write(self, batch: B) -> Iterator[bytes]:
        """The messages of a batch, in order for each source partition."""

    def read(self, values: Sequence[bytes | None]) -> B:
        """The rows of the messages. Raises ValueError where one is not of this codec."""

    def join(self, batches: Sequence[B]) -> B:
        """One batch of several."""


class InternalRecord(NamedTuple):
    """A record for an internal topic: the name of its log, the partition, and the message."""

    log: str
    partition: int
    value: bytes


class OutputRecord(NamedTuple):
    """A record for a topic that a stage declares as its output. value: None deletes the key from a
    compacted topic."""

    topic: str
    key: bytes
    value: bytes | None


@dataclass(frozen=True, slots=True)
class AlertAtRow:
    """An alert and the row of the batch whose event raised it."""

    row: int
    alert: Alert


@dataclass(frozen=True, slots=True, kw_only=True)
class StageOutput:
    """The output of a stage for one batch; each stage may add to it.

    alerts: in the order of the rows. records: for the stage's own output topics.
    """

    alerts: list[AlertAtRow] = field(default_factory=list)
    dead_letters: list[DeadLetter] = field(default_factory=list)
    records: list[OutputRecord] = field(default_factory=list)


class Stage(ABC):
    """A deterministic fold over one partition of one log.

    `process` is the only way its state changes. Results depend neither on how the log was cut into
    batches nor on the wall clock.
    """

    @abstractmethod
    def process(self, batch: Any) -> StageOutput:
        """Take the next batch of the log."""

    @abstractmethod
    def save(self) -> Arrays:
        """The whole state, not copied: the next `process` changes these arrays."""

    @abstractmethod
    def load(self, state: Arrays) -> None:
        """Replace the whole state by a saved one of the same configuration and version."""

    @abstractmethod
    def counts(self) -> dict[str, int]:
        """The declared counters: rows by outcome, and the size of the state."""

    def copy_on_write_arrays(self) -> set[str]:
        """The saved arrays whose rows are written only after the write hook was called."""
        return set()

    def set_write_hook(self, before_write: WriteHook | None) -> None:  # noqa: B027 - few stages need it
        """Set the hook to call before each batch, with the rows that the batch will write; None removes
        it."""

    def events_passed(self) -> int | None:
        """The number of events that it passed on to stages that read events; None where it writes none."""
        return None

    def events_counted(self) -> int | None:
        """The number of events that it has accounted for, which must equal the events passed to it; None
        where that is not checked."""
        return None

    def backfill_not_applicable(self, events: int) -> None:  # noqa: B027 - few stages need it
        """Count this number of events, from before the stage existed, as not applicable."""

    def scores(self, batch: Any, output: Any, selection: ScoreSelection) -> ScoreColumns | None:
        """Score columns of the batch's rows for a replay; None for a stage that writes none."""
        return None


class Selected(NamedTuple, Generic[B]):
    """Rows for a stage. rows: the row in the batch of events that each comes from."""

    batch: B
    rows: I64


class Subscription(ABC, Generic[B]):
    """How a stage selects its rows from the output of the stages before it. codec: for its internal
    topic."""

    codec: BatchCodec[B]

    @abstractmethod
    def keys(self, batch: B) -> pa.StringArray:
        """The key of each row: rows of one key go to one partition of the internal topic."""

    def select_events(self, events: EventBatch) -> Selected[B] | None:
        """The rows that it reads of the events of an input; None where it reads no events."""
        return None

    def select_output(self, name: str, batch: Any, output: StageOutput) -> Selected[B] | None:
        """The rows that it reads of the output of the named stage. batch: the batch that this stage
        processed; `Selected.rows` refers to it."""
        return None

    def select_inline(
        self, events: EventBatch, outputs: Mapping[str, StageOutput]
    ) -> Selected[B] | None:
        """All rows that it reads where it runs in the shard of its input, in the order of the
        events; None where there is none."""
        parts = [self.select_output(name, events, output) for name, output in outputs.items()]
        parts.append(self.select_events(events))
        non_empty = [part for part in parts if part is not None and len(part.rows)]
        if not non_empty:
            return None
        joined = self.codec.join([part.batch for part in non_empty])
        rows = np.concatenate([part.rows for part in non_empty])
        order = np.argsort(rows, kind="stable")
        return Selected(joined.take(order), rows[order])
