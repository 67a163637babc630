"""Gap: seconds since the entity's last event that matched, and how evenly the gaps are spread.

The first event has no gap (NaN). A late event has gap 0: its age was clamped before it got here.

`gap` keeps one word an entity: that time + 1, so that 0 is "none". `gap_spread` keeps four: that
time, and the decayed weight, mean and sum of squared deviations of y = ln(gap + 0.1 s), each gap's
weight halving every half-life (Welford's recurrence with weights; D. West, CACM 1979). Its value
is y's standard deviation: 0 for a clock, 1.28 (π/√6) for events that arrive at random, more for
people, who come in visits. A tenth of a second is no irregularity, hence the 0.1.
"""

from math import log, sqrt
from typing import Final

import numpy as np

from detectors.decay import decayed
from detectors.entities import Admitted
from detectors.features.kind import Field, Kind, Memory, Spans, approach, prepare, unlearn
from detectors.kernels import kernel
from schemas.columns import F64

LAST_MS, WEIGHT, MEAN, SQUARES = range(4)
SPREAD_WORDS: Final = 4
GAP_MIN_S: Final = 0.1
GAPS_MIN: Final = 4.0
"""Gaps that a spread needs, by weight: two gaps are alike by chance."""


@kernel
def gap(memory: Memory, events: Admitted, field: Field, spans: Spans, out: F64) -> None:
    """Seconds since the last matching event; the word holds its time + 1, so that 0 is "none"."""
    words = memory.words
    at = memory.at
    for i in range(len(events.row)):
        approach(memory, events, i)
        r = events.row[i]
        if events.fresh[i]:
            words[r, at] = 0.0
        out[i] = np.nan
        if not field.active[i]:
            continue
        if words[r, at] > 0.0:
            out[i] = (events.time_ms[i] + 1.0 - words[r, at]) / 1000.0
        if events.learn[i]:
            words[r, at] = events.time_ms[i] + 1.0


@kernel
def gap_spread(memory: Memory, events: Admitted, field: Field, spans: Spans, out: F64) -> None:
    """Standard deviation of the gaps' logarithms, this event's gap included; NaN for few gaps."""
    at = memory.at
    for i in range(len(events.row)):
        approach(memory, events, i)
        mine = memory.words[events.row[i], at : at + SPREAD_WORDS]
        prepare(mine, events, i, memory.copy)
        out[i] = np.nan
        if not field.active[i]:
            continue
        last_ms = mine[LAST_MS]
        mine[LAST_MS] = events.time_ms[i] + 1.0
        if last_ms > 0.0:
            gap_ms = mine[LAST_MS] - last_ms
            before = decayed(mine[WEIGHT], gap_ms, spans.half_life_ms)
            squares = decayed(mine[SQUARES], gap_ms, spans.half_life_ms)
            off = log(gap_ms / 1000.0 + GAP_MIN_S) - mine[MEAN]
            mine[WEIGHT] = before + 1.0
            mine[MEAN] += off / mine[WEIGHT]
            mine[SQUARES] = squares + off * off * before / mine[WEIGHT]
            if mine[WEIGHT] >= GAPS_MIN:
                out[i] = sqrt(mine[SQUARES] / mine[WEIGHT])
        unlearn(mine, events, i, memory.copy)


KINDS: Final = (
    Kind(
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
    Kind(
        name="gap_spread",
        meaning="how unevenly the entity's events follow each other: 0 for a clock, 1.3 for events"
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
