"""The Handbook's protocol by hand-worked cases, and its resampled figures against plain ones."""

from datetime import UTC, date, datetime

import numpy as np
import pytest
from sklearn import metrics

from schemas.columns import F64
from tests.quality.handbook import (
    CARDS,
    Payments,
    _Day,
    by_day,
    card_precision,
    figures,
    handbook_week,
)
from tests.quality.intervals import DAY_MS, Blocks, ranking

DRAW = np.random.default_rng(2)
N = 4_000
PAYMENTS = Payments(
    time_ms=np.sort(DRAW.integers(0, 7 * DAY_MS, N)),
    card=DRAW.integers(0, 400, N),
    terminal=np.zeros(N, np.int64),
    amount=np.ones(N),
    fraud=DRAW.uniform(size=N) < 0.05,
)
WEEK = [np.ones(N, np.bool_)]
SCORE: F64 = np.round(DRAW.normal(size=N) + np.where(PAYMENTS.fraud, 2.0, 0.0), 1)


def test_a_detected_card_is_not_detected_again() -> None:
    """The second day leaves out what the first has found, and looks further down for it."""
    cards = np.arange(CARDS + 1)
    first = _Day(cards, cards == 0)
    second = _Day(cards, (cards == 0) | (cards == CARDS))
    assert card_precision([first], CARDS + 1).tolist() == [1 / CARDS]
    assert card_precision([first, second], CARDS + 1).tolist() == [1 / CARDS, 1 / CARDS]
    assert card_precision([first, first], CARDS + 1).tolist() == [1 / CARDS, 0.0]


def test_a_scores_figures_are_the_plain_ones() -> None:
    """AUC and AP of a week are scikit-learn's, card precision the mean of the days'."""
    auc, ap, cp100 = figures(PAYMENTS, WEEK, SCORE)
    assert auc.values[0] == pytest.approx(metrics.roc_auc_score(PAYMENTS.fraud, SCORE))
    assert ap.values[0] == pytest.approx(metrics.average_precision_score(PAYMENTS.fraud, SCORE))
    shares = card_precision(by_day(PAYMENTS, WEEK[0], SCORE), 400)
    assert cp100.values[0] == pytest.approx(shares.mean())


def test_each_week_counts_as_its_own_figures() -> None:
    """The figures of two weeks are the means of each alone, in every draw with its own days."""
    later = PAYMENTS._replace(time_ms=PAYMENTS.time_ms + 7 * DAY_MS)
    both = Payments._make(np.concatenate(pair) for pair in zip(PAYMENTS, later, strict=True))
    draw = np.random.default_rng(5)
    other: F64 = draw.normal(size=N) + np.where(PAYMENTS.fraud, 1.0, 0.0)
    weeks = [np.arange(2 * N) < N, np.arange(2 * N) >= N]
    found = figures(both, weeks, np.concatenate([SCORE, other]))
    one, two = (figures(PAYMENTS, WEEK, score) for score in (SCORE, other))
    for k in range(2):
        mean = (one[k].values[0] + two[k].values[0]) / 2
        assert found[k].values[0] == pytest.approx(mean)
    assert np.isfinite(np.stack([draws.values for draws in found])).all()


def test_a_day_drawn_twice_counts_twice() -> None:
    """AUC and AP equal those of a set in which that day's payments occur twice."""
    times = np.array([2.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0])
    day = PAYMENTS.time_ms // DAY_MS
    rows = np.repeat(np.arange(N), times.astype(np.int64)[day])
    auc, ap = ranking(SCORE, PAYMENTS.fraud, Blocks(day, times[:, None]))
    assert auc.values[0] == pytest.approx(metrics.roc_auc_score(PAYMENTS.fraud[rows], SCORE[rows]))
    assert ap.values[0] == pytest.approx(
        metrics.average_precision_score(PAYMENTS.fraud[rows], SCORE[rows])
    )


def test_a_better_score_has_an_interval_above_zero() -> None:
    """The interval of a difference lies above 0 for a score that knows more, around 0 for two that
    know the same."""
    later = PAYMENTS._replace(time_ms=PAYMENTS.time_ms + 7 * DAY_MS)
    both = Payments._make(np.concatenate(pair) for pair in zip(PAYMENTS, later, strict=True))
    weeks = [np.arange(2 * N) < N, np.arange(2 * N) >= N]
    draw = np.random.default_rng(8)
    noise: F64 = draw.normal(size=(2, 2 * N))
    alike, plain = noise + np.where(both.fraud, 2.0, 0.0)
    better: F64 = noise[0] + np.where(both.fraud, 3.0, 0.0)
    base = figures(both, weeks, plain)
    sure, unsure = (
        [own.less(its).estimate() for own, its in zip(figures(both, weeks, one), base, strict=True)]
        for one in (better, alike)
    )
    assert min(one.low for one in sure[:2]) > 0.0
    assert max(one.low for one in unsure[:2]) < 0.0 < min(one.high for one in unsure[:2])


def test_the_handbooks_week_leaves_out_known_cards() -> None:
    """A card with a fraud ten days before a test day is out on that day; a newer fraud is
    unknown."""
    start = int(datetime(2018, 8, 8, tzinfo=UTC).timestamp() * 1000) // DAY_MS
    day = np.array([start - 10, start, start - 3, start + 4, start + 5, start + 7])
    card = np.array([0, 0, 1, 1, 1, 2])
    fraud = np.array([True, False, True, False, False, False])
    chosen = handbook_week(day * DAY_MS, card, fraud, date(2018, 8, 8))
    assert chosen.tolist() == [False, False, False, True, False, False]
