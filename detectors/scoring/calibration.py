"""Calibration: raw surprise in, honest p-value out, for every detector and for their combination.

Each detector keeps a decayed histogram of its surprise v = -ln(raw p) for all its entities (the
parent) and for each maturity of an entity (the cells: fewer than so many events before,
`MATURITIES`, and after). The p-value is the share of surprises at least as large:

    cell:   S(v) = (N_cell S_cell(v) + BORROW · S_parent(v)) / (N_cell + BORROW)
    parent: S(v) = (N S_seen(v) + BORROW_PRIOR · exp(-v/2)) / (N + BORROW_PRIOR)

so that a thin cell borrows from its parent, and a thin parent believes the raw p's square root: a
model that has seen little is not to be believed its smallest numbers. Beyond the `TAIL_EVENTS`
largest surprises the tail is a generalised Pareto in v, fitted by probability-weighted moments (J.
R. M. Hosking, J. R. Wallis, Technometrics 1987): of shape 0, a power law in p, where raw p-values
are honest already, and of up to `SHAPE_MAX` where values have a heavier tail than their model.
Within a bin S is a straight line, but for discrete detectors the bin's lower edge stands: their p
is never too small for lying in a crowd. Bins are of equal width within each doubling of 1 + v, as a
float's own digits are, so that finding one takes no logarithm; nor does the evidence ln(1 + τ/p) of
a p-value (`combination`), which has a table like S.

An entity that was strange lately is more likely to be so again, and for the same cause. To an
event's evidence e is added SUSPICION_WEIGHT · ln(1 + s) · e/(e + 1), s the entity's earlier
evidence beyond `SUSPICION_EDGE`, decayed over a week; to an event without evidence of its own next
to nothing: measured on labelled payments it finds the later, smaller frauds of a stolen card.
Calibration comes behind it, so that p stays honest.

The histogram describes honest traffic: to put an event of p < `TAIL_P` into it costs an entity
(TAIL_P/p)^γ tokens (p counts as TAIL_P/`RARITY_MAX` at least), of which it gets `TOKENS_PER_HOUR`,
`TOKENS_PER_EVENT`, and at first what one of the rarest costs; an event it cannot pay for is judged,
not learned. γ falls from 1 to 1/2, slowly at first, until `SETTLED_EVENTS` are learned. Among few
events one attacker would make its own extremes ordinary; among many it cannot, unless it is a
thirtieth of all traffic, and if they stayed as dear, the bursts in which honest extremes come would
be refused, and half of the tail with them. Many fresh entities can put one extreme each. For the
same reason the tail's shape is believed by degrees.

Cost: about 0.25 µs an event of 12 features and trees; more while it is young, for its tables.

Tables are refreshed by a count in the state; `MEMORY` events are remembered, or half of all where
there were fewer, since the first of them were judged by models that knew nothing.
"""

import math
from math import isnan
from typing import Final, NamedTuple

import numpy as np

from detectors.entities import AdmittedEvents
from detectors.models.half_space_trees import COUNTERFACTUAL_MAX
from detectors.numeric.combination import P_MIN, evidence
from detectors.numeric.decay import LN2
from detectors.numeric.elementary import exp, ln
from detectors.numeric.kernels import kernel
from detectors.numeric.prefetch import prefetch_words
from detectors.numeric.protection import (
    MODEL_WRONG_SHARE,
    TOKENS_PER_HOUR,
    earn_tokens,
    update_share,
)
from detectors.state import Arrays, load, state_arrays
from schemas.columns import F64, I64, Bools

BIN_BITS: Final = 5
BINS: Final = 10 << BIN_BITS
"""32 to each doubling of 1 + v: 3 % of p wide where most events are, and as far as p = 1e-300."""
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
TOKENS_PER_EVENT: Final = 0.03
"""More than an honest entity spends on average once γ is 1/2: TAIL_P (2 - 1/√RARITY_MAX) =
0.019."""
TOKENS_MAX: Final = 200.0
SUSPICION_HALF_LIFE_MS: Final = 7.0 * 86_400_000.0
SUSPICION_EDGE: Final = 2.0
SUSPICION_MAX: Final = 20.0
SUSPICION_WEIGHT: Final = 2.0

ONE_BITS: Final = 1023 << 52
BIN_WIDTH: Final = 1 << (52 - BIN_BITS)
"""Of a float's digits: those of 1, and of a bin."""
EDGES: Final[F64] = np.array(
    [(1.0 + (b / (1 << BIN_BITS)) % 1.0) * (1 << (b >> BIN_BITS)) - 1.0 for b in range(BINS + 1)]
)
"""The surprise at the edges of the bins."""
PRIOR: Final[F64] = np.array([math.exp(-0.5 * v) for v in EDGES.tolist()])

LEARNED, REFRESH_AT = range(2)
CALIBRATION_WORDS: Final = 4
"""Words in an entity's row: tokens and when they were counted, suspicion and when it held."""
TOKENS, TOKENS_MS, SUSPICION, SUSPICION_MS = range(4)


class CalibrationOutput(NamedTuple):
    """p: float64[detectors, n], NaN where silent. combined: float64[n], NaN where all are silent.
    without: float64[3, n], combined with the first one, two, three features of the trees' `order`
    (else of the smallest p) at expected, NaN where not worked out. order: int64[3, n], those
    features, -1 none. learned: int64[n], events the calibration held before this one."""

    p: F64
    combined: F64
    without: F64
    order: I64
    learned: I64


class CalibrationTables(NamedTuple):
    """seen: float64[detectors, cells, bins], the decayed histograms, whose sum is the parent's.
    share: float64[detectors, cells + 1, bins + 1], S at the bins' edges, the parent's last; proof:
    the evidence of it. marks: counts. rare: the share of late with p < `TAIL_P`."""

    seen: F64
    share: F64
    evidence_at_edge: F64
    marks: I64
    rare: F64


class CalibrationInput(NamedTuple):
    """raw: float64[detectors, n], NaN where silent; row `tree` is the trees', or tree is -1.
    order, without: the trees' (see `half_space_trees.TreesOutput`)."""

    raw: F64
    tree: int
    order: I64
    without: F64


class CalibrationScratch(NamedTuple):
    """What the kernel works in, an event at a time. p, proof: float64[detectors], each one's
    p-value, NaN where silent, and evidence; bin: int64[detectors + 1], where its surprise lies, -1
    nowhere, the combination's last."""

    p: F64
    evidence_at_edge: F64
    bin: I64


class Calibration:
    """The histograms and tables of a monitor: its detectors, and last their combination."""

    def __init__(self, discrete: list[bool]) -> None:
        self.discrete = np.array([*discrete, False])
        detectors = len(self.discrete)
        self.tables = CalibrationTables(
            seen=np.zeros((detectors, CELLS, BINS)),
            share=np.zeros((detectors, CELLS + 1, BINS + 1)),
            evidence_at_edge=np.zeros((detectors, CELLS + 1, BINS + 1)),
            marks=np.array([0, REFRESH_MIN], np.int64),
            rare=np.zeros(1),
        )
        self.scratch = CalibrationScratch(
            np.zeros(detectors - 1), np.zeros(detectors - 1), np.zeros(detectors, np.int64)
        )
        self.combined_histogram = np.zeros(BINS)
        _refresh_all(self.tables, self.combined_histogram)

    def process(
        self, words: F64, at: int, events: AdmittedEvents, surprise: CalibrationInput
    ) -> CalibrationOutput:
        """Judge, then learn, each event in order; the entity's own words start at `at`."""
        detectors, n = surprise.raw.shape
        out = CalibrationOutput(
            p=np.full((n, detectors), np.nan).T,
            combined=np.full(n, np.nan),
            without=np.full((COUNTERFACTUAL_MAX, n), np.nan),
            order=np.full((COUNTERFACTUAL_MAX, n), -1, np.int64),
            learned=np.zeros(n, np.int64),
        )
        _process(
            words,
            at,
            events,
            surprise,
            self.discrete,
            self.tables,
            self.scratch,
            self.combined_histogram,
            out,
        )
        return out

    def save(self) -> Arrays:
        """Histograms, tables and marks."""
        return state_arrays(self.tables)

    def load(self, state: Arrays) -> None:
        """Replace them by saved ones of the same detectors."""
        load(self.tables, state)


@kernel
def _bin(v: float) -> tuple[int, float]:
    """(The bin of a surprise, how far into it, in [0, 1))."""
    bits = int(np.float64(1.0 + max(v, 0.0)).view(np.int64)) - ONE_BITS
    b = bits >> (52 - BIN_BITS)
    if b >= BINS:
        return BINS - 1, 1.0
    return b, (bits & (BIN_WIDTH - 1)) * (1.0 / BIN_WIDTH)


@kernel
def _between(table: F64, d: int, cell: int, b: int, part: float) -> float:
    """A table's value so far from one edge to the next."""
    low = table[d, cell, b]
    return float(low + part * (table[d, cell, b + 1] - low))


@kernel
def _settled(learned: int) -> float:
    """How far the tail is settled, 0 to 1: in a young one a single attacker stands out."""
    return min(learned / SETTLED_EVENTS, 1.0) ** 2


@kernel
def _log_survival(excess: float, shape: float) -> float:
    """Generalised Pareto's, of an excess in units of its scale."""
    power = ln(1.0 + shape * excess) / max(shape, 1e-3)
    return -(power if shape > 1e-3 else excess)


@kernel
def _fit_tail(
    seen: F64, edge: int, start: float, above: float, settled: float
) -> tuple[float, float]:
    """Scale and shape of the excesses beyond the bin `edge`, by probability-weighted moments."""
    mean = EXCESS_PRIOR  # of one event more
    weighted = 0.25 * EXCESS_PRIOR
    beyond = 0.0
    for b in range(BINS - 1, edge - 1, -1):
        excess = 0.5 * (EDGES[b] + EDGES[b + 1]) - start
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
def _refresh(
    seen: F64, below: F64, borrow: float, settled: float, share: F64, evidence_at_edge: F64
) -> None:
    """S at the edges of one histogram that borrows from the table `below`, and its evidence."""
    total = seen.sum()
    edge = BINS
    above = 0.0
    while edge > 0 and above + seen[edge - 1] < TAIL_EVENTS:
        edge -= 1
        above += seen[edge]
    start = EDGES[edge]
    scale, shape = _fit_tail(seen, edge, start, above, settled)
    total = above
    for b in range(edge - 1, -1, -1):
        total += seen[b]
        share[b] = total
    for b in range(BINS + 1):
        evidence_at_edge[b] = _log_survival(max(EDGES[b] - start, 0.0) / scale, shape)
    for b in range(BINS + 1):
        mine = share[b] if b < edge else max(above, 0.5) * exp(evidence_at_edge[b])
        share[b] = min((mine + borrow * below[b]) / (total + borrow), 1.0)  # sums round
    for b in range(BINS):
        share[b + 1] = min(share[b + 1], share[b])
    for b in range(BINS + 1):
        evidence_at_edge[b] = evidence(share[b])


@kernel
def _refresh_all(tables: CalibrationTables, combined_histogram: F64) -> None:
    """Every table anew from its histogram, parents first; then the histograms decay."""
    step = max(REFRESH_MIN, min(tables.marks[LEARNED], int(MEMORY)) // 25)
    tables.marks[REFRESH_AT] = tables.marks[LEARNED] + step
    keep = math.exp(-step / min(MEMORY, 0.5 * tables.marks[LEARNED] + 1.0))
    settled = _settled(tables.marks[LEARNED])
    seen, share, evidence_at_edge = tables.seen, tables.share, tables.evidence_at_edge
    for d in range(seen.shape[0]):
        combined_histogram[:] = 0.0
        for cell in range(CELLS):
            for b in range(BINS):
                combined_histogram[b] += seen[d, cell, b]
        parent = share[d, PARENT]
        _refresh(
            combined_histogram, PRIOR, BORROW_PRIOR, settled, parent, evidence_at_edge[d, PARENT]
        )
        for cell in range(CELLS):
            _refresh(
                seen[d, cell], parent, BORROW, settled, share[d, cell], evidence_at_edge[d, cell]
            )
        for cell in range(CELLS):
            for b in range(BINS):
                seen[d, cell, b] *= keep


@kernel
def _cost(p: float, learned: int) -> float:
    """Tokens for learning an event of this p, where so many events are known."""
    if p >= TAIL_P:
        return 0.0
    return float(min(TAIL_P / p, RARITY_MAX) ** (1.0 - 0.5 * _settled(learned)))


@kernel
def _may_learn(
    words: F64, at: int, r: int, time_ms: float, p: float, tables: CalibrationTables
) -> bool:
    """Whether the entity can pay for having this event in the histogram; it pays if it can."""
    since_ms = time_ms - words[r, at + TOKENS_MS]
    tokens = earn_tokens(
        words[r, at + TOKENS], since_ms, TOKENS_PER_EVENT, TOKENS_PER_HOUR, TOKENS_MAX
    )
    tables.rare[0] = update_share(tables.rare[0], p < TAIL_P)
    cost = _cost(p, tables.marks[LEARNED]) if tables.rare[0] < MODEL_WRONG_SHARE else 0.0
    pays = bool(tokens >= cost)
    words[r, at + TOKENS] = tokens - cost if pays else tokens
    words[r, at + TOKENS_MS] = time_ms
    return pays


@kernel
def _primed(scratch: float, suspicion: float) -> float:
    """An event's evidence, seen with suspicion."""
    if suspicion == 0.0:
        return scratch
    return scratch + SUSPICION_WEIGHT * ln(1.0 + suspicion) * scratch / (scratch + 1.0)


@kernel
def _suspicion(words: F64, at: int, r: int, time_ms: float, scratch: float, learn: bool) -> float:
    """The entity's evidence of late, before this event; the event is remembered in turn."""
    suspicion = words[r, at + SUSPICION]
    if suspicion > 0.0:
        since_ms = time_ms - words[r, at + SUSPICION_MS]
        suspicion *= exp(-LN2 * since_ms / SUSPICION_HALF_LIFE_MS)
    if learn:
        more = max(scratch - SUSPICION_EDGE, 0.0)
        words[r, at + SUSPICION] = min(suspicion + more, SUSPICION_MAX)
        words[r, at + SUSPICION_MS] = time_ms
    return float(suspicion)


@kernel
def _learn(tables: CalibrationTables, cell: int, placed: I64, combined_histogram: F64) -> None:
    """Count the event in every detector's histogram and in the combination's."""
    for d in range(len(placed)):
        b = placed[d]
        if b >= 0:
            tables.seen[d, cell, b] += 1.0
    tables.marks[LEARNED] += 1
    if tables.marks[LEARNED] >= tables.marks[REFRESH_AT]:
        _refresh_all(tables, combined_histogram)


@kernel
def _without(
    i: int,
    cell: int,
    scratch: CalibrationScratch,
    suspicion: float,
    surprise: CalibrationInput,
    tables: CalibrationTables,
    out: CalibrationOutput,
) -> None:
    """Combined p with the most surprising one, two, three features at expected (p = 1)."""
    own = scratch.p
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
            scratch.evidence_at_edge[j] = evidence(1.0)
        if tree >= 0 and not isnan(surprise.without[k, i]):
            b, part = _bin(surprise.without[k, i])
            own[tree] = _between(tables.share, tree, cell, b, part)
            scratch.evidence_at_edge[tree] = _between(tables.evidence_at_edge, tree, cell, b, part)
        total = 0.0
        for d in range(detectors):
            total += 0.0 if isnan(own[d]) else scratch.evidence_at_edge[d]
        b, part = _bin(_primed(total, suspicion))
        out.without[k, i] = max(_between(tables.share, detectors, cell, b, part), P_MIN)


@kernel
def _process(
    words: F64,
    at: int,
    events: AdmittedEvents,
    surprise: CalibrationInput,
    discrete: Bools,
    tables: CalibrationTables,
    scratch: CalibrationScratch,
    combined_histogram: F64,
    out: CalibrationOutput,
) -> None:
    detectors = surprise.raw.shape[0]
    for i in range(len(events.row)):
        if i + 1 < len(events.row):
            prefetch_words(words, events.row[i + 1], at, CALIBRATION_WORDS)
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
        total = 0.0
        silent = True
        for d in range(detectors):
            v = surprise.raw[d, i]
            scratch.p[d] = np.nan
            scratch.bin[d] = -1
            if not isnan(v):
                b, part = _bin(v)
                part = 0.0 if discrete[d] else part
                scratch.bin[d] = b
                scratch.p[d] = max(_between(tables.share, d, cell, b, part), P_MIN)
                scratch.evidence_at_edge[d] = _between(tables.evidence_at_edge, d, cell, b, part)
                total += scratch.evidence_at_edge[d]
                silent = False
            out.p[d, i] = scratch.p[d]
        if silent:
            continue
        suspicion = _suspicion(words, at, r, events.time_ms[i], total, events.learn[i])
        b, part = _bin(_primed(total, suspicion))
        scratch.bin[detectors] = b
        p = max(_between(tables.share, detectors, cell, b, part), P_MIN)
        out.combined[i] = p
        if p < TAIL_P:
            _without(i, cell, scratch, suspicion, surprise, tables, out)
        if events.learn[i] and _may_learn(words, at, r, events.time_ms[i], p, tables):
            _learn(tables, cell, scratch.bin, combined_histogram)
