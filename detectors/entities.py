"""The entity table: which row of a monitor's arrays belongs to which entity.

The table is bounded by `capacity`; when it is full, a new entity takes the row of another one.
Which one depends on how often entities returned, as in S3-FIFO (J. Yang et al., "FIFO queues are all you need for cache
eviction", SOSP 2023) and TinyLFU (G. Einziger et al., "TinyLFU: a highly efficient cache admission
policy", ACM TOS 2017). A new key is on probation, in a queue. At the end of the queue a key that
never returned is evicted. A key that returned keeps its row if one of the next `PROBES_MAX` settled
rows has returned no more often; that one is evicted then, otherwise the key itself. So an attacker
who rotates keys, each used a few times, evicts keys used as rarely, not entities with a history. The
visits of an evicted key are remembered for a while (a ghost) and are counted when it returns. No
ghosts are kept just after the table has filled up: its queue is longer then, and probation with it.
The returns of every row are halved once in `AGEING_EVICTIONS` times `capacity` evictions, so that
keys that no longer return lose their rows.

Rows are given and evicted in event order, so eviction is deterministic. Every event has a row,
which the next event may evict. The owner of an array resets its row where `fresh` is set.
"""

from math import gcd, inf
from typing import Final, NamedTuple

import numpy as np

from detectors.clock import BoundedTimes
from detectors.numeric.kernels import kernel
from detectors.state import Arrays, load, state_arrays
from schemas.columns import F64, I32, I64, U8, U32, U64, Bools

PROBATION_SHARE: Final = 5
"""One row in this many is on probation when the table is full: long enough for a new entity with a
few visits within 10,000 events to return before its probation ends (at a capacity of 50,000)."""
RETURNS_MAX: Final = 63
"""Largest number of returns that is counted for a row."""
PROBES_MAX: Final = 16
"""Settled rows that are compared with a key at the end of its probation."""
AGEING_EVICTIONS: Final = 8
"""Evictions, in multiples of the capacity, in which the returns of each row are halved once."""
GOLDEN_RATIO: Final = 0.6180339887
"""Step between two compared rows, as a share of the table: successive rows are spread evenly."""

SMALL_HEAD, SMALL_COUNT, PROBE_ROW, STRIDE, AGED, ROWS_USED, EVICTIONS, PROMOTIONS = range(8)


class AdmittedEvents(NamedTuple):
    """The rows and times of a batch's events; one element of each array an event.

    row: int64. fresh: the row belongs to a new entity, or to a new session, from this event on.
    time_ms: float64, the event's time, or that of its entity's last event where it is late (its age
    is clamped). late: the event is older than its entity's last one. learn: False where it is too
    late. earlier_events: int64, the entity's learned events before this one (in its session).
    bounded_ms: float64, the event's bounded time, late or not. stream_ms, set_back: see `clock.BoundedTimes`.
    """

    row: I64
    fresh: Bools
    time_ms: F64
    late: Bools
    learn: Bools
    earlier_events: I64
    bounded_ms: F64
    stream_ms: F64
    set_back: Bools


class EntityArrays(NamedTuple):
    """The arrays of the table. slots: int32, row + 1 by open addressing, 0 empty. keys: uint64[rows,
    2]. returns, last_ms, seen, settled: one element a row; settled: past its probation. small: the
    ring of rows on probation. ghosts: uint32, by the hash of an evicted key: 24 bits of the hash and
    8 bits of its visits, 0 empty. marks: positions, counts, and the stride of comparisons."""

    slots: I32
    keys: U64
    returns: U8
    last_ms: F64
    seen: I64
    settled: Bools
    small: I32
    ghosts: U32
    marks: I64


class EntityTable:
    """Maps keys to rows. About 55 bytes a row, in memory only once it is used."""

    def __init__(self, capacity: int) -> None:
        self.table = EntityArrays(
            slots=np.zeros(1 << (2 * capacity - 1).bit_length(), np.int32),
            keys=np.zeros((capacity, 2), np.uint64),
            returns=np.zeros(capacity, np.uint8),
            last_ms=np.zeros(capacity),
            seen=np.zeros(capacity, np.int64),
            settled=np.zeros(capacity, np.bool_),
            small=np.zeros(capacity, np.int32),
            ghosts=np.zeros(1 << (capacity - 1).bit_length(), np.uint32),
            marks=np.zeros(8, np.int64),
        )
        self.table.marks[STRIDE] = _stride(capacity)

    @property
    def rows_used(self) -> int:
        """The number of rows that belong to an entity; they are the first ones."""
        return int(self.table.marks[ROWS_USED])

    def admit(
        self,
        keys: U64,
        timed: BoundedTimes,
        lateness_max_ms: float,
        session_gap_ms: float = inf,
    ) -> AdmittedEvents:
        """Map each event to its entity's row, in event order. keys: uint64[n, 2], none (0, 0).

        session_gap_ms: an entity without events for longer starts as a new one, and so does one whose
        last event is later than a stream time that was set back.
        """
        n = len(keys)
        admitted = AdmittedEvents(
            row=np.empty(n, np.int64),
            fresh=np.empty(n, np.bool_),
            time_ms=np.empty(n),
            late=np.empty(n, np.bool_),
            learn=np.empty(n, np.bool_),
            earlier_events=np.empty(n, np.int64),
            bounded_ms=timed.time_ms.astype(np.float64),
            stream_ms=timed.stream_ms,
            set_back=timed.set_back,
        )
        _admit(self.table, keys, lateness_max_ms, session_gap_ms, admitted)
        return admitted

    def save(self) -> Arrays:
        """The table's state without unused rows."""
        return state_arrays(
            self.table,
            dict.fromkeys(("keys", "returns", "last_ms", "seen", "settled"), self.rows_used),
        )

    def load(self, state: Arrays) -> None:
        """Replace the table by a saved one of the same capacity."""
        load(self.table, state)


def _stride(capacity: int) -> int:
    """About `GOLDEN_RATIO` of the capacity and coprime to it, so that its multiples reach every row."""
    stride = max(1, int(capacity * GOLDEN_RATIO))
    while gcd(stride, capacity) != 1:
        stride += 1
    return stride


@kernel
def _find(slots: I32, keys: U64, k0: np.uint64, k1: np.uint64) -> int:
    """The slot of the key, or the empty slot that it would take."""
    mask = len(slots) - 1
    slot = np.int64(k0) & mask
    while slots[slot] != 0:
        row = slots[slot] - 1
        if keys[row, 0] == k0 and keys[row, 1] == k1:
            return int(slot)
        slot = (slot + 1) & mask
    return int(slot)


@kernel
def _remove_key(table: EntityArrays, row: int) -> None:
    """Remove the row's key and move up the run after it (linear probing without tombstones)."""
    slots = table.slots
    mask = len(slots) - 1
    hole = _find(table.slots, table.keys, table.keys[row, 0], table.keys[row, 1])
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
def _probation_rows(capacity: int) -> int:
    """Rows on probation; there are more only while the queue of a table that just filled up drains."""
    return max(1, capacity // PROBATION_SHARE)


@kernel
def _age(table: EntityArrays) -> None:
    """Halve the count of the next row; at every `AGEING_EVICTIONS`-th eviction."""
    marks = table.marks
    if marks[EVICTIONS] % AGEING_EVICTIONS == 0:
        row = marks[AGED]
        if table.settled[row]:
            table.returns[row] >>= 1
        marks[AGED] = (row + 1) % len(table.returns)


@kernel
def _victim(table: EntityArrays, row: int) -> int:
    """The row to evict: a row at the end of its probation, or one of the next settled rows."""
    capacity = len(table.returns)
    probe_row = table.marks[PROBE_ROW]
    victim = row
    for _ in range(PROBES_MAX):
        probe_row = (probe_row + table.marks[STRIDE]) % capacity
        if table.settled[probe_row] and table.returns[probe_row] <= table.returns[row]:
            victim = probe_row
            break
    table.marks[PROBE_ROW] = probe_row
    return int(victim)


@kernel
def _evict(table: EntityArrays) -> int:
    """The row to evict."""
    marks = table.marks
    capacity = len(table.returns)
    while True:
        row = int(table.small[marks[SMALL_HEAD]])
        marks[SMALL_HEAD] = (marks[SMALL_HEAD] + 1) % capacity
        marks[SMALL_COUNT] -= 1
        if table.returns[row] == 0:
            return row
        if marks[SMALL_COUNT] < _probation_rows(capacity):
            victim = _victim(table, row)
            if victim != row:
                table.settled[row] = True
                marks[PROMOTIONS] += 1
            return victim
        table.settled[row] = True
        marks[PROMOTIONS] += 1


@kernel
def _take_row(table: EntityArrays, k0: np.uint64, k1: np.uint64) -> int:
    """A row for a key without one: an unused one while there are any, else an evicted one."""
    marks = table.marks
    capacity = len(table.returns)
    returns = 0
    if marks[ROWS_USED] < capacity:
        row = int(marks[ROWS_USED])
        marks[ROWS_USED] += 1
    else:
        row = _evict(table)
        _remove_key(table, row)
        if marks[SMALL_COUNT] < _probation_rows(capacity):
            _add_ghost(table, row)
        marks[EVICTIONS] += 1
        _age(table)
        returns = _visits_before(table, k0, k1)
    table.slots[_find(table.slots, table.keys, k0, k1)] = row + 1
    table.keys[row, 0] = k0
    table.keys[row, 1] = k1
    table.returns[row] = returns
    table.settled[row] = False
    table.seen[row] = 0
    table.small[(marks[SMALL_HEAD] + marks[SMALL_COUNT]) % capacity] = row
    marks[SMALL_COUNT] += 1
    return row


@kernel
def _add_ghost(table: EntityArrays, row: int) -> None:
    """Remember the visits of the row's key, in place of another evicted key."""
    ghost = np.int64(table.keys[row, 1]) & (len(table.ghosts) - 1)
    tag = np.int64(table.keys[row, 0] >> np.uint64(40))
    visits = min(int(table.returns[row]) + 1, RETURNS_MAX)
    table.ghosts[ghost] = (tag << 8) + visits


@kernel
def _visits_before(table: EntityArrays, k0: np.uint64, k1: np.uint64) -> int:
    """The visits of a key before its eviction, which are then forgotten; 0 where not remembered."""
    ghost = np.int64(k1) & (len(table.ghosts) - 1)
    word = np.int64(table.ghosts[ghost])
    if word == 0 or word >> 8 != np.int64(k0 >> np.uint64(40)):
        return 0
    table.ghosts[ghost] = 0
    return int(word & 0xFF)


@kernel
def _admit(
    table: EntityArrays,
    keys: U64,
    lateness_max_ms: float,
    session_gap_ms: float,
    out: AdmittedEvents,
) -> None:
    for i in range(len(keys)):
        time = out.bounded_ms[i]
        slot = _find(table.slots, table.keys, keys[i, 0], keys[i, 1])
        fresh = table.slots[slot] == 0
        if fresh:
            row = _take_row(table, keys[i, 0], keys[i, 1])
            table.last_ms[row] = time
        else:
            row = int(table.slots[slot]) - 1
            table.returns[row] = min(table.returns[row] + 1, RETURNS_MAX)
            set_back = table.last_ms[row] > out.stream_ms[i]
            if set_back:
                table.last_ms[row] = time
            if set_back or time - table.last_ms[row] > session_gap_ms:
                fresh = True
                table.seen[row] = 0
        late_ms = table.last_ms[row] - time
        learn = late_ms <= lateness_max_ms
        table.last_ms[row] = max(table.last_ms[row], time)
        out.row[i] = row
        out.fresh[i] = fresh
        out.time_ms[i] = table.last_ms[row]
        out.late[i] = late_ms > 0.0
        out.learn[i] = learn
        out.earlier_events[i] = table.seen[row]
        if learn:
            table.seen[row] += 1
