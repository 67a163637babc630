"""Entities in another partition than the group expects: a topic has grown while a worker ran, or
its producer uses another partitioner."""

import re
from pathlib import Path
from typing import Literal

import orjson
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions

from stream.config import load
from stream.config.stage_graph import logs
from stream.inputs.diagnostics import MISPLACED_KEYS
from stream.kafka.positions import Partition
from stream.kafka.sink import PlainProducer
from stream.replay import replay
from stream.simulator import Shop as Simulated
from stream.simulator import lines
from tests.broker.shop import (
    CLASSIC_PROTOCOL,
    KEYED_BY,
    Shop,
    consumer,
    eddy,
    make_shop,
    value_of,
    wait_for,
    worker,
)

EVENTS = 300
AT_ONCE = CLASSIC_PROTOCOL | {"topic.metadata.refresh.interval.ms": 300}
"""So that a new partition is noticed at once."""


def grow(shop: Shop, topic: str, partitions: int) -> None:
    """Give a topic more partitions."""
    admin = AdminClient({"bootstrap.servers": shop.bootstrap})
    for future in admin.create_partitions([NewPartitions(topic, partitions)]).values():
        future.result()


def traces(shop: Shop) -> tuple[object, ...]:
    """The ends of all topics, all committed offsets with their metadata, and the checkpoints."""
    with consumer(shop.bootstrap, "traces") as client:
        topics = client.list_topics(timeout=10).topics
        ends = {
            (name, partition): client.get_watermark_offsets(
                TopicPartition(name, partition), timeout=10
            )
            for name, topic in topics.items()
            if name.startswith(shop.group) and name != shop.topic
            for partition in topic.partitions
        }
    places = [Partition(log.topic, p) for log in logs(load(shop.config)) for p in range(4)]
    offsets = [(one.topic, one.partition, one.offset, one.metadata) for one in shop.offsets(places)]
    return ends, offsets, {str(path) for path in shop.store.rglob("*.json")}


@pytest.mark.parametrize("internal_topics", [False, True], ids=["direct", "internal"])
def test_an_input_that_grows_is_refused_and_its_remedy_keeps_the_state(
    broker: str, tmp_path: Path, internal_topics: bool
) -> None:
    """Nothing of the new partition is read or committed. The error names a replay into a saved
    state; a group that starts from it knows all events, and continues where the old one ended."""
    shop = make_shop(broker, tmp_path, "grows", 1, kafka=AT_ONCE, internal_topics=internal_topics)
    shop.feed(EVENTS, malformed=0.0)
    with worker(shop) as process:
        shop.wait_until_caught_up()
        committed = shop.committed()[0]
        grow(shop, shop.topic, 2)
        shop.feed(EVENTS, seed=8, malformed=0.0)
        assert process.process.wait(60) == 4
        output = process.log_file.read_text()
    assert f"{shop.topic}[1]: the group assigned this partition" in output
    assert "--save-state" in output
    assert "checkpoints.start_from" in output
    assert "Traceback" not in output
    before = traces(shop)
    assert "checkpoints.start_from" in eddy("run", str(shop.config), code=2)
    assert traces(shop) == before
    ends = Shop(shop.bootstrap, shop.group, 2, shop.config).ends()
    assert ends[1] > 0
    assert shop.offsets([Partition(shop.topic, 1)])[0].offset < 0

    config = shop.config.with_name("grown.toml")
    text = shop.config.read_text().replace(f'group = "{shop.group}"', f'group = "{shop.group}-2"')
    text = re.sub(r"(\[inputs.shop\]\n.*\n)partitions = 1", r"\1partitions = 2", text)
    place = tmp_path / "saved"
    config.write_text(text.replace("[checkpoints]\n", f'[checkpoints]\nstart_from = "{place}"\n'))
    eddy("topics", "create", str(config))
    address = f"shop=kafka://{shop.topic}?until=0:{committed},1:0"
    options = ["--input", address, "--out", str(tmp_path / "out"), "--save-state", str(place)]
    eddy("replay", str(config), *options)
    grown = Shop(shop.bootstrap, f"{shop.group}-2", 2, config)
    with worker(grown) as process:
        wait_for(lambda: process.has_logged("starting from a saved state"), "the saved state")
        wait_for(lambda: any("address" in line for line in process.log()), "its server")
        everything = committed + EVENTS  # all that both groups have read
        wait_for(
            lambda: value_of(process.get("/metrics")[1], "eddy_records_total") >= everything,
            "all records",
        )
        starts = {
            (line["topic"], line["partition"]): line["next_offset"]
            for line in process.log()
            if line["event"] == "partition taken"
        }
        assert starts[shop.topic, 0] == committed
        assert starts[shop.topic, 1] == 0
        assert process.stop() == 0


def test_an_internal_topic_that_grows_is_refused(broker: str, tmp_path: Path) -> None:
    """As for an input: nothing of the new partition is read, and nothing is written to it."""
    shop = make_shop(broker, tmp_path, "wider", 1, kafka=AT_ONCE, internal_topics=True)
    shop.feed(EVENTS, malformed=0.0)
    with worker(shop) as process:
        shop.wait_until_caught_up()
        log = next(log for log in shop.internal_logs() if log.name == "card")
        grow(shop, log.topic, log.partitions + 1)
        assert process.process.wait(60) == 4
        output = process.log_file.read_text()
    assert f"{log.topic}[{log.partitions}]: the group assigned this partition" in output
    assert "--save-state" in output
    before = traces(shop)
    assert "checkpoints.start_from" in eddy("run", str(shop.config), code=2)
    assert traces(shop) == before
    assert shop.offsets([Partition(log.topic, log.partitions)])[0].offset < 0


@pytest.mark.parametrize("partitioner", ["murmur2", "crc32"])
def test_misplaced_keys_are_counted_and_logged(
    broker: str, tmp_path: Path, partitioner: Literal["murmur2", "crc32"]
) -> None:
    """The configuration names murmur2, the producer uses another partitioner. The worker logs it
    once a partition, and counts; a replay notes it. With the right partitioner neither does."""
    shop = make_shop(broker, tmp_path, "keyed", 2)
    feed = PlainProducer({"bootstrap.servers": broker}, shop.topic, partitioner)
    for line in lines(Simulated(EVENTS, 7), 0.0):
        feed.send(orjson.loads(line.value)[KEYED_BY].encode(), line.value)
    feed.close()
    with worker(shop) as process:
        shop.wait_until_caught_up()
        wait_for(
            lambda: value_of(process.get("/metrics")[1], "eddy_records_total") == EVENTS,
            "all records",
        )
        wrong = value_of(process.get("/metrics")[1], "eddy_keys_misplaced_total")
        logged = {line["partition"] for line in process.log() if line["event"] == MISPLACED_KEYS}
        assert process.stop() == 0
    summary = replay(
        load(shop.config), [("shop", f"kafka://{shop.topic}")], tmp_path / "out", lambda *_: None
    )
    [note] = [one for one in summary.notes if f"murmur2 of {KEYED_BY}" in one] or [""]
    if partitioner == "murmur2":
        assert (wrong, logged, note) == (0, set(), "")
    else:
        assert 0 < wrong <= EVENTS / 8
        assert logged == {0, 1}
        assert note.startswith(f"shop: {wrong:.0f} of ")
