"""The tail detector against scipy's exact distributions, and its protection against poisoning."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import special, stats  # type: ignore[import-untyped]  # comes with river

from detectors.entities import AdmittedEvents
from detectors.models import tail
from detectors.models.tail import TailSpec
from detectors.models.tail.cohort import update_strange_share
from detectors.models.tail.layout import (
    BLOCK_LANES,
    BLOCK_WORDS,
    COHORT_WORDS,
    ENTITY_WORDS,
    IS_STRANGE,
    LANES,
    MEAN,
    MEMORY_EVENTS,
    STRANGE_SHARE,
    VALUE,
)
from detectors.models.tail.normal import normal_of_t, t_of_normal
from detectors.models.tail.rate import SHAPE_MAX, surprise_of_count
from detectors.models.tail.share import PRIOR_EVENTS
from detectors.monitor import Monitor, MonitorSpec
from detectors.numeric.beta import incomplete_beta
from detectors.numeric.protection import MODEL_WRONG_SHARE, SHARE_MEMORY
from detectors.spec import FeatureSpec, seconds
from schemas.columns import F64, I64
from tests.streams import batch


def _admitted(row: I64, hours_apart: int = 0) -> AdmittedEvents:
    n = len(row)
    return AdmittedEvents(
        row=row,
        fresh=np.array([i == 0 or row[i] not in row[:i] for i in range(n)]),
        time_ms=1e12 + 3.6e6 * hours_apart * np.arange(n, dtype=np.float64),
        late=np.zeros(n, np.bool_),
        learn=np.ones(n, np.bool_),
        earlier_events=np.zeros(n, np.int64),
        bounded_ms=1e12 + 3.6e6 * hours_apart * np.arange(n, dtype=np.float64),
        stream_ms=1e12 + 3.6e6 * hours_apart * np.arange(n, dtype=np.float64),
        set_back=np.zeros(n, np.bool_),
    )


def _shape(family: int, side: int) -> tail.TailLayout:
    return tail.tail_layout([family], [side], shift=[0.0], root=[False], low=[0.0], high=[1.0])


def _judge(
    row: I64, values: F64, family: int, side: int, hours_apart: int = 0
) -> tuple[tail.TailOutput, F64, F64]:
    """Score one feature's values; also the entities' words and the cohort afterwards."""
    shape = _shape(family, side)
    words = np.zeros((int(row.max()) + 1, tail.words_per_entity(shape)))
    cohort = np.zeros((1, 1, tail.COHORT_WORDS))
    tail_output = tail.empty_output(1, len(row))
    tail.score(
        words,
        0,
        _admitted(row, hours_apart),
        values[:, None].T,
        shape,
        1e15,
        cohort,
        np.zeros(len(row), np.int64),
        tail_output,
    )
    return tail_output, words, cohort


def _p(tail_output: tail.TailOutput) -> F64:
    """float64[n]: the raw p-values of the one feature."""
    p: F64 = np.exp(-tail_output.surprise[0])
    return p


@pytest.mark.parametrize("df", [4.0, 10.0, 100.0])
@pytest.mark.parametrize("p", [0.2, 1e-2, 1e-4, 1e-6])
def test_the_normal_approximation_of_t_is_as_close_as_stated(df: float, p: float) -> None:
    """Wallace's tail is within 25 % (at 1e-6, within a factor 2) of the exact one."""
    t = float(stats.t.isf(p, df))
    z = normal_of_t(t * t, df)
    assert stats.norm.sf(z) == pytest.approx(p, rel=0.25 if p > 1e-6 else 1.0)
    assert t_of_normal(z, df) == pytest.approx(t, rel=1e-9)


def test_stationary_values_have_uniform_p() -> None:
    """On log-normal entities around a log-normal cohort, raw p-values are near uniform."""
    draw = np.random.Generator(np.random.PCG64(3))
    row = draw.integers(0, 300, 30_000)
    level = draw.normal(3.0, 1.0, 300)
    tail_output, _, _ = _judge(row, np.exp(level[row] + draw.normal(0, 0.5, 30_000)), 0, tail.BOTH)
    p = _p(tail_output)[3_000:]
    assert stats.kstest(p, "uniform").statistic < 0.03


def test_a_new_entity_is_scored_by_its_peers() -> None:
    """The first value of a new entity is ordinary at the cohort's level and rare far above it."""
    draw = np.random.Generator(np.random.PCG64(4))
    row = np.concatenate([draw.integers(0, 200, 20_000), [200, 201]])
    level = draw.normal(3.0, 0.3, 202)
    values = np.exp(level[row] + draw.normal(0, 0.3, len(row)))
    values[-2:] = np.exp([3.0, 6.0])
    tail_output, _, _ = _judge(row, values, tail.NORMAL, tail.HIGH)
    assert _p(tail_output)[-2] > 0.3
    assert _p(tail_output)[-1] < 5e-3


def test_a_known_entity_is_scored_by_its_own_history() -> None:
    """The same amount is rare for a small spender and ordinary for a big one."""
    draw = np.random.Generator(np.random.PCG64(5))
    row = np.concatenate([draw.integers(0, 50, 20_000), [0, 49]])
    level = np.linspace(1.0, 6.0, 50)
    values = np.exp(level[row] + draw.normal(0, 0.3, len(row)))
    values[-2:] = np.exp(6.0)
    tail_output, _, _ = _judge(row, values, tail.NORMAL, tail.HIGH)
    assert _p(tail_output)[-2] < 1e-6
    assert _p(tail_output)[-1] > 0.05


def test_a_burst_does_not_become_normal_at_once() -> None:
    """Twenty payments at a hundred times the usual amount all stay below p = 1e-2."""
    draw = np.random.Generator(np.random.PCG64(6))
    row = np.concatenate([draw.integers(0, 50, 10_000), np.zeros(20, np.int64)])
    values = np.exp(3.0 + draw.normal(0, 0.4, len(row)))
    values[-20:] *= 100.0
    tail_output, _, _ = _judge(row, values, tail.NORMAL, tail.HIGH)
    assert (_p(tail_output)[-20:] < 1e-2).all()


def test_a_busy_newcomer_becomes_ordinary() -> None:
    """Thirty times its peers' rate is rare at first and ordinary after 150 events."""
    draw = np.random.Generator(np.random.PCG64(7))
    row = np.concatenate([draw.integers(0, 200, 10_000), np.full(200, 200)])
    values = 1.0 + draw.poisson(1.0, len(row))
    values[-200:] = 1.0 + draw.poisson(30.0, 200)
    tail_output, _, _ = _judge(row, values.astype(np.float64), tail.RATE, tail.HIGH, hours_apart=1)
    assert (_p(tail_output)[-200:-190] < 1e-4).all()
    assert np.median(_p(tail_output)[-50:]) > 0.05


def test_a_share_is_the_beta_binomial_predictive() -> None:
    """P(1) is (s q + k)/(s + n) with the cohort's share q; a 0 never surprises."""
    row = np.concatenate([np.repeat(np.arange(100), 20), [5]])
    values = np.zeros(len(row))
    values[:2000:10] = 1.0
    values[-1] = 1.0
    tail_output, _, cohort = _judge(row, values, tail.SHARE, tail.HIGH)
    q = cohort[0, 0, MEAN]
    s = PRIOR_EVENTS
    assert _p(tail_output)[-1] == pytest.approx((s * q + 2.0) / (s + 20.0), rel=0.05)
    zeros = (values == 0.0) & ~np.isnan(tail_output.surprise[0])
    assert (tail_output.surprise[0, zeros] == 0.0).all()


def test_absent_values_are_neither_scored_nor_learned() -> None:
    """For a NaN value p is NaN, and the statistics of entity and cohort stay unchanged."""
    row = np.zeros(5, np.int64)
    tail_output, words, cohort = _judge(row, np.full(5, np.nan), tail.NORMAL, tail.BOTH)
    assert np.isnan(tail_output.surprise).all()
    assert (words[0, ENTITY_WORDS:] == 0.0).all()
    assert (cohort == 0.0).all()


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32), half_life=st.sampled_from(["10min", "1h", "30d"]))
def test_an_entitys_statistics_are_weighted_sums(seed: int, half_life: str) -> None:
    """Count, mean and squared deviations of ln(value + 0.01) equal the weighted sums over all
    earlier values within 1e-9, each weight halving every half-life and their sum held at
    `MEMORY_EVENTS`."""
    spec = MonitorSpec(
        name="account",
        entity="account",
        inputs=["shop"],
        features=[FeatureSpec(name="status", kind="value", field="status")],
        detectors=[TailSpec(half_life=half_life)],
    )
    events = batch(seed, 1_500, entities=3, late=0.05)
    # All about as far from the mean, so that none is winsorised.
    draw = np.random.Generator(np.random.PCG64(seed))
    off = draw.choice([-1.0, 1.0], len(events)) * draw.uniform(0.4, 0.5, len(events))
    events.number["status"][:] = np.exp(4.5 + off)
    watching = Monitor(spec, (1, 2))
    watched = watching.process(events)
    y = np.log(watched.feature_values.values[0] + 0.01)
    for row in range(3):
        mine = (watched.admitted.row == row) & watched.admitted.learn
        time_ms = watched.admitted.time_ms[mine]
        weight = np.empty(0)
        for since_ms in np.diff(time_ms, prepend=time_ms[0]):
            weight = np.append(weight * 0.5 ** (since_ms / (1000.0 * seconds(half_life))), 1.0)
            weight *= min(1.0, MEMORY_EVENTS / weight.sum())
        mean = np.average(y[mine], weights=weight)
        at = watching.tail_first_word + ENTITY_WORDS
        np.testing.assert_allclose(
            watching.words[row, at : at + BLOCK_WORDS : LANES],
            [weight.sum(), mean, (weight * (y[mine] - mean) ** 2).sum()],
            rtol=1e-9,
        )


@pytest.mark.parametrize(
    ("x", "a", "b"),
    [
        (0.8203429366347192, 51.510842571873006, 10.5),  # on the edge between the two fractions
        (1e-6, 0.01, 10.0),
        (0.3, 3.0, 7.0),
        (0.999, 40.0, 1.0),
        (0.9, 1000.0, 0.05),
    ],
)
def test_the_incomplete_beta_function_is_scipys(x: float, a: float, b: float) -> None:
    """It equals scipy's within 1e-6, and terminates where rounding allows either side."""
    assert incomplete_beta(x, a, b) == pytest.approx(float(special.betainc(a, b, x)), rel=1e-6)


@pytest.mark.parametrize(("x", "expected"), [(-1.5, 0.0), (0.0, 0.0), (1.0, 1.0), (1.5, 1.0)])
def test_beyond_its_range_the_beta_distribution_has_no_mass(x: float, expected: float) -> None:
    """Up to 0 the function is 0, from 1 on 1, exactly."""
    for a, b in ((0.5, 0.5), (1.0, 9.0), (40.0, 2.0)):
        assert incomplete_beta(x, a, b) == expected


@settings(deadline=None)  # the first case compiles
@given(a=st.floats(0.01, 1e4), share=st.floats(0.01, 0.99))
def test_a_known_rates_tail_is_the_beta_functions_finite_sum(a: float, share: float) -> None:
    """At the largest shape the finite sum equals scipy's incomplete beta function within 1e-9 of
    -ln p."""
    p = float(special.betainc(a, SHAPE_MAX, share))
    assume(p > 1e-290)
    found = surprise_of_count(share, a, SHAPE_MAX)
    assert found == pytest.approx(-np.log(p), rel=1e-9, abs=1e-9)


def test_an_entity_is_compared_with_its_own_cohort_once_that_is_known() -> None:
    """An expensive value is ordinary in an expensive cohort, and a cheap one strange; a cohort with
    few events is scored as everybody."""
    draw = np.random.Generator(np.random.PCG64(8))
    row = np.concatenate([np.arange(4_000), [4_000, 4_001, 4_002]])
    peers = np.concatenate([np.arange(4_000) % 2 + 1, [1, 2, 3]])
    y = np.where(peers == 1, 2.0, 6.0) + draw.normal(0, 0.3, len(row))
    y[-3:] = 6.0
    shape = _shape(tail.NORMAL, tail.HIGH)
    words = np.zeros((len(row), tail.words_per_entity(shape)))
    cohort = np.zeros((4, 1, tail.COHORT_WORDS))
    tail_output = tail.empty_output(1, len(row))
    values = np.exp(y)[:, None].T
    tail.score(words, 0, _admitted(row), values, shape, 1e15, cohort, peers, tail_output)
    cheap, dear, unknown = _p(tail_output)[-3:]
    assert cheap < 1e-4
    assert dear > 0.3
    assert 0.05 < unknown < 0.5


@pytest.mark.parametrize("family", [tail.NORMAL, tail.RATE, tail.SHARE])
def test_a_feature_is_scored_alike_in_every_lane(family: int) -> None:
    """Eleven features with the same values, in two blocks, are each scored as one feature is alone,
    and protected as it is; three different features are scored alike in the reverse order, where one
    of them alone has a burst."""
    draw = np.random.Generator(np.random.PCG64(5))
    row = draw.integers(0, 9, 2_000)
    some = draw.gamma(0.5, 2.0, (11, 2_000))
    some[0, 1_500:][row[1_500:] == 0] *= 30.0
    if family == tail.SHARE:
        some = (some > 1.0).astype(np.float64)
    elif family == tail.NORMAL:
        some = np.log1p(some)
    alone = _score_features(row, some[:1], family)
    same = _score_features(row, np.repeat(some[:1], 11, axis=0), family)
    for one, many in zip(alone[:-1], same[:-1], strict=True):
        assert np.array_equal(many, np.repeat(one, 11, axis=0), equal_nan=True)
    assert np.array_equal(alone.trees_may_learn, same.trees_may_learn)
    found, reverse = (_score_features(row, values, family) for values in (some[:3], some[2::-1]))
    for one, other in zip(found[:-1], reverse[:-1], strict=True):
        assert np.array_equal(one[::-1], other, equal_nan=True)
    assert np.array_equal(found.trees_may_learn, reverse.trees_may_learn)


def _score_features(row: I64, values: F64, family: int) -> tail.TailOutput:
    """Score features of one family. values: float64[features, n]."""
    count = len(values)
    layout = tail.tail_layout(
        [family] * count,
        [tail.HIGH] * count,
        shift=[0.0] * count,
        root=[False] * count,
        low=[0.0] * count,
        high=[1.0] * count,
    )
    words = np.zeros((int(row.max()) + 1, tail.words_per_entity(layout)))
    cohort = np.zeros((1, len(layout.blocks), tail.COHORT_WORDS))
    out = tail.empty_output(count, len(row))
    admitted = _admitted(row)
    values = np.ascontiguousarray(values)
    tail.score(words, 0, admitted, values, layout, 1e15, cohort, np.zeros(len(row), np.int64), out)
    return out


@pytest.mark.parametrize("learn", [True, False])
def test_where_most_values_are_strange_none_is(learn: bool) -> None:
    """Each lane's share of strange values follows the learned events alone; from `MODEL_WRONG_SHARE`
    on no value of that lane is strange, in other lanes all are as before."""
    below, above = MODEL_WRONG_SHARE - 0.001, MODEL_WRONG_SHARE + 0.001
    shares = np.array([0.0, below, above, 0.5, 0.0, below, above, 0.5])
    strange = np.array([1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0])
    values = np.array([2.0] * 7 + [np.nan])
    everybody, lanes = np.zeros(COHORT_WORDS), np.zeros(BLOCK_LANES)
    everybody[STRANGE_SHARE : STRANGE_SHARE + LANES] = shares
    lanes[IS_STRANGE : IS_STRANGE + LANES] = strange
    lanes[VALUE : VALUE + LANES] = values
    update_strange_share(everybody, lanes, learn)
    after = shares + (strange - shares) / SHARE_MEMORY if learn else shares.copy()
    after[7] = shares[7]
    found = everybody[STRANGE_SHARE : STRANGE_SHARE + LANES]
    assert found == pytest.approx(after, rel=1e-12)
    assert lanes[IS_STRANGE : IS_STRANGE + LANES].tolist() == [1, 1, 0, 0, 0, 0, 0, 0]
