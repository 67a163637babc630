"""Measures of a ranking against labels, and the Handbook's protocol. No model here."""

from datetime import UTC, date, datetime
from typing import Final

import numpy as np

from schemas.columns import F64, I64, Bools

DAY_MS: Final = 86_400_000
KNOWN_AFTER_DAYS: Final = 7
LOOK_BACK_DAYS: Final = 14


def roc_auc(score: F64, fraud: Bools) -> float:
    """Area under the ROC curve: P(a fraud scores above an honest event), ties counted half."""
    order = np.argsort(score, kind="stable")
    _, group, size = np.unique(score[order], return_inverse=True, return_counts=True)
    rank = np.empty(len(score))
    rank[order] = (np.cumsum(size) - size + (size + 1) / 2)[group]
    frauds = int(fraud.sum())
    above = float(rank[fraud].sum()) - frauds * (frauds + 1) / 2
    return above / (frauds * (len(fraud) - frauds))


def average_precision(score: F64, fraud: Bools) -> float:
    """Σ (recall step x precision) down the ranking, equal scores taken together."""
    order = np.argsort(-score, kind="stable")
    ends = np.append(np.diff(score[order]) != 0, True)
    hits = np.cumsum(fraud[order])[ends]
    asked = np.arange(1, len(score) + 1)[ends]
    return float(np.sum(np.diff(hits, prepend=0) / hits[-1] * hits / asked))


def handbook_week(time_ms: I64, card: I64, fraud: Bools, start: date) -> Bools:
    """The payments of the test week: on each day, cards already known as defrauded are left out.

    Known on a day are frauds between 14 days before the week and 8 days before that day, since
    labels come 7 days late.
    """
    day = time_ms // DAY_MS
    first = int(datetime(start.year, start.month, start.day, tzinfo=UTC).timestamp()) // 86_400
    chosen = np.zeros(len(fraud), np.bool_)
    for today in range(first, first + 7):
        known = np.zeros(int(card.max()) + 1, np.bool_)
        labelled = (day >= first - LOOK_BACK_DAYS) & (day < today - KNOWN_AFTER_DAYS)
        known[card[labelled & fraud]] = True
        chosen |= (day == today) & ~known[card]
    return chosen
