"""Seasonal: does the entity have more events in this hour than it has at this hour of the week?

For sellers, products, terminals: what is busy on Friday evening and quiet on Tuesday night. An hour
of the week h (168 of them, Monday to Sunday) has the decayed sum of the entity's hourly counts S_h
and their decayed number E_h; both halve every `half_life` in steps of a week. The cohort's profile
q_h (mean about 1) is what all entities together do at that hour; where the week has not brought
it yet, what they do at that hour of any day; and where no day has, the detector is silent, for the
first morning of a shop is no surprise. The entity's rate at it is

    λ_h = q_h ρ_h,   ρ_h ~ Gamma(A, B)   A = K + Σ w_k S_k   B = K/r + Σ w_k E_k q_k

over the hour (w = 1), its neighbours and the same hour of the days beside (½ each), K =
`PRIOR_SHAPE`, r the entity's overall rate, (k R + Σ S)/(k + Σ E q) over all hours, k =
`RATE_HOURS`, R the cohort's mean rate. A is at most `SHAPE_MAX`: no hour is known better than to a
fifth. At an event with n events in the hour so far, this one included, and τ of the hour gone by,
the gamma–Poisson predictive (negative binomial) says

    p = P(N ≥ n) = I_x(n, A),   x = τ q_h / (B + τ q_h);   surprise = -ln p

which is also the probability that the nth event comes that early. Compare the seasonal
gamma–Poisson of A. Ihler, J. Hutchins and P. Smyth ("Adaptive event detection with time-varying
Poisson processes", KDD 2006); here it is conjugate and online, without their event process.

An hour is learned when it is over, at the entity's next event, at most at its predictive mean plus
`WINSOR_SD` deviations plus 1, about 1.6 times its mean where it is known well: a burst teaches
little, and twice the rate for good is learned in about four half-lives. Hours in which nothing
happened are learned as well. The cohort learns counts over their entity's r, so that
the busy do not speak for all; of weeks without any event it learns nothing.

Hours are UTC; where `utc_offset_min` is mapped, those of the event at which the entity got its
profile (in whole hours), so that a seller whose buyers live elsewhere keeps one week.

value: n; expected: mean and two deviations of what was due by then. An entity gets a profile with
its `min_events`th event, while `entities_max` allows, and is judged from its next full hour on,
first by the cohort's profile; NaN before, and without one. Late events count into the current hour;
what is not to be learned is judged and not counted.

Shapes: float32[slots, 168] and 5 words a slot: 712 bytes an entity with history, 4 others.
Cost: about 0.6 µs an event, and 1 µs more at an entity's first event of an hour.
"""

from math import exp, floor, isnan, log, sqrt
from typing import Annotated, Final, NamedTuple

import numpy as np
from msgspec import Meta

from detectors.entities import AdmittedEvents
from detectors.models.interface import DetectorInput, DetectorOutput, StandaloneSpec
from detectors.models.pool import USED, EventSlots, empty_pool, notify_write, slots_of
from detectors.numeric.beta import incomplete_beta
from detectors.numeric.combination import P_MIN
from detectors.numeric.decay import HOUR_MS, LN2
from detectors.numeric.kernels import kernel
from detectors.spec import Duration, seconds
from detectors.state import Arrays, WriteHook, add_prefix, load, select_prefix, state_arrays
from schemas.columns import F32, F64

WEEK: Final = 168
DAY: Final = 24
EPOCH_HOUR: Final = 72
"""The hour of the week, from Monday on, at which 1970 began."""
PRIOR_SHAPE: Final = 1.0
RATE_HOURS: Final = 6.0
SHAPE_MAX: Final = 25.0
RATE_MIN: Final = 1e-3
WINSOR_SD: Final = 3.0
EXPECTED_SD: Final = 2.0
NEIGHBOUR: Final = 0.5
ELAPSED_MIN: Final = 1.0 / 3600.0
COHORT_PRIOR: Final = 5.0
"""Expected events that the even profile is worth to an hour of the day, and this to one of the
week."""
DUE_MIN: Final = 0.5
"""Of an entity's own hour (at most one event): what the cohort must have had due at that hour of
the day before the entity is judged at it."""
COHORT_MEMORY: Final = 200_000.0
"""Hours of all entities together after which the cohort's halve."""

START, NOW, COUNT, OFFSET, RATE = range(5)
"""A slot's words: the first full hour and the current one, counted from 1970; events in it; local
time minus UTC in hours; the overall rate an hour."""
WORDS: Final = 5
SEEN, DUE = range(2)
EVENTS, HOURS = range(2)


class SeasonalSpec(StandaloneSpec, frozen=True, kw_only=True, tag="seasonal"):
    """The entity's event rate against its own hour of the week."""

    half_life: Duration = "28d"
    """Half-life of what is known about an hour of the week."""
    min_events: Annotated[int, Meta(ge=0)] = 20
    """Events of an entity before it gets a profile."""
    entities_max: Annotated[int, Meta(ge=1, le=100_000_000)] = 100_000_000
    """Upper bound on the entities with a profile; never more than the monitor's `capacity`."""

    def build(self, features: int, capacity: int) -> "Seasonal":
        """No profile yet."""
        del features
        return Seasonal(self, capacity)

    def fields(self) -> list[str]:
        """What makes hours local ones."""
        return ["utc_offset_min"]


class Profiles(NamedTuple):
    """hours: float32[slots, 168], S. words: float64[slots, 5]. cohort: float64[2, 168 + 24], counts
    over rates and how many were due, by the hour of the week, and behind these by that of the day;
    overall: events and hours of all entities."""

    hours: F32
    words: F64
    cohort: F64
    overall: F64


class Seasonal:
    """The profiles of a monitor's entities, and what they say of each event."""

    arrays_by_slot: tuple[str, ...] = ("profiles/hours", "profiles/words")
    before_write: WriteHook | None = None

    def __init__(self, spec: SeasonalSpec, capacity: int) -> None:
        self.min_events = spec.min_events
        self.fading = LN2 * WEEK * HOUR_MS / (1000.0 * seconds(spec.half_life))
        self.pool = empty_pool(spec.entities_max, capacity)
        slots = len(self.pool.free)
        self.profiles = Profiles(
            hours=np.zeros((slots, WEEK), np.float32),
            words=np.zeros((slots, WORDS)),
            cohort=np.zeros((2, WEEK + DAY)),
            overall=np.zeros(2),
        )

    def process(self, seen: DetectorInput) -> DetectorOutput:
        """Judge, then count, each event in order."""
        n = len(seen.admitted.row)
        out = DetectorOutput(np.full(n, np.nan), np.full(n, np.nan), np.full(n, np.nan))
        offset_min = seen.events.number.get("utc_offset_min")
        offset_min = np.full(n, np.nan) if offset_min is None else offset_min
        slots = slots_of(self.pool, seen.admitted, self.min_events)
        notify_write(self, slots)
        _process(
            slots,
            self.profiles,
            self.fading,
            seen.admitted,
            offset_min,
            out,
        )
        return out

    def save(self) -> Arrays:
        """The profiles in use and who owns them."""
        used = int(self.pool.marks[USED])
        profiles = state_arrays(self.profiles, {"hours": used, "words": used})
        return add_prefix({"pool": state_arrays(self.pool), "profiles": profiles})

    def load(self, state: Arrays) -> None:
        """Replace the profiles by saved ones of the same declaration."""
        load(self.pool, select_prefix("pool", state))
        load(self.profiles, select_prefix("profiles", state))


@kernel
def _decayed(times: int, fading: float) -> float:
    """E of an hour of the week that was there so many times."""
    return float((1.0 - exp(-fading * times)) / (1.0 - exp(-fading)))


@kernel
def _times(hour: int, hours: int, start: int, fading: float) -> float:
    """E of the hour of the week `hour` among the `hours` from the hour of the week `start` on."""
    once_more = (hour - start) % WEEK < hours % WEEK
    return _decayed(hours // WEEK + (1 if once_more else 0), fading)


@kernel
def _usual(cohort: F64, hour: int) -> float:
    """q, the cohort's share of an hour of the week; of one not yet seen, that hour of any day's."""
    day = WEEK + hour % DAY
    daily = (cohort[SEEN, day] + COHORT_PRIOR) / (cohort[DUE, day] + COHORT_PRIOR)
    return float((cohort[SEEN, hour] + COHORT_PRIOR * daily) / (cohort[DUE, hour] + COHORT_PRIOR))


@kernel
def _of_week(words: F64, hour: float) -> int:
    """The hour of the week of an hour counted from 1970."""
    return int((np.int64(hour) + np.int64(words[OFFSET]) + EPOCH_HOUR) % WEEK)


@kernel
def _rate(profiles: Profiles, slot: int, hour: float, fading: float) -> tuple[float, float]:
    """(A, B) of ρ at an hour counted from 1970, all before it learned."""
    words = profiles.words[slot]
    start = _of_week(words, words[START])
    hours = int(hour - words[START])
    a = PRIOR_SHAPE
    b = PRIOR_SHAPE / words[RATE]
    for step in (0, -1, 1, -24, 24):
        k = (_of_week(words, hour) + step) % WEEK
        weight = 1.0 if step == 0 else NEIGHBOUR
        a += weight * profiles.hours[slot, k]
        b += weight * _times(k, hours, start, fading) * _usual(profiles.cohort, k)
    return (a, b) if a <= SHAPE_MAX else (SHAPE_MAX, b * SHAPE_MAX / a)


@kernel
def _overall(profiles: Profiles, slot: int, hour: float, fading: float) -> float:
    """r of an entity, all hours before this one learned."""
    words = profiles.words[slot]
    start = _of_week(words, words[START])
    hours = int(hour - words[START])
    overall = profiles.overall
    peers = overall[EVENTS] / overall[HOURS] if overall[HOURS] > 0.0 else 0.0
    seen = RATE_HOURS * peers
    due = RATE_HOURS
    often = _decayed(hours // WEEK + 1, fading)
    less = _decayed(hours // WEEK, fading)
    for k in range(WEEK):
        seen += profiles.hours[slot, k]
        once_more = (k - start) % WEEK < hours % WEEK
        due += (often if once_more else less) * _usual(profiles.cohort, k)
    return max(seen / due, RATE_MIN)


@kernel
def _learn_cohort(profiles: Profiles, hour: int, count: float, rate: float) -> None:
    """One more hour of an entity with that rate."""
    for k in (hour, WEEK + hour % DAY):
        profiles.cohort[SEEN, k] += count * min(1.0, 1.0 / rate)
        profiles.cohort[DUE, k] += min(1.0, rate)
    profiles.overall[EVENTS] += count
    profiles.overall[HOURS] += 1.0
    if profiles.overall[HOURS] > COHORT_MEMORY:
        for k in range(profiles.cohort.shape[1]):
            profiles.cohort[SEEN, k] *= 0.5
            profiles.cohort[DUE, k] *= 0.5
        profiles.overall[EVENTS] *= 0.5
        profiles.overall[HOURS] *= 0.5


@kernel
def _turn(profiles: Profiles, slot: int, hour: float, fading: float) -> None:
    """Learn the hour that is over and the empty ones since; `hour` is the current one."""
    words = profiles.words[slot]
    hours = profiles.hours[slot]
    keep = exp(-fading)
    if words[NOW] >= words[START]:
        a, b = _rate(profiles, slot, words[NOW], fading)
        k = _of_week(words, words[NOW])
        mean = _usual(profiles.cohort, k) * a / b
        count = min(words[COUNT], mean + WINSOR_SD * sqrt(mean + mean * mean / a) + 1.0)
        hours[k] = keep * hours[k] + count
        _learn_cohort(profiles, k, count, words[RATE])
        words[NOW] += 1.0
    else:
        words[NOW] = words[START]
    empty = int(hour - words[NOW])
    if empty >= WEEK:
        for k in range(WEEK):
            hours[k] *= exp(-fading * (empty // WEEK))
    for step in range(empty % WEEK):
        k = _of_week(words, words[NOW] + step)
        hours[k] *= keep
        _learn_cohort(profiles, k, 0.0, words[RATE])
    words[NOW] = hour
    words[COUNT] = 0.0
    words[RATE] = _overall(profiles, slot, hour, fading)


@kernel
def _begin(profiles: Profiles, slot: int, hour: float, offset_min: float, fading: float) -> None:
    """An empty profile, to be filled from the next hour on."""
    profiles.hours[slot] = 0.0
    words = profiles.words[slot]
    words[START] = hour + 1.0
    words[NOW] = hour
    words[COUNT] = 0.0
    words[OFFSET] = 0.0 if isnan(offset_min) else floor(offset_min / 60.0 + 0.5)
    words[RATE] = _overall(profiles, slot, words[START], fading)


@kernel
def _process(
    slots: EventSlots,
    profiles: Profiles,
    fading: float,
    events: AdmittedEvents,
    offset_min: F64,
    out: DetectorOutput,
) -> None:
    for i in range(len(events.row)):
        slot = slots.slot[i]
        if slot < 0:
            continue
        hour = floor(events.time_ms[i] / HOUR_MS)
        if slots.allocated[i]:
            _begin(profiles, slot, hour, offset_min[i], fading)
        words = profiles.words[slot]
        if hour > words[NOW]:
            _turn(profiles, slot, hour, fading)
        count = words[COUNT] + 1.0
        if events.learn[i]:
            words[COUNT] = count
        k = _of_week(words, hour)
        known = profiles.cohort[DUE, WEEK + k % DAY] >= DUE_MIN * min(1.0, words[RATE])
        if words[NOW] < words[START] or not known:
            continue
        elapsed = max(events.time_ms[i] / HOUR_MS - hour, ELAPSED_MIN)
        a, b = _rate(profiles, slot, hour, fading)
        due = elapsed * _usual(profiles.cohort, k)
        mean = due * a / b
        out.value[i] = count
        out.surprise[i] = -log(max(incomplete_beta(due / (b + due), count, a), P_MIN))
        out.expected[i] = mean + EXPECTED_SD * sqrt(mean + mean * mean / a)
