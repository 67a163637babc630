"""Partitions, committed offsets and group membership, independent of Kafka's client."""

from typing import NamedTuple


class Partition(NamedTuple):
    """One partition of a topic."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]"


class CommittedOffset(NamedTuple):
    """What a group has committed for a partition: the next offset to read, and the metadata with it."""

    next_offset: int
    metadata: str


class Membership(NamedTuple):
    """Identifies a member and generation of the group in a commit; opaque."""

    metadata: object
