"""When the events of a log are due, and whether it is ordered as well as it must be.

A log goes in as it stands, over all of its partitions: an event is due when the latest time up to
it, of whatever partition, has passed. What is behind it in the log is then never due before it, so
that neither a label nor what an internal log holds can overtake it, however it was cut into batches.
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

    reached_ms: the latest event time so far, before which nothing more is due; a few events of the
    future do not move it (`detectors.clock`). allowed_ms: how much earlier than that an event may be;
    a file that is further out of order is refused, since each of its late events would be scored and
    none learned. readers: the monitors that allow that.
    """

    def __init__(
        self, reading: InputReader, allowed_ms: float = math.inf, readers: str = ""
    ) -> None:
        self.reached_ms = -1
        self._clock = LogClock()
        self._reading = reading
        self._allowed_ms = allowed_ms if reading.ordered else math.inf
        self._readers = readers
        self._latest_position = ""

    def due_times(self, parts: Sequence[tuple[int, EventBatch]]) -> list[I64]:
        """Take the next events, by partition; int64[n] of each, when they are due. Raises InputError
        that names both rows where one is too far behind another."""
        time_ms = np.concatenate([events.time_ms for _, events in parts])
        order = np.arange(len(time_ms))
        if len(parts) > 1:
            places = [self._reading.log_index(partition, e.offset) for partition, e in parts]
            order = np.argsort(np.concatenate(places))
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
        """Where an event stands, which is the one at that place of all parts together."""
        for partition, events in parts:
            if at < len(events):
                return self._reading.describe_position(partition, int(events.offset[at]))
            at -= len(events)
        raise IndexError(at)

    def _out_of_order(self, here: str, time_ms: int) -> InputError:
        return InputError(
            f"{self._reading.name}: {here} (counted from 0) is of {format_time_ms(time_ms)}, but "
            f"{self._latest_position} before it is of {format_time_ms(self.reached_ms)}; expected rows in the "
            f"order of their times, none more than {self._allowed_ms / 1000:g} s behind (the largest "
            f"lateness_max of {self._readers}): sort the file by time, take out the row whose clock "
            "was wrong, or raise lateness_max"
        )
