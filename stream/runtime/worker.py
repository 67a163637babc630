"""The worker's loop: poll its partitions, process the records, publish the output.

Output, dead letters and offsets are committed in one transaction, so that after any crash a
read_committed consumer sees each alert once. All learned state is in the shards; besides, the worker
holds only uncommitted output. It knows Kafka through the protocols in `stream.runtime.interfaces`.
"""

import gc
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from itertools import chain, count
from typing import Final

import structlog

from detectors.spec import seconds
from schemas.alerts import alert_record
from schemas.records import Records
from stream.checkpoints.manager import REVOKE_TIMEOUT_S
from stream.config import Config
from stream.errors import Abortable
from stream.inputs.diagnostics import InputDiagnostics
from stream.kafka.messages import OutRecord
from stream.kafka.positions import CommittedOffset, Partition
from stream.pipeline.alerting import RunInfo
from stream.pipeline.shard import ShardOutput
from stream.runtime.assignment import AssignedPartition, Assignment, split_at
from stream.runtime.interfaces import Sink, Source, Stop
from stream.runtime.outbox import Outbox
from stream.runtime.status import StatusPublisher
from stream.runtime.system import SYSTEM, System
from stream.telemetry.collector import MetricsCollector
from stream.telemetry.health import WorkerHealth

logger = structlog.stdlib.get_logger(__name__)

POLL_S: Final = 0.025
"""How long one turn waits for records; less where a commit is due earlier."""

CLIENT_TICK_S: Final = 0.001
"""Kafka's client rounds time-outs to whole milliseconds: shorter ones busy-loop."""

COMMIT_TIME_FRACTION_MAX: Final = 0.25
"""When caught up, the worker commits early if an alert is pending, but spends at most this share of
its time committing."""

COMMIT_RETRY_S: Final = 60.0
"""How long an aborted transaction is tried again before the worker ends."""

RETRY_PAUSE_MIN_S: Final = 0.05
RETRY_PAUSE_MAX_S: Final = 5.0
"""Pauses between two tries double, from the first to the second of these."""


class Worker:
    """Runs the shards of the partitions that the group assigns to it, until it is asked to stop."""

    def __init__(
        self,
        config: Config,
        source: Source,
        sink: Sink,
        run: RunInfo,
        metrics: MetricsCollector,
        health: WorkerHealth,
        allowed_drops: Collection[str] = (),
        system: System = SYSTEM,
    ) -> None:
        """allowed_drops: arguments of --drop-state."""
        self._config = config
        self._source = source
        self._sink = sink
        self._metrics = metrics
        self._health = health
        self._clock = system.clock
        self._commit_interval_s = seconds(config.worker.commit_interval)
        self._assignment = Assignment(config, source, run, metrics, health, system, allowed_drops)
        self._internal_topics = {
            log.name: log.topic for log in self._assignment.logs.values() if log.internal
        }
        self._outbox = Outbox()
        self._diagnostics = InputDiagnostics(config, metrics)
        self._status = StatusPublisher(
            config, source, self._assignment, self._diagnostics, metrics, health, system
        )
        self._alert_pending = self._more_available = False
        self._commit_took_s = 0.0
        self._commit_began_at = self._clock.monotonic()
        self._stopped = False

    def run(self, stop: Stop) -> None:
        """Poll, process, commit and take checkpoints until asked to stop.

        Then commit a last time, and write a checkpoint of every partition at that offset.
        """
        self._source.subscribe(list(self._assignment.logs), self)
        try:
            with gc_disabled():
                while not stop.is_set():
                    self._read()
                    if self._is_time_to_commit():
                        self._commit()
                        self._start_checkpoint()
                    self._status.publish()
                self._read()  # a transaction marker may follow the last full batch
            self._commit()
            self._write_checkpoints(list(self._assignment.partitions))
            self._commit()
        finally:
            self._stopped = True  # after an error, too, nothing more is committed
            self._assignment.manager.close()

    # -- reading ----------------------------------------------------------------------------------

    def _read(self) -> None:
        """Process what has arrived, and commit whenever the outbox is full.

        That bounds the outbox: to its limit and the output of one more batch. While a commit is
        tried again the consumer is paused and nothing is read (`Source.serve_rebalances`).
        """
        timeout_s = min(POLL_S, self._commit_due_in_s() + CLIENT_TICK_S)
        records_max = self._config.worker.batch_records
        batches = self._source.poll(records_max, timeout_s)
        self._more_available = sum(len(batch.records or ()) for batch in batches) >= records_max
        partitions = self._assignment.partitions
        for assigned, batch in [(partitions[batch.partition], batch) for batch in batches]:
            # While a commit was tried again, a rebalance may have taken the partition away, or
            # taken it away and given it back at an earlier offset.
            if partitions.get(batch.partition) is assigned:
                if batch.records is not None:
                    self._process(batch.partition, assigned, batch.records)
                self._advance(batch.partition, assigned, batch.next_offset)
                if self._outbox.is_full():
                    self._commit()

    def _process(self, partition: Partition, assigned: AssignedPartition, records: Records) -> None:
        for part in split_at(records, assigned.live_from):
            if assigned.checkpoints.state.needs_migration and part.offset[0] >= assigned.live_from:
                self._assignment.migrate(assigned)
            with self._metrics.timed("eddy_batch_seconds"):
                output = assigned.process(part)
            if output is not None:
                self._diagnostics.observe(assigned.log, part, output)
                self._outbox.add(partition, self._out_records(output), assigned.next_offset)
                self._alert_pending |= bool(output.alerts)
            elif assigned.offsets_left() == 0:
                self._end_relearning(partition, assigned)

    def _advance(self, partition: Partition, assigned: AssignedPartition, next_offset: int) -> None:
        """Move past transaction markers and gaps; the next commit or checkpoint includes that."""
        was_relearning = assigned.offsets_left() > 0
        assigned.next_offset = max(assigned.next_offset, next_offset)
        if was_relearning and not assigned.offsets_left():
            self._end_relearning(partition, assigned)

    def _end_relearning(self, partition: Partition, assigned: AssignedPartition) -> None:
        logger.info("re-learned", **partition._asdict(), next_offset=assigned.next_offset)
        if assigned.checkpoints.state.needs_migration:
            self._assignment.migrate(assigned)

    def _out_records(self, output: ShardOutput) -> Iterator[OutRecord]:
        outputs = self._config.outputs
        for alert in output.alerts:
            yield OutRecord(outputs.alerts, *alert_record(alert))
        for letter in output.dead_letters:
            yield OutRecord(outputs.dead_letters, *letter)
        for topic, key, record in output.output_records:
            yield OutRecord(topic, key, record, [])
        for name, partition, value in output.internal_records:
            yield OutRecord(self._internal_topics[name], None, value, [], partition)

    # -- committing -------------------------------------------------------------------------------

    def _is_time_to_commit(self) -> bool:
        return not self._commit_due_in_s() or self._outbox.is_full()

    def _commit_due_in_s(self) -> float:
        """Seconds until the next commit, counted from the start of the last one: counted from its
        end, its own duration would lengthen every interval."""
        interval_s = self._commit_interval_s
        if self._alert_pending and not self._more_available:
            interval_s = min(interval_s, self._commit_took_s / COMMIT_TIME_FRACTION_MAX)
        return max(0.0, self._commit_began_at + interval_s - self._clock.monotonic())

    def _commit(self) -> None:
        """Commit the outbox; after an abort, try again with the partitions that are still owned.

        Rebalances happen only between two tries. A rebalance removes the output of lost partitions from
        the outbox and renews the membership, without which brokers refuse the next try. Raises
        Abortable after COMMIT_RETRY_S.
        """
        give_up_at = self._clock.monotonic() + COMMIT_RETRY_S
        for attempt in count(1):
            try:
                self._commit_once()
            except Abortable as error:
                if self._clock.monotonic() >= give_up_at:
                    raise
                logger.warning("trying to commit again", attempt=attempt, error=str(error))
            else:
                return
            pause_s = min(RETRY_PAUSE_MAX_S, RETRY_PAUSE_MIN_S * 2.0 ** (attempt - 1))
            self._health.beat()
            self._source.serve_rebalances(pause_s)
            self._health.beat()

    def _commit_once(self) -> None:
        self._commit_began_at = self._clock.monotonic()
        offsets = self._offsets_to_commit()
        if offsets:
            records = chain.from_iterable(self._outbox.records.values())
            try:
                self._sink.transact(records, offsets, self._source.membership)
            except Abortable:
                self._metrics.add("eddy_aborts")
                raise
            self._outbox.clear()
            self._commit_took_s = self._clock.monotonic() - self._commit_began_at
            self._metrics.add("eddy_commits")
        self._alert_pending = False
        for partition, offset in offsets.items():
            assigned = self._assignment.partitions[partition]
            assigned.committed = offset.next_offset
            if assigned.checkpoints.mark_published():
                self._assignment.manager.collect(assigned.checkpoints)

    def _offsets_to_commit(self) -> dict[Partition, CommittedOffset]:
        """The offset to commit for each partition that has a new offset or a new checkpoint.

        Empty if neither output nor a checkpoint is pending: an offset that has only moved past
        transaction markers does not cause a commit; the next commit includes it.
        """
        partitions = self._assignment.partitions
        assert self._outbox.next_offsets.keys() <= partitions.keys(), "output of a lost partition"
        with_new_checkpoint = {
            partition
            for partition, assigned in partitions.items()
            if assigned.must_publish_checkpoint()
        }
        if not (self._outbox.next_offsets or with_new_checkpoint):
            return {}
        return {
            partition: CommittedOffset(assigned.offset_to_commit(), assigned.checkpoints.metadata())
            for partition, assigned in partitions.items()
            if assigned.has_new_offset() or partition in with_new_checkpoint
        }

    # -- checkpoints ------------------------------------------------------------------------------

    def _start_checkpoint(self) -> None:
        """Start writing the state that a restart would take longest to re-learn, if any is due."""
        manager = self._assignment.manager
        if not manager.is_idle():
            return
        due = [
            (assigned.next_offset - assigned.checkpoints.offset(), partition)
            for partition, assigned in self._assignment.partitions.items()
            if self._can_checkpoint(partition)
            and manager.is_due(assigned.checkpoints, assigned.next_offset)
        ]
        if due:
            assigned = self._assignment.partitions[max(due)[1]]
            manager.start(assigned.checkpoints, assigned.next_offset)

    def _write_checkpoints(
        self, partitions: list[Partition], within_s: float | None = None
    ) -> None:
        """Write the states of partitions that this worker gives up, all within so many seconds."""
        clock = self._clock
        deadline = None if within_s is None else clock.monotonic() + within_s
        for partition in partitions:
            assigned = self._assignment.partitions[partition]
            left_s = None if deadline is None else max(0.0, deadline - clock.monotonic())
            if (
                self._can_checkpoint(partition)
                and assigned.checkpoints.offset() < assigned.next_offset
            ):
                self._assignment.manager.write_now(
                    assigned.checkpoints, assigned.next_offset, left_s
                )

    def _can_checkpoint(self, partition: Partition) -> bool:
        """Whether a checkpoint of the partition may be taken: only when all output of the records in its
        state is committed, and it is not re-learning."""
        assigned = self._assignment.partitions[partition]
        return partition not in self._outbox.next_offsets and not assigned.offsets_left()

    # -- rebalances: called by the source between two batches, never inside a transaction ---------

    def on_assign(self, partitions: list[Partition]) -> dict[Partition, int]:
        """Load or create the state of each; reading starts at its checkpoint."""
        self._status.joined()
        return self._assignment.acquire(partitions)

    def on_revoke(self, partitions: list[Partition]) -> None:
        """Commit and write checkpoints while the partitions are still owned, then release them.

        Where that fails nothing is lost: the next owner starts at the committed offset, and
        re-learns more.
        """
        try:
            if not self._stopped:
                self._commit_once()
                self._write_checkpoints(partitions, REVOKE_TIMEOUT_S)
                self._commit_once()
        except Abortable as error:
            logger.warning("last commit of revoked partitions failed", error=str(error))
        self._release("partition revoked", partitions)

    def on_lost(self, partitions: list[Partition]) -> None:
        """Release partitions that another member may own already, without a commit."""
        self._release("partition lost", partitions)

    def _release(self, event: str, partitions: list[Partition]) -> None:
        self._outbox.drop(partitions)
        self._assignment.release(event, partitions)


@contextmanager
def gc_disabled() -> Iterator[None]:
    """Disable automatic collection of cyclic garbage; the block collects explicitly.

    A batch allocates ten thousand objects but no cycles. Automatic collection is triggered by the number of
    allocations and would scan the compiler's hundred thousand objects each time: a sixth of the
    worker's time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
