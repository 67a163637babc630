"""The measures against scikit-learn where it has them, else against brute force."""

from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import default_rng
from scipy.stats import norm  # type: ignore[import-untyped]
from scipy.stats import t as student
from sklearn import metrics

from schemas.columns import F64, I64
from stream.evaluation.measures import (
    BLOCKS_MIN,
    FALSE_POSITIVES,
    HONEST,
    RECALL_STEPS,
    RankedRows,
    RankingMeasures,
    RankingReader,
    RankingTotals,
    _tail,
    average_precision,
    found_in_top,
    quantile,
    ratio,
    resample_weights,
    roc_auc,
    with_interval,
)

BLOCKS = 8
SCENARIOS = 2
cases = st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=40).filter(
    lambda rows: 0 < sum(fraud for _, fraud in rows) < len(rows)
)


class Case(NamedTuple):
    """A ranking not yet in order, one row an event."""

    score: F64
    block: I64
    scenario_index: I64
    cents: I64


def case(seed: int, events: int, distinct: int) -> Case:
    """Events of which one in five is a fraud, with so many distinct scores."""
    rng = default_rng(seed)
    return Case(
        score=rng.integers(0, distinct, events) / 8.0,
        block=rng.integers(0, BLOCKS, events),
        scenario_index=np.where(
            rng.random(events) < 0.2, rng.integers(0, SCENARIOS, events), HONEST
        ),
        cents=rng.integers(-50, 10_000, events),
    )


def ranked(of: Case, weights: F64, cuts: list[int], budgets: F64 | None = None) -> RankingMeasures:
    """The measures, the ranking taken in pieces."""
    fraud = of.scenario_index != HONEST
    honest = np.bincount(of.block[~fraud], minlength=BLOCKS)
    kinds = [
        np.bincount(of.block[of.scenario_index == s], minlength=BLOCKS) for s in range(SCENARIOS)
    ]
    reader = RankingReader(RankingTotals(honest, np.stack(kinds, axis=1)), weights, budgets)
    order = np.argsort(-of.score, kind="stable")
    for rows in np.split(order, sorted(cuts)):
        ones = np.ones(len(rows), np.int64)
        reader.add(
            RankedRows(
                of.score[rows], of.block[rows], of.scenario_index[rows], ones, of.cents[rows]
            )
        )
    return reader.finish()


def recall_at(truth: Any, score: F64, weight: F64) -> float:
    """The recall at the share of false positives, of scikit-learn's ROC curve."""
    false, true, _ = metrics.roc_curve(truth, score, sample_weight=weight, drop_intermediate=False)
    honest = weight[~truth].sum()
    return float(true[false * honest <= np.floor(FALSE_POSITIVES * honest) + 1e-9].max())


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 99),
    st.integers(50, 3_000),
    st.sampled_from([3, 40, 10**6]),
    st.lists(st.integers(0, 50), max_size=4),
)
def test_every_resample_is_measured_as_scikit_learn_does(
    seed: int, events: int, distinct: int, cuts: list[int]
) -> None:
    """AUC, average precision and recall at few false positives equal scikit-learn's with the
    resample's weights, however the ranking is cut into pieces and however many scores are equal."""
    of, weights = case(seed, events, distinct), resample_weights(BLOCKS, 3)
    found = ranked(of, weights, cuts)
    truth = of.scenario_index != HONEST
    for b in range(weights.shape[1]):
        weight = weights[of.block, b]
        if not 0 < weight[truth].sum() < weight.sum():
            assert np.isnan(found.roc_auc[b])
            continue
        auc = metrics.roc_auc_score(truth, of.score, sample_weight=weight)
        assert found.roc_auc[b] == pytest.approx(auc, abs=1e-12)
        precision = metrics.average_precision_score(truth, of.score, sample_weight=weight)
        assert found.average_precision[b] == pytest.approx(precision, abs=1e-12)
        assert found.recall_at_false_positives[b] == recall_at(truth, of.score, weight)


@pytest.mark.parametrize(("honest", "frauds"), [(0, 3), (1, 3), (2, 3), (3, 0), (3, 1)])
def test_few_rows_are_measured_where_both_kinds_are(honest: int, frauds: int) -> None:
    """Where the frauds score highest every measure is 1, of a single honest event or a single fraud
    too; without a fraud, or without an honest event, none is defined."""
    n = honest + frauds
    of = Case(
        np.arange(n, dtype=np.float64),
        np.zeros(n, np.int64),
        np.array([HONEST] * honest + [0] * frauds),
        np.ones(n, np.int64),
    )
    found = ranked(of, np.ones((BLOCKS, 1)), [1])
    expected = 1.0 if honest and frauds else np.nan
    for one in (found.roc_auc, found.average_precision, found.recall_at_false_positives):
        assert np.array_equal(one, [expected], equal_nan=True)


def test_a_scenario_is_measured_against_everything_honest() -> None:
    """Its AUC and average precision are scikit-learn's over its frauds and the honest events."""
    of = case(1, 2_000, 300)
    found = ranked(of, resample_weights(BLOCKS, 1), [100, 101, 1_500])
    for s in range(SCENARIOS):
        rows = (of.scenario_index == s) | (of.scenario_index == HONEST)
        truth, score = of.scenario_index[rows] == s, of.score[rows]
        assert found.scenario_auc[s] == pytest.approx(metrics.roc_auc_score(truth, score))
        precision = metrics.average_precision_score(truth, score)
        assert found.scenario_average_precision[s] == pytest.approx(precision)


def test_the_precision_recall_curve_lies_on_scikit_learns() -> None:
    """Each point is one of scikit-learn's, none is given twice, and the last has every fraud."""
    of = case(2, 5_000, 2_000)
    curve = ranked(of, resample_weights(BLOCKS, 1), [700, 2_000]).by_recall
    truth = of.scenario_index != HONEST
    precision, recall, thresholds = metrics.precision_recall_curve(truth, of.score)
    at = np.searchsorted(thresholds, curve.score)
    assert thresholds[at] == pytest.approx(curve.score, abs=0)
    assert curve.frauds / curve.events == pytest.approx(precision[at])
    assert curve.frauds / truth.sum() == pytest.approx(recall[at])
    assert curve.frauds[-1] == truth.sum()
    assert (np.diff(curve.score) < 0).all()
    assert len(curve.score) > RECALL_STEPS / 2


def test_a_budgets_threshold_is_the_lowest_that_keeps_within_it() -> None:
    """No more events than the budget lie at or above it, one distinct score lower there are more;
    frauds and their amounts are those at or above it."""
    of, budgets = case(3, 1_000, 40), np.array([1.0, 60.0, 500.0, 5_000.0])
    curve = ranked(of, resample_weights(BLOCKS, 1), [10, 400], budgets).by_budget
    assert curve.events[0] == 0, "the highest score has more than one event here"
    for k in (1, 2, 3):
        above = of.score >= curve.score[k]
        lower = of.score[~above].max(initial=-1.0)
        assert above.sum() == curve.events[k] <= budgets[k]
        assert lower < 0 or (of.score >= lower).sum() > budgets[k]
        frauds = above & (of.scenario_index != HONEST)
        assert curve.frauds[k] == frauds.sum()
        assert curve.cents[k] == of.cents[frauds].sum()
    assert curve.events[3] == 1_000


@settings(deadline=None)
@given(cases)
def test_auc_is_the_share_of_pairs_in_order(rows: list[tuple[int, bool]]) -> None:
    """AUC equals the share of (fraud, honest) pairs in which the fraud scores higher, ties half."""
    pairs = [
        1.0 if f > h else 0.5 if f == h else 0.0
        for f, is_fraud in rows
        if is_fraud
        for h, honest in rows
        if not honest
    ]
    score = np.array([float(s) for s, _ in rows])
    fraud = np.array([f for _, f in rows])
    assert abs(roc_auc(score, fraud) - sum(pairs) / len(pairs)) < 1e-12


@settings(deadline=None)
@given(cases)
def test_average_precision_steps_down_the_distinct_scores(rows: list[tuple[int, bool]]) -> None:
    """AP equals the sum over distinct thresholds of recall gained times precision there."""
    score = np.array([float(s) for s, _ in rows])
    fraud = np.array([f for _, f in rows])
    total, before = 0.0, 0
    for threshold in sorted(set(score.tolist()), reverse=True):
        asked = score >= threshold
        hits = int((fraud & asked).sum())
        total += (hits - before) / fraud.sum() * hits / asked.sum()
        before = hits
    assert abs(average_precision(score, fraud) - total) < 1e-12


def test_blocks_are_drawn_whole_and_the_same_each_time() -> None:
    """Each resample draws as many blocks as there are; the first column is the data."""
    weights = resample_weights(9, 50)
    assert (weights[:, 0] == 1).all()
    assert (weights.sum(axis=0) == 9).all()
    assert (weights == resample_weights(9, 50)).all()
    assert len(np.unique(weights[:, 1:], axis=1).T) > 40


def test_a_ratio_is_of_sums_and_has_the_interval_of_its_resamples() -> None:
    """The interval lies around the ratios of resampled sums, a little wider than their middle 95 %;
    without a denominator there is no figure."""
    rng = default_rng(5)
    whole = rng.integers(50, 100, 60)
    part = rng.binomial(whole, 0.3)
    weights = resample_weights(60)
    found = ratio(part, whole, weights)
    assert found.value == part.sum() / whole.sum()
    sums = [(part @ w) / (whole @ w) for w in weights.T[1:]]
    plain = np.quantile(sums, [0.025, 0.975])
    deviation = np.sqrt(0.3 * 0.7 / whole.sum())
    assert found.low is not None
    assert found.high is not None
    assert min(sums) <= found.low < plain[0] < plain[1] < found.high <= max(sums)
    assert 2.5 < (found.high - found.low) / deviation < 5.5, "about four deviations of a share"
    assert ratio(part, np.zeros(60, np.int64), weights).value is None


def test_too_few_days_have_no_interval() -> None:
    """Seven blocks that hold anything have none, eight have one, however many are empty; nor has a
    ratio in which no resample differs, such as a precision without a hit."""
    weights = resample_weights(30)
    for held, whether in ((7, False), (8, True)):
        whole = np.where(np.arange(30) < held, 10, 0)
        part = np.where(whole > 0, np.arange(30), 0)
        found = ratio(part, whole, weights)
        assert found.value == part.sum() / whole.sum()
        assert (found.low is not None, found.high is not None) == (whether, whether)
    nothing = ratio(np.zeros(30, np.int64), np.full(30, 10), weights)
    assert (nothing.value, nothing.low, nothing.high) == (0.0, None, None)
    assert resample_weights(BLOCKS_MIN - 1).shape == (BLOCKS_MIN - 1, 1)


def test_an_interval_is_as_much_wider_as_few_blocks_need() -> None:
    """The share of resamples beyond either end is that of the expanded percentile with Student's
    quantile as scipy has it."""
    for n in (8, 9, 14, 30, 400):
        expected = norm.cdf(-np.sqrt(n / (n - 1)) * student.ppf(0.975, n - 1))
        assert _tail(n) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("days", [8, 14, 30])
def test_without_a_difference_one_interval_in_twenty_excludes_zero(days: int) -> None:
    """Of the intervals of a difference between two runs that find each fraud with the same chance,
    which changes with the day as their number does, about 5 % leave 0 out."""
    rng, weights, trials, wrong = default_rng(days), resample_weights(days), 2_000, 0
    for _ in range(trials):
        frauds = 1 + rng.poisson(8 * rng.lognormal(0, 0.5, days))
        chance = rng.beta(4, 4, days)
        found = [rng.binomial(frauds, chance) @ weights / (frauds @ weights) for _ in range(2)]
        interval = with_interval(found[1] - found[0], days)
        assert interval.low is not None
        assert interval.high is not None
        wrong += interval.low > 0 or interval.high < 0
    assert 0.03 < wrong / trials < 0.07


@settings(deadline=None)
@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=30), st.sampled_from([0.25, 0.5, 0.75]))
def test_a_quantile_is_the_least_value_that_has_the_share(values: list[float], q: float) -> None:
    """It equals numpy's inverted distribution function, and of a resample that of the values as
    often as their blocks are drawn."""
    array, block = np.array(values), np.arange(len(values)) % BLOCKS_MIN
    weights = resample_weights(BLOCKS_MIN, 3)
    for b in range(weights.shape[1]):
        drawn = np.repeat(array, weights[block, b].astype(np.int64))
        found = quantile(array, block, q, weights[:, b:]).value
        expected = np.quantile(drawn, q, method="inverted_cdf") if len(drawn) else None
        assert found == expected


def test_the_top_of_a_day_leaves_out_what_is_known() -> None:
    """The frauds among the k entities with the highest scores, whoever is known left out first."""
    entity, fraud = ["a", "b", "c", "d"], [True, True, False, True]
    assert found_in_top(entity, fraud, 2, set()) == {"a", "b"}
    assert found_in_top(entity, fraud, 2, {"a"}) == {"b"}
    assert found_in_top(entity, fraud, 3, {"a"}) == {"b", "d"}
    assert found_in_top(entity, fraud, 9, {"a", "b", "d"}) == set()
