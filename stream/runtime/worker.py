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
from stream.checkpoints.manager import REVOKE_TIMEOUT_S, CheckpointManager, PartitionCheckpoints
from stream.checkpoints.recovery import RecoveredState, StartContext, recover
from stream.checkpoints.state_losses import check_state_losses
from stream.checkpoints.store import Folder, open_store, saved_folder
from stream.config import Config, secret_problem
from stream.config.stages import logs
from stream.config.topology import Log
from stream.errors import (
    Abortable,
    EddyError,
    PartitionCountChanged,
    StateWouldBeDropped,
)
from stream.inputs.diagnostics import InputDiagnostics
from stream.kafka.admin import TopicAdmin
from stream.kafka.client_errors import retrying
from stream.kafka.positions import CommittedOffset, Partition
from stream.kafka.properties import printable_properties, slot_properties
from stream.kafka.sink import KafkaSink, OutRecord
from stream.kafka.source import KafkaSource
from stream.pipeline.alerting import RunInfo
from stream.pipeline.shard import Shard, ShardOutput
from stream.runtime.topics import check_topics, existing_topics
from stream.telemetry import metrics
from stream.telemetry.health import WorkerHealth, serve_health
from stream.telemetry.metrics import MetricsCollector

log = structlog.stdlib.get_logger(__name__)

POLL_S: Final = 0.025
"""How long one turn waits for records, or less where it is time to commit earlier."""

COMMIT_TIME_FRACTION_MAX: Final = 0.25
"""An alert does not wait until the commit interval is over, as long as committing takes no larger
share of the time, and nothing more waits to be read: an alert on what is old is late anyway."""

CLIENT_TICK_S: Final = 0.001
"""The client waits for whole milliseconds: for less it would not wait, but turn in circles."""

OUTBOX_RECORDS_MAX: Final = 5_000
OUTBOX_BYTES_MAX: Final = 16 * 1024 * 1024
"""A fuller outbox is committed at once, however recent the last commit is."""

METRICS_INTERVAL_S: Final = 0.5
PROGRESS_INTERVAL_S: Final = 10.0
"""How often metrics are brought up to date, and the progress of re-learning is logged."""

UNASSIGNED_WARNING_S: Final = 10.0
"""A worker that has been without partitions for so long says what that may mean."""

UNASSIGNED_WARNING: Final = (
    "no partition for this worker: others of the group have them, or the brokers are away. One that "
    "was killed has its partitions until its session is over (session.timeout.ms, 45 s by default): "
    "then wait. Another worker may run under this very slot: it keeps its partitions until it commits next, and ends "
    "then; stop it, or give each worker a slot of its own (--slot, EDDY_SLOT). Or there are more "
    "workers than partitions. `kafka-consumer-groups --describe --members` shows who they are and "
    "where: a worker's client id is eddy-SLOT"
)

GC_INTERVAL_S: Final = 60.0
"""How often garbage in cycles is looked for; see `gc_disabled`."""

# -- a partition in hand ---------------------------------------------------------------------------


@dataclass(slots=True)
class AssignedPartition:
    """A partition in our hands: its shard, how far that has come, and its checkpoints.

    next_offset: where the next record may be: after all that the shard has seen, and after the
    transaction markers, aborted records and compacted gaps that follow it. committed: as the group
    has it, None where it has none yet. relearn_started_at, relearn_started_from: when and where re-learning began.
    """

    log: Log
    checkpoints: PartitionCheckpoints
    next_offset: int
    committed: int | None
    relearn_started_at: float = field(default_factory=time.monotonic)
    relearn_started_from: int = 0

    @property
    def shard(self) -> Shard:
        """All state of the partition's stages."""
        return self.checkpoints.state.shard

    @property
    def live_from(self) -> int:
        """From this offset on what the shard emits is published."""
        return self.checkpoints.state.live_from

    def offset_to_commit(self) -> int:
        """The offset to commit: while re-learning, the committed one again."""
        return max(self.next_offset, self.live_from)

    def has_new_offset(self) -> bool:
        """Whether that is another offset than the group has."""
        return self.offset_to_commit() != (
            self.live_from if self.committed is None else self.committed
        )

    def must_commit_checkpoint(self) -> bool:
        """Whether a commit is needed that names a checkpoint; none is where nothing was read yet."""
        return self.checkpoints.to_name is not None and (
            self.committed is not None or self.has_new_offset()
        )

    def seconds_left(self) -> float:
        """Until it is live, at the rate of re-learning so far; 0 before there is one."""
        done = self.next_offset - self.relearn_started_from
        return (
            self.offsets_left() * (time.monotonic() - self.relearn_started_at) / done
            if done
            else 0.0
        )

    def offsets_left(self) -> int:
        """Offsets still to be re-learned, 0 when live."""
        return max(0, self.live_from - self.next_offset)

    def take(self, records: Records) -> ShardOutput | None:
        """Process the next records; what they emit, or None where they were re-learned."""
        assert records.offset[0] >= self.next_offset, (records.topic, self.next_offset)
        if self.next_offset == self.relearn_started_from:  # until now it waited for its turn
            self.relearn_started_at = time.monotonic()
        self.next_offset = int(records.offset[-1]) + 1
        output = self.shard.process(records)
        return output if records.offset[0] >= self.live_from else None


def split_at(records: Records, live_from: int) -> Iterator[Records]:
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
        source: KafkaSource,
        sink: KafkaSink,
        run: RunInfo,
        metrics: MetricsCollector,
        health: WorkerHealth,
        allowed_drops: Collection[str] = (),
    ) -> None:
        """drops: arguments of --drop-state."""
        self._config = config
        self._allowed_drops = allowed_drops
        self._source = source
        self._sink = sink
        self._run = run
        self._metrics = metrics
        self._health = health
        self._logs = {log.topic: log for log in logs(config)}
        self._internal_topics = {log.name: log.topic for log in self._logs.values() if log.internal}
        self._commit_interval_s = seconds(config.worker.commit_interval)
        self._store = open_store(config.checkpoints.url)
        start_from = config.checkpoints.start_from
        self._saved_store = start_from and open_store(start_from, "checkpoints.start_from")
        self._checkpoint_manager = CheckpointManager(
            config.checkpoints, metrics, run.now, health.beat
        )
        self._assignment: dict[Partition, AssignedPartition] = {}
        self._outbox = Outbox()
        self._diagnostics = InputDiagnostics(config, metrics)
        self._joined = self._warned_unassigned = self._alert_pending = self._more_available = False
        self._commit_took_s = 0.0
        self._stopped = False
        now = time.monotonic()
        self._commit_began_at = self._metrics_at = self._progress_logged_at = self._gc_at = now
        self._unassigned_since = now

    def run(self, stop: Event) -> None:
        """Poll, process, commit and take checkpoints when it is time to.

        When asked to stop, commit a last time and write a checkpoint of everything at that offset.
        """
        self._source.subscribe(list(self._logs), self)
        try:
            with gc_disabled():
                while not stop.is_set():
                    self._read()
                    if self._is_time_to_commit():
                        self._commit()
                        self._start_checkpoint()
                    self._publish_status()
                self._read()  # a transaction marker may follow the last full batch
            self._commit()
            self._write_checkpoints(list(self._assignment))
            self._commit()
        finally:
            self._stopped = True  # after an error, too, nothing more is committed
            self._checkpoint_manager.close()

    def _read(self) -> None:
        """Process what has arrived; a fuller outbox is committed before more is put into it.

        That is all that bounds it: it holds what it may, and what one partition's batch adds. While
        a commit is tried again nothing is read, and the consumer is paused (`KafkaSource.serve`).
        """
        wait_s = min(POLL_S, self._commit_due_in_s() + CLIENT_TICK_S)
        most = self._config.worker.batch_records
        arrived = self._source.poll(most, wait_s)
        self._more_available = sum(len(one.records or ()) for one in arrived) >= most
        for assigned, one in [(self._assignment[one.partition], one) for one in arrived]:
            # A commit that was tried again let rebalances happen: what was ours may be no longer,
            # or be ours again from an earlier offset on.
            if self._assignment.get(one.partition) is assigned:
                if one.records is not None:
                    self._process(one.partition, assigned, one.records)
                self._advance(one.partition, assigned, one.next_offset)
                if self._outbox.full():
                    self._commit()

    def _process(self, where: Partition, assigned: AssignedPartition, records: Records) -> None:
        for part in split_at(records, assigned.live_from):
            if assigned.checkpoints.state.needs_migration and part.offset[0] >= assigned.live_from:
                self._migrate(assigned)
            with self._metrics.timed("eddy_batch_seconds"):
                output = assigned.take(part)
            if output is not None:
                self._diagnostics.observe(assigned.log, part, output)
                self._outbox.put(where, self._out_records(output), assigned.next_offset)
                self._alert_pending |= bool(output.alerts)
            elif assigned.offsets_left() == 0:
                self._end_re_learning(where, assigned)

    def _advance(self, where: Partition, assigned: AssignedPartition, next_offset: int) -> None:
        """Advance over transaction markers and gaps; the next commit or checkpoint includes that."""
        re_learned = assigned.offsets_left() > 0
        assigned.next_offset = max(assigned.next_offset, next_offset)
        if re_learned and not assigned.offsets_left():
            self._end_re_learning(where, assigned)

    def _end_re_learning(self, where: Partition, assigned: AssignedPartition) -> None:
        log.info("re-learned", **where._asdict(), next_offset=assigned.next_offset)
        if assigned.checkpoints.state.needs_migration:
            self._migrate(assigned)

    def _out_records(self, output: ShardOutput) -> Iterator[OutRecord]:
        outputs = self._config.outputs
        for alert in output.alerts:
            yield OutRecord(outputs.alerts, *alert_record(alert))
        for letter in output.dead_letters:
            yield OutRecord(outputs.dead_letters, *letter)
        for name, partition, value in output.internal:
            yield OutRecord(self._internal_topics[name], None, value, [], partition)

    # -- committing -------------------------------------------------------------------------------

    def _is_time_to_commit(self) -> bool:
        return not self._commit_due_in_s() or self._outbox.full()

    def _commit_due_in_s(self) -> float:
        """Counted from when the last commit began: from its end, it would lengthen every wait."""
        every_s = self._commit_interval_s
        if self._alert_pending and not self._more_available:
            every_s = min(every_s, self._commit_took_s / COMMIT_TIME_FRACTION_MAX)
        return max(0.0, self._commit_began_at + every_s - time.monotonic())

    def _commit(self) -> None:
        """Commit the outbox; an aborted transaction is tried again with what is still ours.

        Between two tries rebalances take place, and only there: they drop from the outbox what was
        lost, and bring the membership under which the next try will be accepted.
        """
        for attempt in retrying(Abortable, sleep=self._serve_rebalances):
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
                self._metrics.add("eddy_aborts")
                raise
            self._outbox.clear()
            self._commit_took_s = time.monotonic() - self._commit_began_at
            self._metrics.add("eddy_commits")
        self._alert_pending = False
        for where, position in positions.items():
            assigned = self._assignment[where]
            assigned.committed = position.next_offset
            if assigned.checkpoints.publish():
                self._checkpoint_manager.collect(assigned.checkpoints)

    def _positions(self) -> dict[Partition, CommittedOffset]:
        """What to commit: new offsets, and former ones again where they are to name a
        checkpoint. Nothing where all that is new are advances over transaction markers: they wait
        for the next commit, unless it is the partition's first."""
        assert self._outbox.positions.keys() <= self._assignment.keys(), "not ours to commit"
        must_commit_checkpoint = {
            where
            for where, assigned in self._assignment.items()
            if assigned.must_commit_checkpoint()
        }
        if not (self._outbox.positions or must_commit_checkpoint):
            return {}
        return {
            where: CommittedOffset(assigned.offset_to_commit(), assigned.checkpoints.metadata())
            for where, assigned in self._assignment.items()
            if assigned.has_new_offset() or where in must_commit_checkpoint
        }

    def _serve_rebalances(self, wait_s: float) -> None:
        self._source.serve_rebalances(wait_s)
        self._health.beat()

    # -- checkpoints ------------------------------------------------------------------------------

    def _start_checkpoint(self) -> None:
        """Begin to write the state that would cost a restart most, if any is due."""
        if not self._checkpoint_manager.idle():
            return
        due = [
            (assigned.next_offset - assigned.checkpoints.offset(), where)
            for where, assigned in self._assignment.items()
            if self._is_committed(where)
            and self._checkpoint_manager.due(assigned.checkpoints, assigned.next_offset)
        ]
        if due:
            assigned = self._assignment[max(due)[1]]
            self._checkpoint_manager.take(assigned.checkpoints, assigned.next_offset)

    def _write_checkpoints(
        self, partitions: list[Partition], within_s: float | None = None
    ) -> None:
        """Write the states of partitions that are about to leave, all within so many seconds."""
        deadline = None if within_s is None else time.monotonic() + within_s
        for where in partitions:
            assigned = self._assignment[where]
            left_s = None if deadline is None else max(0.0, deadline - time.monotonic())
            if self._is_committed(where) and assigned.checkpoints.offset() < assigned.next_offset:
                self._checkpoint_manager.take_now(
                    assigned.checkpoints, assigned.next_offset, left_s
                )

    def _is_committed(self, where: Partition) -> bool:
        """Whether a checkpoint may be taken: all records that the state has seen are committed. The
        commit that names it commits its offset, too."""
        return where not in self._outbox.positions and not self._assignment[where].offsets_left()

    def _migrate(self, assigned: AssignedPartition) -> None:
        """Go on under our own configuration; the first commit that knows of it names its state."""
        state = assigned.checkpoints.state
        state.migrate(self._config, self._run)
        self._checkpoint_manager.begin(assigned.checkpoints, state.live_from)

    # -- assignments: called by the source between two batches, never inside a transaction --------

    def on_assign(self, partitions: list[Partition]) -> dict[Partition, int]:
        """Load or make a shard for each; reading starts where its checkpoint was taken."""
        self._check_partition_count(partitions)
        self._joined = True
        self._warned_unassigned = False
        # Nothing is written before the state of every partition is known to be usable.
        for where, recovered in self._recover_all(partitions).items():
            self._assignment[where] = self._assigned_from(where, *recovered)
        return {where: self._assignment[where].next_offset for where in partitions}

    def _check_partition_count(self, partitions: list[Partition]) -> None:
        """Raise PartitionCountChanged where a topic has grown, before anything of it is read."""
        for where in partitions:
            expected = self._logs[where.topic].partitions
            if where.partition >= expected:
                raise PartitionCountChanged(
                    f"{where}: the group was given this partition, and the configuration has "
                    f"{expected} of the topic: the topic has grown. Nothing of the partition was "
                    "read or committed"
                )

    def _recover_all(
        self, partitions: list[Partition]
    ) -> dict[Partition, tuple[Folder, CommittedOffset | None, RecoveredState]]:
        """The state of each partition. Raises StateWouldBeDropped with all that would be."""
        taken: dict[Partition, tuple[Folder, CommittedOffset | None, RecoveredState]] = {}
        refused: list[str] = []
        for where, asked in self._source.committed(partitions).items():
            folder = Folder(self._store, self._config.group, *where)
            try:
                taken[where] = (folder, *self._recover(where, asked, folder))
            except StateWouldBeDropped as error:
                refused += error.lines
        if refused:
            raise StateWouldBeDropped(refused)
        return taken

    def _recover(
        self, where: Partition, committed: CommittedOffset | None, folder: Folder
    ) -> tuple[CommittedOffset | None, RecoveredState]:
        """A shard for it, and what the group has committed. Who stands still behind the question for
        that may find the checkpoints of another, who has had the partition meanwhile: then it is
        asked again before anything is held to be wrong."""
        while True:
            try:
                return committed, self._recover_once(where, committed, folder)
            except EddyError as error:
                asked_before, committed = committed, self._source.committed([where])[where]
                if committed == asked_before:
                    raise
                log.warning("another has gone on here, looking again", error=str(error))

    def _recover_once(
        self, where: Partition, committed: CommittedOffset | None, folder: Folder
    ) -> RecoveredState:
        log_of = self._logs[where.topic]
        low, high = self._source.offset_range(where)
        return recover(
            StartContext(
                config=self._config,
                run=self._run,
                log=log_of,
                partition=where.partition,
                folder=folder,
                committed=committed,
                low=low,
                high=high,
                beat=self._health.beat,
                saved=saved_folder(self._saved_store, log_of, where.partition)
                if self._saved_store
                else None,
                offset_at=partial(self._source.offset_at, where),
                allowed_drops=self._allowed_drops,
            )
        )

    def _assigned_from(
        self,
        where: Partition,
        folder: Folder,
        committed: CommittedOffset | None,
        state: RecoveredState,
    ) -> AssignedPartition:
        checkpoints = PartitionCheckpoints(folder, state)
        start = state.head.offset
        assigned = AssignedPartition(
            log=self._logs[where.topic],
            checkpoints=checkpoints,
            next_offset=start,
            committed=committed.next_offset if committed else None,
            relearn_started_from=start,
        )
        self._metrics.add("eddy_checkpoint_fallbacks", state.broken_checkpoints)
        if state.broken_checkpoints:
            checkpoints.to_name = state.checkpoint
        elif state.checkpoint is not None:
            checkpoints.published = [state.checkpoint]
        if state.checkpoint is None:
            self._checkpoint_manager.begin(checkpoints, start)
        if state.needs_migration and not assigned.offsets_left():
            self._migrate(assigned)
        log.info("partition taken", **where._asdict(), next_offset=start, live_from=state.live_from)
        if assigned.offsets_left():
            log.info("re-learning", **where._asdict(), records_left=assigned.offsets_left())
        return assigned

    def on_revoke(self, partitions: list[Partition]) -> None:
        """Commit once more while they are ours, write their checkpoints, then let go of them.

        Where that fails nothing is missing: the next owner starts at the committed offset, and
        re-learns more.
        """
        try:
            if not self._stopped:
                self._commit_once()
                self._write_checkpoints(partitions, REVOKE_TIMEOUT_S)
                self._commit_once()
        except Abortable as error:
            log.warning("last commit of revoked partitions failed", error=str(error))
        self._release("partition given back", partitions)

    def on_lost(self, partitions: list[Partition]) -> None:
        """Let go of partitions that others may already have: nothing of them is committed."""
        self._release("partition lost", partitions)

    def _release(self, event: str, partitions: list[Partition]) -> None:
        self._outbox.drop(partitions)
        for where in partitions:
            assigned = self._assignment.pop(where, None)
            if assigned is not None:
                assigned.checkpoints.gone = True
                self._checkpoint_manager.cancel(assigned.checkpoints)
                log.info(event, **where._asdict())

    # -- what is seen from outside ----------------------------------------------------------------

    def _publish_status(self) -> None:
        """Say that the loop turns; bring the metrics up to date, not more often than needed."""
        relearning = any(assigned.offsets_left() for assigned in self._assignment.values())
        self._health.beat("relearning" if relearning else "live" if self._joined else "joining")
        now = time.monotonic()
        if now - self._gc_at >= GC_INTERVAL_S:
            self._gc_at = now
            gc.collect()
        if self._assignment:
            self._unassigned_since = now
        elif now - self._unassigned_since >= UNASSIGNED_WARNING_S and not self._warned_unassigned:
            self._warned_unassigned = True
            log.warning(UNASSIGNED_WARNING, group=self._config.group)
        if now - self._metrics_at >= METRICS_INTERVAL_S:
            self._metrics_at = now
            self._publish_metrics()
        if relearning and now - self._progress_logged_at >= PROGRESS_INTERVAL_S:
            self._progress_logged_at = now
            for where, assigned in self._assignment.items():
                if assigned.offsets_left():
                    log.info(
                        "re-learning",
                        **where._asdict(),
                        records_left=assigned.offsets_left(),
                        seconds_left=round(assigned.seconds_left(), 1),
                    )

    def _publish_metrics(self) -> None:
        """Bring the metrics, and the reasons not to be ready, up to date."""
        observed = list(self._partition_status())
        problems = self._diagnostics.problems(one.counts for one in observed)
        offsets_left = sum(one.records_left for one in observed)
        relearning = [f"{offsets_left:,} records are left to re-learn"] if offsets_left else []
        self._health.input_problems = (*relearning, *self._diagnostics.reasons_not_ready(problems))
        configured = {log_name(each): each.partitions for each in self._logs.values()}
        of = metrics.PartitionCounts(configured, Counter(one.log_name for one in observed))
        own = metrics.worker_readings(of, [(one.of, one.kind) for one in problems])
        self._metrics.replace(own | metrics.partition_readings(observed, self._health.state))

    def _partition_status(self) -> Iterator[metrics.PartitionStatus]:
        for where, assigned in self._assignment.items():
            end = self._source.end_offset(where)
            yield metrics.PartitionStatus(
                log_name=log_name(assigned.log),
                partition=where.partition,
                counts=assigned.shard.counts(),
                records_left=assigned.offsets_left(),
                lag=max(0, end - assigned.next_offset) if end >= 0 else None,
                checkpoint_lag=assigned.next_offset - assigned.checkpoints.offset(),
                seconds_left=assigned.seconds_left(),
            )


def log_name(read: Log) -> str:
    """The name of a log in metrics."""
    return read.topic if read.internal else read.name


@contextmanager
def gc_disabled() -> Iterator[None]:
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
    allowed_drops: Collection[str] = (),
) -> None:
    """Check what can be checked, connect, and work until asked to stop.

    slot: stable name of this worker within its group; a restart under the same name takes over at
    once what its predecessor left open. stop_on_signal: called when there is something to finish;
    before, while the broker is being reached, a signal may end the process at once. drops: arguments
    of --drop-state. Raises EddyError.
    """
    if warning := secret_problem(config):
        log.warning(warning)
    metrics, health = MetricsCollector(), WorkerHealth()
    address = (config.worker.http_host, http_port)
    kafka = slot_properties(config.kafka, slot)
    with (
        serve_health(address, metrics, health),
        KafkaSource(kafka, config.group, health.beat, health.broker_answered) as source,
    ):
        # The client has accepted the values: none is a secret in place of another property's.
        log.info(
            "starting",
            group=config.group,
            slot=slot,
            mode=config.mode,
            kafka=printable_properties(config.kafka),
        )
        check_topics(config, existing_topics(config, TopicAdmin(kafka, health.beat)))
        objects = open_store(config.checkpoints.url)
        every = [Partition(log.topic, n) for log in logs(config) for n in range(log.partitions)]
        check_state_losses(config, source.committed(every), objects, allowed_drops)
        sink = KafkaSink(kafka, config.group, slot, health.beat)
        sink.open()
        Worker(config, source, sink, run, metrics, health, allowed_drops).run(stop_on_signal())
    log.info("stopped")
