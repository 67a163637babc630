"""A bounded memory of recent events, to recognise duplicates and reused ids."""

import numpy as np

from detectors.numeric.kernels import kernel
from detectors.state import Arrays
from schemas.columns import I64, U8, U64

NEW, SAME, REUSED = range(3)
"""The event's id is new; the event is a duplicate; the id is that of another event."""
HASH_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


class RecentEvents:
    """The latest distinct events by id and content: half a window of them at least, a window at most.

    Two panes, each an open-addressing table that is at most half full. Events enter the current pane;
    when it holds half a window, the older pane is emptied and becomes the current one. The remembered
    events therefore depend on the order of the events alone. An entry is two 64-bit hashes: the first
    gives its slot, the second is of the content. The first is of the id, or, where another event has
    that slot's id, of id and content, so that a reused id makes no long probe sequence. Memory: 32 to
    64 bytes for each event of the window.
    """

    def __init__(self, window: int) -> None:
        self._per_pane = max(1, window // 2)
        slot_count = 1 << (2 * self._per_pane - 1).bit_length()
        self._slots: U64 = np.zeros((2, slot_count, 2), np.uint64)
        self._marks: I64 = np.zeros(2, np.int64)  # current pane, events in it

    def classify(self, ids: U64, contents: U64) -> U8:
        """uint8[n]: `NEW`, `SAME` or `REUSED`, by all events before it, those of the batch included. ids,
        contents: uint64[n], keyed hashes."""
        out = np.zeros(len(ids), np.uint8)
        _remember(ids, contents, self._slots, self._marks, self._per_pane, out)
        return out

    def save(self) -> Arrays:
        """Both panes and which of them is current."""
        return {"recent_slots": self._slots, "recent_marks": self._marks}

    def load(self, state: Arrays) -> None:
        """Replace both panes by saved ones of the same window."""
        self._slots[:] = state["recent_slots"]
        self._marks[:] = state["recent_marks"]


@kernel
def _find_slot(pane: U64, hashed: np.uint64) -> np.int64:
    """The slot that holds the hash, or the free slot for it."""
    mask = len(pane) - 1
    slot = np.int64(hashed & np.uint64(mask))
    while pane[slot, 0] != 0 and pane[slot, 0] != hashed:
        slot = (slot + 1) & mask
    return slot


@kernel
def _combined_hash(id_hash: np.uint64, content: np.uint64) -> np.uint64:
    """A hash of an id and a content, never 0."""
    mixed = (id_hash ^ (content << np.uint64(23)) ^ (content >> np.uint64(41))) * HASH_MULTIPLIER
    mixed ^= mixed >> np.uint64(32)
    return mixed | np.uint64(1)


@kernel
def _remember(ids: U64, contents: U64, slots: U64, marks: I64, per_pane: int, out: U8) -> None:
    for i in range(len(ids)):
        content = contents[i]
        hashed = ids[i] | np.uint64(1)  # 0 is a free slot
        current, older = slots[marks[0]], slots[1 - marks[0]]
        in_current, in_older = _find_slot(current, hashed), _find_slot(older, hashed)
        same = current[in_current, 0] != 0 and current[in_current, 1] == content
        same |= older[in_older, 0] != 0 and older[in_older, 1] == content
        reused = not same and (current[in_current, 0] != 0 or older[in_older, 0] != 0)
        if reused:
            combined = _combined_hash(hashed, content)
            reused_in_current, reused_in_older = (
                _find_slot(current, combined),
                _find_slot(older, combined),
            )
            same = current[reused_in_current, 0] != 0 and current[reused_in_current, 1] == content
            same |= older[reused_in_older, 0] != 0 and older[reused_in_older, 1] == content
            if current[in_current, 0] != 0:
                in_current, hashed = reused_in_current, combined
        if same:
            out[i] = SAME
            continue
        out[i] = REUSED if reused else NEW
        current[in_current, 0] = hashed
        current[in_current, 1] = content
        marks[1] += 1
        if marks[1] == per_pane:
            marks[0] = 1 - marks[0]
            marks[1] = 0
            slots[marks[0]] = 0
