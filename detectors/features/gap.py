"""Gap: seconds since the entity's last matching event, and how regular the gaps are.

The first event has no gap (NaN). A late event has gap 0, since its age is clamped.

`gap` has one word an entity: the last event's time + 1, so that 0 means none. `gap_spread` has four:
that time, and the decayed weight, mean and sum of squared deviations of y = ln(gap + 0.1 s), each
gap's weight halving every half-life (Welford's recurrence with weights; D. West, CACM 1979). Its
value is the standard deviation of y: 0 for a clock, 1.28 (π/√6) for events at random, more for
people, who come in visits. The 0.1 s makes differences of less than a tenth of a second count as regular.
"""

from math import log, sqrt
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

LAST_MS, WEIGHT, MEAN, SQUARES = range(4)
SPREAD_WORDS: Final = 4
GAP_MIN_S: Final = 0.1
GAPS_MIN: Final = 4.0
"""Least weight of gaps for a spread: two gaps may be equal by chance."""


@kernel
def gap(
    memory: FeatureMemory,
    admitted: AdmittedEvents,
    field: FeatureInput,
    durations: Durations,
    out: F64,
) -> None:
    """Seconds since the last matching event; the word holds its time + 1, so that 0 means none."""
    words = memory.words
    first_word = memory.first_word
    for i in range(len(admitted.row)):
        prefetch_ahead(memory, admitted, i)
        row = admitted.row[i]
        if admitted.fresh[i]:
            words[row, first_word] = 0.0
        out[i] = np.nan
        if not field.active[i]:
            continue
        if words[row, first_word] > 0.0:
            out[i] = (admitted.time_ms[i] + 1.0 - words[row, first_word]) / 1000.0
        if admitted.learn[i]:
            words[row, first_word] = admitted.time_ms[i] + 1.0


@kernel
def gap_spread(
    memory: FeatureMemory,
    admitted: AdmittedEvents,
    field: FeatureInput,
    durations: Durations,
    out: F64,
) -> None:
    """Standard deviation of the logarithms of the gaps, this event's included; NaN for few gaps."""
    first_word = memory.first_word
    for i in range(len(admitted.row)):
        prefetch_ahead(memory, admitted, i)
        state = memory.words[admitted.row[i], first_word : first_word + SPREAD_WORDS]
        begin_event(state, admitted, i, memory.backup)
        out[i] = np.nan
        if not field.active[i]:
            continue
        last_ms = state[LAST_MS]
        state[LAST_MS] = admitted.time_ms[i] + 1.0
        if last_ms > 0.0:
            gap_ms = state[LAST_MS] - last_ms
            before = decayed(state[WEIGHT], gap_ms, durations.half_life_ms)
            squares = decayed(state[SQUARES], gap_ms, durations.half_life_ms)
            difference = log(gap_ms / 1000.0 + GAP_MIN_S) - state[MEAN]
            state[WEIGHT] = before + 1.0
            state[MEAN] += difference / state[WEIGHT]
            state[SQUARES] = squares + difference * difference * before / state[WEIGHT]
            if state[WEIGHT] >= GAPS_MIN:
                out[i] = sqrt(state[SQUARES] / state[WEIGHT])
        undo_unless_learned(state, admitted, i, memory.backup)


KINDS: Final = (
    FeatureKind(
        name="gap",
        meaning="seconds since the entity's last event that matched",
        update=gap,
        words=1,
        reads=None,
        decays=False,
        family="normal",
        side="low",
        shift=0.1,
    ),
    FeatureKind(
        name="gap_spread",
        meaning="how irregularly the entity's events follow each other: 0 for a clock, 1.3 for events"
        " at random, more for people",
        update=gap_spread,
        words=SPREAD_WORDS,
        reads=None,
        decays=True,
        family="normal",
        side="low",
        shift=0.05,
    ),
)
