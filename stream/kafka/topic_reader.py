"""Reads offset ranges of a topic, for replays: joins no group, commits nothing."""

import math
import time
from collections import deque
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Final, NamedTuple, Self

import structlog
from confluent_kafka import Consumer, Message, TopicPartition

from schemas.records import Records
from stream.errors import RetentionGap, Retriable
from stream.kafka.client_errors import (
    CALL_TIMEOUT_S,
    RETRY_FOR_S,
    DeferredError,
    classify,
    create_client,
    kafka_failure,
    map_client_errors,
)
from stream.kafka.positions import Partition
from stream.kafka.properties import Properties, consumer_properties
from stream.kafka.source import to_records

logger = structlog.stdlib.get_logger(__name__)

POLL_RECORDS: Final = 10_000
POLL_S: Final = 0.2
BUFFERED_RECORDS_MAX: Final = 20_000
"""A partition with so many unread records is paused, so that others are fetched."""

PARTITION_EOF: Final = "_PARTITION_EOF"
OFFSET_GONE_CODES: Final = frozenset({"_AUTO_OFFSET_RESET", "OFFSET_OUT_OF_RANGE"})


class OffsetRange(NamedTuple):
    """Offsets of a partition: from start up to stop, which is excluded."""

    start: int
    stop: int


class TopicReader:
    """Reads several partitions of a topic at once, each as fast as its records are asked for."""

    def __init__(self, properties: Properties, group: str, topic: str) -> None:
        self.topic = topic
        self._deferred_error = DeferredError()
        without_group = {name: x for name, x in properties.items() if not name.startswith("group.")}
        client_properties = consumer_properties(without_group, group) | {
            "enable.partition.eof": True
        }
        self._consumer = create_client(
            Consumer, {**client_properties, "error_cb": self._deferred_error.on_error}
        )
        self._stops: dict[int, int] = {}
        self._reached: dict[int, int] = {}
        self._buffered: dict[int, deque[Message]] = {}
        self._paused: set[int] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._consumer.close()

    # -- offsets ----------------------------------------------------------------------------------

    def offset_ranges(self) -> dict[int, OffsetRange]:
        """The offsets that each partition holds now; empty where the topic does not exist.

        A range ends where a read_committed consumer can read up to.
        """
        operation = f"asking for the offsets of {self.topic}"
        with map_client_errors(operation):
            metadata = self._consumer.list_topics(self.topic, timeout=CALL_TIMEOUT_S).topics[
                self.topic
            ]
            self._deferred_error.raise_if_set()
            return {
                partition: OffsetRange(
                    *self._consumer.get_watermark_offsets(
                        TopicPartition(self.topic, partition), timeout=CALL_TIMEOUT_S
                    )
                )
                for partition in sorted(metadata.partitions)
            }

    def offsets_at_time(self, time_ms: int, ranges: Mapping[int, OffsetRange]) -> dict[int, int]:
        """The first offset of each partition whose broker time is that or later; its end where there
        is none."""
        times = [TopicPartition(self.topic, partition, time_ms) for partition in ranges]
        with map_client_errors(f"asking for offsets of {self.topic} by time"):
            results = self._consumer.offsets_for_times(times, timeout=CALL_TIMEOUT_S)
        return {
            result.partition: result.offset if result.offset >= 0 else ranges[result.partition].stop
            for result in results
        }

    # -- reading ----------------------------------------------------------------------------------

    def start(self, ranges: Mapping[int, OffsetRange]) -> None:
        """Start reading these ranges."""
        to_read = {partition: each for partition, each in ranges.items() if each.start < each.stop}
        self._stops = {partition: each.stop for partition, each in to_read.items()}
        self._reached = {partition: each.start for partition, each in to_read.items()}
        self._paused = set()
        self._buffered = {partition: deque() for partition in ranges}
        with map_client_errors(f"reading {self.topic}"):
            self._consumer.assign(
                [TopicPartition(self.topic, p, each.start) for p, each in to_read.items()]
            )

    def records(self, partition: int, records_max: int) -> Iterator[Records]:
        """The records of a partition's range, in batches of exactly `records_max` but for the last:
        a replay must not depend on how records arrive.

        Raises RetentionGap where the broker has deleted records of the range, and KafkaFailure.
        """
        buffered = self._buffered[partition]
        topic_partition = Partition(self.topic, partition)
        while buffered or partition in self._stops:
            deadline = time.monotonic() + RETRY_FOR_S
            while len(buffered) < records_max and partition in self._stops:
                before = self._reached[partition]
                self._poll(partition)
                if self._reached[partition] > before:
                    deadline = time.monotonic() + RETRY_FOR_S
                elif time.monotonic() > deadline:
                    raise Retriable(
                        f"reading {topic_partition}: no record arrived for {RETRY_FOR_S:g} s"
                    )
            count = min(records_max, len(buffered))
            if count:
                yield to_records(topic_partition, [buffered.popleft() for _ in range(count)])

    def _poll(self, wanted: int) -> None:
        """Buffer what has arrived of any partition. wanted: the partition that is asked for."""
        with map_client_errors(f"reading {self.topic}"):
            self._pause_and_resume(wanted)
            messages = self._consumer.consume(POLL_RECORDS, POLL_S)
            reached = self._consumer.position(
                [TopicPartition(self.topic, partition) for partition in self._stops]
            )
        self._deferred_error.raise_if_set()
        for message in messages:
            partition = message.partition()
            if partition is None or partition not in self._stops:
                continue
            if message.error() is not None:
                self._take_error(partition, message)
            elif (message.offset() or 0) < self._stops[partition]:
                self._buffered[partition].append(message)
        for (
            position
        ) in reached:  # positions pass transaction markers, aborted records and gaps, too
            self._reached[position.partition] = max(
                self._reached[position.partition], position.offset
            )
            if position.offset >= self._stops.get(position.partition, math.inf):
                self._end(position.partition)

    def _take_error(self, partition: int, message: Message) -> None:
        error = message.error()
        assert error is not None
        topic_partition = Partition(self.topic, partition)
        if error.name() == PARTITION_EOF:
            self._end(partition)
        elif error.name() in OFFSET_GONE_CODES:
            raise RetentionGap(f"{topic_partition}: {error.str()}")
        elif classify(error) is Retriable:
            logger.warning("kafka client", code=error.name(), error=error.str())
        else:
            raise kafka_failure(error, f"reading {topic_partition}")

    def _end(self, partition: int) -> None:
        del self._stops[partition]
        self._consumer.incremental_unassign([TopicPartition(self.topic, partition)])

    def _pause_and_resume(self, wanted: int) -> None:
        """Pause partitions with many buffered records, and resume those with few or wanted."""
        for partition in self._stops:
            is_full = len(self._buffered[partition]) >= BUFFERED_RECORDS_MAX and partition != wanted
            has_room = len(self._buffered[partition]) < BUFFERED_RECORDS_MAX // 2
            topic_partitions = [TopicPartition(self.topic, partition)]
            if is_full and partition not in self._paused:
                self._consumer.pause(topic_partitions)
                self._paused.add(partition)
            elif has_room and partition in self._paused:
                self._consumer.resume(topic_partitions)
                self._paused.discard(partition)
