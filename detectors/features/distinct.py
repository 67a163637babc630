"""Distinct: how many values of another field did the entity have recently?

Recently means in the current pane, which lasts one half-life, and in the previous pane. Panes start
at the entity's first event; older panes are forgotten. Up to `EXACT` values are
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
CURRENT: Final = EXACT
PREVIOUS: Final = CURRENT + PANE
BEGAN_MS: Final = PREVIOUS + PANE
MARKS: Final = BEGAN_MS + 1
WORDS: Final = MARKS + 1

NONE: Final = np.uint64(0)
ONE: Final = np.uint64(1)
OVERFLOW_CURRENT: Final = np.uint64(1 << 16)
"""Mark: the current pane had values that are not among the exact ones; `OVERFLOW_PREVIOUS`: the
previous pane had. The lower bits mark the exact values that the current pane had."""
OVERFLOW_PREVIOUS: Final = np.uint64(1 << 17)
RANK_MAX: Final = 15
REGISTERS: Final = 64.0
ALPHA: Final = 0.709
LINEAR_MAX: Final = 2.5 * REGISTERS


@kernel
def _advance_pane(state: U64, time_ms: np.uint64, pane_ms: np.uint64) -> None:
    """Advance to the pane of the time; values that neither pane had are forgotten."""
    panes = (time_ms - state[BEGAN_MS]) // pane_ms
    if panes == 0:
        return
    state[BEGAN_MS] += panes * pane_ms
    both_ended = panes > ONE
    marks = state[MARKS]
    for k in range(EXACT):
        if both_ended or (marks >> np.uint64(k)) & ONE == 0:
            state[k] = 0
    for k in range(PANE):
        state[PREVIOUS + k] = NONE if both_ended else state[CURRENT + k]
        state[CURRENT + k] = 0
    state[MARKS] = OVERFLOW_PREVIOUS if marks & OVERFLOW_CURRENT != 0 and not both_ended else NONE


@kernel
def _add(state: U64, value: np.uint64) -> None:
    """Add the value to the exact values, if there is room, and to the current pane's registers."""
    index = -1
    reusable = -1
    for k in range(EXACT):
        if state[k] == value:
            index = k
            break
        if state[k] == 0 and index < 0:
            index = k
        if reusable < 0 and state[MARKS] >> np.uint64(k) & ONE == 0:
            reusable = k
    if index < 0 and reusable >= 0:
        index = reusable
        state[MARKS] |= OVERFLOW_PREVIOUS
    if index >= 0:
        state[index] = value
        state[MARKS] |= ONE << np.uint64(index)
    else:
        state[MARKS] |= OVERFLOW_CURRENT
    word = CURRENT + np.int64(value & np.uint64(PANE - 1))
    shift = (value >> np.uint64(2) & np.uint64(15)) << np.uint64(2)
    rest = value >> np.uint64(6)
    rank = 1
    while rank < RANK_MAX and rest & ONE == 0:
        rest >>= ONE
        rank += 1
    register = state[word] >> shift & np.uint64(15)
    if np.uint64(rank) > register:
        state[word] += (np.uint64(rank) - register) << shift


@kernel
def _distinct_values(state: U64) -> float:
    """The number of values in both panes: exact, or estimated."""
    exact = 0.0
    for k in range(EXACT):
        if state[k] != 0:
            exact += 1.0
    if state[MARKS] < OVERFLOW_CURRENT:
        return exact
    total = 0.0
    empty = 0.0
    for w in range(PANE):
        current = state[CURRENT + w]
        previous = state[PREVIOUS + w]
        for _ in range(16):
            rank = max(np.int64(current & np.uint64(15)), np.int64(previous & np.uint64(15)))
            total += 1.0 / (1 << rank)
            if rank == 0:
                empty += 1.0
            current >>= np.uint64(4)
            previous >>= np.uint64(4)
    estimate = ALPHA * REGISTERS * REGISTERS / total
    if estimate <= LINEAR_MAX and empty > 0.0:
        estimate = REGISTERS * log(REGISTERS / empty)
    return max(estimate, exact)


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
    first_word = memory.first_word
    for i in range(len(admitted.row)):
        prefetch_ahead(memory, admitted, i)
        state = memory.bits[admitted.row[i], first_word : first_word + WORDS]
        begin_event(state, admitted, i, memory.backup_bits)
        out[i] = np.nan
        if not field.active[i]:
            continue
        time_ms = np.uint64(admitted.time_ms[i])
        if state[MARKS] == 0 and state[BEGAN_MS] == 0:
            state[BEGAN_MS] = time_ms
        _advance_pane(state, time_ms, pane_ms)
        _add(state, field.hashed[i])
        out[i] = _distinct_values(state)
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
