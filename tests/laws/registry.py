"""What the laws run over: one small monitor for each feature kind and each detector, and a whole
one. A kind or detector that is added to the vocabulary is registered here by being there."""

from detectors.features import KINDS
from detectors.models.half_space_trees import RiverTreesSpec, TreesSpec
from detectors.models.tail import TailSpec
from detectors.monitor import MonitorSpec
from detectors.spec import DetectorSpec, FeatureSpec, PolicySpec

FIELD_READ = {"number": "amount", "text": "device", None: None}
FIELD_OF = {"distinct": "ip", "entropy": "ip", "price_ratio": "product"}
"""Fields that show more of a kind than `FIELD_READ`'s: of many values, or shared by entities."""
SMALL_TREES = TreesSpec(trees=4, height=4, min_events=3, entities_max=8)
SMALL_RIVER_TREES = RiverTreesSpec(trees=4, height=4, window=10, min_events=3, entities_max=8)
DETECTORS: dict[str, DetectorSpec] = {
    "tail": TailSpec(),
    "half_space_trees": SMALL_TREES,
    "river_trees": SMALL_RIVER_TREES,
}
POLICY = PolicySpec(p_max=0.05, alerts_per_day=500, incident_gap="10min", warm_up_events=50)


def feature(kind: str) -> FeatureSpec:
    """A declaration of the kind with the parameters it needs."""
    needs = KINDS[kind]
    return FeatureSpec(
        name=f"a_{kind}",
        kind=kind,
        field=FIELD_OF.get(kind, FIELD_READ[needs.reads]),
        half_life="1h" if needs.decays else None,
        against="24h" if needs.compares else None,
        of={"kind": ["payment", ""]} if needs.divides else {},
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
}
