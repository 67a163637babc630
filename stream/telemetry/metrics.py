"""Every metric, declared once as data, and the readings made from a worker's state.

The reference documentation is generated from the declarations. Counts of stages are part of a
shard's state and are read from there; only what happens outside of a shard (batches, commits) is
counted by the collector.
"""

from collections.abc import Iterable, Mapping
from typing import Final, Literal, NamedTuple, get_args

from stream.config.stages import declared_stages
from stream.pipeline.counters import PARTITION_LABELS, STAGE_LABELS, Counter, Metric

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
    offsets_left: int
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
        found.setdefault("eddy_relearn_left", {})[place] = one.offsets_left
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
