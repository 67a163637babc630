"""A range of a Kafka topic as logs, one per partition, of an input's topic or an internal topic.

    kafka://TOPIC?from=…&until=…

`from` and `until` are an offset for all partitions (`1200`), offsets of some (`0:1200,1:980`; the
others are read as a whole), or ISO 8601 times of the broker. Without them, all of the topic is read.
Records keep topic, partition and offset, so that a replay of the records that a live worker read gives
the same alerts.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from schemas.columns import I64
from schemas.records import Records
from stream.clock import parse_time_ms
from stream.config import TOPIC_PATTERN, Config
from stream.config.stage_graph import logs
from stream.config.topology import Log
from stream.errors import InputError
from stream.kafka.topic_reader import OffsetRange, TopicReader

SCHEME: Final = "kafka"
RECORD_BYTES_ESTIMATE: Final = 200
"""Assumed size of a record, for the progress of all inputs."""
_EXPECTED: Final = "an offset, PARTITION:OFFSET,…, or an ISO 8601 time"


class TopicRangeReader:
    """Reads a range of one partition; see `InputReader`. Iterating raises KafkaFailure and
    RetentionGap."""

    needs_time_order = False

    def __init__(
        self,
        name: str,
        reader: TopicReader,
        partition: int,
        offset_range: OffsetRange,
        batch_records: int,
    ) -> None:
        self.name = name
        self.topic = reader.topic
        self.partition = partition
        self.offset_range = offset_range
        self.size_bytes = (offset_range.stop - offset_range.start) * RECORD_BYTES_ESTIMATE
        self.fraction_read = 0.0
        self._reader = reader
        self._batch_records = batch_records

    def __iter__(self) -> Iterator[list[Records]]:
        """See `InputReader`."""
        for records in self._reader.records(self.partition, self._batch_records):
            done = int(records.offset[-1]) + 1 - self.offset_range.start
            self.fraction_read = done / (self.offset_range.stop - self.offset_range.start)
            yield [records]
        self.fraction_read = 1.0

    def describe_position(self, partition: int, offset: int) -> str:
        """See `InputReader`."""
        return f"{self.topic}[{partition}]: offset {offset}"

    def log_index(self, partition: int, offset: I64) -> I64:  # noqa: ARG002
        """See `InputReader`; each partition is a separate log."""
        return offset


def find_internal_log(config: Config, name: str, topic: str) -> Log | None:
    """The internal log with this reader and topic; None where there is none."""
    internal_logs = (log for log in logs(config) if log.internal)
    return next((log for log in internal_logs if (log.name, log.topic) == (name, topic)), None)


def is_topic_range(address: str) -> bool:
    """Whether an address names a topic."""
    return address.startswith(f"{SCHEME}://")


def topic_of(address: str) -> str:
    """The topic that an address names. Raises InputError where it names none."""
    parsed = urlsplit(address)
    if not re.fullmatch(TOPIC_PATTERN, parsed.netloc) or parsed.path.strip("/"):
        raise InputError(
            f"{address}: expected a topic name: {SCHEME}://TOPIC?from=…&until=…, with the "
            "brokers and their user in [kafka]"
        )
    return parsed.netloc


def resolve_ranges(reader: TopicReader, address: str, partitions: int) -> dict[int, OffsetRange]:
    """The offsets of an address, by partition. partitions: number that the topic must have.

    Raises InputError where the topic does not hold these offsets.
    """
    available = reader.offset_ranges()
    if len(available) != partitions:
        raise InputError(
            f"{address}: the topic has {len(available)} partitions; expected {partitions}, as "
            "configured"
        )
    given = dict(parse_qsl(urlsplit(address).query, keep_blank_values=True))
    if unknown := sorted(given.keys() - {"from", "until"}):
        raise InputError(f"{address}: got {unknown[0]}; expected from and until, or neither")
    starts = {partition: offset_range.start for partition, offset_range in available.items()}
    stops = {partition: offset_range.stop for partition, offset_range in available.items()}
    for name, offsets in (("from", starts), ("until", stops)):
        if name in given:
            offsets.update(_offsets(reader, given[name], available, f"{address}: {name}"))
    return {
        partition: _checked_range(address, partition, starts, stops, available)
        for partition in available
    }


def range_address(topic: str, offset_ranges: Mapping[int, OffsetRange]) -> str:
    """The address of exactly these offsets."""
    starts = ",".join(
        f"{partition}:{offset_range.start}" for partition, offset_range in offset_ranges.items()
    )
    stops = ",".join(
        f"{partition}:{offset_range.stop}" for partition, offset_range in offset_ranges.items()
    )
    return f"{SCHEME}://{topic}?from={starts}&until={stops}"


def _offsets(
    reader: TopicReader, text: str, available: Mapping[int, OffsetRange], where: str
) -> dict[int, int]:
    if re.fullmatch(r"\d{1,18}", text):
        return dict.fromkeys(available, int(text))
    if re.fullmatch(r"\d{1,6}:\d{1,18}(,\d{1,6}:\d{1,18})*", text):
        pairs = (pair.split(":") for pair in text.split(","))
        offsets = {int(partition): int(offset) for partition, offset in pairs}
        if unknown := sorted(offsets.keys() - available.keys()):
            raise InputError(f"{where}: the topic has no partition {unknown[0]}")
        return offsets
    try:
        time_ms = parse_time_ms(text.replace(" ", "+"))  # in a query a plus means a space
    except ValueError as error:
        raise InputError(f'{where}: got "{text}"; expected {_EXPECTED}') from error
    return reader.offsets_at_time(time_ms, available)


def _checked_range(
    address: str,
    partition: int,
    starts: Mapping[int, int],
    stops: Mapping[int, int],
    available: Mapping[int, OffsetRange],
) -> OffsetRange:
    offset_range, available_range = (
        OffsetRange(starts[partition], stops[partition]),
        available[partition],
    )
    if available_range.start <= offset_range.start <= offset_range.stop <= available_range.stop:
        return offset_range
    raise InputError(
        f"{address}: partition {partition}: got offsets {offset_range.start} to {offset_range.stop}; the topic "
        f"holds {available_range.start} to {available_range.stop}"
    )
