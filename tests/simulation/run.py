"""One run: a schedule on a deployment, and the comparison with its reference run."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from logging import CRITICAL
from random import Random
from typing import Final

import structlog

from stream.config import fingerprint, logs
from stream.kafka.positions import Partition
from tests.simulation.broker import MemoryBroker
from tests.simulation.bugs import Bug
from tests.simulation.fleet import Fleet
from tests.simulation.oracle import Era, differences, reference
from tests.simulation.schedule import SECONDS, draw
from tests.simulation.shop import GROUP, START_MS, Fed, configuration, create_topics, records
from tests.simulation.store import Objects
from tests.simulation.world import OutOfTime, World

LIMIT_S: Final = 60.0
"""Simulated time within which a deployment must have processed everything."""

CHECK_S: Final = 0.05
"""How often is looked whether all is done."""

CHECKS: Final = 3
"""The last process is stopped when it has had all partitions at so many checks in a row."""

LAST: Final = "slot-0"
"""The slot of the process that is stopped last."""

FAULTS_MIN: Final = 3
ALERTS_MIN: Final = 3
"""A run with fewer alerts proves nothing."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run went. problems: empty where it passed. digest: of its trace. cpu_s, reference_s: CPU
    time of the run and of its reference run."""

    seed: int
    problems: list[str]
    digest: str
    cpu_s: float
    reference_s: float
    trace: list[str]


class Simulation:
    """A run while it goes on."""

    def __init__(self, seed: int, *, keep_trace: bool = False) -> None:
        self.world = World(seed, keep_trace=keep_trace)
        self.schedule = draw(Random(seed))
        self.objects = Objects()
        self.broker = MemoryBroker(self.world, START_MS)
        self.eras = [Era(configuration(), {})]
        self.fleet = Fleet(self.world, self.broker, self.objects, configuration())
        self._ends: dict[Partition, int] = {}
        self._done = False
        self._fed = self._changed = False
        self._owns_all = 0

    def run(self) -> None:
        """Run the schedule, and then until everything is processed and the last process stopped."""
        world, schedule = self.world, self.schedule
        create_topics(self.broker, configuration())
        last_s = 0.0
        for fed in records(world.random, SECONDS, schedule.bursts):
            world.after(fed.at_s, partial(self._feed, fed))
            last_s = max(last_s, fed.at_s)
        world.after(last_s, self._note_fed)
        for number in range(schedule.slots):
            world.after(world.random.uniform(0.0, 0.3), partial(self.fleet.start, f"slot-{number}"))
        for fault in schedule.faults:
            world.after(fault.at_s, partial(self.fleet.arm, fault))
        if schedule.change != "none":
            world.after(schedule.change_at_s, self._change)
        else:
            self._changed = True
        world.after(CHECK_S, self._check)
        world.run(lambda: self._done or self.fleet.happened.failure is not None, LIMIT_S)

    def _feed(self, fed: Fed) -> None:
        self.broker.append(fed.record, fed.timestamp_ms)

    def _note_fed(self) -> None:
        self._fed = True

    # -- a change of the configuration ------------------------------------------------------------

    def _change(self) -> None:
        """Stop every process, some cleanly and some not; when all have ended start them anew."""
        fleet = self.fleet
        fleet.is_held = True
        fleet.on_empty = self._start_changed
        for running in list(fleet.workers.values()):
            if self.world.random.random() < 0.5:
                running.stop.set()
            else:
                fleet.kill(running)
        if not fleet.workers and fleet.on_empty is not None:
            fleet.on_empty = None
            self._start_changed()

    def _start_changed(self) -> None:
        fleet = self.fleet
        self.world.kill_all()
        config = configuration(self.schedule.change)
        if fingerprint(config) != fingerprint(fleet.config):
            begins = self.broker.offsets_decided(GROUP)
            self.eras.append(Era(config, begins))
            fleet.allowed_drops = [f"assess@{fingerprint(fleet.config)}"]
        fleet.config = config
        create_topics(self.broker, config)
        fleet.is_held = False
        fleet.happened.restarts += 1
        self._changed = True
        for number in range(self.schedule.slots):
            fleet.start(f"slot-{number}")

    # -- the end ----------------------------------------------------------------------------------

    def _check(self) -> None:
        """When all faults have happened and all is processed, stop all processes but one; when that
        has every partition, stop it."""
        all_happened = self._fed and self._changed and not self.fleet.armed
        if all_happened and self.world.now > max(SECONDS, self.objects.failing_until):
            if self.fleet.happened.restarts:
                self._finish()
            elif self.fleet.workers:  # no fault has led to one
                self.fleet.kill(next(iter(self.fleet.workers.values())))
        self.world.after(CHECK_S, self._check)

    def _finish(self) -> None:
        fleet = self.fleet
        if fleet.ended_cleanly(LAST):
            self._done = self.broker.is_quiet()
        elif fleet.last != LAST:
            if LAST in fleet.workers and self._all_committed():
                fleet.leave_only(LAST)
        else:
            fleet.leave_only(LAST)
            is_alone = fleet.has_all(LAST) and self._all_committed()
            self._owns_all = self._owns_all + 1 if is_alone else 0
            if self._owns_all >= CHECKS:
                fleet.end()

    def _all_committed(self) -> bool:
        if not self.broker.is_quiet():
            return False
        decided = self.broker.offsets_decided(GROUP)
        for log in logs(self.fleet.config):
            for number in range(log.partitions):
                place = Partition(log.topic, number)
                visible = self.broker.log(place).all_visible()
                if visible and decided.get(place, 0) <= visible[-1][0]:
                    return False
        return True

    def problems(self) -> list[str]:
        """What is wrong with a run that has ended."""
        happened = self.fleet.happened
        if happened.failure is not None:
            return [f"a worker ended: {type(happened.failure).__name__}: {happened.failure}"]
        return []


def simulate(seed: int, bug: Bug = nullcontext, *, keep_trace: bool = False) -> Outcome:
    """Run a seed and compare it with its reference run. bug: put in while the seed runs."""
    with silenced_logs():
        return _simulate(seed, bug, keep_trace)


@contextmanager
def silenced_logs() -> Iterator[None]:
    """Faults are logged, and there are thousands of them."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(CRITICAL))
    try:
        yield
    finally:
        structlog.configure(**before)


def _simulate(seed: int, bug: Bug, keep_trace: bool) -> Outcome:
    began = time.process_time()
    simulation = Simulation(seed, keep_trace=keep_trace)
    try:
        try:
            with bug():
                simulation.run()
            problems = simulation.problems()
        except OutOfTime as error:
            problems = [str(error)]
        ran = time.process_time()
        digest = simulation.world.digest()
        expected = reference(simulation.broker, simulation.eras)
        folded = time.process_time()
        if not problems:
            problems = differences(simulation.broker, simulation.objects, expected)
            happened = simulation.fleet.happened
            if happened.faults < FAULTS_MIN or happened.restarts < 1:
                problems.append(f"only {happened.faults} faults, {happened.restarts} restarts")
            if sum(map(len, expected.alerts.values())) < ALERTS_MIN:
                problems.append("too few alerts to prove anything")
    finally:
        simulation.world.kill_all()
    trace = simulation.world.trace or []
    return Outcome(seed, problems, digest, ran - began, folded - ran, trace)
