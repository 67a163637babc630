"""Departure: how far is a number from the entity's own level, compared with how far it lately was?

Level m and spread s are the mean and the standard deviation of the entity's numbers, each number's
weight halving every half-life (Welford's recurrence with weights; D. West, CACM 1979). With
z = |x - m| / (s + `FLOOR` |m|), the value is z / (Z + `CALM`), Z the largest z of late, which
halves `FADES` times as fast as the level forgets: the first number of an excursion says most, those
behind it little, and a load that always swings must swing further. x is taken as it is, so numbers
may be negative or 0; a thousandth of the level is no departure of a series that never moves. NaN
until the weight is `NUMBERS_MIN`. Nothing is clipped here: that one extreme hides the next is
meant; what protects learning stands behind it, in the tail and in calibration.

Five words an entity: weight, m, sum of squared deviations, largest z of late, time.
"""

from math import isnan, sqrt
from typing import Final

import numpy as np

from detectors.decay import decayed
from detectors.entities import Admitted
from detectors.features.kind import Field, Kind, Memory, Spans, approach, prepare, unlearn
from detectors.kernels import kernel
from schemas.columns import F64

WEIGHT, LEVEL, SQUARES, LARGEST, LAST_MS = range(5)
WORDS: Final = 5
NUMBERS_MIN: Final = 20.0
FLOOR: Final = 1e-3
SPREAD_MIN: Final = 1e-9
"""Of a series that is all 0."""
FADES: Final = 4.0
CALM: Final = 2.0
"""Standard deviations: as many are no departure at any time."""


@kernel
def departure(memory: Memory, events: Admitted, field: Field, spans: Spans, out: F64) -> None:
    """z / (the largest z of late + `CALM`), before this number is learned."""
    at = memory.at
    for i in range(len(events.row)):
        approach(memory, events, i)
        mine = memory.words[events.row[i], at : at + WORDS]
        prepare(mine, events, i, memory.copy)
        out[i] = np.nan
        if not field.active[i] or isnan(field.number[i]):
            continue
        since_ms = events.time_ms[i] - mine[LAST_MS]
        before = decayed(mine[WEIGHT], since_ms, spans.half_life_ms)
        squares = decayed(mine[SQUARES], since_ms, spans.half_life_ms)
        off = field.number[i] - mine[LEVEL]
        if before >= NUMBERS_MIN:
            spread = sqrt(squares / before)
            z = abs(off) / (spread + FLOOR * abs(mine[LEVEL]) + SPREAD_MIN)
            largest = decayed(mine[LARGEST], FADES * since_ms, spans.half_life_ms)
            out[i] = z / (largest + CALM)
            mine[LARGEST] = max(z, largest)
        mine[WEIGHT] = before + 1.0
        mine[LEVEL] += off / mine[WEIGHT]
        mine[SQUARES] = squares + off * off * before / mine[WEIGHT]
        mine[LAST_MS] = events.time_ms[i]
        unlearn(mine, events, i, memory.copy)


KINDS: Final = (
    Kind(
        name="departure",
        meaning="distance of a number from the entity's own decayed level, by the largest of"
        " late (and two standard deviations)",
        update=departure,
        words=WORDS,
        reads="number",
        decays=True,
        family="normal",
        side="high",
        shift=0.1,
        relative=True,
    ),
)
