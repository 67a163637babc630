"""Assessment: what all reports on one event say together about its subject, and when that alarms.

Without labels the p-values p of an event's reports are combined by their harmonic mean (D. J.
Wilson, "The harmonic mean p-value for combining dependent tests", PNAS 2019, eq. 1), which holds
under any dependence; a monitor that did not report is censored, known only to lie above the limit:

    p = K/(Σ 1/p_k + (K - r) C),   C = E[1/p | p > L] = ln(1/L)/(1 - L),   L = the limit

with K monitors, of which r reported. With labels `detectors.fusion.learning` says it once it says it
better. Each report revises its event's p at once, but where what is learned is asked and all reports
on an event stand together: then the last of them decides, since of some only it may say anything.
An event alarms once, and again when its score has grown by `policy.ESCALATION`. It is judged warm by
the events before it, and counted once as held back and once as counted into an incident, however
many reports say so.

The policy is the monitors' (`detectors.scoring.policy`), on subjects instead of entities. It needs the rate
of all events, of which only few are reported: every event that `is_sampled` picks is reported by every
monitor that judges it, and counts `SAMPLE` times when it is first seen.

Where every event is to be scored, as in a replay, what is no report may come as well: it is scored
beside the reports on its event, and neither remembered nor learned from.

Memory: the last reported events, in sets of `SLOTS_PER_SET` of which the oldest gives way: 24 bytes an event
and 8 for each monitor. A report on an event that gave way starts it anew.
"""

from math import log, log10
from typing import Final, NamedTuple

import numpy as np

from detectors.clock import AHEAD_MAX_MS, BoundedTimes, Clock
from detectors.entities import AdmittedEvents, EntityTable
from detectors.fusion import learning, logistic
from detectors.fusion.learning import HARMONIC, SAMPLE, Learner
from detectors.models.half_space_trees import COUNTERFACTUAL_MAX
from detectors.numeric.combination import P_MIN, harmonic_mean
from detectors.numeric.decay import DAY_MS
from detectors.numeric.hashing import HashKey, hash_text
from detectors.numeric.kernels import kernel
from detectors.scoring.policy import (
    ESCALATION,
    INCIDENT_WORDS,
    OPENED,
    OVER_BUDGET,
    QUIET,
    SUPPRESSED,
    SUPPRESSED_COUNT,
    UPDATED,
    EventPositions,
    Policy,
    PolicyLimits,
    PolicyOutcome,
    PolicyState,
    decide,
    no_outcome,
    policy_limits,
)
from detectors.spec import PolicySpec
from detectors.state import Arrays, add_prefix, clear, load, select_prefix, state_arrays
from schemas.columns import F64, I64, U64, Bools, EventBatch
from schemas.events import LABEL_TYPE
from schemas.labels import FRAUD, UNKNOWN, verdict_codes

REPORT_P: Final = 1e-2
"""An event with a smaller p-value is reported, unless the configuration names another limit."""
SLOTS_PER_SET: Final = 8
USUAL_SD: Final = 2.0
"""Standard deviations about the mean that are called usual."""

NO_LATENESS_MS: Final = 1e18
NEVER_ALERTED, ONLY_HELD_BACK = -1.0, -2.0
"""In place of the score at which an event alarmed, where it has not: never, or over budget only."""
DISTINCT_EVENTS, SAMPLED_EVENTS = range(2)


def is_sampled(events: EventBatch, key: HashKey) -> Bools:
    """bool[n]: the events that are always reported, by the keyed hash of their ids."""
    chosen: Bools = hash_text(events.event_id, key)[:, 1] % np.uint64(SAMPLE) == 0
    return chosen


def censored_inverse_p(limit: float) -> float:
    """What a silent monitor adds to the sum of 1/p: its expectation above the limit."""
    return log(1.0 / limit) / (1.0 - limit)


class RememberedEvents(NamedTuple):
    """The last reported events, in sets of `SLOTS_PER_SET`, the set by the hash of the event's id. place:
    int64[events, 2], source and offset, the source -1 where free. p: float64[events, monitors], NaN
    where not reported. peak: float64, the score at which the event last alarmed, `NEVER_ALERTED` or
    `ONLY_HELD_BACK` where it has not. next_slot: int64[sets], the way that gives way next. totals:
    int64[2], events first seen, and of those sampled."""

    position: I64
    p: F64
    alerted_score: F64
    next_slot: I64
    totals: I64


class AssessmentInput(NamedTuple):
    """n rows of a batch, reports, labels, and what is no report. event: uint64[n], the hash of the
    id of the event that it speaks of. monitor: int64[n], -1 for a label; verdict: int64[n] of a
    label. p: float64[n]; values: float64[n, features], the monitor's features that are learned
    from. due: bool[n], whether it is a report; chosen: bool[n], whether of the sample. at: int64[n],
    its place among the reports."""

    event: U64
    monitor: I64
    verdict: I64
    p: F64
    values: F64
    is_report: Bools
    is_sampled: Bools
    report_row: I64


class AssessmentOutput(NamedTuple):
    """What became of each row. keys: uint64[n, 2], its subject's. p: float64[n], of its event, all
    reports so far. by_monitor: float64[n, monitors], these reports' own. warm: bool[n], enough
    events were seen before. due: bool[n], whether it is a report at all. written: float64[n], of its
    event, all that was said of it here, reported or not; NaN for a label.

    Of the inputs (`learning.Memory`), where it alarmed: weight: float64[n, inputs], how much each has
    to do with p, NaN where absent; value: float64[n, inputs]; low, high: float64[n, inputs], what is
    usual among labelled reports, NaN where unknown. order: int64[3, n], of the inputs by their
    weight; without: float64[3, n], p with the first one, two, three of these as usual, a monitor
    silent; NaN where there are fewer."""

    keys: U64
    p: F64
    by_monitor: F64
    policy_outcome: PolicyOutcome
    warm: Bools
    is_report: Bools
    p_of_all: F64
    weight: F64
    value: F64
    low: F64
    high: F64
    order: I64
    without: F64


class RowTimes(NamedTuple):
    """Times of n rows. bounded_ms: float64[n], bounded times; unchanged times of rows that are only
    scored. stream_ms, set_back: as in `clock.BoundedTimes`."""

    bounded_ms: F64
    stream_ms: F64
    set_back: Bools


class AssessmentScratch(NamedTuple):
    """To work in. p: float64[monitors], the reports but some; spoke, inputs: likewise as in
    `learning.Memory`; weight: float64[inputs], of those left. all: float64[monitors], all that was
    said of the event of late."""

    p: F64
    reported: F64
    inputs: F64
    weight: F64
    all_p: F64


class AssessmentSettings(NamedTuple):
    """What steers an assessment. report_p: below it a monitor reports; silent: what one that does
    not adds to the sum of 1/p; whole: all reports on an event stand together."""

    report_p: float
    silent: float
    warm_up_events: int
    reports_grouped: bool


class Assessment:
    """The subjects' incidents and the events of late, of one shard. owners: of each feature that is
    learned from, its monitor's index; None where nothing is learned. whole: all reports on an event
    come in one batch, next to each other. sources: partitions that events come from. ahead_max_ms:
    `limits.time_ahead_max`."""

    def __init__(
        self,
        policy: PolicySpec,
        key: HashKey,
        monitors: int,
        capacity: int,
        events_max: int,
        shards: int,
        limit: float = REPORT_P,
        owners: list[int] | None = None,
        *,
        shard: int = 0,
        reports_grouped: bool = False,
        sources: int = 1,
        ahead_max_ms: float = AHEAD_MAX_MS,
    ) -> None:
        self.key = key
        self.clock = Clock(sources, ahead_max_ms)
        self.settings = AssessmentSettings(
            limit, censored_inverse_p(limit), policy.warm_up_events, reports_grouped
        )
        self.subjects = EntityTable(capacity)
        self.words: F64 = np.zeros((capacity, INCIDENT_WORDS))
        self.policy = Policy(policy_limits(policy, shards, shard))
        sets = max(1, events_max // SLOTS_PER_SET)
        self.remembered = RememberedEvents(
            position=np.full((sets * SLOTS_PER_SET, 2), -1, np.int64),
            p=np.full((sets * SLOTS_PER_SET, monitors), np.nan),
            alerted_score=np.full(sets * SLOTS_PER_SET, NEVER_ALERTED),
            next_slot=np.zeros(sets, np.int64),
            totals=np.zeros(2, np.int64),
        )
        self.learns = owners is not None
        self.learner = learning.learner(
            sets * SLOTS_PER_SET if self.learns else 0, monitors, owners or []
        )
        width = len(self.learner.owner)
        self.scratch = AssessmentScratch(
            *(np.zeros(size) for size in (monitors, monitors, width, width, monitors))
        )

    def process(
        self, batch: EventBatch, subject: str, monitor: I64, p_value: F64, values: F64
    ) -> AssessmentOutput:
        """Take n rows in order: events with their subject, or labels. monitor: int64[n], who
        speaks, -1 for a label; p_value: float64[n]; values: float64[n, features]."""
        n = len(batch)
        incoming = self._heard(batch, monitor, p_value, values)
        keys = hash_text(batch.text[subject], self.key)
        due = incoming.is_report
        reported, times = self._timed(batch, keys, due)
        admitted = self.subjects.admit(keys[due], reported, NO_LATENESS_MS)
        positions = EventPositions(times.bounded_ms, times.stream_ms, batch.source, batch.offset)
        monitors, inputs = self.remembered.p.shape[1], len(self.learner.owner)
        out = AssessmentOutput(
            keys=keys,
            p=np.ones(n),
            by_monitor=np.full((n, monitors), np.nan),
            policy_outcome=no_outcome(n),
            warm=np.zeros(n, np.bool_),
            is_report=due,
            p_of_all=np.full(n, np.nan),
            weight=np.empty((n, inputs)),  # written, and read, where it alarmed
            value=np.empty((n, inputs)),
            low=np.empty((n, inputs)),
            high=np.empty((n, inputs)),
            order=np.zeros((COUNTERFACTUAL_MAX, n), np.int64),
            without=np.full((COUNTERFACTUAL_MAX, n), np.nan),
        )
        start = 0
        while start < n:
            start = _assess(
                start,
                self.words,
                self.remembered,
                self.learner,
                admitted,
                positions,
                incoming,
                times,
                self.settings,
                self.policy.limits,
                self.policy.stream,
                self.scratch,
                out,
            )
            if start < n:
                learning.refit(self.learner, int(times.bounded_ms[start]))
        return out

    def _timed(self, batch: EventBatch, keys: U64, due: Bools) -> tuple[BoundedTimes, RowTimes]:
        """Bounded times of the reports, and of every row. Rows that are only scored move no time:
        else an assessment would depend on whether everything is scored."""
        incoming = due | (batch.type_code == LABEL_TYPE)
        rows = np.flatnonzero(incoming)
        before_ms = self.clock.now_ms
        timed = self.clock.take(
            batch.time_ms[rows],
            None if batch.append_ms is None else batch.append_ms[rows],
            batch.source[rows],
            np.ascontiguousarray(keys[rows, 0]),
            due[rows],
        )
        times = RowTimes(
            bounded_ms=batch.time_ms.astype(np.float64),
            stream_ms=np.concatenate([[before_ms], timed.stream_ms])[np.cumsum(incoming)],
            set_back=np.zeros(len(batch), np.bool_),
        )
        times.bounded_ms[rows] = timed.time_ms
        times.set_back[rows] = timed.set_back
        of_reports = due[rows]
        return BoundedTimes._make(column[of_reports] for column in timed), times

    def _heard(self, batch: EventBatch, monitor: I64, p_value: F64, values: F64) -> AssessmentInput:
        label = batch.type_code == LABEL_TYPE
        event = hash_text(batch.event_id, self.key)
        chosen = event[:, 1] % np.uint64(SAMPLE) == 0
        if label.any():
            event[label] = hash_text(batch.text["labelled_event_id"], self.key)[label]
        due = ~label & ((p_value < self.settings.report_p) | chosen)
        at = np.cumsum(due) - 1
        of = np.ascontiguousarray(event[:, 0])
        return AssessmentInput(of, monitor, verdict_codes(batch), p_value, values, due, chosen, at)

    def counts(self) -> dict[str, int]:
        """What became of the labels, where they are learned."""
        if not self.learns:
            return {}
        counts = self.learner.sums.counts
        names = {
            "labels": learning.LABELS,
            "labels_changed": learning.CHANGED,
            "labels_unmatched": learning.UNMATCHED,
        }
        return {
            **{name: int(counts[k]) for name, k in names.items()},
            **learning.learning_status(self.learner),
        }

    def save(self) -> Arrays:
        """The whole state as arrays by name."""
        rows = self.subjects.rows_used
        parts = {
            "clock": self.clock.save(),
            "subjects": self.subjects.save(),
            "policy": self.policy.save(),
            "remembered": state_arrays(self.remembered),
        }
        parts |= {"learner": learning.save(self.learner)} if self.learns else {}
        return {"words": self.words[:rows], **add_prefix(parts)}

    def load(self, state: Arrays) -> None:
        """Replace the whole state by one saved under the same configuration."""
        self.words[: len(state["words"])] = state["words"]
        clear(self.words[len(state["words"]) :])
        self.clock.load(select_prefix("clock", state))
        self.subjects.load(select_prefix("subjects", state))
        self.policy.load(select_prefix("policy", state))
        load(self.remembered, select_prefix("remembered", state))
        if self.learns:
            learning.restore(self.learner, select_prefix("learner", state))


@kernel
def _find_event(remembered: RememberedEvents, event: np.uint64, source: int, offset: int) -> int:
    """Where the event is remembered, -1 where it is not."""
    first = np.int64(event % np.uint64(len(remembered.next_slot))) * SLOTS_PER_SET
    for slot in range(first, first + SLOTS_PER_SET):
        if remembered.position[slot, 0] == source and remembered.position[slot, 1] == offset:
            return int(slot)
    return -1


@kernel
def _find_labelled(remembered: RememberedEvents, of: Learner, event: np.uint64) -> int:
    """Where the event that a label names is remembered, -1 where it is not; of several with its id
    the first one seen."""
    first = np.int64(event % np.uint64(len(remembered.next_slot))) * SLOTS_PER_SET
    found = -1
    for slot in range(first, first + SLOTS_PER_SET):
        named = event != 0 and of.memory.event[slot] == event and remembered.position[slot, 0] >= 0
        if named and (found < 0 or of.memory.arrival[slot] < of.memory.arrival[found]):
            found = int(slot)
    return found


@kernel
def _new_slot(
    remembered: RememberedEvents, of: Learner, event: np.uint64, source: int, offset: int
) -> int:
    """A place for an event that is not remembered: a free one of its set while there is one (they
    are taken in order); else the oldest's, but a fraud gives way only where frauds hold more than
    half of it."""
    at = np.int64(event % np.uint64(len(remembered.next_slot)))
    way = remembered.next_slot[at]
    if len(of.memory.event) and remembered.position[at * SLOTS_PER_SET + way, 0] >= 0:
        frauds = 0
        for k in range(at * SLOTS_PER_SET, (at + 1) * SLOTS_PER_SET):
            frauds += 1 if of.memory.verdict[k] == FRAUD else 0
        wanted = frauds > SLOTS_PER_SET // 2
        while frauds > 0 and (of.memory.verdict[at * SLOTS_PER_SET + way] == FRAUD) != wanted:
            way = (way + 1) % SLOTS_PER_SET
    slot = at * SLOTS_PER_SET + way
    remembered.next_slot[at] = (way + 1) % SLOTS_PER_SET
    remembered.position[slot, 0] = source
    remembered.position[slot, 1] = offset
    remembered.p[slot] = np.nan
    remembered.alerted_score[slot] = NEVER_ALERTED
    remembered.totals[DISTINCT_EVENTS] += 1
    learning.reset_slot(of, slot, event)
    return int(slot)


@kernel
def _assess(
    start: int,
    words: F64,
    remembered: RememberedEvents,
    of: Learner,
    subjects: AdmittedEvents,
    positions: EventPositions,
    incoming: AssessmentInput,
    times: RowTimes,
    settings: AssessmentSettings,
    limits: PolicyLimits,
    stream: PolicyState,
    scratch: AssessmentScratch,
    out: AssessmentOutput,
) -> int:
    """Take rows from `start` on; returns the row before which a new day of learning begins, or
    their number. What is said of one event stands in rows next to each other."""
    learns = len(of.memory.event) > 0
    slot, weight, deferred = -1, 0.0, False
    for i in range(start, len(incoming.p)):
        label = incoming.monitor[i] < 0
        if i == 0 or _is_new_event(positions, i):
            scratch.all_p[:] = np.nan
            slot, weight, deferred = -1, 0.0, False
        # what is only scored begins no day: a day without reports must be none where all is scored
        begins = positions.time_ms[i] >= of.sums.clock[learning.DUE_MS]
        if times.set_back[i] and positions.time_ms[i] < of.sums.clock[learning.DAY] * DAY_MS:
            begins = True
        if learns and begins and (label or incoming.is_report[i]):
            return i
        if label:
            if learns and incoming.verdict[i] != UNKNOWN:
                named = _find_labelled(remembered, of, incoming.event[i])
                mean = harmonic_mean(remembered.p[named], settings.silent) if named >= 0 else 1.0
                learning.learn_label(of, named, incoming.verdict[i], mean)
            continue
        scratch.all_p[incoming.monitor[i]] = incoming.p[i]
        if incoming.is_report[i]:
            slot, first = _remember(i, remembered, of, positions, incoming, settings)
            # by the events before it: at a later report it is among those sampled itself
            sampled_before = remembered.totals[SAMPLED_EVENTS] - int(
                incoming.is_sampled[i] and not first
            )
            out.warm[i] = sampled_before * SAMPLE >= settings.warm_up_events
            incident = words[subjects.row[incoming.report_row[i]]]
            if subjects.fresh[incoming.report_row[i]]:
                incident[:] = 0.0
            if first and incoming.is_sampled[i]:
                remembered.totals[SAMPLED_EVENTS] += 1
                weight = float(SAMPLE)
            deferred = (
                learns and settings.reports_grouped and _more_reports_follow(positions, incoming, i)
            )
            if not deferred:
                mean = harmonic_mean(remembered.p[slot], settings.silent)
                learning.update_log_odds(of, slot, mean)
                out.p[i] = learning.event_p(of, slot, mean)
                for k in range(remembered.p.shape[1]):
                    out.by_monitor[i, k] = remembered.p[slot, k]
                what = _decide(
                    i, slot, incident, remembered, positions, weight, limits, stream, out
                )
                weight = 0.0
                if what in (OPENED, UPDATED):
                    _explain(i, slot, remembered, of, settings.silent, scratch, out)
        if not deferred:
            out.p_of_all[i] = _p_of_all(slot, of, scratch)
    return len(incoming.p)


@kernel
def _is_new_event(positions: EventPositions, i: int) -> bool:
    """Whether a row speaks of another event than the row before."""
    return bool(
        positions.source[i] != positions.source[i - 1]
        or positions.offset[i] != positions.offset[i - 1]
    )


@kernel
def _more_reports_follow(positions: EventPositions, incoming: AssessmentInput, i: int) -> bool:
    """Whether another report on the same event follows a row."""
    i += 1
    while i < len(incoming.p) and not _is_new_event(positions, i):
        if incoming.is_report[i]:
            return True
        i += 1
    return False


@kernel
def _remember(
    i: int,
    remembered: RememberedEvents,
    of: Learner,
    positions: EventPositions,
    incoming: AssessmentInput,
    settings: AssessmentSettings,
) -> tuple[int, bool]:
    """Remember a report; the slot of its event, and whether it is the first on it."""
    event, source, offset = incoming.event[i], positions.source[i], positions.offset[i]
    slot = _find_event(remembered, event, source, offset)
    first = slot < 0
    if first:
        slot = _new_slot(remembered, of, event, source, offset)
    monitor, p = incoming.monitor[i], incoming.p[i]
    remembered.p[slot, monitor] = p
    learning.add_report(of, slot, first, monitor, p, settings.report_p, incoming.values[i])
    return slot, first


@kernel
def _decide(
    i: int,
    slot: int,
    incident: F64,
    remembered: RememberedEvents,
    positions: EventPositions,
    weight: float,
    limits: PolicyLimits,
    stream: PolicyState,
    out: AssessmentOutput,
) -> int:
    """What becomes of a report. mine: its subject's incident."""
    score, peak = -log10(out.p[i]), remembered.alerted_score[slot]
    if peak >= 0.0 and score < peak + ESCALATION:
        out.policy_outcome.activity[i] = QUIET
        return QUIET
    warm, again = out.warm[i], peak != NEVER_ALERTED
    what = decide(
        incident, i, positions, out.p[i], weight, warm, again, limits, stream, out.policy_outcome
    )
    if what == SUPPRESSED and peak >= 0.0:  # it was counted before
        stream.activities[what] -= 1
        incident[SUPPRESSED_COUNT] -= 1.0
    if what == OVER_BUDGET and peak == NEVER_ALERTED:
        remembered.alerted_score[slot] = ONLY_HELD_BACK
    elif what not in (QUIET, OVER_BUDGET):
        remembered.alerted_score[slot] = score
    return what


@kernel
def _p_of_all(slot: int, of: Learner, scratch: AssessmentScratch) -> float:
    """The p-value of an event of which everything is known that was said of it."""
    everything = harmonic_mean(scratch.all_p, 0.0)
    if slot >= 0:
        return learning.event_p(of, slot, everything)
    scratch.inputs[:] = np.nan
    scratch.reported[:] = 0.0
    return learning.p_of_inputs(of, scratch.inputs, scratch.reported, everything)


@kernel
def _explain(
    i: int,
    slot: int,
    remembered: RememberedEvents,
    of: Learner,
    silent: float,
    scratch: AssessmentScratch,
    out: AssessmentOutput,
) -> None:
    """How much each input has to do with the event's p-value, and what it is without some."""
    monitors = len(scratch.p)
    learned = learning.active_model(of) != HARMONIC
    scratch.weight[:] = np.nan
    for k in range(monitors):
        scratch.p[k] = remembered.p[slot, k]
        scratch.reported[k] = of.memory.reported[slot, k] if learned else 0.0
        if not np.isnan(scratch.p[k]):
            scratch.weight[k] = 1.0 / max(scratch.p[k], P_MIN)
    if learned:
        learning.credit(of, slot, scratch.weight)
    for j in range(len(scratch.inputs)):
        scratch.inputs[j] = of.memory.inputs[slot, j] if learned else np.nan
        usual = of.line.mean[j] if of.line.seen[j] > 0.0 else np.nan
        out.weight[i, j] = scratch.weight[j]
        out.value[i, j] = scratch.inputs[j]
        out.low[i, j] = usual - USUAL_SD * logistic.spread(of.line, j)
        out.high[i, j] = usual + USUAL_SD * logistic.spread(of.line, j)
    for gone in range(COUNTERFACTUAL_MAX):
        most = -1
        for j in range(len(scratch.weight)):
            w = scratch.weight[j]
            if w > 0.0 and (most < 0 or w > scratch.weight[most]):
                most = j
        if most < 0:
            return
        out.order[gone, i] = most
        if most < monitors:
            _without_monitor(most, of, scratch)
        else:
            scratch.weight[most] = np.nan
            scratch.inputs[most] = of.line.mean[most]
        left = harmonic_mean(scratch.p, silent)
        out.without[gone, i] = learning.p_of_inputs(of, scratch.inputs, scratch.reported, left)


@kernel
def _without_monitor(monitor: int, of: Learner, scratch: AssessmentScratch) -> None:
    """What is left without a monitor's report."""
    scratch.p[monitor] = np.nan
    scratch.reported[monitor] = 0.0
    for j in range(len(of.owner)):
        if of.owner[j] == monitor:
            scratch.inputs[j] = np.nan
            scratch.weight[j] = np.nan
