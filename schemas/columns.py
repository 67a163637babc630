"""Columns: a batch of checked events with one array for each field, the input of all stages after
route. An event is a row, never an object.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

F64 = NDArray[np.float64]
F32 = NDArray[np.float32]
I64 = NDArray[np.int64]
I32 = NDArray[np.int32]
U64 = NDArray[np.uint64]
U32 = NDArray[np.uint32]
U16 = NDArray[np.uint16]
U8 = NDArray[np.uint8]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class EventBatch:
    """n events in the order of their log.

    sources: the (topic, partition) pairs that the events came from; source: int32[n] indexes it.
    offset: int64[n], position in that partition. source and offset are an event's position. It
        stays the same in internal topics, and is part of every alert id.
    time_ms: int64[n], the event's own time, milliseconds since 1970 UTC.
    type_code: uint8[n], index into `events.TYPES`.
    event_id: Arrow string[n], never null.
    text: field → Arrow string[n], null where absent; the fields that `extracted_fields` selects.
    number: field → float64[n], NaN where absent, always finite otherwise.
    append_ms: int64[n], the time at which the broker appended the event's record to its log, -1
        where the producer set the record's time; None where it did for every event.
    """

    sources: tuple[tuple[str, int], ...]
    source: I32
    offset: I64
    time_ms: I64
    type_code: U8
    event_id: pa.StringArray
    text: dict[str, pa.StringArray]
    number: dict[str, F64]
    append_ms: I64 | None = None

    def __len__(self) -> int:
        return len(self.offset)

    def take(self, rows: I64) -> "EventBatch":
        """The given rows, in the given order."""
        indexes = pa.array(rows)
        return EventBatch(
            self.sources,
            self.source[rows],
            self.offset[rows],
            self.time_ms[rows],
            self.type_code[rows],
            self.event_id.take(indexes),
            {name: column.take(indexes) for name, column in self.text.items()},
            {name: column[rows] for name, column in self.number.items()},
            None if self.append_ms is None else self.append_ms[rows],
        )

    def slice(self, start: int, stop: int) -> "EventBatch":
        """The rows start … stop - 1, sharing memory with this batch."""
        return EventBatch(
            self.sources,
            self.source[start:stop],
            self.offset[start:stop],
            self.time_ms[start:stop],
            self.type_code[start:stop],
            self.event_id.slice(start, stop - start),
            {name: column.slice(start, stop - start) for name, column in self.text.items()},
            {name: column[start:stop] for name, column in self.number.items()},
            None if self.append_ms is None else self.append_ms[start:stop],
        )


def text_bytes(column: pa.StringArray) -> U8:
    """uint8[…]: the bytes of all texts, concatenated, sharing memory with them."""
    _, offsets, data = column.buffers()
    if data is None or len(column) == 0:
        return np.empty(0, np.uint8)
    bounds = np.frombuffer(offsets, np.int32)[column.offset : column.offset + len(column) + 1]
    return np.frombuffer(data, np.uint8)[bounds[0] : bounds[-1]]


def concat_batches(batches: Sequence[EventBatch]) -> EventBatch:
    """Concatenate batches that have the same sources and the same fields."""
    first, *others = batches
    assert all(other.sources == first.sources for other in others)
    return EventBatch(
        first.sources,
        np.concatenate([batch.source for batch in batches]),
        np.concatenate([batch.offset for batch in batches]),
        np.concatenate([batch.time_ms for batch in batches]),
        np.concatenate([batch.type_code for batch in batches]),
        pa.concat_arrays([batch.event_id for batch in batches]),
        {name: pa.concat_arrays([batch.text[name] for batch in batches]) for name in first.text},
        {name: np.concatenate([batch.number[name] for batch in batches]) for name in first.number},
        _concat_append_ms(batches),
    )


def _concat_append_ms(batches: Sequence[EventBatch]) -> I64 | None:
    if all(batch.append_ms is None for batch in batches):
        return None
    columns = [
        np.full(len(batch), -1) if batch.append_ms is None else batch.append_ms for batch in batches
    ]
    return np.concatenate(columns)
