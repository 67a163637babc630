"""A stretch of a Kafka topic as logs, one a partition: an input's topic, or an internal one.

    kafka://TOPIC?from=…&until=…

from and until are offsets of every partition (`1200`), of single ones (`0:1200,1:980`; others begin
at their start and end at their end), or ISO 8601 times (the broker's). What is not given is what
the topic holds. Records keep topic, partition and offset, so that a replay of what live has read
leads to the same alerts.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from schemas.columns import I64
from schemas.records import Records
from stream.clock import ms_of
from stream.config import TOPIC, Config, Log, logs
from stream.errors import InputError
from stream.kafka.ranges import Range, Span

SCHEME: Final = "kafka"
RECORD_BYTES: Final = 200
"""What a record counts, for the share of all inputs that was read."""
_EXPECTED: Final = "an offset, PARTITION:OFFSET,…, or an ISO 8601 time"


class RangeReading:
    """One partition's stretch, to be read once; see `Reading`. Iterating raises KafkaFailure and
    RetentionGap."""

    ordered = False

    def __init__(
        self, name: str, reader: Range, partition: int, span: Span, batch_records: int
    ) -> None:
        self.name = name
        self.topic = reader.topic
        self.partition = partition
        self.span = span
        self.size_bytes = (span.stop - span.start) * RECORD_BYTES
        self.share_read = 0.0
        self._reader = reader
        self._batch_records = batch_records

    def __iter__(self) -> Iterator[list[Records]]:
        """See `Reading`."""
        for records in self._reader.records(self.partition, self._batch_records):
            done = int(records.offset[-1]) + 1 - self.span.start
            self.share_read = done / (self.span.stop - self.span.start)
            yield [records]
        self.share_read = 1.0

    def where(self, partition: int, offset: int) -> str:
        """See `Reading`."""
        return f"{self.topic}[{partition}]: offset {offset}"

    def place(self, partition: int, offset: I64) -> I64:  # noqa: ARG002
        """See `Reading`; a partition is a log of its own."""
        return offset


def recorded_log(config: Config, name: str, topic: str) -> Log | None:
    """The internal log of that reader whose topic it is; None where it is another log."""
    known = (log for log in logs(config) if log.internal)
    return next((log for log in known if (log.name, log.topic) == (name, topic)), None)


def is_range(address: str) -> bool:
    """Whether an address is a topic's."""
    return address.startswith(f"{SCHEME}://")


def topic_of(address: str) -> str:
    """The topic that an address names. Raises InputError where it names none."""
    address_of = urlsplit(address)
    if not re.fullmatch(TOPIC, address_of.netloc) or address_of.path.strip("/"):
        raise InputError(
            f"{address}: got no topic's name; expected {SCHEME}://TOPIC?from=…&until=…, with the "
            "brokers and their user in [kafka]"
        )
    return address_of.netloc


def spans_at(reader: Range, address: str, partitions: int) -> dict[int, Span]:
    """The offsets that an address means now, by partition. partitions: that the topic must have.

    Raises InputError where the topic does not hold them.
    """
    held = reader.spans()
    if len(held) != partitions:
        raise InputError(
            f"{address}: the topic has {len(held)} partitions; expected {partitions}, as the "
            "configuration has it"
        )
    given = dict(parse_qsl(urlsplit(address).query, keep_blank_values=True))
    if strange := sorted(given.keys() - {"from", "until"}):
        raise InputError(f"{address}: got {strange[0]}; expected from and until, or neither")
    starts = {partition: span.start for partition, span in held.items()}
    stops = {partition: span.stop for partition, span in held.items()}
    for name, offsets in (("from", starts), ("until", stops)):
        if name in given:
            offsets.update(_offsets(reader, given[name], held, f"{address}: {name}"))
    return {partition: _span(address, partition, starts, stops, held) for partition in held}


def spelled(topic: str, spans: Mapping[int, Span]) -> str:
    """An address that means these offsets, whatever the topic holds besides."""
    starts = ",".join(f"{partition}:{span.start}" for partition, span in spans.items())
    stops = ",".join(f"{partition}:{span.stop}" for partition, span in spans.items())
    return f"{SCHEME}://{topic}?from={starts}&until={stops}"


def _offsets(reader: Range, text: str, held: Mapping[int, Span], where: str) -> dict[int, int]:
    if re.fullmatch(r"\d{1,18}", text):
        return dict.fromkeys(held, int(text))
    if re.fullmatch(r"\d{1,6}:\d{1,18}(,\d{1,6}:\d{1,18})*", text):
        pairs = (pair.split(":") for pair in text.split(","))
        found = {int(partition): int(offset) for partition, offset in pairs}
        if strange := sorted(found.keys() - held.keys()):
            raise InputError(f"{where}: the topic has no partition {strange[0]}")
        return found
    try:
        time_ms = ms_of(text.replace(" ", "+"))  # a plus stands for a space there
    except ValueError as error:
        raise InputError(f'{where}: got "{text}"; expected {_EXPECTED}') from error
    return reader.at_time(time_ms, held)


def _span(
    address: str,
    partition: int,
    starts: Mapping[int, int],
    stops: Mapping[int, int],
    held: Mapping[int, Span],
) -> Span:
    span, there = Span(starts[partition], stops[partition]), held[partition]
    if there.start <= span.start <= span.stop <= there.stop:
        return span
    raise InputError(
        f"{address}: partition {partition}: got offsets {span.start} to {span.stop}; the topic "
        f"holds {there.start} to {there.stop}"
    )
