"""The regularised incomplete beta function, which gives the tails of Student's t, of beta and of
negative binomial distributions (W. Press et al., "Numerical Recipes", 6.4)."""

from math import exp, lgamma, log, log1p

from detectors.numeric.kernels import kernel


@kernel
def incomplete_beta(x: float, a: float, b: float) -> float:
    """I_x(a, b) for a, b > 0, by Lentz's continued fraction on the side where it converges."""
    if x <= 0.0 or x >= 1.0:
        return 0.0 if x <= 0.0 else 1.0
    if x > (a + 1.0) / (a + b + 2.0):
        return 1.0 - _beta_fraction(1.0 - x, b, a)
    return _beta_fraction(x, a, b)


@kernel
def _beta_fraction(x: float, a: float, b: float) -> float:
    """I_x(a, b) for x up to about the mean; beyond it the fraction converges slowly."""
    front = exp(lgamma(a + b) - lgamma(a) - lgamma(b) + a * log(x) + b * log1p(-x)) / a
    c = 1.0
    d = 1.0 / (1.0 - (a + b) * x / (a + 1.0))
    fraction = d
    for m in range(1, 200):
        even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m))
        d = 1.0 / (1.0 + even * d)
        c = 1.0 + even / c
        fraction *= d * c
        odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0))
        d = 1.0 / (1.0 + odd * d)
        c = 1.0 + odd / c
        fraction *= d * c
        if abs(d * c - 1.0) < 1e-8:
            break
    return front * fraction
