"""Half-space trees: how alone does an event stand among its entity's, over all features at once?

One tree structure a monitor (`trees`), one row of masses an entity, given out once it has
`min_events` events, from a bounded pool. Features enter as places in [0, 1] among their cohort's
values; absent ones (NaN) are walked to the child of larger mass, as River does. Two kinds:

**half_space_trees**, the default. A node's mass is a 16-bit sum of weights of `UNIT` an event; when
a tree's root is full all are halved, so that an entity remembers 512 to 1,023 events (2.9 kB for 10
trees of height 6). The density of a leaf is that of a Pólya tree (M. Lavine, Ann. Stat. 1992) whose
prior is the cohort's tree, so that a short history says something, and a new entity is judged by
its peers:

    P(child) = (m_child + STRENGTH q)/(m_parent + STRENGTH)   q = (c_child + 1/2)/(c_parent + 1)
    surprise = max(0, TOP - mean over trees of Σ_path ln(P(child)/room(child)))

silent until the cohort has `COHORT_EVENTS_MIN` events; with m the entity's and c the cohort's
masses in events, room the child's share of its parent's space. Learning is protected as the tails'
is: a surprise among the `STRANGE_SHARE` largest is learned only while the entity has tokens for it,
and so is an event with a very strange feature. Cost: about 0.6 µs an event.

**river_trees**: `river.anomaly.HalfSpaceTrees` bit for bit. Two masses a node, of the last window
and of the current one (10 trees of height 8: 22 kB an entity).
Score: s = 1 - Σ_trees Σ_path r·2^depth / (trees · window · (2^(height+1) - 1)), r the mass of the
last full window, a path ended where r < window/10; surprise = -ln(1 - s). In its first window an
entity has no score (River says 0): NaN. As in River everything is learned; a dense burst becomes
normal after a window. Cost: about 0.6 µs an event.

Explanation: at events whose surprise, the trees' or one feature's, is among the `EXPLAIN_SHARE`
largest, each split on the path is credited ln((parent + 1)/(child + 1)) to its feature, and the
trees are scored again with the one, two and three most surprising features set to expected, that
is, walked to the child that more of the past events went to.
"""

from math import isnan, log
from typing import Annotated, Final, NamedTuple

import numpy as np
from msgspec import Meta

from detectors.entities import AdmittedEvents
from detectors.models.pool import USED, EventSlots, notify_write, pool, slots_of
from detectors.models.tail import TailOutput
from detectors.models.trees import TreeStructure, build, credit, hold, walk, walk_expecting
from detectors.numeric.kernels import kernel
from detectors.numeric.protection import (
    MODEL_WRONG_SHARE,
    TOKENS_MAX,
    TOKENS_PER_EVENT,
    TOKENS_PER_HOUR,
    earn_tokens,
    update_share,
)
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
from schemas.columns import F64, I64, U16, Bools

COUNTERFACTUAL_MAX: Final = 3
EXPLAIN_SHARE: Final = 0.002
STRANGE_SHARE: Final = 0.01
LEVEL_STEP: Final = 0.05
LEVEL_START: Final = 20.0
LEVEL_MIN: Final = 1e-3
MASS_MIN: Final = 1e-12
"""1 - s at least: a score of exactly 1 (a place no mass ever reached) has surprise 27.6."""
UNIT: Final = 64
ROOT_MAX: Final = 2**16 - 1 - UNIT
COHORT_ROOT_MAX: Final = 20_000.0
COHORT_EVENTS_MIN: Final = 500.0
STRENGTH: Final = 8.0
TOP: Final = 8.0

TOKENS, TOKENS_MS = range(2)


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
    """What the trees say.

    score: float64[n], River's, or the mean log density. surprise: float64[n], NaN where silent.
    path_share: float64[features, n], sums to 1 where an event was explained, else 0. order:
    int64[3, n], most surprising features first, -1 none. without: float64[3, n], the surprise with
    the first one, two, three of `order` at expected.
    """

    score: F64
    surprise: F64
    path_share: F64
    order: I64
    without: F64


class TreeMasses(NamedTuple):
    """mass: uint16[slots, trees, nodes, planes]. cohort: float64[trees, nodes], of all entities.
    learned: events a slot has learned. tokens: float64[1 + slots, 2], first those of entities
    without a slot. level: the surprise exceeded by `EXPLAIN_SHARE` of a feature's events,
    for each feature, then of the trees', and last by `STRANGE_SHARE` of what the trees learned.
    strange: the share of late that was above that."""

    mass: U16
    cohort: F64
    learned: I64
    tokens: F64
    level: F64
    strange: F64


class TreesSettings(NamedTuple):
    """window: River's, 0 in the default kind. min_events: history before masses are given out."""

    window: int
    min_events: int


class TreesScratch(NamedTuple):
    """What the kernel works in, an event and the next. here: float64[2, features], the places;
    path: int64[2, trees, height + 1], nodes; other_path, held: int64[trees, height + 1], nodes, and
    masses on one path; weight: float64[features]; expected: bool[features]."""

    here: F64
    path: I64
    other_path: I64
    held: I64
    weight: F64
    expected: Bools


class HalfSpaceTrees:
    """The masses of a monitor's entities, and what they say of each event."""

    arrays_by_slot: tuple[str, ...] = ("masses/mass",)
    before_write: WriteHook | None = None

    def __init__(self, spec: TreesSpec | RiverTreesSpec, features: int, capacity: int) -> None:
        window = spec.window if isinstance(spec, RiverTreesSpec) else 0
        planes = 2 if window else 1
        self.features = features
        self.settings = TreesSettings(window, spec.min_events)
        self.trees = build(spec.trees, spec.height, spec.seed, features, planes)
        shape = self.trees.feature.shape
        self.pool = pool(spec.entities_max, capacity)
        slots = len(self.pool.free)
        self.masses = TreeMasses(
            mass=aligned_zeros((slots, *shape, planes), np.uint16),
            cohort=np.zeros(shape),
            learned=np.zeros(slots, np.int64),
            tokens=np.zeros((1 + slots, 2)),
            level=np.ones(features + 2),
            strange=np.zeros(1),
        )
        self.masses.level[-1] = LEVEL_START
        walked = (len(self.trees.feature), spec.height + 1)
        self.scratch = TreesScratch(
            here=np.zeros((2, features)),
            path=np.zeros((2, *walked), np.int64),
            other_path=np.zeros(walked, np.int64),
            held=np.zeros(walked, np.int64),
            weight=np.zeros(features),
            expected=np.zeros(features, np.bool_),
        )

    def process(self, events: AdmittedEvents, tail_output: TailOutput) -> TreesOutput:
        """Score, then learn, each event in order. judged: what the tails said of its features."""
        n = len(events.row)
        out = TreesOutput(
            score=np.full(n, np.nan),
            surprise=np.full(n, np.nan),
            path_share=np.zeros((self.features, n)),
            order=np.full((COUNTERFACTUAL_MAX, n), -1, np.int64),
            without=np.full((COUNTERFACTUAL_MAX, n), np.nan),
        )
        slots = slots_of(self.pool, events, self.settings.min_events)
        notify_write(self, slots)
        _process(
            self.trees, self.settings, slots, self.masses, self.scratch, events, tail_output, out
        )
        return out

    def save(self) -> Arrays:
        """The masses in use and who owns them."""
        used = int(self.pool.marks[USED])
        masses = state_arrays(self.masses, {"mass": used, "learned": used, "tokens": 1 + used})
        return add_prefix({"pool": state_arrays(self.pool), "masses": masses})

    def load(self, state: Arrays) -> None:
        """Replace the masses by saved ones of the same specification."""
        load(self.pool, select_prefix("pool", state))
        load(self.masses, select_prefix("masses", state))


@kernel
def _river_score(trees: TreeStructure, window: int, held: I64) -> float:
    """River's score in [0, 1]: the same sums, of integers and so in any order."""
    count, depths = held.shape
    size_limit = 0.1 * window
    score = 0
    for t in range(count):
        goes_on = 1
        for depth in range(depths):
            score += (held[t, depth] << depth) * goes_on
            if held[t, depth] < size_limit:
                goes_on = 0
    nodes = (1 << (trees.height + 1)) - 1
    return float(1.0 - score / (count * window * nodes))


@kernel
def _log_density(trees: TreeStructure, cohort: F64, path: I64, held: I64) -> float:
    """Mean over the trees of the leaf's log density; with no masses held, the cohort's."""
    count, depths = path.shape
    total = 0.0
    for t in range(count):
        over = 1.0
        select_prefix = 1.0
        before = held[t, 0] / UNIT
        peers_before = cohort[t, 0]
        for depth in range(1, depths):
            node = path[t, depth]
            here = held[t, depth] / UNIT
            peers = cohort[t, node]
            # q is a quotient, whose divisor stands below: a division a tree, not one a node
            over *= here * (peers_before + 1.0) + STRENGTH * (peers + 0.5)
            select_prefix *= (before + STRENGTH) * (peers_before + 1.0) * trees.room[t, node]
            before = here
            peers_before = peers
        total += log(over / select_prefix)
    return float(total / count)


@kernel
def _surprise_of(
    trees: TreeStructure, settings: TreesSettings, cohort: F64, path: I64, held: I64
) -> tuple[float, float]:
    """(score, surprise) of a path."""
    if settings.window == 0:
        density = _log_density(trees, cohort, path, held)
        return density, max(TOP - density, 0.0)
    score = _river_score(trees, settings.window, held)
    return score, -log(max(1.0 - score, MASS_MIN))


@kernel
def _learn_window(settings: TreesSettings, masses: TreeMasses, slot: int, path: I64) -> None:
    """River's learn_one: one more on each node of each path; at the window's end the masses
    turn."""
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
def _learn_decayed(masses: TreeMasses, slot: int, path: I64) -> None:
    """One more event on each node of each path, the cohort's and the entity's."""
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
def _may_learn(masses: TreeMasses, slot: int, time_ms: float, surprise: float) -> bool:
    """Whether the event is ordinary, or its entity has a token to have it learned.

    Entities without masses (slot -1) have the first tokens in common.
    """
    strange = surprise > masses.level[-1]  # False while the trees are silent
    masses.strange[0] = update_share(masses.strange[0], strange)
    if masses.strange[0] >= MODEL_WRONG_SHARE:
        return True
    tokens = masses.tokens
    mine = 1 + slot
    since_ms = max(time_ms - tokens[mine, TOKENS_MS], 0.0)
    tokens[mine, TOKENS] = earn_tokens(
        tokens[mine, TOKENS], since_ms, TOKENS_PER_EVENT, TOKENS_PER_HOUR, TOKENS_MAX
    )
    tokens[mine, TOKENS_MS] += since_ms
    if strange:
        if tokens[mine, TOKENS] < 1.0:
            return False
        tokens[mine, TOKENS] -= 1.0
    return True


@kernel
def _empty(masses: TreeMasses, slot: int, time_ms: float) -> None:
    """Make the slot a new owner's."""
    masses.mass[slot] = 0
    masses.learned[slot] = 0
    masses.tokens[1 + slot, TOKENS] = TOKENS_MAX
    masses.tokens[1 + slot, TOKENS_MS] = time_ms


@kernel
def _is_rare(surprise: float, level: F64, which: int, share: float, learn: bool) -> bool:
    """Whether it is among that share of the largest; follows the quantile by steps: up by
    1 - share of a step when above it, down by share of one when below."""
    rare = bool(surprise > level[which])
    if learn:
        step = LEVEL_STEP * ((1.0 if rare else 0.0) - share)
        level[which] = max(level[which] * (1.0 + step), LEVEL_MIN)
    return rare


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
    """Credit the path; then score again with the most surprising features at expected."""
    scaled, path, weight = scratch.here[i & 1], scratch.path[i & 1], scratch.weight
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
        other, held = scratch.other_path, scratch.held
        walk_expecting(trees, masses.mass, slot, path, scratch.expected, scaled, other, held)
        out.without[k, i] = _surprise_of(trees, settings, masses.cohort, other, held)[1]


@kernel
def _is_certain(scaled: F64) -> bool:
    """Whether the event's way through the trees does not depend on masses."""
    absent = False
    for j in range(len(scaled)):
        absent |= isnan(scaled[j])
    return not absent


@kernel
def _approach(
    trees: TreeStructure, slot: int, masses: TreeMasses, scaled: F64, i: int, scratch: TreesScratch
) -> None:
    """Go event i's way before its turn, if that is certain, and send for the masses there: they
    are on their way while the event before is judged."""
    here = scratch.here[i & 1]
    for j in range(len(here)):
        here[j] = scaled[j, i]
    if _is_certain(here):
        walk(trees, masses.mass, slot, here, scratch.path[i & 1])


@kernel
def _process(
    trees: TreeStructure,
    settings: TreesSettings,
    slots: EventSlots,
    masses: TreeMasses,
    scratch: TreesScratch,
    events: AdmittedEvents,
    tail_output: TailOutput,
    out: TreesOutput,
) -> None:
    held = scratch.held
    features = tail_output.scaled.shape[0]
    n = len(events.row)
    for i in range(min(n, 1)):
        _approach(trees, slots.slot[i], masses, tail_output.scaled, i, scratch)
    for i in range(n):
        if i + 1 < n:
            _approach(trees, slots.slot[i + 1], masses, tail_output.scaled, i + 1, scratch)
        slot = slots.slot[i]
        if events.set_back[i]:
            masses.tokens[0, TOKENS_MS] = min(masses.tokens[0, TOKENS_MS], events.stream_ms[i])
        if slots.given[i]:
            _empty(masses, slot, events.time_ms[i])
        if slot < 0 and settings.window > 0:
            continue
        learn = events.learn[i]
        rare = False
        for j in range(features):
            if not isnan(tail_output.surprise[j, i]):
                rare |= _is_rare(tail_output.surprise[j, i], masses.level, j, EXPLAIN_SHARE, learn)
        here, path = scratch.here[i & 1], scratch.path[i & 1]
        if not _is_certain(here):
            walk(trees, masses.mass, slot, here, path)
        hold(masses.mass, slot, path, held)
        if settings.window > 0:
            speaks = masses.learned[slot] >= settings.window
        else:
            speaks = masses.cohort[0, 0] >= COHORT_EVENTS_MIN
        if speaks:
            said = _surprise_of(trees, settings, masses.cohort, path, held)
            out.score[i], out.surprise[i] = said
            rare |= _is_rare(out.surprise[i], masses.level, features, EXPLAIN_SHARE, learn)
            if rare and slot >= 0:
                _explain(trees, settings, masses, slot, scratch, tail_output.surprise, i, out)
        if settings.window > 0:
            if learn:
                _learn_window(settings, masses, slot, path)
        elif (
            learn
            and tail_output.ordinary[i]
            and _may_learn(masses, slot, events.time_ms[i], out.surprise[i])
        ):
            if speaks:
                _is_rare(out.surprise[i], masses.level, features + 1, STRANGE_SHARE, True)
            _learn_decayed(masses, slot, path)
