"""The consumer with a scripted client: what a poll returns. Real clients, which cannot be made to
do these things at will, are in the broker tests."""

from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import Consumer, Message, TopicPartition

from stream.kafka.positions import Partition
from stream.kafka.source import KafkaSource

ONE, TWO = Partition("events", 0), Partition("events", 1)


class Client:
    """A scripted client: each `consume` first makes a scripted call, then returns messages."""

    def __init__(self) -> None:
        self.callbacks: dict[str, Callable[[Any, list[TopicPartition]], None]] = {}
        self.next: list[tuple[Callable[[], None], list[Message]]] = []
        self.positions: dict[Partition, int] = {}

    def subscribe(self, _: list[str], **callbacks: Callable[..., None]) -> None:
        """Remember what is called at rebalances."""
        self.callbacks = callbacks

    def consume(self, _records: int, _timeout_s: float) -> list[Message]:
        """The next that was set."""
        rebalance, messages = self.next.pop(0)
        rebalance()
        return messages

    def position(self, asked: list[TopicPartition]) -> list[TopicPartition]:
        """Those that were set; -1001, as the client has it, for others."""
        return [
            TopicPartition(
                one.topic, one.partition, self.positions.get(Partition(*_place(one)), -1001)
            )
            for one in asked
        ]

    def rebalance(self, what: str, *partitions: Partition) -> Callable[[], None]:
        """A step that calls one of the callbacks."""
        return lambda: self.callbacks[what](self, [TopicPartition(*one) for one in partitions])

    def incremental_assign(self, _: list[TopicPartition]) -> None:
        """Accepted."""

    def resume(self, _: list[TopicPartition]) -> None:
        """Accepted."""

    def consumer_group_metadata(self) -> None:
        """None."""


def _place(one: TopicPartition) -> tuple[str, int]:
    return one.topic, one.partition


class RebalanceListener:
    """Starts every partition at 5, and records released partitions."""

    def __init__(self) -> None:
        self.gone: list[tuple[str, list[Partition]]] = []

    def on_assign(self, partitions: list[Partition]) -> dict[Partition, int]:
        """All at 5."""
        return dict.fromkeys(partitions, 5)

    def on_revoke(self, partitions: list[Partition]) -> None:
        """Note it."""
        self.gone.append(("revoked", partitions))

    def on_lost(self, partitions: list[Partition]) -> None:
        """Note it."""
        self.gone.append(("lost", partitions))


def message(where: Partition, offset: int) -> Message:
    """A record."""
    return Message(*where, offset, b"key", b"value", timestamp=(1, 0))


class Joined:
    """A source with both partitions and a scripted client."""

    def __init__(self) -> None:
        self.client, self.listener = Client(), RebalanceListener()
        self.source = KafkaSource({"bootstrap.servers": "127.0.0.1:1"}, "group")
        self.real: Consumer = self.source._consumer
        self.source._consumer = self.client  # type: ignore[assignment]
        self.source.subscribe(["events"], self.listener)
        assert self.poll(self.client.rebalance("on_assign", ONE, TWO)) == []

    def poll(
        self, rebalance: Callable[[], None] = lambda: None, *messages: Message
    ) -> list[tuple[Partition, list[int], int]]:
        """The result of a poll: partition, offsets, next offset."""
        self.client.next.append((rebalance, list(messages)))
        return [
            (
                one.partition,
                [] if one.records is None else one.records.offset.tolist(),
                one.next_offset,
            )
            for one in self.source.poll(100, 0.0)
        ]


@pytest.fixture
def joined() -> Joined:
    """Such a source."""
    return Joined()


def test_records_come_with_the_position_after_them(joined: Joined) -> None:
    """Also of a partition without records whose position moved, and only once."""
    joined.client.positions = {ONE: 9, TWO: 7}
    assert joined.poll(lambda: None, message(ONE, 5), message(ONE, 6)) == [
        (ONE, [5, 6], 9),
        (TWO, [], 7),
    ]
    assert joined.poll() == []


def test_an_unknown_position_is_none(joined: Joined) -> None:
    """A partition that was just assigned has no position yet."""
    joined.client.positions = {ONE: 6}
    assert joined.poll(lambda: None, message(ONE, 5)) == [(ONE, [5], 6)]


@pytest.mark.parametrize(("what", "reason"), [("on_revoke", "revoked"), ("on_lost", "lost")])
def test_records_of_unowned_partitions_are_dropped(joined: Joined, what: str, reason: str) -> None:
    """A partition that is lost while the client collects a batch takes its records and position
    with it: another worker owns it by now."""
    joined.client.positions = {ONE: 6, TWO: 8}
    step = joined.client.rebalance(what, TWO)
    got = joined.poll(step, message(ONE, 5), message(TWO, 5), message(TWO, 6))
    assert got == [(ONE, [5], 6)]
    assert joined.listener.gone == [(reason, [TWO])]


def test_records_of_an_unassigned_topic_are_dropped(joined: Joined) -> None:
    """Although the client returns some."""
    joined.client.positions = {Partition("others", 0): 3}
    assert joined.poll(lambda: None, message(Partition("others", 0), 2)) == []


def test_a_reassigned_partition_starts_at_the_given_offset(joined: Joined) -> None:
    """Its old position is forgotten, although it was later."""
    joined.client.positions = {ONE: 90}
    assert joined.poll(lambda: None, message(ONE, 89)) == [(ONE, [89], 90)]
    joined.client.positions = {}
    assert joined.poll(joined.client.rebalance("on_lost", ONE)) == []
    assert joined.poll(joined.client.rebalance("on_assign", ONE)) == []
    joined.client.positions = {ONE: 6}
    assert joined.poll(lambda: None, message(ONE, 5)) == [(ONE, [5], 6)]


def test_a_source_that_was_left_is_closed() -> None:
    """Its client is out of the group: it cannot poll any more."""
    with KafkaSource({"bootstrap.servers": "127.0.0.1:1"}, "group") as source:
        assert source.poll(1, 0.0) == []
    with pytest.raises(RuntimeError, match="closed"):
        source.poll(1, 0.0)
