"""Every metric, declared once as data, and the readings made from a worker's state.

The reference documentation is generated from the declarations. Counts of stages are part of a
shard's state and are read from there; only what happens outside of a shard (batches, commits) is
counted by the collector.
"""

from collections.abc import Iterable, Mapping
from typing import Final, Literal, NamedTuple, get_args

from schemas.dead_letters import CODES
from schemas.repairs import CODES as REPAIR_CODES
from schemas.repairs import REPAIRABLE
from stream.pipeline.stages.repairs import count_name

WorkerState = Literal["joining", "relearning", "live"]
"""What a worker is doing: becoming a member of its group, re-learning in silence, or its work."""
WORKER_STATES: Final[tuple[WorkerState, ...]] = get_args(WorkerState)


class Metric(NamedTuple):
    """One metric: what it means, and what to do when it looks wrong."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    labels: tuple[str, ...]
    meaning: str
    action: str


_PARTITION_LABELS: Final = ("input", "partition")
"""Whose partition it is: an input's, by its name, or an internal topic's, by that."""
_STAGE_LABELS: Final = ("monitor", *_PARTITION_LABELS)

METRICS: Final = (
    Metric(
        "eddy_records",
        "counter",
        "records",
        _PARTITION_LABELS,
        "records read from a partition since its state began, re-learned ones included",
        "if it stands still while the lag grows, look at the log for Kafka errors",
    ),
    Metric(
        "eddy_events",
        "counter",
        "events",
        _PARTITION_LABELS,
        "records that became events; with duplicates, tombstones and dead letters they are all",
        "if it is far below eddy_records, look at eddy_dead_letters",
    ),
    Metric(
        "eddy_duplicates",
        "counter",
        "events",
        _PARTITION_LABELS,
        "events whose id and fields were seen within limits.duplicate_window: neither scored nor"
        " learned",
        "a steady share is a producer that sends twice; look for retries without idempotence",
    ),
    Metric(
        "eddy_ids_reused",
        "counter",
        "events",
        _PARTITION_LABELS,
        "events with the id of another event within limits.duplicate_window: scored and learned",
        "find the producer whose ids are not unique; labels that name such an id are ambiguous",
    ),
    Metric(
        "eddy_tombstones",
        "counter",
        "records",
        _PARTITION_LABELS,
        "records without a value",
        "expected on compacted topics; elsewhere ask who writes them",
    ),
    Metric(
        "eddy_dead_letters",
        "counter",
        "records",
        (*_PARTITION_LABELS, "code"),
        "records that could not become events, by the code of their dead letter",
        "read the dead-letter topic: each says field, expectation and what was found",
    ),
    Metric(
        "eddy_field_repaired",
        "counter",
        "events",
        (*_PARTITION_LABELS, "field", "code"),
        "events of which a field was bad: it is absent, cut, or its bytes were replaced",
        "read the examples on the dead-letter topic, eddy-disposition: event_kept; never resend them",
    ),
    Metric(
        "eddy_sent",
        "counter",
        "events",
        _STAGE_LABELS,
        "events that route put into a monitor's internal topic; there they are scored, or labels",
        "if eddy_scored and eddy_labels stay behind for long, look at that topic's eddy_lag",
    ),
    Metric(
        "eddy_scored",
        "counter",
        "events",
        _STAGE_LABELS,
        "events that a monitor has scored",
        "if it is far below eddy_events, look at eddy_not_applicable and the monitor's where",
    ),
    Metric(
        "eddy_not_applicable",
        "counter",
        "events",
        _STAGE_LABELS,
        "events that a monitor does not watch: its entity is absent, or where does not match",
        "if it is nearly all, look at the mapping of the monitor's entity",
    ),
    Metric(
        "eddy_labels",
        "counter",
        "events",
        _STAGE_LABELS,
        "label events: a monitor judges none, but its detectors may learn from them",
        "if it stands still while labels are published, look at the mapping of the event type",
    ),
    Metric(
        "eddy_late",
        "counter",
        "events",
        _STAGE_LABELS,
        "scored events older than their entity's last",
        "a growing share means that a producer or a partition lags behind the others",
    ),
    Metric(
        "eddy_ahead",
        "counter",
        "events",
        _STAGE_LABELS,
        "scored events whose time lies further ahead than limits.time_ahead_max; they move no time",
        "find the producer whose clock or unit of time is wrong; a few after a silent period are"
        " expected",
    ),
    Metric(
        "eddy_late_not_learned",
        "counter",
        "events",
        _STAGE_LABELS,
        "scored events further behind than lateness_max: not learned",
        "raise the monitor's lateness_max, or find the producer that is behind",
    ),
    Metric(
        "eddy_alerts",
        "counter",
        "alerts",
        (*_STAGE_LABELS, "activity"),
        "alerts published, by activity: opened or updated",
        "a jump is an attack or a change of the traffic: read the alerts' contributions",
    ),
    Metric(
        "eddy_alerts_suppressed",
        "counter",
        "events",
        _STAGE_LABELS,
        "alarming events that were only counted, since their incident was open",
        "nothing: the incident's next alert states their number",
    ),
    Metric(
        "eddy_alerts_over_budget",
        "counter",
        "events",
        _STAGE_LABELS,
        "alarming events without an alert, since the budget was used up",
        "if it grows for long, raise policy.alerts_per_day or lower policy.p_max",
    ),
    Metric(
        "eddy_budget_displaced",
        "counter",
        "events",
        _STAGE_LABELS,
        "events of eddy_alerts_over_budget, and updates held back, whose score was above that of an "
        "alert published from the same allowance",
        "if it grows, cheap alerts use up the budget: raise policy.alerts_per_day or lower "
        "policy.p_max",
    ),
    Metric(
        "eddy_entities",
        "gauge",
        "entities",
        _STAGE_LABELS,
        "entities that a monitor holds",
        "if it stays at capacity and evictions grow, raise the monitor's capacity",
    ),
    Metric(
        "eddy_evictions",
        "counter",
        "entities",
        _STAGE_LABELS,
        "entities forgotten to make room",
        "if known entities are forgotten within days, raise the monitor's capacity",
    ),
    Metric(
        "eddy_promotions",
        "counter",
        "entities",
        _STAGE_LABELS,
        "entities that returned, and left probation",
        "nothing: far fewer than new entities means that most come once",
    ),
    Metric(
        "eddy_labels_changed",
        "counter",
        "labels",
        _STAGE_LABELS,
        "labels that replaced an earlier one of the same event, in what assess learns from",
        "if it is many, find out who says first what is not so",
    ),
    Metric(
        "eddy_learning_active",
        "gauge",
        "partitions",
        _STAGE_LABELS,
        "1 where assess weighs reports by what labels said, 0 where it does not yet",
        "nothing; where it should, see eddy_learning_labels",
    ),
    Metric(
        "eddy_learning_labels",
        "gauge",
        "labels",
        (*_STAGE_LABELS, "verdict"),
        "labels of late of reported events that learning had foretold, frauds and honest ones",
        "nothing: with 50 of each it may speak; where they stay few, label more",
    ),
    Metric(
        "eddy_labels_unmatched",
        "counter",
        "labels",
        _STAGE_LABELS,
        "labels of events that assess does not remember: most were never reported",
        "if eddy_labels of assess stays at nothing, raise assess.events_max: labels come too late",
    ),
    Metric(
        "eddy_reports",
        "counter",
        "reports",
        _STAGE_LABELS,
        "reports of monitors that assess has taken; its own label monitor is assess",
        "if it is far more than one event in fifty, find the monitor whose p-values are too small",
    ),
    Metric(
        "eddy_reports_ignored",
        "counter",
        "reports",
        _STAGE_LABELS,
        "reports of monitors that the configuration no longer has",
        "nothing, where a monitor was removed or renamed: they were on their way when it was",
    ),
    Metric(
        "eddy_reported_events",
        "counter",
        "events",
        (*_STAGE_LABELS, "which"),
        "events that these reports were on: all of them, and those of the sample, one in a thousand",
        "a thousand times the sample is about the number of judged events with a subject",
    ),
    Metric(
        "eddy_lag",
        "gauge",
        "offsets",
        _PARTITION_LABELS,
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
        _PARTITION_LABELS,
        "offsets still to be re-learned in silence before the partition is live",
        "nothing: it falls to 0; how fast, says the rate of eddy_records",
    ),
    Metric(
        "eddy_relearn_seconds_left",
        "gauge",
        "seconds",
        _PARTITION_LABELS,
        "time until the partition is live, at the rate at which it has been re-learned so far",
        "if it is too long, lower checkpoints.rewind_records_max",
    ),
    Metric(
        "eddy_checkpoint_lag",
        "gauge",
        "offsets",
        _PARTITION_LABELS,
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
METRICS_BY_NAME: Final = {metric.name: metric for metric in METRICS}

Series = dict[tuple[str, ...], float]
"""Values by their labels, in the order in which the metric declares these."""
Readings = dict[str, Series]
"""Series by the metric's name."""

# -- from a shard's counts to readings ------------------------------------------------------------

_ROUTE_COUNTS: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "read": ("eddy_records", ()),
    "passed": ("eddy_events", ()),
    "duplicate": ("eddy_duplicates", ()),
    "id_reused": ("eddy_ids_reused", ()),
    "tombstone": ("eddy_tombstones", ()),
    **{f"dead_letter_{code}": ("eddy_dead_letters", (code,)) for code in CODES},
    **{
        count_name(field, code): ("eddy_field_repaired", (field, code))
        for field in REPAIRABLE
        for code in REPAIR_CODES
    },
}
_STAGE_COUNTS: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    "sent": ("eddy_sent", ()),
    "scored": ("eddy_scored", ()),
    "not_applicable": ("eddy_not_applicable", ()),
    "labels": ("eddy_labels", ()),
    "labels_changed": ("eddy_labels_changed", ()),
    "labels_unmatched": ("eddy_labels_unmatched", ()),
    "learning_active": ("eddy_learning_active", ()),
    "learning_frauds": ("eddy_learning_labels", ("fraud",)),
    "learning_honest": ("eddy_learning_labels", ("honest",)),
    "late": ("eddy_late", ()),
    "ahead": ("eddy_ahead", ()),
    "late_not_learned": ("eddy_late_not_learned", ()),
    "alerts_opened": ("eddy_alerts", ("opened",)),
    "alerts_updated": ("eddy_alerts", ("updated",)),
    "alerts_suppressed": ("eddy_alerts_suppressed", ()),
    "alerts_over_budget": ("eddy_alerts_over_budget", ()),
    "budget_displaced": ("eddy_budget_displaced", ()),
    "entities": ("eddy_entities", ()),
    "evictions": ("eddy_evictions", ()),
    "promotions": ("eddy_promotions", ()),
    "reports": ("eddy_reports", ()),
    "reports_ignored": ("eddy_reports_ignored", ()),
    "reported_events": ("eddy_reported_events", ("all",)),
    "sampled_events": ("eddy_reported_events", ("sample",)),
}


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
    """The metric that a count of a stage belongs to, and its labels."""
    if stage == "route":
        name, more = _ROUTE_COUNTS[key]
        return name, (*place, *more)
    name, more = _STAGE_COUNTS[key]
    return name, (stage, *place, *more)


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
