"""Detectors: what turns an entity's features, or the events themselves, into surprise.

`DETECTORS` is the vocabulary that configurations use. Two stand inside of every monitor's way and
are called by it: `tail`, which judges each feature, and half-space trees of one kind or the other,
which judge them all together. Every other is a declaration with a `build` (`own`), and judges
something of its own; a package may add such a one under the entry point group "eddy.detectors".
Calibration makes an honest p-value of whatever raw surprise they give.
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
"""Every detector's declaration by the name that a configuration gives it."""

if TYPE_CHECKING:
    AnyDetector = DetectorSpec
else:
    AnyDetector = Union[tuple(DETECTORS.values())]  # noqa: UP007  # it has as many members as there are
