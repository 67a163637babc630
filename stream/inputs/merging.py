"""Several files as one log: each read after the other where their times follow, else merged by
event time, in memory for a batch of each that is open.

A file keeps its own order whatever times it holds: a row goes in when the latest time up to it has
come. What a record says of its time is decoded here, and nothing else.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa

from schemas.codecs import codec_named
from schemas.columns import I64
from schemas.mapping import compile_mapping
from schemas.records import Records
from stream.config import InputSpec
from stream.errors import InputError
from stream.inputs.formats import Rows, Values, rows_of
from stream.inputs.places import File

PEEKED_RECORDS: Final = 100
"""A file is opened when the first time among so many records has come; at once where there is
none."""


class Stretch(NamedTuple):
    """Consecutive records of the log. file, row: int64[n], where each stands."""

    file: I64
    row: I64
    values: Values


def merged(
    files: Sequence[File],
    spec: InputSpec,
    batch_records: int,
    share: Callable[[int, float], None],
) -> Iterator[Stretch]:
    """The records of all files. share: told a file's index and how much of it has been read.

    Raises InputError where a file cannot be read, or where two that overlap in time do not fit
    together.
    """
    if len(files) == 1:
        for rows in rows_of(files[0], batch_records, partial(share, 0)):
            yield _stretch(0, rows)
        return
    times = _Times(spec)
    waiting = sorted(
        ((_first_ms(file, times), index) for index, file in enumerate(files)), reverse=True
    )
    open_now: list[_Open] = []
    while waiting or open_now:
        open_now = [one for one in open_now if one.filled()]
        while waiting and (not open_now or waiting[-1][0] <= min(map(_end, open_now))[0]):
            _, index = waiting.pop()
            read = rows_of(files[index], batch_records, partial(share, index))
            one = _Open(index, files[index].name, read, times)
            if one.filled():
                open_now.append(one)
        if open_now:
            yield _joined(_taken(open_now))


class _Times:
    """Reads the times of an input's records, in milliseconds; -1 where one has none."""

    def __init__(self, spec: InputSpec) -> None:
        mapping = compile_mapping(spec.codec, spec.type, spec.fields, [])
        self._codec = codec_named(spec.codec, mapping)

    def of(self, values: Values) -> I64:
        nowhere = np.zeros(len(values), np.int64)
        decoded = self._codec.decode(Records("", 0, nowhere, nowhere, values))
        time_ms = np.full(len(values), -1, np.int64)
        time_ms[decoded.rows] = decoded.time_ms.fill_null(-1).to_numpy(zero_copy_only=False)
        return time_ms


def _first_ms(file: File, times: _Times) -> int:
    """The time of the file's first record that has one; -1 where the first ones have none."""
    for rows in rows_of(file, PEEKED_RECORDS, lambda _: None):
        known = times.of(rows.values)
        return int(known[np.argmax(known >= 0)])
    return -1


@dataclass(slots=True)
class _Open:
    """A file that is being read. due_ms: int64[n] of what is left of its batch, the latest time up
    to each record."""

    index: int
    name: str
    read: Iterator[Rows]
    times: _Times
    due_ms: I64 = field(default_factory=lambda: np.empty(0, np.int64))
    left: Rows = field(default_factory=lambda: Rows(np.empty(0, np.int64), []))
    reached_ms: int = -1

    def filled(self) -> bool:
        """Whether there is anything left, its next batch having been read."""
        if not len(self.due_ms):
            self.left = next(self.read, self.left)
            own = np.maximum(self.times.of(self.left.values), self.reached_ms)
            self.due_ms = np.maximum.accumulate(own)
            if len(self.due_ms):
                self.reached_ms = int(self.due_ms[-1])
        return len(self.due_ms) > 0

    def take(self, count: int) -> tuple[I64, Stretch]:
        """The next records with their due times."""
        due_ms, rows = self.due_ms[:count], _slice(self.left, 0, count)
        self.left = _slice(self.left, count, len(self.due_ms))
        self.due_ms = self.due_ms[count:]
        return due_ms, _stretch(self.index, rows)


def _end(one: _Open) -> tuple[int, int]:
    """Up to where the file is known; of two with the same time the first goes first."""
    return int(one.due_ms[-1]), one.index


def _taken(open_now: list[_Open]) -> list[tuple[I64, Stretch]]:
    """Of every file what nothing that is unread can go before."""
    end_ms, first = min(map(_end, open_now))
    found = []
    for one in sorted(open_now, key=lambda one: one.index):
        upto = one.due_ms <= end_ms if one.index <= first else one.due_ms < end_ms
        count = int(np.count_nonzero(upto))
        if count:
            found.append((one.name, *one.take(count)))
    kinds = {name: _columns(stretch.values) for name, _, stretch in found}
    name, *others = kinds
    for other in others:
        if kinds[other] != kinds[name]:
            raise InputError(
                f"{name} and {other} overlap in time, but have other columns or another format; "
                "expected files of one input to be alike, or to follow each other"
            )
    return [(due_ms, stretch) for _, due_ms, stretch in found]


def _columns(values: Values) -> object:
    return None if isinstance(values, list) else values.schema.remove_metadata()


def _joined(taken: list[tuple[I64, Stretch]]) -> Stretch:
    if len(taken) == 1:
        return taken[0][1]
    due_ms = np.concatenate([due for due, _ in taken])
    order = np.argsort(due_ms, kind="stable")  # at the same time the first file goes first
    file, row = (np.concatenate([stretch[i] for _, stretch in taken])[order] for i in range(2))
    parts = [stretch.values for _, stretch in taken]
    lists = [part for part in parts if isinstance(part, list)]
    if lists:
        everything = [value for part in lists for value in part]
        return Stretch(file, row, [everything[i] for i in order.tolist()])
    return Stretch(file, row, pa.concat_tables(parts).take(pa.array(order)))


def _slice(rows: Rows, start: int, stop: int) -> Rows:
    values = rows.values
    part = values[start:stop] if isinstance(values, list) else values.slice(start, stop - start)
    return Rows(rows.row[start:stop], part)


def _stretch(index: int, rows: Rows) -> Stretch:
    return Stretch(np.full(len(rows.row), index, np.int64), rows.row, rows.values)
