"""The result types of a comparison: `comparison.json` holds one `Comparison`.

The other runs are compared with the first. The measures of one run are in its own
`Evaluation`; the types here hold the differences, and what a page needs to show runs side by side.

An event *with an alert* is one on which an alert was published, which has to be reviewed. Events
*alerted on* also include those counted in an incident (see `labelled_run`): only the recall at the alert
budget and the amount of frauds alerted on use these.
"""

from dataclasses import dataclass

from stream.evaluation.results import Estimate, View


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedRun:
    """One of the runs. folder: relative to comparison.json. events, alerts, incidents: in the evaluated time;
    incidents that were opened in it. cpu_s: CPU time without the shared decoding. state_bytes: of all its
    shards at the end. view: the evaluation of all monitors together, null without labels."""

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
    """A measure of both runs, on events. "recall at equally many alerts": the share of frauds
    with an alert if the run with more alerts is limited to as many as the other, by highest score; null
    if a run has none. difference: the other run's value minus the first run's, with a 95 % interval from a
    bootstrap that resamples the same days for both. sign: 1 if the other run's value is significantly
    higher, -1 if it is significantly lower, else 0. Significant: the interval does not contain 0, or
    the difference is the same in every resample."""

    measure: str
    first: float | None
    other: float | None
    difference: Estimate
    sign: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """Counts or amounts that both runs have, or only one of them. what: "events" with an alert, "entities" with
    an alert, "incidents" (both: incidents of the first run during which the other had an alert on the same
    entity; other_only: incidents of the other during which the first had none), "amount" of the events
    with an alert; with labels the same of frauds: "frauds", "fraud entities" (with an incident that is
    fraud), "fraud amount"."""

    what: str
    both: float
    first_only: float
    other_only: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CaughtByOne:
    """A fraud with an alert of only one of two runs, and the scores that both gave it."""

    event_id: str
    event_time: str
    scenario: str
    amount: float | None
    first_score: float
    other_score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """Events with an alert in a period that begins on one day (UTC): of each run and of both. share: both
    divided by either, null if there are none."""

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
    """The difference of the scores of two runs.

    rank_correlation: Spearman's, of the scores cut to steps of `SCORE_STEP`, ties at their mean
    rank; null if a run gives all events the same score. population_stability: Σ (q - p) ln (q/p) over the
    shares between one band and the next, half an event added to each (index of B. Yurdakul,
    "Statistical Properties of Population Stability Index", 2018); below 0.1 means no change,
    above 0.25 a large one. alerts_in_common: the share of events with an alert of both runs among those
    with one of either. periods: in time order, each of period_days.
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
    """The first run and another. conclusion: which is better, if known. alert_volume: the number of events
    with an alert of each, and with labels the share of fraud among them. reason: by how much the better
    run is better. caught_by_first_only, caught_by_other_only: the largest frauds, at most 10, with an
    alert of only that run."""

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
    """The comparison of all runs. conclusion: of all pairs, with the alert volume of each.
    no_evaluation_reason: why the runs are not evaluated, null if they are. first_event_time, last_event_time: of all events;
    evaluated_from, evaluated_until: bounds of the evaluated time, null if there is none. settings:
    the first ones of those that differ; settings_differing: their number."""

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
