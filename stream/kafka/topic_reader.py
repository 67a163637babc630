"""Stretches of a topic, read without a group: nothing is joined, nothing committed.

For replays, which read what a broker holds and must leave no trace there.
"""

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

log = structlog.stdlib.get_logger(__name__)

POLL_RECORDS: Final = 10_000
POLL_S: Final = 0.2
BUFFERED_RECORDS_MAX: Final = 20_000
"""A partition that waits with so many records is paused: another one is asked for."""

PARTITION_EOF: Final = "_PARTITION_EOF"
OFFSET_GONE_CODES: Final = frozenset({"_AUTO_OFFSET_RESET", "OFFSET_OUT_OF_RANGE"})


class OffsetRange(NamedTuple):
    """Offsets of a partition from start on, up to stop, which is not among them."""

    start: int
    stop: int


class TopicReader:
    """A topic's reader; several partitions are read at once, each as fast as it is asked for."""

    def __init__(self, properties: Properties, group: str, topic: str) -> None:
        self.topic = topic
        self._deferred_error = DeferredError()
        alone = {name: x for name, x in properties.items() if not name.startswith("group.")}
        own = consumer_properties(alone, group) | {"enable.partition.eof": True}
        self._consumer = create_client(Consumer, {**own, "error_cb": self._deferred_error.on_error})
        self._stops: dict[int, int] = {}
        self._reached: dict[int, int] = {}
        self._waiting: dict[int, deque[Message]] = {}
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

    # -- what there is ----------------------------------------------------------------------------

    def offset_ranges(self) -> dict[int, OffsetRange]:
        """What the topic holds now, by partition; none where it does not exist. The end is what a
        read_committed reader can come to."""
        operation = f"asking for the offsets of {self.topic}"
        with map_client_errors(operation):
            found = self._consumer.list_topics(self.topic, timeout=CALL_TIMEOUT_S).topics[
                self.topic
            ]
            self._deferred_error.raise_if_set()
            return {
                partition: OffsetRange(
                    *self._consumer.get_watermark_offsets(
                        TopicPartition(self.topic, partition), timeout=CALL_TIMEOUT_S
                    )
                )
                for partition in sorted(found.partitions)
            }

    def offsets_at_time(self, time_ms: int, ranges: Mapping[int, OffsetRange]) -> dict[int, int]:
        """The first offset of each partition whose record the broker has from then or later; its
        end where there is none."""
        asked = [TopicPartition(self.topic, partition, time_ms) for partition in ranges]
        with map_client_errors(f"asking for offsets of {self.topic} by time"):
            found = self._consumer.offsets_for_times(asked, timeout=CALL_TIMEOUT_S)
        return {
            one.partition: one.offset if one.offset >= 0 else ranges[one.partition].stop
            for one in found
        }

    # -- reading ----------------------------------------------------------------------------------

    def start(self, ranges: Mapping[int, OffsetRange]) -> None:
        """Start reading these stretches, from their beginning."""
        full = {partition: span for partition, span in ranges.items() if span.start < span.stop}
        self._stops = {partition: span.stop for partition, span in full.items()}
        self._reached = {partition: span.start for partition, span in full.items()}
        self._paused = set()
        self._waiting = {partition: deque() for partition in ranges}
        with map_client_errors(f"reading {self.topic}"):
            self._consumer.assign(
                [TopicPartition(self.topic, p, span.start) for p, span in full.items()]
            )

    def records(self, partition: int, records_max: int) -> Iterator[Records]:
        """A partition's stretch, so many records at a time, and the rest: what follows from them
        must not depend on how they came. Raises RetentionGap where the broker has it no longer, and
        KafkaFailure."""
        waiting = self._waiting[partition]
        where = Partition(self.topic, partition)
        while waiting or partition in self._stops:
            deadline = time.monotonic() + RETRY_FOR_S
            while len(waiting) < records_max and partition in self._stops:
                before = self._reached[partition]
                self._poll(partition)
                if self._reached[partition] > before:
                    deadline = time.monotonic() + RETRY_FOR_S
                elif time.monotonic() > deadline:
                    raise Retriable(f"reading {where}: nothing came for {RETRY_FOR_S:g} s")
            count = min(records_max, len(waiting))
            if count:
                yield to_records(where, [waiting.popleft() for _ in range(count)])

    def _poll(self, wanted: int) -> None:
        """Take what has come, whichever partition it is of."""
        with map_client_errors(f"reading {self.topic}"):
            self._hold_back(wanted)
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
                self._waiting[partition].append(message)
        for one in reached:  # after transaction markers, aborted records and compacted gaps, too
            self._reached[one.partition] = max(self._reached[one.partition], one.offset)
            if one.offset >= self._stops.get(one.partition, math.inf):
                self._end(one.partition)

    def _take_error(self, partition: int, message: Message) -> None:
        error = message.error()
        assert error is not None
        where = Partition(self.topic, partition)
        if error.name() == PARTITION_EOF:
            self._end(partition)
        elif error.name() in OFFSET_GONE_CODES:
            raise RetentionGap(f"{where}: {error.str()}")
        elif classify(error) is Retriable:
            log.warning("kafka client", code=error.name(), error=error.str())
        else:
            raise kafka_failure(error, f"reading {where}")

    def _end(self, partition: int) -> None:
        del self._stops[partition]
        self._consumer.incremental_unassign([TopicPartition(self.topic, partition)])

    def _hold_back(self, wanted: int) -> None:
        """Pause partitions of which enough waits; let go on which has little, and what is asked
        for."""
        for partition in self._stops:
            many = len(self._waiting[partition]) >= BUFFERED_RECORDS_MAX and partition != wanted
            few = len(self._waiting[partition]) < BUFFERED_RECORDS_MAX // 2
            at = [TopicPartition(self.topic, partition)]
            if many and partition not in self._paused:
                self._consumer.pause(at)
                self._paused.add(partition)
            elif few and partition in self._paused:
                self._consumer.resume(at)
                self._paused.discard(partition)
