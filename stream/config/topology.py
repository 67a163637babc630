"""The inputs of a configuration: their partitions, and the event fields that stages need of them."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from detectors.features import KINDS
from detectors.models.interface import StandaloneSpec
from detectors.monitor import MonitorSpec
from detectors.spec import EventFilter
from schemas.events import ENTITY_FIELDS, FIELDS
from schemas.labels import LABEL_FIELDS, LEARNED_LABEL_FIELDS
from schemas.mapping import available_fields
from stream.config.declarations import Config

FIELDS_WITH_A_DEFAULT: Final = frozenset({"utc_offset_min", "labelled_event_id"})
"""Fields that no input must map. Defaults: UTC; a label corrects no other label."""


class Log(NamedTuple):
    """A log that a stage reads: an input's topic, or the internal topic of one stage.

    name: of the input, or of the stage that reads the internal topic.
    """

    name: str
    topic: str
    partitions: int
    internal: bool = False


def source_partitions(
    config: Config, inputs: Iterable[str], topics: Mapping[str, str]
) -> tuple[tuple[str, int], ...]:
    """Every topic and partition of these inputs, in a fixed order: incidents store indexes into it.

    topics: input → topic as its records name it.
    """
    return tuple(
        (topics[name], partition)
        for name in inputs
        for partition in range(config.inputs[name].partitions)
    )


def extracted_fields(config: Config, input_name: str) -> list[str]:
    """The event fields to extract from an input's records, in the order of `events.FIELDS`.

    These are the fields that its monitors read, all entity fields (for related entities), the amount
    with its currency, the UTC offset where a time of day matters, and all fields of labels.
    """
    wanted: set[str] = {*ENTITY_FIELDS, "amount"}
    for monitor in config.monitors:
        if input_name in monitor.inputs:
            wanted |= {name for _, name in fields_read(monitor)}
    if input_name in learning_inputs(config):
        wanted |= {*LEARNED_LABEL_FIELDS}
    spec = config.inputs[input_name]
    if spec.type == "label" or "verdict" in wanted or "verdict" in (spec.fields or {}):
        wanted |= set(LABEL_FIELDS)
    return [n for n in available_fields(spec.layout, spec.type, spec.fields) if n in wanted]


def internal_topic_fields(config: Config, monitor: MonitorSpec) -> list[str]:
    """The event fields in the monitor's internal topic, in the order of `events.FIELDS`."""
    wanted = {*ENTITY_FIELDS, *(name for _, name in fields_read(monitor))}
    extracted = {
        name for input_name in monitor.inputs for name in extracted_fields(config, input_name)
    }
    return [name for name in FIELDS if name in wanted & extracted]


def learning_inputs(config: Config) -> list[str]:
    """The inputs whose labels assess learns from."""
    learning = config.assess.learning if config.assess else None
    return learning.inputs if learning else []


def label_inputs(config: Config) -> list[str]:
    """The inputs that hold only labels."""
    return [name for name, spec in config.inputs.items() if spec.type == "label"]


def is_input_read(config: Config, name: str) -> bool:
    """Whether a monitor reads an input, or assess learns from its labels."""
    return any(name in monitor.inputs for monitor in config.monitors) or name in learning_inputs(
        config
    )


def label_entity_fields(config: Config, input_name: str) -> list[str]:
    """The entity fields that its readers need in a label from this input, in the order of
    `events.FIELDS`; empty where nothing reads the input."""
    readers = [monitor for monitor in config.monitors if input_name in monitor.inputs]
    wanted = {name for monitor in readers for _, name in fields_read(monitor)}
    if config.assess and (readers or input_name in learning_inputs(config)):
        wanted.add(config.assess.subject)
    extracted = extracted_fields(config, input_name)
    return [name for name in extracted if name in wanted and name in ENTITY_FIELDS]


def fields_read(monitor: MonitorSpec) -> Iterator[tuple[str, str]]:
    """The event fields that a monitor reads, each with the key (relative to the monitor) that
    requires it; the key is "" where the field is optional."""
    yield "entity", monitor.entity
    if monitor.cohort is not None:
        yield "cohort", monitor.cohort
    yield from ((f"where.{name}", name) for name in filter_fields(monitor.where))
    for i, feature in enumerate(monitor.features):
        yield from ((f"features[{i}].where.{name}", name) for name in filter_fields(feature.where))
        yield from ((f"features[{i}].of.{name}", name) for name in filter_fields(feature.of))
        if feature.field is not None:
            yield f"features[{i}].field", feature.field
        extra_fields = KINDS[feature.kind].extra_fields if feature.kind in KINDS else ()
        for name in extra_fields:
            yield "" if name in FIELDS_WITH_A_DEFAULT else f"features[{i}].kind", name
        if "amount" in (feature.field, *extra_fields):
            yield "", "currency"
    for i, detector in enumerate(monitor.detectors):
        if isinstance(detector, StandaloneSpec):
            for name in detector.fields():
                yield "" if name in FIELDS_WITH_A_DEFAULT else f"detectors[{i}]", name


def filter_fields(where: EventFilter) -> list[str]:
    """The event fields of a filter."""
    return [name for name in where if name != "type"]
