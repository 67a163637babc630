"""Policy: which p-values become alerts, and which alerts belong together as an incident.

An event alerts when p ≤ min(p_max, what the budget allows). The budget is a cap, never a target:
with r events a day, r · p of them fall below p by chance, so the threshold is budget/r; and at
most the shard's share of the budget is published in a UTC day of stream time, even when everything
alerts. With B alerts a day over n shards, shard s may publish on day d

    ⌊(⌊(d+1) B⌋ + s)/n⌋ - ⌊(⌊d B⌋ + s)/n⌋

alerts, days counted from 1970: B/n a day on average, rounded up or down on each. Over all shards
these add up to ⌊(d+1) B⌋ - ⌊d B⌋ (Hermite's identity): B each day, a B that is no whole number
rounded up or down. An unused allowance does not carry over to the next day. Alerts raised before
warm-up do not use it; they have an allowance of their own, as large.

An entity's alerts belong to one incident until it was quiet for `incident_gap`. Within it only an
escalation (score up by `ESCALATION`) or a doubling of the suppressed count is published, as an
update; the rest is counted. Says nothing about wording: that is `detectors.scoring.explain`.
"""

from math import exp, floor, inf, log10
from typing import Final, NamedTuple

import numpy as np

from detectors.entities import AdmittedEvents
from detectors.numeric.combination import P_MIN
from detectors.numeric.decay import DAY_MS, LN2
from detectors.numeric.kernels import kernel
from detectors.spec import PolicySpec, seconds
from detectors.state import Arrays, load, state_arrays
from schemas.columns import F64, I32, I64, U8, Bools, EventBatch

QUIET, OPENED, UPDATED, SUPPRESSED, OVER_BUDGET = range(5)
"""What became of an event: no alert, a new incident, an update, only counted, or held back."""

ESCALATION: Final = 2.0
DOUBLING_FIRST: Final = 8.0
"""Suppressed alerts at which the first update for their number is due."""
RATE_SPAN_MIN_MS: Final = 3_600_000.0

FIRST_MS, LAST_MS, SUPPRESSED_COUNT, NEXT_DOUBLING, REVISION, PEAK, SOURCE, OFFSET = range(8)
INCIDENT_WORDS: Final = 8
"""Words of an incident in an entity's row; REVISION 0: none was opened yet."""

STREAM_MS, RATE, RATE_SINCE_MS, DAY, ALLOWED, SPENT, SPENT_WARMING, WEAKEST = range(8)
HELD_BACK, DISPLACED = range(2)


class PolicyOutcome(NamedTuple):
    """activity: uint8[n]. threshold: float64[n]. budget_used: float64[n], of the day's. held_back:
    int64[n], where it was opened or updated: alerts held back since the last published one.
    incident: float64[n, INCIDENT_WORDS], the entity's incident after the event, likewise."""

    activity: U8
    threshold: F64
    budget_used: F64
    held_back: I64
    incident: F64


class PolicyState(NamedTuple):
    """now: float64, stream time, the decayed count of events and since when; its UTC day, how many
    alerts that day allows, how many it had after and before warm-up; and the least score published
    after warm-up since a day last allowed any. activities: int64[5], events by what became of them,
    one that became several in each. held: int64[2], alerts held back since the last published one,
    and of all alerts ever held back those that were stronger than a published one."""

    now: F64
    activities: I64
    held: I64


class PolicyLimits(NamedTuple):
    """p_max; alerts_per_day: over all shards; incident_gap_ms; shards, and this one's number."""

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
    """The stream's rate, the budget and the counts of what became of the alerts."""

    def __init__(self, limits: PolicyLimits) -> None:
        self.limits = limits
        self.stream = PolicyState(
            now=np.array([-1.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, inf]),
            activities=np.zeros(5, np.int64),
            held=np.zeros(2, np.int64),
        )

    def process(
        self, words: F64, at: int, events: AdmittedEvents, batch: EventBatch, p: F64, warm: Bools
    ) -> PolicyOutcome:
        """Decide on each event in order. batch: the same events, for their position; p: float64[n];
        warm: bool[n], enough was learned before. The entity's own words start at `at`."""
        out = no_outcome(len(p))
        positions = EventPositions(events.bounded_ms, events.stream_ms, batch.source, batch.offset)
        _process(words, at, events, positions, p, warm, self.limits, self.stream, out)
        return out

    def counts(self) -> dict[str, int]:
        """Alerts by what became of them."""
        activities = self.stream.activities
        return {
            "alerts_opened": int(activities[OPENED]),
            "alerts_updated": int(activities[UPDATED]),
            "alerts_suppressed": int(activities[SUPPRESSED]),
            "alerts_over_budget": int(activities[OVER_BUDGET]),
            "budget_displaced": int(self.stream.held[DISPLACED]),
        }

    def save(self) -> Arrays:
        """The stream's rate, the budget and the counts."""
        return state_arrays(self.stream)

    def load(self, state: Arrays) -> None:
        """Replace them by saved ones."""
        load(self.stream, state)


def no_outcome(n: int) -> PolicyOutcome:
    """The decisions on n events before any is made: all quiet."""
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
def _begin_day(now: F64, limits: PolicyLimits) -> None:
    """Begin the allowance of stream time's day, where that day has changed."""
    day = floor(now[STREAM_MS] / DAY_MS)
    if day != now[DAY]:
        now[DAY] = day
        now[ALLOWED] = allowance(day, limits.alerts_per_day, limits.shards, limits.shard)
        now[SPENT] = now[SPENT_WARMING] = 0.0
        if now[ALLOWED] > 0.0:
            now[WEAKEST] = inf


@kernel
def _allowed(now: F64, time_ms: float, limits: PolicyLimits, weight: float) -> float:
    """The p-value at which honest traffic alone would just use the budget. time_ms: stream time,
    which may have been set back once."""
    if now[STREAM_MS] < 0.0:
        now[STREAM_MS] = now[RATE_SINCE_MS] = time_ms
    now[RATE_SINCE_MS] = min(now[RATE_SINCE_MS], time_ms)
    now[STREAM_MS] = min(now[STREAM_MS], time_ms)
    if time_ms > now[STREAM_MS]:
        since_ms = time_ms - now[STREAM_MS]
        now[RATE] *= exp(-LN2 * since_ms / DAY_MS)
        now[STREAM_MS] = time_ms
    _begin_day(now, limits)
    now[RATE] += weight
    span_ms = max(now[STREAM_MS] - now[RATE_SINCE_MS], RATE_SPAN_MIN_MS)
    # At a steady r events a day the count, halved each day, has come to r (1 - 2^-days) / ln 2.
    per_day = now[RATE] * LN2 / (1.0 - exp(-LN2 * span_ms / DAY_MS))
    return float(limits.alerts_per_day / limits.shards / max(per_day, 1.0))


@kernel
def _due(incident: F64, score: float, time_ms: float, limits: PolicyLimits) -> int:
    """The activity of an event beyond the threshold, given its entity's incident, while the budget
    is not used up."""
    quiet = time_ms - incident[LAST_MS] > limits.incident_gap_ms
    if incident[REVISION] == 0.0 or quiet:
        return OPENED
    doubled = incident[SUPPRESSED_COUNT] + 1.0 >= incident[NEXT_DOUBLING]
    return UPDATED if doubled or score >= incident[PEAK] + ESCALATION else SUPPRESSED


@kernel
def _spend(stream: PolicyState, score: float, warm: bool) -> None:
    """Take a published alert from the day's allowance."""
    now = stream.now
    if warm:
        now[SPENT] += 1.0
        now[WEAKEST] = min(now[WEAKEST], score)
    else:
        now[SPENT_WARMING] += 1.0
    stream.held[HELD_BACK] = 0


@kernel
def decide(
    incident: F64,
    i: int,
    positions: EventPositions,
    p: float,
    weight: float,
    warm: bool,
    again: bool,
    limits: PolicyLimits,
    stream: PolicyState,
    out: PolicyOutcome,
) -> int:
    """What becomes of event i, into `out`. mine: float64[INCIDENT_WORDS], its entity's incident. weight: how
    many events it represents. warm: enough was learned before it. again: it was held back before,
    and is not counted twice if it still is."""
    now = stream.now
    time_ms = positions.time_ms[i]
    out.threshold[i] = min(limits.p_max, _allowed(now, positions.stream_ms[i], limits, weight))
    what = QUIET
    if p <= out.threshold[i]:
        score = -log10(max(p, P_MIN))
        what = _due(incident, score, time_ms, limits)
        if what != SUPPRESSED and now[SPENT if warm else SPENT_WARMING] >= now[ALLOWED]:
            what = OVER_BUDGET if what == OPENED else SUPPRESSED
            if not again:
                stream.held[HELD_BACK] += 1
                stream.held[DISPLACED] += 1 if score > now[WEAKEST] else 0
        if what == OPENED:
            incident[:] = 0.0
            incident[FIRST_MS] = time_ms
            incident[SOURCE] = positions.source[i]
            incident[OFFSET] = positions.offset[i]
            incident[NEXT_DOUBLING] = DOUBLING_FIRST
        if what == SUPPRESSED:
            incident[SUPPRESSED_COUNT] += 1.0
        if what != OVER_BUDGET:
            incident[LAST_MS] = max(incident[LAST_MS], time_ms)
        if what in (OPENED, UPDATED):
            out.held_back[i] = stream.held[HELD_BACK]
            _spend(stream, score, warm)
            incident[REVISION] += 1.0
            incident[PEAK] = max(incident[PEAK], score)
            while incident[SUPPRESSED_COUNT] + 1.0 >= incident[NEXT_DOUBLING]:
                incident[NEXT_DOUBLING] *= 2.0
            for k in range(INCIDENT_WORDS):
                out.incident[i, k] = incident[k]
    out.activity[i] = what
    if not (again and what == OVER_BUDGET):
        stream.activities[what] += 1
    out.budget_used[i] = now[SPENT] / max(now[ALLOWED], 1.0)
    return what


@kernel
def _process(
    words: F64,
    at: int,
    events: AdmittedEvents,
    positions: EventPositions,
    p: F64,
    warm: Bools,
    limits: PolicyLimits,
    stream: PolicyState,
    out: PolicyOutcome,
) -> None:
    for i in range(len(p)):
        incident = words[events.row[i], at : at + INCIDENT_WORDS]
        if events.fresh[i]:
            incident[:] = 0.0
        decide(incident, i, positions, p[i], 1.0, warm[i], False, limits, stream, out)
