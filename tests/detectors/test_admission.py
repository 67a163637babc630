"""Which entities keep their rows during a flood of keys, at full size."""

from collections import deque
from typing import Final

import numpy as np
import pytest

from detectors.clock import unbounded_times
from detectors.entities import EVICTIONS, EntityTable
from schemas.columns import I64, Bools

CAPACITY: Final = 50_000
KNOWN: Final = 20_000
VISITS: Final = 20
NEW: Final = 100
"""Entities that appear during the flood, with `NEW_VISITS` visits within `NEW_SPAN` events."""
NEW_VISITS: Final = 5
NEW_SPAN: Final = 10_000
ENOUGH: Final = 0.95

ORDERS: Final = ("one by one", "in rounds", "in rounds of 4,000", "shuffled")


def admitted(table: EntityTable, who: I64, seed: int) -> Bools:
    """bool[n]: whether each event found no row of its entity."""
    draw = np.random.Generator(np.random.PCG64(seed))
    keys = draw.integers(0, 2**64, (int(who.max()) + 1, 2), dtype=np.uint64, endpoint=False)
    times = np.arange(len(who), dtype=np.int64)
    fresh = [
        table.admit(keys[who[a : a + 50_000]], unbounded_times(times[a : a + 50_000]), 0.0).fresh
        for a in range(0, len(who), 50_000)
    ]
    return np.concatenate(fresh)


def flood(keys: int, uses: int, order: str, draw: np.random.Generator) -> I64:
    """Each of the keys after the known ones, used so many times, in an order."""
    who = KNOWN + np.arange(keys, dtype=np.int64)
    if order == "one by one":
        return np.repeat(who, uses)
    if order == "shuffled":
        return draw.permutation(np.repeat(who, uses))
    rounds = np.array_split(who, 1 if order == "in rounds" else keys // 4_000)
    return np.concatenate([np.tile(some, uses) for some in rounds])


def placed(events: I64, more: I64, at: I64) -> I64:
    """The events with others inserted at these positions."""
    order = np.argsort(at, kind="stable")
    return np.insert(events, at[order], more[order])


def story(keys: int, uses: int, order: str, share: float, seed: int) -> I64:
    """The entities of events: known ones, then a flood with new ones in it. share: of known
    entities' events, beside those of the flood."""
    draw = np.random.Generator(np.random.PCG64(seed))
    before = np.concatenate([draw.permutation(KNOWN) for _ in range(VISITS)])
    events = flood(keys, uses, order, draw)
    traffic = draw.integers(0, KNOWN, int(share * len(events)))
    events = placed(events, traffic, draw.integers(0, len(events) + 1, len(traffic)))
    span = NEW_SPAN - NEW * NEW_VISITS
    begin = draw.integers(0, len(events) - span, (NEW, 1))
    at = (begin + draw.integers(0, span, (NEW, NEW_VISITS))).reshape(-1)
    new = np.repeat(KNOWN + keys + np.arange(NEW, dtype=np.int64), NEW_VISITS)
    return np.concatenate([before, placed(events, new, at)])


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("keys", [40_000, 50_000])
def test_a_flood_of_keys_evicts_neither_the_known_nor_the_new(keys: int, order: str) -> None:
    """40,000 or 50,000 keys, used 2, 3 or 4 times in any order, with and without other traffic,
    against 20,000 entities with 20 visits in a table of 50,000: 95 % of these, and of new entities
    with 5 visits within 10,000 events, have their whole history after the flood. Every event has a
    row."""
    for uses in (2, 3, 4):
        for share in (0.0, 0.25, 1.0):
            who = story(keys, uses, order, share, seed=uses)
            table = EntityTable(CAPACITY)
            fresh = admitted(table, who, seed=uses)
            begun = np.bincount(who[fresh])
            # after the flood they are seen once more: an entity never evicted never began again
            those = np.concatenate([np.arange(KNOWN), np.arange(KNOWN + keys, len(begun))])
            begun = begun[those] + admitted(table, those, seed=uses)
            assert (begun[:KNOWN] == 1).mean() >= ENOUGH, (uses, share)
            assert (begun[KNOWN:] == 1).mean() >= ENOUGH, (uses, share)
            assert table.rows_used == CAPACITY


def test_a_million_keys_used_once_evict_each_other_only() -> None:
    """After a million keys, each used once, all 20,000 known entities have their history."""
    draw = np.random.Generator(np.random.PCG64(3))
    before = np.concatenate([draw.permutation(KNOWN) for _ in range(VISITS)])
    who = np.concatenate([before, KNOWN + np.arange(1_000_000), np.arange(KNOWN)])
    table = EntityTable(CAPACITY)
    fresh = admitted(table, who, seed=3)
    assert not fresh[-KNOWN:].any()
    assert table.table.marks[EVICTIONS] == KNOWN + 1_000_000 - CAPACITY


def test_a_return_counts_after_probation() -> None:
    """Entities that return only once before they are past probation, and 18 times after it, outlive
    a flood of keys used four times."""
    draw = np.random.Generator(np.random.PCG64(4))
    once = KNOWN + 50_000 + np.arange(100_000)
    parts = [np.tile(np.arange(KNOWN), 2), once, np.tile(np.arange(KNOWN), 18)]
    who = np.concatenate([*parts, flood(50_000, 4, "shuffled", draw), np.arange(KNOWN)])
    fresh = admitted(EntityTable(CAPACITY), who, seed=4)
    assert (~fresh[-KNOWN:]).mean() >= ENOUGH


def changing(exponent: float, keys: int, events: int, seed: int) -> I64:
    """A Zipf stream whose popular keys change every 100,000 events."""
    draw = np.random.Generator(np.random.PCG64(seed))
    share = np.cumsum(np.arange(1.0, keys + 1) ** -exponent)
    rank = np.searchsorted(share / share[-1], draw.random(events))
    for start in range(0, events, 100_000):
        rank[start : start + 100_000] = draw.permutation(keys)[rank[start : start + 100_000]]
    return rank.astype(np.int64)


def fifo_hits(who: I64, capacity: int) -> int:
    """Hits of S3-FIFO without its ghost queue and with counts up to 3, which weighs no history."""
    returns: dict[int, int] = {}
    small: deque[int] = deque()
    main: deque[int] = deque()
    hits, probation = 0, max(1, capacity // 10)
    for key in who.tolist():
        if key in returns:
            hits += 1
            returns[key] = min(returns[key] + 1, 3)
            continue
        while len(returns) >= capacity:
            young = len(small) > probation or not main
            old = (small if young else main).popleft()
            if returns[old] == 0:
                del returns[old]
            else:
                returns[old] = 0 if young else returns[old] - 1
                main.append(old)
        returns[key] = 0
        small.append(key)
    return hits


@pytest.mark.parametrize(
    ("exponent", "capacity"),
    [
        (0.8, 3_000),
        *(
            pytest.param(exponent, capacity, marks=pytest.mark.slow)
            for exponent in (0.6, 0.8, 0.9, 1.0, 1.1, 1.2)
            for capacity in (300, 1_000, 3_000, 10_000, 20_000, 50_000)
        ),
    ],
)
def test_a_change_of_popular_keys_loses_no_hits(exponent: float, capacity: int) -> None:
    """Where the popular keys change every 100,000 events, the table has no fewer hits than a queue
    that uses recency only; except for 0.05 % of the events, while a table fills up."""
    who = changing(exponent, 500_000, 300_000 if capacity <= 10_000 else 600_000, seed=5)
    hits = int((~admitted(EntityTable(capacity), who, seed=5)).sum())
    assert hits >= fifo_hits(who, capacity) - 0.0005 * len(who)
