"""When the events of a log are due, and whether the log is sufficiently ordered.

The due time of an event is the running maximum of event times up to it in the log, over all
partitions. So due times follow the order of the log, and labels and records of internal topics are
processed in the same order for any batch size.
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

    reached_ms: the latest event time so far, which is the earliest due time of the events to come. A
    few events from the future do not move it (`detectors.clock`). lateness_max_ms: how much earlier than
    reached_ms an event may be; a larger delay is an error, since no monitor would learn the event.
    monitors: the names of the log's monitors, for the error; the largest `lateness_max` of them applies.
    """

    def __init__(
        self, reader: InputReader, lateness_max_ms: float = math.inf, monitors: str = ""
    ) -> None:
        self.reached_ms = -1
        self._clock = LogClock()
        self._reader = reader
        self._lateness_max_ms = lateness_max_ms if reader.needs_time_order else math.inf
        self._monitors = monitors
        self._latest_position = ""

    def due_times(self, partitions: Sequence[tuple[int, EventBatch]]) -> list[I64]:
        """Due times of the next events, int64[n] for each partition. Raises InputError, which names
        both rows, where an event is too late."""
        time_ms = np.concatenate([events.time_ms for _, events in partitions])
        order = np.arange(len(time_ms))
        if len(partitions) > 1:
            indexes = [
                self._reader.log_index(partition, events.offset) for partition, events in partitions
            ]
            order = np.argsort(np.concatenate(indexes))
        in_order = time_ms[order]
        latest_ms = self._clock.latest(in_order)
        too_late = np.flatnonzero(latest_ms - in_order > self._lateness_max_ms)
        stop = int(too_late[0]) if len(too_late) else len(order)
        if stop and int(latest_ms[stop - 1]) > self.reached_ms:
            self.reached_ms = int(latest_ms[stop - 1])
            if self._lateness_max_ms < math.inf:
                first = int(order[np.searchsorted(latest_ms, self.reached_ms)])
                self._latest_position = self._describe(partitions, first)
        if len(too_late):
            raise self._out_of_order(
                self._describe(partitions, int(order[stop])), int(in_order[stop])
            )
        due_ms = np.empty_like(latest_ms)
        due_ms[order] = latest_ms
        return np.split(due_ms, np.cumsum([len(events) for _, events in partitions])[:-1])

    def _describe(self, partitions: Sequence[tuple[int, EventBatch]], index: int) -> str:
        """Position of the event with this index over all partitions."""
        for partition, events in partitions:
            if index < len(events):
                return self._reader.describe_position(partition, int(events.offset[index]))
            index -= len(events)
        raise IndexError(index)

    def _out_of_order(self, position: str, time_ms: int) -> InputError:
        return InputError(
            f"{self._reader.name}: {position} (counted from 0) has time {format_time_ms(time_ms)}, but the "
            f"earlier {self._latest_position} has {format_time_ms(self.reached_ms)}; expected rows in "
            f"order of time, at most {self._lateness_max_ms / 1000:g} s late (the largest lateness_max of "
            f"{self._monitors}): sort the file by time, remove rows with a wrong clock, or raise "
            "lateness_max"
        )
