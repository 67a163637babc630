"""Estimates with 95 % intervals: the only place where `make quality` resamples.

An interval is a block bootstrap with seed, for all draws at once. The blocks are days, or entities
where a set has fewer than eight days; of made-up data they are seeds. Where all draws agree, or there
are too few blocks, the interval is the value alone.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.columns import F64, I64, Bools
from stream.evaluation.measures import (
    HONEST,
    RankedRows,
    RankingMeasures,
    RankingReader,
    RankingTotals,
    divide,
    resample_weights,
    with_interval,
)

RESAMPLES: Final = 400
SEED: Final = 15
DAY_MS: Final = 86_400_000


class Estimate(NamedTuple):
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float


class Draws(NamedTuple):
    """A figure for every draw. values: float64[1 + draws], the data as they are first. blocks: how
    many blocks are drawn."""

    values: F64
    blocks: int

    def estimate(self) -> Estimate:
        """The figure with its interval."""
        found = with_interval(self.values, self.blocks)
        value = float(self.values[0])
        return Estimate(
            value,
            value if found.low is None else found.low,
            value if found.high is None else found.high,
        )

    def less(self, other: "Draws") -> "Draws":
        """The figure less another one on the same draws: a paired difference."""
        return Draws(self.values - other.values, self.blocks)


class Ranking(NamedTuple):
    """AUC and average precision."""

    auc: Draws
    ap: Draws


class Blocks(NamedTuple):
    """of: int64[n], the block of each row. weights: float64[blocks, 1 + draws], how often each
    block is drawn, in the first column once."""

    of: I64
    weights: F64

    def draws(self, values: F64) -> Draws:
        """Of float64[1 + draws]."""
        return Draws(values, len(self.weights))


def blocks(labels: Sequence[object] | NDArray[Any], strata: I64 | None = None) -> Blocks:
    """The blocks that rows belong to. labels: the block of each row. strata: int64[n], of which each
    is resampled by itself; a block lies in one stratum."""
    _, first, of = np.unique(np.asarray(labels), return_index=True, return_inverse=True)
    if strata is None:
        return Blocks(of, resample_weights(len(first), RESAMPLES, SEED))
    stratum = strata[first]
    weights = np.ones((len(first), 1 + RESAMPLES))
    draw = np.random.Generator(np.random.PCG64(SEED))
    for one in np.unique(stratum):
        mine = np.flatnonzero(stratum == one)
        weights[mine, 1:] = draw.multinomial(
            len(mine), np.full(len(mine), 1 / len(mine)), RESAMPLES
        ).T
    return Blocks(of, weights)


def by_day(time_ms: I64, entity: Sequence[object], days_min: int = 8) -> Blocks:
    """Days as blocks, or the entities where there are fewer days."""
    day = time_ms // DAY_MS
    return blocks(day if len(np.unique(day)) >= days_min else entity)


def ranking(score: F64, fraud: Bools, of: Blocks) -> Ranking:
    """AUC and average precision of rows."""
    order = np.argsort(-score, kind="stable")
    block, is_fraud = of.of[order], fraud[order]
    honest, frauds = (
        np.bincount(block[which], minlength=len(of.weights)) for which in (~is_fraud, is_fraud)
    )
    reader = RankingReader(RankingTotals(honest, frauds[:, None]), of.weights)
    scenario = np.where(is_fraud, 0, HONEST).astype(np.int64)
    ones = np.ones_like(block)
    reader.add(RankedRows(score[order], block, scenario, ones, np.zeros_like(block)))
    found: RankingMeasures = reader.finish()
    return Ranking(of.draws(found.roc_auc), of.draws(found.average_precision))


def total(values: F64, of: Blocks) -> Draws:
    """The sum of the rows' values."""
    return of.draws(_sums(values, of))


def ratio(part: F64, whole: F64, of: Blocks) -> Draws:
    """Σ part / Σ whole."""
    return of.draws(divide(_sums(part, of), _sums(whole, of)))


def median(values: F64, of: Blocks) -> Draws:
    """The median of the rows' values, NaN where there is no row."""
    if len(values) == 0:
        return of.draws(np.full(of.weights.shape[1], np.nan))
    order = np.argsort(values, kind="stable")
    passed = np.cumsum(of.weights[of.of[order]], axis=0)
    half, ordered = 0.5 * passed[-1], values[order]
    # the mean of the least value with at least half at or below it and the least with more than half
    lower, upper = ((passed >= half).argmax(axis=0), (passed > half).argmax(axis=0))
    return of.draws(np.where(passed[-1] > 0, 0.5 * (ordered[lower] + ordered[upper]), np.nan))


def by_seed(values: Sequence[float]) -> Draws:
    """The mean over seeds."""
    return total(np.array(values) / len(values), blocks(range(len(values))))


def _sums(values: F64, of: Blocks) -> F64:
    found: F64 = np.bincount(of.of, values, len(of.weights)) @ of.weights
    return found
