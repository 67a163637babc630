"""The way of recorded events into the runs: which log goes next, how far all have come, and whether
each is ordered as well as it must be.
"""

import heapq
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from detectors.spec import seconds
from schemas.columns import EventBatch
from stream.clock import text_of
from stream.errors import InputError
from stream.inputs import Reading
from stream.replay.run import Run

Progress = Callable[[int, float], None]
"""Called with the records read so far and the share of all input read, 0 to 1."""


def drive(sources: Sequence[tuple[Reading, Sequence[Run]]], progress: Progress) -> None:
    """Read every log into the runs that it is for; the one that is furthest behind in event time
    goes next.

    Raises InputError where one cannot be read, or is in disorder.
    """
    readings = [reading for reading, _ in sources]
    readers = [
        [(run, _Order(reading, _lateness_ms(reading.name, run))) for run in runs]
        for reading, runs in sources
    ]
    batches = [iter(reading) for reading in readings]
    waiting = [(-1, i) for i in range(len(readings))]
    read = 0
    while waiting:
        reached_ms, i = heapq.heappop(waiting)
        parts = next(batches[i], None)
        for records in parts or ():
            for run, order in readers[i]:
                events = run.put(readings[i].name, records)
                order.check(records.partition, events)
                reached_ms = max(reached_ms, int(events.time_ms.max(initial=-1)))
            read += len(records)
        if parts is not None:
            heapq.heappush(waiting, (reached_ms, i))
        for run, _ in readers[i]:
            others = (reached for reached, k in waiting if run in sources[k][1])
            run.advance(min(others, default=math.inf))
        progress(read, _share_read(readings) if waiting else 1.0)


def _share_read(readings: Sequence[Reading]) -> float:
    read_bytes = sum(reading.share_read * reading.size_bytes for reading in readings)
    return read_bytes / sum(reading.size_bytes for reading in readings)


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
