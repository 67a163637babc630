"""Part `memory`: a million entities with history, and ten million keys rotated through a table.

Each in a process of its own, whose whole resident memory counts. Fed with columns, since only the
engine holds entities.
"""

import sys
from functools import partial
from typing import Any, Final, NamedTuple

import numpy as np
import orjson
import pyarrow as pa

from detectors.monitor import Monitor, MonitorOutput
from detectors.numeric.hashing import hash_key
from detectors.scoring import policy
from schemas.columns import I64, EventBatch
from stream.config import parse
from tests.bench import launching
from tests.bench.events import (
    START_MS,
    Payments,
    document,
    monitor_document,
    payments,
)
from tests.bench.figures import Figures
from tests.bench.timing import rss_bytes, time_spent

GIB: Final = 2**30
HISTORY: Final = 22
"""Events of each: the trees give an entity its masses at the 21st."""
RSS_GIB_MAX: Final = 12.0
"""Beyond it the feeding stops: the machine has others on it, and the bar is missed anyway."""


class Sizes(NamedTuple):
    """How much is measured. live: entities with history, block of them active at a time, memory seen
    every look. capacity: of the table through which the keys are rotated; known: entities that stay
    active, known_a_turn of their events among rotated_a_turn of rotated new keys."""

    live: int = 1_000_000
    block: int = 5_000
    look: int = 100_000
    capacity: int = 100_000
    known: int = 50_000
    rotated: int = 10_000_000
    rotated_a_turn: int = 100_000
    known_a_turn: int = 25_000


FULL: Final = Sizes()
KNOWN_HISTORY: Final = 25
ATTACKERS: Final = 10
ATTACKER_FIRST: Final = 99_999_900
ATTACKING: Final = "adr999999"
"""Addresses that the rotated keys come from."""
WAIT_MAX_S: Final = 1200


def run(figures: Figures, sizes: Sizes = FULL) -> None:
    """Both probes, one after the other."""
    million = _probe("million", sizes)
    for name in ("rss_gib_1m", "bytes_per_entity", "million_events_per_s"):
        figures.put(name, million[name])
    header = ("entities", "resident GiB")
    for entities, gib in million["curve"]:
        figures.row("a million live entities", header, f"{entities:,.0f}", f"{gib:.2f}")
    if million["stopped_at"]:
        figures.notes.append(
            f"stopped at {million['stopped_at']:,} entities, more than {RSS_GIB_MAX:g} GiB resident; "
            "rss_gib_1m is the straight line through what was measured"
        )
    figures.say("a million entities measured")
    rotation = _probe("rotation", sizes)
    names_shown = {
        "rotation_rss_before_gib": "resident GiB, table full",
        "rotation_rss_after_gib": "resident GiB after ten million keys",
        "known_kept_share": "share of known entities never evicted",
        "rotation_evictions": "evictions",
        "rotation_attackers_alerted": "attacking addresses alerted, of 10",
        "rotation_first_alert_after": "rotated keys until the first of them was",
        "rotation_alerts_on_others": "alerts on other addresses",
        "rotation_events_per_s": "events/s, both monitors",
    }
    for name, meaning in names_shown.items():
        figures.put(name, rotation[name])
        figures.row("ten million keys rotated", ("", "found"), meaning, f"{rotation[name]:,.4g}")
    figures.say("rotation measured")


def _probe(name: str, sizes: Sizes) -> dict[str, Any]:
    """Run a probe in a process of its own; its progress goes to our standard error."""
    asked = [name, orjson.dumps(tuple(sizes)).decode()]
    found: dict[str, Any] = orjson.loads(
        launching.output_of("tests.bench.memory", asked, WAIT_MAX_S)
    )
    return found


# -- in the probe's process -----------------------------------------------------------------------


def million(sizes: Sizes) -> dict[str, Any]:
    """Entities one block after the other, each with its whole history; memory on the way."""
    live, block = sizes.live, sizes.block
    monitor = monitor_of(monitor_document(live, for_all(live)))
    empty = rss_bytes()
    curve: list[tuple[int, float]] = []
    clock = Clock()
    wall_s = 0.0
    for first in range(0, live, block):
        batch = clock.payments(shuffled(first, block, HISTORY), first).batch()
        wall_s += time_spent(len(batch), partial(monitor.process, batch)).wall_s
        if (first + block) % sizes.look == 0:
            curve.append((first + block, rss_bytes() / GIB))
            say(f"{first + block:,} entities, {curve[-1][1]:.2f} GiB resident")
            if curve[-1][1] > RSS_GIB_MAX:
                break
    held, gib = curve[-1]
    each = (gib * GIB - empty) / held
    return {
        "rss_gib_1m": (empty + each * live) / GIB,
        "bytes_per_entity": each,
        "million_events_per_s": held * HISTORY / wall_s,
        "curve": curve,
        "stopped_at": held if held < live else 0,
    }


def rotation(sizes: Sizes) -> dict[str, float]:
    """Known accounts stay active while ten addresses send a new account with every event."""
    capacity, known = sizes.capacity, sizes.known
    accounts = monitor_of(monitor_document(capacity, for_all(capacity)))
    addresses = monitor_of(address_document(capacity))
    clock = Clock()
    for part in range(KNOWN_HISTORY):
        batch = clock.payments(shuffled(0, known, 1, part), part).batch()
        accounts.process(batch)
        addresses.process(batch)
    fed = np.full(known, KNOWN_HISTORY, np.int64)
    alerted: dict[str, int] = {}
    others, before, wall_s, events = 0, 0.0, 0.0, 0
    for rotated in range(0, sizes.rotated, sizes.rotated_a_turn):
        turn, done = attack(clock, rotated, sizes), rotated + sizes.rotated_a_turn
        batch = turn.batch()
        own = turn.number["account"]
        fed += np.bincount(own[own < known], minlength=known)
        wall_s += time_spent(len(batch), partial(accounts.process, batch)).wall_s
        events += len(batch)
        for address in alerts_on(addresses.process(batch), batch):
            if address.startswith(ATTACKING):
                alerted.setdefault(address, done)
            else:
                others += 1
        if done == 2 * capacity:
            before = rss_bytes() / GIB
        if done % 1_000_000 == 0:
            say(f"{done:,} keys rotated, {rss_bytes() / GIB:.2f} GiB resident")
    after = rss_bytes() / GIB
    last = clock.payments(np.arange(known, dtype=np.int64), 99).batch()
    # an account that was evicted once has begun to count anew
    kept = accounts.process(last).admitted.earlier_events == fed
    return {
        "rotation_rss_before_gib": before,
        "rotation_rss_after_gib": after,
        "known_kept_share": float(kept.mean()),
        "rotation_evictions": accounts.measures()["evictions"],
        "rotation_attackers_alerted": len(alerted),
        "rotation_first_alert_after": min(alerted.values(), default=-1),
        "rotation_alerts_on_others": others,
        "rotation_events_per_s": events / wall_s,
    }


class Clock:
    """Makes payments, each stretch of them behind the last one."""

    def __init__(self) -> None:
        self._now_ms = START_MS
        self._made = 0

    def payments(self, accounts: I64, seed: int) -> Payments:
        """The next payments, of these accounts in this order."""
        made = payments(accounts, seed, 200.0, self._made, self._now_ms)
        self._made += len(made)
        self._now_ms = int(made.time_ms[-1])
        return made


def attack(clock: Clock, rotated: int, sizes: Sizes) -> Payments:
    """New accounts from the attackers' addresses, among payments of known accounts."""
    draw = np.random.Generator(np.random.PCG64(rotated))
    known = draw.integers(0, sizes.known, sizes.known_a_turn)
    new = 10_000_000 + rotated + np.arange(sizes.rotated_a_turn)
    turn = clock.payments(draw.permutation(np.concatenate([known, new])), rotated)
    attacking = turn.number["account"] >= sizes.known
    address = ATTACKER_FIRST + draw.integers(0, ATTACKERS, len(turn))
    turn.number["ip"][attacking] = address[attacking]
    return turn


def alerts_on(watched: MonitorOutput, batch: EventBatch) -> list[str]:
    """The addresses that were alerted on."""
    activity = watched.policy_outcome.activity
    alerting = (activity == policy.OPENED) | (activity == policy.UPDATED)
    rows = pa.array(watched.index[alerting])
    found: list[str] = batch.text["ip"].take(rows).to_pylist()
    return found


def monitor_of(declared: dict[str, Any]) -> Monitor:
    """The monitor of a declaration, empty."""
    return Monitor(parse(document([declared]), {}).monitors[0], hash_key("bench"))


def for_all(entities: int) -> list[dict[str, Any]]:
    """The default detectors, every entity with masses of its own."""
    return [{"kind": "tail"}, {"kind": "half_space_trees", "entities_max": entities}]


def address_document(capacity: int) -> dict[str, Any]:
    """A monitor that sees how many accounts an address shows."""
    new_accounts = {"kind": "novel_count", "field": "account", "half_life": "1h"}
    return {
        "name": "ip",
        "entity": "ip",
        "inputs": ["bench"],
        "capacity": capacity,
        "features": [
            {"name": "new_accounts_1h", **new_accounts},
            {"name": "payments_1h", "kind": "count", "half_life": "1h"},
        ],
        "detectors": [{"kind": "tail"}],
        "policy": {"alerts_per_day": 100, "p_max": 1e-5},
    }


def shuffled(first: int, count: int, each: int, seed: int = 0) -> I64:
    """The accounts first … first + count - 1, each so many times, in random order."""
    draw = np.random.Generator(np.random.PCG64(first + seed))
    return draw.permutation(np.repeat(np.arange(first, first + count, dtype=np.int64), each))


def say(text: str) -> None:
    """Progress, to the terminal."""
    print(f"        {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    probe = {"million": million, "rotation": rotation}[sys.argv[1]]
    print(orjson.dumps(probe(Sizes(*orjson.loads(sys.argv[2])))).decode())
