"""Assessment: what all reports on one event say together about its subject, and when that alarms.

Without labels the p-values p of an event's reports are combined by their harmonic mean (D. J.
Wilson, "The harmonic mean p-value for combining dependent tests", PNAS 2019, eq. 1), which holds
under any dependence; a monitor that did not report is censored, known only to lie above the limit:

    p = K/(Σ 1/p_k + (K - r) C),   C = E[1/p | p > L] = ln(1/L)/(1 - L),   L = the limit

with K monitors, of which r reported. With labels `detectors.learning` says it once it says it
better. Each report revises its event's p at once, but where what is learned is asked and all reports
on an event stand together: then the last of them decides, since of some only it may say anything.
An event alarms once, and again when its score has grown by `policy.ESCALATION`. It is judged warm by
the events before it, and counted once as held back and once as counted into an incident, however
many reports say so.

The policy is the monitors' (`detectors.policy`), on subjects instead of entities. It needs the rate
of all events, of which only few are reported: every event that `sampled` picks is reported by every
monitor that judges it, and counts `SAMPLE` times when it is first seen.

Where every event is to be scored, as in a replay, what is no report may come as well: it is scored
beside the reports on its event, and neither remembered nor learned from.

Memory: the last reported events, in sets of `WAYS` of which the oldest gives way: 24 bytes an event
and 8 for each monitor. A report on an event that gave way starts it anew.
"""

from math import log, log10
from typing import Final, NamedTuple

import numpy as np

from detectors import learning, logistic
from detectors.clock import AHEAD_MAX_MS, Clock, Timed
from detectors.combination import P_MIN, harmonic_mean
from detectors.decay import DAY_MS
from detectors.entities import Admitted, EntityTable
from detectors.hashing import HashKey, hash_text
from detectors.kernels import kernel
from detectors.learning import HARMONIC, SAMPLE, Learner
from detectors.models.half_space_trees import COUNTERFACTUAL_MAX
from detectors.monitor import LABEL
from detectors.policy import (
    COUNTED,
    ESCALATION,
    OPENED,
    OVER_BUDGET,
    QUIET,
    SUPPRESSED,
    UPDATED,
    WORDS,
    Decided,
    Limits,
    Policy,
    Positions,
    Stream,
    decide,
    limits_of,
    undecided,
)
from detectors.spec import PolicySpec
from detectors.state import Arrays, clear, load, prefixed, saved, under
from detectors.verdicts import FRAUD, UNKNOWN, verdicts
from schemas.columns import F64, I64, U64, Bools, EventBatch

REPORT_P: Final = 1e-2
"""An event with a smaller p-value is reported, unless the configuration names another limit."""
WAYS: Final = 8
USUAL_SD: Final = 2.0
"""Standard deviations about the mean that are called usual."""

NO_LATENESS_MS: Final = 1e18
NEVER, HELD_BACK = -1.0, -2.0
"""In place of the score at which an event alarmed, where it has not: never, or over budget only."""
FIRST, SAMPLED = range(2)


def sampled(events: EventBatch, key: HashKey) -> Bools:
    """bool[n]: the events that are always reported, by the keyed hash of their ids."""
    chosen: Bools = hash_text(events.event_id, key)[:, 1] % np.uint64(SAMPLE) == 0
    return chosen


def censored(limit: float) -> float:
    """What a silent monitor adds to the sum of 1/p: its expectation above the limit."""
    return log(1.0 / limit) / (1.0 - limit)


class Known(NamedTuple):
    """The last reported events, in sets of `WAYS`, the set by the hash of the event's id. place:
    int64[events, 2], source and offset, the source -1 where free. p: float64[events, monitors], NaN
    where not reported. peak: float64, the score at which the event last alarmed, `NEVER` or
    `HELD_BACK` where it has not. next_way: int64[sets], the way that gives way next. totals:
    int64[2], events first seen, and of those sampled."""

    place: I64
    p: F64
    peak: F64
    next_way: I64
    totals: I64


class Heard(NamedTuple):
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
    due: Bools
    chosen: Bools
    at: I64


class Assessed(NamedTuple):
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
    decided: Decided
    warm: Bools
    due: Bools
    written: F64
    weight: F64
    value: F64
    low: F64
    high: F64
    order: I64
    without: F64


class Times(NamedTuple):
    """Times of n rows. own_ms: float64[n], bounded times; unchanged times of rows that are only
    scored. stream_ms, set_back: as in `clock.Timed`."""

    own_ms: F64
    stream_ms: F64
    set_back: Bools


class Work(NamedTuple):
    """To work in. p: float64[monitors], the reports but some; spoke, inputs: likewise as in
    `learning.Memory`; weight: float64[inputs], of those left. all: float64[monitors], all that was
    said of the event of late."""

    p: F64
    spoke: F64
    inputs: F64
    weight: F64
    all: F64


class Rules(NamedTuple):
    """What steers an assessment. report_p: below it a monitor reports; silent: what one that does
    not adds to the sum of 1/p; whole: all reports on an event stand together."""

    report_p: float
    silent: float
    warm_up_events: int
    whole: bool


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
        whole: bool = False,
        sources: int = 1,
        ahead_max_ms: float = AHEAD_MAX_MS,
    ) -> None:
        self.key = key
        self.clock = Clock(sources, ahead_max_ms)
        self.rules = Rules(limit, censored(limit), policy.warm_up_events, whole)
        self.subjects = EntityTable(capacity)
        self.words: F64 = np.zeros((capacity, WORDS))
        self.policy = Policy(limits_of(policy, shards, shard))
        sets = max(1, events_max // WAYS)
        self.known = Known(
            place=np.full((sets * WAYS, 2), -1, np.int64),
            p=np.full((sets * WAYS, monitors), np.nan),
            peak=np.full(sets * WAYS, NEVER),
            next_way=np.zeros(sets, np.int64),
            totals=np.zeros(2, np.int64),
        )
        self.learns = owners is not None
        self.learner = learning.learner(sets * WAYS if self.learns else 0, monitors, owners or [])
        width = len(self.learner.owner)
        self.work = Work(*(np.zeros(size) for size in (monitors, monitors, width, width, monitors)))

    def process(
        self, batch: EventBatch, subject: str, monitor: I64, p_value: F64, values: F64
    ) -> Assessed:
        """Take n rows in order: events with their subject, or labels. monitor: int64[n], who
        speaks, -1 for a label; p_value: float64[n]; values: float64[n, features]."""
        n = len(batch)
        heard = self._heard(batch, monitor, p_value, values)
        keys = hash_text(batch.text[subject], self.key)
        due = heard.due
        reported, times = self._timed(batch, keys, due)
        admitted = self.subjects.admit(keys[due], reported, NO_LATENESS_MS)
        positions = Positions(times.own_ms, times.stream_ms, batch.source, batch.offset)
        monitors, inputs = self.known.p.shape[1], len(self.learner.owner)
        out = Assessed(
            keys=keys,
            p=np.ones(n),
            by_monitor=np.full((n, monitors), np.nan),
            decided=undecided(n),
            warm=np.zeros(n, np.bool_),
            due=due,
            written=np.full(n, np.nan),
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
                self.known,
                self.learner,
                admitted,
                positions,
                heard,
                times,
                self.rules,
                self.policy.limits,
                self.policy.stream,
                self.work,
                out,
            )
            if start < n:
                learning.refit(self.learner, int(times.own_ms[start]))
        return out

    def _timed(self, batch: EventBatch, keys: U64, due: Bools) -> tuple[Timed, Times]:
        """Bounded times of the reports, and of every row. Rows that are only scored move no time:
        else an assessment would depend on whether everything is scored."""
        heard = due | (batch.type_code == LABEL)
        rows = np.flatnonzero(heard)
        before_ms = self.clock.now_ms
        timed = self.clock.take(
            batch.time_ms[rows],
            None if batch.append_ms is None else batch.append_ms[rows],
            batch.source[rows],
            np.ascontiguousarray(keys[rows, 0]),
            due[rows],
        )
        times = Times(
            own_ms=batch.time_ms.astype(np.float64),
            stream_ms=np.concatenate([[before_ms], timed.stream_ms])[np.cumsum(heard)],
            set_back=np.zeros(len(batch), np.bool_),
        )
        times.own_ms[rows] = timed.time_ms
        times.set_back[rows] = timed.set_back
        of_reports = due[rows]
        return Timed._make(column[of_reports] for column in timed), times

    def _heard(self, batch: EventBatch, monitor: I64, p_value: F64, values: F64) -> Heard:
        label = batch.type_code == LABEL
        event = hash_text(batch.event_id, self.key)
        chosen = event[:, 1] % np.uint64(SAMPLE) == 0
        if label.any():
            event[label] = hash_text(batch.text["labelled_event_id"], self.key)[label]
        due = ~label & ((p_value < self.rules.report_p) | chosen)
        at = np.cumsum(due) - 1
        of = np.ascontiguousarray(event[:, 0])
        return Heard(of, monitor, verdicts(batch), p_value, values, due, chosen, at)

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
            **learning.standing(self.learner),
        }

    def save(self) -> Arrays:
        """The whole state as arrays by name."""
        rows = self.subjects.rows_used
        parts = {
            "clock": self.clock.save(),
            "subjects": self.subjects.save(),
            "policy": self.policy.save(),
            "known": saved(self.known),
        }
        parts |= {"learner": learning.save(self.learner)} if self.learns else {}
        return {"words": self.words[:rows], **prefixed(parts)}

    def load(self, state: Arrays) -> None:
        """Replace the whole state by one saved under the same configuration."""
        self.words[: len(state["words"])] = state["words"]
        clear(self.words[len(state["words"]) :])
        self.clock.load(under("clock", state))
        self.subjects.load(under("subjects", state))
        self.policy.load(under("policy", state))
        load(self.known, under("known", state))
        if self.learns:
            learning.restore(self.learner, under("learner", state))


@kernel
def _find(known: Known, event: np.uint64, source: int, offset: int) -> int:
    """Where the event is remembered, -1 where it is not."""
    first = np.int64(event % np.uint64(len(known.next_way))) * WAYS
    for slot in range(first, first + WAYS):
        if known.place[slot, 0] == source and known.place[slot, 1] == offset:
            return int(slot)
    return -1


@kernel
def _find_labelled(known: Known, of: Learner, event: np.uint64) -> int:
    """Where the event that a label names is remembered, -1 where it is not; of several with its id
    the first one seen."""
    first = np.int64(event % np.uint64(len(known.next_way))) * WAYS
    found = -1
    for slot in range(first, first + WAYS):
        named = event != 0 and of.memory.event[slot] == event and known.place[slot, 0] >= 0
        if named and (found < 0 or of.memory.nth[slot] < of.memory.nth[found]):
            found = int(slot)
    return found


@kernel
def _new_slot(known: Known, of: Learner, event: np.uint64, source: int, offset: int) -> int:
    """A place for an event that is not remembered: a free one of its set while there is one (they
    are taken in order); else the oldest's, but a fraud gives way only where frauds hold more than
    half of it."""
    at = np.int64(event % np.uint64(len(known.next_way)))
    way = known.next_way[at]
    if len(of.memory.event) and known.place[at * WAYS + way, 0] >= 0:
        frauds = 0
        for k in range(at * WAYS, (at + 1) * WAYS):
            frauds += 1 if of.memory.verdict[k] == FRAUD else 0
        wanted = frauds > WAYS // 2
        while frauds > 0 and (of.memory.verdict[at * WAYS + way] == FRAUD) != wanted:
            way = (way + 1) % WAYS
    slot = at * WAYS + way
    known.next_way[at] = (way + 1) % WAYS
    known.place[slot, 0] = source
    known.place[slot, 1] = offset
    known.p[slot] = np.nan
    known.peak[slot] = NEVER
    known.totals[FIRST] += 1
    learning.forget(of, slot, event)
    return int(slot)


@kernel
def _assess(
    start: int,
    words: F64,
    known: Known,
    of: Learner,
    subjects: Admitted,
    positions: Positions,
    heard: Heard,
    times: Times,
    rules: Rules,
    limits: Limits,
    stream: Stream,
    work: Work,
    out: Assessed,
) -> int:
    """Take rows from `start` on; returns the row before which a new day of learning begins, or
    their number. What is said of one event stands in rows next to each other."""
    learns = len(of.memory.event) > 0
    slot, weight, waits = -1, 0.0, False
    for i in range(start, len(heard.p)):
        label = heard.monitor[i] < 0
        if i == 0 or _is_another(positions, i):
            work.all[:] = np.nan
            slot, weight, waits = -1, 0.0, False
        # what is only scored begins no day: a day without reports must be none where all is scored
        begins = positions.time_ms[i] >= of.sums.clock[learning.DUE_MS]
        if times.set_back[i] and positions.time_ms[i] < of.sums.clock[learning.DAY] * DAY_MS:
            begins = True
        if learns and begins and (label or heard.due[i]):
            return i
        if label:
            if learns and heard.verdict[i] != UNKNOWN:
                named = _find_labelled(known, of, heard.event[i])
                mean = harmonic_mean(known.p[named], rules.silent) if named >= 0 else 1.0
                learning.teach(of, named, heard.verdict[i], mean)
            continue
        work.all[heard.monitor[i]] = heard.p[i]
        if heard.due[i]:
            slot, first = _take(i, known, of, positions, heard, rules)
            # by the events before it: at a later report it is among those sampled itself
            sampled_before = known.totals[SAMPLED] - int(heard.chosen[i] and not first)
            out.warm[i] = sampled_before * SAMPLE >= rules.warm_up_events
            mine = words[subjects.row[heard.at[i]]]
            if subjects.fresh[heard.at[i]]:
                mine[:] = 0.0
            if first and heard.chosen[i]:
                known.totals[SAMPLED] += 1
                weight = float(SAMPLE)
            waits = learns and rules.whole and _more_is_due(positions, heard, i)
            if not waits:
                mean = harmonic_mean(known.p[slot], rules.silent)
                learning.say(of, slot, mean)
                out.p[i] = learning.p_as_said(of, slot, mean)
                for k in range(known.p.shape[1]):
                    out.by_monitor[i, k] = known.p[slot, k]
                what = _decide(i, slot, mine, known, positions, weight, limits, stream, out)
                weight = 0.0
                if what in (OPENED, UPDATED):
                    _explain(i, slot, known, of, rules.silent, work, out)
        if not waits:
            out.written[i] = _written(slot, of, work)
    return len(heard.p)


@kernel
def _is_another(positions: Positions, i: int) -> bool:
    """Whether a row speaks of another event than the row before."""
    return bool(
        positions.source[i] != positions.source[i - 1]
        or positions.offset[i] != positions.offset[i - 1]
    )


@kernel
def _more_is_due(positions: Positions, heard: Heard, i: int) -> bool:
    """Whether another report on the same event follows a row."""
    i += 1
    while i < len(heard.p) and not _is_another(positions, i):
        if heard.due[i]:
            return True
        i += 1
    return False


@kernel
def _take(
    i: int, known: Known, of: Learner, positions: Positions, heard: Heard, rules: Rules
) -> tuple[int, bool]:
    """Remember a report; the slot of its event, and whether it is the first on it."""
    event, source, offset = heard.event[i], positions.source[i], positions.offset[i]
    slot = _find(known, event, source, offset)
    first = slot < 0
    if first:
        slot = _new_slot(known, of, event, source, offset)
    monitor, p = heard.monitor[i], heard.p[i]
    known.p[slot, monitor] = p
    learning.hear(of, slot, first, monitor, p, rules.report_p, heard.values[i])
    return slot, first


@kernel
def _decide(
    i: int,
    slot: int,
    mine: F64,
    known: Known,
    positions: Positions,
    weight: float,
    limits: Limits,
    stream: Stream,
    out: Assessed,
) -> int:
    """What becomes of a report. mine: its subject's incident."""
    score, peak = -log10(out.p[i]), known.peak[slot]
    if peak >= 0.0 and score < peak + ESCALATION:
        out.decided.activity[i] = QUIET
        return QUIET
    warm, again = out.warm[i], peak != NEVER
    what = decide(mine, i, positions, out.p[i], weight, warm, again, limits, stream, out.decided)
    if what == COUNTED and peak >= 0.0:  # it was counted before
        stream.activities[what] -= 1
        mine[SUPPRESSED] -= 1.0
    if what == OVER_BUDGET and peak == NEVER:
        known.peak[slot] = HELD_BACK
    elif what not in (QUIET, OVER_BUDGET):
        known.peak[slot] = score
    return what


@kernel
def _written(slot: int, of: Learner, work: Work) -> float:
    """The p-value of an event of which everything is known that was said of it."""
    everything = harmonic_mean(work.all, 0.0)
    if slot >= 0:
        return learning.p_as_said(of, slot, everything)
    work.inputs[:] = np.nan
    work.spoke[:] = 0.0
    return learning.p_now(of, work.inputs, work.spoke, everything)


@kernel
def _explain(
    i: int, slot: int, known: Known, of: Learner, silent: float, work: Work, out: Assessed
) -> None:
    """How much each input has to do with the event's p-value, and what it is without some."""
    monitors = len(work.p)
    learned = learning.speaker(of) != HARMONIC
    work.weight[:] = np.nan
    for k in range(monitors):
        work.p[k] = known.p[slot, k]
        work.spoke[k] = of.memory.spoke[slot, k] if learned else 0.0
        if not np.isnan(work.p[k]):
            work.weight[k] = 1.0 / max(work.p[k], P_MIN)
    if learned:
        learning.credit(of, slot, work.weight)
    for j in range(len(work.inputs)):
        work.inputs[j] = of.memory.inputs[slot, j] if learned else np.nan
        usual = of.line.mean[j] if of.line.seen[j] > 0.0 else np.nan
        out.weight[i, j] = work.weight[j]
        out.value[i, j] = work.inputs[j]
        out.low[i, j] = usual - USUAL_SD * logistic.spread(of.line, j)
        out.high[i, j] = usual + USUAL_SD * logistic.spread(of.line, j)
    for gone in range(COUNTERFACTUAL_MAX):
        most = -1
        for j in range(len(work.weight)):
            w = work.weight[j]
            if w > 0.0 and (most < 0 or w > work.weight[most]):
                most = j
        if most < 0:
            return
        out.order[gone, i] = most
        if most < monitors:
            _strip(most, of, work)
        else:
            work.weight[most] = np.nan
            work.inputs[most] = of.line.mean[most]
        left = harmonic_mean(work.p, silent)
        out.without[gone, i] = learning.p_now(of, work.inputs, work.spoke, left)


@kernel
def _strip(monitor: int, of: Learner, work: Work) -> None:
    """What is left without a monitor's report."""
    work.p[monitor] = np.nan
    work.spoke[monitor] = 0.0
    for j in range(len(of.owner)):
        if of.owner[j] == monitor:
            work.inputs[j] = np.nan
            work.weight[j] = np.nan
