"""Habit: is the entity usually active at this hour of the day and this part of the week?

The entity's events are counted by local hour (24) and by weekend or not, decayed. An hour also
counts for its neighbours, with weights 1, 2, 3, 2, 1 of 9 around the clock. With n the entity's
decayed number of earlier events, h its smoothed count at the hour and q the shard's share of that
hour (the prior, with the weight of `PRIOR` events), p = (h + PRIOR q) / (n + PRIOR); likewise r for
the part of the week (Dirichlet–multinomial means). The value is

    24 p · r / (2/7 or 5/7)

how many times more usual this hour is than a random one: 1 for someone awake around the clock, near
0 for an hour at which they are never active. Its logarithm, by which it is scored, is minus the hour's
surprise. NaN until n is `EVENTS_MIN`. Local time is UTC where no offset is mapped.

The shard learns an event with weight 1/(1 + n), so that busy entities do not dominate, decayed by
count. 27 words an entity (time, n, weekends, hours), and as many shared.
"""

from math import floor, isnan
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
from detectors.numeric.decay import DAY_MS, HOUR_MS, decayed
from detectors.numeric.kernels import kernel
from schemas.columns import F64

LAST_MS, COUNT, WEEKENDS, HOURS = range(4)
"""Words; HOURS is the first of 24. LAST_MS is unused in the shared words."""
WORDS: Final = HOURS + 24
WEEKEND_SHARE: Final = 2.0 / 7.0
PRIOR: Final = 5.0
EVENTS_MIN: Final = 5.0
SHARD_PRIOR: Final = 24.0
"""Assumed events of the shard, evenly spread over the hours, so that no hour is impossible."""
SHARD_MEMORY: Final = 20_000.0


@kernel
def _smoothed_count(counts: F64, hour: int) -> float:
    """The smoothed count at the hour."""
    total = 0.0
    for step in range(-2, 3):
        total += (3.0 - abs(step)) / 9.0 * counts[HOURS + (hour + step) % 24]
    return total


@kernel
def _relative_frequency(state: F64, shard: F64, hour: int, weekend: bool) -> float:
    """How many times more usual the hour is than a random one."""
    strength = shard[COUNT] + SHARD_PRIOR
    q = (_smoothed_count(shard, hour) + SHARD_PRIOR / 24.0) / strength
    p = (_smoothed_count(state, hour) + PRIOR * q) / (state[COUNT] + PRIOR)
    q = (shard[WEEKENDS] + SHARD_PRIOR * WEEKEND_SHARE) / strength
    r = (state[WEEKENDS] + PRIOR * q) / (state[COUNT] + PRIOR)
    week = r / WEEKEND_SHARE if weekend else (1.0 - r) / (1.0 - WEEKEND_SHARE)
    return float(24.0 * p * week)


@kernel
def _scale(counts: F64, decay_factor: float) -> None:
    for k in range(COUNT, WORDS):
        counts[k] *= decay_factor


@kernel
def _add(counts: F64, hour: int, weekend: bool, weight: float) -> None:
    counts[COUNT] += weight
    counts[HOURS + hour] += weight
    if weekend:
        counts[WEEKENDS] += weight


@kernel
def hour_habit(
    memory: FeatureMemory,
    admitted: AdmittedEvents,
    field: FeatureInput,
    durations: Durations,
    out: F64,
) -> None:
    """How usual the hour is for the entity before this event; extra field: minutes of offset to UTC."""
    shard = memory.shared
    first_word = memory.first_word
    for i in range(len(admitted.row)):
        prefetch_ahead(memory, admitted, i)
        state = memory.words[admitted.row[i], first_word : first_word + WORDS]
        begin_event(state, admitted, i, memory.backup)
        out[i] = np.nan
        if not field.active[i]:
            continue
        offset_ms = 0.0 if isnan(field.extra_fields[0, i]) else field.extra_fields[0, i] * 60_000.0
        local_ms = admitted.time_ms[i] + offset_ms
        day = floor(local_ms / DAY_MS)
        hour = min(int((local_ms - day * DAY_MS) / HOUR_MS), 23)
        weekend = (day + 3) % 7 >= 5  # 1 January 1970 was a Thursday, day 3 of its week
        _scale(state, decayed(1.0, admitted.time_ms[i] - state[LAST_MS], durations.half_life_ms))
        state[LAST_MS] = admitted.time_ms[i]
        if state[COUNT] >= EVENTS_MIN:
            out[i] = _relative_frequency(state, shard, hour, weekend)
        if admitted.learn[i]:
            _add(shard, hour, weekend, 1.0 / (1.0 + state[COUNT]))
            if shard[COUNT] > SHARD_MEMORY:
                _scale(shard, SHARD_MEMORY / shard[COUNT])
        _add(state, hour, weekend, 1.0)
        undo_unless_learned(state, admitted, i, memory.backup)


KINDS: Final = (
    FeatureKind(
        name="hour_habit",
        meaning="how many times more usual this hour and part of the week is for the entity than"
        " a random one (UTC unless utc_offset_min is mapped)",
        update=hour_habit,
        words=WORDS,
        shared=WORDS,
        reads=None,
        decays=True,
        family="normal",
        side="low",
        shift=0.02,
        extra_fields=("utc_offset_min",),
    ),
)
