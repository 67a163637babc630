"""River: any anomaly model of the River library, by its dotted name, one object for each entity.

The way to try what Eddy has no kernel for, at the price of Python objects: a model is fed the
monitor's features as a dict of name → value, absent ones left out; `score_one`, then `learn_one`.
Of River's models those that derive from `river.base.AnomalyDetector` will do: they need no target.
`feed = "scaled"` hands over the features' places in [0, 1] among their cohort's values, which is
what River's half-space trees and most others expect; `feed = "value"` the values themselves.

Whatever a model is inside, it can be saved without pickle, for it is made to be a function of the
vectors it was taught: these are kept, `window` to 2 · `window` of them, and at 2 · `window` the
older half is dropped and the model built anew from the rest, as it is after loading a checkpoint.
So an entity is remembered for `window` events at least; each vector is learned twice; and a model
that draws random numbers must be given a `seed`. An event that is not to be learned is scored by a
copy.

surprise = -ln P(Z > z), z the score's distance from the mean score of all entities in standard
deviations, both decayed by count, a score learned as at most `WINSOR_SD` deviations away: scores of
models are on no common scale, and calibration makes a p-value of whatever grows with them.

value: the score, as River gives it, larger is stranger. expected: the mean score and two
deviations. NaN without a model (an entity gets one with its `min_events`th event, while
`entities_max` allows, and loses it with its row), until it has learned `min_events` vectors more,
where every feature is absent, and where the model fails arithmetically: that vector is not learned.
surprise is also NaN until `SCORES_MIN` scores were seen.

Bytes an entity: 16 · window · features (48 kB for 12 features and a window of 250), and the model's
own: 1.2 MB and 30 ms to build for River's half-space trees. Cost: the model's, twice to learn and
once to score. Measured an event, 12 features: one-class SVM 50 µs, half-space trees 400 µs, local
outlier factor 15,000 µs at the default window, 3,000 µs at 50. `entities_max` bounds how
many models there are.
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
    """What is asked of a model of River's."""

    def score_one(self, x: dict[str, float]) -> float:
        """How strange x is."""

    def learn_one(self, x: dict[str, float]) -> None:
        """Learn x."""


class RiverSpec(StandaloneSpec, frozen=True, kw_only=True, tag="river"):
    """An anomaly model of River for each entity."""

    model: str
    """Dotted name of the model's class, such as `river.anomaly.LocalOutlierFactor`."""
    parameters: dict[str, Any] = msgspec.field(default_factory=dict)
    """Arguments of the class's constructor."""
    feed: Literal["scaled", "value"] = "scaled"
    """What the model sees of each feature: `scaled` between 0 and 1 by the entity's history, or the
    raw `value`."""
    window: Annotated[int, Meta(ge=1, le=100_000)] = 250
    """Number of feature vectors that the model remembers at least."""
    min_events: Annotated[int, Meta(ge=1)] = 20
    """Events of an entity before it gets a model, and events that the model learns before its
    scores count."""
    entities_max: Annotated[int, Meta(ge=1, le=1_000_000)] = 1_000
    """Upper bound on the models held."""

    def build(self, features: int, capacity: int) -> "River":
        """No model yet."""
        return River(self, features, capacity)

    def problems(self) -> list[str]:
        """A model that is none of River's, or that its parameters do not make."""
        kind = _kind(self.model)
        if kind is None:
            expected = "a class of River's that derives from river.base.AnomalyDetector"
            example = "river.anomaly.LocalOutlierFactor"
            return [f"model: got {self.model}; expected {expected}, such as {example}"]
        known = inspect.signature(kind).parameters
        found = [
            f"parameters.{name}: {self.model} has no such parameter; expected among "
            + ", ".join(known)
            for name in self.parameters
            if name not in known
        ]
        if "seed" in known and type(self.parameters.get("seed")) is not int:
            found.append(
                "parameters.seed: expected an integer, since the model draws random numbers and a "
                "replay must draw the same"
            )
        return found or _tried(self)


class Remembered(NamedTuple):
    """vectors: float64[slots, 2 · window, features], NaN where absent; held: how many of a slot's
    are there. scores: weight, mean and variance of all entities' scores."""

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
        slotted = slots_of(self.pool, batch.admitted, self.spec.min_events)
        notify_write(self, slotted)
        slots, given = slotted
        fed = batch.scaled if self.spec.feed == "scaled" else batch.values
        for i in np.flatnonzero(slots >= 0).tolist():
            slot = int(slots[i])
            if given[i]:
                self.remembered.held[slot] = 0
                self.models.pop(slot, None)
            vector = fed[:, i]
            if np.isnan(vector).all():
                continue
            if slot not in self.models:
                self._build(slot, batch.names)
            learn = bool(batch.admitted.learn[i])
            self._judge(slot, _named(batch.names, vector), i, learn, out)
            if learn:
                self._learn(slot, batch.names, vector)
        return out

    def _judge(
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
            off = score - scores[MEAN]
            share = 1.0 / scores[WEIGHT]
            scores[MEAN] += share * off
            scores[VARIANCE] = (1.0 - share) * (scores[VARIANCE] + share * off * off)

    def _learn(self, slot: int, names: list[str], vector: F64) -> None:
        """Teach the slot's model; names: the features', for where it is built anew."""
        vectors, held = self.remembered.vectors[slot], self.remembered.held
        try:
            self.models[slot].learn_one(_named(names, vector))
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
        """Make the slot's model anew from the vectors that are remembered."""
        model = _new(self.spec)
        for vector in self.remembered.vectors[slot, : self.remembered.held[slot]]:
            model.learn_one(_named(names, vector))
        self.models[slot] = model

    def save(self) -> Arrays:
        """What the models were taught, and who owns them."""
        used = int(self.pool.marks[USED])
        remembered = state_arrays(self.remembered, {"vectors": used, "held": used})
        return add_prefix({"pool": state_arrays(self.pool), "remembered": remembered})

    def load(self, state: Arrays) -> None:
        """Replace the models by ones taught what was saved under the same declaration."""
        load(self.pool, select_prefix("pool", state))
        load(self.remembered, select_prefix("remembered", state))
        self.models = {}


def _kind(name: str) -> type[base.AnomalyDetector] | None:
    """The class of that dotted name; None where it is none of River's anomaly models."""
    module, _, last = name.rpartition(".")
    if not module.startswith(ROOT):
        return None
    try:
        kind = getattr(importlib.import_module(module), last, None)
    except ImportError:
        return None
    usable = isinstance(kind, type) and issubclass(kind, base.AnomalyDetector)
    return kind if usable and not inspect.isabstract(kind) else None


def _new(spec: RiverSpec) -> Model:
    kind = _kind(spec.model)
    assert kind is not None, spec.model
    return cast("Model", kind(**spec.parameters))


def _tried(spec: RiverSpec) -> list[str]:
    """What River says against the parameters, when a model of them is made and used."""
    try:
        model = _new(spec)
        for value in (0.25, 0.5, 0.75):
            model.learn_one({"a": value})
            model.score_one({"a": value})
    except (TypeError, ValueError, ArithmeticError, AttributeError, LookupError) as refusal:
        return [f"parameters: {spec.model} refuses them: {refusal}"]
    return []


def _named(names: list[str], vector: F64) -> dict[str, float]:
    """The features that are there, in the monitor's order."""
    pairs = zip(names, vector.tolist(), strict=True)
    return {name: value for name, value in pairs if value == value}  # noqa: PLR0124  # not NaN
