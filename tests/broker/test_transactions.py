"""Transactions on a real broker that is slow, unavailable, or rejects records.

Nothing is lost or doubled, and a worker either continues or names the remedy.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from random import Random
from threading import Event, Thread, Timer

import pytest
from confluent_kafka import Consumer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from stream.config import load
from stream.errors import Abortable, Retriable
from stream.kafka import source as kafka_source
from stream.kafka.client_errors import retrying
from stream.kafka.messages import OutRecord
from stream.kafka.positions import CommittedOffset, Membership, Partition
from stream.kafka.sink import RETRY_FRACTION, KafkaSink
from stream.kafka.source import KafkaSource
from stream.pipeline.alerting import RunInfo
from stream.runtime.worker import Worker
from stream.telemetry.collector import MetricsCollector
from stream.telemetry.health import WorkerHealth
from tests.broker.own_broker import OwnBroker, own_broker
from tests.broker.shop import (
    CLASSIC_PROTOCOL,
    assert_published_exactly_once,
    make_shop,
    read,
    send,
    value_of,
    wait_for,
    worker,
)

TIMEOUT_S = 10
EVENTS = 6_000


@pytest.fixture(scope="module")
def fragile(broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnBroker]:
    """A broker for this module's tests, which may freeze and kill it."""
    with own_broker(tmp_path_factory.mktemp("fragile")) as own:
        yield own


def make_topics(bootstrap: str, *names: str) -> None:
    """Create topics of one partition."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for future in admin.create_topics([NewTopic(name, 1, 1) for name in names]).values():
        future.result()


class Freezing(KafkaSink):
    """A real sink whose broker freezes before one of its steps."""

    freeze: Callable[[], None] = staticmethod(lambda: None)
    before = ""

    def _step(self, name: str) -> None:
        if self.before == name:
            self.before = ""
            self.freeze()

    def _add_offsets(
        self, positions: Mapping[Partition, CommittedOffset], membership: Membership
    ) -> None:
        self._step("offsets")
        super()._add_offsets(positions, membership)

    def _commit(self) -> None:
        self._step("commit")
        super()._commit()


@contextmanager
def membership(bootstrap: str, group: str) -> Iterator[Membership]:
    """The membership of a consumer that never joined."""
    client = Consumer({"bootstrap.servers": bootstrap, "group.id": group})
    yield Membership(client.consumer_group_metadata())
    client.close()


@pytest.mark.long
@pytest.mark.parametrize("step", ["offsets", "commit"])
def test_a_slow_broker_fences_no_producer(fragile: OwnBroker, step: str) -> None:
    """Before the commit is requested, the transaction is aborted in time and tried again;
    afterwards its outcome is awaited. Either way its records are read once."""
    name = f"late-{time.time_ns()}"
    make_topics(fragile.bootstrap, name)
    properties: dict[str, str | int | float | bool] = {
        "bootstrap.servers": fragile.bootstrap,
        "transaction.timeout.ms": TIMEOUT_S * 1_000,
    }
    sink = Freezing(properties, name, "slot")
    sink.open()
    sink.freeze, sink.before = fragile.freeze, step
    late_s = TIMEOUT_S * RETRY_FRACTION + 2
    thaw = Timer(late_s, fragile.thaw)
    aborted = 0
    with membership(fragile.bootstrap, name) as ours:
        thaw.start()
        for attempt in retrying(Abortable):
            with attempt:
                aborted = attempt.retry_state.attempt_number - 1
                sink.transact(
                    [OutRecord(name, b"k", b"once", [])],
                    {Partition(name, 0): CommittedOffset(1, "note")},
                    ours,
                )
    thaw.join()
    assert (aborted > 0) == (step != "commit")
    assert [record.value for record in read(fragile.bootstrap, name)] == [b"once"]


@pytest.mark.long
def test_a_broker_killed_under_load_loses_nothing(fragile: OwnBroker, tmp_path: Path) -> None:
    """Two workers survive a broker that is killed and restarted, with its coordinators."""
    shop = make_shop(
        fragile.bootstrap, tmp_path, "restart", 4, batch_records=200, commit_interval="1ms"
    )
    shop.feed(EVENTS)
    with worker(shop, "one") as one, worker(shop, "two") as two:
        wait_for(lambda: sum(shop.committed().values()) > EVENTS // 20, "commits")
        fragile.kill()
        time.sleep(2)
        fragile.start()
        shop.feed(EVENTS // 4, seed=8)
        shop.wait_until_caught_up()
        assert (one.stop(), two.stop()) == (0, 0)
    assert_published_exactly_once(shop)


@pytest.mark.long
def test_an_output_topic_that_is_gone_is_named(broker: str, tmp_path: Path) -> None:
    """A worker whose output topic was deleted ends with exit code 5, and names the topic."""
    kafka = CLASSIC_PROTOCOL | {"transaction.timeout.ms": 4_000}
    shop = make_shop(broker, tmp_path, "gone", 1, kafka=kafka)
    send(shop, [b"no event"])
    with worker(shop) as process:
        shop.wait_until_caught_up()
        admin = AdminClient({"bootstrap.servers": broker})
        for future in admin.delete_topics([f"{shop.group}-dead"]).values():
            future.result()
        send(shop, [b"no event either"])
        assert process.process.wait(60) == 5
        said = process.log_file.read_text()
    assert f"topic {shop.group}-dead: the topic or the partition does not exist" in said
    assert "Traceback" not in said


def test_a_record_that_the_topic_refuses_is_named(broker: str, tmp_path: Path) -> None:
    """A record that is too large for its topic does not abort transactions for ever: topic and size
    are named."""
    shop = make_shop(broker, tmp_path, "refused", 1, dead_bytes_max=100_000)
    send(shop, [Random(7).randbytes(300_000)])  # which no compression makes any smaller
    with worker(shop) as process:
        assert process.process.wait(60) == 5
        said = process.log_file.read_text()
    assert "MSG_SIZE_TOO_LARGE" in said
    assert "the transaction's largest record has 300" in said
    assert f"for topic {shop.group}-dead" in said
    assert "Traceback" not in said


class BlockedSink(KafkaSink):
    """A real sink whose transactions are aborted until `let_go` is set."""

    let_go = False
    aborted = 0

    def _deliver(self) -> None:
        super()._deliver()
        if not self.let_go:
            self.aborted += 1
            raise Abortable("told to fail")


def test_a_blocked_outbox_does_not_grow(broker: str, tmp_path: Path) -> None:
    """While transactions are aborted the consumer is paused: new records stay on the topic, and all
    are published once in the end."""
    shop = make_shop(broker, tmp_path, "blocked", 1, batch_records=100)
    config, metrics, stop = load(shop.config), MetricsCollector(), Event()
    sink = BlockedSink(config.kafka, config.group, "slot")
    sink.open()
    with KafkaSource(config.kafka, config.group) as source:
        one = Worker(config, source, sink, RunInfo("live", "run", str), metrics, WorkerHealth())
        thread = Thread(target=one.run, args=[stop])
        thread.start()
        send(shop, [b"no event"] * 30)
        wait_for(lambda: sink.aborted >= 3, "aborts")
        held = one._outbox.count
        for _ in range(5):
            send(shop, [b"no event"] * 500)
            before = sink.aborted
            wait_for(lambda before=before: sink.aborted > before, "another abort")  # type: ignore[misc]
            assert one._outbox.count == held <= 100
        assert not read(broker, f"{shop.group}-dead")
        sink.let_go = True
        shop.wait_until_caught_up()
        stop.set()
        thread.join()
    assert_published_exactly_once(shop)
    assert value_of(metrics.exposition().decode(), "eddy_aborts_total") == sink.aborted


def test_a_partition_unknown_to_the_broker_is_retried(
    broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker that has just started may not know an assigned partition yet; that is no reason to
    end for good."""
    brief = partial(retrying, retry_for_s=0.2)
    monkeypatch.setattr(kafka_source, "retrying", brief)
    make_topics(broker, topic := f"narrow-{time.time_ns()}")
    with KafkaSource({"bootstrap.servers": broker}, "narrow") as source:
        for where in (Partition(topic, 7), Partition("nowhere", 0)):
            with pytest.raises(Retriable, match="does not exist"):
                source.offset_range(where)
        assert source.offset_range(Partition(topic, 0)) == (0, 0)
