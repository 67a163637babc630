"""The headline of a run, and the conclusion about a pair of runs, as sentences.

Both are also in the JSON files. A run is called better only if a confidence interval excludes no
difference, and never because it alerts more: the frauds with an alert are compared at equally many
alerts. The number and precision of the alerts of each run are stated in addition.
"""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from stream.evaluation.comparison import Difference, Drift
from stream.evaluation.results import Evaluation
from stream.formatting import (
    format_count,
    format_difference,
    format_number,
    format_percent,
    format_quantity,
)

AVERAGE_PRECISION: Final = "average precision"
PRECISION: Final = "precision at the alert budget"
RECALL: Final = "recall at the alert budget"
EQUAL_RECALL: Final = "recall at equally many alerts"


class PairConclusion(NamedTuple):
    """The conclusion about a pair of runs: which is better, if known; the alerts of each; by how much it is
    better."""

    conclusion: str
    alert_volume: str
    reason: str


# -- a run ----------------------------------------------------------------------------------------


def run_headline(evaluation: Evaluation | None, alerts: int, incidents: int) -> str:
    """The result of a run in one sentence. alerts, incidents: in the evaluated time."""
    if evaluation is None:
        return f"{format_quantity(alerts, 'alert')} in {format_quantity(incidents, 'incident')}"
    if evaluation.labelled_entities and not evaluation.frauds:
        counts = f"{format_quantity(alerts, 'alert')} in {format_quantity(incidents, 'incident')}"
        return f"Fraud is confirmed for entities, not for events; {counts}"
    if not evaluation.frauds:
        return f"No confirmed fraud; {format_quantity(alerts, 'alert')}"
    caught = evaluation.frauds - evaluation.missed.frauds
    share = evaluation.views[0].amount.caught_share.value
    amount = "" if share is None else f", and {format_percent(share)} of their amount,"
    return (
        f"{format_count(caught)} of {format_quantity(evaluation.frauds, 'fraud')} caught{amount} "
        f"by {format_quantity(alerts, 'alert')} in {format_quantity(incidents, 'incident')}"
    )


def no_evaluation_reason(labels_read: int, labels_accepted: int) -> str:
    """Why a run has no evaluation. labels_read: labels in files or among the events. labels_accepted:
    those of them with a verdict that belong to these events."""
    if not labels_read:
        return "No labels were given, so it is unknown which alerts are right."
    if not labels_accepted:
        return f"None of {format_quantity(labels_read, 'label')} belongs to an event that was read."
    return f"{format_quantity(labels_accepted, 'label')} were given, but no event is in the evaluated time."


# -- a pair ---------------------------------------------------------------------------------------


def pair_conclusion(
    first: str,
    other: str,
    differences: Sequence[Difference],
    with_alert: tuple[int, int],
    drift: Drift,
) -> PairConclusion:
    """Which of two runs is better, by its ranking and by the frauds with an alert. with_alert: the number
    of events with an alert of each run."""
    by_measure = {difference.measure: difference for difference in differences}
    precision = by_measure.get(PRECISION)
    shares = (precision.first, precision.other) if precision else (None, None)
    volume = "; ".join(map(_volume_text, (first, other), with_alert, shares))
    if not differences:
        text = f"Without labels of events it is unknown whether {first} or {other} is better"
        return PairConclusion(text, volume, _overlap_text(drift))
    rank_sign, alert_sign = by_measure[AVERAGE_PRECISION].sign, by_measure[EQUAL_RECALL].sign
    sign = rank_sign or alert_sign or 1
    better, worse = (other, first) if sign > 0 else (first, other)
    volume_difference = _volume_difference((first, other), with_alert, by_measure)
    left_out = [
        *([] if min(with_alert) else [EQUAL_RECALL]),
        *([] if volume_difference else [RECALL]),
    ]
    reason = "; ".join(
        _difference_text(by_measure[measure], sign)
        for measure in (AVERAGE_PRECISION, EQUAL_RECALL, RECALL)
        if measure in by_measure and measure not in left_out
    )
    conclusion = _better_text(better, worse, rank_sign, alert_sign, volume_difference)
    return PairConclusion(conclusion, volume, reason)


def _volume_text(name: str, with_alert: int, precision: float | None) -> str:
    text = f"{name} has {format_quantity(with_alert, 'event')} with an alert"
    return text if precision is None else f"{text}, {format_percent(precision)} of them fraud"


def _volume_difference(
    names: tuple[str, str], with_alert: tuple[int, int], by_measure: Mapping[str, Difference]
) -> str:
    """How many more events one run alerts on, and at what precision; "" if neither recall nor precision
    at the alert budget differs significantly."""
    (fewer, few), (more, many) = sorted(zip(names, with_alert, strict=True), key=lambda run: run[1])
    if not few:
        return (
            f"{fewer} has no alert, so recall at equally many alerts is undefined" if many else ""
        )
    at_budget = [by_measure[name] for name in (RECALL, PRECISION) if name in by_measure]
    if few == many or not any(difference.sign for difference in at_budget):
        return ""
    text = f"{more} alerts on {format_number(many / few)} times as many events as {fewer}"
    precision = by_measure[PRECISION]
    shares = {name: precision.first if name == names[0] else precision.other for name in names}
    more_precision, fewer_precision = shares[more], shares[fewer]
    if not more_precision or not fewer_precision:
        return text
    return f"{text}, at {format_number(more_precision / fewer_precision)} times its precision"


def _better_text(
    better: str, worse: str, rank_sign: int, alert_sign: int, volume_difference: str
) -> str:
    """The conclusion. better: the run that ranks better, else the one whose alerts are better.
    volume_difference: from `_volume_difference`."""
    if not rank_sign and not alert_sign:
        if volume_difference:
            text = f"No significant difference in how {worse} and {better} rank"
            return f"{text}; {volume_difference}"
        return f"No significant difference between {worse} and {better}"
    if rank_sign == alert_sign:
        return f"{better} catches more than {worse} with equally many alerts"
    if not alert_sign:
        text = volume_difference or "no significant difference in the frauds with an alert"
        return f"{better} ranks frauds higher than {worse}; {text}"
    if not rank_sign:
        text = "no significant difference in how they rank"
        return f"{better} finds more frauds than {worse} with equally many alerts; {text}"
    text = f"with equally many alerts {worse} finds more of them"
    return f"{better} ranks frauds higher than {worse}; {text}"


def _overlap_text(drift: Drift) -> str:
    share = drift.alerts_in_common
    if share is None:
        return "neither run has an alert"
    return f"of the events with an alert, {format_percent(share)} have one in both runs"


def _difference_text(difference: Difference, sign: int) -> str:
    """The difference of a measure. sign: 1 for the other run minus the first, -1 for the reverse."""
    measure, estimate = difference.measure, difference.difference
    if estimate.value is None:
        return f"{measure} is not defined"
    if estimate.value == 0.0 and estimate.low is None:
        return f"{measure} the same"
    value = f"{measure} {format_difference(sign * estimate.value)}"
    if estimate.low is None or estimate.high is None:
        return f"{value} ({'the same in every resample' if difference.sign else 'too few days for an interval'})"
    low, high = sorted((sign * estimate.low, sign * estimate.high))
    return f"{value} (95 %: {format_difference(low)} to {format_difference(high)})"
