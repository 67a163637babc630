"""The command line with a worker that publishes at least once: what exactly once is held against.

    python -m tests.bench.at_least_once run CONFIG ...

It puts another sink into the worker and then runs it as it is: no option of the worker's own leads
here. Records are produced by an idempotent producer without transactions, and flushed; then the
consumer commits the offsets. Nothing is mended: an error ends the process.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition

from stream.cli import main
from stream.kafka.client_errors import Beat
from stream.kafka.messages import OutRecord
from stream.kafka.positions import CommittedOffset, Membership, Partition
from stream.kafka.properties import Properties, producer_properties
from stream.kafka.sink import produce
from stream.kafka.source import KafkaSource
from stream.runtime import start

WAIT_MAX_S: Final = 60.0


class OpenSource(KafkaSource):
    """The worker's source; the sink commits by its consumer."""

    consumer: Consumer

    def __init__(self, properties: Properties, group: str, beat: Beat, hear: Beat) -> None:
        super().__init__(properties, group, beat, hear)
        OpenSource.consumer = self._consumer


class PlainSink:
    """A `KafkaSink` without transactions."""

    def __init__(self, properties: Properties, group: str, slot: str, beat: Beat) -> None:
        own = producer_properties(properties, {})
        self._producer = Producer({**own, "on_delivery": self._on_delivery})
        self._failed: list[str] = []

    def _on_delivery(self, error: KafkaError | None, _: Message) -> None:
        if error is not None:
            self._failed.append(error.str())

    def open(self) -> None:
        """There is nothing to take over."""

    def transact(
        self,
        records: Iterable[OutRecord],
        positions: Mapping[Partition, CommittedOffset],
        membership: Membership,
    ) -> None:
        """Write the records, wait until they are delivered, then commit the positions."""
        for record in records:
            produce(self._producer, record)
        left = self._producer.flush(WAIT_MAX_S)
        assert not left, left
        assert not self._failed, self._failed
        OpenSource.consumer.commit(
            offsets=[
                TopicPartition(*where, offset, note) for where, (offset, note) in positions.items()
            ],
            asynchronous=False,
        )


REPLACEMENTS: Final = {"KafkaSink": PlainSink, "KafkaSource": OpenSource}
"""Replacements in the worker's module, by name."""

if __name__ == "__main__":
    for name, replacement in REPLACEMENTS.items():
        setattr(start, name, replacement)
    main()
