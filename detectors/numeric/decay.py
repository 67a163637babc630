"""Exponential decay, and the spans of time that models count in. Everything here is stateless."""

from math import exp, log
from typing import Final

from detectors.numeric.kernels import kernel

LN2: Final = log(2.0)
HOUR_MS: Final = 3_600_000.0
DAY_MS: Final = 86_400_000.0


@kernel
def decayed(value: float, since_ms: float, half_life_ms: float) -> float:
    """The value after `since_ms` ≥ 0 of decay."""
    return value * exp(-LN2 * since_ms / half_life_ms)
