"""The result types of an evaluation: `summary.json` holds one `Evaluation` under "evaluation".

Definitions and formulas are in `stream.evaluation.measures`. A measure is null where it is not defined:
without a fraud, an alert or an amount.
"""

from dataclasses import dataclass
from typing import Literal

Level = Literal["events", "new_events", "entities", "entity_days", "incidents"]
"""What is ranked. events: by score. new_events: without those of entities already known as
compromised that day (the Fraud Detection Handbook's protocol). entities: by their highest score,
fraud where one event is, or where a label names the entity alone. entity_days: by their highest
score of each day, fraud where an event of that day is. incidents: by their highest score, fraud
where an event of the entity from opening to last is, or as entities are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A number with its 95 % bootstrap interval. value: null where the measure is not defined. low, high: also
    null if fewer than eight days, or groups of entities, have data for the measure, or if all resamples
    are equal."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelMeasures:
    """Measures of the ranking and the alerts of one level, such as events or entities.

    count: number of events, entities or incidents. frauds: the frauds among them. alerted: those with an
    alerted event, which opened, updated or was counted in an incident. published: those with an event
    that has an alert, which have to be reviewed. frauds_alerted, frauds_published: the frauds among
    these. precision: frauds_published/published. recall: frauds_alerted/frauds; null for incidents,
    since all are alerted. Both are at the alert budget.
    """

    count: int
    frauds: int
    roc_auc: Estimate
    average_precision: Estimate
    recall_at_false_positives: Estimate
    alerted: int
    frauds_alerted: int
    published: int
    frauds_published: int
    precision: Estimate
    recall: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionAtK:
    """The mean over days of frauds among the k entities with the highest scores, divided by k;
    entities known as compromised, or found on an earlier day of the same week, are excluded."""

    k: int
    precision: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Delay:
    """The delay from the first fraud of an entity to its next alerted event.

    entities: number of entities with a fraud. never: share of them without such an event. Quartiles are
    in seconds, over the other entities.
    """

    entities: int
    never: Estimate
    first_quartile_s: float | None
    median_s: Estimate
    third_quartile_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """Sums of the absolute amounts of frauds. caught: of frauds that were alerted, or occurred while an action
    recommended for one of their entities was in force. missed: of the others."""

    fraud: float
    caught: float
    missed: float
    caught_share: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One kind of fraud. name: the labels' scenario, "" if they have none.

    roc_auc, average_precision: its events against all honest ones. recall: share of its events that
    are alerted; caught: number of caught events, as in `Amount`. entities, entities_alerted and
    median_delay_s: as in `Delay`, from its first event.
    """

    name: str
    frauds: int
    roc_auc: float | None
    average_precision: float | None
    alerted: int
    recall: Estimate
    caught: int
    entities: int
    entities_alerted: int
    median_delay_s: float | None
    amount: float
    amount_caught: float
    amount_missed: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """One day of event time (UTC). alerts: events with an alert; true_alerts: frauds among
    them, and precision their share. alerted: frauds that are alerted, and recall their share.
    precision_at_k: for the k of `View.precision_at_k`, in that order."""

    day: str
    events: int
    frauds: int
    alerts: int
    true_alerts: int
    alerted: int
    caught: int
    precision: float | None
    recall: float | None
    amount_fraud: float
    amount_caught: float
    precision_at_k: list[float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionRecallPoint:
    """Precision and recall of alerts on all events with at least this score."""

    score: float
    recall: float
    precision: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetPoint:
    """The lowest score that at most `alerts_per_day` events a day reach, on average. events: their
    number. amount_caught_share: of the frauds' amount, null where there is none."""

    alerts_per_day: float
    score: float
    events: int
    precision: float
    recall: float | None
    amount_caught_share: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationPoint:
    """The share of honest events whose p-value is at most `p`; for calibrated p-values it is p."""

    p: float
    observed: Estimate
    events: int


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """All measures of one score. name: "all" for the combined score and every alert, else a monitor's
    name (or "assess") for its own score and alerts.

    entity: the field whose values are the entities: a monitor's, for "all" the subject of assess,
    else the first monitor's. alerts: on evaluated events, revisions included; incidents: those opened
    in that time. incident_alerts: alerts an incident, all that it had. scenarios: most frauds first.
    days: in their order, those without events left out. precision_recall: by falling score, at most
    201 points. budget: by rising alerts a day, the same grid for every run. calibration: by falling
    p.
    """

    name: str
    entity: str
    alerts: int
    incidents: int
    incident_alerts: Estimate
    levels: dict[Level, LevelMeasures]
    precision_at_k: list[PrecisionAtK]
    delay: Delay
    amount: Amount
    scenarios: list[Scenario]
    days: list[Day]
    precision_recall: list[PrecisionRecallPoint]
    budget: list[BudgetPoint]
    calibration: list[CalibrationPoint]


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorScore:
    """The score of a monitor, or of assess, for a missed fraud. score: null if it did not score the event.
    min_alert_score: the lowest score at which it alerts. held_back: whether the alert budget held the
    alert back. surprising: the features whose own p-value is below 0.1. not_surprising: the others."""

    monitor: str
    score: float | None
    min_alert_score: float
    held_back: bool
    surprising: list[str]
    not_surprising: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class MissedFraud:
    """A missed fraud. entities: field → id, or its pseudonym. nearest: the scorer nearest to an alert, null
    if none scored the event. gap: the lowest score at which that scorer alerts minus its score; at most
    0 if the alert budget did not allow an alert."""

    event_id: str
    event_time: str
    scenario: str
    amount: float | None
    score: float
    entities: dict[str, str]
    nearest: str | None
    gap: float | None
    monitors: list[MonitorScore]


@dataclass(frozen=True, slots=True, kw_only=True)
class MissedBand:
    """Missed frauds by reason. name: "held back": the policy withheld the alert, since the day's budget
    was used up; "budget": the score reached the declared threshold, but the policy's threshold at that
    time was stricter, to keep to the budget; "0 to 0.5" and so on: the gap of the nearest scorer,
    more than the first and at most the second; "not scored": no monitor scored them."""

    name: str
    frauds: int
    amount: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NotSurprisingFeature:
    """The share of the frauds scored by a monitor in which a feature was not surprising (its own
    p-value was at least 0.1), among the missed and among the caught; null if there are none."""

    monitor: str
    feature: str
    share_missed: float | None
    share_caught: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MissedFrauds:
    """The frauds that were not caught. by_amount: the 50 with the largest amounts; nearest: the 50
    nearest to an alert. bands: all of them by the gap of the nearest score."""

    frauds: int
    amount: float
    by_amount: list[MissedFraud]
    nearest: list[MissedFraud]
    bands: list[MissedBand]
    not_surprising_features: list[NotSurprisingFeature]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The evaluation of a run by its labels, over the events in the evaluated time.

    days: on which there were such events. events: all of them; an event without label counts as
    honest. event_labels: the labels that name an event, in the evaluated time or not; ambiguous:
    frauds whose id several events share: the first event counts. labelled_entities: the entities
    that labels call fraudulent without an event. If labels confirm fraud only for entities, or no
    label names an event, event-level precision is null and there are no curves.
    resamples, seed: of the bootstrap, whose blocks are days; of entities, groups of entities.
    false_positives: the share of honest ones at which `LevelMeasures.recall_at_false_positives` is
    taken.
    views: "all" first; the others only where there is more than one monitor, or assess.
    """

    first_event_time: str
    last_event_time: str
    days: int
    events: int
    event_labels: int
    ambiguous: int
    labelled_entities: int
    frauds: int
    amount: float
    resamples: int
    seed: int
    false_positives: float
    views: list[View]
    missed: MissedFrauds

    @property
    def level(self) -> Level:
        """The level shown first: events, or entities where no label is of an event."""
        return "events" if self.events_known else "entities"

    @property
    def events_known(self) -> bool:
        """Whether labels say which events are fraud."""
        return self.event_labels > 0 and (self.frauds > 0 or not self.labelled_entities)
