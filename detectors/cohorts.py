"""Cohorts: the peers with which an entity is compared, by the value of a text field of its events.

The field's values are numbered in order of appearance, up to `COHORTS_MAX`; later values, and events
without the field, belong to cohort 0, all entities. Numbers are never reused: after a flood of values
has taken the remaining ones, new values belong to cohort 0. `models.tail` learns a cohort's
behaviour.
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
        bool[n], whether the event may give a new value a number."""
        out = np.zeros(len(hashed), np.int64)
        _number(self.values.hashed, hashed, learn, out)
        return out

    def save(self) -> Arrays:
        """The values and their numbers."""
        return state_arrays(self.values)

    def load(self, state: Arrays) -> None:
        """Replace the values by saved ones."""
        load(self.values, state)


@kernel
def _number(values: U64, hashed: U64, learn: Bools, out: I64) -> None:
    for i in range(len(hashed)):
        if hashed[i] == 0:
            continue
        k = 0
        while k < COHORTS_MAX and values[k] != hashed[i] and values[k] != 0:
            k += 1
        if k < COHORTS_MAX and values[k] == 0 and learn[i]:
            values[k] = hashed[i]
        if k < COHORTS_MAX and values[k] == hashed[i]:
            out[i] = 1 + k
