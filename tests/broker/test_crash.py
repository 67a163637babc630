"""The short, fixed part of `make crash`: a few crash points and one seed."""

from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from tests.broker.crash_points import ALL_POINTS
from tests.broker.own_broker import own_broker
from tests.crash.environment import BROKER_SETTINGS, Environment, simulated_lines
from tests.crash.injected_bugs import INJECTED_BUGS
from tests.crash.scenarios import POINTS
from tests.crash.schedules import draw_schedule, scenario_of


@pytest.fixture(scope="module")
def quick(broker: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A broker that notices a killed worker soon."""
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
def test_a_worker_killed_there_loses_nothing(quick: str, tmp_path: Path, point: str) -> None:
    """Alerts, dead letters and states are the oracle's, byte for byte."""
    POINTS[point](Environment(quick, tmp_path))


@pytest.mark.long
@pytest.mark.parametrize("name", INJECTED_BUGS)
def test_an_injected_bug_is_detected(quick: str, tmp_path: Path, name: str) -> None:
    """Without the bug the scenario ends with the oracle's bytes; with it, the oracle names the
    difference that the bug makes."""
    INJECTED_BUGS[name](Environment(quick, tmp_path))


def test_every_crash_point_names_an_existing_function() -> None:
    """A crash point in a renamed function would never be reached."""
    assert [
        name for name, point in ALL_POINTS.items() if not hasattr(point.owner, point.name)
    ] == []


def test_a_seed_draws_one_schedule() -> None:
    """A failing seed can be repeated, and another seed gives another schedule."""
    assert str(draw_schedule(3)) == str(draw_schedule(3)) != str(draw_schedule(4))


def test_a_seed_draws_one_log() -> None:
    """So can its events: no clock sets their times, and a later seed's are later."""
    one, again, later = (list(simulated_lines(500, seed)) for seed in (3, 3, 4))
    assert one == again
    times = [orjson.loads(line.value)["time"] for line in (one[0], one[-1], later[0])]
    assert times == [1_772_668_827_459, 1_772_679_082_586, 1_772_755_295_618]


def test_a_random_schedule_loses_nothing(quick: str, tmp_path: Path) -> None:
    """Workers that join, leave and are killed at random give the oracle's output."""
    scenario_of(1)(Environment(quick, tmp_path))
