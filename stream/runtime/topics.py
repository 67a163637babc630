"""The topics of a configuration: which there must be, with how many partitions and what retention.

Compares them with the broker's, and makes those that are missing. What exists is never changed: a
topic's partitions and retention are its owner's. Also says what a worker must be allowed to do.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

from detectors.spec import seconds
from schemas.codecs.internal_events import MESSAGE_BYTES_MAX
from stream.config import Config
from stream.config.stages import OutputTopic, nodes, output_topics
from stream.errors import ConfigError
from stream.runtime.interfaces import Admin

DAY_MS: Final = 86_400_000
RETENTION_MS_MIN: Final = 3 * DAY_MS
RETENTION_INTERVALS_MIN: Final = 10
"""An internal log must reach back to the last checkpoint, many of which may have failed, and over a
weekend without a worker."""
RETENTION_MS: Final = 7 * DAY_MS
"""Of an internal topic that is made, or as long as it must be."""
RECORD_BYTES_MAX: Final = MESSAGE_BYTES_MAX + 64 * 1024
"""A full message with what Arrow and Kafka write around it."""

GROWN_HINT: Final = (
    "; if it has grown since the group learned, keep that by a replay into a saved state: eddy replay "
    "… --save-state, then checkpoints.start_from, in another group"
)

SETTINGS: Final = ("cleanup.policy", "retention.ms", "retention.bytes", "max.message.bytes")
"""The settings of an internal topic that matter."""


class RequiredTopic(NamedTuple):
    """A topic that must exist. where: its path in the configuration.

    partitions: that it must have; None where any number will do: it is then created with one.
    settings: that it is created with; the others are the broker's own.
    """

    path: str
    topic: str
    kind: Literal["input", "output", "internal"]
    partitions: int | None
    settings: Mapping[str, str] = MappingProxyType({})


class ExistingTopic(NamedTuple):
    """A topic as it is. settings: the broker's, where the topic is required to have some."""

    partitions: int
    settings: Mapping[str, str]


def retention_ms_min(config: Config) -> int:
    """The least retention of internal topics."""
    interval_ms = 1000.0 * seconds(config.checkpoints.interval)
    return max(RETENTION_MS_MIN, math.ceil(RETENTION_INTERVALS_MIN * interval_ms))


def internal_topic_settings(config: Config) -> dict[str, str]:
    """Settings of an internal topic that is created."""
    return {
        "cleanup.policy": "delete",
        "retention.ms": str(max(RETENTION_MS, retention_ms_min(config))),
        "retention.bytes": "-1",
    }


def required_topics(config: Config) -> list[RequiredTopic]:
    """Every topic that the configuration names or its stages imply."""
    inputs = (
        RequiredTopic(f"inputs.{name}.topic", spec.topic, "input", spec.partitions)
        for name, spec in config.inputs.items()
    )
    settings = internal_topic_settings(config)
    internal = (
        RequiredTopic(node.path, node.log.topic, "internal", node.log.partitions, settings)
        for node in nodes(config)
        if node.log
    )
    outputs = (
        RequiredTopic(one.path, one.topic, "output", one.partitions, _output_settings(one))
        for one in output_topics(config)
    )
    return [*inputs, *internal, *outputs]


def _output_settings(topic: OutputTopic) -> dict[str, str]:
    return {"cleanup.policy": topic.cleanup_policy} if topic.cleanup_policy else {}


def existing_topics(config: Config, admin: Admin) -> dict[str, ExistingTopic]:
    """What the broker has of these topics; one that is missing is missing here."""
    wanted = required_topics(config)
    counts = admin.partition_counts([one.topic for one in wanted])
    return {
        one.topic: ExistingTopic(
            counts[one.topic],
            admin.settings(one.topic, SETTINGS) if one.settings else {},
        )
        for one in wanted
        if one.topic in counts
    }


def check_topics(config: Config, existing: Mapping[str, ExistingTopic]) -> None:
    """Raise ConfigError unless every topic is there as it must be. known: by topic.

    Where an input has other partitions than configured, nothing is said of internal topics: how many
    they must have may follow from that.
    """
    least_ms = retention_ms_min(config)
    wanted = required_topics(config)
    inputs = [one for one in wanted if one.kind == "input"]
    if any(
        one.topic in existing and one.partitions != existing[one.topic].partitions for one in inputs
    ):
        wanted = [one for one in wanted if one.kind != "internal"]
    problems = [
        line for one in wanted for line in _differences(one, existing.get(one.topic), least_ms)
    ]
    if problems:
        raise ConfigError(problems)


def _differences(
    need: RequiredTopic, existing: ExistingTopic | None, least_ms: int
) -> Iterator[str]:
    if existing is None:
        how = {
            "input": "create it, or run: eddy topics create --inputs CONFIG",
            "output": "create it, or run: eddy topics create CONFIG",
            "internal": "run: eddy topics create CONFIG",
        }
        yield f'{need.path}: got "{need.topic}"; expected a topic that exists, {how[need.kind]}'
        return
    if need.kind == "input" and need.partitions != existing.partitions:
        yield (
            f"{need.path.removesuffix('.topic')}.partitions: got {need.partitions}; expected "
            f'{existing.partitions}, which topic "{need.topic}" has{GROWN_HINT}'
        )
    if need.kind == "internal":
        if need.partitions != existing.partitions:
            yield (
                f'{need.path}: the internal topic "{need.topic}" has {existing.partitions} '
                f"partitions; expected {need.partitions}; say so in {need.path}.partitions, or "
                f"use another group: entities would change their partition{GROWN_HINT}"
            )
        for wrong in _settings(existing.settings, least_ms):
            yield f'{need.path}: the internal topic "{need.topic}" has {wrong}'
    if need.kind == "output":
        if need.partitions not in {None, existing.partitions}:
            yield (
                f'{need.path}: topic "{need.topic}" has {existing.partitions} partitions; expected '
                f"{need.partitions}"
            )
        for name, value in need.settings.items():
            if existing.settings[name] != value:
                yield (
                    f'{need.path}: topic "{need.topic}" has {name} = {existing.settings[name]}; '
                    f"expected {value}"
                )


def _settings(settings: Mapping[str, str], least_ms: int) -> Iterator[str]:
    """What is wrong with an internal topic's settings. least_ms: of its retention."""
    policy = settings["cleanup.policy"]
    if policy != "delete":
        yield f"cleanup.policy = {policy}; expected delete: it holds no keys to compact by"
    retention_ms = int(settings["retention.ms"])
    if 0 <= retention_ms < least_ms:
        yield (
            f"retention.ms = {retention_ms}; expected -1 or at least {least_ms}, which is 3 days or "
            f"{RETENTION_INTERVALS_MIN} times checkpoints.interval"
        )
    if settings["retention.bytes"] != "-1":
        yield f"retention.bytes = {settings['retention.bytes']}; expected -1, time alone decides"
    size = int(settings["max.message.bytes"])
    if size < RECORD_BYTES_MAX:
        yield f"max.message.bytes = {size}; expected at least {RECORD_BYTES_MAX}"


def missing_topics(
    config: Config, existing: Mapping[str, ExistingTopic], inputs: bool
) -> list[tuple[str, int, Mapping[str, str]]]:
    """Topics to make: name, partitions, settings. inputs: those of the inputs, too."""
    return [
        (one.topic, one.partitions or 1, one.settings)
        for one in required_topics(config)
        if one.topic not in existing and (inputs or one.kind != "input")
    ]


def permissions(config: Config) -> Iterator[str]:
    """What a worker must be allowed to do, each as arguments of Kafka's kafka-acls tool."""
    allowed = {
        "input": ("Read", "Describe"),
        "output": ("Write", "Describe"),
        "internal": ("Read", "Write", "Describe"),
    }
    for one in required_topics(config):
        settings = ("DescribeConfigs",) if one.settings else ()
        yield _allow((*allowed[one.kind], *settings), f"--topic {one.topic}")
    yield _allow(("Read",), f"--group {config.group}")
    own = f"--transactional-id {config.group}- --resource-pattern-type prefixed"
    yield _allow(("Write", "Describe"), own)


def _allow(operations: Iterable[str], resource: str) -> str:
    return " ".join([*(f"--operation {name}" for name in operations), resource])
