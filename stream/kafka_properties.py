"""Kafka's client properties: the user's, Eddy's defaults below them, and those that are Eddy's own.

What its guarantees rest on may not be set; what could be a secret is never shown. Starts no client.
"""

import re
from collections.abc import Mapping
from typing import Final

from stream.errors import ConfigError

Properties = Mapping[str, str | int | float | bool]

OWNED: Final[dict[str, str]] = {
    "group.id": "it is `group` in the configuration",
    "group.protocol": "Eddy speaks the classic protocol with the cooperative-sticky assignor",
    "group.remote.assignor": "Eddy speaks the classic protocol with the cooperative-sticky assignor",
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

LOG_LEVEL: Final = 2
"""The client's own log, to standard error: only what is critical. The rest comes to `Source` as
errors, which are logged as everything else is."""

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
    "partition.assignment.strategy": "cooperative-sticky",
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
    """One line for each property that may not be set, empty where all may."""
    return [f"kafka.{name}: may not be set: {OWNED[name]}" for name in properties if name in OWNED]


def shown(properties: Properties) -> dict[str, str | int | float | bool]:
    """The properties as they may be printed: what could be a secret, going by its name, hidden."""
    return {
        name: "(hidden)" if SECRET.search(name.lower()) else value
        for name, value in properties.items()
    }


def consumer_properties(properties: Properties, group: str) -> dict[str, str | int | float | bool]:
    """What the consumer is made with. Raises ConfigError where a property may not be set."""
    return _merged(properties, ONLY_PRODUCER, CONSUMER_DEFAULTS, CONSUMER_OWN | {"group.id": group})


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
