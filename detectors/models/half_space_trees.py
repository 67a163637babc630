"""Half-space trees, River's bit for bit: one tree structure a monitor, one row of masses an entity.

S. C. Tan, K. M. Ting, T. F. Liu, "Fast anomaly detection for streaming data", IJCAI 2011, as
`river.anomaly.HalfSpaceTrees` implements it. The structure does not depend on data, so River
builds it once and it is flattened to arrays; an entity owns only its masses, 4 bytes a node (10
trees of height 8: 20 kB), given out once it has `min_events` events, from a bounded pool.

Score: s = 1 - Σ_trees Σ_path r·2^depth / (trees · window · (2^(height+1) - 1)), r the mass of the
last full window, a path ended where r < window/10. Surprise = -ln(1 - s), so that the rare end
has room. Places (features scaled to [0, 1]) that are NaN are walked as River walks absent
features: to the child of larger mass. In its first window an entity has no score (River says 0):
NaN. As in River, everything is learned; a dense burst becomes normal after a window.
Cost: about 1 µs an event for 10 x 8.

Explanation: at events whose surprise, the trees' or one feature's, is among the `EXPLAIN_SHARE`
largest, each split on the path is credited ln((parent + 1)/(child + 1)) to its feature, and the trees are scored
again with the one, two and three most surprising features set to expected, that is, walked to the
child that more of the last window's events went to.
"""

from math import isnan, log
from typing import Annotated, Final, NamedTuple

import numpy as np
from msgspec import Meta
from river.anomaly import HalfSpaceTrees as RiverTrees

from detectors.combination import P_MIN
from detectors.entities import Admitted
from detectors.kernels import kernel
from detectors.spec import DetectorSpec
from detectors.state import Arrays, load, saved
from schemas.columns import F64, I32, I64, U16, Bools

EXPLAIN_SHARE: Final = 0.002
LEVEL_STEP: Final = 0.05
COUNTERFACTUAL_MAX: Final = 3
MASS_MIN: Final = 1e-12
"""1 - s at least: a score of exactly 1 (a place no mass ever reached) has surprise 27.6."""

LAST, RECENT = range(2)
FREE, USED = range(2)


class TreesSpec(DetectorSpec, frozen=True, kw_only=True, tag="half_space_trees"):
    """River's half-space trees over the feature vector, one mass array an entity.

    min_events: events after which an entity gets masses; entities_max: how many may have them.
    """

    trees: Annotated[int, Meta(ge=1, le=100)] = 10
    height: Annotated[int, Meta(ge=1, le=12)] = 8
    window: Annotated[int, Meta(ge=1, le=30_000)] = 250
    seed: int = 0
    min_events: Annotated[int, Meta(ge=0)] = 20
    entities_max: Annotated[int, Meta(ge=1, le=10_000_000)] = 10_000


class Isolated(NamedTuple):
    """What the trees say. score: float64[n], River's. surprise: float64[n]. path_share: float64[features, n], sums to 1 where
    an event was explained, else 0. order: int64[3, n], most surprising features first, -1 none.
    without: float64[3, n], the surprise with the first one, two, three of `order` at expected."""

    score: F64
    surprise: F64
    path_share: F64
    order: I64
    without: F64


class Trees(NamedTuple):
    """The structure: [trees, nodes], node i's children 2i + 1 and 2i + 2."""

    feature: I64
    threshold: F64
    height: int
    window: int
    min_events: int


class Masses(NamedTuple):
    """mass: uint16[slots, trees, nodes, 2], of the last window and of the recent one. learned:
    events a slot has learned. slot_of: a row's slot, -1 none. free: slots given back. level: for
    each feature, and last the trees, the surprise that `EXPLAIN_SHARE` of the events exceed."""

    mass: U16
    learned: I64
    slot_of: I32
    free: I32
    marks: I64
    level: F64


def structure(spec: TreesSpec, features: int) -> Trees:
    """River's trees for so many features, as arrays."""
    river = RiverTrees(
        n_trees=spec.trees, height=spec.height, window_size=spec.window, seed=spec.seed
    )
    river.learn_one(dict.fromkeys(range(features), 0.5))  # type: ignore[no-untyped-call]  # untyped
    nodes = 2 ** (spec.height + 1) - 1
    feature = np.zeros((spec.trees, nodes), np.int64)
    threshold = np.zeros((spec.trees, nodes))
    for t, tree in enumerate(river.trees):
        stack = [(tree, 0)]
        while stack:
            node, i = stack.pop()
            if 2 * i + 2 >= nodes:
                continue
            feature[t, i] = node.feature
            threshold[t, i] = node.threshold
            stack += [(node.children[0], 2 * i + 1), (node.children[1], 2 * i + 2)]
    return Trees(feature, threshold, spec.height, spec.window, spec.min_events)


class HalfSpaceTrees:
    """The masses of a monitor's entities, and the walk over them."""

    def __init__(self, spec: TreesSpec, features: int, capacity: int) -> None:
        self.features = features
        self.trees = structure(spec, features)
        slots = min(spec.entities_max, capacity)
        self.masses = Masses(
            mass=np.zeros((slots, *self.trees.feature.shape, 2), np.uint16),
            learned=np.zeros(slots, np.int64),
            slot_of=np.full(capacity, -1, np.int32),
            free=np.zeros(slots, np.int32),
            marks=np.zeros(2, np.int64),
            level=np.ones(features + 1),
        )

    def process(self, events: Admitted, place: F64, tail_p: F64) -> Isolated:
        """Score, then learn, each event in order. place, tail_p: float64[features, n]."""
        n = len(events.row)
        out = Isolated(
            score=np.full(n, np.nan),
            surprise=np.full(n, np.nan),
            path_share=np.zeros((self.features, n)),
            order=np.full((COUNTERFACTUAL_MAX, n), -1, np.int64),
            without=np.full((COUNTERFACTUAL_MAX, n), np.nan),
        )
        _process(self.trees, self.masses, events, place, tail_p, out)
        return out

    def save(self) -> Arrays:
        """The masses in use and who owns them."""
        used = int(self.masses.marks[USED])
        return saved(self.masses, {"mass": used, "learned": used})

    def load(self, state: Arrays) -> None:
        """Replace the masses by saved ones of the same specification."""
        load(self.masses, state)


@kernel
def _walk(trees: Trees, mass: U16, place: F64, path: I64) -> None:
    """The nodes that the event passes, root to leaf. path: int64[trees, height + 1]."""
    count, depths = path.shape
    for t in range(count):
        node = 0
        path[t, 0] = 0
        for depth in range(1, depths):
            left = 2 * node + 1
            value = place[trees.feature[t, node]]
            if isnan(value):
                lighter_left = mass[t, left, RECENT] < mass[t, left + 1, RECENT]
                node = left + 1 if lighter_left else left
            else:
                node = left if value < trees.threshold[t, node] else left + 1
            path[t, depth] = node


@kernel
def _walk_expecting(
    trees: Trees, mass: U16, path: I64, expected: Bools, other_path: I64, place: F64
) -> None:
    """As `_walk`, but splits on `expected` features go to the child of larger last mass."""
    count, depths = path.shape
    for t in range(count):
        for depth in range(1, depths):
            node = other_path[t, depth - 1]
            left = 2 * node + 1
            f = trees.feature[t, node]
            if expected[f]:
                lighter_left = mass[t, left, LAST] < mass[t, left + 1, LAST]
                other_path[t, depth] = left + 1 if lighter_left else left
            elif node == path[t, depth - 1]:
                other_path[t, depth] = path[t, depth]
            else:
                is_left = place[f] < trees.threshold[t, node]
                other_path[t, depth] = left if is_left else left + 1


@kernel
def _score(trees: Trees, mass: U16, path: I64) -> float:
    """River's score in [0, 1]: the same sums in the same order."""
    count, depths = path.shape
    size_limit = 0.1 * trees.window
    score = 0.0
    for t in range(count):
        depth_pow = 1
        of_tree = 0.0
        for depth in range(depths):
            r = mass[t, path[t, depth], LAST]
            of_tree += r * depth_pow
            if r < size_limit:
                break
            depth_pow <<= 1
        score += of_tree
    return float(1.0 - score / (count * trees.window * trees.feature.shape[1]))


@kernel
def _learn(mass: U16, path: I64) -> None:
    """River's learn_one: one more on each node of each path."""
    for t in range(path.shape[0]):
        for depth in range(path.shape[1]):
            mass[t, path[t, depth], RECENT] += 1


@kernel
def _turn_window(mass: U16) -> None:
    """The recent masses become the last window's."""
    for t in range(mass.shape[0]):
        for node in range(mass.shape[1]):
            mass[t, node, LAST] = mass[t, node, RECENT]
            mass[t, node, RECENT] = 0


@kernel
def _credit(trees: Trees, mass: U16, place: F64, path: I64, credit: F64) -> None:
    """Credit each split on the paths to its feature by how much mass it left behind."""
    credit[:] = 0.0
    for t in range(path.shape[0]):
        for depth in range(path.shape[1] - 1):
            here = mass[t, path[t, depth], LAST]
            f = trees.feature[t, path[t, depth]]
            if here == 0 or isnan(place[f]):
                break
            gain = log((here + 1.0) / (mass[t, path[t, depth + 1], LAST] + 1.0))
            credit[f] += max(gain, 0.0)
    total = credit.sum()
    if total > 0.0:
        credit /= total


@kernel
def _surprise(score: float) -> float:
    return -log(max(1.0 - score, MASS_MIN))


@kernel
def _slot(trees: Trees, masses: Masses, row: int, seen: int, learn: bool) -> int:
    """The row's slot, given out now if it is due and one is left; else -1."""
    if masses.slot_of[row] >= 0 or not learn or seen < trees.min_events:
        return int(masses.slot_of[row])
    marks = masses.marks
    if marks[FREE] > 0:
        marks[FREE] -= 1
        slot = int(masses.free[marks[FREE]])
        masses.mass[slot] = 0
        masses.learned[slot] = 0
    elif marks[USED] < len(masses.learned):
        slot = int(marks[USED])
        marks[USED] += 1
    else:
        return -1
    masses.slot_of[row] = slot
    return slot


@kernel
def _give_back(masses: Masses, row: int) -> None:
    """The row has a new entity: its slot, if it had one, is free."""
    if masses.slot_of[row] >= 0:
        masses.free[masses.marks[FREE]] = masses.slot_of[row]
        masses.marks[FREE] += 1
        masses.slot_of[row] = -1


@kernel
def _is_rare(surprise: float, level: F64, detector: int) -> bool:
    """Whether it is among the detector's `EXPLAIN_SHARE` largest; follows that quantile by steps:
    up by 1 - share of a step when above it, down by share of one when below."""
    rare = bool(surprise > level[detector])
    level[detector] *= 1.0 + LEVEL_STEP * ((1.0 if rare else 0.0) - EXPLAIN_SHARE)
    return rare


@kernel
def _explain(
    trees: Trees, mass: U16, place: F64, path: I64, tail_p: F64, i: int, out: Isolated
) -> None:
    """Credit the path; then score again with the most surprising features at expected."""
    credit = out.path_share[:, i]
    _credit(trees, mass, place, path, credit)
    weight = np.empty(len(place))
    for j in range(len(place)):
        weight[j] = out.surprise[i] * credit[j]
        if not isnan(tail_p[j, i]):
            weight[j] -= log(max(tail_p[j, i], P_MIN))
    expected = np.zeros(len(place), np.bool_)
    other_path = np.zeros_like(path)
    for k in range(min(COUNTERFACTUAL_MAX, len(place))):
        best = np.argmax(weight)
        if weight[best] <= 0.0:
            break
        weight[best] = -1.0
        expected[best] = True
        out.order[k, i] = best
        _walk_expecting(trees, mass, path, expected, other_path, place)
        out.without[k, i] = _surprise(_score(trees, mass, other_path))


@kernel
def _process(
    trees: Trees, masses: Masses, events: Admitted, place: F64, tail_p: F64, out: Isolated
) -> None:
    features = place.shape[0]
    here = np.empty(features)
    path = np.empty((len(trees.feature), trees.height + 1), np.int64)
    for i in range(len(events.row)):
        if events.fresh[i]:
            _give_back(masses, events.row[i])
        slot = _slot(trees, masses, events.row[i], events.seen[i], events.learn[i])
        if slot < 0:
            continue
        mass = masses.mass[slot]
        rare = False
        for j in range(features):
            here[j] = place[j, i]
            if not isnan(tail_p[j, i]):
                rare |= _is_rare(-log(max(tail_p[j, i], P_MIN)), masses.level, j)
        _walk(trees, mass, here, path)
        if masses.learned[slot] >= trees.window:
            out.score[i] = _score(trees, mass, path)
            out.surprise[i] = _surprise(out.score[i])
            if _is_rare(out.surprise[i], masses.level, features) or rare:
                _explain(trees, mass, here, path, tail_p, i, out)
        if events.learn[i]:
            _learn(mass, path)
            masses.learned[slot] += 1
            if masses.learned[slot] % trees.window == 0:
                _turn_window(mass)
