"""Keeps the checkpoints of the partitions in hand: when one is due, who writes it, which are named.

All writing and collecting is done by one thread, one after the other, so that a worker never holds
two states still at a time. A checkpoint that cannot be written is logged, counted and tried again;
only when a restart would have more to re-learn than `rewind_records_max` is it an error.
"""

import math
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from threading import Event
from typing import Final

import msgspec
import structlog

from detectors.spec import seconds
from stream.checkpoints.manifest import Pointer, commit_metadata, offset_of
from stream.checkpoints.recovery import RecoveredState
from stream.checkpoints.snapshot import Snapshot
from stream.checkpoints.store import CHECKPOINTS_KEPT, Folder
from stream.checkpoints.writing import WrittenCheckpoint, write
from stream.config import CheckpointsSpec
from stream.errors import CheckpointIncompatible, StoreFailure
from stream.telemetry.metrics import MetricsCollector

log = structlog.stdlib.get_logger(__name__)

DUE_FRACTION: Final = 3
"""A checkpoint is due when a restart would re-learn one of so many parts of the bound: seldom enough
that writing a gigabyte costs less than a tenth of full speed, with time for more than one that
fails."""

RETRY_S: Final = 15.0
"""After a failure the next try waits so long."""

BEAT_INTERVAL_S: Final = 1.0
"""How often the worker says that it is alive while a state is written."""

REVOKE_TIMEOUT_S: Final = 10.0
"""How long giving partitions away may wait for their checkpoints: the whole group waits with us.
One that takes longer is dropped, and the next owner re-learns from the one before."""


@dataclass(slots=True)
class PartitionCheckpoints:
    """A partition's state and its checkpoints.

    published: the names that committed offsets carried last, newest first. ready: one that is whole
    in the store and that the next commit is to name. gone: the partition is no longer ours.
    """

    folder: Folder
    state: RecoveredState
    published: list[str] = field(default_factory=list)
    to_name: str | None = None
    taken_at: float = field(default_factory=time.monotonic)
    not_before: float = 0.0
    gone: bool = False

    def offset(self) -> int:
        """Of the checkpoint that the next commit names: where a restart would begin."""
        return offset_of(self.to_name or self.published[0])

    def metadata(self) -> str:
        """What stands beside every offset that is committed for the partition."""
        head = self.state.head
        name = self.to_name or self.published[0]
        return commit_metadata(Pointer(head.first_offset, head.fingerprint, name))

    def publish(self) -> bool:
        """Take note that an offset with this note is committed; whether it names another checkpoint
        than the one before."""
        if self.to_name is None:
            return False
        self.published = [self.to_name, *self.published][:CHECKPOINTS_KEPT]
        self.to_name = None
        return True


@dataclass(slots=True)
class _Job:
    checkpoints: PartitionCheckpoints
    offset: int
    snapshot: Snapshot
    cancelled: Event
    written: Future[WrittenCheckpoint | None]


class CheckpointManager:
    """Writes the checkpoints of a worker. Not for more than one thread."""

    def __init__(
        self,
        spec: CheckpointsSpec,
        metrics: MetricsCollector,
        now: Callable[[], str],
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        """now: the wall clock; beat: called while a state is written and nothing else is done."""
        self._rewind_max = spec.rewind_records_max
        self._interval_s = seconds(spec.interval)
        self._metrics = metrics
        self._now = now
        self._beat = beat
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._job: _Job | None = None

    def idle(self) -> bool:
        """Whether no checkpoint is being written; what became of the last one is known."""
        if self._job is None or not self._job.written.done():
            return self._job is None
        job, self._job = self._job, None
        job.checkpoints.state.shard.on_write(None)
        self._finish(job)
        return True

    def due(self, checkpoints: PartitionCheckpoints, offset: int) -> bool:
        """Whether the state, which is at that offset, should be written now."""
        behind, now = offset - checkpoints.offset(), time.monotonic()
        if behind <= 0 or now < checkpoints.not_before:
            return False
        return (
            behind * DUE_FRACTION >= self._rewind_max
            or now - checkpoints.taken_at >= self._interval_s
        )

    def take(self, checkpoints: PartitionCheckpoints, offset: int) -> None:
        """Begin to write the state, which is at that offset and between two batches."""
        assert self._job is None
        shard = checkpoints.state.shard
        snapshot = Snapshot(shard.save(), shard.hooked_arrays())
        shard.on_write(snapshot.before_write)
        self._job = self._submit(checkpoints, offset, snapshot)

    def take_now(
        self, checkpoints: PartitionCheckpoints, offset: int, within_s: float | None = None
    ) -> None:
        """Write the state while nothing else is done, or give up when that takes too long.

        What is being written just now is given up for it: its partition is due again soon.
        """
        if self._job is not None:
            self.cancel(self._job.checkpoints)
        snapshot = Snapshot(state := checkpoints.state.shard.save(), set(state))
        job = self._submit(checkpoints, offset, snapshot)
        until = math.inf if within_s is None else time.monotonic() + within_s
        while not wait(
            [job.written], min(BEAT_INTERVAL_S, max(0.0, until - time.monotonic()))
        ).done:
            self._beat()
            if time.monotonic() >= until:
                job.cancelled.set()
                log.warning(
                    "checkpoint dropped: it took too long",
                    **_log_fields(checkpoints),
                    offset=offset,
                )
                return
        self._finish(job)

    def begin(self, checkpoints: PartitionCheckpoints, offset: int) -> None:
        """Write the first checkpoint of a state that has none. Raises StoreFailure."""
        former = checkpoints.to_name  # of a state that this one takes the place of
        self.take_now(checkpoints, offset)
        if checkpoints.to_name == former:
            raise StoreFailure(
                f"{checkpoints.folder.path}: the state has no checkpoint to begin with"
            )

    def cancel(self, checkpoints: PartitionCheckpoints) -> None:
        """Write no more of the partition; what is written already serves the next try."""
        if self._job is not None and self._job.checkpoints is checkpoints:
            job, self._job = self._job, None
            job.cancelled.set()
            checkpoints.state.shard.on_write(None)

    def collect(self, checkpoints: PartitionCheckpoints) -> None:
        """Remove what the checkpoints that are published now make superfluous."""
        published, protected = list(checkpoints.published), list(checkpoints.state.head.dropped)
        self._thread.submit(_collect, checkpoints, published, protected)

    def close(self) -> None:
        """Give up what is being written, and end the thread."""
        if self._job is not None:
            self.cancel(self._job.checkpoints)
        self._thread.shutdown(cancel_futures=True)

    def _submit(self, checkpoints: PartitionCheckpoints, offset: int, snapshot: Snapshot) -> _Job:
        head = msgspec.structs.replace(
            checkpoints.state.head, offset=offset, created_at=self._now()
        )
        cancelled = Event()
        checkpoints.taken_at = time.monotonic()
        written = self._thread.submit(
            write, checkpoints.folder, head, snapshot, lambda: not cancelled.is_set()
        )
        return _Job(checkpoints, offset, snapshot, cancelled, written)

    def _finish(self, job: _Job) -> None:
        """Take note of a checkpoint that is written, or of why it is not."""
        checkpoints = job.checkpoints
        try:
            written = job.written.result()
        except StoreFailure as error:
            self._metrics.add("eddy_checkpoint_failures")
            log.error(  # noqa: TRY400 - the error says all without a traceback
                "checkpoint failed",
                **_log_fields(checkpoints),
                error=error.message,
                remedy=error.remedy,
            )
            checkpoints.not_before = time.monotonic() + RETRY_S
            if checkpoints.published and job.offset - checkpoints.offset() > self._rewind_max:
                raise StoreFailure(
                    f"{error.message}; a restart would already re-learn {job.offset - checkpoints.offset()} "
                    f"offsets, and checkpoints.rewind_records_max is {self._rewind_max}"
                ) from error
            return
        assert written is not None, "given up, and yet asked for"
        checkpoints.to_name = written.name
        self._metrics.add("eddy_checkpoints")
        self._metrics.add("eddy_checkpoint_bytes", written.written_bytes)
        log.info(
            "checkpoint written",
            **_log_fields(checkpoints),
            checkpoint=written.name,
            seconds=round(time.monotonic() - checkpoints.taken_at, 3),
            state_bytes=written.state_bytes,
            written_bytes=written.written_bytes,
            written_blocks=written.written_blocks,
            copied_bytes=job.snapshot.copied_bytes,
        )


def _collect(checkpoints: PartitionCheckpoints, published: list[str], protected: list[str]) -> None:
    try:
        removed = checkpoints.folder.collect(published, lambda: not checkpoints.gone, protected)
    except (StoreFailure, CheckpointIncompatible) as error:
        log.warning("old checkpoints stay for now", **_log_fields(checkpoints), error=error.message)
    else:
        log.debug("old checkpoints removed", **_log_fields(checkpoints), blocks=removed)


def _log_fields(checkpoints: PartitionCheckpoints) -> dict[str, str | int]:
    return {
        "topic": checkpoints.state.head.log.topic,
        "partition": checkpoints.state.head.partition,
    }
