"""Malformed records of nine kinds, as real producers write them.

Each kind has the code of its dead letter, or None if the record remains an event with a bad field.
"""

from collections.abc import Callable
from typing import Any, Final

import orjson
from numpy.random import Generator

from schemas.dead_letters import DeadLetterCode


def malformed(rng: Generator, kind: str) -> bytes:
    """A record of this kind (a key of `MALFORMED`)."""
    return MALFORMED[kind][0](_payment(rng))


def _payment(rng: Generator) -> dict[str, Any]:
    number = int(rng.integers(0, 1 << 40))
    return {
        "type": "transaction",
        "event_id": f"bad-{number:011x}",
        "time": 1_772_409_600_000,
        "kind": "payment",
        "account": f"acct-{number % 2_000:04d}",
        "amount": round(float(rng.uniform(5, 80)), 2),
        "currency": "EUR",
    }


def _without(name: str) -> Callable[[dict[str, Any]], bytes]:
    return lambda event: orjson.dumps({k: v for k, v in event.items() if k != name})


def _with(name: str, value: Any) -> Callable[[dict[str, Any]], bytes]:
    return lambda event: orjson.dumps({**event, name: value})


def _not_json(event: dict[str, Any]) -> bytes:
    return f"payment {event['event_id']} of {event['amount']}".encode()


def _truncated(event: dict[str, Any]) -> bytes:
    return orjson.dumps(event)[:-9]


def _not_utf8(event: dict[str, Any]) -> bytes:
    return orjson.dumps(event).replace(b"payment", b"pay\xff\xfement")


def _array(event: dict[str, Any]) -> bytes:
    return orjson.dumps(list(event.values()))


def _nan(event: dict[str, Any]) -> bytes:
    return orjson.dumps({**event, "amount": None}).replace(b"null", b"NaN")


MALFORMED: Final[dict[str, tuple[Callable[[dict[str, Any]], bytes], DeadLetterCode | None]]] = {
    "not_json": (_not_json, "malformed"),
    "truncated": (_truncated, "malformed"),
    "not_utf8": (_not_utf8, None),
    "array": (_array, "wrong_type"),
    "missing_id": (_without("event_id"), "missing_id"),
    "missing_time": (_without("time"), "missing_time"),
    "unreadable_time": (_with("time", "yesterday at noon"), "bad_time"),
    "nan_amount": (_nan, None),
    "amount_out_of_range": (_with("amount", 1e300), None),
}
"""Kind → (function that makes the record from an event, code of the dead letter or None)."""
