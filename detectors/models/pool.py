"""A bounded pool of slots for models too large to have one for every row.

A slot is given out once its entity has some history, taken back when the row goes to another
entity, and given out again, last back first out. What a slot holds is its owner's business: whoever
gets one resets it.
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
    """slot_of: int32[rows], a row's slot or `NONE`. free: int32[slots], those given back. marks:
    how many of these there are, and how many slots were ever given out: the first ones."""

    slot_of: I32
    free: I32
    marks: I64


class EventSlots(NamedTuple):
    """slot: int64[n], each event's row's slot or `NONE`. given: bool[n], it was given out there."""

    slot: I64
    given: Bools


@runtime_checkable
class PooledPart(Protocol):
    """A part with slots of a pool. arrays_by_slot: those of its saved arrays that are large, have a row a
    slot, and are written in slots of the batch's events only. before_write: told before they
    are."""

    arrays_by_slot: tuple[str, ...]
    before_write: WriteHook | None


def notify_write(part: PooledPart, slots: EventSlots) -> None:
    """Say in which slots a batch may write, which has been given them and has written none."""
    if part.before_write is not None:
        owned = slots.slot[slots.slot >= 0]
        for array in part.arrays_by_slot:
            part.before_write(array, owned)


def pool(slots: int, capacity: int) -> SlotPool:
    """So many slots, at most one a row, none of them given out."""
    return SlotPool(
        slot_of=np.full(capacity, NONE, np.int32),
        free=np.zeros(min(slots, capacity), np.int32),
        marks=np.zeros(2, np.int64),
    )


@kernel
def _slot_for(pool: SlotPool, events: AdmittedEvents, i: int, min_events: int) -> tuple[int, bool]:
    """(The slot of event i's row or `NONE`, whether it was given out just now).

    It is given out at an event that is learned, once the entity had `min_events` before it.
    """
    row = events.row[i]
    marks = pool.marks
    if events.fresh[i] and pool.slot_of[row] >= 0:
        pool.free[marks[FREE]] = pool.slot_of[row]
        marks[FREE] += 1
        pool.slot_of[row] = NONE
    due = events.learn[i] and events.seen[i] >= min_events
    if pool.slot_of[row] >= 0 or not due:
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


def slots_of(pool: SlotPool, events: AdmittedEvents, min_events: int) -> EventSlots:
    """The slot of every event, given out and taken back in event order as `_slot_for` does."""
    n = len(events.row)
    out = EventSlots(np.empty(n, np.int64), np.empty(n, np.bool_))
    _slots_of(pool, events, min_events, out)
    return out


@kernel
def _slots_of(pool: SlotPool, events: AdmittedEvents, min_events: int, out: EventSlots) -> None:
    for i in range(len(events.row)):
        out.slot[i], out.given[i] = _slot_for(pool, events, i, min_events)
