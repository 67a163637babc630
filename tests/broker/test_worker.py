"""The worker on a real broker: every alert once, equal to a reference run over the same log.

EDDY_TEST_EVENTS sets the number of events of the two large tests (20,000 by default).
"""

import os
import re
import signal
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from threading import Event, Thread

import orjson
import pytest
from confluent_kafka import TopicPartition

from stream.config import load
from stream.errors import Abortable
from stream.kafka.positions import CommittedOffset, Membership, Partition
from stream.kafka.sink import KafkaSink
from stream.kafka.source import KafkaSource
from stream.pipeline.alerting import RunInfo
from stream.runtime.worker import Worker
from stream.telemetry.collector import MetricsCollector
from stream.telemetry.health import WorkerHealth
from stream.telemetry.metrics import METRICS
from tests.broker.shop import (
    Shop,
    assert_published_exactly_once,
    consumer,
    eddy,
    expected_codes,
    expected_repairs,
    make_shop,
    messages,
    reference,
    send,
    value_of,
    wait_for,
    worker,
)

EVENTS = int(os.environ.get("EDDY_TEST_EVENTS", "20000"))
LAYOUTS = pytest.mark.parametrize(
    ("partitions", "internal_topics"),
    [(4, False), (1, False), (4, True)],
    ids=["by-address", "one-partition", "over-internal-topics"],
)


def holds_every_alert_once(shop: Shop) -> None:
    """The output topics equal the reference's output: nothing is missing, nothing doubled."""
    assert_published_exactly_once(shop)
    expected = reference(shop)
    assert sum(map(len, expected.alerts.values())) > 20
    if shop.internal_topics:
        assert any(place.topic.endswith("-reports") for place in expected.alerts)


@LAYOUTS
def test_a_worker_publishes_the_references_output(
    broker: str, tmp_path: Path, partitions: int, internal_topics: bool
) -> None:
    """Alerts equal the reference's byte for byte, each bad record has its code, and counts add
    up."""
    shop = make_shop(broker, tmp_path, "whole", partitions, internal_topics=internal_topics)
    shop.feed(EVENTS)
    with worker(shop) as process:
        shop.wait_until_caught_up()
        wait_for(lambda: process.get("/readyz")[0] == 200, "readiness")
        assert process.get("/healthz")[0] == 200
        everything = sum(shop.ends().values())
        wait_for(
            lambda: value_of(process.get("/metrics")[1], "eddy_records_total") == everything, "it"
        )
        wait_for(lambda: all_judged(process.get("/metrics")[1]), "the monitors")
        wait_for(
            lambda: (
                (value_of(process.get("/metrics")[1], "eddy_reports_total") > 0) == internal_topics
            ),
            "assess",
        )
        _, exposition = process.get("/metrics")
        assert process.stop() == 0
    holds_every_alert_once(shop)
    bad, repaired = expected_codes(EVENTS), expected_repairs(EVENTS)
    published = [letter for each in shop.dead_letters().values() for letter in each]
    kept = [one for one in published if dict(one.headers)["eddy-disposition"] == b"event_kept"]
    letters = [one for one in published if one not in kept]
    codes = {letter.value: dict(letter.headers)["eddy-code"].decode() for letter in letters}
    assert codes == bad
    assert len(letters) == len(bad)
    assert 0 < len(kept) <= repaired
    counts = Counter[str]()
    for shard in reference(shop).shards.values():
        counts.update(shard.counts().get("route", {}))
    assert counts["read"] == everything == EVENTS + repaired + len(bad)
    assert value_of(exposition, "eddy_events_total") == counts["passed"] == EVENTS + repaired
    assert value_of(exposition, "eddy_dead_letters_total") == len(bad)
    assert value_of(exposition, "eddy_field_repaired_total") == repaired
    assert value_of(exposition, "eddy_lag") == 0 or internal_topics
    sent = value_of(exposition, "eddy_sent_total")
    assert (sent > 0) == internal_topics
    assert (value_of(exposition, "eddy_reports_total") > 0) == internal_topics
    told = sum(value_of(exposition, f"eddy_{name}_total") for name in ("scored", "labels"))
    readers = (
        4 if internal_topics else 1 if partitions > 1 else 3
    )  # with a hop assess, too, is sent labels
    assert told + value_of(exposition, "eddy_not_applicable_total") == readers * counts["passed"]


def test_an_alert_does_not_wait_for_the_commit_interval(broker: str, tmp_path: Path) -> None:
    """With an interval of an hour alerts are published while the worker runs, each once."""
    shop = make_shop(broker, tmp_path, "hasty", 1, commit_interval="1h")
    shop.feed(8_000)
    with worker(shop) as process:
        wait_for(lambda: len(messages(shop.bootstrap, f"{shop.group}-alerts")) > 5, "alerts")
        assert process.stop() == 0
    assert_published_exactly_once(shop)


def test_metrics_declared_are_those_emitted(broker: str, tmp_path: Path) -> None:
    """A running worker's /metrics has a value of every declared metric, and of no other. A bad
    amount is a repaired field, and 1,000 dead letters in a row are an input problem."""
    shop = make_shop(broker, tmp_path, "metrics", 1, internal_topics=True)
    repaired = {"event_id": "a", "type": "transaction", "time": 1, "account": "b", "amount": "c"}
    send(shop, [orjson.dumps(repaired), *[b"no event"] * 1_000])
    with worker(shop) as process:
        shop.wait_until_caught_up()
        wait_for(
            lambda: value_of(process.get("/metrics")[1], "eddy_input_problems") == 1, "a reading"
        )
        _, exposition = process.get("/metrics")
    emitted = set(re.findall(r"^([a-z_]+)(?:\{.*\})? ", exposition, flags=re.MULTILINE))
    suffixes = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_count", "_sum"]}
    assert emitted == {
        metric.name + suffix for metric in METRICS for suffix in suffixes[metric.kind]
    }


HOW = pytest.mark.parametrize(
    "how",
    [pytest.param(signal.SIGTERM, marks=pytest.mark.long), signal.SIGKILL],
    ids=["SIGTERM", "SIGKILL"],
)


@HOW
@LAYOUTS
def test_a_worker_stopped_mid_stream_continues(
    broker: str, tmp_path: Path, partitions: int, internal_topics: bool, how: signal.Signals
) -> None:
    """However it ended, the next worker re-learns without publishing, and no alert is lost or
    doubled."""
    shop = make_shop(
        broker,
        tmp_path,
        "again",
        partitions,
        internal_topics=internal_topics,
        batch_records=200,
        commit_interval="1ms",
    )
    shop.feed(EVENTS)
    with worker(shop) as process:
        wait_for(lambda: sum(shop.committed().values()) > EVENTS // 20, "a first commit")
        assert process.stop(how) == (0 if how is signal.SIGTERM else -how)
    before, ends = shop.committed(), shop.ends()
    assert 0 < sum(before.values()) < sum(ends.values()), "stopped too late to say anything"
    with worker(shop) as process:
        shop.wait_until_caught_up()
        # Who stops cleanly leaves a checkpoint at the committed offset: nothing to re-learn.
        assert process.has_logged("re-learned") == (how is signal.SIGKILL)
        assert process.stop() == 0
    holds_every_alert_once(shop)


@pytest.mark.long
def test_workers_that_come_and_go_share_internal_partitions(broker: str, tmp_path: Path) -> None:
    """Partitions of the input and of internal topics that move between workers lose and double
    nothing."""
    shop = make_shop(
        broker, tmp_path, "share", 4, internal_topics=True, batch_records=100, commit_interval="1ms"
    )
    shop.feed(EVENTS)
    with worker(shop, "one") as first, worker(shop, "two") as second:
        wait_for(lambda: first.has_logged("partition"), "an assignment")
        wait_for(lambda: second.has_logged("partition taken"), "a second worker's assignment")
        wait_for(lambda: sum(shop.committed().values()) > EVENTS // 10, "commits")
        assert first.stop() == 0
        shop.feed(EVENTS // 10, seed=8)
        shop.wait_until_caught_up()
        assert second.has_logged("partition taken")
        assert second.stop() == 0
    holds_every_alert_once(shop)
    assert first.has_logged("partition revoked")


class StubbornSink(KafkaSink):
    """A real sink whose first transactions are aborted before their commit."""

    failures_left = 5

    def _add_offsets(
        self, positions: Mapping[Partition, CommittedOffset], membership: Membership
    ) -> None:
        super()._add_offsets(positions, membership)
        if self.failures_left:
            self.failures_left -= 1
            raise Abortable("told to fail")


def test_aborted_transaction_is_tried_again_without_a_rewind(broker: str, tmp_path: Path) -> None:
    """Records of aborted transactions are on the topic, but a consumer sees each alert once."""
    shop = make_shop(broker, tmp_path, "abort", 1)
    shop.feed(EVENTS // 4)
    config, metrics, stop = load(shop.config), MetricsCollector(), Event()
    sink = StubbornSink(config.kafka, config.group, "slot")
    sink.open()
    with KafkaSource(config.kafka, config.group) as source:
        run = RunInfo("live", "run", str)
        thread = Thread(
            target=Worker(config, source, sink, run, metrics, WorkerHealth()).run, args=[stop]
        )
        thread.start()
        shop.wait_until_caught_up()
        stop.set()
        thread.join()
    holds_every_alert_once(shop)
    assert value_of(metrics.exposition().decode(), "eddy_aborts_total") == 5
    assert value_of(metrics.exposition().decode(), "eddy_commits_total") >= 1


def test_stop_while_idle_is_clean(broker: str, tmp_path: Path) -> None:
    """An idle worker stops at once, without an error, and has committed nothing."""
    shop = make_shop(broker, tmp_path, "idle", 1)
    with worker(shop) as process:
        wait_for(lambda: process.has_logged("partition taken"), "an assignment")
        wait_for(lambda: process.get("/readyz")[0] == 200, "readiness")
        assert process.stop(signal.SIGINT) == 0
    assert shop.committed() == {0: 0}


def test_offset_that_is_not_eddys_is_refused(broker: str, tmp_path: Path) -> None:
    """A committed offset without Eddy's metadata belongs to no state; starting with nothing learned
    would be silent."""
    shop = make_shop(broker, tmp_path, "foreign", 1)
    send(shop, [b"one", b"two"])
    with consumer(broker, shop.group) as client:
        client.commit(offsets=[TopicPartition(shop.topic, 0, 1)], asynchronous=False)
    said = eddy("run", str(shop.config), code=4)
    assert 'committed offset 1 with metadata ""; expected "eddy2 from=' in said


def test_topics_are_checked_at_start(broker: str, tmp_path: Path) -> None:
    """All topics that are missing or have another number of partitions are named at once."""
    shop = make_shop(broker, tmp_path, "topics", 4)
    text = shop.config.read_text().replace("partitions = 4", "partitions = 3")
    shop.config.write_text(text.replace(f"{shop.group}-dead", "nowhere"))
    said = eddy("run", str(shop.config), code=2)
    assert "inputs.shop.partitions: got 3; expected 4" in said
    assert 'outputs.dead_letters: got "nowhere"; expected a topic that exists' in said


def test_login_that_the_broker_refuses_is_fatal(broker: str, tmp_path: Path) -> None:
    """Wrong credentials end the start at once, with the remedy; the password is hidden."""
    shop = make_shop(broker, tmp_path, "login", 1)
    login = """[kafka]
"security.protocol" = "sasl_plaintext"
"sasl.mechanism" = "PLAIN"
"sasl.username" = "eddy"
"sasl.password" = "swordfish"
"""
    shop.config.write_text(shop.config.read_text().replace("[kafka]\n", login))
    said = eddy("run", str(shop.config), code=5)
    assert "check the sasl.* and ssl.* properties" in said
    assert "Traceback" not in said
    assert "swordfish" not in said


def test_dead_letter_of_the_largest_record_is_accepted(broker: str, tmp_path: Path) -> None:
    """The largest record that a default broker accepts becomes a dead letter that it accepts,
    too."""
    shop = make_shop(broker, tmp_path, "large", 1)
    send(shop, [b"x" * 999_000])
    with worker(shop) as process:
        shop.wait_until_caught_up()
        assert process.stop() == 0
    [letter] = shop.dead_letters()[Partition(shop.topic, 0)]
    headers = dict(letter.headers)
    assert headers["eddy-payload-bytes"] == b"999000"
    assert len(letter.value) == 512 * 1024


def all_judged(exposition: str) -> bool:
    """Whether the monitors that read internal topics have scored all events."""
    sent = re.findall(r'^eddy_sent_total{.*monitor="(\w+)".*} (\S+)$', exposition, re.MULTILINE)
    behind = {monitor: 0.0 for monitor, _ in sent}
    for monitor, count in sent:
        behind[monitor] += float(count)
    for name in ("scored", "labels"):
        pattern = rf'^eddy_{name}_total{{.*monitor="(\w+)".*}} (\S+)$'
        for monitor, count in re.findall(pattern, exposition, re.MULTILINE):
            if monitor in behind:
                behind[monitor] -= float(count)
    return not any(behind.values())
