"""Learns from each label how likely fraud is, given all monitors' reports on an event.

There are three models:

- the harmonic mean, which is also used without labels;
- a logistic regression over the monitors' scores and chosen features, learned online (`logistic`);
- boosted trees over the same inputs (`boosting`), refitted at the beginning of a day of stream time
  if there are enough new labels (`daily_refit`).

Each model computes log odds when an event is scored. They are stored until its label arrives; their
log loss then evaluates the model (A. P. Dawid, "The prequential approach", JRSS A 1984). The model
with the lowest recent log loss is active. Until a learned model has been evaluated on `EVALUATED_MIN`
frauds and as many honest events, the harmonic mean is active. A corrected label replaces the losses
of the earlier label, at their remaining weight.

Inputs. Only a monitor that was surprised (p < report_p) has inputs: its score -log10 p, at most
`SCORE_MAX`, and its finite features. Otherwise all of its inputs are absent, even where they are
known, as in the sample or in a replay, so that training and scoring use the same inputs. The memory
keeps frauds longer than honest events; therefore the trees' odds are adjusted to the share of frauds
among all recent labels (G. King, L. Zeng, "Logistic regression in rare events data", 2001, eq. 7).

p-values. The p-value of log odds v is the share of honest events with log odds at least as high:

    p = R (Σ [v' ≥ v] + 1/(1 + e^v))/(Σ 1 + 1)

The sums run over surprising events (some monitor was surprised) that are labelled honest. v' is the
highest log odds of the event over its reports, since it may alert at any of them. At a refit v' is
raised by as much as the event's log odds have grown. Log odds v' in the same bin as v count as ≥ v.
R is the share of surprising events among all events not known to be fraud. It needs no labels, since
one event in `SAMPLE` is always reported. Events that surprised no monitor rank below all others, in
the order of their harmonic mean. The weight of an event halves every `HALF_LIFE_DAYS` from its own
day. If only frauds are labelled, honest events are unknown and the harmonic mean stays active.

A new event displaces a labelled fraud only if frauds fill more than half of the set (`event_memory`);
then it displaces the oldest one. A later label replaces the earlier one for the trees and in the
sums. The regression learns the first two labels of an event as separate outcomes, and no further
ones.
"""

from math import isfinite, isnan, log10
from typing import Final

import numpy as np

from detectors.fusion import boosting, logistic
from detectors.fusion.model_state import (
    BINS,
    BOOSTED,
    CHANGED,
    DAY,
    HARMONIC,
    LABELS,
    LABELS_AT_FIT,
    LOGISTIC,
    NOT_COUNTED,
    NOT_SURPRISED,
    ODDS_MAX,
    REMEMBERED,
    SAMPLE,
    SURPRISED,
    UNMATCHED,
    LearnerState,
    active_model,
)
from detectors.numeric.combination import P_MIN
from detectors.numeric.decay import decayed
from detectors.numeric.elementary import exp, ln
from detectors.numeric.kernels import kernel
from schemas.columns import F64
from schemas.labels import FRAUD, HONEST, UNKNOWN

SCORE_MAX: Final = 20.0
HALF_LIFE_DAYS: Final = 30.0
LEARNED_MAX: Final = 2
"""Labels of one event that the regression learns: the first and one correction."""


@kernel
def input_score(p: float) -> float:
    """A p-value as an input of the models: its score, at most `SCORE_MAX`."""
    return min(-log10(max(p, P_MIN)), SCORE_MAX)


@kernel
def reset_slot(learner: LearnerState, slot: int, event_hash: np.uint64) -> None:
    """Assign the slot to a new event, without reports or labels."""
    memory = learner.memory
    if len(memory.event) == 0:
        return
    learner.sums.counts[REMEMBERED] += 1
    memory.event[slot] = event_hash
    memory.arrival[slot] = learner.sums.counts[REMEMBERED]
    memory.day[slot] = learner.sums.status[DAY]
    memory.inputs[slot] = np.nan
    memory.surprised[slot] = 0.0
    memory.log_odds[slot] = np.nan
    memory.max_log_odds[slot] = np.nan
    memory.counted_bin[slot] = NOT_COUNTED
    memory.verdict[slot] = UNKNOWN
    memory.times_learned[slot] = 0
    memory.labelled_day[slot] = 0
    memory.excess_log_odds[slot] = np.nan


@kernel
def add_report(
    learner: LearnerState,
    slot: int,
    first: bool,
    monitor: int,
    p: float,
    report_p: float,
    values: F64,
) -> None:
    """Add a monitor's report on the slot's event. first: the event's first report. values:
    float64[features], of which the monitor's own are used."""
    memory = learner.memory
    surprised = p < report_p
    if len(memory.event) == 0 or not (first or surprised):
        return
    not_fraud = memory.verdict[slot] != FRAUD
    if not_fraud and not first:
        _count_not_fraud(learner, slot, -1.0)
    if surprised:
        monitors = memory.surprised.shape[1]
        memory.surprised[slot, monitor] = 1.0
        memory.inputs[slot, monitor] = input_score(p)
        for j in range(len(values)):
            if learner.input_monitor[monitors + j] == monitor:
                memory.inputs[slot, monitors + j] = values[j] if isfinite(values[j]) else np.nan
    if not_fraud:
        _count_not_fraud(learner, slot, 1.0)


@kernel
def update_log_odds(learner: LearnerState, slot: int, harmonic: float) -> None:
    """Store every model's log odds of the slot's event. harmonic: the harmonic mean of its p-values."""
    memory = learner.memory
    if len(memory.event) == 0:
        return
    log_odds, highest = memory.log_odds[slot], memory.max_log_odds[slot]
    learner.one_input[0] = input_score(harmonic)
    log_odds[HARMONIC] = logistic.log_odds(
        learner.harmonic_model, learner.one_input, learner.no_flags
    )
    log_odds[LOGISTIC] = model_odds(learner, LOGISTIC, memory.inputs[slot], memory.surprised[slot])
    if learner.sums.status[LABELS_AT_FIT] > 0:
        log_odds[BOOSTED] = model_odds(
            learner, BOOSTED, memory.inputs[slot], memory.surprised[slot]
        )
    for model in range(3):
        if isnan(highest[model]) or log_odds[model] > highest[model]:
            highest[model] = log_odds[model]
    if memory.verdict[slot] == HONEST:
        count_honest(learner, slot, -1.0, highest)
        count_honest(learner, slot, 1.0, highest)


@kernel
def event_p(learner: LearnerState, slot: int, harmonic: float) -> float:
    """The p-value of the slot's event from its stored log odds. harmonic: the harmonic mean of its
    p-values."""
    model = active_model(learner)
    if model == HARMONIC:
        return harmonic
    return _p(
        learner,
        model,
        learner.memory.log_odds[slot, model],
        learner.memory.surprised[slot].sum() > 0.0,
        harmonic,
    )


@kernel
def p_of_inputs(learner: LearnerState, inputs: F64, surprised: F64, harmonic: float) -> float:
    """The p-value of these inputs by the active model; inputs and surprised as in `EventMemory`."""
    model = active_model(learner)
    if model == HARMONIC:
        return harmonic
    return _p(
        learner,
        model,
        model_odds(learner, model, inputs, surprised),
        surprised.sum() > 0.0,
        harmonic,
    )


@kernel
def model_odds(learner: LearnerState, model: int, inputs: F64, surprised: F64) -> float:
    """Log odds of fraud by a learned model."""
    if model == LOGISTIC:
        return logistic.log_odds(learner.logistic_model, inputs, surprised)
    return boosting.log_odds(learner.boosted_trees, inputs)


@kernel
def _p(learner: LearnerState, model: int, v: float, any_surprised: bool, harmonic: float) -> float:
    """The p-value of log odds v. any_surprised: some monitor was surprised."""
    if not any_surprised:
        surprised_share = learner.sums.surprised_share[0]
        return float(surprised_share + (1.0 - surprised_share) * harmonic)
    share = learner.sums.tail_share[model]
    return float(share[_bin(v)] + share[BINS] / (1.0 + exp(v)))


@kernel
def credit(learner: LearnerState, slot: int, out: F64) -> None:
    """Write to `out`, float64[inputs], how much each input raises the active learned model's log odds of
    the slot's event; NaN where absent."""
    inputs = learner.memory.inputs[slot]
    for j in range(len(inputs)):
        out[j] = np.nan if isnan(inputs[j]) else 0.0
    if active_model(learner) == LOGISTIC:
        logistic.credit(learner.logistic_model, inputs, learner.memory.surprised[slot], out)
    else:
        boosting.credit(learner.boosted_trees, inputs, out)


@kernel
def _bin(v: float) -> int:
    """The bin of log odds."""
    position = (min(max(v, -ODDS_MAX), ODDS_MAX) + ODDS_MAX) * (BINS / (2.0 * ODDS_MAX))
    return min(int(position), BINS - 1)


@kernel
def _loss(odds: float, fraud: bool) -> float:
    """The log loss of log odds, given the verdict."""
    v = -odds if fraud else odds
    return max(v, 0.0) + ln(1.0 + exp(-abs(v)))


@kernel
def learn_label(learner: LearnerState, slot: int, verdict: int, harmonic: float) -> None:
    """Learn a label of the slot's event; slot -1: the event is not remembered. harmonic: the harmonic
    mean of its p-values."""
    counts = learner.sums.counts
    if slot < 0:
        counts[UNMATCHED] += 1
        return
    memory = learner.memory
    earlier_verdict = memory.verdict[slot]
    if earlier_verdict == verdict:
        return
    memory.verdict[slot] = verdict
    counts[LABELS if earlier_verdict == UNKNOWN else CHANGED] += 1
    if earlier_verdict == UNKNOWN:
        _evaluate(learner, slot, verdict == FRAUD)
    else:
        _reevaluate(learner, slot, verdict == FRAUD)
    if earlier_verdict == FRAUD:
        _count_not_fraud(learner, slot, 1.0)
    elif verdict == FRAUD:
        _count_not_fraud(learner, slot, -1.0)
    if earlier_verdict == HONEST:
        count_honest(learner, slot, -1.0, memory.max_log_odds[slot])
    elif verdict == HONEST:
        count_honest(learner, slot, 1.0, memory.max_log_odds[slot])
    if memory.times_learned[slot] < LEARNED_MAX:
        memory.times_learned[slot] += 1
        logistic.learn(
            learner.logistic_model, memory.inputs[slot], memory.surprised[slot], float(verdict)
        )
        learner.one_input[0] = input_score(harmonic)
        logistic.learn(learner.harmonic_model, learner.one_input, learner.no_flags, float(verdict))


@kernel
def _evaluate(learner: LearnerState, slot: int, fraud: bool) -> None:
    """Add the models' log losses on the first label of an event."""
    memory, sums = learner.memory, learner.sums
    log_odds = memory.log_odds[slot]
    memory.labelled_day[slot] = sums.status[DAY]
    for model in range(LOGISTIC, BOOSTED + 1):
        memory.excess_log_odds[slot, model - LOGISTIC] = log_odds[model] - log_odds[HARMONIC]
        if not isnan(log_odds[model]):
            sums.excess_loss[model] += _loss(log_odds[model], fraud) - _loss(
                log_odds[HARMONIC], fraud
            )
            sums.evaluated[model] += 1.0
            sums.frauds[model] += 1.0 if fraud else 0.0


@kernel
def _reevaluate(learner: LearnerState, slot: int, fraud: bool) -> None:
    """Replace the log losses of an earlier label by those of its correction, at their remaining weight.
    The losses of log odds v under the two verdicts differ by v."""
    sums = learner.sums
    change = _remaining_weight(learner, learner.memory.labelled_day[slot])
    if not fraud:
        change = -change
    for model in range(LOGISTIC, BOOSTED + 1):
        excess = learner.memory.excess_log_odds[slot, model - LOGISTIC]
        if not isnan(excess):
            sums.excess_loss[model] -= change * excess
            sums.frauds[model] = max(sums.frauds[model] + change, 0.0)


@kernel
def _remaining_weight(learner: LearnerState, day: int) -> float:
    """The decayed weight of a count that was added on that day. An honest event is counted on its own
    day, a log loss on the day of the first label, so that a correction subtracts exactly what was
    added."""
    return decayed(1.0, float(max(learner.sums.status[DAY] - day, 0)), HALF_LIFE_DAYS)


@kernel
def _count_not_fraud(learner: LearnerState, slot: int, sign: float) -> None:
    """Add an event to `not_fraud` (sign 1), or subtract it (sign -1). An event that surprised no monitor
    is in memory because it was sampled, so it counts `SAMPLE` times."""
    any_surprised = learner.memory.surprised[slot].sum() > 0.0
    k, size = (SURPRISED, 1.0) if any_surprised else (NOT_SURPRISED, float(SAMPLE))
    weight = _remaining_weight(learner, learner.memory.day[slot])
    learner.sums.not_fraud[k] = max(learner.sums.not_fraud[k] + sign * size * weight, 0.0)


@kernel
def count_honest(learner: LearnerState, slot: int, sign: float, highest: F64) -> None:
    """Add an honest event that surprised a monitor to the bin of each model's highest log odds (sign 1),
    or subtract it from the bin where it was counted (sign -1). highest: float64[3], log odds by
    model."""
    counted_bin = learner.memory.counted_bin[slot]
    any_surprised = learner.memory.surprised[slot].sum() > 0.0
    weight = _remaining_weight(learner, learner.memory.day[slot])
    for model in range(LOGISTIC, BOOSTED + 1):
        b = int(counted_bin[model])
        if sign > 0.0 and any_surprised and not isnan(highest[model]):
            b = _bin(highest[model])
        if b != NOT_COUNTED:
            learner.sums.honest_bins[model, b] = max(
                learner.sums.honest_bins[model, b] + sign * weight, 0.0
            )
        counted_bin[model] = b if sign > 0.0 else NOT_COUNTED
