"""Features: what is measured of an entity at one of its events.

Each module here holds one family of kinds; `KINDS` is the vocabulary that configurations use, and
`kind` says what a kind is. What a value means for risk is not decided here: that is the models'.
"""

from importlib.metadata import entry_points
from typing import Final

from detectors.features import counting, gap, novelty, value
from detectors.features.kind import Kind

KINDS: Final[dict[str, Kind]] = {
    kind.name: kind
    for kind in (
        *counting.KINDS,
        *gap.KINDS,
        *novelty.KINDS,
        *value.KINDS,
        *(point.load() for point in entry_points(group="eddy.features")),
    )
}
"""Every feature kind by the name that a configuration gives it. A package may add one: a `Kind`
under the entry point group "eddy.features"."""
