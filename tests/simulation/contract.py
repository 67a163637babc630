"""Cases that hold on the in-memory broker and on a real one: what workers rely on."""

from collections.abc import Callable
from random import Random
from typing import Any, Final

import pyarrow as pa
import pytest

from stream.errors import Abortable, Fatal, Fenced, RetentionGap
from stream.inputs.partitioning import partition_of
from stream.kafka.messages import OutRecord, PartitionBatch
from stream.kafka.positions import CommittedOffset, Partition
from stream.runtime.interfaces import Source
from tests.simulation.clusters import Cluster, Cut

QUIET_TURNS: Final = 40
"""Polls that bring nothing, before a case believes that nothing comes."""


class Reader:
    """A listener that starts at fixed offsets and remembers its calls; and what its source read."""

    def __init__(self, cluster: Cluster, source: Source, topic: str, start: int = 0) -> None:
        self._cluster = cluster
        self.source = source
        self.start = start
        self.owned: set[int] = set()
        self.calls: list[tuple[str, set[int]]] = []
        self.values: list[bytes | None] = []
        self.batches: list[PartitionBatch] = []
        source.subscribe([topic], self)

    def on_assign(self, partitions: list[Partition]) -> dict[Partition, int]:
        """Take partitions."""
        self._note("assign", partitions)
        self.owned |= {one.partition for one in partitions}
        return dict.fromkeys(partitions, self.start)

    def on_revoke(self, partitions: list[Partition]) -> None:
        """Give partitions up."""
        self._note("revoke", partitions)
        self.owned -= {one.partition for one in partitions}

    def on_lost(self, partitions: list[Partition]) -> None:
        """Give partitions up that are another's."""
        self._note("lost", partitions)
        self.owned -= {one.partition for one in partitions}

    def _note(self, call: str, partitions: list[Partition]) -> None:
        self.calls.append((call, {one.partition for one in partitions}))

    def poll(self, records_max: int = 100) -> None:
        """Read once."""
        for batch in self.source.poll(records_max, 0.02):
            self.batches.append(batch)
            self.values += batch.records.values if batch.records is not None else ()

    def until(self, condition: Callable[[], bool]) -> None:
        """Read until the condition holds."""

        def reached() -> bool:
            self.poll()
            return condition()

        self._cluster.until(reached)

    def next_offset(self, partition: int = 0) -> int:
        """The position that the last batch of the partition led to; -1 before one."""
        found = [one.next_offset for one in self.batches if one.partition.partition == partition]
        return found[-1] if found else -1


def records(topic: str, *values: bytes, partition: int | None = 0) -> list[OutRecord]:
    """Records to publish."""
    return [OutRecord(topic, b"key", value, [("name", b"header")], partition) for value in values]


def opened(cluster: Cluster, group: str, slot: str = "slot") -> Any:
    """A sink that has its slot."""
    sink = cluster.sink(group, slot)
    sink.open()
    return sink


# -- transactions ---------------------------------------------------------------------------------


def committed_records_are_read_in_order(cluster: Cluster) -> None:
    """A transaction's records follow each other, and its marker takes an offset after them."""
    topic, group = cluster.topic(), cluster.unique("group")
    with cluster.source(group) as source:
        reader = Reader(cluster, source, topic)
        reader.until(lambda: bool(reader.owned))
        sink = opened(cluster, group)
        sink.transact(records(topic, b"1", b"2", b"3"), {}, source.membership)
        reader.until(lambda: reader.next_offset() == 4)
        sink.transact(records(topic, b"4"), {}, source.membership)
        reader.until(lambda: reader.next_offset() == 6)
        assert reader.values == [b"1", b"2", b"3", b"4"]
        [first, *_] = (one.records for one in reader.batches if one.records is not None)
        assert first.headers is not None
        assert list(first.headers[0]) == [("name", b"header")]


def aborted_records_are_passed_over(cluster: Cluster) -> None:
    """Nobody reads them; the position moves past them and their marker."""
    topic, group = cluster.topic(), cluster.unique("group")
    with cluster.source(group) as source:
        reader = Reader(cluster, source, topic)
        reader.until(lambda: bool(reader.owned))
        sink = opened(cluster, group)
        deliver, sink._deliver = sink._deliver, abort_after(sink._deliver)
        with pytest.raises(Abortable):
            sink.transact(records(topic, b"1", b"2"), {}, source.membership)
        sink._deliver = deliver
        reader.until(lambda: reader.next_offset() == 3)
        assert reader.values == []
        sink.transact(records(topic, b"3"), {}, source.membership)
        reader.until(lambda: reader.next_offset() == 5)
        assert reader.values == [b"3"]


def abort_after(step: Callable[[], None]) -> Callable[[], None]:
    """The step of a sink, after which the transaction fails."""

    def failing() -> None:
        step()
        raise Abortable("set to fail")

    return failing


def cut_after(step: Callable[[], None]) -> Callable[[], None]:
    """The step of a sink, after which the producer does nothing more."""

    def cutting() -> None:
        step()
        raise Cut

    return cutting


def nothing_is_read_past_an_open_transaction(cluster: Cluster) -> None:
    """A later record of another producer is read only when the earlier transaction has ended: here
    by a new producer that takes the slot over."""
    topic, group = cluster.topic(), cluster.unique("group")
    with cluster.source(group) as source:
        reader = Reader(cluster, source, topic)
        reader.until(lambda: bool(reader.owned))
        sink = opened(cluster, group)
        sink._deliver = cut_after(sink._deliver)
        with pytest.raises(Cut):
            sink.transact(records(topic, b"open"), {}, source.membership)
        cluster.send(OutRecord(topic, None, b"later", [], 0))
        for _ in range(QUIET_TURNS):
            reader.poll()
        assert reader.batches == []
        assert source.offset_range(Partition(topic, 0)) == (0, 0)
        opened(cluster, group)
        reader.until(lambda: reader.next_offset() == 3)
        assert reader.values == [b"later"]


def an_open_transaction_times_out(cluster: Cluster) -> None:
    """The broker aborts it by itself, so that others' records are read."""
    topic, group = cluster.topic(), cluster.unique("group")
    with cluster.source(group) as source:
        reader = Reader(cluster, source, topic)
        reader.until(lambda: bool(reader.owned))
        sink = cluster.sink(group, "slot", timeout_s=3.0)
        sink.open()
        sink._deliver = cut_after(sink._deliver)
        with pytest.raises(Cut):
            sink.transact(records(topic, b"open"), {}, source.membership)
        cluster.send(OutRecord(topic, None, b"later", [], 0))
        reader.until(lambda: reader.values == [b"later"])


def a_new_producer_fences_the_former(cluster: Cluster) -> None:
    """After a slot is taken over, its former producer publishes nothing."""
    topic, group = cluster.topic(), cluster.unique("group")
    with cluster.source(group) as source:
        reader = Reader(cluster, source, topic)
        reader.until(lambda: bool(reader.owned))
        former = opened(cluster, group)
        former.transact(records(topic, b"1"), {}, source.membership)
        latter = opened(cluster, group)
        with pytest.raises(Fenced):
            former.transact(records(topic, b"2"), {}, source.membership)
        latter.transact(records(topic, b"3"), {}, source.membership)
        reader.until(lambda: len(reader.values) == 2)
        assert reader.values == [b"1", b"3"]


def slots_do_not_fence_each_other(cluster: Cluster) -> None:
    """Producers of two slots work side by side."""
    topic, group = cluster.topic(), cluster.unique("group")
    with cluster.source(group) as source:
        reader = Reader(cluster, source, topic)
        reader.until(lambda: bool(reader.owned))
        sinks = [opened(cluster, group, slot) for slot in ("a", "b")]
        for _ in range(2):
            for sink in sinks:
                sink.transact(records(topic, b"x"), {}, source.membership)
        reader.until(lambda: len(reader.values) == 4)


def a_key_decides_the_partition(cluster: Cluster) -> None:
    """Records without a partition go where Java's producer sends their key."""
    topic, group = cluster.topic(4), cluster.unique("group")
    keys = [f"key-{number}" for number in range(20)]
    with cluster.source(group) as source:
        reader = Reader(cluster, source, topic)
        reader.until(lambda: len(reader.owned) == 4)
        sent = [OutRecord(topic, key.encode(), key.encode(), []) for key in keys]
        opened(cluster, group).transact(sent, {}, source.membership)
        reader.until(lambda: len(reader.values) == len(keys))
    expected = dict(zip(keys, partition_of(pa.array(keys), 4, "murmur2").tolist(), strict=True))
    for batch in reader.batches:
        for value in batch.records.values if batch.records is not None else ():
            assert expected[(value or b"").decode()] == batch.partition.partition


def a_missing_topic_is_fatal(cluster: Cluster) -> None:
    """Publishing to a topic that does not exist is refused for good."""
    topic, group = cluster.topic(), cluster.unique("group")
    with cluster.source(group) as source:
        reader = Reader(cluster, source, topic)
        reader.until(lambda: bool(reader.owned))
        sink = cluster.sink(group, "slot", timeout_s=4.0)
        sink.open()
        with pytest.raises(Fatal):
            sink.transact(records(cluster.unique("missing"), b"1"), {}, source.membership)


def a_record_that_is_too_large_is_fatal(cluster: Cluster) -> None:
    """A topic refuses records above its max.message.bytes."""
    topic, group = cluster.topic(max_message_bytes="1000"), cluster.unique("group")
    value = Random(7).randbytes(5_000)  # which no compression makes any smaller
    with cluster.source(group) as source:
        reader = Reader(cluster, source, topic)
        reader.until(lambda: bool(reader.owned))
        sink = opened(cluster, group)
        with pytest.raises(Fatal):
            sink.transact(records(topic, value), {}, source.membership)


# -- committed offsets ----------------------------------------------------------------------------


def offsets_are_committed_with_their_transaction(cluster: Cluster) -> None:
    """They come back with their metadata; those of an aborted transaction do not."""
    topic, group = cluster.topic(2), cluster.unique("group")
    one, two = Partition(topic, 0), Partition(topic, 1)
    with cluster.source(group) as source:
        reader = Reader(cluster, source, topic)
        reader.until(lambda: len(reader.owned) == 2)
        sink = opened(cluster, group)
        sink.transact([], {one: CommittedOffset(5, "five")}, source.membership)
        assert source.committed([one, two]) == {one: CommittedOffset(5, "five"), two: None}
        deliver, sink._deliver = sink._deliver, abort_after(sink._deliver)
        with pytest.raises(Abortable):
            sink.transact([], {one: CommittedOffset(9, "nine")}, source.membership)
        sink._deliver = deliver
        assert source.committed([one, two]) == {one: CommittedOffset(5, "five"), two: None}
        sink.transact(
            [], {one: CommittedOffset(3, ""), two: CommittedOffset(7, "x")}, source.membership
        )
        assert source.committed([two, one]) == {
            two: CommittedOffset(7, "x"),
            one: CommittedOffset(3, ""),
        }


def taking_a_slot_over_drops_its_open_offsets(cluster: Cluster) -> None:
    """Offsets of a transaction that was never committed are not in force."""
    topic, group = cluster.topic(), cluster.unique("group")
    where = Partition(topic, 0)
    with cluster.source(group) as source:
        reader = Reader(cluster, source, topic)
        reader.until(lambda: bool(reader.owned))
        sink = opened(cluster, group)
        sink.transact([], {where: CommittedOffset(1, "one")}, source.membership)
        sink._deliver = cut_after(sink._deliver)
        with pytest.raises(Cut):
            sink.transact([], {where: CommittedOffset(2, "two")}, source.membership)
        opened(cluster, group)
        assert source.committed([where]) == {where: CommittedOffset(1, "one")}


def a_former_generation_cannot_commit(cluster: Cluster) -> None:
    """A membership from before a rebalance is refused, and the new one is accepted."""
    topic, group = cluster.topic(2), cluster.unique("group")
    positions = {Partition(topic, 0): CommittedOffset(1, "")}
    with cluster.source(group) as source, cluster.source(group) as other:
        reader = Reader(cluster, source, topic)
        reader.until(lambda: len(reader.owned) == 2)
        former = source.membership
        beside = Reader(cluster, other, topic)
        cluster.until(lambda: len(beside.owned) == 1, source, other)
        sink = opened(cluster, group)
        with pytest.raises(Abortable):
            sink.transact([], positions, former)

        def accepted() -> bool:  # once the last rebalance has come to the member's knowledge
            try:
                sink.transact([], positions, source.membership)
            except Abortable:
                return False
            return True

        cluster.until(accepted, source, other)


def a_member_that_left_cannot_commit(cluster: Cluster) -> None:
    """The group does not know it any more."""
    topic, group = cluster.topic(), cluster.unique("group")
    with cluster.source(group) as source:
        reader = Reader(cluster, source, topic)
        reader.until(lambda: bool(reader.owned))
    sink = opened(cluster, group)
    with pytest.raises(Abortable):
        sink.transact([], {Partition(topic, 0): CommittedOffset(1, "")}, source.membership)


def a_member_may_commit_what_another_owns(cluster: Cluster) -> None:
    """The broker checks the generation, not who owns the partition: that is the client's duty."""
    topic, group = cluster.topic(2), cluster.unique("group")
    with cluster.source(group) as source, cluster.source(group) as other:
        reader, beside = Reader(cluster, source, topic), Reader(cluster, other, topic)
        cluster.until(lambda: len(reader.owned) == len(beside.owned) == 1, source, other)
        [foreign] = (Partition(topic, number) for number in beside.owned)
        sink = opened(cluster, group)
        sink.transact([], {foreign: CommittedOffset(8, "")}, source.membership)
        assert other.committed([foreign]) == {foreign: CommittedOffset(8, "")}


# -- rebalances -----------------------------------------------------------------------------------


def a_rebalance_moves_as_little_as_possible(cluster: Cluster) -> None:
    """Members keep what they may keep; a partition is revoked before another member gets it."""
    topic, group = cluster.topic(4), cluster.unique("group")
    with cluster.source(group) as source, cluster.source(group) as other:
        reader = Reader(cluster, source, topic)
        reader.until(lambda: len(reader.owned) == 4)
        beside = Reader(cluster, other, topic)
        cluster.until(lambda: len(beside.owned) == 2, source, other)
        assert reader.owned.isdisjoint(beside.owned)
        assert reader.calls == [("assign", {0, 1, 2, 3}), ("revoke", beside.owned)]
        assert [call for call, some in beside.calls if some] == ["assign"]


def leaving_gives_partitions_to_the_others(cluster: Cluster) -> None:
    """A source that closes revokes what it owns, and the others get it."""
    topic, group = cluster.topic(4), cluster.unique("group")
    with cluster.source(group) as source:
        reader = Reader(cluster, source, topic)
        with cluster.source(group) as other:
            beside = Reader(cluster, other, topic)
            cluster.until(lambda: len(reader.owned) == len(beside.owned) == 2, source, other)
        assert beside.calls[-1][0] == "revoke"
        assert beside.owned == set()
        cluster.until(lambda: len(reader.owned) == 4, source)


def rebalances_happen_while_nothing_is_read(cluster: Cluster) -> None:
    """`serve_rebalances` takes part in them, and loses no record."""
    topic, group = cluster.topic(2), cluster.unique("group")
    with cluster.source(group) as source, cluster.source(group) as other:
        reader, beside = Reader(cluster, source, topic), Reader(cluster, other, topic)

        def served() -> bool:
            source.serve_rebalances(0.02)
            other.serve_rebalances(0.02)
            return len(reader.owned) == len(beside.owned) == 1

        cluster.until(served)
        for number in range(2):
            cluster.send(OutRecord(topic, None, b"%d" % number, [], number))
        source.serve_rebalances(0.05)
        reader.until(lambda: len(reader.values) == 1)
        beside.until(lambda: len(beside.values) == 1)
        assert sorted(reader.values + beside.values, key=str) == [b"0", b"1"]


def the_consumer_protocol_shares_partitions(cluster: Cluster) -> None:
    """Under KIP-848 the broker assigns the partitions."""
    topic, group = cluster.topic(2), cluster.unique("group")
    with (
        cluster.source(group, "consumer") as source,
        cluster.source(group, "consumer") as other,
    ):
        reader, beside = Reader(cluster, source, topic), Reader(cluster, other, topic)
        cluster.until(lambda: len(reader.owned) == len(beside.owned) == 1, source, other)


# -- logs -----------------------------------------------------------------------------------------


def a_poll_brings_no_more_than_asked_for(cluster: Cluster) -> None:
    """The position is after the last record that came, so that the rest follows."""
    topic, group = cluster.topic(), cluster.unique("group")
    with cluster.source(group) as source:
        reader = Reader(cluster, source, topic)
        for number in range(7):
            cluster.send(OutRecord(topic, None, b"%d" % number, [], 0))

        def read() -> bool:
            before = len(reader.values)
            reader.poll(3)
            assert len(reader.values) - before <= 3
            assert reader.next_offset() in {-1, len(reader.values)}
            return len(reader.values) == 7

        cluster.until(read)
        assert reader.values == [b"%d" % number for number in range(7)]


def reading_starts_where_the_listener_says(cluster: Cluster) -> None:
    """At the offset that it returns for the partition."""
    topic, group = cluster.topic(), cluster.unique("group")
    for number in range(5):
        cluster.send(OutRecord(topic, None, b"%d" % number, [], 0))
    with cluster.source(group) as source:
        reader = Reader(cluster, source, topic, start=3)
        reader.until(lambda: len(reader.values) == 2)
        assert reader.values == [b"3", b"4"]


def deleted_records_are_a_gap(cluster: Cluster) -> None:
    """A log that begins after the offset to read is an error, never a silent jump."""
    topic, group = cluster.topic(), cluster.unique("group")
    for number in range(5):
        cluster.send(OutRecord(topic, None, b"%d" % number, [], 0))
    cluster.delete_before(Partition(topic, 0), 2)
    with cluster.source(group) as source:
        reader = Reader(cluster, source, topic, start=2)
        reader.until(lambda: len(reader.values) == 3)
        assert source.offset_range(Partition(topic, 0)) == (2, 5)
    with cluster.source(group) as source:
        reader = Reader(cluster, source, topic, start=1)
        with pytest.raises(RetentionGap):
            reader.until(lambda: False)


def append_time_is_known(cluster: Cluster) -> None:
    """Records of a topic that takes the broker's time say so; others keep their producer's."""
    taken = cluster.topic(message_timestamp_type="LogAppendTime")
    created, group = cluster.topic(), cluster.unique("group")
    for topic, is_appended in ((taken, True), (created, False)):
        cluster.send(OutRecord(topic, None, b"x", [], 0), timestamp_ms=1_700_000_000_000)
        with cluster.source(group) as source:
            reader = Reader(cluster, source, topic)
            reader.until(lambda r=reader: len(r.values) == 1)  # type: ignore[misc]
            [found] = (one.records for one in reader.batches if one.records is not None)
            assert (found.appended is not None and bool(found.appended.all())) == is_appended
            assert (found.timestamp_ms.tolist() == [1_700_000_000_000]) != is_appended


def a_time_leads_to_an_offset(cluster: Cluster) -> None:
    """The first record of that time or a later one; the end where there is none."""
    topic, group = cluster.topic(retention_ms="-1"), cluster.unique("group")
    for time_ms in (1_000, 2_000, 3_000):
        cluster.send(OutRecord(topic, None, b"x", [], 0), timestamp_ms=time_ms)
    with cluster.source(group) as source:
        found = [source.offset_at(Partition(topic, 0), time_ms) for time_ms in (500, 2_000, 9_000)]
        assert found == [0, 1, 3]


def topics_have_settings(cluster: Cluster) -> None:
    """The admin client knows partitions and settings; a missing topic is left out."""
    topic, missing = cluster.topic(3, retention_ms="86400000"), cluster.unique("missing")
    admin = cluster.admin()
    assert admin.partition_counts([topic, missing]) == {topic: 3}
    found = admin.settings(topic, ["retention.ms", "cleanup.policy", "retention.bytes"])
    assert found == {
        "retention.ms": "86400000",
        "cleanup.policy": "delete",
        "retention.bytes": "-1",
    }


CASES: Final[tuple[Callable[[Cluster], None], ...]] = (
    committed_records_are_read_in_order,
    aborted_records_are_passed_over,
    nothing_is_read_past_an_open_transaction,
    a_new_producer_fences_the_former,
    slots_do_not_fence_each_other,
    a_key_decides_the_partition,
    a_missing_topic_is_fatal,
    a_record_that_is_too_large_is_fatal,
    offsets_are_committed_with_their_transaction,
    taking_a_slot_over_drops_its_open_offsets,
    a_former_generation_cannot_commit,
    a_member_that_left_cannot_commit,
    a_member_may_commit_what_another_owns,
    a_rebalance_moves_as_little_as_possible,
    leaving_gives_partitions_to_the_others,
    rebalances_happen_while_nothing_is_read,
    the_consumer_protocol_shares_partitions,
    a_poll_brings_no_more_than_asked_for,
    reading_starts_where_the_listener_says,
    deleted_records_are_a_gap,
    append_time_is_known,
    a_time_leads_to_an_offset,
    topics_have_settings,
    an_open_transaction_times_out,
)

NOT_IN_MEMORY: Final[dict[Callable[[Cluster], None], str]] = {
    a_record_that_is_too_large_is_fatal: "it takes records of any size: no worker depends on that",
    the_consumer_protocol_shares_partitions: "it implements the classic group protocol only",
}
