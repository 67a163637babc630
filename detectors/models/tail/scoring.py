"""The kernel of the tail model: score, then learn, each event in order."""

from math import exp, isnan, log, sqrt

import numpy as np

from detectors.entities import AdmittedEvents
from detectors.models.tail.cohort import choose_prior, learn_cohort, update_strange_share
from detectors.models.tail.layout import (
    BLOCK_LANES,
    BLOCK_WORDS,
    CENTRE,
    COUNT,
    ENTITY_WORDS,
    IS_STRANGE,
    LANES,
    LAST_MS,
    LEARNED,
    MEMORY_EVENTS,
    NORMAL,
    RANGE,
    RATE,
    SCALED,
    SPREAD,
    SQUARES,
    SURPRISE,
    TOKENS,
    VALUE,
    VERY_STRANGE_SURPRISE,
    WEIGHT,
    TailLayout,
    TailOutput,
)
from detectors.models.tail.normal import learn_normals, score_normals
from detectors.models.tail.rate import score_rates
from detectors.models.tail.share import score_shares
from detectors.numeric.decay import LN2
from detectors.numeric.kernels import kernel
from detectors.numeric.prefetch import prefetch_words
from detectors.numeric.protection import (
    TOKENS_MAX,
    TOKENS_PER_EVENT,
    TOKENS_PER_HOUR,
    earn_tokens,
)
from schemas.columns import F64, I64


@kernel
def score(
    words: F64,
    first_word: int,
    admitted: AdmittedEvents,
    values: F64,
    layout: TailLayout,
    half_life_ms: float,
    cohort: F64,
    cohort_of: I64,
    out: TailOutput,
) -> None:
    """Score, then learn, each event in order.

    words: the entities' rows, in which the tails own `words_per_entity` words from `first_word` on. values:
    float64[features, n], natural units. cohort: float64[cohorts, blocks, COHORT_WORDS], everybody's
    first. cohort_of: int64[n], each event's cohort.
    """
    size = ENTITY_WORDS + BLOCK_WORDS * len(layout.blocks)
    for i in range(len(admitted.row)):
        if i + 1 < len(admitted.row):
            prefetch_words(words, admitted.row[i + 1], first_word, size)
        state = words[admitted.row[i], first_word : first_word + size]
        learn = admitted.learn[i]
        if admitted.fresh[i]:
            state[:] = 0.0
            state[LAST_MS] = admitted.time_ms[i]
            state[TOKENS] = TOKENS_MAX
        decay_factor = _advance_time(state, admitted.time_ms[i], half_life_ms, learn)
        _read_values(values, i, layout, out)
        strange = _score_blocks(state, layout, decay_factor, cohort, cohort_of[i], learn)
        if strange:
            strange = _any_strange(layout.lanes, -1.0)
        paid = strange and learn and state[TOKENS] >= 1.0
        if paid:
            state[TOKENS] -= 1.0
        very_strange = strange and _any_strange(layout.lanes, VERY_STRANGE_SURPRISE)
        out.trees_may_learn[i] = paid or not very_strange
        _write_output(layout, i, out)
        if learn:
            _learn_blocks(state, layout, paid, cohort, cohort_of[i])


@kernel
def _score_blocks(
    state: F64, layout: TailLayout, decay_factor: float, cohort: F64, cohort_index: int, learn: bool
) -> bool:
    """Score every block of an event; whether a value is strange. cohort_index: the event's cohort."""
    strange = False
    for b in range(len(layout.blocks)):
        entity = state[ENTITY_WORDS + BLOCK_WORDS * b : ENTITY_WORDS + BLOCK_WORDS * (b + 1)]
        lanes = layout.lanes[BLOCK_LANES * b : BLOCK_LANES * (b + 1)]
        prior = cohort[0, b]
        if cohort_index > 0:
            choose_prior(prior, cohort[cohort_index, b], layout.prior)
            prior = layout.prior
        if learn:
            _decay(entity, decay_factor)
        if layout.blocks[b] == NORMAL:
            strange |= score_normals(entity, prior, layout.sides[b], lanes)
        elif layout.blocks[b] == RATE:
            strange |= score_rates(entity, prior, lanes)
        else:
            strange |= score_shares(entity, prior, lanes)
        update_strange_share(cohort[0, b], lanes, learn)
    return strange


@kernel
def _learn_blocks(
    state: F64, layout: TailLayout, paid: bool, cohort: F64, cohort_index: int
) -> None:
    """Learn every block of an event, in the entity's words and in its cohort's."""
    for b in range(len(layout.blocks)):
        entity = state[ENTITY_WORDS + BLOCK_WORDS * b : ENTITY_WORDS + BLOCK_WORDS * (b + 1)]
        lanes = layout.lanes[BLOCK_LANES * b : BLOCK_LANES * (b + 1)]
        if layout.blocks[b] == NORMAL:
            learn_normals(entity, lanes, paid)
        else:
            _learn_sums(entity, lanes, paid)
        learn_cohort(layout.blocks[b], cohort[0, b], lanes)
        if cohort_index > 0:
            learn_cohort(layout.blocks[b], cohort[cohort_index, b], lanes)


@kernel
def _advance_time(state: F64, time_ms: float, half_life_ms: float, learn: bool) -> float:
    """Return the decay of the entity's counts since its last event, and add the tokens earned since."""
    elapsed_ms = time_ms - state[LAST_MS]
    if learn:
        state[LAST_MS] = time_ms
        state[TOKENS] = earn_tokens(
            state[TOKENS], elapsed_ms, TOKENS_PER_EVENT, TOKENS_PER_HOUR, TOKENS_MAX
        )
    return exp(-LN2 * elapsed_ms / half_life_ms) if elapsed_ms > 0.0 else 1.0


@kernel
def _read_values(values: F64, i: int, layout: TailLayout, out: TailOutput) -> None:
    """Copy the event's values into the lanes as y; a value of a range is scaled at once."""
    for j in range(values.shape[0]):
        value = values[j, i]
        if layout.family[j] == RANGE:
            span = layout.high[j] - layout.low[j]
            scaled = min(max((value - layout.low[j]) / span, 0.0), 1.0)
            out.scaled[j, i] = scaled if not isnan(value) else np.nan
            continue
        if layout.family[j] == NORMAL:
            value += layout.shift[j]
            value = sqrt(value) if layout.root[j] else log(value)
        elif layout.family[j] == RATE and not isnan(value):
            value = max(value - layout.shift[j], 0.0)
        layout.lanes[layout.slot[j] + VALUE] = value


@kernel
def _write_output(layout: TailLayout, i: int, out: TailOutput) -> None:
    for j in range(len(layout.family)):
        slot = layout.slot[j]
        if slot >= 0:
            out.surprise[j, i] = layout.lanes[slot + SURPRISE]
            out.centre[j, i] = layout.lanes[slot + CENTRE]
            out.spread[j, i] = layout.lanes[slot + SPREAD]
            out.scaled[j, i] = layout.lanes[slot + SCALED]


@kernel
def _decay(entity: F64, decay_factor: float) -> None:
    for k in range(LANES):
        entity[COUNT + k] *= decay_factor
        entity[SQUARES + k] *= decay_factor


@kernel
def _any_strange(lanes: F64, surprise: float) -> bool:
    """Whether the value of any lane is strange and has more than this surprise."""
    for start in range(0, len(lanes), BLOCK_LANES):
        for k in range(LANES):
            if lanes[start + IS_STRANGE + k] > 0.0 and lanes[start + SURPRISE + k] > surprise:
                return True
    return False


@kernel
def _learn_sums(entity: F64, lanes: F64, paid: bool) -> None:
    """Learn the count, or the trial, of each lane; SQUARES holds their sum."""
    for k in range(LANES):
        value = lanes[LEARNED + k]
        learned = not isnan(value) and (paid or lanes[IS_STRANGE + k] == 0.0)
        n = entity[COUNT + k]
        step_size = 1.0 / (n + 1.0)
        decay_factor = min(1.0, MEMORY_EVENTS * step_size)
        entity[COUNT + k] = decay_factor * (n + 1.0) if learned else n
        entity[SQUARES + k] = (
            decay_factor * (entity[SQUARES + k] + value) if learned else entity[SQUARES + k]
        )
        lanes[WEIGHT + k] = step_size if learned else 0.0
