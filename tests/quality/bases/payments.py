"""Bases on card payments: simple scores by name, and the batch model's features.

Each simple base is one feature, a fixed rule, or evidence accumulated from either. Constants were
chosen on the early part, before 18 July 2018 (Handbook) and before 21 June 2020 (Sparkov), as were
the bases: their average precision there stands beside them. On Sparkov the distributions are those
of 2019, and the figures those of January to June 2020; on the Handbook those before 20 June 2018,
and the mean of the four weeks after it.

The features of the batch model are those of the field: the amount, when it was paid, z-scores, counts
and sums of the card over a day and a week (and a month on the Handbook), the gap, and on the Handbook
the terminal's counts and share of frauds over the same windows, as known a week later (Y.-A. Le
Borgne et al., "Reproducible machine learning for credit card fraud detection", 2022, chapter 3).
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.columns import F64, I64, Bools
from tests.quality.bases.boosting import LabelledEvents, weekly_scores
from tests.quality.bases.evidence import accumulated, upper_tail
from tests.quality.bases.histories import gaps, group_z, running_z, shrunken_z, window_sums
from tests.quality.handbook import KNOWN_AFTER_DAYS, Payments, terminal_risk
from tests.quality.intervals import DAY_MS

HOUR_MS: Final = 3_600_000
LABEL_DELAY_MS: Final = KNOWN_AFTER_DAYS * DAY_MS


class CategoryPayments(NamedTuple):
    """Sparkov's, in order of time; card, category: numbers from 0."""

    time_ms: I64
    card: I64
    category: I64
    amount: F64
    fraud: Bools


# -- Sparkov ---------------------------------------------------------------------------------------


def sparkov_bases(payments: CategoryPayments, early: Bools) -> dict[str, F64]:
    """Without labels. early: the payments that distributions and θ are fitted on."""
    time_ms, card, category, amount, _ = payments
    days = time_ms / DAY_MS
    hour = time_ms // HOUR_MS % 24
    log_amount = np.log(amount)
    z = group_z(log_amount, category, early)
    at_night = z + 2.0 * ((hour >= 22) | (hour < 4))
    v = upper_tail(log_amount, category, early)
    v_at_night = upper_tail(at_night, np.zeros_like(category), early)

    def evidence(of: F64, most: float) -> F64:
        return accumulated(of, card, days, 1.0, float(np.quantile(of[early], 0.9)), most)

    return {
        "amount": amount,  # .186
        "|z| of the amount per card": np.abs(running_z(amount, card)),
        "sum of a day per card": amount + window_sums(amount, card, time_ms, DAY_MS)[1],
        "z per category": z,  # .148
        "z per category, plus 2 at night": at_night,  # .307
        "amount per category, evidence v + min(S, 2v)": evidence(v, 2.0),  # .547
        "amount per category, evidence v + S": evidence(v, np.inf),  # .526
        # .633; with c = 2 .600, unbounded .572
        "z per category at night, evidence v + min(S, 4v)": evidence(v_at_night, 4.0),
    }


def sparkov_batch(payments: CategoryPayments, early: Bools, start_ms: int) -> F64:
    """Trees with labels; average precision from 5 April 2020 on .904, and .931 with the accumulated
    evidence as one more feature."""
    time_ms, card, category, amount, fraud = payments
    log_amount = np.log(amount)
    pair = card * (int(category.max()) + 1) + category
    features: list[F64 | I64] = [
        log_amount,
        category,
        time_ms // HOUR_MS % 24,
        group_z(log_amount, category, early),
        running_z(log_amount, card),
        running_z(log_amount, pair),
        gaps(card, time_ms),
        *window_sums(amount, card, time_ms, DAY_MS),
        *window_sums(amount, card, time_ms, 7 * DAY_MS),
    ]
    known_ms = time_ms + LABEL_DELAY_MS
    return weekly_scores(
        LabelledEvents(_columns(features), time_ms, fraud, known_ms, categorical=(1,)), start_ms
    )


# -- Handbook --------------------------------------------------------------------------------------


def handbook_bases(payments: Payments, early: Bools) -> dict[str, F64]:
    """Without labels."""
    _, card, _, amount, _ = payments
    z = shrunken_z(np.sqrt(amount), card, early)
    v = _tail_of_all(z, early)
    either = np.maximum(v, _tail_of_all(amount, early))
    return {
        "amount": amount,  # .229
        "|z| of the amount per card": np.abs(running_z(amount, card)),
        "shrunken, winsorised z of the root": z,  # .299
        "the same, evidence v + min(S, v)": _evidence(v, payments, early),  # .310
        "the rarer of that z and the amount": either,  # .319
    }


def handbook_label_bases(payments: Payments, early: Bools) -> dict[str, F64]:
    """With labels that come seven days late."""
    z = shrunken_z(np.sqrt(payments.amount), payments.card, early)
    risk = terminal_risk(payments)
    rarer = np.maximum(_tail_of_all(z, early), _tail_of_all(risk, early))
    return {
        "terminal's risk of 7 days": risk,  # .278
        "the rarer of shrunken z and risk": rarer,  # .586
    }


def handbook_batch(payments: Payments, early: Bools, start_ms: int) -> F64:
    """Trees with labels."""
    time_ms, card, terminal, amount, fraud = payments
    features: list[F64 | I64] = [
        amount,
        time_ms // HOUR_MS % 24,
        (time_ms // DAY_MS + 3) % 7,
        shrunken_z(np.sqrt(amount), card, early),
        gaps(card, time_ms),
    ]
    frauds = fraud.astype(np.float64)
    for days in (1, 7, 30):
        count, total = window_sums(amount, card, time_ms, days * DAY_MS)
        features += [count, total / np.maximum(count, 1.0)]
        window = days * DAY_MS, LABEL_DELAY_MS
        count, total = window_sums(frauds, terminal, time_ms, *window)
        features += [count, total / np.maximum(count, 1.0)]
    known_ms = time_ms + LABEL_DELAY_MS
    return weekly_scores(LabelledEvents(_columns(features), time_ms, fraud, known_ms), start_ms)


def _tail_of_all(values: F64, early: Bools) -> F64:
    return upper_tail(values, np.zeros(len(values), np.int64), early)


def _evidence(v: F64, payments: Payments, early: Bools) -> F64:
    """θ the .99 quantile, a half-life of four days: with .9 and one day .287 instead of .310."""
    threshold = float(np.quantile(v[early], 0.99))
    return accumulated(v, payments.card, payments.time_ms / DAY_MS, 4.0, threshold, 1.0)


def _columns(features: Sequence[F64 | I64]) -> NDArray[np.float32]:
    return np.stack([one.astype(np.float32) for one in features], axis=1)
