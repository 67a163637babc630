"""Edges against a reference with exact counts that processes every tick."""

from collections import defaultdict
from math import erfc, exp, log, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.models.edges import LEVEL_MIN, TICKS_MIN, EdgesSpec
from tests.detectors.harness import DetectorHarness, Row

SPEC = EdgesSpec(name="bursts", field="device", tick="1min", half_life="2h", threshold=10.0)
TICK_S = 60.0


class Reference:
    """MIDAS-F with the departures that the module names, by dicts, tick by tick."""

    def __init__(self) -> None:
        self.current: dict[tuple[str, ...], float] = defaultdict(float)
        self.total: dict[tuple[str, ...], float] = defaultdict(float)
        self.ticks = 0.0
        self.tick = -1
        self.keep = exp(-log(2.0) / 120.0)

    def level(self, key: tuple[str, ...]) -> float:
        """e: decayed total over decayed number of ticks."""
        return max(self.total[key] / self.ticks, LEVEL_MIN) if self.ticks else LEVEL_MIN

    def turn(self) -> None:
        """The end of a tick: merge counts below the threshold, and decay the counts."""
        most = {key: (e := self.level(key)) + sqrt(10.0 * e) for key in self.current}
        for key, a in self.current.items():
            self.total[key] = self.keep * self.total[key] + min(a, most[key])
            self.current[key] = 0.5 * a
        self.ticks = self.keep * self.ticks + 1.0

    def look(self, time_s: float, account: str, device: str) -> tuple[float, float, float]:
        """(value, surprise, expected); NaN in the first ticks."""
        tick = int(time_s // TICK_S)
        self.tick = tick if self.tick < 0 else self.tick
        while self.tick < tick:
            self.turn()
            self.tick += 1
        keys = [(account, device), (account,), ("to", device)]
        for key in keys:
            self.current[key] += 1.0
        if self.ticks < TICKS_MIN:
            return (np.nan,) * 3
        z = max((self.current[k] - self.level(k)) / sqrt(self.level(k)) for k in keys)
        tail = 0.5 * erfc(z / sqrt(2.0))
        return self.current[keys[0]], -log(tail), self.level(keys[0])


def row(time_s: float, account: str = "a", device: str = "d") -> Row:
    """An event of the account at the device."""
    return Row(time_s, {"account": account, "device": device})


@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 200), st.sampled_from("abc"), st.sampled_from("de")),
        min_size=1,
        max_size=200,
    )
)
def test_it_is_midas_f_with_the_named_departures(steps: list[tuple[int, str, str]]) -> None:
    """Counts, levels and surprise equal those of exact counts merged at each tick's end. A cell
    that bursts in one tick is filtered by its earlier level in the ticks over which it decays."""
    times = np.cumsum([step for step, _, _ in steps]).tolist()
    rows = [row(t, *ends) for t, (_, *ends) in zip(times, steps, strict=True)]
    reference = Reference()
    expected = [reference.look(r.time_s, r.text["account"], r.text["device"]) for r in rows]
    found = DetectorHarness(SPEC).process(rows)
    got = list(zip(*(found[k].tolist() for k in ("value", "surprise", "expected")), strict=True))
    bursts = any(a > 4.0 for a, _, _ in expected)
    tolerance = 0.2 if bursts else 1e-9
    for ours, theirs in zip(got, expected, strict=True):
        assert ours == pytest.approx(theirs, rel=tolerance, abs=tolerance, nan_ok=True)


def quiet(minutes: int, start_min: int = 0) -> list[Row]:
    """Two events a minute between ten accounts and three devices."""
    return [
        row(60.0 * (start_min + k // 2) + 30 * (k % 2), f"a{k % 10}", f"d{k % 3}")
        for k in range(2 * minutes)
    ]


def burst(minute: int, events: int = 100) -> list[Row]:
    """Many events of one account at one device within a minute."""
    return [row(60.0 * minute + 0.5 * k, "a1", "d1") for k in range(events)]


def test_a_burst_surprises_and_does_not_become_normal() -> None:
    """A burst is more surprising than everything before it, and so is the same burst an hour
    later."""
    look = DetectorHarness(SPEC)
    before = look.process(quiet(120))["surprise"]
    first = look.process(burst(120))["surprise"].max()
    look.process(quiet(60, 121))
    second = look.process(burst(182))["surprise"].max()
    assert first > 10 * np.nanmax(before)
    assert second > 0.5 * first


def test_after_a_burst_levels_are_merged_tick_by_tick() -> None:
    """Of a cell that has an event in every minute the counts and levels equal the reference's exactly, in
    the burst and in the minutes over which it fades."""
    fading = [row(60.0 * minute, "a1", "d1") for minute in range(121, 140)]
    rows = [row(60.0 * minute, "a1", "d1") for minute in range(120)] + burst(120, 20) + fading
    reference = Reference()
    expected = [reference.look(one.time_s, "a1", "d1") for one in rows]
    found = DetectorHarness(SPEC).process(rows)
    for name, tolerance, column in zip(
        ("value", "surprise", "expected"),
        (1e-9, 1e-6, 1e-9),
        zip(*expected, strict=True),
        strict=True,
    ):
        theirs = pytest.approx(np.array(column), rel=tolerance, nan_ok=True)
        assert found[name] == theirs, name


def test_a_lasting_change_is_learned() -> None:
    """A pair with twenty events a minute from now on is not surprising after three half-lives."""
    look = DetectorHarness(EdgesSpec(name="bursts", field="device", half_life="2h"))
    look.process(quiet(120))
    lasting = [row(60.0 * 120 + 3 * k, "a1", "d1") for k in range(20 * 360)]
    surprise = look.process(lasting)["surprise"]
    assert surprise[:200].max() > 50
    assert surprise[-200:].max() < 3


def test_late_events_count_into_the_current_tick() -> None:
    """Time never goes back: an hour-old event is one more of this minute."""
    look = DetectorHarness(SPEC)
    look.process([*quiet(120), row(60.0 * 119 + 40, "b")])
    late = look.process([row(60.0 * 90, "b"), row(60.0 * 119 + 50, "b")])
    assert late["value"].tolist() == [2.0, 3.0]


def test_small_sketches_never_count_too_little() -> None:
    """Where hashes collide the count is too large, never too small."""
    steps = [(k % 40, f"a{k % 23}", f"d{k % 7}") for k in range(600)]
    times = np.cumsum([step for step, _, _ in steps]).tolist()
    rows = [row(t, a, d) for t, (_, a, d) in zip(times, steps, strict=True)]
    exact = DetectorHarness(SPEC).process(rows)["value"]
    small = EdgesSpec(name="b", field="device", half_life="2h", rows=2, buckets=16)
    rough = DetectorHarness(small).process(rows)["value"]
    known = ~np.isnan(exact)
    assert np.all(rough[known] >= exact[known])


def test_invalid_declarations_are_named() -> None:
    """A number as the other end, and totals that decay within a few ticks, are problems."""
    spec = EdgesSpec(name="b", field="amount", tick="1h", half_life="2h")
    assert [line.split(": ")[0] for line in spec.problems()] == ["field", "half_life"]
    assert SPEC.problems() == []
