"""The result types of an evaluation: `summary.json` holds one `Evaluation` under "evaluation".

Definitions and formulas are in `stream.evaluation.measures`. A measure is null where it is not defined:
without a fraud, an alert or an amount.
"""

from dataclasses import dataclass
from typing import Literal

Level = Literal["events", "new_events", "entities", "entity_days", "incidents"]
"""What is ranked.

- events: by score.
- new_events: events without those of entities already known as compromised that day (the protocol of
  the Fraud Detection Handbook).
- entities: by highest score. An entity is fraud if one of its events is, or if a label names the entity
  without an event.
- entity_days: entities by highest score of each day; fraud if an event of that day is.
- incidents: by highest score; fraud if an event of the entity from the first alert to the last is, or
  if a label names the entity without an event.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A number with its 95 % bootstrap interval. All three are null where the number is undefined. Only
    low and high are null where fewer than eight blocks (days, or groups of entities) contribute to the
    number, or all resamples give the same one."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelMeasures:
    """How well one level is ranked, and what its alerts catch.

    - count, frauds: rows of the level, and the frauds among them.
    - alerted: rows with an alerted event, which opened or updated an incident or was counted in one.
      frauds_alerted: the frauds among them.
    - published: rows with an event that an alert was published on. frauds_published: the frauds.
    - precision: frauds_published/published, of what an analyst has to review. recall:
      frauds_alerted/frauds, undefined for incidents, which are all alerted. Both are at the alert
      budget.
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
    """The mean over days of the frauds among the k entities with the highest scores, divided by k.
    Entities known as compromised, or found on an earlier day of the week, are excluded."""

    k: int
    precision: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Delay:
    """Time from the first fraud of an entity to its next alerted event.

    entities: the number of entities with a fraud. never: the share of them without a later alerted
    event. The quartiles, in seconds, are over the others.
    """

    entities: int
    never: Estimate
    first_quartile_s: float | None
    median_s: Estimate
    third_quartile_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """Absolute amounts of frauds. caught: of caught frauds, which are alerted or happen while an action
    recommended for one of their entities is in force; missed: of the others."""

    fraud: float
    caught: float
    missed: float
    caught_share: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """The frauds of one scenario. name: the labels' scenario, "" where they name none.

    roc_auc, average_precision: its frauds against all honest events. recall: the share of its frauds
    that are alerted. caught: the number of its frauds that are caught, as in `Amount`. entities,
    entities_alerted, median_delay_s: as in `Delay`, for frauds of the scenario.
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
    """Recall and precision of alerts on every event with at least this score."""

    score: float
    recall: float
    precision: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetPoint:
    """The lowest score that, on average, at most `alerts_per_day` events a day reach. events: the number
    of these events. amount_caught_share: their share of the frauds' amount, null if that is 0."""

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

    - entity: the field whose values are the entities: the monitor's; for "all" the subject of assess,
      or without assess the first monitor's.
    - alerts: alerts on evaluated events, with revisions. incidents: incidents opened in that time.
    - incident_alerts: the mean number of alerts in an incident.
    - scenarios: by falling number of frauds. days: in order, without days that have no event.
    - precision_recall: by falling score, at most 201 points. budget: by rising alerts a day, the same
      steps for every run. calibration: by falling p.
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
    min_alert_score: the lowest score that can raise an alert. held_back: by the budget. surprising:
    the features whose own p-value is below 0.1; ordinary: the others."""

    monitor: str
    score: float | None
    min_alert_score: float
    held_back: bool
    surprising: list[str]
    ordinary: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class MissedFraud:
    """A missed fraud. entities: field → id, or its pseudonym. nearest: the scorer nearest to an alert.
    gap: its min_alert_score minus its score; 0 or less if the budget allowed no alert. Both are null if
    no monitor scored the event."""

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
    """Missed frauds by reason. name:

    - "held back": the alert was held back, because the day's budget was used up.
    - "budget": the p-value was above the threshold that the budget set at that time.
    - "0 to 0.5" and so on: the gap, above the first number and at most the second.
    - "not scored": no monitor scored them.
    """

    name: str
    frauds: int
    amount: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OrdinaryFeature:
    """How often a feature was not surprising (its own p-value was at least 0.1), as a share of the missed
    and of the caught frauds that the monitor scored; null if there are none."""

    monitor: str
    feature: str
    share_missed: float | None
    share_caught: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MissedFrauds:
    """The frauds that were not caught. by_amount: the 50 with the largest amounts; nearest: the 50
    nearest to an alert. bands: all missed frauds by reason."""

    frauds: int
    amount: float
    by_amount: list[MissedFraud]
    nearest: list[MissedFraud]
    bands: list[MissedBand]
    ordinary_features: list[OrdinaryFeature]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The evaluation of a run by its labels, over the events in the evaluated time.

    - days: the number of days with evaluated events. events: the number of these events; an event
      without a label counts as honest.
    - event_labels: labels that name an event, inside the evaluated time or not. ambiguous: frauds whose
      id several events share; the first event counts.
    - labelled_entities: entities that labels name as fraudulent without an event. If labels confirm
      fraud only for entities, event-level precision is null and there are no curves.
    - resamples, seed: of the bootstrap. Its blocks are days, or for entities groups of entities.
    - false_positives: the false-positive rate of `LevelMeasures.recall_at_false_positives`.
    - views: "all" first; others only if there are several monitors, or assess.
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
        """The level shown first: events, or entities if no label names an event."""
        return "events" if self.events_known else "entities"

    @property
    def events_known(self) -> bool:
        """Whether labels say which events are fraud."""
        return self.event_labels > 0 and (self.frauds > 0 or not self.labelled_entities)
