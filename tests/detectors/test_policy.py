"""The policy: threshold, budget and incidents, event by event."""

import numpy as np

from detectors import policy
from detectors.entities import Admitted
from detectors.policy import COUNTED, OPENED, OVER_BUDGET, QUIET, UPDATED, Decided, Limits, Policy
from schemas.columns import F64, I64
from tests.streams import batch

HOUR_MS = 3_600_000


def _decide(
    time_ms: list[int], p: list[float], row: list[int], budget: float = 10.0
) -> tuple[Decided, Policy]:
    n = len(p)
    rows: I64 = np.array(row, np.int64)
    events = Admitted(
        row=rows,
        fresh=np.array([r not in row[:i] for i, r in enumerate(row)]),
        time_ms=np.array(time_ms, np.float64),
        late=np.zeros(n, np.bool_),
        learn=np.ones(n, np.bool_),
        seen=np.zeros(n, np.int64),
    )
    made = batch(1, n)
    made.time_ms[:] = time_ms
    words: F64 = np.zeros((max(row) + 1, policy.WORDS))
    decider = Policy(Limits(p_max=1e-3, budget=budget, incident_gap_ms=HOUR_MS))
    return decider.process(words, 0, events, made, np.array(p)), decider


def test_an_incident_opens_is_counted_escalates_and_ends_with_quiet() -> None:
    """First alert opens; the next are counted; 100 times rarer updates; after the gap it
    reopens."""
    out, _ = _decide(
        [0, 1000, 2000, 3000, 3000 + 2 * HOUR_MS], [1e-5, 1e-5, 0.5, 1e-7, 1e-5], [0, 0, 0, 0, 0]
    )
    assert out.activity.tolist() == [OPENED, COUNTED, QUIET, UPDATED, OPENED]
    assert out.incident[:, policy.REVISION].tolist() == [1, 0, 0, 2, 1]
    assert out.incident[3, policy.SUPPRESSED] == 1
    assert out.incident[3, policy.OFFSET] == 0
    assert out.incident[4, policy.OFFSET] == 4


def test_a_long_incident_is_updated_at_each_doubling() -> None:
    """100 equal alerts of one entity make one opening and updates at 8, 16, 32, 64."""
    out, _ = _decide(list(range(0, 100_000, 1000)), [1e-5] * 100, [0] * 100)
    assert (out.activity == OPENED).sum() == 1
    assert (out.activity == UPDATED).sum() == 4


def test_the_budget_is_a_cap_even_when_everything_alerts() -> None:
    """100 entities alert within a minute; ten alerts, one day's budget, are published."""
    out, decider = _decide(list(range(100)), [1e-9] * 100, list(range(100)))
    assert (out.activity == OPENED).sum() == 10
    assert (out.activity == OVER_BUDGET).sum() == 90
    assert decider.stream.activities.sum() == 100
    assert out.budget_used[-1] > 0.99


def test_the_threshold_is_what_the_budget_allows() -> None:
    """At 240,000 events a day and 10 alerts a day, the threshold settles near 10/240,000."""
    n = 20_000
    out, _ = _decide(list(range(0, 360 * n, 360)), [0.5] * n, [0] * n)
    assert 0.8 < out.threshold[-1] / (10 / 240_000) < 1.25
    few, _ = _decide(list(range(0, 10 * HOUR_MS, HOUR_MS)), [0.5] * 10, [0] * 10)
    assert few.threshold[-1] == 1e-3  # never above p_max
