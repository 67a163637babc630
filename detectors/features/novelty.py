"""Novelty: is this value of another field new to the entity, how many were new recently, and what
share of all events brought one?

An entity remembers the last `MEMORY` distinct values by their 64-bit keyed hashes, most recent
first. A value that drops out is added to the shard's `pairings`, so that it counts as new again only
after tens of thousands of values of all entities have dropped out; in return, one new value in 200
of an entity with more than `MEMORY` values is missed.

Words of an entity: `MEMORY`, two more for the count (value, time), three for the share (all, new,
time): k / (c + 2) with decayed counts c of all events and k of those with a new value, this event
included, as if two known values had come before. A visitor comes back to pages, a crawler does not.
"""

from typing import Final

import numpy as np

from detectors.entities import AdmittedEvents
from detectors.features import pairings
from detectors.features.kind import (
    Durations,
    FeatureInput,
    FeatureKind,
    FeatureMemory,
    prefetch_ahead,
)
from detectors.numeric.decay import decayed
from detectors.numeric.kernels import kernel
from schemas.columns import F64, U64

MEMORY: Final = 16


@kernel
def is_new(
    bits: U64,
    row: int,
    first_word: int,
    shared: U64,
    entity_hash: np.uint64,
    value: np.uint64,
    learn: bool,
) -> bool:
    """Whether neither the entity's memory nor `pairings` has the value; learning moves it to the front."""
    index = -1
    for k in range(MEMORY):
        if bits[row, first_word + k] == value:
            index = k
            break
        if bits[row, first_word + k] == 0:
            break
    memory_full = bits[row, first_word + MEMORY - 1] != 0  # only then may a value have dropped out
    new = index < 0 and not (
        memory_full and pairings.contains(shared, pairings.pair(entity_hash, value))
    )
    if learn:
        slot = index if index >= 0 else MEMORY - 1
        dropped = bits[row, first_word + slot]
        if index < 0 and dropped != 0:
            pairings.add(shared, pairings.pair(entity_hash, dropped))
        for k in range(slot, 0, -1):
            bits[row, first_word + k] = bits[row, first_word + k - 1]
        bits[row, first_word] = value
    return new


@kernel
def novelty(
    memory: FeatureMemory,
    admitted: AdmittedEvents,
    field: FeatureInput,
    durations: Durations,
    out: F64,
) -> None:
    """1 for a new value, 0 for a remembered one; NaN at the first value, which is always new."""
    bits = memory.bits
    shared = memory.shared_bits
    first_word = memory.first_word
    for i in range(len(admitted.row)):
        prefetch_ahead(memory, admitted, i)
        row = admitted.row[i]
        if admitted.fresh[i]:
            for k in range(MEMORY):
                bits[row, first_word + k] = 0
        out[i] = np.nan
        if not field.active[i]:
            continue
        has_values = bits[row, first_word] != 0
        learn = admitted.learn[i]
        new = is_new(bits, row, first_word, shared, field.entity_hash[i], field.hashed[i], learn)
        if has_values:
            out[i] = 1.0 if new else 0.0


@kernel
def novel_count(
    memory: FeatureMemory,
    admitted: AdmittedEvents,
    field: FeatureInput,
    durations: Durations,
    out: F64,
) -> None:
    """Decayed number of new values, this event's included; words after the memory: value, time."""
    words = memory.words
    bits = memory.bits
    shared = memory.shared_bits
    first_word = memory.first_word
    words_after_memory = first_word + MEMORY
    for i in range(len(admitted.row)):
        prefetch_ahead(memory, admitted, i)
        row = admitted.row[i]
        if admitted.fresh[i]:
            for k in range(MEMORY):
                bits[row, first_word + k] = 0
            words[row, words_after_memory] = 0.0
            words[row, words_after_memory + 1] = admitted.time_ms[i]
        if not field.active[i]:
            out[i] = np.nan
            continue
        now = decayed(
            words[row, words_after_memory],
            admitted.time_ms[i] - words[row, words_after_memory + 1],
            durations.half_life_ms,
        )
        learn = admitted.learn[i]
        if is_new(bits, row, first_word, shared, field.entity_hash[i], field.hashed[i], learn):
            now += 1.0
        out[i] = now
        if learn:
            words[row, words_after_memory] = now
            words[row, words_after_memory + 1] = admitted.time_ms[i]


@kernel
def novel_share(
    memory: FeatureMemory,
    admitted: AdmittedEvents,
    field: FeatureInput,
    durations: Durations,
    out: F64,
) -> None:
    """k / (c + 2), this event included; words after the memory: c, k, time."""
    words = memory.words
    first_word = memory.first_word
    words_after_memory = first_word + MEMORY
    for i in range(len(admitted.row)):
        prefetch_ahead(memory, admitted, i)
        row = admitted.row[i]
        if admitted.fresh[i]:
            for k in range(MEMORY + 3):
                words[row, first_word + k] = 0.0
        out[i] = np.nan
        if not field.active[i]:
            continue
        learn = admitted.learn[i]
        new = is_new(
            memory.bits,
            row,
            first_word,
            memory.shared_bits,
            field.entity_hash[i],
            field.hashed[i],
            learn,
        )
        decay_factor = decayed(
            1.0, admitted.time_ms[i] - words[row, words_after_memory + 2], durations.half_life_ms
        )
        count = words[row, words_after_memory] * decay_factor + 1.0
        novel = words[row, words_after_memory + 1] * decay_factor + (1.0 if new else 0.0)
        out[i] = novel / (count + 2.0)
        if learn:
            words[row, words_after_memory] = count
            words[row, words_after_memory + 1] = novel
            words[row, words_after_memory + 2] = admitted.time_ms[i]


KINDS: Final = (
    FeatureKind(
        name="novelty",
        meaning="1 when this value of a field is new to the entity, else 0",
        update=novelty,
        words=MEMORY,
        shared=pairings.WORDS,
        reads="text",
        decays=False,
        family="share",
        side="high",
    ),
    FeatureKind(
        name="novel_count",
        meaning="decayed number of values of a field that were new to the entity",
        update=novel_count,
        words=MEMORY + 2,
        shared=pairings.WORDS,
        reads="text",
        decays=True,
        family="rate",
        side="high",
    ),
    FeatureKind(
        name="novel_share",
        meaning="decayed share of the entity's events that brought a new value of a field (two"
        " without are assumed before the first): how broadly it visits",
        update=novel_share,
        words=MEMORY + 3,
        shared=pairings.WORDS,
        reads="text",
        decays=True,
        family="normal",
        side="both",
        shift=0.1,
    ),
)
