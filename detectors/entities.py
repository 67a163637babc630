"""The entity table: which row of a monitor's arrays belongs to which entity.

Bounded by `capacity`; when it is full, a new entity takes the row of another by S3-FIFO (J. Yang
et al., "FIFO queues are all you need for cache eviction", SOSP 2023, without its ghost queue):
new keys enter a small queue and are promoted to the main one only when they have returned, so
that an attacker who rotates keys evicts other one-timers, not the known entities. All of it
follows stream order, so eviction is as repeatable as everything else.

Says nothing about what a row holds: whoever owns an array resets its row where `fresh` is set.
"""

from math import inf
from typing import Final, NamedTuple

import numpy as np

from detectors.kernels import kernel
from detectors.state import Arrays, load, saved
from schemas.columns import F64, I32, I64, U8, U64, Bools

PROBATION_SHARE: Final = 10
"""One row in this many belongs to keys seen once, when the table is full (10 % as in S3-FIFO)."""
RETURNS_MAX: Final = 3
"""Returns remembered of a row: as many turns of the main queue it survives unseen."""

SMALL_HEAD, SMALL_COUNT, MAIN_HEAD, MAIN_COUNT, ROWS_USED, EVICTIONS, PROMOTIONS = range(7)


class Admitted(NamedTuple):
    """Where a batch's events go. All arrays have one element an event.

    row: int64. fresh: the row belongs to a new entity from this event on, or to an entity whose new
    session begins, which is the same. time_ms: float64, the
    event's time, or its entity's last where the event is late (its age is clamped). late: the
    event is older than its entity's last. learn: False where it is late beyond the limit.
    seen: int64, events of the entity (of its session) before this one.
    """

    row: I64
    fresh: Bools
    time_ms: F64
    late: Bools
    learn: Bools
    seen: I64


class Table(NamedTuple):
    """The arrays behind the table. slots: row + 1 by open addressing, 0 empty. keys: [rows, 2].
    returns, last_ms, seen: one a row. small, main: rings of rows. marks: heads and counts."""

    slots: I32
    keys: U64
    returns: U8
    last_ms: F64
    seen: I64
    small: I32
    main: I32
    marks: I64


class EntityTable:
    """Keys to rows, at array speed. About 50 bytes a row, in memory only when used."""

    def __init__(self, capacity: int) -> None:
        self.table = Table(
            slots=np.zeros(1 << (2 * capacity - 1).bit_length(), np.int32),
            keys=np.zeros((capacity, 2), np.uint64),
            returns=np.zeros(capacity, np.uint8),
            last_ms=np.zeros(capacity),
            seen=np.zeros(capacity, np.int64),
            small=np.zeros(capacity, np.int32),
            main=np.zeros(capacity, np.int32),
            marks=np.zeros(7, np.int64),
        )

    @property
    def rows_used(self) -> int:
        """Rows that belong to an entity; they are the first ones."""
        return int(self.table.marks[ROWS_USED])

    def admit(
        self, keys: U64, time_ms: I64, lateness_max_ms: float, session_gap_ms: float = inf
    ) -> Admitted:
        """Map each event to its entity's row, in event order. keys: uint64[n, 2], none (0, 0).

        session_gap_ms: an entity that was silent for longer starts anew.
        """
        n = len(keys)
        admitted = Admitted(
            row=np.empty(n, np.int64),
            fresh=np.empty(n, np.bool_),
            time_ms=np.empty(n),
            late=np.empty(n, np.bool_),
            learn=np.empty(n, np.bool_),
            seen=np.empty(n, np.int64),
        )
        _admit(self.table, keys, time_ms, lateness_max_ms, session_gap_ms, admitted)
        return admitted

    def save(self) -> Arrays:
        """The table's state; rows never used are left out."""
        return saved(
            self.table, dict.fromkeys(("keys", "returns", "last_ms", "seen"), self.rows_used)
        )

    def load(self, state: Arrays) -> None:
        """Replace the table by a saved one of the same capacity."""
        load(self.table, state)


@kernel
def _find(table: Table, k0: np.uint64, k1: np.uint64) -> int:
    """The slot of the key, or of the empty place where it would go."""
    mask = len(table.slots) - 1
    slot = np.int64(k0) & mask
    while table.slots[slot] != 0:
        row = table.slots[slot] - 1
        if table.keys[row, 0] == k0 and table.keys[row, 1] == k1:
            return int(slot)
        slot = (slot + 1) & mask
    return int(slot)


@kernel
def _forget(table: Table, row: int) -> None:
    """Take the row's key out, moving the run behind it up (linear probing without tombstones)."""
    slots = table.slots
    mask = len(slots) - 1
    hole = _find(table, table.keys[row, 0], table.keys[row, 1])
    slot = hole
    while True:
        slot = (slot + 1) & mask
        if slots[slot] == 0:
            break
        home = np.int64(table.keys[slots[slot] - 1, 0]) & mask
        if ((slot - home) & mask) >= ((slot - hole) & mask):
            slots[hole] = slots[slot]
            hole = slot
    slots[hole] = 0


@kernel
def _evict(table: Table) -> int:
    """The row to give away: the oldest that has not returned, probation first."""
    marks = table.marks
    returns = table.returns
    capacity = len(returns)
    probation = max(1, capacity // PROBATION_SHARE)
    while True:
        if marks[SMALL_COUNT] > probation or marks[MAIN_COUNT] == 0:
            row = np.int64(table.small[marks[SMALL_HEAD]])
            marks[SMALL_HEAD] = (marks[SMALL_HEAD] + 1) % capacity
            marks[SMALL_COUNT] -= 1
            if returns[row] == 0:
                return int(row)
            returns[row] = 0
            marks[PROMOTIONS] += 1
        else:
            row = np.int64(table.main[marks[MAIN_HEAD]])
            marks[MAIN_HEAD] = (marks[MAIN_HEAD] + 1) % capacity
            marks[MAIN_COUNT] -= 1
            if returns[row] == 0:
                return int(row)
            returns[row] -= 1
        table.main[(marks[MAIN_HEAD] + marks[MAIN_COUNT]) % capacity] = row
        marks[MAIN_COUNT] += 1


@kernel
def _take_row(table: Table, k0: np.uint64, k1: np.uint64) -> int:
    """A row for a key that has none: a new one while there are any, else an evicted one."""
    marks = table.marks
    capacity = len(table.returns)
    if marks[ROWS_USED] < capacity:
        row = int(marks[ROWS_USED])
        marks[ROWS_USED] += 1
    else:
        row = _evict(table)
        _forget(table, row)
        marks[EVICTIONS] += 1
    table.slots[_find(table, k0, k1)] = row + 1
    table.keys[row, 0] = k0
    table.keys[row, 1] = k1
    table.returns[row] = 0
    table.seen[row] = 0
    table.small[(marks[SMALL_HEAD] + marks[SMALL_COUNT]) % capacity] = row
    marks[SMALL_COUNT] += 1
    return row


@kernel
def _admit(
    table: Table,
    keys: U64,
    time_ms: I64,
    lateness_max_ms: float,
    session_gap_ms: float,
    out: Admitted,
) -> None:
    for i in range(len(keys)):
        time = float(time_ms[i])
        slot = _find(table, keys[i, 0], keys[i, 1])
        fresh = table.slots[slot] == 0
        if fresh:
            row = _take_row(table, keys[i, 0], keys[i, 1])
            table.last_ms[row] = time
        else:
            row = int(table.slots[slot]) - 1
            table.returns[row] = min(table.returns[row] + 1, RETURNS_MAX)
            if time - table.last_ms[row] > session_gap_ms:
                fresh = True
                table.seen[row] = 0
        behind_ms = table.last_ms[row] - time
        learn = behind_ms <= lateness_max_ms
        table.last_ms[row] = max(table.last_ms[row], time)
        out.row[i] = row
        out.fresh[i] = fresh
        out.time_ms[i] = table.last_ms[row]
        out.late[i] = behind_ms > 0.0
        out.learn[i] = learn
        out.seen[i] = table.seen[row]
        if learn:
            table.seen[row] += 1
