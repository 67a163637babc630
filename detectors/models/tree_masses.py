"""The masses of half-space trees: learning by entities and their cohort, and the score of a path.

See `half_space_trees` for the formulas.
"""

from math import log
from typing import Final, NamedTuple

from detectors.models.trees import TreeStructure
from detectors.numeric.kernels import kernel
from detectors.numeric.protection import (
    MODEL_WRONG_SHARE,
    TOKENS_MAX,
    TOKENS_PER_EVENT,
    TOKENS_PER_HOUR,
    earn_tokens,
    update_share,
)
from schemas.columns import F64, I64, U16

QUANTILE_STEP: Final = 0.05
QUANTILE_START: Final = 20.0
QUANTILE_MIN: Final = 1e-3
MASS_MIN: Final = 1e-12
"""Lower bound of 1 - s: a score of exactly 1 (a leaf without events) has surprise 27.6."""
UNIT: Final = 64
"""Weight of an event in a mass."""
ROOT_MAX: Final = 2**16 - 1 - UNIT
COHORT_ROOT_MAX: Final = 20_000.0
STRENGTH: Final = 8.0
TOP: Final = 8.0

TOKENS, TOKENS_MS = range(2)


class TreeMasses(NamedTuple):
    """mass: uint16[slots, trees, nodes, planes]. cohort: float64[trees, nodes], of all entities.
    learned: int64[slots], events that a slot has learned. tokens: float64[1 + slots, 2], the first
    row shared by entities without a slot. quantile: float64[features + 2], the surprise exceeded by
    `EXPLAIN_SHARE` of the events, for each feature and then the trees, and last by `STRANGE_SHARE`
    of the events that the trees learned. strange: float64[1], the recent share above the last."""

    mass: U16
    cohort: F64
    learned: I64
    tokens: F64
    quantile: F64
    strange: F64


class TreesSettings(NamedTuple):
    """window: of River's kind, 0 in the default kind. min_events: events before an entity gets masses."""

    window: int
    min_events: int


@kernel
def _river_score(trees: TreeStructure, window: int, masses_on_path: I64) -> float:
    """River's score in [0, 1]: its sums are of integers, so that their order does not matter."""
    count, depths = masses_on_path.shape
    size_limit = 0.1 * window
    score = 0
    for t in range(count):
        counts = 1
        for depth in range(depths):
            score += (masses_on_path[t, depth] << depth) * counts
            if masses_on_path[t, depth] < size_limit:
                counts = 0
    nodes = (1 << (trees.height + 1)) - 1
    return float(1.0 - score / (count * window * nodes))


@kernel
def _log_density(trees: TreeStructure, cohort: F64, path: I64, masses_on_path: I64) -> float:
    """Mean over the trees of the leaf's log density; without masses, the cohort's."""
    count, depths = path.shape
    total = 0.0
    for t in range(count):
        numerator = 1.0
        denominator = 1.0
        parent_mass = masses_on_path[t, 0] / UNIT
        cohort_parent_mass = cohort[t, 0]
        for depth in range(1, depths):
            node = path[t, depth]
            node_mass = masses_on_path[t, depth] / UNIT
            cohort_mass = cohort[t, node]
            # multiplied by the divisor of q, so that each tree takes one division
            numerator *= node_mass * (cohort_parent_mass + 1.0) + STRENGTH * (cohort_mass + 0.5)
            denominator *= (
                (parent_mass + STRENGTH) * (cohort_parent_mass + 1.0) * trees.room[t, node]
            )
            parent_mass = node_mass
            cohort_parent_mass = cohort_mass
        total += log(numerator / denominator)
    return float(total / count)


@kernel
def score_path(
    trees: TreeStructure, settings: TreesSettings, cohort: F64, path: I64, masses_on_path: I64
) -> tuple[float, float]:
    """(score, surprise) of a path."""
    if settings.window == 0:
        density = _log_density(trees, cohort, path, masses_on_path)
        return density, max(TOP - density, 0.0)
    score = _river_score(trees, settings.window, masses_on_path)
    return score, -log(max(1.0 - score, MASS_MIN))


@kernel
def learn_window(settings: TreesSettings, masses: TreeMasses, slot: int, path: I64) -> None:
    """As River's learn_one: add one to each node of each path. At the end of a window its masses become
    those of the last window."""
    mass = masses.mass
    for t in range(path.shape[0]):
        for depth in range(path.shape[1]):
            mass[slot, t, path[t, depth], 1] += 1
    masses.learned[slot] += 1
    if masses.learned[slot] % settings.window == 0:
        for t in range(mass.shape[1]):
            for node in range(mass.shape[2]):
                mass[slot, t, node, 0] = mass[slot, t, node, 1]
                mass[slot, t, node, 1] = 0


@kernel
def learn_decayed(masses: TreeMasses, slot: int, path: I64) -> None:
    """Add an event to each node of each path, in the cohort's masses and in the entity's."""
    cohort = masses.cohort
    if cohort[0, 0] >= COHORT_ROOT_MAX:
        for t in range(cohort.shape[0]):
            for node in range(cohort.shape[1]):
                cohort[t, node] *= 0.5
    for t in range(path.shape[0]):
        for depth in range(path.shape[1]):
            cohort[t, path[t, depth]] += 1.0
    if slot < 0:
        return
    mass = masses.mass
    if mass[slot, 0, 0, 0] >= ROOT_MAX:
        for t in range(mass.shape[1]):
            for node in range(mass.shape[2]):
                mass[slot, t, node, 0] >>= 1
    for t in range(path.shape[0]):
        for depth in range(path.shape[1]):
            mass[slot, t, path[t, depth], 0] += UNIT
    masses.learned[slot] += 1


@kernel
def may_learn(masses: TreeMasses, slot: int, time_ms: float, surprise: float) -> bool:
    """Whether the event is not surprising, or its entity pays a token to have it learned.

    Entities without masses (slot -1) share the first tokens.
    """
    strange = surprise > masses.quantile[-1]  # False while the trees have no score
    masses.strange[0] = update_share(masses.strange[0], strange)
    if masses.strange[0] >= MODEL_WRONG_SHARE:
        return True
    tokens = masses.tokens
    owner = 1 + slot
    elapsed_ms = max(time_ms - tokens[owner, TOKENS_MS], 0.0)
    tokens[owner, TOKENS] = earn_tokens(
        tokens[owner, TOKENS], elapsed_ms, TOKENS_PER_EVENT, TOKENS_PER_HOUR, TOKENS_MAX
    )
    tokens[owner, TOKENS_MS] += elapsed_ms
    if strange:
        if tokens[owner, TOKENS] < 1.0:
            return False
        tokens[owner, TOKENS] -= 1.0
    return True


@kernel
def reset_slot(masses: TreeMasses, slot: int, time_ms: float) -> None:
    """Clear the slot for a new entity."""
    masses.mass[slot] = 0
    masses.learned[slot] = 0
    masses.tokens[1 + slot, TOKENS] = TOKENS_MAX
    masses.tokens[1 + slot, TOKENS_MS] = time_ms


@kernel
def is_rare(surprise: float, quantile: F64, k: int, share: float, learn: bool) -> bool:
    """Whether a surprise is among the largest, of which there are `share`. quantile[k] is an estimate of
    the quantile: it rises by 1 - share of a step when exceeded, and else falls by share of a step."""
    rare = bool(surprise > quantile[k])
    if learn:
        step = QUANTILE_STEP * ((1.0 if rare else 0.0) - share)
        quantile[k] = max(quantile[k] * (1.0 + step), QUANTILE_MIN)
    return rare
