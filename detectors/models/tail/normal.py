"""The tail of a value with a normal–inverse-gamma model: Student's t (see the package)."""

from math import exp, isnan, sqrt
from typing import Final

import numpy as np

from detectors.models.gaussian import surprise_of_normal
from detectors.models.tail.layout import (
    BOTH,
    CENTRE,
    COHORT_EVENTS_MIN,
    COUNT,
    DEGREES,
    HIGH,
    IS_STRANGE,
    LANES,
    LEARNED,
    LN_2,
    MEAN,
    MEAN_WEIGHT,
    MEMORY_EVENTS,
    OWN_MEAN,
    SCALE,
    SCALED,
    SPREAD,
    SQUARES,
    STEP_SQUARED,
    SURPRISE,
    SURPRISE_MAX,
    TOTAL_VARIANCE,
    VALUE,
    WEIGHT,
    WITHIN_VARIANCE,
    WITHIN_WEIGHT,
)
from detectors.numeric.elementary import ln
from detectors.numeric.kernels import kernel
from schemas.columns import F64, I64

PRIOR_SHAPE: Final = 15.0
VARIANCE_MIN: Final = 1e-3
"""Of ln(value): steps of 3 % are no risk, however regular an entity is."""
STRANGE_Z: Final = 2.5758293035489004  # normal quantile of 1 - WINSOR_P/2
WINSOR_Z: Final = 2.0
EXPECTED_Z: Final = 2.3263478740408408  # normal quantile of (1 + EXPECTED_SHARE)/2


@kernel
def normal_of_t(t_squared: float, df: float) -> float:
    """The standard normal deviate with (nearly) the tail probability of t ≥ 0 (Wallace)."""
    return (8.0 * df + 1.0) / (8.0 * df + 3.0) * sqrt(df * ln(1.0 + t_squared / df))


@kernel
def t_of_normal(z: float, df: float) -> float:
    """The inverse of `normal_of_t`."""
    c = z * (8.0 * df + 3.0) / (8.0 * df + 1.0)
    return sqrt(df * (exp(min(c * c / df, 700.0)) - 1.0))


@kernel
def _surprise(z: float, side: int) -> float:
    if side == BOTH:
        v = surprise_of_normal(abs(z)) - LN_2
    else:
        v = surprise_of_normal(z if side == HIGH else -z)
    return min(max(v, 0.0), SURPRISE_MAX)


@kernel
def score_normals(entity: F64, prior: F64, sides: I64, lanes: F64) -> bool:
    """Score each lane's y and winsorise it for learning; whether any is strange."""
    for k in range(LANES):
        y = lanes[VALUE + k] if prior[MEAN_WEIGHT + k] >= COHORT_EVENTS_MIN else np.nan
        n = entity[COUNT + k]
        m0 = prior[MEAN + k]
        total = max(prior[TOTAL_VARIANCE + k], VARIANCE_MIN)
        steps = prior[WITHIN_WEIGHT + k]
        within = steps * prior[WITHIN_VARIANCE + k] + COHORT_EVENTS_MIN * total
        within = max(within / (steps + COHORT_EVENTS_MIN), VARIANCE_MIN)
        k0 = within / max(total - within, 0.01 * total)
        part = 1.0 / (k0 + n)
        offset = entity[OWN_MEAN + k] - m0
        mu = m0 + n * part * offset
        b = PRIOR_SHAPE * within + 0.5 * max(entity[SQUARES + k], n * VARIANCE_MIN)
        b += 0.5 * k0 * n * part * offset * offset
        df = 2.0 * PRIOR_SHAPE + n
        per_df = 1.0 / df
        variance = b * (1.0 + part) * 2.0 * per_df  # (κ + 1)/κ = 1 + 1/κ
        deviation = y - mu
        scale = sqrt(variance)
        z = normal_of_t(deviation * deviation / variance, df)
        from_cohort_mean = y - m0
        present = not isnan(y)
        lanes[SURPRISE + k] = z if deviation >= 0.0 else -z
        lanes[CENTRE + k] = mu if present else np.nan
        # Cornish-Fisher's expansion of the quantile of t.
        spread = scale * (EXPECTED_Z + (3.73 + 5.7 * per_df) * per_df)
        lanes[SPREAD + k] = spread if present else np.nan
        lanes[SCALED + k] = 0.5 + 0.5 * from_cohort_mean / sqrt(
            18.0 * total + from_cohort_mean * from_cohort_mean
        )
        lanes[LEARNED + k] = lanes[VALUE + k]
        lanes[IS_STRANGE + k] = 0.0
        lanes[SCALE + k] = scale
        lanes[DEGREES + k] = df
    strange = False
    for k in range(LANES):
        if isnan(lanes[CENTRE + k]):
            lanes[SURPRISE + k] = np.nan
            continue
        z = lanes[SURPRISE + k]
        lanes[SURPRISE + k] = _surprise(z, sides[k])
        if abs(z) > WINSOR_Z:
            edge = t_of_normal(WINSOR_Z, lanes[DEGREES + k]) * lanes[SCALE + k]
            lanes[LEARNED + k] = lanes[CENTRE + k] + (edge if z >= 0.0 else -edge)
            if abs(z) > STRANGE_Z:
                lanes[IS_STRANGE + k] = 1.0
                strange = True
    return strange


@kernel
def learn_normals(entity: F64, lanes: F64, paid: bool) -> None:
    """One more value of the entity in each lane (B. P. Welford, 1962)."""
    for k in range(LANES):
        y = lanes[LEARNED + k]
        learned = not isnan(y) and (paid or lanes[IS_STRANGE + k] == 0.0)
        n = entity[COUNT + k]
        part = 1.0 / (n + 1.0)
        decay_factor = min(1.0, MEMORY_EVENTS * part)
        gain = y - entity[OWN_MEAN + k]
        square = gain * gain * n * part
        entity[COUNT + k] = decay_factor * (n + 1.0) if learned else n
        entity[OWN_MEAN + k] += gain * part if learned else 0.0
        entity[SQUARES + k] = (
            decay_factor * (entity[SQUARES + k] + square) if learned else entity[SQUARES + k]
        )
        lanes[WEIGHT + k] = part if learned else 0.0
        lanes[STEP_SQUARED + k] = square if n > 0.5 else -1.0
