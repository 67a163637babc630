"""The long-lived worker: reads its partitions, folds them through their shards, and publishes.

Outputs, dead letters and offsets travel in one Kafka transaction, so that whatever crashes, a
read_committed reader sees each alert once. What is kept here, and not in the shards, is only what
is on its way out. It does not know Kafka's client: that is `stream.kafka`.
"""

import gc
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
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
from stream.checkpoints.keeping import REVOKE_S, Keeper, Kept
from stream.checkpoints.losses import refuse_losses
from stream.checkpoints.recovery import Circumstances, Recovered, recover
from stream.checkpoints.store import Folder, open_store, saved_folder
from stream.config import Config, Log, logs, weak_secret
from stream.errors import (
    Abortable,
    EddyError,
    PartitionCountChanged,
    StateWouldBeDropped,
)
from stream.health import Pulse
from stream.kafka.administration import Admin
from stream.kafka.failures import patiently
from stream.kafka.positions import Committed, Partition
from stream.kafka.properties import of_slot, shown
from stream.kafka.reading import Source
from stream.kafka.writing import OutRecord, Sink
from stream.metrics import Board
from stream.noticing import Noticing
from stream.shard import Emitted, Shard
from stream.topics import check_topics, found

log = structlog.stdlib.get_logger(__name__)

POLL_S: Final = 0.025
"""How long one turn waits for records, or less where it is time to commit earlier."""

COMMITTING_MAX: Final = 0.25
"""An alert does not wait until the commit interval is over, as long as committing takes no larger
share of the time, and nothing more waits to be read: an alert on what is old is late anyway."""

CLIENT_CLOCK_S: Final = 0.001
"""The client waits for whole milliseconds: for less it would not wait, but turn in circles."""

OUTBOX_RECORDS_MAX: Final = 5_000
OUTBOX_BYTES_MAX: Final = 16 * 1024 * 1024
"""A fuller outbox is committed at once, however recent the last commit is."""

READINGS_S: Final = 0.5
PROGRESS_S: Final = 10.0
"""How often metrics are brought up to date, and the progress of re-learning is logged."""

EMPTY_S: Final = 10.0
"""A worker that has been without partitions for so long says what that may mean."""

NO_PARTITION: Final = (
    "no partition for this worker: others of the group have them, or the brokers are away. One that "
    "was killed has its partitions until its session is over (session.timeout.ms, 45 s by default): "
    "then wait. Another worker may run under this very slot: it keeps its partitions until it commits next, and ends "
    "then; stop it, or give each worker a slot of its own (--slot, EDDY_SLOT). Or there are more "
    "workers than partitions. `kafka-consumer-groups --describe --members` shows who they are and "
    "where: a worker's client id is eddy-SLOT"
)

CYCLES_S: Final = 60.0
"""How often garbage in cycles is looked for; see `rarely_collecting`."""

# -- a partition in hand ---------------------------------------------------------------------------


@dataclass(slots=True)
class Holding:
    """A partition in our hands: its shard, how far that has come, and its checkpoints.

    next_offset: where the next record may be: after all that the shard has seen, and after the
    transaction markers, aborted records and compacted gaps that follow it. committed: as the group
    has it, None where it has none yet. began_at, began_from: when and where re-learning began.
    """

    log: Log
    kept: Kept
    next_offset: int
    committed: int | None
    began_at: float = field(default_factory=time.monotonic)
    began_from: int = 0

    @property
    def shard(self) -> Shard:
        """All state of the partition's stages."""
        return self.kept.state.shard

    @property
    def live_from(self) -> int:
        """From this offset on what the shard emits is published."""
        return self.kept.state.live_from

    def to_commit(self) -> int:
        """The offset to commit: while re-learning, the committed one again."""
        return max(self.next_offset, self.live_from)

    def moved(self) -> bool:
        """Whether that is another offset than the group has."""
        return self.to_commit() != (self.live_from if self.committed is None else self.committed)

    def to_name(self) -> bool:
        """Whether a commit is needed that names a checkpoint; none is where nothing was read yet."""
        return self.kept.ready is not None and (self.committed is not None or self.moved())

    def seconds_left(self) -> float:
        """Until it is live, at the rate of re-learning so far; 0 before there is one."""
        done = self.next_offset - self.began_from
        return self.left() * (time.monotonic() - self.began_at) / done if done else 0.0

    def left(self) -> int:
        """Offsets still to be re-learned, 0 when live."""
        return max(0, self.live_from - self.next_offset)

    def take(self, records: Records) -> Emitted | None:
        """Process the next records; what they emit, or None where they were re-learned."""
        assert records.offset[0] >= self.next_offset, (records.topic, self.next_offset)
        if self.next_offset == self.began_from:  # until now it waited for its turn
            self.began_at = time.monotonic()
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
    """What is processed and not committed yet: records to publish and next offsets, by
    partition."""

    records: dict[Partition, list[OutRecord]] = field(default_factory=dict)
    positions: dict[Partition, int] = field(default_factory=dict)
    count: int = 0
    size_bytes: int = 0

    def put(self, where: Partition, records: Iterable[OutRecord], next_offset: int) -> None:
        """Add records, and the offset that they are made up to."""
        assert next_offset > self.positions.get(where, -1), (where, next_offset)
        held = self.records.setdefault(where, [])
        before_count = len(held)
        held.extend(records)
        self._count(held[before_count:], 1)
        self.positions[where] = next_offset

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
        self,
        config: Config,
        source: Source,
        sink: Sink,
        run: RunInfo,
        board: Board,
        pulse: Pulse,
        drops: Collection[str] = (),
    ) -> None:
        """drops: arguments of --drop-state."""
        self._config = config
        self._drops = drops
        self._source = source
        self._sink = sink
        self._run = run
        self._board = board
        self._pulse = pulse
        self._logs = {log.topic: log for log in logs(config)}
        self._internal = {log.name: log.topic for log in self._logs.values() if log.internal}
        self._commit_interval_s = seconds(config.worker.commit_interval)
        self._objects = open_store(config.checkpoints.url)
        start_from = config.checkpoints.start_from
        self._saved = start_from and open_store(start_from, "checkpoints.start_from")
        self._keeper = Keeper(config.checkpoints, board, run.now, pulse.beat)
        self._holdings: dict[Partition, Holding] = {}
        self._outbox = Outbox()
        self._noticing = Noticing(config, board)
        self._joined = self._said_empty = self._alerted = self._more_waits = False
        self._commit_took_s = 0.0
        self._ending = False
        now = time.monotonic()
        self._commit_began_at = self._read_at = self._told_at = self._collected_at = now
        self._empty_since = now

    def run(self, stop: Event) -> None:
        """Poll, process, commit and take checkpoints when it is time to.

        When asked to stop, commit a last time and write a checkpoint of everything at that offset.
        """
        self._source.subscribe(list(self._logs), self)
        try:
            with rarely_collecting():
                while not stop.is_set():
                    self._read()
                    if self._is_time_to_commit():
                        self._commit()
                        self._take_checkpoint()
                    self._tell()
                self._read()  # a transaction marker may follow the last full batch
            self._commit()
            self._take_checkpoints_now(list(self._holdings))
            self._commit()
        finally:
            self._ending = True  # after an error, too, nothing more is committed
            self._keeper.close()

    def _read(self) -> None:
        """Process what has arrived; a fuller outbox is committed before more is put into it.

        That is all that bounds it: it holds what it may, and what one partition's batch adds. While
        a commit is tried again nothing is read, and the consumer is paused (`Source.serve`).
        """
        wait_s = min(POLL_S, self._commit_due_in_s() + CLIENT_CLOCK_S)
        most = self._config.worker.batch_records
        arrived = self._source.poll(most, wait_s)
        self._more_waits = sum(len(one.records or ()) for one in arrived) >= most
        for holding, one in [(self._holdings[one.where], one) for one in arrived]:
            # A commit that was tried again let rebalances happen: what was ours may be no longer,
            # or be ours again from an earlier offset on.
            if self._holdings.get(one.where) is holding:
                if one.records is not None:
                    self._process(one.where, holding, one.records)
                self._skip(one.where, holding, one.next_offset)
                if self._outbox.full():
                    self._commit()

    def _process(self, where: Partition, holding: Holding, records: Records) -> None:
        for part in cut(records, holding.live_from):
            if holding.kept.state.converts and part.offset[0] >= holding.live_from:
                self._convert(holding)
            with self._board.timed("eddy_batch_seconds"):
                emitted = holding.take(part)
            if emitted is not None:
                self._noticing.take(holding.log, part, emitted)
                self._outbox.put(where, self._to_publish(emitted), holding.next_offset)
                self._alerted |= bool(emitted.alerts)
            elif holding.left() == 0:
                self._end_re_learning(where, holding)

    def _skip(self, where: Partition, holding: Holding, next_offset: int) -> None:
        """Advance over transaction markers and gaps; the next commit or checkpoint includes that."""
        re_learned = holding.left() > 0
        holding.next_offset = max(holding.next_offset, next_offset)
        if re_learned and not holding.left():
            self._end_re_learning(where, holding)

    def _end_re_learning(self, where: Partition, holding: Holding) -> None:
        log.info("re-learned", **where._asdict(), next_offset=holding.next_offset)
        if holding.kept.state.converts:
            self._convert(holding)

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
        return not self._commit_due_in_s() or self._outbox.full()

    def _commit_due_in_s(self) -> float:
        """Counted from when the last commit began: from its end, it would lengthen every wait."""
        every_s = self._commit_interval_s
        if self._alerted and not self._more_waits:
            every_s = min(every_s, self._commit_took_s / COMMITTING_MAX)
        return max(0.0, self._commit_began_at + every_s - time.monotonic())

    def _commit(self) -> None:
        """Commit the outbox; an aborted transaction is tried again with what is still ours.

        Between two tries rebalances take place, and only there: they drop from the outbox what was
        lost, and bring the membership under which the next try will be accepted.
        """
        for attempt in patiently(Abortable, sleep=self._wait):
            with attempt:
                self._commit_once()

    def _commit_once(self) -> None:
        self._commit_began_at = time.monotonic()
        positions = self._positions()
        if positions:
            records = chain.from_iterable(self._outbox.records.values())
            try:
                self._sink.transact(records, positions, self._source.membership)
            except Abortable:
                self._board.add("eddy_aborts")
                raise
            self._outbox.clear()
            self._commit_took_s = time.monotonic() - self._commit_began_at
            self._board.add("eddy_commits")
        self._alerted = False
        for where, position in positions.items():
            holding = self._holdings[where]
            holding.committed = position.next_offset
            if holding.kept.publish():
                self._keeper.collect(holding.kept)

    def _positions(self) -> dict[Partition, Committed]:
        """What to commit: new offsets, and former ones again where they are to name a
        checkpoint. Nothing where all that is new are advances over transaction markers: they wait
        for the next commit, unless it is the partition's first."""
        assert self._outbox.positions.keys() <= self._holdings.keys(), "not ours to commit"
        to_name = {where for where, holding in self._holdings.items() if holding.to_name()}
        if not (self._outbox.positions or to_name):
            return {}
        return {
            where: Committed(holding.to_commit(), holding.kept.note())
            for where, holding in self._holdings.items()
            if holding.moved() or where in to_name
        }

    def _wait(self, wait_s: float) -> None:
        self._source.serve(wait_s)
        self._pulse.beat()

    # -- checkpoints ------------------------------------------------------------------------------

    def _take_checkpoint(self) -> None:
        """Begin to write the state that would cost a restart most, if any is due."""
        if not self._keeper.idle():
            return
        due = [
            (holding.next_offset - holding.kept.offset(), where)
            for where, holding in self._holdings.items()
            if self._settled(where) and self._keeper.due(holding.kept, holding.next_offset)
        ]
        if due:
            holding = self._holdings[max(due)[1]]
            self._keeper.take(holding.kept, holding.next_offset)

    def _take_checkpoints_now(
        self, partitions: list[Partition], within_s: float | None = None
    ) -> None:
        """Write the states of partitions that are about to leave, all within so many seconds."""
        deadline = None if within_s is None else time.monotonic() + within_s
        for where in partitions:
            holding = self._holdings[where]
            left_s = None if deadline is None else max(0.0, deadline - time.monotonic())
            if self._settled(where) and holding.kept.offset() < holding.next_offset:
                self._keeper.take_now(holding.kept, holding.next_offset, left_s)

    def _settled(self, where: Partition) -> bool:
        """Whether a checkpoint may be taken: all records that the state has seen are committed. The
        commit that names it commits its offset, too."""
        return where not in self._outbox.positions and not self._holdings[where].left()

    def _convert(self, holding: Holding) -> None:
        """Go on under our own configuration; the first commit that knows of it names its state."""
        state = holding.kept.state
        state.convert(self._config, self._run)
        self._keeper.begin(holding.kept, state.live_from)

    # -- assignments: called by the source between two batches, never inside a transaction --------

    def on_assign(self, partitions: list[Partition]) -> dict[Partition, int]:
        """Load or make a shard for each; reading starts where its checkpoint was taken."""
        self._refuse_new(partitions)
        self._joined = True
        self._said_empty = False
        # Nothing is written before the state of every partition is known to be usable.
        for where, recovered in self._all_recovered(partitions).items():
            self._holdings[where] = self._taken(where, *recovered)
        return {where: self._holdings[where].next_offset for where in partitions}

    def _refuse_new(self, partitions: list[Partition]) -> None:
        """Raise PartitionCountChanged where a topic has grown, before anything of it is read."""
        for where in partitions:
            expected = self._logs[where.topic].partitions
            if where.partition >= expected:
                raise PartitionCountChanged(
                    f"{where}: the group was given this partition, and the configuration has "
                    f"{expected} of the topic: the topic has grown. Nothing of the partition was "
                    "read or committed"
                )

    def _all_recovered(
        self, partitions: list[Partition]
    ) -> dict[Partition, tuple[Folder, Committed | None, Recovered]]:
        """The state of each partition. Raises StateWouldBeDropped with all that would be."""
        taken: dict[Partition, tuple[Folder, Committed | None, Recovered]] = {}
        refused: list[str] = []
        for where, asked in self._source.committed(partitions).items():
            folder = Folder(self._objects, self._config.group, *where)
            try:
                taken[where] = (folder, *self._recovered(where, asked, folder))
            except StateWouldBeDropped as error:
                refused += error.lines
        if refused:
            raise StateWouldBeDropped(refused)
        return taken

    def _recovered(
        self, where: Partition, committed: Committed | None, folder: Folder
    ) -> tuple[Committed | None, Recovered]:
        """A shard for it, and what the group has committed. Who stands still behind the question for
        that may find the checkpoints of another, who has had the partition meanwhile: then it is
        asked again before anything is held to be wrong."""
        while True:
            try:
                return committed, self._recovered_at(where, committed, folder)
            except EddyError as error:
                asked_before, committed = committed, self._source.committed([where])[where]
                if committed == asked_before:
                    raise
                log.warning("another has gone on here, looking again", error=str(error))

    def _recovered_at(
        self, where: Partition, committed: Committed | None, folder: Folder
    ) -> Recovered:
        log_of = self._logs[where.topic]
        low, high = self._source.span(where)
        return recover(
            Circumstances(
                config=self._config,
                run=self._run,
                log=log_of,
                partition=where.partition,
                folder=folder,
                committed=committed,
                low=low,
                high=high,
                beat=self._pulse.beat,
                saved=saved_folder(self._saved, log_of, where.partition) if self._saved else None,
                offset_at=partial(self._source.offset_at, where),
                drops=self._drops,
            )
        )

    def _taken(
        self, where: Partition, folder: Folder, committed: Committed | None, state: Recovered
    ) -> Holding:
        kept = Kept(folder, state)
        start = state.head.offset
        holding = Holding(
            log=self._logs[where.topic],
            kept=kept,
            next_offset=start,
            committed=committed.next_offset if committed else None,
            began_from=start,
        )
        self._board.add("eddy_checkpoint_fallbacks", state.left_behind)
        if state.left_behind:
            kept.ready = state.checkpoint
        elif state.checkpoint is not None:
            kept.published = [state.checkpoint]
        if state.checkpoint is None:
            self._keeper.begin(kept, start)
        if state.converts and not holding.left():
            self._convert(holding)
        log.info("partition taken", **where._asdict(), next_offset=start, live_from=state.live_from)
        if holding.left():
            log.info("re-learning", **where._asdict(), records_left=holding.left())
        return holding

    def on_revoke(self, partitions: list[Partition]) -> None:
        """Commit once more while they are ours, write their checkpoints, then let go of them.

        Where that fails nothing is missing: the next owner starts at the committed offset, and
        re-learns more.
        """
        try:
            if not self._ending:
                self._commit_once()
                self._take_checkpoints_now(partitions, REVOKE_S)
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
            holding = self._holdings.pop(where, None)
            if holding is not None:
                holding.kept.gone = True
                self._keeper.give_up(holding.kept)
                log.info(event, **where._asdict())

    # -- what is seen from outside ----------------------------------------------------------------

    def _tell(self) -> None:
        """Say that the loop turns; bring the metrics up to date, not more often than needed."""
        relearning = any(holding.left() for holding in self._holdings.values())
        self._pulse.beat("relearning" if relearning else "live" if self._joined else "joining")
        now = time.monotonic()
        if now - self._collected_at >= CYCLES_S:
            self._collected_at = now
            gc.collect()
        if self._holdings:
            self._empty_since = now
        elif now - self._empty_since >= EMPTY_S and not self._said_empty:
            self._said_empty = True
            log.warning(NO_PARTITION, group=self._config.group)
        if now - self._read_at >= READINGS_S:
            self._read_at = now
            self._publish_readings()
        if relearning and now - self._told_at >= PROGRESS_S:
            self._told_at = now
            for where, holding in self._holdings.items():
                if holding.left():
                    log.info(
                        "re-learning",
                        **where._asdict(),
                        records_left=holding.left(),
                        seconds_left=round(holding.seconds_left(), 1),
                    )

    def _publish_readings(self) -> None:
        """Bring the metrics, and the reasons not to be ready, up to date."""
        observed = list(self._observed())
        oddities = self._noticing.oddities(one.counts for one in observed)
        left = sum(one.records_left for one in observed)
        relearning = [f"{left:,} records are left to re-learn"] if left else []
        self._pulse.problems = (*relearning, *self._noticing.not_ready(oddities))
        configured = {_name_of(each): each.partitions for each in self._logs.values()}
        of = metrics.Logs(configured, Counter(one.log_name for one in observed))
        own = metrics.readings_of_worker(of, [(one.of, one.kind) for one in oddities])
        self._board.replace(own | metrics.readings(observed, self._pulse.state))

    def _observed(self) -> Iterator[metrics.Observed]:
        for where, holding in self._holdings.items():
            end = self._source.end(where)
            yield metrics.Observed(
                log_name=_name_of(holding.log),
                partition=where.partition,
                counts=holding.shard.counts(),
                records_left=holding.left(),
                lag=max(0, end - holding.next_offset) if end >= 0 else None,
                behind=holding.next_offset - holding.kept.offset(),
                seconds_left=holding.seconds_left(),
            )


def _name_of(read: Log) -> str:
    """The name of a log in metrics."""
    return read.topic if read.internal else read.name


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


# -- starting -------------------------------------------------------------------------------------


def run_worker(
    config: Config,
    slot: str,
    run: RunInfo,
    stop_on_signal: Callable[[], Event],
    http_port: int,
    drops: Collection[str] = (),
) -> None:
    """Check what can be checked, connect, and work until asked to stop.

    slot: stable name of this worker within its group; a restart under the same name takes over at
    once what its predecessor left open. stop_on_signal: called when there is something to finish;
    before, while the broker is being reached, a signal may end the process at once. drops: arguments
    of --drop-state. Raises EddyError.
    """
    if warning := weak_secret(config):
        log.warning(warning)
    board, pulse = Board(), Pulse()
    address = (config.worker.http_host, http_port)
    kafka = of_slot(config.kafka, slot)
    with (
        health.serving(address, board, pulse),
        Source(kafka, config.group, pulse.beat, pulse.hear) as source,
    ):
        # The client has accepted the values: none is a secret in place of another property's.
        log.info(
            "starting", group=config.group, slot=slot, mode=config.mode, kafka=shown(config.kafka)
        )
        check_topics(config, found(config, Admin(kafka, pulse.beat)))
        objects = open_store(config.checkpoints.url)
        every = [Partition(log.topic, n) for log in logs(config) for n in range(log.partitions)]
        refuse_losses(config, source.committed(every), objects, drops)
        sink = Sink(kafka, config.group, slot, pulse.beat)
        sink.open()
        Worker(config, source, sink, run, board, pulse, drops).run(stop_on_signal())
    log.info("stopped")
