"""The stage graph of a configuration: the stages that it runs, and the logs and topics between them.

A stage declares itself once, in its own module, as a `StageDeclaration` under the entry point group
"eddy.stages". What connects stages is derived from the declarations: the shard of a partition, the
topics that must exist, a worker's permissions, the counters. A package adds a stage by declaring it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Any, Final, Literal, NamedTuple

import msgspec

from detectors.spec import PolicySpec
from stream.config.declarations import Config
from stream.config.document import build
from stream.config.fingerprints import StateConfig
from stream.config.topology import Log
from stream.errors import ConfigError

GROUP: Final = "eddy.stages"

DataKind = Literal["records", "events", "reports", "alerts", "dead_letters"]
"""The kinds of data that stages read and write: an input's records, the events decoded from them,
monitors' reports on events, alerts, and dead letters."""


class ReadPath(NamedTuple):
    """How a stage gets its rows: over its internal topic, or in the shard of its input, where
    `internal_topic` is None. reason: why, for messages."""

    internal_topic: Log | None
    reason: str


class OutputTopic(NamedTuple):
    """A topic that stages write and others read. path: its key in the configuration. key: the key of its
    records, in words. cleanup_policy, partitions: None leaves them to the topic's owner."""

    path: str
    topic: str
    key: str
    cleanup_policy: Literal["delete", "compact"] | None = None
    partitions: int | None = None


@dataclass(frozen=True, slots=True)
class StageNode:
    """A stage as a configuration runs it. A declaration may have several nodes, such as one per monitor.

    name: prefix of its state and of its counters. config_path: where the configuration declares it. key: the field that partitions its
    internal topic. inputs: the inputs whose events it reads. score_features: the features in
    its score columns, None where it writes no scores. policy: the alert policy, None where it
    raises no alerts. options: its table in the configuration, of the declared type.
    """

    declaration: "StageDeclaration"
    name: str
    config_path: str
    read_path: ReadPath
    key: str = ""
    inputs: tuple[str, ...] = ()
    score_features: tuple[str, ...] | None = None
    policy: PolicySpec | None = None
    options: Any = None

    @property
    def title(self) -> str:
        """Its name in messages."""
        return self.declaration.title(self.name)

    @property
    def reads_inputs(self) -> bool:
        """Whether it reads the records of inputs."""
        return "records" in self.declaration.reads

    @property
    def combines_reports(self) -> bool:
        """Whether its scores combine the reports of other stages."""
        return "reports" in self.declaration.reads

    @property
    def internal_topic(self) -> Log | None:
        """Its internal topic, None where it runs in the shard of its input."""
        return self.read_path.internal_topic


def _no_topics(_node: StageNode, _config: Config) -> Sequence[OutputTopic]:
    return ()


StateInputs = Mapping[str, object]
"""The settings that determine a stage's learned state, each by its name in messages: "the secret",
"its half_life"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageDeclaration:
    """The declaration of a stage: its reads and writes, options, counters, topics and state inputs.

    reads, writes: kinds of data. make: builds the stage of one partition from a node, a `StageContext` and
    a `Placement`. subscribe: builds its `Subscription` from a node and a `StageContext`; None for the
    stage that reads records. counters: every `StageCounter` of the stage. noun: precedes a node's name
    in messages, such as "monitor". options: the type of its table [stages.NAME]; the stage runs where
    the configuration has that table, and reads the events of every input if it reads events. nodes:
    returns the nodes of a configuration, for a stage that is configured elsewhere. outputs: the topics
    that it writes itself. state_inputs: the `StateInputs` of each node by name; when one changes, the
    learned state is dropped. learned_arrays: prefixes of the arrays that are then dropped; other
    arrays, the counters, are kept. batch_rows_max: the most rows of its internal topic to process at
    once.
    """

    name: str
    reads: tuple[DataKind, ...]
    writes: tuple[DataKind, ...] = ()
    make: Callable[..., Any]
    subscribe: Callable[..., Any] | None = None
    counters: tuple[Any, ...]
    noun: str = ""
    options: Any = None
    nodes: Callable[[Config], list[StageNode]] | None = None
    outputs: Callable[[StageNode, Config], Sequence[OutputTopic]] = _no_topics
    state_inputs: Callable[[StateConfig], dict[str, StateInputs]] | None = None
    learned_arrays: tuple[str, ...] = ("",)
    batch_rows_max: int | None = None

    def title(self, name: str) -> str:
        """The name of one of its nodes in messages."""
        return f"{self.noun} {name}" if self.noun else name

    def nodes_of(self, config: Config) -> list[StageNode]:
        """The nodes of this declaration in a configuration; none where its settings are invalid, which
        the validation reports."""
        if self.nodes is not None:
            return self.nodes(config)
        if self.name not in config.stages:
            return []
        try:
            options = msgspec.convert(config.stages[self.name], self.options)
        except msgspec.ValidationError:
            return []
        topic = f"{config.group}-{self.name}-{self.reads[0]}"
        log = Log(self.name, topic, getattr(options, "partitions", 1), internal=True)
        reason = "it reads what several shards write"
        path = ReadPath(log, reason)
        inputs = (*config.inputs,) if "events" in self.reads else ()
        config_path = f"stages.{self.name}"
        return [StageNode(self, self.name, config_path, path, inputs=inputs, options=options)]

    def state_inputs_of(self, state: StateConfig) -> dict[str, StateInputs]:
        """Node name → its state inputs."""
        if self.state_inputs is not None:
            return self.state_inputs(state)
        if self.name not in state.stages:
            return {}
        return {self.name: {"the secret": state.secret, "its options": state.stages[self.name]}}


# -- the registry ---------------------------------------------------------------------------------


@cache
def declared_stages() -> dict[str, StageDeclaration]:
    """Every declared stage by name, in an order in which each follows the stages whose output it reads.
    Raises ConfigError for a cycle, and where no stage is declared."""
    unordered = {point.name: point.load() for point in entry_points(group=GROUP)}
    if not unordered:
        raise ConfigError([f"no package declares {GROUP}; expected Eddy's own: install it again"])
    ordered: dict[str, StageDeclaration] = {}
    while unordered:
        not_yet_written = {
            kind for declaration in unordered.values() for kind in declaration.writes
        }
        ready = sorted(
            name
            for name, declaration in unordered.items()
            if not not_yet_written & {*declaration.reads}
        )
        if not ready:
            names = ", ".join(sorted(unordered))
            raise ConfigError([f"{GROUP}: {names} read each other's output; expected no cycle"])
        ordered |= {name: unordered.pop(name) for name in ready}
    return ordered


# -- derived from the declarations ----------------------------------------------------------------


def nodes(config: Config) -> list[StageNode]:
    """The nodes of a configuration; each follows the nodes whose output it reads."""
    return [
        node for declaration in declared_stages().values() for node in declaration.nodes_of(config)
    ]


def scoring_nodes(config: Config) -> list[StageNode]:
    """The nodes that score events, in the order of `nodes`."""
    return [node for node in nodes(config) if node.score_features is not None]


def logs(config: Config) -> list[Log]:
    """Every log that stages read: the topics of inputs, then internal topics."""
    inputs = (Log(name, spec.topic, spec.partitions) for name, spec in config.inputs.items())
    return [*inputs, *(node.internal_topic for node in nodes(config) if node.internal_topic)]


def output_topics(config: Config) -> list[OutputTopic]:
    """Every output topic, once, in the order of their keys in the configuration."""
    topics = (topic for node in nodes(config) for topic in node.declaration.outputs(node, config))
    by_path = {topic.path: topic for topic in topics}
    return [by_path[path] for path in sorted(by_path)]


def stage_problems(config: Config) -> Iterator[tuple[str, str]]:
    """(key path, problem) of every mistake in the tables [stages.NAME]."""
    with_options = {
        name: declaration
        for name, declaration in declared_stages().items()
        if declaration.options is not None
    }
    for name, table in config.stages.items():
        if name not in with_options:
            expected = (
                f"one of {', '.join(with_options)}"
                if with_options
                else "no table: no package adds a stage"
            )
            yield f"stages.{name}", f"no stage is named {name}; expected {expected}"
            continue
        problems: list[str] = []
        build(with_options[name].options, table, problems)
        for line in problems:
            path, text = line.split(": ", 1)
            yield f"stages.{name}.{path}", text
