"""Learning of a cohort from its entities' events, and the choice of the prior."""

from math import isnan, sqrt
from typing import Final

from detectors.models.tail.layout import (
    COHORT_WORDS,
    IS_STRANGE,
    LANES,
    LEARNED,
    MEAN,
    MEAN_WEIGHT,
    NORMAL,
    RATE,
    STEP_SQUARED,
    STRANGE_SHARE,
    TOTAL_VARIANCE,
    VALUE,
    WEIGHT,
    WITHIN_VARIANCE,
    WITHIN_WEIGHT,
)
from detectors.numeric.kernels import kernel
from detectors.numeric.protection import MODEL_WRONG_SHARE, update_share
from schemas.columns import F64

COHORT_TRUSTED: Final = 200.0
"""Weight, nearly the number of entities, from which on a cohort's own moments are the prior; below it,
those of all entities are."""
COHORT_SD: Final = 5.0
"""A cohort winsorises a rate at this many of its standard deviations above its mean."""
COHORT_MEMORY: Final = 20_000.0
"""Events after which a cohort's moments have decayed."""


@kernel
def choose_prior(all_entities: F64, cohort: F64, prior: F64) -> None:
    """Write a cohort's words into `prior` in the lanes where it is trusted, else all entities' words."""
    for word in range(0, COHORT_WORDS, LANES):
        for k in range(LANES):
            trusted = cohort[MEAN_WEIGHT + k] >= COHORT_TRUSTED
            prior[word + k] = cohort[word + k] if trusted else all_entities[word + k]


@kernel
def update_strange_share(all_entities: F64, lanes: F64, learn: bool) -> None:
    """Update the share of strange values in each lane. Where it is large the model is wrong: no value
    of the lane is then strange."""
    for k in range(LANES):
        before = all_entities[STRANGE_SHARE + k]
        after = update_share(before, lanes[IS_STRANGE + k] > 0.0)
        share = after if learn and not isnan(lanes[VALUE + k]) else before
        all_entities[STRANGE_SHARE + k] = share
        lanes[IS_STRANGE + k] = lanes[IS_STRANGE + k] if share < MODEL_WRONG_SHARE else 0.0


@kernel
def learn_cohort(family: int, cohort: F64, lanes: F64) -> None:
    """Learn the values of each lane in a cohort: its mean and variance, decayed by count."""
    if family == NORMAL:
        for k in range(LANES):
            learned = lanes[WEIGHT + k] > 0.0 and lanes[STEP_SQUARED + k] >= 0.0
            before = cohort[WITHIN_VARIANCE + k]
            steps = min(cohort[WITHIN_WEIGHT + k] + 1.0, COHORT_MEMORY)
            cohort[WITHIN_VARIANCE + k] += (
                (lanes[STEP_SQUARED + k] - before) / steps if learned else 0.0
            )
            cohort[WITHIN_WEIGHT + k] = steps if learned else cohort[WITHIN_WEIGHT + k]
    elif family == RATE:
        for k in range(LANES):
            deviation = sqrt(max(cohort[TOTAL_VARIANCE + k], cohort[MEAN + k]))
            maximum = cohort[MEAN + k] + COHORT_SD * deviation + 1.0
            lanes[LEARNED + k] = min(lanes[VALUE + k], maximum)
    for k in range(LANES):
        learned = lanes[WEIGHT + k] > 0.0
        weight = min(cohort[MEAN_WEIGHT + k] + lanes[WEIGHT + k], COHORT_MEMORY)
        share = lanes[WEIGHT + k] / weight
        offset = lanes[LEARNED + k] - cohort[MEAN + k]
        variance = (1.0 - share) * (cohort[TOTAL_VARIANCE + k] + share * offset * offset)
        cohort[MEAN_WEIGHT + k] = weight if learned else cohort[MEAN_WEIGHT + k]
        cohort[MEAN + k] += share * offset if learned else 0.0
        cohort[TOTAL_VARIANCE + k] = variance if learned else cohort[TOTAL_VARIANCE + k]
