"""The made-up payments are what they say, and the measure of calibration counts what it says."""

import numpy as np

from tests.quality.calibration import FULL, touches_jump, window_rates
from tests.quality.honest_payments import Shape, honest_payments

SHAPE = Shape(
    events=120_000,
    days=30.0,
    regulars=300,
    newcomers=2_000,
    drift=(40_000, 20_000, 2.0),
    jump=(90_000, 1.5),
)


def test_payments_are_as_many_as_asked_in_order_and_the_same_each_time() -> None:
    """The same seed gives the same payments, in order of time, another seed others."""
    one, again, other = (honest_payments(SHAPE, seed) for seed in (1, 1, 2))
    assert len(one) == SHAPE.events
    assert (np.diff(one.time_ms) >= 0).all()
    assert (one.amount == again.amount).all()
    assert (one.time_ms == again.time_ms).all()
    assert (one.amount != other.amount).any()


def test_newcomers_arrive_all_the_time_with_a_few_payments_each() -> None:
    """In each quarter of the time there are newcomers' first payments, about a quarter of all."""
    payments = honest_payments(SHAPE, 1)
    known, first, count = np.unique(
        payments.number["account"], return_index=True, return_counts=True
    )
    new = known >= SHAPE.regulars
    quarter = np.bincount(4 * first[new] // SHAPE.events, minlength=4) / new.sum()
    assert (quarter > 0.15).all()
    assert 3 <= np.median(count[new]) <= 8 < np.median(count[~new])


def test_amounts_drift_by_the_customers_own_deviations_and_jump() -> None:
    """Between before and after, ln(amount) of a customer rises by 2 of its deviations, then ln
    1.5."""
    payments = honest_payments(SHAPE, 1)
    log_amount, customer = np.log(payments.amount), payments.number["account"]
    event = np.arange(len(payments))
    risen, jumped = [], []
    for one in range(SHAPE.regulars):
        before, between, after = (
            log_amount[(customer == one) & (event >= start) & (event < stop)]
            for start, stop in ((0, 40_000), (60_000, 90_000), (90_000, 120_000))
        )
        if min(len(before), len(between), len(after)) >= 50:
            risen.append((between.mean() - before.mean()) / before.std())
            jumped.append(after.mean() - between.mean())
    assert len(risen) > 50
    assert abs(np.mean(risen) - 2.0) < 0.1
    assert abs(np.mean(jumped) - np.log(1.5)) < 0.05


def test_the_windows_left_out_are_those_that_touch_the_time_after_the_jump() -> None:
    """A window that ends at the jump is judged, and one that starts 200,000 events after it."""
    jump_at = 3 * FULL.window
    left_out = touches_jump(1 + 4 * FULL.window // FULL.step, jump_at)
    starts = FULL.step * np.flatnonzero(left_out)
    assert starts[0] == jump_at - FULL.window + FULL.step
    assert starts[-1] == jump_at + FULL.window - FULL.step
    assert left_out[starts[0] // FULL.step : starts[-1] // FULL.step + 1].all()


def test_a_windows_rate_is_its_share_of_hits_by_alpha() -> None:
    """Hits every hundredth event are ten times too many for 1e-3; hits in no window give none."""
    hits = np.arange(2 * FULL.window) % 100 == 0
    hits[FULL.window :] = False
    rates = window_rates(hits, 1e-3)
    assert rates[0] == 10.0
    assert rates[-1] == 0.0
    assert (np.diff(rates) <= 0).all()
