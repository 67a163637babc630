"""Decayed counts and sums: how much an entity did recently, without a stored window.

Each event's contribution halves every `half_life` of event time:
c(t) = Σ 2^(-(t - tᵢ) / half_life), updated in O(1) (forward decay as in Cormode et al., "Forward
decay", ICDE 2009, written as a recurrence). Two words an entity: the decayed value and its time.

An event later than `lateness_max` is not learned. So that a burst of such events is still visible,
the count at each of them is the number of the entity's late events in the window of the event's own
time; windows are a half-life long, at least a second. `LATE_CELLS` cells, one word each, hold the
number of a window and its count; the cell is the number modulo `LATE_CELLS`. A later window resets
the cell; an earlier one is counted with the window in the cell, so that alternating between windows
empties no cell. A late event changes nothing else: neither other features nor time.
"""

from math import isnan
from typing import Final

import numpy as np

from detectors.entities import AdmittedEvents
from detectors.features.kind import (
    Durations,
    FeatureInput,
    FeatureKind,
    FeatureMemory,
    prefetch_ahead,
)
from detectors.numeric.decay import decayed
from detectors.numeric.kernels import kernel
from schemas.columns import F64, U64

WORDS: Final = 2
LATE_CELLS: Final = 4
COUNT_WORDS: Final = WORDS + LATE_CELLS
WINDOW_MS_MIN: Final = 1_000.0
COUNT_BITS: Final = np.uint64(24)
"""The low bits of a cell are its count; the bits above are the number of its window."""
COUNT_MASK: Final = np.uint64((1 << int(COUNT_BITS)) - 1)


@kernel
def _count_late(cells: U64, bounded_ms: float, window_ms: float) -> float:
    """Count a late event in the window of its own time; returns the window's count."""
    window = np.uint64(max(bounded_ms, 0.0) / max(window_ms, WINDOW_MS_MIN))
    k = np.int64(window % np.uint64(LATE_CELLS))
    if window > cells[k] >> COUNT_BITS:
        cells[k] = window << COUNT_BITS
    if cells[k] & COUNT_MASK < COUNT_MASK:
        cells[k] += np.uint64(1)
    return float(cells[k] & COUNT_MASK)


@kernel
def count(
    memory: FeatureMemory,
    admitted: AdmittedEvents,
    field: FeatureInput,
    durations: Durations,
    out: F64,
) -> None:
    """Events of the entity that match, this one included; at an event that is too late, those in the
    window of its own time."""
    words = memory.words
    first_word = memory.first_word
    for i in range(len(admitted.row)):
        prefetch_ahead(memory, admitted, i)
        row = admitted.row[i]
        if admitted.fresh[i]:
            words[row, first_word] = 0.0
            words[row, first_word + 1] = admitted.time_ms[i]
            for k in range(WORDS, COUNT_WORDS):
                words[row, first_word + k] = 0.0
        if not field.active[i]:
            out[i] = np.nan
            continue
        if not admitted.learn[i]:
            cells = memory.bits[row, first_word + WORDS : first_word + COUNT_WORDS]
            out[i] = _count_late(cells, admitted.bounded_ms[i], durations.half_life_ms)
            continue
        value = (
            decayed(
                words[row, first_word],
                admitted.time_ms[i] - words[row, first_word + 1],
                durations.half_life_ms,
            )
            + 1.0
        )
        out[i] = value
        words[row, first_word] = value
        words[row, first_word + 1] = admitted.time_ms[i]


@kernel
def total(
    memory: FeatureMemory,
    admitted: AdmittedEvents,
    field: FeatureInput,
    durations: Durations,
    out: F64,
) -> None:
    """Sum of the field's magnitudes over the events that match, this one included."""
    words = memory.words
    first_word = memory.first_word
    for i in range(len(admitted.row)):
        prefetch_ahead(memory, admitted, i)
        row = admitted.row[i]
        if admitted.fresh[i]:
            words[row, first_word] = 0.0
            words[row, first_word + 1] = admitted.time_ms[i]
        if not field.active[i] or isnan(field.number[i]):
            out[i] = np.nan
            continue
        before = decayed(
            words[row, first_word],
            admitted.time_ms[i] - words[row, first_word + 1],
            durations.half_life_ms,
        )
        value = before + abs(field.number[i])
        out[i] = value
        if admitted.learn[i]:
            words[row, first_word] = value
            words[row, first_word + 1] = admitted.time_ms[i]


KINDS: Final = (
    FeatureKind(
        name="count",
        meaning="decayed number of the entity's events that match, this one included; at a late"
        " event beyond `lateness_max` the number of such events in its own half-life of time",
        update=count,
        words=COUNT_WORDS,
        reads=None,
        decays=True,
        family="rate",
        side="high",
        shift=1.0,
    ),
    FeatureKind(
        name="sum",
        meaning="decayed sum of a number's magnitude over events that match, this one included",
        update=total,
        words=WORDS,
        reads="number",
        decays=True,
        family="normal",
        side="high",
        shift=0.01,
    ),
)
