"""The result types of a comparison: `comparison.json` holds one `Comparison`.

The other runs are compared with the first. The measures of one run are in its own
`Evaluation`; the types here hold the differences, and what a page needs to show runs side by side.

An event *with an alert* is one that an alert was published on, which somebody has to review. *Alerted on* are those that were counted into an incident, too (`run`): only the
recall at the alert budget, and the frauds' amount alerted on, go by it.
"""

from dataclasses import dataclass

from stream.evaluation.results import Estimate, View


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedRun:
    """One of the runs. folder: in which it lies, beside comparison.json. events, alerts, incidents:
    in the time that is evaluated, incidents by when they were opened. cpu_s: what it cost, the
    decoding that all share left out. state_bytes: of all its shards at the end. view: what labels
    say of it as a whole, null where there are none."""

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
    """A measure of both runs, on events. "recall at equally many alerts": of the frauds with an
    alert, as if the run with more such events had but as many as the other, those with the highest
    scores; null where either has none. difference: the other's less the first one's, and its 95 %
    interval from a bootstrap in which both are resampled by the same days. sign: 1 where the other's
    is higher, -1 where the first one's is, if that is significant: where the interval does not
    hold 0, or there is none because it is the same on every resample; else 0."""

    measure: str
    first: float | None
    other: float | None
    difference: Estimate
    sign: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """What both have and what only one has. what: "events" with an alert, "entities" likewise,
    "incidents" (both: those of the first during which the other had an alert on the same entity;
    other_only: those of the other during which the first had none), "amount" of the events with an
    alert; with labels the same of frauds: "frauds", "fraud entities" (with an incident that is
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
    """Events with an alert from one day (UTC) on, by run, and those that both have. share: of those
    that either has, null where there are none."""

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
    """How far the scores have moved.

    rank_correlation: Spearman's, of the scores cut to steps of `SCORE_STEP`, ties at their mean
    rank; null where a run gives all the same. population_stability: Σ (q - p) ln (q/p) over the
    shares between one band and the next, half an event added to each (index of B. Yurdakul,
    "Statistical Properties of Population Stability Index", 2018); below 0.1 is held for no change,
    above 0.25 for a large one. alerts_in_common: events with an alert of both, of those with one of
    either; periods: by time, each of period_days.
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
    """The first run and another. conclusion: which is better, if that is known; alert_volume: how
    many events with an alert each has, and with labels how many of them are fraud; reason: by how
    much it is better, the difference as the better one has it. caught_by_first_only, caught_by_other_only: the largest
    frauds, at most 10, with an alert of only that one."""

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
    no_evaluation_reason: why labels do not tell which is right, null where they do. first_event_time, last_event_time: of all events;
    evaluated_from, evaluated_until: of those that are evaluated, null without such a bound. settings:
    the first of settings_differing."""

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
