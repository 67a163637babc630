"""Honest traffic of one day: visits of a few events each, and a search engine's crawler.

It contains events that look suspicious and are not: mistyped passwords, a new phone, a single
expensive order, a declined card, an office behind one address.
"""

from typing import Any, Final

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from stream.simulator import people as shop_people
from stream.simulator.people import I64, People
from stream.simulator.rows import ABSENT, KIND_CODE, EventTable, rows, take

DAY_MS: Final = 86_400_000
EVENTS_PER_DAY: Final = 12_000
_BOT_PER_DAY: Final = 600
_EVENTS_PER_VISIT: Final = 5.83
"""Measured mean with the shares below, so that a day has about `EVENTS_PER_DAY` events."""
_VISITS: Final = round((EVENTS_PER_DAY - _BOT_PER_DAY) / _EVENTS_PER_VISIT)

_HOURS: Final = np.array(
    [
        *(10, 6, 4, 3, 3, 5, 12, 24, 32, 36, 38, 40),
        *(42, 40, 38, 38, 40, 46, 54, 62, 64, 56, 38, 20),
    ],
    dtype=np.float64,
)
_PAGES: Final = np.array(
    [KIND_CODE[kind] for kind in ("home", "search", "product", "cart", "asset")]
)
_PAGE_SHARES: Final = (0.12, 0.16, 0.48, 0.06, 0.18)
_PAGE_BYTES_LOG: Final = np.log([30_000, 45_000, 60_000, 20_000, 90_000])
_PHONE, _LAPTOP, _NEW_PHONE = 0, 1, 2


def day(rng: Generator, people: People, index: int, stream_days: float) -> list[EventTable]:
    """The honest events of visits that begin on day `index`; some end on later days.

    Times are milliseconds since the start of the stream, session numbers are unique in it.
    """
    visits = _visits(rng, people, index, stream_days)
    pages = _pages(rng, people, visits)
    logins = _logins(rng, visits)
    bought = _purchases(rng, people, visits)
    return [*logins, pages, *bought, _search_engine(rng, people, index)]


def _visits(rng: Generator, people: People, index: int, stream_days: float) -> EventTable:
    """One row per visit: start, person and address."""
    n = int(rng.normal(_VISITS, np.sqrt(_VISITS)))
    account = rng.choice(len(people.activity), n, p=people.activity)
    anonymous = rng.random(n) < 0.2
    hour = rng.choice(24, n, p=_HOURS / _HOURS.sum()) + rng.random(n)
    hour = (hour + np.where(anonymous, 0.0, people.hour_shift_h[account])) % 24
    at_work = (people.office[account] >= 0) & (hour > 8) & (hour < 18) & ~anonymous
    on_mobile = rng.random(n) < people.mobile[account]
    ip = shop_people.ip_codes(people, account, on_mobile, rng.integers(0, 1 << 30, n))
    ip = np.where(at_work, shop_people.office_ip(people.office[account]), ip)
    stranger = shop_people.ACCOUNTS + rng.integers(0, shop_people.VISITORS, n)
    laptop = ~on_mobile & (rng.random(n) < people.laptop[account])
    changed = (index + hour / 24) / stream_days > people.new_phone_at[account]
    part = np.where(laptop, _LAPTOP, np.where(changed, _NEW_PHONE, _PHONE))
    visits = rows(
        ((index + hour / 24) * DAY_MS),
        session=index * 1_000_000 + np.arange(n),
        account=np.where(anonymous, ABSENT, account),
        device=np.where(anonymous, ABSENT, people.device[account, part]),
        ip=np.where(anonymous & ~on_mobile, stranger, ip),
        country=people.country[account],
        currency=people.country[account],
        channel=laptop.astype(int),
        user_agent=laptop.astype(int),
    )
    # later steps need the length of each visit
    visits["length"] = np.minimum(rng.geometric(1 / 4.6, n), 40)
    visits["pace_ms"] = np.exp(rng.normal(9.6, 0.5, n))
    visits["person"] = account
    return visits


def _visit_rows(visits: EventTable, time_ms: Any, **given: Any) -> EventTable:
    """Rows with the columns of their visit and the given ones."""
    shared = ("session", "account", "device", "ip", "country", "currency", "channel", "user_agent")
    return rows(time_ms, **{**{name: visits[name] for name in shared}, **given})


def _pages(rng: Generator, people: People, visits: EventTable) -> EventTable:
    length = visits["length"]
    visit = take(visits, np.repeat(np.arange(len(length)), length))
    n = len(visit["time_ms"])
    step = np.arange(n) - np.repeat(np.cumsum(length) - length, length)
    since_ms = (step + rng.random(n)) * visit["pace_ms"]
    page = rng.choice(len(_PAGES), n, p=_PAGE_SHARES)
    is_favourite = (rng.random(n) < 0.4) & (visit["account"] >= 0)
    product = np.where(
        is_favourite,
        people.favourite[visit["person"], rng.integers(0, shop_people.FAVOURITES, n)],
        rng.choice(shop_people.PRODUCTS, n, p=people.product_weight),
    )
    outside = rng.choice([1, 2, ABSENT], n, p=[0.4, 0.2, 0.4])
    return _visit_rows(
        visit,
        visit["time_ms"] + since_ms,
        kind_code=_PAGES[page],
        product=np.where(_PAGES[page] == KIND_CODE["product"], product, ABSENT),
        status=rng.choice([200, 304, 404, 500], n, p=[0.93, 0.05, 0.015, 0.005]),
        bytes=np.exp(rng.normal(_PAGE_BYTES_LOG[page], 0.4)),
        referrer=np.where(step == 0, outside, 0),
    )


def _logins(rng: Generator, visits: EventTable) -> list[EventTable]:
    """Half of the visits log in; some mistype or reset the password, few change their data."""
    chance = rng.random(len(visits["time_ms"]))
    has_account = visits["account"] >= 0
    start = visits["time_ms"]
    tables = [_selected_visit_rows(visits, has_account & (chance < 0.5), start - 4_000, "success")]
    for mistakes, share in enumerate((0.045, 0.012, 0.004), 1):
        mistyped = has_account & (chance < share)
        tables.append(
            _selected_visit_rows(visits, mistyped, start - 4_000 - mistakes * 9_000, "failure")
        )
    tables.append(
        _selected_visit_rows(visits, has_account & (chance < 0.003), start - 8_000, "reset")
    )
    for kind, low, share in (
        ("email_change", 0.1, 0.0015),
        ("address_change", 0.2, 0.006),
        ("device_added", 0.3, 0.003),
    ):
        drawn = has_account & (chance > low) & (chance < low + share)
        tables.append(_selected_visit_rows(visits, drawn, start + 9_000, kind))
    return tables


def _selected_visit_rows(
    visits: EventTable, which: NDArray[np.bool_], time_ms: I64, kind: str
) -> EventTable:
    return _visit_rows(take(visits, which), time_ms[which], kind_code=KIND_CODE[kind])


def _purchases(rng: Generator, people: People, visits: EventTable) -> list[EventTable]:
    """One visit in three orders and pays at its end; some use a coupon or return the product."""
    buys = (visits["account"] >= 0) & (rng.random(len(visits["account"])) < 0.33)
    buyers = take(visits, buys)
    n, person = len(buyers["account"]), buyers["person"]
    amount = np.exp(rng.normal(people.amount_log[person], 0.45))
    amount *= np.where(rng.random(n) < 0.006, rng.uniform(5, 12, n), 1.0)
    favourite = people.favourite[person, rng.integers(0, shop_people.FAVOURITES, n)]
    any_product = rng.choice(shop_people.PRODUCTS, n, p=people.product_weight)
    product = np.where(rng.random(n) < 0.5, favourite, any_product)
    end_ms = buyers["time_ms"] + buyers["length"] * buyers["pace_ms"] + 5_000
    paid_ms = end_ms + 3_000 + rng.exponential(4_000, n)
    declined, redeems, returns = (rng.random(n) < share for share in (0.03, 0.1, 0.05))
    later_ms = paid_ms + rng.uniform(0.5, 4, n) * DAY_MS
    bought = {
        "card": people.card[person, (rng.random(n) < 0.3).astype(int)],
        "product": product,
        "seller": people.seller_of[product],
        "amount": amount,
    }

    def row(kind: str, time_ms: Any, which: Any = slice(None), **given: Any) -> EventTable:
        shared = {name: column[which] for name, column in {**bought, **given}.items()}
        return _visit_rows(take(buyers, which), time_ms[which], kind_code=KIND_CODE[kind], **shared)

    coupon = {"coupon": rng.integers(0, 3, n), "amount": amount * 0.1}
    return [
        row("order", end_ms),
        row("payment_declined", paid_ms, declined),
        row("payment", paid_ms + 25_000 * declined),
        row("coupon_redemption", end_ms + 1_000, redeems, **coupon),
        row("refund", later_ms, returns),
    ]


def _search_engine(rng: Generator, people: People, index: int) -> EventTable:
    """A crawler with an honest user agent, day and night."""
    n = _BOT_PER_DAY
    product = rng.choice(shop_people.PRODUCTS, n)
    return rows(
        (index + (np.arange(n) + rng.random(n)) / n) * DAY_MS,
        kind_code=KIND_CODE["product"],
        session=index * 1_000_000 + 999_999,
        ip=people.names["ip"].index("192.0.2.66"),
        country=3,
        currency=3,
        channel=1,
        user_agent=2,
        product=product,
        status=200,
        bytes=np.exp(rng.normal(11.0, 0.3, n)),
    )
