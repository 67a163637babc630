"""The configuration: what is read, how it is mapped, which monitors watch it, where alerts go.

Reads a TOML file and says everything that is wrong with it at once; also which way each monitor's
events take, and the fingerprint of what steers the fold. Starts nothing and reaches no broker.
"""

import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
import pyarrow as pa
import xxhash
from msgspec import Meta

from detectors.features import KINDS
from detectors.fusion.assessment import REPORT_P
from detectors.models.half_space_trees import RiverTreesSpec, TreesSpec
from detectors.models.interface import StandaloneSpec
from detectors.models.tail import TailSpec
from detectors.monitor import MonitorSpec, value_names
from detectors.numeric.hashing import hash_key, hash_text, pseudonym
from detectors.spec import P_MAX, Duration, EventFilter, FeatureSpec, Name, PolicySpec, Spec
from detectors.state import STATE_VERSION
from schemas import mapping
from schemas.events import ENTITY_FIELDS, FIELDS, TYPES
from schemas.mapping import CodecName, FieldMappings, TypeSpec, nearest_hint
from stream.config.document import (
    build,
    hide_environment_values,
    key_path,
    plain_texts,
    substitute_environment,
)
from stream.errors import ConfigError
from stream.kafka.properties import property_problems
from stream.location import Location

ROUTE, ASSESS = STAGES = ("route", "assess")
ALL_MONITORS: Final = "all"
"""What all monitors say together is called that; no monitor is."""
TOPIC_PATTERN: Final = r"^(?!\.{1,2}\Z)[a-zA-Z0-9._-]{1,249}\Z"
GROUP_PATTERN: Final = r"^[a-zA-Z0-9._-]{1,200}\Z"
"""Internal topics, transactional ids and the checkpoints' folder are named after the group."""
LABEL_FIELDS: Final = ("kind", "verdict", "labelled_event_id")
"""What a label says, beside whom it speaks of."""
LEARNED_LABEL_FIELDS: Final = ("verdict", "labelled_event_id")
"""What of it is learned from."""
FIELDS_WITH_A_DEFAULT: Final = frozenset({"utc_offset_min", "labelled_event_id"})
"""Fields that are done without where no input maps them: UTC; no label replaces another."""

SECRET_BYTES_MIN: Final = 16
"""The shortest secret that a live worker accepts."""

Topic = Annotated[str, Meta(pattern=TOPIC_PATTERN, description="a topic's name")]
Host = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9._:%-]{0,253}\Z", description="a host's name or address")
]
PathOrUrl = Annotated[
    str,
    Meta(pattern=r"^[^\x00]{1,2000}\Z", description="a path or URL of 1 to 2_000 characters"),
]


class InputSpec(Spec, frozen=True, kw_only=True):
    """One topic, or in replay one file, and where Eddy's fields are in it.

    partitions: of the topic. keyed_by: the field by whose value the producer chose the partition,
    with `partitioner`. type: the events' type, or where a record tells it; a mapping without
    `fields` is the identity. null_values: texts of a CSV's cells that mean no value, as NA and
    NULL often do; an empty cell always does.
    """

    topic: Topic
    partitions: Annotated[int, Meta(ge=1, le=100_000)] = 1
    keyed_by: str | None = None
    partitioner: Literal["murmur2", "crc32"] | None = None
    codec: CodecName = "json"
    type: TypeSpec | None = None
    fields: FieldMappings | None = None
    null_values: Annotated[list[str], Meta(max_length=100)] = msgspec.field(default_factory=list)


class OutputSpec(Spec, frozen=True, kw_only=True):
    """The topics that Eddy writes, and how old the event of an alert may be. The defaults are those
    of live mode; in shadow mode the topics are `SHADOW_OUTPUTS`.

    stale_after: a live alert is not enforceable when its event is older, by the worker's clock, at
    publication; `run.reason` is then "stale".
    """

    alerts: Topic = "eddy-alerts"
    dead_letters: Topic = "eddy-dead-letters"
    stale_after: Duration = "15min"


SHADOW_OUTPUTS: Final = {
    "alerts": "eddy-alerts-shadow",
    "dead_letters": "eddy-dead-letters-shadow",
}


class LimitsSpec(Spec, frozen=True, kw_only=True):
    """What a record may be, and how far back duplicates are known.

    time_ahead_max: how far an event's time may lie beyond the broker's append time, or, where the
    producer sets a record's time, beyond the bound that follows from the latest events of its
    partition (`detectors.clock`); an event further ahead is scored and moves no time.
    duplicate_window: event ids remembered of each partition at most; at least half as many are.
    """

    record_bytes_max: Annotated[int, Meta(ge=1, le=100_000_000)] = 1_000_000
    time_ahead_max: Duration = "10min"
    duplicate_window: Annotated[int, Meta(ge=2, le=100_000_000)] = 100_000


class LearningSpec(Spec, frozen=True, kw_only=True):
    """How much reports say together, learned from labels.

    inputs: those whose labels it learns from; a label must name the subject and its event. features:
    of the monitors, such as "card.amount", that it looks at beside their scores.
    """

    inputs: Annotated[list[str], Meta(min_length=1)]
    features: Annotated[list[str], Meta(max_length=64)] = msgspec.field(default_factory=list)


class AssessSpec(Spec, frozen=True, kw_only=True):
    """What all monitors' reports on one event say together about its subject.

    subject: the event field that names it. report_p: an event that surprises a monitor more than
    that is reported. partitions: of the internal topic of reports. capacity: subjects, events_max:
    reported events, remembered at most in each shard; labels must come before theirs is forgotten.
    """

    subject: str
    report_p: Annotated[float, Meta(ge=P_MAX, le=0.1)] = REPORT_P
    learning: LearningSpec | None = None
    partitions: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    capacity: Annotated[int, Meta(ge=16, le=100_000_000)] = 100_000
    events_max: Annotated[int, Meta(ge=16, le=100_000_000)] = 100_000
    policy: PolicySpec = PolicySpec()


class WorkerSpec(Spec, frozen=True, kw_only=True):
    """How the long-lived worker runs; changes no result.

    commit_interval: what was read is committed so often, and sooner where an alert waits.
    """

    commit_interval: Duration = "100ms"
    batch_records: Annotated[int, Meta(ge=1, le=1_000_000)] = 10_000
    http_host: Host = "127.0.0.1"
    http_port: Annotated[int, Meta(ge=0, le=65_535)] = 9464


class CheckpointsSpec(Spec, frozen=True, kw_only=True):
    """Where checkpoints are kept, and how much a restart may have to re-learn.

    url: a folder, relative to where the worker is started, or an object store such as
    s3://bucket/prefix, which takes its credentials from the environment. interval: a state that
    lies behind the committed offset is written at least so often. rewind_records_max: offsets
    between checkpoint and committed offset at most; a state is written after a third of them.
    start_from: where a replay has saved its state (--save-state); a group that has committed
    nothing yet goes on from it instead of starting with nothing learned.
    """

    url: PathOrUrl = ".eddy/checkpoints"
    interval: Duration = "10min"
    rewind_records_max: Annotated[int, Meta(ge=1, le=10**15)] = 20_000_000
    start_from: PathOrUrl | None = None


class Config(Spec, frozen=True, kw_only=True):
    """A whole configuration.

    revision: another number makes another configuration of it: for going back on purpose to one
    that the group had before. kafka: any librdkafka property; secrets belong into the environment
    ("${NAME}"). secret: what the hashes of entities and event ids are keyed with. reveal: entity
    fields whose raw ids may stand in alerts; others are pseudonyms.
    """

    group: Annotated[
        str,
        Meta(
            pattern=GROUP_PATTERN,
            description="1 to 200 letters, digits, dots, underscores and hyphens",
        ),
    ] = "eddy"
    revision: Annotated[int, Meta(ge=0, le=1_000_000_000)] = 0
    mode: Literal["live", "shadow"] = "live"
    secret: str = ""
    kafka: dict[str, str | int | float | bool] = msgspec.field(default_factory=dict)
    inputs: Annotated[dict[Name, InputSpec], Meta(min_length=1)]
    outputs: OutputSpec = OutputSpec()
    limits: LimitsSpec = LimitsSpec()
    monitors: Annotated[list[MonitorSpec], Meta(min_length=1)]
    assess: AssessSpec | None = None
    reveal: list[str] = msgspec.field(default_factory=list)
    worker: WorkerSpec = WorkerSpec()
    checkpoints: CheckpointsSpec = CheckpointsSpec()


class StateConfig(Spec, frozen=True, kw_only=True):
    """The settings that determine the learned state, as checkpoints keep them. version: of the state
    that this version of Eddy makes under them. secret: a keyed hash."""

    version: int
    revision: int
    monitors: list[MonitorSpec]
    assess: AssessSpec | None
    inputs: dict[Name, InputSpec]
    limits: LimitsSpec
    reveal: list[str]
    secret: str


class Log(NamedTuple):
    """A log that a stage reads: an input's topic, or the internal topic of a monitor or of assess.

    name: the input's, or the reader's.
    """

    name: str
    topic: str
    partitions: int
    internal: bool = False


class ReadPath(NamedTuple):
    """Which way a monitor's events take, and why: straight from its one input, or over a log of
    its own, into which they are put by entity. The reports' way to assess likewise."""

    reader: str
    internal: Log | None
    reason: str


def load(path: Path) -> Config:
    """The configuration in a TOML file. Raises ConfigError that names every mistake at once."""
    if not path.is_file():
        raise ConfigError([f"{path}: no such file; expected a configuration in TOML"])
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:  # a number of 5,000 digits is a ValueError of its own
        raise ConfigError([f"{path}: {error}"]) from error
    except RecursionError as error:
        raise ConfigError([f"{path}: nested too deep; expected a configuration in TOML"]) from error
    try:
        return parse(document, dict(os.environ))
    except ConfigError as error:
        raise ConfigError([f"{path}: {line}" for line in error.problems]) from error


def parse(document: dict[str, Any], environment: dict[str, str]) -> Config:
    """The configuration of a parsed document; "${NAME}" is taken from `environment`."""
    problems: list[str] = []
    filled = _with_outputs(substitute_environment(document, environment, problems))
    partial = build(Config, filled, problems)
    known = [line.split(": ", 1)[0] for line in problems]
    problems += (
        f"{where}: {text}"
        for where, text in _consistency_problems(partial)
        if not any(_is_within(where, one) or _is_within(one, where) for one in known)
    )
    if problems:
        raise ConfigError(hide_environment_values(problems, filled))
    return msgspec.convert(plain_texts(filled), Config)


def _with_outputs(document: dict[str, Any]) -> dict[str, Any]:
    """The document with the default outputs of shadow mode, where that is its mode."""
    given = document.get("outputs", {})
    if document.get("mode") != "shadow" or not isinstance(given, dict):
        return document
    return {**document, "outputs": SHADOW_OUTPUTS | given}


def _is_within(where: str, outer: str) -> bool:
    """Whether a path is the other one or lies within it."""
    return where == outer or where.startswith((f"{outer}.", f"{outer}["))


def extracted_fields(config: Config, input_name: str) -> list[str]:
    """The event fields of an input that must be extracted, in the order of `events.FIELDS`.

    What its monitors read, every entity field that it fills (for related entities), what is at
    stake, and what gives a number its meaning: the currency of an amount, the offset of a time of
    day. Of labels all that they say, whoever reads it.
    """
    wanted: set[str] = {*ENTITY_FIELDS, "amount"}
    for monitor in config.monitors:
        if input_name in monitor.inputs:
            wanted |= {name for _, name in _fields_read(monitor)}
    if input_name in learning_inputs(config):
        wanted |= {*LEARNED_LABEL_FIELDS}
    spec = config.inputs[input_name]
    if spec.type == "label" or "verdict" in wanted or "verdict" in (spec.fields or {}):
        wanted |= set(LABEL_FIELDS)
    return [n for n in mapping.available_fields(spec.codec, spec.type, spec.fields) if n in wanted]


def learning_inputs(config: Config) -> list[str]:
    """The inputs whose labels assess learns from."""
    learning = config.assess.learning if config.assess else None
    return learning.inputs if learning else []


def label_inputs(config: Config) -> list[str]:
    """The inputs that hold nothing but labels."""
    return [name for name, spec in config.inputs.items() if spec.type == "label"]


def is_input_read(config: Config, name: str) -> bool:
    """Whether a monitor reads an input, or assess learns from its labels."""
    return any(name in one.inputs for one in config.monitors) or name in learning_inputs(config)


def label_entity_fields(config: Config, input_name: str) -> list[str]:
    """The entity fields that a label from this input must fill for whoever learns from it, in the
    order of `events.FIELDS`; none where nobody reads the input."""
    readers = [monitor for monitor in config.monitors if input_name in monitor.inputs]
    wanted = {name for monitor in readers for _, name in _fields_read(monitor)}
    if config.assess and (readers or input_name in learning_inputs(config)):
        wanted.add(config.assess.subject)
    filled = extracted_fields(config, input_name)
    return [name for name in filled if name in wanted and name in ENTITY_FIELDS]


def read_paths(config: Config) -> list[ReadPath]:
    """The way of every monitor, in the order of the configuration."""
    return [_read_path(config, monitor) for monitor in config.monitors]


def logs(config: Config) -> list[Log]:
    """Every log that the stages read: the inputs', then the internal ones."""
    inputs = (Log(name, spec.topic, spec.partitions) for name, spec in config.inputs.items())
    internal = (
        read_path.internal
        for read_path in [*read_paths(config), assess_read_path(config)]
        if read_path
    )
    return [*inputs, *(log for log in internal if log)]


def assess_read_path(config: Config) -> ReadPath | None:
    """The way of the reports to assess; None where nothing is assessed."""
    spec = config.assess
    if spec is None:
        return None
    of_monitors = [name for monitor in config.monitors for name in monitor.inputs]
    inputs = list(dict.fromkeys([*of_monitors, *learning_inputs(config)]))
    direct = all(read_path.internal is None for read_path in read_paths(config))
    if direct and len(inputs) == 1 and spec.partitions is None:
        only = config.inputs[inputs[0]]
        if only.partitions == 1 or only.keyed_by == spec.subject:
            return ReadPath(ASSESS, None, f"its monitors and {spec.subject} read the same log")
    most = spec.partitions or max(config.inputs[name].partitions for name in inputs)
    reason = f"reports on one {spec.subject} come from several logs"
    if spec.partitions is not None:
        reason = f"partitions = {spec.partitions} asks for it"
    return ReadPath(ASSESS, Log(ASSESS, f"{config.group}-{ASSESS}-reports", most, True), reason)


def internal_topic_fields(config: Config, monitor: MonitorSpec) -> list[str]:
    """The event fields that the monitor's internal topic holds, in the order of `events.FIELDS`."""
    wanted = {*ENTITY_FIELDS, *(name for _, name in _fields_read(monitor))}
    filled = {name for one in monitor.inputs for name in extracted_fields(config, one)}
    return [name for name in FIELDS if name in wanted & filled]


def source_partitions(
    config: Config, inputs: Iterable[str], topics: Mapping[str, str]
) -> tuple[tuple[str, int], ...]:
    """Every topic and partition that events of these inputs may come from, in that order.

    topics: by input, what its records call their topic. An incident remembers its opening by an
    index into these.
    """
    return tuple(
        (topics[name], partition)
        for name in inputs
        for partition in range(config.inputs[name].partitions)
    )


def fingerprint(config: Config) -> str:
    """32 hex digits of everything that steers the fold: same digits, same results from a log.

    The secret enters as a keyed hash only. Kafka's properties, outputs, mode and worker do not.
    """
    body = msgspec.json.encode(state_config(config), order="deterministic")
    return xxhash.xxh3_128_hexdigest(body)


def secret_problem(config: Config) -> str:
    """The problem with the secret, as a line of an error or a warning; "" where there is none."""
    if len(config.secret.encode()) >= SECRET_BYTES_MIN:
        return ""
    size = "one that is shorter" if config.secret else "none"
    return (
        f"secret: got {size}; expected at least {SECRET_BYTES_MIN} random bytes, as from "
        "`openssl rand -hex 16`: pseudonyms and entity keys can be guessed; eddy run refuses it in "
        "live mode"
    )


def state_config(config: Config) -> StateConfig:
    """What of the configuration steers the fold."""
    return StateConfig(
        version=STATE_VERSION,
        revision=config.revision,
        monitors=config.monitors,
        assess=config.assess,
        inputs=config.inputs,
        limits=config.limits,
        reveal=sorted(config.reveal),
        secret=pseudonym(hash_text(pa.array(["fingerprint"]), hash_key(config.secret))[0]),
    )


def with_state_config(config: Config, by: StateConfig) -> Config:
    """The configuration, steering as that one did; its secret must be the same."""
    return msgspec.structs.replace(
        config,
        revision=by.revision,
        monitors=by.monitors,
        assess=by.assess,
        inputs=by.inputs,
        limits=by.limits,
        reveal=by.reveal,
    )


def _fields_read(monitor: MonitorSpec) -> Iterator[tuple[str, str]]:
    """Where a monitor names an event field (relative to it), or needs one, and which."""
    yield "entity", monitor.entity
    if monitor.cohort is not None:
        yield "cohort", monitor.cohort
    yield from ((f"where.{name}", name) for name in _fields_of(monitor.where))
    for i, feature in enumerate(monitor.features):
        yield from ((f"features[{i}].where.{name}", name) for name in _fields_of(feature.where))
        yield from ((f"features[{i}].of.{name}", name) for name in _fields_of(feature.of))
        if feature.field is not None:
            yield f"features[{i}].field", feature.field
        beside = KINDS[feature.kind].extra_fields if feature.kind in KINDS else ()
        for name in beside:
            yield "" if name in FIELDS_WITH_A_DEFAULT else f"features[{i}].kind", name
        if "amount" in (feature.field, *beside):
            yield "", "currency"
    for i, detector in enumerate(monitor.detectors):
        if isinstance(detector, StandaloneSpec):
            for name in detector.fields():
                yield "" if name in FIELDS_WITH_A_DEFAULT else f"detectors[{i}]", name


def _fields_of(where: EventFilter) -> list[str]:
    return [name for name in where if name != "type"]


def _read_path(config: Config, monitor: MonitorSpec) -> ReadPath:
    direct, reason = _reads_directly(config, monitor)
    if direct:
        return ReadPath(monitor.name, None, reason)
    most = max(config.inputs[name].partitions for name in monitor.inputs)
    topic = f"{config.group}-{monitor.name}-events"
    return ReadPath(
        monitor.name, Log(monitor.name, topic, monitor.partitions or most, True), reason
    )


def _reads_directly(config: Config, monitor: MonitorSpec) -> tuple[bool, str]:
    """Whether one partition of one log holds all events of each of its entities; and why."""
    names = ", ".join(monitor.inputs)
    if len(monitor.inputs) > 1:
        return False, (
            f"it reads {len(monitor.inputs)} topics ({names}), and the order in which their "
            "events meet is in no log"
        )
    spec = config.inputs[names]
    if monitor.partitions is not None:
        return False, f"partitions = {monitor.partitions} asks for it"
    if spec.partitions == 1:
        return True, "its topic has one partition"
    if spec.keyed_by == monitor.entity:
        return True, f"its topic is partitioned by {monitor.entity} ({spec.partitioner})"
    by = f"by {spec.keyed_by}" if spec.keyed_by else "by nothing that the configuration names"
    return False, (
        f"it watches {monitor.entity}, but {names} has {spec.partitions} partitions, keyed {by}: "
        f"one {monitor.entity}'s events lie in several partitions"
    )


def _consistency_problems(config: Config) -> Iterator[tuple[str, str]]:
    """What does not fit together: where, and what is wrong."""
    for name, spec in config.inputs.items():
        yield from _prefixed(f"inputs.{name}", _input_problems(spec))
    internal = _internal_logs(config)
    topics = {f"inputs.{name}.topic": spec.topic for name, spec in config.inputs.items()}
    topics |= {where: log.topic for where, log in internal.items()}
    read = {topic: where for where, topic in topics.items()}
    yield from _duplicates(topics)
    for where, log in internal.items():
        if not re.match(TOPIC_PATTERN, log.topic):
            yield (
                where,
                (
                    f'its internal topic would be "{log.topic}", which is no name of a topic; '
                    "give the configuration a shorter group"
                ),
            )
    for name in ("alerts", "dead_letters"):
        topic = getattr(config.outputs, name)
        if topic in read:  # each dead letter would be read again, and be a dead letter again
            yield f"outputs.{name}", f"{topic} is already {read[topic]}"
    if config.mode == "shadow" and config.outputs.alerts == OutputSpec().alerts:
        expected = f"another topic, such as {SHADOW_OUTPUTS['alerts']}"
        why = "enforcement reads it, and mode is shadow"
        yield "outputs.alerts", f"got {config.outputs.alerts}; expected {expected}: {why}"
    for i, monitor in enumerate(config.monitors):
        yield from _prefixed(f"monitors[{i}]", _monitor_problems(monitor, config.inputs))
    yield from _duplicates({f"monitors[{i}].name": m.name for i, m in enumerate(config.monitors)})
    for i, name in enumerate(config.reveal):
        if name not in ENTITY_FIELDS:
            yield f"reveal[{i}]", _not_an_entity_field(name)
    if config.assess and config.assess.subject not in ENTITY_FIELDS:
        yield "assess.subject", _not_an_entity_field(config.assess.subject)
    own, given = config.checkpoints.url, config.checkpoints.start_from
    if given and Location.of(given).is_same_as(Location.of(own)):
        yield "checkpoints.start_from", "is checkpoints.url; expected a place of its own"
    if config.assess and config.assess.learning:
        found = _learning_problems(config, config.assess.subject, config.assess.learning)
        yield from _prefixed("assess.learning", found)
    for line in property_problems(config.kafka):
        where, text = line.split(": ", 1)
        yield where, text


def _learning_problems(
    config: Config, subject: str, learning: LearningSpec
) -> Iterator[tuple[str, str]]:
    yield from _duplicates({f"inputs[{i}]": name for i, name in enumerate(learning.inputs)})
    for i, name in enumerate(learning.inputs):
        if name not in config.inputs:
            yield f"inputs[{i}]", f"no input is named {name}{nearest_hint(name, config.inputs)}"
            continue
        spec = config.inputs[name]
        filled = mapping.available_fields(spec.codec, spec.type, spec.fields)
        for needed in (subject, *LEARNED_LABEL_FIELDS):
            if needed not in filled and needed in FIELDS:
                yield f"inputs[{i}]", f"{name} does not map {needed}, which a label must have"
    known_features = [
        f"{monitor.name}.{name}" for monitor in config.monitors for name in value_names(monitor)
    ]
    yield from _duplicates({f"features[{i}]": name for i, name in enumerate(learning.features)})
    for i, name in enumerate(learning.features):
        if name not in known_features:
            hint = nearest_hint(name, known_features)
            yield (
                f"features[{i}]",
                f"got {name}; expected a monitor's feature, as card.amount{hint}",
            )


def _internal_logs(config: Config) -> dict[str, Log]:
    """The internal logs of monitors whose inputs are known, by where the monitor stands."""
    known = {
        f"monitors[{i}]": _read_path(config, monitor).internal
        for i, monitor in enumerate(config.monitors)
        if monitor.inputs and set(monitor.inputs) <= config.inputs.keys()
    }
    whole = (
        len(known) == len(config.monitors) and {*learning_inputs(config)} <= config.inputs.keys()
    )
    if whole and config.monitors:
        read_path = assess_read_path(config)
        known |= {ASSESS: read_path.internal} if read_path else {}
    return {where: log for where, log in known.items() if log}


def _input_problems(spec: InputSpec) -> Iterator[tuple[str, str]]:
    yield from mapping.mapping_problems(spec.codec, spec.type, spec.fields)
    if spec.null_values and spec.codec == "access_log":
        yield (
            "null_values",
            "got texts, and an access log has no cells; expected none: remove the key",
        )
    if spec.keyed_by is not None and spec.partitioner is None:
        yield "partitioner", "missing; expected murmur2 or crc32, since keyed_by is given"
    if spec.partitioner is not None and spec.keyed_by is None:
        yield "keyed_by", "missing; expected the field that the partitioner hashes"
    known = mapping.available_fields(spec.codec, spec.type, spec.fields)
    if spec.keyed_by is not None and spec.keyed_by not in known:
        hint = nearest_hint(spec.keyed_by, known)
        yield "keyed_by", f"got {spec.keyed_by}; expected a field that this input maps{hint}"


def _monitor_problems(
    monitor: MonitorSpec, inputs: dict[str, InputSpec]
) -> Iterator[tuple[str, str]]:
    for i, name in enumerate(monitor.inputs):
        if name not in inputs:
            yield f"inputs[{i}]", f"no input is named {name}{nearest_hint(name, inputs)}"
    yield from _duplicates({f"inputs[{i}]": name for i, name in enumerate(monitor.inputs)})
    if monitor.name in STAGES:
        yield "name", f"got {monitor.name}; expected another: that stage's counts stand under it"
    if monitor.name == ALL_MONITORS:
        yield "name", f"got {monitor.name}; expected another: what all say together is called that"
    if monitor.entity not in ENTITY_FIELDS:
        yield "entity", _not_an_entity_field(monitor.entity)
    if monitor.cohort is not None and (
        monitor.cohort not in FIELDS or FIELDS[monitor.cohort].kind != "text"
    ):
        texts = [name for name, field in FIELDS.items() if field.kind == "text"]
        hint = nearest_hint(monitor.cohort, texts)
        yield "cohort", f"got {monitor.cohort}; expected a field that is a text{hint}"
    for specs in (TailSpec, TreesSpec | RiverTreesSpec):
        positions = [i for i, d in enumerate(monitor.detectors) if isinstance(d, specs)]
        for i in positions[1:]:
            yield (
                f"detectors[{i}]",
                f"a monitor has one of its kind, and detectors[{positions[0]}] is it",
            )
    yield from _prefixed("where", _where_problems(monitor.where))
    for i, feature in enumerate(monitor.features):
        yield from _prefixed(f"features[{i}]", _feature_problems(feature))
    for i, detector in enumerate(monitor.detectors):
        if isinstance(detector, StandaloneSpec):
            found = (line.split(": ", 1) for line in detector.problems())
            yield from _prefixed(f"detectors[{i}]", ((where, text) for where, text in found))
    known = [feature.name for feature in monitor.features]
    for i, rule in enumerate(monitor.rules):
        for name in rule.at_least:
            if name not in known:
                hint = nearest_hint(name, known)
                yield f"rules[{i}].at_least.{name}", f"no feature is named {name}{hint}"
    names = {f"features[{i}].name": f.name for i, f in enumerate(monitor.features)}
    own = enumerate(monitor.detectors)
    names |= {f"detectors[{i}].name": d.name for i, d in own if isinstance(d, StandaloneSpec)}
    names |= {f"rules[{i}].name": rule.name for i, rule in enumerate(monitor.rules)}
    yield from _duplicates(names)
    yield from _unmapped_fields(
        monitor, [inputs[name] for name in monitor.inputs if name in inputs]
    )


def _feature_problems(feature: FeatureSpec) -> Iterator[tuple[str, str]]:
    if feature.kind in KINDS:
        for line in KINDS[feature.kind].problems(feature):
            where, text = line.split(": ", 1)
            yield where, text
    else:
        hint = nearest_hint(feature.kind, KINDS)
        yield "kind", f"got {feature.kind}; expected one of {', '.join(KINDS)}{hint}"
    yield from _prefixed("where", _where_problems(feature.where))
    yield from _prefixed("of", _where_problems(feature.of))


def _where_problems(condition: EventFilter) -> Iterator[tuple[str, str]]:
    for name, value in condition.items():
        if name == "type":
            if not set([value] if isinstance(value, str) else value) <= set(TYPES):
                yield name, f"expected among {', '.join(TYPES)}"
        elif name not in FIELDS:
            yield name, f"unknown field{nearest_hint(name, ['type', *FIELDS])}"
        elif FIELDS[name].kind != "text":
            yield name, "is a number; expected a field that is a text, or type"


def _unmapped_fields(monitor: MonitorSpec, specs: list[InputSpec]) -> Iterator[tuple[str, str]]:
    """Fields that a monitor reads and no input of it fills; its entity must be in every input."""
    filled = [set(mapping.available_fields(spec.codec, spec.type, spec.fields)) for spec in specs]
    somewhere, everywhere = set().union(*filled), set(FIELDS).intersection(*filled)
    for where, name in _fields_read(monitor):
        known = everywhere if where == "entity" else somewhere
        if where and filled and name in FIELDS and name not in known:
            yield (
                where,
                f"{name} is not mapped in {', '.join(monitor.inputs)}{nearest_hint(name, known)}",
            )


def _prefixed(where: str, found: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    return ((key_path(where, inner), text) for inner, text in found)


def _duplicates(names: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Where a name stands that already stands elsewhere."""
    first: dict[str, str] = {}
    for where, name in names.items():
        if name in first:
            yield where, f"{name} is already {first[name]}"
        first.setdefault(name, where)


def _not_an_entity_field(name: str) -> str:
    expected = ", ".join(ENTITY_FIELDS)
    return f"got {name}; expected one of {expected}{nearest_hint(name, ENTITY_FIELDS)}"
