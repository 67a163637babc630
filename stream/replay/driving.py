"""The way of recorded events into the runs: which log goes next, how far all have come, and whether
each is ordered as well as it must be.
"""

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np

from detectors.spec import seconds
from schemas.columns import EventBatch
from schemas.records import Records
from stream.clock import text_of
from stream.errors import InputError
from stream.inputs import Reading
from stream.replay.run import Run

Progress = Callable[[int, float], None]
"""Called with the records read so far and the share of all input read, 0 to 1."""


IN_FLIGHT: Final = 4
"""Batches that are begun before the first of them must have ended. Shards in other processes work
on them meanwhile; where there are none it changes nothing but what is in memory, so that the order
of all results is the same."""


def drive(readings: Sequence[Reading], runs: Sequence[Run], progress: Progress) -> None:
    """Read everything into every run; the log that is furthest behind in event time goes next.

    Raises InputError where one cannot be read, or is in disorder.
    """
    lines = [_Line(i, reading, runs) for i, reading in enumerate(readings)]
    flying: deque[tuple[_Line, _Begun]] = deque()
    read = 0
    while flying or any(line.is_open for line in lines):
        waiting = [line for line in lines if line.is_open]
        if waiting and len(flying) < IN_FLIGHT:
            line = min(waiting, key=_Line.expected)
            begun = line.begin(runs)
            if begun is not None:
                flying.append((line, begun))
            continue
        line, begun = flying.popleft()
        read += line.end(begun)
        until_ms = min((line.reached_ms for line in lines if not line.is_done), default=math.inf)
        for run in runs:
            run.advance(until_ms)
        progress(read, _share_read(readings))
    for run in runs:
        run.advance(math.inf)
    progress(read, 1.0)


def _share_read(readings: Sequence[Reading]) -> float:
    read_bytes = sum(reading.share_read * reading.size_bytes for reading in readings)
    return read_bytes / sum(reading.size_bytes for reading in readings)


_Begun = list[tuple[Records, list[Callable[[], EventBatch]]]]
"""A batch on its way: its records by partition, and what each run makes of them."""


class _Line:
    """A log on its way in. reached_ms: the latest event time that has come of it."""

    def __init__(self, place: int, reading: Reading, runs: Sequence[Run]) -> None:
        self.reached_ms = -1
        self.is_open = True
        self._place = place
        self._name = reading.name
        self._batches = iter(reading)
        self._order = _Order(reading, _lateness_ms(reading.name, runs))
        self._flying = self._span_ms = 0

    @property
    def is_done(self) -> bool:
        """Whether nothing more can come of it."""
        return not self.is_open and not self._flying

    def expected(self) -> tuple[int, int, int]:
        """Up to when it will have come when what was begun has ended, as the last batch goes; of
        two alike the one with less under way goes first."""
        ahead_ms = self._flying * self._span_ms
        return self.reached_ms + ahead_ms, self._flying, self._place

    def begin(self, runs: Sequence[Run]) -> _Begun | None:
        """Hand its next records to the runs; None where there are none."""
        parts = next(self._batches, None)
        if parts is None:
            self.is_open = False
            return None
        self._flying += 1
        return [(one, [run.begin(self._name, one) for run in runs]) for one in parts]

    def end(self, begun: _Begun) -> int:
        """Wait for what came of records; how many they were."""
        before_ms = self.reached_ms
        for records, ends in begun:
            events = [ended() for ended in ends]
            self._order.check(records.partition, events[0])
            self.reached_ms = max(
                self.reached_ms, *(int(one.time_ms.max(initial=-1)) for one in events)
            )
        self._flying -= 1
        self._span_ms = self.reached_ms - before_ms if before_ms >= 0 else 0
        return sum(len(records) for records, _ in begun)


def _lateness_ms(input_name: str, runs: Sequence[Run]) -> Mapping[str, float]:
    """The lateness_max of every monitor that reads the input."""
    return {
        monitor.name: 1000.0 * seconds(monitor.lateness_max)
        for run in runs
        for monitor in run.config.monitors
        if input_name in monitor.inputs
    }


class _Order:
    """Looks whether a log's events follow each other in time, but for what every reader of theirs
    would still learn from as late. Where a file is further out of order it is the file that is
    wrong: each of its late events would be scored and none learned."""

    def __init__(self, reading: Reading, lateness_ms: Mapping[str, float]) -> None:
        self._reading = reading
        self._readers = ", ".join(lateness_ms)
        self._allowed_ms = max(lateness_ms.values(), default=math.inf)
        self._latest: dict[int, tuple[int, str]] = {}

    def check(self, partition: int, events: EventBatch) -> None:
        """Take the next events of a partition. Raises InputError that names both rows."""
        if not self._reading.ordered or not len(events):
            return
        time_ms = events.time_ms
        before_ms, where = self._latest.get(partition, (-1, ""))
        latest_ms = np.maximum.accumulate(np.maximum(time_ms, before_ms))
        behind = np.flatnonzero(latest_ms - time_ms > self._allowed_ms)
        stop = int(behind[0]) if len(behind) else len(events)
        if stop and int(latest_ms[stop - 1]) > before_ms:
            first = int(np.searchsorted(latest_ms, latest_ms[stop - 1]))
            where = self._reading.where(partition, int(events.offset[first]))
            before_ms = int(latest_ms[stop - 1])
        if len(behind):
            here = self._reading.where(partition, int(events.offset[stop]))
            raise InputError(
                f"{self._reading.name}: {here} (counted from 0) is of {text_of(int(time_ms[stop]))}"
                f", but {where} before it is of {text_of(before_ms)}; expected rows in the order "
                f"of their times, none more than {self._allowed_ms / 1000:g} s behind (the largest "
                f"lateness_max of {self._readers}): sort the file by time, take out the row whose "
                "clock was wrong, or raise lateness_max"
            )
        self._latest[partition] = before_ms, where
