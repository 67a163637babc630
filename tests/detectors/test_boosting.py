"""Boosted trees: their splits against exhaustive search, their predictions, and repeatability."""

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import log_loss

from detectors.fusion import boosting
from detectors.fusion.boosting import GAIN_MIN, LAMBDA, ROWS_MIN
from schemas.columns import F64


def made_up(n: int, seed: int = 5) -> tuple[F64, F64]:
    """Inputs, some absent, and outcomes that depend on two of them together, and on absence."""
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(n, 3)).round(1)
    x[draw.uniform(size=(n, 3)) < 0.2] = np.nan
    odds = np.where(np.isnan(x[:, 2]), 2.0, -1.0)
    odds += np.where((np.nan_to_num(x[:, 0]) > 0) != (np.nan_to_num(x[:, 1]) > 0), 2.0, -2.0)
    return x, (draw.uniform(size=n) < 1.0 / (1.0 + np.exp(-odds))).astype(float)


def probabilities(trees: boosting.BoostedTrees, x: F64) -> F64:
    """The trees' probabilities of each row."""
    odds = np.array([boosting.log_odds(trees, row) for row in x])
    return np.asarray(1.0 / (1.0 + np.exp(-odds)))


def gain_of(left: np.ndarray, rows: np.ndarray, g: F64, h: F64) -> float:
    """The gain of a split of these rows."""

    def part(some: np.ndarray) -> float:
        return float(g[some].sum() ** 2 / (h[some].sum() + LAMBDA))

    return part(rows & left) + part(rows & ~left) - part(rows)


def best_gain(x: F64, rows: np.ndarray, g: F64, h: F64) -> float:
    """The largest gain of any split of these rows, over every value and both directions; 0 where no
    split has enough rows on both sides."""
    gains = [0.0]
    for column in x.T:
        for edge in np.unique(column[~np.isnan(column)]):
            for absent_left in (False, True):
                left = np.where(np.isnan(column), absent_left, column <= edge)
                if min((rows & left).sum(), (rows & ~left).sum()) >= ROWS_MIN:
                    gains.append(gain_of(left, rows, g, h))
    return max(gains)


@pytest.mark.parametrize("seed", range(5))
def test_every_split_of_the_first_tree_gains_most(seed: int) -> None:
    """Of all splits of the node's rows, by the formula; where none gains, the node has none. Inputs
    have few values, so that each has a bin."""
    x, y = made_up(300, seed)
    x = np.clip(np.round(2.0 * x) / 2.0, -1.5, 1.5)
    trees = boosting.empty()
    boosting.fit(trees, x, y)
    p = y.mean()
    g, h = p - y, np.full(len(y), p * (1.0 - p))
    rows_of = {0: np.ones(len(y), np.bool_)}
    split = 0
    for node in range(boosting.NODES):
        rows, j = rows_of[node], int(trees.feature[0, node])
        left = np.ones(len(y), np.bool_)
        gain = 0.0
        if j >= 0:
            absent_left = trees.absent_left[0, node]
            left = np.where(np.isnan(x[:, j]), absent_left, x[:, j] <= trees.edge[0, node])
            gain = gain_of(left, rows, g, h)
            split += 1
        assert gain == pytest.approx(best_gain(x, rows, g, h), rel=1e-9, abs=2 * GAIN_MIN)
        rows_of[2 * node + 1], rows_of[2 * node + 2] = rows & left, rows & ~left
    assert 4 < split < boosting.NODES


@pytest.mark.slow
def test_it_predicts_as_well_as_a_library() -> None:
    """On rows it has not seen its log loss is within 2 % of scikit-learn's boosted trees'."""
    x, y = made_up(6_000)
    new, outcome = made_up(6_000, seed=6)
    trees = boosting.empty()
    boosting.fit(trees, x, y)
    other = HistGradientBoostingClassifier(max_iter=60, learning_rate=0.15, max_leaf_nodes=16)
    other.fit(x, y)
    ours = log_loss(outcome, probabilities(trees, new))
    assert ours < 1.02 * log_loss(outcome, other.predict_proba(new)[:, 1])


def test_a_fit_is_the_same_bytes_each_time() -> None:
    """Two fits to the same rows give the same bytes, whatever the trees held before."""
    x, y = made_up(500)
    one, other = boosting.empty(), boosting.empty()
    boosting.fit(one, x, y)
    boosting.fit(other, *made_up(700, seed=9))
    boosting.fit(other, x, y)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(one, other, strict=True))


def test_credits_add_up_to_the_output() -> None:
    """The base, the roots' values and the inputs' credits add up to the log odds; an input without
    a split has no credit, and the decisive one the largest."""
    x, y = made_up(2_000)
    x = np.column_stack([x, np.full(len(x), 7.0)])
    trees = boosting.empty()
    boosting.fit(trees, x, y)
    credited = np.zeros((len(x), 4))
    for row, out in zip(x, credited, strict=True):
        boosting.credit(trees, row, out)
    odds = np.array([boosting.log_odds(trees, row) for row in x])
    whole = trees.base[0] + trees.node_value[:, 0].sum() + credited.sum(axis=1)
    assert whole == pytest.approx(odds, abs=1e-12)
    assert not credited[:, 3].any()
    absent = np.isnan(x[:, 2])
    assert credited[absent, 2].min() > credited[~absent, 2].max()


@pytest.mark.parametrize("value", [np.nan, 4.0, np.inf])
def test_an_uninformative_input_is_not_split(value: float) -> None:
    """An input that is always absent, or always the same, has no split."""
    x, y = made_up(400)
    x[:, 1] = value
    trees = boosting.empty()
    boosting.fit(trees, x, y)
    assert not (trees.feature == 1).any()
    assert (trees.feature == 0).any()
