"""The memory of recently reported events and their reported p-values: a set-associative cache, keyed by
the hash of the event's id.

An event takes 25 bytes and 8 for each monitor. Where labels are learned (`model_state.EventMemory`), it
takes another 104 bytes, 16 for each monitor and 8 for each training feature. A report on a displaced
event adds the event again.
"""

from typing import Final, NamedTuple

import numpy as np

from detectors.fusion import label_learning
from detectors.fusion.model_state import LearnerState
from detectors.numeric.kernels import kernel
from schemas.columns import F64, I64
from schemas.labels import FRAUD

SLOTS_PER_SET: Final = 8

NEVER_ALERTED, ONLY_HELD_BACK = -1.0, -2.0
"""In place of the score of an event's alert, where it had none, or only one that the budget held back."""
DISTINCT_EVENTS, SAMPLED_EVENTS = range(2)


class RememberedEvents(NamedTuple):
    """The last reported events, in sets of `SLOTS_PER_SET`. position: int64[events, 2], source and
    offset; source -1 where free. p: float64[events, monitors], NaN where not reported.
    alerted_score: float64[events], the score of the event's last alert, `NEVER_ALERTED` or
    `ONLY_HELD_BACK` without one. next_slot: int64[sets], the slot in the set that is displaced next.
    totals: int64[2], distinct events, and the sampled ones among them."""

    position: I64
    p: F64
    alerted_score: F64
    next_slot: I64
    totals: I64


def empty_memory(events_max: int, monitors: int) -> RememberedEvents:
    """An empty memory for about events_max events."""
    sets = max(1, events_max // SLOTS_PER_SET)
    return RememberedEvents(
        position=np.full((sets * SLOTS_PER_SET, 2), -1, np.int64),
        p=np.full((sets * SLOTS_PER_SET, monitors), np.nan),
        alerted_score=np.full(sets * SLOTS_PER_SET, NEVER_ALERTED),
        next_slot=np.zeros(sets, np.int64),
        totals=np.zeros(2, np.int64),
    )


@kernel
def find_event(
    remembered: RememberedEvents, event_hash: np.uint64, source: int, offset: int
) -> int:
    """The slot of an event, -1 where it is not remembered."""
    first = np.int64(event_hash % np.uint64(len(remembered.next_slot))) * SLOTS_PER_SET
    for slot in range(first, first + SLOTS_PER_SET):
        if remembered.position[slot, 0] == source and remembered.position[slot, 1] == offset:
            return int(slot)
    return -1


@kernel
def find_labelled(
    remembered: RememberedEvents, learner: LearnerState, event_hash: np.uint64
) -> int:
    """The slot of the event that a label names, -1 where it is not remembered. If several events have the
    id, the one that arrived first."""
    first = np.int64(event_hash % np.uint64(len(remembered.next_slot))) * SLOTS_PER_SET
    earliest = -1
    for slot in range(first, first + SLOTS_PER_SET):
        matches = (
            event_hash != 0
            and learner.memory.event[slot] == event_hash
            and remembered.position[slot, 0] >= 0
        )
        if matches and (
            earliest < 0 or learner.memory.arrival[slot] < learner.memory.arrival[earliest]
        ):
            earliest = int(slot)
    return earliest


@kernel
def new_slot(
    remembered: RememberedEvents,
    learner: LearnerState,
    event_hash: np.uint64,
    source: int,
    offset: int,
) -> int:
    """Take a slot for an event that is not remembered: the next slot of its set in rotation. If labelled
    frauds fill more than half of the set, the next fraud is displaced, else the next other event."""
    set_index = np.int64(event_hash % np.uint64(len(remembered.next_slot)))
    candidate = remembered.next_slot[set_index]
    if (
        len(learner.memory.event)
        and remembered.position[set_index * SLOTS_PER_SET + candidate, 0] >= 0
    ):
        frauds = 0
        for k in range(set_index * SLOTS_PER_SET, (set_index + 1) * SLOTS_PER_SET):
            frauds += 1 if learner.memory.verdict[k] == FRAUD else 0
        displaces_fraud = frauds > SLOTS_PER_SET // 2
        while (
            frauds > 0
            and (learner.memory.verdict[set_index * SLOTS_PER_SET + candidate] == FRAUD)
            != displaces_fraud
        ):
            candidate = (candidate + 1) % SLOTS_PER_SET
    slot = set_index * SLOTS_PER_SET + candidate
    remembered.next_slot[set_index] = (candidate + 1) % SLOTS_PER_SET
    remembered.position[slot, 0] = source
    remembered.position[slot, 1] = offset
    remembered.p[slot] = np.nan
    remembered.alerted_score[slot] = NEVER_ALERTED
    remembered.totals[DISTINCT_EVENTS] += 1
    label_learning.reset_slot(learner, slot, event_hash)
    return int(slot)
