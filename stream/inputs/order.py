"""When the events of a log are due, and whether the log is sufficiently ordered.

The due time of an event is the running maximum of event times up to it in the log, over all
partitions: the event is due when stream time reaches it. So no later event of the log is due
before it, and no label or record of an internal topic can overtake it, whatever the batch
boundaries.
"""

import math
from collections.abc import Sequence

import numpy as np

from detectors.clock import LogClock
from schemas.columns import I64, EventBatch
from stream.clock import format_time_ms
from stream.errors import InputError
from stream.inputs import InputReader


class LogOrder:
    """The order of a log's events.

    reached_ms: the latest due time so far; no later event of the log is due before it. A few events from the
    future do not move it (`detectors.clock`). allowed_ms: how much earlier an event may be. A file
    with larger disorder is refused, since its late events would be scored but not learned. monitors:
    those with that `lateness_max`.
    """

    def __init__(
        self, reader: InputReader, allowed_ms: float = math.inf, monitors: str = ""
    ) -> None:
        self.reached_ms = -1
        self._clock = LogClock()
        self._reader = reader
        self._allowed_ms = allowed_ms if reader.ordered else math.inf
        self._monitors = monitors
        self._latest_position = ""

    def due_times(self, parts: Sequence[tuple[int, EventBatch]]) -> list[I64]:
        """Due times of the next events, int64[n] for each partition. Raises InputError, which names
        both rows, where an event is too late."""
        time_ms = np.concatenate([events.time_ms for _, events in parts])
        order = np.arange(len(time_ms))
        if len(parts) > 1:
            indices = [self._reader.log_index(partition, e.offset) for partition, e in parts]
            order = np.argsort(np.concatenate(indices))
        in_order = time_ms[order]
        latest_ms = self._clock.latest(in_order)
        too_late = np.flatnonzero(latest_ms - in_order > self._allowed_ms)
        stop = int(too_late[0]) if len(too_late) else len(order)
        if stop and int(latest_ms[stop - 1]) > self.reached_ms:
            self.reached_ms = int(latest_ms[stop - 1])
            if self._allowed_ms < math.inf:
                first = int(order[np.searchsorted(latest_ms, self.reached_ms)])
                self._latest_position = self._describe(parts, first)
        if len(too_late):
            raise self._out_of_order(self._describe(parts, int(order[stop])), int(in_order[stop]))
        due_ms = np.empty_like(latest_ms)
        due_ms[order] = latest_ms
        return np.split(due_ms, np.cumsum([len(events) for _, events in parts])[:-1])

    def _describe(self, parts: Sequence[tuple[int, EventBatch]], at: int) -> str:
        """Position of the event with this index over all parts."""
        for partition, events in parts:
            if at < len(events):
                return self._reader.describe_position(partition, int(events.offset[at]))
            at -= len(events)
        raise IndexError(at)

    def _out_of_order(self, here: str, time_ms: int) -> InputError:
        return InputError(
            f"{self._reader.name}: {here} (counted from 0) has time {format_time_ms(time_ms)}, but the "
            f"earlier {self._latest_position} has {format_time_ms(self.reached_ms)}; expected rows in "
            f"order of time, at most {self._allowed_ms / 1000:g} s late (the largest lateness_max of "
            f"{self._monitors}): sort the file by time, remove rows with a wrong clock, or raise "
            "lateness_max"
        )
