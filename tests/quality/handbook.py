"""The Fraud Detection Handbook's protocol: which payments of a test week count, the rule to beat,
card precision, and the figures of a score with their intervals. No model here.

A draw of the bootstrap takes days, as many of each test week as it has.

The rule is the larger of two shares of all payments before the test week: those of which |z| of the
amount in its customer's history is no larger, and those of which the terminal's risk is not, that is
the share of frauds among its payments of seven days, as known seven days later. So it has the
figures that the data's README gives, in the week of 8 August .855/.454/.287 for its .855/.458/.286.
Counting only payments with less (`ties_low`) makes a stronger rule of it: a terminal without known
fraud then says nothing, and payments at most terminals are ranked by |z|.
"""

from datetime import UTC, date, datetime
from typing import Final, Literal, NamedTuple

import numpy as np

from schemas.columns import F64, I64, Bools
from tests.quality.bases.histories import running_z, window_sums
from tests.quality.intervals import DAY_MS, Blocks, Draws, blocks, ranking

KNOWN_AFTER_DAYS: Final = 7
LOOK_BACK_DAYS: Final = 14
CARDS: Final = 100
RISK_DAYS: Final = 7


class Payments(NamedTuple):
    """All payments in order of time; card, terminal: numbers from 0."""

    time_ms: I64
    card: I64
    terminal: I64
    amount: F64
    fraud: Bools


class Figures(NamedTuple):
    """Of a score: AUC, average precision and card precision@100, means over test weeks; days are
    drawn."""

    auc: Draws
    ap: Draws
    cp100: Draws


def handbook_week(time_ms: I64, card: I64, fraud: Bools, start: date) -> Bools:
    """bool[n]: the payments of the test week: on each day, cards already known as defrauded are left out.

    Known on a day are frauds between 14 days before the week and 8 days before that day, since
    labels come 7 days late.
    """
    day = time_ms // DAY_MS
    first = _day(start)
    chosen = np.zeros(len(fraud), np.bool_)
    for today in range(first, first + 7):
        known = np.zeros(int(card.max()) + 1, np.bool_)
        labelled = (day >= first - LOOK_BACK_DAYS) & (day < today - KNOWN_AFTER_DAYS)
        known[card[labelled & fraud]] = True
        chosen |= (day == today) & ~known[card]
    return chosen


def rule(payments: Payments, weeks: list[date], *, ties_low: bool = False) -> F64:
    """float64[n]: the rule's score in the test weeks, 0 elsewhere."""
    n = len(payments.card)
    z = np.abs(running_z(payments.amount, payments.card))
    risk = terminal_risk(payments)
    out = np.zeros(n)
    day = payments.time_ms // DAY_MS
    for week in weeks:
        start = _day(week)
        before, here = day < start, (day >= start) & (day < start + 7)
        side: Literal["left", "right"] = "left" if ties_low else "right"
        shares = [
            np.searchsorted(np.sort(of[before]), of[here], side) / before.sum() for of in (z, risk)
        ]
        out[here] = np.maximum(*shares)
    return out


def _day(of: date) -> int:
    return int(datetime(of.year, of.month, of.day, tzinfo=UTC).timestamp()) // 86_400


def terminal_risk(payments: Payments) -> F64:
    """Share of frauds at the terminal, of the payments of seven days that ended seven days ago."""
    count, frauds = window_sums(
        payments.fraud.astype(np.float64),
        payments.terminal,
        payments.time_ms,
        RISK_DAYS * DAY_MS,
        KNOWN_AFTER_DAYS * DAY_MS,
    )
    return frauds / np.maximum(count, 1.0)


class _Day(NamedTuple):
    """The cards of a test day, the highest payment score first, and whether one was defrauded."""

    card: I64
    fraud: Bools


def card_precision(days: list[_Day], cards: int) -> F64:
    """float64[days]: the share of defrauded cards among each day's 100 with the highest score; those
    found on an earlier day of the week are left out. cards: how many there are in all."""
    found = np.zeros(cards, np.bool_)
    shares = np.zeros(len(days))
    for i, day in enumerate(days):
        first = np.flatnonzero(~found[day.card])[:CARDS]
        hits = first[day.fraud[first]]
        shares[i] = len(hits) / CARDS
        found[day.card[hits]] = True
    return shares


def by_day(payments: Payments, chosen: Bools, score: F64) -> list[_Day]:
    """The days of a test week. chosen: its payments."""
    rows = np.flatnonzero(chosen)
    day = payments.time_ms[rows] // DAY_MS
    return [_cards(payments, rows[day == one], score) for one in np.unique(day)]


def _cards(payments: Payments, rows: I64, score: F64) -> _Day:
    order = rows[np.argsort(-score[rows], kind="stable")]
    card, first, group = np.unique(payments.card[order], return_index=True, return_inverse=True)
    fraud = np.zeros(len(card), np.bool_)
    np.logical_or.at(fraud, group, payments.fraud[order])
    ranked = np.argsort(first, kind="stable")
    return _Day(card[ranked], fraud[ranked])


def figures(payments: Payments, weeks: list[Bools], score: F64) -> Figures:
    """A score's. weeks: the payments of each test week."""
    rows = [np.flatnonzero(week) for week in weeks]
    day = payments.time_ms // DAY_MS
    week_of = np.repeat(np.arange(len(rows)), [len(own) for own in rows])
    drawn = blocks(day[np.concatenate(rows)], strata=week_of)
    each_week = [
        ranking(score[own], payments.fraud[own], Blocks(drawn.of[week_of == k], drawn.weights))
        for k, own in enumerate(rows)
    ]
    cards = int(payments.card.max()) + 1
    shares = [card_precision(by_day(payments, week, score), cards) for week in weeks]
    each = np.concatenate([own / len(own) for own in shares]) / len(weeks)
    return Figures(
        drawn.draws(np.mean([one.auc.values for one in each_week], axis=0)),
        drawn.draws(np.mean([one.ap.values for one in each_week], axis=0)),
        drawn.draws(each @ drawn.weights),
    )
