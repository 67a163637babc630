"""The short, fixed part of `make crash`: a few points and a seed, on a broker as they need it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.broker.dying import ALL
from tests.broker.own_broker import own_broker
from tests.crash.broken import BROKEN
from tests.crash.ground import BROKER_SETTINGS, Ground
from tests.crash.points import POINTS
from tests.crash.schedules import draw, seeded


@pytest.fixture(scope="module")
def quick(broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A broker that misses a killed worker soon."""
    with own_broker(tmp_path_factory.mktemp("quick"), BROKER_SETTINGS) as own:
        yield own.bootstrap


@pytest.mark.parametrize(
    "point",
    [
        "after-produce-before-offsets",
        "after-commit-before-outbox-cleared",
        "manifest-without-commit",
        "while-re-learning",
    ],
)
def test_a_worker_killed_there_costs_nothing(quick: str, tmp_path: Path, point: str) -> None:
    """Alerts, dead letters and states are the oracle's, byte for byte."""
    POINTS[point](Ground(quick, tmp_path))


@pytest.mark.long
@pytest.mark.parametrize("way", BROKEN)
def test_a_guarantee_that_is_broken_is_found_out(quick: str, tmp_path: Path, way: str) -> None:
    """The same story ends with every byte the oracle's where the worker is whole, and with what is
    wrong by the oracle's word where it is broken."""
    BROKEN[way](Ground(quick, tmp_path))


def test_every_point_names_what_is_there() -> None:
    """A worker that is to die in a function that has moved would end of that instead."""
    assert [name for name, point in ALL.items() if not hasattr(point.owner, point.name)] == []


def test_a_seed_draws_one_schedule() -> None:
    """A seed that failed can be run again, and another seed is another schedule."""
    assert str(draw(3)) == str(draw(3)) != str(draw(4))


def test_a_random_schedule_costs_nothing(quick: str, tmp_path: Path) -> None:
    """Workers that join, leave and are killed at random leave what the oracle makes."""
    seeded(1)(Ground(quick, tmp_path))
