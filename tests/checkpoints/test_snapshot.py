"""Snapshots: whatever a shard writes afterwards, a checkpoint holds the state of the moment it was
started."""

from threading import Event, Thread

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from obstore.store import MemoryStore

from detectors.monitor import Monitor
from detectors.state import Arrays, copy_arrays
from stream.checkpoints import snapshot as module
from stream.checkpoints.loading import load
from stream.checkpoints.snapshot import Snapshot
from stream.checkpoints.writing import write
from tests.checkpoints.builders import empty_manifest, folder
from tests.laws.registry import MONITORS
from tests.laws.test_laws import EVENTS, KEY, assert_same, hostile_stream, run
from tests.streams import batch

few = settings(max_examples=5, deadline=None)


def through_a_store(snapshot: Snapshot, between: "SteppedWrites | None" = None) -> Arrays:
    """The snapshot's arrays, written to a store and read again."""
    into = folder(MemoryStore())
    made = write(into, empty_manifest(5), snapshot, between or (lambda: True))
    assert made is not None
    return load(into, made.manifest, lambda: None)


class SteppedWrites:
    """Called before each block is read: lets the monitor process another part of the stream."""

    def __init__(self, monitor: Monitor, seed: int) -> None:
        self.monitor = monitor
        self.left = [batch(seed, EVENTS, entities=60).slice(k, k + 20) for k in range(0, 200, 20)]

    def __call__(self) -> bool:
        """Process the next part, if there is one; the writing goes on."""
        if self.left:
            self.monitor.process(self.left.pop(0))
        return True


@pytest.mark.slow
@pytest.mark.parametrize("name", MONITORS)
@few
@given(seed=st.integers(0, 2**32), stop=st.integers(1, EVENTS))
def test_state_is_stored_while_the_monitor_runs(
    name: str, seed: int, stop: int, monkeypatch_blocks: None
) -> None:
    """For every kind of feature and detector: the checkpoint is the state of its start, byte for
    byte, although the monitor processes events between any two blocks; a monitor loaded from it
    continues like one that never stopped."""
    events = hostile_stream(seed)
    going, other = Monitor(MONITORS[name], KEY), Monitor(MONITORS[name], KEY)
    run(going, events.slice(0, stop), [])
    expected = copy_arrays(going.save())
    snapshot = Snapshot(going.save(), going.copy_on_write_arrays())
    going.set_write_hook(snapshot.before_write)
    found = through_a_store(snapshot, SteppedWrites(going, seed + 1))
    assert_same(found, expected)
    assert any(np.any(expected[key] != going.save()[key][: len(a)]) for key, a in found.items())
    run(other, batch(1, 50), [])  # what stood there before must not shine through
    other.load(found)
    once_more = Monitor(MONITORS[name], KEY)
    once_more.load(expected)
    assert_same(run(other, events, [7]), run(once_more, events, []))
    assert_same(other.save(), once_more.save())


@pytest.fixture(scope="module")
def monkeypatch_blocks() -> object:
    """Blocks of a few rows, so that small monitors have many."""
    patch = pytest.MonkeyPatch()
    patch.setattr(module, "BLOCK_BYTES", 2_000)
    yield
    patch.undo()


def test_unannounced_writes_make_the_test_fail(monkeypatch_blocks: None) -> None:
    """Without the write hook a later write is in the checkpoint."""
    live = np.zeros((100, 100))
    snapshot = Snapshot({"words": live}, {"words"})
    live[99] = 1.0
    assert through_a_store(snapshot)["words"][99].all()


@settings(deadline=None)
@given(
    writes=st.lists(st.lists(st.integers(0, 119), min_size=1, max_size=40), max_size=8),
    rows=st.integers(1, 100),
)
def test_any_schedule_of_writes_leaves_the_snapshot_as_it_was(
    writes: list[list[int]], rows: int, monkeypatch_blocks: None
) -> None:
    """Rows in any order, several times, and beyond what was saved, before and between the reads."""
    whole = np.arange(120.0 * 50).reshape(120, 50)
    expected = whole[:rows].copy()
    snapshot = Snapshot({"words": whole[:rows]}, {"words"})
    left = list(writes)

    def write_some() -> bool:
        if left:
            chosen = np.array(left.pop())
            snapshot.before_write("words", chosen)
            whole[chosen] = -1.0
        return True

    write_some()
    assert_same(through_a_store(snapshot, write_some), {"words": expected})  # type: ignore[arg-type]


def test_a_snapshot_is_read_by_one_thread_while_another_writes() -> None:
    """While a thread writes rows all the time, no row of the snapshot is torn or new."""
    whole = np.ones((20_000, 300))
    snapshot = Snapshot({"words": whole}, {"words"})
    stop, draw = Event(), np.random.Generator(np.random.PCG64(1))

    def write_on() -> None:
        while not stop.is_set():
            chosen = draw.integers(0, len(whole), 500)
            snapshot.before_write("words", chosen)
            whole[chosen] += 1.0

    thread = Thread(target=write_on)
    thread.start()
    try:
        blocks = list(snapshot.blocks("words"))
    finally:
        stop.set()
        thread.join()
    assert whole.max() > 1.0
    assert all(np.all(block == 1.0) for block in blocks)
    assert sum(map(len, blocks)) == len(whole)
