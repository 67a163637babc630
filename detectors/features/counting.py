"""Decayed counts and sums: how much an entity did lately, with no window to keep.

Each event's contribution halves every `half_life` of event time:
c(t) = Σ 2^(-(t - tᵢ) / half_life), updated in O(1) (forward decay as in Cormode et al., "Forward
decay", ICDE 2009, written as a recurrence). Two words an entity: the decayed value and the time
it holds for.
"""

from math import isnan
from typing import Final

import numpy as np

from detectors.decay import decayed
from detectors.entities import Admitted
from detectors.features.kind import Field, Kind, Memory, Spans, approach
from detectors.kernels import kernel
from schemas.columns import F64

WORDS: Final = 2


@kernel
def count(memory: Memory, events: Admitted, field: Field, spans: Spans, out: F64) -> None:
    """Events of the entity that match, this one included."""
    words = memory.words
    at = memory.at
    for i in range(len(events.row)):
        approach(memory, events, i)
        r = events.row[i]
        if events.fresh[i]:
            words[r, at] = 0.0
            words[r, at + 1] = events.time_ms[i]
        if not field.active[i]:
            out[i] = np.nan
            continue
        now = decayed(words[r, at], events.time_ms[i] - words[r, at + 1], spans.half_life_ms) + 1.0
        out[i] = now
        if events.learn[i]:
            words[r, at] = now
            words[r, at + 1] = events.time_ms[i]


@kernel
def total(memory: Memory, events: Admitted, field: Field, spans: Spans, out: F64) -> None:
    """Sum of the field's magnitudes over the events that match, this one included."""
    words = memory.words
    at = memory.at
    for i in range(len(events.row)):
        approach(memory, events, i)
        r = events.row[i]
        if events.fresh[i]:
            words[r, at] = 0.0
            words[r, at + 1] = events.time_ms[i]
        if not field.active[i] or isnan(field.number[i]):
            out[i] = np.nan
            continue
        before = decayed(words[r, at], events.time_ms[i] - words[r, at + 1], spans.half_life_ms)
        now = before + abs(field.number[i])
        out[i] = now
        if events.learn[i]:
            words[r, at] = now
            words[r, at + 1] = events.time_ms[i]


KINDS: Final = (
    Kind(
        name="count",
        meaning="decayed number of the entity's events that match, this one included",
        update=count,
        words=WORDS,
        reads=None,
        decays=True,
        family="rate",
        side="high",
        shift=1.0,
    ),
    Kind(
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
