"""The tail of a trial with a beta–binomial model (see the package)."""

from math import isnan, log
from typing import Final

import numpy as np

from detectors.models.tail.layout import (
    CENTRE,
    COHORT_EVENTS_MIN,
    COUNT,
    IS_STRANGE,
    LANES,
    LEARNED,
    MEAN,
    MEAN_WEIGHT,
    SCALED,
    SPREAD,
    SQUARES,
    SURPRISE,
    VALUE,
    WINSOR_P,
)
from detectors.numeric.kernels import kernel
from schemas.columns import F64

PRIOR_EVENTS: Final = 5.0
"""Weight of the cohort's share as a prior, in trials."""


@kernel
def score_shares(entity: F64, prior: F64, lanes: F64) -> bool:
    """Score each lane's trial and winsorise it for learning; whether any is strange."""
    strange = False
    for k in range(LANES):
        value = lanes[VALUE + k]
        lanes[SCALED + k] = value
        lanes[LEARNED + k] = value
        lanes[IS_STRANGE + k] = 0.0
        lanes[SURPRISE + k] = np.nan
        lanes[CENTRE + k] = np.nan
        lanes[SPREAD + k] = np.nan
        weight = prior[MEAN_WEIGHT + k]
        if isnan(value) or weight < COHORT_EVENTS_MIN:
            continue
        # Half an occurrence is added: a value that a cohort never had is rare, not impossible.
        rate = (prior[MEAN + k] * weight + 0.5) / (weight + 1.0)
        expected = PRIOR_EVENTS * rate + entity[SQUARES + k]
        expected /= PRIOR_EVENTS + entity[COUNT + k]
        lanes[SURPRISE + k] = -log(expected) if value > 0.0 else 0.0
        lanes[CENTRE + k] = expected
        lanes[SPREAD + k] = 0.0
        lanes[LEARNED + k] = min(value, expected / WINSOR_P)
        if value > 0.0 and expected < WINSOR_P:
            lanes[IS_STRANGE + k] = 1.0
            strange = True
    return strange
