"""A simulated shop: honest and fraudulent events from a seed, and which events belong to attacks.

For the demo, load tests and tests. The same number of events and seed give the same bytes. It reads no
clock. Its attacks are not subtle: it shows that Eddy works, not how well.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import orjson
from numpy.random import PCG64, Generator, SeedSequence

from schemas.dead_letters import DeadLetterCode
from stream.simulator import visits
from stream.simulator.attacks import Attack, plan
from stream.simulator.malformed import MALFORMED, malformed
from stream.simulator.people import people
from stream.simulator.rows import EventTable, sort_by_time, take, to_events

__all__ = [
    "MALFORMED",
    "START_MS",
    "Attack",
    "Line",
    "Shop",
    "labels",
    "lines",
    "malformed",
    "shop_config",
]

START_MS: Final = 1_772_409_600_000
"""Monday 2 March 2026, 00:00 UTC."""

LABEL_DELAY_MS: Final = 86_400_000
"""Time from a fraudulent event to its label."""


def shop_config() -> Path:
    """Path of the simulated shop's configuration, in a wheel or in a checkout."""
    module = Path(__file__)
    in_wheel = module.parents[1] / "shop.toml"
    return (
        in_wheel if in_wheel.is_file() else module.parents[2] / "deploy" / "configs" / "shop.toml"
    )


class SimulatedLine(NamedTuple):
    """One record for a topic or a file. kind: kind of its fault, None without one. code: code of its
    dead letter, None if it is an event."""

    key: bytes
    value: bytes
    kind: str | None
    code: DeadLetterCode | None


class Shop:
    """A stream of exactly `events` events in time order, about 12,000 a day, from `seed`.

    start_ms: the shop's midnight before its first event, milliseconds since 1970 UTC.
    attacks: the attacks in the stream, in the order in which they begin; none in a stream of fewer
        than 5,000 events.
    """

    def __init__(self, events: int, seed: int, start_ms: int = START_MS) -> None:
        world, attackers, self._days_seed = SeedSequence(seed).spawn(3)
        self.count = events
        self.seed = seed
        self.start_ms = start_ms
        self._stream_days = events / visits.EVENTS_PER_DAY
        self._people = people(Generator(PCG64(world)))
        span_ms = self._stream_days * visits.DAY_MS
        planned = plan(Generator(PCG64(attackers)), self._people, events, span_ms)
        self._attack_tables = planned.tables
        self._attack_by_number = [_shift(attack, start_ms) for attack in planned.attacks]
        self.attacks = sorted(self._attack_by_number, key=lambda attack: attack.first_ms)

    def span_ms(self) -> int:
        """From `start_ms` to the last event: subtract it from now for a stream that just ended.

        Costs a pass over the stream's columns.
        """
        last = 0
        for table in self._blocks():
            last = int(table["time_ms"][-1])
        return last

    def events(self) -> Iterator[tuple[dict[str, Any], Attack | None]]:
        """Every event, with Eddy's field names, and the attack that it belongs to, or None."""
        first = 0
        for table in self._blocks():
            attacks = table["attack"].tolist()
            table["time_ms"] += self.start_ms
            events = to_events(table, self._people.names, first, self.seed)
            for event, attack in zip(events, attacks, strict=True):
                yield event, None if attack < 0 else self._attack_by_number[attack]
            first += len(attacks)

    def _blocks(self) -> Iterator[EventTable]:
        """The stream's rows, one day at a time; visits may continue on the next day."""
        rng = Generator(PCG64(self._days_seed))
        events_left, day, later_rows = self.count, 0, self._attack_tables
        while events_left > 0:
            honest = visits.day(rng, self._people, day, self._stream_days)
            table = sort_by_time([*later_rows, *honest])
            np.maximum(table["time_ms"], 0, out=table["time_ms"])
            day_end = int(np.searchsorted(table["time_ms"], (day + 1) * visits.DAY_MS))
            count = min(day_end, events_left)
            if count:
                yield take(table, slice(0, count))
            later_rows = [take(table, slice(day_end, None))]
            events_left, day = events_left - count, day + 1


def lines(
    shop: Shop, malformed_share: float = 0.0, keyed_by: str = "account"
) -> Iterator[SimulatedLine]:
    """The shop's events as records, keyed by that field, else by account, else by address.

    malformed_share: probability that a malformed record follows an event. These are added to the
    shop's events, with alternating kinds.
    """
    rng = Generator(PCG64(SeedSequence([shop.seed, 1])))
    kinds = list(MALFORMED)
    malformed_count = 0
    for event, _ in shop.events():
        key = event.get(keyed_by) or event.get("account") or event["ip"]
        yield SimulatedLine(key.encode(), orjson.dumps(event), None, None)
        if malformed_share and rng.random() < malformed_share:
            kind = kinds[malformed_count % len(kinds)]
            malformed_count += 1
            yield SimulatedLine(key.encode(), malformed(rng, kind), kind, MALFORMED[kind][1])


def labels(shop: Shop) -> Iterator[bytes]:
    """A label for each event of an attack, a day later, with Eddy's field names. Honest events have no
    labels."""
    for event, attack in shop.events():
        if attack is not None:
            label = {
                "type": "label",
                "event_id": f"label-{event['event_id']}",
                "time": event["time"] + LABEL_DELAY_MS,
                "labelled_event_id": event["event_id"],
                "verdict": "fraud",
                "kind": attack.name,
            }
            yield orjson.dumps(label)


def _shift(attack: Attack, by_ms: int) -> Attack:
    return Attack(
        attack.name,
        attack.entity_type,
        attack.entity_id,
        attack.first_ms + by_ms,
        attack.last_ms + by_ms,
        attack.description,
    )
