"""The tail of a rate with a gamma–Poisson model: a negative binomial (see the package)."""

from math import isnan, log, sqrt
from typing import Final

import numpy as np

from detectors.models.tail.layout import (
    CENTRE,
    COHORT_EVENTS_MIN,
    COUNT,
    DEGREES,
    IS_STRANGE,
    LANES,
    LEARNED,
    LN_2,
    MEAN,
    MEAN_WEIGHT,
    SCALE,
    SCALED,
    SPREAD,
    SQUARES,
    STRANGE_SURPRISE,
    SURPRISE,
    SURPRISE_MAX,
    TOTAL_VARIANCE,
    VALUE,
)
from detectors.numeric.beta import incomplete_beta
from detectors.numeric.combination import P_MIN
from detectors.numeric.elementary import ln
from detectors.numeric.kernels import kernel
from schemas.columns import F64

POISSON_FACTOR: Final = 2.0
"""A decayed count at a steady rate, times this, is nearly Poisson."""
SHAPE_MAX: Final = 10
"""Largest α: an entity's rate changes with the hour, so it is never known more exactly."""
RATE_MIN: Final = 1e-4
RATE_WINSOR_SD: Final = 2.0
EXPECTED_SD: Final = 3.0  # of a rate, whose distribution is skewed


@kernel
def score_rates(entity: F64, prior: F64, lanes: F64) -> bool:
    """Score each lane's decayed count and winsorise it for learning; whether any is strange."""
    for k in range(LANES):
        count = lanes[VALUE + k] if prior[MEAN_WEIGHT + k] >= COHORT_EVENTS_MIN else np.nan
        peer_mean = max(prior[MEAN + k], RATE_MIN)
        excess_variance = max(
            prior[TOTAL_VARIANCE + k] - peer_mean / POISSON_FACTOR, 0.01 * peer_mean * peer_mean
        )
        shape = peer_mean * peer_mean / excess_variance
        entity_events = POISSON_FACTOR * entity[SQUARES + k]
        mean = (shape + entity_events) / (shape / peer_mean + POISSON_FACTOR * entity[COUNT + k])
        shape = min(shape + entity_events, SHAPE_MAX)
        x = mean / (mean + shape / POISSON_FACTOR)
        below_mean = count <= mean
        a = POISSON_FACTOR * count
        log_tail = ln(1.0 - 0.5 * count / mean if below_mean else _negative_binomial_sum(x, a))
        log_p = a * ln(x) + log_tail
        surprise = -log_tail if below_mean else LN_2 - min(log_p, 0.0)
        deviation = sqrt(mean / POISSON_FACTOR + mean * mean / shape)
        present = not isnan(count)
        lanes[SURPRISE + k] = min(surprise, SURPRISE_MAX) if present else np.nan
        lanes[IS_STRANGE + k] = 1.0 if present and surprise > LN_2 + STRANGE_SURPRISE else 0.0
        lanes[CENTRE + k] = mean if present else np.nan
        lanes[SPREAD + k] = EXPECTED_SD * deviation if present else np.nan
        lanes[SCALED + k] = count / (count + peer_mean + 0.5)
        maximum = mean + RATE_WINSOR_SD * deviation if present else lanes[VALUE + k]
        lanes[LEARNED + k] = min(lanes[VALUE + k], maximum)
        lanes[SCALE + k] = x
        lanes[DEGREES + k] = shape
    strange = False
    for k in range(LANES):
        if lanes[DEGREES + k] < SHAPE_MAX and lanes[VALUE + k] > lanes[CENTRE + k]:
            a = POISSON_FACTOR * lanes[VALUE + k]
            surprise = LN_2 + max(surprise_of_count(lanes[SCALE + k], a, lanes[DEGREES + k]), 0.0)
            lanes[SURPRISE + k] = min(surprise, SURPRISE_MAX)
            lanes[IS_STRANGE + k] = 1.0 if surprise > LN_2 + STRANGE_SURPRISE else 0.0
        strange |= lanes[IS_STRANGE + k] > 0.0
    return strange


@kernel
def _negative_binomial_sum(x: float, a: float) -> float:
    """Σ_{j<SHAPE_MAX} (a)_j/j! (1 - x)^j."""
    total = 1.0
    for j in range(SHAPE_MAX - 1, 0, -1):
        total = 1.0 + (a + (j - 1.0)) * (1.0 - x) * (1.0 / j) * total
    return total


@kernel
def surprise_of_count(x: float, a: float, shape: float) -> float:
    """-ln I_x(a, shape); a, shape > 0."""
    if shape < SHAPE_MAX:
        return -log(max(incomplete_beta(x, a, shape), P_MIN))
    return -(a * ln(x) + ln(_negative_binomial_sum(x, a)))
