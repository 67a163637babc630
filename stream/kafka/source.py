"""The worker's consumer: reads records as a member of its group, and reports rebalances."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any, Final, Self, overload

import numpy as np
import orjson
import structlog
from confluent_kafka import (
    TIMESTAMP_LOG_APPEND_TIME,
    Consumer,
    KafkaError,
    Message,
    TopicPartition,
)

from schemas.records import Headers, Records
from stream.errors import Fatal, RetentionGap, Retriable
from stream.kafka.client_errors import (
    CALL_TIMEOUT_S,
    Beat,
    DeferredError,
    classify,
    create_client,
    kafka_failure,
    map_client_errors,
    no_beat,
    retrying,
)
from stream.kafka.error_codes import UNKNOWN_TOPIC_CODES
from stream.kafka.messages import PartitionBatch, RebalanceListener
from stream.kafka.positions import CommittedOffset, Membership, Partition
from stream.kafka.properties import Properties, consumer_properties

logger = structlog.stdlib.get_logger(__name__)

INSTANCE_ID_TAKEN: Final = KafkaError(KafkaError.UNRELEASED_INSTANCE_ID).str()
"""Under group.protocol = consumer, the broker's message until the session of a killed static member
has timed out. Under the classic protocol its successor takes its place at once."""


class _LazyHeaders(Sequence[Headers]):
    """The headers of messages, read on access: few records need them."""

    def __init__(self, messages: list[Message]) -> None:
        self._messages = messages

    def __len__(self) -> int:
        return len(self._messages)

    @overload
    def __getitem__(self, index: int) -> Headers: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Headers]: ...
    def __getitem__(self, index: int | slice) -> Headers | Sequence[Headers]:
        if isinstance(index, slice):
            return _LazyHeaders(self._messages[index])
        headers: Any = self._messages[index].headers()
        return headers or ()


def to_records(partition: Partition, messages: list[Message]) -> Records:
    """Convert messages of one partition to records, at about 0.2 µs each."""
    count = len(messages)
    stamps = list(map(Message.timestamp, messages))
    appended = np.fromiter(map(itemgetter(0), stamps), np.int64, count) == TIMESTAMP_LOG_APPEND_TIME
    return Records(
        topic=partition.topic,
        partition=partition.partition,
        offset=np.fromiter(map(Message.offset, messages), np.int64, count),
        timestamp_ms=np.fromiter(map(itemgetter(1), stamps), np.int64, count),
        values=list(map(Message.value, messages)),
        headers=_LazyHeaders(messages),
        appended=appended if appended.any() else None,
    )


class KafkaSource:
    """A consumer in a group. Not thread-safe."""

    def __init__(
        self,
        properties: Properties,
        group: str,
        beat: Beat = no_beat,
        on_answer: Beat = no_beat,
    ) -> None:
        """beat: called while a broker is awaited. on_answer: called from within `poll` when a broker has
        answered since the last call."""
        self._on_answer = on_answer
        self._received = 0
        self._deferred_error = DeferredError()
        self._beat = beat
        merged = consumer_properties(properties, group)
        self._renews_membership = merged.get("group.protocol") == "consumer"
        callbacks = {"error_cb": self._deferred_error.on_error, "stats_cb": self._on_statistics}
        self._consumer = create_client(Consumer, {**merged, **callbacks})
        self._next_offsets: dict[Partition, int] = {}  # of the assigned partitions
        self._is_paused = False
        self._closing = False
        self.membership = Membership(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        """Leave the group; partitions that are still assigned are revoked first."""
        self._closing = True
        self._consumer.close()
        if failed is None:
            self._deferred_error.raise_if_set()

    def _on_statistics(self, body: str) -> None:
        """Call `on_answer` if a broker has answered since the last statistics.

        Received bytes show that, since even an idle consumer fetches and sends heartbeats all the
        time. The state of a connection does not: it may stay up while nothing comes over it.
        """
        brokers = orjson.loads(body)["brokers"].values()
        received = sum(broker["rx"] for broker in brokers)
        if received != self._received:
            self._received = received
            self._on_answer()

    def subscribe(self, topics: list[str], listener: RebalanceListener) -> None:
        """Join the group. The listener is called from within `poll`, `serve_rebalances` and exit."""

        def assign(_: Consumer, assigned: list[TopicPartition]) -> None:
            if self._closing:  # closing the consumer releases these, too
                return
            partitions = [
                Partition(topic_partition.topic, topic_partition.partition)
                for topic_partition in assigned
            ]
            starts = listener.on_assign(partitions) if partitions else {}
            positions = [TopicPartition(*each, starts[each]) for each in partitions]
            with map_client_errors("taking partitions"):
                self._consumer.incremental_assign(positions)
                self._next_offsets.update(starts)
                # The client remembers a pause from the partition's previous assignment.
                (self._consumer.pause if self._is_paused else self._consumer.resume)(positions)
            # A rebalance that assigns nothing new calls this, too, with no partitions.
            self.membership = Membership(self._consumer.consumer_group_metadata())

        def revoke(_: Consumer, revoked: list[TopicPartition]) -> None:
            # The group has a new generation already; these stay ours until this returns.
            self.membership = Membership(self._consumer.consumer_group_metadata())
            release(revoked, listener.on_revoke)

        def lose(_: Consumer, lost: list[TopicPartition]) -> None:
            release(lost, listener.on_lost)

        def release(
            released: list[TopicPartition], callback: Callable[[list[Partition]], None]
        ) -> None:
            partitions = [
                Partition(topic_partition.topic, topic_partition.partition)
                for topic_partition in released
            ]
            for each in partitions:
                self._next_offsets.pop(each, None)
            callback(partitions)

        with map_client_errors("subscribing"):
            self._consumer.subscribe(
                topics,
                on_assign=self._deferring_errors(assign),
                on_revoke=self._deferring_errors(revoke),
                on_lost=self._deferring_errors(lose),
            )

    def _deferring_errors(
        self, callback: Callable[[Consumer, list[TopicPartition]], None]
    ) -> Callable[[Consumer, list[TopicPartition]], None]:
        def call(consumer: Consumer, partitions: list[TopicPartition]) -> None:
            try:
                callback(consumer, partitions)
            except Exception as exception:  # noqa: BLE001 - raised by the next poll
                self._deferred_error.set(exception)

        return call

    def poll(self, records_max: int, timeout_s: float) -> list[PartitionBatch]:
        """Return what has arrived, at most so many records, one batch a partition.

        Wait for the whole time-out unless so many arrive earlier. A batch's next_offset may be
        committed only after its records are processed.
        """
        with map_client_errors("reading"):
            messages = self._consumer.consume(records_max, timeout_s)
        self._deferred_error.raise_if_set()
        self._renew_membership()
        groups: defaultdict[Partition, list[Message]] = defaultdict(list)
        for message in messages:
            groups[message.topic(), message.partition()].append(message)  # type: ignore[index]
        if any(map(Message.error, messages)):
            groups = self._without_errors(groups)
        return [
            PartitionBatch(
                partition,
                to_records(partition, groups[partition]) if partition in groups else None,
                next_offset,
            )
            for partition, next_offset in self._advanced()
        ]

    def _advanced(self) -> Iterator[tuple[Partition, int]]:
        """The assigned partitions whose position has advanced, each with its next offset.

        The client's position covers exactly what `consume` has returned so far. It is unset for a
        partition that was assigned and not read yet.
        """
        assigned = [TopicPartition(*partition) for partition in self._next_offsets]
        with map_client_errors("asking for positions"):
            positions = self._consumer.position(assigned) if assigned else []
        for position in positions:
            partition = Partition(position.topic, position.partition)
            if position.offset > self._next_offsets[partition]:
                self._next_offsets[partition] = position.offset
                yield partition, position.offset

    def _renew_membership(self) -> None:
        """Read the member epoch, which under group.protocol = consumer grows without a callback.

        Called only after rebalances were handled: an expelled member joins again only after it has
        released its lost partitions, so that its new epoch never covers them.
        """
        if self._renews_membership:
            self.membership = Membership(self._consumer.consumer_group_metadata())

    def _without_errors(
        self, groups: Mapping[Partition, list[Message]]
    ) -> defaultdict[Partition, list[Message]]:
        """The messages that are records. Raises the first error that is not transient."""
        records: defaultdict[Partition, list[Message]] = defaultdict(list)
        for partition, group in groups.items():
            for message in group:
                error = message.error()
                if error is None:
                    records[partition].append(message)
                elif error.name() == "_AUTO_OFFSET_RESET":
                    raise RetentionGap(f"{Partition(*partition)}: {error.str()}")
                elif classify(error) is Retriable:
                    logger.warning("kafka client", code=error.name(), error=error.str())
                elif INSTANCE_ID_TAKEN in error.str():  # its code says only that it is fatal
                    raise Retriable(
                        f"joining the group: {error.str()} (a member with this group.instance.id "
                        "was killed; start again when its session has timed out)"
                    )
                else:
                    raise kafka_failure(error, f"reading {Partition(*partition)}")
        return records

    def serve_rebalances(self, seconds: float) -> None:
        """Wait, handling rebalances but reading no records: all partitions are paused."""
        with map_client_errors("waiting"):
            self._is_paused = True
            self._consumer.pause(self._consumer.assignment())
            deadline = time.monotonic() + seconds
            while (left := deadline - time.monotonic()) > 0:
                message = self._consumer.poll(left)
                self._deferred_error.raise_if_set()
                if message is not None:
                    partition = Partition(message.topic() or "", message.partition() or 0)
                    records = self._without_errors({partition: [message]})
                    assert not records, "a paused partition returned a record"
            self._is_paused = False
            self._consumer.resume(self._consumer.assignment())
        self._renew_membership()

    def committed(self, partitions: list[Partition]) -> dict[Partition, CommittedOffset | None]:
        """The group's committed offset of each partition, None where there is none.

        While a transaction of the previous worker is open the broker does not answer: wait for it.
        """
        asked = [TopicPartition(*partition) for partition in partitions]
        for attempt in retrying(Retriable, beat=self._beat):
            with attempt, map_client_errors("asking for committed offsets"):
                committed = self._consumer.committed(asked, timeout=CALL_TIMEOUT_S)
                for position in committed:
                    if position.error is not None:
                        raise kafka_failure(position.error, "asking for committed offsets")
        return {
            Partition(position.topic, position.partition): (
                None
                if position.offset < 0
                else CommittedOffset(position.offset, position.metadata or "")
            )
            for position in committed
        }

    def offset_range(self, partition: Partition) -> tuple[int, int]:
        """The offset of the partition's first record, and the one after its last, asked now.

        The partition exists, since the group has assigned it: a broker that does not know it has
        only just started, and is asked again.
        """
        operation = f"asking for the offsets of {partition}"
        for attempt in retrying(Retriable, beat=self._beat):
            with attempt:
                try:
                    with map_client_errors(operation):
                        offsets = self._consumer.get_watermark_offsets(
                            TopicPartition(*partition), timeout=CALL_TIMEOUT_S
                        )
                except Fatal as error:
                    if error.code in UNKNOWN_TOPIC_CODES:
                        raise Retriable(str(error)) from error
                    raise
        return offsets

    def offset_at(self, partition: Partition, time_ms: int) -> int:
        """The offset of the first record whose broker time is that or later, asked now; the end of
        the partition where there is none."""
        operation = f"asking for the offset of a time in {partition}"
        for attempt in retrying(Retriable, beat=self._beat):
            with attempt, map_client_errors(operation):
                [result] = self._consumer.offsets_for_times(
                    [TopicPartition(*partition, time_ms)], timeout=CALL_TIMEOUT_S
                )
                if result.error is not None:
                    raise kafka_failure(result.error, operation)
        return result.offset if result.offset >= 0 else self.offset_range(partition)[1]

    def end_offset(self, partition: Partition) -> int:
        """The offset after the last record, as of the last fetch; -1001 where unknown."""
        with map_client_errors(f"looking up the end of {partition}"):
            return self._consumer.get_watermark_offsets(TopicPartition(*partition), cached=True)[1]
