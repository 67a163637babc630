"""Money: amounts relative to the typical amount of their currency, to make currencies comparable.

Each currency has a decayed mean of ln|amount| in the shard; an amount is divided by the exponential
of that mean. An entity's payments in two currencies, or a sum over both, are then multiples of
typical amounts, never amounts of different currencies. Bounded: `CURRENCIES_MAX` currencies have a
mean of their own, and further ones, which no honest stream has, share the last.
"""

from math import exp, log
from typing import Final, NamedTuple

import numpy as np

from detectors.numeric.kernels import kernel
from detectors.state import Arrays, load, state_arrays
from schemas.columns import F64, U64, Bools

CURRENCIES_MAX: Final = 64
MEMORY: Final = 20_000.0
AMOUNT_MIN: Final = 1e-6
"""Smaller amounts are not learned: dividing by them would overflow float64."""
STEP_MAX: Final = 3.0
"""Largest difference in ln that is learned: that of an amount 20 times the typical one."""


class TypicalAmounts(NamedTuple):
    """currency: uint64, hashes. weight: decayed number of amounts. mean: of ln|amount|."""

    currency: U64
    weight: F64
    mean: F64


class Money:
    """The typical amount of each currency."""

    def __init__(self) -> None:
        self.typical = TypicalAmounts(
            currency=np.zeros(CURRENCIES_MAX, np.uint64),
            weight=np.zeros(CURRENCIES_MAX),
            mean=np.zeros(CURRENCIES_MAX),
        )

    def relative(self, currency: U64, amount: F64, learn: Bools) -> tuple[F64, F64]:
        """(amount / typical amount, typical amount), each float64[n]; each amount is learned in turn.

        currency: uint64[n], hashes, 0 for no currency, which counts as one. learn: bool[n].
        """
        share = np.empty(len(amount))
        unit = np.empty(len(amount))
        _relative(self.typical, currency, amount, learn, share, unit)
        return share, unit

    def save(self) -> Arrays:
        """The currencies and their means."""
        return state_arrays(self.typical)

    def load(self, state: Arrays) -> None:
        """Replace the currencies and their means by saved ones."""
        load(self.typical, state)


@kernel
def _relative(
    typical: TypicalAmounts, currency: U64, amount: F64, learn: Bools, share: F64, unit: F64
) -> None:
    weight = typical.weight
    mean = typical.mean
    for i in range(len(amount)):
        k = 0
        while k < CURRENCIES_MAX - 1 and weight[k] > 0.0 and typical.currency[k] != currency[i]:
            k += 1
        size = abs(amount[i])
        is_amount = size >= AMOUNT_MIN  # False for NaN
        if is_amount and learn[i] and weight[k] == 0.0:
            typical.currency[k] = currency[i]
            mean[k] = log(size)
        unit[i] = exp(mean[k]) if weight[k] > 0.0 or (is_amount and learn[i]) else 1.0
        share[i] = amount[i] / unit[i]
        if is_amount and learn[i]:
            weight[k] = min(weight[k] + 1.0, MEMORY)
            mean[k] += min(max(log(size) - mean[k], -STEP_MAX), STEP_MAX) / weight[k]
