"""The way of recorded events into the runs: which log goes next, and how far all have come."""

import math
from collections.abc import Callable, Sequence

from detectors.spec import seconds
from stream.inputs import InputReader
from stream.inputs.order import LogOrder
from stream.replay.run import ReplayRun

Progress = Callable[[int, float], None]
"""Called with the records read so far and the share of all input read, 0 to 1."""


def drive(sources: Sequence[tuple[InputReader, Sequence[ReplayRun]]], progress: Progress) -> None:
    """Read every log into the runs that it is for; the one that is furthest behind in event time
    goes next, so that a run's logs follow each other alike whatever other runs there are.

    Raises InputError where one cannot be read, or is in disorder.
    """
    readings = [reading for reading, _ in sources]
    lines = [_LogReader(reading, runs) for reading, runs in sources]
    read = 0
    while waiting := [line for line in lines if not line.is_done]:
        line = min(waiting, key=lambda one: one.reached_ms)  # of two alike the first
        read += line.take()
        for run in line.runs:
            others = (one.orders[run] for one in lines if run in one.orders and not one.is_done)
            run.advance(min((order.reached_ms for order in others), default=math.inf))
        progress(read, _share_read(readings))
    for run in {run: None for line in lines for run in line.runs}:
        run.settle()
    progress(read, 1.0)


def _share_read(readings: Sequence[InputReader]) -> float:
    read_bytes = sum(reading.fraction_read * reading.size_bytes for reading in readings)
    return read_bytes / sum(reading.size_bytes for reading in readings)


class _LogReader:
    """A log on its way into the runs that it is for, which take the same events from it. orders: by
    run, how far it has come there. is_done: whether nothing more can come."""

    def __init__(self, reading: InputReader, runs: Sequence[ReplayRun]) -> None:
        self.runs = runs
        self.orders = {run: _order(reading, run) for run in runs}
        self.is_done = False
        self._name = reading.name
        self._batches = iter(reading)

    @property
    def reached_ms(self) -> int:
        """The latest event time that has come of it, in all of its runs alike."""
        return self.orders[self.runs[0]].reached_ms

    def take(self) -> int:
        """Wait for what came of its next records; how many they were."""
        records = next(self._batches, None)
        if records is None:
            self.is_done = True
            return 0
        # One part after the other, each of all runs, since they share its decoded columns.
        outputs = [[run.process(self._name, one) for run in self.runs] for one in records]
        for run, output in zip(self.runs, zip(*outputs, strict=True), strict=True):
            made = list(zip(records, output, strict=True))
            due_ms = self.orders[run].due_times(
                [(part.partition, one.events) for part, one in made]
            )
            for (part, one), due in zip(made, due_ms, strict=True):
                run.enqueue(part, one, due)
        return sum(map(len, records))


def _order(reading: InputReader, run: ReplayRun) -> LogOrder:
    """A log as a run has it: late is what no monitor that reads it would learn from."""
    lateness_s = {
        monitor.name: seconds(monitor.lateness_max)
        for monitor in run.config.monitors
        if reading.name in monitor.inputs
    }
    allowed_ms = 1000.0 * max(lateness_s.values(), default=math.inf)
    return LogOrder(reading, allowed_ms, ", ".join(lateness_s))
