"""The measures of rankings and alerts against labels, each defined once, with formula and source.
Works on arrays only; `stream.evaluation.evaluate` provides them.

A ranking is read once, by falling score, in batches of any size, so that it need not fit into
memory; equal scores are one threshold. Every measure is computed for the original data and, at the
same time, for each resample of a block bootstrap: whole blocks are drawn with replacement (H.
Künsch, Annals of Statistics 1989), because the events of one day depend on each other. Intervals are
expanded percentiles (T. Hesterberg, "What Teachers Should Know About the Bootstrap", The American
Statistician 2015): plain ones are too narrow for few blocks.
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
"""With fewer blocks there is no interval: its coverage would be too low."""
RECALL_STEPS: Final = 200
HONEST: Final = -1


class RankedRows(NamedTuple):
    """Part of a ranking, by falling score. score: float64[n]. block: int64[n], of the bootstrap.
    scenario_index: int64[n], the kind of fraud, `HONEST` if it is none. size: int64[n], how many
    events or entities the row counts. cents: int64[n], the sum of their amounts."""

    score: F64
    block: I64
    scenario_index: I64
    size: I64
    cents: I64


class RankingTotals(NamedTuple):
    """Counts of a ranking, which must be known before it is read. honest: int64[blocks]. frauds:
    int64[blocks, scenarios]."""

    honest: I64
    frauds: I64


class Curve(NamedTuple):
    """Thresholds by falling score, with counts at or above each, all float64[points]. cents: the sum of the
    frauds' amounts."""

    score: F64
    events: F64
    frauds: F64
    cents: F64


class RankingMeasures(NamedTuple):
    """The measures of a ranking. float64[1 + resamples], the original data first; NaN without frauds or
    without honest rows:

    roc_auc: P(a fraud scores above an honest one), ties count half: the area under the
    ROC curve (J. Hanley, B. McNeil, Radiology 1982).
    average_precision: Σ (rₖ - rₖ₋₁) pₖ down the distinct scores k, with recall r and precision p
    at or above k, not interpolated (scikit-learn's definition).
    recall_at_false_positives: recall at the lowest score with at most the share
    `FALSE_POSITIVES` of honest rows at or above it.

    scenario_auc, scenario_average_precision: float64[scenarios], the first two measures for one
    scenario's frauds against all honest rows. by_recall: where recall reaches each multiple of
    1/`RECALL_STEPS`. by_budget: the lowest score within each budget; its events are 0 if there is none.
    """

    roc_auc: F64
    average_precision: F64
    recall_at_false_positives: F64
    scenario_auc: F64
    scenario_average_precision: F64
    by_recall: Curve
    by_budget: Curve


class _RankingSums(NamedTuple):
    """float64[1 + resamples] each: frauds and honest rows so far; frauds_here, honest_here: those at the
    current score; the measures so far. honest_max: the number of honest rows that `FALSE_POSITIVES`
    allows. honest_all: the honest rows of the whole ranking."""

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
    """Measures a ranking that is read in batches by falling score, in constant memory.

    weights: float64[blocks, 1 + resamples], from `resample_weights`. budgets: float64[budgets], rising
    numbers of events, at which the budget curve has its points.
    """

    def __init__(self, totals: RankingTotals, weights: F64, budgets: F64 | None = None) -> None:
        self._weights = weights
        self._honest = totals.honest @ weights
        self._frauds = totals.frauds.sum(axis=1) @ weights
        self._sums = _zero_sums(self._honest)
        self._unfinished: list[RankedRows] = []
        scenarios = totals.frauds.shape[1]
        self._scenario_frauds = np.zeros(scenarios)
        self._scenario_auc, self._scenario_average_precision = np.zeros((2, scenarios))
        self._totals_so_far = np.zeros(3)
        self._by_recall: list[F64] = []
        self._recall_at = self._frauds[0] * np.arange(1, RECALL_STEPS + 1) / RECALL_STEPS
        self._budgets = np.zeros(0) if budgets is None else budgets
        self._by_budget = np.zeros((len(self._budgets), 4))

    def add(self, rows: RankedRows) -> None:
        """Add the next rows, with scores not above earlier ones."""
        if len(rows.score) == 0:
            return
        self._unfinished.append(rows)
        lowest = rows.score[-1]
        if self._unfinished[0].score[0] > lowest:
            joined = _concatenate(self._unfinished)
            # the next rows may have the lowest score, too: it is one threshold
            complete = int(np.searchsorted(-joined.score, -lowest))
            self._add_complete_scores(_slice(joined, 0, complete))
            self._unfinished = [_slice(joined, complete, len(joined.score))]
        self._unfinished = [_merge(self._unfinished)]

    def finish(self) -> RankingMeasures:
        """The measures of all rows."""
        if self._unfinished:
            self._add_complete_scores(_concatenate(self._unfinished))
        sums, honest, frauds = self._sums, self._honest, self._frauds
        by_recall = np.concatenate([np.zeros((0, 4)), *self._by_recall])
        return RankingMeasures(
            roc_auc=divide(sums.auc, honest * frauds),
            average_precision=divide(sums.precision, np.where(honest > 0, frauds, 0.0)),
            recall_at_false_positives=divide(sums.recalled, np.where(honest > 0, frauds, 0.0)),
            scenario_auc=divide(self._scenario_auc, self._scenario_frauds * honest[0]),
            scenario_average_precision=divide(
                self._scenario_average_precision, self._scenario_frauds
            ),
            by_recall=Curve(*by_recall.T),
            by_budget=Curve(*self._by_budget.T),
        )

    def _add_complete_scores(self, rows: RankedRows) -> None:
        """Add rows of scores that no later row has."""
        ends = np.append(rows.score[1:] != rows.score[:-1], True)
        _add(rows, ends, self._weights, self._sums)
        thresholds = np.flatnonzero(ends)
        is_fraud = rows.scenario_index != HONEST
        columns = (rows.size, rows.size * is_fraud, rows.cents * is_fraud)
        counts = np.stack([np.cumsum(column)[thresholds] for column in columns])
        above = counts + self._totals_so_far[:, None]
        points = np.column_stack([rows.score[thresholds], *above])
        self._add_recall_points(points)
        self._add_budget_points(points)
        self._add_scenarios(rows, thresholds, above[0] - above[1])
        self._totals_so_far = above[:, -1]

    def _add_recall_points(self, points: F64) -> None:
        reached = np.searchsorted(points[:, 2], self._recall_at)
        inside = (self._recall_at > self._totals_so_far[1]) & (reached < len(points))
        self._by_recall.append(points[np.unique(reached[inside])])

    def _add_budget_points(self, points: F64) -> None:
        within = np.searchsorted(points[:, 1], self._budgets, side="right") - 1
        self._by_budget[within >= 0] = points[within[within >= 0]]

    def _add_scenarios(self, rows: RankedRows, thresholds: I64, honest: F64) -> None:
        """honest: float64[thresholds], the number of honest rows at or above each."""
        honest_here = np.diff(honest, prepend=self._totals_so_far[0] - self._totals_so_far[1])
        below = self._honest[0] - honest + 0.5 * honest_here
        for scenario in np.unique(rows.scenario_index[rows.scenario_index != HONEST]).tolist():
            fraud_rows = np.flatnonzero(rows.scenario_index == scenario)
            at, inverse = np.unique(np.searchsorted(thresholds, fraud_rows), return_inverse=True)
            frauds = np.zeros(len(at))
            np.add.at(frauds, inverse, rows.size[fraud_rows])
            above = np.cumsum(frauds) + self._scenario_frauds[scenario]
            self._scenario_auc[scenario] += float(frauds @ below[at])
            self._scenario_average_precision[scenario] += float(
                frauds @ (above / (above + honest[at]))
            )
            self._scenario_frauds[scenario] = above[-1]


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
    """Update the sums at a threshold with frauds; thresholds without frauds change no measure."""
    for b in range(len(sums.frauds)):
        frauds, honest = sums.frauds_here[b], sums.honest_here[b]
        sums.auc[b] += frauds * (sums.honest_all[b] - sums.honest[b] - 0.5 * honest)
        sums.frauds[b] += frauds
        sums.honest[b] += honest
        if frauds > 0.0:
            precision = sums.frauds[b] / (sums.frauds[b] + sums.honest[b])
            sums.precision[b] += frauds * precision
        if sums.honest[b] <= sums.honest_max[b]:
            sums.recalled[b] = sums.frauds[b]
        sums.frauds_here[b] = 0.0
        sums.honest_here[b] = 0.0


def _zero_sums(honest: F64) -> _RankingSums:
    a, b, c, d, e, f, g = np.zeros((7, len(honest)))
    return _RankingSums(a, b, c, d, e, f, g, np.floor(FALSE_POSITIVES * honest), honest)


def _concatenate(rows: list[RankedRows]) -> RankedRows:
    return RankedRows._make(np.concatenate(columns) for columns in zip(*rows, strict=True))


def _merge(rows: list[RankedRows]) -> RankedRows:
    """Rows of one score, merged by block and scenario, so that their number is bounded."""
    joined = _concatenate(rows)
    keys, inverse = np.unique(
        np.stack([joined.block, joined.scenario_index]), axis=1, return_inverse=True
    )
    size, cents = np.zeros((2, keys.shape[1]), np.int64)
    np.add.at(size, inverse, joined.size)
    np.add.at(cents, inverse, joined.cents)
    return RankedRows(np.full(len(size), joined.score[0]), keys[0], keys[1], size, cents)


def _slice(rows: RankedRows, start: int, stop: int) -> RankedRows:
    return RankedRows._make(column[start:stop] for column in rows)


def resample_weights(blocks: int, resamples: int = RESAMPLES, seed: int = SEED) -> F64:
    """float64[blocks, 1 + resamples]: how often each block is drawn. The first column is 1 for the
    original data; with fewer than `BLOCKS_MIN` blocks there is no other column."""
    once = np.ones((blocks, 1))
    if blocks < BLOCKS_MIN:
        return once
    draws = Generator(PCG64(seed)).multinomial(blocks, np.full(blocks, 1 / blocks), resamples)
    return np.concatenate([once, draws.T], axis=1)


def with_interval(values: F64, blocks: int) -> Estimate:
    """The first of the values, and the interval of the others, if there is one. values:
    float64[1 + resamples], NaN where undefined. blocks: the number of blocks with data for the measure.
    There is no interval for fewer than `BLOCKS_MIN` blocks, or if all resamples are equal."""
    if np.isnan(values[0]):
        return Estimate(value=None, low=None, high=None)
    defined = values[1:][~np.isnan(values[1:])]
    if blocks < BLOCKS_MIN or len(defined) == 0 or defined.min() == defined.max():
        return Estimate(value=float(values[0]), low=None, high=None)
    tail = _tail(blocks)
    # "weibull": the i-th smallest of n draws is the quantile i/(n + 1)
    low, high = np.quantile(defined, (tail, 1 - tail), method="weibull")
    return Estimate(value=float(values[0]), low=float(low), high=float(high))


def sign(difference: Estimate, blocks: int) -> int:
    """1 if a difference is significantly above 0, -1 if below, else 0. Significant: its interval excludes
    0, or it is the same in all resamples of at least `BLOCKS_MIN` blocks."""
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
    quotient = np.full(len(part), np.nan)
    np.divide(part, whole, out=quotient, where=whole > 0)
    return quotient


def quantile(values: F64, block: I64, share: float, weights: F64) -> Estimate:
    """The smallest value with that share of the values at or below it (R. Hyndman, Y. Fan, American
    Statistician 1996, definition 1). values: float64[n]; block: int64[n], of each value."""
    order = np.argsort(values, kind="stable")
    ordered, quantiles = values[order], np.full(weights.shape[1], np.nan)
    for b in range(len(quantiles)):
        cumulated = np.cumsum(weights[block[order], b])
        if len(cumulated) and cumulated[-1] > 0:
            quantiles[b] = ordered[np.searchsorted(cumulated, share * cumulated[-1])]
    return with_interval(quantiles, len(np.unique(block)))


def found_in_top(entity: Sequence[str], fraud: Sequence[bool], k: int, known: set[str]) -> set[str]:
    """The frauds among the first k entities of a day's ranking, without entities known from earlier days:
    the daily term of the card precision top-k of the Fraud Detection Handbook (Y. Le Borgne et al., 2022,
    chapter 4)."""
    top = [i for i, name in enumerate(entity) if name not in known][:k]
    return {entity[i] for i in top if fraud[i]}


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
