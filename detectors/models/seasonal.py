"""Seasonal: does the entity have more events in this hour than usual at this hour of the week?

For sellers, products and terminals: entities with many events on Friday evening and few on Tuesday
night. An hour of the week h (168 of them, from Monday on) has the decayed sum S_h of the entity's
hourly counts and their decayed number E_h; both halve every `half_life`, in steps of a week. The
cohort's profile q_h (mean about 1) is the activity of all entities at that hour of the week. While
that hour of the week has not occurred, it is their activity at that hour of any day. While that hour
of the day has not occurred either, there is no output: a shop's first morning is no surprise. The entity's rate is

    λ_h = q_h ρ_h,   ρ_h ~ Gamma(A, B)   A = K + Σ w_k S_k   B = K/r + Σ w_k E_k q_k

over the hour (w = 1), its neighbours and the same hour of the adjacent days (½ each), K =
`PRIOR_SHAPE`, r the entity's overall rate, (k R + Σ S)/(k + Σ E q) over all hours, k =
`RATE_HOURS`, R the cohort's mean rate. A is at most `SHAPE_MAX`: the relative uncertainty
of an hour's rate is never below a fifth. At an event with n events in the hour so far, this one included, after a part τ of the hour,
the gamma–Poisson predictive distribution (negative binomial) gives

    p = P(N ≥ n) = I_x(n, A),   x = τ q_h / (B + τ q_h);   surprise = -ln p

which is also the probability that the nth event comes that early. Compare the seasonal
gamma–Poisson model of A. Ihler, J. Hutchins and P. Smyth ("Adaptive event detection with
time-varying Poisson processes", KDD 2006); here it is conjugate and online, without their event
process.

An hour is learned once it is over, at the entity's next event. Its count is winsorised at the
predictive mean plus `WINSOR_SD` deviations plus 1, about 1.6 times the mean of an hour with much
history: a burst has little effect, and a lasting doubling of the rate is learned in about four
half-lives. Hours without events are learned too. The cohort learns counts divided by the entity's r, so that busy entities do not
dominate; of weeks without any event it learns nothing.

Hours are UTC, or local time where `utc_offset_min` is mapped. The offset, in whole hours, is that of
the event at which the entity got its profile, so that a seller with customers in several time zones
has one week.

value: n; expected: mean and two deviations of the number of events expected by then. An entity gets
a profile with its `min_events`th event, while `entities_max` allows, and is scored from its next
full hour on, first by the cohort's profile; NaN before, and without a profile. Late events count
in the current hour; an event that may not be learned is scored and not counted.

Shapes: float32[slots, 168] and 5 words a slot: 712 bytes for an entity with history, 4 for others.
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
"""Expected events for which the uniform profile counts as the prior of an hour of the day, and an hour
of the day as the prior of one of the week."""
EXPECTED_MIN: Final = 0.5
"""Expected events that the cohort must have had at an hour of the day before an entity is scored at it,
as a share of the entity's own hour (at most one event)."""
COHORT_MEMORY: Final = 200_000.0
"""Hours of all entities together after which the cohort's sums are halved."""

START, NOW, COUNT, OFFSET, RATE = range(5)
"""A slot's words: the first full hour and the current hour, counted from 1970; events in the current
hour; local time minus UTC in hours; the overall rate an hour."""
WORDS: Final = 5
SEEN, EXPECTED = range(2)
EVENTS, HOURS = range(2)


class SeasonalSpec(StandaloneSpec, frozen=True, kw_only=True, tag="seasonal"):
    """The entity's event rate against its own hour of the week."""

    half_life: Duration = "28d"
    """Half-life of the counts of an hour of the week."""
    min_events: Annotated[int, Meta(ge=0)] = 20
    """Events of an entity before it gets a profile."""
    entities_max: Annotated[int, Meta(ge=1, le=100_000_000)] = 100_000_000
    """Upper bound on the entities with a profile; never more than the monitor's `capacity`."""

    def build(self, features: int, capacity: int) -> "Seasonal":
        """A state without profiles."""
        del features
        return Seasonal(self, capacity)

    def fields(self) -> list[str]:
        """The field with the offset of local time."""
        return ["utc_offset_min"]


class Profiles(NamedTuple):
    """hours: float32[slots, 168], S. words: float64[slots, 5]. cohort: float64[2, 168 + 24], counts
    divided by rates, and expected counts, by the hour of the week, then by the hour of the day.
    overall: float64[2], events and hours of all entities."""

    hours: F32
    words: F64
    cohort: F64
    overall: F64


class Seasonal:
    """The profiles of a monitor's entities."""

    arrays_by_slot: tuple[str, ...] = ("profiles/hours", "profiles/words")
    before_write: WriteHook | None = None

    def __init__(self, spec: SeasonalSpec, capacity: int) -> None:
        self.min_events = spec.min_events
        self.weekly_decay = LN2 * WEEK * HOUR_MS / (1000.0 * seconds(spec.half_life))
        self.pool = empty_pool(spec.entities_max, capacity)
        slots = len(self.pool.free)
        self.profiles = Profiles(
            hours=np.zeros((slots, WEEK), np.float32),
            words=np.zeros((slots, WORDS)),
            cohort=np.zeros((2, WEEK + DAY)),
            overall=np.zeros(2),
        )

    def process(self, batch: DetectorInput) -> DetectorOutput:
        """Score, then count, each event in order."""
        n = len(batch.admitted.row)
        out = DetectorOutput(np.full(n, np.nan), np.full(n, np.nan), np.full(n, np.nan))
        offset_min = batch.events.number.get("utc_offset_min")
        offset_min = np.full(n, np.nan) if offset_min is None else offset_min
        slots = slots_of(self.pool, batch.admitted, self.min_events)
        notify_write(self, slots)
        _process(
            slots,
            self.profiles,
            self.weekly_decay,
            batch.admitted,
            offset_min,
            out,
        )
        return out

    def save(self) -> Arrays:
        """The profiles in use, and the rows that they belong to."""
        used = int(self.pool.marks[USED])
        profiles = state_arrays(self.profiles, {"hours": used, "words": used})
        return add_prefix({"pool": state_arrays(self.pool), "profiles": profiles})

    def load(self, state: Arrays) -> None:
        """Replace the profiles by saved ones of the same declaration."""
        load(self.pool, select_prefix("pool", state))
        load(self.profiles, select_prefix("profiles", state))


@kernel
def _decayed_occurrences(times: int, weekly_decay: float) -> float:
    """E of an hour of the week. times: how often it occurred."""
    return float((1.0 - exp(-weekly_decay * times)) / (1.0 - exp(-weekly_decay)))


@kernel
def _occurrences(hour: int, hours: int, start: int, weekly_decay: float) -> float:
    """E of the hour of the week `hour` within `hours` hours from the hour of the week `start` on."""
    has_extra = (hour - start) % WEEK < hours % WEEK
    return _decayed_occurrences(hours // WEEK + (1 if has_extra else 0), weekly_decay)


@kernel
def _activity(cohort: F64, hour: int) -> float:
    """q, the cohort's activity at an hour of the week; before it has occurred, at that hour of any day."""
    day = WEEK + hour % DAY
    daily = (cohort[SEEN, day] + COHORT_PRIOR) / (cohort[EXPECTED, day] + COHORT_PRIOR)
    return float(
        (cohort[SEEN, hour] + COHORT_PRIOR * daily) / (cohort[EXPECTED, hour] + COHORT_PRIOR)
    )


@kernel
def _hour_of_week(words: F64, hour: float) -> int:
    """The hour of the week of an hour counted from 1970."""
    return int((np.int64(hour) + np.int64(words[OFFSET]) + EPOCH_HOUR) % WEEK)


@kernel
def _rate(profiles: Profiles, slot: int, hour: float, weekly_decay: float) -> tuple[float, float]:
    """(A, B) of ρ at an hour counted from 1970; all hours before it must be learned."""
    words = profiles.words[slot]
    start = _hour_of_week(words, words[START])
    hours = int(hour - words[START])
    a = PRIOR_SHAPE
    b = PRIOR_SHAPE / words[RATE]
    for step in (0, -1, 1, -24, 24):
        k = (_hour_of_week(words, hour) + step) % WEEK
        weight = 1.0 if step == 0 else NEIGHBOUR
        a += weight * profiles.hours[slot, k]
        b += weight * _occurrences(k, hours, start, weekly_decay) * _activity(profiles.cohort, k)
    return (a, b) if a <= SHAPE_MAX else (SHAPE_MAX, b * SHAPE_MAX / a)


@kernel
def _overall(profiles: Profiles, slot: int, hour: float, weekly_decay: float) -> float:
    """r of an entity; all hours before this one must be learned."""
    words = profiles.words[slot]
    start = _hour_of_week(words, words[START])
    hours = int(hour - words[START])
    overall = profiles.overall
    cohort_rate = overall[EVENTS] / overall[HOURS] if overall[HOURS] > 0.0 else 0.0
    event_count = RATE_HOURS * cohort_rate
    exposure = RATE_HOURS
    occurrences_max = _decayed_occurrences(hours // WEEK + 1, weekly_decay)
    occurrences_min = _decayed_occurrences(hours // WEEK, weekly_decay)
    for k in range(WEEK):
        event_count += profiles.hours[slot, k]
        has_extra = (k - start) % WEEK < hours % WEEK
        exposure += (occurrences_max if has_extra else occurrences_min) * _activity(
            profiles.cohort, k
        )
    return max(event_count / exposure, RATE_MIN)


@kernel
def _learn_cohort(profiles: Profiles, hour: int, count: float, rate: float) -> None:
    """Learn one hour of an entity. rate: the entity's overall rate r."""
    for k in (hour, WEEK + hour % DAY):
        profiles.cohort[SEEN, k] += count * min(1.0, 1.0 / rate)
        profiles.cohort[EXPECTED, k] += min(1.0, rate)
    profiles.overall[EVENTS] += count
    profiles.overall[HOURS] += 1.0
    if profiles.overall[HOURS] > COHORT_MEMORY:
        for k in range(profiles.cohort.shape[1]):
            profiles.cohort[SEEN, k] *= 0.5
            profiles.cohort[EXPECTED, k] *= 0.5
        profiles.overall[EVENTS] *= 0.5
        profiles.overall[HOURS] *= 0.5


@kernel
def _learn_hours(profiles: Profiles, slot: int, hour: float, weekly_decay: float) -> None:
    """Learn the hour that is over and the empty hours since; `hour` is the current one."""
    words = profiles.words[slot]
    hours = profiles.hours[slot]
    decay_factor = exp(-weekly_decay)
    if words[NOW] >= words[START]:
        a, b = _rate(profiles, slot, words[NOW], weekly_decay)
        k = _hour_of_week(words, words[NOW])
        mean = _activity(profiles.cohort, k) * a / b
        count = min(words[COUNT], mean + WINSOR_SD * sqrt(mean + mean * mean / a) + 1.0)
        hours[k] = decay_factor * hours[k] + count
        _learn_cohort(profiles, k, count, words[RATE])
        words[NOW] += 1.0
    else:
        words[NOW] = words[START]
    empty = int(hour - words[NOW])
    if empty >= WEEK:
        for k in range(WEEK):
            hours[k] *= exp(-weekly_decay * (empty // WEEK))
    for step in range(empty % WEEK):
        k = _hour_of_week(words, words[NOW] + step)
        hours[k] *= decay_factor
        _learn_cohort(profiles, k, 0.0, words[RATE])
    words[NOW] = hour
    words[COUNT] = 0.0
    words[RATE] = _overall(profiles, slot, hour, weekly_decay)


@kernel
def _begin_profile(
    profiles: Profiles, slot: int, hour: float, offset_min: float, weekly_decay: float
) -> None:
    """Begin an empty profile, which is filled from the next hour on."""
    profiles.hours[slot] = 0.0
    words = profiles.words[slot]
    words[START] = hour + 1.0
    words[NOW] = hour
    words[COUNT] = 0.0
    words[OFFSET] = 0.0 if isnan(offset_min) else floor(offset_min / 60.0 + 0.5)
    words[RATE] = _overall(profiles, slot, words[START], weekly_decay)


@kernel
def _process(
    slots: EventSlots,
    profiles: Profiles,
    weekly_decay: float,
    admitted: AdmittedEvents,
    offset_min: F64,
    out: DetectorOutput,
) -> None:
    for i in range(len(admitted.row)):
        slot = slots.slot[i]
        if slot < 0:
            continue
        hour = floor(admitted.time_ms[i] / HOUR_MS)
        if slots.allocated[i]:
            _begin_profile(profiles, slot, hour, offset_min[i], weekly_decay)
        words = profiles.words[slot]
        if hour > words[NOW]:
            _learn_hours(profiles, slot, hour, weekly_decay)
        count = words[COUNT] + 1.0
        if admitted.learn[i]:
            words[COUNT] = count
        k = _hour_of_week(words, hour)
        cohort_is_known = profiles.cohort[EXPECTED, WEEK + k % DAY] >= EXPECTED_MIN * min(
            1.0, words[RATE]
        )
        if words[NOW] < words[START] or not cohort_is_known:
            continue
        elapsed = max(admitted.time_ms[i] / HOUR_MS - hour, ELAPSED_MIN)
        a, b = _rate(profiles, slot, hour, weekly_decay)
        exposure = elapsed * _activity(profiles.cohort, k)
        mean = exposure * a / b
        out.value[i] = count
        out.surprise[i] = -log(max(incomplete_beta(exposure / (b + exposure), count, a), P_MIN))
        out.expected[i] = mean + EXPECTED_SD * sqrt(mean + mean * mean / a)
