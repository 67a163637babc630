"""The in-memory group: shares of partitions, and how processes of a simulation end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.kafka.positions import Partition
from tests.simulation.group import cooperative
from tests.simulation.world import Killed, Process, World

EVERY = [Partition("events", number) for number in range(7)]


@given(
    owners=st.lists(st.integers(-1, 3), min_size=len(EVERY), max_size=len(EVERY)),
    members=st.integers(1, 4),
)
def test_shares_settle_in_two_rounds(owners: list[int], members: int) -> None:
    """In the first nobody gets what another owns; after the second every partition has an owner,
    and shares differ by one at most."""
    names = [f"member-{number}" for number in range(members)]
    owned = {
        name: frozenset(p for p, owner in zip(EVERY, owners, strict=True) if owner == number)
        for number, name in enumerate(names)
    }
    first = cooperative(owned, EVERY)
    for name, share in first.items():
        assert not any(share & some for other, some in owned.items() if other != name)
    second = cooperative(first, EVERY)
    assert sorted(p for share in second.values() for p in share) == EVERY
    sizes = [len(share) for share in second.values()]
    assert max(sizes) - min(sizes) <= 1
    assert all(first[name] <= second[name] for name in names)
    assert cooperative(second, EVERY) == second


def run(world: World, seconds: float) -> None:
    """Let simulated time pass."""
    over: list[bool] = []
    world.after(seconds, lambda: over.append(True))
    world.run(lambda: bool(over), 1_000.0)


def test_a_killed_process_does_nothing_more() -> None:
    """Neither what it was doing, nor its background work, nor its timers; its code is told."""
    world, done = World(1), list[str]()
    process = Process(world, "one")

    def work(name: str) -> None:
        try:
            for _ in range(100):
                process.sleep(0.1)
                process.step("source", name)
                done.append(name)
        except Killed:
            done.append(f"{name} ends")
            with pytest.raises(Killed):
                process.step("source", name)
            raise

    process.start(lambda: work("main"))
    process.start(lambda: work("background"))
    world.after(0.5, lambda: done.append("timer"), process)
    world.after(0.25, process.kill)
    run(world, 2.0)
    assert sorted(done) == ["background"] * 2 + ["background ends"] + ["main"] * 2 + ["main ends"]


def test_a_suspended_process_goes_on_later() -> None:
    """All that was due in the meantime happens when its time is over."""
    world, done = World(1), list[float]()
    process = Process(world, "one")
    for due_s in (1.0, 2.0, 6.0):
        world.after(due_s, lambda: done.append(world.now), process)
    process.suspend(5.0)
    run(world, 10.0)
    assert done == [5.0, 5.0, 6.0]


def test_a_task_is_waited_for() -> None:
    """For so long at most; its result and its error come back."""
    world = World(1)
    process = Process(world, "one")

    def wait(seconds: float) -> str:
        process.sleep(seconds)
        return "done"

    def fail() -> None:
        wait(1.0)
        raise LookupError("no")

    def main() -> list[object]:
        slow = process.start(lambda: wait(3.0))
        failing = process.start(fail)
        return [slow.wait(2.0), world.now, slow.result(), world.now, type(failing.exception())]

    task = process.start(main)
    world.run(task.done, 100.0)
    assert task.result() == [False, 2.0, "done", 3.0, LookupError]
