"""Many p-values of one event into one: the harmonic mean.

The harmonic mean p-value (D. J. Wilson, PNAS 2019, eq. 1) tolerates any dependence between the
tests, which features of one entity always have, and unlike Cauchy's combination it is not thrown
off by p-values at 1, which discrete features give most of the time. The result is not itself
calibrated; calibration follows it.
"""

from collections.abc import Sequence
from math import isnan

import numpy as np

from detectors.kernels import kernel
from schemas.columns import F64

P_MIN = 1e-300
"""Smallest p-value there is: below it float64 would soon be 0, and 0 has no logarithm."""


@kernel
def harmonic_mean(p: F64) -> float:
    """Harmonic mean of the p-values that are there; NaN where none is. p: float64[d]."""
    total = 0.0
    count = 0
    for j in range(len(p)):
        if not isnan(p[j]):
            total += 1.0 / max(p[j], P_MIN)
            count += 1
    return count / total if count else np.nan


@kernel
def _rows(columns: F64, out: F64) -> None:
    for i in range(columns.shape[0]):
        out[i] = harmonic_mean(columns[i])


def combine(p_values: Sequence[F64]) -> F64:
    """float64[n]: one p-value an event from several monitors' (each float64[n], NaN = silent).

    NaN where every monitor was silent.
    """
    columns = np.ascontiguousarray(np.stack(p_values, axis=1))
    out = np.empty(len(columns))
    _rows(columns, out)
    return out
