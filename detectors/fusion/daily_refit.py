"""The daily work of learning: decays the sums, fits the boosted trees again, and chooses the
active model."""

from math import isnan, log
from typing import Final

import numpy as np

from detectors.fusion import boosting
from detectors.fusion.label_learning import HALF_LIFE_DAYS, count_honest, model_odds
from detectors.fusion.model_state import (
    ACTIVE_MODEL,
    BINS,
    BOOSTED,
    CHANGED,
    DAY,
    EVALUATED_MIN,
    HARMONIC,
    LABELS,
    LABELS_AT_FIT,
    LOGISTIC,
    NEXT_DAY_MS,
    SURPRISED,
    LearnerState,
    LearnerSums,
)
from detectors.numeric.decay import DAY_MS
from detectors.numeric.kernels import kernel
from schemas.columns import F64, I64
from schemas.labels import FRAUD, HONEST

FIT_MIN: Final = 50
"""The least number of frauds, and of honest events, for a fit of the trees."""
REFIT_SHARE: Final = 0.05
"""Trees are refitted when the labels since the last fit reach this share of the remembered ones. A fit
every day would be most of the cost of a long replay."""
FIT_ROWS: Final = 100_000
"""The largest number of rows in a fit; with 10 inputs it takes a second."""


def refit(learner: LearnerState, time_ms: int) -> None:
    """Begin a new day of stream time: decay the sums, refit the trees if there are enough new labels, and
    choose the active model."""
    sums, memory = learner.sums, learner.memory
    day = time_ms // DAY_MS
    if sums.status[NEXT_DAY_MS] > 0:
        days_passed = max(day - int(sums.status[DAY]), 0)  # negative where time was set back
        keep = 0.5 ** (days_passed / HALF_LIFE_DAYS)
        for decayed_sums in (
            sums.honest_bins,
            sums.not_fraud,
            sums.excess_loss,
            sums.evaluated,
            sums.frauds,
        ):
            np.multiply(decayed_sums, keep, out=decayed_sums)
    sums.status[DAY] = day
    sums.status[NEXT_DAY_MS] = (day + 1) * DAY_MS
    learned = int(sums.counts[LABELS] + sums.counts[CHANGED])
    honest, frauds = (np.flatnonzero(memory.verdict == verdict) for verdict in (HONEST, FRAUD))
    enough_new = learned - sums.status[LABELS_AT_FIT] >= REFIT_SHARE * (len(honest) + len(frauds))
    if enough_new and min(len(frauds), len(honest)) >= FIT_MIN:
        _fit(learner, honest, frauds)
        _recount(learner, honest, np.zeros(3))
        sums.status[LABELS_AT_FIT] = learned
    sums.status[ACTIVE_MODEL] = _best_model(sums)
    _update_tail_share(sums)


def _fit(learner: LearnerState, honest: I64, frauds: I64) -> None:
    """Fit the trees to labelled events, given by their slots; adjust their log odds to the
    share of frauds among all recent labels."""
    frauds = _subsample(frauds, FIT_ROWS // 2)
    honest = _subsample(honest, FIT_ROWS - len(frauds))
    rows = np.sort(np.concatenate([honest, frauds]))
    outcome = (learner.memory.verdict[rows] == FRAUD).astype(np.float64)
    boosting.fit(learner.boosted_trees, learner.memory.inputs[rows], outcome)
    known_frauds = float(learner.sums.frauds[LOGISTIC])
    known_honest = float(learner.sums.evaluated[LOGISTIC]) - known_frauds
    if min(known_frauds, known_honest) > 0.0:
        learner.boosted_trees.base[0] += log(known_frauds / known_honest) - log(
            len(frauds) / len(honest)
        )


def _subsample(slots: I64, rows_max: int) -> I64:
    """At most `rows_max` of the slots, evenly spaced: a random sample, since slots are assigned by the events' hashes."""
    return slots[
        np.arange(min(len(slots), rows_max)) * len(slots) // max(min(len(slots), rows_max), 1)
    ]


def _best_model(sums: LearnerSums) -> int:
    """The model with the lowest recent log loss per label."""
    best, least = HARMONIC, 0.0
    for model in (LOGISTIC, BOOSTED):
        if min(sums.frauds[model], sums.honest_bins[model].sum()) >= EVALUATED_MIN:
            mean = float(sums.excess_loss[model] / sums.evaluated[model])
            if mean < least:
                best, least = model, mean
    return best


def _update_tail_share(sums: LearnerSums) -> None:
    """Compute the share of honest events in each bin or above."""
    total = sums.not_fraud.sum()
    sums.surprised_share[0] = sums.not_fraud[SURPRISED] / total if total > 0.0 else 1.0
    for model in (LOGISTIC, BOOSTED):
        above = np.cumsum(sums.honest_bins[model][::-1])[::-1]
        share_of_one = sums.surprised_share[0] / (above[0] + 1.0)
        sums.tail_share[model, :BINS] = share_of_one * above
        sums.tail_share[model, BINS] = share_of_one


@kernel
def _recount(learner: LearnerState, honest: I64, current_odds: F64) -> None:
    """Move honest events, given by their slots, to the bin of their highest log odds plus the increase of
    the model's log odds since they were scored. current_odds: float64[3], scratch."""
    memory = learner.memory
    for k in range(len(honest)):
        slot = honest[k]
        log_odds, highest = memory.log_odds[slot], memory.max_log_odds[slot]
        for model in range(LOGISTIC, BOOSTED + 1):
            current_odds[model] = highest[model]
            if not isnan(highest[model]):
                now = model_odds(learner, model, memory.inputs[slot], memory.surprised[slot])
                current_odds[model] += max(now - log_odds[model], 0.0)
        count_honest(learner, slot, -1.0, highest)
        count_honest(learner, slot, 1.0, current_odds)
