"""Several files as one log: each read after the other where their times follow, else merged by
event time, in memory for a batch of each that is open.

A file keeps its own order whatever times it holds: a row goes in when the latest time up to it has
come.
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
from stream.inputs.formats import Rows, Shape, Values, rows_of
from stream.inputs.partitioning import Glance
from stream.inputs.places import File

PEEKED_RECORDS: Final = 100
"""A file is opened when the first time among so many records has come; at once where there is
none."""


class Stretch(NamedTuple):
    """Consecutive records of the log. file, row: int64[n], where each stands. partition: int64[n]."""

    file: I64
    row: I64
    partition: I64
    values: Values


def merged(
    files: Sequence[File],
    glance: Glance,
    batch_records: int,
    share: Callable[[int, float], None],
    shape: Shape,
) -> Iterator[Stretch]:
    """The records of all files. share: told a file's index and how much of it has been read.

    Raises InputError where a file cannot be read, or where two that overlap in time do not fit
    together.
    """
    if len(files) == 1:
        for rows in rows_of(files[0], batch_records, partial(share, 0), shape):
            nowhere = np.zeros(len(rows.row), np.int64)
            partition = glance.at(rows.values).partition if glance.partitioned else nowhere
            yield Stretch(nowhere, rows.row, partition, rows.values)
        return
    waiting = sorted(
        ((_first_ms(file, glance, shape), index) for index, file in enumerate(files)), reverse=True
    )
    open_now: list[_Open] = []
    while waiting or open_now:
        open_now = [one for one in open_now if one.filled()]
        while waiting and (not open_now or waiting[-1][0] <= min(map(_end, open_now))[0]):
            _, index = waiting.pop()
            read = rows_of(files[index], batch_records, partial(share, index), shape)
            one = _Open(index, files[index].name, read, glance)
            if one.filled():
                open_now.append(one)
        if open_now:
            yield _joined(_taken(open_now))


def _first_ms(file: File, glance: Glance, shape: Shape) -> int:
    """The time of the file's first record that has one; -1 where the first ones have none."""
    for rows in rows_of(file, PEEKED_RECORDS, lambda _: None, shape):
        known = glance.at(rows.values).time_ms
        first = int(np.argmax(known >= 0))
        return int(min(known[first], LogClock().latest(known)[first]))
    return -1


@dataclass(slots=True)
class _Open:
    """A file that is being read. left: of its batch. due_ms: int64[n] of that, the latest time up
    to each record, but for a few of the future."""

    index: int
    name: str
    read: Iterator[Rows]
    glance: Glance
    due_ms: I64 = field(default_factory=lambda: np.empty(0, np.int64))
    left: Stretch | None = None
    clock: LogClock = field(default_factory=LogClock)

    def filled(self) -> bool:
        """Whether there is anything left, its next batch having been read."""
        while not len(self.due_ms) and (rows := next(self.read, None)) is not None:
            time_ms, partition = self.glance.at(rows.values)
            file = np.full(len(rows.row), self.index, np.int64)
            self.left = Stretch(file, rows.row, partition, rows.values)
            self.due_ms = self.clock.latest(time_ms)
        return len(self.due_ms) > 0

    def take(self, count: int) -> tuple[I64, Stretch]:
        """The next records with their due times."""
        assert self.left is not None
        due_ms, first = self.due_ms[:count], _slice(self.left, 0, count)
        self.left = _slice(self.left, count, len(self.due_ms))
        self.due_ms = self.due_ms[count:]
        return due_ms, first


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
    own = [stretch[:3] for _, stretch in taken]
    file, row, partition = (np.concatenate(some)[order] for some in zip(*own, strict=True))
    parts = [stretch.values for _, stretch in taken]
    lists = [part for part in parts if isinstance(part, list)]
    if lists:
        everything = [value for part in lists for value in part]
        return Stretch(file, row, partition, [everything[i] for i in order.tolist()])
    return Stretch(file, row, partition, pa.concat_tables(parts).take(pa.array(order)))


def _slice(of: Stretch, start: int, stop: int) -> Stretch:
    values = of.values
    part = values[start:stop] if isinstance(values, list) else values.slice(start, stop - start)
    file, row, partition = (column[start:stop] for column in of[:3])
    return Stretch(file, row, partition, part)
