"""Amounts are compared within their currency only."""

import numpy as np

from detectors.money import CURRENCIES_MAX, Money


def test_a_currency_of_small_units_looks_like_any_other() -> None:
    """Amounts in a currency worth a hundredth have the same relative size."""
    draw = np.random.Generator(np.random.PCG64(1))
    amount = np.exp(draw.normal(3.0, 0.5, 20_000))
    currency = np.arange(20_000, dtype=np.uint64) % np.uint64(2) + np.uint64(7)
    amount[1::2] *= 100.0
    share, unit = Money().relative(currency, amount)
    late = slice(10_000, None)
    assert abs(np.log(np.median(share[late][::2]) / np.median(share[late][1::2]))) < 0.05
    assert 95.0 < unit[-1] / unit[-2] < 105.0


def test_a_flood_of_currencies_is_bounded_and_leaves_the_known_alone() -> None:
    """Ten thousand made-up currencies share the last place; the first keeps its own mean."""
    money = Money()
    money.relative(np.full(100, 1, np.uint64), np.full(100, 50.0))
    money.relative(np.arange(2, 10_002, dtype=np.uint64), np.full(10_000, 1e9))
    _, unit = money.relative(np.ones(1, np.uint64), np.full(1, 50.0))
    assert abs(unit[0] - 50.0) < 1e-6
    assert len(money.typical.mean) == CURRENCIES_MAX
