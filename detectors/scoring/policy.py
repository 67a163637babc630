"""Policy: which p-values raise alerts, and which alerts belong to one incident.

An event raises an alert when p ≤ min(p_max, the budget's threshold). The budget is a cap, never a
target: with r events a day, r · p of them fall below p by chance, so the threshold is budget/r; and
at most the shard's share of the budget is published in a UTC day of stream time, even if more events
are below the threshold. With B alerts a day over n shards, shard s may publish on day d

    ⌊(⌊(d+1) B⌋ + s)/n⌋ - ⌊(⌊d B⌋ + s)/n⌋

alerts, days counted from 1970: B/n a day on average, rounded up or down each day. Over all shards
they add up to ⌊(d+1) B⌋ - ⌊d B⌋ (Hermite's identity), which is B, rounded up or down. An unused
allowance is not carried over to the next day. Alerts before the end of warm-up have an allowance of
their own, of the same size.

An entity's alerts belong to one incident until it had none for `incident_gap`. Within an incident
only an escalation (the score grew by `ESCALATION`) or a doubling of the suppressed count is
published, as an update; other alerts are suppressed and counted. The contents of an alert are made
in `explain`.
"""

from math import exp, floor, inf, log10
from typing import Final, NamedTuple

import numpy as np

from detectors.entities import AdmittedEvents
from detectors.numeric.combination import P_MIN
from detectors.numeric.decay import DAY_MS, LN2
from detectors.numeric.kernels import kernel
from detectors.spec import PolicySpec, seconds
from detectors.state import Arrays, load, rename_arrays, state_arrays
from schemas.columns import F64, I32, I64, U8, Bools, EventBatch

NO_ALERT, OPENED, UPDATED, SUPPRESSED, HELD_BACK = range(5)
"""The activity of an event: no alert, a new incident, an update of one, an alert that is suppressed
because its incident is open, or an alert that is held back because the budget is used up."""

ESCALATION: Final = 2.0
DOUBLING_FIRST: Final = 8.0
"""Number of suppressed alerts at which the first update is published."""
RATE_SPAN_MIN_MS: Final = 3_600_000.0

FIRST_MS, LAST_MS, SUPPRESSED_COUNT, NEXT_DOUBLING, REVISION, PEAK, SOURCE, OFFSET = range(8)
INCIDENT_WORDS: Final = 8
"""Words of an incident in an entity's row; REVISION is 0 before the first incident."""

STREAM_MS, RATE, RATE_SINCE_MS, DAY, ALERTS_ALLOWED, SPENT, SPENT_WARMING, WEAKEST = range(8)
HELD_BACK_COUNT, DISPLACED = range(2)

SAVED_NAMES: Final = {"day_budget": "now"}
"""Names of arrays in a checkpoint, where they differ from the fields'."""


class PolicyOutcome(NamedTuple):
    """The policy's decisions on n events.

    - activity: uint8[n].
    - threshold: float64[n], the highest p-value that raises an alert.
    - budget_used: float64[n], share of the day's allowance.
    - held_back: int64[n], alerts held back since the last published one; only for events that opened
      or updated an incident.
    - incident: float64[n, INCIDENT_WORDS], the entity's incident after the event; only for the same
      events.
    """

    activity: U8
    threshold: F64
    budget_used: F64
    held_back: I64
    incident: F64


class PolicyState(NamedTuple):
    """The policy's state for one shard.

    day_budget: float64[8]:

    - STREAM_MS: stream time.
    - RATE, RATE_SINCE_MS: the decayed count of events, and the time from which it counts.
    - DAY, ALERTS_ALLOWED: the UTC day, and the alerts that it allows.
    - SPENT, SPENT_WARMING: alerts published on that day, after and before the end of warm-up.
    - WEAKEST: the lowest score published after warm-up since a day last allowed any alert.

    activities: int64[5], events by activity; an event with several activities counts in each.

    held: int64[2]:

    - HELD_BACK: alerts held back since the last published one.
    - DISPLACED: all alerts held back that were stronger than a published one.
    """

    day_budget: F64
    activities: I64
    held: I64


class PolicyLimits(NamedTuple):
    """alerts_per_day: over all shards. shard: the number of this one, below `shards`."""

    p_max: float
    alerts_per_day: float
    incident_gap_ms: float
    shards: int = 1
    shard: int = 0


def policy_limits(policy: PolicySpec, shards: int, shard: int) -> PolicyLimits:
    """The limits of a shard, by its number below `shards`."""
    gap_ms = 1000.0 * seconds(policy.incident_gap)
    return PolicyLimits(policy.p_max, policy.alerts_per_day, gap_ms, shards, shard)


class Policy:
    """The rate of the stream, the budget, and the counts of activities."""

    def __init__(self, limits: PolicyLimits) -> None:
        self.limits = limits
        self.state = PolicyState(
            day_budget=np.array([-1.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, inf]),
            activities=np.zeros(5, np.int64),
            held=np.zeros(2, np.int64),
        )

    def process(
        self,
        words: F64,
        incident_first_word: int,
        admitted: AdmittedEvents,
        batch: EventBatch,
        p: F64,
        warm: Bools,
    ) -> PolicyOutcome:
        """Decide on each event in order. words: float64[rows, w], the entities' rows, in which the
        incident's words start at `incident_first_word`. batch: the same events, for their position. p:
        float64[n]. warm: bool[n], at least `warm_up_events` events were learned before."""
        out = undecided_outcome(len(p))
        positions = EventPositions(
            admitted.bounded_ms, admitted.stream_ms, batch.source, batch.offset
        )
        _process(
            words, incident_first_word, admitted, positions, p, warm, self.limits, self.state, out
        )
        return out

    def counts(self) -> dict[str, int]:
        """Alerts by activity."""
        activities = self.state.activities
        return {
            "alerts_opened": int(activities[OPENED]),
            "alerts_updated": int(activities[UPDATED]),
            "alerts_suppressed": int(activities[SUPPRESSED]),
            "alerts_held_back": int(activities[HELD_BACK]),
            "budget_displaced": int(self.state.held[DISPLACED]),
        }

    def save(self) -> Arrays:
        """The rate of the stream, the budget and the counts."""
        return rename_arrays(state_arrays(self.state), SAVED_NAMES)

    def load(self, state: Arrays) -> None:
        """Replace the state by a saved one."""
        load(self.state, rename_arrays(state, {old: new for new, old in SAVED_NAMES.items()}))


def undecided_outcome(n: int) -> PolicyOutcome:
    """The outcome for n events before any decision: all `NO_ALERT`."""
    return PolicyOutcome(
        activity=np.zeros(n, np.uint8),
        threshold=np.ones(n),
        budget_used=np.zeros(n),
        held_back=np.zeros(n, np.int64),
        incident=np.zeros((n, INCIDENT_WORDS)),
    )


class EventPositions(NamedTuple):
    """Each event's bounded time, stream time after it, and its position in its log."""

    time_ms: F64
    stream_ms: F64
    source: I32
    offset: I64


@kernel
def allowance(day: float, alerts_per_day: float, shards: int, shard: int) -> float:
    """Alerts that a shard may publish on a day, counted from 1970."""
    # floats: at a budget near the largest that a configuration may have an int64 would overflow
    until = np.floor((np.floor((day + 1.0) * alerts_per_day) + shard) / shards)
    return float(until - np.floor((np.floor(day * alerts_per_day) + shard) / shards))


@kernel
def _begin_day(day_budget: F64, limits: PolicyLimits) -> None:
    """Begin a new day's allowance where the day of stream time has changed."""
    day = floor(day_budget[STREAM_MS] / DAY_MS)
    if day != day_budget[DAY]:
        day_budget[DAY] = day
        day_budget[ALERTS_ALLOWED] = allowance(
            day, limits.alerts_per_day, limits.shards, limits.shard
        )
        day_budget[SPENT] = day_budget[SPENT_WARMING] = 0.0
        if day_budget[ALERTS_ALLOWED] > 0.0:
            day_budget[WEAKEST] = inf


@kernel
def _budget_threshold(
    day_budget: F64, time_ms: float, limits: PolicyLimits, event_count: float
) -> float:
    """The p-value at which honest events alone would just use up the budget. time_ms: stream time, which
    may be set back once."""
    if day_budget[STREAM_MS] < 0.0:
        day_budget[STREAM_MS] = day_budget[RATE_SINCE_MS] = time_ms
    day_budget[RATE_SINCE_MS] = min(day_budget[RATE_SINCE_MS], time_ms)
    day_budget[STREAM_MS] = min(day_budget[STREAM_MS], time_ms)
    if time_ms > day_budget[STREAM_MS]:
        elapsed_ms = time_ms - day_budget[STREAM_MS]
        day_budget[RATE] *= exp(-LN2 * elapsed_ms / DAY_MS)
        day_budget[STREAM_MS] = time_ms
    _begin_day(day_budget, limits)
    day_budget[RATE] += event_count
    span_ms = max(day_budget[STREAM_MS] - day_budget[RATE_SINCE_MS], RATE_SPAN_MIN_MS)
    # at a steady r events a day the count, halved each day, is r (1 - 2^-days) / ln 2
    per_day = day_budget[RATE] * LN2 / (1.0 - exp(-LN2 * span_ms / DAY_MS))
    return float(limits.alerts_per_day / limits.shards / max(per_day, 1.0))


@kernel
def _activity_within_budget(
    incident: F64, score: float, time_ms: float, limits: PolicyLimits
) -> int:
    """The activity of an event below the threshold, given its entity's incident, where the budget is
    not used up."""
    gap_passed = time_ms - incident[LAST_MS] > limits.incident_gap_ms
    if incident[REVISION] == 0.0 or gap_passed:
        return OPENED
    doubled = incident[SUPPRESSED_COUNT] + 1.0 >= incident[NEXT_DOUBLING]
    return UPDATED if doubled or score >= incident[PEAK] + ESCALATION else SUPPRESSED


@kernel
def _spend(state: PolicyState, score: float, warm: bool) -> None:
    """Charge a published alert to the day's allowance."""
    day_budget = state.day_budget
    if warm:
        day_budget[SPENT] += 1.0
        day_budget[WEAKEST] = min(day_budget[WEAKEST], score)
    else:
        day_budget[SPENT_WARMING] += 1.0
    state.held[HELD_BACK_COUNT] = 0


@kernel
def decide(
    incident: F64,
    i: int,
    positions: EventPositions,
    p: float,
    event_count: float,
    warm: bool,
    counted_before: bool,
    limits: PolicyLimits,
    state: PolicyState,
    out: PolicyOutcome,
) -> int:
    """Decide on event i; returns its activity. incident: float64[INCIDENT_WORDS], its entity's.
    event_count: the number of events that it represents. warm: enough was learned before it.
    counted_before: the event was counted before, and is not counted again if it is held back."""
    day_budget = state.day_budget
    time_ms = positions.time_ms[i]
    out.threshold[i] = min(
        limits.p_max, _budget_threshold(day_budget, positions.stream_ms[i], limits, event_count)
    )
    activity = NO_ALERT
    if p <= out.threshold[i]:
        score = -log10(max(p, P_MIN))
        activity = _activity_within_budget(incident, score, time_ms, limits)
        if (
            activity != SUPPRESSED
            and day_budget[SPENT if warm else SPENT_WARMING] >= day_budget[ALERTS_ALLOWED]
        ):
            activity = HELD_BACK if activity == OPENED else SUPPRESSED
            if not counted_before:
                state.held[HELD_BACK_COUNT] += 1
                state.held[DISPLACED] += 1 if score > day_budget[WEAKEST] else 0
        if activity == OPENED:
            incident[:] = 0.0
            incident[FIRST_MS] = time_ms
            incident[SOURCE] = positions.source[i]
            incident[OFFSET] = positions.offset[i]
            incident[NEXT_DOUBLING] = DOUBLING_FIRST
        if activity == SUPPRESSED:
            incident[SUPPRESSED_COUNT] += 1.0
        if activity != HELD_BACK:
            incident[LAST_MS] = max(incident[LAST_MS], time_ms)
        if activity in (OPENED, UPDATED):
            out.held_back[i] = state.held[HELD_BACK_COUNT]
            _spend(state, score, warm)
            incident[REVISION] += 1.0
            incident[PEAK] = max(incident[PEAK], score)
            while incident[SUPPRESSED_COUNT] + 1.0 >= incident[NEXT_DOUBLING]:
                incident[NEXT_DOUBLING] *= 2.0
            for k in range(INCIDENT_WORDS):
                out.incident[i, k] = incident[k]
    out.activity[i] = activity
    if not (counted_before and activity == HELD_BACK):
        state.activities[activity] += 1
    out.budget_used[i] = day_budget[SPENT] / max(day_budget[ALERTS_ALLOWED], 1.0)
    return activity


@kernel
def _process(
    words: F64,
    incident_first_word: int,
    admitted: AdmittedEvents,
    positions: EventPositions,
    p: F64,
    warm: Bools,
    limits: PolicyLimits,
    state: PolicyState,
    out: PolicyOutcome,
) -> None:
    for i in range(len(p)):
        incident = words[
            admitted.row[i], incident_first_word : incident_first_word + INCIDENT_WORDS
        ]
        if admitted.fresh[i]:
            incident[:] = 0.0
        decide(incident, i, positions, p[i], 1.0, warm[i], False, limits, state, out)
