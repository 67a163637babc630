"""The package's stage on a real broker: created, checkpointed, killed and restarted."""

import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stream.kafka.sink import PlainProducer
from stream.simulator import Shop as Simulated
from stream.simulator import lines
from tests.broker.shop import (
    ROOT,
    Shop,
    WorkerProcess,
    make_shop,
    read,
    reference,
    wait_for,
)
from tests.crash.oracle import differences
from tests.stage_extension import eddy, environment, install, installed_here

EVENTS = 20_000
STAGE = """
[stages.alert_counts]
topic = "{topic}"
partitions = 2
"""


@contextmanager
def running(site: Path, shop: Shop) -> Iterator[WorkerProcess]:
    """A worker process with the package installed; killed at the end unless it has ended."""
    log_file = shop.config.with_name(f"{shop.group}-{time.time_ns()}.log")
    command = [sys.executable, "-m", "stream.cli", "run", str(shop.config), "--slot", "one"]
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(site),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        yield WorkerProcess(process, log_file)
    finally:
        process.kill()
        process.wait()


def send(shop: Shop, values: list[bytes]) -> None:
    """Put records on the shop's topic, in all partitions."""
    producer = PlainProducer({"bootstrap.servers": shop.bootstrap}, shop.topic, "murmur2")
    for i, value in enumerate(values):
        producer.send(str(i).encode(), value)
    producer.close()


@pytest.mark.slow
def test_a_killed_worker_counts_every_alert_once(broker: str, tmp_path: Path) -> None:
    """`topics create` makes its topics. After SIGKILL and a restart its records, its checkpoints and
    all alerts are those of the reference run, and its counter is among the metrics."""
    site = install(tmp_path / "site")
    checkpoints: dict[str, object] = {"interval": "1s", "rewind_records_max": 3_000}
    shop = make_shop(broker, tmp_path, "counting", 3, checkpoints, internal_topics=True)
    topic = f"{shop.group}-counts"
    before, assess, policy = shop.config.read_text().partition("[assess.policy]")
    policy = policy.replace('incident_gap = "1s"', 'incident_gap = "1h"')  # one alert on an event
    shop.config.write_text(before + assess + policy + STAGE.format(topic=topic))
    made = eddy(site, "topics", "create", str(shop.config), "--replication", "1")
    assert f"{shop.group}-alert_counts-alerts: created, 2 partitions" in made
    assert f"{topic}: created, 1 partition" in made
    with installed_here(site):
        values = [line.value for line in lines(Simulated(EVENTS, seed=7), 0.01)]
        send(shop, values[: EVENTS // 2])
        with running(site, shop) as worker:
            wait_for(lambda: bool(read(broker, topic)), "the first count")
            wait_for(lambda: any(shop.checkpoints(p) for p in range(3)), "a checkpoint")
            worker.stop(signal.SIGKILL)
        send(shop, values[EVENTS // 2 :])
        with running(site, shop) as worker:
            shop.wait_until_caught_up()
            wait_for(lambda: any("address" in line for line in worker.log()), "the HTTP server")
            wait_for(lambda: "eddy_alerts_counted_total{" in worker.get("/metrics")[1], "counts")
            assert worker.stop() == 0
        expected = reference(shop)
        found = differences(shop, expected)
        assert not found, "\n".join(found)
        counts: dict[bytes, list[bytes | None]] = defaultdict(list)
        for record in read(broker, topic):
            counts[record.key].append(record.value)
        assert counts == expected.records[topic]
        assert sum(map(len, counts.values())) == sum(map(len, expected.alerts.values())) > 20
        places = [place for place in expected.shards if place.topic.endswith("alert_counts-alerts")]
        assert len(places) == 2
