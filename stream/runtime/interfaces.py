"""What a worker needs of the outside world, as protocols.

`stream.kafka` implements `Source`, `Sink` and `Admin` with Kafka's client; the simulation in
`tests/simulation` implements them in memory.
"""

from collections.abc import Iterable, Mapping
from typing import Protocol

from stream.kafka.messages import OutRecord, PartitionBatch, RebalanceListener
from stream.kafka.positions import CommittedOffset, Membership, Partition


class Source(Protocol):
    """The worker's consumer in its group. Rebalances happen only inside `poll` and
    `serve_rebalances`."""

    @property
    def membership(self) -> Membership:
        """Proof of membership in the group's present generation, for commits."""

    def subscribe(self, topics: list[str], listener: RebalanceListener) -> None:
        """Join the group, and call the listener when the assignment changes."""

    def poll(self, records_max: int, timeout_s: float) -> list[PartitionBatch]:
        """Return what has arrived, at most so many records, one batch a partition.

        Wait for the whole time-out unless so many arrive earlier.
        """

    def serve_rebalances(self, seconds: float) -> None:
        """Wait, handling rebalances but reading no records."""

    def committed(self, partitions: list[Partition]) -> dict[Partition, CommittedOffset | None]:
        """The group's committed offset of each partition, None where there is none."""

    def offset_range(self, partition: Partition) -> tuple[int, int]:
        """The first offset of the partition, and the one after its last record, asked now."""

    def offset_at(self, partition: Partition, time_ms: int) -> int:
        """The offset of the first record whose broker time is that or later; the end of the
        partition where there is none."""

    def end_offset(self, partition: Partition) -> int:
        """The offset after the last record, as of the last fetch; negative where unknown."""


class Sink(Protocol):
    """The worker's producer: publishes records and commits offsets, both or neither."""

    def open(self) -> None:
        """Fence the slot's previous worker, and abort its open transaction."""

    def transact(
        self,
        records: Iterable[OutRecord],
        offsets: Mapping[Partition, CommittedOffset],
        membership: Membership,
    ) -> None:
        """Publish the records and commit the offsets in one transaction.

        After Abortable the same transaction may be tried again; any other error is final.
        """


class Admin(Protocol):
    """Looks up topics."""

    def partition_counts(self, topics: Iterable[str]) -> dict[str, int]:
        """Topic → number of partitions; a topic that does not exist is left out."""

    def settings(self, topic: str, names: Iterable[str]) -> dict[str, str]:
        """The topic's settings of these names, as the broker applies them."""


class Stop(Protocol):
    """Asks a worker to stop."""

    def is_set(self) -> bool:
        """Whether the worker should stop."""
