"""The bases against plain references, and that none of them knows the future."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from schemas.columns import F64, I64, Bools
from tests.quality.bases import boosting
from tests.quality.bases.accounts import login_bases, signup_bases
from tests.quality.bases.boosting import WEEK_MS, LabelledEvents, training_rows, weekly_scores
from tests.quality.bases.evidence import accumulated, upper_tail
from tests.quality.bases.histories import gaps, group_z, running_z, shrunken_z, window_sums
from tests.quality.bases.payments import (
    CategoryPayments,
    handbook_bases,
    handbook_label_bases,
    sparkov_bases,
)
from tests.quality.bases.points import mahalanobis, point_bases, two_sided_tail
from tests.quality.bases.series import (
    WARM_UP,
    ew_z,
    first_and_stronger,
    median_deviation,
    nab_bases,
    same_time_of_day,
    web_service_bases,
    window_z,
)
from tests.quality.bases.traffic import Requests, crawler_bases, parsed, scan_bases, session_bases
from tests.quality.handbook import Payments
from tests.quality.intervals import DAY_MS

DRAW = np.random.default_rng(4)
N = 600
ENTITY: I64 = DRAW.integers(0, 5, N)
CATEGORY: I64 = DRAW.integers(0, 3, N)
TIME_MS: I64 = np.sort(DRAW.integers(0, 20 * DAY_MS, N))
AMOUNT: F64 = np.exp(DRAW.normal(3.0, 1.0, N))
FRAUD: Bools = DRAW.uniform(size=N) < 0.1
EARLY: Bools = np.arange(N) < N // 2


def test_evidence_halves_grows_by_the_excess_and_counts_up_to_its_bound() -> None:
    """v + min(S, c·v), S decaying, then growing by max(0, v - θ)."""
    v: F64 = DRAW.exponential(1.0, N)
    expected, evidence, since = [], dict.fromkeys(range(5), 0.0), dict.fromkeys(range(5), 0.0)
    for own, one, now in zip(ENTITY.tolist(), v.tolist(), TIME_MS.tolist(), strict=True):
        evidence[own] *= 0.5 ** ((now - since[own]) / DAY_MS)
        since[own] = now
        expected.append(one + min(evidence[own], 2.0 * one))
        evidence[own] += max(0.0, one - 1.5)
    found = accumulated(v, ENTITY, TIME_MS.astype(np.float64), float(DAY_MS), 1.5)
    assert found == pytest.approx(expected)
    assert (accumulated(v, ENTITY, TIME_MS / DAY_MS, 1.0, 1.5, np.inf) >= found - 1e-12).all()


def test_an_upper_tail_is_the_share_of_its_groups_early_values() -> None:
    """Of values no smaller, the value itself counted with them."""
    found = upper_tail(AMOUNT, CATEGORY, EARLY)
    for i in range(0, N, 7):
        known = AMOUNT[EARLY & (CATEGORY[i] == CATEGORY)]
        share = (np.count_nonzero(known >= AMOUNT[i]) + 1) / (len(known) + 1)
        assert found[i] == pytest.approx(-np.log10(share))


def test_z_scores_are_the_plain_ones() -> None:
    """By the group's early mean and deviation, and by the entity's earlier values."""
    by_group, by_past = group_z(AMOUNT, CATEGORY, EARLY), running_z(AMOUNT, ENTITY)
    for i in range(50, N, 7):
        known = AMOUNT[EARLY & (CATEGORY[i] == CATEGORY)]
        assert by_group[i] == pytest.approx((AMOUNT[i] - known.mean()) / known.std())
        past = AMOUNT[:i][ENTITY[:i] == ENTITY[i]]
        assert by_past[i] == pytest.approx((AMOUNT[i] - past.mean()) / past.std(ddof=1))


def test_a_shrunken_z_starts_at_what_is_usual_and_ends_at_the_plain_one() -> None:
    """The first value of an entity is compared with all; after many, with its own."""
    values: F64 = DRAW.normal(0.0, 1.0, 4_000) + 10.0
    one: I64 = np.zeros(4_000, np.int64)
    early = np.arange(4_000) < 1_000
    found = shrunken_z(values, one, early)
    usual, spread = values[early].mean(), values[early].std()
    assert found[0] == pytest.approx((values[0] - usual) / (spread * np.sqrt(4 / 3)))
    assert found[-500:] == pytest.approx(running_z(values, one)[-500:], abs=0.25)


def test_a_single_huge_value_does_not_hide_the_next() -> None:
    """It is learned as if it were 2.5 standard deviations away."""
    values = np.tile([9.0, 11.0], 100)
    values[100] = 1e6
    found = shrunken_z(values, np.zeros(200, np.int64), np.arange(200) < 50)
    assert np.abs(found[101:]).max() < 2.0 < found[100]
    assert np.abs(found[150:]).min() > 0.5  # it has not widened what is usual


def test_window_sums_are_those_of_a_slow_loop() -> None:
    """Earlier rows of the entity, later than the window's start, up to its end."""
    for window, delay in ((DAY_MS, 0), (3 * DAY_MS, 2 * DAY_MS)):
        count, total = window_sums(AMOUNT, ENTITY, TIME_MS, window, delay)
        for i in range(0, N, 7):
            until = TIME_MS[i] - delay
            inside = (ENTITY[:i] == ENTITY[i]) & (TIME_MS[:i] <= until)
            inside &= TIME_MS[:i] > until - window
            assert count[i] == inside.sum()
            assert total[i] == pytest.approx(AMOUNT[:i][inside].sum())


def test_a_gap_is_the_time_since_the_entitys_last_row() -> None:
    """None at its first."""
    found = gaps(np.array([0, 1, 0, 0]), np.array([5, 6, 9, 9]))
    assert np.isnan(found[:2]).all()
    assert found[2:].tolist() == [4.0, 0.0]


VALUES: F64 = DRAW.normal(size=400).cumsum() + np.sin(np.arange(400) * 2 * np.pi / 48)


def test_series_scores_are_those_of_slow_loops() -> None:
    """A window's z, the same time of day, the quantile range, the first and stronger of an
    incident."""
    z, daily = window_z(VALUES, 50), same_time_of_day(VALUES, 48, days=3, half_life=20.0)
    ranged, once = median_deviation(VALUES), first_and_stronger(np.abs(VALUES), 10)
    usual = 0.0
    for i in range(1, 400):
        if i >= WARM_UP:
            past = VALUES[max(0, i - 50) : i]
            assert z[i] == pytest.approx(abs(VALUES[i] - past.mean()) / past.std())
            known = np.sort(VALUES[:i])
            low, mid, high = known[[int(share * (i - 1)) for share in (0.02, 0.5, 0.98)]]
            assert ranged[i] == pytest.approx(abs(VALUES[i] - mid) / (high - low))
        if i >= 48:
            off = abs(VALUES[i] - np.median(VALUES[i - 48 :: -48][:3]))
            if i - 48 >= WARM_UP:
                assert daily[i] == pytest.approx(off / usual)
            usual += max(1 - 0.5 ** (1 / 20), 1 / (i - 47)) * (off - usual)
        largest = np.abs(VALUES[max(0, i - 10) : i]).max()
        assert once[i] == (abs(VALUES[i]) if abs(VALUES[i]) > largest else 0.0)


def test_an_exponentially_weighted_z_forgets() -> None:
    """A step is strange when it happens, and no more after ten half-lives."""
    step = np.append(np.tile([0.0, 1.0], 200), np.tile([50.0, 51.0], 200))
    z = ew_z(step, 10.0, 30.0)
    assert z[400] > 40.0
    assert z[700:].max() < 3.0


def test_a_point_beyond_all_is_stranger_than_one_at_the_edge() -> None:
    """The tail orders them by how far beyond; both sides alike."""
    known = np.arange(101.0)
    values = np.append(known, [50.0, 100.0, 150.0, 200.0, -50.0])
    found = two_sided_tail(values, np.arange(len(values)) < 101)[101:]
    assert found[0] < found[1] < found[2] < found[3]
    assert found[2] == found[4]


def test_a_mahalanobis_distance_is_by_the_covariance() -> None:
    """Along the axis of two features that go together less than across."""
    x = DRAW.normal(size=500)
    columns = np.stack(
        [np.append(x, [3.0, 3.0]), np.append(x + DRAW.normal(0, 0.1, 500), [3.0, -3.0])]
    )
    found = mahalanobis(columns, np.arange(502) < 500)
    assert found[500] < 5.0
    assert found[501] > 20.0


def _sparkov(upto: int) -> dict[str, F64]:
    some = slice(upto)
    payments = CategoryPayments(
        TIME_MS[some], ENTITY[some], CATEGORY[some], AMOUNT[some], FRAUD[some]
    )
    return sparkov_bases(payments, EARLY[some])


def _handbook(upto: int) -> dict[str, F64]:
    some = slice(upto)
    payments = Payments(TIME_MS[some], ENTITY[some], CATEGORY[some], AMOUNT[some], FRAUD[some])
    return {
        **handbook_bases(payments, EARLY[some]),
        **handbook_label_bases(payments, EARLY[some]),
    }


FEATURES: NDArray[np.float64] = DRAW.normal(size=(N, 3))
ADDRESSES = [f"10.0.{i % 3}.{i}" for i in ENTITY.tolist()]
FAMILIES: dict[str, Callable[[int], dict[str, F64]]] = {
    "sparkov": _sparkov,
    "handbook": _handbook,
    "points": lambda upto: point_bases(FEATURES[:upto], EARLY[:upto]),
    "web services": lambda upto: web_service_bases(AMOUNT[:upto], N // 2),
    "nab": lambda upto: nab_bases(AMOUNT[:upto], 48, 90),
    "logins": lambda upto: login_bases(ENTITY[:upto], TIME_MS[:upto], FRAUD[:upto]),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_no_base_knows_the_future(family: str) -> None:
    """Without the rows that follow, the scores after the early part are the same, and none is NaN."""
    upto = N - N // 4
    every, some = FAMILIES[family](N), FAMILIES[family](upto)
    assert every.keys() == some.keys()
    for name, score in every.items():
        assert score[:upto] == pytest.approx(some[name]), name
        assert np.isfinite(score).all(), name


def test_signups_are_compared_with_earlier_ones() -> None:
    """A registration of a known address is less strange than that of a new one."""
    for name, score in signup_bases(["10.0.0.1"] * 5 + ["10.0.9.9"], TIME_MS[:6]).items():
        assert len(score) == 6
        if not name.startswith("rarity"):
            assert score[5] > score[4], name


# -- the batch model -------------------------------------------------------------------------------


@pytest.fixture
def _few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough for one feature that tells all."""
    monkeypatch.setattr(boosting, "TREES", 10)


def labelled_events(fraud: Bools, weeks: int = 6) -> LabelledEvents:
    """Six weeks of events whose first feature tells the frauds; labels come a week late."""
    n = len(fraud)
    time_ms = np.linspace(0, weeks * WEEK_MS - 1, n).astype(np.int64)
    features = np.random.default_rng(1).normal(size=(n, 2)).astype(np.float32)
    features[:, 0] += 3.0 * fraud
    return LabelledEvents(features, time_ms, fraud, time_ms + WEEK_MS)


@pytest.mark.usefixtures("_few_trees")
def test_a_week_is_scored_by_labels_known_at_its_start() -> None:
    """Labels that come later change nothing in it; the frauds of each scored week rank above."""
    fraud: Bools = np.random.default_rng(2).uniform(size=3_000) < 0.1
    events = labelled_events(fraud)
    scores = weekly_scores(events, 3 * WEEK_MS)
    assert (scores[events.time_ms < 3 * WEEK_MS] == 0.0).all()
    week = (events.time_ms >= 4 * WEEK_MS) & (events.time_ms < 5 * WEEK_MS)
    assert scores[week & fraud].mean() > scores[week & ~fraud].mean() + 2.0
    changed = fraud.copy()
    changed[events.time_ms >= 3 * WEEK_MS] ^= True
    again = weekly_scores(events._replace(fraud=changed), 3 * WEEK_MS)
    assert again[week] == pytest.approx(scores[week])
    assert (again[events.time_ms >= 5 * WEEK_MS] != scores[events.time_ms >= 5 * WEEK_MS]).any()


def test_every_known_fraud_is_trained_on_and_a_sample_of_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So many rows at most, in order of time, none with a label that is not known yet."""
    monkeypatch.setattr(boosting, "ROWS_MAX", 400)
    events = labelled_events(np.arange(3_000) % 10 == 0)
    rows = training_rows(events, 4 * WEEK_MS)
    assert len(rows) == 400
    assert (np.diff(rows) > 0).all()
    assert (events.known_ms[rows] <= 4 * WEEK_MS).all()
    assert events.fraud[rows].sum() == 150


def test_a_week_without_any_known_fraud_scores_0() -> None:
    """There is nothing to fit."""
    events = labelled_events(np.zeros(300, np.bool_))
    assert (weekly_scores(events, 3 * WEEK_MS) == 0.0).all()


# -- traffic ---------------------------------------------------------------------------------------


def requests(
    paths: list[str], seconds: list[int], referrer: str = "", status: int = 200
) -> Requests:
    """Of one address."""
    return Requests(
        ["10.0.0.7"] * len(paths),
        1000 * np.array(seconds),
        paths,
        np.full(len(paths), status),
        [referrer] * len(paths),
    )


def test_an_even_pace_of_pages_is_strange() -> None:
    """Assets do not count; of two pages there is no spread."""
    name = "standard deviation of the page gaps, low"
    even = session_bases(requests(["/a", "/x.css", "/b", "/c"], [0, 1, 10, 20]))[name]
    uneven = session_bases(requests(["/a", "/x.css", "/b", "/c"], [0, 1, 2, 90]))[name]
    assert even == 0.0 > uneven
    assert session_bases(requests(["/a", "/x.css", "/b"], [0, 1, 2]))[name] == -np.inf


def test_an_address_of_pages_from_nowhere_is_a_crawlers() -> None:
    """By every base it lies above one that comes from somewhere and fetches assets."""
    crawl = requests([f"/{i}" for i in range(5)], list(range(5)))
    visit = requests(["/a", "/x.css", "/b", "/y.png", "/c"], list(range(5)), "http://here/")
    visit = visit._replace(entity=["10.0.0.8"] * 5)
    both = Requests(
        crawl.entity + visit.entity,
        np.append(crawl.time_ms, visit.time_ms),
        crawl.path + visit.path,
        np.append(crawl.status, visit.status),
        crawl.referrer + visit.referrer,
    )
    for name, score in crawler_bases(both).items():
        assert score["10.0.0.7"] > score["10.0.0.8"], name


def test_a_scan_is_found_once_it_exceeds_the_early_day() -> None:
    """Where no address had more than two errors in ten minutes, the third finds it."""
    early = requests(["/a", "/b", "/c"], [0, 60, 700], status=404)
    scan = requests([f"/{i}" for i in range(9)], list(range(9)), status=404)
    assert set(scan_bases(scan, early).values()) == {3.0}
    assert set(scan_bases(early, scan).values()) == {4.0}


def test_a_combined_logs_line_is_a_request() -> None:
    """Its address, path, status and referrer; another line is empty."""
    line = '10.0.0.7 - - [22/Dec/2016:16:30:52 +0300] "GET /a HTTP/1.1" 404 5 "http://x/" "-"'
    found = parsed([line, "10.0.0.8 - -"], np.array([1, 2]))
    assert found.entity == ["10.0.0.7", "10.0.0.8"]
    assert (found.path, found.referrer) == (["/a", ""], ["http://x/", ""])
    assert found.status.tolist() == [404, 0]
