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

from detectors.decay import decayed
from detectors.entities import Admitted
from detectors.features.kind import Field, Kind, Memory, Spans, approach, prepare, unlearn
from detectors.kernels import kernel
from schemas.columns import F64

NUMBER, STEP, ALL, GOES_ON, LAST_MS = range(5)
WORDS: Final = 5
WITHOUT: Final = 2.0
"""Steps that do not go on, assumed before the first."""


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
            since_ms = events.time_ms[i] - mine[LAST_MS]
            mine[ALL] = decayed(mine[ALL], since_ms, spans.half_life_ms) + 1.0
            mine[GOES_ON] = decayed(mine[GOES_ON], since_ms, spans.half_life_ms)
            if step == mine[STEP]:
                mine[GOES_ON] += 1.0
            mine[STEP] = step
            mine[LAST_MS] = events.time_ms[i]
            out[i] = mine[GOES_ON] / (mine[ALL] + WITHOUT)
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
