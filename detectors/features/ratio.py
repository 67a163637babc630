"""Ratio: is an entity busier now than it usually is?

The decayed count over the short half-life h, divided by the count that the long half-life H would
predict. At a steady rate a count that began a time a ago is proportional to h (1 - 2^(-a/h)), so
that with counts c and C, this event included,

    expected = C · h (1 - 2^(-a/h)) / (H (1 - 2^(-a/H)))     ratio = (c + 1) / (expected + 1)

1 is as usual. A new entity starts at 1, since both counts hold the same events. Adding 1 to both
limits the ratio of a single event after a long pause to 2. The counts are those of
`counting` (forward decay; Cormode et al., ICDE 2009). Four words an entity: both counts, their time
and the time at which they began.
"""

from math import expm1
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
from detectors.numeric.decay import LN2, decayed
from detectors.numeric.kernels import kernel
from schemas.columns import F64

SHORT, LONG, LAST_MS, BEGAN_MS = range(4)
WORDS: Final = 4


@kernel
def ratio(
    memory: FeatureMemory,
    admitted: AdmittedEvents,
    field: FeatureInput,
    durations: Durations,
    out: F64,
) -> None:
    """(c + 1) / (expected + 1), this event included."""
    short_ms = durations.half_life_ms
    long_ms = durations.against_ms
    first_word = memory.first_word
    for i in range(len(admitted.row)):
        prefetch_ahead(memory, admitted, i)
        state = memory.words[admitted.row[i], first_word : first_word + WORDS]
        begin_event(state, admitted, i, memory.backup)
        out[i] = np.nan
        if not field.active[i]:
            continue
        now_ms = admitted.time_ms[i]
        if state[LONG] == 0.0:
            state[LAST_MS] = now_ms
            state[BEGAN_MS] = now_ms
        # a decayed count with this event is at least 1: 0 means that there was none
        state[SHORT] = decayed(state[SHORT], now_ms - state[LAST_MS], short_ms) + 1.0
        state[LONG] = decayed(state[LONG], now_ms - state[LAST_MS], long_ms) + 1.0
        state[LAST_MS] = now_ms
        age_ms = now_ms - state[BEGAN_MS]
        part = 1.0
        if age_ms > 0.0:
            part = short_ms * expm1(-LN2 * age_ms / short_ms)
            part /= long_ms * expm1(-LN2 * age_ms / long_ms)
        out[i] = (state[SHORT] + 1.0) / (state[LONG] * part + 1.0)
        undo_unless_learned(state, admitted, i, memory.backup)


KINDS: Final = (
    FeatureKind(
        name="ratio",
        meaning="decayed number of events over `half_life`, divided by what the rate over `against`"
        " predicts; 1 is as usual",
        update=ratio,
        words=WORDS,
        reads=None,
        decays=True,
        needs_against=True,
        family="normal",
        side="high",
    ),
)
