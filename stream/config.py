"""The configuration: what is read, how it is mapped, which monitors watch it, where alerts go.

Reads a TOML file and says everything that is wrong with it at once; also which way each monitor's
events take, and the fingerprint of what steers the fold. Starts nothing and reaches no broker.
"""

import os
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
import pyarrow as pa
import xxhash
from msgspec import Meta

from detectors.features import KINDS
from detectors.hashing import hash_key, hash_text, pseudonym
from detectors.models.half_space_trees import RiverTreesSpec, TreesSpec
from detectors.models.own import OwnSpec
from detectors.models.tail import TailSpec
from detectors.monitor import MonitorSpec
from detectors.spec import Duration, FeatureSpec, Name, Spec, Where
from schemas import mapping
from schemas.events import ENTITY_FIELDS, FIELDS, TYPES
from schemas.mapping import CodecName, FieldsSpec, TypeSpec, nearest
from stream.document import at, build, fill
from stream.errors import ConfigError, UnsupportedWay
from stream.kafka_properties import property_problems

FINGERPRINT_VERSION: Final = 2
ROUTE: Final = "route"
ASSUMED: Final = frozenset({"utc_offset_min", "labelled_event_id"})
"""Fields that are done without where no input maps them: UTC; no label replaces another."""

Topic = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9._-]{1,249}$", description="a topic's name")]


class InputSpec(Spec, frozen=True, kw_only=True):
    """One topic, or in replay one file, and where Eddy's fields are in it.

    partitions: of the topic. keyed_by: the field by whose value the producer chose the partition,
    with `partitioner`. type: the events' type, or where a record tells it; a mapping without
    `fields` is the identity.
    """

    topic: Topic
    partitions: Annotated[int, Meta(ge=1, le=100_000)] = 1
    keyed_by: str | None = None
    partitioner: Literal["murmur2", "crc32"] | None = None
    codec: CodecName = "json"
    type: TypeSpec | None = None
    fields: FieldsSpec | None = None


class OutputSpec(Spec, frozen=True, kw_only=True):
    """The topics that Eddy writes."""

    alerts: Topic = "eddy-alerts"
    dead_letters: Topic = "eddy-dead-letters"


class LimitsSpec(Spec, frozen=True, kw_only=True):
    """What a record may be, and how far back duplicates are known.

    time_ahead_max: beyond the broker's timestamp. duplicate_window: event ids remembered of each
    partition at most; at least half as many are.
    """

    record_bytes_max: Annotated[int, Meta(ge=1, le=100_000_000)] = 1_000_000
    time_ahead_max: Duration = "10min"
    duplicate_window: Annotated[int, Meta(ge=2, le=100_000_000)] = 100_000


class WorkerSpec(Spec, frozen=True, kw_only=True):
    """How the long-lived worker runs; changes no result."""

    commit_interval: Duration = "100ms"
    batch_records: Annotated[int, Meta(ge=1, le=1_000_000)] = 10_000
    http_host: str = "127.0.0.1"
    http_port: Annotated[int, Meta(ge=0, le=65_535)] = 9464


class CheckpointsSpec(Spec, frozen=True, kw_only=True):
    """Where checkpoints are kept, and how much a restart may have to re-learn.

    url: a folder, relative to where the worker is started, or an object store such as
    s3://bucket/prefix, which takes its credentials from the environment. interval: a state that
    lies behind the committed offset is written at least so often. rewind_records_max: offsets
    between checkpoint and committed offset at most; a state is written after a quarter of them.
    """

    url: Annotated[str, Meta(min_length=1, max_length=2_000)] = ".eddy/checkpoints"
    interval: Duration = "10min"
    rewind_records_max: Annotated[int, Meta(ge=1, le=10**15)] = 20_000_000


class Config(Spec, frozen=True, kw_only=True):
    """A whole configuration.

    revision: another number makes another configuration of it: for going back on purpose to one
    that the group had before. kafka: any librdkafka property; secrets belong into the environment ("${NAME}"). secret: what
    the hashes of entities and event ids are keyed with. reveal: entity fields whose raw ids may
    stand in alerts; others are pseudonyms.
    """

    group: Annotated[str, Meta(min_length=1, max_length=249)] = "eddy"
    revision: Annotated[int, Meta(ge=0, le=1_000_000_000)] = 0
    mode: Literal["live", "shadow"] = "live"
    secret: str = ""
    kafka: dict[str, str | int | float | bool] = msgspec.field(default_factory=dict)
    inputs: Annotated[dict[Name, InputSpec], Meta(min_length=1)]
    outputs: OutputSpec = OutputSpec()
    limits: LimitsSpec = LimitsSpec()
    monitors: Annotated[list[MonitorSpec], Meta(min_length=1)]
    reveal: list[str] = msgspec.field(default_factory=list)
    worker: WorkerSpec = WorkerSpec()
    checkpoints: CheckpointsSpec = CheckpointsSpec()


class Steering(Spec, frozen=True, kw_only=True):
    """What of a configuration steers the fold, as checkpoints keep it. secret: a keyed hash."""

    version: int
    revision: int
    monitors: list[MonitorSpec]
    inputs: dict[Name, InputSpec]
    limits: LimitsSpec
    reveal: list[str]
    secret: str


class Way(NamedTuple):
    """Which way a monitor's events take: straight from its topic, or over an internal topic."""

    monitor: str
    input: str
    direct: bool
    reason: str
    ways_out: list[str]


def load(path: Path) -> Config:
    """The configuration in a TOML file. Raises ConfigError that names every mistake at once."""
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError([f"{path}: {error}"]) from error
    return parse(document, dict(os.environ))


def parse(document: dict[str, Any], environment: dict[str, str]) -> Config:
    """The configuration of a parsed document; "${NAME}" is taken from `environment`."""
    problems: list[str] = []
    filled = fill(document, environment, problems)
    partial = build(Config, filled, problems)
    known = [line.split(": ", 1)[0] for line in problems]
    problems += (
        f"{where}: {text}"
        for where, text in _relations(partial)
        if not any(_inside(where, one) or _inside(one, where) for one in known)
    )
    if problems:
        raise ConfigError(problems)
    return msgspec.convert(filled, Config)


def _inside(where: str, outer: str) -> bool:
    """Whether a path is the other one or lies within it."""
    return where == outer or where.startswith((f"{outer}.", f"{outer}["))


def fields_wanted(config: Config, input_name: str) -> list[str]:
    """The event fields of an input that must be extracted, in the order of `events.FIELDS`.

    What its monitors read, every entity field that it fills (for related entities), and what
    gives a number its meaning: the currency of an amount, the offset of a time of day.
    """
    wanted: set[str] = set(ENTITY_FIELDS)
    for monitor in config.monitors:
        if input_name in monitor.inputs:
            wanted |= {name for _, name in _reads(monitor)}
    spec = config.inputs[input_name]
    return [n for n in mapping.available(spec.codec, spec.type, spec.fields) if n in wanted]


def ways(config: Config) -> list[Way]:
    """The way of every monitor, in the order of the configuration."""
    return [_way(config, monitor) for monitor in config.monitors]


def refuse_indirect(config: Config) -> None:
    """Raise UnsupportedWay if a monitor cannot read its topic directly."""
    lines = [
        f"monitor {way.monitor}: {way.reason}; either {', or '.join(way.ways_out)}"
        for way in ways(config)
        if not way.direct
    ]
    if lines:
        raise UnsupportedWay("\n".join(lines))


def fingerprint(config: Config) -> str:
    """32 hex digits of everything that steers the fold: same digits, same results from a log.

    The secret enters as a keyed hash only. Kafka's properties, outputs, mode and worker do not.
    """
    body = msgspec.json.encode(steering(config), order="deterministic")
    return xxhash.xxh3_128_hexdigest(body)


def steering(config: Config) -> Steering:
    """What of the configuration steers the fold."""
    return Steering(
        version=FINGERPRINT_VERSION,
        revision=config.revision,
        monitors=config.monitors,
        inputs=config.inputs,
        limits=config.limits,
        reveal=sorted(config.reveal),
        secret=pseudonym(hash_text(pa.array(["fingerprint"]), hash_key(config.secret))[0]),
    )


def steered(config: Config, by: Steering) -> Config:
    """The configuration, steering as that one did; its secret must be the same."""
    return msgspec.structs.replace(
        config,
        revision=by.revision,
        monitors=by.monitors,
        inputs=by.inputs,
        limits=by.limits,
        reveal=by.reveal,
    )


def _reads(monitor: MonitorSpec) -> Iterator[tuple[str, str]]:
    """Where a monitor names an event field (relative to it), or needs one, and which."""
    yield "entity", monitor.entity
    yield from ((f"where.{name}", name) for name in _fields_of(monitor.where))
    for i, feature in enumerate(monitor.features):
        yield from ((f"features[{i}].where.{name}", name) for name in _fields_of(feature.where))
        yield from ((f"features[{i}].of.{name}", name) for name in _fields_of(feature.of))
        if feature.field is not None:
            yield f"features[{i}].field", feature.field
        beside = KINDS[feature.kind].beside if feature.kind in KINDS else ()
        for name in beside:
            yield "" if name in ASSUMED else f"features[{i}].kind", name
        if "amount" in (feature.field, *beside):
            yield "", "currency"
    for i, detector in enumerate(monitor.detectors):
        if isinstance(detector, OwnSpec):
            for name in detector.fields():
                yield "" if name in ASSUMED else f"detectors[{i}]", name


def _fields_of(where: Where) -> list[str]:
    return [name for name in where if name != "type"]


def _way(config: Config, monitor: MonitorSpec) -> Way:
    names = ", ".join(monitor.inputs)
    if len(monitor.inputs) > 1:
        reason = (
            f"it reads {len(monitor.inputs)} topics ({names}), and the order in which their "
            "events meet is in no log"
        )
        out = [
            "write these events to one topic and make that the monitor's only input",
            "declare one monitor for each input",
        ]
        return Way(monitor.name, names, direct=False, reason=reason, ways_out=out)
    spec = config.inputs[names]
    if spec.partitions == 1:
        return Way(
            monitor.name, names, direct=True, reason="its topic has one partition", ways_out=[]
        )
    if spec.keyed_by == monitor.entity:
        reason = f"its topic is partitioned by {monitor.entity} ({spec.partitioner})"
        return Way(monitor.name, names, direct=True, reason=reason, ways_out=[])
    by = f"by {spec.keyed_by}" if spec.keyed_by else "by nothing that the configuration names"
    reason = (
        f"it watches {monitor.entity}, but {names} has {spec.partitions} partitions, keyed {by}: "
        f"one {monitor.entity}'s events lie in several partitions"
    )
    out = [
        f"have the producer key the topic by {monitor.entity}, and name it and its partitioner in inputs.{names}",
        f"let the monitor read a topic with one partition (inputs.{names}.partitions = 1)",
    ]
    return Way(monitor.name, names, direct=False, reason=reason, ways_out=out)


def _relations(config: Config) -> Iterator[tuple[str, str]]:
    """What does not fit together: where, and what is wrong."""
    for name, spec in config.inputs.items():
        yield from _under(f"inputs.{name}", _input_problems(spec))
    read = {spec.topic: f"inputs.{name}.topic" for name, spec in config.inputs.items()}
    yield from _twice({f"inputs.{name}.topic": spec.topic for name, spec in config.inputs.items()})
    for name in ("alerts", "dead_letters"):
        topic = getattr(config.outputs, name)
        if topic in read:  # each dead letter would be read again, and be a dead letter again
            yield f"outputs.{name}", f"{topic} is already {read[topic]}"
    for i, monitor in enumerate(config.monitors):
        yield from _under(f"monitors[{i}]", _monitor_problems(monitor, config.inputs))
    yield from _twice({f"monitors[{i}].name": m.name for i, m in enumerate(config.monitors)})
    for i, name in enumerate(config.reveal):
        if name not in ENTITY_FIELDS:
            yield f"reveal[{i}]", _not_entity(name)
    for line in property_problems(config.kafka):
        where, text = line.split(": ", 1)
        yield where, text


def _input_problems(spec: InputSpec) -> Iterator[tuple[str, str]]:
    yield from mapping.problems(spec.codec, spec.type, spec.fields)
    if spec.keyed_by is not None and spec.partitioner is None:
        yield "partitioner", "missing; expected murmur2 or crc32, since keyed_by is given"
    if spec.partitioner is not None and spec.keyed_by is None:
        yield "keyed_by", "missing; expected the field that the partitioner hashes"
    known = mapping.available(spec.codec, spec.type, spec.fields)
    if spec.keyed_by is not None and spec.keyed_by not in known:
        hint = nearest(spec.keyed_by, known)
        yield "keyed_by", f"got {spec.keyed_by}; expected a field that this input maps{hint}"


def _monitor_problems(
    monitor: MonitorSpec, inputs: dict[str, InputSpec]
) -> Iterator[tuple[str, str]]:
    for i, name in enumerate(monitor.inputs):
        if name not in inputs:
            yield f"inputs[{i}]", f"no input is named {name}{nearest(name, inputs)}"
    yield from _twice({f"inputs[{i}]": name for i, name in enumerate(monitor.inputs)})
    if monitor.name == ROUTE:
        yield "name", f"got {ROUTE}; expected another: that stage's counts stand under it"
    if monitor.entity not in ENTITY_FIELDS:
        yield "entity", _not_entity(monitor.entity)
    for alike in (TailSpec, TreesSpec | RiverTreesSpec):
        places = [i for i, d in enumerate(monitor.detectors) if isinstance(d, alike)]
        for i in places[1:]:
            yield (
                f"detectors[{i}]",
                f"a monitor has one of its kind, and detectors[{places[0]}] is it",
            )
    yield from _under("where", _where_problems(monitor.where))
    for i, feature in enumerate(monitor.features):
        yield from _under(f"features[{i}]", _feature_problems(feature))
    for i, detector in enumerate(monitor.detectors):
        if isinstance(detector, OwnSpec):
            found = (line.split(": ", 1) for line in detector.problems())
            yield from _under(f"detectors[{i}]", ((where, text) for where, text in found))
    names = {f"features[{i}].name": f.name for i, f in enumerate(monitor.features)}
    own = enumerate(monitor.detectors)
    names |= {f"detectors[{i}].name": d.name for i, d in own if isinstance(d, OwnSpec)}
    yield from _twice(names)
    yield from _unmapped(monitor, [inputs[name] for name in monitor.inputs if name in inputs])


def _feature_problems(feature: FeatureSpec) -> Iterator[tuple[str, str]]:
    if feature.kind in KINDS:
        for line in KINDS[feature.kind].problems(feature):
            where, text = line.split(": ", 1)
            yield where, text
    else:
        hint = nearest(feature.kind, KINDS)
        yield "kind", f"got {feature.kind}; expected one of {', '.join(KINDS)}{hint}"
    yield from _under("where", _where_problems(feature.where))
    yield from _under("of", _where_problems(feature.of))


def _where_problems(condition: Where) -> Iterator[tuple[str, str]]:
    for name, value in condition.items():
        if name == "type":
            if not set([value] if isinstance(value, str) else value) <= set(TYPES):
                yield name, f"expected among {', '.join(TYPES)}"
        elif name not in FIELDS:
            yield name, f"unknown field{nearest(name, ['type', *FIELDS])}"
        elif FIELDS[name].kind != "text":
            yield name, "is a number; expected a field that is a text, or type"


def _unmapped(monitor: MonitorSpec, specs: list[InputSpec]) -> Iterator[tuple[str, str]]:
    """Fields that a monitor reads and no input of it fills; its entity must be in every input."""
    filled = [set(mapping.available(spec.codec, spec.type, spec.fields)) for spec in specs]
    somewhere, everywhere = set().union(*filled), set(FIELDS).intersection(*filled)
    for where, name in _reads(monitor):
        known = everywhere if where == "entity" else somewhere
        if where and filled and name in FIELDS and name not in known:
            yield (
                where,
                f"{name} is not mapped in {', '.join(monitor.inputs)}{nearest(name, known)}",
            )


def _under(where: str, found: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    return ((at(where, inner), text) for inner, text in found)


def _twice(names: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Where a name stands that already stands elsewhere."""
    first: dict[str, str] = {}
    for where, name in names.items():
        if name in first:
            yield where, f"{name} is already {first[name]}"
        first.setdefault(name, where)


def _not_entity(name: str) -> str:
    expected = ", ".join(ENTITY_FIELDS)
    return f"got {name}; expected one of {expected}{nearest(name, ENTITY_FIELDS)}"
