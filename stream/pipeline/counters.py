"""The counters of Eddy's own stages, and the metrics that show them: each is declared here once.

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


class Counter(NamedTuple):
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

RECORDS: Final = Metric(
    "eddy_records",
    "counter",
    "records",
    PARTITION_LABELS,
    "records read from a partition since its state began, re-learned ones included",
    "if it does not grow while eddy_lag does, look for Kafka errors in the log",
)
EVENTS: Final = Metric(
    "eddy_events",
    "counter",
    "events",
    PARTITION_LABELS,
    "records that became events; with duplicates, tombstones and dead letters they are all",
    "if it is far below eddy_records, look at eddy_dead_letters",
)
DUPLICATES: Final = Metric(
    "eddy_duplicates",
    "counter",
    "events",
    PARTITION_LABELS,
    "events whose id and fields were seen within limits.duplicate_window: neither scored nor"
    " learned",
    "a steady share is a producer that sends twice; look for retries without idempotence",
)
IDS_REUSED: Final = Metric(
    "eddy_ids_reused",
    "counter",
    "events",
    PARTITION_LABELS,
    "events with the id of another event within limits.duplicate_window: scored and learned",
    "find the producer whose ids are not unique; labels that name such an id are ambiguous",
)
TOMBSTONES: Final = Metric(
    "eddy_tombstones",
    "counter",
    "records",
    PARTITION_LABELS,
    "records without a value",
    "expected on compacted topics; elsewhere find the producer that writes them",
)
DEAD_LETTERS: Final = Metric(
    "eddy_dead_letters",
    "counter",
    "records",
    (*PARTITION_LABELS, "code"),
    "records that could not become events, by the code of their dead letter",
    "read the dead-letter topic: each record names the field, the expectation and the value",
)
FIELD_REPAIRED: Final = Metric(
    "eddy_field_repaired",
    "counter",
    "events",
    (*PARTITION_LABELS, "field", "code"),
    "events with a bad field, which is now absent, cut, or has replaced bytes",
    "read the examples on the dead-letter topic, eddy-disposition: event_kept; never resend them",
)
SENT: Final = Metric(
    "eddy_sent",
    "counter",
    "events",
    STAGE_LABELS,
    "events that route wrote to a stage's internal topic; there they are scored, or are labels",
    "if eddy_scored and eddy_labels stay below it for long, look at eddy_lag of that topic",
)
SCORED: Final = Metric(
    "eddy_scored",
    "counter",
    "events",
    STAGE_LABELS,
    "events that a monitor has scored",
    "if it is far below eddy_events, look at eddy_not_applicable and the monitor's where",
)
NOT_APPLICABLE: Final = Metric(
    "eddy_not_applicable",
    "counter",
    "events",
    STAGE_LABELS,
    "events that a monitor does not watch: its entity is absent, or where does not match",
    "if it is nearly all, look at the mapping of the monitor's entity",
)
LABELS: Final = Metric(
    "eddy_labels",
    "counter",
    "events",
    STAGE_LABELS,
    "label events: a monitor does not score them, but its detectors may learn from them",
    "if it does not grow while labels are published, look at the mapping of the event type",
)
LATE: Final = Metric(
    "eddy_late",
    "counter",
    "events",
    STAGE_LABELS,
    "scored events older than their entity's last",
    "a growing share means that a producer or a partition is later than the others",
)
AHEAD: Final = Metric(
    "eddy_ahead",
    "counter",
    "events",
    STAGE_LABELS,
    "scored events whose time lies further ahead than limits.time_ahead_max; they move no time",
    "find the producer whose clock or unit of time is wrong; a few after a silent period are"
    " expected",
)
LATE_NOT_LEARNED: Final = Metric(
    "eddy_late_not_learned",
    "counter",
    "events",
    STAGE_LABELS,
    "scored events that are later than lateness_max: not learned",
    "raise the monitor's lateness_max, or find the producer that is late",
)
ALERTS: Final = Metric(
    "eddy_alerts",
    "counter",
    "alerts",
    (*STAGE_LABELS, "activity"),
    "alerts published, by activity: opened or updated",
    "a jump is an attack or a change of the traffic: read the alerts' contributions",
)
ALERTS_SUPPRESSED: Final = Metric(
    "eddy_alerts_suppressed",
    "counter",
    "events",
    STAGE_LABELS,
    "alarming events that were only counted, because their incident was open",
    "nothing: the incident's next alert states their number",
)
ALERTS_OVER_BUDGET: Final = Metric(
    "eddy_alerts_over_budget",
    "counter",
    "events",
    STAGE_LABELS,
    "alarming events without an alert, because the budget was used up",
    "if it grows for long, raise policy.alerts_per_day or lower policy.p_max",
)
BUDGET_DISPLACED: Final = Metric(
    "eddy_budget_displaced",
    "counter",
    "events",
    STAGE_LABELS,
    "events of eddy_alerts_over_budget, and updates held back, whose score was above that of an "
    "alert published from the same allowance",
    "if it grows, cheap alerts use up the budget: raise policy.alerts_per_day or lower "
    "policy.p_max",
)
ENTITIES: Final = Metric(
    "eddy_entities",
    "gauge",
    "entities",
    STAGE_LABELS,
    "entities that a monitor holds",
    "if it stays at capacity and evictions grow, raise the monitor's capacity",
)
EVICTIONS: Final = Metric(
    "eddy_evictions",
    "counter",
    "entities",
    STAGE_LABELS,
    "entities forgotten to make room",
    "if known entities are forgotten within days, raise the monitor's capacity",
)
PROMOTIONS: Final = Metric(
    "eddy_promotions",
    "counter",
    "entities",
    STAGE_LABELS,
    "entities that returned, and left probation",
    "nothing: far fewer than new entities means that most come once",
)
LABELS_CHANGED: Final = Metric(
    "eddy_labels_changed",
    "counter",
    "labels",
    STAGE_LABELS,
    "labels that replaced an earlier one of the same event, in what assess learns from",
    "if there are many, find the source of labels that are corrected later",
)
LEARNING_ACTIVE: Final = Metric(
    "eddy_learning_active",
    "gauge",
    "partitions",
    STAGE_LABELS,
    "1 where assess combines reports by a model learned from labels, 0 where not yet",
    "nothing; where it should, see eddy_learning_labels",
)
LEARNING_LABELS: Final = Metric(
    "eddy_learning_labels",
    "gauge",
    "labels",
    (*STAGE_LABELS, "verdict"),
    "recent labels of reported events that the learned model had scored, by verdict",
    "nothing: the model is used from 50 of each on; where they stay few, label more events",
)
LABELS_UNMATCHED: Final = Metric(
    "eddy_labels_unmatched",
    "counter",
    "labels",
    STAGE_LABELS,
    "labels of events that assess does not remember: most were never reported",
    "if eddy_labels of assess stays at nothing, raise assess.events_max: labels come too late",
)
REPORTS: Final = Metric(
    "eddy_reports",
    "counter",
    "reports",
    STAGE_LABELS,
    "reports of monitors that assess has processed; the label `monitor` is assess",
    "if it is far more than one event in fifty, find the monitor whose p-values are too small",
)
REPORTS_IGNORED: Final = Metric(
    "eddy_reports_ignored",
    "counter",
    "reports",
    STAGE_LABELS,
    "reports of monitors that the configuration no longer has",
    "nothing, where a monitor was removed or renamed while its reports were in the topic",
)
REPORTED_EVENTS: Final = Metric(
    "eddy_reported_events",
    "counter",
    "events",
    (*STAGE_LABELS, "which"),
    "events that these reports were on: all of them, and those of the sample, one in a thousand",
    "a thousand times the sample is about the number of scored events with a subject",
)

SENT_COUNTERS: Final = (
    Counter("sent", SENT),
    Counter("not_applicable", NOT_APPLICABLE),
)
"""Of a stage that reads an internal topic, where the events of an input are sent to it."""

POLICY_COUNTERS: Final = (
    Counter("alerts_opened", ALERTS, ("opened",)),
    Counter("alerts_updated", ALERTS, ("updated",)),
    Counter("alerts_suppressed", ALERTS_SUPPRESSED),
    Counter("alerts_over_budget", ALERTS_OVER_BUDGET),
    Counter("budget_displaced", BUDGET_DISPLACED),
)

RECORD_COUNTERS: Final = (
    Counter("read", RECORDS),
    Counter("passed", EVENTS),
    Counter("duplicate", DUPLICATES),
    Counter("tombstone", TOMBSTONES),
    *(Counter(f"dead_letter_{code}", DEAD_LETTERS, (code,)) for code in CODES),
)
"""What can become of a record; the first is the sum of the others."""

REUSED_IDS: Final = Counter("id_reused", IDS_REUSED)

ROUTE_COUNTERS: Final = (
    *RECORD_COUNTERS,
    REUSED_IDS,
    *(
        Counter(repair_key(field, code), FIELD_REPAIRED, (field, code))
        for field in REPAIRABLE
        for code in REPAIR_CODES
    ),
)

EVENT_COUNTERS: Final = (
    Counter("scored", SCORED),
    Counter("late", LATE),
    Counter("ahead", AHEAD),
    Counter("not_applicable", NOT_APPLICABLE),
    Counter("labels", LABELS),
    Counter("late_not_learned", LATE_NOT_LEARNED),
)
"""Of a monitor's events; scored, not applicable and labels are all of them."""

WATCH_COUNTERS: Final = (
    *SENT_COUNTERS,
    *EVENT_COUNTERS,
    *POLICY_COUNTERS,
    Counter("entities", ENTITIES),
    Counter("evictions", EVICTIONS),
    Counter("promotions", PROMOTIONS),
)

ASSESS_COUNTERS: Final = (
    *SENT_COUNTERS,
    Counter("labels", LABELS),
    Counter("labels_changed", LABELS_CHANGED),
    Counter("labels_unmatched", LABELS_UNMATCHED),
    Counter("learning_active", LEARNING_ACTIVE),
    Counter("learning_frauds", LEARNING_LABELS, ("fraud",)),
    Counter("learning_honest", LEARNING_LABELS, ("honest",)),
    Counter("reports", REPORTS),
    Counter("reports_ignored", REPORTS_IGNORED),
    Counter("reported_events", REPORTED_EVENTS, ("all",)),
    Counter("sampled_events", REPORTED_EVENTS, ("sample",)),
    *POLICY_COUNTERS,
)
