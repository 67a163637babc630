"""The intervals of estimates, as text; "" where an estimate has none."""

from collections.abc import Callable

from stream.evaluation.results import Estimate
from stream.formatting import UNDEFINED, format_difference, format_percent, format_ratio


def ratio_interval(estimate: Estimate) -> str:
    """The interval of a measure between 0 and 1."""
    return _interval(estimate, format_ratio)


def percent_interval(estimate: Estimate) -> str:
    """The interval of a share."""
    return _interval(estimate, format_percent)


def difference_interval(estimate: Estimate) -> str:
    """The interval of a difference of two measures; a dash where there is none."""
    return _interval(estimate, format_difference) or UNDEFINED


def _interval(estimate: Estimate, formatted: Callable[[float], str]) -> str:
    if estimate.low is None or estimate.high is None:
        return ""
    return f"{formatted(estimate.low)} to {formatted(estimate.high)}"
