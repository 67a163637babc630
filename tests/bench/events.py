"""Made-up payments: as columns for the engine alone, and as JSON for the broker, the same events.

Seeded. An account has a device, a card and an address of its own, mostly, and amounts of its own
size, so that models have something to learn. Nothing here is an attack.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from schemas.columns import F64, I64, EventBatch
from schemas.events import TYPES
from schemas.records import Records

START_MS: Final = 1_735_689_600_000
"""1 January 2025: behind the broker's clock, whatever the day."""

TEXTS: Final = ("account", "device", "ip", "card", "seller", "product")
PREFIXES: Final = {"account": "acc", "device": "dev", "ip": "adr", "card": "crd"} | {
    "seller": "sel",
    "product": "prd",
}

FEATURES: Final[list[dict[str, Any]]] = [
    {"name": "amount", "kind": "value", "field": "amount"},
    {"name": "spent_1h", "kind": "sum", "field": "amount", "half_life": "1h"},
    {"name": "spent_1d", "kind": "sum", "field": "amount", "half_life": "1d"},
    {"name": "spent_30d", "kind": "sum", "field": "amount", "half_life": "30d"},
    {"name": "payments_1h", "kind": "count", "half_life": "1h"},
    {"name": "payments_1d", "kind": "count", "half_life": "1d"},
    {"name": "payments_30d", "kind": "count", "half_life": "30d"},
    {"name": "gap", "kind": "gap"},
    {"name": "new_device", "kind": "novelty", "field": "device"},
    {"name": "new_ip", "kind": "novelty", "field": "ip"},
    {"name": "new_products_1d", "kind": "novel_count", "field": "product", "half_life": "1d"},
    {"name": "new_cards_1d", "kind": "novel_count", "field": "card", "half_life": "1d"},
]
"""The twelve features of every monitor here."""

RIVER_TREES: Final = {"kind": "river_trees", "trees": 10, "height": 8, "window": 250}
"""Trees of River's size, where Eddy is compared with River."""


@dataclass(frozen=True)
class Payments:
    """n events. number: field → int64[n], which account, device, …; time_ms: int64[n]; amount:
    float64[n]; first: the number of the first, which makes the ids."""

    number: dict[str, I64]
    time_ms: I64
    amount: F64
    first: int = 0

    def __len__(self) -> int:
        return len(self.time_ms)

    def slice(self, start: int, stop: int) -> "Payments":
        """The events start … stop - 1."""
        number = {name: column[start:stop] for name, column in self.number.items()}
        first = self.first + start
        return Payments(number, self.time_ms[start:stop], self.amount[start:stop], first)

    def batch(self, fields: tuple[str, ...] = TEXTS) -> EventBatch:
        """The events as route hands them on, with these text fields."""
        n = len(self)
        return EventBatch(
            sources=(("bench", 0),),
            source=np.zeros(n, np.int32),
            offset=np.arange(self.first, self.first + n, dtype=np.int64),
            time_ms=self.time_ms,
            type_code=np.full(n, TYPES.index("transaction"), np.uint8),
            event_id=names("evt", np.arange(self.first, self.first + n, dtype=np.int64)),
            text={f: names(PREFIXES[f], self.number[f]) for f in fields}
            | {
                "currency": pa.repeat(pa.scalar("EUR", pa.string()), n),
                "kind": pa.repeat(pa.scalar("payment", pa.string()), n),
            },
            number={"amount": self.amount},
        )

    def lines(self) -> Iterator[tuple[bytes, bytes]]:
        """Key and JSON of each event, about 250 bytes."""
        columns = (self.number[name].tolist() for name in TEXTS)
        times, amounts = self.time_ms.tolist(), self.amount.tolist()
        rows = zip(times, amounts, *columns, strict=True)
        for i, (time_ms, amount, account, device, ip, card, seller, product) in enumerate(rows):
            key = b"acc%08d" % account
            yield (
                key,
                (
                    b'{"event_id":"evt%08d","type":"transaction","time":%d,"kind":"payment",'
                    b'"account":"%s","device":"dev%08d","ip":"adr%08d","card":"crd%08d",'
                    b'"seller":"sel%08d","product":"prd%08d","amount":%.2f,"currency":"EUR"}'
                )
                % (self.first + i, time_ms, key, device, ip, card, seller, product, amount),
            )

    def records(self) -> Records:
        """The events as records of one partition of the topic `bench`."""
        n = len(self)
        values: list[bytes | None] = [value for _, value in self.lines()]
        offsets = np.arange(self.first, self.first + n, dtype=np.int64)
        return Records("bench", 0, offsets, np.full(n, -1), values, None)


def names(prefix: str, numbers: I64) -> pa.StringArray:
    """string[n]: a prefix of three letters and eight digits, at array speed."""
    n = len(numbers)
    text: NDArray[np.uint8] = np.empty((n, 11), np.uint8)
    text[:, :3] = np.frombuffer(prefix.encode(), np.uint8)
    left = numbers.copy()
    for scaled in range(10, 2, -1):
        text[:, scaled] = left % 10 + ord("0")
        left //= 10
    offsets = np.arange(0, 11 * (n + 1), 11, dtype=np.int32)
    return pa.StringArray.from_buffers(n, pa.py_buffer(offsets), pa.py_buffer(text))


def payments(
    accounts: I64, seed: int, gap_ms: float, first: int = 0, start_ms: int = START_MS
) -> Payments:
    """Payments of these accounts in this order, on average so far apart. accounts: int64[n]."""
    n = len(accounts)
    draw = np.random.Generator(np.random.PCG64(seed))
    strange = draw.random((3, n))
    elsewhere = draw.integers(0, 10_000_000, (3, n))
    device, ip, card = (
        np.where(strange[k] < share, elsewhere[k], accounts * 2 + (strange[k] > 0.7))
        for k, share in enumerate((0.01, 0.05, 0.01))
    )
    amount: F64 = np.exp(draw.normal(3.0 + 0.5 * (accounts % 5), 0.6)).round(2)
    product = (20_000 * draw.random(n) ** 3).astype(np.int64)
    return Payments(
        number={
            "account": accounts,
            "device": device,
            "ip": ip,
            "card": card,
            "seller": product % 997,
            "product": product,
        },
        time_ms=start_ms + np.cumsum(draw.exponential(gap_ms, n)).astype(np.int64),
        amount=amount,
        first=first,
    )


def skewed(entities: int, events: int, seed: int) -> I64:
    """int64[n]: whose each event is; the busiest tenth of the entities has about half of them."""
    draw = np.random.Generator(np.random.PCG64(seed))
    return (entities * draw.random(events) ** 3.3).astype(np.int64)


def visits(entities: int, each: int, at_once: int, seed: int) -> I64:
    """int64[n]: every entity has `each` events, so many entities are active at a time."""
    draw = np.random.Generator(np.random.PCG64(seed))
    groups = np.arange(entities, dtype=np.int64).reshape(-1, at_once)
    return np.concatenate([draw.permutation(np.repeat(group, each)) for group in groups])


def monitor_document(capacity: int, detectors: list[dict[str, Any]]) -> dict[str, Any]:
    """A monitor over accounts with the twelve features, as a configuration declares it."""
    return {
        "name": "account",
        "entity": "account",
        "inputs": ["bench"],
        "capacity": capacity,
        "features": FEATURES,
        "detectors": detectors,
        "policy": {"alerts_per_day": 1000, "p_max": 1e-4},
    }


def document(
    monitors: list[dict[str, Any]], topic: str = "bench", group: str = "bench", **more: Any
) -> dict[str, Any]:
    """A whole configuration that reads one topic with one partition."""
    return {
        "group": group,
        "secret": "a secret of the benchmarks",
        "inputs": {"bench": {"topic": topic, "type": "transaction"}},
        "outputs": {"alerts": "bench-alerts", "dead_letters": "bench-dead"},
        "monitors": monitors,
        **more,
    }


def toml(document: dict[str, Any]) -> str:
    """The document as TOML, one top-level key a line."""
    return "".join(f"{name} = {_toml(value)}\n" for name, value in document.items())


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        inside = (f"{_toml(name)} = {_toml(one)}" for name, one in value.items())
        return "{" + ", ".join(inside) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return orjson.dumps(value).decode()
