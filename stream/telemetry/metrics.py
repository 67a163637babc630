"""Every metric: those of stages come from `pipeline.counters`; the worker's own are declared here.

The reference documentation is generated from the declarations. Counts of stages are part of a
shard's state and are read from there; only what happens outside of a shard (batches, commits) is
counted by the collector.
"""

from collections.abc import Iterable, Mapping
from typing import Final, Literal, NamedTuple, get_args

from stream.config.stage_graph import declared_stages
from stream.pipeline.counters import PARTITION_LABELS, STAGE_LABELS, Metric, StageCounter

WorkerState = Literal["joining", "relearning", "live"]
"""A worker joins its group, re-learns without publishing, or is live."""
WORKER_STATES: Final[tuple[WorkerState, ...]] = get_args(WorkerState)


OWN_METRICS: Final = (
    Metric(
        "eddy_lag",
        "gauge",
        "offsets",
        PARTITION_LABELS,
        "offsets from the next record to process to the end of the partition; absent while the end is "
        "unknown or no broker answers",
        "if it grows, add workers, up to one per partition; then see eddy_batch_seconds",
    ),
    Metric(
        "eddy_partitions_configured",
        "gauge",
        "partitions",
        ("input",),
        "configured number of partitions of an input's topic or an internal topic",
        "partitions without a worker: max by (input) (eddy_partitions_configured) - sum by (input) "
        "(eddy_partitions_assigned); if that stays above 0, start more workers, or find out why the "
        "group does not rebalance",
    ),
    Metric(
        "eddy_partitions_assigned",
        "gauge",
        "partitions",
        ("input",),
        "partitions of eddy_partitions_configured that are assigned to this worker",
        "see eddy_partitions_configured",
    ),
    Metric(
        "eddy_input_problems",
        "gauge",
        "problems",
        ("name", "problem"),
        "problems in the records that this worker has read since it started, by input or monitor: "
        "all_dead_letters (the last 1,000 records), field_absent (mapped, but in none of 1,000 "
        "events), times_in_seconds, labels_unclear, monitor_scores_nothing",
        "find the log line of the problem, which has an example record, and correct the mapping",
    ),
    Metric(
        "eddy_relearn_left",
        "gauge",
        "offsets",
        PARTITION_LABELS,
        "offsets to re-learn before the partition is live; nothing is published meanwhile",
        "nothing: it falls to 0, at the rate of eddy_records",
    ),
    Metric(
        "eddy_relearn_seconds_left",
        "gauge",
        "seconds",
        PARTITION_LABELS,
        "estimated time until the partition is live, from the rate of re-learning so far",
        "if it is too long, lower checkpoints.rewind_records_max",
    ),
    Metric(
        "eddy_checkpoint_lag",
        "gauge",
        "offsets",
        PARTITION_LABELS,
        "offsets that a restart would re-learn: from the last checkpoint to the next record",
        "if it exceeds checkpoints.rewind_records_max, look for failed checkpoints in the log",
    ),
    Metric(
        "eddy_checkpoints",
        "counter",
        "checkpoints",
        (),
        "checkpoints written",
        "if it stops while eddy_checkpoint_lag grows, read the log",
    ),
    Metric(
        "eddy_checkpoint_bytes",
        "counter",
        "bytes",
        (),
        "bytes written to the checkpoint store: compressed blocks that have changed",
        "if the store's cost matters, raise checkpoints.interval and rewind_records_max",
    ),
    Metric(
        "eddy_checkpoint_failures",
        "counter",
        "checkpoints",
        (),
        "checkpoints that could not be written",
        "read the log and repair the store: the worker stops at checkpoints.rewind_records_max",
    ),
    Metric(
        "eddy_checkpoint_fallbacks",
        "counter",
        "checkpoints",
        (),
        "damaged checkpoints that were replaced by an earlier one at a start",
        "find out what deletes or changes files in the checkpoint store",
    ),
    Metric(
        "eddy_keys_misplaced",
        "counter",
        "events",
        (),
        "events in another partition than `keyed_by` and `partitioner` of their input imply, in a "
        "sample of one in 16",
        "correct keyed_by or partitioner, or remove both: otherwise each partition learns such an entity separately",
    ),
    Metric(
        "eddy_batch_seconds",
        "histogram",
        "seconds",
        (),
        "time to process one batch of one partition",
        "if alerts must be faster, lower worker.batch_records",
    ),
    Metric(
        "eddy_commits",
        "counter",
        "transactions",
        (),
        "transactions committed",
        "if it stops while eddy_records grows, look for Kafka errors in the log",
    ),
    Metric(
        "eddy_aborts",
        "counter",
        "transactions",
        (),
        "transactions aborted, and tried again",
        "a few at rebalances are normal; otherwise check the brokers",
    ),
    Metric(
        "eddy_worker_state",
        "gauge",
        "1 or 0",
        ("state",),
        "1 for the state the worker is in: joining, relearning or live",
        "if it stays joining, the group is rebalancing or the brokers are out of reach",
    ),
)
COUNTERS: Final[dict[str, StageCounter]] = {
    counter.key: counter for stage in declared_stages().values() for counter in stage.counters
}
"""Counters of stages, by key."""
METRICS: Final = (
    *{counter.metric.name: counter.metric for counter in COUNTERS.values()}.values(),
    *OWN_METRICS,
)
METRICS_BY_NAME: Final = {metric.name: metric for metric in METRICS}

Series = dict[tuple[str, ...], float]
"""Values of a metric by its labels, in the declared order."""
Readings = dict[str, Series]
"""Values by metric name."""

# -- readings -------------------------------------------------------------------------------------


class PartitionStatus(NamedTuple):
    """The status of an assigned partition.

    log_name: the input's name, or the internal topic. counts: the shard's counters, by stage. lag:
    None where the end of the partition is unknown. checkpoint_lag: offsets since the last
    checkpoint. offsets_left, seconds_left: until it is live.
    """

    log_name: str
    partition: int
    counts: Mapping[str, Mapping[str, int]]
    offsets_left: int
    lag: int | None
    checkpoint_lag: int
    seconds_left: float


def partition_readings(statuses: Iterable[PartitionStatus], state: WorkerState) -> Readings:
    """The readings of the assigned partitions; released partitions leave no series."""
    readings: Readings = {
        "eddy_worker_state": {(each,): float(each == state) for each in WORKER_STATES}
    }
    for status in statuses:
        partition = (status.log_name, str(status.partition))
        if status.lag is not None:
            readings.setdefault("eddy_lag", {})[partition] = status.lag
        readings.setdefault("eddy_relearn_left", {})[partition] = status.offsets_left
        readings.setdefault("eddy_relearn_seconds_left", {})[partition] = status.seconds_left
        readings.setdefault("eddy_checkpoint_lag", {})[partition] = status.checkpoint_lag
        for stage, counts in status.counts.items():
            for key, value in counts.items():
                name, labels = _metric_of(stage, key, partition)
                readings.setdefault(name, {})[labels] = value
    return readings


def _metric_of(stage: str, key: str, partition: tuple[str, str]) -> tuple[str, tuple[str, ...]]:
    """The metric of a counter of a stage, and its labels."""
    counter = COUNTERS[key]
    metric = counter.metric
    labels = (
        (stage, *partition) if metric.labels[: len(STAGE_LABELS)] == STAGE_LABELS else partition
    )
    return metric.name, (*labels, *counter.values)


class PartitionCounts(NamedTuple):
    """Partitions by log (an input's name or an internal topic): configured, and assigned to this
    worker."""

    configured: Mapping[str, int]
    assigned: Mapping[str, int]


def worker_readings(counts: PartitionCounts, problems: Iterable[tuple[str, str]]) -> Readings:
    """The readings of no single partition. problems: (input or monitor, kind) of each."""
    readings: Readings = {
        "eddy_partitions_configured": {(name,): n for name, n in counts.configured.items()},
        "eddy_partitions_assigned": {
            (name,): counts.assigned.get(name, 0) for name in counts.configured
        },
        "eddy_input_problems": {},
    }
    for labels in problems:
        series = readings["eddy_input_problems"]
        series[labels] = series.get(labels, 0) + 1
    return readings
