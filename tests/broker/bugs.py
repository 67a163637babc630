"""Bugs put into a worker on purpose, by replacing its functions in the process that runs it.

No option of the worker leads here. A suite that accepts a worker with one of these bugs would prove
nothing.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from stream.kafka.messages import OutRecord
from stream.kafka.positions import CommittedOffset, Membership, Partition
from stream.kafka.sink import KafkaSink
from stream.kafka.source import KafkaSource
from stream.runtime.assignment import AssignedPartition, Assignment
from stream.runtime.outbox import Outbox
from stream.runtime.worker import Worker


def _replace(owner: Any, name: str, by: Callable[..., Any]) -> None:
    assert hasattr(owner, name), f"{owner} has no {name}: nothing would be broken"
    setattr(owner, name, by)


def commit_before_produce() -> None:
    """Commit offsets in a transaction of their own, before the records."""
    transact = KafkaSink.transact

    def in_two(
        sink: KafkaSink,
        records: Iterable[OutRecord],
        positions: Mapping[Partition, CommittedOffset],
        membership: Membership,
    ) -> None:
        transact(sink, [], positions, membership)
        transact(sink, records, {}, membership)

    _replace(KafkaSink, "transact", in_two)


def skip_the_rewind() -> None:
    """Continue a state at the committed offset instead of its checkpoint's."""
    assigned_from = Assignment._assigned

    def without_rewind(assignment: Assignment, *arguments: Any) -> AssignedPartition:
        assigned = assigned_from(assignment, *arguments)
        assigned.next_offset = assigned.live_from
        return assigned

    _replace(Assignment, "_assigned", without_rewind)


def keep_the_outbox() -> None:
    """Keep the output of a lost partition in the outbox."""
    on_lost = Worker.on_lost

    def keep_on_lost(worker: Worker, partitions: list[Partition]) -> None:
        outbox, worker._outbox = worker._outbox, Outbox()
        on_lost(worker, partitions)
        worker._outbox = outbox

    _replace(Worker, "on_lost", keep_on_lost)


def commit_a_lost_partition() -> None:
    """Keep a lost partition assigned until its output is committed. Keeping only the outbox would
    fail the worker's own assertion."""
    on_lost, commit_once = Worker.on_lost, Worker._commit_once
    kept: list[Partition] = []

    def keep_on_lost(worker: Worker, partitions: list[Partition]) -> None:
        kept.extend(partitions)

    def commit_then_lose(worker: Worker) -> None:
        commit_once(worker)
        assert isinstance(worker._source, KafkaSource)
        lost = [where for where in kept if where not in worker._source._next_offsets]
        kept.clear()
        on_lost(worker, lost)

    _replace(Worker, "on_lost", keep_on_lost)
    _replace(Worker, "_commit_once", commit_then_lose)


BUGS: Final[dict[str, Callable[[], None]]] = {
    "commit before produce": commit_before_produce,
    "skip the rewind": skip_the_rewind,
    "keep the outbox": keep_the_outbox,
    "commit a lost partition": commit_a_lost_partition,
}
"""What a test may have broken, by name."""
