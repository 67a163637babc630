"""The real broker of the bench, its topics, and what is read and seen from outside of any worker."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import orjson
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from tenacity import retry, retry_if_exception_type, stop_after_delay

from tests.bench.events import Payments
from tests.bench.timing import TimeSpent

ROOT: Final = Path(__file__).resolve().parents[2]
WAIT_MAX_S: Final = 180.0
OUTPUTS: Final = ("bench-alerts", "bench-dead", "bench-out")


class NoBrokerError(Exception):
    """The broker did not start; the message says why."""


@contextmanager
def running_broker() -> Iterator[str]:
    """A broker's address; EDDY_TEST_BOOTSTRAP names one that runs already."""
    given = os.environ.get("EDDY_TEST_BOOTSTRAP")
    if given:
        yield given
        return
    command = [sys.executable, str(ROOT / "deploy" / "kafka" / "broker.py"), "--with-parent"]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline().strip()
            if not line.startswith("bootstrap="):
                raise NoBrokerError("no broker: see above")
            yield line.removeprefix("bootstrap=")
        finally:
            process.terminate()


def make_topics(bootstrap: str, *names: str, partitions: int = 1) -> None:
    """Topics with so many partitions each."""
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 2})
    made = admin.create_topics([NewTopic(name, partitions, 1) for name in names])
    for future in made.values():
        future.result()


def make_outputs(bootstrap: str) -> None:
    """The topics that every configuration here writes to, unless an earlier part has made them."""
    for name in OUTPUTS:
        try:
            make_topics(bootstrap, name)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise


def unused_name(name: str) -> str:
    """The name of a topic that is not there yet, on a broker that has served other runs, too."""
    return f"{name}-{time.time_ns()}"


def fill(bootstrap: str, topic: str, events: Payments) -> None:
    """Write the events to a topic, in their order."""
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "log_level": 2,
            "compression.type": "zstd",
            "linger.ms": 20,
            "queue.buffering.max.messages": 1_000_000,
            "enable.idempotence": True,
        }
    )
    write(producer, topic, events)


def write(producer: Producer, topic: str, events: Payments) -> None:
    """Hand the events to a producer, in their order, and wait until brokers have them."""
    for key, value in events.lines():
        while True:
            try:
                producer.produce(topic, value, key)
                break
            except BufferError:
                producer.poll(0.1)
    assert producer.flush(WAIT_MAX_S) == 0, topic


@retry(retry=retry_if_exception_type(KafkaException), stop=stop_after_delay(60), reraise=True)
def committed(client: Consumer, places: list[TopicPartition]) -> list[int]:
    """The group's next offsets, 0 where it has none; a broker that has just started may not know
    its coordinator yet."""
    return [max(0, one.offset) for one in client.committed(places, timeout=10)]


@contextmanager
def consumer(bootstrap: str, group: str, **more: Any) -> Iterator[Consumer]:
    """A read_committed consumer that joins no group by itself."""
    client = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "log_level": 2,
            "group.id": group,
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            **more,
        }
    )
    try:
        yield client
    finally:
        client.close()


def is_caught_up(client: Consumer, places: list[TopicPartition]) -> bool:
    """Whether the group's next offsets are at the ends, but for the marks of transactions there,
    which are never committed."""
    ends = [client.get_watermark_offsets(at, timeout=10)[1] for at in places]
    return all(end - done <= 1 for end, done in zip(ends, committed(client, places), strict=True))


def consume_and_load(bootstrap: str, topic: str, events: int) -> TimeSpent:
    """Plain consume(10_000) and orjson.loads of every value: the least that any worker does.

    Counted from the first batch that arrived, which itself is not counted.
    """
    seen = 0
    begun: tuple[int, float, float] | None = None
    with consumer(bootstrap, "plain", **{"fetch.queue.backoff.ms": 5}) as client:
        client.assign([TopicPartition(topic, 0, 0)])
        while seen < events:
            values = [message.value() for message in client.consume(10_000, 0.05)]
            for value in values:
                orjson.loads(value or b"")
            seen += len(values)
            if begun is None and 0 < seen < events:
                begun = seen, time.perf_counter(), time.process_time()
        assert begun is not None, f"{events} events are one batch"
        return TimeSpent(
            seen - begun[0], time.perf_counter() - begun[1], time.process_time() - begun[2]
        )
