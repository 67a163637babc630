"""What passes between a worker and Kafka: batches in, records out, rebalances. Knows no client."""

from typing import NamedTuple, Protocol

from schemas.records import Records
from stream.kafka.positions import Partition


class PartitionBatch(NamedTuple):
    """The result of a poll for one partition.

    records: None where only next_offset moved. next_offset: where the next record may be. It is
    after the records, and after everything that no reader gets: transaction markers, aborted
    records, and the gaps that compaction leaves.
    """

    partition: Partition
    records: Records | None
    next_offset: int


class OutRecord(NamedTuple):
    """A record to publish: to its `partition`, or where that is None to the partition of its key."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]
    partition: int | None = None


class RebalanceListener(Protocol):
    """Called when the group's assignment changes: between two batches, never inside a transaction."""

    def on_assign(self, partitions: list[Partition]) -> dict[Partition, int]:
        """Take new partitions; return the offset at which to start reading each of them."""

    def on_revoke(self, partitions: list[Partition]) -> None:
        """Give partitions up: a last commit for them is still possible."""

    def on_lost(self, partitions: list[Partition]) -> None:
        """Give partitions up that another member may already own: commit nothing for them."""
