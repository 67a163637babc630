"""Entities do not disturb each other: in whatever order events of the same moment come, each entity
has the features and the scores that it would have had.

It holds where a model knows one entity alone. What learns from many entities at once is named in
`SHARED` with what is shared, and a test says that it does depend on the order, so that the list
holds nothing else. Calibrated p-values are always shared: they are ranks among all entities' scores.
Not covered are evictions: which entity gives way depends on who came before, so that the table has
room for all. Amounts are left out: they are measured in what is typical of their currency, over all
entities. So is the bound on times from the future, which follows all entities' times.
"""

from math import inf
from typing import Final

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from detectors.features import KINDS
from detectors.models.edges import EdgesSpec
from detectors.models.interface import StandaloneSpec
from detectors.models.tail import TailSpec
from detectors.monitor import Monitor, MonitorOutput
from detectors.spec import DetectorSpec, FeatureSpec
from schemas.columns import F64, EventBatch
from schemas.events import TYPES
from tests.detectors.harness import LABEL_TYPE, DetectorHarness, Row
from tests.laws.registry import ALL_FEATURES, DETECTORS, monitor
from tests.laws.test_laws import KEY
from tests.streams import START_MS, same

ENTITIES: Final = 12
MOMENTS: Final = 60
EVENTS: Final = ENTITIES * MOMENTS
LABELLED: Final = 40
FEATURES: Final = [
    msgspec.structs.replace(
        one,
        field="status" if one.field == "amount" else one.field,
        half_life="30d" if one.kind == "hour_habit" else one.half_life,
    )
    for one in ALL_FEATURES
]
SHARED: Final = {
    "hour_habit": "an hour is compared with the usual hours of all entities",
    "popularity": "it counts how many entities have a value",
    "price_ratio": "it compares with the product's mean over all entities",
    "tail": "a new entity is compared with its cohort, which all entities teach",
    "half_space_trees": "the cohort's masses stand in where an entity has few of its own",
    "river_trees": "the tail's surprises are its inputs",
    "seasonal": "an entity with a short history is compared with the profile of all",
    "river": "a score is compared with those of all entities",
    "label_risk": "the prior is the share of frauds among all labels",
}
"""What learns from several entities at once, and from what."""
WIDE: Final = EdgesSpec(name="edges", field="device", buckets=4096)
"""With so many buckets that no two entities share one."""
OWN: Final = [spec for spec in FEATURES if spec.kind not in SHARED]


def stream(order: np.random.Generator | None = None) -> EventBatch:
    """Events of every entity at each moment, and labels of some; within a moment in an order drawn
    from `order`, or in that of the entities. An event is named by its moment and its entity."""
    draw = np.random.Generator(np.random.PCG64(5))
    shape = (MOMENTS, ENTITIES)
    status = draw.choice([200.0, 200.0, 404.0, 500.0], shape)
    status[draw.random(shape) < 0.1] = np.nan
    device, ip, item = (draw.integers(0, count, shape) for count in (3, 5, 4))
    kind, product = draw.integers(0, 2, shape), draw.integers(0, 4, shape)
    latitude = 40.0 + draw.normal(0.0, 5.0, shape)
    is_label = np.zeros(shape, np.bool_)
    is_label[2:].ravel()[:: (MOMENTS - 2) * ENTITIES // LABELLED] = True
    moment_ms = START_MS + np.cumsum(draw.integers(60_000, 3_600_000, MOMENTS))
    entity = np.tile(np.arange(ENTITIES), (MOMENTS, 1))
    if order is not None:
        entity = order.permuted(entity, axis=1)
    moment = np.repeat(np.arange(MOMENTS), ENTITIES)
    who = entity.ravel()
    at = moment, who
    label = is_label[at]
    return EventBatch(
        sources=(("shop", 0),),
        source=np.zeros(EVENTS, np.int32),
        offset=np.arange(EVENTS, dtype=np.int64),
        time_ms=moment_ms[moment].astype(np.int64),
        type_code=np.where(label, LABEL_TYPE, TYPES.index("login")).astype(np.uint8),
        event_id=pa.array([f"e{m}-{k}" for m, k in zip(moment, who, strict=True)]),
        text={
            "account": pa.array([f"a{k}" for k in who]),
            "device": pa.array([f"d{k}-{x}" for k, x in zip(who, device[at], strict=True)]),
            "ip": pa.array([f"i{k}-{x}" for k, x in zip(who, ip[at], strict=True)]),
            "product": pa.array([f"p{x}" for x in product[at]]),
            "kind": pa.array(np.where(kind[at], "payment", "login")),
            "currency": pa.array(["EUR"] * EVENTS),
            "verdict": pa.array(["fraud"] * EVENTS, mask=~label),
            "labelled_event_id": pa.array([f"e0-{k}" for k in who], mask=~label),
        },
        number={
            "status": status[at],
            "amount": 10.0 + product[at] + status[at] / 100.0,
            "item": item[at].astype(np.float64),
            "utc_offset_min": np.full(EVENTS, np.nan),
            "latitude": latitude[at],
            "longitude": latitude[at] - 30.0,
        },
    )


def by_event(columns: F64, events: EventBatch) -> F64:
    """Columns over the events that are no labels, in one order whatever the stream's."""
    ids = np.array(events.event_id.to_pylist())[events.type_code != LABEL_TYPE]
    return np.ascontiguousarray(columns[..., np.argsort(ids, kind="stable")])


def features_found(features: list[FeatureSpec], events: EventBatch) -> F64:
    """float64[features, n]: a monitor's values, by event."""
    return by_event(watched(features, TailSpec(), events).feature_values.values, events)


def watched(
    features: list[FeatureSpec], detector: DetectorSpec, events: EventBatch
) -> MonitorOutput:
    """What a monitor with room for all entities finds."""
    spec = msgspec.structs.replace(monitor(features, [detector]), capacity=2 * ENTITIES)
    return Monitor(spec, KEY, ahead_max_ms=inf).process(events)


def scores_found(detector: DetectorSpec, events: EventBatch) -> F64:
    """float64[_, n]: a detector's surprise, and what else it says, by event."""
    if isinstance(detector, StandaloneSpec):
        types = [TYPES[code] for code in events.type_code]
        text = pa.table(events.text).to_pylist()
        rows = [Row(t / 1000.0, x, k) for t, x, k in zip(events.time_ms, text, types, strict=True)]
        numbers = np.stack([events.number["status"], events.number["item"]])
        behaviour = numbers[:, events.type_code != LABEL_TYPE]
        verdict = DetectorHarness(detector, 2, 2 * ENTITIES).process(rows, behaviour)
        return by_event(np.stack([*verdict.values()]), events)
    found = watched(OWN, detector, events)
    return by_event(
        found.tail_output.surprise if found.trees is None else found.trees.surprise, events
    )


@pytest.fixture(scope="module")
def shuffled() -> EventBatch:
    """The stream, each moment's events in an order of their own."""
    return stream(np.random.Generator(np.random.PCG64(1)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_feature_does_not_depend_on_the_order_of_entities(
    kind: str, shuffled: EventBatch
) -> None:
    """Every value of every entity is the same, byte for byte, unless the kind is in `SHARED`."""
    features = [one for one in FEATURES if one.kind == kind]
    one, other = (features_found(features, events) for events in (stream(), shuffled))
    assert np.isfinite(one).any()
    assert same(one, other) == (kind not in SHARED)


def test_a_feature_does_not_depend_on_other_features() -> None:
    """A monitor with all features finds for each what a monitor with that feature alone finds, over
    several batches."""
    events = stream()

    def found(features: list[FeatureSpec]) -> F64:
        of = Monitor(monitor(features, [TailSpec()]), KEY, ahead_max_ms=inf)
        parts = [of.process(events.slice(k, k + 97)) for k in range(0, EVENTS, 97)]
        return np.concatenate([part.feature_values.values for part in parts], axis=1)

    for one, values in zip(FEATURES, found(FEATURES), strict=True):
        assert same(values, found([one])[0]), one.name


@pytest.mark.parametrize(
    "name",
    [name for name, spec in DETECTORS.items() if type(spec).__module__.startswith("detectors.")],
)
def test_a_detector_does_not_depend_on_the_order_of_entities(
    name: str, shuffled: EventBatch
) -> None:
    """Neither does its score, over features of which the same holds, unless it is in `SHARED`. A
    package's own detector may do either."""
    spec = WIDE if name == "edges" else DETECTORS[name]
    one, other = (scores_found(spec, events) for events in (stream(), shuffled))
    assert np.isfinite(one).any(axis=-1).any()
    assert same(one, other) == (name not in SHARED)


def test_a_calibrated_p_depends_on_the_order_of_entities(shuffled: EventBatch) -> None:
    """It is the rank of a score among the scores of all entities so far."""
    one, other = (by_event(watched(OWN, WIDE, batch).p, batch) for batch in (stream(), shuffled))
    assert not same(one, other)
