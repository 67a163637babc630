"""The result types of a comparison: `comparison.json` holds one `Comparison`.

Each other run is compared with the first. The measures of one run are in its own `Evaluation`; these
types hold the differences and the data that the page shows side by side.

An event *with an alert* is one that an alert was published on, which an analyst has to review. An event
is *alerted* also if it was only counted in an incident (`labelled_run`): the recall at the alert budget
and the share of the frauds' amount alerted on use alerted events.
"""

from dataclasses import dataclass

from stream.evaluation.results import Estimate, View


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedRun:
    """One of the runs. folder: its folder, beside comparison.json. events, alerts, incidents: in the
    evaluated time, incidents by opening time. cpu_s: CPU time without the shared decoding.
    state_bytes: the state of all shards at the end. view: the evaluation's view "all", null without
    labels."""

    name: str
    folder: str
    fingerprint: str
    events: int
    alerts: int
    incidents: int
    dead_letters: int
    cpu_s: float
    state_bytes: int
    view: View | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingDifference:
    """A key in which the configurations differ, and its value in each; null where it is absent."""

    key: str
    values: list[str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A measure of both runs, on events. "recall at equally many alerts" counts frauds with an alert; of
    the run with more alerted events it keeps only as many as the other has, those with the highest
    scores. It is null if either run has none.

    - difference: the other run's value minus the first one's, with the 95 % interval of a bootstrap that
      resamples the same days in both.
    - sign: 1 if the other's value is significantly higher, -1 if the first one's is, else 0. A difference
      is significant if its interval excludes 0, or if all resamples give the same difference.
    """

    measure: str
    first: float | None
    other: float | None
    difference: Estimate
    sign: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """What both runs have, and what only one has. what:

    - "events", "entities": with an alert. "amount": of the events with an alert.
    - "incidents": both counts incidents of the first run during which the other had an alert on the same
      entity; other_only counts incidents of the other during which the first had none.
    - with labels also "frauds", "fraud entities" (with a fraud incident) and "fraud amount".
    """

    what: str
    both: float
    first_only: float
    other_only: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CaughtByOne:
    """A fraud on which only one of two runs has an alert, and its score in both."""

    event_id: str
    event_time: str
    scenario: str
    amount: float | None
    first_score: float
    other_score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """Events with an alert in the period from one day (UTC) on: in each run, and in both. share: both, as
    a share of the events with an alert in either; null if there are none."""

    from_day: str
    first: int
    other: int
    both: int
    share: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreBand:
    """The shares of events whose score is at least `score_from`."""

    score_from: float
    first: float
    other: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """How much the scores differ between two runs.

    - rank_correlation: Spearman's, of scores rounded down to steps of `SCORE_STEP`, ties at their mean
      rank; null if all scores of a run are equal.
    - population_stability: Σ (q - p) ln (q/p) over the shares of events in each band, with half an event
      added to each (B. Yurdakul, "Statistical Properties of Population Stability Index", 2018). By
      convention, below 0.1 means no change and above 0.25 a large one.
    - alerts_in_common: events with an alert in both runs, as a share of those with an alert in either.
    - periods: the same by time, each of period_days.
    """

    events: int
    rank_correlation: float | None
    population_stability: float
    alerts_in_common: float | None
    bands: list[ScoreBand]
    period_days: int
    periods: list[Period]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """The first run and another. conclusion: which is better, if that is known. alert_volume: the
    number of events with an alert in each, and with labels the share that is fraud. reason: the
    differences, from the better run's side. caught_by_first_only, caught_by_other_only: the largest
    frauds, at most 10, on which only that run has an alert."""

    first: str
    other: str
    conclusion: str
    alert_volume: str
    reason: str
    differences: list[Difference]
    overlaps: list[Overlap]
    caught_by_first_only: list[CaughtByOne]
    caught_by_other_only: list[CaughtByOne]
    drift: Drift


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The comparison of all runs. conclusion: the conclusions of all pairs, with their alert volumes.
    no_evaluation_reason: why the runs were not evaluated against labels, null if they were.
    first_event_time, last_event_time: of all events. evaluated_from, evaluated_until: the bounds of the
    evaluated time, null without a bound. settings: the first differing settings; settings_differing:
    the number of all."""

    conclusion: str
    no_evaluation_reason: str | None
    first_event_time: str | None
    last_event_time: str | None
    evaluated_from: str | None
    evaluated_until: str | None
    settings: list[SettingDifference]
    settings_differing: int
    runs: list[ComparedRun]
    pairs: list[Pair]
