"""The group's consumer: records in, assignments told to whoever owns the partitions."""

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

log = structlog.stdlib.get_logger(__name__)

INSTANCE_ID_TAKEN: Final = KafkaError(KafkaError.UNRELEASED_INSTANCE_ID).str()
"""What the broker says under the new protocol while the session of a static member that was killed
lasts; under the classic one its successor takes its place at once."""


class _LazyHeaders(Sequence[Headers]):
    """The headers of messages, read only where somebody looks: few records need them."""

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


def to_records(where: Partition, messages: list[Message]) -> Records:
    """Messages of one partition as records, at about 0.2 µs each."""
    count = len(messages)
    stamps = list(map(Message.timestamp, messages))
    appended = np.fromiter(map(itemgetter(0), stamps), np.int64, count) == TIMESTAMP_LOG_APPEND_TIME
    return Records(
        topic=where.topic,
        partition=where.partition,
        offset=np.fromiter(map(Message.offset, messages), np.int64, count),
        timestamp_ms=np.fromiter(map(itemgetter(1), stamps), np.int64, count),
        values=list(map(Message.value, messages)),
        headers=_LazyHeaders(messages),
        appended=appended if appended.any() else None,
    )


class KafkaSource:
    """The group's consumer. Not for more than one thread."""

    def __init__(
        self,
        properties: Properties,
        group: str,
        beat: Beat = no_beat,
        on_answer: Beat = no_beat,
    ) -> None:
        """hear: called while waiting for records, when a broker has answered since the last call."""
        self._on_answer = on_answer
        self._received = 0
        self._deferred_error = DeferredError()
        self._beat = beat
        merged = consumer_properties(properties, group)
        self._renews_membership = merged.get("group.protocol") == "consumer"
        callbacks = {"error_cb": self._deferred_error.on_error, "stats_cb": self._on_statistics}
        self._consumer = create_client(Consumer, {**merged, **callbacks})
        self._next_offsets: dict[Partition, int] = {}  # each with its next offset
        self._is_serving = False
        self._closing = False
        self.membership = Membership(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        """Leave the group; partitions still held are revoked first."""
        self._closing = True
        self._consumer.close()
        if failed is None:
            self._deferred_error.raise_if_set()

    def _on_statistics(self, body: str) -> None:
        """Call `on_answer` where a broker has answered since the last statistics.

        An idle consumer asks for records and sends heartbeats all the time. A connection may stay up
        while nothing comes over it, so that its state proves nothing.
        """
        brokers = orjson.loads(body)["brokers"].values()
        received = sum(broker["rx"] for broker in brokers)
        if received != self._received:
            self._received = received
            self._on_answer()

    def subscribe(self, topics: list[str], listener: RebalanceListener) -> None:
        """Join the group; the owner is told of partitions from within `poll`, `serve` and exit."""

        def assign(_: Consumer, given: list[TopicPartition]) -> None:
            if self._closing:  # what we are given while we leave, we leave with the rest
                return
            partitions = [Partition(one.topic, one.partition) for one in given]
            starts = listener.on_assign(partitions) if partitions else {}
            placed = [TopicPartition(*where, starts[where]) for where in partitions]
            with map_client_errors("taking partitions"):
                self._consumer.incremental_assign(placed)
                self._next_offsets.update({where: starts[where] for where in partitions})
                # The client remembers a pause from the last time that it had the partition.
                (self._consumer.pause if self._is_serving else self._consumer.resume)(placed)
            # A rebalance that leaves us what we have comes here too, with no partitions.
            self.membership = Membership(self._consumer.consumer_group_metadata())

        def revoke(_: Consumer, given: list[TopicPartition]) -> None:
            # The group has a new generation already, and we own these until we let go.
            self.membership = Membership(self._consumer.consumer_group_metadata())
            release(given, listener.on_revoke)

        def lose(_: Consumer, given: list[TopicPartition]) -> None:
            release(given, listener.on_lost)

        def release(given: list[TopicPartition], tell: Callable[[list[Partition]], None]) -> None:
            partitions = [Partition(one.topic, one.partition) for one in given]
            for where in partitions:
                self._next_offsets.pop(where, None)
            tell(partitions)

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
        def call(consumer: Consumer, given: list[TopicPartition]) -> None:
            try:
                callback(consumer, given)
            except Exception as exception:  # noqa: BLE001 - kept, and raised by poll
                self._deferred_error.set(exception)

        return call

    def poll(self, records_max: int, timeout_s: float) -> list[PartitionBatch]:
        """What arrived, at most so many records, as one batch for each partition.

        Waits for the whole time-out unless so many come earlier. Rebalances happen in here. Until
        the records are processed, next_offset must not be committed.
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
                where, to_records(where, groups[where]) if where in groups else None, offset
            )
            for where, offset in self._advanced()
        ]

    def _advanced(self) -> Iterator[tuple[Partition, int]]:
        """The partitions that are ours and of which something was read, each with its next offset.

        The client's position covers exactly what `consume` has returned so far. It has none for a
        partition that was just assigned and not read yet.
        """
        asked = [TopicPartition(*where) for where in self._next_offsets]
        with map_client_errors("asking for positions"):
            found = self._consumer.position(asked) if asked else []
        for one in found:
            where = Partition(one.topic, one.partition)
            if one.offset > self._next_offsets[where]:
                self._next_offsets[where] = one.offset
                yield where, one.offset

    def _renew_membership(self) -> None:
        """Under the new protocol the epoch grows with every change of the group, and nobody is
        told.

        Read only where rebalances have been served: one who was thrown out joins again no sooner
        than it has let go of what it lost, so that no epoch of ours vouches for that.
        """
        if self._renews_membership:
            self.membership = Membership(self._consumer.consumer_group_metadata())

    def _without_errors(
        self, groups: Mapping[Partition, list[Message]]
    ) -> defaultdict[Partition, list[Message]]:
        """The messages that are records; raises for an error that is not merely passing."""
        records: defaultdict[Partition, list[Message]] = defaultdict(list)
        for where, group in groups.items():
            for message in group:
                error = message.error()
                if error is None:
                    records[where].append(message)
                elif error.name() == "_AUTO_OFFSET_RESET":
                    raise RetentionGap(f"{Partition(*where)}: {error.str()}")
                elif classify(error) is Retriable:
                    log.warning("kafka client", code=error.name(), error=error.str())
                elif INSTANCE_ID_TAKEN in error.str():  # its code is only that it is fatal
                    raise Retriable(
                        f"joining the group: {error.str()} (a member of this group.instance.id died "
                        "and is not missed yet; start again when its session is over)"
                    )
                else:
                    raise kafka_failure(error, f"reading {where}")
        return records

    def serve_rebalances(self, seconds: float) -> None:
        """Wait, letting rebalances happen but reading no records."""
        with map_client_errors("waiting"):
            self._is_serving = True
            self._consumer.pause(self._consumer.assignment())
            deadline = time.monotonic() + seconds
            while (left := deadline - time.monotonic()) > 0:
                message = self._consumer.poll(left)
                self._deferred_error.raise_if_set()
                if message is not None:
                    where = Partition(message.topic() or "", message.partition() or 0)
                    kept = self._without_errors({where: [message]})
                    assert not kept, "a paused partition gave a record"
            self._is_serving = False
            self._consumer.resume(self._consumer.assignment())
        self._renew_membership()

    def committed(self, partitions: list[Partition]) -> dict[Partition, CommittedOffset | None]:
        """What the group has committed for each, None where nothing.

        While a transaction of a predecessor is open the broker does not say: then we wait.
        """
        asked = [TopicPartition(*where) for where in partitions]
        for attempt in retrying(Retriable, beat=self._beat):
            with attempt, map_client_errors("asking for committed offsets"):
                found = self._consumer.committed(asked, timeout=CALL_TIMEOUT_S)
                for one in found:
                    if one.error is not None:
                        raise kafka_failure(one.error, "asking for committed offsets")
        return {
            Partition(one.topic, one.partition): (
                None if one.offset < 0 else CommittedOffset(one.offset, one.metadata or "")
            )
            for one in found
        }

    def offset_range(self, where: Partition) -> tuple[int, int]:
        """The offset of the partition's first record, and that behind its last, asked now.

        The partition is there, since the group has given it to us: a broker that does not know it
        has only just started, and is asked again.
        """
        operation = f"asking for the span of {where}"
        for attempt in retrying(Retriable, beat=self._beat):
            with attempt:
                try:
                    with map_client_errors(operation):
                        found = self._consumer.get_watermark_offsets(
                            TopicPartition(*where), timeout=CALL_TIMEOUT_S
                        )
                except Fatal as error:
                    if error.code in UNKNOWN_TOPIC_CODES:
                        raise Retriable(str(error)) from error
                    raise
        return found

    def offset_at(self, where: Partition, time_ms: int) -> int:
        """The offset of the first record that has this time on the broker or a later one, asked
        now; that behind the last where there is none."""
        operation = f"asking for the offset of a time in {where}"
        for attempt in retrying(Retriable, beat=self._beat):
            with attempt, map_client_errors(operation):
                [found] = self._consumer.offsets_for_times(
                    [TopicPartition(*where, time_ms)], timeout=CALL_TIMEOUT_S
                )
                if found.error is not None:
                    raise kafka_failure(found.error, operation)
        return found.offset if found.offset >= 0 else self.offset_range(where)[1]

    def end_offset(self, where: Partition) -> int:
        """The offset behind the partition's last record, as of the last fetch; -1001 if none."""
        with map_client_errors(f"looking up the end of {where}"):
            return self._consumer.get_watermark_offsets(TopicPartition(*where), cached=True)[1]
