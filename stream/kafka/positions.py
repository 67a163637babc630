"""Where something stands in Kafka: partitions, committed offsets, who commits. Knows no client."""

from typing import NamedTuple


class Partition(NamedTuple):
    """One partition of a topic."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]"


class CommittedOffset(NamedTuple):
    """What a group has committed for a partition: the next offset to read, and a note with it."""

    next_offset: int
    metadata: str


class Membership(NamedTuple):
    """What a commit says of us to the group; opaque, taken when an assignment is accepted."""

    metadata: object
