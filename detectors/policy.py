"""Policy: which p-values become alerts, and which alerts belong together as an incident.

An event alerts when p ≤ min(p_max, what the budget allows). The budget is a cap, never a target:
with r events a day, r · p of them fall below p by chance, so the threshold is budget/r; and a
token bucket that holds one day's budget bounds what is published even when everything alerts.

An entity's alerts belong to one incident until it was quiet for `incident_gap`. Within it only an
escalation (score up by `ESCALATION`) or a doubling of the suppressed count is published, as an
update; the rest is counted. Says nothing about wording: that is `detectors.explain`.
"""

from math import exp, log10
from typing import Final, NamedTuple

import numpy as np

from detectors.combination import P_MIN
from detectors.decay import DAY_MS, LN2
from detectors.entities import Admitted
from detectors.kernels import kernel
from detectors.state import Arrays, load, saved
from schemas.columns import F64, I32, I64, U8, EventBatch

QUIET, OPENED, UPDATED, COUNTED, OVER_BUDGET = range(5)
"""What became of an event: no alert, a new incident, an update, only counted, or held back."""

ESCALATION: Final = 2.0
DOUBLING_FIRST: Final = 8.0
"""Suppressed alerts at which the first update for their number is due."""
RATE_SPAN_MIN_MS: Final = 3_600_000.0

FIRST_MS, LAST_MS, SUPPRESSED, NEXT_DOUBLING, REVISION, PEAK, SOURCE, OFFSET = range(8)
WORDS: Final = 8
"""Words of an incident in an entity's row; REVISION 0: none was opened yet."""

STREAM_MS, RATE, RATE_SINCE_MS, TOKENS = range(4)


class Decided(NamedTuple):
    """activity: uint8[n]. threshold: float64[n]. budget_used: float64[n], of one day's. incident:
    float64[n, WORDS], the entity's incident after the event, where it was opened or updated."""

    activity: U8
    threshold: F64
    budget_used: F64
    incident: F64


class Stream(NamedTuple):
    """now: float64, stream time, the decayed count of events and since when, tokens left.
    activities: int64[5], events by what became of them, one that became several in each."""

    now: F64
    activities: I64


class Limits(NamedTuple):
    """p_max; budget: alerts a day in this shard; incident_gap_ms."""

    p_max: float
    budget: float
    incident_gap_ms: float


class Policy:
    """The stream's rate, the budget and the counts of what became of the alerts."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.stream = Stream(
            now=np.array([-1.0, 0.0, 0.0, max(limits.budget, 1.0)]),
            activities=np.zeros(5, np.int64),
        )

    def process(self, words: F64, at: int, events: Admitted, batch: EventBatch, p: F64) -> Decided:
        """Decide on each event in order. batch: the same events, for their own time and position;
        p: float64[n]. The entity's own words start at `at`."""
        n = len(p)
        out = Decided(np.zeros(n, np.uint8), np.empty(n), np.empty(n), np.zeros((n, WORDS)))
        positions = Positions(batch.time_ms, batch.source, batch.offset)
        _process(words, at, events, positions, p, self.limits, self.stream, out)
        return out

    def counts(self) -> dict[str, int]:
        """Alerts by what became of them."""
        activities = self.stream.activities
        return {
            "alerts_opened": int(activities[OPENED]),
            "alerts_updated": int(activities[UPDATED]),
            "alerts_suppressed": int(activities[COUNTED]),
            "alerts_over_budget": int(activities[OVER_BUDGET]),
        }

    def save(self) -> Arrays:
        """The stream's rate, the budget and the counts."""
        return saved(self.stream)

    def load(self, state: Arrays) -> None:
        """Replace them by saved ones."""
        load(self.stream, state)


class Positions(NamedTuple):
    """Each event's own time and where it stands in its log."""

    time_ms: I64
    source: I32
    offset: I64


@kernel
def _allowed(now: F64, time_ms: float, budget: float, weight: float) -> float:
    """The p-value at which honest traffic alone would just use the budget; moves stream time."""
    if now[STREAM_MS] < 0.0:
        now[STREAM_MS] = now[RATE_SINCE_MS] = time_ms
    if time_ms > now[STREAM_MS]:
        since_ms = time_ms - now[STREAM_MS]
        now[RATE] *= exp(-LN2 * since_ms / DAY_MS)
        now[TOKENS] = min(now[TOKENS] + budget * since_ms / DAY_MS, max(budget, 1.0))
        now[STREAM_MS] = time_ms
    now[RATE] += weight
    span_ms = max(now[STREAM_MS] - now[RATE_SINCE_MS], RATE_SPAN_MIN_MS)
    # At a steady r events a day the count, halved each day, has come to r (1 - 2^-days) / ln 2.
    per_day = now[RATE] * LN2 / (1.0 - exp(-LN2 * span_ms / DAY_MS))
    return float(budget / max(per_day, 1.0))


@kernel
def _judge(mine: F64, score: float, time_ms: float, limits: Limits, tokens: float) -> int:
    """What becomes of an event beyond the threshold, given its entity's incident."""
    quiet = time_ms - mine[LAST_MS] > limits.incident_gap_ms
    if mine[REVISION] == 0.0 or quiet:
        return OPENED if tokens >= 1.0 else OVER_BUDGET
    doubled = mine[SUPPRESSED] + 1.0 >= mine[NEXT_DOUBLING]
    if (doubled or score >= mine[PEAK] + ESCALATION) and tokens >= 1.0:
        return UPDATED
    return COUNTED


@kernel
def decide(
    mine: F64,
    i: int,
    positions: Positions,
    p: float,
    weight: float,
    limits: Limits,
    stream: Stream,
    out: Decided,
) -> int:
    """What becomes of event i, into `out`. mine: float64[WORDS], its entity's incident. weight: how
    many events it stands for."""
    now = stream.now
    time_ms = float(positions.time_ms[i])
    out.threshold[i] = min(limits.p_max, _allowed(now, time_ms, limits.budget, weight))
    what = QUIET
    if p <= out.threshold[i]:
        score = -log10(max(p, P_MIN))
        what = _judge(mine, score, time_ms, limits, now[TOKENS])
        if what == OPENED:
            mine[:] = 0.0
            mine[FIRST_MS] = time_ms
            mine[SOURCE] = positions.source[i]
            mine[OFFSET] = positions.offset[i]
            mine[NEXT_DOUBLING] = DOUBLING_FIRST
        if what == COUNTED:
            mine[SUPPRESSED] += 1.0
        if what != OVER_BUDGET:
            mine[LAST_MS] = max(mine[LAST_MS], time_ms)
        if what in (OPENED, UPDATED):
            now[TOKENS] -= 1.0
            mine[REVISION] += 1.0
            mine[PEAK] = max(mine[PEAK], score)
            while mine[SUPPRESSED] + 1.0 >= mine[NEXT_DOUBLING]:
                mine[NEXT_DOUBLING] *= 2.0
            for k in range(WORDS):
                out.incident[i, k] = mine[k]
    out.activity[i] = what
    stream.activities[what] += 1
    out.budget_used[i] = 1.0 - now[TOKENS] / max(limits.budget, 1.0)
    return what


@kernel
def _process(
    words: F64,
    at: int,
    events: Admitted,
    positions: Positions,
    p: F64,
    limits: Limits,
    stream: Stream,
    out: Decided,
) -> None:
    for i in range(len(p)):
        mine = words[events.row[i], at : at + WORDS]
        if events.fresh[i]:
            mine[:] = 0.0
        decide(mine, i, positions, p[i], 1.0, limits, stream, out)
