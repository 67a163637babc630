"""The measures against scikit-learn's definitions by hand-worked cases and brute force."""

from datetime import UTC, date, datetime

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.quality.measures import DAY_MS, average_precision, handbook_week, roc_auc

cases = st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=40).filter(
    lambda rows: 0 < sum(fraud for _, fraud in rows) < len(rows)
)


@given(cases)
def test_auc_is_the_share_of_pairs_in_order(rows: list[tuple[int, bool]]) -> None:
    """AUC equals the share of (fraud, honest) pairs in which the fraud scores higher, ties half."""
    pairs = [
        1.0 if f > h else 0.5 if f == h else 0.0
        for f, is_fraud in rows
        if is_fraud
        for h, honest in rows
        if not honest
    ]
    score = np.array([float(s) for s, _ in rows])
    fraud = np.array([f for _, f in rows])
    assert abs(roc_auc(score, fraud) - sum(pairs) / len(pairs)) < 1e-12


@given(cases)
def test_average_precision_steps_down_the_distinct_scores(rows: list[tuple[int, bool]]) -> None:
    """AP equals the sum over distinct thresholds of recall gained times precision there."""
    score = np.array([float(s) for s, _ in rows])
    fraud = np.array([f for _, f in rows])
    total, before = 0.0, 0
    for threshold in sorted(set(score.tolist()), reverse=True):
        asked = score >= threshold
        hits = int((fraud & asked).sum())
        total += (hits - before) / fraud.sum() * hits / asked.sum()
        before = hits
    assert abs(average_precision(score, fraud) - total) < 1e-12


def test_the_handbooks_week_leaves_out_known_cards() -> None:
    """A card with a fraud ten days before a test day is out on that day; a newer fraud is
    unknown."""
    start = int(datetime(2018, 8, 8, tzinfo=UTC).timestamp() * 1000) // DAY_MS
    day = np.array([start - 10, start, start - 3, start + 4, start + 5, start + 7])
    card = np.array([0, 0, 1, 1, 1, 2])
    fraud = np.array([True, False, True, False, False, False])
    chosen = handbook_week(day * DAY_MS, card, fraud, date(2018, 8, 8))
    assert chosen.tolist() == [False, False, False, True, False, False]
