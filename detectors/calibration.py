"""Calibration: raw surprise in, honest p-value out, for every detector and for their combination.

Each detector keeps a decayed histogram of its surprise v = -ln(raw p) for all its entities (the
parent) and for each maturity of an entity (the cells: its first 5, 20, 100 events, and after).
The p-value is the share of surprises at least as large:

    cell:   S(v) = (N_cell S_cell(v) + BORROW · S_parent(v)) / (N_cell + BORROW)
    parent: S(v) = (N S_seen(v) + BORROW_PRIOR · exp(-v)) / (N + BORROW_PRIOR)

so that a thin cell borrows from its parent, and a thin parent believes the raw p. Beyond the
`TAIL_EVENTS` largest surprises the tail is exponential in v with their mean excess (generalised
Pareto of shape 0; a power law in p). Within a bin ln S is interpolated, but for discrete detectors
the bin's lower edge stands: their p is never too small for lying in a crowd.

The histogram describes honest traffic: to put an event of p < `TAIL_P` into it costs an entity
TAIL_P/p tokens (at most `COST_MAX`), of which it gets `TOKENS_PER_HOUR` and `TOKENS_PER_EVENT`,
what an honest one needs on average; an event it cannot pay for is judged, not learned. So one
attacker cannot make its own extremes ordinary, unless it is a sixth of all traffic. Tables are refreshed by a count in the state; `MEMORY` events are remembered.
"""

from math import exp, isnan, log
from typing import Final, NamedTuple

import numpy as np

from detectors.combination import P_MIN, harmonic_mean
from detectors.entities import Admitted
from detectors.kernels import kernel
from detectors.models.half_space_trees import COUNTERFACTUAL_MAX
from detectors.state import Arrays, load, saved
from schemas.columns import F64, I64, Bools

BINS: Final = 300
BIN_WIDTH: Final = 0.1
MATURITIES: Final = (5, 20, 100)
CELLS: Final = len(MATURITIES) + 1
PARENT: Final = CELLS
BORROW: Final = 500.0
BORROW_PRIOR: Final = 200.0
TAIL_EVENTS: Final = 50.0
MEMORY: Final = 200_000.0
REFRESH_MIN: Final = 500
TAIL_P: Final = 0.01
COST_MAX: Final = 100.0
TOKENS_PER_HOUR: Final = 3.0
TOKENS_PER_EVENT: Final = 0.06
"""∫ min(TAIL_P/p, COST_MAX) dp over p < TAIL_P is TAIL_P (1 + ln COST_MAX) = 0.056."""
TOKENS_MAX: Final = 200.0
HOUR_MS: Final = 3_600_000.0

LEARNED, REFRESH_AT = range(2)
WORDS: Final = 2
"""Words in an entity's row: its tokens, and when they were counted."""


class Calibrated(NamedTuple):
    """p: float64[detectors, n], NaN where silent. combined: float64[n], NaN where all are silent.
    without: float64[3, n], combined with the first one, two, three features of the trees' `order`
    (else of the smallest p) at expected, NaN where not worked out. order: int64[3, n], those
    features, -1 none. learned: int64[n], events the calibration held before this one."""

    p: F64
    combined: F64
    without: F64
    order: I64
    learned: I64


class Tables(NamedTuple):
    """seen: float64[detectors, cells + 1, bins], the decayed histograms, the parent's last.
    log_share: float64[detectors, cells + 1, bins + 1], ln S at the bins' edges. marks: counts."""

    seen: F64
    log_share: F64
    marks: I64


class Surprise(NamedTuple):
    """raw: float64[detectors, n], NaN where silent; row `tree` is the trees', or tree is -1.
    order, without: the trees' (see `half_space_trees.Isolated`)."""

    raw: F64
    tree: int
    order: I64
    without: F64


class Calibration:
    """The histograms and tables of a monitor: its detectors, and last their combination."""

    def __init__(self, discrete: list[bool]) -> None:
        self.discrete = np.array([*discrete, False])
        detectors = len(self.discrete)
        self.tables = Tables(
            seen=np.zeros((detectors, CELLS + 1, BINS)),
            log_share=np.tile(-BIN_WIDTH * np.arange(BINS + 1.0), (detectors, CELLS + 1, 1)),
            marks=np.array([0, REFRESH_MIN], np.int64),
        )

    def process(self, words: F64, at: int, events: Admitted, surprise: Surprise) -> Calibrated:
        """Judge, then learn, each event in order; the entity's own words start at `at`."""
        detectors, n = surprise.raw.shape
        out = Calibrated(
            p=np.full((detectors, n), np.nan),
            combined=np.full(n, np.nan),
            without=np.full((COUNTERFACTUAL_MAX, n), np.nan),
            order=np.full((COUNTERFACTUAL_MAX, n), -1, np.int64),
            learned=np.zeros(n, np.int64),
        )
        _process(words, at, events, surprise, self.discrete, self.tables, out)
        return out

    def save(self) -> Arrays:
        """Histograms, tables and marks."""
        return saved(self.tables)

    def load(self, state: Arrays) -> None:
        """Replace them by saved ones of the same detectors."""
        load(self.tables, state)


@kernel
def _look_up(table: F64, v: float, discrete: bool) -> float:
    """p of surprise v by a table of ln S at the bins' lower edges (and the last upper one)."""
    place = min(max(v, 0.0) / BIN_WIDTH, 1e6)
    b = min(int(place), BINS - 1)
    if discrete:
        return exp(table[b])
    log_p = table[b] + (place - b) * (table[b + 1] - table[b])
    return max(exp(log_p), P_MIN)


@kernel
def _refresh(seen: F64, below: F64, borrow: float, table: F64) -> None:
    """ln S at the edges of one histogram that borrows from the table `below`."""
    total = seen.sum()
    above = 0.0
    mass_beyond = 0.0  # Σ (v - upper edge of the last bin), moved along with the edge
    edge = BINS
    while edge > 0 and above + seen[edge - 1] < TAIL_EVENTS:
        edge -= 1
        mass_beyond += above * BIN_WIDTH + seen[edge] * 0.5 * BIN_WIDTH
        above += seen[edge]
    excess = (mass_beyond + BIN_WIDTH) / (above + 1.0)  # one event's worth of a steep prior
    if above < 5.0:
        excess = 1.0
    excess = min(max(excess, 0.1), 3.0)
    share_at_edge = max(above, 0.5)
    tail = 0.0
    for b in range(BINS, -1, -1):
        if b >= edge:
            tail = share_at_edge * exp(-(b - edge) * BIN_WIDTH / excess)
        else:
            if b == edge - 1:
                tail = above
            tail += seen[b]
        table[b] = log((tail + borrow * exp(below[b])) / (total + borrow))
    for b in range(BINS):
        table[b + 1] = min(table[b + 1], table[b])


@kernel
def _refresh_all(tables: Tables) -> None:
    """Every table anew from its histogram, parents first; then the histograms decay."""
    prior = -BIN_WIDTH * np.arange(BINS + 1.0)
    step = max(REFRESH_MIN, min(tables.marks[LEARNED], int(MEMORY)) // 50)
    tables.marks[REFRESH_AT] = tables.marks[LEARNED] + step
    for d in range(tables.seen.shape[0]):
        parent = tables.log_share[d, PARENT]
        _refresh(tables.seen[d, PARENT], prior, BORROW_PRIOR, parent)
        for cell in range(CELLS):
            _refresh(tables.seen[d, cell], parent, BORROW, tables.log_share[d, cell])
    tables.seen[:] *= exp(-step / MEMORY)


@kernel
def _may_learn(words: F64, at: int, r: int, time_ms: float, p: float) -> bool:
    """Whether the entity can pay for having this event in the histogram; it pays if it can."""
    tokens = words[r, at] + TOKENS_PER_EVENT
    tokens += TOKENS_PER_HOUR * (time_ms - words[r, at + 1]) / HOUR_MS
    cost = min(TAIL_P / p, COST_MAX) if p < TAIL_P else 0.0
    pays = bool(tokens >= cost)
    words[r, at] = min(tokens - cost if pays else tokens, TOKENS_MAX)
    words[r, at + 1] = time_ms
    return pays


@kernel
def _learn(tables: Tables, cell: int, surprise: F64, i: int, combined_surprise: float) -> None:
    """Count the event in every detector's histograms and in the combination's."""
    detectors = surprise.shape[0]
    for d in range(detectors + 1):
        v = combined_surprise if d == detectors else surprise[d, i]
        if not isnan(v):
            b = min(int(max(v, 0.0) / BIN_WIDTH), BINS - 1)
            tables.seen[d, cell, b] += 1.0
            tables.seen[d, PARENT, b] += 1.0
    tables.marks[LEARNED] += 1
    if tables.marks[LEARNED] >= tables.marks[REFRESH_AT]:
        _refresh_all(tables)


@kernel
def _without(
    i: int, cell: int, own: F64, surprise: Surprise, tables: Tables, out: Calibrated
) -> None:
    """Combined p with the most surprising one, two, three features at expected (p = 1)."""
    detectors = len(own)
    tree = surprise.tree
    for k in range(COUNTERFACTUAL_MAX):
        j = surprise.order[k, i]
        if surprise.order[0, i] < 0:  # the trees did not say: the smallest p-values in turn
            for d in range(detectors):
                if d != tree and own[d] < 1.0 and (j < 0 or own[d] < own[j]):
                    j = d
        if j < 0:
            return
        out.order[k, i] = j
        if not isnan(own[j]):
            own[j] = 1.0
        if tree >= 0 and not isnan(surprise.without[k, i]):
            own[tree] = _look_up(tables.log_share[tree, cell], surprise.without[k, i], False)
        v = -log(min(harmonic_mean(own), 1.0))
        out.without[k, i] = _look_up(tables.log_share[detectors, cell], v, False)


@kernel
def _process(
    words: F64,
    at: int,
    events: Admitted,
    surprise: Surprise,
    discrete: Bools,
    tables: Tables,
    out: Calibrated,
) -> None:
    detectors = surprise.raw.shape[0]
    own = np.empty(detectors)
    for i in range(len(events.row)):
        r = events.row[i]
        if events.fresh[i]:
            words[r, at] = COST_MAX
            words[r, at + 1] = events.time_ms[i]
        out.learned[i] = tables.marks[LEARNED]
        cell = 0
        while cell < CELLS - 1 and events.seen[i] >= MATURITIES[cell]:
            cell += 1
        for d in range(detectors):
            v = surprise.raw[d, i]
            own[d] = np.nan if isnan(v) else _look_up(tables.log_share[d, cell], v, discrete[d])
            out.p[d, i] = own[d]
        raw = harmonic_mean(own)
        if isnan(raw):
            continue
        v_all = -log(min(raw, 1.0))
        out.combined[i] = _look_up(tables.log_share[detectors, cell], v_all, False)
        if out.combined[i] < TAIL_P:
            _without(i, cell, own, surprise, tables, out)
        if events.learn[i] and _may_learn(words, at, r, events.time_ms[i], out.combined[i]):
            _learn(tables, cell, surprise.raw, i, v_all)
