"""Output that is processed but not committed yet."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from stream.kafka.messages import OutRecord
from stream.kafka.positions import Partition

RECORDS_MAX: Final = 5_000
BYTES_MAX: Final = 16 * 1024 * 1024
"""A larger outbox is committed at once, however recent the last commit is."""


@dataclass(slots=True)
class Outbox:
    """Records to publish and next offsets, by the partition that they were made from."""

    records: dict[Partition, list[OutRecord]] = field(default_factory=dict)
    next_offsets: dict[Partition, int] = field(default_factory=dict)
    count: int = 0
    size_bytes: int = 0

    def add(self, partition: Partition, records: Iterable[OutRecord], next_offset: int) -> None:
        """Add records, and the next offset after the batch that they were made from."""
        assert next_offset > self.next_offsets.get(partition, -1), (partition, next_offset)
        pending = self.records.setdefault(partition, [])
        count_before = len(pending)
        pending.extend(records)
        self._count(pending[count_before:], 1)
        self.next_offsets[partition] = next_offset

    def drop(self, partitions: Iterable[Partition]) -> None:
        """Remove everything of partitions that this worker no longer owns."""
        for partition in partitions:
            self._count(self.records.pop(partition, []), -1)
            self.next_offsets.pop(partition, None)

    def clear(self) -> None:
        """Remove everything."""
        self.drop(list(self.next_offsets))

    def is_full(self) -> bool:
        """Whether it is time to commit, because of its size."""
        return self.count > RECORDS_MAX or self.size_bytes > BYTES_MAX

    def _count(self, records: Iterable[OutRecord], sign: int) -> None:
        for record in records:
            headers = sum(len(name) + len(body or b"") for name, body in record.headers)
            self.count += sign
            self.size_bytes += sign * (len(record.value or b"") + headers)
