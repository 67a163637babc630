"""The vectorised logarithm and exponential against the C library's."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.numeric.elementary import EXPONENT_MAX, exp, ln


@settings(deadline=None)  # the first case compiles
@given(x=st.floats(2.3e-308, 1.7e308) | st.floats(0.5, 2.0))
def test_the_logarithm_is_the_librarys(x: float) -> None:
    """Within two units of the last digit, also near 1, where it is close to 0."""
    assert math.isclose(ln(x), math.log(x), rel_tol=4.5e-16, abs_tol=0.0)


@settings(deadline=None)  # the first case compiles
@given(x=st.floats(-EXPONENT_MAX, EXPONENT_MAX))
def test_the_exponential_is_the_librarys(x: float) -> None:
    """Within two units of the last digit."""
    assert math.isclose(exp(x), math.exp(x), rel_tol=4.5e-16)


def test_the_exponential_ends_where_doubles_do() -> None:
    """An exponent beyond the largest counts as the largest, so that the result is finite and
    positive."""
    assert exp(-1e9) == exp(-EXPONENT_MAX) > 0.0
    assert exp(1e9) == exp(EXPONENT_MAX) < math.inf
