"""The partitions that the group has assigned to this worker, each with its shard and checkpoints."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import structlog

from schemas.records import Records
from stream.checkpoints.manager import CheckpointManager, PartitionCheckpoints
from stream.checkpoints.recovered import RecoveredState, StartContext
from stream.checkpoints.recovery import recover
from stream.checkpoints.store import Folder, saved_folder
from stream.clock import Clock
from stream.config import Config
from stream.config.stage_graph import logs
from stream.config.topology import Log
from stream.errors import EddyError, PartitionCountChanged, StateWouldBeDropped
from stream.kafka.positions import CommittedOffset, Partition
from stream.pipeline.alerting import RunInfo
from stream.pipeline.shard import Shard, ShardOutput
from stream.runtime.interfaces import Source
from stream.runtime.system import System
from stream.telemetry.collector import MetricsCollector
from stream.telemetry.health import WorkerHealth

logger = structlog.stdlib.get_logger(__name__)


@dataclass(slots=True)
class AssignedPartition:
    """A partition of this worker: its shard, its position, and its checkpoints.

    next_offset: the offset of the next record, after everything that the shard has processed and
    the transaction markers, aborted records and compacted gaps that follow. committed: the group's
    committed offset, None where there is none. relearn_from, relearn_started_at: the offset and the
    time at which re-learning started.
    """

    log: Log
    checkpoints: PartitionCheckpoints
    next_offset: int
    committed: int | None
    clock: Clock
    relearn_from: int
    relearn_started_at: float

    @property
    def shard(self) -> Shard:
        """The state of the partition's stages."""
        return self.checkpoints.state.shard

    @property
    def live_from(self) -> int:
        """The first offset whose output is published; the shard re-learns earlier records."""
        return self.checkpoints.state.live_from

    def offset_to_commit(self) -> int:
        """The offset to commit; while re-learning, the committed one again."""
        return max(self.next_offset, self.live_from)

    def has_new_offset(self) -> bool:
        """Whether the offset to commit differs from the committed one."""
        return self.offset_to_commit() != (
            self.live_from if self.committed is None else self.committed
        )

    def must_publish_checkpoint(self) -> bool:
        """Whether to commit only to publish a new checkpoint; never before the first record is read."""
        return self.checkpoints.unpublished is not None and (
            self.committed is not None or self.has_new_offset()
        )

    def offsets_left(self) -> int:
        """Offsets still to re-learn; 0 when live."""
        return max(0, self.live_from - self.next_offset)

    def seconds_left(self) -> float:
        """Estimated time until it is live, from the rate of re-learning so far; 0 without one."""
        done = self.next_offset - self.relearn_from
        if not done:
            return 0.0
        return self.offsets_left() * (self.clock.monotonic() - self.relearn_started_at) / done

    def process(self, records: Records) -> ShardOutput | None:
        """Process the next records; return the output to publish, None while re-learning."""
        assert records.offset[0] >= self.next_offset, (records.topic, self.next_offset)
        if self.next_offset == self.relearn_from:  # the first batch: it may have waited in a queue
            self.relearn_started_at = self.clock.monotonic()
        self.next_offset = int(records.offset[-1]) + 1
        output = self.shard.process(records)
        return output if records.offset[0] >= self.live_from else None


def split_at(records: Records, live_from: int) -> Iterator[Records]:
    """Split records into those before that offset and the rest; empty parts are left out."""
    boundary = int(np.searchsorted(records.offset, live_from))
    for part in (records.slice(0, boundary), records.slice(boundary, len(records))):
        if len(part):
            yield part


class Assignment:
    """Takes partitions over, from their checkpoints, and releases them."""

    def __init__(
        self,
        config: Config,
        source: Source,
        run: RunInfo,
        metrics: MetricsCollector,
        health: WorkerHealth,
        system: System,
        allowed_drops: Collection[str],
    ) -> None:
        """allowed_drops: arguments of --drop-state."""
        self.partitions: dict[Partition, AssignedPartition] = {}
        self.logs = {log.topic: log for log in logs(config)}
        self.manager = CheckpointManager(
            config.checkpoints, metrics, system.clock, system.executors, health.beat
        )
        self._config = config
        self._source = source
        self._run = run
        self._metrics = metrics
        self._health = health
        self._system = system
        self._allowed_drops = allowed_drops
        self._store = system.open_store(config.checkpoints.url, "checkpoints.url")
        start_from = config.checkpoints.start_from
        self._saved_store = start_from and system.open_store(start_from, "checkpoints.start_from")

    def acquire(self, partitions: list[Partition]) -> dict[Partition, int]:
        """Load or create the state of each; return the offset at which to start reading.

        Raises PartitionCountChanged, and the errors of `recover`.
        """
        self._check_partition_count(partitions)
        # Nothing is written before the state of every partition is known to be usable.
        for partition, recovered in self._recover_all(partitions).items():
            self.partitions[partition] = self._assigned(partition, *recovered)
        return {partition: self.partitions[partition].next_offset for partition in partitions}

    def release(self, event: str, partitions: list[Partition]) -> None:
        """Remove partitions, and cancel their checkpoints that are being written. event: the log message."""
        for partition in partitions:
            assigned = self.partitions.pop(partition, None)
            if assigned is not None:
                assigned.checkpoints.released = True
                self.manager.cancel(assigned.checkpoints)
                logger.info(event, **partition._asdict())

    def migrate(self, assigned: AssignedPartition) -> None:
        """Move the state to this worker's configuration, and write its first checkpoint, which the
        next commit names."""
        state = assigned.checkpoints.state
        state.migrate(self._config, self._run)
        self.manager.write_first(assigned.checkpoints, state.live_from)

    def _check_partition_count(self, partitions: list[Partition]) -> None:
        """Raise PartitionCountChanged where a topic has grown, before anything of it is read."""
        for partition in partitions:
            expected = self.logs[partition.topic].partitions
            if partition.partition >= expected:
                raise PartitionCountChanged(
                    f"{partition}: the group assigned this partition, but the configuration has "
                    f"{expected} partitions for the topic: the topic has grown. Nothing of the "
                    "partition was read or committed"
                )

    def _recover_all(
        self, partitions: list[Partition]
    ) -> dict[Partition, tuple[Folder, CommittedOffset | None, RecoveredState]]:
        """Recover the state of each partition. Raises StateWouldBeDropped for all of them at once."""
        recovered: dict[Partition, tuple[Folder, CommittedOffset | None, RecoveredState]] = {}
        refused: list[str] = []
        for partition, committed in self._source.committed(partitions).items():
            folder = Folder(self._store, self._config.group, *partition)
            try:
                recovered[partition] = (folder, *self._recover(partition, committed, folder))
            except StateWouldBeDropped as error:
                refused += error.lines
        if refused:
            raise StateWouldBeDropped(refused)
        return recovered

    def _recover(
        self, partition: Partition, committed: CommittedOffset | None, folder: Folder
    ) -> tuple[CommittedOffset | None, RecoveredState]:
        """Recover the state at the committed offset.

        A worker that is suspended after it read that offset may find the checkpoints of another
        worker, which owned the partition meanwhile. So on an error the offset is read again, and
        the error is raised only if it has not changed.
        """
        while True:
            try:
                return committed, self._recover_once(partition, committed, folder)
            except EddyError as error:
                read_before, committed = committed, self._source.committed([partition])[partition]
                if committed == read_before:
                    raise
                logger.warning(
                    "another worker committed meanwhile: recovering again", error=str(error)
                )

    def _recover_once(
        self, partition: Partition, committed: CommittedOffset | None, folder: Folder
    ) -> RecoveredState:
        log = self.logs[partition.topic]
        low, high = self._source.offset_range(partition)
        saved = self._saved_store
        return recover(
            StartContext(
                config=self._config,
                run=self._run,
                log=log,
                partition=partition.partition,
                folder=folder,
                committed=committed,
                low=low,
                high=high,
                beat=self._health.beat,
                saved=saved_folder(saved, log, partition.partition) if saved else None,
                offset_at=partial(self._source.offset_at, partition),
                allowed_drops=self._allowed_drops,
                executors=self._system.executors,
            )
        )

    def _assigned(
        self,
        partition: Partition,
        folder: Folder,
        committed: CommittedOffset | None,
        state: RecoveredState,
    ) -> AssignedPartition:
        clock = self._system.clock
        start = state.head.offset
        assigned = AssignedPartition(
            log=self.logs[partition.topic],
            checkpoints=PartitionCheckpoints(folder, state, clock.monotonic()),
            next_offset=start,
            committed=committed.next_offset if committed else None,
            clock=clock,
            relearn_from=start,
            relearn_started_at=clock.monotonic(),
        )
        self._metrics.add("eddy_checkpoint_fallbacks", state.broken_checkpoints)
        if state.broken_checkpoints:
            assigned.checkpoints.unpublished = state.checkpoint
        elif state.checkpoint is not None:
            assigned.checkpoints.published = [state.checkpoint]
        if state.checkpoint is None:
            self.manager.write_first(assigned.checkpoints, start)
        if state.needs_migration and not assigned.offsets_left():
            self.migrate(assigned)
        log_fields = partition._asdict()
        logger.info("partition taken", **log_fields, next_offset=start, live_from=state.live_from)
        if assigned.offsets_left():
            logger.info("re-learning", **log_fields, offsets_left=assigned.offsets_left())
        return assigned
