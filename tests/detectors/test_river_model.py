"""River's models as detectors: scored as by River, and rebuilt from the vectors that they learned."""

import copy
import inspect
from typing import Any

import numpy as np
import pytest
from numpy.random import PCG64, Generator
from river import anomaly, base

from detectors.models import river_model
from detectors.models.river_model import RiverSpec
from schemas.columns import F64
from tests.detectors.harness import DetectorHarness, Row

MODELS: dict[str, dict[str, Any]] = {
    "HalfSpaceTrees": {"n_trees": 3, "height": 4, "window_size": 10, "seed": 1},
    "LODA": {"n_random_cuts": 10, "seed": 1},
    "LocalOutlierFactor": {"n_neighbors": 5},
    "OneClassSVM": {"nu": 0.2},
}
every_model = pytest.mark.parametrize("name", MODELS)


def spec(name: str, **given: Any) -> RiverSpec:
    """A declaration of one of River's models."""
    of_model = {"model": f"river.anomaly.{name}", "parameters": MODELS[name]}
    return RiverSpec(name="river", **{**of_model, "min_events": 1, "window": 30, **given})


def rows(count: int, accounts: int = 1) -> list[Row]:
    """Events a second apart."""
    return [Row(float(k), {"account": f"a{k % accounts}"}) for k in range(count)]


def scaled_values(seed: int, count: int, absent: float = 0.0) -> F64:
    """float64[3, count] in [0, 1]."""
    draw = Generator(PCG64(seed))
    found = draw.beta(2.0, 5.0, (3, count))
    found[draw.random((3, count)) < absent] = np.nan
    return found


def as_dict(column: F64) -> dict[str, float]:
    """A vector as River expects it."""
    return {f"f{j}": float(v) for j, v in enumerate(column) if not np.isnan(v)}


def test_every_model_of_rivers_is_tried_here() -> None:
    """`MODELS` holds every anomaly model of River that needs no target."""
    ours = {
        name
        for name in anomaly.__all__
        if issubclass(kind := getattr(anomaly, name), base.AnomalyDetector)
        and not inspect.isabstract(kind)
    }
    assert ours == set(MODELS)


@every_model
def test_it_scores_as_rivers_loop_does(name: str) -> None:
    """Until the model is rebuilt, scores are those of River's own loop; then those of a new model
    that learned the last window."""
    scaled = scaled_values(1, 100)
    found = DetectorHarness(spec(name), features=3).process(rows(100), scaled)["value"]
    model: Any = getattr(anomaly, name)(**MODELS[name])
    # The first event comes before there is a model, the second teaches it.
    model.learn_one(as_dict(scaled[:, 1]))
    for i in range(2, 61):
        assert found[i] == model.score_one(as_dict(scaled[:, i]))
        model.learn_one(as_dict(scaled[:, i]))
    anew: Any = getattr(anomaly, name)(**MODELS[name])
    for i in range(31, 61):
        anew.learn_one(as_dict(scaled[:, i]))
    assert found[61] == anew.score_one(as_dict(scaled[:, 61]))


@every_model
def test_scoring_changes_no_model(name: str) -> None:
    """A score depends on what the model learned, not on what it scored; otherwise a rebuilt model
    would differ from a running one."""
    scaled = scaled_values(2, 60, absent=0.2)
    asked: Any = getattr(anomaly, name)(**MODELS[name])
    silent: Any = copy.deepcopy(asked)
    for i in range(50):
        if i:
            asked.score_one(as_dict(scaled[:, i]))
        asked.learn_one(as_dict(scaled[:, i]))
        silent.learn_one(as_dict(scaled[:, i]))
    for i in range(50, 60):
        assert asked.score_one(as_dict(scaled[:, i])) == silent.score_one(as_dict(scaled[:, i]))


@every_model
def test_a_loaded_model_continues_as_the_running_one(name: str) -> None:
    """Saved at any point of its window, it is rebuilt from its vectors and gives the same
    scores."""
    scaled = scaled_values(3, 300, absent=0.2)
    events = rows(300, accounts=3)
    for stop in (40, 181):
        first, second = (DetectorHarness(spec(name), features=3) for _ in range(2))
        first.process(events[:stop], scaled[:, :stop])
        second.detector.load(first.detector.save())
        second.entities.load(first.entities.save())
        one, other = (look.process(events[stop:], scaled[:, stop:]) for look in (first, second))
        assert all(np.array_equal(one[k], other[k], equal_nan=True) for k in one)


def test_an_outlier_surprises() -> None:
    """A vector far from the entity's earlier ones has a larger surprise than any before."""
    scaled = scaled_values(4, 200)
    scaled[:, -1] = 1.0
    found = DetectorHarness(spec("LocalOutlierFactor"), features=3).process(rows(200), scaled)
    assert found["surprise"][-1] > 3 * np.nanmax(found["surprise"][:-1])
    assert found["value"][-1] > found["expected"][-1]


def test_no_score_before_enough_events() -> None:
    """Without history, without a free slot, or without any feature the score is NaN, and nothing is
    learned."""
    look = DetectorHarness(spec("LocalOutlierFactor", min_events=5, entities_max=1), features=3)
    found = look.process(rows(40, accounts=2), scaled_values(5, 40))["value"]
    assert np.isnan(found[:20]).all()
    assert np.isfinite(found[20::2]).all()
    assert np.isnan(found[21::2]).all()
    held = look.detector.save()["remembered/held"].tolist()
    nothing = look.process([Row(50.0, {"account": "a0"})], np.full((3, 1), np.nan))
    assert np.isnan(nothing["value"]).all()
    assert look.detector.save()["remembered/held"].tolist() == held == [15]


class Brittle(anomaly.LocalOutlierFactor):
    """A model that overflows in the middle of learning a large number."""

    def learn_one(self, x: dict[Any, Any]) -> None:
        """Learn a part, then fail."""
        super().learn_one({"f0": x["f0"]} if x["f0"] > 1.0 else x)
        if x["f0"] > 1.0:
            raise OverflowError


def test_values_a_model_fails_on_are_not_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    """A vector for which the model's arithmetic fails leaves the model unchanged."""
    monkeypatch.setattr(river_model, "_new_model", lambda of: Brittle(**of.parameters))
    scaled = scaled_values(6, 60)
    scaled[0, 30] = 2.0
    found, expected = (
        DetectorHarness(spec("LocalOutlierFactor", window=100), features=3).process(rows(n), fed)[
            "value"
        ]
        for n, fed in ((60, scaled), (59, np.delete(scaled, 30, axis=1)))
    )
    assert found[31:].tolist() == expected[30:].tolist()


@pytest.mark.parametrize(
    ("model", "parameters", "path"),
    [
        ("os.system", {}, "model"),
        ("river.anomaly.Nothing", {}, "model"),
        ("river.nowhere.Model", {}, "model"),
        ("river.anomaly.GaussianScorer", {}, "model"),
        ("river.linear_model.LogisticRegression", {}, "model"),
        ("river.anomaly.HalfSpaceTrees", {}, "parameters.seed"),
        ("river.anomaly.LocalOutlierFactor", {"neighbours": 3}, "parameters.neighbours"),
        ("river.anomaly.LocalOutlierFactor", {"n_neighbors": "three"}, "parameters"),
    ],
)
def test_invalid_declarations_are_named(model: str, parameters: dict[str, Any], path: str) -> None:
    """Only River's own anomaly models are accepted, with their parameters, and a seed where they
    draw."""
    (line,) = RiverSpec(name="r", model=model, parameters=parameters).problems()
    assert line.startswith(f"{path}: ")
    assert not spec("LODA").problems()
