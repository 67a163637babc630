"""What River takes for the same: Python objects, one set an entity, one event at a time."""

from typing import Any, Final

import numpy as np
from river.anomaly import HalfSpaceTrees
from river.stats import EWMean, EWVar

from detectors.clock import unbounded_times
from detectors.entities import EntityTable
from detectors.numeric.hashing import hash_key, hash_text
from detectors.numeric.kernels import kernel
from schemas.columns import F64, I64, Bools
from tests.bench.events import Payments, names
from tests.bench.timing import TimeSpent, time_spent

FADING: Final = (0.02, 0.2)
NUMBERS: Final = 3
FEATURES: Final = 12
"""Three numbers, two fading factors, mean and variance of each: twelve statistics."""


def numbers_of(events: Payments) -> F64:
    """float64[n, 3]: amount, its logarithm, and minutes since the last event of all."""
    gap_min = np.diff(events.time_ms, prepend=events.time_ms[:1]) / 60_000.0
    return np.column_stack([events.amount, np.log(events.amount), gap_min])


class RiverStatistics:
    """Twelve statistics for each account, as River objects."""

    def __init__(self) -> None:
        self._of: dict[str, list[Any]] = {}

    def run(self, accounts: list[str], numbers: list[list[float]], out: list[Any]) -> None:
        """Update and read all twelve at each event."""
        for account, row in zip(accounts, numbers, strict=True):
            mine = self._of.get(account)
            if mine is None:
                mine = [
                    (i, one)
                    for i in range(NUMBERS)
                    for fading in FADING
                    for one in (EWMean(fading), EWVar(fading))
                ]
                self._of[account] = mine
            for i, one in mine:
                one.update(row[i])
            out.append([one.get() for _, one in mine])


class OurStatistics:
    """The same twelve, as rows of an array; keys are hashed and found as in a monitor."""

    def __init__(self, capacity: int) -> None:
        self._entities = EntityTable(capacity)
        self._key = hash_key("bench")
        self._state = np.zeros((capacity, NUMBERS * len(FADING) * 2))

    def run(self, events: Payments, accounts: Any, numbers: F64, out: F64) -> None:
        """Update and read all twelve at each event. out: float64[n, 12]."""
        admitted = self._entities.admit(
            hash_text(accounts, self._key), unbounded_times(events.time_ms), 1e12
        )
        fading = np.array(FADING)
        _statistics(self._state, admitted.row, admitted.fresh, numbers, fading, out)


@kernel
def _statistics(state: F64, row: I64, fresh: Bools, numbers: F64, fading: F64, out: F64) -> None:
    """River's recurrences: m ← f x + (1 - f) m, of x and of x²; the variance is their difference."""
    for i in range(len(row)):
        mine = state[row[i]]
        at = 0
        for j in range(numbers.shape[1]):
            x = numbers[i, j]
            for f in fading:
                if fresh[i]:
                    mine[at] = x
                    mine[at + 1] = x * x
                else:
                    mine[at] = f * x + (1.0 - f) * mine[at]
                    mine[at + 1] = f * x * x + (1.0 - f) * mine[at + 1]
                out[i, at] = mine[at]
                out[i, at + 1] = mine[at + 1] - mine[at] * mine[at]
                at += 2


class StatisticsRace:
    """The two beside each other on the same events."""

    def __init__(self, events: Payments) -> None:
        self.events = events
        self.numbers = numbers_of(events)
        self.accounts = names("acc", events.number["account"])
        self.texts = self.accounts.to_pylist()
        self.rows = self.numbers.tolist()

    def turn(self) -> tuple[TimeSpent, TimeSpent, float]:
        """Ours, River's, and the largest relative difference between their results."""
        n = len(self.events)
        ours, theirs = np.empty((n, FEATURES)), []  # type: ignore[var-annotated]
        fast, slow = OurStatistics(n), RiverStatistics()
        us = time_spent(n, lambda: fast.run(self.events, self.accounts, self.numbers, ours))
        river = time_spent(n, lambda: slow.run(self.texts, self.rows, theirs))
        expected = np.array(theirs)
        worst = np.abs(ours - expected) / np.maximum(np.abs(expected), 1.0)
        return us, river, float(worst.max())


class RiverTrees:
    """Half-space trees for each account: score, then learn; twelve features in [0, 1] given."""

    def __init__(self) -> None:
        self._of: dict[int, HalfSpaceTrees] = {}
        draw = np.random.Generator(np.random.PCG64(5))
        self._features = [
            {f"f{j}": value for j, value in enumerate(row)}
            for row in draw.beta(2, 3, (1000, FEATURES)).tolist()
        ]

    def build(self, accounts: list[int]) -> None:
        """Make each account's trees; River builds them at the first event."""
        for account in accounts:
            self._of[account] = HalfSpaceTrees(n_trees=10, height=8, window_size=250, seed=1)
            self._of[account].learn_one(self._features[0])  # type: ignore[no-untyped-call]

    def run(self, accounts: list[int]) -> None:
        """Score and learn an event of each."""
        for i, account in enumerate(accounts):
            trees, x = self._of[account], self._features[i % 1000]
            trees.score_one(x)  # type: ignore[no-untyped-call]
            trees.learn_one(x)  # type: ignore[no-untyped-call]
