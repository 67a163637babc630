"""Sequence: does the entity walk through numbers in order, as who copies a catalogue does?

A step is the difference between the number at an event and the one before it; to stay is no step.
It goes on where it equals the entity's step before: one page after the other, every tenth product.
With decayed counts c of all steps and k of those that go on, the value is k / (c + 2), as if two
that do not had come before. NaN at the first number and where it stays.

Five words an entity: the last number + 1 (0 is "none"), the last step, c, k, time.
"""

from math import isnan
from typing import Final

import numpy as np

from detectors.entities import Admitted
from detectors.features.kind import (
    SHARE_WORDS,
    Field,
    Kind,
    Memory,
    Spans,
    approach,
    prepare,
    share_of,
    unlearn,
)
from detectors.kernels import kernel
from schemas.columns import F64

NUMBER, STEP, STEPS = range(3)
WORDS: Final = STEPS + SHARE_WORDS


@kernel
def sequence(memory: Memory, events: Admitted, field: Field, spans: Spans, out: F64) -> None:
    """k / (c + 2), this step included."""
    at = memory.at
    for i in range(len(events.row)):
        approach(memory, events, i)
        mine = memory.words[events.row[i], at : at + WORDS]
        prepare(mine, events, i, memory.copy)
        out[i] = np.nan
        if not field.active[i] or isnan(field.number[i]):
            continue
        number = abs(field.number[i]) + 1.0
        step = number - mine[NUMBER]
        if mine[NUMBER] > 0.0 and step != 0.0:
            goes_on = step == mine[STEP]
            out[i] = share_of(mine[STEPS:], goes_on, events.time_ms[i], spans.half_life_ms)
            mine[STEP] = step
        mine[NUMBER] = number
        unlearn(mine, events, i, memory.copy)


KINDS: Final = (
    Kind(
        name="sequence",
        meaning="decayed share of the steps from one number to the next that are as the step"
        " before (two that are not are assumed before the first)",
        update=sequence,
        words=WORDS,
        reads="number",
        decays=True,
        family="normal",
        side="high",
        relative=True,
        shift=0.1,
    ),
)
