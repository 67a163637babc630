"""Features: numbers that describe an entity at each of its events.

Each module holds one group of feature kinds. `KINDS` holds every kind that a configuration can name;
`kind` defines their interface. Detectors, not features, decide how unusual a value is.
"""

from importlib.metadata import entry_points
from typing import Final

from detectors.features import (
    category,
    counting,
    departure,
    distinct,
    gap,
    habit,
    novelty,
    popularity,
    price,
    ratio,
    sequence,
    travel,
    value,
)
from detectors.features.kind import FeatureKind

BUILT_IN: Final[tuple[FeatureKind, ...]] = (
    *value.KINDS,
    *counting.KINDS,
    *ratio.KINDS,
    *gap.KINDS,
    *distinct.KINDS,
    *novelty.KINDS,
    *category.KINDS,
    *habit.KINDS,
    *travel.KINDS,
    *price.KINDS,
    *popularity.KINDS,
    *sequence.KINDS,
    *departure.KINDS,
)
"""Eddy's own kinds, in the order of the reference documentation."""

KINDS: Final[dict[str, FeatureKind]] = {
    kind.name: kind
    for kind in (*BUILT_IN, *(point.load() for point in entry_points(group="eddy.features")))
}
"""Every feature kind by its name in configurations. A package may add one: a `FeatureKind` under the
entry-point group "eddy.features"."""
