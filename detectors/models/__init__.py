"""Detectors: models that compute a surprise from an entity's features or from the events.

`DETECTORS` holds every detector that a configuration can name. Two are steps of the monitor itself:
`tail`, which scores each feature, and half-space trees of either kind, which score all features
together. All others are standalone (`interface`): each scores a value that it computes itself, and
its declaration has a method `build`. A package may add one under the entry-point group
"eddy.detectors". Calibration turns raw surprise into calibrated p-values.
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
