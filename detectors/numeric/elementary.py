"""The logarithm and the exponential as straight-line code, which the compiler can vectorise; the C
library's functions are called for one element at a time.

ln: x = 2^k m with m in [√½, √2), ln m = 2 artanh((m - 1)/(m + 1)); exp: x = k ln 2 + r. Both by
their power series, cut where they no longer change the last digit (M. Abramowitz, I. Stegun,
"Handbook of Mathematical Functions", 4.1.27 and 4.2.1).
"""

from math import factorial
from typing import Final

import numpy as np

from detectors.numeric.kernels import kernel

LN2_HIGH: Final = 0.6931471803691238  # 33 bits: times k exactly
LN2_LOW: Final = 1.9082149292705877e-10
ROOT_HALF_BITS: Final = 0x3FE6A09E667F3BCD
MANTISSA: Final = (1 << 52) - 1
ROUNDER: Final = 1.5 * 2.0**52
"""Adding it to a number and subtracting it again rounds the number to an integer."""
EXPONENT_MAX: Final = 708.0
C: Final = tuple(1.0 / factorial(i) for i in range(14))


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


@kernel
def exp(x: float) -> float:
    """e^x within 2 units of the last digit; x beyond ±`EXPONENT_MAX` counts as that."""
    x = min(max(x, -EXPONENT_MAX), EXPONENT_MAX)
    k = (x * (1.0 / (LN2_HIGH + LN2_LOW)) + ROUNDER) - ROUNDER
    r = (x - k * LN2_HIGH) - k * LN2_LOW
    v = r * r
    even = C[2] + v * (C[4] + v * (C[6] + v * (C[8] + v * (C[10] + v * C[12]))))
    odd = C[3] + v * (C[5] + v * (C[7] + v * (C[9] + v * (C[11] + v * C[13]))))
    part = 1.0 + (r + v * (even + r * odd))
    return np.int64(np.float64(part).view(np.int64) + (np.int64(k) << 52)).view(np.float64)
