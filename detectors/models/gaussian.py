"""The upper tail of the standard normal distribution as a surprise, -ln P(Z > z), from a table.

Between nodes it is a cubic through values and slopes (the slope of -ln Q is the hazard φ/Q), within 1e-10
of the exact value; beyond `Z_FAR` the tail's asymptotic series (M. Abramowitz, I. Stegun, "Handbook
of Mathematical Functions", 26.2.12), within 1e-5. About 3 ns, where erfc and a logarithm take 30.
"""

from math import erfc, exp, log, pi, sqrt
from typing import Final

import numpy as np

from detectors.numeric.kernels import kernel
from schemas.columns import F64

Z_FAR: Final = 8.0
PER_UNIT: Final = 64
LN_ROOT_2PI: Final = 0.5 * log(2.0 * pi)


def _table() -> F64:
    """float64[nodes, 2]: -ln Q and its slope over one step, at -Z_FAR, -Z_FAR + 1/PER_UNIT, …"""
    z = np.arange(-Z_FAR, Z_FAR + 2.0 / PER_UNIT, 1.0 / PER_UNIT).tolist()
    tails = [0.5 * erfc(z_node / sqrt(2.0)) for z_node in z]
    heights = [exp(-0.5 * z_node * z_node - LN_ROOT_2PI) for z_node in z]
    return np.array(
        [[-log(q), h / q / PER_UNIT] for q, h in zip(tails, heights, strict=True)], np.float64
    )


TABLE: Final = _table()


@kernel
def surprise_of_normal(z: float) -> float:
    """-ln P(Z > z); 0 from -Z_FAR down, NaN of NaN."""
    if not z < Z_FAR:  # NaN too
        w = 1.0 / (z * z)
        return 0.5 * z * z + LN_ROOT_2PI + log(z) + w * (1.0 - w * (2.5 - w * 37.0 / 3.0))
    if z <= -Z_FAR:
        return 0.0
    position = (z + Z_FAR) * PER_UNIT
    k = int(position)
    u = position - k
    low, first, last = TABLE[k, 0], TABLE[k, 1], TABLE[k + 1, 1]
    rise = TABLE[k + 1, 0] - low
    cubic = first + last - 2.0 * rise
    return float(low + u * (first + u * (rise - first - cubic + u * cubic)))
