"""A schedule: all that happens to a deployment, drawn from one integer."""

from random import Random
from typing import Final, NamedTuple

from tests.simulation.shop import CHANGES

SECONDS: Final = 2.5
"""Simulated time over which records are fed and faults happen."""

FAULTS_MIN, FAULTS_MAX = 3, 6
CALLS: Final = ("source", "sink", "store", "clock", "executor")

KINDS: Final = {
    "crash": 6,
    "suspend": 3,
    "zombie": 2,
    "silence": 2,
    "abort": 2,
    "commit": 2,
    "slow store": 1,
    "failing store": 1,
    "clock step": 1,
    "leave": 2,
    "join": 1,
    "retention": 1,
}
"""Faults and how often each is drawn. crash: a process is killed. suspend: it stands still. zombie:
it stands still while another runs in its slot. silence: its heartbeats are lost. abort: its next
transaction fails. commit: its next commit is lost, or the answer is. clock step: its wall clock is
wrong from then on. leave: it stops cleanly and comes back. join: a process joins in a new slot.
retention: partitions lose the records that no checkpoint needs."""

RESTARTS: Final = frozenset({"crash", "zombie", "commit", "leave"})


class Fault(NamedTuple):
    """One fault. It happens at the first process that makes a call of this kind, and `skip` others
    before it, after the simulated time. amount: a duration in seconds or a share, as the kind has it."""

    at_s: float
    kind: str
    call: str
    skip: int
    amount: float


class Schedule(NamedTuple):
    """All that a seed draws beside what the world draws as it runs. change: of the configuration,
    at `change_at_s`, with a restart of every process."""

    slots: int
    bursts: int
    faults: list[Fault]
    change: str
    change_at_s: float

    def __str__(self) -> str:
        lines = [f"{self.slots} processes, {self.bursts} bursts of records"]
        if self.change != "none":
            lines.append(f"at {self.change_at_s:.3f} s a restart of all changes: {self.change}")
        lines += (
            f"after {one.at_s:.3f} s, at call {one.skip + 1} to {one.call}: {one.kind} {one.amount:.3f}"
            for one in self.faults
        )
        return "\n".join(lines)


def draw(random: Random) -> Schedule:
    """A schedule with at least three faults and one restart."""
    count = random.randint(FAULTS_MIN, FAULTS_MAX)
    kinds = random.choices(list(KINDS), list(KINDS.values()), k=count)
    change = random.choice(CHANGES[1:]) if random.random() < 0.25 else "none"
    if change == "none" and not RESTARTS & {*kinds}:
        kinds[0] = "crash"
    faults = [
        Fault(
            at_s=random.uniform(0.05, SECONDS),
            kind=kind,
            call=random.choice(CALLS),
            skip=int(random.expovariate(0.15)),
            amount=_amount(random, kind),
        )
        for kind in kinds
    ]
    return Schedule(
        slots=random.choice((2, 2, 3)),
        bursts=random.randint(5, 10),
        faults=sorted(faults),
        change=change,
        change_at_s=random.uniform(0.3, SECONDS),
    )


def _amount(random: Random, kind: str) -> float:
    if kind in {"suspend", "zombie", "silence"}:
        return random.choice((0.1, 0.9, 1.5, 4.0)) * random.uniform(0.8, 1.2)
    if kind in {"slow store", "failing store"}:
        return random.uniform(0.1, 1.0)
    if kind == "clock step":
        return random.uniform(-7200.0, 7200.0)
    return random.random()
