"""Every feature kind against a short reference in pure Python that goes over all earlier events."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from math import atan2, cos, exp, inf, isnan, log, log2, pi, radians, sin, sqrt
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.features import BUILT_IN, KINDS, habit, pairings
from detectors.features.travel import distance_km
from detectors.monitor import Monitor, MonitorOutput, matches
from detectors.numeric.hashing import hash_text
from detectors.scoring import explain
from detectors.spec import EventFilter, FeatureSpec, seconds
from schemas.columns import F64, I64, Bools, EventBatch
from tests.laws.registry import MONITORS, feature, monitor
from tests.streams import START_MS, batch

KEY = (1, 2)
HALF_LIFE_MS = 3_600_000.0
AGAINST_MS = 24 * HALF_LIFE_MS
AMOUNT = FeatureSpec(name="amount", kind="value", field="amount")
PAYMENT: EventFilter = {"kind": "payment"}
few = settings(max_examples=8, deadline=None)
seeds = given(seed=st.integers(0, 2**32))


class Moment(NamedTuple):
    """An event at which a feature has a value: its index, and those of the entity's earlier events
    that were learned since it has its row."""

    i: int
    past: list[int]


def stream(seed: int) -> EventBatch:
    """More accounts than rows, and late events, some of them too late to be learned."""
    return batch(seed, 300, entities=30, late=0.1, absent=0.1)


def watch(spec: FeatureSpec, events: EventBatch) -> tuple[F64, MonitorOutput]:
    """A feature's values at all events, together with the magnitude of the amount; every event
    applies."""
    # Without an account an event would not be applicable, and the indices would not be the batch's.
    events.text["account"] = events.text["account"].fill_null("nobody")
    events.number["utc_offset_min"][::3] = 330.0
    output = Monitor(
        monitor([spec, AMOUNT], MONITORS["whole"].detectors), KEY, ahead_max_ms=inf
    ).process(events)
    return output.feature_values.values[0], output


def moments(output: MonitorOutput, active: Bools) -> Iterator[Moment]:
    """Every active event, in order."""
    past: dict[int, list[int]] = {}
    for i, row in enumerate(output.admitted.row.tolist()):
        if output.admitted.fresh[i]:
            past[row] = []
        if active[i]:
            yield Moment(i, past[row])
            if output.admitted.learn[i]:
                past[row].append(i)


def weights(output: MonitorOutput, moment: Moment, half_life_ms: float) -> list[float]:
    """The weight of each earlier event, and of this one, at this one."""
    time_ms = output.admitted.time_ms
    return [
        float(2.0 ** (-(time_ms[moment.i] - time_ms[k]) / half_life_ms))
        for k in (*moment.past, moment.i)
    ]


def check(
    spec: FeatureSpec,
    events: EventBatch,
    reference: Callable[[MonitorOutput, Moment], float],
    active: Bools | None = None,
) -> None:
    """The feature equals the reference within 1e-9 wherever it is active, and is NaN elsewhere."""
    values, output = watch(spec, events)
    expected = np.full(len(events), np.nan)
    every = np.ones(len(events), np.bool_)
    for moment in moments(output, every if active is None else active):
        expected[moment.i] = reference(output, moment)
    np.testing.assert_allclose(values, expected, rtol=1e-9, atol=1e-9)
    assert not np.isnan(values).all()


def present(events: EventBatch, field: str) -> Bools:
    """The events that have the field."""
    return np.asarray(events.text[field].is_valid().to_numpy(zero_copy_only=False), np.bool_)


@few
@given(seed=st.integers(0, 2**32), half_life=st.sampled_from(["1min", "45min", "1h", "24h", "30d"]))
def test_counts_and_sums_decay_over_all_past_events(seed: int, half_life: str) -> None:
    """Σ 2^-(age / half-life), this event included; likewise of |amount|, each amount relative to
    its currency as of its event."""
    events = stream(seed)
    half_life_ms = 1000.0 * seconds(half_life)
    count = FeatureSpec(name="n", kind="count", half_life=half_life)
    total = FeatureSpec(name="s", kind="sum", field="amount", half_life=half_life)

    def reference(w: MonitorOutput, m: Moment) -> float:
        return sum(
            weight * float(w.feature_values.values[1, k])
            for weight, k in zip(weights(w, m, half_life_ms), (*m.past, m.i), strict=True)
        )

    def counted(w: MonitorOutput, m: Moment) -> float:
        if not w.admitted.learn[m.i]:  # test_late says what is counted then
            return float(w.feature_values.values[0, m.i])
        return sum(weights(w, m, half_life_ms))

    check(count, events, counted)
    check(total, events, reference, ~np.isnan(events.number["amount"]))


@few
@seeds
def test_gap_is_the_time_since_the_last_event(seed: int) -> None:
    """Seconds since the entity's last event that was learned, NaN at its first."""

    def reference(w: MonitorOutput, m: Moment) -> float:
        time_ms = w.admitted.time_ms
        return float(time_ms[m.i] - time_ms[m.past[-1]]) / 1000.0 if m.past else np.nan

    check(feature("gap"), stream(seed), reference)


@few
@seeds
def test_value_features_are_the_events_own_numbers(seed: int) -> None:
    """A number's magnitude; and the hour of the local day, by UTC where no offset is given."""
    events = stream(seed)
    status = events.number["status"]
    status[::2] *= -1.0
    check(
        FeatureSpec(name="v", kind="value", field="status"), events, lambda w, m: abs(status[m.i])
    )

    def hour(w: MonitorOutput, m: Moment) -> float:
        offset_min = events.number["utc_offset_min"][m.i]
        local_ms = w.admitted.time_ms[m.i] + (0.0 if isnan(offset_min) else 60_000.0 * offset_min)
        return float(local_ms / 3_600_000.0 % 24.0)

    check(feature("time_of_day"), events, hour)


@few
@seeds
def test_ratio_compares_two_decayed_counts(seed: int) -> None:
    """The short count divided by what the long one predicts, both since the entity's first
    event."""

    def reference(w: MonitorOutput, m: Moment) -> float:
        short, long = (sum(weights(w, m, span)) for span in (HALF_LIFE_MS, AGAINST_MS))
        age_ms = w.admitted.time_ms[m.i] - w.admitted.time_ms[(*m.past, m.i)[0]]
        seen = [span * (1.0 - 2.0 ** (-age_ms / span)) for span in (HALF_LIFE_MS, AGAINST_MS)]
        expected = long * (seen[0] / seen[1] if age_ms else 1.0)
        return float((short + 1.0) / (expected + 1.0))

    check(feature("ratio"), stream(seed), reference)


def test_ratio_is_one_at_a_steady_rate_and_rises_in_a_burst() -> None:
    """A new entity at a steady rate stays near 1 from its first event on; a burst is far above."""
    time_ms = START_MS + np.concatenate([np.arange(0, 4_000) * 60_000, np.full(500, 240_000_000)])
    values, _ = watch(feature("ratio"), one_account(time_ms.astype(np.int64)))
    assert values[0] == 1.0
    assert np.all(np.abs(values[:4_000] - 1.0) < 0.1)
    assert values[-1] > 5.0


@few
@seeds
def test_gap_spread_is_the_standard_deviation_of_log_gaps(seed: int) -> None:
    """Each gap weighs as its event does; NaN below a weight of four."""

    def reference(w: MonitorOutput, m: Moment) -> float:
        gap_s = np.diff(w.admitted.time_ms[[*m.past, m.i]]) / 1000.0
        y = np.log(gap_s + 0.1)
        weight = np.array(weights(w, m, HALF_LIFE_MS)[1:])
        if weight.sum() < 4.0:
            return np.nan
        mean = np.average(y, weights=weight)
        return sqrt(np.average((y - mean) ** 2, weights=weight))

    check(feature("gap_spread"), batch(seed, 300, entities=4, late=0.05), reference)


def test_gap_spread_separates_a_clock_from_chance() -> None:
    """0 for a clock, π/√6 for a Poisson process."""
    draw = np.random.Generator(np.random.PCG64(1))
    spec = FeatureSpec(name="spread", kind="gap_spread", half_life="30d")
    clock, _ = watch(spec, one_account(START_MS + np.arange(100) * 5_000))
    chance, _ = watch(
        spec, one_account(START_MS + np.cumsum(draw.exponential(3e6, 2_000)).astype(np.int64))
    )
    assert clock[-1] < 1e-6
    assert chance[-1] == pytest.approx(pi / sqrt(6.0), rel=0.1)


def one_account(time_ms: I64) -> EventBatch:
    """A batch of one account's events at the given times."""
    events = batch(0, len(time_ms), entities=1)
    events.time_ms[:] = time_ms
    return events


@few
@seeds
def test_distinct_is_exact_for_few_values(seed: int) -> None:
    """Up to 16 values in two panes are counted exactly, panes beginning with the first event."""
    events = stream(seed)
    product = events.text["product"].to_pylist()

    def reference(w: MonitorOutput, m: Moment) -> float:
        time_ms = w.admitted.time_ms
        began = time_ms[(*m.past, m.i)[0]]
        pane = (time_ms - began) // HALF_LIFE_MS
        return len({product[k] for k in (*m.past, m.i) if pane[k] >= pane[m.i] - 1})

    check(
        FeatureSpec(name="d", kind="distinct", field="product", half_life="1h"), events, reference
    )


def test_distinct_of_many_values_is_as_close_as_stated() -> None:
    """The root mean square error of the estimate is within a fifth of 13 %, and its bias is
    small."""
    spec = FeatureSpec(name="d", kind="distinct", field="ip", half_life="30d")
    counts = (20, 50, 100, 200, 400, 1_000, 5_000)
    off: dict[int, list[float]] = {n: [] for n in counts}
    for trial in range(40):
        events = one_account(START_MS + np.arange(max(counts)))
        events.text["ip"] = pa.array([f"{trial}.{k}" for k in range(max(counts))], pa.string())
        values, _ = watch(spec, events)
        for n in counts:
            off[n].append(float(values[n - 1]) / n - 1.0)
    for n, each in off.items():
        assert sqrt(np.mean(np.square(each))) < 1.2 * 0.13, n
        assert abs(np.mean(each)) < 0.06, n


def test_distinct_forgets_a_pane_at_a_time() -> None:
    """A thousand values still count in the next pane, and no longer in the one after."""
    pane_ms = int(HALF_LIFE_MS)
    time_ms = START_MS + np.concatenate([np.arange(1_000), [pane_ms + 1, 2 * pane_ms + 1]])
    events = one_account(time_ms)
    events.text["ip"] = pa.array([f"{k}" for k in range(1_001)] + ["1000"], pa.string())
    values, _ = watch(feature("distinct"), events)
    assert values[-2] == pytest.approx(1_001, rel=0.4)
    assert values[-1] == 1.0


@few
@seeds
def test_novelty_is_what_the_entity_never_had(seed: int) -> None:
    """1 for a value that the entity never had; neither the 16 remembered values nor the filter hide
    one."""
    events = batch(seed, 400, entities=3)  # with 40 addresses each, more than an entity remembers
    ip = events.text["ip"].to_pylist()

    def novelty(w: MonitorOutput, m: Moment) -> float:
        return float(ip[m.i] not in {ip[k] for k in m.past}) if m.past else np.nan

    def novel_count(w: MonitorOutput, m: Moment) -> float:
        whole = (*m.past, m.i)
        first = {ip[k]: k for k in reversed(whole)}
        return sum(
            weight
            for weight, k in zip(weights(w, m, HALF_LIFE_MS), whole, strict=True)
            if first[ip[k]] == k
        )

    def novel_share(w: MonitorOutput, m: Moment) -> float:
        return novel_count(w, m) / (sum(weights(w, m, HALF_LIFE_MS)) + 2.0)

    check(FeatureSpec(name="n", kind="novelty", field="ip"), events, novelty)
    counted = FeatureSpec(name="n", kind="novel_count", field="ip", half_life="1h")
    check(counted, events, novel_count)
    shared = FeatureSpec(name="n", kind="novel_share", field="ip", half_life="1h")
    check(shared, events, novel_share)


def test_the_filter_forgets_in_panes_and_errs_as_stated() -> None:
    """The last 65,536 pairs are found, those of two panes ago are not; fewer than 0.5 % of the
    answers are wrong."""
    draw = np.random.Generator(np.random.PCG64(5))
    pairs = draw.integers(0, 2**64, 3 * pairings.PAIRS_MAX, np.uint64)
    shared = np.zeros(pairings.WORDS, np.uint64)
    for pair in pairs:
        pairings.add(shared, pair)
    known = [pairings.contains(shared, pair) for pair in pairs]
    assert all(known[-pairings.PAIRS_MAX :])
    assert np.mean(known[: pairings.PAIRS_MAX // 2]) < 0.005
    strangers = draw.integers(0, 2**64, 20_000, np.uint64)
    assert np.mean([pairings.contains(shared, pair) for pair in strangers]) < 0.005
    before = shared.copy()
    pairings.add(shared, pairs[-1])
    assert (shared == before).all()


@few
@seeds
def test_categories_are_plain_counts(seed: int) -> None:
    """Occurrence, decayed share and run length follow from which past events match `of`."""
    events = stream(seed)
    occurs = matches(events, PAYMENT)

    def share(w: MonitorOutput, m: Moment) -> float:
        weight = np.array(weights(w, m, HALF_LIFE_MS))
        return float(weight[occurs[[*m.past, m.i]]].sum() / (weight.sum() + 2.0))

    def run_length(w: MonitorOutput, m: Moment) -> float:
        whole = [*m.past, m.i]
        return next((n for n, k in enumerate(reversed(whole)) if not occurs[k]), len(whole))

    check(FeatureSpec(name="s", kind="share", half_life="1h", of=PAYMENT), events, share)
    check(FeatureSpec(name="r", kind="run_length", of=PAYMENT), events, run_length)
    some: EventFilter = {"device": [f"d{k}" for k in range(20)]}
    check(
        FeatureSpec(name="o", kind="occurrence", where=some, of=PAYMENT),
        events,
        lambda w, m: float(occurs[m.i]),
        matches(events, some),
    )


@few
@seeds
def test_night_share_is_the_share_by_local_night(seed: int) -> None:
    """Decayed night events over all and two more, by the entity's local time."""
    events = stream(seed)
    half_life_ms = 1000.0 * seconds(feature("night_share").half_life or "")

    def reference(w: MonitorOutput, m: Moment) -> float:
        past = weights(w, m, half_life_ms)
        offset_ms = np.where(np.arange(len(events)) % 3 == 0, 330.0 * 60_000.0, 0.0)
        hour = (w.admitted.time_ms + offset_ms) / 3_600_000.0 % 24.0
        night = [x for x, k in zip(past, (*m.past, m.i), strict=True) if hour[k] < 6.0]
        return sum(night) / (sum(past) + 2.0)

    check(feature("night_share"), events, reference)


@few
@seeds
def test_sequence_is_the_share_of_repeated_steps(seed: int) -> None:
    """The decayed share of the steps from one number to another that equal the step before; NaN
    where the number stays."""
    events = stream(seed)
    item = events.number["item"]

    def reference(w: MonitorOutput, m: Moment) -> float:
        time_ms = w.admitted.time_ms
        going, every, last = 0.0, 0.0, None
        path = [*m.past, m.i]
        for before, k in pairwise(path):
            step = item[k] - item[before]
            if step == 0.0:
                continue
            weight = float(2.0 ** (-(time_ms[m.i] - time_ms[k]) / HALF_LIFE_MS))
            every += weight
            going += weight if step == last else 0.0
            last = step
        stays = len(path) < 2 or item[path[-1]] == item[path[-2]]
        return np.nan if stays else going / (every + 2.0)

    check(feature("sequence"), events, reference)


@few
@seeds
def test_departure_is_relative_to_the_largest_recent_one(seed: int) -> None:
    """z by the weighted mean and deviation of the earlier numbers, divided by the largest decayed
    earlier z plus two."""
    events = stream(seed)
    half_life_ms = 1000.0 * seconds(feature("departure").half_life or "")

    def reference(w: MonitorOutput, m: Moment) -> float:
        amount, time_ms = w.feature_values.values[1], w.admitted.time_ms
        largest, value, before_ms = 0.0, np.nan, 0.0
        path = [*m.past, m.i]
        for n, k in enumerate(path):
            past = path[:n]
            age_ms = time_ms[k] - time_ms[past]
            weight = 2.0 ** (-age_ms / half_life_ms)
            largest *= float(2.0 ** (-4.0 * (time_ms[k] - before_ms) / half_life_ms))
            before_ms = time_ms[k]
            value = np.nan
            if weight.sum() < 20.0:
                continue
            level = np.average(amount[past], weights=weight)
            spread = sqrt(np.average((amount[past] - level) ** 2, weights=weight))
            z = abs(amount[k] - level) / (spread + 1e-3 * abs(level) + 1e-9)
            value = z / (largest + 2.0)
            largest = max(largest, z)
        return float(value)

    check(feature("departure"), events, reference, ~np.isnan(events.number["amount"]))


@few
@seeds
def test_popularity_counts_a_value_in_the_whole_shard(seed: int) -> None:
    """The decayed number of all entities' events with the value, this one included; few values
    share no cells of the sketch."""
    events = stream(seed)
    values, output = watch(feature("popularity"), events)
    product = np.array(events.text["product"].to_pylist())
    time_ms = output.admitted.time_ms
    for i in range(len(events)):
        count, at_ms = 0.0, 0.0
        for k in range(i + 1):
            if product[k] == product[i] and (output.admitted.learn[k] or k == i):
                count *= float(2.0 ** (-max(time_ms[k] - at_ms, 0.0) / HALF_LIFE_MS))
                count += 1.0
                at_ms = max(at_ms, time_ms[k])
        assert values[i] == pytest.approx(count, rel=1e-9)


@few
@seeds
def test_entropy_is_shannons_over_hashed_buckets(seed: int) -> None:
    """-Σ p log₂ p of the decayed shares of 16 buckets."""
    events = stream(seed)
    bucket = hash_text(events.text["ip"], KEY)[:, 0] >> np.uint64(60)

    def reference(w: MonitorOutput, m: Moment) -> float:
        weight = np.array(weights(w, m, HALF_LIFE_MS))
        each = [weight[bucket[[*m.past, m.i]] == k].sum() / weight.sum() for k in range(16)]
        return -sum(float(p * log2(p)) for p in each if p > 0.0)

    check(feature("entropy"), events, reference, present(events, "ip"))


@few
@seeds
def test_hour_habit_is_the_smoothed_share_of_the_hour(seed: int) -> None:
    """The entity's decayed hours with the shard's as prior, divided by a random hour's share."""
    events = stream(seed)
    shard: list[tuple[int, bool, float]] = []

    def local(w: MonitorOutput, k: int) -> tuple[int, bool]:
        offset_min = events.number["utc_offset_min"][k]
        local_ms = w.admitted.time_ms[k] + (0.0 if isnan(offset_min) else offset_min * 60_000.0)
        day = np.datetime64(int(local_ms), "ms").astype("datetime64[D]")
        return int(local_ms / 3_600_000.0) % 24, not bool(np.is_busday(day))

    def around(hours: list[tuple[int, float]], hour: int) -> float:
        near = {0: 3 / 9, 1: 2 / 9, 2: 1 / 9}
        return sum(n * near.get(min((h - hour) % 24, (hour - h) % 24), 0.0) for h, n in hours)

    def reference(w: MonitorOutput, m: Moment) -> float:
        weight = weights(w, m, HALF_LIFE_MS)[:-1]
        n = sum(weight)
        hour, weekend = local(w, m.i)
        past = [(*local(w, k), each) for k, each in zip(m.past, weight, strict=True)]
        peers = sum(each for _, _, each in shard) + 24.0
        q = (around([(h, each) for h, _, each in shard], hour) + 1.0) / peers
        p = (around([(h, each) for h, _, each in past], hour) + 5.0 * q) / (n + 5.0)
        q = (sum(each for _, on, each in shard if on) + 24.0 * 2 / 7) / peers
        r = (sum(each for _, on, each in past if on) + 5.0 * q) / (n + 5.0)
        if w.admitted.learn[m.i]:
            shard.append((hour, weekend, 1.0 / (1.0 + n)))
        if n < habit.EVENTS_MIN:
            return np.nan
        return 24.0 * p * (r / (2 / 7) if weekend else (1.0 - r) / (5 / 7))

    check(feature("hour_habit"), events, reference)


def test_hour_habit_falls_at_a_strange_hour() -> None:
    """After a month of lunches on weekdays, noon on a Monday is usual, Sunday night is not."""
    monday = START_MS - START_MS % 86_400_000 + 4 * 86_400_000  # 1 January 2026 was a Thursday
    noons = [monday + d * 86_400_000 + 12 * 3_600_000 for d in range(33) if d % 7 < 5]
    night = monday + 34 * 86_400_000 + 3 * 3_600_000
    events = one_account(np.array([*noons, night]))
    spec = FeatureSpec(name="habit", kind="hour_habit", half_life="30d")
    events.number["utc_offset_min"][:] = np.nan
    values = (
        Monitor(monitor([spec], MONITORS["whole"].detectors), KEY, ahead_max_ms=inf)
        .process(events)
        .feature_values.values[0]
    )
    assert values[len(noons) - 1] > 5.0
    assert values[-1] < 0.3


@few
@seeds
def test_impossible_travel_is_the_speed_between_places(seed: int) -> None:
    """Great-circle distance (by unit vectors here) divided by the time since the last known
    coordinates."""
    events = stream(seed)
    latitude, longitude = events.number["latitude"], events.number["longitude"]
    late = np.zeros(len(events), np.bool_)

    def km(i: int, k: int) -> float:
        one, other = (
            np.array([cos(la) * cos(lo), cos(la) * sin(lo), sin(la)])
            for la, lo in ((radians(latitude[j]), radians(longitude[j])) for j in (i, k))
        )
        return 6371.0 * atan2(float(np.linalg.norm(np.cross(one, other))), float(one @ other))

    def reference(w: MonitorOutput, m: Moment) -> float:
        known = [k for k in m.past if not w.admitted.late[k]]
        if not known or w.admitted.late[m.i]:
            return np.nan
        hours = (w.admitted.time_ms[m.i] - w.admitted.time_ms[known[-1]]) / 3_600_000.0
        moved = km(m.i, known[-1])
        return moved / max(hours, 1.0 / 60.0) if moved >= 50.0 else 0.0

    check(feature("impossible_travel"), events, reference, ~np.isnan(latitude) & ~late)


def test_the_distance_is_known() -> None:
    """London to New York is 5,570 km; from pole to pole is half the circumference."""
    assert distance_km(51.5074, -0.1278, 40.7128, -74.0060) == pytest.approx(5_570, rel=2e-3)
    assert distance_km(90.0, 0.0, -90.0, 77.0) == pytest.approx(pi * 6371.0)


@few
@seeds
def test_price_ratio_is_against_the_products_own_mean(seed: int) -> None:
    """The amount divided by the exponential of its product's decayed mean of ln|amount|."""
    events = stream(seed)
    product = events.text["product"].to_pylist()
    known: dict[str, tuple[float, float]] = {}

    def reference(w: MonitorOutput, m: Moment) -> float:
        size = float(w.feature_values.values[1, m.i])
        weight, mean = known.get(product[m.i], (0.0, log(size)))
        if w.admitted.learn[m.i]:
            more = min(weight + 1.0, 100.0)
            step = min(max(log(size) - mean, -3.0), 3.0)
            known[product[m.i]] = more, mean + step / more
        return size / exp(mean) if weight >= 3.0 else np.nan

    check(feature("price_ratio"), events, reference, ~np.isnan(events.number["amount"]))


def test_prices_are_bounded_and_survive_a_flood_of_products() -> None:
    """A product that is still sold keeps its price while 100,000 invented ones pass."""
    n = 100_000
    events = batch(2, n, entities=10)
    names = [f"made up {k}" if k % 100 else "sold" for k in range(n)]
    events.text["product"] = pa.array(names, pa.string())
    events.number["amount"][:] = 20.0
    values, _ = watch(feature("price_ratio"), events)
    sold = values[::100]
    assert np.isnan(values).sum() > 90_000
    assert sold[5:] == pytest.approx(1.0, rel=0.01)


def test_a_filter_can_select_an_absent_field() -> None:
    """In a filter "" matches events without the field, whether or not the batch has the column."""
    events = batch(3, 200, absent=0.3)
    gone = ~present(events, "ip")
    assert (matches(events, {"ip": ""}) == gone).all()
    assert (matches(events, {"ip": ["", "ip3"]}) >= gone).all()
    assert matches(events, {"referrer": ""}).all()
    assert not matches(events, {"referrer": "https://here"}).any()


def test_a_missing_parameter_is_named() -> None:
    """Each missing, superfluous or contradictory parameter is one line, the key first."""

    def where(spec: FeatureSpec) -> list[str]:
        return [line.split(": ")[0] for line in KINDS[spec.kind].problems(spec)]

    for kind in KINDS:
        assert where(feature(kind)) == []
    assert where(FeatureSpec(name="a", kind="share")) == ["half_life", "of"]
    assert where(FeatureSpec(name="a", kind="gap", of=PAYMENT, half_life="1h")) == [
        "half_life",
        "of",
    ]
    assert where(FeatureSpec(name="a", kind="ratio", half_life="1h", against="1h")) == ["against"]
    assert where(FeatureSpec(name="a", kind="distinct", field="amount", half_life="1h")) == [
        "field"
    ]


@pytest.mark.parametrize("kind", [k.name for k in BUILT_IN if k.family in {"normal", "rate"}])
def test_expected_values_are_in_natural_units(kind: str) -> None:
    """On honest traffic three in four values lie in the range that an alert would give for them."""
    events = batch(4, 6_000, entities=12)
    # Accounts as busy as each other, each at home somewhere.
    who = np.random.Generator(np.random.PCG64(4)).integers(0, 12, 6_000)
    events.text["account"] = pa.array([f"a{k}" for k in who], pa.string())
    events.number["latitude"][:] = 3.0 * who
    output = Monitor(
        monitor([feature(kind)], MONITORS["whole"].detectors), KEY, ahead_max_ms=inf
    ).process(events)
    inside = []
    for i in range(3_000, 6_000):
        centre, spread = (
            float(output.tail_output.centre[0, i]),
            float(output.tail_output.spread[0, i]),
        )
        unit = float(output.feature_values.units[0, i])
        told = explain.expected(KINDS[kind], "log", centre, spread, unit)
        actual = float(output.feature_values.values[0, i]) * unit
        if told is None or isnan(actual):
            continue
        assert 0.0 <= told[0] <= told[1]
        inside.append(told[0] - 1e-6 <= actual <= told[1] * (1 + 1e-6))
    assert len(inside) > 500
    assert np.mean(inside) > 0.75
