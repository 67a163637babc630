"""Exponential decay, and units of time in milliseconds."""

from math import exp, log
from typing import Final

from detectors.numeric.kernels import kernel

LN2: Final = log(2.0)
HOUR_MS: Final = 3_600_000.0
DAY_MS: Final = 86_400_000.0


@kernel
def decayed(value: float, elapsed_ms: float, half_life_ms: float) -> float:
    """The value after it decayed for `elapsed_ms` ≥ 0."""
    return value * exp(-LN2 * elapsed_ms / half_life_ms)
