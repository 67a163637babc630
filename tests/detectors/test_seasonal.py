"""Seasonal against a reference that walks over every hour, and what a week teaches it."""

from math import ceil, cos, log, pi, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import PCG64, Generator

from detectors.models.seasonal import COHORT_MEMORY, HOURS, START, Seasonal, SeasonalSpec
from detectors.numeric.beta import incomplete_beta
from detectors.state import select_prefix
from tests.detectors.harness import DetectorHarness, Row

HOUR_S = 3600.0
MONDAY_S = 1_767_571_200.0
"""5 January 2026."""
SPEC = SeasonalSpec(name="season", half_life="14d", min_events=1)
KEEP = 0.5**0.5


def sale(time_s: float, account: str = "a") -> Row:
    """An event of the seller, who is the account here."""
    return Row(time_s, {"account": account})


class Reference:
    """One entity alone, hour by hour; it is the whole cohort."""

    def __init__(self, hour: int) -> None:
        self.start = hour + 1
        self.now = hour
        self.count = 0
        self.sums = [0.0] * 168
        self.times = [0.0] * 168
        self.seen = [0.0] * 168
        self.due = [0.0] * 168
        self.events = self.hours = 0.0
        self.rate = 1e-3

    def usual(self, k: int) -> float:
        """q."""
        same = range(k % 24, 168, 24)
        daily = (sum(self.seen[h] for h in same) + 5.0) / (self.daily_due(k) + 5.0)
        return (self.seen[k] + 5.0 * daily) / (self.due[k] + 5.0)

    def daily_due(self, k: int) -> float:
        """Events expected so far at this hour of any day."""
        return sum(self.due[h] for h in range(k % 24, 168, 24))

    def shape(self, k: int) -> tuple[float, float]:
        """(A, B)."""
        weights = [(k, 1.0), *(((k + step) % 168, 0.5) for step in (1, -1, 24, -24))]
        a = 1.0 + sum(w * self.sums[h] for h, w in weights)
        b = 1.0 / self.rate + sum(w * self.times[h] * self.usual(h) for h, w in weights)
        return (a, b) if a <= 25.0 else (25.0, b * 25.0 / a)

    def turn(self) -> None:
        """The end of the current hour."""
        k = (self.now + 72) % 168
        if self.now >= self.start:
            a, b = self.shape(k)
            mean = self.usual(k) * a / b
            count = min(self.count, mean + 3.0 * sqrt(mean + mean * mean / a) + 1.0)
            self.sums[k] = KEEP * self.sums[k] + count
            self.times[k] = KEEP * self.times[k] + 1.0
            self.seen[k] += count * min(1.0, 1.0 / self.rate)
            self.due[k] += min(1.0, self.rate)
            self.events += count
            self.hours += 1.0
        self.now += 1
        self.count = 0

    def look(self, time_s: float) -> tuple[float, float, float]:
        """(value, surprise, expected) of an event."""
        hour = int(time_s // HOUR_S)
        if hour > self.now:
            while self.now < hour:
                self.turn()
            of_peers = self.events / self.hours if self.hours else 0.0
            seen = 6.0 * of_peers + sum(self.sums)
            due = 6.0 + sum(t * self.usual(k) for k, t in enumerate(self.times))
            self.rate = max(seen / due, 1e-3)
        self.count += 1
        k = (self.now + 72) % 168
        if self.now < self.start or self.daily_due(k) < 0.5 * min(1.0, self.rate):
            return (np.nan,) * 3
        a, b = self.shape(k)
        due = max(time_s / HOUR_S - hour, 1.0 / 3600.0) * self.usual(k)
        mean = due * a / b
        p = incomplete_beta(due / (b + due), float(self.count), a)
        return self.count, -log(p), mean + 2.0 * sqrt(mean + mean * mean / a)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 100_000), min_size=2, max_size=60))
def test_it_is_the_predictive_of_the_hours_so_far(gaps_s: list[int]) -> None:
    """Counts, surprise and expectation equal those of a reference that processes every hour, idle
    ones included, as long as no idle week is skipped."""
    times = (MONDAY_S + np.cumsum(gaps_s)).tolist()
    found = DetectorHarness(SPEC).process([sale(MONDAY_S), *map(sale, times)])
    reference = Reference(int(times[0] // HOUR_S))
    expected = [reference.look(t) for t in times]
    # The entity's first event comes before it has a profile.
    got = [found[k].tolist()[1:] for k in ("value", "surprise", "expected")]
    for ours, theirs in zip(zip(*got, strict=True), expected, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6, nan_ok=True)


def weeks(count: int, seed: int, accounts: int = 5, factor: float = 1.0) -> list[Row]:
    """Sellers with sixty sales an hour at noon and two at midnight."""
    draw = Generator(PCG64(seed))
    times: list[tuple[float, str]] = []
    for hour in range(168 * count):
        rate = factor * (31.0 - 29.0 * cos(2.0 * pi * (hour % 24) / 24.0))
        for k in range(accounts):
            sold = draw.poisson(rate)
            starts = MONDAY_S + HOUR_S * (hour + draw.random(sold))
            times += [(t, f"s{k}") for t in starts.tolist()]
    return [sale(*pair) for pair in sorted(times)]


@pytest.fixture(scope="module")
def trained() -> DetectorHarness:
    """A detector that has learned four weeks of five sellers."""
    look = DetectorHarness(SeasonalSpec(name="season"))
    look.process(weeks(4, seed=1))
    return look


def at(hour_of_week: float, count: int, account: str = "s0", week: int = 4) -> list[Row]:
    """So many sales within the quarter of an hour after an hour of a later week."""
    start_s = MONDAY_S + HOUR_S * (168 * week + hour_of_week)
    return [sale(start_s + 900.0 * (k + 1) / count, account) for k in range(count)]


def test_an_hour_is_compared_with_the_same_hour_of_the_week(trained: DetectorHarness) -> None:
    """Twenty sales in a quarter of an hour are many at night and usual in the afternoon."""
    night = trained.process(at(27, 20))
    noon = trained.process(at(37, 20))
    assert night["surprise"][-1] > 10.0
    assert night["expected"][-1] < 8.0
    assert noon["surprise"][-1] < 4.0
    assert 12.0 < noon["expected"][-1] < 40.0


def test_the_first_day_is_no_surprise() -> None:
    """No seller is scored at an hour of the day that no day has had yet, so that a shop's first
    morning has no score; the rest of the first week is scored by the days before."""
    rows = weeks(1, seed=6, accounts=30)
    surprise = DetectorHarness(SeasonalSpec(name="season")).process(rows)["surprise"]
    first = np.array([row.time_s for row in rows]) < MONDAY_S + 86_400.0
    assert np.isnan(surprise[first]).all()
    assert np.isfinite(surprise[~first]).mean() > 0.9
    assert np.mean(surprise[~first] > log(1e4)) < 0.005


def test_surprise_is_nearly_a_p_value() -> None:
    """For sellers whose habits do not change, a raw p-value below α is about as common as α."""
    look = DetectorHarness(SeasonalSpec(name="season"))
    surprise = look.process(weeks(4, seed=2))["surprise"]
    later = np.exp(-surprise[len(surprise) // 2 :])
    for alpha in (0.1, 0.01):
        assert alpha / 3 < np.mean(later <= alpha) < 3 * alpha


@pytest.mark.slow
def test_a_burst_teaches_little_and_a_change_is_learned_in_weeks() -> None:
    """After six hundred sales in one night the next week's same hour is still surprising; sellers
    who continue at twice the rate are ordinary after four half-lives."""
    look = DetectorHarness(SeasonalSpec(name="season", half_life="7d"))
    look.process(weeks(3, seed=3))
    look.process(at(27, 600, week=3))
    assert look.process(at(27, 60, week=4))["surprise"][-1] > 20.0
    louder = weeks(5, seed=4, factor=2.0)
    shift = [sale(row.time_s + 5 * 168 * HOUR_S, row.text["account"]) for row in louder]
    surprise = look.process(shift)["surprise"]
    per_week = ceil(len(surprise) / 5)
    assert np.mean(surprise[:per_week] > 4.6) > 5 * np.mean(surprise[-per_week:] > 4.6)
    assert np.mean(surprise[-per_week:] > 4.6) < 0.05


def test_profiles_are_bounded_and_released() -> None:
    """With room for two profiles, the third seller has no score until one of them loses its row."""
    look = DetectorHarness(SeasonalSpec(name="season", min_events=1, entities_max=2), capacity=16)
    for k in range(3):
        look.process([sale(MONDAY_S + k, f"a{k}"), sale(MONDAY_S + 10 + k, f"a{k}")])
    later = [sale(MONDAY_S + 25 * HOUR_S + k, f"a{k}") for k in range(3)]
    assert np.isnan(look.process(later)["value"]).tolist() == [False, False, True]
    look.process([sale(MONDAY_S + 26 * HOUR_S + k, f"new{k // 2}") for k in range(200)])
    state = look.detector.save()
    assert (select_prefix("pool", state)["slot_of"] >= 0).sum() == 2
    began = select_prefix("profiles", state)["words"][:, START]
    assert began.tolist() == [MONDAY_S // HOUR_S + 27] * 2


def test_late_events_count_into_the_current_hour(trained: DetectorHarness) -> None:
    """An event of the hour before is one more of this hour."""
    first, second = at(80, 1, "s3"), at(79.5, 1, "s3")
    before, after = (trained.process(rows)["value"][0] for rows in (first, second))
    assert after == before + 1


def test_both_profiles_decay_together() -> None:
    """When the cohort's memory is full both of its profiles are halved, so that they stay
    consistent."""
    look = DetectorHarness(SPEC)
    season = look.detector
    assert isinstance(season, Seasonal)
    season.profiles.overall[HOURS] = COHORT_MEMORY - 100.0
    look.process([sale(MONDAY_S + HOUR_S * hour) for hour in range(14 * 24)])
    assert season.profiles.overall[HOURS] < COHORT_MEMORY
    cohort = season.profiles.cohort
    week, day = cohort[:, :168].reshape(2, 7, 24).sum(axis=1), cohort[:, 168:]
    assert day.sum() > 0.0
    assert np.allclose(week, day, rtol=1e-9)
