"""A partition of the in-memory broker: records, transaction markers, and who may read what."""

from dataclasses import dataclass, field
from typing import Final

from stream.kafka.positions import Partition

OPEN, COMMITTED, ABORTED = range(3)
MARKER_VALUE: Final = b"a transaction marker"


@dataclass(slots=True, eq=False)
class Transaction:
    """One transaction of a producer. outcome: `OPEN` until its markers are to be written.

    unmarked: partitions whose marker is not written yet. offsets: those that it commits, each with
    its number among all that were ever added.
    """

    producer: str
    epoch: int
    began_at: float
    outcome: int = OPEN
    unmarked: set[Partition] = field(default_factory=set)
    offsets: dict[Partition, tuple[int, int, str]] = field(default_factory=dict)
    offsets_pending: bool = False

    def is_complete(self) -> bool:
        """Whether every marker is written and the offsets are in force, or dropped."""
        return self.outcome != OPEN and not (self.unmarked or self.offsets_pending)


@dataclass(slots=True, eq=False)
class Entry:
    """A record, or a transaction marker, at one offset. transaction: None of a plain producer."""

    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]
    timestamp_ms: int
    transaction: Transaction | None
    is_marker: bool = False


@dataclass(slots=True)
class PartitionLog:
    """All entries of a partition by offset, those before `start` deleted for readers.

    open_from: the first offset of each transaction that has no marker here yet.
    """

    place: Partition
    entries: list[Entry] = field(default_factory=list)
    start: int = 0
    open_from: dict[int, int] = field(default_factory=dict)

    def end(self) -> int:
        """The offset after the last entry."""
        return len(self.entries)

    def stable_end(self) -> int:
        """The last stable offset: where the first open transaction begins, else the end."""
        return min(self.open_from.values(), default=len(self.entries))

    def append(self, entry: Entry) -> None:
        """Add a record."""
        transaction = entry.transaction
        if transaction is not None and id(transaction) not in self.open_from:
            self.open_from[id(transaction)] = len(self.entries)
            transaction.unmarked.add(self.place)
        self.entries.append(entry)

    def mark(self, transaction: Transaction, timestamp_ms: int) -> None:
        """Write the marker that ends a transaction here. It takes an offset."""
        del self.open_from[id(transaction)]
        transaction.unmarked.remove(self.place)
        self.entries.append(Entry(None, MARKER_VALUE, [], timestamp_ms, transaction, True))

    def visible(self, first: int, count: int) -> tuple[list[tuple[int, Entry]], int]:
        """At most so many records that a read_committed reader sees from an offset on, and the
        offset after all that was passed, markers and aborted records included."""
        found: list[tuple[int, Entry]] = []
        offset, end = first, self.stable_end()
        while offset < end and len(found) < count:
            entry = self.entries[offset]
            if not entry.is_marker and (
                entry.transaction is None or entry.transaction.outcome == COMMITTED
            ):
                found.append((offset, entry))
            offset += 1
        if len(found) < count:
            offset = max(first, end)
        return found, offset

    def all_visible(self) -> list[tuple[int, Entry]]:
        """Every record that a read_committed reader could ever see, deleted ones included."""
        return self.visible(0, len(self.entries) + 1)[0]
