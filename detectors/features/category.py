"""Categories: how often an entity's events are of one class, and how many classes there are.

`of` selects the class (failures, refunds, requests without a referrer) among the events that match
`where`. `occurrence` is the event's own class and needs no state: the tail knows the entity's share.
`share` is the recent share: k / (c + 2) with decayed counts c of all events and k of the class, this
event included, as if two events of no class had come before: one failure of one login is a third,
nineteen of twenty .86. `night_share` is the same share of the events between midnight and `NIGHT_H`
local time. `run_length` counts events of the class in a row, this one included. `entropy` needs no
`of`: it counts a field's values in 16 buckets by their keyed hash, decayed, and is Shannon's
-Σ p log₂ p of the buckets' shares in bits: 0 for one value, up to 4 for many.

Words of an entity: occurrence 0, shares 3 (c, k, time), run_length 1, entropy 17 (counts, time).
"""

from math import isnan, log
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
from detectors.numeric.decay import DAY_MS, HOUR_MS, LN2, decayed
from detectors.numeric.kernels import kernel
from schemas.columns import F64

NIGHT_H: Final = 6.0
BUCKETS: Final = 16
ENTROPY_WORDS: Final = BUCKETS + 1
BUCKET_SHIFT: Final = np.uint64(60)


@kernel
def occurrence(
    memory: FeatureMemory,
    admitted: AdmittedEvents,
    field: FeatureInput,
    durations: Durations,
    out: F64,
) -> None:
    """1 where the event matches `of`, else 0."""
    for i in range(len(admitted.row)):
        out[i] = np.nan
        if field.active[i]:
            out[i] = 1.0 if field.occurs[i] else 0.0


@kernel
def share(
    memory: FeatureMemory,
    admitted: AdmittedEvents,
    field: FeatureInput,
    durations: Durations,
    out: F64,
) -> None:
    """k / (c + 2), this event included."""
    first_word = memory.first_word
    for i in range(len(admitted.row)):
        prefetch_ahead(memory, admitted, i)
        state = memory.words[admitted.row[i], first_word : first_word + SHARE_WORDS]
        begin_event(state, admitted, i, memory.backup)
        out[i] = np.nan
        if field.active[i]:
            out[i] = share_of(state, field.occurs[i], admitted.time_ms[i], durations.half_life_ms)
            undo_unless_learned(state, admitted, i, memory.backup)


@kernel
def night_share(
    memory: FeatureMemory,
    admitted: AdmittedEvents,
    field: FeatureInput,
    durations: Durations,
    out: F64,
) -> None:
    """k / (c + 2), this event included; extra field: minutes of offset to UTC (NaN: none)."""
    first_word = memory.first_word
    for i in range(len(admitted.row)):
        prefetch_ahead(memory, admitted, i)
        state = memory.words[admitted.row[i], first_word : first_word + SHARE_WORDS]
        begin_event(state, admitted, i, memory.backup)
        out[i] = np.nan
        if field.active[i]:
            offset_ms = (
                0.0 if isnan(field.extra_fields[0, i]) else field.extra_fields[0, i] * 60_000.0
            )
            night = (admitted.time_ms[i] + offset_ms) % DAY_MS < NIGHT_H * HOUR_MS
            out[i] = share_of(state, night, admitted.time_ms[i], durations.half_life_ms)
            undo_unless_learned(state, admitted, i, memory.backup)


@kernel
def run_length(
    memory: FeatureMemory,
    admitted: AdmittedEvents,
    field: FeatureInput,
    durations: Durations,
    out: F64,
) -> None:
    """Events in a row that match `of`, up to this one; 0 where this one does not."""
    first_word = memory.first_word
    for i in range(len(admitted.row)):
        prefetch_ahead(memory, admitted, i)
        state = memory.words[admitted.row[i], first_word : first_word + 1]
        begin_event(state, admitted, i, memory.backup)
        out[i] = np.nan
        if field.active[i]:
            state[0] = state[0] + 1.0 if field.occurs[i] else 0.0
            out[i] = state[0]
            undo_unless_learned(state, admitted, i, memory.backup)


@kernel
def entropy(
    memory: FeatureMemory,
    admitted: AdmittedEvents,
    field: FeatureInput,
    durations: Durations,
    out: F64,
) -> None:
    """Entropy of the buckets' shares in bits, this event included."""
    first_word = memory.first_word
    for i in range(len(admitted.row)):
        prefetch_ahead(memory, admitted, i)
        state = memory.words[admitted.row[i], first_word : first_word + ENTROPY_WORDS]
        begin_event(state, admitted, i, memory.backup)
        out[i] = np.nan
        if not field.active[i]:
            continue
        decay_factor = decayed(1.0, admitted.time_ms[i] - state[BUCKETS], durations.half_life_ms)
        state[BUCKETS] = admitted.time_ms[i]
        total = 1.0
        for k in range(BUCKETS):
            state[k] *= decay_factor
            total += state[k]
        state[np.int64(field.hashed[i] >> BUCKET_SHIFT)] += 1.0
        bits = 0.0
        for k in range(BUCKETS):
            if state[k] > 0.0:
                bits -= state[k] / total * log(state[k] / total) / LN2
        out[i] = max(bits, 0.0)
        undo_unless_learned(state, admitted, i, memory.backup)


KINDS: Final = (
    FeatureKind(
        name="occurrence",
        meaning="1 when the event also matches `of`, else 0",
        update=occurrence,
        words=0,
        reads=None,
        decays=False,
        needs_of=True,
        family="share",
        side="high",
    ),
    FeatureKind(
        name="share",
        meaning="decayed share of the entity's events that match `of` (two without are assumed"
        " before the first)",
        update=share,
        words=SHARE_WORDS,
        reads=None,
        decays=True,
        needs_of=True,
        family="normal",
        side="high",
        shift=0.1,
    ),
    FeatureKind(
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
        extra_fields=("utc_offset_min",),
    ),
    FeatureKind(
        name="run_length",
        meaning="events in a row that match `of`, up to this one",
        update=run_length,
        words=1,
        reads=None,
        decays=False,
        needs_of=True,
        family="normal",
        side="high",
        shift=1.0,
    ),
    FeatureKind(
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
