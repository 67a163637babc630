"""Simulated events as columns, and their conversion to events with Eddy's field names.

The simulator draws whole days at once, so rows hold only numbers: codes into the shop's lists of
names.
"""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

EventTable = dict[str, NDArray[Any]]
Names = dict[str, list[str]]
"""Column → text of each code."""

EVENT_KINDS: Final = (
    *(("request", kind) for kind in ("home", "search", "product", "cart", "asset")),
    *(("login", kind) for kind in ("success", "failure", "reset")),
    *(("login", kind) for kind in ("email_change", "address_change", "device_added")),
    *(("transaction", kind) for kind in ("order", "payment", "payment_declined")),
    *(("transaction", kind) for kind in ("coupon_redemption", "refund")),
)
"""Every type and kind that the shop produces; the column `kind_code` indexes this tuple."""
KIND_CODE: Final = {kind: code for code, (_, kind) in enumerate(EVENT_KINDS)}

_TEXT_COLUMNS: Final = (
    *("account", "device", "ip", "card", "product", "seller", "coupon"),
    *("country", "currency", "channel", "user_agent", "referrer"),
)
_DTYPES: Final[dict[str, str]] = {
    "time_ms": "i8",
    "kind_code": "i1",
    "session": "i8",
    "attack": "i4",
    "status": "i2",
    "bytes": "i4",
    "amount": "f8",
    **dict.fromkeys(_TEXT_COLUMNS, "i4"),
}
ABSENT: Final = -1
_SEARCH_TERMS: Final = ("lamp", "shoes", "kettle", "novel", "desk", "jacket", "camera", "puzzle")


def rows(time_ms: ArrayLike, **columns: ArrayLike) -> EventTable:
    """Rows with these columns (arrays[n], or one value for all rows); other columns are absent (-1)."""
    times = np.asarray(time_ms).astype(np.int64)
    table: EventTable = {"time_ms": times}
    for name, dtype in _DTYPES.items():
        if name != "time_ms":
            value = np.asarray(columns.get(name, ABSENT))
            table[name] = np.broadcast_to(value, times.shape).astype(dtype)
    assert columns.keys() <= table.keys(), columns.keys() - table.keys()
    return table


def take(table: EventTable, which: NDArray[Any] | slice) -> EventTable:
    """The given rows: indices, a mask or a slice."""
    return {name: column[which] for name, column in table.items()}


def sort_by_time(tables: list[EventTable]) -> EventTable:
    """All rows of the tables by time; ties in the given order."""
    joined = {name: np.concatenate([table[name] for table in tables]) for name in _DTYPES}
    return take(joined, np.argsort(joined["time_ms"], kind="stable"))


def to_events(table: EventTable, names: Names, first: int, seed: int) -> Iterator[dict[str, Any]]:
    """The rows as events; their ids contain the seed and count from `first`."""
    text = {
        name: [None if code < 0 else names[name][code] for code in table[name].tolist()]
        for name in _TEXT_COLUMNS
    }
    columns = zip(
        *(table[name].tolist() for name in ("time_ms", "kind_code", "session", "status", "bytes")),
        *(table["amount"].tolist(), *text.values()),
        strict=True,
    )
    for count, row in enumerate(columns, first):
        yield _event(f"e{seed}-{count:08d}", *row)


def _event(
    event_id: str,
    time_ms: int,
    kind_code: int,
    session: int,
    status: int,
    size_bytes: int,
    amount: float,
    account: str | None,
    device: str | None,
    ip: str,
    card: str | None,
    product: str | None,
    seller: str | None,
    coupon: str | None,
    country: str,
    currency: str,
    channel: str,
    user_agent: str,
    referrer: str | None,
) -> dict[str, Any]:
    event_type, kind = EVENT_KINDS[kind_code]
    event: dict[str, Any] = {
        "type": event_type,
        "event_id": event_id,
        "time": time_ms,
        "kind": kind,
        "ip": ip,
        "country": country,
        "channel": channel,
    }
    if account is not None:
        event["account"] = account
    if device is not None:
        event["device"] = device
    if event_type == "transaction":
        event["amount"] = round(amount, 2)
        event["currency"] = currency
        if card is not None:
            event["card"] = card
        if product is not None:
            event["product"] = product
            event["seller"] = seller
        if coupon is not None:
            event["coupon"] = coupon
        return event
    event["session"] = f"s{session}"
    event["user_agent"] = user_agent
    if event_type == "request":
        event["method"] = "POST" if kind == "cart" else "GET"
        event["path"] = _path(kind, product, session)
        event["status"] = status
        event["bytes"] = size_bytes
        if referrer is not None:
            event["referrer"] = referrer
        if product is not None:
            event["product"] = product
    return event


def _path(kind: str, product: str | None, session: int) -> str:
    if kind == "product":
        return f"/product/{product}"
    if kind == "search":
        return f"/search?q={_SEARCH_TERMS[session % len(_SEARCH_TERMS)]}"
    return {"home": "/", "cart": "/cart", "asset": f"/static/{session % 9}.js"}[kind]
