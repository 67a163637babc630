"""The law of honest p-values: on stationary input, every calibrated p says what it promises.

Each continuous p is within a Kolmogorov–Smirnov distance `KS_MAX` of uniform, and P(p ≤ α)/α within
a factor `RATIO_MAX` at each of `ALPHAS`. Those that have crowds (whole numbers, shares) may only
err on the safe side: P(p ≤ α) ≤ `TIE_RATIO_MAX` α at every α. `EVENTS` less `WARM` events are judged,
`WARM` being twice the calibration's memory; so at α = 1e-4 about 78 events are expected, their
standard error is 11 % were they independent, and a factor 2 is nine of these upwards and four
downwards. What is known to come in clumps is allowed for: see `CLUMP`. α of which fewer than
`EXPECTED_MIN` events are expected are not judged.
"""

from typing import Final

import msgspec
import numpy as np
import pytest

from detectors.features import KINDS
from detectors.models.edges import EdgesSpec
from detectors.models.half_space_trees import RiverTreesSpec, TreesSpec
from detectors.models.interface import StandaloneSpec
from detectors.models.label_risk import LabelRiskSpec
from detectors.models.river_model import RiverSpec
from detectors.models.seasonal import SeasonalSpec
from detectors.models.tail import TailSpec
from detectors.monitor import Monitor
from detectors.spec import DetectorSpec, FeatureSpec
from schemas.columns import F64, EventBatch
from tests.laws.registry import ALL_FEATURES, DETECTORS, LOGINS, feature, monitor
from tests.laws.stationary import sellers, shop

pytestmark = pytest.mark.slow
KEY: Final = (1, 2)
EVENTS: Final = 1_200_000
WARM: Final = 400_000
WEEKS: Final = 24
ALPHAS: Final = (1e-2, 1e-3, 1e-4)
TIE_ALPHAS: Final = (0.5, 0.2, 0.1, 0.05, 0.02, *ALPHAS)
KS_MAX: Final = 0.02
RATIO_MAX: Final = 2.0
TIE_RATIO_MAX: Final = 1.2
EXPECTED_MIN: Final = 20.0
ERRORS: Final = 3.0
"""Standard errors that a crowd's share may lie above its bound."""
LONG_HALF_LIVES: Final = {"gap_spread": "1d", "hour_habit": "30d"}
"""Half-lives of kinds that within the registry's hour learn too little to say anything."""
SILENT: Final = {"time_of_day": "it is only a place for the trees and has no tail of its own"}
TIES: Final = {
    "novelty": "a share: 0 or 1",
    "occurrence": "a share: 0 or 1",
    "distinct": "a whole number, mostly 1 to 5",
    "novel_count": "most events bring nothing new",
    "night_share": "0 while there was no event by night, and never above a day's worth of them",
    "popularity": "1 for every value not seen lately",
    "sequence": "0 until a step goes on",
    "logins": "many are the only one within hours: p = 1",
}
"""Features with crowds, and which; a detector of its own declares them."""
CLUMP: Final = {"label_risk": 20.0}
"""Events that are alike because they follow the same labels; one alone where none is said."""


SMALL_EVENTS: Final = 60_000
"""Judged of a model of River's, which is a thousand times as slow."""
PValues = dict[str, F64]
"""Calibrated p-values after the warm-up, NaN where silent, by feature kind or detector."""


def _p_values(
    events: EventBatch, features: list[FeatureSpec], detectors: list[DetectorSpec], warm: int
) -> PValues:
    """A monitor's p-values of each event from `warm` on; "whole" is their combination."""
    spec = msgspec.structs.replace(monitor(features, detectors), capacity=100_000)
    watching = Monitor(spec, KEY)
    parts = [watching.process(events.slice(a, a + 50_000)) for a in range(0, len(events), 50_000)]
    p = np.concatenate([part.calibrated.p for part in parts], axis=1)
    names = [name.removeprefix("a_") for name in watching.names]
    if watching.trees is not None:
        names.append("trees")
    combined = np.concatenate([part.calibrated.combined for part in parts])
    return {name: one[warm:] for name, one in zip([*names, "whole"], [*p, combined], strict=True)}


@pytest.fixture(scope="module")
def p_values() -> PValues:
    """Every feature kind, every detector and the whole, each on a stream that suits it."""
    features = [
        msgspec.structs.replace(f, half_life=LONG_HALF_LIVES.get(f.kind, f.half_life))
        for f in ALL_FEATURES
    ]
    apart = {"half_space_trees", "river_trees", "edges", "label_risk", "seasonal", "river"}
    detectors = [
        TreesSpec(),
        EdgesSpec(name="edges", field="device"),
        LabelRiskSpec(name="label_risk"),
        *(d for name, d in DETECTORS.items() if name not in apart),
    ]
    events = shop(1, EVENTS)
    found = _p_values(events, [*features, LOGINS], detectors, WARM)
    found["half_space_trees"] = found.pop("trees")

    few = [feature(kind) for kind in ("value", "count", "gap", "ratio")]
    found["river_trees"] = _p_values(events, few, [TailSpec(), RiverTreesSpec(window=50)], WARM)[
        "trees"
    ]

    sales = sellers(1, WEEKS)
    count = [feature("count")]
    seasonal = SeasonalSpec(name="seasonal")
    found["seasonal"] = _p_values(sales, count, [TailSpec(), seasonal], len(sales) // 6)["seasonal"]

    model = RiverSpec(
        name="river",
        model="river.anomaly.HalfSpaceTrees",
        parameters={"n_trees": 5, "height": 3, "window_size": 20, "seed": 1},
        window=40,
    )
    small = shop(1, SMALL_EVENTS, active=20)
    found["river"] = _p_values(small, few, [TailSpec(), model], SMALL_EVENTS // 3)["river"]
    return {name: p[~np.isnan(p)] for name, p in found.items()}


def _distance(p: F64) -> float:
    """The Kolmogorov–Smirnov distance from the uniform distribution."""
    at = np.sort(p)
    below = np.arange(len(at) + 1) / len(at)
    return float(max((below[1:] - at).max(), (at - below[:-1]).max()))


def _testable(p: F64, alphas: tuple[float, ...]) -> list[float]:
    """Those α for which there are enough events."""
    return [alpha for alpha in alphas if alpha * len(p) >= EXPECTED_MIN]


def breaches(p: F64) -> list[str]:
    """Where a continuous p breaks the law."""
    found = [] if _distance(p) <= KS_MAX else [f"distance {_distance(p):.3f}"]
    for alpha in _testable(p, ALPHAS):
        ratio = float(np.mean(p <= alpha)) / alpha
        if not 1.0 / RATIO_MAX <= ratio <= RATIO_MAX:
            found.append(f"P(p <= {alpha:g}) is {ratio:.2f} times that")
    return found


def tie_breaches(p: F64, clump: float) -> list[str]:
    """Where a p with ties breaks the law; `clump` events are alike."""
    found = []
    for alpha in _testable(p, TIE_ALPHAS):
        error = np.sqrt(alpha * clump / len(p))
        ratio = float(np.mean(p <= alpha)) / alpha
        if ratio > TIE_RATIO_MAX + ERRORS * error / alpha:
            found.append(f"P(p <= {alpha:g}) is {ratio:.2f} times that")
    return found


def _declares_discrete(name: str) -> bool:
    """Whether it is a detector that declares its surprise discrete."""
    spec = DETECTORS.get(name)
    return isinstance(spec, StandaloneSpec) and spec.discrete()


def test_everything_is_tested(p_values: PValues) -> None:
    """Every kind and detector of the configuration has enough p-values for the test."""
    assert p_values.keys() >= {*KINDS, *DETECTORS, "whole"} - {"tail", *SILENT}
    for name, p in p_values.items():
        if name in SILENT:
            continue
        rarest = 1e-3 if name == "river" else min(ALPHAS)
        assert rarest * len(p) >= EXPECTED_MIN, (name, len(p))


@pytest.mark.parametrize("name", sorted({*KINDS, *DETECTORS, "whole", LOGINS.name} - {"tail"}))
def test_p_is_honest(p_values: PValues, name: str) -> None:
    """On a stationary stream a calibrated p below α is as common as α; for the tail this holds for
    each feature kind."""
    if name in SILENT:
        assert len(p_values[name]) == 0, SILENT[name]
    elif name in TIES or _declares_discrete(name):
        assert tie_breaches(p_values[name], CLUMP.get(name, 1.0)) == []
    else:
        assert breaches(p_values[name]) == []


def test_the_law_can_be_broken() -> None:
    """Uniform p-values keep both laws; slightly too small ones, or coarse ones, break them."""
    p = np.random.Generator(np.random.PCG64(1)).random(EVENTS - WARM)
    assert breaches(p) == []
    assert tie_breaches(p, 1.0) == []
    assert len(breaches(p**1.2)) > 1
    assert len(breaches(p**0.8)) > 1
    assert tie_breaches(0.75 * p, 1.0) != []
    assert tie_breaches(np.ceil(10.0 * p) / 10.0, 1.0) == []
    assert tie_breaches(np.floor(10.0 * p) / 10.0 + 1e-9, 1.0) != []
