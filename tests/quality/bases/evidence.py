"""Accumulated evidence: several mildly strange events of one entity in a row score above one.

With v = −log10 p of an event and S its entity's evidence, the event scores v + min(S, c·v); then S
grows by max(0, v − θ), and halves in `half_life_ms`. θ is a quantile of v on the early part. The
bound c·v keeps an ordinary event from inheriting what came before it. The idea is that of account
scores in telephone fraud (C. Cortes, D. Pregibon, "Signature-based methods for data streams", Data
Mining and Knowledge Discovery 2001).
"""

import numpy as np

from detectors.numeric.kernels import kernel
from schemas.columns import F64, I64, Bools


def upper_tail(values: F64, group: I64, early: Bools) -> F64:
    """float64[n]: v = −log10 of the share of the early part's values of the same group that are no
    smaller, the value itself counted with them. group: int64[n], numbers from 0."""
    found = np.zeros(len(values))
    for one in range(int(group.max(initial=-1)) + 1):
        own = group == one
        known = np.sort(values[own & early])
        no_smaller = len(known) - np.searchsorted(known, values[own], side="left")
        found[own] = -np.log10((no_smaller + 1.0) / (len(known) + 1.0))
    return found


def accumulated(
    v: F64, entity: I64, time: F64, half_life: float, threshold: float, most: float = 2.0
) -> F64:
    """float64[n]: v + min(S, most·v), in the order of the rows. entity: int64[n], numbers from 0.
    time, half_life: in one unit. threshold: θ. most: c, infinite for a plain sum."""
    score = np.zeros(len(v))
    entities = int(entity.max(initial=-1)) + 1
    since = np.full(entities, time[0] if len(time) else 0.0)
    _accumulate((v, entity, time), (half_life, threshold, most), np.zeros(entities), since, score)
    return score


@kernel
def _accumulate(
    events: tuple[F64, I64, F64],
    settings: tuple[float, float, float],
    evidence: F64,
    since: F64,
    score: F64,
) -> None:
    v, entity, time = events
    half_life, threshold, most = settings
    for i in range(len(v)):
        own = entity[i]
        evidence[own] *= 0.5 ** (max(0.0, time[i] - since[own]) / half_life)
        since[own] = max(since[own], time[i])
        score[i] = v[i] + min(evidence[own], most * v[i])
        evidence[own] += max(0.0, v[i] - threshold)
