"""Records: the content of one partition of a log, in its order, before it is decoded.

A stage reads a batch of records and a codec decodes it. The worker makes batches of Kafka's
messages, and a replay of the rows of files.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Headers = Sequence[tuple[str, bytes | None]]


@dataclass(frozen=True, slots=True)
class Records:
    """Consecutive records of one partition.

    offset: int64[n], ascending, with gaps (transaction markers); the next batch starts at
        `offset[-1] + 1` or later.
    values: the payloads: a list of bytes (None is a tombstone), or, for a columnar file, an
        Arrow table with one row a record.
    timestamp_ms: int64[n], the broker's time of each record; -1 where there is none (files).
    headers: one per record, or None where the log has none; read only when needed.
    appended: bool[n], the broker set timestamp_ms when it appended the record (LogAppendTime);
        else the producer set it (CreateTime), or there is none. None: False for all records.
    """

    topic: str
    partition: int
    offset: NDArray[np.int64]
    timestamp_ms: NDArray[np.int64]
    values: list[bytes | None] | pa.Table
    headers: Sequence[Headers] | None = None
    appended: NDArray[np.bool_] | None = None

    @property
    def append_ms(self) -> NDArray[np.int64] | None:
        """int64[n], the broker's append time, -1 where it is unknown; None if it is unknown for all."""
        return None if self.appended is None else np.where(self.appended, self.timestamp_ms, -1)

    def __len__(self) -> int:
        return len(self.offset)

    def slice(self, start: int, stop: int) -> "Records":
        """The records start … stop - 1 of this batch, sharing memory where that is possible."""
        values = (
            self.values[start:stop]
            if isinstance(self.values, list)
            else self.values.slice(start, stop - start)
        )
        return Records(
            self.topic,
            self.partition,
            self.offset[start:stop],
            self.timestamp_ms[start:stop],
            values,
            None if self.headers is None else self.headers[start:stop],
            None if self.appended is None else self.appended[start:stop],
        )

    def take(self, rows: NDArray[np.int64]) -> "Records":
        """The given records, in the given order."""
        indexes = rows.tolist()
        values = (
            [self.values[row] for row in indexes]
            if isinstance(self.values, list)
            else self.values.take(rows)
        )
        return Records(
            self.topic,
            self.partition,
            self.offset[rows],
            self.timestamp_ms[rows],
            values,
            None if self.headers is None else [self.headers[row] for row in indexes],
            None if self.appended is None else self.appended[rows],
        )
