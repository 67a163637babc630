"""Distinct: how many values of another field did the entity have recently?

Recently means in the current pane of one half-life and in the pane before; panes follow each other
from the entity's first event, and a pane is forgotten as a whole. Up to `EXACT` values are
distinguished by their 64-bit keyed hashes and counted exactly. Beyond them a HyperLogLog estimates
(P. Flajolet et al., AOFA 2007) over the union of both panes' registers: m = 64 registers of four
bits, the estimate 0.709 m² / Σ 2^(-register), or m ln(m / empty) where that is at most 2.5 m (linear
counting). The standard error is 1.04/√m = 13 %, up to about 10^6 values, the range of four bits.

Registers are chosen by a keyed hash: nobody outside can choose values that share a register. 26
words an entity: 16 hashes, four words of registers a pane, the beginning of the pane, marks.
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
"""Words of a pane's registers, sixteen in a word."""
NOW: Final = EXACT
BEFORE: Final = NOW + PANE
BEGAN_MS: Final = BEFORE + PANE
MARKS: Final = BEGAN_MS + 1
WORDS: Final = MARKS + 1

NONE: Final = np.uint64(0)
ONE: Final = np.uint64(1)
MORE_NOW: Final = np.uint64(1 << 16)
"""Mark: the current pane had values that are not among the exact ones; `MORE_BEFORE`: so had the pane
before. The lower bits mark the exact values that the current pane had."""
MORE_BEFORE: Final = np.uint64(1 << 17)
RANK_MAX: Final = 15
REGISTERS: Final = 64.0
ALPHA: Final = 0.709
LINEAR_MAX: Final = 2.5 * REGISTERS


@kernel
def _turn(state: U64, time_ms: np.uint64, pane_ms: np.uint64) -> None:
    """Advance to the pane of the time; values that neither pane had are forgotten."""
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
    """Add the value to the exact ones, if there is room, and to the registers of the current pane."""
    index = -1
    older = -1
    for k in range(EXACT):
        if state[k] == value:
            index = k
            break
        if state[k] == 0 and index < 0:
            index = k
        if older < 0 and state[MARKS] >> np.uint64(k) & ONE == 0:
            older = k
    if index < 0 and older >= 0:
        index = older
        state[MARKS] |= MORE_BEFORE
    if index >= 0:
        state[index] = value
        state[MARKS] |= ONE << np.uint64(index)
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
    """The number of values in both panes: exact, or estimated."""
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
    admitted: AdmittedEvents,
    field: FeatureInput,
    durations: Durations,
    out: F64,
) -> None:
    """Number of values in this pane and the one before, this event's included."""
    pane_ms = np.uint64(max(durations.half_life_ms, 1.0))
    at = memory.at
    for i in range(len(admitted.row)):
        prefetch_ahead(memory, admitted, i)
        state = memory.bits[admitted.row[i], at : at + WORDS]
        begin_event(state, admitted, i, memory.backup_bits)
        out[i] = np.nan
        if not field.active[i]:
            continue
        time_ms = np.uint64(admitted.time_ms[i])
        if state[MARKS] == 0 and state[BEGAN_MS] == 0:
            state[BEGAN_MS] = time_ms
        _turn(state, time_ms, pane_ms)
        _add(state, field.hashed[i])
        out[i] = _number(state)
        undo_unless_learned(state, admitted, i, memory.backup_bits)


KINDS: Final = (
    FeatureKind(
        name="distinct",
        meaning="number of values of a field in the last one to two half-lives (above 16 an"
        " estimate, ± 13 %)",
        update=distinct,
        words=WORDS,
        reads="text",
        decays=True,
        # a count of arrivals: while few values are usual, the noise is Poisson and a step of one is
        # large on a logarithmic scale
        family="rate",
        side="high",
        shift=1.0,
    ),
)
