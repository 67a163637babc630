"""Calibration: raw surprise of any shape becomes a calibrated p-value."""

from math import copysign, log10

import numpy as np
import pytest

from detectors.entities import AdmittedEvents
from detectors.numeric.combination import P_MIN
from detectors.scoring import calibration
from detectors.scoring.calibration import Calibration, CalibrationInput, CalibrationOutput
from detectors.scoring.explain import score_of_p
from schemas.columns import F64, I64

EVENTS = 120_000


def _calibrate(raw: F64, row: I64, times: F64 | None = None) -> CalibrationOutput:
    detectors, n = raw.shape
    every_second = 1e12 + 1000.0 * np.arange(n, dtype=np.float64)
    fresh = np.zeros(n, np.bool_)
    fresh[np.unique(row, return_index=True)[1]] = True
    events = AdmittedEvents(
        row=row,
        fresh=fresh,
        time_ms=every_second if times is None else times,
        late=np.zeros(n, np.bool_),
        learn=np.ones(n, np.bool_),
        earlier_events=np.full(n, 1000),
        bounded_ms=1e12 + 1000.0 * np.arange(n, dtype=np.float64),
        stream_ms=1e12 + 1000.0 * np.arange(n, dtype=np.float64),
        set_back=np.zeros(n, np.bool_),
    )
    surprise = CalibrationInput(raw, -1, np.full((3, n), -1), np.full((3, n), np.nan))
    words = np.zeros((int(row.max()) + 1, calibration.CALIBRATION_WORDS))
    return Calibration([False] * detectors).process(words, 0, events, surprise)


@pytest.mark.parametrize("stretch", [0.3, 1.0, 2.5])
def test_p_is_honest_whatever_the_raw_scale(stretch: float) -> None:
    """With surprises scaled by any factor, P(p ≤ α) is within a factor 1.5 of α."""
    draw = np.random.Generator(np.random.PCG64(1))
    raw = stretch * draw.exponential(1.0, (1, EVENTS))
    p = _calibrate(raw, draw.integers(0, 1000, EVENTS)).p[0, EVENTS // 2 :]
    for alpha in (0.1, 0.01, 0.001):
        assert alpha / 1.5 < (p <= alpha).mean() < alpha * 1.5, alpha


def test_the_combination_is_honest_for_dependent_detectors() -> None:
    """Three detectors that agree, and so are not independent, combine to calibrated p-values."""
    draw = np.random.Generator(np.random.PCG64(2))
    shared = draw.exponential(1.0, EVENTS)
    raw = np.stack([shared, shared * 1.2, draw.exponential(1.0, EVENTS)])
    p = _calibrate(raw, draw.integers(0, 1000, EVENTS)).combined[EVENTS // 2 :]
    for alpha in (0.1, 0.01, 0.001):
        assert alpha / 1.5 < (p <= alpha).mean() < alpha * 1.5, alpha


def test_p_falls_as_surprise_grows_also_beyond_the_data() -> None:
    """A larger surprise never has a larger p, and far beyond all data p still falls."""
    draw = np.random.Generator(np.random.PCG64(3))
    raw = draw.exponential(1.0, (1, 20_000))
    raw[0, -40:] = np.linspace(0.0, 60.0, 40)
    p = _calibrate(raw, np.arange(20_000) % 500).p[0, -40:]
    assert (np.diff(p) <= 0.0).all()
    assert p[-1] < 1e-15


def test_one_entity_cannot_fill_the_tail() -> None:
    """An attacker with a tenth of all events, each extreme, never looks ordinary."""
    draw = np.random.Generator(np.random.PCG64(4))
    raw = draw.exponential(1.0, (1, 60_000))
    row = draw.integers(1, 1000, 60_000)
    row[20_000::10] = 0
    raw[0, 20_000::10] = 12.0
    p = _calibrate(raw, row).p[0]
    attack = p[20_000::10]
    assert attack.max() < 1e-3


def test_suspicion_fades() -> None:
    """After a very strange event an entity's next mildly strange event is stranger than another
    entity's; a week later by less, and after half a year hardly."""
    draw = np.random.Generator(np.random.PCG64(6))
    others, week_ms = 20_000, 7.0 * 86_400_000.0
    raw = draw.exponential(1.0, (1, others + 9))
    row = draw.integers(9, 1000, others + 9)
    times: F64 = 1e12 + 1000.0 * np.arange(others + 9, dtype=np.float64)
    raw[0, others : others + 3] = 15.0
    row[others : others + 3] = [0, 1, 2]
    raw[0, others + 3 : others + 7] = 4.0
    row[others + 3 : others + 7] = [0, 3, 1, 2]
    times[others + 5] += week_ms
    times[others + 6 :] += 26 * week_ms
    p = _calibrate(raw, row, times).combined[others + 3 : others + 7]
    soon, unsuspected, later, last = -np.log(p)
    assert soon > later + 0.5 > unsuspected + 1.0
    assert last == pytest.approx(unsuspected, abs=0.05)


def test_a_heavy_tail_is_honest_with_few_data() -> None:
    """Normal p-values of values that follow Student's t become honest down to 1e-4."""
    draw = np.random.Generator(np.random.PCG64(5))
    z = draw.standard_t(6.0, (1, 5 * EVENTS))
    p = _calibrate(0.5 * z * z, draw.integers(0, 1000, 5 * EVENTS)).p[0, EVENTS:]
    for alpha in (1e-2, 1e-3, 1e-4):
        assert alpha / 1.5 < (p <= alpha).mean() < alpha * 1.5, alpha


def test_honest_bursts_of_extremes_are_part_of_honest_traffic() -> None:
    """Where an entity's extremes come eight at a time, p < 1e-3 is as rare as it should be."""
    draw = np.random.Generator(np.random.PCG64(6))
    raw = np.repeat(draw.exponential(1.0, (1, EVENTS // 2)), 8, axis=1)
    raw += 0.2 * draw.exponential(1.0, raw.shape)
    row = np.repeat(draw.integers(0, 5000, EVENTS // 2), 8)
    p = _calibrate(raw, row).combined[EVENTS:]
    for alpha in (1e-2, 1e-3):
        assert alpha / 1.5 < (p <= alpha).mean() < alpha * 1.5, alpha


def test_a_score_is_minus_the_logarithm_of_p() -> None:
    """To base 10; p of 1, and no p, have score 0, never -0; p of 0 has the largest score."""
    cases = {1.0: 0.0, 0.1: 1.0, 1e-3: 3.0, 0.5: log10(2.0), P_MIN: 300.0, 0.0: 300.0}
    assert {p: score_of_p(p) for p in cases} == pytest.approx(cases)
    for p in (1.0, np.nan):
        assert (score_of_p(p), copysign(1.0, score_of_p(p))) == (0.0, 1.0)


def test_without_an_order_features_are_removed_by_their_p() -> None:
    """Where the trees named no feature, the one of smallest p is removed first, of equal ones the
    first; one of p 1 and an absent one never are."""
    draw = np.random.Generator(np.random.PCG64(4))
    n = 20_000
    shared = draw.exponential(1.0, n)
    shared[-1] = 30.0
    other = draw.exponential(1.0, n)
    other[-1] = 9.0
    raw = np.stack([other, shared, shared, np.full(n, np.nan)])
    out = _calibrate(raw, np.arange(n) % 500)
    assert out.p[1, -1] == out.p[2, -1] < out.p[0, -1] < 1.0
    assert out.order[:, -1].tolist() == [1, 2, 0]
    assert (
        out.combined[-1]
        < out.counterfactual_p[0, -1]
        < out.counterfactual_p[1, -1]
        < out.counterfactual_p[2, -1]
    )
