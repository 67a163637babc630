"""Properties of Kafka's client: the user's, over Eddy's defaults, under those that Eddy requires.

Properties that Eddy's guarantees rest on may not be set; possible secrets are never shown.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Final

from stream.errors import ConfigError
from stream.location import REDACTED, hide_credentials

Properties = Mapping[str, str | int | float | bool]

RESERVED: Final[dict[str, str]] = {
    "group.id": "it is `group` in the configuration",
    "group.protocol.type": "there is only one",
    "group.remote.assignor": "the broker's first, uniform, keeps partitions where they are",
    "partition.assignment.strategy": "Eddy keeps a partition's state while it keeps the partition",
    "enable.auto.commit": "offsets are committed in the transaction of the outputs",
    "enable.auto.offset.store": "offsets are committed in the transaction of the outputs",
    "auto.offset.reset": "Eddy decides where it starts, and never skips a gap silently",
    "isolation.level": "aborted records must not be learned",
    "enable.partition.eof": "the worker does not wait for the end of a log",
    "transactional.id": "it is derived from the group and the worker's slot (--slot, EDDY_SLOT)",
    "enable.idempotence": "transactions need it",
    "acks": "transactions need acknowledgement by all replicas",
    "enable.gapless.guarantee": "transactions already keep the order",
    "statistics.interval.ms": "readiness is derived from the consumer's statistics",
}
"""The properties that Eddy's guarantees rest on, each with why it may not be set."""

PROTOCOLS: Final = ("classic", "consumer")

SET_BY_BROKER: Final[dict[str, str]] = {
    "session.timeout.ms": "group.consumer.session.timeout.ms",
    "heartbeat.interval.ms": "group.consumer.heartbeat.interval.ms",
}
"""Properties that the broker sets under group.protocol = consumer, with the broker's names."""

RECORD_BYTES_MAX: Final = 1_000_000
"""The client's own limit; a lower one would refuse records that Eddy may write."""

TRANSACTION_MS: Final = (3_000, 24 * 3_600_000)
"""A shorter time-out leaves no time to abort; no broker grants a longer one."""

LOG_LEVEL: Final = 2
"""Of the client's own log: critical lines only. Other errors reach callbacks, which log them."""

STATISTICS_MS: Final = 5_000
"""How often the consumer reports statistics, which show whether a broker answers."""

CONSUMER_DEFAULTS: Final[dict[str, str | int | float | bool]] = {
    "log_level": LOG_LEVEL,
    "topic.metadata.refresh.interval.ms": 30_000,  # how soon a grown topic is noticed; 5 min by default
    "fetch.queue.backoff.ms": 5,  # the default of 1 s starves a fast consumer
    "client.id": "eddy",
}
CONSUMER_REQUIRED: Final[dict[str, str | int | float | bool]] = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "error",
    "isolation.level": "read_committed",
    "enable.partition.eof": False,
    "statistics.interval.ms": STATISTICS_MS,
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
PRINTABLE: Final = frozenset({
    *("bootstrap.servers", "metadata.broker.list", "client.id", "client.rack", "client.dns.lookup"),
    *("group.protocol", "group.instance.id", "session.timeout.ms", "heartbeat.interval.ms"),
    *("max.poll.interval.ms", "coordinator.query.interval.ms", "check.crcs"),
    *("security.protocol", "sasl.mechanism", "sasl.mechanisms", "sasl.kerberos.service.name"),
    *("sasl.oauthbearer.method", "ssl.endpoint.identification.algorithm", "ssl.cipher.suites"),
    *("enable.ssl.certificate.verification", "ssl.ca.location", "ssl.certificate.location"),
    *("api.version.request", "api.version.request.timeout.ms", "broker.version.fallback"),
    *("broker.address.family", "broker.address.ttl", "connections.max.idle.ms"),
    *("socket.timeout.ms", "socket.keepalive.enable", "socket.nagle.disable", "socket.max.fails"),
    *("socket.send.buffer.bytes", "socket.receive.buffer.bytes"),
    *("socket.connection.setup.timeout.ms", "reconnect.backoff.ms", "reconnect.backoff.max.ms"),
    *("retry.backoff.ms", "retry.backoff.max.ms", "retries", "request.timeout.ms"),
    *("topic.metadata.refresh.interval.ms", "metadata.max.age.ms", "allow.auto.create.topics"),
    *("max.in.flight", "max.in.flight.requests.per.connection", "message.max.bytes"),
    *("receive.message.max.bytes", "message.copy.max.bytes", "message.timeout.ms"),
    *("fetch.wait.max.ms", "fetch.min.bytes", "fetch.max.bytes", "fetch.message.max.bytes"),
    *("max.partition.fetch.bytes", "fetch.error.backoff.ms", "fetch.queue.backoff.ms"),
    *("queued.min.messages", "queued.max.messages.kbytes"),
    *("queue.buffering.max.messages", "queue.buffering.max.kbytes", "queue.buffering.max.ms"),
    *("linger.ms", "batch.size", "batch.num.messages", "compression.type", "compression.codec"),
    *("compression.level", "partitioner", "sticky.partitioning.linger.ms"),
    *("delivery.timeout.ms", "request.required.acks", "transaction.timeout.ms"),
    *("log_level", "debug", "log.connection.close"),
})  # fmt: skip
"""Properties whose values may be printed. A list of secrets instead would print the value of a
misspelt one."""


USER_INFO: Final = re.compile(r"(?<![^\s,/])[^\s,/]+@")
"""Matches user and password before an address without a scheme."""


def property_problems(properties: Properties) -> list[str]:
    """One line for each property that may not be set, or not to this value.

    A line shows only values that are numbers: others could be misplaced secrets.
    """
    reserved = [
        f"kafka.{name}: may not be set: {RESERVED[name]}" for name in properties if name in RESERVED
    ]
    with_nul = [
        f"kafka.{name}: has a NUL character; remove it" for name in _names_with_nul(properties)
    ]
    return [*reserved, *with_nul, *_protocol_problems(properties), *_number_problems(properties)]


def _names_with_nul(properties: Properties) -> Iterator[str]:
    """Names of properties that the client would truncate at a NUL character."""
    for name, value in properties.items():
        if "\0" in name or "\0" in str(value):
            yield name.replace("\0", "\\0")


def _protocol_problems(properties: Properties) -> Iterator[str]:
    protocol = properties.get("group.protocol", PROTOCOLS[0])
    if protocol not in PROTOCOLS:
        yield f"kafka.group.protocol: got another value; expected {' or '.join(PROTOCOLS)}"
    if protocol == "consumer":
        for name in properties.keys() & SET_BY_BROKER.keys():
            yield (
                f"kafka.{name}: may not be set with group.protocol = consumer: the broker decides "
                f"it ({SET_BY_BROKER[name]}); remove it, or choose group.protocol = classic"
            )


def _number_problems(properties: Properties) -> Iterator[str]:
    bounds = {
        "transaction.timeout.ms": TRANSACTION_MS,
        "message.max.bytes": (RECORD_BYTES_MAX, 1_000_000_000),
    }
    for name, (least, most) in bounds.items():
        got = properties.get(name, least)
        try:
            number = int(got)
        except (ValueError, OverflowError):
            yield f"kafka.{name}: got no integer; expected a number from {least} to {most}"
            continue
        if not least <= number <= most:
            yield f"kafka.{name}: got {number}; expected a number from {least} to {most}"


def slot_properties(properties: Properties, slot: str) -> Properties:
    """The properties of the worker in a slot: its clients' ids name the slot.

    With static membership (group.instance.id) the member's id is the slot, so that one
    configuration serves many workers.
    """
    member = {"group.instance.id": slot} if "group.instance.id" in properties else {}
    return {"client.id": f"eddy-{slot}", **properties, **member}


def printable_properties(properties: Properties) -> dict[str, str | int | float | bool]:
    """The properties with all values hidden but those of `PRINTABLE`, and in these user and password
    before an address."""
    return {
        name: (
            USER_INFO.sub(f"{REDACTED}@", hide_credentials(value))
            if isinstance(value, str)
            else value
        )
        if name in PRINTABLE
        else REDACTED
        for name, value in properties.items()
    }


def hide_values(text: str, properties: Mapping[str, object]) -> str:
    """Hide the values that the user has set in a message of the client.

    Texts of `PRINTABLE` properties are hidden, too: a secret may be in the wrong property, and the
    message names it anyway. Values of less than three characters stay: they are parts of words.
    """
    hidden = {
        str(value)
        for name, value in properties.items()
        if name not in RESERVED and (name not in PRINTABLE or isinstance(value, str))
    }
    for value in sorted(hidden, key=len, reverse=True):
        if len(value) >= 3:
            text = re.sub(rf"(?<!\w){re.escape(value)}(?!\w)", REDACTED, text)
    return text


def consumer_properties(properties: Properties, group: str) -> dict[str, str | int | float | bool]:
    """The consumer's properties. Raises ConfigError where one may not be set."""
    required = CONSUMER_REQUIRED | {"group.id": group}
    if properties.get("group.protocol") != "consumer":
        required |= {"partition.assignment.strategy": "cooperative-sticky"}
    return _merged(properties, ONLY_PRODUCER, CONSUMER_DEFAULTS, required)


def producer_properties(
    properties: Properties, required: dict[str, str | int | float | bool]
) -> dict[str, str | int | float | bool]:
    """A producer's properties. Raises ConfigError where one may not be set."""
    required = {"enable.idempotence": True} | required
    return _merged(properties, ONLY_CONSUMER, PRODUCER_DEFAULTS, required)


def admin_properties(properties: Properties) -> dict[str, str | int | float | bool]:
    """An admin client's properties. Raises ConfigError where one may not be set."""
    other_clients = re.compile(f"{ONLY_CONSUMER.pattern}|{ONLY_PRODUCER.pattern}")
    return _merged(properties, other_clients, ADMIN_DEFAULTS, {})


def _merged(
    properties: Properties,
    other_clients: re.Pattern[str],
    defaults: dict[str, str | int | float | bool],
    required: dict[str, str | int | float | bool],
) -> dict[str, str | int | float | bool]:
    if problems := property_problems(properties):
        raise ConfigError(problems)
    accepted = {name: value for name, value in properties.items() if not other_clients.match(name)}
    return defaults | accepted | required
