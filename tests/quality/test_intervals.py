"""The bootstrap of `make quality` against plain arithmetic, and which figures are worse."""

import numpy as np
import pytest

from schemas.columns import F64
from tests.quality.figures import ComparedRun, Row, regressions
from tests.quality.intervals import (
    DAY_MS,
    Draws,
    Estimate,
    blocks,
    by_day,
    by_seed,
    median,
    ranking,
    ratio,
    total,
)

DRAW = np.random.default_rng(3)


def test_the_interval_of_a_mean_is_students() -> None:
    """Of 200 normal values it is the mean ± t s / √n, to within the noise of the draws."""
    values: F64 = DRAW.normal(10.0, 2.0, 200)
    found = ratio(values, np.ones(200), blocks(range(200))).estimate()
    half = 1.972 * values.std(ddof=1) / np.sqrt(200)
    assert found.value == pytest.approx(values.mean())
    assert [found.low, found.high] == pytest.approx(
        [values.mean() - half, values.mean() + half], abs=0.08
    )


def test_rows_of_a_block_are_drawn_together() -> None:
    """Values that are alike within their block leave as wide an interval as one value a block."""
    one = DRAW.normal(size=40)
    whole = ratio(one, np.ones(40), blocks(range(40)))
    repeated = ratio(np.repeat(one, 50), np.ones(2_000), blocks(np.repeat(np.arange(40), 50)))
    assert repeated.values == pytest.approx(whole.values)


def test_the_same_data_has_the_same_interval() -> None:
    """The draws come from a seed."""
    score, fraud = DRAW.normal(size=900), DRAW.uniform(size=900) < 0.1
    of = [blocks(np.arange(900) // 30) for _ in range(2)]
    one, two = (ranking(score, fraud, each).ap.estimate() for each in of)
    assert one == two
    assert one.low < one.value < one.high


def test_few_days_leave_the_entities() -> None:
    """Blocks are days where a set has eight, else entities."""
    entity = [f"card-{i % 20}" for i in range(800)]
    assert len(by_day(np.arange(800) * DAY_MS // 100, entity).weights) == 8
    assert len(by_day(np.arange(700) * DAY_MS // 100, entity[:700]).weights) == 20


def test_a_median_is_the_plain_one() -> None:
    """Of an odd and an even number of values; without any there is none."""
    for values in ([5.0, 1.0, 9.0], [5.0, 1.0, 9.0, 6.0]):
        found = median(np.array(values), blocks(range(len(values)))).estimate()
        assert found.value == np.median(values)
    assert np.isnan(median(np.zeros(0), blocks([])).values[0])


def test_a_total_without_variance_has_no_interval() -> None:
    """Where no draw differs the interval is the value; so it is of fewer than eight blocks."""
    assert total(np.zeros(20), blocks(range(20))).estimate() == (0.0, 0.0, 0.0)
    assert by_seed([1.0, 2.0]).estimate() == (1.5, 1.5, 1.5)
    found = by_seed([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]).estimate()
    assert found.low < found.value == 4.5 < found.high


@pytest.mark.parametrize(
    ("bad", "value", "worse"),
    [
        ("lower", 0.69, True),
        ("lower", 0.7, False),
        ("lower", 2.0, False),
        ("lower", float("nan"), True),
        ("higher", 0.69, False),
        ("higher", 0.91, True),
        ("higher", float("inf"), True),
        ("apart", 0.69, True),
        ("apart", 0.91, False),
        ("apart", 1.2, False),
        ("apart", 1.3, True),
        ("apart", 0.0, True),
        ("neither", 0.0, False),
    ],
)
def test_worse_is_beyond_the_former_interval_on_the_bad_side(
    bad: ComparedRun, value: float, worse: bool
) -> None:
    """A figure that is better by however much is not worse, nor is one within the interval."""
    row = Row("key", "what", exactly(value), 0.0, "", bad)
    assert row.worse_than(Estimate(0.8, 0.7, 0.9)) == worse


def test_a_figure_without_a_former_interval_is_named() -> None:
    """It is not compared, and its line says so; a figure that is not worse has no line."""
    rows = [Row(key, "", exactly(0.5), 0.0, "") for key in ("old", "new", "lost")]
    before = {"old": 0.5, "new": 0.6, "new_low": 0.55, "new_high": 0.65}
    before |= {"lost": 0.5, "lost_low": 0.45, "lost_high": 0.55}
    found = list(regressions(rows, before))
    assert [is_worse for _, is_worse in found] == [False, True]
    assert "old" in found[0][0]
    assert "new: 0.5000 is worse: below 0.5500" in found[1][0]


def exactly(value: float) -> Draws:
    """A figure without an interval."""
    return Draws(np.array([value]), 1)


def drawn(value: float, spread: float) -> Draws:
    """A figure whose draws lie evenly within ± spread."""
    return Draws(np.append(value, np.linspace(value - spread, value + spread, 100)), 50)


def test_every_figure_is_written_with_its_interval() -> None:
    """Flat, under its key and the two that are made of it; the best base and the batch model too."""
    row = Row("ap", "", exactly(0.51234), 0.0, "")
    assert row.figures() == {"ap": 0.5123, "ap_low": 0.5123, "ap_high": 0.5123}
    bases = {"a": exactly(0.3), "b": drawn(0.4, 0.1), "none": exactly(np.nan)}
    found = row._replace(bases=bases, batch=exactly(0.9)).figures()
    assert found["ap_best_simple_base"] == 0.4
    assert found["ap_best_simple_base_low"] < 0.32
    assert found["ap_best_simple_base_high"] > 0.48
    assert found["ap_batch"] == found["ap_batch_low"] == 0.9
    assert len(found) == 9


def test_the_best_base_is_the_least_where_less_is_better() -> None:
    """Such as requests until something is found."""
    bases = {"a": exactly(9.0), "b": exactly(4.0)}
    assert Row("k", "", exactly(5.0), 0.0, "", bases=bases).best_base() == "a"
    assert Row("k", "", exactly(5.0), 0.0, "", "higher", bases=bases).best_base() == "b"
    assert Row("k", "", exactly(5.0), 0.0, "").best_base() is None


def test_below_its_base_is_below_by_the_whole_paired_interval() -> None:
    """Two figures that move together differ for certain though their own intervals overlap; two that
    do not differ by less than their noise. No figure at all is below any base."""
    base = drawn(0.5, 0.2)
    together = Draws(base.values - 0.05, 50)
    apart = Draws(np.append(0.45, base.values[:0:-1] - 0.05), 50)
    for ours, below in ((together, True), (apart, False), (base, False), (exactly(np.nan), True)):
        assert Row("k", "", ours, 0.0, "", bases={"base": base}).below_base() == below
    higher = Row("k", "", together, 0.0, "", "higher", bases={"base": base})
    assert not higher.below_base()
    assert higher._replace(ours=base, bases={"base": together}).below_base()
