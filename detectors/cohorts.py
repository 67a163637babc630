"""Cohorts: which peers an entity is compared with, by the value of a text field of its events.

The field's values are numbered as they come, at most `COHORTS_MAX`; what comes later, and events
without the field, belong to everybody, number 0. Numbers are never given back: a flood of values
takes those that are left, and what comes after it is judged as everybody. What a cohort's members
do is learned elsewhere (`models.tail`).
"""

from typing import Final, NamedTuple

import numpy as np

from detectors.numeric.kernels import kernel
from detectors.state import Arrays, load, state_arrays
from schemas.columns import I64, U64, Bools

COHORTS_MAX: Final = 63


class CohortNumbers(NamedTuple):
    """hashed: uint64[COHORTS_MAX], the values' keyed hashes in the order they came, 0 none yet."""

    hashed: U64


class Cohorts:
    """The numbers given so far."""

    def __init__(self) -> None:
        self.values = CohortNumbers(np.zeros(COHORTS_MAX, np.uint64))

    def of(self, hashed: U64, learn: Bools) -> I64:
        """int64[n]: each event's cohort. hashed: uint64[n], of the field, 0 where absent; learn:
        whether the event may give out a number."""
        out = np.zeros(len(hashed), np.int64)
        _number(self.values.hashed, hashed, learn, out)
        return out

    def save(self) -> Arrays:
        """The values and their numbers."""
        return state_arrays(self.values)

    def load(self, state: Arrays) -> None:
        """Replace them by saved ones."""
        load(self.values, state)


@kernel
def _number(known: U64, hashed: U64, learn: Bools, out: I64) -> None:
    for i in range(len(hashed)):
        if hashed[i] == 0:
            continue
        k = 0
        while k < COHORTS_MAX and known[k] != hashed[i] and known[k] != 0:
            k += 1
        if k < COHORTS_MAX and known[k] == 0 and learn[i]:
            known[k] = hashed[i]
        if k < COHORTS_MAX and known[k] == hashed[i]:
            out[i] = 1 + k
