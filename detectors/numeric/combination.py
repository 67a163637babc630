"""Combinations of several p-values of one event.

Within a monitor: a soft truncated product. Zaykin et al. (Genetic Epidemiology 2002) multiply the
p-values below a threshold τ, so that evidence adds up, and features that are not surprising add
no noise. Here it is the logarithm with a soft edge,

    Σ ln(1 + τ/p),   τ = `SOFT_EDGE`,

which is -Σ ln(p/τ) for small p and almost 0 for p above τ. Its distribution under dependence is
unknown and not needed: calibration turns it into a p-value, from data. Measured on labelled payments
and connections it ranks frauds better than the harmonic mean, Cauchy's or Fisher's combination,
whether there are few features or many.

Between monitors, where the result is not calibrated: the harmonic mean p-value (D. J. Wilson, PNAS
2019, eq. 1), which is valid under any dependence and, unlike Cauchy's, robust to p-values of 1.
"""

from collections.abc import Sequence
from math import isnan
from typing import Final

import numpy as np

from detectors.numeric.elementary import ln
from detectors.numeric.kernels import kernel
from schemas.columns import F64

P_MIN: Final = 1e-300
"""Smallest p-value: below it float64 would soon be 0, which has no logarithm."""
SOFT_EDGE: Final = 0.02


@kernel
def evidence(p: float) -> float:
    """The term of one p-value in the soft truncated product."""
    return ln(1.0 + SOFT_EDGE / max(p, P_MIN))


def combine(p_values: Sequence[F64]) -> F64:
    """float64[n]: one p-value an event from several monitors' (each float64[n], NaN = absent).

    Their harmonic mean; NaN where all are absent.
    """
    out = np.empty(len(p_values[0]))
    _harmonic_means(np.ascontiguousarray(np.stack(p_values, axis=1)), out)
    return out


@kernel
def harmonic_mean(p: F64, missing_inverse_p: float) -> float:
    """One event's p-value from its monitors', NaN where there is none. p: float64[monitors], NaN
    where absent. missing_inverse_p: the term of an absent p-value in the sum of 1/p; 0: absent ones are
    left out."""
    inverse = 0.0
    count = 0
    for k in range(len(p)):
        if not isnan(p[k]):
            inverse += 1.0 / max(p[k], P_MIN)
            count += 1
        elif missing_inverse_p > 0.0:
            inverse += missing_inverse_p
            count += 1
    return float(min(1.0, count / inverse)) if count else np.nan


@kernel
def _harmonic_means(p: F64, out: F64) -> None:
    for i in range(p.shape[0]):
        out[i] = harmonic_mean(p[i], 0.0)
