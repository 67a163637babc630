"""The declared metrics are exactly the exported ones, and the HTTP server serves them."""

import re
import time
import urllib.error
import urllib.request
from pathlib import Path

import msgspec
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from schemas.records import Records
from stream.config import AssessSpec, LearningSpec, load
from stream.config.stage_graph import logs
from stream.errors import ConfigError
from stream.pipeline.alerting import RunInfo
from stream.pipeline.shard import ShardFactory
from stream.simulator import Shop, lines
from stream.telemetry.collector import MetricsCollector
from stream.telemetry.health import BEAT_OVERDUE_S, WorkerHealth, respond, serve_health
from stream.telemetry.metrics import (
    METRICS,
    PartitionCounts,
    PartitionStatus,
    partition_readings,
    worker_readings,
)

OF_THE_WORKER = {
    "eddy_worker_state",
    "eddy_lag",
    "eddy_relearn_left",
    "eddy_relearn_seconds_left",
    "eddy_checkpoint_lag",
}
"""Readings that no stage counts."""
CONFIG = Path(__file__).resolve().parents[2] / "deploy" / "configs" / "shop.toml"


@pytest.fixture(scope="module")
def counts() -> dict[str, dict[str, int]]:
    """The counts of a shard that has processed every kind of record, with one monitor on an
    internal topic."""
    values: list[bytes | None] = [line.value for line in lines(Shop(300, 7), 0.1)]
    values += [None, values[0]]
    count = len(values)
    now_ms = np.full(count, 1_800_000_000_000)
    config = load(CONFIG)
    monitors = [
        msgspec.structs.replace(one, partitions=1 if one.name == "card" else None)
        for one in config.monitors
    ]
    assess = AssessSpec(subject="account", learning=LearningSpec(inputs=["shop"]))
    hopping = msgspec.structs.replace(config, monitors=monitors, assess=assess)
    shard = ShardFactory(hopping, RunInfo("live", "run", str)).input_shard("shop")
    shard.process(Records("events", 0, np.arange(count), now_ms, values))
    reports = ShardFactory(hopping, RunInfo("live", "run", str)).make(logs(hopping)[-1])
    return shard.counts() | reports.counts()


def series(metrics: MetricsCollector) -> dict[str, dict[str, float]]:
    """Name → labels as text → value, as a scraper reads them."""
    found: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families(metrics.exposition().decode()):
        for sample in family.samples:
            found.setdefault(sample.name, {})[str(sample.labels)] = sample.value
    return found


def test_every_declared_metric_is_emitted_and_no_other(counts: dict[str, dict[str, int]]) -> None:
    """A collector with a shard's counts shows a value of each declared metric."""
    metrics = MetricsCollector()
    of_worker = worker_readings(
        PartitionCounts({"shop": 3}, {"shop": 1}), [("shop", "field_absent")]
    )
    metrics.replace(
        of_worker | partition_readings([PartitionStatus("shop", 0, counts, 5, 6, 7, 8.0)], "live")
    )
    suffixes = {
        "counter": {"_total"},
        "gauge": {""},
        "histogram": {"_bucket", "_count", "_sum"},
    }
    expected = {metric.name + one for metric in METRICS for one in suffixes[metric.kind]}
    assert set(series(metrics)) == expected


def test_every_count_of_a_shard_is_exported(counts: dict[str, dict[str, int]]) -> None:
    """No count of any stage is missing, and none is changed."""
    found = partition_readings([PartitionStatus("shop", 0, counts, 5, 6, 7, 8.0)], "live")
    shown = sorted(
        value
        for name, each in found.items()
        for value in each.values()
        if name not in OF_THE_WORKER
    )
    assert shown == sorted(value for stage in counts.values() for value in stage.values())
    assert found["eddy_duplicates"][("shop", "0")] == 1
    assert found["eddy_tombstones"][("shop", "0")] == 1


def test_declarations_are_complete() -> None:
    """Each metric has a meaning and an action, and no two share a name."""
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert re.fullmatch(r"eddy_[a-z_]+", metric.name)
        assert metric.meaning
        assert metric.action
        assert metric.unit


def test_departed_partition_leaves_no_series(counts: dict[str, dict[str, int]]) -> None:
    """Replacing the readings drops series without a new reading."""
    metrics = MetricsCollector()
    metrics.replace(
        partition_readings(
            [PartitionStatus("shop", p, counts, 0, 0, 0, 0.0) for p in (0, 1)], "live"
        )
    )
    metrics.replace(partition_readings([PartitionStatus("shop", 1, counts, 0, 0, 0, 0.0)], "live"))
    assert list(series(metrics)["eddy_lag"]) == [str({"input": "shop", "partition": "1"})]


def test_lag_is_absent_until_the_end_of_the_partition_is_known() -> None:
    """An unknown lag is not a lag of 0."""
    found = partition_readings(
        [PartitionStatus("shop", p, {}, 0, lag, 0, 0.0) for p, lag in ((0, None), (1, 7))], "live"
    )
    assert found["eddy_lag"] == {("shop", "1"): 7}
    assert "eddy_lag" not in partition_readings(
        [PartitionStatus("shop", 0, {}, 0, None, 0, 0.0)], "live"
    )


def test_partitions_that_no_worker_owns_can_be_computed() -> None:
    """Each worker exports the configured and its assigned partitions, also if it has none."""
    workers = [
        worker_readings(PartitionCounts({"shop": 3, "t-card-events": 2}, assigned), [])
        for assigned in ({"shop": 1}, {"shop": 1, "t-card-events": 2}, {})
    ]
    for name, unowned in (("shop", 1), ("t-card-events", 0)):
        most = max(one["eddy_partitions_configured"][(name,)] for one in workers)
        assert most - sum(one["eddy_partitions_assigned"][(name,)] for one in workers) == unowned
    action = next(one for one in METRICS if one.name == "eddy_partitions_configured").action
    assert (
        "max by (input) (eddy_partitions_configured) - sum by (input) (eddy_partitions_assigned)"
        in action
    )


def test_times_fall_into_their_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    """The histogram counts every block once, in the bucket of its duration and all larger ones."""
    metrics, times_s = MetricsCollector(), iter((5.0, 5.0, 6.0, 6.03))
    monkeypatch.setattr(time, "perf_counter", lambda: next(times_s))
    for _ in range(2):
        with metrics.timed("eddy_batch_seconds"):
            pass
    monkeypatch.undo()
    found = series(metrics)
    assert found["eddy_batch_seconds_count"] == {"{}": 2}
    assert found["eddy_batch_seconds_sum"]["{}"] == pytest.approx(0.03)
    buckets = [*found["eddy_batch_seconds_bucket"].values()]
    assert buckets == sorted(buckets)
    assert found["eddy_batch_seconds_bucket"]["{'le': '0.025'}"] == 1


def test_health_follows_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a live worker is ready; one that no longer beats is not healthy."""
    metrics, worker_health = MetricsCollector(), WorkerHealth()
    assert respond("/readyz", metrics, worker_health)[0] == 503
    worker_health.beat("relearning")
    assert respond("/readyz", metrics, worker_health)[:1] == (503,)
    worker_health.beat("live")
    assert respond("/readyz", metrics, worker_health)[0] == 200
    assert respond("/healthz", metrics, worker_health)[0] == 200
    turned = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: turned + BEAT_OVERDUE_S + 1)
    assert respond("/healthz", metrics, worker_health)[0] == 503


def test_server_answers_and_stops() -> None:
    """The three paths are served, others are not found, and the port is free again afterwards."""
    metrics, worker_health = MetricsCollector(), WorkerHealth()
    with serve_health(("127.0.0.1", 0), metrics, worker_health) as where:
        with urllib.request.urlopen(f"http://{where}/metrics", timeout=5) as found:
            assert b"# TYPE eddy_commits_total counter" in found.read()
        with pytest.raises(urllib.error.HTTPError, match="404") as missing:
            urllib.request.urlopen(f"http://{where}/", timeout=5)
        missing.value.close()
        port = int(where.rpartition(":")[2])
        with (
            pytest.raises(ConfigError, match=r"worker\.http_port"),
            serve_health(("127.0.0.1", port), metrics, worker_health),
        ):
            pass
    with serve_health(("127.0.0.1", port), metrics, worker_health):
        pass
