"""Novelty: is this value of another field new to the entity, and how many new ones came lately?

An entity remembers the last `MEMORY` distinct values by their 64-bit keyed hashes, most recent
first; a value beyond them counts as new again. With more than `MEMORY` values in rotation every
event is therefore "new", which is what an address behind which hundreds of accounts sit looks
like; its own history then makes that its normal.
"""

from typing import Final

import numpy as np

from detectors.entities import Admitted
from detectors.features.counting import decayed
from detectors.features.kind import Field, Kind, Memory, Spans
from detectors.kernels import kernel
from schemas.columns import F64, U64

MEMORY: Final = 16


@kernel
def recall(bits: U64, r: int, at: int, value: np.uint64, learn: bool) -> int:
    """Where the value stood in the entity's memory, or -1; learning moves it to the front."""
    place = -1
    for k in range(MEMORY):
        if bits[r, at + k] == value:
            place = k
            break
        if bits[r, at + k] == 0:
            break
    if learn:
        last = place if place >= 0 else MEMORY - 1
        for k in range(last, 0, -1):
            bits[r, at + k] = bits[r, at + k - 1]
        bits[r, at] = value
    return place


@kernel
def novelty(memory: Memory, events: Admitted, field: Field, spans: Spans, out: F64) -> None:
    """1 for a new value, 0 for a remembered one; NaN at the first, which is new by necessity."""
    bits = memory.bits
    at = memory.at
    for i in range(len(events.row)):
        r = events.row[i]
        if events.fresh[i]:
            for k in range(MEMORY):
                bits[r, at + k] = 0
        out[i] = np.nan
        if not field.active[i]:
            continue
        known_any = bits[r, at] != 0
        place = recall(bits, r, at, field.hashed[i], events.learn[i])
        if known_any:
            out[i] = 1.0 if place < 0 else 0.0


@kernel
def novel_count(memory: Memory, events: Admitted, field: Field, spans: Spans, out: F64) -> None:
    """Decayed number of new values, this event's included; behind the memory: value, time."""
    words = memory.words
    bits = memory.bits
    at = memory.at
    held = at + MEMORY
    for i in range(len(events.row)):
        r = events.row[i]
        if events.fresh[i]:
            for k in range(MEMORY):
                bits[r, at + k] = 0
            words[r, held] = 0.0
            words[r, held + 1] = events.time_ms[i]
        if not field.active[i]:
            out[i] = np.nan
            continue
        now = decayed(words[r, held], events.time_ms[i] - words[r, held + 1], spans.half_life_ms)
        if recall(bits, r, at, field.hashed[i], events.learn[i]) < 0:
            now += 1.0
        out[i] = now
        if events.learn[i]:
            words[r, held] = now
            words[r, held + 1] = events.time_ms[i]


KINDS: Final = (
    Kind(
        name="novelty",
        meaning="1 when this value of a field is new to the entity, else 0",
        update=novelty,
        words=MEMORY,
        reads="text",
        decays=False,
        family="share",
        side="high",
    ),
    Kind(
        name="novel_count",
        meaning="decayed number of values of a field that were new to the entity",
        update=novel_count,
        words=MEMORY + 2,
        reads="text",
        decays=True,
        family="rate",
        side="high",
    ),
)
