"""The shop's population: accounts with their habits, products, sellers and addresses.

Drawn once from a seed. `visits` draws their days, `attacks` the attackers.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from stream.simulator.rows import Names

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

ACCOUNTS: Final = 2_000
PRODUCTS: Final = 4_000
SELLERS: Final = 120
VISITORS: Final = 1_500
"""Home addresses from which people browse without an account."""
OFFICE_ACCOUNTS: Final = 60
OFFICES: Final = 2
MOBILE_IPS: Final = 240
FAVOURITES: Final = 6
_COUNTRIES: Final = (("DE", "EUR"), ("FR", "EUR"), ("GB", "GBP"), ("US", "USD"), ("PL", "PLN"))
_PRICE_LEVEL: Final = np.array([1.0, 1.0, 0.9, 1.1, 4.0])


@dataclass(frozen=True, slots=True)
class People:
    """Arrays over the accounts (length `ACCOUNTS`) unless stated otherwise; codes index `names`.

    activity: share of all visits, sums to 1. hour_shift_h: how much later than others they visit.
    amount_log: mean of the log of an order's amount in their currency.
    device: int[accounts, 3]: phone, laptop, and the phone they change to at `new_phone_at`,
        a fraction of the stream (beyond 1: never). laptop, mobile, office: shares of visits.
    card: int[accounts, 2], the second equal to the first where they have one.
    favourite: int[accounts, FAVOURITES], products they come back to.
    product_weight: float[PRODUCTS], sums to 1. seller_of: int[PRODUCTS].
    """

    names: Names
    activity: F64
    hour_shift_h: F64
    amount_log: F64
    device: I64
    new_phone_at: F64
    laptop: F64
    home_ip: I64
    mobile: F64
    office: I64
    card: I64
    country: I64
    favourite: I64
    product_weight: F64
    seller_of: I64

    def add(self, column: str, name: str) -> int:
        """Code of a new name in that column."""
        self.names[column].append(name)
        return len(self.names[column]) - 1


def zipf(n: int, exponent: float) -> F64:
    """Zipf weights of n items by rank, summing to 1."""
    weight = np.arange(1, n + 1, dtype=np.float64) ** -exponent
    return np.asarray(weight / weight.sum())


def people(rng: Generator) -> People:
    """Draw the population; the same generator state gives the same people."""
    country = rng.choice(len(_COUNTRIES), ACCOUNTS, p=[0.4, 0.2, 0.15, 0.15, 0.1])
    activity = rng.gamma(0.9, 1.0, ACCOUNTS) + 0.05
    product_weight = rng.permutation(zipf(PRODUCTS, 0.8))
    number = np.arange(ACCOUNTS)
    office = np.full(ACCOUNTS, -1)
    office[rng.permutation(ACCOUNTS)[:OFFICE_ACCOUNTS]] = np.arange(OFFICE_ACCOUNTS) % OFFICES
    # One household in eight shares its address with the next account.
    home_ip = np.where(rng.random(ACCOUNTS) < 0.125, np.maximum(number - 1, 0), number)
    return People(
        names=_names(rng),
        activity=activity / activity.sum(),
        hour_shift_h=rng.normal(0, 1.5, ACCOUNTS),
        amount_log=rng.normal(3.5, 0.45, ACCOUNTS) + np.log(_PRICE_LEVEL[country]),
        device=np.stack([number * 3, number * 3 + 1, number * 3 + 2], axis=1),
        new_phone_at=np.where(rng.random(ACCOUNTS) < 0.04, rng.random(ACCOUNTS), 2.0),
        laptop=rng.beta(1.2, 1.2, ACCOUNTS) * (rng.random(ACCOUNTS) < 0.6),
        home_ip=home_ip,
        mobile=rng.beta(1, 5, ACCOUNTS),
        office=office,
        card=np.stack([number * 2, number * 2 + (rng.random(ACCOUNTS) < 0.25)], axis=1),
        country=country,
        favourite=rng.choice(PRODUCTS, (ACCOUNTS, FAVOURITES), p=product_weight),
        product_weight=product_weight,
        seller_of=rng.choice(SELLERS, PRODUCTS, p=zipf(SELLERS, 0.9)),
    )


def ip_codes(people: People, account: I64, on_mobile: NDArray[np.bool_], pick: I64) -> I64:
    """Code of each visit's address: at home, or one of the mobile carrier of its country."""
    pool = MOBILE_IPS // len(_COUNTRIES)
    mobile = ACCOUNTS + VISITORS + people.country[account] * pool + pick % pool
    return np.where(on_mobile, mobile, people.home_ip[account])


def office_ip(office: NDArray[Any]) -> NDArray[Any]:
    """Codes of the offices' addresses."""
    return office + ACCOUNTS + VISITORS + MOBILE_IPS


def _names(rng: Generator) -> Names:
    # 198.18.0.0/15, 100.64.0.0/10 and the documentation ranges belong to nobody's customers.
    homes = rng.permutation(1 << 17)[: ACCOUNTS + VISITORS].tolist()
    home = [f"198.{18 + (n >> 16)}.{n >> 8 & 255}.{n & 255}" for n in homes]
    mobile = [f"100.64.{n >> 6}.{n & 63}" for n in range(MOBILE_IPS)]
    office = [f"192.0.2.{10 + n}" for n in range(OFFICES)]
    search_engine = "192.0.2.66"
    order = rng.permutation(ACCOUNTS).tolist()
    return {
        "account": [f"acct-{n:04d}" for n in order],
        "device": [f"dev-{n:04d}-{part}" for n in order for part in ("phone", "laptop", "phone2")],
        "ip": [*home, *mobile, *office, search_engine],
        "card": [f"card-{n:04d}{part}" for n in order for part in "ab"],
        "product": [f"p-{n:04d}" for n in range(PRODUCTS)],
        "seller": [f"seller-{n:03d}" for n in range(SELLERS)],
        "coupon": ["SPRING10", "FREESHIP", "WELCOME15"],
        "country": [country for country, _ in _COUNTRIES],
        "currency": [currency for _, currency in _COUNTRIES],
        "channel": ["app", "web"],
        "user_agent": [
            "ShopApp/7.2 (phone)",
            "Mozilla/5.0 (X11; Linux x86_64) Chrome/144.0",
            "FriendlyBot/2.1 (+https://search.example/bot)",
        ],
        "referrer": ["https://shop.example/", "https://search.example/", "https://news.example/"],
    }
