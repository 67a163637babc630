"""Reads logs in the order of event time and hands their records to the runs."""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import chain

from detectors.spec import seconds
from schemas.records import Records
from stream.inputs import InputReader
from stream.inputs.order import LogOrder
from stream.replay.replay_run import ReplayRun

Progress = Callable[[int, float], None]
"""Called with the number of records read so far and the share of all input read, 0 to 1."""


def read_in_time_order(
    logs: Sequence[tuple[InputReader, Sequence[ReplayRun]]], progress: Progress
) -> None:
    """Read every log into the runs that take its records.

    The next batch is read from the log that has reached the earliest event time. Other runs do not
    change the order in which a run reads its logs. Raises InputError for a log that cannot be read or is not in the
    order of time.
    """
    readers = [reader for reader, _ in logs]
    positions = [_LogPosition(reader, runs) for reader, runs in logs]
    count = 0
    while unread := [log for log in positions if not log.is_done]:
        log = min(unread, key=lambda log: log.reached_ms)  # on a tie, the first
        reached_ms = {run: _reached_ms(run, unread) for run in log.runs}
        count += log.process_batch()
        for run in log.runs:
            run.advance(reached_ms[run])
        progress(count, _share_read(readers))
    for run in dict.fromkeys(chain.from_iterable(log.runs for log in positions)):
        run.advance(math.inf)
    progress(count, 1.0)


def _reached_ms(run: ReplayRun, unread: Sequence["_LogPosition"]) -> int:
    """The event time that all unread logs of a run have reached."""
    return min(log.orders[run].reached_ms for log in unread if run in log.orders)


def _share_read(readers: Sequence[InputReader]) -> float:
    read_bytes = sum(reader.fraction_read * reader.size_bytes for reader in readers)
    return read_bytes / sum(reader.size_bytes for reader in readers)


class _LogPosition:
    """How far a log has been read. All runs take the same events from it.

    orders: run → `LogOrder` of the log in that run. is_done: whether the log is read to its end.
    """

    def __init__(self, reader: InputReader, runs: Sequence[ReplayRun]) -> None:
        self.runs = runs
        self.orders = {run: _log_order(reader, run) for run in runs}
        self.is_done = False
        self._name = reader.name
        self._batches: Iterator[list[Records]] = iter(reader)

    @property
    def reached_ms(self) -> int:
        """The latest event time read so far, the same in all of its runs."""
        return self.orders[self.runs[0]].reached_ms

    def process_batch(self) -> int:
        """Process the next records in every run; returns their number."""
        partitions = next(self._batches, None)
        if partitions is None:
            self.is_done = True
            return 0
        # all runs process a partition before the next one is decoded: they share its decoded columns
        outputs = [
            [run.process(self._name, records) for run in self.runs] for records in partitions
        ]
        for run, run_outputs in zip(self.runs, zip(*outputs, strict=True), strict=True):
            processed = list(zip(partitions, run_outputs, strict=True))
            due_ms = self.orders[run].due_times(
                [(records.partition, output.events) for records, output in processed]
            )
            for (records, output), due in zip(processed, due_ms, strict=True):
                run.enqueue(records, output, due)
        return sum(map(len, partitions))


def _log_order(reader: InputReader, run: ReplayRun) -> LogOrder:
    """The `LogOrder` of a log in a run: an event too late for every monitor is an error."""
    lateness_s = {
        monitor.name: seconds(monitor.lateness_max)
        for monitor in run.config.monitors
        if reader.name in monitor.inputs
    }
    lateness_max_ms = 1000.0 * max(lateness_s.values(), default=math.inf)
    return LogOrder(reader, lateness_max_ms, ", ".join(lateness_s))
