"""Checks of a configuration beyond the types of its keys."""

import re
from collections.abc import Iterable, Iterator
from typing import Final

from detectors.features import KINDS
from detectors.models.half_space_trees import RiverTreesSpec, TreesSpec
from detectors.models.interface import StandaloneSpec
from detectors.models.tail import TailSpec
from detectors.monitor import MonitorSpec, value_names
from detectors.spec import EventFilter, FeatureSpec
from schemas.codecs import codec_spec
from schemas.events import ENTITY_FIELDS, FIELDS, TYPES
from schemas.labels import LEARNED_LABEL_FIELDS
from schemas.mapping import available_fields, nearest_hint
from schemas.mapping_checks import mapping_problems
from stream.config.declarations import (
    ALL_MONITORS,
    SHADOW_OUTPUTS,
    TOPIC_PATTERN,
    Config,
    InputSpec,
    LearningSpec,
    OutputSpec,
)
from stream.config.document import key_path
from stream.config.stage_graph import declared_stages, nodes, output_topics, stage_problems
from stream.config.topology import (
    fields_read,
)
from stream.kafka.properties import property_problems
from stream.location import Location

SECRET_BYTES_MIN: Final = 16
"""Length of the shortest secret that a live worker accepts."""


def secret_problem(config: Config) -> str:
    """What is wrong with the secret, as a line of an error or a warning; "" if nothing."""
    if len(config.secret.encode()) >= SECRET_BYTES_MIN:
        return ""
    size = "one that is shorter" if config.secret else "none"
    return (
        f"secret: got {size}; expected at least {SECRET_BYTES_MIN} random bytes, as from "
        "`openssl rand -hex 16`: pseudonyms and entity keys can be guessed; eddy run refuses it in "
        "live mode"
    )


def consistency_problems(config: Config) -> Iterator[tuple[str, str]]:
    """Key path and problem of everything that does not fit together."""
    for name, spec in config.inputs.items():
        yield from _prefixed(f"inputs.{name}", _input_problems(spec))
    yield from stage_problems(config)
    internal = {
        node.config_path: node.internal_topic for node in nodes(config) if node.internal_topic
    }
    topics = {f"inputs.{name}.topic": spec.topic for name, spec in config.inputs.items()}
    topics |= {where: log.topic for where, log in internal.items()}
    read = {topic: where for where, topic in topics.items()}
    yield from _duplicates(topics)
    for where, log in internal.items():
        if not re.match(TOPIC_PATTERN, log.topic):
            yield (
                where,
                (
                    f'its internal topic would be "{log.topic}", which is not a valid topic name; '
                    "expected a shorter group"
                ),
            )
    for output in output_topics(config):
        if (
            output.topic in read
        ):  # dead letters would be read as input and become dead letters again
            yield output.path, f"{output.topic} is already {read[output.topic]}"
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
    elif config.assess:
        yield from _subject_problems(config, config.assess.subject)
    url, start_from = config.checkpoints.url, config.checkpoints.start_from
    if start_from and Location.of(start_from).is_same_as(Location.of(url)):
        yield "checkpoints.start_from", "is checkpoints.url; expected another location"
    if config.assess and config.assess.learning:
        problems = _learning_problems(config, config.assess.subject, config.assess.learning)
        yield from _prefixed("assess.learning", problems)
    for line in property_problems(config.kafka):
        where, text = line.split(": ", 1)
        yield where, text


def _subject_problems(config: Config, subject: str) -> Iterator[tuple[str, str]]:
    """A subject that no monitor's input maps: no report could name it."""
    names = dict.fromkeys(name for monitor in config.monitors for name in monitor.inputs)
    specs = {name: config.inputs[name] for name in names if name in config.inputs}
    fields = {
        field
        for spec in specs.values()
        for field in available_fields(spec.layout, spec.type, spec.fields)
    }
    if specs and subject not in fields:
        entities = ", ".join(name for name in ENTITY_FIELDS if name in fields)
        mappings = " or ".join(f"inputs.{name}.fields" for name in specs)
        problem = (
            f"got {subject}, which no monitor's input maps; expected an entity field that they map "
            f"({entities or 'they map none'}), or {subject} in {mappings}"
        )
        yield "assess.subject", problem


def _learning_problems(
    config: Config, subject: str, learning: LearningSpec
) -> Iterator[tuple[str, str]]:
    yield from _duplicates({f"inputs[{i}]": name for i, name in enumerate(learning.inputs)})
    for i, name in enumerate(learning.inputs):
        if name not in config.inputs:
            yield f"inputs[{i}]", f"no input is named {name}{nearest_hint(name, config.inputs)}"
            continue
        spec = config.inputs[name]
        filled = available_fields(spec.layout, spec.type, spec.fields)
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
                f"got {name}; expected a monitor's feature, such as card.amount{hint}",
            )


def _input_problems(spec: InputSpec) -> Iterator[tuple[str, str]]:
    for line in codec_spec(spec.codec).problems():
        key, _, text = line.partition(": ")
        yield f"codec.{key}", text
    yield from mapping_problems(spec.layout, spec.type, spec.fields)
    if spec.null_values and not codec_spec(spec.codec).cells:
        yield (
            "null_values",
            "got texts, but this codec does not read CSV cells; expected no such key",
        )
    if spec.keyed_by is not None and spec.partitioner is None:
        yield "partitioner", "missing; expected murmur2 or crc32, because keyed_by is set"
    if spec.partitioner is not None and spec.keyed_by is None:
        yield "keyed_by", "missing; expected the field that the partitioner hashes"
    mapped = available_fields(spec.layout, spec.type, spec.fields)
    if spec.keyed_by is not None and spec.keyed_by not in mapped:
        hint = nearest_hint(spec.keyed_by, mapped)
        yield "keyed_by", f"got {spec.keyed_by}; expected a field that this input maps{hint}"


def _monitor_problems(
    monitor: MonitorSpec, inputs: dict[str, InputSpec]
) -> Iterator[tuple[str, str]]:
    for i, name in enumerate(monitor.inputs):
        if name not in inputs:
            yield f"inputs[{i}]", f"no input is named {name}{nearest_hint(name, inputs)}"
    yield from _duplicates({f"inputs[{i}]": name for i, name in enumerate(monitor.inputs)})
    if monitor.name in declared_stages():
        yield (
            "name",
            f"got {monitor.name}; expected another name, since this stage's counters have it",
        )
    if monitor.name == ALL_MONITORS:
        yield "name", f"got {monitor.name}; expected another name, since it means all monitors"
    if monitor.entity not in ENTITY_FIELDS:
        yield "entity", _not_an_entity_field(monitor.entity)
    if monitor.cohort is not None and (
        monitor.cohort not in FIELDS or FIELDS[monitor.cohort].kind != "text"
    ):
        texts = [name for name, field in FIELDS.items() if field.kind == "text"]
        hint = nearest_hint(monitor.cohort, texts)
        yield "cohort", f"got {monitor.cohort}; expected a text field{hint}"
    for specs in (TailSpec, TreesSpec | RiverTreesSpec):
        positions = [i for i, d in enumerate(monitor.detectors) if isinstance(d, specs)]
        for i in positions[1:]:
            yield (
                f"detectors[{i}]",
                f"expected at most one detector of this kind; detectors[{positions[0]}] is the first",
            )
    yield from _prefixed("where", _where_problems(monitor.where))
    for i, feature in enumerate(monitor.features):
        yield from _prefixed(f"features[{i}]", _feature_problems(feature))
    for i, detector in enumerate(monitor.detectors):
        if isinstance(detector, StandaloneSpec):
            problems = (line.split(": ", 1) for line in detector.problems())
            yield from _prefixed(f"detectors[{i}]", ((where, text) for where, text in problems))
    feature_names = [feature.name for feature in monitor.features]
    for i, rule in enumerate(monitor.rules):
        for name in rule.at_least:
            if name not in feature_names:
                hint = nearest_hint(name, feature_names)
                yield f"rules[{i}].at_least.{name}", f"no feature is named {name}{hint}"
    names = {f"features[{i}].name": f.name for i, f in enumerate(monitor.features)}
    detectors = enumerate(monitor.detectors)
    names |= {f"detectors[{i}].name": d.name for i, d in detectors if isinstance(d, StandaloneSpec)}
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
            yield name, "is a number; expected a text field, or type"


def _unmapped_fields(monitor: MonitorSpec, specs: list[InputSpec]) -> Iterator[tuple[str, str]]:
    """Fields that a monitor reads and none of its inputs maps; its entity must be in every input."""
    filled = [set(available_fields(spec.layout, spec.type, spec.fields)) for spec in specs]
    somewhere, everywhere = set().union(*filled), set(FIELDS).intersection(*filled)
    for where, name in fields_read(monitor):
        mapped = everywhere if where == "entity" else somewhere
        if where and filled and name in FIELDS and name not in mapped:
            yield (
                where,
                f"{name} is not mapped in {', '.join(monitor.inputs)}{nearest_hint(name, mapped)}",
            )


def _prefixed(where: str, problems: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    return ((key_path(where, inner), text) for inner, text in problems)


def _duplicates(names: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Every key whose name was already used by another key."""
    first: dict[str, str] = {}
    for where, name in names.items():
        if name in first:
            yield where, f"{name} is already {first[name]}"
        first.setdefault(name, where)


def _not_an_entity_field(name: str) -> str:
    expected = ", ".join(ENTITY_FIELDS)
    return f"got {name}; expected one of {expected}{nearest_hint(name, ENTITY_FIELDS)}"
