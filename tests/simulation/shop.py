"""The simulated deployment: its configurations, its topics, and the records that it is fed.

Everything is small so that a run takes milliseconds, and yet every kind of stage takes part: four
input partitions, a monitor that reads them directly, one behind internal topics, and the
assessment of their reports.
"""

from collections.abc import Iterator
from functools import cache
from random import Random
from typing import Any, Final, NamedTuple

import orjson

from stream.config import Config, logs, parse
from stream.kafka.messages import OutRecord
from stream.runtime.topics import internal_topic_settings
from tests.simulation.broker import MemoryBroker

GROUP: Final = "simulated"
TOPIC: Final = "events"
ALERTS, DEAD_LETTERS = "alerts", "dead-letters"
PARTITIONS: Final = 4
RECORDS_MIN, RECORDS_MAX = 300, 340
START_MS: Final = 1_900_000_000_000
EVENT_MS: Final = 20_000
"""Mean time from one event to the next."""

MALFORMED: Final = 0.03
REPEATED: Final = 0.08
"""Share of the records that a producer sends again, byte for byte."""
REUSED_ID: Final = 0.01
"""Share of the events that take the id of an earlier one."""

POLICY: Final[dict[str, Any]] = {
    "p_max": 0.01,
    "alerts_per_day": 100_000,
    "incident_gap": "2min",
    "warm_up_events": 20,
}
TREES: Final[dict[str, Any]] = {
    "kind": "river_trees",
    "trees": 2,
    "height": 3,
    "window": 4,
    "min_events": 0,
    "entities_max": 32,
}


def _monitor(entity: str, **more: Any) -> dict[str, Any]:
    return {
        "name": entity,
        "entity": entity,
        "inputs": ["shop"],
        "capacity": 32,
        "features": [{"name": "amount", "kind": "value", "field": "amount"}],
        "detectors": [{"kind": "tail"}],
        "rules": [{"name": "large", "at_least": {"amount": 100.0}}],
        "policy": POLICY,
        **more,
    }


ACCOUNT: Final = _monitor("account")
ADDRESS: Final = _monitor("ip", partitions=2, detectors=[TREES])
DEVICE: Final = _monitor("device", partitions=1)
"""One that a configuration may gain."""

CHANGES: Final = ("none", "commit_interval", "policy", "monitor")
"""What a restart may change: nothing, how often is committed, when is alerted, what is watched."""


@cache
def configuration(change: str = "none") -> Config:
    """The deployment's configuration, before or after a change."""
    interval = "250ms" if change == "commit_interval" else "80ms"
    policy = {**POLICY, "incident_gap": "10min"} if change == "policy" else POLICY
    monitors = [ACCOUNT, {**ADDRESS, "policy": policy}]
    if change == "monitor":
        monitors.append(DEVICE)
    document: dict[str, Any] = {
        "group": GROUP,
        "secret": "the secret of the simulation",
        "inputs": {
            "shop": {
                "topic": TOPIC,
                "partitions": PARTITIONS,
                "keyed_by": "account",
                "partitioner": "murmur2",
                "type": {"field": "type"},
            }
        },
        "outputs": {"alerts": ALERTS, "dead_letters": DEAD_LETTERS},
        "limits": {"duplicate_window": 64},
        "monitors": monitors,
        "assess": {
            "subject": "account",
            "partitions": 1,
            "report_p": 0.1,
            "capacity": 32,
            "events_max": 64,
            "policy": POLICY,
        },
        "worker": {"commit_interval": interval, "batch_records": 60},
        "checkpoints": {"url": "memory://", "rewind_records_max": 120},
    }
    return parse(document, {})


def create_topics(broker: MemoryBroker, config: Config) -> None:
    """Make every topic of the configuration."""
    broker.create(ALERTS, 1, {})
    broker.create(DEAD_LETTERS, 1, {})
    for log in logs(config):
        broker.create(
            log.topic, log.partitions, internal_topic_settings(config) if log.internal else {}
        )


class Fed(NamedTuple):
    """A record for the input's topic, and when the producer sends it."""

    at_s: float
    record: OutRecord
    timestamp_ms: int


def records(random: Random, seconds: float, bursts: int) -> Iterator[Fed]:
    """The records of a run, in bursts over so many seconds."""
    count = random.randint(RECORDS_MIN, RECORDS_MAX)
    starts = sorted(random.uniform(0.0, seconds) for _ in range(bursts))
    time_ms = START_MS
    sent: list[OutRecord] = []
    for number in range(count):
        time_ms += round(random.expovariate(1.0) * EVENT_MS)
        if sent and random.random() < REPEATED:
            record = random.choice(sent[-60:])
        else:
            record = _record(random, number, time_ms)
            sent.append(record)
        yield Fed(starts[number * bursts // count], record, time_ms)


def _record(random: Random, number: int, time_ms: int) -> OutRecord:
    account = f"account-{random.randrange(14)}"
    named = random.randrange(number) if number and random.random() < REUSED_ID else number
    body: dict[str, Any] = {
        "event_id": f"event-{named}",
        "type": "transaction",
        "kind": "order",
        "time": time_ms - random.choice((0, 0, 0, 60_000)),
        "account": account,
        "ip": f"10.0.0.{random.randrange(9)}",
        "device": f"device-{random.randrange(7)}",
        "amount": round(random.lognormvariate(3.0, 1.2), 2),
    }
    value = b"no event" if random.random() < MALFORMED else orjson.dumps(body)
    return OutRecord(TOPIC, account.encode(), value, [])
