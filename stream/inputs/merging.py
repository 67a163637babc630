"""Several files as one log: files that do not overlap in time are read one after the other, others are
merged by event time, with one batch of each open file in memory.

The rows of a file keep their order: a row is merged by the latest time up to it in its file.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa

from detectors.clock import LogClock
from schemas.columns import I64
from stream.errors import InputError
from stream.inputs.files import InputFile
from stream.inputs.formats import FileRows, ReadOptions, Values, read_rows
from stream.inputs.partitioning import TimePartitionDecoder

PEEKED_RECORDS: Final = 100
"""A file's start time is the first time among this many of its records. The file is opened when the merge
reaches that time, or at once if none of them has a time."""


class LogRows(NamedTuple):
    """Consecutive records of the log. file, row: int64[n], their positions. partition: int64[n]."""

    file: I64
    row: I64
    partition: I64
    values: Values


def merge_files(
    files: Sequence[InputFile],
    decoder: TimePartitionDecoder,
    batch_records: int,
    on_progress: Callable[[int, float], None],
    options: ReadOptions,
) -> Iterator[LogRows]:
    """The records of all files. on_progress: called with a file's index and the share read.

    Raises InputError where a file cannot be read, or where two that overlap in time do not fit
    together.
    """
    if len(files) == 1:
        for rows in read_rows(files[0], batch_records, partial(on_progress, 0), options):
            zeros = np.zeros(len(rows.row), np.int64)
            partition = decoder.decode(rows.values).partition if decoder.partitioned else zeros
            yield LogRows(zeros, rows.row, partition, rows.values)
        return
    not_opened = sorted(
        ((_first_ms(file, decoder, options), index) for index, file in enumerate(files)),
        reverse=True,
    )
    open_files: list[_OpenFile] = []
    while not_opened or open_files:
        open_files = [file for file in open_files if file.fill()]
        while not_opened and (
            not open_files or not_opened[-1][0] <= min(map(_read_until, open_files))[0]
        ):
            _, index = not_opened.pop()
            batches = read_rows(files[index], batch_records, partial(on_progress, index), options)
            opened = _OpenFile(index, files[index].name, batches, decoder)
            if opened.fill():
                open_files.append(opened)
        if open_files:
            yield _merge(_take_ready(open_files))


def _first_ms(file: InputFile, decoder: TimePartitionDecoder, options: ReadOptions) -> int:
    """The time of the file's first record that has one; -1 if the first records have none."""
    for rows in read_rows(file, PEEKED_RECORDS, lambda _: None, options):
        time_ms = decoder.decode(rows.values).time_ms
        first = int(np.argmax(time_ms >= 0))
        return int(min(time_ms[first], LogClock().latest(time_ms)[first]))
    return -1


@dataclass(slots=True)
class _OpenFile:
    """A file that is being read. remaining: the rest of its current batch. due_ms: int64[n], the
    latest time up to each remaining record, without a few times from the future."""

    index: int
    name: str
    batches: Iterator[FileRows]
    decoder: TimePartitionDecoder
    due_ms: I64 = field(default_factory=lambda: np.empty(0, np.int64))
    remaining: LogRows | None = None
    clock: LogClock = field(default_factory=LogClock)

    def fill(self) -> bool:
        """Read the next batch if no record remains. Returns whether a record remains."""
        while not len(self.due_ms) and (rows := next(self.batches, None)) is not None:
            time_ms, partition = self.decoder.decode(rows.values)
            file = np.full(len(rows.row), self.index, np.int64)
            self.remaining = LogRows(file, rows.row, partition, rows.values)
            self.due_ms = self.clock.latest(time_ms)
        return len(self.due_ms) > 0

    def take(self, count: int) -> tuple[I64, LogRows]:
        """The next records with their due times."""
        assert self.remaining is not None
        due_ms, first = self.due_ms[:count], _slice(self.remaining, 0, count)
        self.remaining = _slice(self.remaining, count, len(self.due_ms))
        self.due_ms = self.due_ms[count:]
        return due_ms, first


def _read_until(file: _OpenFile) -> tuple[int, int]:
    """The time up to which the file is read, and its index to break ties."""
    return int(file.due_ms[-1]), file.index


def _take_ready(open_files: list[_OpenFile]) -> list[tuple[I64, LogRows]]:
    """The records of each file that no unread record can precede."""
    end_ms, end_index = min(map(_read_until, open_files))
    taken = []
    for file in sorted(open_files, key=lambda file: file.index):
        ready = file.due_ms <= end_ms if file.index <= end_index else file.due_ms < end_ms
        count = int(np.count_nonzero(ready))
        if count:
            taken.append((file.name, *file.take(count)))
    schemas = {name: _schema(rows.values) for name, _, rows in taken}
    name, *others = schemas
    for other in others:
        if schemas[other] != schemas[name]:
            raise InputError(
                f"{name} and {other} overlap in time, but differ in columns or format; expected files of "
                "one input to have the same columns, or not to overlap"
            )
    return [(due_ms, rows) for _, due_ms, rows in taken]


def _schema(values: Values) -> object:
    """The schema of a table; None for payloads."""
    return None if isinstance(values, list) else values.schema.remove_metadata()


def _merge(taken: list[tuple[I64, LogRows]]) -> LogRows:
    if len(taken) == 1:
        return taken[0][1]
    due_ms = np.concatenate([due for due, _ in taken])
    order = np.argsort(due_ms, kind="stable")  # ties: the first file first
    positions = [rows[:3] for _, rows in taken]
    file, row, partition = (
        np.concatenate(columns)[order] for columns in zip(*positions, strict=True)
    )
    values = [rows.values for _, rows in taken]
    payload_lists = [payloads for payloads in values if isinstance(payloads, list)]
    if payload_lists:
        payloads = [payload for payloads in payload_lists for payload in payloads]
        return LogRows(file, row, partition, [payloads[i] for i in order.tolist()])
    return LogRows(file, row, partition, pa.concat_tables(values).take(pa.array(order)))


def _slice(rows: LogRows, start: int, stop: int) -> LogRows:
    values = rows.values
    sliced = values[start:stop] if isinstance(values, list) else values.slice(start, stop - start)
    file, row, partition = (column[start:stop] for column in rows[:3])
    return LogRows(file, row, partition, sliced)
