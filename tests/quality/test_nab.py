"""NAB's scorer on files small enough to score by hand."""

import math

import numpy as np
import pytest

from tests.quality.bases.series import windowed_gaussian
from tests.quality.nab import FALSE_COST, marks, standard_score

ROWS = 200
WINDOWS = [(100, 119)]
OF = marks(ROWS, WINDOWS)


def at(*rows: int) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    """A detector that says 1 at these rows and 0 elsewhere."""
    scores = np.zeros(ROWS)
    scores[list(rows)] = 1.0
    return scores


def test_a_perfect_detector_has_100_and_a_silent_one_0() -> None:
    """Every window at its first row and nothing else is 100; the same everywhere is 0."""
    assert standard_score([at(100)], [OF], 1) == pytest.approx(100.0)
    assert standard_score([at()], [OF], 1) == 0.0


def test_later_in_the_window_is_worth_less_and_once_is_enough() -> None:
    """The earliest detection counts, by the sigmoid of its place; more within a window add
    nothing."""
    place = -(119 - 110 + 1) / 20
    worth = (2 / (1 + math.exp(5 * place)) - 1) / (2 / (1 + math.exp(-5)) - 1)
    late = standard_score([at(110)], [OF], 1)
    assert late == pytest.approx(100 * (worth + 1) / 2)
    assert standard_score([at(110, 112, 119)], [OF], 1) == pytest.approx(late)


def test_a_false_detection_costs_less_just_after_a_window() -> None:
    """0.11 far from any window, next to nothing right behind one, and none in probation."""
    far = standard_score([at(50, 100)], [OF], 1)
    assert far == pytest.approx(100 * (2 - FALSE_COST) / 2)
    assert far < standard_score([at(100, 120)], [OF], 1) < 100.0
    assert standard_score([at(0, 29, 100)], [OF], 1) == pytest.approx(100.0)
    assert standard_score([at(30, 100)], [OF], 1) == pytest.approx(far)


def test_one_threshold_is_the_best_for_all_files() -> None:
    """A file whose false alarms lie above another's only true one makes that one dear."""
    loud = np.zeros(ROWS)
    loud[40:60] = 2.0
    quiet = marks(ROWS, [])
    assert standard_score([at(100), loud], [OF, quiet], 1) == 0.0
    loud[42:60] = 0.5
    assert standard_score([at(100), loud], [OF, quiet], 1) == pytest.approx(100 - 100 * FALSE_COST)


def test_the_windowed_gaussian_is_the_normal_tail() -> None:
    """A value is scored by mean and deviation of those before it."""
    values = np.array([1.0, 3.0, 2.0, 5.0])
    expected = 1.0 - 0.5 * math.erfc(3.0 / np.std([1.0, 3.0, 2.0]) / math.sqrt(2.0))
    assert windowed_gaussian(values)[3] == pytest.approx(expected)
