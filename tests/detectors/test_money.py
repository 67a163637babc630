"""Amounts are compared within their currency only."""

import numpy as np

from detectors.money import CURRENCIES_MAX, Money


def test_a_currency_of_small_units_looks_like_any_other() -> None:
    """Amounts in a currency worth a hundredth have the same relative size."""
    draw = np.random.Generator(np.random.PCG64(1))
    amount = np.exp(draw.normal(3.0, 0.5, 20_000))
    currency = np.arange(20_000, dtype=np.uint64) % np.uint64(2) + np.uint64(7)
    amount[1::2] *= 100.0
    share, unit = Money().relative(currency, amount, np.ones(20_000, np.bool_))
    late = slice(10_000, None)
    assert abs(np.log(np.median(share[late][::2]) / np.median(share[late][1::2]))) < 0.05
    assert 95.0 < unit[-1] / unit[-2] < 105.0


def test_a_flood_of_currencies_is_bounded_and_leaves_the_known_alone() -> None:
    """Ten thousand invented currencies share the last slot; the first currency keeps its own
    mean."""
    money = Money()
    money.relative(np.full(100, 1, np.uint64), np.full(100, 50.0), np.ones(100, np.bool_))
    money.relative(
        np.arange(2, 10_002, dtype=np.uint64), np.full(10_000, 1e9), np.ones(10_000, np.bool_)
    )
    _, unit = money.relative(np.ones(1, np.uint64), np.full(1, 50.0), np.ones(1, np.bool_))
    assert abs(unit[0] - 50.0) < 1e-6
    assert (money.typical.weight > 0.0).sum() == CURRENCIES_MAX


def test_too_late_events_do_not_update_a_currency() -> None:
    """An amount that may not be learned is relative to the typical amount and does not change
    it."""
    money = Money()
    one = np.ones(1, np.uint64)
    money.relative(np.full(50, 1, np.uint64), np.full(50, 10.0), np.ones(50, np.bool_))
    share, _ = money.relative(one, np.full(1, 1e6), np.zeros(1, np.bool_))
    assert abs(share[0] - 1e5) < 1.0
    assert abs(money.relative(one, np.full(1, 10.0), np.ones(1, np.bool_))[1][0] - 10.0) < 1e-9
