"""The long-lived worker: reads its partitions, folds them through their shards, and publishes.

Outputs, dead letters and offsets travel in one Kafka transaction, so that whatever crashes, a
read_committed reader sees each alert once. What is kept here, and not in the shards, is only what
is on its way out. It does not know Kafka's client: that is `stream.kafka`.
"""

import gc
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from threading import Event
from typing import Final

import numpy as np
import structlog

from detectors.spec import seconds
from schemas.alerts import alert_record
from schemas.records import Records
from stream import health, metrics
from stream.alerting import RunInfo
from stream.config import Config, Log, logs
from stream.errors import Abortable, ForeignOffset, RetentionGap
from stream.health import Pulse
from stream.kafka import Admin, Committed, OutRecord, Partition, Sink, Source, patiently
from stream.kafka_properties import shown
from stream.metrics import Board
from stream.shard import Emitted, Shard, Shards
from stream.topics import check_topics, found

log = structlog.stdlib.get_logger(__name__)

POLL_S: Final = 0.05
"""How long one turn waits for records: a floor of latency, and the pace of an idle loop."""

OUTBOX_RECORDS_MAX: Final = 5_000
OUTBOX_BYTES_MAX: Final = 16 * 1024 * 1024
"""A fuller outbox is committed at once, however recent the last commit is."""

READINGS_S: Final = 0.5
PROGRESS_S: Final = 10.0
"""How often metrics are brought up to date, and the progress of re-learning is logged."""

CYCLES_S: Final = 60.0
"""How often garbage in cycles is looked for; see `rarely_collecting`."""

# -- where a partition starts ---------------------------------------------------------------------

NOTE: Final = re.compile(r"^eddy1 from=(\d+)$")
"""What stands beside a committed offset: the offset of the first record that the state has seen."""


def note(first_offset: int) -> str:
    """The note to commit for a state that began at that offset."""
    return f"eddy1 from={first_offset}"


def plan(where: Partition, committed: Committed | None, low: int, high: int) -> tuple[int, int]:
    """Where to start reading, and from which offset on to publish: before, it is re-learned.

    committed: what the group has committed. low, high: the span of the log as it is now.
    Raises ForeignOffset and RetentionGap where the committed state cannot be made again.
    """
    if committed is None:
        return low, low
    match = NOTE.match(committed.note)
    if match is None:
        raise ForeignOffset(
            f"{where}: the group has committed offset {committed.next_offset} with the note "
            f'"{committed.note}"; expected "{note(low)}" or the like'
        )
    first = int(match[1])
    if first < low:
        raise RetentionGap(
            f"{where}: the group's state began at offset {first}, and the log now begins at {low}: "
            f"{low - first} offsets are gone, so that the state cannot be learned again"
        )
    if committed.next_offset > high:
        raise RetentionGap(
            f"{where}: the group has committed offset {committed.next_offset}, and the log ends at "
            f"{high}: it is not the log that the state was learned from"
        )
    return first, committed.next_offset


@dataclass(slots=True)
class Holding:
    """A partition in our hands: its shard, and how far that has come.

    first_offset: where its state began. live_from: from this offset on what it emits is published.
    next_offset: of the first record that the shard has not seen.
    """

    log: Log
    shard: Shard
    first_offset: int
    live_from: int
    next_offset: int

    def left(self) -> int:
        """Offsets still to be re-learned, 0 when live."""
        return max(0, self.live_from - self.next_offset)

    def take(self, records: Records) -> Emitted | None:
        """Process the next records; what they emit, or None where they were re-learned."""
        assert records.offset[0] >= self.next_offset, (records.topic, self.next_offset)
        self.next_offset = int(records.offset[-1]) + 1
        emitted = self.shard.process(records)
        return emitted if records.offset[0] >= self.live_from else None


def cut(records: Records, live_from: int) -> Iterator[Records]:
    """The records before that offset, and those from it on; only what is not empty."""
    boundary = int(np.searchsorted(records.offset, live_from))
    for part in (records.slice(0, boundary), records.slice(boundary, len(records))):
        if len(part):
            yield part


# -- what is on its way out -----------------------------------------------------------------------


@dataclass(slots=True)
class Outbox:
    """What is processed and not committed yet: records to publish and positions, by partition."""

    records: dict[Partition, list[OutRecord]] = field(default_factory=dict)
    positions: dict[Partition, Committed] = field(default_factory=dict)
    count: int = 0
    size_bytes: int = 0

    def put(self, where: Partition, records: Iterable[OutRecord], position: Committed) -> None:
        """Add records, and the position that they are made up to."""
        before = self.positions.get(where)
        assert before is None or position.next_offset > before.next_offset, (where, position)
        held = self.records.setdefault(where, [])
        before_count = len(held)
        held.extend(records)
        self._count(held[before_count:], 1)
        self.positions[where] = position

    def drop(self, partitions: Iterable[Partition]) -> None:
        """Forget partitions that are no longer ours."""
        for where in partitions:
            self._count(self.records.pop(where, []), -1)
            self.positions.pop(where, None)

    def clear(self) -> None:
        """Forget everything."""
        self.drop(list(self.positions))

    def full(self) -> bool:
        """Whether it holds more than it should."""
        return self.count > OUTBOX_RECORDS_MAX or self.size_bytes > OUTBOX_BYTES_MAX

    def _count(self, records: Iterable[OutRecord], sign: int) -> None:
        for one in records:
            headers = sum(len(name) + len(body or b"") for name, body in one.headers)
            self.count += sign
            self.size_bytes += sign * (len(one.value) + headers)


# -- the worker -----------------------------------------------------------------------------------


class Worker:
    """Runs the shards of the partitions that the group gives it, until asked to stop."""

    def __init__(
        self, config: Config, source: Source, sink: Sink, run: RunInfo, board: Board, pulse: Pulse
    ) -> None:
        self._config = config
        self._source = source
        self._sink = sink
        self._shards = Shards(config, run)
        self._board = board
        self._pulse = pulse
        self._logs = {log.topic: log for log in logs(config)}
        self._internal = {log.name: log.topic for log in self._logs.values() if log.internal}
        self._commit_interval_s = seconds(config.worker.commit_interval)
        self._holdings: dict[Partition, Holding] = {}
        self._outbox = Outbox()
        self._joined = False
        now = time.monotonic()
        self._committed_at = self._read_at = self._told_at = self._collected_at = now

    def run(self, stop: Event) -> None:
        """Poll, process, and commit when it is time to; when asked to stop, commit a last time."""
        self._source.subscribe(list(self._logs), self)
        try:
            with rarely_collecting():
                while not stop.is_set():
                    for records in self._source.poll(self._config.worker.batch_records, POLL_S):
                        self._process(records)
                    if self._is_time_to_commit():
                        self._commit()
                    self._tell()
            self._commit()
        finally:
            self._outbox.clear()  # of an error, nothing more is committed when the source closes

    def _process(self, records: Records) -> None:
        where = Partition(records.topic, records.partition)
        holding = self._holdings[where]
        for part in cut(records, holding.live_from):
            with self._board.timed("eddy_batch_seconds"):
                emitted = holding.take(part)
            if emitted is not None:
                position = Committed(holding.next_offset, note(holding.first_offset))
                self._outbox.put(where, self._to_publish(emitted), position)
            elif holding.left() == 0:
                log.info("re-learned", **_named(where), next_offset=holding.next_offset)

    def _to_publish(self, emitted: Emitted) -> Iterator[OutRecord]:
        outputs = self._config.outputs
        for alert in emitted.alerts:
            yield OutRecord(outputs.alerts, *alert_record(alert))
        for letter in emitted.dead_letters:
            yield OutRecord(outputs.dead_letters, *letter)
        for name, partition, value in emitted.internal:
            yield OutRecord(self._internal[name], None, value, [], partition)

    # -- committing -------------------------------------------------------------------------------

    def _is_time_to_commit(self) -> bool:
        age_s = time.monotonic() - self._committed_at
        return age_s >= self._commit_interval_s or self._outbox.full()

    def _commit(self) -> None:
        """Commit the outbox; an aborted transaction is tried again with what is still ours.

        Between two tries rebalances take place, and only there: they drop from the outbox what was
        lost, and bring the membership under which the next try will be accepted.
        """
        for attempt in patiently(Abortable, sleep=self._wait):
            with attempt:
                self._commit_once()

    def _commit_once(self) -> None:
        assert self._outbox.positions.keys() <= self._holdings.keys(), "not ours to commit"
        if self._outbox.positions:
            records = chain.from_iterable(self._outbox.records.values())
            try:
                self._sink.transact(records, self._outbox.positions, self._source.membership)
            except Abortable:
                self._board.add("eddy_aborts")
                raise
            self._outbox.clear()
            self._board.add("eddy_commits")
        self._committed_at = time.monotonic()

    def _wait(self, wait_s: float) -> None:
        self._source.serve(wait_s)
        self._pulse.beat()

    # -- assignments: called by the source between two batches, never inside a transaction --------

    def on_assign(self, partitions: list[Partition]) -> dict[Partition, int]:
        """Make a shard for each; reading starts where its state can be learned from."""
        self._joined = True
        for where, committed in self._source.committed(partitions).items():
            low, high = self._source.span(where)
            first, live_from = plan(where, committed, low, high)
            log_of = self._logs[where.topic]
            shard = self._shards.make(log_of)
            self._holdings[where] = Holding(log_of, shard, first, live_from, first)
            log.info("partition taken", **_named(where), first_offset=first, live_from=live_from)
            if live_from > first:
                log.info(
                    "re-learning from the start of the log: this version keeps no checkpoints",
                    **_named(where),
                    records_left=live_from - first,
                )
        return {where: self._holdings[where].next_offset for where in partitions}

    def on_revoke(self, partitions: list[Partition]) -> None:
        """Commit once more while they are ours, then let go of them.

        Where that fails nothing is missing: the next owner starts at the committed offset.
        """
        try:
            self._commit_once()
        except Abortable as error:
            log.warning("last commit of revoked partitions failed", error=str(error))
        self._let_go("partition given back", partitions)

    def on_lost(self, partitions: list[Partition]) -> None:
        """Let go of partitions that others may already have: nothing of them is committed."""
        self._let_go("partition lost", partitions)

    def _let_go(self, event: str, partitions: list[Partition]) -> None:
        self._outbox.drop(partitions)
        for where in partitions:
            if self._holdings.pop(where, None) is not None:
                log.info(event, **_named(where))

    # -- what is seen from outside ----------------------------------------------------------------

    def _tell(self) -> None:
        """Say that the loop turns; bring the metrics up to date, not more often than needed."""
        relearning = any(holding.left() for holding in self._holdings.values())
        self._pulse.beat("relearning" if relearning else "live" if self._joined else "joining")
        now = time.monotonic()
        if now - self._collected_at >= CYCLES_S:
            self._collected_at = now
            gc.collect()
        if now - self._read_at >= READINGS_S:
            self._read_at = now
            self._board.replace(metrics.readings(self._observed(), self._pulse.state))
        if relearning and now - self._told_at >= PROGRESS_S:
            self._told_at = now
            for where, holding in self._holdings.items():
                if holding.left():
                    log.info("re-learning", **_named(where), records_left=holding.left())

    def _observed(self) -> Iterator[metrics.Observed]:
        for where, holding in self._holdings.items():
            yield metrics.Observed(
                log_name=holding.log.topic if holding.log.internal else holding.log.name,
                partition=where.partition,
                counts=holding.shard.counts(),
                records_left=holding.left(),
                lag=max(0, self._source.end(where) - holding.next_offset),
            )


@contextmanager
def rarely_collecting() -> Iterator[None]:
    """Leave it to the block to look for garbage in cycles.

    A batch is ten thousand objects and no cycle. Python, which counts objects, would go through
    all of the compiler's hundred thousands again and again: a sixth of the worker's time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _named(where: Partition) -> dict[str, str | int]:
    return {"topic": where.topic, "partition": where.partition}


# -- starting -------------------------------------------------------------------------------------


def run_worker(
    config: Config, slot: str, run: RunInfo, stop_on_signal: Callable[[], Event]
) -> None:
    """Check what can be checked, connect, and work until asked to stop.

    slot: stable name of this worker within its group; a restart under the same name takes over at
    once what its predecessor left open. stop_on_signal: called when there is something to finish;
    before, while the broker is being reached, a signal may end the process at once. Raises EddyError.
    """
    log.info("starting", group=config.group, slot=slot, mode=config.mode, kafka=shown(config.kafka))
    if not config.secret:
        log.warning("no secret is set: pseudonyms and entity keys could be guessed")
    board, pulse = Board(), Pulse()
    address = (config.worker.http_host, config.worker.http_port)
    with health.serving(address, board, pulse), Source(config.kafka, config.group) as source:
        check_topics(config, found(config, Admin(config.kafka)))
        sink = Sink(config.kafka, config.group, slot)
        sink.open()
        Worker(config, source, sink, run, board, pulse).run(stop_on_signal())
    log.info("stopped")
