"""What is measured: every metric declared once as data, and the board that holds the readings.

The declarations are the documentation. What a shard counts is read from its own counts, which live
in its state; only what happens outside of the fold (batches, commits) is counted here.
"""

import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import accumulate
from threading import Lock
from typing import Final, Literal, NamedTuple, get_args

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.core import (
    Metric as Family,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from stream.config.stages import declared_stages
from stream.pipeline.counters import PARTITION_LABELS, STAGE_LABELS, Counter, Metric

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST

WorkerState = Literal["joining", "relearning", "live"]
"""What a worker is doing: becoming a member of its group, re-learning in silence, or its work."""
WORKER_STATES: Final[tuple[WorkerState, ...]] = get_args(WorkerState)


OWN_METRICS: Final = (
    Metric(
        "eddy_lag",
        "gauge",
        "offsets",
        PARTITION_LABELS,
        "offsets between the next record to process and the end of the partition; absent until the end "
        "is known, and while no broker answers",
        "if it grows, add workers, up to one a partition; then look at eddy_batch_seconds",
    ),
    Metric(
        "eddy_partitions_configured",
        "gauge",
        "partitions",
        ("input",),
        "partitions of an input's topic, or of an internal one, by the configuration",
        "unowned partitions: max by (input) (eddy_partitions_configured) - sum by (input) "
        "(eddy_partitions_assigned); where that is above 0 for long, start more workers, or see "
        "why the group does not balance",
    ),
    Metric(
        "eddy_partitions_assigned",
        "gauge",
        "partitions",
        ("input",),
        "of these, partitions that the group has given to this worker",
        "see eddy_partitions_configured",
    ),
    Metric(
        "eddy_input_problems",
        "gauge",
        "oddities",
        ("name", "problem"),
        "oddities in the records that this worker has read since it started, by input or monitor: "
        "all_dead_letters (the last 1,000 records), field_absent (mapped, and in none of 1,000 "
        "events), times_in_seconds, labels_unclear, monitor_scores_nothing",
        "the log has a line for each, with an example record: correct the mapping",
    ),
    Metric(
        "eddy_relearn_left",
        "gauge",
        "offsets",
        PARTITION_LABELS,
        "offsets still to be re-learned in silence before the partition is live",
        "nothing: it falls to 0; how fast, says the rate of eddy_records",
    ),
    Metric(
        "eddy_relearn_seconds_left",
        "gauge",
        "seconds",
        PARTITION_LABELS,
        "time until the partition is live, at the rate at which it has been re-learned so far",
        "if it is too long, lower checkpoints.rewind_records_max",
    ),
    Metric(
        "eddy_checkpoint_lag",
        "gauge",
        "offsets",
        PARTITION_LABELS,
        "offsets that a restart would re-learn: from the last checkpoint to the next record",
        "if it passes checkpoints.rewind_records_max, look at the log for checkpoints that failed",
    ),
    Metric(
        "eddy_checkpoints",
        "counter",
        "checkpoints",
        (),
        "checkpoints written",
        "if it stands still while eddy_checkpoint_lag grows, look at the log",
    ),
    Metric(
        "eddy_checkpoint_bytes",
        "counter",
        "bytes",
        (),
        "bytes written to the checkpoint store: of blocks that changed, compressed",
        "if the store's cost matters, raise checkpoints.interval and rewind_records_max",
    ),
    Metric(
        "eddy_checkpoint_failures",
        "counter",
        "checkpoints",
        (),
        "checkpoints that could not be written",
        "read the log and see to the store: the worker stops at checkpoints.rewind_records_max",
    ),
    Metric(
        "eddy_checkpoint_fallbacks",
        "counter",
        "checkpoints",
        (),
        "checkpoints that were not whole when they were needed, so that an earlier one stood in",
        "find out who removes or changes files in the checkpoint store",
    ),
    Metric(
        "eddy_keys_misplaced",
        "counter",
        "events",
        (),
        "events in another partition than `keyed_by` and `partitioner` of their input give, among a "
        "sample of one in 16",
        "correct keyed_by or partitioner, or remove both: else one entity is learned as several",
    ),
    Metric(
        "eddy_batch_seconds",
        "histogram",
        "seconds",
        (),
        "time to process one batch of one partition",
        "beside worker.batch_records: lower that where alerts must be quick",
    ),
    Metric(
        "eddy_commits",
        "counter",
        "transactions",
        (),
        "transactions committed",
        "if it stands still while eddy_records grows, look at the log for Kafka errors",
    ),
    Metric(
        "eddy_aborts",
        "counter",
        "transactions",
        (),
        "transactions aborted, and tried again",
        "a few at rebalances are normal; else look at the brokers",
    ),
    Metric(
        "eddy_worker_state",
        "gauge",
        "1 or 0",
        ("state",),
        "1 for the state the worker is in: joining, relearning or live",
        "joining for long: the group is rebalancing, or the broker is out of reach",
    ),
)
COUNTERS: Final[dict[str, Counter]] = {
    counter.key: counter for stage in declared_stages().values() for counter in stage.counters
}
"""Every counter of a stage by its key."""
METRICS: Final = (
    *{counter.metric.name: counter.metric for counter in COUNTERS.values()}.values(),
    *OWN_METRICS,
)
METRICS_BY_NAME: Final = {metric.name: metric for metric in METRICS}

BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)

Series = dict[tuple[str, ...], float]
"""Values by their labels, in the order in which the metric declares these."""
Readings = dict[str, Series]
"""Series by the metric's name."""

# -- from a shard's counts to readings ------------------------------------------------------------


class PartitionStatus(NamedTuple):
    """What the worker sees of one partition. log_name: the input's name, or the internal topic.
    counts: of its shard, by stage. behind: offsets since its last checkpoint. seconds_left: until
    it is live, 0 where it is. lag: None where the end of the partition is not known."""

    log_name: str
    partition: int
    counts: Mapping[str, Mapping[str, int]]
    records_left: int
    lag: int | None
    checkpoint_lag: int
    seconds_left: float


def partition_readings(observed: Iterable[PartitionStatus], state: WorkerState) -> Readings:
    """The readings of all partitions in hand; a partition that is gone has none any more."""
    found: Readings = {
        "eddy_worker_state": {(each,): float(each == state) for each in WORKER_STATES}
    }
    for one in observed:
        place = (one.log_name, str(one.partition))
        if one.lag is not None:
            found.setdefault("eddy_lag", {})[place] = one.lag
        found.setdefault("eddy_relearn_left", {})[place] = one.records_left
        found.setdefault("eddy_relearn_seconds_left", {})[place] = one.seconds_left
        found.setdefault("eddy_checkpoint_lag", {})[place] = one.checkpoint_lag
        for stage, counts in one.counts.items():
            for key, value in counts.items():
                name, labels = _metric_of(stage, key, place)
                found.setdefault(name, {})[labels] = value
    return found


def _metric_of(stage: str, key: str, place: tuple[str, str]) -> tuple[str, tuple[str, ...]]:
    """The metric of a counter of a stage, and its labels."""
    counter = COUNTERS[key]
    metric = counter.metric
    start = (stage, *place) if metric.labels[: len(STAGE_LABELS)] == STAGE_LABELS else place
    return metric.name, (*start, *counter.values)


class PartitionCounts(NamedTuple):
    """Partitions by log, an input's name or an internal topic: configured, and assigned to this
    worker."""

    configured: Mapping[str, int]
    assigned: Mapping[str, int]


def worker_readings(of: PartitionCounts, problems: Iterable[tuple[str, str]]) -> Readings:
    """The readings that belong to no partition. oddities: of what, and which kind, each."""
    found: Readings = {
        "eddy_partitions_configured": {(name,): n for name, n in of.configured.items()},
        "eddy_partitions_assigned": {(name,): of.assigned.get(name, 0) for name in of.configured},
        "eddy_input_problems": {},
    }
    for labels in problems:
        series = found["eddy_input_problems"]
        series[labels] = series.get(labels, 0) + 1
    return found


# -- the board ------------------------------------------------------------------------------------


class MetricsCollector(Collector):
    """The latest readings: written by the worker's thread, read by whoever scrapes."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._readings: Readings = {}
        self._counted: dict[str, float] = {}
        self._times: dict[str, list[float]] = {}
        for metric in METRICS:
            if metric.kind == "histogram":
                self._times[metric.name] = [0.0] * (len(BUCKETS_S) + 2)  # and +Inf, and the sum
            elif not metric.labels:
                self._counted[metric.name] = 0.0
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def replace(self, partition_readings: Readings) -> None:
        """These are the readings now; series that are not among them are gone."""
        assert partition_readings.keys() <= METRICS_BY_NAME.keys(), (
            partition_readings.keys() - METRICS_BY_NAME.keys()
        )
        with self._lock:
            self._readings = partition_readings

    def drop(self, name: str) -> None:
        """The readings of that metric are unknown until they are replaced."""
        with self._lock:
            self._readings = {key: of for key, of in self._readings.items() if key != name}

    def add(self, name: str, amount: int = 1) -> None:
        """So many more of a counter without labels."""
        with self._lock:
            self._counted[name] += amount

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Measure how long the block takes; not counted where it raises."""
        started = time.perf_counter()
        yield
        taken_s = time.perf_counter() - started
        with self._lock:
            self._times[name][bisect_left(BUCKETS_S, taken_s)] += 1
            self._times[name][-1] += taken_s

    def exposition(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Family]:
        """Every declared metric, with the series that it has now."""
        with self._lock:
            partition_readings = self._readings | {
                name: {(): n} for name, n in self._counted.items()
            }
            times = {name: list(values) for name, values in self._times.items()}
        for metric in METRICS:
            if metric.kind == "histogram":
                yield _histogram(metric, times[metric.name])
            else:
                make = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
                family = make(metric.name, metric.meaning, labels=metric.labels)
                for labels, value in partition_readings.get(metric.name, {}).items():
                    family.add_metric(labels, value)
                yield family


def _histogram(metric: Metric, values: list[float]) -> Family:
    *counts, total_s = values
    edges = [*map(str, BUCKETS_S), "+Inf"]
    family = HistogramMetricFamily(metric.name, metric.meaning)
    family.add_metric([], list(zip(edges, accumulate(counts), strict=True)), total_s)
    return family
