"""The Handbook's protocol by hand-worked cases, and its resampled figures against plain ones."""

from datetime import UTC, date, datetime

import numpy as np
import pytest
from sklearn import metrics

from schemas.columns import F64
from tests.quality.handbook import (
    CARDS,
    DAY_MS,
    Payments,
    _Day,
    _resampled,
    card_precision,
    figures,
    handbook_week,
    intervals,
)

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


def test_a_found_card_is_not_found_again() -> None:
    """The second day leaves out what the first has found, and looks further down for it."""
    cards = np.arange(CARDS + 1)
    first = _Day(cards, cards == 0)
    second = _Day(cards, (cards == 0) | (cards == CARDS))
    once = np.ones(CARDS + 1, np.int64)
    assert card_precision([first], once) == 1 / CARDS
    assert card_precision([first, second], once) == (1 + 1) / (2 * CARDS)


def test_a_scores_figures_are_the_plain_ones() -> None:
    """AUC and AP of a week are scikit-learn's."""
    plain = figures(PAYMENTS, WEEK, SCORE)
    assert plain.auc == pytest.approx(metrics.roc_auc_score(PAYMENTS.fraud, SCORE))
    assert plain.ap == pytest.approx(metrics.average_precision_score(PAYMENTS.fraud, SCORE))


def test_a_customer_drawn_twice_counts_twice() -> None:
    """AUC and AP equal those of a set in which that customer's payments stand twice."""
    times = np.ones(400)
    times[:50] = 2
    times[50:80] = 0
    rows = np.repeat(np.arange(N), times.astype(np.int64)[PAYMENTS.card])
    twice = Payments._make(column[rows] for column in PAYMENTS)
    plain = figures(twice, [np.ones(len(rows), np.bool_)], SCORE[rows])
    auc, ap, _ = _resampled(PAYMENTS, WEEK, SCORE, times[:, None])[:, 0]
    assert [auc, ap] == pytest.approx([plain.auc, plain.ap], rel=1e-12)


def test_a_better_score_is_surely_better() -> None:
    """The interval of a difference lies above 0 for a score that knows more, around 0 for two that
    know the same."""
    draw = np.random.default_rng(8)
    alike: F64 = draw.normal(size=N) + np.where(PAYMENTS.fraud, 2.0, 0.0)
    better: F64 = draw.normal(size=N) + np.where(PAYMENTS.fraud, 3.0, 0.0)
    low, high = zip(*intervals(PAYMENTS, WEEK, better, SCORE, seed=1), strict=True)
    assert min(low[:2]) > 0.0
    low, high = zip(*intervals(PAYMENTS, WEEK, alike, SCORE, seed=1), strict=True)
    assert max(low[:2]) < 0.0 < min(high[:2])


def test_the_handbooks_week_leaves_out_known_cards() -> None:
    """A card with a fraud ten days before a test day is out on that day; a newer fraud is
    unknown."""
    start = int(datetime(2018, 8, 8, tzinfo=UTC).timestamp() * 1000) // DAY_MS
    day = np.array([start - 10, start, start - 3, start + 4, start + 5, start + 7])
    card = np.array([0, 0, 1, 1, 1, 2])
    fraud = np.array([True, False, True, False, False, False])
    chosen = handbook_week(day * DAY_MS, card, fraud, date(2018, 8, 8))
    assert chosen.tolist() == [False, False, False, True, False, False]
