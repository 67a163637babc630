"""A bounded pool of slots for state that is too large to exist for every row.

A slot is allocated once its entity has some history and freed when the row goes to another entity;
the slot freed last is allocated first. The owner of the state resets a newly allocated slot.
"""

from typing import Final, NamedTuple, Protocol, runtime_checkable

import numpy as np

from detectors.entities import AdmittedEvents
from detectors.numeric.kernels import kernel
from detectors.state import WriteHook
from schemas.columns import I32, I64, Bools

FREE, USED = range(2)
NONE: Final = -1


class SlotPool(NamedTuple):
    """slot_of: int32[rows], a row's slot or `NONE`. free: int32[slots], a stack of freed slots. marks:
    int64[2], the height of the stack, and the number of slots ever allocated, which are the first
    ones."""

    slot_of: I32
    free: I32
    marks: I64


class EventSlots(NamedTuple):
    """slot: int64[n], the slot of each event's row, or `NONE`. allocated: bool[n], the slot was allocated
    at this event."""

    slot: I64
    allocated: Bools


@runtime_checkable
class PooledPart(Protocol):
    """A part with slots of a pool. arrays_by_slot: its large saved arrays, which have a row for each slot
    and are written only in the slots of the batch's events. before_write: the hook that is called
    before they are."""

    arrays_by_slot: tuple[str, ...]
    before_write: WriteHook | None


def notify_write(part: PooledPart, slots: EventSlots) -> None:
    """Call the hook with the slots that a batch may write, before it writes."""
    if part.before_write is not None:
        owned = slots.slot[slots.slot >= 0]
        for array in part.arrays_by_slot:
            part.before_write(array, owned)


def empty_pool(slots: int, capacity: int) -> SlotPool:
    """A pool without allocated slots. slots: the largest number of slots, at most one for each row."""
    return SlotPool(
        slot_of=np.full(capacity, NONE, np.int32),
        free=np.zeros(min(slots, capacity), np.int32),
        marks=np.zeros(2, np.int64),
    )


@kernel
def _slot_for(
    pool: SlotPool, admitted: AdmittedEvents, i: int, min_events: int
) -> tuple[int, bool]:
    """(The slot of event i's row or `NONE`, whether it was allocated at this event).

    A slot is allocated at an event that may be learned, once the entity has `min_events` earlier ones.
    """
    row = admitted.row[i]
    marks = pool.marks
    if admitted.fresh[i] and pool.slot_of[row] >= 0:
        pool.free[marks[FREE]] = pool.slot_of[row]
        marks[FREE] += 1
        pool.slot_of[row] = NONE
    may_allocate = admitted.learn[i] and admitted.earlier_events[i] >= min_events
    if pool.slot_of[row] >= 0 or not may_allocate:
        return int(pool.slot_of[row]), False
    if marks[FREE] > 0:
        marks[FREE] -= 1
        slot = int(pool.free[marks[FREE]])
    elif marks[USED] < len(pool.free):
        slot = int(marks[USED])
        marks[USED] += 1
    else:
        return NONE, False
    pool.slot_of[row] = slot
    return slot, True


def slots_of(pool: SlotPool, admitted: AdmittedEvents, min_events: int) -> EventSlots:
    """The slot of every event, allocated and freed in event order."""
    n = len(admitted.row)
    out = EventSlots(np.empty(n, np.int64), np.empty(n, np.bool_))
    _slots_of(pool, admitted, min_events, out)
    return out


@kernel
def _slots_of(pool: SlotPool, admitted: AdmittedEvents, min_events: int, out: EventSlots) -> None:
    for i in range(len(admitted.row)):
        out.slot[i], out.allocated[i] = _slot_for(pool, admitted, i, min_events)
