"""The logistic regression against River's, and its treatment of absent inputs."""

import numpy as np
import pytest
from river import compose, linear_model, optim, preprocessing

from detectors.fusion import logistic
from detectors.fusion.logistic import LEARNING_RATE


def test_it_learns_as_rivers_does() -> None:
    """With scaled inputs and unscaled flags, the log odds equal those of River's pipeline after
    each of many outcomes."""
    draw = np.random.default_rng(3)
    inputs = draw.uniform(-3.0, 7.0, (2_000, 3)) * [1.0, 20.0, 0.1]
    marks = (draw.uniform(size=(2_000, 2)) < 0.4).astype(float)
    outcome = (draw.uniform(size=2_000) < 1.0 / (1.0 + np.exp(-inputs[:, 0]))).astype(float)
    river = compose.TransformerUnion(
        compose.Select("a", "b", "c") | preprocessing.StandardScaler(), compose.Select("m", "n")
    ) | linear_model.LogisticRegression(optim.SGD(LEARNING_RATE), intercept_lr=LEARNING_RATE)
    line = logistic.empty(3, 2)
    for x, m, y in zip(inputs, marks, outcome, strict=True):
        row = dict(zip("abcmn", [*x.tolist(), *m.tolist()], strict=True))
        odds = logistic.log_odds(line, x, m)
        assert 1.0 / (1.0 + np.exp(-odds)) == pytest.approx(river.predict_proba_one(row)[True])
        river.learn_one(row, bool(y))
        logistic.learn(line, x, m, y)
    assert np.abs(line.weight).min() > 1e-3


def test_an_absent_input_counts_as_its_mean() -> None:
    """An absent input neither changes the log odds nor is learned."""
    draw = np.random.default_rng(4)
    line = logistic.empty(2, 0)
    none = np.zeros(0)
    for x in draw.normal(5.0, 2.0, (500, 2)):
        logistic.learn(line, x, none, float(x[0] > 5.0))
    seen = line.seen.copy()
    at_mean = np.array([7.0, line.mean[1]])
    absent = np.array([7.0, np.nan])
    assert logistic.log_odds(line, absent, none) == logistic.log_odds(line, at_mean, none)
    logistic.learn(line, absent, none, 1.0)
    assert (line.seen - seen).tolist() == [1.0, 0.0]


def test_one_value_far_out_is_forgotten() -> None:
    """An amount of 10^12 among ordinary ones changes neither scale nor weight by much."""
    draw = np.random.default_rng(5)
    line, none = logistic.empty(1, 0), np.zeros(0)

    def learn(count: int) -> float:
        for _ in range(count):
            outcome = float(draw.uniform() < 0.2)
            logistic.learn(line, np.array([draw.normal(3.0 * outcome)]), none, outcome)
        say = [logistic.log_odds(line, np.array([x]), none) for x in (0.0, 3.0)]
        return say[1] - say[0]

    before = learn(2_000)
    logistic.learn(line, np.array([1e12]), none, 0.0)
    assert learn(2_000) > 0.9 * before
    assert logistic.spread(line, 0) < 2.0


def test_credits_add_up_to_the_log_odds() -> None:
    """The intercept and the credits of inputs and flags add up to the log odds."""
    draw = np.random.default_rng(6)
    line = logistic.empty(3, 2)
    for x in draw.normal(size=(500, 3)):
        logistic.learn(line, x, (x[:2] > 1.0).astype(float), float(x[0] > 0.0))
    for x in ([1.0, -2.0, 0.3], [np.nan, 1.0, np.nan]):
        row, marks, out = np.array(x), np.ones(2), np.zeros(3)
        logistic.credit(line, row, marks, out)
        odds = logistic.log_odds(line, row, marks)
        assert line.intercept[0] + out.sum() == pytest.approx(odds, abs=1e-12)
