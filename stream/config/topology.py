"""The logs of a configuration, the fields in them, and how each monitor reads its events."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from detectors.features import KINDS
from detectors.models.interface import StandaloneSpec
from detectors.monitor import MonitorSpec
from detectors.spec import EventFilter
from schemas import mapping
from schemas.events import ENTITY_FIELDS, FIELDS
from stream.config.declarations import ASSESS, Config

LABEL_FIELDS: Final = ("kind", "verdict", "labelled_event_id")
"""The fields of a label, besides the entities that it names."""
LEARNED_LABEL_FIELDS: Final = ("verdict", "labelled_event_id")
"""Those of them that learning uses."""
FIELDS_WITH_A_DEFAULT: Final = frozenset({"utc_offset_min", "labelled_event_id"})
"""Fields that no input must map. Defaults: UTC; a label corrects no other label."""


class Log(NamedTuple):
    """A log that a stage reads: an input's topic, or the internal topic of a monitor or of assess.

    name: name of the input or, of an internal topic, of its reader.
    """

    name: str
    topic: str
    partitions: int
    internal: bool = False


class ReadPath(NamedTuple):
    """How a monitor (or assess) reads its events (or reports): directly, or from an internal topic
    that is partitioned by its entity.

    internal: the internal topic; None: directly. reason: why, for people.
    """

    reader: str
    internal: Log | None
    reason: str


def logs(config: Config) -> list[Log]:
    """Every log that the stages read: inputs first, then internal topics."""
    inputs = (Log(name, spec.topic, spec.partitions) for name, spec in config.inputs.items())
    internal = (
        read_path.internal
        for read_path in [*read_paths(config), assess_read_path(config)]
        if read_path
    )
    return [*inputs, *(log for log in internal if log)]


def read_paths(config: Config) -> list[ReadPath]:
    """The read path of every monitor, in the order of the configuration."""
    return [monitor_read_path(config, monitor) for monitor in config.monitors]


def assess_read_path(config: Config) -> ReadPath | None:
    """How assess reads the reports; None without `[assess]`."""
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
        reason = f"partitions = {spec.partitions} requires it"
    return ReadPath(ASSESS, Log(ASSESS, f"{config.group}-{ASSESS}-reports", most, True), reason)


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
    return [n for n in mapping.available_fields(spec.codec, spec.type, spec.fields) if n in wanted]


def internal_topic_fields(config: Config, monitor: MonitorSpec) -> list[str]:
    """The event fields in the monitor's internal topic, in the order of `events.FIELDS`."""
    wanted = {*ENTITY_FIELDS, *(name for _, name in fields_read(monitor))}
    filled = {name for one in monitor.inputs for name in extracted_fields(config, one)}
    return [name for name in FIELDS if name in wanted & filled]


def learning_inputs(config: Config) -> list[str]:
    """The inputs whose labels assess learns from."""
    learning = config.assess.learning if config.assess else None
    return learning.inputs if learning else []


def label_inputs(config: Config) -> list[str]:
    """The inputs that hold only labels."""
    return [name for name, spec in config.inputs.items() if spec.type == "label"]


def is_input_read(config: Config, name: str) -> bool:
    """Whether a monitor reads an input, or assess learns from its labels."""
    return any(name in one.inputs for one in config.monitors) or name in learning_inputs(config)


def label_entity_fields(config: Config, input_name: str) -> list[str]:
    """The entity fields that its readers need in a label from this input, in the order of
    `events.FIELDS`; empty where nothing reads the input."""
    readers = [monitor for monitor in config.monitors if input_name in monitor.inputs]
    wanted = {name for monitor in readers for _, name in fields_read(monitor)}
    if config.assess and (readers or input_name in learning_inputs(config)):
        wanted.add(config.assess.subject)
    filled = extracted_fields(config, input_name)
    return [name for name in filled if name in wanted and name in ENTITY_FIELDS]


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
        beside = KINDS[feature.kind].extra_fields if feature.kind in KINDS else ()
        for name in beside:
            yield "" if name in FIELDS_WITH_A_DEFAULT else f"features[{i}].kind", name
        if "amount" in (feature.field, *beside):
            yield "", "currency"
    for i, detector in enumerate(monitor.detectors):
        if isinstance(detector, StandaloneSpec):
            for name in detector.fields():
                yield "" if name in FIELDS_WITH_A_DEFAULT else f"detectors[{i}]", name


def filter_fields(where: EventFilter) -> list[str]:
    """The event fields of a filter."""
    return [name for name in where if name != "type"]


def monitor_read_path(config: Config, monitor: MonitorSpec) -> ReadPath:
    """How a monitor reads its events."""
    direct, reason = _reads_directly(config, monitor)
    if direct:
        return ReadPath(monitor.name, None, reason)
    most = max(config.inputs[name].partitions for name in monitor.inputs)
    topic = f"{config.group}-{monitor.name}-events"
    return ReadPath(
        monitor.name, Log(monitor.name, topic, monitor.partitions or most, True), reason
    )


def _reads_directly(config: Config, monitor: MonitorSpec) -> tuple[bool, str]:
    """Whether one partition of one topic holds all events of each entity, and the reason."""
    names = ", ".join(monitor.inputs)
    if len(monitor.inputs) > 1:
        return False, (
            f"it reads {len(monitor.inputs)} topics ({names}), and no log holds the order of "
            "events across topics"
        )
    spec = config.inputs[names]
    if monitor.partitions is not None:
        return False, f"partitions = {monitor.partitions} requires it"
    if spec.partitions == 1:
        return True, "its topic has one partition"
    if spec.keyed_by == monitor.entity:
        return True, f"its topic is partitioned by {monitor.entity} ({spec.partitioner})"
    by = f"keyed by {spec.keyed_by}" if spec.keyed_by else "without keyed_by"
    return False, (
        f"it watches {monitor.entity}, but {names} has {spec.partitions} partitions, {by}: events "
        f"of one {monitor.entity} may be in several partitions"
    )
