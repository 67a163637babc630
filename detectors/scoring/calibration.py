"""Calibration: raw surprise in, calibrated p-value out, for every detector and for their combination.

For each detector a decayed histogram of surprise v = -ln(raw p) is kept over all entities (the
parent) and for each maturity of an entity (the cells, separated by `MATURITIES` earlier events). The
p-value is S(v), the share of surprises at least as large:

    cell:   S(v) = (N_cell S_cell(v) + BORROW · S_parent(v)) / (N_cell + BORROW)
    parent: S(v) = (N S_seen(v) + BORROW_PRIOR · exp(-v/2)) / (N + BORROW_PRIOR)

A cell with few events borrows from its parent. A parent with few events uses the raw p's square
root, since the smallest p-values of a model with little history are not reliable. Above the `TAIL_EVENTS` largest
surprises the tail is a generalised Pareto in v, fitted by probability-weighted moments (J. R. M.
Hosking, J. R. Wallis, Technometrics 1987): of shape 0, a power law in p, where raw p-values are
calibrated, and of up to `SHAPE_MAX` where values have a heavier tail than their model. Within a
bin S is linear; for discrete detectors the bin's lower edge counts, so that p is never too small
for a value that many events share. The evidence ln(1 + τ/p) of a p-value (`combination`) has a
table like S.

An entity that was strange recently is more likely to be strange again, for the same cause. To an
event's evidence e is added SUSPICION_WEIGHT · ln(1 + s) · e/(e + 1), s the entity's earlier
evidence above `SUSPICION_EDGE`, decayed over a week; an event without evidence of its own gains
next to nothing. Measured on labelled payments, this finds the later and smaller frauds of a stolen
card. The sum is calibrated like a detector's surprise, so the combined p-value is calibrated too.

The histogram describes honest traffic. Learning an event of p < `TAIL_P` costs its entity
(TAIL_P/p)^γ tokens (p counts as TAIL_P/`RARITY_MAX` at least). An entity gets `TOKENS_PER_HOUR`,
`TOKENS_PER_EVENT`, and at first the price of one of the rarest events; an event that it cannot pay
for is scored and not learned. γ falls from 1 to 1/2, slowly at first, until `SETTLED_EVENTS` are
learned. With few learned events, one attacker could otherwise make its own extremes unsurprising.
With many it cannot, unless it sends a thirtieth of all traffic; and γ = 1 would then refuse honest
bursts, which hold half of the tail. (Many new entities can add one extreme each.) For the same
reason the shape of the tail is trusted gradually.

The tables are recomputed when a number of learned events in the state is reached. The histograms
remember about `MEMORY` events; before there are that many, the latter half of all, since models without
history scored the first events. Cost: about
0.25 µs an event of 12 features and trees; more while tables are refreshed often.
"""

from math import isnan
from typing import Final, NamedTuple

import numpy as np

from detectors.entities import AdmittedEvents
from detectors.models.half_space_trees import COUNTERFACTUAL_MAX
from detectors.numeric.combination import P_MIN, evidence
from detectors.numeric.decay import LN2
from detectors.numeric.elementary import exp, ln
from detectors.numeric.kernels import kernel
from detectors.numeric.prefetch import prefetch_words
from detectors.numeric.protection import (
    MODEL_WRONG_SHARE,
    TOKENS_PER_HOUR,
    earn_tokens,
    update_share,
)
from detectors.scoring.calibration_tables import (
    BINS,
    CELLS,
    LEARNED,
    MATURITIES,
    CalibrationTables,
    bin_of,
    empty_tables,
    interpolate,
    learn,
    settled_share,
)
from detectors.state import Arrays, load, state_arrays
from schemas.columns import F64, I64, Bools

TAIL_P: Final = 0.01
RARITY_MAX: Final = 100.0
TOKENS_PER_EVENT: Final = 0.03
"""More than an honest entity spends on average once γ is 1/2: TAIL_P (2 - 1/√RARITY_MAX) =
0.019."""
TOKENS_MAX: Final = 200.0
SUSPICION_HALF_LIFE_MS: Final = 7.0 * 86_400_000.0
SUSPICION_EDGE: Final = 2.0
SUSPICION_MAX: Final = 20.0
SUSPICION_WEIGHT: Final = 2.0

CALIBRATION_WORDS: Final = 4
"""Words in an entity's row: tokens and their time, suspicion and its time."""
TOKENS, TOKENS_MS, SUSPICION, SUSPICION_MS = range(4)


class CalibrationInput(NamedTuple):
    """surprise: float64[detectors, n], raw surprises, NaN where absent. trees_index: the row of the
    trees, -1 where there are none. order, counterfactual_surprise: see
    `half_space_trees.TreesOutput`."""

    surprise: F64
    trees_index: int
    order: I64
    counterfactual_surprise: F64


class CalibrationOutput(NamedTuple):
    """p: float64[detectors, n], NaN where absent. combined: float64[n], NaN where all are absent.
    counterfactual_p: float64[3, n], the combined p if the first one, two, three features of `order`
    had their expected values, NaN where not computed. order: int64[3, n], the trees' order of features, or else that
    of the smallest p-values, -1 none. learned: int64[n], events learned before this one."""

    p: F64
    combined: F64
    counterfactual_p: F64
    order: I64
    learned: I64


class CalibrationScratch(NamedTuple):
    """Scratch of the kernel, for one event. p, evidence: float64[detectors], p NaN where absent.
    bin: int64[detectors + 1], the bins of the surprises, -1 where absent, the combination's last.
    table: float64[BINS]."""

    p: F64
    evidence: F64
    bin: I64
    table: F64


class Calibration:
    """The histograms and tables of a monitor's detectors and, last, of their combination."""

    def __init__(self, discrete: list[bool]) -> None:
        detectors = len(discrete)
        self.discrete = np.array(discrete)
        self.tables = empty_tables(detectors + 1)
        self.scratch = CalibrationScratch(
            np.zeros(detectors),
            np.zeros(detectors),
            np.zeros(detectors + 1, np.int64),
            np.zeros(BINS),
        )

    def process(
        self,
        words: F64,
        first_word: int,
        admitted: AdmittedEvents,
        calibration_input: CalibrationInput,
    ) -> CalibrationOutput:
        """Calibrate, then learn, each event in order. The entities' own words start at `first_word`."""
        detectors, n = calibration_input.surprise.shape
        out = CalibrationOutput(
            p=np.full((n, detectors), np.nan).T,
            combined=np.full(n, np.nan),
            counterfactual_p=np.full((COUNTERFACTUAL_MAX, n), np.nan),
            order=np.full((COUNTERFACTUAL_MAX, n), -1, np.int64),
            learned=np.zeros(n, np.int64),
        )
        _process(
            words,
            first_word,
            admitted,
            calibration_input,
            self.discrete,
            self.tables,
            self.scratch,
            out,
        )
        return out

    def save(self) -> Arrays:
        """Histograms, tables and marks."""
        return state_arrays(self.tables)

    def load(self, state: Arrays) -> None:
        """Replace them by saved ones of the same detectors."""
        load(self.tables, state)


@kernel
def _cost(p: float, learned: int) -> float:
    """Tokens that learning an event of this p costs. learned: the events learned so far."""
    if p >= TAIL_P:
        return 0.0
    return float(min(TAIL_P / p, RARITY_MAX) ** (1.0 - 0.5 * settled_share(learned)))


@kernel
def _may_learn(
    words: F64, first_word: int, row: int, time_ms: float, p: float, tables: CalibrationTables
) -> bool:
    """Whether the entity has the tokens that learning the event costs; if so they are spent."""
    elapsed_ms = time_ms - words[row, first_word + TOKENS_MS]
    tokens = earn_tokens(
        words[row, first_word + TOKENS], elapsed_ms, TOKENS_PER_EVENT, TOKENS_PER_HOUR, TOKENS_MAX
    )
    tables.rare_share[0] = update_share(tables.rare_share[0], p < TAIL_P)
    cost = _cost(p, tables.marks[LEARNED]) if tables.rare_share[0] < MODEL_WRONG_SHARE else 0.0
    pays = bool(tokens >= cost)
    words[row, first_word + TOKENS] = tokens - cost if pays else tokens
    words[row, first_word + TOKENS_MS] = time_ms
    return pays


@kernel
def _with_suspicion(total: float, suspicion: float) -> float:
    """An event's evidence, increased by its entity's suspicion."""
    if suspicion == 0.0:
        return total
    return total + SUSPICION_WEIGHT * ln(1.0 + suspicion) * total / (total + 1.0)


@kernel
def _update_suspicion(
    words: F64, first_word: int, row: int, time_ms: float, total: float, learn: bool
) -> float:
    """Return the entity's suspicion before this event, and add the event's evidence to it."""
    suspicion = words[row, first_word + SUSPICION]
    if suspicion > 0.0:
        elapsed_ms = time_ms - words[row, first_word + SUSPICION_MS]
        suspicion *= exp(-LN2 * elapsed_ms / SUSPICION_HALF_LIFE_MS)
    if learn:
        increase = max(total - SUSPICION_EDGE, 0.0)
        words[row, first_word + SUSPICION] = min(suspicion + increase, SUSPICION_MAX)
        words[row, first_word + SUSPICION_MS] = time_ms
    return float(suspicion)


@kernel
def _score_counterfactuals(
    i: int,
    cell: int,
    scratch: CalibrationScratch,
    suspicion: float,
    calibration_input: CalibrationInput,
    tables: CalibrationTables,
    out: CalibrationOutput,
) -> None:
    """Write the combined p if the one, two, three most surprising features were as expected (p = 1)."""
    detector_p = scratch.p
    detectors = len(detector_p)
    trees_index = calibration_input.trees_index
    for k in range(COUNTERFACTUAL_MAX):
        j = calibration_input.order[k, i]
        if calibration_input.order[0, i] < 0:  # no order from the trees: smallest p first
            for d in range(detectors):
                if (
                    d != trees_index
                    and detector_p[d] < 1.0
                    and (j < 0 or detector_p[d] < detector_p[j])
                ):
                    j = d
        if j < 0:
            return
        out.order[k, i] = j
        if not isnan(detector_p[j]):
            detector_p[j] = 1.0
            scratch.evidence[j] = evidence(1.0)
        if trees_index >= 0 and not isnan(calibration_input.counterfactual_surprise[k, i]):
            b, position = bin_of(calibration_input.counterfactual_surprise[k, i])
            detector_p[trees_index] = interpolate(tables.tail_share, trees_index, cell, b, position)
            scratch.evidence[trees_index] = interpolate(
                tables.edge_evidence, trees_index, cell, b, position
            )
        total = 0.0
        for d in range(detectors):
            total += 0.0 if isnan(detector_p[d]) else scratch.evidence[d]
        b, position = bin_of(_with_suspicion(total, suspicion))
        out.counterfactual_p[k, i] = max(
            interpolate(tables.tail_share, detectors, cell, b, position), P_MIN
        )


@kernel
def _process(
    words: F64,
    first_word: int,
    admitted: AdmittedEvents,
    calibration_input: CalibrationInput,
    discrete: Bools,
    tables: CalibrationTables,
    scratch: CalibrationScratch,
    out: CalibrationOutput,
) -> None:
    detectors = calibration_input.surprise.shape[0]
    for i in range(len(admitted.row)):
        if i + 1 < len(admitted.row):
            prefetch_words(words, admitted.row[i + 1], first_word, CALIBRATION_WORDS)
        row = admitted.row[i]
        if admitted.fresh[i]:
            words[row, first_word + TOKENS] = _cost(P_MIN, tables.marks[LEARNED])
            words[row, first_word + TOKENS_MS] = admitted.time_ms[i]
            words[row, first_word + SUSPICION] = 0.0
            words[row, first_word + SUSPICION_MS] = admitted.time_ms[i]
        out.learned[i] = tables.marks[LEARNED]
        cell = 0
        while cell < CELLS - 1 and admitted.earlier_events[i] >= MATURITIES[cell]:
            cell += 1
        total = 0.0
        all_absent = True
        for d in range(detectors):
            v = calibration_input.surprise[d, i]
            scratch.p[d] = np.nan
            scratch.bin[d] = -1
            if not isnan(v):
                b, position = bin_of(v)
                position = 0.0 if discrete[d] else position
                scratch.bin[d] = b
                scratch.p[d] = max(interpolate(tables.tail_share, d, cell, b, position), P_MIN)
                scratch.evidence[d] = interpolate(tables.edge_evidence, d, cell, b, position)
                total += scratch.evidence[d]
                all_absent = False
            out.p[d, i] = scratch.p[d]
        if all_absent:
            continue
        suspicion = _update_suspicion(
            words, first_word, row, admitted.time_ms[i], total, admitted.learn[i]
        )
        b, position = bin_of(_with_suspicion(total, suspicion))
        scratch.bin[detectors] = b
        p = max(interpolate(tables.tail_share, detectors, cell, b, position), P_MIN)
        out.combined[i] = p
        if p < TAIL_P:
            _score_counterfactuals(i, cell, scratch, suspicion, calibration_input, tables, out)
        if admitted.learn[i] and _may_learn(words, first_word, row, admitted.time_ms[i], p, tables):
            learn(tables, cell, scratch.bin, scratch.table)
