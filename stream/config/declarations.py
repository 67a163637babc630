"""The configuration's tables and keys. The text under a key is its documentation: `eddy config
schema` and the reference take it from here.
"""

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from detectors.fusion.assessment import REPORT_P
from detectors.monitor import MonitorSpec
from detectors.spec import P_MAX, Duration, Name, PolicySpec, Spec
from schemas.codecs import AnyCodec, codec_spec
from schemas.mapping import FieldMappings, RecordLayout, TypeSpec

ALL_MONITORS: Final = "all"
"""Means all monitors together, so no monitor may have this name."""
TOPIC_PATTERN: Final = r"^(?!\.{1,2}\Z)[a-zA-Z0-9._-]{1,249}\Z"
GROUP_PATTERN: Final = r"^[a-zA-Z0-9._-]{1,200}\Z"
"""Internal topics, transactional ids and the checkpoint folder are named after the group."""

Topic = Annotated[str, Meta(pattern=TOPIC_PATTERN, description="a topic's name")]
Host = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9._:%-]{0,253}\Z", description="a host's name or address")
]
PathOrUrl = Annotated[
    str,
    Meta(pattern=r"^[^\x00]{1,2000}\Z", description="a path or URL of 1 to 2_000 characters"),
]


class InputSpec(Spec, frozen=True, kw_only=True):
    """One input: a Kafka topic (or, in a replay, files) and the mapping of its records to events."""

    topic: Topic
    """Topic that the worker reads."""
    partitions: Annotated[int, Meta(ge=1, le=100_000)] = 1
    """Number of partitions of the topic. It must equal the broker's and must not change later."""
    keyed_by: str | None = None
    """Event field whose value the producer uses as the record key, so that all events with one value
    are in one partition. A monitor of that entity then reads the topic directly. Needs
    `partitioner`."""
    partitioner: Literal["murmur2", "crc32"] | None = None
    """How the producer chooses the partition from the key: `murmur2` (Java clients, and librdkafka
    with `murmur2_random`) or `crc32` (librdkafka's default). Needs `keyed_by`."""
    codec: AnyCodec = "json"
    """Format of the records: a codec's name, such as `json`, or `access_log` for the combined log format;
    or a table with the codec's `name` and its options."""
    type: TypeSpec | None = None
    """Type of all events of this input, or a table that says where a record names its type. Without
    it, the record's own field `type`."""
    fields: FieldMappings | None = None
    """Where each event field is in a record: `field = "path"`, `field = ["first", "second"]` (the
    first path that is present), or a table. Without it, records already have Eddy's field names,
    with `time` in milliseconds. Dots in a path lead into nested objects; `\\.` is a dot that belongs
    to a key."""
    null_values: Annotated[list[str], Meta(max_length=100)] = msgspec.field(default_factory=list)
    """Texts that mean "no value" in a CSV file, such as `NA`. An empty cell always does."""

    @property
    def layout(self) -> RecordLayout:
        """What the codec's records hold, apart from the mapping."""
        return codec_spec(self.codec).layout


class OutputSpec(Spec, frozen=True, kw_only=True):
    """Topics that Eddy writes."""

    alerts: Topic = "eddy-alerts"
    """Topic for alerts. In shadow mode the default is `eddy-alerts-shadow`, and `eddy-alerts` is
    refused."""
    dead_letters: Topic = "eddy-dead-letters"
    """Topic for records that cannot become events. In shadow mode the default is
    `eddy-dead-letters-shadow`."""
    stale_after: Duration = "15min"
    """Age of an event, by the worker's clock, from which its alert is published as not enforceable
    (`run.reason` is `stale`)."""


SHADOW_OUTPUTS: Final = {
    "alerts": "eddy-alerts-shadow",
    "dead_letters": "eddy-dead-letters-shadow",
}


class LimitsSpec(Spec, frozen=True, kw_only=True):
    """Bounds on records, on event times and on the memory of duplicates."""

    record_bytes_max: Annotated[int, Meta(ge=1, le=100_000_000)] = 1_000_000
    """Largest record in bytes; a larger one becomes a dead letter."""
    time_ahead_max: Duration = "10min"
    """How far an event's time may be ahead of the broker's append time or, where the producer sets
    the timestamp, ahead of the latest events of its partition. An event further ahead is scored but
    does not advance stream time."""
    duplicate_window: Annotated[int, Meta(ge=2, le=100_000_000)] = 100_000
    """Upper bound on the event ids remembered per partition to recognise duplicates; at least half
    as many are remembered."""


class LearningSpec(Spec, frozen=True, kw_only=True):
    """Learning from labels how much the monitors' reports mean together."""

    inputs: Annotated[list[str], Meta(min_length=1)]
    """Inputs whose labels are learned. A label must name its event and the subject."""
    features: Annotated[list[str], Meta(max_length=64)] = msgspec.field(default_factory=list)
    """Monitor features, such as `card.amount`, that the model sees beside the monitors' scores."""


class AssessSpec(Spec, frozen=True, kw_only=True):
    """Combination of all monitors' reports on one event into one assessment of its subject."""

    subject: str
    """Entity field that names whom the assessment is about, such as `account`."""
    report_p: Annotated[float, Meta(ge=P_MAX, le=0.1)] = REPORT_P
    """A monitor reports every event whose p-value is below this (and one in a thousand of the
    others). A higher value gives more reports and more work."""
    learning: LearningSpec | None = None
    """Learning from labels. Without it, reports are combined by their harmonic mean."""
    partitions: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    """Partitions of the internal topic of reports. Default: the largest number of partitions of any
    input."""
    capacity: Annotated[int, Meta(ge=16, le=100_000_000)] = 100_000
    """Upper bound on the subjects remembered per shard."""
    events_max: Annotated[int, Meta(ge=16, le=100_000_000)] = 100_000
    """Upper bound on the reported events remembered per shard. A label whose event has been
    forgotten is not learned, so this should cover the delay of labels. Each takes 25 bytes and 8
    per monitor; with learning, 104 bytes, 16 per monitor and 8 per feature more."""
    policy: PolicySpec = PolicySpec()
    """When an assessment becomes an alert."""

    def training_features(self) -> list[str]:
        """The features that it learns from, such as `card.amount`."""
        return self.learning.features if self.learning else []


class WorkerSpec(Spec, frozen=True, kw_only=True):
    """The live worker. These settings change no result."""

    commit_interval: Duration = "100ms"
    """Longest time between two commits. When the worker is caught up and an alert is pending, it
    commits earlier."""
    batch_records: Annotated[int, Meta(ge=1, le=1_000_000)] = 10_000
    """Upper bound on the records processed at once."""
    http_host: Host = "127.0.0.1"
    """Address on which `/metrics`, `/healthz` and `/readyz` are served."""
    http_port: Annotated[int, Meta(ge=0, le=65_535)] = 9464
    """Port of the HTTP server; 0 chooses a free one."""


class CheckpointsSpec(Spec, frozen=True, kw_only=True):
    """Where the learned state is stored, and how often."""

    url: PathOrUrl = ".eddy/checkpoints"
    """Folder (relative to the working directory) or object store, such as `s3://bucket/prefix`. A
    store takes its credentials from the environment. All workers of a group need the same one."""
    interval: Duration = "10min"
    """Longest time between two checkpoints of a partition whose state has changed."""
    rewind_records_max: Annotated[int, Meta(ge=1, le=10**15)] = 20_000_000
    """Upper bound on the records that a restart re-reads. A checkpoint is written after a third of
    them, and the worker stops when the bound is reached while the store fails."""
    start_from: PathOrUrl | None = None
    """State saved by `eddy replay --save-state` with which a group begins that has committed
    nothing yet. Without it, such a group begins with nothing learned."""


class Config(Spec, frozen=True, kw_only=True):
    """An Eddy configuration. Every text may contain `${NAME}` or `${NAME:-default}`, which is
    replaced by the value of that environment variable."""

    group: Annotated[
        str,
        Meta(
            pattern=GROUP_PATTERN,
            description="1 to 200 letters, digits, dots, underscores and hyphens",
        ),
    ] = "eddy"
    """Kafka consumer group. Internal topics, transactional ids and checkpoints are named after it."""
    revision: Annotated[int, Meta(ge=0, le=1_000_000_000)] = 0
    """Number that distinguishes otherwise equal configurations. Raise it to return to a
    configuration that the group has used before."""
    mode: Literal["live", "shadow"] = "live"
    """`live` publishes alerts that may be enforced; `shadow` publishes to other topics, and no alert
    is enforceable."""
    secret: str = ""
    """Key of the hashes that pseudonyms and entity keys are made with; at least 16 bytes for a live
    worker. Take it from the environment: `"${EDDY_SECRET}"`. Another secret starts from nothing
    learned."""
    kafka: dict[str, str | int | float | bool] = msgspec.field(default_factory=dict)
    """Properties of the Kafka client (librdkafka), such as `"bootstrap.servers"`. Take passwords from
    the environment."""
    inputs: Annotated[dict[Name, InputSpec], Meta(min_length=1)]
    """Inputs by name."""
    outputs: OutputSpec = OutputSpec()
    """Topics that Eddy writes."""
    limits: LimitsSpec = LimitsSpec()
    """Bounds on records, on event times and on the memory of duplicates."""
    monitors: Annotated[list[MonitorSpec], Meta(min_length=1)]
    """Monitors, each of which watches one entity type."""
    assess: AssessSpec | None = None
    """Combination of all monitors' reports on one event. Without it, monitors alert alone."""
    stages: dict[Name, dict[str, Any]] = msgspec.field(default_factory=dict)
    """Stages that installed packages add, by name, each with its own options. A stage runs where its
    table is present."""
    reveal: list[str] = msgspec.field(default_factory=list)
    """Entity fields whose raw ids may appear in alerts and tables; all others appear as
    pseudonyms."""
    worker: WorkerSpec = WorkerSpec()
    """The live worker."""
    checkpoints: CheckpointsSpec = CheckpointsSpec()
    """Where the learned state is stored, and how often."""
