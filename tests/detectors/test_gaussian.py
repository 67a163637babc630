"""The table of the normal distribution's tail against scipy."""

from math import isnan, nan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats  # type: ignore[import-untyped]  # comes with river

from detectors.models.gaussian import Z_FAR, surprise_of_normal


@settings(deadline=None)  # the first case compiles
@given(st.floats(-Z_FAR, Z_FAR, exclude_max=True))
def test_the_table_is_as_close_as_stated(z: float) -> None:
    """Between the nodes -ln P(Z > z) is within 1e-10 of the exact one."""
    assert surprise_of_normal(z) == pytest.approx(-float(stats.norm.logsf(z)), abs=1e-10)


@settings(deadline=None)  # the first case compiles
@given(st.floats(Z_FAR, 1e6))
def test_beyond_the_table_the_series_applies(z: float) -> None:
    """Far out it is within 1e-5 of the exact one."""
    assert surprise_of_normal(z) == pytest.approx(-float(stats.norm.logsf(z)), abs=1e-5, rel=1e-9)


def test_the_ends_are_safe() -> None:
    """NaN gives NaN, minus infinity no surprise, and plus infinity an infinite one."""
    assert isnan(surprise_of_normal(nan))
    assert surprise_of_normal(-np.inf) == 0.0
    assert surprise_of_normal(np.inf) == np.inf
