"""Schedules drawn at random: workers of one group that join, leave, freeze and are killed, by a clock
or at a point, while events come in and, in some, the broker is killed or stopped and comes back.

A seed draws one schedule, always the same; when what happens is up to the machine. A worker that
ends by itself is started again into its slot, as a supervisor does; an end that no start can mend
fails the seed, and so does everything that is not the oracle's at the end.
"""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from numpy.random import PCG64, Generator

from stream.errors import NON_RESTARTABLE
from stream.simulator import Shop as Simulated
from stream.simulator.attacks import EVENTS_MIN
from tests.broker.crash_points import POINTS, PROCESSING
from tests.broker.own_broker import OwnBroker
from tests.broker.shop import Shop
from tests.crash.environment import (
    PROTOCOLS,
    Environment,
    feed,
    feed_labels,
    finish_and_check,
    make_crash_shop,
)
from tests.crash.processes import POLL_S, ForkedWorker, Plan, start_worker

REGRESSIONS: Final[tuple[int, ...]] = (19, 24, 40)
"""Seeds that failed once; they run every time, before all others.

19: its log led to no alert.
24: a broker that had just started did not know a partition yet, and a worker ended for good.
40: its log led to too few records to prove anything.
"""

RESTARTS_EVERY: Final = 8
"""One seed of so many restarts its broker."""

SLOTS: Final = ("a", "b", "c")
LAYOUTS: Final = ((1, False), (4, False), (2, True))
"""Partitions of the input, and whether monitors read internal topics and labels come, too."""

DEADLY: Final = sorted(POINTS | PROCESSING)
AFTER_MAX: Final = 12
MALFORMED: Final = 0.05


class Step(NamedTuple):
    """What happens so many seconds after the step before.

    action: join, kill, leave, freeze, feed or restart. plan: of a worker that joins. amount: events
    to feed, seconds to stand still, or whether the broker is killed.
    """

    after_s: float
    action: str
    slot: str
    plan: Plan
    amount: float


class Schedule(NamedTuple):
    """All that a seed draws."""

    partitions: int
    internal_topics: bool
    protocol: str
    events: int
    steps: list[Step]
    last_slot: str

    def __str__(self) -> str:
        steps = "; ".join(
            f"+{s.after_s:.2f} s {s.action} {s.slot} {dict(s.plan) or ''} {s.amount:g}"
            for s in self.steps
        )
        return (
            f"{self.partitions} partitions{' and a hop' if self.internal_topics else ''}, {self.protocol}, "
            f"{self.events} events: {steps}; at last {self.last_slot}"
        )


def draw_schedule(seed: int) -> Schedule:
    """The schedule of a seed."""
    rng = Generator(PCG64(seed))
    partitions, internal_topics = LAYOUTS[rng.integers(len(LAYOUTS))]
    protocol = list(PROTOCOLS)[rng.integers(len(PROTOCOLS))]
    events = int(rng.integers(2_000, 3_000))
    steps = [_step(rng, "join"), *(_step(rng) for _ in range(rng.integers(5, 9)))]
    if restarts_broker(seed):
        at = int(rng.integers(2, len(steps)))
        steps.insert(at, _step(rng, "restart"))
    return Schedule(partitions, internal_topics, protocol, events, steps, _slot(rng))


def restarts_broker(seed: int) -> bool:
    """Whether the seed's broker is restarted, so that it must be nobody else's."""
    return seed % RESTARTS_EVERY == 0


def _slot(rng: Generator) -> str:
    return SLOTS[rng.integers(len(SLOTS))]


def _step(rng: Generator, action: str = "") -> Step:
    actions = ("join", "join", "kill", "kill", "leave", "freeze", "feed")
    action = action or actions[rng.integers(len(actions))]
    plan: Plan = ()
    if action == "join" and rng.random() < 0.6:
        plan = [(DEADLY[rng.integers(len(DEADLY))], int(rng.integers(1, AFTER_MAX)))]
    amount = {
        "feed": float(rng.integers(100, 500)),
        "freeze": float(rng.uniform(0.2, 3.5)),
        "restart": float(rng.integers(2)),
    }.get(action, 0.0)
    return Step(float(rng.uniform(0.05, 0.7)), action, _slot(rng), plan, amount)


@dataclass
class Workers:
    """The workers of a schedule, by slot, and when those that stand still go on."""

    shop: Shop
    workers: dict[str, ForkedWorker] = field(default_factory=dict)
    thaw_at: dict[str, float] = field(default_factory=dict)
    leaving: set[str] = field(default_factory=set)

    def join(self, slot: str, plan: Plan) -> None:
        """Start a worker, unless the slot is taken."""
        if slot not in self.workers:
            self.workers[slot] = start_worker(self.shop, slot, plan)

    def kill(self, slot: str) -> None:
        """SIGKILL; the slot stays empty until somebody joins into it."""
        if slot in self.workers:
            self._remove(slot).stop(signal.SIGKILL)

    def leave(self, slot: str) -> None:
        """Ask it to stop, and do not wait."""
        if slot in self.workers and slot not in self.thaw_at:
            self.workers[slot].send_signal(signal.SIGTERM)
            self.leaving.add(slot)

    def freeze(self, slot: str, seconds: float) -> None:
        """It stands still for so long."""
        if slot in self.workers:
            self.workers[slot].send_signal(signal.SIGSTOP)
            self.thaw_at[slot] = time.monotonic() + seconds

    def poll(self) -> None:
        """Let those go on whose time has come, and start those again that ended by themselves."""
        for slot, at in list(self.thaw_at.items()):
            if time.monotonic() >= at:
                self._thaw(slot)
        for slot, worker in list(self.workers.items()):
            if not worker.is_alive():
                self._replace_if_crashed(slot, worker)

    def wait(self, seconds: float) -> None:
        """Look after them for so long."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.poll()
            time.sleep(POLL_S)

    def end(self) -> None:
        """Kill all that are left."""
        for slot in list(self.workers):
            self.kill(slot)

    def _replace_if_crashed(self, slot: str, worker: ForkedWorker) -> None:
        code = worker.wait_for_exit()
        assert code not in NON_RESTARTABLE, f"worker {slot} ended with {code}: {worker.log_file}"
        was_stopped = slot in self.leaving
        self._remove(slot)
        if not was_stopped:
            self.join(slot, ())

    def _thaw(self, slot: str) -> None:
        del self.thaw_at[slot]
        self.workers[slot].send_signal(signal.SIGCONT)

    def _remove(self, slot: str) -> ForkedWorker:
        self.thaw_at.pop(slot, None)
        self.leaving.discard(slot)
        return self.workers.pop(slot)


@contextmanager
def workers_of(shop: Shop) -> Iterator[Workers]:
    """Nobody yet; all killed at the end."""
    found = Workers(shop)
    try:
        yield found
    finally:
        found.end()


def scenario_of(seed: int, broker: OwnBroker | None = None) -> Callable[[Environment], None]:
    """The story of a seed. broker: its own, where it restarts one."""

    def scenario(environment: Environment) -> None:
        schedule = draw_schedule(seed)
        try:
            _run(seed, schedule, environment, broker)
        except Exception as error:
            error.add_note(f"seed {seed}: {schedule}")
            raise

    return scenario


def _run(seed: int, schedule: Schedule, environment: Environment, broker: OwnBroker | None) -> None:
    shop = make_crash_shop(
        environment,
        f"seed-{seed}",
        schedule.partitions,
        schedule.protocol,
        internal_topics=schedule.internal_topics,
        labels=schedule.internal_topics,
    )
    feed(shop, schedule.events, seed, MALFORMED)
    with workers_of(shop) as workers:
        for number, step in enumerate(schedule.steps):
            workers.wait(step.after_s)
            if schedule.internal_topics and number == len(schedule.steps) // 2:
                feed_labels(shop, Simulated(EVENTS_MIN, seed))
            match step.action:
                case "join":
                    workers.join(step.slot, step.plan)
                case "kill":
                    workers.kill(step.slot)
                case "leave":
                    workers.leave(step.slot)
                case "freeze":
                    workers.freeze(step.slot, step.amount)
                case "feed":
                    feed(shop, int(step.amount), seed + number, MALFORMED)
                case "restart":
                    assert broker is not None, "a schedule that restarts its broker needs its own"
                    broker.kill() if step.amount else broker.stop()
                    broker.start()
        workers.wait(0.5)
    finish_and_check(shop, schedule.last_slot)
