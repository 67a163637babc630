"""Learning from labels how much all monitors' reports on an event say together.

Three ways to say it stand beside each other, and each learns from every labelled report: the
harmonic mean, as it is without labels; a logistic regression over the monitors' scores and chosen
features, learned online (`logistic`); and boosted trees over the same inputs, fitted anew on the
labelled reports that are remembered (`boosting`) when a day of stream time begins and enough of them
are new. What a way would have said when the event came is kept until its label comes, and the log
loss then tells how well it did (A. P. Dawid, "The prequential approach", JRSS A 1984). Whoever had
the least speaks; until it judged `EVALUATED_MIN` frauds and as many honest ones, the harmonic mean does.
A label that replaces another is judged in its stead, by what was judged then and with what is left
of its weight.

Inputs. A monitor speaks only where it was surprised (p < limit): its score -log10 p, cut at
`SCORE_MAX`, and its features, infinite ones left out. Otherwise all of its inputs are absent, though
they may be known, as in the sample or in a replay: what is learned from must look like what will be
judged. The memory keeps frauds for longer, so that the trees' odds are moved to the share of frauds
among all labels of late (G. King, L. Zeng, "Logistic regression in rare events data", 2001, eq. 7).

p-values. What a way says, log odds v, becomes the share of honest events of which as much was said:

    p = R (Σ [v' ≥ v] + 1/(1 + e^v))/(Σ 1 + 1)

over the honest labels of reported events, v' being the most that was said of theirs while reports
came (an event may alarm at any of them), and at the last fit, if that is more: a model that learned
more says more. Equal log odds, and all others of a bin, count as no less. R is
the share of events that are reported, of all that are not known as frauds; it needs no label, since
one event in `SAMPLE` is always known. Events on which all are silent stand behind, in the order of
their harmonic mean. Each event counts as of its own day, half after `HALF_LIFE_DAYS`. Where only
frauds are ever labelled nothing is known of honest events, and the harmonic mean goes on speaking.

Memory: with the assessment's remembered events, 8 bytes for each input, 8 for each monitor, and 104
more. Of the labelled frauds an event may push out only the oldest in a set of which they hold more
than half.
A later label replaces an earlier one in what trees are fitted on and in the sums; the regression
learns an event's first two as an outcome each, and no more, whatever is said how often.
"""

from math import isfinite, isnan, log, log10
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detectors.fusion import boosting, logistic
from detectors.fusion.boosting import BoostedTrees
from detectors.fusion.logistic import LogisticModel
from detectors.numeric.combination import P_MIN
from detectors.numeric.decay import DAY_MS, decayed
from detectors.numeric.elementary import exp, ln
from detectors.numeric.kernels import kernel
from detectors.state import Arrays, add_prefix, load, select_prefix, state_arrays
from schemas.columns import F64, I64, U8, U64
from schemas.labels import FRAUD, HONEST, UNKNOWN

HARMONIC, LOGISTIC, BOOSTED = range(3)

SAMPLE: Final = 1000
"""One event in so many is reported whatever its p-value."""
SCORE_MAX: Final = 20.0
EVALUATED_MIN: Final = 50.0
"""Frauds, and honest ones, that a way must have judged before it may speak."""
FIT_MIN: Final = 50
"""Frauds, and honest ones, that trees are fitted on at least."""
REFIT_SHARE: Final = 0.05
"""Labels since the last fit, as a share of those remembered, that are worth a new one. A fit each day
would be most of what a long replay costs."""
FIT_ROWS: Final = 100_000
"""Rows of a fit at most; of 10 inputs it takes a second."""
HALF_LIFE_DAYS: Final = 30.0
LEARNED_MAX: Final = 2
"""Labels of one event that the regression learns: the first, and its correction."""
ODDS_MAX: Final = 12.0
BINS: Final = 384
"""Of log odds from -`ODDS_MAX` to `ODDS_MAX`."""

LABELS, UNMATCHED, CHANGED, REMEMBERED = range(4)
DUE_MS, DAY, FITTED_AT, ACTIVE_MODEL = range(4)
REPORTED, SILENT = range(2)
NOT_COUNTED: Final = -1


class EventMemory(NamedTuple):
    """Of each remembered event, in its slot. event: uint64[events], the hash of its id, 0 free.
    nth: int64[events], in the order in which they were first heard of; day: int64[events], its own.
    inputs: float64[events, inputs], the monitors' scores first, NaN absent; spoke: float64[events,
    monitors], 1 where the monitor was surprised. said, most: float64[events, 3], log odds by way,
    the last ones and the highest, NaN where it could not yet; counted: int16[events, 3], the bin in
    which it is counted among the honest, `NOT_COUNTED` if not. verdict: int8[events]; learned:
    uint8[events], its labels that the regression learned. judged: int64[events], the day of its
    first label; beyond: float64[events, 2], by way that learns, the log odds less the harmonic
    mean's that were judged then, NaN where it had said nothing."""

    event: U64
    arrival: I64
    day: I64
    inputs: F64
    reported: F64
    log_odds: F64
    max_log_odds: F64
    counted_bin: NDArray[np.int16]
    verdict: NDArray[np.int8]
    times_learned: U8
    judged: I64
    excess_log_odds: F64


class LearnerSums(NamedTuple):
    """honest: float64[3, BINS], by way, the honest reported events by the most that was said of
    them. heard: float64[2], events not known as frauds, `REPORTED` and `SILENT`. share:
    float64[3, BINS + 1], as of the day's beginning: the share of honest events in each bin or
    above, and last that of one event; reported: float64[1], that of all that are reported. excess,
    judged, frauds: float64[3], the log loss beyond the harmonic mean's, over so many labels, so
    many of them frauds. counts: int64[4], labels taken, of no event that is remembered, and such as
    replaced another, and events ever remembered. clock: int64[4], when the next day begins, the day,
    the labels at the last fit, 0 none yet, and who speaks."""

    honest: F64
    not_fraud: F64
    tail_share: F64
    reported: F64
    excess_loss: F64
    judged: F64
    frauds: F64
    counts: I64
    clock: I64


class Learner(NamedTuple):
    """All that is learned. owner: int64[inputs], the monitor that an input is of. one: float64[1]
    and none: float64[0], to work in."""

    memory: EventMemory
    sums: LearnerSums
    harmonic: LogisticModel
    line: LogisticModel
    trees: BoostedTrees
    owner: I64
    one: F64
    none: F64


def learner(events: int, monitors: int, owners: list[int]) -> Learner:
    """Nothing learned yet. events: slots, 0 where nothing is to be learned; owners: of the features
    chosen, the monitor of each."""
    width = monitors + len(owners)
    return Learner(
        EventMemory(
            event=np.zeros(events, np.uint64),
            arrival=np.zeros(events, np.int64),
            day=np.zeros(events, np.int64),
            inputs=np.full((events, width), np.nan),
            reported=np.zeros((events, monitors)),
            log_odds=np.full((events, 3), np.nan),
            max_log_odds=np.full((events, 3), np.nan),
            counted_bin=np.full((events, 3), NOT_COUNTED, np.int16),
            verdict=np.full(events, UNKNOWN, np.int8),
            times_learned=np.zeros(events, np.uint8),
            judged=np.zeros(events, np.int64),
            excess_log_odds=np.full((events, 2), np.nan),
        ),
        LearnerSums(
            honest=np.zeros((3, BINS)),
            not_fraud=np.zeros(2),
            tail_share=np.zeros((3, BINS + 1)),
            reported=np.ones(1),
            excess_loss=np.zeros(3),
            judged=np.zeros(3),
            frauds=np.zeros(3),
            counts=np.zeros(4, np.int64),
            clock=np.zeros(4, np.int64),
        ),
        harmonic=logistic.empty(1, 0),
        line=logistic.empty(width, monitors),
        trees=boosting.empty(),
        owner=np.array([*range(monitors), *owners], np.int64),
        one=np.zeros(1),
        none=np.zeros(0),
    )


def _parts(of: Learner) -> dict[str, NamedTuple]:
    return {
        "memory": of.memory,
        "sums": of.sums,
        "harmonic": of.harmonic,
        "line": of.line,
        "trees": of.trees,
    }


def save(of: Learner) -> Arrays:
    """The whole state as arrays by name."""
    return add_prefix({name: state_arrays(part) for name, part in _parts(of).items()})


def restore(of: Learner, state: Arrays) -> None:
    """Replace the whole state by one saved under the same configuration."""
    for name, part in _parts(of).items():
        load(part, select_prefix(name, state))


def refit(of: Learner, time_ms: int) -> None:
    """Begin the day of that time: forget by a day's measure, fit the trees, choose who speaks."""
    sums, memory = of.sums, of.memory
    day = time_ms // DAY_MS
    if sums.clock[DUE_MS] > 0:
        passed = max(day - int(sums.clock[DAY]), 0)  # negative where time was set back
        keep = 0.5 ** (passed / HALF_LIFE_DAYS)
        for faded in (sums.honest, sums.not_fraud, sums.excess_loss, sums.judged, sums.frauds):
            np.multiply(faded, keep, out=faded)
    sums.clock[DAY] = day
    sums.clock[DUE_MS] = (day + 1) * DAY_MS
    taken = int(sums.counts[LABELS] + sums.counts[CHANGED])
    honest, frauds = (np.flatnonzero(memory.verdict == verdict) for verdict in (HONEST, FRAUD))
    changed = taken - sums.clock[FITTED_AT] >= REFIT_SHARE * (len(honest) + len(frauds))
    if changed and min(len(frauds), len(honest)) >= FIT_MIN:
        _fit(of, honest, frauds)
        _recount(of, honest, np.zeros(3))
        sums.clock[FITTED_AT] = taken
    sums.clock[ACTIVE_MODEL] = _best_model(sums)
    _update_tail_share(sums)


def _fit(of: Learner, honest: I64, frauds: I64) -> None:
    """Fit the trees to labelled events, given by their slots; their odds are those of all labels."""
    frauds = _subsample(frauds, FIT_ROWS // 2)
    honest = _subsample(honest, FIT_ROWS - len(frauds))
    rows = np.sort(np.concatenate([honest, frauds]))
    outcome = (of.memory.verdict[rows] == FRAUD).astype(np.float64)
    boosting.fit(of.trees, of.memory.inputs[rows], outcome)
    known_frauds = float(of.sums.frauds[LOGISTIC])
    known_honest = float(of.sums.judged[LOGISTIC]) - known_frauds
    if min(known_frauds, known_honest) > 0.0:
        of.trees.base[0] += log(known_frauds / known_honest) - log(len(frauds) / len(honest))


def _subsample(slots: I64, most: int) -> I64:
    """So many of the slots at most; which, their events' hashes decide."""
    return slots[np.arange(min(len(slots), most)) * len(slots) // max(min(len(slots), most), 1)]


def _best_model(sums: LearnerSums) -> int:
    """The way with the least log loss a label."""
    best, least = HARMONIC, 0.0
    for model in (LOGISTIC, BOOSTED):
        if min(sums.frauds[model], sums.honest[model].sum()) >= EVALUATED_MIN:
            mean = float(sums.excess_loss[model] / sums.judged[model])
            if mean < least:
                best, least = model, mean
    return best


def _update_tail_share(sums: LearnerSums) -> None:
    """The shares of honest events in each bin or above."""
    of_all = sums.not_fraud.sum()
    sums.reported[0] = sums.not_fraud[REPORTED] / of_all if of_all > 0.0 else 1.0
    for model in (LOGISTIC, BOOSTED):
        above = np.cumsum(sums.honest[model][::-1])[::-1]
        one = sums.reported[0] / (above[0] + 1.0)
        sums.tail_share[model, :BINS] = one * above
        sums.tail_share[model, BINS] = one


@kernel
def input_score(p: float) -> float:
    """A p-value as an input."""
    return min(-log10(max(p, P_MIN)), SCORE_MAX)


def learning_status(of: Learner) -> dict[str, int]:
    """Whether a way that learns speaks, 1 or 0, and what it takes: the frauds, and the honest ones,
    that the better known of them has judged of late; `EVALUATED_MIN` of each are needed."""
    models = (LOGISTIC, BOOSTED)
    return {
        "learning_active": int(of.sums.clock[ACTIVE_MODEL] != HARMONIC),
        "learning_frauds": int(max(of.sums.frauds[model] for model in models)),
        "learning_honest": int(max(of.sums.honest[model].sum() for model in models)),
    }


@kernel
def active_model(of: Learner) -> int:
    """The way that speaks."""
    return int(of.sums.clock[ACTIVE_MODEL]) if len(of.memory.event) else HARMONIC


@kernel
def reset_slot(of: Learner, slot: int, event: np.uint64) -> None:
    """The slot is another event's now, of which nothing is said yet."""
    memory = of.memory
    if len(memory.event) == 0:
        return
    of.sums.counts[REMEMBERED] += 1
    memory.event[slot] = event
    memory.arrival[slot] = of.sums.counts[REMEMBERED]
    memory.day[slot] = of.sums.clock[DAY]
    memory.inputs[slot] = np.nan
    memory.reported[slot] = 0.0
    memory.log_odds[slot] = np.nan
    memory.max_log_odds[slot] = np.nan
    memory.counted_bin[slot] = NOT_COUNTED
    memory.verdict[slot] = UNKNOWN
    memory.times_learned[slot] = 0
    memory.judged[slot] = 0
    memory.excess_log_odds[slot] = np.nan


@kernel
def add_report(
    of: Learner, slot: int, first: bool, monitor: int, p: float, limit: float, values: F64
) -> None:
    """Take a monitor's report on the slot's event. first: nothing was said of it before. values:
    float64[features], the monitor's own known, NaN elsewhere."""
    memory = of.memory
    surprised = p < limit
    if len(memory.event) == 0 or not (first or surprised):
        return
    counts = memory.verdict[slot] != FRAUD
    if counts and not first:
        _count_not_fraud(of, slot, -1.0)
    if surprised:
        monitors = memory.reported.shape[1]
        memory.reported[slot, monitor] = 1.0
        memory.inputs[slot, monitor] = input_score(p)
        for j in range(len(values)):
            if of.owner[monitors + j] == monitor:
                memory.inputs[slot, monitors + j] = values[j] if isfinite(values[j]) else np.nan
    if counts:
        _count_not_fraud(of, slot, 1.0)


@kernel
def update_log_odds(of: Learner, slot: int, harmonic: float) -> None:
    """Keep what each way says of the slot's event. harmonic: the p-value of its reports."""
    memory = of.memory
    if len(memory.event) == 0:
        return
    log_odds, most = memory.log_odds[slot], memory.max_log_odds[slot]
    of.one[0] = input_score(harmonic)
    log_odds[HARMONIC] = logistic.log_odds(of.harmonic, of.one, of.none)
    log_odds[LOGISTIC] = _odds(of, LOGISTIC, memory.inputs[slot], memory.reported[slot])
    if of.sums.clock[FITTED_AT] > 0:
        log_odds[BOOSTED] = _odds(of, BOOSTED, memory.inputs[slot], memory.reported[slot])
    for model in range(3):
        if isnan(most[model]) or log_odds[model] > most[model]:
            most[model] = log_odds[model]
    if memory.verdict[slot] == HONEST:
        _count_honest(of, slot, -1.0, most)
        _count_honest(of, slot, 1.0, most)


@kernel
def event_p(of: Learner, slot: int, harmonic: float) -> float:
    """The p-value of the slot's event by what was said last. harmonic: its monitors' p-values'."""
    model = active_model(of)
    if model == HARMONIC:
        return harmonic
    return _p(
        of, model, of.memory.log_odds[slot, model], of.memory.reported[slot].sum() == 0.0, harmonic
    )


@kernel
def p_of_inputs(of: Learner, inputs: F64, reported: F64, harmonic: float) -> float:
    """The p-value of an event by who speaks; inputs and spoke as in `EventMemory`."""
    model = active_model(of)
    if model == HARMONIC:
        return harmonic
    return _p(of, model, _odds(of, model, inputs, reported), reported.sum() == 0.0, harmonic)


@kernel
def _odds(of: Learner, model: int, inputs: F64, reported: F64) -> float:
    """Log odds of fraud, by one of the ways that learn."""
    if model == LOGISTIC:
        return logistic.log_odds(of.line, inputs, reported)
    return boosting.log_odds(of.trees, inputs)


@kernel
def _p(of: Learner, model: int, v: float, silent: bool, harmonic: float) -> float:
    """The p-value of log odds; silent: nobody was surprised."""
    if silent:
        reported = of.sums.reported[0]
        return float(reported + (1.0 - reported) * harmonic)
    share = of.sums.tail_share[model]
    return float(share[_bin(v)] + share[BINS] / (1.0 + exp(v)))


@kernel
def credit(of: Learner, slot: int, out: F64) -> None:
    """How much each input raises what is said of the slot's event, by a way that learns. out:
    float64[inputs], NaN where absent."""
    inputs = of.memory.inputs[slot]
    for j in range(len(inputs)):
        out[j] = np.nan if isnan(inputs[j]) else 0.0
    if active_model(of) == LOGISTIC:
        logistic.credit(of.line, inputs, of.memory.reported[slot], out)
    else:
        boosting.credit(of.trees, inputs, out)


@kernel
def _bin(v: float) -> int:
    """The bin of log odds."""
    at = (min(max(v, -ODDS_MAX), ODDS_MAX) + ODDS_MAX) * (BINS / (2.0 * ODDS_MAX))
    return min(int(at), BINS - 1)


@kernel
def _loss(odds: float, fraud: bool) -> float:
    """The log loss of what was said."""
    v = -odds if fraud else odds
    return max(v, 0.0) + ln(1.0 + exp(-abs(v)))


@kernel
def learn_label(of: Learner, slot: int, verdict: int, harmonic: float) -> None:
    """Learn a label of the slot's event; slot -1: none such is remembered. harmonic: the p-value of
    its reports."""
    counts = of.sums.counts
    if slot < 0:
        counts[UNMATCHED] += 1
        return
    memory = of.memory
    before = memory.verdict[slot]
    if before == verdict:
        return
    memory.verdict[slot] = verdict
    counts[LABELS if before == UNKNOWN else CHANGED] += 1
    if before == UNKNOWN:
        _evaluate(of, slot, verdict == FRAUD)
    else:
        _reevaluate(of, slot, verdict == FRAUD)
    if before == FRAUD:
        _count_not_fraud(of, slot, 1.0)
    elif verdict == FRAUD:
        _count_not_fraud(of, slot, -1.0)
    if before == HONEST:
        _count_honest(of, slot, -1.0, memory.max_log_odds[slot])
    elif verdict == HONEST:
        _count_honest(of, slot, 1.0, memory.max_log_odds[slot])
    if memory.times_learned[slot] < LEARNED_MAX:
        memory.times_learned[slot] += 1
        logistic.learn(of.line, memory.inputs[slot], memory.reported[slot], float(verdict))
        of.one[0] = input_score(harmonic)
        logistic.learn(of.harmonic, of.one, of.none, float(verdict))


@kernel
def _evaluate(of: Learner, slot: int, fraud: bool) -> None:
    """How well each way would have said it."""
    memory, sums = of.memory, of.sums
    log_odds = memory.log_odds[slot]
    memory.judged[slot] = sums.clock[DAY]
    for model in range(LOGISTIC, BOOSTED + 1):
        memory.excess_log_odds[slot, model - LOGISTIC] = log_odds[model] - log_odds[HARMONIC]
        if not isnan(log_odds[model]):
            sums.excess_loss[model] += _loss(log_odds[model], fraud) - _loss(
                log_odds[HARMONIC], fraud
            )
            sums.judged[model] += 1.0
            sums.frauds[model] += 1.0 if fraud else 0.0


@kernel
def _reevaluate(of: Learner, slot: int, fraud: bool) -> None:
    """Judge what was judged before by the other verdict, at what is left of its weight: the losses
    of log odds v under the two verdicts differ by v."""
    sums = of.sums
    more = _remaining_weight(of, of.memory.judged[slot])
    if not fraud:
        more = -more
    for model in range(LOGISTIC, BOOSTED + 1):
        beyond = of.memory.excess_log_odds[slot, model - LOGISTIC]
        if not isnan(beyond):
            sums.excess_loss[model] -= more * beyond
            sums.frauds[model] = max(sums.frauds[model] + more, 0.0)


@kernel
def _remaining_weight(of: Learner, day: int) -> float:
    """What one that was counted as of that day still counts. An event is as of its own day, however
    late a label comes, and a judgement as of its first: so what is taken back is what was given."""
    return decayed(1.0, float(max(of.sums.clock[DAY] - day, 0)), HALF_LIFE_DAYS)


@kernel
def _count_not_fraud(of: Learner, slot: int, more: float) -> None:
    """Count an event that is not known as a fraud, or take it back. Where all were silent it is of
    the sample."""
    silent = of.memory.reported[slot].sum() == 0.0
    k, size = (SILENT, float(SAMPLE)) if silent else (REPORTED, 1.0)
    left = _remaining_weight(of, of.memory.day[slot])
    of.sums.not_fraud[k] = max(of.sums.not_fraud[k] + more * size * left, 0.0)


@kernel
def _recount(of: Learner, honest: I64, today: F64) -> None:
    """Count honest events, given by their slots, by what is said of them today, where that is more
    than was said when they came. What was said before all reports were there moves alike.
    today: float64[3], to work in."""
    memory = of.memory
    for k in range(len(honest)):
        slot = honest[k]
        log_odds, most = memory.log_odds[slot], memory.max_log_odds[slot]
        for model in range(LOGISTIC, BOOSTED + 1):
            today[model] = most[model]
            if not isnan(most[model]):
                now = _odds(of, model, memory.inputs[slot], memory.reported[slot])
                today[model] += max(now - log_odds[model], 0.0)
        _count_honest(of, slot, -1.0, most)
        _count_honest(of, slot, 1.0, today)


@kernel
def _count_honest(of: Learner, slot: int, more: float, most: F64) -> None:
    """Count a reported honest event by the most that each way said of it, or take it back. most:
    float64[3], log odds by way, to count it by."""
    counted_bin = of.memory.counted_bin[slot]
    silent = of.memory.reported[slot].sum() == 0.0
    left = _remaining_weight(of, of.memory.day[slot])
    for model in range(LOGISTIC, BOOSTED + 1):
        b = int(counted_bin[model])
        if more > 0.0 and not silent and not isnan(most[model]):
            b = _bin(most[model])
        if b != NOT_COUNTED:
            of.sums.honest[model, b] = max(of.sums.honest[model, b] + more * left, 0.0)
        counted_bin[model] = b if more > 0.0 else NOT_COUNTED
