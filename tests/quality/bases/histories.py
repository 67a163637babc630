"""What an entity's earlier events say of its next one: z-scores, sums over windows, gaps.

All are causal: a row's value uses earlier rows only, and a distribution that is not updated is fitted
on the early part. Rows are in order of time; entities are numbers from 0.
"""

from typing import NamedTuple

import numpy as np

from detectors.numeric.kernels import kernel
from schemas.columns import F64, I64, Bools


class ShrinkageSettings(NamedTuple):
    """Of `shrunken_z`. mean, variance: of an entity that was never seen; events_mean,
    events_variance: how many events each counts for; limit: values further than so many standard
    deviations from the mean are learned as if they were there."""

    mean: float
    variance: float
    events_mean: float
    events_variance: float
    limit: float


def group_z(values: F64, group: I64, early: Bools) -> F64:
    """z of each value by its group's mean and standard deviation in the early part; 0 in a group
    without any spread there."""
    groups = int(group.max(initial=-1)) + 1
    seen = np.maximum(np.bincount(group[early], minlength=groups), 1)
    mean, square = (
        np.bincount(group[early], some[early], groups) / seen for some in (values, values**2)
    )
    spread = np.sqrt(np.maximum(square - mean**2, 0.0))
    off: F64 = values - mean[group]
    return np.divide(off, spread[group], out=np.zeros(len(values)), where=spread[group] > 0.0)


def running_z(values: F64, entity: I64) -> F64:
    """z against the entity's earlier values (B. P. Welford), 0 before there are two."""
    z = np.zeros(len(values))
    _running_z(values, entity, np.zeros((int(entity.max(initial=-1)) + 1, 3)), z)
    return z


@kernel
def _running_z(values: F64, entity: I64, known: F64, z: F64) -> None:
    for i in range(len(values)):
        own = known[entity[i]]
        off = values[i] - own[1]
        if own[0] >= 2.0:
            z[i] = off / max(np.sqrt(own[2] / (own[0] - 1.0)), 1e-9)
        own[0] += 1.0
        own[1] += off / own[0]
        own[2] += off * (values[i] - own[1])


def shrunken_z(values: F64, entity: I64, early: Bools) -> F64:
    """z against the entity's earlier values, shrunken to what is usual in the early part.

    Mean (k·m + Σx)/(k + n) and variance (l·s² + Σ(x - x̄)²)/(l + n - 1), m and s² the means of the
    entities' own in the early part, k = 3, l = 20; z = (x - mean)/√(variance·(1 + 1/(k + n))). A
    value is learned as at most 2.5 standard deviations from the mean. Chosen on the Handbook before
    18 July 2018 (average precision .299; without the limit .285).
    """
    entities = int(entity.max(initial=-1)) + 1
    seen = np.bincount(entity[early], minlength=entities)
    some = np.maximum(seen, 1)
    mean, square = (
        np.bincount(entity[early], x[early], entities) / some for x in (values, values**2)
    )
    usual = seen >= min(20, int(seen.max(initial=0)))
    settings = ShrinkageSettings(
        float(mean[usual].mean()),
        max(float((square - mean**2)[usual].mean()), 1e-12),
        events_mean=3.0,
        events_variance=20.0,
        limit=2.5,
    )
    z = np.zeros(len(values))
    _shrunken_z(values, entity, settings, np.zeros((entities, 3)), z)
    return z


@kernel
def _shrunken_z(values: F64, entity: I64, settings: ShrinkageSettings, known: F64, z: F64) -> None:
    prior_mean, prior_variance, k, variance_events, limit = settings
    for i in range(len(values)):
        own = known[entity[i]]
        n = own[0]
        mean = (k * prior_mean + own[1]) / (k + n)
        squares = max(own[2] - own[1] * own[1] / max(n, 1.0), 0.0)
        variance = (variance_events * prior_variance + squares) / (
            variance_events + max(n - 1.0, 0.0)
        )
        spread = np.sqrt(variance * (1.0 + 1.0 / (k + n)))
        z[i] = (values[i] - mean) / spread
        learned = mean + spread * min(max(z[i], -limit), limit)
        own[0] += 1.0
        own[1] += learned
        own[2] += learned * learned


def window_sums(
    values: F64, entity: I64, time_ms: I64, window_ms: int, delay_ms: int = 0
) -> tuple[F64, F64]:
    """Of each row: how many earlier rows its entity has in the window, and the sum of their values.
    The window ends delay_ms before the row; its end belongs to it, its start does not; a row of
    the same time counts where it comes first."""
    count, total = np.zeros((2, len(values)))
    known = np.zeros((int(entity.max(initial=-1)) + 1, 2))
    _window_sums((values, entity, time_ms), (window_ms, delay_ms), known, count, total)
    return count, total


@kernel
def _window_sums(
    events: tuple[F64, I64, I64], window: tuple[int, int], known: F64, count: F64, total: F64
) -> None:
    values, entity, time_ms = events
    window_ms, delay_ms = window
    come, gone = 0, 0
    for i in range(len(values)):
        until_ms = time_ms[i] - delay_ms
        while come < i and time_ms[come] <= until_ms:
            known[entity[come], 0] += 1.0
            known[entity[come], 1] += values[come]
            come += 1
        while gone < come and time_ms[gone] <= until_ms - window_ms:
            known[entity[gone], 0] -= 1.0
            known[entity[gone], 1] -= values[gone]
            gone += 1
        count[i], total[i] = known[entity[i], 0], known[entity[i], 1]


def gaps(entity: I64, time_ms: I64) -> F64:
    """float64[n]: milliseconds since the entity's row before, NaN at its first."""
    order = np.argsort(entity, kind="stable")
    first = np.diff(entity[order], prepend=-1) != 0
    gap = np.diff(time_ms[order], prepend=0).astype(np.float64)
    found = np.zeros(len(entity))
    found[order] = np.where(first, np.nan, gap)
    return found
