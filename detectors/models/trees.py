"""The trees under half-space trees: their structure, and the walks over it.

The structure does not depend on data (S. C. Tan, K. M. Ting, T. F. Liu, "Fast anomaly detection for
streaming data", IJCAI 2011), so River builds it once for a monitor and it is flattened to arrays;
entities own only masses. What the masses mean is `half_space_trees`' business.
"""

from math import isnan, log
from typing import NamedTuple

import numpy as np

from detectors.kernels import kernel
from schemas.columns import F64, I64, U16, Bools


class Trees(NamedTuple):
    """The structure: [trees, nodes], node i's children 2i + 1 and 2i + 2.

    room: of a child, its share of its parent's interval. last, recent: which mass of a node speaks
    of the past, and which one is being learned.
    """

    feature: I64
    threshold: F64
    room: F64
    height: int
    last: int
    recent: int


def build(count: int, height: int, seed: int, features: int, planes: int) -> Trees:
    """River's trees for so many features, as arrays; with one plane of masses or two."""
    from river.anomaly import (
        HalfSpaceTrees as RiverTrees,  # two seconds, only where there are trees
    )

    river = RiverTrees(n_trees=count, height=height, seed=seed)
    river.learn_one(dict.fromkeys(range(features), 0.5))  # type: ignore[no-untyped-call]  # untyped
    nodes = 2 ** (height + 1) - 1
    trees = Trees(
        feature=np.zeros((count, nodes), np.int64),
        threshold=np.zeros((count, nodes)),
        room=np.ones((count, nodes)),
        height=height,
        last=0,
        recent=planes - 1,
    )
    for t, tree in enumerate(river.trees):
        stack = [(tree, 0, dict.fromkeys(range(features), (0.0, 1.0)))]
        while stack:
            node, i, limits = stack.pop()
            if 2 * i + 2 >= nodes:
                continue
            low, high = limits[node.feature]
            trees.feature[t, i] = node.feature
            trees.threshold[t, i] = at = node.threshold
            trees.room[t, 2 * i + 1] = (at - low) / (high - low)
            trees.room[t, 2 * i + 2] = (high - at) / (high - low)
            stack += [
                (node.children[0], 2 * i + 1, limits | {node.feature: (low, at)}),
                (node.children[1], 2 * i + 2, limits | {node.feature: (at, high)}),
            ]
    return trees


@kernel
def walk(trees: Trees, mass: U16, slot: int, place: F64, path: I64) -> None:
    """The nodes that the event passes, root to leaf. path: int64[trees, height + 1].

    Depth by depth, all trees at once: their walks do not wait for each other. Without a slot (-1)
    no child is heavier.
    """
    count, depths = path.shape
    path[:, 0] = 0
    for depth in range(1, depths):
        for t in range(count):
            node = path[t, depth - 1]
            left = 2 * node + 1
            value = place[trees.feature[t, node]]
            if isnan(value):
                path[t, depth] = _heavier(mass, slot, t, left, trees.recent)
            else:
                path[t, depth] = left + (0 if value < trees.threshold[t, node] else 1)


@kernel
def _heavier(mass: U16, slot: int, t: int, left: int, plane: int) -> int:
    """The child of larger mass; the left one where they are equal."""
    if slot < 0 or mass[slot, t, left, plane] >= mass[slot, t, left + 1, plane]:
        return left
    return left + 1


@kernel
def walk_expecting(
    trees: Trees, mass: U16, slot: int, path: I64, expected: Bools, other_path: I64, place: F64
) -> None:
    """As `walk`, but splits on `expected` features go to the child of larger last mass."""
    count, depths = path.shape
    other_path[:, 0] = 0
    for t in range(count):
        for depth in range(1, depths):
            node = other_path[t, depth - 1]
            left = 2 * node + 1
            f = trees.feature[t, node]
            if expected[f]:
                other_path[t, depth] = _heavier(mass, slot, t, left, trees.last)
            elif node == path[t, depth - 1]:
                other_path[t, depth] = path[t, depth]
            else:
                is_left = place[f] < trees.threshold[t, node]
                other_path[t, depth] = left if is_left else left + 1


@kernel
def credit(trees: Trees, mass: U16, slot: int, place: F64, path: I64, share: F64, i: int) -> None:
    """Credit each split on the paths to its feature by how much mass it left behind.

    share: float64[features, n], of which column i is written; it sums to 1, or is 0.
    """
    share[:, i] = 0.0
    total = 0.0
    for t in range(path.shape[0]):
        for depth in range(path.shape[1] - 1):
            here = mass[slot, t, path[t, depth], trees.last]
            f = trees.feature[t, path[t, depth]]
            if here == 0 or isnan(place[f]):
                break
            gain = log((here + 1.0) / (mass[slot, t, path[t, depth + 1], trees.last] + 1.0))
            share[f, i] += max(gain, 0.0)
            total += max(gain, 0.0)
    if total > 0.0:
        for f in range(share.shape[0]):
            share[f, i] /= total
