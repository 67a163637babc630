"""The guarantee broken on purpose: functions of the worker replaced in the process that runs it.

No option of the worker's own leads here, as none leads to `tests.broker.dying`. A suite that finds
nothing wrong with a worker that is broken like this would prove nothing of one that is not.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from stream.kafka.positions import Committed, Membership, Partition
from stream.kafka.writing import OutRecord, Sink
from stream.worker import Holding, Outbox, Worker


def _replace(owner: Any, name: str, by: Callable[..., Any]) -> None:
    assert hasattr(owner, name), f"{owner} has no {name}: nothing would be broken"
    setattr(owner, name, by)


def commit_before_produce() -> None:
    """Offsets are committed in a transaction of their own, before the records that go with them."""
    transact = Sink.transact

    def in_two(
        sink: Sink,
        records: Iterable[OutRecord],
        positions: Mapping[Partition, Committed],
        membership: Membership,
    ) -> None:
        transact(sink, [], positions, membership)
        transact(sink, records, {}, membership)

    _replace(Sink, "transact", in_two)


def skip_the_rewind() -> None:
    """A state that was loaded from a checkpoint goes on at the committed offset, not at its own."""
    taken = Worker._taken

    def at_the_committed(worker: Worker, *found: Any) -> Holding:
        holding = taken(worker, *found)
        holding.next_offset = holding.live_from
        return holding

    _replace(Worker, "_taken", at_the_committed)


def keep_the_outbox() -> None:
    """What a partition's shard has emitted stays in the outbox when the partition is lost."""
    on_lost = Worker.on_lost

    def keeping(worker: Worker, partitions: list[Partition]) -> None:
        outbox, worker._outbox = worker._outbox, Outbox()
        on_lost(worker, partitions)
        worker._outbox = outbox

    _replace(Worker, "on_lost", keeping)


def commit_a_lost_partition() -> None:
    """The same, and the partition counts as ours until that is committed: by itself a full outbox
    is stopped by the worker's own assertion."""
    on_lost, commit_once = Worker.on_lost, Worker._commit_once
    kept: list[Partition] = []

    def keeping(worker: Worker, partitions: list[Partition]) -> None:
        kept.extend(partitions)

    def committing(worker: Worker) -> None:
        commit_once(worker)
        lost = [where for where in kept if where not in worker._source._owned]
        kept.clear()
        on_lost(worker, lost)

    _replace(Worker, "on_lost", keeping)
    _replace(Worker, "_commit_once", committing)


SABOTAGES: Final[dict[str, Callable[[], None]]] = {
    "commit before produce": commit_before_produce,
    "skip the rewind": skip_the_rewind,
    "keep the outbox": keep_the_outbox,
    "commit a lost partition": commit_a_lost_partition,
}
"""What a test may have broken, by name."""
