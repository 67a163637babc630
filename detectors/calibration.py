"""Calibration: raw surprise in, honest p-value out, for every detector and for their combination.

Each detector keeps a decayed histogram of its surprise v = -ln(raw p) for all its entities (the
parent) and for each maturity of an entity (the cells: up to so many events before, `MATURITIES`).
The p-value is the share of surprises at least as large:

    cell:   S(v) = (N_cell S_cell(v) + BORROW · S_parent(v)) / (N_cell + BORROW)
    parent: S(v) = (N S_seen(v) + BORROW_PRIOR · exp(-v/2)) / (N + BORROW_PRIOR)

so that a thin cell borrows from its parent, and a thin parent believes the raw p's square root: a
model that has seen little is not to be believed its smallest numbers. Beyond the
`TAIL_EVENTS` largest surprises the tail is a generalised Pareto in v, fitted by probability-weighted
moments (J. R. M. Hosking, J. R. Wallis, Technometrics 1987): of shape 0, a power law in p, where raw
p-values are honest already, and of up to `SHAPE_MAX` where values have a heavier tail than their
model. Within a bin S is a straight line, but for discrete detectors the bin's lower edge stands:
their p is never too small for lying in a crowd.

An entity that was strange lately is more likely to be so again, and for the same cause. To an
event's evidence e is added SUSPICION_WEIGHT · ln(1 + s) · e/(e + 1), s the entity's earlier evidence
beyond `SUSPICION_EDGE`, decayed over a week; to an event without evidence of its own next to nothing: measured on labelled payments it finds the later, smaller
frauds of a stolen card. Calibration comes behind it, so that p stays honest.

The histogram describes honest traffic: to put an event of p < `TAIL_P` into it costs an entity
(TAIL_P/p)^γ tokens (p counts as TAIL_P/`RARITY_MAX` at least), of which it gets `TOKENS_PER_HOUR`,
`TOKENS_PER_EVENT`, and at first what one of the rarest costs; an event it cannot pay for is judged,
not learned. γ falls from 1 to 1/2, slowly at first, until `SETTLED_EVENTS` are learned. Among few
events one attacker would make its own extremes ordinary; among many it cannot, unless it is a
thirtieth of all traffic, and if they stayed as dear, the bursts in which honest extremes come would
be refused, and half of the tail with them. Many fresh entities can put one extreme each. For the
same reason the tail's shape is believed by degrees.

Tables are refreshed by a count in the state; `MEMORY` events are remembered, or half of all where
there were fewer, since the first of them were judged by models that knew nothing.
"""

from math import exp, isnan, log1p
from typing import Final, NamedTuple

import numpy as np

from detectors.combination import P_MIN, evidence
from detectors.decay import LN2
from detectors.entities import Admitted
from detectors.kernels import kernel
from detectors.models.half_space_trees import COUNTERFACTUAL_MAX
from detectors.protection import WRONG_SHARE, earned, followed
from detectors.state import Arrays, load, saved
from schemas.columns import F64, I64, Bools

BINS_PER_UNIT: Final = 40.0
BINS: Final = 262
"""In ln(1 + v): 2.5 % of p wide where most events are, and as far as p = 1e-300."""
MATURITIES: Final = (1, 2, 3, 5, 10, 20, 50, 100)
CELLS: Final = len(MATURITIES) + 1
PARENT: Final = CELLS
BORROW: Final = 200.0
BORROW_PRIOR: Final = 50.0
TAIL_EVENTS: Final = 50.0
EXCESS_PRIOR: Final = 1.0
"""Mean excess of -ln p where p is honest already; one event strong."""
EXCESS_MIN: Final = 0.2
EXCESS_MAX_YOUNG: Final = 3.0
EXCESS_MAX: Final = 10.0
SHAPE_PRIOR: Final = 10.0
"""As many excesses speak for shape 0: few say little of their shape."""
SHAPE_MAX: Final = 0.5
MEMORY: Final = 200_000.0
REFRESH_MIN: Final = 500
SETTLED_EVENTS: Final = 20_000.0
TAIL_P: Final = 0.01
RARITY_MAX: Final = 100.0
TOKENS_PER_HOUR: Final = 3.0
TOKENS_PER_EVENT: Final = 0.03
"""More than an honest entity spends on average once γ is 1/2: TAIL_P (2 - 1/√RARITY_MAX) = 0.019."""
TOKENS_MAX: Final = 200.0
SUSPICION_HALF_LIFE_MS: Final = 7.0 * 86_400_000.0
SUSPICION_EDGE: Final = 2.0
SUSPICION_MAX: Final = 20.0
SUSPICION_WEIGHT: Final = 2.0

LEARNED, REFRESH_AT = range(2)
WORDS: Final = 4
"""Words in an entity's row: tokens and when they were counted, suspicion and when it held."""
TOKENS, TOKENS_MS, SUSPICION, SUSPICION_MS = range(4)


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
    share: float64[detectors, cells + 1, bins + 1], S at the bins' edges. marks: counts. rare: the share of late with p < `TAIL_P`."""

    seen: F64
    share: F64
    marks: I64
    rare: F64


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
            share=np.zeros((detectors, CELLS + 1, BINS + 1)),
            marks=np.array([0, REFRESH_MIN], np.int64),
            rare=np.zeros(1),
        )
        _refresh_all(self.tables)

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
def _place(v: float) -> float:
    """Where a surprise stands among the bins, in bins."""
    return float(min(BINS_PER_UNIT * log1p(max(v, 0.0)), BINS - 1e-9))


@kernel
def _surprise_at(place: float) -> float:
    """The inverse of `_place`."""
    return float(exp(place / BINS_PER_UNIT) - 1.0)


@kernel
def _look_up(share: F64, v: float, discrete: bool) -> float:
    """p of surprise v, by the table of S at the bins' edges."""
    place = _place(v)
    b = int(place)
    if discrete:
        return float(max(share[b], P_MIN))
    return float(max(share[b] + (place - b) * (share[b + 1] - share[b]), P_MIN))


@kernel
def _settled(learned: int) -> float:
    """How far the tail is settled, 0 to 1: in a young one a single attacker stands out."""
    return min(learned / SETTLED_EVENTS, 1.0) ** 2


@kernel
def _survival(excess: float, shape: float) -> float:
    """Generalised Pareto's, of an excess in units of its scale."""
    return float(exp(-log1p(shape * excess) / shape)) if shape > 1e-3 else exp(-excess)


@kernel
def _fit_tail(
    seen: F64, edge: int, start: float, above: float, settled: float
) -> tuple[float, float]:
    """Scale and shape of the excesses beyond the bin `edge`, by probability-weighted moments."""
    mean = EXCESS_PRIOR  # of one event more
    weighted = 0.25 * EXCESS_PRIOR
    beyond = 0.0
    for b in range(BINS - 1, edge - 1, -1):
        excess = _surprise_at(b + 0.5) - start
        mean += seen[b] * excess
        weighted += seen[b] * excess * (beyond + 0.5 * seen[b]) / max(above, 1e-9)
        beyond += seen[b]
    mean /= above + 1.0
    weighted /= above + 1.0
    shape = 2.0 - mean / max(mean - 2.0 * weighted, 1e-9)
    shape = settled * min(max(shape * above / (above + SHAPE_PRIOR), 0.0), SHAPE_MAX)
    scale = mean * (1.0 - shape)
    most = EXCESS_MAX_YOUNG + settled * (EXCESS_MAX - EXCESS_MAX_YOUNG)
    return min(max(scale, EXCESS_MIN), most), shape


@kernel
def _refresh(seen: F64, below: F64, borrow: float, settled: float, share: F64) -> None:
    """S at the edges of one histogram that borrows from the table `below`."""
    total = seen.sum()
    edge = BINS
    above = 0.0
    while edge > 0 and above + seen[edge - 1] < TAIL_EVENTS:
        edge -= 1
        above += seen[edge]
    start = _surprise_at(edge)
    scale, shape = _fit_tail(seen, edge, start, above, settled)
    tail = above
    for b in range(BINS, -1, -1):
        if b >= edge:
            mine = max(above, 0.5) * _survival((_surprise_at(b) - start) / scale, shape)
        else:
            tail += seen[b]
            mine = tail
        share[b] = min((mine + borrow * below[b]) / (total + borrow), 1.0)  # sums round
    for b in range(BINS):
        share[b + 1] = min(share[b + 1], share[b])


@kernel
def _refresh_all(tables: Tables) -> None:
    """Every table anew from its histogram, parents first; then the histograms decay."""
    prior = np.empty(BINS + 1)
    for b in range(BINS + 1):
        prior[b] = exp(-0.5 * _surprise_at(b))
    step = max(REFRESH_MIN, min(tables.marks[LEARNED], int(MEMORY)) // 50)
    tables.marks[REFRESH_AT] = tables.marks[LEARNED] + step
    settled = _settled(tables.marks[LEARNED])
    for d in range(tables.seen.shape[0]):
        parent = tables.share[d, PARENT]
        _refresh(tables.seen[d, PARENT], prior, BORROW_PRIOR, settled, parent)
        for cell in range(CELLS):
            _refresh(tables.seen[d, cell], parent, BORROW, settled, tables.share[d, cell])
    tables.seen[:] *= exp(-step / min(MEMORY, 0.5 * tables.marks[LEARNED] + 1.0))


@kernel
def _cost(p: float, learned: int) -> float:
    """Tokens for learning an event of this p, where so many events are known."""
    if p >= TAIL_P:
        return 0.0
    return float(min(TAIL_P / p, RARITY_MAX) ** (1.0 - 0.5 * _settled(learned)))


@kernel
def _may_learn(words: F64, at: int, r: int, time_ms: float, p: float, tables: Tables) -> bool:
    """Whether the entity can pay for having this event in the histogram; it pays if it can."""
    since_ms = time_ms - words[r, at + TOKENS_MS]
    tokens = earned(words[r, at + TOKENS], since_ms, TOKENS_PER_EVENT, TOKENS_PER_HOUR, TOKENS_MAX)
    tables.rare[0] = followed(tables.rare[0], p < TAIL_P)
    cost = _cost(p, tables.marks[LEARNED]) if tables.rare[0] < WRONG_SHARE else 0.0
    pays = bool(tokens >= cost)
    words[r, at + TOKENS] = tokens - cost if pays else tokens
    words[r, at + TOKENS_MS] = time_ms
    return pays


@kernel
def _primed(found: float, suspicion: float) -> float:
    """An event's evidence, seen with suspicion."""
    return found + SUSPICION_WEIGHT * log1p(suspicion) * found / (found + 1.0)


@kernel
def _suspicion(own: F64, at: int, time_ms: float, found: float, learn: bool) -> float:
    """The entity's evidence of late, before this event; the event is remembered in turn."""
    since_ms = time_ms - own[at + SUSPICION_MS]
    suspicion = own[at + SUSPICION] * exp(-LN2 * since_ms / SUSPICION_HALF_LIFE_MS)
    if learn:
        more = max(found - SUSPICION_EDGE, 0.0)
        own[at + SUSPICION] = min(suspicion + more, SUSPICION_MAX)
        own[at + SUSPICION_MS] = time_ms
    return float(suspicion)


@kernel
def _learn(tables: Tables, cell: int, surprise: F64, i: int, combined_surprise: float) -> None:
    """Count the event in every detector's histograms and in the combination's."""
    detectors = surprise.shape[0]
    for d in range(detectors + 1):
        v = combined_surprise if d == detectors else surprise[d, i]
        if not isnan(v):
            b = int(_place(v))
            tables.seen[d, cell, b] += 1.0
            tables.seen[d, PARENT, b] += 1.0
    tables.marks[LEARNED] += 1
    if tables.marks[LEARNED] >= tables.marks[REFRESH_AT]:
        _refresh_all(tables)


@kernel
def _without(
    i: int,
    cell: int,
    own: F64,
    suspicion: float,
    surprise: Surprise,
    tables: Tables,
    out: Calibrated,
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
            own[tree] = _look_up(tables.share[tree, cell], surprise.without[k, i], False)
        out.without[k, i] = _look_up(
            tables.share[detectors, cell], _primed(evidence(own), suspicion), False
        )


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
            words[r, at + TOKENS] = _cost(P_MIN, tables.marks[LEARNED])
            words[r, at + TOKENS_MS] = events.time_ms[i]
            words[r, at + SUSPICION] = 0.0
            words[r, at + SUSPICION_MS] = events.time_ms[i]
        out.learned[i] = tables.marks[LEARNED]
        cell = 0
        while cell < CELLS - 1 and events.seen[i] >= MATURITIES[cell]:
            cell += 1
        for d in range(detectors):
            v = surprise.raw[d, i]
            own[d] = np.nan if isnan(v) else _look_up(tables.share[d, cell], v, discrete[d])
            out.p[d, i] = own[d]
        v_all = evidence(own)
        if isnan(v_all):
            continue
        suspicion = _suspicion(words[r], at, events.time_ms[i], v_all, events.learn[i])
        v_all = _primed(v_all, suspicion)
        out.combined[i] = _look_up(tables.share[detectors, cell], v_all, False)
        if out.combined[i] < TAIL_P:
            _without(i, cell, own, suspicion, surprise, tables, out)
        if events.learn[i] and _may_learn(words, at, r, events.time_ms[i], out.combined[i], tables):
            _learn(tables, cell, surprise.raw, i, v_all)
