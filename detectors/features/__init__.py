"""Features: what is measured of an entity at one of its events.

Each module here holds one family of kinds; `KINDS` is the vocabulary that configurations use, and
`kind` says what a kind is. What a value means for risk is not decided here: that is the models'.
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
"""Eddy's own kinds, in the order in which the reference lists them."""

KINDS: Final[dict[str, FeatureKind]] = {
    kind.name: kind
    for kind in (*BUILT_IN, *(point.load() for point in entry_points(group="eddy.features")))
}
"""Every feature kind by the name that a configuration gives it. A package may add one: a `FeatureKind`
under the entry point group "eddy.features"."""
