"""The memory layout of the tail model, and its declaration and output.

The features of a family are adjacent, `LANES` in a block, so that a block is processed by vector
instructions. Every constant of a word below is the offset of its first lane.
"""

from math import log
from typing import Final, NamedTuple

import numpy as np

from detectors.numeric.combination import P_MIN
from detectors.spec import DetectorSpec, Duration
from schemas.columns import F64, I64, Bools

NORMAL, SHARE, RANGE, RATE = range(4)
"""Families of features; each family has its own model."""
HIGH, LOW, BOTH = range(3)
"""Sides of a distribution on which a value surprises."""

COHORT_EVENTS_MIN: Final = 20.0
"""Weight of a cohort below which nothing is scored."""
MEMORY_EVENTS: Final = 200.0
"""Approximate number of events that an entity remembers."""
SURPRISE_MAX: Final = -log(P_MIN)
LN_2: Final = log(2.0)
WINSOR_P: Final = 0.01
STRANGE_SURPRISE: Final = -log(WINSOR_P)
VERY_STRANGE_SURPRISE: Final = -log(1e-3)
EXPECTED_SHARE: Final = 0.98
"""Share of the predictive distribution that is called expected."""

LANES: Final = 8
"""Features of one family that are processed at once, one in each lane of a vector."""

MEAN_WEIGHT, MEAN, TOTAL_VARIANCE, WITHIN_WEIGHT, WITHIN_VARIANCE, STRANGE_SHARE = (
    LANES * word for word in range(6)
)
COHORT_WORDS: Final = 6 * LANES
"""Words of a cohort in each block."""

LAST_MS, TOKENS = range(2)
ENTITY_WORDS: Final = 2
COUNT, OWN_MEAN, SQUARES = (LANES * word for word in range(3))
BLOCK_WORDS: Final = 3 * LANES
"""Words of an entity: `ENTITY_WORDS` at the beginning, then `BLOCK_WORDS` for each block."""

(
    VALUE,
    SURPRISE,
    CENTRE,
    SPREAD,
    SCALED,
    LEARNED,
    IS_STRANGE,
    SCALE,
    DEGREES,
    WEIGHT,
    STEP_SQUARED,
) = (LANES * word for word in range(11))
BLOCK_LANES: Final = 11 * LANES
"""Scratch words of a block. VALUE: y, NaN where absent. SURPRISE, CENTRE, SPREAD, SCALED: see
`TailOutput`. LEARNED: y winsorised. IS_STRANGE: 1 for a strange value. SCALE, DEGREES: of t; of a
rate, x and α. WEIGHT: of the event for the cohort, 0 where it is not learned. STEP_SQUARED: its
squared step from the entity's own mean, -1 where the entity had no event."""


class TailSpec(DetectorSpec, frozen=True, kw_only=True, tag="tail"):
    """Each feature's value against the entity's own history, with a prior from its cohort."""

    half_life: Duration = "30d"
    """Half-life of the entity's history, in the time of its events. One that is much shorter than
    the gaps between events leaves no history: the entity is compared with its peers alone, as
    sessions and sign-ups need."""


class TailOutput(NamedTuple):
    """The tails of n events; all float64[features, n], NaN where a feature has no tail.

    surprise: -ln of the raw p-value. centre, spread: location of the predictive distribution and
    half the width of its central `EXPECTED_SHARE`, in y; of a rate, its mean and `EXPECTED_SD`
    standard deviations; of a share, its value and 0. scaled: the value scaled to [0, 1] by its
    cohort, for the trees. trees_may_learn: bool[n], False where a feature was very strange
    (`VERY_STRANGE_SURPRISE`) and the entity had no token left.
    """

    surprise: F64
    centre: F64
    spread: F64
    scaled: F64
    trees_may_learn: Bools


class TailLayout(NamedTuple):
    """The features of a monitor, one element each, and their blocks.

    family: int64, the constants above. shift: float64, added before the logarithm. root:
    whether y is the square root instead. low, high: float64, of a range. slot: int64, the index of
    the feature's block times `BLOCK_LANES`, plus its lane; -1 for a range. blocks: int64[blocks],
    their families. sides: int64[blocks, LANES]. Scratch: lanes: float64[blocks · BLOCK_LANES],
    prior: float64[COHORT_WORDS].
    """

    family: I64
    shift: F64
    root: Bools
    low: F64
    high: F64
    slot: I64
    blocks: I64
    sides: I64
    lanes: F64
    prior: F64


def tail_layout(
    families: list[int],
    sides: list[int],
    shift: list[float],
    root: list[bool],
    low: list[float],
    high: list[float],
) -> TailLayout:
    """The layout of these features, one element of each list a feature."""
    slot = np.full(len(families), -1, np.int64)
    blocks: list[int] = []
    side_by_lane: list[int] = []
    for family in (NORMAL, RATE, SHARE):
        members = [j for j, member_family in enumerate(families) if member_family == family]
        for k, j in enumerate(members):
            slot[j] = BLOCK_LANES * (len(blocks) + k // LANES) + k % LANES
        count = -(-len(members) // LANES)
        side_by_lane += [sides[j] for j in members] + [HIGH] * (LANES * count - len(members))
        blocks += [family] * count
    return TailLayout(
        family=np.array(families, np.int64),
        shift=np.array(shift, np.float64),
        root=np.array(root, np.bool_),
        low=np.array(low, np.float64),
        high=np.array(high, np.float64),
        slot=slot,
        blocks=np.array(blocks, np.int64),
        sides=np.array(side_by_lane, np.int64).reshape(-1, LANES),
        lanes=np.full(BLOCK_LANES * len(blocks), np.nan),
        prior=np.zeros(COHORT_WORDS),
    )


def words_per_entity(layout: TailLayout) -> int:
    """Words that the tails own in an entity's row."""
    return ENTITY_WORDS + BLOCK_WORDS * len(layout.blocks)


def empty_output(features: int, n: int) -> TailOutput:
    """The output for n events before any is scored."""
    surprise, centre, spread, scaled = (np.full((n, features), np.nan).T for _ in range(4))
    return TailOutput(surprise, centre, spread, scaled, np.ones(n, np.bool_))
