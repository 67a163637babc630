"""The kernel of an assessment. Row by row, it remembers and scores each report and applies the policy,
or learns the label."""

from math import log10
from typing import Final

import numpy as np

from detectors.entities import AdmittedEvents
from detectors.fusion import label_learning, logistic
from detectors.fusion.arrays import (
    AssessmentInput,
    AssessmentOutput,
    AssessmentScratch,
    AssessmentSettings,
    RowTimes,
)
from detectors.fusion.event_memory import (
    NEVER_ALERTED,
    ONLY_HELD_BACK,
    SAMPLED_EVENTS,
    RememberedEvents,
    find_event,
    find_labelled,
    new_slot,
)
from detectors.fusion.model_state import (
    DAY,
    HARMONIC,
    NEXT_DAY_MS,
    SAMPLE,
    LearnerState,
    active_model,
)
from detectors.models.half_space_trees import COUNTERFACTUAL_MAX
from detectors.numeric.combination import P_MIN, harmonic_mean
from detectors.numeric.decay import DAY_MS
from detectors.numeric.kernels import kernel
from detectors.scoring.policy import (
    ESCALATION,
    HELD_BACK,
    NO_ALERT,
    OPENED,
    SUPPRESSED,
    SUPPRESSED_COUNT,
    UPDATED,
    EventPositions,
    PolicyLimits,
    PolicyState,
    decide,
)
from schemas.columns import F64
from schemas.labels import UNKNOWN

EXPECTED_SD: Final = 2.0
"""Standard deviations around the mean in the expected range of an input."""


@kernel
def assess_rows(
    start: int,
    words: F64,
    remembered: RememberedEvents,
    learner: LearnerState,
    admitted: AdmittedEvents,
    positions: EventPositions,
    rows: AssessmentInput,
    times: RowTimes,
    settings: AssessmentSettings,
    limits: PolicyLimits,
    state: PolicyState,
    scratch: AssessmentScratch,
    out: AssessmentOutput,
) -> int:
    """Process rows from `start` on; returns the row before which a new day of learning begins, or
    the number of rows. Rows about one event are next to each other."""
    learns = len(learner.memory.event) > 0
    slot, event_count, deferred = -1, 0.0, False
    for i in range(start, len(rows.p)):
        is_label = rows.monitor[i] < 0
        if i == 0 or _is_new_event(positions, i):
            scratch.all_p[:] = np.nan
            slot, event_count, deferred = -1, 0.0, False
        if learns and (is_label or rows.is_report[i]) and _begins_day(i, learner, positions, times):
            return i
        if is_label:
            if learns and rows.verdict[i] != UNKNOWN:
                _learn_label(i, remembered, learner, rows, settings)
            continue
        scratch.all_p[rows.monitor[i]] = rows.p[i]
        if rows.is_report[i]:
            slot, first = _remember(i, remembered, learner, positions, rows, settings)
            # the first report of a sampled event counts it: exclude it from the events before
            sampled_before = remembered.totals[SAMPLED_EVENTS] - int(
                rows.is_sampled[i] and not first
            )
            out.warm[i] = sampled_before * SAMPLE >= settings.warm_up_events
            incident = words[admitted.row[rows.report_row[i]]]
            if admitted.fresh[rows.report_row[i]]:
                incident[:] = 0.0
            if first and rows.is_sampled[i]:
                remembered.totals[SAMPLED_EVENTS] += 1
                event_count = float(SAMPLE)
            deferred = (
                learns and settings.reports_grouped and _more_reports_follow(positions, rows, i)
            )
            if not deferred:
                _score_event(i, slot, remembered, learner, settings, out)
                activity = _decide(
                    i, slot, incident, remembered, positions, event_count, limits, state, out
                )
                event_count = 0.0
                if activity in (OPENED, UPDATED):
                    _explain(
                        i, slot, remembered, learner, settings.unreported_inverse_p, scratch, out
                    )
        if not deferred:
            out.p_of_all[i] = _p_of_all(slot, learner, scratch)
    return len(rows.p)


@kernel
def _begins_day(i: int, learner: LearnerState, positions: EventPositions, times: RowTimes) -> bool:
    """Whether a new day of learning begins before a row. The caller skips unreported p-values: otherwise
    the days would depend on whether every event is scored."""
    status = learner.sums.status
    if times.set_back[i] and positions.time_ms[i] < status[DAY] * DAY_MS:
        return True
    return bool(positions.time_ms[i] >= status[NEXT_DAY_MS])


@kernel
def _learn_label(
    i: int,
    remembered: RememberedEvents,
    learner: LearnerState,
    rows: AssessmentInput,
    settings: AssessmentSettings,
) -> None:
    slot = find_labelled(remembered, learner, rows.event[i])
    mean = harmonic_mean(remembered.p[slot], settings.unreported_inverse_p) if slot >= 0 else 1.0
    label_learning.learn_label(learner, slot, rows.verdict[i], mean)


@kernel
def _score_event(
    i: int,
    slot: int,
    remembered: RememberedEvents,
    learner: LearnerState,
    settings: AssessmentSettings,
    out: AssessmentOutput,
) -> None:
    """Write the p-value of the slot's event, from all its reports so far, to the output of row i."""
    mean = harmonic_mean(remembered.p[slot], settings.unreported_inverse_p)
    label_learning.update_log_odds(learner, slot, mean)
    out.p[i] = label_learning.event_p(learner, slot, mean)
    for k in range(remembered.p.shape[1]):
        out.by_monitor[i, k] = remembered.p[slot, k]


@kernel
def _is_new_event(positions: EventPositions, i: int) -> bool:
    """Whether a row is about another event than the row before."""
    return bool(
        positions.source[i] != positions.source[i - 1]
        or positions.offset[i] != positions.offset[i - 1]
    )


@kernel
def _more_reports_follow(positions: EventPositions, rows: AssessmentInput, i: int) -> bool:
    """Whether another report on the same event follows."""
    i += 1
    while i < len(rows.p) and not _is_new_event(positions, i):
        if rows.is_report[i]:
            return True
        i += 1
    return False


@kernel
def _remember(
    i: int,
    remembered: RememberedEvents,
    learner: LearnerState,
    positions: EventPositions,
    rows: AssessmentInput,
    settings: AssessmentSettings,
) -> tuple[int, bool]:
    """Remember a report; (the slot of its event, whether it is the first report on it)."""
    event_hash, source, offset = rows.event[i], positions.source[i], positions.offset[i]
    slot = find_event(remembered, event_hash, source, offset)
    first = slot < 0
    if first:
        slot = new_slot(remembered, learner, event_hash, source, offset)
    monitor, p = rows.monitor[i], rows.p[i]
    remembered.p[slot, monitor] = p
    label_learning.add_report(learner, slot, first, monitor, p, settings.report_p, rows.values[i])
    return slot, first


@kernel
def _decide(
    i: int,
    slot: int,
    incident: F64,
    remembered: RememberedEvents,
    positions: EventPositions,
    event_count: float,
    limits: PolicyLimits,
    state: PolicyState,
    out: AssessmentOutput,
) -> int:
    """Apply the policy to a report's event and return its activity. incident: the words of its subject."""
    score, alerted_score = -log10(out.p[i]), remembered.alerted_score[slot]
    if alerted_score >= 0.0 and score < alerted_score + ESCALATION:
        out.policy_outcome.activity[i] = NO_ALERT
        return NO_ALERT
    warm, counted_before = out.warm[i], alerted_score != NEVER_ALERTED
    activity = decide(
        incident,
        i,
        positions,
        out.p[i],
        event_count,
        warm,
        counted_before,
        limits,
        state,
        out.policy_outcome,
    )
    if activity == SUPPRESSED and alerted_score >= 0.0:  # do not count the event twice
        state.activities[activity] -= 1
        incident[SUPPRESSED_COUNT] -= 1.0
    if activity == HELD_BACK and alerted_score == NEVER_ALERTED:
        remembered.alerted_score[slot] = ONLY_HELD_BACK
    elif activity not in (NO_ALERT, HELD_BACK):
        remembered.alerted_score[slot] = score
    return activity


@kernel
def _p_of_all(slot: int, learner: LearnerState, scratch: AssessmentScratch) -> float:
    """The p-value of an event from the p-values of all monitors, reported or not."""
    mean = harmonic_mean(scratch.all_p, 0.0)
    if slot >= 0:
        return label_learning.event_p(learner, slot, mean)
    scratch.inputs[:] = np.nan
    scratch.surprised[:] = 0.0
    return label_learning.p_of_inputs(learner, scratch.inputs, scratch.surprised, mean)


@kernel
def _explain(
    i: int,
    slot: int,
    remembered: RememberedEvents,
    learner: LearnerState,
    unreported_inverse_p: float,
    scratch: AssessmentScratch,
    out: AssessmentOutput,
) -> None:
    """Write the contribution of each input to the event's p-value, and the counterfactual p-values without
    the largest contributions."""
    monitors = len(scratch.p)
    learned = active_model(learner) != HARMONIC
    scratch.contribution[:] = np.nan
    for k in range(monitors):
        scratch.p[k] = remembered.p[slot, k]
        scratch.surprised[k] = learner.memory.surprised[slot, k] if learned else 0.0
        if not np.isnan(scratch.p[k]):
            scratch.contribution[k] = 1.0 / max(scratch.p[k], P_MIN)
    if learned:
        label_learning.credit(learner, slot, scratch.contribution)
    for j in range(len(scratch.inputs)):
        scratch.inputs[j] = learner.memory.inputs[slot, j] if learned else np.nan
        mean = learner.logistic_model.mean[j] if learner.logistic_model.seen[j] > 0.0 else np.nan
        out.contribution[i, j] = scratch.contribution[j]
        out.value[i, j] = scratch.inputs[j]
        out.low[i, j] = mean - EXPECTED_SD * logistic.spread(learner.logistic_model, j)
        out.high[i, j] = mean + EXPECTED_SD * logistic.spread(learner.logistic_model, j)
    for removed in range(COUNTERFACTUAL_MAX):
        largest = -1
        for j in range(len(scratch.contribution)):
            contribution = scratch.contribution[j]
            if contribution > 0.0 and (largest < 0 or contribution > scratch.contribution[largest]):
                largest = j
        if largest < 0:
            return
        out.order[removed, i] = largest
        if largest < monitors:
            _remove_monitor(largest, learner, scratch)
        else:
            scratch.contribution[largest] = np.nan
            scratch.inputs[largest] = learner.logistic_model.mean[largest]
        harmonic = harmonic_mean(scratch.p, unreported_inverse_p)
        out.counterfactual_p[removed, i] = label_learning.p_of_inputs(
            learner, scratch.inputs, scratch.surprised, harmonic
        )


@kernel
def _remove_monitor(monitor: int, learner: LearnerState, scratch: AssessmentScratch) -> None:
    """Remove a monitor's inputs from the scratch."""
    scratch.p[monitor] = np.nan
    scratch.surprised[monitor] = 0.0
    for j in range(len(learner.input_monitor)):
        if learner.input_monitor[j] == monitor:
            scratch.inputs[j] = np.nan
            scratch.contribution[j] = np.nan
