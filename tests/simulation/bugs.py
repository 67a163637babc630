"""Ten bugs, each put into the worker for the length of a block; the simulation must find each.

A bug replaces one function of the worker, of its checkpoints or of a stage. The reference run is
made without it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final
from unittest.mock import patch

import numpy as np

from detectors.models.half_space_trees import HalfSpaceTrees
from detectors.state import Arrays
from schemas.records import Records
from stream.checkpoints.manager import PartitionCheckpoints
from stream.checkpoints.manifest import Pointer, commit_metadata
from stream.errors import Abortable, Fenced
from stream.kafka.messages import OutRecord
from stream.kafka.positions import CommittedOffset, Membership, Partition
from stream.pipeline.stages.recent_events import RecentEvents
from stream.runtime import worker as worker_module
from stream.runtime.assignment import AssignedPartition, Assignment, split_at
from stream.runtime.outbox import Outbox
from stream.runtime.worker import Worker
from tests.simulation.sink import MemorySink
from tests.simulation.source import MemorySource

Bug = Callable[[], AbstractContextManager[object]]


def commit_before_produce() -> AbstractContextManager[object]:
    """Offsets are committed in a transaction of their own, before the records they belong to."""
    transact = MemorySink.transact

    def in_two(
        sink: MemorySink,
        records: Iterable[OutRecord],
        offsets: Mapping[Partition, CommittedOffset],
        membership: Membership,
    ) -> None:
        transact(sink, [], offsets, membership)
        transact(sink, records, {}, membership)

    return patch.object(MemorySink, "transact", in_two)


@contextmanager
def commit_a_lost_partition() -> Iterator[None]:
    """A partition that is lost stays assigned, with its output, until the next commit."""
    on_lost, commit_once = Worker.on_lost, Worker._commit_once
    kept: dict[int, list[Partition]] = {}

    def keep(worker: Worker, partitions: list[Partition]) -> None:
        kept.setdefault(id(worker), []).extend(partitions)

    def commit_then_lose(worker: Worker) -> None:
        commit_once(worker)
        assert isinstance(worker._source, MemorySource)
        owned = worker._source.next_offsets()
        on_lost(worker, [one for one in kept.pop(id(worker), []) if one not in owned])

    with (
        patch.object(Worker, "on_lost", keep),
        patch.object(Worker, "_commit_once", commit_then_lose),
    ):
        yield


def skip_the_rewind() -> AbstractContextManager[object]:
    """A state from a checkpoint continues at the committed offset instead of its own."""
    assigned_from = Assignment._assigned

    def without_rewind(assignment: Assignment, *arguments: Any) -> AssignedPartition:
        assigned = assigned_from(assignment, *arguments)
        assigned.next_offset = assigned.live_from
        return assigned

    return patch.object(Assignment, "_assigned", without_rewind)


def publish_one_record_late() -> AbstractContextManager[object]:
    """The first record after re-learning counts as re-learned, so that its output is dropped."""

    def late(records: Records, live_from: int) -> Iterator[Records]:
        return split_at(records, live_from + 1)

    return patch.object(worker_module, "split_at", late)


def keep_the_outbox() -> AbstractContextManager[object]:
    """The output of a partition stays in the outbox when the partition is lost."""
    on_lost = Worker.on_lost

    def keep(worker: Worker, partitions: list[Partition]) -> None:
        outbox, worker._outbox = worker._outbox, Outbox()
        on_lost(worker, partitions)
        worker._outbox = outbox

    return patch.object(Worker, "on_lost", keep)


def name_a_former_checkpoint() -> AbstractContextManager[object]:
    """A commit names the checkpoint before the one that it should name."""

    def stale(checkpoints: PartitionCheckpoints) -> str:
        head = checkpoints.state.head
        name = [*checkpoints.published, checkpoints.unpublished or ""][0]
        return commit_metadata(Pointer(head.first_offset, head.fingerprint, name))

    return patch.object(PartitionCheckpoints, "metadata", stale)


def forget_recent_events() -> AbstractContextManager[object]:
    """The memory of recent events is not part of what a checkpoint restores."""

    def load_nothing(recent: RecentEvents, state: Arrays) -> None:
        del recent, state

    return patch.object(RecentEvents, "load", load_nothing)


def rewind_after_an_abort() -> AbstractContextManager[object]:
    """After an aborted transaction the records since the last commit are read again, into a state
    that has seen them."""
    commit_once = Worker._commit_once

    def rewinding(worker: Worker) -> None:
        try:
            commit_once(worker)
        except Abortable:
            assert isinstance(worker._source, MemorySource)
            worker._outbox.clear()
            for partition, assigned in worker._assignment.partitions.items():
                offset = assigned.live_from if assigned.committed is None else assigned.committed
                if worker._source.seek(partition, offset):
                    assigned.next_offset = offset
            raise

    return patch.object(Worker, "_commit_once", rewinding)


def go_on_when_fenced() -> AbstractContextManager[object]:
    """A producer that is fenced takes its transaction for committed."""
    transact = MemorySink.transact

    def ignoring(sink: MemorySink, *arguments: Any) -> None:
        try:
            transact(sink, *arguments)
        except Fenced:
            return

    return patch.object(MemorySink, "transact", ignoring)


def count_a_refresh_outside_the_state() -> AbstractContextManager[object]:
    """The events after which a tree's masses are refreshed are counted anew by each process."""
    load = HalfSpaceTrees.load

    def without_count(trees: HalfSpaceTrees, state: Arrays) -> None:
        load(trees, state)
        trees.masses.learned[:] = np.zeros_like(trees.masses.learned)

    return patch.object(HalfSpaceTrees, "load", without_count)


BUGS: Final[dict[str, Bug]] = {
    "commit before produce": commit_before_produce,
    "commit of a lost partition": commit_a_lost_partition,
    "skipped rewind": skip_the_rewind,
    "off by one at the live boundary": publish_one_record_late,
    "outbox kept after loss": keep_the_outbox,
    "stale checkpoint pointer": name_a_former_checkpoint,
    "duplicate memory left out of the state": forget_recent_events,
    "an abort that rewinds": rewind_after_an_abort,
    "a fenced producer that goes on": go_on_when_fenced,
    "a refresh counted outside the state": count_a_refresh_outside_the_state,
}
"""Each bug by the name under which it is reported."""
