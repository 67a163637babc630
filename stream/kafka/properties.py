"""Kafka's client properties: the user's, Eddy's defaults below them, and those that are Eddy's own.

What its guarantees rest on may not be set; what could be a secret is never shown. Starts no client.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Final

from stream.errors import ConfigError

Properties = Mapping[str, str | int | float | bool]

OWNED: Final[dict[str, str]] = {
    "group.id": "it is `group` in the configuration",
    "group.protocol.type": "there is only one",
    "group.remote.assignor": "the broker's first, uniform, keeps partitions where they are",
    "partition.assignment.strategy": "Eddy keeps a partition's state while it keeps the partition",
    "enable.auto.commit": "offsets travel in the transaction of the outputs",
    "enable.auto.offset.store": "offsets travel in the transaction of the outputs",
    "auto.offset.reset": "Eddy says itself where it starts, and never jumps over a gap in silence",
    "isolation.level": "an aborted record must not be learned",
    "enable.partition.eof": "the worker does not look for the end of a log",
    "transactional.id": "it is made of the group and the worker's slot (--slot, EDDY_SLOT)",
    "enable.idempotence": "transactions need it",
    "acks": "transactions need acknowledgement by all replicas",
    "enable.gapless.guarantee": "transactions keep the order already",
}
"""The properties that Eddy's guarantees rest on, each with why it may not be set."""

PROTOCOLS: Final = ("classic", "consumer")

NOT_WITH_CONSUMER: Final[dict[str, str]] = {
    "session.timeout.ms": "group.consumer.session.timeout.ms",
    "heartbeat.interval.ms": "group.consumer.heartbeat.interval.ms",
}
"""What group.protocol = consumer leaves to the broker, and the broker's name for it."""

RECORD_BYTES_MAX: Final = 1_000_000
"""The client's own limit; a lower one would refuse records that Eddy may write."""

TRANSACTION_MS: Final = (3_000, 24 * 3_600_000)
"""A shorter time-out leaves no time to abort; a longer one no broker grants."""

LOG_LEVEL: Final = 2
"""The client's own log: only what is critical. The rest comes to `Source` as errors, which are logged
as everything else is."""

CONSUMER_DEFAULTS: Final[dict[str, str | int | float | bool]] = {
    "log_level": LOG_LEVEL,
    "fetch.queue.backoff.ms": 5,  # the client's own 1 s lets a fast consumer starve
    "statistics.interval.ms": 0,
    "client.id": "eddy",
}
CONSUMER_OWN: Final[dict[str, str | int | float | bool]] = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "error",
    "isolation.level": "read_committed",
    "enable.partition.eof": False,
}
PRODUCER_DEFAULTS: Final[dict[str, str | int | float | bool]] = {
    "log_level": LOG_LEVEL,
    "compression.type": "zstd",
    "linger.ms": 5,
    "partitioner": "murmur2_random",  # as Java producers do, so that joins by key work
    "transaction.timeout.ms": 30_000,
    "statistics.interval.ms": 0,
    "client.id": "eddy",
}
ADMIN_DEFAULTS: Final[dict[str, str | int | float | bool]] = {
    "log_level": LOG_LEVEL,
    "client.id": "eddy",
}
ONLY_CONSUMER: Final = re.compile(
    r"fetch\.|group\.|session\.|heartbeat\.|max\.poll\.|queued\.|check\.crcs"
    r"|max\.partition\.fetch|coordinator\.query|consume\."
)
ONLY_PRODUCER: Final = re.compile(
    r"transaction|queue\.buffering|linger|batch\.|compression|delivery|message\.timeout"
    r"|request\.(required|timeout)|message\.send|retries|sticky|partitioner|retry\.backoff\.max"
)
SECRET: Final = re.compile(r"password|secret|key|token|jaas|credential|oauthbearer\.config|\.pem$")


def property_problems(properties: Properties) -> list[str]:
    """One line for each property that may not be set, or not so; empty where all may."""
    owned = [f"kafka.{name}: may not be set: {OWNED[name]}" for name in properties if name in OWNED]
    return [*owned, *_protocol_problems(properties), *_number_problems(properties)]


def _protocol_problems(properties: Properties) -> Iterator[str]:
    protocol = properties.get("group.protocol", PROTOCOLS[0])
    if protocol not in PROTOCOLS:
        yield f"kafka.group.protocol: got {protocol}; expected {' or '.join(PROTOCOLS)}"
    if protocol == "consumer":
        for name in properties.keys() & NOT_WITH_CONSUMER.keys():
            yield (
                f"kafka.{name}: may not be set with group.protocol = consumer: the broker decides "
                f"it ({NOT_WITH_CONSUMER[name]}); remove it, or choose group.protocol = classic"
            )


def _number_problems(properties: Properties) -> Iterator[str]:
    bounds = {
        "transaction.timeout.ms": TRANSACTION_MS,
        "message.max.bytes": (RECORD_BYTES_MAX, 1_000_000_000),
    }
    for name, (least, most) in bounds.items():
        got = properties.get(name, least)
        try:
            fits = least <= int(got) <= most
        except ValueError:
            fits = False
        if not fits:
            yield f"kafka.{name}: got {got}; expected a number from {least} to {most}"


def of_slot(properties: Properties, slot: str) -> Properties:
    """The properties of the worker in a slot: clients that say who they are.

    Where static membership is asked for (group.instance.id) the member is named like the slot, so
    that one configuration serves many workers.
    """
    member = {"group.instance.id": slot} if "group.instance.id" in properties else {}
    return {"client.id": f"eddy-{slot}", **properties, **member}


def shown(properties: Properties) -> dict[str, str | int | float | bool]:
    """The properties as they may be printed: what could be a secret, going by its name, hidden."""
    return {
        name: "(hidden)" if SECRET.search(name.lower()) else value
        for name, value in properties.items()
    }


def consumer_properties(properties: Properties, group: str) -> dict[str, str | int | float | bool]:
    """What the consumer is made with. Raises ConfigError where a property may not be set."""
    own = CONSUMER_OWN | {"group.id": group}
    if properties.get("group.protocol") != "consumer":
        own |= {"partition.assignment.strategy": "cooperative-sticky"}
    return _merged(properties, ONLY_PRODUCER, CONSUMER_DEFAULTS, own)


def producer_properties(
    properties: Properties, own: dict[str, str | int | float | bool]
) -> dict[str, str | int | float | bool]:
    """What a producer is made with. Raises ConfigError where a property may not be set."""
    own = {"enable.idempotence": True} | own
    return _merged(properties, ONLY_CONSUMER, PRODUCER_DEFAULTS, own)


def admin_properties(properties: Properties) -> dict[str, str | int | float | bool]:
    """What a client is made with that only looks at topics and makes them."""
    others = re.compile(f"{ONLY_CONSUMER.pattern}|{ONLY_PRODUCER.pattern}")
    return _merged(properties, others, ADMIN_DEFAULTS, {})


def _merged(
    properties: Properties,
    others: re.Pattern[str],
    defaults: dict[str, str | int | float | bool],
    own: dict[str, str | int | float | bool],
) -> dict[str, str | int | float | bool]:
    if problems := property_problems(properties):
        raise ConfigError(problems)
    mine = {name: value for name, value in properties.items() if not others.match(name)}
    return defaults | mine | own
