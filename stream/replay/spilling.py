"""Tables larger than memory, on disk while a replay needs them: cut into parts by a hash, or brought
into order. In memory are some rows that wait, and of what is read a part, or a piece of each run.

Knows nothing of what its rows mean. A file is Arrow's, packed lightly, and gone with its folder.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa

from schemas.columns import I64, U8

PARTS: Final = 128
"""Of so many one is in memory: of 13 million rows 100,000."""
CHUNK_ROWS: Final = 100_000
"""Rows that wait in memory until they are written together."""
KEYS: Final = 3
"""Columns that `SortedRows` goes by."""
PIECE_ROWS: Final = 1_000
"""Of each sorted run so many rows are in memory."""


class _BatchFile:
    """Batches of rows in a file, written in any number and then read in any order."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.schema = schema
        self._path = path
        packed = pa.ipc.IpcWriteOptions(use_threads=False)  # small batches
        self._writer = pa.ipc.new_file(str(path), schema, options=packed)
        self._reader: pa.ipc.RecordBatchFileReader | None = None
        self._count = 0

    def write(self, batch: pa.RecordBatch) -> int:
        """Write a batch; its number."""
        self._writer.write_batch(batch)
        self._count += 1
        return self._count - 1

    def read(self, number: int) -> pa.RecordBatch:
        """The batch of that number; from now on nothing more is written."""
        if self._reader is None:
            self._writer.close()
            alone = pa.ipc.IpcReadOptions(use_threads=False)
            self._reader = pa.ipc.open_file(pa.OSFile(str(self._path)), options=alone)
        return self._reader.get_batch(number)


class _RowBuffer:
    """Rows that wait until they are many."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._batches: list[pa.RecordBatch] = []
        self.rows = 0

    def add(self, batch: pa.RecordBatch) -> None:
        self._batches.append(batch)
        self.rows += len(batch)

    def taken(self) -> pa.RecordBatch:
        """All of them; none is left."""
        batches, self._batches, self.rows = self._batches, [], 0
        return concat_batches(batches, self._schema)


def concat_batches(batches: Sequence[pa.RecordBatch], schema: pa.Schema) -> pa.RecordBatch:
    """One batch of several."""
    return pa.concat_batches(batches) if batches else pa.RecordBatch.from_pylist([], schema)


class PartitionedRows:
    """Rows by part; within a part they stay in their order. Their first column is uint8, the part,
    below PARTS."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.schema = schema
        self._file = _BatchFile(path, schema)
        self._waiting = _RowBuffer(schema)
        self._numbers: list[list[int]] = [[] for _ in range(PARTS)]

    def add(self, batch: pa.RecordBatch) -> None:
        """Append rows."""
        self._waiting.add(batch)
        if self._waiting.rows >= CHUNK_ROWS:
            self._flush()

    def part(self, number: int) -> Iterator[pa.RecordBatch]:
        """The rows of a part, some at a time. Nothing more can be added."""
        self._flush()
        found = _RowBuffer(self.schema)
        for one in self._numbers[number]:
            found.add(self._file.read(one))
            if found.rows >= CHUNK_ROWS:
                yield found.taken()
        if found.rows:
            yield found.taken()

    def _flush(self) -> None:
        if not self._waiting.rows:
            return
        rows = self._waiting.taken()
        part: U8 = rows.column(0).to_numpy()
        order = np.argsort(part, kind="stable")
        bounds = np.searchsorted(part[order], np.arange(PARTS + 1)).tolist()
        rows = rows.take(pa.array(order))
        for number, numbers in enumerate(self._numbers):
            start, stop = bounds[number], bounds[number + 1]
            if start < stop:
                numbers.append(self._file.write(rows.slice(start, stop - start)))


class SortedRows:
    """Rows that are brought into the order of their first three columns, int64; no two are alike in
    all of them."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._file = _BatchFile(path, schema)
        self._waiting = _RowBuffer(schema)
        self._pieces: list[tuple[tuple[int, ...], int]] = []

    def add(self, batch: pa.RecordBatch) -> None:
        """Append rows."""
        self._waiting.add(batch)
        if self._waiting.rows >= CHUNK_ROWS:
            self._flush()

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All rows in their order. Nothing more can be added."""
        self._flush()
        left = 0
        for first, number in sorted(self._pieces):
            # what is before the first row of this piece is before all that is still unread
            if self._waiting.rows >= CHUNK_ROWS + left:  # else the same rows are sorted ever again
                rows = _in_order(self._waiting.taken())
                before = _before(rows, first)
                left = len(rows) - before
                yield rows.slice(0, before)
                self._waiting.add(rows.slice(before))
            self._waiting.add(self._file.read(number))
        yield _in_order(self._waiting.taken())

    def _flush(self) -> None:
        """Write a run."""
        rows = _in_order(self._waiting.taken())
        for start in range(0, len(rows), PIECE_ROWS):
            piece = rows.slice(start, PIECE_ROWS)
            first = tuple(column[0].as_py() for column in piece.columns[:KEYS])
            self._pieces.append((first, self._file.write(piece)))


def _keys(rows: pa.RecordBatch) -> list[I64]:
    return [column.to_numpy() for column in rows.columns[:KEYS]]


def _before(rows: pa.RecordBatch, first: tuple[int, ...]) -> int:
    """How many rows lie before that place."""
    lower, level = np.zeros(len(rows), np.bool_), np.ones(len(rows), np.bool_)
    for column, at in zip(_keys(rows), first, strict=True):
        lower |= level & (column < at)
        level &= column == at
    return int(np.count_nonzero(lower))


def _in_order(rows: pa.RecordBatch) -> pa.RecordBatch:
    return rows.take(pa.array(np.lexsort(_keys(rows)[::-1])))
