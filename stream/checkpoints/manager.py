"""Decides when a partition's checkpoint is due, has it written, and publishes its name with the next commit.

One executor thread writes and removes checkpoints, one after the other, so that a worker never holds
two snapshots at a time. A checkpoint that cannot be written is logged, counted and tried again; it
is an error only once a restart would have more to re-learn than `rewind_records_max`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import msgspec
import structlog

from detectors.spec import seconds
from stream.checkpoints.manifest import Pointer, commit_metadata, offset_of
from stream.checkpoints.recovered import RecoveredState
from stream.checkpoints.snapshot import Snapshot
from stream.checkpoints.store import CHECKPOINTS_KEPT, Folder
from stream.checkpoints.writing import WrittenCheckpoint, write
from stream.clock import SYSTEM_CLOCK, Clock
from stream.config import CheckpointsSpec
from stream.errors import CheckpointIncompatible, StoreFailure
from stream.executor import ExecutorFactory, Task, ThreadExecutor
from stream.telemetry.collector import MetricsCollector

logger = structlog.stdlib.get_logger(__name__)

DUE_DIVISOR: Final = 3
"""A checkpoint is due when a restart would re-learn `rewind_records_max` / DUE_DIVISOR records: writing
a gigabyte then costs less than a tenth of full speed, and there is time for several tries."""

RETRY_S: Final = 15.0
"""How long to wait after a failure."""

BEAT_INTERVAL_S: Final = 1.0
"""How often the worker beats while it waits for a checkpoint."""

REVOKE_TIMEOUT_S: Final = 10.0
"""How long checkpoints of revoked partitions may take: the whole group waits. One that takes longer
is dropped, and the next owner re-learns from the one before."""


@dataclass(slots=True)
class PartitionCheckpoints:
    """The state of a partition, and its checkpoints.

    taken_at: when the last snapshot was taken. published: the last checkpoints whose names were
    committed, newest first. unpublished: a written checkpoint whose name the next commit includes in
    the metadata. released: the worker no longer owns the partition.
    """

    folder: Folder
    state: RecoveredState
    taken_at: float
    published: list[str] = field(default_factory=list)
    unpublished: str | None = None
    not_before: float = 0.0
    released: bool = False

    def offset(self) -> int:
        """The offset of the checkpoint that the next commit names: where a restart would start."""
        return offset_of(self.unpublished or self.published[0])

    def metadata(self) -> str:
        """The metadata to commit with every offset of the partition."""
        head = self.state.head
        name = self.unpublished or self.published[0]
        return commit_metadata(Pointer(head.first_offset, head.fingerprint, name))

    def mark_published(self) -> bool:
        """Record that the metadata is committed; return whether it published a new checkpoint."""
        if self.unpublished is None:
            return False
        self.published = [self.unpublished, *self.published][:CHECKPOINTS_KEPT]
        self.unpublished = None
        return True


@dataclass(slots=True)
class _Job:
    """A checkpoint that is being written."""

    checkpoints: PartitionCheckpoints
    offset: int
    snapshot: Snapshot
    cancelled: bool = False


class CheckpointManager:
    """Writes the checkpoints of a worker. Not thread-safe."""

    def __init__(
        self,
        spec: CheckpointsSpec,
        metrics: MetricsCollector,
        clock: Clock = SYSTEM_CLOCK,
        executors: ExecutorFactory = ThreadExecutor,
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        """beat: called while the worker waits for a checkpoint."""
        self._rewind_max = spec.rewind_records_max
        self._interval_s = seconds(spec.interval)
        self._metrics = metrics
        self._clock = clock
        self._executors = executors
        self._executor = executors(1, "checkpoint")
        self._beat = beat
        self._job: _Job | None = None
        self._task: Task[WrittenCheckpoint | None] | None = None

    def is_idle(self) -> bool:
        """Whether no checkpoint is being written; finishes the last one."""
        if self._job is None or self._task is None or not self._task.done():
            return self._job is None
        job, task = self._job, self._task
        self._job = None
        job.checkpoints.state.shard.set_write_hook(None)
        self._finish(job, task)
        return True

    def is_due(self, checkpoints: PartitionCheckpoints, offset: int) -> bool:
        """Whether to write the state now; offset: the state's."""
        to_relearn, now = offset - checkpoints.offset(), self._clock.monotonic()
        if to_relearn <= 0 or now < checkpoints.not_before:
            return False
        return (
            to_relearn * DUE_DIVISOR >= self._rewind_max
            or now - checkpoints.taken_at >= self._interval_s
        )

    def start(self, checkpoints: PartitionCheckpoints, offset: int) -> None:
        """Start writing the state in the background. Call it between two batches.

        offset: the state's.
        """
        assert self._job is None
        shard = checkpoints.state.shard
        snapshot = Snapshot(shard.save(), shard.copy_on_write_arrays())
        shard.set_write_hook(snapshot.before_write)
        self._job = _Job(checkpoints, offset, snapshot)
        self._task = self._submit(self._job)

    def write_now(
        self, checkpoints: PartitionCheckpoints, offset: int, within_s: float | None = None
    ) -> None:
        """Write the state and wait for it, or drop it when the time is over.

        A checkpoint that is being written is cancelled: it is due again soon.
        """
        if self._job is not None:
            self.cancel(self._job.checkpoints)
        snapshot = Snapshot(state := checkpoints.state.shard.save(), set(state))
        job = _Job(checkpoints, offset, snapshot)
        task = self._submit(job)
        clock = self._clock
        deadline = math.inf if within_s is None else clock.monotonic() + within_s
        while not self._executor.wait(
            task, min(BEAT_INTERVAL_S, max(0.0, deadline - clock.monotonic()))
        ):
            self._beat()
            if clock.monotonic() >= deadline:
                job.cancelled = True
                logger.warning("checkpoint dropped: it took too long", **_log_fields(job))
                return
        self._finish(job, task)

    def write_first(self, checkpoints: PartitionCheckpoints, offset: int) -> None:
        """Write the first checkpoint of a new state. Raises StoreFailure."""
        previous = checkpoints.unpublished  # of a state that this one replaces
        self.write_now(checkpoints, offset)
        if checkpoints.unpublished == previous:
            path = checkpoints.folder.path
            raise StoreFailure(f"{path}: the first checkpoint of the state could not be written")

    def cancel(self, checkpoints: PartitionCheckpoints) -> None:
        """Stop writing the partition's checkpoint; the next try does not repeat written blocks."""
        if self._job is not None and self._job.checkpoints is checkpoints:
            job, self._job = self._job, None
            job.cancelled = True
            checkpoints.state.shard.set_write_hook(None)

    def collect(self, checkpoints: PartitionCheckpoints) -> None:
        """Remove, in the background, the checkpoints that the published ones replace."""
        published, protected = list(checkpoints.published), list(checkpoints.state.head.dropped)
        self._executor.submit(_collect, checkpoints, published, protected)

    def close(self) -> None:
        """Cancel what is being written, and end the executor."""
        if self._job is not None:
            self.cancel(self._job.checkpoints)
        self._executor.shutdown(cancel=True)

    def _submit(self, job: _Job) -> Task[WrittenCheckpoint | None]:
        checkpoints = job.checkpoints
        head = msgspec.structs.replace(
            checkpoints.state.head, offset=job.offset, created_at=self._clock.now_text()
        )
        checkpoints.taken_at = self._clock.monotonic()
        return self._executor.submit(
            write,
            *(checkpoints.folder, head, job.snapshot),
            *(lambda: not job.cancelled, self._executors),
        )

    def _finish(self, job: _Job, task: Task[WrittenCheckpoint | None]) -> None:
        """Record a written checkpoint, or handle its failure."""
        checkpoints = job.checkpoints
        try:
            written = task.result()
        except StoreFailure as error:
            self._fail(job, error)
            return
        assert written is not None, "the result of a cancelled checkpoint"
        checkpoints.unpublished = written.name
        self._metrics.add("eddy_checkpoints")
        self._metrics.add("eddy_checkpoint_bytes", written.written_bytes)
        logger.info(
            "checkpoint written",
            **_log_fields(job),
            checkpoint=written.name,
            seconds=round(self._clock.monotonic() - checkpoints.taken_at, 3),
            state_bytes=written.state_bytes,
            written_bytes=written.written_bytes,
            written_blocks=written.written_blocks,
            copied_bytes=job.snapshot.copied_bytes,
        )

    def _fail(self, job: _Job, error: StoreFailure) -> None:
        """Count the failure. Raises StoreFailure where a restart would have too much to re-learn."""
        checkpoints = job.checkpoints
        self._metrics.add("eddy_checkpoint_failures")
        logger.error(
            "checkpoint failed", **_log_fields(job), error=error.message, remedy=error.remedy
        )
        checkpoints.not_before = self._clock.monotonic() + RETRY_S
        if not checkpoints.published:
            return
        to_relearn = job.offset - checkpoints.offset()
        if to_relearn > self._rewind_max:
            raise StoreFailure(
                f"{error.message}; a restart would already re-learn {to_relearn} offsets, and "
                f"checkpoints.rewind_records_max is {self._rewind_max}"
            ) from error


def _collect(checkpoints: PartitionCheckpoints, published: list[str], protected: list[str]) -> None:
    partition = _partition_fields(checkpoints)
    try:
        removed = checkpoints.folder.collect(published, lambda: not checkpoints.released, protected)
    except (StoreFailure, CheckpointIncompatible) as error:
        logger.warning("old checkpoints could not be removed", **partition, error=error.message)
    else:
        logger.debug("old checkpoints removed", **partition, blocks=removed)


def _log_fields(job: _Job) -> dict[str, str | int]:
    return {**_partition_fields(job.checkpoints), "offset": job.offset}


def _partition_fields(checkpoints: PartitionCheckpoints) -> dict[str, str | int]:
    head = checkpoints.state.head
    return {"topic": head.log.topic, "partition": head.partition}
