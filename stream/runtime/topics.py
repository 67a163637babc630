"""The topics that a configuration requires, with their partitions and settings.

Compares them with the broker's, and lists those to create; an existing topic is never changed. Also
lists the permissions that a worker needs.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

from detectors.spec import seconds
from schemas.codecs.internal_events import MESSAGE_BYTES_MAX
from stream.config import Config
from stream.config.stage_graph import OutputTopic, nodes, output_topics
from stream.errors import ConfigError
from stream.runtime.interfaces import Admin

DAY_MS: Final = 86_400_000
RETENTION_MS_MIN: Final = 3 * DAY_MS
RETENTION_INTERVALS_MIN: Final = 10
"""An internal topic must hold everything since the last checkpoint, even after several that failed, or
a weekend without a worker."""
RETENTION_MS: Final = 7 * DAY_MS
"""Retention of an internal topic that is created, unless it must be longer."""
RECORD_BYTES_MAX: Final = MESSAGE_BYTES_MAX + 64 * 1024
"""The largest message, with what Arrow and Kafka add to it."""

GROWN_HINT: Final = (
    "; if the topic has grown, rebuild the learned state: eddy replay … --save-state URL, then start "
    "another group with checkpoints.start_from = URL"
)

SETTINGS: Final = ("cleanup.policy", "retention.ms", "retention.bytes", "max.message.bytes")
"""The settings that are checked."""


class RequiredTopic(NamedTuple):
    """A topic that must exist.

    path: its key in the configuration. partitions: None where any number will do; it is then created
    with one. settings: those to create it with; for others the broker's defaults apply.
    """

    path: str
    topic: str
    kind: Literal["input", "output", "internal"]
    partitions: int | None
    settings: Mapping[str, str] = MappingProxyType({})


class ExistingTopic(NamedTuple):
    """A topic as it is. settings: empty where none are required."""

    partitions: int
    settings: Mapping[str, str]


def retention_ms_min(config: Config) -> int:
    """The minimum retention of internal topics."""
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
        RequiredTopic(
            node.config_path,
            node.internal_topic.topic,
            "internal",
            node.internal_topic.partitions,
            settings,
        )
        for node in nodes(config)
        if node.internal_topic
    )
    outputs = (
        RequiredTopic(
            output.path, output.topic, "output", output.partitions, _output_settings(output)
        )
        for output in output_topics(config)
    )
    return [*inputs, *internal, *outputs]


def _output_settings(topic: OutputTopic) -> dict[str, str]:
    return {"cleanup.policy": topic.cleanup_policy} if topic.cleanup_policy else {}


def existing_topics(config: Config, admin: Admin) -> dict[str, ExistingTopic]:
    """The required topics that exist, by name."""
    required = required_topics(config)
    counts = admin.partition_counts([topic.topic for topic in required])
    return {
        topic.topic: ExistingTopic(
            counts[topic.topic],
            admin.settings(topic.topic, SETTINGS) if topic.settings else {},
        )
        for topic in required
        if topic.topic in counts
    }


def check_topics(config: Config, existing: Mapping[str, ExistingTopic]) -> None:
    """Raise ConfigError unless every required topic exists, with its partitions and settings.

    Where an input's number of partitions is wrong, internal topics are not checked: their number may
    follow from it.
    """
    minimum_ms = retention_ms_min(config)
    required = required_topics(config)
    inputs = [topic for topic in required if topic.kind == "input"]
    if any(
        topic.topic in existing and topic.partitions != existing[topic.topic].partitions
        for topic in inputs
    ):
        required = [topic for topic in required if topic.kind != "internal"]
    problems = [
        line
        for topic in required
        for line in _topic_problems(topic, existing.get(topic.topic), minimum_ms)
    ]
    if problems:
        raise ConfigError(problems)


def _topic_problems(
    expected: RequiredTopic, existing: ExistingTopic | None, minimum_ms: int
) -> Iterator[str]:
    if existing is None:
        remedy = {
            "input": "create it, or run: eddy topics create --inputs CONFIG",
            "output": "create it, or run: eddy topics create CONFIG",
            "internal": "run: eddy topics create CONFIG",
        }
        yield f'{expected.path}: got "{expected.topic}"; expected a topic that exists, {remedy[expected.kind]}'
        return
    if expected.kind == "input" and expected.partitions != existing.partitions:
        yield (
            f"{expected.path.removesuffix('.topic')}.partitions: got {expected.partitions}; expected "
            f'{existing.partitions}, which topic "{expected.topic}" has{GROWN_HINT}'
        )
    if expected.kind == "internal":
        if expected.partitions != existing.partitions:
            yield (
                f'{expected.path}: the internal topic "{expected.topic}" has {existing.partitions} '
                f"partitions; expected {expected.partitions}; set {expected.path}.partitions, or "
                f"use another group: entities would change their partition{GROWN_HINT}"
            )
        for problem in _setting_problems(existing.settings, minimum_ms):
            yield f'{expected.path}: the internal topic "{expected.topic}" has {problem}'
    if expected.kind == "output":
        if expected.partitions not in {None, existing.partitions}:
            yield (
                f'{expected.path}: topic "{expected.topic}" has {existing.partitions} partitions; expected '
                f"{expected.partitions}"
            )
        for name, value in expected.settings.items():
            if existing.settings[name] != value:
                yield (
                    f'{expected.path}: topic "{expected.topic}" has {name} = {existing.settings[name]}; '
                    f"expected {value}"
                )


def _setting_problems(settings: Mapping[str, str], minimum_ms: int) -> Iterator[str]:
    """The wrong settings of an internal topic, each with the expected value. minimum_ms: the minimum retention."""
    policy = settings["cleanup.policy"]
    if policy != "delete":
        yield f"cleanup.policy = {policy}; expected delete: its records have no keys to compact by"
    retention_ms = int(settings["retention.ms"])
    if 0 <= retention_ms < minimum_ms:
        yield (
            f"retention.ms = {retention_ms}; expected -1 or at least {minimum_ms}, which is 3 days or "
            f"{RETENTION_INTERVALS_MIN} times checkpoints.interval"
        )
    if settings["retention.bytes"] != "-1":
        yield f"retention.bytes = {settings['retention.bytes']}; expected -1: only time may delete records"
    size = int(settings["max.message.bytes"])
    if size < RECORD_BYTES_MAX:
        yield f"max.message.bytes = {size}; expected at least {RECORD_BYTES_MAX}"


def missing_topics(
    config: Config, existing: Mapping[str, ExistingTopic], inputs: bool
) -> list[tuple[str, int, Mapping[str, str]]]:
    """Topics to create: name, partitions, settings. inputs: whether to create those of inputs, too."""
    return [
        (topic.topic, topic.partitions or 1, topic.settings)
        for topic in required_topics(config)
        if topic.topic not in existing and (inputs or topic.kind != "input")
    ]


def permissions(config: Config) -> Iterator[str]:
    """The permissions that a worker needs, each as arguments of Kafka's kafka-acls tool."""
    allowed = {
        "input": ("Read", "Describe"),
        "output": ("Write", "Describe"),
        "internal": ("Read", "Write", "Describe"),
    }
    for topic in required_topics(config):
        settings = ("DescribeConfigs",) if topic.settings else ()
        yield _allow((*allowed[topic.kind], *settings), f"--topic {topic.topic}")
    yield _allow(("Read",), f"--group {config.group}")
    transactions = f"--transactional-id {config.group}- --resource-pattern-type prefixed"
    yield _allow(("Write", "Describe"), transactions)


def _allow(operations: Iterable[str], resource: str) -> str:
    return " ".join([*(f"--operation {name}" for name in operations), resource])
