"""Half-space trees against River's own: the reference is the library, not a copy of it."""

import random
from itertools import pairwise
from math import log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import anomaly

from detectors.clock import unbounded_times
from detectors.entities import AdmittedEvents, EntityTable
from detectors.models.half_space_trees import (
    COHORT_EVENTS_MIN,
    HalfSpaceTrees,
    RiverTreesSpec,
    TreesSpec,
)
from detectors.models.pool import empty_pool, slots_of
from detectors.models.tail import TailOutput
from detectors.models.tree_masses import (
    COHORT_ROOT_MAX,
    ROOT_MAX,
    STRENGTH,
    UNIT,
    TreeMasses,
    learn_decayed,
    reset_slot,
)
from detectors.models.trees import TreeStructure, build, credit, walk, walk_expecting
from detectors.numeric.decay import HOUR_MS
from detectors.numeric.protection import TOKENS_MAX, TOKENS_PER_EVENT, TOKENS_PER_HOUR


def _river_scores(spec: RiverTreesSpec, scaled_values: list[dict[int, float]]) -> list[float]:
    river = anomaly.HalfSpaceTrees(
        n_trees=spec.trees, height=spec.height, window_size=spec.window, seed=spec.seed
    )
    scores = []
    for scaled in scaled_values:
        scores.append(float(river.score_one(scaled)))  # type: ignore[no-untyped-call]  # untyped
        river.learn_one(scaled)  # type: ignore[no-untyped-call]  # untyped
    return scores


def _our_scores(
    spec: RiverTreesSpec, features: int, scaled_values: list[dict[int, float]]
) -> list[float]:
    """Scores by River's definition, 0 in the first window."""
    trees = HalfSpaceTrees(spec, features, capacity=4)
    n = len(scaled_values)
    scaled = np.full((features, n), np.nan)
    for i, one in enumerate(scaled_values):
        for j, value in one.items():
            scaled[j, i] = value
    events = AdmittedEvents(
        row=np.zeros(n, np.int64),
        fresh=np.arange(n) == 0,
        time_ms=np.arange(n, dtype=np.float64),
        late=np.zeros(n, np.bool_),
        learn=np.ones(n, np.bool_),
        earlier_events=np.arange(n),
        bounded_ms=np.arange(n, dtype=np.float64),
        stream_ms=np.arange(n, dtype=np.float64),
        set_back=np.zeros(n, np.bool_),
    )
    nothing = np.full((features, n), np.nan)
    tail_output = TailOutput(nothing, nothing, nothing, scaled, np.ones(n, np.bool_))
    out = trees.process(events, tail_output)
    return [0.0 if np.isnan(score) else score for score in out.score.tolist()]


def _stream(seed: int, features: int, count: int, absent: float) -> list[dict[int, float]]:
    draw = random.Random(seed)
    full = {j: draw.random() for j in range(features)}
    rest = [
        {j: draw.betavariate(2, 5) for j in range(features) if draw.random() >= absent}
        for _ in range(count - 1)
    ]
    return [full, *rest]


@pytest.mark.parametrize("window", [1, 2, 50, 250, 400])
@pytest.mark.parametrize(
    ("trees", "height", "features", "absent"),
    [(10, 8, 5, 0.0), (25, 6, 2, 0.0), (3, 1, 1, 0.0), (7, 10, 12, 0.3)],
)
def test_scores_equal_rivers_bit_for_bit(
    window: int, trees: int, height: int, features: int, absent: float
) -> None:
    """Every score of 1,000 events equals River's to the last bit, absent features included."""
    spec = RiverTreesSpec(trees=trees, height=height, window=window, seed=window, min_events=0)
    scaled_values = _stream(window, features, 1_000, absent)
    assert _our_scores(spec, features, scaled_values) == _river_scores(spec, scaled_values)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    trees=st.integers(1, 8),
    height=st.integers(1, 7),
    window=st.integers(1, 60),
    features=st.integers(1, 6),
    absent=st.sampled_from([0.0, 0.2, 0.9]),
)
def test_scores_equal_rivers_over_any_configuration(
    seed: int, trees: int, height: int, window: int, features: int, absent: float
) -> None:
    """Whatever the configuration and the stream, scores equal River's to the last bit."""
    spec = RiverTreesSpec(trees=trees, height=height, window=window, seed=seed, min_events=0)
    scaled_values = _stream(seed, features, 200, absent)
    assert _our_scores(spec, features, scaled_values) == _river_scores(spec, scaled_values)


def events_of(admitted: AdmittedEvents, part: slice) -> AdmittedEvents:
    """A slice of the events."""
    return AdmittedEvents(
        row=admitted.row[part],
        fresh=admitted.fresh[part],
        time_ms=admitted.time_ms[part],
        late=admitted.late[part],
        learn=admitted.learn[part],
        earlier_events=admitted.earlier_events[part],
        bounded_ms=admitted.bounded_ms[part],
        stream_ms=admitted.stream_ms[part],
        set_back=admitted.set_back[part],
    )


edges = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])
scaled_values = st.one_of(edges, st.floats(0.0, 1.0))


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    window=st.integers(1, 12),
    scaled_values=st.lists(st.tuples(scaled_values, scaled_values), min_size=1, max_size=20),
    who=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 19)), min_size=1, max_size=150),
    cut=st.integers(0, 150),
)
def test_every_entity_has_its_own_river_model(
    seed: int,
    window: int,
    scaled_values: list[tuple[float, float]],
    who: list[tuple[int, int]],
    cut: int,
) -> None:
    """Entities in any order that share the structure score as if each had a River model of its own,
    values on a split and at the edges included, wherever the batch is cut; an entity that loses its
    row starts anew."""
    spec = RiverTreesSpec(trees=5, height=4, window=window, seed=seed, min_events=0)
    trees = HalfSpaceTrees(spec, 2, capacity=3)
    table = EntityTable(3)
    n = len(who)
    keys = np.array([(1 + key, 1) for key, _ in who], np.uint64)
    admitted = table.admit(keys, unbounded_times(np.arange(n, dtype=np.int64)), 0.0)
    scaled = np.array([scaled_values[which % len(scaled_values)] for _, which in who]).T
    score = np.empty(n)
    for part in (slice(0, cut), slice(cut, n)):
        here = scaled[:, part]
        nothing = np.full_like(here, np.nan)
        may_learn = np.ones(here.shape[1], np.bool_)
        tail_output = TailOutput(nothing, nothing, nothing, here, may_learn)
        score[part] = trees.process(events_of(admitted, part), tail_output).score
    rivers: dict[int, anomaly.HalfSpaceTrees] = {}
    for i, row in enumerate(admitted.row.tolist()):
        if admitted.fresh[i]:
            rivers[row] = anomaly.HalfSpaceTrees(n_trees=5, height=4, window_size=window, seed=seed)
        x = dict(enumerate(scaled[:, i].tolist()))
        expected = rivers[row].score_one(x)  # type: ignore[no-untyped-call]  # untyped
        rivers[row].learn_one(x)  # type: ignore[no-untyped-call]  # untyped
        assert (0.0 if np.isnan(score[i]) else score[i]) == expected


def test_the_comparison_can_fail() -> None:
    """Trees of another seed give other scores, so that the equality above means something."""
    scaled_values = _stream(1, 3, 400, 0.0)
    ours = _our_scores(RiverTreesSpec(window=100, seed=1, min_events=0), 3, scaled_values)
    assert ours != _river_scores(RiverTreesSpec(window=100, seed=2, min_events=0), scaled_values)


def _events(n: int) -> AdmittedEvents:
    return AdmittedEvents(
        row=np.zeros(n, np.int64),
        fresh=np.arange(n) == 0,
        time_ms=np.arange(n, dtype=np.float64) * HOUR_MS,
        late=np.zeros(n, np.bool_),
        learn=np.ones(n, np.bool_),
        earlier_events=np.arange(n),
        bounded_ms=np.arange(n, dtype=np.float64) * HOUR_MS,
        stream_ms=np.arange(n, dtype=np.float64) * HOUR_MS,
        set_back=np.zeros(n, np.bool_),
    )


class Polya:
    """One tree of the default kind in plain Python, by dictionaries and the formula."""

    def __init__(self, trees: TreeStructure, t: int) -> None:
        self.trees, self.t = trees, t
        self.mass = dict.fromkeys(range(trees.feature.shape[1]), 0)
        self.cohort = dict.fromkeys(range(trees.feature.shape[1]), 0.0)

    def path(self, scaled: list[float]) -> list[int]:
        """Root to leaf."""
        nodes = [0]
        while self.trees.child[nodes[-1]].any():
            here = nodes[-1]
            left, right = self.trees.child[here].tolist()
            goes_left = (
                scaled[self.trees.feature[self.t, here]] < self.trees.threshold[self.t, here]
            )
            nodes.append(left if goes_left else right)
        return nodes

    def log_density(self, nodes: list[int], has_slot: bool) -> float:
        """Σ ln(P(child)/room(child)) along the path."""
        total = 0.0
        for parent, child in pairwise(nodes):
            q = (self.cohort[child] + 0.5) / (self.cohort[parent] + 1.0)
            own, of = (self.mass[n] / UNIT if has_slot else 0.0 for n in (child, parent))
            total += log((own + STRENGTH * q) / (of + STRENGTH) / self.trees.room[self.t, child])
        return total

    def learn(self, nodes: list[int], has_slot: bool) -> None:
        """One more event."""
        if self.cohort[0] >= COHORT_ROOT_MAX:
            self.cohort = {n: 0.5 * c for n, c in self.cohort.items()}
        if has_slot and self.mass[0] >= ROOT_MAX:
            self.mass = {n: m >> 1 for n, m in self.mass.items()}
        for node in nodes:
            self.cohort[node] += 1.0
            self.mass[node] += UNIT if has_slot else 0


def test_the_default_score_is_the_polya_trees_log_density() -> None:
    """Over 3,000 events, through two halvings of the masses, the score equals the formula's within
    1e-12, both from the cohort alone and with the entity's own masses."""
    spec = TreesSpec(trees=3, height=5, min_events=20)
    trees = HalfSpaceTrees(spec, 4, capacity=2)
    n = 3_000
    scaled = np.random.Generator(np.random.PCG64(5)).beta(2, 3, (4, n))
    nothing = np.full((4, n), np.nan)
    tail_output = TailOutput(nothing, nothing, nothing, scaled, np.ones(n, np.bool_))
    score = trees.process(_events(n), tail_output).score
    plain = [Polya(trees.trees, t) for t in range(spec.trees)]
    for i in range(n):
        paths = [one.path(scaled[:, i].tolist()) for one in plain]
        has_slot = i >= spec.min_events
        if i >= COHORT_EVENTS_MIN:
            pairs = zip(plain, paths, strict=True)
            expected = sum(one.log_density(path, has_slot) for one, path in pairs) / spec.trees
            assert score[i] == pytest.approx(expected, rel=1e-12, abs=1e-12)
        for one, path in zip(plain, paths, strict=True):
            one.learn(path, has_slot)
    assert trees.masses.learned[0] == n - spec.min_events


def test_a_burst_of_strange_events_is_learned_as_far_as_tokens_go() -> None:
    """Of 200 events of one entity at extreme values, one a second, the trees learn as many strange
    ones as its tokens pay for: the saved tokens and those earned by time and events."""
    trees = HalfSpaceTrees(TreesSpec(trees=10, height=6, min_events=20), 8, capacity=2)
    calm, burst = 3_000, 200
    draw = np.random.Generator(np.random.PCG64(5))
    scaled = draw.beta(8, 8, (8, calm + burst))
    scaled[:, calm:] = draw.choice([0.02, 0.98], (8, burst))
    events = _events(calm + burst)
    events.time_ms[calm:] = events.time_ms[calm - 1] + 1000.0 * np.arange(1, burst + 1)
    strange = learned = 0
    for start, stop in pairwise([0, *range(calm, calm + burst + 1)]):
        here = scaled[:, start:stop]
        nothing = np.full_like(here, np.nan)
        tail_output = TailOutput(nothing, nothing, nothing, here, np.ones(stop - start, np.bool_))
        level, before = float(trees.masses.quantile[-1]), int(trees.masses.learned[0])
        surprise = trees.process(events_of(events, slice(start, stop)), tail_output).surprise
        if start >= calm and surprise[0] > level:
            strange += 1
            learned += int(trees.masses.learned[0]) - before
    paid = TOKENS_MAX + burst * TOKENS_PER_EVENT + TOKENS_PER_HOUR * burst / 3_600
    assert strange > 4 * paid
    assert 1 <= learned <= paid


@settings(deadline=None)  # the first case compiles
@given(seed=st.integers(0, 2**32))
def test_an_expected_value_is_walked_like_an_absent_one(seed: int) -> None:
    """Scored again with a feature as expected, an event takes the path that it takes without that
    feature, whatever else is absent."""
    draw = np.random.Generator(np.random.PCG64(seed))
    trees = build(4, 5, 7, 3, 1)
    mass = draw.integers(0, 100, (1, *trees.feature.shape, 1)).astype(np.uint16)
    scaled = draw.random(3)
    scaled[draw.integers(3)] = np.nan
    expected = np.arange(3) == draw.integers(3)
    path, other, wanted, held = (np.zeros((4, 6), np.int64) for _ in range(4))
    walk(trees, mass, 0, scaled, path)
    walk_expecting(trees, mass, 0, path, expected, scaled, other, held)
    walk(trees, mass, 0, np.where(expected, np.nan, scaled), wanted)
    assert (other == wanted).all()


def test_an_absent_feature_takes_no_share_from_later_ones() -> None:
    """Splits below a split on an absent feature are credited to their features; shares sum to 1."""
    trees = build(1, 3, 1, 2, 1)
    mass = np.full((1, *trees.feature.shape, 1), 50, np.uint16)
    scaled = np.array([0.3, 0.3])
    scaled[trees.feature[0, 0]] = np.nan
    path = np.zeros((1, 4), np.int64)
    walk(trees, mass, 0, scaled, path)
    mass[0, 0, path[0], 0] = 200, 100, 50, 25
    share = np.zeros((2, 1))
    credit(trees, mass, 0, scaled, path, share, 0)
    assert {int(trees.feature[0, node]) for node in path[0, :-1]} == {0, 1}
    assert share[trees.feature[0, 0], 0] == 0.0
    assert share.sum() == 1.0


def test_an_explanation_never_credits_an_absent_feature() -> None:
    """Whatever the events before and after it, a feature that an event lacks has no share in its
    explanation."""
    features, n = 4, 3_000
    draw = np.random.Generator(np.random.PCG64(2))
    scaled = draw.beta(2.0, 5.0, (features, n))
    scaled[draw.random((features, n)) < 0.3] = np.nan
    events = EntityTable(4).admit(
        np.full((n, 2), 7, np.uint64), unbounded_times(np.arange(n) * 60_000), 0.0
    )
    nothing = np.full((features, n), np.nan)
    tail_output = TailOutput(nothing, nothing, nothing, scaled, np.ones(n, np.bool_))
    trees = HalfSpaceTrees(TreesSpec(trees=4, height=5, min_events=3), features, capacity=4)
    shares = trees.process(events, tail_output).path_share
    explained = shares.sum(axis=0) > 0.0
    assert set(np.flatnonzero(explained & np.isnan(scaled).any(axis=0)) % 4) == {0, 1, 2, 3}
    assert not shares[np.isnan(scaled)].any()
    assert shares.sum(axis=0)[explained] == pytest.approx(1.0)


def test_full_cohort_masses_are_halved_once() -> None:
    """An event that finds the cohort's trees full halves every node's mass, then adds itself; memory
    after the last tree stays as it is."""
    structure = build(2, 3, 1, 1, 1)
    shape = structure.feature.shape
    memory = np.full((shape[1] + 2, shape[1]), 64.0)
    memory[0, 0] = COHORT_ROOT_MAX
    masses = TreeMasses(
        mass=np.zeros((0, *shape, 1), np.uint16),
        cohort=memory[:2],
        learned=np.zeros(0, np.int64),
        tokens=np.zeros((1, 2)),
        quantile=np.ones(3),
        strange=np.zeros(1),
    )
    path = np.zeros((2, 4), np.int64)
    walk(structure, np.ones((1, *shape, 1), np.uint16), 0, np.array([0.3]), path)
    learn_decayed(masses, -1, path)
    expected = np.full(shape, 32.0)
    expected[0, 0] = COHORT_ROOT_MAX / 2
    for t in range(2):
        expected[t, path[t]] += 1.0
    assert np.array_equal(memory[:2], expected)
    assert (memory[2:] == 64.0).all()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2), st.booleans()), max_size=60),
    st.integers(1, 4),
    st.integers(0, 2),
)
def test_slots_are_allocated_to_entities_with_history_and_freed_with_their_row(
    steps: list[tuple[int, int, bool]], slots: int, min_events: int
) -> None:
    """They equal a reference that stores who owns which slot: a learned event takes the slot that was
    freed last, or the next unused one; where there is none its entity stays without."""
    n = len(steps)
    pool = empty_pool(slots, 6)
    row = np.array([who for who, _, _ in steps], np.int64)
    seen = np.array([count for _, count, _ in steps], np.int64)
    learn = np.array([learned for *_, learned in steps], np.bool_)
    times = np.zeros(n)
    late = np.zeros(n, np.bool_)
    events = AdmittedEvents(row, seen == 0, times, late, learn, seen, times, times, late)
    owned: dict[int, int] = {}
    freed: list[int] = []
    unused = list(range(slots))
    expected = []
    for who, count, learned in steps:
        if count == 0 and who in owned:
            freed.append(owned.pop(who))
        allocated = learned and count >= min_events and who not in owned and bool(freed or unused)
        if allocated:
            owned[who] = freed.pop() if freed else unused.pop(0)
        expected.append((owned.get(who, -1), allocated))
    found = slots_of(pool, events, min_events)
    assert list(zip(found.slot.tolist(), found.allocated.tolist(), strict=True)) == expected


def test_a_new_entity_of_a_slot_has_no_history_and_all_tokens() -> None:
    """Resetting a slot clears its masses and fills its tokens from that time on; other slots, the
    cohort and the shared tokens stay."""
    shape = build(2, 3, 1, 1, 1).feature.shape
    masses = TreeMasses(
        mass=np.full((3, *shape, 1), 9, np.uint16),
        cohort=np.full(shape, 9.0),
        learned=np.full(3, 9),
        tokens=np.full((4, 2), 0.5),
        quantile=np.ones(3),
        strange=np.zeros(1),
    )
    reset_slot(masses, 1, 1_000.0)
    assert masses.mass.reshape(3, -1).max(axis=1).tolist() == [9, 0, 9]
    assert masses.learned.tolist() == [9, 0, 9]
    assert masses.tokens.tolist() == [[0.5, 0.5], [0.5, 0.5], [TOKENS_MAX, 1_000.0], [0.5, 0.5]]
    assert (masses.cohort == 9.0).all()
