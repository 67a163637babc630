"""The tables of calibration: decayed histograms of surprise, and the p-values that they give.

See `calibration` for the formulas. Bins are of equal width within each doubling of 1 + v, as the
digits of a float are, so that finding a bin takes no logarithm.
"""

import math
from typing import Final, NamedTuple

import numpy as np

from detectors.numeric.combination import evidence
from detectors.numeric.elementary import exp, ln
from detectors.numeric.kernels import kernel
from schemas.columns import F64, I64

BIN_BITS: Final = 5
BINS: Final = 10 << BIN_BITS
"""32 for each doubling of 1 + v: 3 % of p wide where most events are, up to p = 1e-300."""
MATURITIES: Final = (1, 2, 3, 5, 10, 20, 50, 100)
"""Numbers of earlier events that separate the cells of entities."""
CELLS: Final = len(MATURITIES) + 1
PARENT: Final = CELLS
"""Index of the parent's table, after those of the cells."""
BORROW: Final = 200.0
BORROW_PRIOR: Final = 50.0
TAIL_EVENTS: Final = 50.0
EXCESS_PRIOR: Final = 1.0
"""Mean excess of -ln p where raw p-values are calibrated; it counts as one event."""
EXCESS_MIN: Final = 0.2
EXCESS_MAX_YOUNG: Final = 3.0
EXCESS_MAX: Final = 10.0
SHAPE_PRIOR: Final = 10.0
"""Excesses for which shape 0 counts: a few excesses are not enough to estimate their shape."""
SHAPE_MAX: Final = 0.5
MEMORY: Final = 200_000.0
REFRESH_MIN: Final = 500
SETTLED_EVENTS: Final = 20_000.0

ONE_BITS: Final = 1023 << 52
BIN_WIDTH: Final = 1 << (52 - BIN_BITS)
"""In a float's bit pattern: the number 1, and the width of a bin."""
EDGES: Final[F64] = np.array(
    [(1.0 + (b / (1 << BIN_BITS)) % 1.0) * (1 << (b >> BIN_BITS)) - 1.0 for b in range(BINS + 1)]
)
"""The surprise at the edges of the bins."""
PRIOR: Final[F64] = np.array([math.exp(-0.5 * v) for v in EDGES.tolist()])

LEARNED, REFRESH_AT = range(2)


class CalibrationTables(NamedTuple):
    """histogram: float64[detectors, cells, bins], decayed; the parent's is the sum over cells.
    tail_share: float64[detectors, cells + 1, bins + 1], S at the bin edges, the parent's last.
    edge_evidence: the same shape, the evidence of these p-values. marks: int64[2], events learned,
    and at how many the tables are refreshed. rare_share: float64[1], the recent share of events with
    p < `TAIL_P`."""

    histogram: F64
    tail_share: F64
    edge_evidence: F64
    marks: I64
    rare_share: F64


def empty_tables(detectors: int) -> CalibrationTables:
    """The tables before any event. detectors: the combination included."""
    tables = CalibrationTables(
        histogram=np.zeros((detectors, CELLS, BINS)),
        tail_share=np.zeros((detectors, CELLS + 1, BINS + 1)),
        edge_evidence=np.zeros((detectors, CELLS + 1, BINS + 1)),
        marks=np.array([0, REFRESH_MIN], np.int64),
        rare_share=np.zeros(1),
    )
    refresh_all(tables, np.zeros(BINS))
    return tables


@kernel
def bin_of(v: float) -> tuple[int, float]:
    """(The bin of a surprise, its relative position in the bin, in [0, 1))."""
    bits = int(np.float64(1.0 + max(v, 0.0)).view(np.int64)) - ONE_BITS
    b = bits >> (52 - BIN_BITS)
    if b >= BINS:
        return BINS - 1, 1.0
    return b, (bits & (BIN_WIDTH - 1)) * (1.0 / BIN_WIDTH)


@kernel
def interpolate(table: F64, d: int, cell: int, b: int, position: float) -> float:
    """A table's value at a relative position between the edges of a bin."""
    low = table[d, cell, b]
    return float(low + position * (table[d, cell, b + 1] - low))


@kernel
def settled_share(learned: int) -> float:
    """How far the fitted tail is trusted, 0 to 1: with few events, one attacker could change it."""
    return min(learned / SETTLED_EVENTS, 1.0) ** 2


@kernel
def _log_survival(excess: float, shape: float) -> float:
    """Log survival function of the generalised Pareto distribution. excess: in units of the scale."""
    power = ln(1.0 + shape * excess) / max(shape, 1e-3)
    return -(power if shape > 1e-3 else excess)


@kernel
def _fit_tail(
    histogram: F64, edge: int, start: float, above: float, settled: float
) -> tuple[float, float]:
    """(Scale, shape) of the excesses above the bin `edge`, by probability-weighted moments."""
    mean = EXCESS_PRIOR  # of one additional event
    weighted = 0.25 * EXCESS_PRIOR
    count_above = 0.0
    for b in range(BINS - 1, edge - 1, -1):
        excess = 0.5 * (EDGES[b] + EDGES[b + 1]) - start
        mean += histogram[b] * excess
        weighted += histogram[b] * excess * (count_above + 0.5 * histogram[b]) / max(above, 1e-9)
        count_above += histogram[b]
    mean /= above + 1.0
    weighted /= above + 1.0
    shape = 2.0 - mean / max(mean - 2.0 * weighted, 1e-9)
    shape = settled * min(max(shape * above / (above + SHAPE_PRIOR), 0.0), SHAPE_MAX)
    scale = mean * (1.0 - shape)
    scale_max = EXCESS_MAX_YOUNG + settled * (EXCESS_MAX - EXCESS_MAX_YOUNG)
    return min(max(scale, EXCESS_MIN), scale_max), shape


@kernel
def _refresh(
    histogram: F64, below: F64, borrow: float, settled: float, tail_share: F64, edge_evidence: F64
) -> None:
    """Compute S at the bin edges of one histogram, and its evidence. parent: the table from which the
    histogram borrows, with the weight of `borrow` events."""
    total = histogram.sum()
    edge = BINS
    above = 0.0
    while edge > 0 and above + histogram[edge - 1] < TAIL_EVENTS:
        edge -= 1
        above += histogram[edge]
    start = EDGES[edge]
    scale, shape = _fit_tail(histogram, edge, start, above, settled)
    total = above
    for b in range(edge - 1, -1, -1):
        total += histogram[b]
        tail_share[b] = total
    for b in range(BINS + 1):
        edge_evidence[b] = _log_survival(max(EDGES[b] - start, 0.0) / scale, shape)
    for b in range(BINS + 1):
        own_share = tail_share[b] if b < edge else max(above, 0.5) * exp(edge_evidence[b])
        tail_share[b] = min((own_share + borrow * below[b]) / (total + borrow), 1.0)  # sums round
    for b in range(BINS):
        tail_share[b + 1] = min(tail_share[b + 1], tail_share[b])
    for b in range(BINS + 1):
        edge_evidence[b] = evidence(tail_share[b])


@kernel
def refresh_all(tables: CalibrationTables, scratch: F64) -> None:
    """Compute every table from its histogram, parents first; then let the histograms decay. scratch:
    float64[BINS]."""
    step = max(REFRESH_MIN, min(tables.marks[LEARNED], int(MEMORY)) // 25)
    tables.marks[REFRESH_AT] = tables.marks[LEARNED] + step
    decay_factor = math.exp(-step / min(MEMORY, 0.5 * tables.marks[LEARNED] + 1.0))
    settled = settled_share(tables.marks[LEARNED])
    histogram, tail_share, edge_evidence = tables.histogram, tables.tail_share, tables.edge_evidence
    for d in range(histogram.shape[0]):
        scratch[:] = 0.0
        for cell in range(CELLS):
            for b in range(BINS):
                scratch[b] += histogram[d, cell, b]
        parent = tail_share[d, PARENT]
        _refresh(scratch, PRIOR, BORROW_PRIOR, settled, parent, edge_evidence[d, PARENT])
        for cell in range(CELLS):
            _refresh(
                histogram[d, cell],
                parent,
                BORROW,
                settled,
                tail_share[d, cell],
                edge_evidence[d, cell],
            )
        for cell in range(CELLS):
            for b in range(BINS):
                histogram[d, cell, b] *= decay_factor


@kernel
def learn(tables: CalibrationTables, cell: int, bins: I64, scratch: F64) -> None:
    """Count an event in the histogram of every detector and of the combination. bins: int64, -1 where
    absent."""
    for d in range(len(bins)):
        b = bins[d]
        if b >= 0:
            tables.histogram[d, cell, b] += 1.0
    tables.marks[LEARNED] += 1
    if tables.marks[LEARNED] >= tables.marks[REFRESH_AT]:
        refresh_all(tables, scratch)
