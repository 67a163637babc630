"""The short, fixed part of `make crash`: a few points and two seeds, on the session's broker."""

from pathlib import Path

import pytest

from tests.crash.ground import Ground
from tests.crash.points import POINTS
from tests.crash.schedules import draw, seeded


@pytest.mark.parametrize(
    "point",
    [
        "after-produce-before-offsets",
        "after-commit-before-outbox-cleared",
        "manifest-without-commit",
        "while-re-learning",
    ],
)
def test_a_worker_killed_there_costs_nothing(broker: str, tmp_path: Path, point: str) -> None:
    """Alerts, dead letters and states are the oracle's, byte for byte."""
    POINTS[point](Ground(broker, tmp_path))


def test_a_seed_draws_one_schedule() -> None:
    """A seed that failed can be run again, and another seed is another schedule."""
    assert str(draw(3)) == str(draw(3)) != str(draw(4))


def test_a_random_schedule_costs_nothing(broker: str, tmp_path: Path) -> None:
    """Workers that join, leave and are killed at random leave what the oracle makes."""
    seeded(1)(Ground(broker, tmp_path))
