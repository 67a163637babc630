"""Several files as one log: read one after the other where their times follow, else merged by event
time, with one batch of each open file in memory.

A file keeps its own order whatever its times are: a row is merged by the latest time up to it.
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
"""A file is opened at the first time among this many of its records, or at once if none has a time."""


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
        open_files = [one for one in open_files if one.fill()]
        while not_opened and (
            not open_files or not_opened[-1][0] <= min(map(_known_until, open_files))[0]
        ):
            _, index = not_opened.pop()
            read = read_rows(files[index], batch_records, partial(on_progress, index), options)
            one = _OpenFile(index, files[index].name, read, decoder)
            if one.fill():
                open_files.append(one)
        if open_files:
            yield _merge(_take_ready(open_files))


def _first_ms(file: InputFile, decoder: TimePartitionDecoder, options: ReadOptions) -> int:
    """The time of the file's first record that has one; -1 if the first records have none."""
    for rows in read_rows(file, PEEKED_RECORDS, lambda _: None, options):
        known = decoder.decode(rows.values).time_ms
        first = int(np.argmax(known >= 0))
        return int(min(known[first], LogClock().latest(known)[first]))
    return -1


@dataclass(slots=True)
class _OpenFile:
    """A file that is being read. remaining: the rest of its current batch. due_ms: int64[n], the
    latest time up to each record of it, except a few from the future."""

    index: int
    name: str
    batches: Iterator[FileRows]
    decoder: TimePartitionDecoder
    due_ms: I64 = field(default_factory=lambda: np.empty(0, np.int64))
    remaining: LogRows | None = None
    clock: LogClock = field(default_factory=LogClock)

    def fill(self) -> bool:
        """Read the next batch if the current one is used up. Whether any record remains."""
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


def _known_until(one: _OpenFile) -> tuple[int, int]:
    """The time up to which the file is read, and its index to break ties."""
    return int(one.due_ms[-1]), one.index


def _take_ready(open_files: list[_OpenFile]) -> list[tuple[I64, LogRows]]:
    """The records of each file that no unread record can precede."""
    end_ms, first = min(map(_known_until, open_files))
    found = []
    for one in sorted(open_files, key=lambda one: one.index):
        ready = one.due_ms <= end_ms if one.index <= first else one.due_ms < end_ms
        count = int(np.count_nonzero(ready))
        if count:
            found.append((one.name, *one.take(count)))
    kinds = {name: _columns(rows_read.values) for name, _, rows_read in found}
    name, *others = kinds
    for other in others:
        if kinds[other] != kinds[name]:
            raise InputError(
                f"{name} and {other} overlap in time, but differ in columns or format; expected files of "
                "one input to have the same columns, or not to overlap"
            )
    return [(due_ms, rows_read) for _, due_ms, rows_read in found]


def _columns(values: Values) -> object:
    return None if isinstance(values, list) else values.schema.remove_metadata()


def _merge(taken: list[tuple[I64, LogRows]]) -> LogRows:
    if len(taken) == 1:
        return taken[0][1]
    due_ms = np.concatenate([due for due, _ in taken])
    order = np.argsort(due_ms, kind="stable")  # ties: the first file first
    positions = [rows_read[:3] for _, rows_read in taken]
    file, row, partition = (np.concatenate(some)[order] for some in zip(*positions, strict=True))
    parts = [rows_read.values for _, rows_read in taken]
    lists = [part for part in parts if isinstance(part, list)]
    if lists:
        everything = [value for part in lists for value in part]
        return LogRows(file, row, partition, [everything[i] for i in order.tolist()])
    return LogRows(file, row, partition, pa.concat_tables(parts).take(pa.array(order)))


def _slice(of: LogRows, start: int, stop: int) -> LogRows:
    values = of.values
    part = values[start:stop] if isinstance(values, list) else values.slice(start, stop - start)
    file, row, partition = (column[start:stop] for column in of[:3])
    return LogRows(file, row, partition, part)
