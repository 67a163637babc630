"""The natural logarithm as straight-line code: a loop over it becomes vector instructions.

A call to the C library's stands for itself, and a loop that holds one is run an element at a time.
x = 2^k m with m in [√½, √2), ln m = 2 artanh((m - 1)/(m + 1)), whose series is cut where it no
longer changes the last digit (M. Abramowitz, I. Stegun, "Handbook of Mathematical Functions",
4.1.27). No model learns here.
"""

from typing import Final

import numpy as np

from detectors.kernels import kernel

LN2_HIGH: Final = 0.6931471803691238  # 33 bits: times k exactly
LN2_LOW: Final = 1.9082149292705877e-10
ROOT_HALF_BITS: Final = 0x3FE6A09E667F3BCD
MANTISSA: Final = (1 << 52) - 1


@kernel
def ln(x: float) -> float:
    """ln x within 2 units of the last digit; x must be normal, positive and finite."""
    bits = np.float64(x).view(np.int64) - ROOT_HALF_BITS
    k = np.float64(bits >> 52)
    m = np.int64((bits & MANTISSA) + ROOT_HALF_BITS).view(np.float64)
    s = (m - 1.0) / (m + 1.0)
    w = s * s
    v = w * w
    even = 2 / 5 + v * (2 / 9 + v * (2 / 13 + v * (2 / 17 + v * (2 / 21))))
    odd = 2 / 3 + v * (2 / 7 + v * (2 / 11 + v * (2 / 15 + v * (2 / 19))))
    return k * LN2_HIGH + (2.0 * s + (s * w * (odd + w * even) + k * LN2_LOW))
