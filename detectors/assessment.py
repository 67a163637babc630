"""Assessment: what all reports on one event say together about its subject, and when that alarms.

Without labels the p-values p of an event's reports are combined by their harmonic mean (D. J.
Wilson, "The harmonic mean p-value for combining dependent tests", PNAS 2019, eq. 1), which holds
under any dependence; a monitor that did not report is censored, known only to lie above the limit:

    p = K/(Σ 1/p_k + (K - r) C),   C = E[1/p | p > L] = ln(1/L)/(1 - L),   L = the limit

with K monitors, of which r reported. With labels `detectors.learning` says it once it says it
better. Each report revises its event's p at once; nothing waits. An event alarms once, and again
when its score has grown by `policy.ESCALATION`.

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
import pyarrow.compute as pc

from detectors.combination import P_MIN
from detectors.entities import Admitted, EntityTable
from detectors.hashing import HashKey, hash_text
from detectors.kernels import kernel
from detectors.learning import (
    CHANGED,
    DUE_MS,
    FRAUD,
    HARMONIC,
    HONEST,
    LABELS,
    SAMPLE,
    UNKNOWN,
    UNMATCHED,
    Learner,
    forget,
    hear,
    learned_p,
    learner,
    refit,
    restore,
    save,
    say,
    speaker,
    teach,
)
from detectors.monitor import LABEL
from detectors.policy import (
    ESCALATION,
    OPENED,
    OVER_BUDGET,
    QUIET,
    UPDATED,
    WORDS,
    Decided,
    Limits,
    Policy,
    Positions,
    Stream,
    decide,
)
from detectors.spec import PolicySpec, seconds
from detectors.state import Arrays, clear, load, prefixed, saved, under
from schemas.columns import F64, I64, U64, Bools, EventBatch

REPORT_P: Final = 1e-2
"""An event with a smaller p-value is reported, unless the configuration names another limit."""
WAYS: Final = 8
STRIPPED_MAX: Final = 3

NO_LATENESS_MS: Final = 1e18
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
    where not reported. peak: float64, the score at which the event last alarmed, -1 where it has
    not. next_way: int64[sets], the way that gives way next. totals: int64[2], events first seen,
    and of those sampled."""

    place: I64
    p: F64
    peak: F64
    next_way: I64
    totals: I64


class Heard(NamedTuple):
    """n rows of a batch, reports, labels, and what is no report. event: uint64[n], the hash of the
    id of the event that it speaks of. monitor: int64[n], -1 for a label; verdict: float64[n] of a
    label. p: float64[n]; values: float64[n, features], the monitor's features that are learned
    from. due: bool[n], whether it is a report; chosen: bool[n], whether of the sample. at: int64[n],
    its place among the reports."""

    event: U64
    monitor: I64
    verdict: F64
    p: F64
    values: F64
    due: Bools
    chosen: Bools
    at: I64


class Assessed(NamedTuple):
    """What became of each row. keys: uint64[n, 2], its subject's. p: float64[n], of its event, all
    reports so far. by_monitor: float64[n, monitors], these reports' own. warm: bool[n], enough
    events were seen before. due: bool[n], whether it is a report at all. written: float64[n], of its
    event, all that was said of it here, reported or not; NaN for a label. weight: float64[n, monitors], how much each report has to do with p; stripped:
    float64[n, 3], p without the one, two, three most surprised monitors; both where it alarmed."""

    keys: U64
    p: F64
    by_monitor: F64
    decided: Decided
    warm: Bools
    due: Bools
    written: F64
    weight: F64
    stripped: F64


class Work(NamedTuple):
    """To work in. p: float64[monitors], the reports but some; spoke, inputs: likewise as in
    `learning.Memory`. all: float64[monitors], all that was said of the event of late."""

    p: F64
    spoke: F64
    inputs: F64
    all: F64


class Assessment:
    """The subjects' incidents and the events of late, of one shard. owners: of each feature that is
    learned from, its monitor's index; None where nothing is learned."""

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
    ) -> None:
        self.key = key
        self.limit = limit
        self.warm_up_events = policy.warm_up_events
        self.subjects = EntityTable(capacity)
        self.words: F64 = np.zeros((capacity, WORDS))
        gap_ms = 1000.0 * seconds(policy.incident_gap)
        self.policy = Policy(Limits(policy.p_max, policy.alerts_per_day / shards, gap_ms))
        sets = max(1, events_max // WAYS)
        self.known = Known(
            place=np.full((sets * WAYS, 2), -1, np.int64),
            p=np.full((sets * WAYS, monitors), np.nan),
            peak=np.full(sets * WAYS, -1.0),
            next_way=np.zeros(sets, np.int64),
            totals=np.zeros(2, np.int64),
        )
        self.learns = owners is not None
        self.learner = learner(sets * WAYS if self.learns else 0, monitors, owners or [])
        width = len(self.learner.owner)
        self.work = Work(*(np.zeros(size) for size in (monitors, monitors, width, monitors)))

    def process(
        self, batch: EventBatch, subject: str, monitor: I64, p_value: F64, values: F64
    ) -> Assessed:
        """Take n rows in order: events with their subject, or labels. monitor: int64[n], who
        speaks, -1 for a label; p_value: float64[n]; values: float64[n, features]."""
        n = len(batch)
        heard = self._heard(batch, monitor, p_value, values)
        keys = hash_text(batch.text[subject], self.key)
        due = heard.due
        admitted = self.subjects.admit(keys[due], batch.time_ms[due], NO_LATENESS_MS)
        positions = Positions(batch.time_ms, batch.source, batch.offset)
        monitors = self.known.p.shape[1]
        out = Assessed(
            keys=keys,
            p=np.ones(n),
            by_monitor=np.full((n, monitors), np.nan),
            decided=Decided(np.zeros(n, np.uint8), np.ones(n), np.zeros(n), np.zeros((n, WORDS))),
            warm=np.zeros(n, np.bool_),
            due=due,
            written=np.full(n, np.nan),
            weight=np.zeros((n, monitors)),
            stripped=np.ones((n, STRIPPED_MAX)),
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
                self.limit,
                censored(self.limit),
                self.policy.limits,
                self.policy.stream,
                self.warm_up_events,
                self.work,
                out,
            )
            if start < n:
                refit(self.learner, int(batch.time_ms[start]))
        return out

    def _heard(self, batch: EventBatch, monitor: I64, p_value: F64, values: F64) -> Heard:
        label = batch.type_code == LABEL
        event = hash_text(batch.event_id, self.key)
        chosen = event[:, 1] % np.uint64(SAMPLE) == 0
        verdict = np.full(len(batch), UNKNOWN)
        if label.any():
            for name, code in (("honest", HONEST), ("fraud", FRAUD)):
                said = pc.fill_null(pc.equal(batch.text["verdict"], name), fill_value=False)
                verdict[said.to_numpy(zero_copy_only=False)] = code
            event[label] = hash_text(batch.text["labelled_event_id"], self.key)[label]
        due = ~label & ((p_value < self.limit) | chosen)
        at = np.cumsum(due) - 1
        of = np.ascontiguousarray(event[:, 0])
        return Heard(of, monitor, verdict, p_value, values, due, chosen, at)

    def counts(self) -> dict[str, int]:
        """What became of the labels, where they are learned."""
        if not self.learns:
            return {}
        counts = self.learner.sums.counts
        names = {"labels": LABELS, "labels_changed": CHANGED, "labels_unmatched": UNMATCHED}
        return {name: int(counts[k]) for name, k in names.items()}

    def save(self) -> Arrays:
        """The whole state as arrays by name."""
        rows = self.subjects.rows_used
        parts = {
            "subjects": self.subjects.save(),
            "policy": self.policy.save(),
            "known": saved(self.known),
        }
        parts |= {"learner": save(self.learner)} if self.learns else {}
        return {"words": self.words[:rows], **prefixed(parts)}

    def load(self, state: Arrays) -> None:
        """Replace the whole state by one saved under the same configuration."""
        self.words[: len(state["words"])] = state["words"]
        clear(self.words[len(state["words"]) :])
        self.subjects.load(under("subjects", state))
        self.policy.load(under("policy", state))
        load(self.known, under("known", state))
        if self.learns:
            restore(self.learner, under("learner", state))


@kernel
def combined(p: F64, silent: float) -> float:
    """One event's p-value from its reports'. p: float64[monitors], NaN where not reported; silent:
    what such a monitor adds to the sum of 1/p, 0 where it does not count at all."""
    inverse = 0.0
    count = 0
    for k in range(len(p)):
        if not np.isnan(p[k]):
            inverse += 1.0 / max(p[k], P_MIN)
            count += 1
        elif silent > 0.0:
            inverse += silent
            count += 1
    return float(min(1.0, count / inverse)) if count else 1.0


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
    """Where the event that a label names is remembered, -1 where it is not."""
    first = np.int64(event % np.uint64(len(known.next_way))) * WAYS
    for slot in range(first, first + WAYS):
        if event != 0 and of.memory.event[slot] == event and known.place[slot, 0] >= 0:
            return int(slot)
    return -1


@kernel
def _new_slot(known: Known, of: Learner, event: np.uint64, source: int, offset: int) -> int:
    """A place for an event that is not remembered: the oldest's of its set, but a fraud gives way
    only where frauds hold half of it."""
    at = np.int64(event % np.uint64(len(known.next_way)))
    way = known.next_way[at]
    if len(of.memory.event):
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
    known.peak[slot] = -1.0
    known.totals[FIRST] += 1
    forget(of, slot, event)
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
    limit: float,
    silent: float,
    limits: Limits,
    stream: Stream,
    warm_up_events: int,
    work: Work,
    out: Assessed,
) -> int:
    """Take rows from `start` on; returns the row before which a new day of learning begins, or
    their number. What is said of one event stands in rows next to each other."""
    learns = len(of.memory.event) > 0
    slot = -1
    for i in range(start, len(heard.p)):
        if learns and positions.time_ms[i] >= of.sums.clock[DUE_MS]:
            return i
        if heard.monitor[i] < 0:
            if learns and heard.verdict[i] != UNKNOWN:
                named = _find_labelled(known, of, heard.event[i])
                harmonic = combined(known.p[named], silent) if named >= 0 else 1.0
                teach(of, named, heard.verdict[i], harmonic)
            continue
        if i == start or _is_another(positions, i):
            work.all[:] = np.nan
            slot = -1
        work.all[heard.monitor[i]] = heard.p[i]
        if heard.due[i]:
            warm = known.totals[SAMPLED] * SAMPLE >= warm_up_events
            before = known.totals[FIRST]
            slot = _take(i, known, of, positions, heard, limit, silent)
            first = known.totals[FIRST] > before
            if first and heard.chosen[i]:
                known.totals[SAMPLED] += 1
            weight = float(SAMPLE) if first and heard.chosen[i] else 0.0
            out.warm[i] = warm
            out.p[i] = _p_of(of, slot, known.p[slot], silent)
            for k in range(known.p.shape[1]):
                out.by_monitor[i, k] = known.p[slot, k]
            mine = words[subjects.row[heard.at[i]]]
            if subjects.fresh[heard.at[i]]:
                mine[:] = 0.0
            what = _decide(i, slot, mine, known, positions, weight, limits, stream, out)
            if what in (OPENED, UPDATED):
                _explain(i, slot, known, of, silent, work, out)
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
def _take(
    i: int,
    known: Known,
    of: Learner,
    positions: Positions,
    heard: Heard,
    limit: float,
    silent: float,
) -> int:
    """Remember a report; the slot of its event."""
    event, source, offset = heard.event[i], positions.source[i], positions.offset[i]
    slot = _find(known, event, source, offset)
    if slot < 0:
        slot = _new_slot(known, of, event, source, offset)
    known.p[slot, heard.monitor[i]] = heard.p[i]
    hear(of, slot, heard.monitor[i], heard.p[i], limit, heard.values[i])
    say(of, slot, combined(known.p[slot], silent))
    return slot


@kernel
def _p_of(of: Learner, slot: int, p: F64, silent: float) -> float:
    """The p-value of a remembered event, its reports p."""
    harmonic = combined(p, silent)
    if speaker(of) == HARMONIC:
        return harmonic
    return learned_p(of, of.memory.inputs[slot], of.memory.spoke[slot], harmonic)


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
    score = -log10(out.p[i])
    if known.peak[slot] >= 0.0 and score < known.peak[slot] + ESCALATION:
        out.decided.activity[i] = QUIET
        return QUIET
    what = decide(mine, i, positions, out.p[i], weight, limits, stream, out.decided)
    if what not in (QUIET, OVER_BUDGET):
        known.peak[slot] = score
    return what


@kernel
def _written(slot: int, of: Learner, work: Work) -> float:
    """The p-value of an event of which everything is known that was said of it."""
    everything = combined(work.all, 0.0)
    if speaker(of) == HARMONIC:
        return everything
    if slot >= 0:
        return learned_p(of, of.memory.inputs[slot], of.memory.spoke[slot], everything)
    work.inputs[:] = np.nan
    work.spoke[:] = 0.0
    return learned_p(of, work.inputs, work.spoke, everything)


@kernel
def _explain(
    i: int, slot: int, known: Known, of: Learner, silent: float, work: Work, out: Assessed
) -> None:
    """How much each report has to do with the event's p-value, and what it is without some."""
    monitors = known.p.shape[1]
    for k in range(monitors):
        p = known.p[slot, k]
        if np.isnan(p):
            continue
        if speaker(of) == HARMONIC:
            out.weight[i, k] = 1.0 / max(p, P_MIN)
        else:
            _strip_none(slot, known, of, work)
            _strip(k, of, work)
            out.weight[i, k] = max(log(_p_stripped(of, silent, work) / out.p[i]), 1e-9)
    _strip_none(slot, known, of, work)
    for gone in range(min(STRIPPED_MAX, monitors)):
        least = -1
        for k in range(monitors):
            p = work.p[k]
            if not np.isnan(p) and (least < 0 or p < work.p[least]):
                least = k
        if least < 0:
            return
        _strip(least, of, work)
        out.stripped[i, gone] = _p_stripped(of, silent, work)


@kernel
def _strip_none(slot: int, known: Known, of: Learner, work: Work) -> None:
    """All reports on the slot's event."""
    for k in range(len(work.p)):
        work.p[k] = known.p[slot, k]
    if len(of.memory.event) == 0:
        return
    for k in range(len(work.spoke)):
        work.spoke[k] = of.memory.spoke[slot, k]
    for j in range(len(work.inputs)):
        work.inputs[j] = of.memory.inputs[slot, j]


@kernel
def _strip(monitor: int, of: Learner, work: Work) -> None:
    """The same without a monitor's."""
    work.p[monitor] = np.nan
    work.spoke[monitor] = 0.0
    for j in range(len(of.owner)):
        if of.owner[j] == monitor:
            work.inputs[j] = np.nan


@kernel
def _p_stripped(of: Learner, silent: float, work: Work) -> float:
    """The p-value of what is left."""
    harmonic = combined(work.p, silent)
    if speaker(of) == HARMONIC:
        return harmonic
    return learned_p(of, work.inputs, work.spoke, harmonic)
