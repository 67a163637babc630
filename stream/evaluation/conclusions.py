"""The headline of a run and the conclusion about a pair of runs, in sentences.

Both stand in the JSON beside the page. A run is called better only where an interval says so, and
never for alerting more: what alerts find is compared where both alert equally often, and the
volume and precision of each are given beside it, first where they differ most.
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
    """Of a pair: which run is better, as far as it is known; the alerts of each; and by how much."""

    conclusion: str
    alert_volume: str
    reason: str


# -- a run ----------------------------------------------------------------------------------------


def run_headline(evaluation: Evaluation | None, alerts: int, incidents: int) -> str:
    """What a run led to. alerts, incidents: in the time that is evaluated."""
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
    """Why a run has no evaluation. labels_read: labels read, from files or among
    the events; labels_accepted: those with a verdict that are of these events."""
    if not labels_read:
        return "No labels were given, so nothing here says which alerts were right."
    if not labels_accepted:
        return f"Of the {format_quantity(labels_read, 'label')} none is of an event that was read."
    return f"{format_quantity(labels_accepted, 'label')} were given, but no event lies in the time that is evaluated."


# -- a pair ---------------------------------------------------------------------------------------


def pair_conclusion(
    first: str,
    other: str,
    differences: Sequence[Difference],
    with_alert: tuple[int, int],
    drift: Drift,
) -> PairConclusion:
    """Which of two runs is better: by how it ranks, and by what its alerts find. with_alert:
    how many events of either have one."""
    by_measure = {one.measure: one for one in differences}
    precision = by_measure.get(PRECISION)
    shares = (precision.first, precision.other) if precision else (None, None)
    cost = "; ".join(map(_volume_text, (first, other), with_alert, shares))
    if not differences:
        text = f"Without labels of events nobody can say whether {first} or {other} is better"
        return PairConclusion(text, cost, _overlap_text(drift))
    by_rank, by_alerts = by_measure[AVERAGE_PRECISION].sign, by_measure[EQUAL_RECALL].sign
    sign = by_rank or by_alerts or 1
    one, than = (other, first) if sign > 0 else (first, other)
    apart = _volume_difference((first, other), with_alert, by_measure)
    left_out = [*([] if min(with_alert) else [EQUAL_RECALL]), *([] if apart else [RECALL])]
    because = "; ".join(
        _difference_text(by_measure[measure], sign)
        for measure in (AVERAGE_PRECISION, EQUAL_RECALL, RECALL)
        if measure in by_measure and measure not in left_out
    )
    return PairConclusion(_better_text(one, than, by_rank, by_alerts, apart), cost, because)


def _volume_text(name: str, with_alert: int, precision: float | None) -> str:
    text = f"{name} has {format_quantity(with_alert, 'event')} with an alert"
    return text if precision is None else f"{text}, {format_percent(precision)} of them fraud"


def _volume_difference(
    names: tuple[str, str], with_alert: tuple[int, int], by_measure: Mapping[str, Difference]
) -> str:
    """How much more one alerts, and at what precision; "" where neither recall nor precision at the
    alert budget differs significantly."""
    (fewer, few), (more, many) = sorted(zip(names, with_alert, strict=True), key=lambda one: one[1])
    if not few:
        return f"{fewer} has no alert, so none can be compared at equally many" if many else ""
    shown = [by_measure[one] for one in (RECALL, PRECISION) if one in by_measure]
    if few == many or not any(one.sign for one in shown):
        return ""
    text = f"{more} alerts on {format_number(many / few)} times as many events as {fewer}"
    precision = by_measure[PRECISION]
    shares = {name: precision.first if name == names[0] else precision.other for name in names}
    theirs, its = shares[more], shares[fewer]
    return (
        f"{text}, at {format_number(theirs / its)} times its precision" if theirs and its else text
    )


def _better_text(one: str, than: str, by_rank: int, by_alerts: int, apart: str) -> str:
    """one: the better one by rank, else by alerts. apart: how much more one alerts, or ""."""
    if not by_rank and not by_alerts:
        if apart:
            return f"No significant difference in how {than} and {one} rank; {apart}"
        return f"No significant difference between {than} and {one}"
    if by_rank == by_alerts:
        return f"{one} catches more than {than} with equally many alerts"
    if not by_alerts:
        text = apart or "no significant difference in what their alerts find"
        return f"{one} ranks frauds higher than {than}; {text}"
    if not by_rank:
        text = "no significant difference in how they rank"
        return f"{one} finds more frauds than {than} with equally many alerts; {text}"
    text = f"with equally many alerts {than} finds more of them"
    return f"{one} ranks frauds higher than {than}; {text}"


def _overlap_text(drift: Drift) -> str:
    share = drift.alerts_in_common
    if share is None:
        return "neither alerts at all"
    return f"of the events with an alert, {format_percent(share)} have one of both"


def _difference_text(one: Difference, sign: int) -> str:
    """The difference as one run has it. sign: 1 for the other, -1 for the first."""
    measure, difference = one.measure, one.difference
    if difference.value is None:
        return f"{measure} is not defined"
    if difference.value == 0.0 and difference.low is None:
        return f"{measure} the same"
    value = f"{measure} {format_difference(sign * difference.value)}"
    if difference.low is None or difference.high is None:
        return f"{value} ({'on whichever days' if one.sign else 'too few days for an interval'})"
    low, high = sorted((sign * difference.low, sign * difference.high))
    return f"{value} (95 %: {format_difference(low)} to {format_difference(high)})"
