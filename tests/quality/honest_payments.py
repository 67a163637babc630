"""Honest payments, made up: what p-values are checked against, since nothing here is a fraud.

Seeded. Regular customers pay all the time, newcomers arrive all the time, and both are as uneven
as people: some pay a hundred times as often as others, in visits of a few payments at their own
time of day, amounts are of their own level and spread with tails heavier than a log-normal's, and
some change their device or address far more often than others. No model here, no measure either.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from schemas.columns import F64, I64, Bools
from tests.bench.events import START_MS, Payments

DAY_MS: Final = 86_400_000
VISIT_GOES_ON: Final = 0.3
TAIL_DF: Final = 6.0
"""Of the Student's t of ln(amount)."""
NEWCOMER_PACE_DAYS: Final = 1.5
"""Between two payments, in the median; others differ by a factor e, as the regulars do."""
NOT_COPIED: Final = 50_000_000


@dataclass(frozen=True)
class Shape:
    """What is paid. events: how many payments, over `days`. regulars: customers from the start;
    newcomers: those that arrive evenly over the time, with `newcomer_payments` each in the median.

    drift: (first event, number of events, size) over which each customer's ln(amount) rises to
    `size` times its own standard deviation, and stays. jump: (first event, factor) on all amounts.
    """

    events: int
    days: float
    regulars: int
    newcomers: int
    drift: tuple[int, int, float]
    jump: tuple[int, float]
    newcomer_payments: float = 6.0


def honest_payments(shape: Shape, seed: int) -> Payments:
    """Payments in order of time; customers from `shape.regulars` on are newcomers."""
    draw = np.random.Generator(np.random.PCG64(seed))
    who, time_ms = _newcomers(shape, draw)
    regular = _regulars(shape, shape.events - len(who), draw)
    time_ms = np.concatenate(
        [time_ms, _visits(regular, np.zeros(shape.regulars), shape.days, draw)]
    )
    who = np.concatenate([who, regular])
    order = np.argsort(time_ms, kind="stable")
    who, time_ms = who[order], time_ms[order]
    product = (20_000 * draw.random(len(who)) ** 3).astype(np.int64)
    customers = shape.regulars + shape.newcomers
    return Payments(
        number={
            "account": who,
            "device": _mostly_own(who, 0.01, customers, draw),
            "ip": _mostly_own(who, 0.05, customers, draw),
            "card": _mostly_own(who, 0.01, customers, draw),
            "seller": product % 997,
            "product": product,
        },
        time_ms=START_MS + time_ms.astype(np.int64),
        amount=_amounts(shape, who, draw),
    )


def _newcomers(shape: Shape, draw: np.random.Generator) -> tuple[I64, F64]:
    """Who pays when: each from its arrival on, at its own pace; after the end, nobody."""
    count = np.ceil(np.exp(draw.normal(np.log(shape.newcomer_payments), 0.8, shape.newcomers)))
    who = np.repeat(np.arange(shape.newcomers), count.astype(np.int64))
    arrival = shape.days * np.sort(draw.random(shape.newcomers))
    stays = count * np.exp(draw.normal(np.log(NEWCOMER_PACE_DAYS), 1.0, shape.newcomers))
    time_ms = _visits(who, arrival, stays[who], draw)
    there = time_ms < shape.days * DAY_MS
    return shape.regulars + who[there], time_ms[there]


def _regulars(shape: Shape, events: int, draw: np.random.Generator) -> I64:
    weight = np.exp(draw.normal(0.0, 1.0, shape.regulars))
    return np.sort(draw.choice(shape.regulars, events, p=weight / weight.sum()))


def _visits(who: I64, since: F64, days: F64 | float, draw: np.random.Generator) -> F64:
    """float64[n], ms since the start: visits at the customer's own time of day, spread over its
    `days` since day `since`; within one, a payment every few minutes. who: sorted."""
    n = len(who)
    opens = draw.random(n) >= VISIT_GOES_ON
    opens[:1] = True
    opens[1:] |= who[1:] != who[:-1]
    visit = np.maximum.accumulate(np.where(opens, np.arange(n), 0))
    day = np.floor(since[who] + days * draw.random(n))
    usual_hour = draw.normal(17.0, 4.0, len(since))
    hour = (usual_hour[who] + draw.normal(0.0, 3.0, n)) % 24.0
    start = DAY_MS * day + 3_600_000.0 * hour
    pause = np.where(opens, 0.0, 1000.0 * np.exp(draw.normal(np.log(120.0), 1.0, n)))
    so_far = np.cumsum(pause)
    times: F64 = start[visit] + so_far - so_far[visit]
    return times


def _mostly_own(who: I64, share: float, customers: int, draw: np.random.Generator) -> I64:
    """The customer's first or second of something, or with that share a new one; some have ten
    times the share of others."""
    uneven = np.exp(draw.normal(0.0, 1.0, customers))
    new: Bools = draw.random(len(who)) < np.minimum(share * uneven / uneven.mean(), 1.0)[who]
    second = draw.random(len(who)) < 0.3
    return np.where(new, draw.integers(0, NOT_COPIED, len(who)), NOT_COPIED + 2 * who + second)


def _amounts(shape: Shape, who: I64, draw: np.random.Generator) -> F64:
    customers = shape.regulars + shape.newcomers
    level = draw.normal(3.0, 1.0, customers)
    spread = 0.6 * np.exp(draw.normal(0.0, 0.4, customers))
    heavy = draw.standard_t(TAIL_DF, len(who)) / np.sqrt(TAIL_DF / (TAIL_DF - 2.0))
    first, over, size = shape.drift
    drift = size * np.clip((np.arange(len(who)) - first) / over, 0.0, 1.0)
    log_amount = level[who] + spread[who] * (heavy + drift)
    jump_at, factor = shape.jump
    log_amount[jump_at:] += np.log(factor)
    rounded: F64 = np.maximum(np.exp(log_amount), 0.01).round(2)
    return rounded
