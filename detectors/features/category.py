"""Categories: how often an entity's events are of one sort, and how many sorts there are.

`of` names the sort (failures, refunds, requests without a referrer) among the events that match
`where`. `occurrence` judges this one event and keeps nothing: the tail has the entity's own share.
`share` says what lately was: with decayed counts c of all and k of those that occur, this one
included, k / (c + 2), as if two events without had come before: one failure of one login is a
third, nineteen of twenty .86. `night_share` is the same share of the events between midnight and
`NIGHT_H` local time. `run_length` counts events that occur in a row, this one included.
`entropy` needs no `of`: it counts a field's values in 16 buckets by their keyed hash, decayed, and
is Shannon's -Σ p log₂ p of their shares in bits: 0 for one value, up to 4 for many.

Words of an entity: occurrence 0, shares 3 (c, k, time), run_length 1, entropy 17 (counts, time).
"""

from math import isnan, log
from typing import Final

import numpy as np

from detectors.decay import DAY_MS, HOUR_MS, LN2, decayed
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

NIGHT_H: Final = 6.0
BUCKETS: Final = 16
ENTROPY_WORDS: Final = BUCKETS + 1
BUCKET_SHIFT: Final = np.uint64(60)


@kernel
def occurrence(memory: Memory, events: Admitted, field: Field, spans: Spans, out: F64) -> None:
    """1 where the event matches `of`, else 0."""
    for i in range(len(events.row)):
        out[i] = np.nan
        if field.active[i]:
            out[i] = 1.0 if field.occurs[i] else 0.0


@kernel
def share(memory: Memory, events: Admitted, field: Field, spans: Spans, out: F64) -> None:
    """k / (c + 2), this event included."""
    at = memory.at
    for i in range(len(events.row)):
        approach(memory, events, i)
        mine = memory.words[events.row[i], at : at + SHARE_WORDS]
        prepare(mine, events, i, memory.copy)
        out[i] = np.nan
        if field.active[i]:
            out[i] = share_of(mine, field.occurs[i], events.time_ms[i], spans.half_life_ms)
            unlearn(mine, events, i, memory.copy)


@kernel
def night_share(memory: Memory, events: Admitted, field: Field, spans: Spans, out: F64) -> None:
    """k / (c + 2), this event included; beside: minutes of offset to UTC (NaN: none)."""
    at = memory.at
    for i in range(len(events.row)):
        approach(memory, events, i)
        mine = memory.words[events.row[i], at : at + SHARE_WORDS]
        prepare(mine, events, i, memory.copy)
        out[i] = np.nan
        if field.active[i]:
            offset_ms = 0.0 if isnan(field.beside[0, i]) else field.beside[0, i] * 60_000.0
            night = (events.time_ms[i] + offset_ms) % DAY_MS < NIGHT_H * HOUR_MS
            out[i] = share_of(mine, night, events.time_ms[i], spans.half_life_ms)
            unlearn(mine, events, i, memory.copy)


@kernel
def run_length(memory: Memory, events: Admitted, field: Field, spans: Spans, out: F64) -> None:
    """Events in a row that match `of`, up to this one; 0 where this one does not."""
    at = memory.at
    for i in range(len(events.row)):
        approach(memory, events, i)
        mine = memory.words[events.row[i], at : at + 1]
        prepare(mine, events, i, memory.copy)
        out[i] = np.nan
        if field.active[i]:
            mine[0] = mine[0] + 1.0 if field.occurs[i] else 0.0
            out[i] = mine[0]
            unlearn(mine, events, i, memory.copy)


@kernel
def entropy(memory: Memory, events: Admitted, field: Field, spans: Spans, out: F64) -> None:
    """Entropy of the buckets' shares in bits, this event included."""
    at = memory.at
    for i in range(len(events.row)):
        approach(memory, events, i)
        mine = memory.words[events.row[i], at : at + ENTROPY_WORDS]
        prepare(mine, events, i, memory.copy)
        out[i] = np.nan
        if not field.active[i]:
            continue
        keep = decayed(1.0, events.time_ms[i] - mine[BUCKETS], spans.half_life_ms)
        mine[BUCKETS] = events.time_ms[i]
        total = 1.0
        for k in range(BUCKETS):
            mine[k] *= keep
            total += mine[k]
        mine[np.int64(field.hashed[i] >> BUCKET_SHIFT)] += 1.0
        bits = 0.0
        for k in range(BUCKETS):
            if mine[k] > 0.0:
                bits -= mine[k] / total * log(mine[k] / total) / LN2
        out[i] = max(bits, 0.0)
        unlearn(mine, events, i, memory.copy)


KINDS: Final = (
    Kind(
        name="occurrence",
        meaning="1 when the event also matches `of`, else 0",
        update=occurrence,
        words=0,
        reads=None,
        decays=False,
        divides=True,
        family="share",
        side="high",
    ),
    Kind(
        name="share",
        meaning="decayed share of the entity's events that match `of` (two without are assumed"
        " before the first)",
        update=share,
        words=SHARE_WORDS,
        reads=None,
        decays=True,
        divides=True,
        family="normal",
        side="high",
        shift=0.1,
    ),
    Kind(
        name="night_share",
        meaning="decayed share of the entity's events between midnight and six local time (UTC"
        " unless utc_offset_min is mapped; two by day are assumed before the first)",
        update=night_share,
        words=SHARE_WORDS,
        reads=None,
        decays=True,
        family="normal",
        side="high",
        shift=0.1,
        beside=("utc_offset_min",),
    ),
    Kind(
        name="run_length",
        meaning="events in a row that match `of`, up to this one",
        update=run_length,
        words=1,
        reads=None,
        decays=False,
        divides=True,
        family="normal",
        side="high",
        shift=1.0,
    ),
    Kind(
        name="entropy",
        meaning="decayed entropy of a field's values in bits: 0 for one value, 4 for many",
        update=entropy,
        words=ENTROPY_WORDS,
        reads="text",
        decays=True,
        family="normal",
        side="both",
        shift=0.2,
    ),
)
