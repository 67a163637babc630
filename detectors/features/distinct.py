"""Distinct: how many values of another field did the entity have lately?

Lately is the present pane of one half-life and the one before it; panes follow each other from the
entity's first event, and each forgets as a whole. Up to `EXACT` values are told apart by their
64-bit keyed hashes and counted exactly. Beyond them a HyperLogLog answers (P. Flajolet et al.,
AOFA 2007) over the union of both panes' registers: m = 64 of four bits, the estimate
0.709 m² / Σ 2^(-register), or m ln(m / empty) where that gives at most 2.5 m (linear counting).
Standard error 1.04/√m = 13 %, up to about 10^6 values, where four bits end.

A value's bits are a keyed hash's: nobody outside can choose values that share a register. 26 words
an entity: 16 hashes, four words of registers a pane, the pane's beginning, marks.
"""

from math import log
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
from detectors.numeric.kernels import kernel
from schemas.columns import F64, U64

EXACT: Final = 16
PANE: Final = 4
"""Words of a pane's registers, sixteen to a word."""
NOW: Final = EXACT
BEFORE: Final = NOW + PANE
BEGAN_MS: Final = BEFORE + PANE
MARKS: Final = BEGAN_MS + 1
WORDS: Final = MARKS + 1

NONE: Final = np.uint64(0)
ONE: Final = np.uint64(1)
MORE_NOW: Final = np.uint64(1 << 16)
"""Mark: the present pane had values that are not among the exact ones; `MORE_BEFORE`: the earlier
one had. Below them, one mark for each exact value that the present pane had."""
MORE_BEFORE: Final = np.uint64(1 << 17)
RANK_MAX: Final = 15
REGISTERS: Final = 64.0
ALPHA: Final = 0.709
LINEAR_MAX: Final = 2.5 * REGISTERS


@kernel
def _turn(state: U64, time_ms: np.uint64, pane_ms: np.uint64) -> None:
    """Go on to the pane that the time is in; what neither pane had is forgotten."""
    panes = (time_ms - state[BEGAN_MS]) // pane_ms
    if panes == 0:
        return
    state[BEGAN_MS] += panes * pane_ms
    both = panes > ONE
    marks = state[MARKS]
    for k in range(EXACT):
        if both or (marks >> np.uint64(k)) & ONE == 0:
            state[k] = 0
    for k in range(PANE):
        state[BEFORE + k] = NONE if both else state[NOW + k]
        state[NOW + k] = 0
    state[MARKS] = MORE_BEFORE if marks & MORE_NOW != 0 and not both else NONE


@kernel
def _add(state: U64, value: np.uint64) -> None:
    """Note the value among the exact ones, if there is room, and in the present pane's
    registers."""
    place = -1
    older = -1
    for k in range(EXACT):
        if state[k] == value:
            place = k
            break
        if state[k] == 0 and place < 0:
            place = k
        if older < 0 and state[MARKS] >> np.uint64(k) & ONE == 0:
            older = k
    if place < 0 and older >= 0:
        place = older
        state[MARKS] |= MORE_BEFORE
    if place >= 0:
        state[place] = value
        state[MARKS] |= ONE << np.uint64(place)
    else:
        state[MARKS] |= MORE_NOW
    word = NOW + np.int64(value & np.uint64(PANE - 1))
    shift = (value >> np.uint64(2) & np.uint64(15)) << np.uint64(2)
    rest = value >> np.uint64(6)
    rank = 1
    while rank < RANK_MAX and rest & ONE == 0:
        rest >>= ONE
        rank += 1
    held = state[word] >> shift & np.uint64(15)
    if np.uint64(rank) > held:
        state[word] += (np.uint64(rank) - held) << shift


@kernel
def _number(state: U64) -> float:
    """Values in both panes: exact, or the estimate."""
    known = 0.0
    for k in range(EXACT):
        if state[k] != 0:
            known += 1.0
    if state[MARKS] < MORE_NOW:
        return known
    total = 0.0
    empty = 0.0
    for w in range(PANE):
        now = state[NOW + w]
        before = state[BEFORE + w]
        for _ in range(16):
            rank = max(np.int64(now & np.uint64(15)), np.int64(before & np.uint64(15)))
            total += 1.0 / (1 << rank)
            if rank == 0:
                empty += 1.0
            now >>= np.uint64(4)
            before >>= np.uint64(4)
    estimate = ALPHA * REGISTERS * REGISTERS / total
    if estimate <= LINEAR_MAX and empty > 0.0:
        estimate = REGISTERS * log(REGISTERS / empty)
    return max(estimate, known)


@kernel
def distinct(
    memory: FeatureMemory,
    events: AdmittedEvents,
    field: FeatureInput,
    durations: Durations,
    out: F64,
) -> None:
    """Number of values in this pane and the one before, this event's included."""
    pane_ms = np.uint64(max(durations.half_life_ms, 1.0))
    at = memory.at
    for i in range(len(events.row)):
        prefetch_ahead(memory, events, i)
        state = memory.bits[events.row[i], at : at + WORDS]
        begin_event(state, events, i, memory.backup_bits)
        out[i] = np.nan
        if not field.active[i]:
            continue
        time_ms = np.uint64(events.time_ms[i])
        if state[MARKS] == 0 and state[BEGAN_MS] == 0:
            state[BEGAN_MS] = time_ms
        _turn(state, time_ms, pane_ms)
        _add(state, field.hashed[i])
        out[i] = _number(state)
        undo_unless_learned(state, events, i, memory.backup_bits)


KINDS: Final = (
    FeatureKind(
        name="distinct",
        meaning="number of values of a field in the last one to two half-lives (above 16 an"
        " estimate, ± 13 %)",
        update=distinct,
        words=WORDS,
        reads="text",
        decays=True,
        # A count of arrivals: while few values are usual, the noise is Poisson's and steps of one
        # are large in logarithms.
        family="rate",
        side="high",
        shift=1.0,
    ),
)
