"""Sequence: does the entity walk through numbers in order, as a scraper of a catalogue does?

A step is the difference between the number at an event and the number before; an equal number is no
step. A step repeats where it equals the step before: one page after the other, or every tenth
product. With decayed counts c of all steps and k of those that repeat, the value is k / (c + 2), as
if two that do not repeat had come before. NaN at the first number and where there is no step.

Five words an entity: the last number + 1 (0: none), the last step, c, k, time.
"""

from math import isnan
from typing import Final

import numpy as np

from detectors.entities import AdmittedEvents
from detectors.features.kind import (
    SHARE_WORDS,
    Durations,
    FeatureInput,
    FeatureKind,
    FeatureMemory,
    begin_event,
    prefetch_ahead,
    share_of,
    undo_unless_learned,
)
from detectors.numeric.kernels import kernel
from schemas.columns import F64

NUMBER, STEP, STEPS = range(3)
WORDS: Final = STEPS + SHARE_WORDS


@kernel
def sequence(
    memory: FeatureMemory,
    admitted: AdmittedEvents,
    field: FeatureInput,
    durations: Durations,
    out: F64,
) -> None:
    """k / (c + 2), this step included."""
    first_word = memory.first_word
    for i in range(len(admitted.row)):
        prefetch_ahead(memory, admitted, i)
        state = memory.words[admitted.row[i], first_word : first_word + WORDS]
        begin_event(state, admitted, i, memory.backup)
        out[i] = np.nan
        if not field.active[i] or isnan(field.number[i]):
            continue
        number = abs(field.number[i]) + 1.0
        step = number - state[NUMBER]
        if state[NUMBER] > 0.0 and step != 0.0:
            repeats = step == state[STEP]
            out[i] = share_of(state[STEPS:], repeats, admitted.time_ms[i], durations.half_life_ms)
            state[STEP] = step
        state[NUMBER] = number
        undo_unless_learned(state, admitted, i, memory.backup)


KINDS: Final = (
    FeatureKind(
        name="sequence",
        meaning="decayed share of the steps from one number to the next that equal the step"
        " before (two that do not are assumed before the first)",
        update=sequence,
        words=WORDS,
        reads="number",
        decays=True,
        family="normal",
        side="high",
        unitless=True,
        shift=0.1,
    ),
)
