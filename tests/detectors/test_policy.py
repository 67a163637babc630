"""The policy: threshold, budget and incidents, event by event."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.entities import AdmittedEvents
from detectors.scoring import policy
from detectors.scoring.policy import (
    HELD_BACK,
    NO_ALERT,
    OPENED,
    SUPPRESSED,
    UPDATED,
    Policy,
    PolicyLimits,
    PolicyOutcome,
    allowance,
)
from schemas.columns import F64, I64
from stream.config.document import NUMBER_MAX
from tests.streams import batch

HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS


def _decide(
    time_ms: Sequence[int],
    p: Sequence[float],
    row: Sequence[int],
    budget: float = 10.0,
    warm: Sequence[bool] | None = None,
    shards: int = 1,
    shard: int = 0,
) -> tuple[PolicyOutcome, Policy]:
    n = len(p)
    rows: I64 = np.array(row, np.int64)
    events = AdmittedEvents(
        row=rows,
        fresh=np.array([r not in row[:i] for i, r in enumerate(row)]),
        time_ms=np.array(time_ms, np.float64),
        late=np.zeros(n, np.bool_),
        learn=np.ones(n, np.bool_),
        earlier_events=np.zeros(n, np.int64),
        bounded_ms=np.array(time_ms, np.float64),
        stream_ms=np.maximum.accumulate(np.array(time_ms, np.float64)),
        set_back=np.zeros(n, np.bool_),
    )
    made = batch(1, n)
    made.time_ms[:] = time_ms
    words: F64 = np.zeros((max(row) + 1, policy.INCIDENT_WORDS))
    decider = Policy(PolicyLimits(1e-3, budget, HOUR_MS, shards, shard))
    learned = np.array([True] * n if warm is None else warm)
    return decider.process(words, 0, events, made, np.array(p), learned), decider


def test_an_incident_opens_is_counted_escalates_and_ends_with_quiet() -> None:
    """The first alert opens an incident, the next are suppressed, a p 100 times smaller updates it;
    after the gap an incident opens again."""
    out, _ = _decide(
        [0, 1000, 2000, 3000, 3000 + 2 * HOUR_MS], [1e-5, 1e-5, 0.5, 1e-7, 1e-5], [0, 0, 0, 0, 0]
    )
    assert out.activity.tolist() == [OPENED, SUPPRESSED, NO_ALERT, UPDATED, OPENED]
    assert out.incident[:, policy.REVISION].tolist() == [1, 0, 0, 2, 1]
    assert out.incident[3, policy.SUPPRESSED_COUNT] == 1
    assert out.incident[3, policy.OFFSET] == 0
    assert out.incident[4, policy.OFFSET] == 4


def test_a_long_incident_is_updated_at_each_doubling() -> None:
    """100 equal alerts of one entity give one opening and updates when the alert is the 8th, 16th, 32nd
    and 64th that would otherwise be suppressed; all others are suppressed."""
    out, _ = _decide(list(range(0, 100_000, 1000)), [1e-5] * 100, [0] * 100)
    assert np.flatnonzero(out.activity == OPENED).tolist() == [0]
    assert np.flatnonzero(out.activity == UPDATED).tolist() == [8, 17, 34, 67]
    assert (out.activity == SUPPRESSED).sum() == 95


def test_the_budget_is_a_cap_even_when_everything_alerts() -> None:
    """100 entities alert within a minute; ten alerts, one day's budget, are published."""
    out, decider = _decide(list(range(100)), [1e-9] * 100, list(range(100)))
    assert (out.activity == OPENED).sum() == 10
    assert (out.activity == HELD_BACK).sum() == 90
    assert decider.state.activities.sum() == 100
    assert out.budget_used[-1] == 1.0


def test_an_escalation_is_measured_from_the_peak() -> None:
    """An incident that opened at score 5 and was updated at 7 is updated next at 9, not at 8."""
    out, _ = _decide(range(0, 4_000, 1_000), [1e-5, 1e-7, 1e-8, 1e-9], [0] * 4)
    assert out.activity.tolist() == [OPENED, UPDATED, SUPPRESSED, UPDATED]


def test_an_update_costs_budget() -> None:
    """With three alerts a day, an opening and two escalations leave nothing for another entity."""
    out, _ = _decide(range(0, 4_000, 1_000), [1e-4, 1e-6, 1e-8, 1e-8], [0, 0, 0, 1], budget=3.0)
    assert out.activity.tolist() == [OPENED, UPDATED, UPDATED, HELD_BACK]
    assert out.budget_used.tolist() == [1 / 3, 2 / 3, 1.0, 1.0]


def test_unused_budget_does_not_carry_over() -> None:
    """After three days without alerts a day has its ten, and the next day, a minute later, its
    ten."""
    quiet = [day * DAY_MS for day in range(3)]
    late, soon = 4 * DAY_MS - 30_000, 4 * DAY_MS + 30_000
    times = [*quiet, *[late] * 25, *[soon] * 25]
    out, _ = _decide(times, [1.0] * 3 + [1e-9] * 50, [*range(53)])
    opened = out.activity == OPENED
    assert opened[3:28].tolist() == [True] * 10 + [False] * 15
    assert opened[28:].tolist() == [True] * 10 + [False] * 15


def test_alerts_before_warm_up_cost_nothing() -> None:
    """Ten alerts before the end of warm-up leave the day's ten for later ones; their own allowance
    is as large."""
    out, _ = _decide(range(40), [1e-9] * 40, [*range(40)], warm=[False] * 20 + [True] * 20)
    assert (out.activity[:20] == OPENED).sum() == 10
    assert (out.activity[20:] == OPENED).sum() == 10
    assert out.budget_used[19] == 0.0


def test_the_next_alert_counts_the_suppressed_ones() -> None:
    """Fifteen alerts are held back on a day; the next day's first alert has this number, the one
    after it 0."""
    times = [*range(25), DAY_MS, DAY_MS + 1]
    out, _ = _decide(times, [1e-9] * 27, [*range(27)])
    assert out.held_back.tolist() == [0] * 25 + [15, 0]


def test_a_suppressed_update_is_counted() -> None:
    """An escalation without budget raises no alert, and the next alert counts it."""
    out, decider = _decide([0, 1, DAY_MS], [1e-5, 1e-8, 1e-5], [0, 0, 1], budget=1.0)
    assert out.activity.tolist() == [OPENED, SUPPRESSED, OPENED]
    assert out.held_back.tolist() == [0, 0, 1]
    assert decider.counts()["budget_displaced"] == 1


def test_a_suppressed_stronger_alert_is_counted() -> None:
    """Of three alerts held back, the one with a higher score than a published one counts as
    displaced; a weaker or equal one does not, nor one compared with yesterday's alerts or with
    those before the end of warm-up."""
    times = [0, 1, 2, 3, 4, 5]
    p = [1e-9, 1e-5, 1e-6, 1e-5, 1e-6, 1e-4]
    warm = [True, True, False, True, True, True]
    _, decider = _decide(times, p, [*range(6)], budget=2.0, warm=warm)
    assert decider.counts()["alerts_held_back"] == 3
    assert decider.counts()["budget_displaced"] == 1
    _, decider = _decide([0, DAY_MS, DAY_MS + 1], [1e-5, 1e-9, 1e-8], [0, 1, 2], budget=1.0)
    assert decider.counts()["budget_displaced"] == 0


@settings(deadline=None)
@given(
    alerts_per_day=st.one_of(st.floats(0.001, 1e6), st.integers(1, 1_000).map(float)),
    shards=st.integers(1, 200),
    first=st.integers(0, 40_000),
)
def test_all_shards_together_stay_within_the_budget(
    alerts_per_day: float, shards: int, first: int
) -> None:
    """On every day the shards' allowances add up to the configured budget, rounded up or down; over
    days they add up to neither more nor less. Each shard has its share each day, rounded up or
    down."""
    days = [
        [allowance(float(day), alerts_per_day, shards, shard) for shard in range(shards)]
        for day in range(first, first + 10)
    ]
    for day in days:
        assert np.floor(alerts_per_day) <= sum(day) <= np.ceil(alerts_per_day)
        assert min(day) >= np.floor(alerts_per_day / shards)
        assert max(day) <= np.ceil(alerts_per_day / shards)
    assert abs(sum(map(sum, days)) - 10 * alerts_per_day) <= 1.0 + 1e-6


def test_the_largest_budget_is_allowed() -> None:
    """The largest budget of a configuration allows each shard its share."""
    for day in (0.0, 20_000.0, 47_000.0):
        assert allowance(day, NUMBER_MAX, 3, 1) == pytest.approx(NUMBER_MAX / 3, rel=1e-9)


def test_a_share_below_one_is_an_alert_every_few_days() -> None:
    """Ten alerts a day over 100 shards: each shard has one every tenth day, and on each day ten
    shards have one."""
    found = np.zeros((100, 40), np.int64)
    for shard in range(100):
        times = np.repeat(np.arange(40) * DAY_MS, 3) + np.tile(np.arange(3), 40)
        out, _ = _decide(times.tolist(), [1e-9] * 120, [*range(120)], shards=100, shard=shard)
        found[shard] = (out.activity == OPENED).reshape(40, 3).sum(axis=1)
    assert (found.sum(axis=0) == 10).all()
    for days in found:
        assert np.diff(np.flatnonzero(days)).tolist() == [10, 10, 10]


@settings(deadline=None)
@given(st.data())
def test_no_day_has_more_alerts_than_allowed(data: st.DataObject) -> None:
    """Over any times, entities and scores, the published alerts of each day of stream time are at
    most the day's allowance, updates included."""
    n = 200
    draw = np.random.Generator(np.random.PCG64(data.draw(st.integers(0, 2**32))))
    budget, shards = data.draw(st.floats(0.1, 20.0)), data.draw(st.integers(1, 6))
    shard = data.draw(st.integers(0, shards - 1))
    times = draw.integers(0, 5 * DAY_MS, n)
    times.sort()
    swap = draw.integers(0, n - 20, 20)
    times[swap], times[swap + 20] = times[swap + 20], times[swap].copy()  # some come late
    p = (10.0 ** -draw.uniform(2, 12, n)).tolist()
    rows = draw.integers(0, 30, n).tolist()
    out, decider = _decide(times.tolist(), p, rows, budget, shards=shards, shard=shard)
    days = np.maximum.accumulate(times) // DAY_MS
    published = (out.activity == OPENED) | (out.activity == UPDATED)
    for day in range(5):
        allowed = allowance(float(day), budget, shards, shard)
        assert published[days == day].sum() <= allowed
    counted = out.held_back.sum() + decider.state.held[policy.HELD_BACK_COUNT]
    assert counted >= (out.activity == HELD_BACK).sum()


def test_the_threshold_is_what_the_budget_allows() -> None:
    """At 240,000 events a day and 10 alerts a day, the threshold settles near 10/240,000."""
    n = 20_000
    out, _ = _decide(list(range(0, 360 * n, 360)), [0.5] * n, [0] * n)
    assert 0.8 < out.threshold[-1] / (10 / 240_000) < 1.25
    few, _ = _decide(list(range(0, 10 * HOUR_MS, HOUR_MS)), [0.5] * 10, [0] * 10)
    assert few.threshold[-1] == 1e-3  # never above p_max
