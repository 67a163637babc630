"""Assessment: what all reports on one event say together about its subject, and when that alarms.

Without labels the p-values p of an event's reports are combined by their harmonic mean (D. J.
Wilson, "The harmonic mean p-value for combining dependent tests", PNAS 2019, eq. 1), which holds
under any dependence; a monitor that did not report is censored, known only to lie above the limit:

    p = K/(Σ 1/p_k + (K - r) C),   C = E[1/p | p > L] = ln(1/L)/(1 - L),   L = `REPORT_P`

with K monitors, of which r reported. Each report revises its event's p at once; nothing waits. An
event alarms once, and again when its score has grown by `policy.ESCALATION`.

The policy is the monitors' (`detectors.policy`), on subjects instead of entities. It needs the rate
of all events, of which only few are reported: every event that `sampled` picks is reported by every
monitor that judges it, and counts `SAMPLE` times when it is first seen.

Memory: the last reported events, in sets of `WAYS` of which the oldest gives way: 24 bytes an event
and 8 for each monitor. A report on an event that gave way starts it anew.
"""

from math import log, log10
from typing import Final, NamedTuple

import numpy as np

from detectors.combination import P_MIN
from detectors.entities import Admitted, EntityTable
from detectors.hashing import HashKey, hash_text
from detectors.kernels import kernel
from detectors.policy import (
    ESCALATION,
    OVER_BUDGET,
    QUIET,
    WORDS,
    Decided,
    Limits,
    Policy,
    Positions,
    Stream,
    decide,
)
from detectors.spec import PolicySpec, seconds
from detectors.state import Arrays, clear, load, prefixed, saved, under
from schemas.columns import F64, I64, U64, Bools, EventBatch

REPORT_P: Final = 1e-2
"""An event with a smaller p-value is reported."""
SAMPLE: Final = 1000
"""One event in so many is reported whatever its p-value."""
CENSORED: Final = log(1.0 / REPORT_P) / (1.0 - REPORT_P)
WAYS: Final = 8

NO_LATENESS_MS: Final = 1e18
FIRST, SAMPLED = range(2)


def sampled(events: EventBatch, key: HashKey) -> Bools:
    """bool[n]: the events that are always reported, by the keyed hash of their ids."""
    chosen: Bools = hash_text(events.event_id, key)[:, 1] % np.uint64(SAMPLE) == 0
    return chosen


class Known(NamedTuple):
    """The last reported events, in sets of `WAYS`. place: int64[events, 2], source and offset, the
    source -1 where free. p: float64[events, monitors], NaN where not reported. peak: float64, the
    score at which the event last alarmed, -1 where it has not. next_way: int64[sets], the way that
    gives way next. totals: int64[2], events first seen, and of those sampled."""

    place: I64
    p: F64
    peak: F64
    next_way: I64
    totals: I64


class Assessed(NamedTuple):
    """What became of each report. p: float64[n], of its event, all reports so far. by_monitor:
    float64[n, monitors], these reports' own. warm: bool[n], enough events were seen before."""

    keys: U64
    p: F64
    by_monitor: F64
    decided: Decided
    warm: Bools


class Assessment:
    """The subjects' incidents and the events of late, of one shard."""

    def __init__(
        self,
        policy: PolicySpec,
        key: HashKey,
        monitors: int,
        capacity: int,
        events_max: int,
        shards: int,
    ) -> None:
        self.key = key
        self.warm_up_events = policy.warm_up_events
        self.subjects = EntityTable(capacity)
        self.words: F64 = np.zeros((capacity, WORDS))
        gap_ms = 1000.0 * seconds(policy.incident_gap)
        self.policy = Policy(Limits(policy.p_max, policy.alerts_per_day / shards, gap_ms))
        sets = max(1, events_max // WAYS)
        self.known = Known(
            place=np.full((sets * WAYS, 2), -1, np.int64),
            p=np.full((sets * WAYS, monitors), np.nan),
            peak=np.full(sets * WAYS, -1.0),
            next_way=np.zeros(sets, np.int64),
            totals=np.zeros(2, np.int64),
        )

    def process(self, reports: EventBatch, subject: str, monitor: I64, p_value: F64) -> Assessed:
        """Take n reports in order. reports: the events, with their subject; monitor: int64[n], who
        reported; p_value: float64[n]."""
        n = len(reports)
        keys = hash_text(reports.text[subject], self.key)
        admitted = self.subjects.admit(keys, reports.time_ms, NO_LATENESS_MS)
        chosen = sampled(reports, self.key)
        positions = Positions(reports.time_ms, reports.source, reports.offset)
        p = np.ones(n)
        by_monitor = np.full((n, self.known.p.shape[1]), np.nan)
        warm = np.zeros(n, np.bool_)
        decided = Decided(np.zeros(n, np.uint8), np.ones(n), np.zeros(n), np.zeros((n, WORDS)))
        _assess(
            self.words,
            self.known,
            admitted,
            positions,
            monitor,
            p_value,
            chosen,
            self.policy.limits,
            self.policy.stream,
            self.warm_up_events,
            p,
            by_monitor,
            warm,
            decided,
        )
        return Assessed(keys, p, by_monitor, decided, warm)

    def save(self) -> Arrays:
        """The whole state as arrays by name."""
        rows = self.subjects.rows_used
        parts = {
            "subjects": self.subjects.save(),
            "policy": self.policy.save(),
            "known": saved(self.known),
        }
        return {"words": self.words[:rows], **prefixed(parts)}

    def load(self, state: Arrays) -> None:
        """Replace the whole state by one saved under the same configuration."""
        self.words[: len(state["words"])] = state["words"]
        clear(self.words[len(state["words"]) :])
        self.subjects.load(under("subjects", state))
        self.policy.load(under("policy", state))
        load(self.known, under("known", state))


@kernel
def combined(p: F64) -> float:
    """One event's p-value from its reports'. p: float64[monitors], NaN where not reported."""
    inverse = 0.0
    for k in range(len(p)):
        inverse += CENSORED if np.isnan(p[k]) else 1.0 / max(p[k], P_MIN)
    return float(min(1.0, len(p) / inverse))


@kernel
def _slot(known: Known, source: int, offset: int) -> int:
    """Where the event is remembered; a place is made for one that is not."""
    mixed = np.uint64(offset) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(source)
    mixed ^= mixed >> np.uint64(29)
    at = np.int64(mixed % np.uint64(len(known.next_way)))
    for way in range(WAYS):
        slot = at * WAYS + way
        if known.place[slot, 0] == source and known.place[slot, 1] == offset:
            return int(slot)
    slot = at * WAYS + known.next_way[at]
    known.next_way[at] = (known.next_way[at] + 1) % WAYS
    known.place[slot, 0] = source
    known.place[slot, 1] = offset
    known.p[slot] = np.nan
    known.peak[slot] = -1.0
    known.totals[FIRST] += 1
    return int(slot)


@kernel
def _assess(
    words: F64,
    known: Known,
    events: Admitted,
    positions: Positions,
    monitor: I64,
    p_value: F64,
    chosen: Bools,
    limits: Limits,
    stream: Stream,
    warm_up_events: int,
    p: F64,
    by_monitor: F64,
    warm: Bools,
    out: Decided,
) -> None:
    for i in range(len(p)):
        before = known.totals[FIRST]
        slot = _slot(known, positions.source[i], positions.offset[i])
        first = known.totals[FIRST] > before
        warm[i] = known.totals[SAMPLED] * SAMPLE >= warm_up_events
        if first and chosen[i]:
            known.totals[SAMPLED] += 1
        known.p[slot, monitor[i]] = p_value[i]
        p[i] = combined(known.p[slot])
        for k in range(known.p.shape[1]):
            by_monitor[i, k] = known.p[slot, k]
        mine = words[events.row[i]]
        if events.fresh[i]:
            mine[:] = 0.0
        score = -log10(p[i])
        if known.peak[slot] >= 0.0 and score < known.peak[slot] + ESCALATION:
            out.activity[i] = QUIET
            continue
        weight = float(SAMPLE) if first and chosen[i] else 0.0
        what = decide(mine, i, positions, p[i], weight, limits, stream, out)
        if what not in (QUIET, OVER_BUDGET):
            known.peak[slot] = score
