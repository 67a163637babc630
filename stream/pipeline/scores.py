"""Scores: what a replay writes about every event beside the alerts. For replay only: a live worker writes none."""

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.columns import F64, I64, U8, Bools


class ScoreSelection(NamedTuple):
    """The score columns that a replay writes.

    scores: of each stage the p-value, the activity, and the surprised features. feature_values: the
    features' values and p-values.
    """

    scores: bool = False
    feature_values: bool = False


NO_SCORES: Final = ScoreSelection()


class ScoreColumns(NamedTuple):
    """The scores of n events by one stage with k features.

    p_value: float64[n], NaN where the stage did not score. activity: uint8[n], `policy.NO_ALERT` …
    surprised: bool[k, n]. feature_values: float64[2k, n], the values in natural units, then their own
    p-values, NaN where there is none. surprised and feature_values have no rows where the selection leaves
    them out.
    """

    p_value: F64
    activity: U8
    surprised: Bools
    feature_values: F64

    def slice(self, start: int, stop: int) -> "ScoreColumns":
        """The scores of the events start … stop - 1."""
        return ScoreColumns._make(array[..., start:stop] for array in self)

    def take(self, rows: I64) -> "ScoreColumns":
        """The scores of these events."""
        return ScoreColumns._make(array[..., rows] for array in self)

    def write(self, rows: I64, scores: "ScoreColumns") -> None:
        """Replace the scores at these rows; where a row is given several times, by the last."""
        pairs: Iterator[tuple[NDArray[Any], NDArray[Any]]] = zip(self, scores, strict=True)
        for column, new_values in pairs:
            column[..., rows] = new_values


def empty_scores(features: int, n: int, selection: ScoreSelection) -> ScoreColumns:
    """The scores of n events that were not scored. features: of the stage."""
    surprised = np.zeros((features if selection.scores else 0, n), np.bool_)
    values = np.full((2 * features if selection.feature_values else 0, n), np.nan)
    return ScoreColumns(np.full(n, np.nan), np.zeros(n, np.uint8), surprised, values)


def joined_scores(parts: Sequence[ScoreColumns]) -> ScoreColumns:
    """The scores of consecutive batches as one."""
    return ScoreColumns._make(
        np.concatenate(arrays, axis=-1) for arrays in zip(*parts, strict=True)
    )
