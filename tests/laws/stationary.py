"""Streams in which nothing changes but chance, for the law of honest p-values. Hostile streams are
in `tests.streams`. Entities come and go at a steady pace, so that the same share of them is
always new; each is unlike the others, and like itself."""

from typing import Any, Final

import numpy as np
import pyarrow as pa

from schemas.columns import EventBatch
from schemas.events import TYPES
from tests.bench.events import names

MONDAY_MS: Final = 1_767_571_200_000
"""5 January 2026, 0:00 UTC."""
HOUR_MS: Final = 3_600_000.0
EVENTS_PER_ACCOUNT: Final = (100, 400)
"""Events of an account in all, of a fleeting one and of a lasting one: half of all events each."""
LABELLED: Final = 0.02
FRAUD: Final = 0.1
SHARED_IDS: Final = 10**7
"""Devices and addresses that are nobody's own."""


def shop(seed: int, events: int, *, active: int = 100, per_hour: float = 200.0) -> EventBatch:
    """Payments and logins, and later labels of some of them; so many accounts of either kind are
    active at a time. After `active` · 400 events the distribution of the accounts' ages is
    stable."""
    draw = np.random.Generator(np.random.PCG64(seed))
    at = np.arange(events, dtype=np.int64)
    lasting = draw.integers(0, 2, events)
    who = 2 * (
        at // np.where(lasting, 2 * EVENTS_PER_ACCOUNT[1], 2 * EVENTS_PER_ACCOUNT[0])
        + draw.integers(0, active, events)
    )
    who += lasting
    accounts = int(who.max()) + 1
    amount = np.exp(draw.normal(3.0, 0.7, accounts)[who] + draw.normal(0.0, 0.5, events))
    device = np.where(
        draw.random(events) < 0.01,
        draw.integers(0, SHARED_IDS, events),
        2 * who + (draw.random(events) < 0.4),
    )
    ip = np.where(
        draw.random(events) < 0.05,
        draw.integers(0, SHARED_IDS, events),
        5 * who + draw.integers(0, 5, events),
    )
    pays = draw.random(events) < draw.beta(2.0, 2.0, accounts)[who]
    away = np.where(draw.random(events) < 0.05, draw.normal(0.0, 3.0, events), 0.0)
    latitude = draw.uniform(-60.0, 60.0, accounts)[who] + draw.normal(0.0, 0.2, events) + away
    longitude = draw.uniform(-150.0, 150.0, accounts)[who] + draw.normal(0.0, 0.2, events)
    is_label = draw.random(events) < LABELLED
    labelled = np.maximum(at - draw.integers(1, 2000, events), 0)
    verdict = np.where(draw.random(events) < FRAUD, "fraud", "honest")
    return _batch(
        MONDAY_MS + np.cumsum(draw.exponential(HOUR_MS / per_hour, events)),
        np.where(is_label, who[labelled], who),
        is_label,
        text={
            "device": names("dev", device),
            "ip": names("adr", ip),
            "product": names("prd", (2000 * draw.random(events) ** 2).astype(np.int64)),
            "kind": pa.array(np.where(pays, "payment", "login"), pa.string()),
            "verdict": pa.array(verdict, pa.string(), mask=~is_label),
            "labelled_event_id": names("evt", labelled),
        },
        number={
            "amount": amount,
            "latitude": np.clip(latitude, -90.0, 90.0),
            "longitude": np.clip(longitude, -180.0, 180.0),
            "utc_offset_min": np.full(events, np.nan),
            "item": draw.integers(0, 4, events).astype(np.float64),
        },
    )


def sellers(
    seed: int, weeks: int, *, accounts: int = 60, per_hour: float = 4.0, swing: float = 0.9
) -> EventBatch:
    """Sales of sellers, busier by day than by night and on weekdays than at weekends, each of its
    own size: `per_hour` on average. Weeks are alike."""
    draw = np.random.Generator(np.random.PCG64(seed))
    hour = np.arange(168 * weeks)
    usual = 1.0 - swing * np.cos(2.0 * np.pi * (hour % 24) / 24.0)
    usual *= np.where(hour // 24 % 7 >= 5, 0.6, 1.16)
    rate = per_hour * draw.gamma(2.0, 0.5, accounts)
    sold = draw.poisson(rate[:, None] * usual)
    who = np.repeat(np.arange(accounts), sold.sum(axis=1))
    when = np.repeat(np.tile(hour, accounts), sold.ravel()) + draw.random(len(who))
    order = np.argsort(when, kind="stable")
    nothing = np.zeros(len(who), np.bool_)
    return _batch(MONDAY_MS + HOUR_MS * when[order], who[order], nothing, text={}, number={})


def _batch(
    time_ms: Any, who: Any, is_label: Any, text: dict[str, Any], number: dict[str, Any]
) -> EventBatch:
    n = len(who)
    of_type = np.where(is_label, TYPES.index("label"), TYPES.index("transaction"))
    return EventBatch(
        sources=(("shop", 0),),
        source=np.zeros(n, np.int32),
        offset=np.arange(n, dtype=np.int64),
        time_ms=time_ms.astype(np.int64),
        type_code=of_type.astype(np.uint8),
        event_id=names("evt", np.arange(n, dtype=np.int64)),
        text={
            "account": names("acc", who),
            "currency": pa.repeat(pa.scalar("EUR", pa.string()), n),
            **text,
        },
        number=number,
    )
