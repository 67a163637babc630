"""Gradient-boosted trees for a binary outcome, as arrays: fitted in one go, evaluated row by row.

J. H. Friedman, "Greedy function approximation: a gradient boosting machine" (Annals of Statistics
2001), with the second-order gains of T. Chen, C. Guestrin, "XGBoost" (KDD 2016, eqs. 5 and 7) over
histograms of the inputs' values:

    gain = G_L²/(H_L + λ) + G_R²/(H_R + λ) - G²/(H + λ),   leaf = -`LEARNING_RATE` · G/(H + λ)

with G and H the sums of p - y and p(1 - p). An input may be absent (NaN): at each split absent
values go to the side of the larger gain. This is no library, since the fitted model must be a few
plain arrays of fixed size, which checkpoints hold like any other state, and a fit must give the same
bytes each time, without random draws.

Attribution (A. Saabas, "Interpreting random forests", 2014): the value of a node is the output that
it would have as a leaf, and each step down a path is credited to the input of the split. The log odds
are the sum of the base, the roots' values and all credits.

Cost: a fit of 20,000 rows of 6 inputs takes about 0.1 s, an evaluation 0.4 µs.
"""

from typing import Final, NamedTuple

import numpy as np

from detectors.numeric.elementary import exp, ln
from detectors.numeric.kernels import kernel
from schemas.columns import F64, I64, U8, Bools

TREES: Final = 60
DEPTH: Final = 4
NODES: Final = (1 << DEPTH) - 1
LEAVES: Final = 1 << DEPTH
LEARNING_RATE: Final = 0.15
LAMBDA: Final = 1.0
ROWS_MIN: Final = 20
"""Rows that each side of a split needs."""
GAIN_MIN: Final = 1e-9
BINS: Final = 64
ABSENT: Final = BINS
"""The bin of absent values."""
G, H, ROWS = range(3)


class BoostedTrees(NamedTuple):
    """base: float64[1], the log odds without trees. feature: int64[TREES, NODES], the input of a node's
    split, -1 for none: all rows go left. edge: float64[TREES, NODES], values up to it go left.
    absent_left: bool[TREES, NODES], absent values go left. leaf: float64[TREES, LEAVES]. node_value:
    float64[TREES, NODES], the output that a node would have as a leaf."""

    base: F64
    feature: I64
    edge: F64
    absent_left: Bools
    leaf: F64
    node_value: F64


class _FitScratch(NamedTuple):
    """Scratch of a fit. bins: uint8[inputs, n]; edges: float64[inputs, BINS]; outcome, margin,
    gradient, hessian: float64[n]; node: int64[n]; sums: float64[LEAVES, inputs, BINS + 1, 3], by `G`, `H`, `ROWS`."""

    bins: U8
    edges: F64
    outcome: F64
    margin: F64
    gradient: F64
    hessian: F64
    node: I64
    sums: F64


def empty() -> BoostedTrees:
    """Trees without splits: log odds 0."""
    return BoostedTrees(
        base=np.zeros(1),
        feature=np.full((TREES, NODES), -1, np.int64),
        edge=np.zeros((TREES, NODES)),
        absent_left=np.zeros((TREES, NODES), np.bool_),
        leaf=np.zeros((TREES, LEAVES)),
        node_value=np.zeros((TREES, NODES)),
    )


def fit(trees: BoostedTrees, inputs: F64, outcome: F64) -> None:
    """Fit the trees to these rows. inputs: float64[n, inputs], NaN absent; outcome: float64[n], 0 or 1,
    each at least once."""
    n, width = inputs.shape
    share = float(outcome.mean())
    assert 0.0 < share < 1.0, share
    trees.base[0] = ln(share / (1.0 - share))
    edges = np.full((width, BINS), np.inf)
    bins = np.empty((width, n), np.uint8)
    for j in range(width):
        _binned(inputs[:, j], edges[j], bins[j])
    work = _FitScratch(
        bins=bins,
        edges=edges,
        outcome=outcome,
        margin=np.full(n, trees.base[0]),
        gradient=np.empty(n),
        hessian=np.empty(n),
        node=np.empty(n, np.int64),
        sums=np.empty((LEAVES, width, BINS + 1, 3)),
    )
    _fit(trees, work)


def _binned(values: F64, edges: F64, bins: U8) -> None:
    """Write the upper edges of the bins, at quantiles of the values, and each value's bin."""
    present = ~np.isnan(values)
    in_order = np.sort(values[present])
    positions = [(len(in_order) - 1) * (b + 1) // BINS for b in range(BINS - 1)]
    cut = np.unique(in_order[positions] if len(in_order) else in_order)
    edges[: len(cut)] = cut
    bins[:] = ABSENT
    bins[present] = np.searchsorted(edges[: BINS - 1], values[present], side="left")


@kernel
def log_odds(trees: BoostedTrees, inputs: F64) -> float:
    """The log odds of one row. inputs: float64[inputs], NaN absent."""
    total = trees.base[0]
    for t in range(TREES):
        node = 0
        for _ in range(DEPTH):
            node = _child(trees, t, node, inputs)
        total += trees.leaf[t, node - NODES]
    return float(total)


@kernel
def credit(trees: BoostedTrees, inputs: F64, out: F64) -> None:
    """Add to `out`, float64[inputs], by how much each input of one row raises its log odds."""
    for t in range(TREES):
        node = 0
        for _ in range(DEPTH):
            j = trees.feature[t, node]
            below = _child(trees, t, node, inputs)
            if j >= 0:
                node_value = (
                    trees.leaf[t, below - NODES] if below >= NODES else trees.node_value[t, below]
                )
                out[j] += node_value - trees.node_value[t, node]
            node = below


@kernel
def _child(trees: BoostedTrees, t: int, node: int, inputs: F64) -> int:
    """The node or leaf to which a row goes from a node."""
    right = False
    j = trees.feature[t, node]
    if j >= 0:
        x = inputs[j]
        right = not trees.absent_left[t, node] if np.isnan(x) else x > trees.edge[t, node]
    return 2 * node + 1 + (1 if right else 0)


@kernel
def _fit(trees: BoostedTrees, work: _FitScratch) -> None:
    n = len(work.outcome)
    for t in range(TREES):
        for i in range(n):
            p = 1.0 / (1.0 + exp(-work.margin[i]))
            work.gradient[i] = p - work.outcome[i]
            work.hessian[i] = p * (1.0 - p)
            work.node[i] = 0
        for level in range(DEPTH):
            _sum(work, (1 << level) - 1, 1 << level)
            for k in range(1 << level):
                _split(trees, work, t, (1 << level) - 1 + k, work.sums[k])
            for i in range(n):
                work.node[i] = _below(trees, work, t, work.node[i], i)
        _sum(work, NODES, LEAVES)
        for k in range(LEAVES):
            g, h = 0.0, 0.0
            for b in range(BINS + 1):
                g += work.sums[k, 0, b, G]
                h += work.sums[k, 0, b, H]
            trees.leaf[t, k] = -LEARNING_RATE * g / (h + LAMBDA)
        for i in range(n):
            work.margin[i] += trees.leaf[t, work.node[i] - NODES]


@kernel
def _sum(work: _FitScratch, first: int, nodes: int) -> None:
    """Sum the rows' gradients by node, input and bin; of leaves by the first input only."""
    width = 1 if first == NODES else work.bins.shape[0]
    for k in range(nodes):
        work.sums[k] = 0.0
    for j in range(width):
        for i in range(len(work.outcome)):
            cell = work.sums[work.node[i] - first, j, work.bins[j, i]]
            cell[G] += work.gradient[i]
            cell[H] += work.hessian[i]
            cell[ROWS] += 1.0


@kernel
def _split(trees: BoostedTrees, work: _FitScratch, t: int, node: int, sums: F64) -> None:
    """Choose the split of a node with the largest gain; none where there is no gain."""
    best = GAIN_MIN
    trees.feature[t, node] = -1
    trees.edge[t, node] = 0.0
    trees.absent_left[t, node] = False
    for j in range(sums.shape[0]):
        g_all, h_all, rows_all = 0.0, 0.0, 0.0
        for b in range(BINS + 1):
            g_all += sums[j, b, G]
            h_all += sums[j, b, H]
            rows_all += sums[j, b, ROWS]
        if j == 0:  # the bins of every input hold all rows
            trees.node_value[t, node] = -LEARNING_RATE * g_all / (h_all + LAMBDA)
        whole = g_all * g_all / (h_all + LAMBDA)
        for absent_left in range(2):
            g = sums[j, ABSENT, G] if absent_left else 0.0
            h = sums[j, ABSENT, H] if absent_left else 0.0
            rows = sums[j, ABSENT, ROWS] if absent_left else 0.0
            # after the last edge only absent values remain
            for b in range(BINS - absent_left):
                g += sums[j, b, G]
                h += sums[j, b, H]
                rows += sums[j, b, ROWS]
                if rows < ROWS_MIN or rows_all - rows < ROWS_MIN:
                    continue
                other = g_all - g
                gain = g * g / (h + LAMBDA) + other * other / (h_all - h + LAMBDA) - whole
                if gain > best:
                    best = gain
                    trees.feature[t, node] = j
                    trees.edge[t, node] = work.edges[j, b]
                    trees.absent_left[t, node] = absent_left == 1


@kernel
def _below(trees: BoostedTrees, work: _FitScratch, t: int, node: int, i: int) -> int:
    """The node to which a row goes from a node."""
    j = trees.feature[t, node]
    if j < 0:
        return 2 * node + 1
    b = work.bins[j, i]
    if b == ABSENT:
        return 2 * node + (1 if trees.absent_left[t, node] else 2)
    upper = work.edges[j, b]
    return 2 * node + (1 if upper <= trees.edge[t, node] else 2)
