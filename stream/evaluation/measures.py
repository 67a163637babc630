"""The measures of rankings and alerts against labels, each defined once, with formula and source.
They take arrays, which `stream.evaluation.evaluate` provides.

A ranking is read once, by falling score, in pieces of any size, so that it need not fit into
memory; equal scores are one threshold. Every measure is computed for the data and, at the same time,
for each resample of a block bootstrap: whole blocks are drawn with replacement (H. Künsch, Annals of
Statistics 1989), because events of one day depend on each other. Intervals are
expanded percentiles (T. Hesterberg, "What Teachers Should Know About the Bootstrap", The American
Statistician 2015): plain ones are too narrow where blocks are few.
"""

from collections.abc import Sequence
from math import sqrt
from statistics import NormalDist
from typing import Final, NamedTuple

import numpy as np
from numpy.random import PCG64, Generator

from detectors.numeric.kernels import kernel
from schemas.columns import F64, I64, Bools
from stream.evaluation.results import Estimate

RESAMPLES: Final = 200
SEED: Final = 2018
FALSE_POSITIVES: Final = 1e-3
BLOCKS_MIN: Final = 8
"""With fewer blocks there is no interval: it would not have its stated coverage."""
RECALL_STEPS: Final = 200
HONEST: Final = -1


class RankedRows(NamedTuple):
    """Part of a ranking, by falling score. score: float64[n]. block: int64[n], of the bootstrap.
    scenario_index: int64[n], `HONEST` for honest rows. size: int64[n], the number of equal rows
    that this one stands for. cents: int64[n], their amounts together."""

    score: F64
    block: I64
    scenario_index: I64
    size: I64
    cents: I64


class RankingTotals(NamedTuple):
    """The totals of a ranking, which must be known before it is read. honest: int64[blocks]. frauds:
    int64[blocks, scenarios]."""

    honest: I64
    frauds: I64


class Curve(NamedTuple):
    """Totals at or above each threshold, by falling score. All float64[points]; cents: amounts of
    the frauds."""

    score: F64
    events: F64
    frauds: F64
    cents: F64


class RankingMeasures(NamedTuple):
    """The measures of a ranking. float64[1 + resamples], the data as they are first, NaN
    without frauds or without honest rows:

    roc_auc: P(a fraud scores above an honest one), ties counted half, which is the area under the
    ROC curve (J. Hanley, B. McNeil, Radiology 1982).
    average_precision: Σ (rₖ - rₖ₋₁) pₖ down the distinct scores k, with recall r and precision p
    at or above k, not interpolated (scikit-learn's definition).
    recall_at_false_positives: recall at the lowest score at or above which lies no more than the
    share `FALSE_POSITIVES` of what is honest.

    scenario_auc, scenario_precision: float64[scenarios], the first two of one scenario's frauds
    against everything honest. by_recall: where recall reaches each multiple of 1/`RECALL_STEPS`.
    by_budget: the lowest score that keeps within each budget, its events 0 where none does.
    """

    roc_auc: F64
    average_precision: F64
    recall_at_false_positives: F64
    scenario_auc: F64
    scenario_precision: F64
    by_recall: Curve
    by_budget: Curve


class _RankingSums(NamedTuple):
    """float64[1 + resamples] each: frauds and honest rows so far; the same at the current
    score (_here); and partial sums of the measures. honest_max: honest rows allowed by
    `FALSE_POSITIVES`; honest_all: honest rows of the whole ranking."""

    frauds: F64
    honest: F64
    frauds_here: F64
    honest_here: F64
    auc: F64
    precision: F64
    recalled: F64
    honest_max: F64
    honest_all: F64


class RankingReader:
    """Takes a ranking by falling score, piece by piece, in constant memory.

    weights: float64[blocks, 1 + resamples], as `resample_weights` gives them. budgets: float64[budgets],
    rising numbers of events at whose thresholds the budget curve is wanted.
    """

    def __init__(self, totals: RankingTotals, weights: F64, budgets: F64 | None = None) -> None:
        self._weights = weights
        self._honest = totals.honest @ weights
        self._frauds = totals.frauds.sum(axis=1) @ weights
        self._sums = _zero_sums(self._honest)
        self._incomplete: list[RankedRows] = []
        scenarios = totals.frauds.shape[1]
        self._of_scenario = np.zeros(scenarios)
        self._scenario_auc, self._scenario_precision = np.zeros((2, scenarios))
        self._so_far = np.zeros(3)
        self._by_recall: list[F64] = []
        self._recall_at = self._frauds[0] * np.arange(1, RECALL_STEPS + 1) / RECALL_STEPS
        self._budgets = np.zeros(0) if budgets is None else budgets
        self._by_budget = np.zeros((len(self._budgets), 4))

    def add(self, rows: RankedRows) -> None:
        """Add the next rows, whose scores are not above earlier ones."""
        if len(rows.score) == 0:
            return
        self._incomplete.append(rows)
        lowest = rows.score[-1]
        if self._incomplete[0].score[0] > lowest:
            joined = _joined(self._incomplete)
            # the next rows may have the same lowest score, which is one threshold
            whole = int(np.searchsorted(-joined.score, -lowest))
            self._add_whole_scores(_slice(joined, 0, whole))
            self._incomplete = [_slice(joined, whole, len(joined.score))]
        self._incomplete = [_merged(self._incomplete)]

    def finish(self) -> RankingMeasures:
        """The measures of all added rows."""
        if self._incomplete:
            self._add_whole_scores(_joined(self._incomplete))
        sums, honest, frauds = self._sums, self._honest, self._frauds
        by_recall = np.concatenate([np.zeros((0, 4)), *self._by_recall])
        return RankingMeasures(
            roc_auc=divide(sums.auc, honest * frauds),
            average_precision=divide(sums.precision, np.where(honest > 0, frauds, 0.0)),
            recall_at_false_positives=divide(sums.recalled, np.where(honest > 0, frauds, 0.0)),
            scenario_auc=divide(self._scenario_auc, self._of_scenario * honest[0]),
            scenario_precision=divide(self._scenario_precision, self._of_scenario),
            by_recall=Curve(*by_recall.T),
            by_budget=Curve(*self._by_budget.T),
        )

    def _add_whole_scores(self, rows: RankedRows) -> None:
        """Add rows that include every row of each of their scores."""
        ends = np.append(rows.score[1:] != rows.score[:-1], True)
        _add(rows, ends, self._weights, self._sums)
        at = np.flatnonzero(ends)
        is_fraud = rows.scenario_index != HONEST
        columns = (rows.size, rows.size * is_fraud, rows.cents * is_fraud)
        passed = np.stack([np.cumsum(column)[at] for column in columns]) + self._so_far[:, None]
        points = np.column_stack([rows.score[at], *passed])
        self._note_recall(points)
        self._note_budgets(points)
        self._note_scenarios(rows, at, passed[0] - passed[1])
        self._so_far = passed[:, -1]

    def _note_recall(self, points: F64) -> None:
        reached = np.searchsorted(points[:, 2], self._recall_at)
        inside = (self._recall_at > self._so_far[1]) & (reached < len(points))
        self._by_recall.append(points[np.unique(reached[inside])])

    def _note_budgets(self, points: F64) -> None:
        within = np.searchsorted(points[:, 1], self._budgets, side="right") - 1
        self._by_budget[within >= 0] = points[within[within >= 0]]

    def _note_scenarios(self, rows: RankedRows, at: I64, honest: F64) -> None:
        """honest: float64[thresholds], so many at or above each."""
        honest_here = np.diff(honest, prepend=self._so_far[0] - self._so_far[1])
        below = self._honest[0] - honest + 0.5 * honest_here
        for scenario in np.unique(rows.scenario_index[rows.scenario_index != HONEST]).tolist():
            scenario_rows = np.flatnonzero(rows.scenario_index == scenario)
            places, which = np.unique(np.searchsorted(at, scenario_rows), return_inverse=True)
            here = np.zeros(len(places))
            np.add.at(here, which, rows.size[scenario_rows])
            above = np.cumsum(here) + self._of_scenario[scenario]
            self._scenario_auc[scenario] += float(here @ below[places])
            self._scenario_precision[scenario] += float(here @ (above / (above + honest[places])))
            self._of_scenario[scenario] = above[-1]


@kernel
def _add(rows: RankedRows, ends: Bools, weights: F64, sums: _RankingSums) -> None:
    first = 0
    while first < len(ends):
        last = first
        frauds = rows.scenario_index[first] != HONEST
        while not ends[last]:
            last += 1
            frauds |= rows.scenario_index[last] != HONEST
        for i in range(first, last + 1):
            here = sums.honest_here if frauds else sums.honest
            if rows.scenario_index[i] != HONEST:
                here = sums.frauds_here
            _add_weighted(here, weights[rows.block[i]], float(rows.size[i]))
        if frauds:
            _close_threshold(sums)
        first = last + 1


@kernel
def _add_weighted(sums: F64, weight: F64, size: float) -> None:
    for b in range(len(sums)):
        sums[b] += weight[b] * size


@kernel
def _close_threshold(sums: _RankingSums) -> None:
    """Add a threshold with frauds; a threshold without frauds changes no measure."""
    for b in range(len(sums.frauds)):
        frauds, honest = sums.frauds_here[b], sums.honest_here[b]
        sums.auc[b] += frauds * (sums.honest_all[b] - sums.honest[b] - 0.5 * honest)
        sums.frauds[b] += frauds
        sums.honest[b] += honest
        if frauds > 0.0:
            found = sums.frauds[b] / (sums.frauds[b] + sums.honest[b])
            sums.precision[b] += frauds * found
        if sums.honest[b] <= sums.honest_max[b]:
            sums.recalled[b] = sums.frauds[b]
        sums.frauds_here[b] = 0.0
        sums.honest_here[b] = 0.0


def _zero_sums(honest: F64) -> _RankingSums:
    a, b, c, d, e, f, g = np.zeros((7, len(honest)))
    return _RankingSums(a, b, c, d, e, f, g, np.floor(FALSE_POSITIVES * honest), honest)


def _joined(rows: list[RankedRows]) -> RankedRows:
    return RankedRows._make(np.concatenate(columns) for columns in zip(*rows, strict=True))


def _merged(rows: list[RankedRows]) -> RankedRows:
    """Rows of one score, merged by block and scenario, so that memory is bounded."""
    every = _joined(rows)
    places, which = np.unique(
        np.stack([every.block, every.scenario_index]), axis=1, return_inverse=True
    )
    size, cents = np.zeros((2, places.shape[1]), np.int64)
    np.add.at(size, which, every.size)
    np.add.at(cents, which, every.cents)
    return RankedRows(np.full(len(size), every.score[0]), places[0], places[1], size, cents)


def _slice(rows: RankedRows, start: int, stop: int) -> RankedRows:
    return RankedRows._make(column[start:stop] for column in rows)


def resample_weights(blocks: int, resamples: int = RESAMPLES, seed: int = SEED) -> F64:
    """float64[blocks, 1 + resamples]: how often each block is drawn. The first column, all 1, is
    the data itself; with too few blocks it is the only one."""
    once = np.ones((blocks, 1))
    if blocks < BLOCKS_MIN:
        return once
    draws = Generator(PCG64(seed)).multinomial(blocks, np.full(blocks, 1 / blocks), resamples)
    return np.concatenate([once, draws.T], axis=1)


def with_interval(values: F64, blocks: int) -> Estimate:
    """The first value, with the interval of the others. values: float64[1 + resamples], NaN where
    undefined. blocks: the number of blocks that contribute to the value. There is no interval with too
    few blocks, or if all resamples give the same value."""
    if np.isnan(values[0]):
        return Estimate(value=None, low=None, high=None)
    known = values[1:][~np.isnan(values[1:])]
    if blocks < BLOCKS_MIN or len(known) == 0 or known.min() == known.max():
        return Estimate(value=float(values[0]), low=None, high=None)
    tail = _tail(blocks)
    # of n draws the i-th least is as a rule the quantile i/(n + 1): "weibull"
    low, high = np.quantile(known, (tail, 1 - tail), method="weibull")
    return Estimate(value=float(values[0]), low=float(low), high=float(high))


def sign(difference: Estimate, blocks: int) -> int:
    """1 if a difference is significantly above 0, -1 if below, else 0. It is significant if its interval
    excludes 0, or if enough blocks contribute to it and all resamples give the same value."""
    low, high = difference.low, difference.high
    if low is None and blocks >= BLOCKS_MIN:
        low = high = difference.value
    return 0 if low is None or high is None else int(low > 0.0) - int(high < 0.0)


def _tail(blocks: int) -> float:
    """The share of resamples beyond either end of a 95 % interval: Φ(-t √(n/(n-1))), with t the
    97.5 % quantile of Student's distribution with n-1 degrees of freedom, to within 5e-5 by its
    expansion about the normal one (M. Abramowitz, I. Stegun, 1964, 26.7.5)."""
    normal, freedom = NormalDist(), blocks - 1
    x = normal.inv_cdf(0.975)
    terms = (
        (x**3 + x) / 4,
        (5 * x**5 + 16 * x**3 + 3 * x) / 96,
        (3 * x**7 + 19 * x**5 + 17 * x**3 - 15 * x) / 384,
        (79 * x**9 + 776 * x**7 + 1_482 * x**5 - 1_920 * x**3 - 945 * x) / 92_160,
    )
    t = x + sum(term / freedom**power for power, term in enumerate(terms, 1))
    return normal.cdf(-t * sqrt(blocks / freedom))


def ratio(part: I64, whole: I64, weights: F64) -> Estimate:
    """Σ part / Σ whole over the blocks, such as precision (frauds among what was alerted) and
    recall (alerted among the frauds). part, whole: int64[blocks]."""
    return with_interval(divide(part @ weights, whole @ weights), int(np.count_nonzero(whole)))


def divide(part: F64, whole: F64) -> F64:
    """part/whole, NaN where whole is 0."""
    found = np.full(len(part), np.nan)
    np.divide(part, whole, out=found, where=whole > 0)
    return found


def quantile(values: F64, block: I64, share: float, weights: F64) -> Estimate:
    """The least value at or below which lies that share of the values (R. Hyndman, Y. Fan, American
    Statistician 1996, definition 1). values: float64[n]; block: int64[n], theirs."""
    order = np.argsort(values, kind="stable")
    ordered, found = values[order], np.full(weights.shape[1], np.nan)
    for b in range(len(found)):
        passed = np.cumsum(weights[block[order], b])
        if len(passed) and passed[-1] > 0:
            found[b] = ordered[np.searchsorted(passed, share * passed[-1])]
    return with_interval(found, len(np.unique(block)))


def found_in_top(entity: Sequence[str], fraud: Sequence[bool], k: int, known: set[str]) -> set[str]:
    """The frauds among the first k entities of a day's ranking, those known left out: a day's part
    of the card precision top-k of the Fraud Detection Handbook (Y. Le Borgne et al., 2022, chapter
    4), where what was found on an earlier day is known on the later ones."""
    fresh = [i for i, name in enumerate(entity) if name not in known][:k]
    return {entity[i] for i in fresh if fraud[i]}


def roc_auc(score: F64, fraud: Bools) -> float:
    """`RankingMeasures.roc_auc` of one array of scores."""
    return float(_ranked(score, fraud).roc_auc[0])


def average_precision(score: F64, fraud: Bools) -> float:
    """`RankingMeasures.average_precision` of one array of scores."""
    return float(_ranked(score, fraud).average_precision[0])


def _ranked(score: F64, fraud: Bools) -> RankingMeasures:
    order = np.argsort(-score, kind="stable")
    zeros, ones = np.zeros(len(score), np.int64), np.ones(len(score), np.int64)
    scenario = np.where(fraud[order], 0, HONEST).astype(np.int64)
    frauds = int(fraud.sum())
    reader = RankingReader(
        RankingTotals(np.array([len(score) - frauds]), np.array([[frauds]])), resample_weights(1)
    )
    reader.add(RankedRows(score[order], zeros, scenario, ones, zeros))
    return reader.finish()
