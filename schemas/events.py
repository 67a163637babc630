"""Eddy's events: their types, their fields, and the range of each field.

Mapping, codecs, checks, the simulator and the published JSON Schema use these tables. Where a field
is found in a user's own records is declared in `mapping`.
"""

from typing import Final, Literal, NamedTuple

EventType = Literal["transaction", "request", "login", "label", "measurement"]
TYPES: Final[tuple[EventType, ...]] = ("transaction", "request", "login", "label", "measurement")
"""The types in the order of their codes: `EventBatch.type_code[i]` indexes this tuple."""
LABEL_TYPE: Final = TYPES.index("label")
"""The type code of a label."""


class EventField(NamedTuple):
    """One field of an event.

    `kind` is "text" (names, ids, categories) or "number"; `low` and `high` bound a number
    (inclusive), `bytes_max` bounds a text's UTF-8 length. A number outside its bounds is absent, not
    clamped, since a wrong number would be learned. A longer text is cut, or shortened if it is an id.
    """

    kind: Literal["text", "number"]
    meaning: str
    bytes_max: int = 256
    low: float = float("-inf")
    high: float = float("inf")


AMOUNT_MAX: Final = 1e12
"""Largest amount in any currency; above it float64 cannot sum cents exactly enough."""

FIELDS: Final[dict[str, EventField]] = {
    "kind": EventField(
        "text", "what happened, within the type: order, payment, success, failure, …"
    ),
    "account": EventField("text", "the customer's account"),
    "device": EventField("text", "device fingerprint or id"),
    "ip": EventField("text", "network address the event came from"),
    "network": EventField(
        "text", "block of addresses that `ip` lies in, such as its first three numbers"
    ),
    "card": EventField("text", "payment card (a token, never a number)"),
    "seller": EventField("text", "seller or merchant"),
    "product": EventField("text", "product"),
    "terminal": EventField("text", "point of sale"),
    "coupon": EventField("text", "coupon or incentive"),
    "session": EventField(
        "text", "session; may be derived from address and user agent, hence its length", 8192
    ),
    "currency": EventField("text", "ISO 4217 code; amounts compare only within a currency", 16),
    "country": EventField("text", "ISO 3166 code", 64),
    "channel": EventField("text", "app, web, call centre, …"),
    "user_agent": EventField("text", "User-Agent header", 4096),
    "method": EventField("text", "HTTP method", 32),
    "path": EventField("text", "request path with its query", 8192),
    "referrer": EventField("text", "Referer header", 8192),
    "route": EventField("text", "class of the request's path: page, asset, search, …"),
    "outcome": EventField("text", "class of the result: of the status, or of an attempt"),
    "email": EventField("text", "e-mail address", 320),
    "verdict": EventField("text", "a label's verdict: fraud or honest"),
    "labelled_event_id": EventField("text", "the event that a label is about"),
    "amount": EventField("number", "money in `currency`", low=-AMOUNT_MAX, high=AMOUNT_MAX),
    "status": EventField("number", "HTTP status", low=0, high=999),
    "bytes": EventField("number", "size of the response", low=0, high=2**53),
    "item": EventField(
        "number", "number of what was visited, where ids are numbers in order", low=0, high=2**53
    ),
    "level": EventField(
        "number", "what was measured: a load, a rate, a temperature", low=-1e18, high=1e18
    ),
    "utc_offset_min": EventField(
        "number", "local time minus UTC, in minutes", low=-1080, high=1080
    ),
    "latitude": EventField("number", "degrees", low=-90, high=90),
    "longitude": EventField("number", "degrees", low=-180, high=180),
}
"""Every field but `event_id` and `time`, which all events must have. Each may be absent."""

_PLACE = ("utc_offset_min", "latitude", "longitude", "country", "channel")

FIELDS_OF: Final[dict[EventType, tuple[str, ...]]] = {
    "transaction": (
        *("kind", "account", "device", "ip", "card", "seller", "product", "terminal"),
        *("amount", "currency", "coupon", *_PLACE),
    ),
    "request": (
        *("kind", "ip", "network", "user_agent", "method", "path", "status", "bytes", "referrer"),
        *("route", "outcome", "item", "session", "account", "device", "product", *_PLACE),
    ),
    "login": (
        *("kind", "outcome", "account", "email", "device", "ip", "network", "session"),
        *("user_agent", *_PLACE),
    ),
    "label": (
        *("kind", "verdict", "labelled_event_id", "account", "device", "ip", "card"),
        *("seller", "product", "terminal"),
    ),
    "measurement": ("kind", "device", "seller", "product", "level", *_PLACE),
}
"""The usual fields of each type; a mapping may fill any field of any type."""

ENTITY_FIELDS: Final = (
    *("account", "device", "ip", "card", "seller", "product", "terminal", "coupon", "session"),
)
"""The fields that can name an entity, which a monitor can watch or an alert can relate."""

EVENT_ID_BYTES_MAX: Final = 256
TIME_MS_MIN: Final = 0
TIME_MS_MAX: Final = 4_102_444_800_000
"""1 January 2100: a later time is in another unit than declared, not a date."""


def json_schema() -> dict[str, object]:
    """JSON Schema (2020-12) of an event in Eddy's own shape, which needs no mapping.

    `schemas/json/event.v1.json` holds the same.
    """

    def of(name: str) -> dict[str, object]:
        field = FIELDS[name]
        if field.kind == "text":
            return {"type": ["string", "integer"], "description": field.meaning}
        limits = {"minimum": field.low, "maximum": field.high}
        return {"type": "number", "description": field.meaning, **limits}

    shapes = [
        {
            "type": "object",
            "title": event_type,
            "properties": {
                "type": {"const": event_type},
                "event_id": {"type": ["string", "integer"]},
                "time": {"type": "integer", "description": "milliseconds since 1970, UTC"},
                **{name: of(name) for name in FIELDS_OF[event_type]},
            },
            "required": ["type", "event_id", "time"],
        }
        for event_type in TYPES
    ]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "oneOf": shapes}
