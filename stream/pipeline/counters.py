"""The counters of Eddy's own stages, and the metrics that show them.

A counter lives in a stage's state and comes out of `Stage.counts()` under its key.
"""

from typing import Final, Literal, NamedTuple

from schemas.dead_letters import CODES
from schemas.repairs import CODES as REPAIR_CODES
from schemas.repairs import REPAIRABLE


class Metric(NamedTuple):
    """One metric: what it means, and what to do when it looks wrong."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    labels: tuple[str, ...]
    meaning: str
    action: str


class StageCounter(NamedTuple):
    """A counter of a stage: its key, the metric that shows it, and values of the metric's last
    labels. The first labels are `STAGE_LABELS` or `PARTITION_LABELS`."""

    key: str
    metric: Metric
    values: tuple[str, ...] = ()


def repair_key(field: str, code: str) -> str:
    """The key of the counter of a repair."""
    return f"field_repaired/{field}/{code}"


PARTITION_LABELS: Final = ("input", "partition")
"""An input by its name, or an internal topic, and the partition."""
STAGE_LABELS: Final = ("monitor", *PARTITION_LABELS)
"""The stage, which for a watch is its monitor, and the partition of its shard."""

RECORDS_METRIC: Final = Metric(
    "eddy_records",
    "counter",
    "records",
    PARTITION_LABELS,
    "records read from a partition since its state began, re-learned ones included",
    "if it does not grow while eddy_lag does, look for Kafka errors in the log",
)
EVENTS_METRIC: Final = Metric(
    "eddy_events",
    "counter",
    "events",
    PARTITION_LABELS,
    "records that became events: events + duplicates + tombstones + dead letters = records",
    "if it is far below eddy_records, look at eddy_dead_letters",
)
DUPLICATES_METRIC: Final = Metric(
    "eddy_duplicates",
    "counter",
    "events",
    PARTITION_LABELS,
    "events whose id and fields were seen within limits.duplicate_window: neither scored nor"
    " learned",
    "a steady share is a producer that sends twice; look for retries without idempotence",
)
IDS_REUSED_METRIC: Final = Metric(
    "eddy_ids_reused",
    "counter",
    "events",
    PARTITION_LABELS,
    "events with the id of another event within limits.duplicate_window: scored and learned",
    "find the producer whose ids are not unique; labels that name such an id are ambiguous",
)
TOMBSTONES_METRIC: Final = Metric(
    "eddy_tombstones",
    "counter",
    "records",
    PARTITION_LABELS,
    "records without a value",
    "expected on compacted topics; elsewhere find the producer that writes them",
)
DEAD_LETTERS_METRIC: Final = Metric(
    "eddy_dead_letters",
    "counter",
    "records",
    (*PARTITION_LABELS, "code"),
    "records that could not become events, by the code of their dead letter",
    "read the dead-letter topic: each record names the field, the expectation and the value",
)
FIELD_REPAIRED_METRIC: Final = Metric(
    "eddy_field_repaired",
    "counter",
    "events",
    (*PARTITION_LABELS, "field", "code"),
    "events with a bad field, which is now absent, cut, or has replaced bytes",
    "read the examples on the dead-letter topic, eddy-disposition: event_kept; never resend them",
)
SENT_METRIC: Final = Metric(
    "eddy_sent",
    "counter",
    "events",
    STAGE_LABELS,
    "events that route wrote to a stage's internal topic; there they are scored, or are labels",
    "if eddy_scored and eddy_labels stay below it for long, look at eddy_lag of that topic",
)
SCORED_METRIC: Final = Metric(
    "eddy_scored",
    "counter",
    "events",
    STAGE_LABELS,
    "events that a monitor has scored",
    "if it is far below eddy_events, look at eddy_not_applicable and the monitor's where",
)
NOT_APPLICABLE_METRIC: Final = Metric(
    "eddy_not_applicable",
    "counter",
    "events",
    STAGE_LABELS,
    "events that a monitor does not watch: its entity is absent, or where does not match",
    "if it is nearly all, look at the mapping of the monitor's entity",
)
LABELS_METRIC: Final = Metric(
    "eddy_labels",
    "counter",
    "events",
    STAGE_LABELS,
    "of a monitor: all label events, which it does not score; of assess: first labels of events"
    " that it remembers",
    "if it does not grow while labels are published, look at the mapping of the event type",
)
LATE_METRIC: Final = Metric(
    "eddy_late",
    "counter",
    "events",
    STAGE_LABELS,
    "scored events older than their entity's last",
    "a growing share means that a producer or a partition is later than the others",
)
AHEAD_METRIC: Final = Metric(
    "eddy_ahead",
    "counter",
    "events",
    STAGE_LABELS,
    "scored events whose time lies further ahead than limits.time_ahead_max; they move no time",
    "find the producer whose clock or unit of time is wrong; a few after a silent period are"
    " expected",
)
LATE_NOT_LEARNED_METRIC: Final = Metric(
    "eddy_late_not_learned",
    "counter",
    "events",
    STAGE_LABELS,
    "scored events that are later than lateness_max: not learned",
    "raise the monitor's lateness_max, or find the producer that is late",
)
ALERTS_METRIC: Final = Metric(
    "eddy_alerts",
    "counter",
    "alerts",
    (*STAGE_LABELS, "activity"),
    "alerts published, by activity: opened or updated",
    "a jump is an attack or a change of the traffic: read the alerts' contributions",
)
ALERTS_SUPPRESSED_METRIC: Final = Metric(
    "eddy_alerts_suppressed",
    "counter",
    "events",
    STAGE_LABELS,
    "alarming events without an alert of their own, because their incident was open",
    "nothing: the incident's next alert states their number",
)
ALERTS_HELD_BACK_METRIC: Final = Metric(
    "eddy_alerts_held_back",
    "counter",
    "events",
    STAGE_LABELS,
    "alarming events whose alert the budget held back",
    "if it grows for long, raise policy.alerts_per_day or lower policy.p_max",
)
BUDGET_DISPLACED_METRIC: Final = Metric(
    "eddy_budget_displaced",
    "counter",
    "events",
    STAGE_LABELS,
    "events of eddy_alerts_held_back, and updates held back, whose score was above that of an "
    "alert published from the same allowance",
    "if it grows, cheap alerts use up the budget: raise policy.alerts_per_day or lower "
    "policy.p_max",
)
ENTITIES_METRIC: Final = Metric(
    "eddy_entities",
    "gauge",
    "entities",
    STAGE_LABELS,
    "entities that a monitor holds",
    "if it stays at capacity and evictions grow, raise the monitor's capacity",
)
EVICTIONS_METRIC: Final = Metric(
    "eddy_evictions",
    "counter",
    "entities",
    STAGE_LABELS,
    "entities forgotten to make room",
    "if known entities are forgotten within days, raise the monitor's capacity",
)
PROMOTIONS_METRIC: Final = Metric(
    "eddy_promotions",
    "counter",
    "entities",
    STAGE_LABELS,
    "entities that returned, and left probation",
    "nothing: far fewer than new entities means that most come once",
)
LABELS_CHANGED_METRIC: Final = Metric(
    "eddy_labels_changed",
    "counter",
    "labels",
    STAGE_LABELS,
    "labels that replace an earlier label of an event that assess remembers; not in eddy_labels",
    "if there are many, find the source of labels that are corrected later",
)
LEARNING_ACTIVE_METRIC: Final = Metric(
    "eddy_learning_active",
    "gauge",
    "partitions",
    STAGE_LABELS,
    "1 where assess combines reports by a model learned from labels, 0 where not yet",
    "nothing; where it should, see eddy_learning_labels",
)
LEARNING_LABELS_METRIC: Final = Metric(
    "eddy_learning_labels",
    "gauge",
    "labels",
    (*STAGE_LABELS, "verdict"),
    "recent labels of reported events that the learned model had scored, by verdict",
    "nothing: the model is used from 50 of each on; where they stay few, label more events",
)
LABELS_UNMATCHED_METRIC: Final = Metric(
    "eddy_labels_unmatched",
    "counter",
    "labels",
    STAGE_LABELS,
    "labels of events that assess does not remember, most never reported; not in eddy_labels",
    "if eddy_labels of assess stays at 0, raise assess.events_max: labels come too late",
)
REPORTS_METRIC: Final = Metric(
    "eddy_reports",
    "counter",
    "reports",
    STAGE_LABELS,
    "reports of monitors that assess has processed; the label `monitor` is assess",
    "if it is far more than one event in fifty, find the monitor whose p-values are too small",
)
REPORTS_IGNORED_METRIC: Final = Metric(
    "eddy_reports_ignored",
    "counter",
    "reports",
    STAGE_LABELS,
    "reports of monitors that the configuration no longer has, and labels while assess does not"
    " learn",
    "nothing, where a monitor was removed or renamed while its reports were in the topic",
)
REPORTED_EVENTS_METRIC: Final = Metric(
    "eddy_reported_events",
    "counter",
    "events",
    (*STAGE_LABELS, "which"),
    "events that these reports were on: all of them, and those of the sample, one in a thousand",
    "a thousand times the sample is about the number of scored events with a subject",
)

SENT_COUNTERS: Final = (
    StageCounter("sent", SENT_METRIC),
    StageCounter("not_applicable", NOT_APPLICABLE_METRIC),
)
"""Of a stage that reads an internal topic, where the events of an input are sent to it."""

POLICY_COUNTERS: Final = (
    StageCounter("alerts_opened", ALERTS_METRIC, ("opened",)),
    StageCounter("alerts_updated", ALERTS_METRIC, ("updated",)),
    StageCounter("alerts_suppressed", ALERTS_SUPPRESSED_METRIC),
    StageCounter("alerts_held_back", ALERTS_HELD_BACK_METRIC),
    StageCounter("budget_displaced", BUDGET_DISPLACED_METRIC),
)

RECORD_COUNTERS: Final = (
    StageCounter("read", RECORDS_METRIC),
    StageCounter("passed", EVENTS_METRIC),
    StageCounter("duplicate", DUPLICATES_METRIC),
    StageCounter("tombstone", TOMBSTONES_METRIC),
    *(StageCounter(f"dead_letter_{code}", DEAD_LETTERS_METRIC, (code,)) for code in CODES),
)
"""What can become of a record; the first is the sum of the others."""

REUSED_IDS: Final = StageCounter("id_reused", IDS_REUSED_METRIC)

ROUTE_COUNTERS: Final = (
    *RECORD_COUNTERS,
    REUSED_IDS,
    *(
        StageCounter(repair_key(field, code), FIELD_REPAIRED_METRIC, (field, code))
        for field in REPAIRABLE
        for code in REPAIR_CODES
    ),
)

EVENT_COUNTERS: Final = (
    StageCounter("scored", SCORED_METRIC),
    StageCounter("late", LATE_METRIC),
    StageCounter("ahead", AHEAD_METRIC),
    StageCounter("not_applicable", NOT_APPLICABLE_METRIC),
    StageCounter("labels", LABELS_METRIC),
    StageCounter("late_not_learned", LATE_NOT_LEARNED_METRIC),
)
"""Of a monitor's events; scored, not applicable and labels are all of them."""

WATCH_COUNTERS: Final = (
    *SENT_COUNTERS,
    *EVENT_COUNTERS,
    *POLICY_COUNTERS,
    StageCounter("entities", ENTITIES_METRIC),
    StageCounter("evictions", EVICTIONS_METRIC),
    StageCounter("promotions", PROMOTIONS_METRIC),
)

ASSESS_COUNTERS: Final = (
    *SENT_COUNTERS,
    StageCounter("labels", LABELS_METRIC),
    StageCounter("labels_changed", LABELS_CHANGED_METRIC),
    StageCounter("labels_unmatched", LABELS_UNMATCHED_METRIC),
    StageCounter("learning_active", LEARNING_ACTIVE_METRIC),
    StageCounter("learning_frauds", LEARNING_LABELS_METRIC, ("fraud",)),
    StageCounter("learning_honest", LEARNING_LABELS_METRIC, ("honest",)),
    StageCounter("reports", REPORTS_METRIC),
    StageCounter("reports_ignored", REPORTS_IGNORED_METRIC),
    StageCounter("reported_events", REPORTED_EVENTS_METRIC, ("all",)),
    StageCounter("sampled_events", REPORTED_EVENTS_METRIC, ("sample",)),
    *POLICY_COUNTERS,
)
