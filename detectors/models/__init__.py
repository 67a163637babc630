"""Detectors: they turn an entity's features, or the events themselves, into surprise.

`DETECTORS` is the vocabulary of configurations. Two detectors are steps of every monitor: `tail`,
which scores each feature, and half-space trees of either kind, which score all features together.
All others are standalone (`interface`): declarations with a `build`, which score something of their
own; a package may add one under the entry-point group "eddy.detectors". Calibration turns their raw
surprise into calibrated p-values.
"""

from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Final, Union

from detectors.models.edges import EdgesSpec
from detectors.models.half_space_trees import RiverTreesSpec, TreesSpec
from detectors.models.label_risk import LabelRiskSpec
from detectors.models.river_model import RiverSpec
from detectors.models.seasonal import SeasonalSpec
from detectors.models.tail import TailSpec
from detectors.spec import DetectorSpec

DETECTORS: Final[dict[str, type[DetectorSpec]]] = {
    str(spec.__struct_config__.tag): spec
    for spec in (
        *(TailSpec, TreesSpec, RiverTreesSpec),
        *(EdgesSpec, SeasonalSpec, LabelRiskSpec, RiverSpec),
        *(point.load() for point in entry_points(group="eddy.detectors")),
    )
}
"""Every detector's declaration by its name in configurations."""

if TYPE_CHECKING:
    AnyDetector = DetectorSpec
else:
    AnyDetector = Union[tuple(DETECTORS.values())]  # noqa: UP007  # it has a member for each detector
