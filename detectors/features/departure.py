"""Departure: how far is a number from the entity's own level, relative to its recent distances?

Level m and spread s are the mean and the standard deviation of the entity's numbers, each number's
weight halving every half-life (Welford's recurrence with weights; D. West, CACM 1979). With
z = |x - m| / (s + `FLOOR` |m|), the value is z / (Z + `CALM`), where Z is the largest recent z, which
halves `FADES` times as fast as the level. So the first number of an excursion has the largest value,
the following ones small values, and a load that always swings must swing further. Numbers may be
negative or 0; a thousandth of the level is no departure of a series that never moves. NaN until the
weight is `NUMBERS_MIN`. Numbers are not winsorised: one extreme is meant to make the next unsurprising,
and learning is protected in the tail and in calibration.

Five words an entity: weight, m, sum of squared deviations, largest recent z, time.
"""

from math import isnan, sqrt
from typing import Final

import numpy as np

from detectors.entities import AdmittedEvents
from detectors.features.kind import (
    Durations,
    FeatureInput,
    FeatureKind,
    FeatureMemory,
    begin_event,
    prefetch_ahead,
    undo_unless_learned,
)
from detectors.numeric.decay import decayed
from detectors.numeric.kernels import kernel
from schemas.columns import F64

WEIGHT, LEVEL, SQUARES, LARGEST, LAST_MS = range(5)
WORDS: Final = 5
NUMBERS_MIN: Final = 20.0
FLOOR: Final = 1e-3
SPREAD_MIN: Final = 1e-9
"""Smallest spread, of a series that is always 0."""
FADES: Final = 4.0
CALM: Final = 2.0
"""Standard deviations that are always added to the largest recent z."""


@kernel
def departure(
    memory: FeatureMemory,
    admitted: AdmittedEvents,
    field: FeatureInput,
    durations: Durations,
    out: F64,
) -> None:
    """z / (the largest recent z + `CALM`), before this number is learned."""
    first_word = memory.first_word
    for i in range(len(admitted.row)):
        prefetch_ahead(memory, admitted, i)
        state = memory.words[admitted.row[i], first_word : first_word + WORDS]
        begin_event(state, admitted, i, memory.backup)
        out[i] = np.nan
        if not field.active[i] or isnan(field.number[i]):
            continue
        elapsed_ms = admitted.time_ms[i] - state[LAST_MS]
        before = decayed(state[WEIGHT], elapsed_ms, durations.half_life_ms)
        squares = decayed(state[SQUARES], elapsed_ms, durations.half_life_ms)
        difference = field.number[i] - state[LEVEL]
        if before >= NUMBERS_MIN:
            spread = sqrt(squares / before)
            z = abs(difference) / (spread + FLOOR * abs(state[LEVEL]) + SPREAD_MIN)
            largest = decayed(state[LARGEST], FADES * elapsed_ms, durations.half_life_ms)
            out[i] = z / (largest + CALM)
            state[LARGEST] = max(z, largest)
        state[WEIGHT] = before + 1.0
        state[LEVEL] += difference / state[WEIGHT]
        state[SQUARES] = squares + difference * difference * before / state[WEIGHT]
        state[LAST_MS] = admitted.time_ms[i]
        undo_unless_learned(state, admitted, i, memory.backup)


KINDS: Final = (
    FeatureKind(
        name="departure",
        meaning="distance of a number from the entity's own decayed level, relative to the largest"
        " recent distance (and two standard deviations)",
        update=departure,
        words=WORDS,
        reads="number",
        decays=True,
        family="normal",
        side="high",
        shift=0.1,
        unitless=True,
    ),
)
