"""What points and seeds stand on: a shop small enough for a start every second, and its events.

The broker misses a killed member after a second or two, and ends a dead worker's transaction soon
after its time-out, so that a schedule with many deaths takes seconds.
"""

import re
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from numpy.random import PCG64, Generator

from stream.config import load
from stream.config.stage_graph import logs
from stream.kafka.sink import PlainProducer
from stream.simulator import LABEL_DELAY_MS, START_MS, SimulatedLine, lines
from stream.simulator import Shop as Simulated
from stream.simulator.attacks import EVENTS_MIN
from stream.simulator.visits import DAY_MS
from tests.broker.shop import KEYED_BY, Shop, consumer, make_shop
from tests.crash.oracle import assert_equals_oracle
from tests.crash.processes import ForkedWorker, running_worker, wait_for

BROKER_SETTINGS: Final = (
    "group.min.session.timeout.ms=1000",
    "group.consumer.session.timeout.ms=2000",
    "group.consumer.min.session.timeout.ms=1000",
    "group.consumer.heartbeat.interval.ms=300",
    "group.consumer.min.heartbeat.interval.ms=100",
    "transaction.abort.timed.out.transaction.cleanup.interval.ms=300",
)
SHORT_TRANSACTIONS: Final[dict[str, object]] = {"transaction.timeout.ms": 4_000}
PROTOCOLS: Final[dict[str, dict[str, object]]] = {
    "classic": {"session.timeout.ms": 2_000, "heartbeat.interval.ms": 300, **SHORT_TRANSACTIONS},
    "static": {
        "session.timeout.ms": 3_000,
        "heartbeat.interval.ms": 300,
        "group.instance.id": "slot",
        **SHORT_TRANSACTIONS,
    },
    "consumer": {"group.protocol": "consumer", **SHORT_TRANSACTIONS},
}
MALFORMED: Final = 0.02
HONEST_SHARE: Final = 0.8
CAPACITY: Final = 3_000
SMALL_BATCHES: Final[dict[str, Any]] = {"batch_records": 100, "commit_interval": "1ms"}
FREQUENT_CHECKPOINTS: Final[dict[str, object]] = {"rewind_records_max": 1_800}
"""A checkpoint is due after 600 records."""


def _ignore(_name: str, _value: float) -> None:
    """Nobody wants to know."""


class Environment(NamedTuple):
    """A running broker, and a folder for logs and checkpoints.

    measured: told a figure that is worth printing, by its name.
    """

    bootstrap: str
    folder: Path
    record_figure: Callable[[str, float], None] = _ignore


def make_crash_shop(
    environment: Environment,
    name: str,
    partitions: int = 1,
    protocol: str = "classic",
    *,
    internal_topics: bool = False,
    labels: bool = False,
    kafka: dict[str, object] | None = None,
    worker: dict[str, Any] = SMALL_BATCHES,
) -> Shop:
    """A small shop that commits every hundred records and takes a checkpoint every 600.

    hop: its monitors read internal topics, and their reports are assessed over another one. labels:
    which learns from a topic of labels. kafka: more of the clients' properties. worker: settings of
    the configuration's table.
    """
    shop = make_shop(
        environment.bootstrap,
        environment.folder,
        name.replace(" ", "-"),
        partitions,
        FREQUENT_CHECKPOINTS,
        PROTOCOLS[protocol] | (kafka or {}),
        internal_topics=internal_topics,
        labels=labels,
        **worker,
    )
    text = shop.config.read_text()
    shop.config.write_text(re.sub(r"capacity = [\d_]+", f"capacity = {CAPACITY}", text))
    return shop


def feed(shop: Shop, events: int, seed: int = 7, malformed: float = MALFORMED) -> None:
    """Put simulated events on the topic: the first of a stream that is long enough to hold attacks.
    A later call needs a larger seed, for its events are later then."""
    spec = load(shop.config).inputs["shop"]
    writer = PlainProducer({"bootstrap.servers": shop.bootstrap}, shop.topic, spec.partitioner)
    for line in islice(simulated_lines(max(events, EVENTS_MIN), seed, malformed), events):
        writer.send(line.key, line.value)
    writer.close()


def feed_day(shop: Shop, day: Simulated) -> None:
    """Put the events of a day of the simulator on the topic."""
    writer = PlainProducer({"bootstrap.servers": shop.bootstrap}, shop.topic, "murmur2")
    for line in lines(day, MALFORMED, KEYED_BY):
        writer.send(line.key, line.value)
    writer.close()


def feed_labels(shop: Shop, day: Simulated) -> None:
    """Put what is known a day later on the topic of labels: of attackers' events that they are
    frauds, of `HONEST_SHARE` of the others that they are not. Who has no account is named by
    nobody, which makes dead letters."""
    draw = Generator(PCG64(day.seed))
    writer = PlainProducer({"bootstrap.servers": shop.bootstrap}, shop.topic_of_labels, "murmur2")
    for event, attack in day.events():
        if attack or ("account" in event and draw.random() < HONEST_SHARE):
            label = {
                "event_id": f"label-{event['event_id']}",
                "time": event["time"] + LABEL_DELAY_MS,
                "labelled_event_id": event["event_id"],
                "verdict": "fraud" if attack else "honest",
                "account": event.get("account"),
            }
            writer.send(event["event_id"].encode(), orjson.dumps(label))
    writer.close()


def simulated_lines(
    events: int, seed: int, malformed: float = MALFORMED
) -> Iterator[SimulatedLine]:
    """The lines of a simulated shop, on a day of its own: a larger seed is a later day. No clock is
    read, so that the same seed gives the same log."""
    return lines(Simulated(events, seed, START_MS + seed * DAY_MS), malformed, KEYED_BY)


def wait_until_caught_up(shop: Shop, *required: ForkedWorker) -> None:
    """Return when the group has committed everything that is there, log after log.

    After the last record of an internal log there are transaction markers, which the group advances
    over with its next commit.
    """
    with consumer(shop.bootstrap, shop.group) as client:
        for log in logs(load(shop.config)):
            ends = {p: 1 + (some[-1].offset() or 0) for p, some in shop.log(log.topic).items()}
            asked = [TopicPartition(log.topic, p) for p in range(log.partitions)]
            wait_for(lambda a=asked, e=ends: _has_committed(client, a, e), log.topic, *required)  # type: ignore[misc]


def _has_committed(client: Consumer, asked: list[TopicPartition], ends: dict[int, int]) -> bool:
    """Whether the group has committed that; no, while the broker does not say."""
    try:
        found = client.committed(asked, timeout=5)
    except KafkaException:
        return False
    return all(max(0, one.offset) >= ends.get(one.partition, 0) for one in found)


def finish_with_one_worker(shop: Shop, slot: str = "one") -> ForkedWorker:
    """A worker that does what is left and stops cleanly."""
    with running_worker(shop, slot) as worker:
        partitions_read = sum(log.partitions for log in logs(load(shop.config)))

        def has_all() -> bool:
            owned = worker.owned_partitions()
            return len(owned) == partitions_read and all(owned.values())

        wait_for(has_all, "the last worker to be live everywhere", worker)
        wait_until_caught_up(shop, worker)
        code = worker.stop()
    assert code == 0, f"the last worker ended with {code}: {worker.log_file}"
    return worker


def finish_and_check(shop: Shop, slot: str = "one") -> ForkedWorker:
    """The same, and then everything is the oracle's."""
    worker = finish_with_one_worker(shop, slot)
    assert_equals_oracle(shop)
    return worker


def delete_before(shop: Shop, offset: int) -> None:
    """Have the broker forget what stands before that offset of the first partition."""
    admin = AdminClient({"bootstrap.servers": shop.bootstrap})
    for future in admin.delete_records([TopicPartition(shop.topic, 0, offset)]).values():
        future.result()
