"""The structure of half-space trees, and the walks over it.

The structure does not depend on data (S. C. Tan, K. M. Ting, T. F. Liu, "Fast anomaly detection for
streaming data", IJCAI 2011): River builds it once for a monitor, and it is flattened to arrays.
Entities own only masses, whose meaning is defined in `half_space_trees`.
"""

from math import isnan, log
from typing import Final, NamedTuple

import numpy as np

from detectors.numeric.kernels import kernel
from detectors.numeric.prefetch import prefetch
from schemas.columns import F64, I32, I64, U16, Bools

LAST: Final = 0
BLOCK_LEVELS: Final = 4
BLOCK: Final = 1 << BLOCK_LEVELS
"""Nodes of four levels of a tree, one of them unused. With two masses a node they fill a cache line,
so that a path through nine levels loads three cache lines, not six."""


class TreeStructure(NamedTuple):
    """The structure: arrays [trees, nodes], node 0 the root.

    child: int32[nodes, 2], the same in every tree; 0 at a leaf. room: a child's share of its
    parent's interval. recent: the plane of masses that is being learned; plane `LAST` is scored.
    """

    child: I32
    feature: I32
    threshold: F64
    room: F64
    height: int
    recent: int


def build(count: int, height: int, seed: int, features: int, planes: int) -> TreeStructure:
    """River's trees as arrays. features: their number; planes: masses of a node, one or two."""
    from river.anomaly import (
        HalfSpaceTrees as RiverTrees,  # takes two seconds: only where there are trees
    )

    river = RiverTrees(n_trees=count, height=height, seed=seed)
    river.learn_one(dict.fromkeys(range(features), 0.5))  # type: ignore[no-untyped-call]  # untyped
    memory_position, nodes = positions(height)
    inner = 2**height - 1
    trees = TreeStructure(
        child=np.zeros((nodes, 2), np.int32),
        feature=np.zeros((count, nodes), np.int32),
        threshold=np.zeros((count, nodes)),
        room=np.ones((count, nodes)),
        height=height,
        recent=planes - 1,
    )
    for i in range(inner):
        trees.child[memory_position[i]] = memory_position[2 * i + 1], memory_position[2 * i + 2]
    for t, tree in enumerate(river.trees):
        stack = [(tree, 0, dict.fromkeys(range(features), (0.0, 1.0)))]
        while stack:
            node, i, limits = stack.pop()
            if i >= inner:
                continue
            low, high = limits[node.feature]
            trees.feature[t, memory_position[i]] = node.feature
            trees.threshold[t, memory_position[i]] = split = node.threshold
            trees.room[t, memory_position[2 * i + 1]] = (split - low) / (high - low)
            trees.room[t, memory_position[2 * i + 2]] = (high - split) / (high - low)
            stack += [
                (node.children[0], 2 * i + 1, limits | {node.feature: (low, split)}),
                (node.children[1], 2 * i + 2, limits | {node.feature: (split, high)}),
            ]
    return trees


def positions(height: int) -> tuple[list[int], int]:
    """(The position of each node in memory, the number of positions).

    Nodes are numbered level by level, the children of i being 2i + 1 and 2i + 2. They are stored in
    blocks of `BLOCK_LEVELS` levels; the root's block has the remaining levels.
    """
    memory_position = [0] * (2 ** (height + 1) - 1)
    levels = height + 1
    roots = [(0, levels % BLOCK_LEVELS or BLOCK_LEVELS)]
    for number, (root, depth) in enumerate(roots):  # grows while it is walked
        for level in range(depth):
            first = (root + 1) * 2**level - 1
            for k in range(2**level):
                memory_position[first + k] = number * BLOCK + 2**level - 1 + k
        first_child = (root + 1) * 2**depth - 1
        if first_child < len(memory_position):
            roots += [(first_child + k, BLOCK_LEVELS) for k in range(2**depth)]
    return memory_position, len(roots) * BLOCK


@kernel
def walk(trees: TreeStructure, mass: U16, slot: int, scaled: F64, path: I64) -> None:
    """Write the nodes on the event's path from root to leaf, and prefetch their masses.

    path: int64[trees, height + 1]. All trees are walked depth by depth, so that no walk waits for
    another.
    """
    count, depths = path.shape
    for t in range(count):
        path[t, 0] = 0
        if slot >= 0:
            prefetch(mass, (slot, t, 0, 0))
    for depth in range(1, depths):
        for t in range(count):
            node = path[t, depth - 1]
            value = scaled[trees.feature[t, node]]
            if isnan(value):
                node = _heavier_child(trees, mass, slot, t, node, trees.recent)
            else:
                node = trees.child[node, 0 if value < trees.threshold[t, node] else 1]
            path[t, depth] = node
            if slot >= 0 and node % BLOCK == 0:
                prefetch(mass, (slot, t, node, 0))


@kernel
def read_masses(mass: U16, slot: int, path: I64, masses_on_path: I64) -> None:
    """Read the last masses along a path; they are 0 without a slot (-1). masses_on_path: as path."""
    count, depths = path.shape
    for t in range(count):
        for depth in range(depths):
            masses_on_path[t, depth] = mass[slot, t, path[t, depth], LAST] if slot >= 0 else 0


@kernel
def _heavier_child(
    trees: TreeStructure, mass: U16, slot: int, t: int, node: int, plane: int
) -> int:
    """The node's child of larger mass; the left one where masses are equal."""
    left, right = trees.child[node, 0], trees.child[node, 1]
    if slot < 0 or mass[slot, t, left, plane] >= mass[slot, t, right, plane]:
        return int(left)
    return int(right)


@kernel
def walk_expecting(
    trees: TreeStructure,
    mass: U16,
    slot: int,
    path: I64,
    expected: Bools,
    scaled: F64,
    other_path: I64,
    masses_on_path: I64,
) -> None:
    """As `walk`, but go to the child of larger mass at splits on features in `expected`."""
    count, depths = path.shape
    for t in range(count):
        other_path[t, 0] = 0
        masses_on_path[t, 0] = mass[slot, t, 0, LAST]
        for depth in range(1, depths):
            node = other_path[t, depth - 1]
            f = trees.feature[t, node]
            if expected[f]:
                node = _heavier_child(trees, mass, slot, t, node, LAST)
            elif node == path[t, depth - 1]:
                node = path[t, depth]
            elif isnan(scaled[f]):
                node = _heavier_child(trees, mass, slot, t, node, trees.recent)
            else:
                node = trees.child[node, 0 if scaled[f] < trees.threshold[t, node] else 1]
            other_path[t, depth] = node
            masses_on_path[t, depth] = mass[slot, t, node, LAST]


@kernel
def credit(
    trees: TreeStructure, mass: U16, slot: int, scaled: F64, path: I64, share: F64, i: int
) -> None:
    """Credit each split on the paths to its feature: the more mass it excludes, the more credit.

    share: float64[features, n], of which column i is written; it sums to 1, or is 0.
    """
    share[:, i] = 0.0
    total = 0.0
    for t in range(path.shape[0]):
        for depth in range(path.shape[1] - 1):
            mass_here = mass[slot, t, path[t, depth], LAST]
            f = trees.feature[t, path[t, depth]]
            if mass_here == 0:
                break
            if isnan(scaled[f]):
                continue
            gain = log((mass_here + 1.0) / (mass[slot, t, path[t, depth + 1], LAST] + 1.0))
            share[f, i] += max(gain, 0.0)
            total += max(gain, 0.0)
    if total > 0.0:
        for f in range(share.shape[0]):
            share[f, i] /= total
