"""Half-space trees: how isolated is an event among its entity's earlier events, over all features?

All entities of a monitor share one structure of trees (`trees`). An entity with `min_events` events gets a row of
masses from a bounded pool. Features enter scaled to [0, 1] by their cohort; at a split on an absent
feature (NaN) the walk goes to the child of larger mass, as in River. There are two kinds:

**half_space_trees**, the default. A node's mass is a 16-bit sum with weight `UNIT` an event; when the
root of a tree is full all masses are halved, so that an entity remembers 512 to 1,023 events (2.9 kB
for 10 trees of height 6). The density of a leaf is that of a Pólya tree (M. Lavine, Ann. Stat. 1992)
whose prior is the cohort's tree, so that a short history is used, and a new entity is scored by its
peers:

    P(child) = (m_child + STRENGTH q)/(m_parent + STRENGTH)   q = (c_child + 1/2)/(c_parent + 1)
    surprise = max(0, TOP - mean over trees of Σ_path ln(P(child)/room(child)))

with m the entity's and c the cohort's masses in events, room the child's share of its parent's
space; no output until the cohort has `COHORT_EVENTS_MIN` events. Learning is protected as in the
tails: an event whose surprise is among the `STRANGE_SHARE` largest, or with a very strange feature,
is learned only if the entity has a token for it. Cost: about 0.6 µs an event.

**river_trees**: `river.anomaly.HalfSpaceTrees` bit for bit. A node has two masses, of the last window
and of the current one (10 trees of height 8: 22 kB an entity).
Score: s = 1 - Σ_trees Σ_path r·2^depth / (trees · window · (2^(height+1) - 1)), r the mass of the
last full window, a path ending where r < window/10; surprise = -ln(1 - s). In its first window an
entity has no score: NaN (River says 0). As in River every event is learned, so that a dense burst is
normal after a window. Cost: about 0.6 µs an event.

Explanation: at events whose surprise, of the trees or of one feature, is among the `EXPLAIN_SHARE`
largest, each split on the path credits ln((parent + 1)/(child + 1)) to its feature. The event is then
scored again with the one, two and three most surprising features at their expected values: at a
split on such a feature the walk goes to the child of larger mass.
"""

from math import isnan
from typing import Annotated, Final, NamedTuple

import numpy as np
from msgspec import Meta

from detectors.entities import AdmittedEvents
from detectors.models.pool import USED, EventSlots, empty_pool, notify_write, slots_of
from detectors.models.tail import TailOutput
from detectors.models.tree_masses import (
    QUANTILE_START,
    TOKENS_MS,
    TreeMasses,
    TreesSettings,
    is_rare,
    learn_decayed,
    learn_window,
    may_learn,
    reset_slot,
    score_path,
)
from detectors.models.trees import TreeStructure, build, credit, read_masses, walk, walk_expecting
from detectors.numeric.kernels import kernel
from detectors.spec import DetectorSpec
from detectors.state import (
    Arrays,
    WriteHook,
    add_prefix,
    aligned_zeros,
    load,
    select_prefix,
    state_arrays,
)
from schemas.columns import F64, I64, Bools

COUNTERFACTUAL_MAX: Final = 3
"""Largest number of features that are set to their expected values."""
EXPLAIN_SHARE: Final = 0.002
STRANGE_SHARE: Final = 0.01
COHORT_EVENTS_MIN: Final = 500.0


class TreesSpec(DetectorSpec, frozen=True, kw_only=True, tag="half_space_trees"):
    """Half-space trees with decayed masses, smoothed by the cohort's."""

    trees: Annotated[int, Meta(ge=1, le=100)] = 10
    """Number of trees."""
    height: Annotated[int, Meta(ge=1, le=12)] = 6
    """Height of each tree."""
    seed: int = 0
    """Seed of the random splits."""
    min_events: Annotated[int, Meta(ge=0)] = 20
    """Events of an entity before it gets masses of its own."""
    entities_max: Annotated[int, Meta(ge=0, le=100_000_000)] = 100_000_000
    """Upper bound on the entities with masses of their own; never more than the monitor's
    `capacity`."""


class RiverTreesSpec(DetectorSpec, frozen=True, kw_only=True, tag="river_trees"):
    """River's half-space trees, bit for bit."""

    trees: Annotated[int, Meta(ge=1, le=100)] = 10
    """Number of trees."""
    height: Annotated[int, Meta(ge=1, le=12)] = 8
    """Height of each tree."""
    window: Annotated[int, Meta(ge=1, le=30_000)] = 250
    """Events after which a window's masses become the reference."""
    seed: int = 0
    """Seed of the random splits."""
    min_events: Annotated[int, Meta(ge=0)] = 20
    """Events of an entity before it gets masses of its own."""
    entities_max: Annotated[int, Meta(ge=1, le=10_000_000)] = 10_000
    """Upper bound on the entities with masses of their own; never more than the monitor's
    `capacity`."""


class TreesOutput(NamedTuple):
    """The trees' output for n events.

    score: float64[n], River's, or the mean log density. surprise: float64[n], NaN where there is no
    score. path_share: float64[features, n], each feature's credit, which sums to 1 where an event
    was explained, else 0. order: int64[3, n], the most surprising features first, -1 none.
    counterfactual_surprise: float64[3, n], the surprise if the first one, two, three features of
    `order` had their expected values.
    """

    score: F64
    surprise: F64
    path_share: F64
    order: I64
    counterfactual_surprise: F64


class TreesScratch(NamedTuple):
    """Scratch of the kernel, for an event and the next. scaled: float64[2, features]. path: int64[2,
    trees, height + 1], nodes. other_path, masses_on_path: int64[trees, height + 1], the nodes of
    another path, and the masses on a path. weight: float64[features]. expected: bool[features]."""

    scaled: F64
    path: I64
    other_path: I64
    masses_on_path: I64
    weight: F64
    expected: Bools


class HalfSpaceTrees:
    """The trees of a monitor and the masses of its entities."""

    arrays_by_slot: tuple[str, ...] = ("masses/mass",)
    before_write: WriteHook | None = None

    def __init__(self, spec: TreesSpec | RiverTreesSpec, features: int, capacity: int) -> None:
        window = spec.window if isinstance(spec, RiverTreesSpec) else 0
        planes = 2 if window else 1
        self.features = features
        self.settings = TreesSettings(window, spec.min_events)
        self.trees = build(spec.trees, spec.height, spec.seed, features, planes)
        shape = self.trees.feature.shape
        self.pool = empty_pool(spec.entities_max, capacity)
        slots = len(self.pool.free)
        self.masses = TreeMasses(
            mass=aligned_zeros((slots, *shape, planes), np.uint16),
            cohort=np.zeros(shape),
            learned=np.zeros(slots, np.int64),
            tokens=np.zeros((1 + slots, 2)),
            quantile=np.ones(features + 2),
            strange=np.zeros(1),
        )
        self.masses.quantile[-1] = QUANTILE_START
        path_shape = (len(self.trees.feature), spec.height + 1)
        self.scratch = TreesScratch(
            scaled=np.zeros((2, features)),
            path=np.zeros((2, *path_shape), np.int64),
            other_path=np.zeros(path_shape, np.int64),
            masses_on_path=np.zeros(path_shape, np.int64),
            weight=np.zeros(features),
            expected=np.zeros(features, np.bool_),
        )

    def process(self, admitted: AdmittedEvents, tail_output: TailOutput) -> TreesOutput:
        """Score, then learn, each event in order. tail_output: of the same events."""
        n = len(admitted.row)
        out = TreesOutput(
            score=np.full(n, np.nan),
            surprise=np.full(n, np.nan),
            path_share=np.zeros((self.features, n)),
            order=np.full((COUNTERFACTUAL_MAX, n), -1, np.int64),
            counterfactual_surprise=np.full((COUNTERFACTUAL_MAX, n), np.nan),
        )
        slots = slots_of(self.pool, admitted, self.settings.min_events)
        notify_write(self, slots)
        _process(
            self.trees, self.settings, slots, self.masses, self.scratch, admitted, tail_output, out
        )
        return out

    def save(self) -> Arrays:
        """The masses in use, and the rows that they belong to."""
        used = int(self.pool.marks[USED])
        masses = state_arrays(self.masses, {"mass": used, "learned": used, "tokens": 1 + used})
        return add_prefix({"pool": state_arrays(self.pool), "masses": masses})

    def load(self, state: Arrays) -> None:
        """Replace the masses by saved ones of the same declaration."""
        load(self.pool, select_prefix("pool", state))
        load(self.masses, select_prefix("masses", state))


@kernel
def _explain(
    trees: TreeStructure,
    settings: TreesSettings,
    masses: TreeMasses,
    slot: int,
    scratch: TreesScratch,
    tail_surprise: F64,
    i: int,
    out: TreesOutput,
) -> None:
    """Credit the splits on the path to features; then score again with the most surprising ones as
    expected."""
    scaled, path, weight = scratch.scaled[i & 1], scratch.path[i & 1], scratch.weight
    credit(trees, masses.mass, slot, scaled, path, out.path_share, i)
    for j in range(len(scaled)):
        scratch.expected[j] = False
        weight[j] = out.surprise[i] * out.path_share[j, i]
        if not isnan(tail_surprise[j, i]):
            weight[j] += tail_surprise[j, i]
    for k in range(min(COUNTERFACTUAL_MAX, len(scaled))):
        best = np.argmax(weight)
        if weight[best] <= 0.0:
            break
        weight[best] = -1.0
        scratch.expected[best] = True
        out.order[k, i] = best
        other, masses_on_path = scratch.other_path, scratch.masses_on_path
        walk_expecting(
            trees, masses.mass, slot, path, scratch.expected, scaled, other, masses_on_path
        )
        out.counterfactual_surprise[k, i] = score_path(
            trees, settings, masses.cohort, other, masses_on_path
        )[1]


@kernel
def _is_complete(scaled: F64) -> bool:
    """Whether no feature is absent, so that the event's path does not depend on masses."""
    absent = False
    for j in range(len(scaled)):
        absent |= isnan(scaled[j])
    return not absent


@kernel
def _walk_ahead(
    trees: TreeStructure, slot: int, masses: TreeMasses, scaled: F64, i: int, scratch: TreesScratch
) -> None:
    """Walk the path of the next event, i, if no feature is absent, so that its masses are prefetched
    while the current event is scored."""
    event_scaled = scratch.scaled[i & 1]
    for j in range(len(event_scaled)):
        event_scaled[j] = scaled[j, i]
    if _is_complete(event_scaled):
        walk(trees, masses.mass, slot, event_scaled, scratch.path[i & 1])


@kernel
def _process(
    trees: TreeStructure,
    settings: TreesSettings,
    slots: EventSlots,
    masses: TreeMasses,
    scratch: TreesScratch,
    admitted: AdmittedEvents,
    tail_output: TailOutput,
    out: TreesOutput,
) -> None:
    masses_on_path = scratch.masses_on_path
    features = tail_output.scaled.shape[0]
    n = len(admitted.row)
    for i in range(min(n, 1)):
        _walk_ahead(trees, slots.slot[i], masses, tail_output.scaled, i, scratch)
    for i in range(n):
        if i + 1 < n:
            _walk_ahead(trees, slots.slot[i + 1], masses, tail_output.scaled, i + 1, scratch)
        slot = slots.slot[i]
        if admitted.set_back[i]:
            masses.tokens[0, TOKENS_MS] = min(masses.tokens[0, TOKENS_MS], admitted.stream_ms[i])
        if slots.allocated[i]:
            reset_slot(masses, slot, admitted.time_ms[i])
        if slot < 0 and settings.window > 0:
            continue
        learn = admitted.learn[i]
        rare = False
        for j in range(features):
            if not isnan(tail_output.surprise[j, i]):
                rare |= is_rare(
                    tail_output.surprise[j, i], masses.quantile, j, EXPLAIN_SHARE, learn
                )
        event_scaled, path = scratch.scaled[i & 1], scratch.path[i & 1]
        if not _is_complete(event_scaled):
            walk(trees, masses.mass, slot, event_scaled, path)
        read_masses(masses.mass, slot, path, masses_on_path)
        if settings.window > 0:
            is_ready = masses.learned[slot] >= settings.window
        else:
            is_ready = masses.cohort[0, 0] >= COHORT_EVENTS_MIN
        if is_ready:
            scored = score_path(trees, settings, masses.cohort, path, masses_on_path)
            out.score[i], out.surprise[i] = scored
            rare |= is_rare(out.surprise[i], masses.quantile, features, EXPLAIN_SHARE, learn)
            if rare and slot >= 0:
                _explain(trees, settings, masses, slot, scratch, tail_output.surprise, i, out)
        if settings.window > 0:
            if learn:
                learn_window(settings, masses, slot, path)
        elif (
            learn
            and tail_output.trees_may_learn[i]
            and may_learn(masses, slot, admitted.time_ms[i], out.surprise[i])
        ):
            if is_ready:
                is_rare(out.surprise[i], masses.quantile, features + 1, STRANGE_SHARE, True)
            learn_decayed(masses, slot, path)
