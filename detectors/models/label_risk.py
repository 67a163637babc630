"""Label risk: what share of what was confirmed at this entity was fraud, as known at that time?

Label events (verdict "fraud" or "honest"; others teach nothing) come through the log like all
events. Each adds one to its key's decayed frauds f or honest ones h; the key is the value of
`field` (by default the monitor's entity). Beta–binomial, with the cohort's share m as prior (the
compound sampling model of J. G. Skellam, 1948):

    share ~ Beta(K m + f, K (1 - m) + h)                        K = `PRIOR_LABELS`
    m = (F + P P_SHARE)/(max(F + H, N) + P)                     P = `COHORT_PRIOR`
    value = (K m + f)/(K + f + h);   surprise = -ln P(share ≤ m) = -ln I_m(K m + f, K (1 - m) + h)

F and H are the cohort's frauds and honest ones, N the events judged: where only frauds are
reported, silence counts as honest in the prior, and m stays the share of events that are confirmed
as fraud. The surprise grows with the share and with how many labels speak for it; it is near 0 for
a key of which nothing, or nothing bad, is known. All sums halve every `half_life` of stream time,
which never goes back: a label counts from when it is known, not from when the event happened.

A later label for the same event (`labelled_event_id`) replaces the earlier one: what is left of its
weight is taken back from the cohort and from the key that had it, unless that key has given way
since: if it came back, then without that weight. The last `labels_max` labelled events are
remembered, and the `keys_max` keys labelled last, both in sets of `WAYS`, of which the oldest gives
way. They are found by keyed hash and do not go with the entity's row: an entity that was evicted is
still the one that defrauded. Labels are taken at their word: nothing is winsorised.

expected: m. NaN where the key is absent. A label event is itself never judged. Events that are not
to be learned are judged and not counted in N.

Shapes: uint64, int64 and 3 float64 a key, uint64, 2 int64 and 2 float64 a labelled event: 8 MB as
it comes, none an entity. Cost: about 0.2 µs an event.
"""

from math import log
from typing import Annotated, Final, NamedTuple

import numpy as np
from msgspec import Meta

from detectors.combination import P_MIN
from detectors.decay import decayed
from detectors.entities import Admitted
from detectors.kernels import kernel
from detectors.models.own import OwnSpec, Seen, Verdict
from detectors.models.tail import incomplete_beta
from detectors.spec import Duration, seconds
from detectors.state import Arrays, load, saved
from detectors.verdicts import FRAUD, UNKNOWN, verdicts
from schemas.columns import F64, I64, U64
from schemas.events import ENTITY_FIELDS

PRIOR_LABELS: Final = 4.0
COHORT_PRIOR: Final = 100.0
PRIOR_SHARE: Final = 0.01
WAYS: Final = 8

ALL_FRAUD, ALL_HONEST, ALL_JUDGED, NOW_MS = range(4)


class LabelRiskSpec(OwnSpec, frozen=True, kw_only=True, tag="label_risk"):
    """The share of confirmed fraud.

    field: whose value is looked at, the monitor's entity where none is named. half_life: of labels.
    keys_max: labelled values remembered; labels_max: labelled events remembered, to be relabelled.
    """

    field: str | None = None
    half_life: Duration = "14d"
    keys_max: Annotated[int, Meta(ge=WAYS, le=100_000_000)] = 100_000
    labels_max: Annotated[int, Meta(ge=WAYS, le=100_000_000)] = 100_000

    def build(self, features: int, capacity: int) -> "LabelRisk":
        """Nothing is known of anybody."""
        del features, capacity
        return LabelRisk(self)

    def fields(self) -> list[str]:
        """What a label says, and the key where it is not the entity."""
        return ["verdict", "labelled_event_id", *([self.field] if self.field else [])]

    def problems(self) -> list[str]:
        """A field that names no entity: no label would carry it."""
        if self.field is None or self.field in ENTITY_FIELDS:
            return []
        return [f"field: got {self.field}; expected one of {', '.join(ENTITY_FIELDS)}"]

    def discrete(self) -> bool:
        """All of whom nothing is known are alike."""
        return True


class Known(NamedTuple):
    """What is known. key: uint64[keys], 0 free; fraud, honest: their decayed labels; at_ms: the
    time these hold for; placing: int64[keys], the number of keys put at this place so far, this one
    included. event: uint64[labels], 0 free; place: int64[labels], of the key its label went to, and
    placing_then: that key's placing; verdict; from_ms: since when it is known. cohort: frauds,
    honest ones, events judged, stream time."""

    key: U64
    fraud: F64
    honest: F64
    at_ms: F64
    placing: I64
    event: U64
    place: I64
    placing_then: I64
    verdict: F64
    from_ms: F64
    cohort: F64


class Told(NamedTuple):
    """The labels of a batch. before: int64[k], judged events before each. key, event: uint64[k], 0
    absent. verdict: int64[k]. time_ms: int64[k]."""

    before: I64
    key: U64
    event: U64
    verdict: I64
    time_ms: I64


class LabelRisk:
    """What labels said of the values of one field."""

    def __init__(self, spec: LabelRiskSpec) -> None:
        self.field = spec.field
        self.half_life_ms = 1000.0 * seconds(spec.half_life)
        keys = WAYS * (spec.keys_max // WAYS)
        labels = WAYS * (spec.labels_max // WAYS)
        self.known = Known(
            key=np.zeros(keys, np.uint64),
            fraud=np.zeros(keys),
            honest=np.zeros(keys),
            at_ms=np.zeros(keys),
            placing=np.zeros(keys, np.int64),
            event=np.zeros(labels, np.uint64),
            place=np.zeros(labels, np.int64),
            placing_then=np.zeros(labels, np.int64),
            verdict=np.zeros(labels),
            from_ms=np.zeros(labels),
            cohort=np.zeros(4),
        )

    def process(self, seen: Seen) -> Verdict:
        """Learn the labels and judge the events, in the order of the log."""
        n = len(seen.admitted.row)
        out = Verdict(np.full(n, np.nan), np.full(n, np.nan), np.full(n, np.nan))
        field = self.field or seen.entity
        labels = seen.labels
        told = Told(
            labels.before,
            labels.hashed(field),
            labels.hashed("labelled_event_id"),
            verdicts(labels.events),
            labels.events.time_ms,
        )
        _process(self.known, self.half_life_ms, told, seen.admitted, seen.hashed(field), out)
        return out

    def save(self) -> Arrays:
        """What is known."""
        return saved(self.known)

    def load(self, state: Arrays) -> None:
        """Replace what is known by what was saved under the same declaration."""
        load(self.known, state)


@kernel
def _find(keys: U64, hashed: np.uint64) -> int:
    """The place of a hash, -1 where it is not."""
    first = WAYS * np.int64(hashed % np.uint64(len(keys) // WAYS))
    for place in range(first, first + WAYS):
        if keys[place] == hashed:
            return int(place)
    return -1


@kernel
def _oldest(keys: U64, since_ms: F64, hashed: np.uint64) -> int:
    """The place that a new hash may take: a free one, or the one untouched for longest."""
    first = WAYS * np.int64(hashed % np.uint64(len(keys) // WAYS))
    oldest = int(first)
    for place in range(first, first + WAYS):
        if keys[place] == 0:
            return int(place)
        if since_ms[place] < since_ms[oldest]:
            oldest = int(place)
    return oldest


@kernel
def _pass_time(known: Known, time_ms: float, half_life_ms: float) -> float:
    """Stream time at an event; the cohort's sums fade up to it."""
    cohort = known.cohort
    now = max(time_ms, float(cohort[NOW_MS]))
    keep = decayed(1.0, now - cohort[NOW_MS], half_life_ms)
    for k in range(NOW_MS):
        cohort[k] *= keep
    cohort[NOW_MS] = now
    return now


@kernel
def _set_back(known: Known, stream_ms: float) -> None:
    """Set every clock back to stream time."""
    known.cohort[NOW_MS] = min(known.cohort[NOW_MS], stream_ms)
    for place in range(len(known.at_ms)):
        known.at_ms[place] = min(known.at_ms[place], stream_ms)
    for place in range(len(known.from_ms)):
        known.from_ms[place] = min(known.from_ms[place], stream_ms)


@kernel
def _fade(known: Known, place: int, now: float, half_life_ms: float) -> None:
    """A key's sums as of now."""
    keep = decayed(1.0, now - known.at_ms[place], half_life_ms)
    known.fraud[place] *= keep
    known.honest[place] *= keep
    known.at_ms[place] = now


@kernel
def _take_back(known: Known, earlier: int, now: float, half_life_ms: float) -> None:
    """Take the rest of an earlier label from the cohort, and from its key if it still has it."""
    rest = decayed(1.0, now - known.from_ms[earlier], half_life_ms)
    fraud = known.verdict[earlier] == FRAUD
    part = ALL_FRAUD if fraud else ALL_HONEST
    known.cohort[part] = max(known.cohort[part] - rest, 0.0)
    place = known.place[earlier]
    if known.placing[place] == known.placing_then[earlier]:
        _fade(known, place, now, half_life_ms)
        sums = known.fraud if fraud else known.honest
        sums[place] = max(sums[place] - rest, 0.0)


@kernel
def _learn(known: Known, half_life_ms: float, told: Told, k: int) -> None:
    """Learn one label."""
    now = _pass_time(known, float(told.time_ms[k]), half_life_ms)
    key = told.key[k]
    event = told.event[k]
    verdict = told.verdict[k]
    if key == 0 or verdict == UNKNOWN:
        return
    at = _find(known.event, event) if event != 0 else -1
    if at >= 0:
        _take_back(known, at, now, half_life_ms)
    place = _find(known.key, key)
    if place < 0:
        place = _oldest(known.key, known.at_ms, key)
        known.key[place] = key
        known.fraud[place] = 0.0
        known.honest[place] = 0.0
        known.at_ms[place] = now
        known.placing[place] += 1
    if event != 0:
        if at < 0:
            at = _oldest(known.event, known.from_ms, event)
        known.event[at] = event
        known.place[at] = place
        known.placing_then[at] = known.placing[place]
        known.verdict[at] = verdict
        known.from_ms[at] = now
    _fade(known, place, now, half_life_ms)
    if verdict == FRAUD:
        known.fraud[place] += 1.0
        known.cohort[ALL_FRAUD] += 1.0
    else:
        known.honest[place] += 1.0
        known.cohort[ALL_HONEST] += 1.0


@kernel
def _process(
    known: Known, half_life_ms: float, told: Told, events: Admitted, keys: U64, out: Verdict
) -> None:
    k = 0
    for i in range(len(events.row) + 1):
        while k < len(told.key) and told.before[k] <= i:
            _learn(known, half_life_ms, told, k)
            k += 1
        if i == len(events.row):
            return
        if events.set_back[i]:
            _set_back(known, events.stream_ms[i])
        now = _pass_time(known, events.time_ms[i], half_life_ms)
        cohort = known.cohort
        if events.learn[i]:
            cohort[ALL_JUDGED] += 1.0
        if keys[i] == 0:
            continue
        labelled = cohort[ALL_FRAUD] + cohort[ALL_HONEST]
        m = cohort[ALL_FRAUD] + COHORT_PRIOR * PRIOR_SHARE
        m /= max(labelled, cohort[ALL_JUDGED]) + COHORT_PRIOR
        a = PRIOR_LABELS * m
        b = PRIOR_LABELS * (1.0 - m)
        place = _find(known.key, keys[i])
        if place >= 0:
            keep = decayed(1.0, now - known.at_ms[place], half_life_ms)
            a += keep * known.fraud[place]
            b += keep * known.honest[place]
        out.value[i] = a / (a + b)
        out.surprise[i] = -log(max(incomplete_beta(m, a, b), P_MIN))
        out.expected[i] = m
