"""The declaration of a monitor in a configuration."""

from typing import Annotated

import msgspec
from msgspec import Meta

from detectors.models import AnyDetector
from detectors.models.half_space_trees import TreesSpec
from detectors.models.interface import StandaloneSpec
from detectors.models.tail import TailSpec
from detectors.spec import Duration, EventFilter, FeatureSpec, Name, PolicySpec, RuleSpec, Spec


class MonitorSpec(Spec, frozen=True, kw_only=True):
    """A monitor: the features, detectors and policy for one entity type. Labels are never scored.
    `where` does not apply to them: detectors that learn from labels read them all."""

    name: Name
    """Name of the monitor in alerts, tables and metrics."""
    entity: str
    """Event field that names the entity, such as `card`."""
    inputs: Annotated[list[str], Meta(min_length=1)]
    """Inputs that the monitor reads."""
    partitions: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    """Partitions of the monitor's internal topic. If set, its events pass through that topic even
    where they need not, so that more workers share them. Default: the largest number of
    partitions of its inputs."""
    capacity: Annotated[int, Meta(ge=16, le=100_000_000)] = 100_000
    """Upper bound on the entities remembered per shard. When it is reached, entities with few events
    are forgotten first."""
    where: EventFilter = msgspec.field(default_factory=dict)
    """Only events that match are watched; others are counted as not applicable. Written as a
    feature's `where`."""
    lateness_max: Duration = "1h"
    """How much older than its entity's last event an event may be and still be learned."""
    session_gap: Duration | None = None
    """An entity without events for this long is treated as a new one, so that the monitor watches
    sessions."""
    cohort: str | None = None
    """Text field whose value selects the peers that an entity is compared with, such as `country`.
    Without it, and for rare values, all entities are peers."""
    features: Annotated[list[FeatureSpec], Meta(min_length=1, max_length=64)]
    """Features that the detectors score."""
    detectors: Annotated[list[AnyDetector], Meta(min_length=1)] = msgspec.field(
        default_factory=lambda: [TailSpec(), TreesSpec()]
    )
    """Detectors. Default: `tail` and `half_space_trees`."""
    rules: list[RuleSpec] = msgspec.field(default_factory=list)
    """Rules, applied after the detectors. Where several match, the first of those with the smallest
    `p` is used."""
    policy: PolicySpec = PolicySpec()
    """When an event becomes an alert."""


def value_names(spec: MonitorSpec) -> list[str]:
    """The names of the values that a monitor computes for an event: features, then standalone detectors."""
    standalone = (
        detector.name for detector in spec.detectors if isinstance(detector, StandaloneSpec)
    )
    return [*(feature.name for feature in spec.features), *standalone]
