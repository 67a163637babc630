"""Label risk: what share of an entity's labelled events was fraud, as known at that time?

Labels (verdict "fraud" or "honest"; others are ignored) come through the log like all events. Each
adds one to its key's decayed frauds f or honest events h; the key is the value of `field` (by
default the monitor's entity). Beta–binomial, with the overall share m as prior (the compound
sampling model of J. G. Skellam, 1948):

    share ~ Beta(K m + f, K (1 - m) + h)                        K = `PRIOR_LABELS`
    m = (F + P S)/(max(F + H, N) + P)                     P = `PRIOR_EVENTS`, S = `PRIOR_SHARE`
    value = (K m + f)/(K + f + h);   surprise = -ln P(share ≤ m) = -ln I_m(K m + f, K (1 - m) + h)

F and H are the totals of frauds and honest events, N the scored events: where only frauds are
labelled, unlabelled events count as honest in the prior, and m stays the share of events that are
confirmed as fraud. The surprise grows with the share and with the number of labels; it is near 0 for
a key without labels or with honest ones only. All sums halve every `half_life` of stream time, which
never goes back: a label counts from its own time, not from that of its event.

A later label for the same event (`labelled_event_id`) replaces the earlier one: its remaining weight
is subtracted from the totals, and from its key unless that key was displaced since. The last
`labels_max` labelled events are remembered, and the `keys_max` keys labelled last, both in sets of
`SLOTS_PER_SET`, in which the oldest is displaced. They are found by keyed hash, independent of the
entity's row: an entity that was evicted keeps its labels. Labels are trusted: nothing is winsorised.

expected: m. NaN where the key is absent. Labels are not scored. Events that may not be learned are
scored and not counted in N.

Shapes: uint64, int64 and 3 float64 a key, uint64, 2 int64 and 2 float64 a labelled event: 8 MB by
default, none for each entity. Cost: about 0.2 µs an event.
"""

from math import log
from typing import Annotated, Final, NamedTuple

import numpy as np
from msgspec import Meta

from detectors.entities import AdmittedEvents
from detectors.models.interface import DetectorInput, DetectorOutput, StandaloneSpec
from detectors.numeric.beta import incomplete_beta
from detectors.numeric.combination import P_MIN
from detectors.numeric.decay import decayed
from detectors.numeric.kernels import kernel
from detectors.spec import Duration, seconds
from detectors.state import Arrays, load, rename_arrays, state_arrays
from schemas.columns import F64, I64, U64
from schemas.events import ENTITY_FIELDS
from schemas.labels import FRAUD, UNKNOWN, verdict_codes

PRIOR_LABELS: Final = 4.0
PRIOR_EVENTS: Final = 100.0
PRIOR_SHARE: Final = 0.01
SLOTS_PER_SET: Final = 8

ALL_FRAUD, ALL_HONEST, ALL_SCORED, NOW_MS = range(4)

SAVED_NAMES: Final = {"totals": "cohort"}
"""Names of arrays in a checkpoint, where they differ from the fields'."""


class LabelRiskSpec(StandaloneSpec, frozen=True, kw_only=True, tag="label_risk"):
    """Share of labelled events that were fraud, as far as labels are known."""

    field: str | None = None
    """Entity field whose value's labels count. Default: the monitor's entity."""
    half_life: Duration = "14d"
    """Half-life of a label."""
    keys_max: Annotated[int, Meta(ge=SLOTS_PER_SET, le=100_000_000)] = 100_000
    """Upper bound on the labelled values remembered."""
    labels_max: Annotated[int, Meta(ge=SLOTS_PER_SET, le=100_000_000)] = 100_000
    """Upper bound on the labelled events remembered, so that a later label can correct them."""

    def build(self, features: int, capacity: int) -> "LabelRisk":
        """A state without labels."""
        del features, capacity
        return LabelRisk(self)

    def fields(self) -> list[str]:
        """The fields of a label, and the key where it is not the entity."""
        return ["verdict", "labelled_event_id", *([self.field] if self.field else [])]

    def problems(self) -> list[str]:
        """A field that names no entity, which no label would have."""
        if self.field is None or self.field in ENTITY_FIELDS:
            return []
        return [f"field: got {self.field}; expected one of {', '.join(ENTITY_FIELDS)}"]

    def discrete(self) -> bool:
        """All keys without labels have the same surprise."""
        return True


class RiskState(NamedTuple):
    """The state. key: uint64[keys], 0 free. fraud, honest: float64[keys], decayed labels. at_ms:
    float64[keys], the time of these. generation: int64[keys], the number of keys that had the slot so
    far, this one included. event: uint64[labels], 0 free. key_slot: int64[labels], the slot of the
    label's key; label_generation: int64[labels], its generation then. verdict: float64[labels].
    from_ms: float64[labels], the time of the label. totals: float64[4], frauds, honest events,
    scored events, stream time."""

    key: U64
    fraud: F64
    honest: F64
    at_ms: F64
    generation: I64
    event: U64
    key_slot: I64
    label_generation: I64
    verdict: F64
    from_ms: F64
    totals: F64


class LabelRows(NamedTuple):
    """The k labels of a batch. before: int64[k], scored events before each. key, event: uint64[k], 0
    absent. verdict: int64[k]. time_ms: int64[k]."""

    before: I64
    key: U64
    event: U64
    verdict: I64
    time_ms: I64


class LabelRisk:
    """The labels of the values of one field."""

    def __init__(self, spec: LabelRiskSpec) -> None:
        self.field = spec.field
        self.half_life_ms = 1000.0 * seconds(spec.half_life)
        keys = SLOTS_PER_SET * (spec.keys_max // SLOTS_PER_SET)
        labels = SLOTS_PER_SET * (spec.labels_max // SLOTS_PER_SET)
        self.state = RiskState(
            key=np.zeros(keys, np.uint64),
            fraud=np.zeros(keys),
            honest=np.zeros(keys),
            at_ms=np.zeros(keys),
            generation=np.zeros(keys, np.int64),
            event=np.zeros(labels, np.uint64),
            key_slot=np.zeros(labels, np.int64),
            label_generation=np.zeros(labels, np.int64),
            verdict=np.zeros(labels),
            from_ms=np.zeros(labels),
            totals=np.zeros(4),
        )

    def process(self, batch: DetectorInput) -> DetectorOutput:
        """Learn the labels and score the events, in the order of the log."""
        n = len(batch.admitted.row)
        out = DetectorOutput(np.full(n, np.nan), np.full(n, np.nan), np.full(n, np.nan))
        field = self.field or batch.entity_field
        labels = batch.labels
        label_rows = LabelRows(
            labels.before,
            labels.hashed(field),
            labels.hashed("labelled_event_id"),
            verdict_codes(labels.events),
            labels.events.time_ms,
        )
        _process(
            self.state, self.half_life_ms, label_rows, batch.admitted, batch.hashed(field), out
        )
        return out

    def save(self) -> Arrays:
        """The whole state."""
        return rename_arrays(state_arrays(self.state), SAVED_NAMES)

    def load(self, state: Arrays) -> None:
        """Replace the state by one saved under the same declaration."""
        load(self.state, rename_arrays(state, {old: new for new, old in SAVED_NAMES.items()}))


@kernel
def _find(keys: U64, hashed: np.uint64) -> int:
    """The slot of a hash, -1 where it is absent."""
    first = SLOTS_PER_SET * np.int64(hashed % np.uint64(len(keys) // SLOTS_PER_SET))
    for slot in range(first, first + SLOTS_PER_SET):
        if keys[slot] == hashed:
            return int(slot)
    return -1


@kernel
def _oldest(keys: U64, since_ms: F64, hashed: np.uint64) -> int:
    """The slot that a new hash takes: a free one, or the one unused for longest."""
    first = SLOTS_PER_SET * np.int64(hashed % np.uint64(len(keys) // SLOTS_PER_SET))
    oldest = int(first)
    for slot in range(first, first + SLOTS_PER_SET):
        if keys[slot] == 0:
            return int(slot)
        if since_ms[slot] < since_ms[oldest]:
            oldest = int(slot)
    return oldest


@kernel
def _advance_time(state: RiskState, time_ms: float, half_life_ms: float) -> float:
    """Stream time at an event; the totals are decayed to it."""
    totals = state.totals
    now = max(time_ms, float(totals[NOW_MS]))
    keep = decayed(1.0, now - totals[NOW_MS], half_life_ms)
    for k in range(NOW_MS):
        totals[k] *= keep
    totals[NOW_MS] = now
    return now


@kernel
def _set_back(state: RiskState, stream_ms: float) -> None:
    """Set every stored time back to stream time."""
    state.totals[NOW_MS] = min(state.totals[NOW_MS], stream_ms)
    for key_slot in range(len(state.at_ms)):
        state.at_ms[key_slot] = min(state.at_ms[key_slot], stream_ms)
    for label_slot in range(len(state.from_ms)):
        state.from_ms[label_slot] = min(state.from_ms[label_slot], stream_ms)


@kernel
def _decay_key(state: RiskState, key_slot: int, now: float, half_life_ms: float) -> None:
    """Decay a key's sums to now."""
    keep = decayed(1.0, now - state.at_ms[key_slot], half_life_ms)
    state.fraud[key_slot] *= keep
    state.honest[key_slot] *= keep
    state.at_ms[key_slot] = now


@kernel
def _subtract_earlier(state: RiskState, label_slot: int, now: float, half_life_ms: float) -> None:
    """Subtract the remaining weight of an earlier label from the totals, and from its key if that still
    has its slot."""
    remaining = decayed(1.0, now - state.from_ms[label_slot], half_life_ms)
    fraud = state.verdict[label_slot] == FRAUD
    total = ALL_FRAUD if fraud else ALL_HONEST
    state.totals[total] = max(state.totals[total] - remaining, 0.0)
    key_slot = state.key_slot[label_slot]
    if state.generation[key_slot] == state.label_generation[label_slot]:
        _decay_key(state, key_slot, now, half_life_ms)
        sums = state.fraud if fraud else state.honest
        sums[key_slot] = max(sums[key_slot] - remaining, 0.0)


@kernel
def _learn(state: RiskState, half_life_ms: float, label_rows: LabelRows, k: int) -> None:
    """Learn one label."""
    now = _advance_time(state, float(label_rows.time_ms[k]), half_life_ms)
    key = label_rows.key[k]
    event = label_rows.event[k]
    verdict = label_rows.verdict[k]
    if key == 0 or verdict == UNKNOWN:
        return
    label_slot = _find(state.event, event) if event != 0 else -1
    if label_slot >= 0:
        _subtract_earlier(state, label_slot, now, half_life_ms)
    key_slot = _find(state.key, key)
    if key_slot < 0:
        key_slot = _oldest(state.key, state.at_ms, key)
        state.key[key_slot] = key
        state.fraud[key_slot] = 0.0
        state.honest[key_slot] = 0.0
        state.at_ms[key_slot] = now
        state.generation[key_slot] += 1
    if event != 0:
        if label_slot < 0:
            label_slot = _oldest(state.event, state.from_ms, event)
        state.event[label_slot] = event
        state.key_slot[label_slot] = key_slot
        state.label_generation[label_slot] = state.generation[key_slot]
        state.verdict[label_slot] = verdict
        state.from_ms[label_slot] = now
    _decay_key(state, key_slot, now, half_life_ms)
    if verdict == FRAUD:
        state.fraud[key_slot] += 1.0
        state.totals[ALL_FRAUD] += 1.0
    else:
        state.honest[key_slot] += 1.0
        state.totals[ALL_HONEST] += 1.0


@kernel
def _process(
    state: RiskState,
    half_life_ms: float,
    label_rows: LabelRows,
    admitted: AdmittedEvents,
    keys: U64,
    out: DetectorOutput,
) -> None:
    k = 0
    for i in range(len(admitted.row) + 1):
        while k < len(label_rows.key) and label_rows.before[k] <= i:
            _learn(state, half_life_ms, label_rows, k)
            k += 1
        if i == len(admitted.row):
            return
        if admitted.set_back[i]:
            _set_back(state, admitted.stream_ms[i])
        now = _advance_time(state, admitted.time_ms[i], half_life_ms)
        totals = state.totals
        if admitted.learn[i]:
            totals[ALL_SCORED] += 1.0
        if keys[i] == 0:
            continue
        labelled = totals[ALL_FRAUD] + totals[ALL_HONEST]
        m = totals[ALL_FRAUD] + PRIOR_EVENTS * PRIOR_SHARE
        m /= max(labelled, totals[ALL_SCORED]) + PRIOR_EVENTS
        a = PRIOR_LABELS * m
        b = PRIOR_LABELS * (1.0 - m)
        key_slot = _find(state.key, keys[i])
        if key_slot >= 0:
            keep = decayed(1.0, now - state.at_ms[key_slot], half_life_ms)
            a += keep * state.fraud[key_slot]
            b += keep * state.honest[key_slot]
        out.value[i] = a / (a + b)
        out.surprise[i] = -log(max(incomplete_beta(m, a, b), P_MIN))
        out.expected[i] = m
