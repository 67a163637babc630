"""Explanation: why an event raised an alert, in features, expectations and shares.

It uses only values that the kernels recorded before they learned the event, so that an explanation
does not depend on batch boundaries.
"""

from math import exp, isnan, log10
from typing import Final, NamedTuple

from detectors.features import KINDS
from detectors.features.kind import FeatureKind
from detectors.models.half_space_trees import COUNTERFACTUAL_MAX, TreesOutput
from detectors.numeric.combination import P_MIN
from detectors.scoring.calibration import CalibrationOutput
from detectors.spec import FeatureSpec, RuleSpec
from schemas.alerts import Contribution
from schemas.columns import F64, I64

CONTRIBUTIONS_MAX: Final = 6
"""Largest number of contributions in an alert; the shares of the others are spread over them."""


class FeatureValues(NamedTuple):
    """The values of the features, then of the standalone detectors; all float64[values, n].

    A value times its unit is in natural units, in the event's own currency. centre, spread: the
    expected range (see `tail.TailOutput`); of a standalone detector, its upper end and 0.
    """

    values: F64
    units: F64
    centre: F64
    spread: F64


def score_of_p(p: float) -> float:
    """The score of a p-value, -log10 p; 0 where there is none."""
    return 0.0 if isnan(p) else 0.0 - log10(max(p, P_MIN))  # never -0.0


def six_digits(value: float) -> float:
    """A number rounded to six significant digits."""
    return float(f"{value:.6g}")


def shares(
    i: int, values: int, calibrated: CalibrationOutput, trees: TreesOutput | None
) -> list[float]:
    """The share of each value in event i's surprise; they sum to 1.

    A feature's part is the -log10 p of its tail, plus the share of the trees' -log10 p that is credited
    to its splits on the path (an equal share if no path was recorded).
    """
    parts = [score_of_p(float(calibrated.p[j, i])) for j in range(values)]
    if trees is not None:
        features = len(trees.path_share)
        trees_score = score_of_p(float(calibrated.p[values, i]))
        has_path = float(trees.path_share[:, i].sum()) > 0.0
        for j in range(features):
            parts[j] += trees_score * (float(trees.path_share[j, i]) if has_path else 1 / features)
    total = sum(parts)
    return [part / total if total > 0.0 else 1.0 / values for part in parts]


def expected(
    kind: FeatureKind | None, scale: str, centre: float, spread: float, unit: float
) -> tuple[float, float] | None:
    """The expected range in natural units; None where nothing is known. kind: None for a standalone
    detector."""
    if isnan(centre):
        return None
    if kind is None or kind.family == "share":
        return 0.0, six_digits(centre)
    low, high = (_to_natural_units(kind, scale, centre + sign * spread) for sign in (-1.0, 1.0))
    return six_digits(max(low, 0.0) * unit), six_digits(max(high, 0.0) * unit)


def _to_natural_units(kind: FeatureKind, scale: str, y: float) -> float:
    """A value y of the tail model in the feature's own units."""
    if kind.family == "rate":
        return max(y, 0.0) + kind.shift
    if scale == "root":
        return max(y, 0.0) ** 2 - kind.shift
    return exp(min(y, 600.0)) - kind.shift


def contributions(
    i: int,
    names: list[str],
    features: list[FeatureSpec],
    feature_values: FeatureValues,
    calibrated: CalibrationOutput,
    trees: TreesOutput | None,
) -> list[Contribution]:
    """The contributions to event i, largest share first, at most `CONTRIBUTIONS_MAX`.

    names: of the features, which are declared in `features`, then of the standalone detectors.
    """
    share = shares(i, len(names), calibrated, trees)
    present = [j for j in range(len(names)) if not isnan(feature_values.values[j, i])]
    largest = sorted(present, key=lambda j: (-share[j], j))[:CONTRIBUTIONS_MAX]
    total = sum(share[j] for j in largest)
    result = []
    for j in largest:
        unit = float(feature_values.units[j, i])
        kind = KINDS[features[j].kind] if j < len(features) else None
        scale = features[j].scale if j < len(features) else "log"
        interval = expected(
            kind,
            scale,
            float(feature_values.centre[j, i]),
            float(feature_values.spread[j, i]),
            unit,
        )
        p = float(calibrated.p[j, i])
        result.append(
            Contribution(
                feature=names[j],
                actual=six_digits(float(feature_values.values[j, i]) * unit),
                expected_low=interval[0] if interval else None,
                expected_high=interval[1] if interval else None,
                p_value=six_digits(1.0 if isnan(p) else p),
                share=share[j] / total if total > 0.0 else 1.0 / len(largest),
            )
        )
    return result


def rule_contributions(
    i: int,
    names: list[str],
    rule: RuleSpec,
    feature_values: FeatureValues,
    calibrated: CalibrationOutput,
) -> list[Contribution]:
    """The features of a rule, with equal shares; expected is less than the rule's bound."""
    bounds = list(rule.at_least.items())[:CONTRIBUTIONS_MAX]
    return [
        Contribution(
            feature=name,
            actual=six_digits(float(feature_values.values[j, i] * feature_values.units[j, i])),
            expected_low=0.0,
            expected_high=six_digits(bound),
            p_value=six_digits(1.0 if isnan(calibrated.p[j, i]) else float(calibrated.p[j, i])),
            share=1.0 / len(bounds),
        )
        for name, bound in bounds
        for j in [names.index(name)]
    ]


def counterfactual(
    i: int, names: list[str], order: I64, counterfactual_p: F64, threshold: float
) -> list[str] | None:
    """The fewest features, in a given order, without whose surprise event i would raise no alert.

    order: int64[3, n], each event's most surprising features first. counterfactual_p: float64[3, n],
    p if the first one, two, three features had their expected values, NaN where there are fewer
    features; it was computed by scoring the event again before it was learned. Other subsets of
    features are not tried. None where three features are not enough.
    """
    for k in range(COUNTERFACTUAL_MAX):
        p = float(counterfactual_p[k, i])
        if isnan(p):
            return None
        if p > threshold:
            return [names[int(order[c, i])] for c in range(k + 1)]
    return None
