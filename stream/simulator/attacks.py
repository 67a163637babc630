"""The attacks on the shop, kept apart from the events.

Each round has a credential-stuffing run with the resulting account takeovers, a card-testing run with
the cards used afterwards, a price crawler and a coupon ring, spread over its part of the second half
of the stream, so that models have seen honest days before.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from stream.simulator import people as shop_people
from stream.simulator.people import F64, People
from stream.simulator.rows import KIND_CODE, EventTable, rows
from stream.simulator.visits import DAY_MS

EVENTS_MIN: Final = 5_000
"""A shorter stream has no attack, since there is too little honest traffic to compare with."""
EVENTS_PER_ROUND: Final = 60_000
_MINUTE_MS: Final = 60_000
_WEB: Final = {"channel": 1, "user_agent": 1}
_ANY_SESSION: Final = 900_000_000_000
"""First session number of attackers, above those of honest visits."""


@dataclass(frozen=True, slots=True)
class Attack:
    """One attack: the entity that an alert should name, and when (milliseconds since 1970)."""

    name: str
    entity_type: str
    entity_id: str
    first_ms: int
    last_ms: int
    description: str


@dataclass(slots=True)
class AttackPlan:
    """The attacks drawn so far, with their events; times are relative to the start of the stream.

    size: scale of the attacks, 1 in a long stream. activity: float[accounts], 0 for accounts that an
    attack has hit, so that none is hit twice.
    """

    rng: Generator
    people: People
    size: float
    honest_ips: int
    activity: F64
    attacks: list[Attack] = field(default_factory=list)
    tables: list[EventTable] = field(default_factory=list)

    def add_attack(self, name: str, entity_type: str, entity_id: str, description: str) -> int:
        """Add an attack and return its number, which its rows store; `add_rows` sets its times."""
        self.attacks.append(Attack(name, entity_type, entity_id, -1, -1, description))
        return len(self.attacks) - 1

    def add_rows(self, attack: int, kind: str, time_ms: NDArray[Any], **columns: Any) -> None:
        """Add rows to an attack and extend its times to cover them."""
        defaults = {"country": 3, "currency": 3, "session": _ANY_SESSION + attack, **_WEB}
        kind_code = KIND_CODE[kind]
        table = rows(time_ms, attack=attack, kind_code=kind_code, **{**defaults, **columns})
        self.tables.append(table)
        earlier, times = self.attacks[attack], table["time_ms"]
        first_ms, last_ms = int(times.min()), int(times.max())
        if earlier.first_ms >= 0:
            first_ms = min(earlier.first_ms, first_ms)
        self.attacks[attack] = replace(
            earlier, first_ms=first_ms, last_ms=max(earlier.last_ms, last_ms)
        )

    def take_busiest(self, accounts: NDArray[Any], n: int) -> NDArray[Any]:
        """Positions in `accounts` of the n busiest ones, which are reserved for one attack."""
        busiest = np.argsort(self.activity[accounts])[::-1][:n]
        self.activity[accounts[busiest]] = 0.0
        return busiest

    def add_address(self) -> tuple[int, str]:
        """Code and name of a new address for an attacker, from a reserved range."""
        count = len(self.people.names["ip"]) - self.honest_ips
        block = "203.0.113" if count < 250 else f"240.0.{count // 250}"
        name = f"{block}.{count % 250 + 1}"
        return self.people.add("ip", name), name


def plan(rng: Generator, people: People, events: int, span_ms: float) -> AttackPlan:
    """Draw the attacks on a stream of this many events and length; adds names to `people`."""
    size = min(1.0, events / EVENTS_PER_ROUND)
    planned = AttackPlan(rng, people, size, len(people.names["ip"]), people.activity.copy())
    rounds = events // EVENTS_PER_ROUND or 1
    round_ms = 0.42 * span_ms / rounds
    steps: tuple[tuple[float, Callable[[AttackPlan, float], None]], ...] = (
        (0.05, _account_takeover),
        (0.35, _card_testing),
        (0.58, _price_crawler),
        (0.85, _coupon_ring),
    )
    for number in range(rounds if events >= EVENTS_MIN else 0):
        for share, attack in steps:
            attack(planned, 0.5 * span_ms + (number + share) * round_ms)
    return planned


def _account_takeover(plan: AttackPlan, start_ms: float) -> None:
    """Leaked passwords tried from one address; for each hit, another device takes over the account."""
    rng, people = plan.rng, plan.people
    tries = max(40, int(260 * plan.size))
    ip, name = plan.add_address()
    description = f"tries leaked passwords of {tries} accounts from one address"
    stuffing = plan.add_attack("credential stuffing", "ip", name, description)
    device = people.add("device", f"dev-headless-{stuffing}")
    victims = rng.choice(len(people.activity), tries, replace=False, p=people.activity)
    time_ms = start_ms + np.cumsum(rng.gamma(4, 1_200, tries))
    busy = plan.take_busiest(victims[5:], 3) + 5
    tried = np.setdiff1d(np.arange(tries), busy)
    shared = {"ip": ip, "device": device}
    plan.add_rows(stuffing, "failure", time_ms[tried], account=victims[tried], **shared)
    plan.add_rows(stuffing, "success", time_ms[busy], account=victims[busy], **shared)
    for hit in busy:
        _empty_account(plan, int(victims[hit]), float(time_ms[hit]) + rng.uniform(5, 40) * 6e4)


def _empty_account(plan: AttackPlan, account: int, start_ms: float) -> None:
    rng, people = plan.rng, plan.people
    description = "logs in from a new device, changes e-mail and address, orders expensive products"
    taken = plan.add_attack(
        "account takeover", "account", people.names["account"][account], description
    )
    ip, _ = plan.add_address()
    n = 6
    session = {"account": account, "ip": ip, "device": people.add("device", f"dev-burner-{taken}")}
    orders_ms = start_ms + 4 * _MINUTE_MS + np.cumsum(rng.uniform(50_000, 110_000, n))
    product = rng.choice(shop_people.PRODUCTS, n)
    bought = {
        "product": product,
        "seller": people.seller_of[product],
        "card": people.card[account, 0],
        "currency": people.country[account],
        "amount": np.exp(people.amount_log[account]) * rng.uniform(8, 16, n),
    }
    for minute, kind in enumerate(("success", "device_added", "email_change", "address_change")):
        plan.add_rows(taken, kind, np.array([start_ms + minute * 45_000.0]), **session)
    plan.add_rows(taken, "order", orders_ms, **session, **bought)
    plan.add_rows(taken, "payment", orders_ms + 6_000, **session, **bought)


def _card_testing(plan: AttackPlan, start_ms: float) -> None:
    """Stolen card numbers tried with tiny payments; those that work are then used."""
    rng, people = plan.rng, plan.people
    n = max(40, int(240 * plan.size))
    ip, name = plan.add_address()
    description = f"tries {n} stolen cards with tiny payments from one address"
    testing = plan.add_attack("card testing", "ip", name, description)
    throwaway = [people.add("account", f"acct-guest-{testing}-{k:02d}") for k in range(8)]
    stolen = [people.add("card", f"card-stolen-{testing}-{k:03d}") for k in range(n)]
    customers = rng.choice(len(people.activity), 40, replace=False, p=people.activity)
    valid_cards = [int(people.card[customers[k], 0]) for k in plan.take_busiest(customers, 2)]
    cards = np.array(stolen)
    cards[rng.choice(np.arange(n // 2, n), 2, replace=False)] = valid_cards
    time_ms = start_ms + np.cumsum(rng.gamma(6, 1_100, n))
    works = (rng.random(n) < 0.15) | np.isin(cards, valid_cards)
    shared = {"ip": ip, "device": people.add("device", f"dev-script-{testing}")}
    for kind, mask in (("payment", works), ("payment_declined", ~works)):
        plan.add_rows(
            testing,
            kind,
            time_ms[mask],
            card=cards[mask],
            account=rng.choice(throwaway, int(mask.sum())),
            product=0,
            seller=int(people.seller_of[0]),
            amount=rng.uniform(0.5, 2.0, int(mask.sum())),
            **shared,
        )
    for card in valid_cards:
        _use_up_card(plan, card, float(time_ms[-1]) + rng.uniform(10, 60) * _MINUTE_MS)


def _use_up_card(plan: AttackPlan, card: int, start_ms: float) -> None:
    rng, people = plan.rng, plan.people
    n = 8
    description = "a customer's card, found to work, pays for expensive products in other accounts"
    used = plan.add_attack("stolen card", "card", people.names["card"][card], description)
    mules = [people.add("account", f"acct-mule-{used}-{k}") for k in range(3)]
    product = rng.choice(shop_people.PRODUCTS, n)
    plan.add_rows(
        used,
        "payment",
        start_ms + np.cumsum(rng.uniform(60_000, 150_000, n)),
        card=card,
        account=rng.choice(mules, n),
        ip=plan.add_address()[0],
        device=people.add("device", f"dev-mule-{used}"),
        product=product,
        seller=people.seller_of[product],
        amount=np.exp(3.5) * rng.uniform(9, 20, n),
    )


def _price_crawler(plan: AttackPlan, start_ms: float) -> None:
    """Page after page at an even pace, at night if the stream is long enough."""
    rng = plan.rng
    n = max(80, int(1_400 * plan.size))
    ip, name = plan.add_address()
    description = f"reads {n} product pages at an even pace and calls itself a browser"
    crawl = plan.add_attack("price crawler", "ip", name, description)
    if plan.size >= 1:
        start_ms += (26 * 3_600_000 - start_ms % DAY_MS) % DAY_MS
    plan.add_rows(
        crawl,
        "product",
        start_ms + np.arange(n) * 2_300 + rng.normal(0, 120, n),
        ip=ip,
        product=rng.permutation(shop_people.PRODUCTS)[:n],
        status=200,
        bytes=np.exp(rng.normal(11.0, 0.3, n)),
    )


def _coupon_ring(plan: AttackPlan, start_ms: float) -> None:
    """One device opens many accounts, each to redeem the coupon for new customers."""
    rng, people = plan.rng, plan.people
    n = max(15, int(45 * plan.size))
    ip, name = plan.add_address()
    description = f"redeems the coupon for new customers with {n} fresh accounts from one address"
    ring = plan.add_attack("coupon ring", "ip", name, description)
    fresh = np.array([people.add("account", f"acct-fresh-{ring}-{k:02d}") for k in range(n)])
    time_ms = start_ms + np.cumsum(rng.gamma(5, 9_000, n))
    shared = {"ip": ip, "device": people.add("device", f"dev-farm-{ring}"), "account": fresh}
    plan.add_rows(ring, "success", time_ms, **shared)
    plan.add_rows(ring, "coupon_redemption", time_ms + 15_000, coupon=2, amount=15.0, **shared)
