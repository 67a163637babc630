"""River: any anomaly model of the River library by its dotted name, one object for each entity.

Models in Python are slower than Eddy's compiled kernels. At each event the model gets a dict of the
monitor's features that are present; `score_one` is called, then `learn_one`. Every River model
derived from `river.base.AnomalyDetector` is accepted, since these need no target. `feed = "scaled"`
passes the features scaled to [0, 1] by their cohort, which River's half-space trees and most other
models expect; `feed = "value"` passes the values themselves.

The state is saved without pickle: it consists of the vectors that a model learned, from which the
model is built again. At 2 · `window` vectors the older half is dropped and the model is built from
the rest, as it is after a checkpoint is loaded. So an entity remembers at least its last `window`
events, each vector is learned twice, and a model that draws random numbers needs a `seed`. An event that
may not be learned is scored by a copy.

surprise = -ln P(Z > z), where z is the score minus the mean score of all entities, in standard
deviations; both moments are decayed by count, and a score is winsorised at `WINSOR_SD` deviations
before it is learned. Models have no common scale of scores; calibration turns any number that grows
with unusualness into a p-value.

value: the score, as River gives it, larger is more unusual. expected: the mean score plus two
deviations. NaN without a model (an entity gets one with its `min_events`th event, while
`entities_max` allows, and loses it with its row), until it has learned `min_events` further vectors,
where every feature is absent, and where the model fails arithmetically: that vector is not learned.
surprise is also NaN until there were `SCORES_MIN` scores.

Bytes an entity: 16 · window · features (48 kB for 12 features and a window of 250), and the model's
own: 1.2 MB and 30 ms to build for River's half-space trees. Cost: the model's, twice to learn and
once to score. Measured an event, 12 features: one-class SVM 50 µs, half-space trees 400 µs, local
outlier factor 15,000 µs at the default window, 3,000 µs at 50. `entities_max` bounds the number of
models.
"""

import copy
import importlib
import inspect
from math import isfinite, sqrt
from typing import Annotated, Any, Final, Literal, NamedTuple, Protocol, cast

import msgspec
import numpy as np
from msgspec import Meta
from river import base

from detectors.models.gaussian import surprise_of_normal
from detectors.models.interface import DetectorInput, DetectorOutput, StandaloneSpec
from detectors.models.pool import USED, empty_pool, notify_write, slots_of
from detectors.state import Arrays, WriteHook, add_prefix, load, select_prefix, state_arrays
from schemas.columns import F64, I64

ROOT: Final = "river."
SCORES_MIN: Final = 50.0
SCORES_MEMORY: Final = 10_000.0
WINSOR_SD: Final = 5.0
EXPECTED_SD: Final = 2.0
Z_MAX: Final = 30.0
VARIANCE_MIN: Final = 1e-18

WEIGHT, MEAN, VARIANCE = range(3)


class Model(Protocol):
    """The interface of River's anomaly models."""

    def score_one(self, x: dict[str, float]) -> float:
        """How unusual x is."""

    def learn_one(self, x: dict[str, float]) -> None:
        """Learn x."""


class RiverSpec(StandaloneSpec, frozen=True, kw_only=True, tag="river"):
    """An anomaly model of River for each entity."""

    model: str
    """Dotted name of the model's class, such as `river.anomaly.LocalOutlierFactor`."""
    parameters: dict[str, Any] = msgspec.field(default_factory=dict)
    """Arguments of the class's constructor."""
    feed: Literal["scaled", "value"] = "scaled"
    """The form in which the model gets each feature: `scaled` to between 0 and 1 by the entity's
    cohort, or the raw `value`."""
    window: Annotated[int, Meta(ge=1, le=100_000)] = 250
    """Least number of feature vectors that the model remembers."""
    min_events: Annotated[int, Meta(ge=1)] = 20
    """Events of an entity before it gets a model, and events that the model learns before its
    scores count."""
    entities_max: Annotated[int, Meta(ge=1, le=1_000_000)] = 1_000
    """Upper bound on the entities with a model."""

    def build(self, features: int, capacity: int) -> "River":
        """Create a state without models."""
        return River(self, features, capacity)

    def problems(self) -> list[str]:
        """Report a model that is not one of River's, or that rejects its parameters."""
        model_class = _model_class(self.model)
        if model_class is None:
            expected = "a River class derived from river.base.AnomalyDetector"
            example = "river.anomaly.LocalOutlierFactor"
            return [f"model: got {self.model}; expected {expected}, such as {example}"]
        accepted = inspect.signature(model_class).parameters
        problems = [
            f"parameters.{name}: {self.model} has no such parameter; expected one of "
            + ", ".join(accepted)
            for name in self.parameters
            if name not in accepted
        ]
        if "seed" in accepted and type(self.parameters.get("seed")) is not int:
            problems.append(
                "parameters.seed: expected an integer, since the model draws random numbers, which "
                "must be the same in a replay"
            )
        return problems or _trial_problems(self)


class Remembered(NamedTuple):
    """vectors: float64[slots, 2 · window, features], NaN where absent. held: int64[slots], the number of
    a slot's vectors. scores: float64[3], weight, mean and variance of all entities' scores."""

    vectors: F64
    held: I64
    scores: F64


class River:
    """The models of a monitor's entities."""

    arrays_by_slot: tuple[str, ...] = ("remembered/vectors",)
    before_write: WriteHook | None = None

    def __init__(self, spec: RiverSpec, features: int, capacity: int) -> None:
        self.spec = spec
        self.pool = empty_pool(spec.entities_max, capacity)
        slots = len(self.pool.free)
        self.remembered = Remembered(
            vectors=np.zeros((slots, 2 * spec.window, features)),
            held=np.zeros(slots, np.int64),
            scores=np.zeros(3),
        )
        self.models: dict[int, Model] = {}

    def process(self, batch: DetectorInput) -> DetectorOutput:
        """Score, then learn, each event in order."""
        n = len(batch.admitted.row)
        out = DetectorOutput(np.full(n, np.nan), np.full(n, np.nan), np.full(n, np.nan))
        event_slots = slots_of(self.pool, batch.admitted, self.spec.min_events)
        notify_write(self, event_slots)
        slots, allocated = event_slots
        vectors = batch.scaled if self.spec.feed == "scaled" else batch.values
        for i in np.flatnonzero(slots >= 0).tolist():
            slot = int(slots[i])
            if allocated[i]:
                self.remembered.held[slot] = 0
                self.models.pop(slot, None)
            vector = vectors[:, i]
            if np.isnan(vector).all():
                continue
            if slot not in self.models:
                self._build(slot, batch.names)
            learn = bool(batch.admitted.learn[i])
            self._score(slot, _present_features(batch.names, vector), i, learn, out)
            if learn:
                self._learn(slot, batch.names, vector)
        return out

    def _score(
        self, slot: int, x: dict[str, float], i: int, learn: bool, out: DetectorOutput
    ) -> None:
        if self.remembered.held[slot] < self.spec.min_events:
            return
        model = self.models[slot] if learn else copy.deepcopy(self.models[slot])
        try:
            score = float(model.score_one(x))
        except (ArithmeticError, ValueError):
            return
        if not isfinite(score):
            return
        out.value[i] = score
        scores = self.remembered.scores
        deviation = sqrt(max(scores[VARIANCE], VARIANCE_MIN))
        z = min((score - scores[MEAN]) / deviation, Z_MAX)
        if scores[WEIGHT] >= SCORES_MIN:
            out.surprise[i] = surprise_of_normal(z)
            out.expected[i] = scores[MEAN] + EXPECTED_SD * deviation
            score = min(score, scores[MEAN] + WINSOR_SD * deviation)
        if learn:
            scores[WEIGHT] = min(scores[WEIGHT] + 1.0, SCORES_MEMORY)
            difference = score - scores[MEAN]
            share = 1.0 / scores[WEIGHT]
            scores[MEAN] += share * difference
            scores[VARIANCE] = (1.0 - share) * (scores[VARIANCE] + share * difference * difference)

    def _learn(self, slot: int, names: list[str], vector: F64) -> None:
        """Let the slot's model learn a vector. names: of the features."""
        vectors, held = self.remembered.vectors[slot], self.remembered.held
        try:
            self.models[slot].learn_one(_present_features(names, vector))
        except (ArithmeticError, ValueError):
            self._build(slot, names)
            return
        vectors[held[slot]] = vector
        held[slot] += 1
        if held[slot] == len(vectors):
            vectors[: self.spec.window] = vectors[self.spec.window :]
            held[slot] = self.spec.window
            self._build(slot, names)

    def _build(self, slot: int, names: list[str]) -> None:
        """Build the slot's model again from the remembered vectors."""
        model = _new_model(self.spec)
        for vector in self.remembered.vectors[slot, : self.remembered.held[slot]]:
            model.learn_one(_present_features(names, vector))
        self.models[slot] = model

    def save(self) -> Arrays:
        """The vectors that the models learned, and the rows that they belong to."""
        used = int(self.pool.marks[USED])
        remembered = state_arrays(self.remembered, {"vectors": used, "held": used})
        return add_prefix({"pool": state_arrays(self.pool), "remembered": remembered})

    def load(self, state: Arrays) -> None:
        """Replace the vectors by saved ones of the same declaration; models are built when needed."""
        load(self.pool, select_prefix("pool", state))
        load(self.remembered, select_prefix("remembered", state))
        self.models = {}


def _model_class(name: str) -> type[base.AnomalyDetector] | None:
    """The class with a dotted name; None where it is no anomaly model of River."""
    module, _, last = name.rpartition(".")
    if not module.startswith(ROOT):
        return None
    try:
        model_class = getattr(importlib.import_module(module), last, None)
    except ImportError:
        return None
    is_model = isinstance(model_class, type) and issubclass(model_class, base.AnomalyDetector)
    return model_class if is_model and not inspect.isabstract(model_class) else None


def _new_model(spec: RiverSpec) -> Model:
    model_class = _model_class(spec.model)
    assert model_class is not None, spec.model
    return cast("Model", model_class(**spec.parameters))


def _trial_problems(spec: RiverSpec) -> list[str]:
    """River's own error for the parameters, when a model is built and used."""
    try:
        model = _new_model(spec)
        for value in (0.25, 0.5, 0.75):
            model.learn_one({"a": value})
            model.score_one({"a": value})
    except (TypeError, ValueError, ArithmeticError, AttributeError, LookupError) as error:
        return [f"parameters: {spec.model} rejects them: {error}"]
    return []


def _present_features(names: list[str], vector: F64) -> dict[str, float]:
    """The features that are present, in the monitor's order."""
    pairs = zip(names, vector.tolist(), strict=True)
    return {name: value for name, value in pairs if value == value}  # noqa: PLR0124  # not NaN
