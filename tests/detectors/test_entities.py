"""The entity table against a plain model of its admission in a few lines of Python."""

from collections import deque
from math import gcd

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.clock import unbounded_times
from detectors.cohorts import COHORTS_MAX, Cohorts
from detectors.entities import (
    AGEING_EVICTIONS,
    EVICTIONS,
    GOLDEN_RATIO,
    PROBATION_SHARE,
    PROBES_MAX,
    RETURNS_MAX,
    EntityTable,
)
from schemas.columns import I64, U64


class Model:
    """Probation, a share of settled rows and ghosts, over dicts and a deque."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.row: dict[int, int] = {}
        self.key: dict[int, int] = {}
        self.returns: dict[int, int] = {}
        self.small: deque[int] = deque()
        self.settled: set[int] = set()
        self.ghosts: dict[int, tuple[int, int]] = {}
        self.probation = max(1, capacity // PROBATION_SHARE)
        self.probed = self.evictions = 0
        self.stride = max(1, int(capacity * GOLDEN_RATIO))
        while gcd(self.stride, capacity) != 1:
            self.stride += 1

    def _victim(self, key: int) -> int:
        for _ in range(PROBES_MAX):
            self.probed = (self.probed + self.stride) % self.capacity
            other = self.key[self.probed]
            if other in self.settled and self.returns[other] <= self.returns[key]:
                return other
        return key

    def _evict(self) -> int:
        while True:
            key = self.small.popleft()
            if self.returns[key] == 0:
                return key
            if len(self.small) < self.probation:
                victim = self._victim(key)
                if victim == key:
                    return key
                self.settled.remove(victim)
                self.settled.add(key)
                return victim
            self.settled.add(key)

    def _make_room(self) -> int:
        """The row of an evicted key."""
        gone = self._evict()
        row = self.row.pop(gone)
        mask = (1 << (self.capacity - 1).bit_length()) - 1
        if len(self.small) < self.probation:
            self.ghosts[gone & mask] = gone, min(self.returns[gone] + 1, RETURNS_MAX)
        if self.evictions % AGEING_EVICTIONS == AGEING_EVICTIONS - 1:
            at = self.evictions // AGEING_EVICTIONS % self.capacity
            if self.key[at] in self.settled:
                self.returns[self.key[at]] //= 2
        self.evictions += 1
        return row

    def admit(self, key: int) -> tuple[int, bool]:
        """The key's row, and whether it is new there."""
        if key in self.row:
            self.returns[key] = min(self.returns[key] + 1, RETURNS_MAX)
            return self.row[key], False
        row, returns = len(self.row), 0
        mask = (1 << (self.capacity - 1).bit_length()) - 1
        if row >= self.capacity:
            row = self._make_room()
            if self.ghosts.get(key & mask, (0, 0))[0] == key:
                _, returns = self.ghosts.pop(key & mask)
        self.row[key], self.key[row] = row, key
        self.returns[key] = returns
        self.small.append(key)
        return row, True


def _keys(numbers: list[int]) -> U64:
    # The low word is all that slots are chosen by: multiples of a power of two collide in them.
    pairs = [[(k << 40) % 2**64 + 1, k] for k in numbers]
    return np.array(pairs, np.uint64).reshape(-1, 2)


def _times(count: int) -> I64:
    return np.arange(count, dtype=np.int64)


@settings(deadline=None)
@given(capacity=st.integers(1, 40), numbers=st.lists(st.integers(1, 60), max_size=400))
def test_rows_equal_the_models(capacity: int, numbers: list[int]) -> None:
    """Every key gets the row of the model, and every eviction hits the model's key."""
    table, model = EntityTable(capacity), Model(capacity)
    admitted = table.admit(_keys(numbers), unbounded_times(_times(len(numbers))), 0.0)
    expected = [model.admit(k) for k in numbers]
    assert list(zip(admitted.row.tolist(), admitted.fresh.tolist(), strict=True)) == expected


def test_a_long_stream_gets_the_models_rows() -> None:
    """Over 20,000 events with a few popular keys, in small tables, rows and evictions equal the
    model's."""
    drawn = np.random.Generator(np.random.PCG64(1)).zipf(1.3, 20_000)
    numbers = np.where(drawn > 500, drawn % 500 + 1, drawn).tolist()
    for capacity in (1, 2, 3, 16, 60):
        table, model = EntityTable(capacity), Model(capacity)
        admitted = table.admit(_keys(numbers), unbounded_times(_times(len(numbers))), 0.0)
        expected = [model.admit(k) for k in numbers]
        assert list(zip(admitted.row.tolist(), admitted.fresh.tolist(), strict=True)) == expected
        assert table.table.marks[EVICTIONS] == model.evictions > 1_000


def test_rotating_keys_evict_each_other_and_not_the_known() -> None:
    """100,000 one-time keys pass through a table of 1,000 rows; entities that return keep
    theirs."""
    table = EntityTable(1_000)
    known = _keys(list(range(1, 801)))
    for _ in range(3):
        table.admit(known, unbounded_times(_times(800)), 0.0)
    strangers = np.random.Generator(np.random.PCG64(5)).integers(
        1, 2**63, (100_000, 2), dtype=np.uint64
    )
    for k in range(0, 100_000, 1_000):
        table.admit(strangers[k : k + 1_000], unbounded_times(_times(1_000)), 0.0)
        table.admit(known, unbounded_times(_times(800)), 0.0)
    assert not table.admit(known, unbounded_times(_times(800)), 0.0).fresh.any()
    assert table.table.marks[EVICTIONS] == 100_800 - 1_000


def test_lateness_is_clamped_and_bounded() -> None:
    """A late event has its entity's last time; at the bound it is learned, beyond it is not."""
    table = EntityTable(16)
    times = unbounded_times(np.array([1000, 900, 499, 500, 1100]))
    admitted = table.admit(_keys([1, 1, 1, 1, 1]), times, 500.0)
    assert admitted.time_ms.tolist() == [1000, 1000, 1000, 1000, 1100]
    assert admitted.late.tolist() == [False, True, True, True, False]
    assert admitted.learn.tolist() == [True, True, False, True, True]
    assert admitted.earlier_events.tolist() == [0, 1, 2, 2, 3]


def test_a_session_begins_after_a_pause() -> None:
    """An entity that was silent for longer than the gap keeps its row, fresh and without earlier
    events; a pause as long as the gap, or a late event, begins no session."""
    times = np.array([0, 1_000, 31_000, 61_001, 50_000, 61_002], np.int64)
    keys = np.full((len(times), 2), 7, np.uint64)
    table = EntityTable(4)
    admitted = table.admit(keys, unbounded_times(times), 3_600_000.0, session_gap_ms=30_000.0)
    assert admitted.fresh.tolist() == [True, False, False, True, False, False]
    assert admitted.earlier_events.tolist() == [0, 1, 2, 0, 1, 2]
    assert admitted.late.tolist() == [False, False, False, False, True, False]
    assert set(admitted.row.tolist()) == {0}
    assert table.table.marks[EVICTIONS] == 0


def test_cohorts_are_numbered_in_order_of_appearance() -> None:
    """An absent value has number 0, as has a value that no learned event had before; the first values
    have numbers from 1 on, and those after the last number have 0."""
    cohorts = Cohorts()
    found = cohorts.numbers(
        np.array([0, 5, 5, 9, 0, 5, 8], np.uint64), np.array([1, 0, 1, 1, 1, 1, 0], bool)
    )
    assert found.tolist() == [0, 0, 1, 2, 0, 1, 0]
    many = np.arange(10, 10 + COHORTS_MAX, dtype=np.uint64)
    found = cohorts.numbers(many, np.ones(COHORTS_MAX, np.bool_))
    assert found.tolist() == [*range(3, COHORTS_MAX + 1), 0, 0]
    assert cohorts.numbers(np.array([0, 9], np.uint64), np.ones(2, np.bool_)).tolist() == [0, 2]
