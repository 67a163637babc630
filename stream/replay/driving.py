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


UNDER_WAY: Final = 4
"""Batches of a log that are begun before the first of them is asked what came of it. Shards in
other processes work on them meanwhile; what comes of them, and in which order, is the same."""


def drive(sources: Sequence[tuple[Reading, Sequence[Run]]], progress: Progress) -> None:
    """Read every log into the runs that it is for; the one that is furthest behind in event time
    goes next, so that a run's logs follow each other alike whatever other runs there are.

    Raises InputError where one cannot be read, or is in disorder.
    """
    readings = [reading for reading, _ in sources]
    lines = [_Line(reading, runs) for reading, runs in sources]
    read = 0
    while waiting := [line for line in lines if not line.is_done]:
        line = min(waiting, key=lambda one: one.reached_ms)  # of two alike the first
        read += line.take()
        for run in line.runs:
            others = (one.reached_ms for one in lines if run in one.runs and not one.is_done)
            run.advance(min(others, default=math.inf))
        progress(read, _share_read(readings))
    progress(read, 1.0)


def _share_read(readings: Sequence[Reading]) -> float:
    read_bytes = sum(reading.share_read * reading.size_bytes for reading in readings)
    return read_bytes / sum(reading.size_bytes for reading in readings)


_Begun = list[tuple[Records, list[Callable[[], EventBatch]]]]
"""A batch on its way: its records by partition, and what each run makes of them."""


class _Line:
    """A log on its way into the runs that it is for. reached_ms: the latest event time that has
    come of it. is_done: whether nothing more can."""

    def __init__(self, reading: Reading, runs: Sequence[Run]) -> None:
        self.runs = runs
        self.reached_ms = -1
        self.is_done = False
        self._name = reading.name
        self._batches = iter(reading)
        self._orders = [_Order(reading, _lateness_ms(reading.name, run)) for run in runs]
        self._begun: deque[_Begun] = deque()

    def take(self) -> int:
        """Wait for what came of its next records; how many they were."""
        while len(self._begun) < UNDER_WAY and (parts := next(self._batches, None)) is not None:
            self._begun.append([(one, self._begin(one)) for one in parts])
        if not self._begun:
            self.is_done = True
            return 0
        begun = self._begun.popleft()
        for records, ends in begun:
            for ended, order in zip(ends, self._orders, strict=True):
                events = ended()
                order.check(records.partition, events)
                self.reached_ms = max(self.reached_ms, int(events.time_ms.max(initial=-1)))
        return sum(len(records) for records, _ in begun)

    def _begin(self, records: Records) -> list[Callable[[], EventBatch]]:
        return [run.begin(self._name, records) for run in self.runs]


def _lateness_ms(input_name: str, run: Run) -> Mapping[str, float]:
    """The lateness_max of every monitor that reads the input."""
    return {
        monitor.name: 1000.0 * seconds(monitor.lateness_max)
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
