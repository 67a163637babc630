"""The monitors of the laws: a small one for each feature kind and each detector, and one with all.
Every feature kind of the vocabulary is included, and every detector of `DETECTORS`; those of
other packages are declared with nothing but their name."""

from importlib.metadata import entry_points

import msgspec

from detectors.features import KINDS
from detectors.models.edges import EdgesSpec
from detectors.models.half_space_trees import RiverTreesSpec, TreesSpec
from detectors.models.label_risk import LabelRiskSpec
from detectors.models.river_model import RiverSpec
from detectors.models.seasonal import SeasonalSpec
from detectors.models.tail import TailSpec
from detectors.monitor import MonitorSpec
from detectors.spec import DetectorSpec, FeatureSpec, PolicySpec, RuleSpec

FIELD_READ = {"number": "amount", "text": "device", None: None}
FIELD_OF = {
    "distinct": "ip",
    "entropy": "ip",
    "price_ratio": "product",
    "popularity": "product",
    "sequence": "item",
}
"""Fields that show more of a kind than `FIELD_READ`'s: of many values, or shared by entities."""
HALF_LIFE_OF = {"departure": "1d", "night_share": "30d"}
"""Half-lives of kinds that within an hour learn too little to say anything."""
SMALL_TREES = TreesSpec(trees=4, height=4, min_events=3, entities_max=8)
SMALL_RIVER_TREES = RiverTreesSpec(trees=4, height=4, window=10, min_events=3, entities_max=8)
DETECTORS: dict[str, DetectorSpec] = {
    "tail": TailSpec(),
    "half_space_trees": SMALL_TREES,
    "river_trees": SMALL_RIVER_TREES,
    "edges": EdgesSpec(name="bursts", field="device", rows=2, buckets=64),
    "seasonal": SeasonalSpec(name="season", min_events=2),
    "label_risk": LabelRiskSpec(name="risk", keys_max=16, labels_max=32),
    "river": RiverSpec(
        name="outlier",
        model="river.anomaly.LocalOutlierFactor",
        parameters={"n_neighbors": 3},
        feed="value",
        window=5,
        min_events=2,
    ),
    **{
        point.name: point.load()(name=f"a_{point.name}")
        for point in entry_points(group="eddy.detectors")
    },
}
NOT_KEPT_PER_ROW = {
    "detector-edges": "its sketches count by the entity's hash: there is no row to evict",
}
"""Monitors of which a part has nothing to do with rows, and why."""
POLICY = PolicySpec(p_max=0.05, alerts_per_day=500, incident_gap="10min", warm_up_events=50)


def feature(kind: str) -> FeatureSpec:
    """A declaration of the kind with the parameters it needs."""
    needs = KINDS[kind]
    return FeatureSpec(
        name=f"a_{kind}",
        kind=kind,
        field=FIELD_OF.get(kind, FIELD_READ[needs.reads]),
        half_life=HALF_LIFE_OF.get(kind, "1h") if needs.decays else None,
        against="24h" if needs.needs_against else None,
        of={"kind": ["payment", ""]} if needs.needs_of else {},
    )


def monitor(features: list[FeatureSpec], detectors: list[DetectorSpec]) -> MonitorSpec:
    """A monitor over accounts, its capacity below the number of accounts in hostile streams."""
    return MonitorSpec(
        name="account",
        entity="account",
        inputs=["shop"],
        capacity=16,
        features=features,
        detectors=detectors,
        policy=POLICY,
    )


ALL_FEATURES = [feature(kind) for kind in KINDS]
LOGINS = FeatureSpec(name="logins", kind="count", half_life="1h", where={"kind": "login"})

MONITORS: dict[str, MonitorSpec] = {
    **{f"feature-{kind}": monitor([feature(kind)], [TailSpec(), SMALL_TREES]) for kind in KINDS},
    **{f"detector-{name}": monitor(ALL_FEATURES, [d]) for name, d in DETECTORS.items()},
    "whole": monitor([*ALL_FEATURES, LOGINS], [TailSpec(), SMALL_TREES]),
    "by-cohort": msgspec.structs.replace(
        monitor([feature("value"), feature("count")], [TailSpec(), SMALL_TREES]), cohort="device"
    ),
    "with-rules": msgspec.structs.replace(
        monitor([feature("value"), feature("count")], [TailSpec(), SMALL_TREES]),
        rules=[RuleSpec(name="busy", at_least={"a_count": 3.0, "a_value": 10.0}, p=1e-3)],
    ),
    "by-session": msgspec.structs.replace(
        monitor(ALL_FEATURES, [TailSpec(), SMALL_TREES]), session_gap="5min"
    ),
}
