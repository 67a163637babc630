"""Cohorts: the peers with which an entity is compared, by the value of a text field of its events.

The field's values are numbered in order of appearance, up to `COHORTS_MAX`; later values, and events
without the field, belong to cohort 0, everybody. Numbers are never reused: after a flood of values
has taken the remaining ones, new values belong to everybody. What a cohort's members do is learned
in `models.tail`.
"""

from typing import Final, NamedTuple

import numpy as np

from detectors.numeric.kernels import kernel
from detectors.state import Arrays, load, state_arrays
from schemas.columns import I64, U64, Bools

COHORTS_MAX: Final = 63


class CohortValues(NamedTuple):
    """hashed: uint64[COHORTS_MAX], keyed hashes of the values in order of appearance, 0: free."""

    hashed: U64


class Cohorts:
    """The numbers of the values so far."""

    def __init__(self) -> None:
        self.values = CohortValues(np.zeros(COHORTS_MAX, np.uint64))

    def numbers(self, hashed: U64, learn: Bools) -> I64:
        """int64[n]: each event's cohort. hashed: uint64[n], of the field, 0 where absent. learn:
        bool[n], whether the event may number a new value."""
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
