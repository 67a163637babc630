"""Header bytes make no client invisible: alerts are those of the same events without them."""

import json
import tomllib
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import pytest
from numpy.random import default_rng

from schemas.records import Records
from stream.config import parse
from stream.pipeline.alerting import RunInfo
from stream.pipeline.shard import ShardFactory, ShardOutput

START_MS: Final = 1_772_409_600_000
ATTACKER: Final = "203.0.113.9"
CONFIG: Final = """
group = "t"
secret = "0123456789abcdef0123456789abcdef"
reveal = ["ip"]

[inputs.pay]
topic = "pay"
type = "transaction"

[inputs.pay.fields]
event_id = "id"
time = "t"
card = "card"
ip = "ip"
amount = "amount"
user_agent = "agent"
network = "forwarded"

[inputs.site]
topic = "site"
codec = "access_log"

[[monitors]]
name = "ip"
entity = "ip"
inputs = ["pay"]
features = [
  { name = "cards", kind = "distinct", field = "card", half_life = "1h" },
  { name = "agents", kind = "distinct", field = "user_agent", half_life = "1h" },
  { name = "networks", kind = "distinct", field = "network", half_life = "1h" },
  { name = "payments", kind = "count", half_life = "1h" },
]
policy = { p_max = 1e-2, warm_up_events = 100, incident_gap = "1min" }

[[monitors]]
name = "visitor"
entity = "ip"
inputs = ["site"]
features = [{ name = "requests", kind = "count", half_life = "1min" }]
policy = { p_max = 1e-2, warm_up_events = 100, incident_gap = "1min" }
"""
LINE: Final = '{} - - [02/Mar/2026:00:{:02}:{:02} +0000] "GET / HTTP/1.1" 200 5 "-" "{}"'


def process(name: str, values: list[bytes]) -> ShardOutput:
    """What an input's records lead to."""
    shards = ShardFactory(parse(tomllib.loads(CONFIG), {}), RunInfo("replay", "run", str))
    size = len(values)
    return shards.input_shard(name).process(
        Records(name, 0, np.arange(size), np.full(size, -1, np.int64), [*values])
    )


def payments(**header: Any) -> list[bytes]:
    """Payments of many addresses, and two hundred of two hundred cards from one. header: what the
    latter send; each byte of a text is a byte of the record."""
    rng = default_rng(7)
    rows: list[dict[str, Any]] = []
    for i in range(2_200):
        busy = i >= 1_000 and i % 6 == 0
        ip = ATTACKER if busy else f"10.0.0.{rng.integers(40)}"
        row = {"id": f"e{i}", "t": START_MS + 1_000 * i, "ip": ip, "card": f"c{ip}", "amount": 5}
        row |= {"agent": "Mozilla", "forwarded": "10.0.0"}
        rows.append(row | ({"card": f"c{i}"} | header if busy else {}))
    return [json.dumps(row, ensure_ascii=False).encode("latin-1") for row in rows]


def requests(agent: str) -> list[bytes]:
    """Requests of many addresses, and bursts of one. agent: what that one sends."""
    rng = default_rng(7)
    made = []
    for i in range(2_200):
        busy = i >= 1_000 and i % 3 == 0
        ip = ATTACKER if busy else f"10.0.0.{rng.integers(40)}"
        made.append(LINE.format(ip, i // 60, i % 60, agent if busy else "Mozilla"))
    return [line.encode("latin-1") for line in made]


def alerts(made: ShardOutput) -> list[tuple[str, int]]:
    """The events alerted on, and the revisions."""
    assert not [one for one in made.dead_letters if not one.event_kept]
    return [(one.alert_id, one.revision) for one in made.alerts]


HIDING: Final[dict[str, Callable[[], list[bytes]]]] = {
    "agent of 4,097 bytes": lambda: payments(agent="m" * 4_097),
    "forwarded for, 300 bytes": lambda: payments(forwarded="1.1.1.1, " * 33 + "1.1"),
    "byte 0xFF": lambda: payments(agent="Moz\xff"),
    "byte 0xFF elsewhere": lambda: payments(unmapped="\xff"),
    "array": lambda: payments(agent=["Mozilla"]),
    "NaN": lambda: payments(amount=float("nan")),
    "number without bound": lambda: payments(amount=10**400),
    "the address in other forms": lambda: payments(ip=f"::FFFF:{ATTACKER}"),
}


@pytest.fixture(scope="module")
def seen() -> list[tuple[str, int]]:
    """The alerts where nobody hides."""
    found = alerts(process("pay", payments()))
    assert len(found) > 5
    return found


@pytest.mark.parametrize("how", HIDING)
def test_no_header_hides_a_payment(how: str, seen: list[tuple[str, int]]) -> None:
    """Two hundred cards from one address raise the alerts that they raise without the header; there
    are at most as many examples as the burst has minutes."""
    made = process("pay", HIDING[how]())
    assert len(made.events) == 2_200
    assert alerts(made) == seen
    assert len(made.dead_letters) <= 1_200 / 60 + 1


@pytest.mark.parametrize("agent", ["m" * 5_000, "M\xff", '"', 'x" "y', "\\x22", "\x01"])
def test_no_header_hides_a_request(agent: str) -> None:
    """So it is in an access log."""
    seen = alerts(process("site", requests("Mozilla")))
    assert len(seen) > 0
    assert alerts(process("site", requests(agent))) == seen
