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
from stream.checkpoints.manifest import Pointer, note, offset_of
from stream.checkpoints.recovery import Recovered
from stream.checkpoints.snapshot import Snapshot
from stream.checkpoints.store import KEPT, Folder
from stream.checkpoints.writing import Written, write
from stream.config import CheckpointsSpec
from stream.errors import CheckpointIncompatible, StoreFailure
from stream.metrics import Board

log = structlog.stdlib.get_logger(__name__)

DUE_SHARE: Final = 3
"""A checkpoint is due when a restart would re-learn one of so many parts of the bound: seldom enough
that writing a gigabyte costs less than a tenth of full speed, with time for more than one that
fails."""

RETRY_S: Final = 15.0
"""After a failure the next try waits so long."""

BEAT_S: Final = 1.0
"""How often the worker says that it is alive while a state is written."""

REVOKE_S: Final = 10.0
"""How long giving partitions away may wait for their checkpoints: the whole group waits with us.
One that takes longer is dropped, and the next owner re-learns from the one before."""


@dataclass(slots=True)
class Kept:
    """A partition's state and its checkpoints.

    published: the names that committed offsets carried last, newest first. ready: one that is whole
    in the store and that the next commit is to name. gone: the partition is no longer ours.
    """

    folder: Folder
    state: Recovered
    published: list[str] = field(default_factory=list)
    ready: str | None = None
    taken_at: float = field(default_factory=time.monotonic)
    not_before: float = 0.0
    gone: bool = False

    def offset(self) -> int:
        """Of the checkpoint that the next commit names: where a restart would begin."""
        return offset_of(self.ready or self.published[0])

    def note(self) -> str:
        """What stands beside every offset that is committed for the partition."""
        head = self.state.head
        name = self.ready or self.published[0]
        return note(Pointer(head.first_offset, head.fingerprint, name))

    def publish(self) -> bool:
        """Take note that an offset with this note is committed; whether it names another checkpoint
        than the one before."""
        if self.ready is None:
            return False
        self.published = [self.ready, *self.published][:KEPT]
        self.ready = None
        return True


@dataclass(slots=True)
class _Job:
    kept: Kept
    offset: int
    snapshot: Snapshot
    given_up: Event
    written: Future[Written | None]


class Keeper:
    """Writes the checkpoints of a worker. Not for more than one thread."""

    def __init__(
        self,
        spec: CheckpointsSpec,
        board: Board,
        now: Callable[[], str],
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        """now: the wall clock; beat: called while a state is written and nothing else is done."""
        self._rewind_max = spec.rewind_records_max
        self._interval_s = seconds(spec.interval)
        self._board = board
        self._now = now
        self._beat = beat
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._job: _Job | None = None

    def idle(self) -> bool:
        """Whether no checkpoint is being written; what became of the last one is known."""
        if self._job is None or not self._job.written.done():
            return self._job is None
        job, self._job = self._job, None
        job.kept.state.shard.announce(None)
        self._settle(job)
        return True

    def due(self, kept: Kept, offset: int) -> bool:
        """Whether the state, which is at that offset, should be written now."""
        behind, now = offset - kept.offset(), time.monotonic()
        if behind <= 0 or now < kept.not_before:
            return False
        return behind * DUE_SHARE >= self._rewind_max or now - kept.taken_at >= self._interval_s

    def take(self, kept: Kept, offset: int) -> None:
        """Begin to write the state, which is at that offset and between two batches."""
        assert self._job is None
        shard = kept.state.shard
        snapshot = Snapshot(shard.save(), shard.announced())
        shard.announce(snapshot.about_to_write)
        self._job = self._started(kept, offset, snapshot)

    def take_now(self, kept: Kept, offset: int, within_s: float | None = None) -> None:
        """Write the state while nothing else is done, or give up when that takes too long.

        What is being written just now is given up for it: its partition is due again soon.
        """
        if self._job is not None:
            self.give_up(self._job.kept)
        snapshot = Snapshot(state := kept.state.shard.save(), set(state))
        job = self._started(kept, offset, snapshot)
        until = math.inf if within_s is None else time.monotonic() + within_s
        while not wait([job.written], min(BEAT_S, max(0.0, until - time.monotonic()))).done:
            self._beat()
            if time.monotonic() >= until:
                job.given_up.set()
                log.warning("checkpoint dropped: it took too long", **_named(kept), offset=offset)
                return
        self._settle(job)

    def begin(self, kept: Kept, offset: int) -> None:
        """Write the first checkpoint of a state that has none. Raises StoreFailure."""
        former = kept.ready  # of a state that this one takes the place of
        self.take_now(kept, offset)
        if kept.ready == former:
            raise StoreFailure(f"{kept.folder.path}: the state has no checkpoint to begin with")

    def give_up(self, kept: Kept) -> None:
        """Write no more of the partition; what is written already serves the next try."""
        if self._job is not None and self._job.kept is kept:
            job, self._job = self._job, None
            job.given_up.set()
            kept.state.shard.announce(None)

    def collect(self, kept: Kept) -> None:
        """Remove what the checkpoints that are published now make superfluous."""
        published, spared = list(kept.published), list(kept.state.head.dropped)
        self._thread.submit(_collect, kept, published, spared)

    def close(self) -> None:
        """Give up what is being written, and end the thread."""
        if self._job is not None:
            self.give_up(self._job.kept)
        self._thread.shutdown(cancel_futures=True)

    def _started(self, kept: Kept, offset: int, snapshot: Snapshot) -> _Job:
        head = msgspec.structs.replace(kept.state.head, offset=offset, created_at=self._now())
        given_up = Event()
        kept.taken_at = time.monotonic()
        written = self._thread.submit(
            write, kept.folder, head, snapshot, lambda: not given_up.is_set()
        )
        return _Job(kept, offset, snapshot, given_up, written)

    def _settle(self, job: _Job) -> None:
        """Take note of a checkpoint that is written, or of why it is not."""
        kept = job.kept
        try:
            written = job.written.result()
        except StoreFailure as error:
            self._board.add("eddy_checkpoint_failures")
            log.error(  # noqa: TRY400 - the error says all without a traceback
                "checkpoint failed", **_named(kept), error=error.message, do=error.do
            )
            kept.not_before = time.monotonic() + RETRY_S
            if kept.published and job.offset - kept.offset() > self._rewind_max:
                raise StoreFailure(
                    f"{error.message}; a restart would already re-learn {job.offset - kept.offset()} "
                    f"offsets, and checkpoints.rewind_records_max is {self._rewind_max}"
                ) from error
            return
        assert written is not None, "given up, and yet asked for"
        kept.ready = written.name
        self._board.add("eddy_checkpoints")
        self._board.add("eddy_checkpoint_bytes", written.written_bytes)
        log.info(
            "checkpoint written",
            **_named(kept),
            checkpoint=written.name,
            seconds=round(time.monotonic() - kept.taken_at, 3),
            state_bytes=written.state_bytes,
            written_bytes=written.written_bytes,
            written_blocks=written.written_blocks,
            aside_bytes=job.snapshot.aside_bytes,
        )


def _collect(kept: Kept, published: list[str], spared: list[str]) -> None:
    try:
        removed = kept.folder.collect(published, lambda: not kept.gone, spared)
    except (StoreFailure, CheckpointIncompatible) as error:
        log.warning("old checkpoints stay for now", **_named(kept), error=error.message)
    else:
        log.debug("old checkpoints removed", **_named(kept), blocks=removed)


def _named(kept: Kept) -> dict[str, str | int]:
    return {"topic": kept.state.head.log.topic, "partition": kept.state.head.partition}
