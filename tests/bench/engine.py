"""Part `engine`: statistics, trees and the whole engine on decoded columns, beside River's loop."""

import gc
from typing import Final, NamedTuple

import numpy as np

from detectors.monitor import Monitor
from detectors.monitor import monitor as monitor_module
from detectors.numeric.hashing import hash_key
from stream.config import parse
from tests.bench.events import (
    RIVER_TREES,
    Payments,
    document,
    monitor_document,
    payments,
    skewed,
)
from tests.bench.figures import Figures
from tests.bench.river_loops import RiverTrees, StatisticsRace
from tests.bench.timing import Stopwatch, TimeSpent, time_spent

BATCH: Final = 10_000
WINDOW: Final = 250
"""Events in a window of River's trees, in whose first they score nothing."""
NEW_ENTITIES: Final = 200
NEW_EVENTS: Final = 100


class Sizes(NamedTuple):
    """How much is measured. statistics: events of the race of statistics; events, river_events: a
    turn's, of Eddy and of River; entities: accounts with trees; before: events before the first
    turn."""

    turns: int = 5
    statistics: int = 100_000
    entities: int = 500
    before: int = 250_000
    events: int = 20_000
    river_events: int = 10_000


FULL: Final = Sizes()


def run(figures: Figures, sizes: Sizes = FULL) -> None:
    """Measure, in turns."""
    _statistics(figures, sizes)
    _trees(figures, sizes)
    gc.collect()  # River's trees are millions of objects


def _statistics(figures: Figures, sizes: Sizes) -> None:
    race = StatisticsRace(payments(skewed(2_000, sizes.statistics, 1), 1, 1000))
    race.turn()  # compiles
    turns = [race.turn() for _ in range(sizes.turns)]
    ours, rivers, differences = zip(*turns, strict=True)
    worst = max(differences)
    assert worst <= 1e-9, f"statistics differ from River's by {worst}"
    figures.ratio("features_vs_river_stats", _rates(ours), _rates(rivers))
    figures.put("features_vs_river_stats_difference", worst)
    figures.rate("12 means and variances, River", rivers)
    figures.rate("12 means and variances, our kernel", ours)
    figures.say("statistics measured")


def _trees(figures: Figures, sizes: Sizes) -> None:
    river = RiverTrees()
    entities, n = sizes.entities, sizes.river_events
    events = sizes.before + sizes.turns * max(sizes.events, n)
    accounts = np.random.Generator(np.random.PCG64(2)).integers(0, entities, events)
    building = time_spent(entities, lambda: river.build(list(range(entities))))
    # evenly, so that every account has left its first window
    river.run([i % entities for i in range(WINDOW * entities)])
    figures.say("River's trees built and filled")
    engine = Engine(payments(accounts, 2, 1000), detectors=[{"kind": "tail"}, RIVER_TREES])
    engine.run(sizes.before)
    ours, theirs = [], []
    for k in range(sizes.turns):
        some = accounts[k * n : (k + 1) * n].tolist()
        theirs.append(time_spent(n, lambda some=some: river.run(some)))  # type: ignore[misc]
        ours.append(engine.run(sizes.events))
    figures.ratio("engine_vs_river_trees", _rates(ours), _rates(theirs))
    figures.rate(f"trees 10 × 8, {entities} accounts, River", theirs)
    figures.rate(f"Eddy's engine, 10 × 8, {entities} accounts", ours)
    figures.put("river_trees_build_ms", 1000 * building.wall_s / entities)
    figures.steps("engine, step by step", engine.watch.seconds, engine.done)
    figures.say("engine measured")


def new_entities(figures: Figures, entities: int = NEW_ENTITIES) -> TimeSpent:
    """River's loop on accounts that it has never seen, with 100 events each."""
    river = RiverTrees()
    accounts = list(range(entities))
    building = time_spent(entities, lambda: river.build(accounts))
    events = [a for a in accounts for _ in range(NEW_EVENTS)]
    scoring = time_spent(len(events), lambda: river.run(events))
    both = TimeSpent(len(events), building.wall_s + scoring.wall_s, building.cpu_s + scoring.cpu_s)
    figures.spread("river_new_build_us", [1e6 * building.wall_s / len(events)])
    figures.spread("river_new_score_us", [1e6 * scoring.wall_s / len(events)])
    return both


class Engine:
    """A monitor fed with columns, its steps timed."""

    def __init__(self, events: Payments, detectors: list[dict[str, object]]) -> None:
        spec = parse(document([monitor_document(100_000, detectors)]), {}).monitors[0]
        self.monitor = Monitor(spec, hash_key("bench"))
        self.watch = Stopwatch()
        self.done = 0
        self._batch = events.batch()
        self._next = 0

    def run(self, events: int) -> TimeSpent:
        """Process the next so many events; only they count in the step table."""
        stop = self._next + events
        self.watch.seconds.clear()
        self.done = events
        with self.watch.watching(steps_of(self.monitor)):
            took = time_spent(events, lambda: self._process(stop))
        self._next = stop
        return took

    def _process(self, stop: int) -> None:
        with self.watch.timing("rest"):
            for start in range(self._next, stop, BATCH):
                self.monitor.process(self._batch.slice(start, min(start + BATCH, stop)))


def steps_of(monitor: Monitor) -> list[tuple[object, str, str]]:
    """The engine's steps, as `Stopwatch.watching` takes them."""
    return [
        (monitor_module, "hash_text", "hash"),
        (monitor.entities, "admit", "admit"),
        (monitor, "_features", "features"),
        (monitor, "_tails", "tails"),
        (monitor, "_trees", "trees"),
        (monitor, "_calibrate", "calibration"),
        (monitor.policy, "process", "policy"),
    ]


def _rates(all_spent: "list[TimeSpent] | tuple[TimeSpent, ...]") -> list[float]:
    return [one.per_s for one in all_spent]
