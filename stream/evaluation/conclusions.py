"""The headline of a run and the conclusion about a pair of runs, in sentences.

The JSON and the page hold the same sentences. A run is called better only if a difference is
significant, and never because it alerts more: recall is compared at equally many alerts, and the
number and precision of each run's alerts are given with it.
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
    """Which run of a pair is better, if that is known; the alerts of each run; and the differences."""

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
    """Why a run has no evaluation. labels_read: labels read, from files or among
    the events. labels_accepted: labels of these events with a known verdict."""
    if not labels_read:
        return "No labels were given, so nothing here says which alerts were right."
    if not labels_accepted:
        return f"Of the {format_quantity(labels_read, 'label')} none belongs to an event that was read."
    return f"{format_quantity(labels_accepted, 'label')} were given, but no event lies in the evaluated time."


# -- a pair ---------------------------------------------------------------------------------------


def pair_conclusion(
    first: str,
    other: str,
    differences: Sequence[Difference],
    with_alert: tuple[int, int],
    drift: Drift,
) -> PairConclusion:
    """Which of two runs is better, by ranking and by recall. with_alert: the number of events with an
    alert in each run."""
    by_measure = {difference.measure: difference for difference in differences}
    precision = by_measure.get(PRECISION)
    shares = (precision.first, precision.other) if precision else (None, None)
    alert_volume = "; ".join(map(_volume_text, (first, other), with_alert, shares))
    if not differences:
        text = f"Without labels of events nobody can say whether {first} or {other} is better"
        return PairConclusion(text, alert_volume, _overlap_text(drift))
    by_rank, by_alerts = by_measure[AVERAGE_PRECISION].sign, by_measure[EQUAL_RECALL].sign
    sign = by_rank or by_alerts or 1
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
    return PairConclusion(
        _better_text(better, worse, by_rank, by_alerts, volume_difference), alert_volume, reason
    )


def _volume_text(name: str, with_alert: int, precision: float | None) -> str:
    text = f"{name} has {format_quantity(with_alert, 'event')} with an alert"
    return text if precision is None else f"{text}, {format_percent(precision)} of them fraud"


def _volume_difference(
    names: tuple[str, str], with_alert: tuple[int, int], by_measure: Mapping[str, Difference]
) -> str:
    """How many times as often one run alerts, and at what precision; "" if neither recall nor precision
    at the alert budget differs significantly."""
    (fewer, fewer_alerts), (more, more_alerts) = sorted(
        zip(names, with_alert, strict=True), key=lambda run: run[1]
    )
    if not fewer_alerts:
        return (
            f"{fewer} has no alert, so recall at equally many alerts is undefined"
            if more_alerts
            else ""
        )
    shown = [by_measure[name] for name in (RECALL, PRECISION) if name in by_measure]
    if fewer_alerts == more_alerts or not any(difference.sign for difference in shown):
        return ""
    text = f"{more} alerts on {format_number(more_alerts / fewer_alerts)} times as many events as {fewer}"
    precision = by_measure[PRECISION]
    shares = {name: precision.first if name == names[0] else precision.other for name in names}
    precision_more, precision_fewer = shares[more], shares[fewer]
    return (
        f"{text}, at {format_number(precision_more / precision_fewer)} times its precision"
        if precision_more and precision_fewer
        else text
    )


def _better_text(
    better: str, worse: str, by_rank: int, by_alerts: int, volume_difference: str
) -> str:
    """The conclusion. better: the better run by rank, or if equal by alerts. by_rank, by_alerts: the signs
    of the differences."""
    if not by_rank and not by_alerts:
        if volume_difference:
            return (
                f"No significant difference in how {worse} and {better} rank; {volume_difference}"
            )
        return f"No significant difference between {worse} and {better}"
    if by_rank == by_alerts:
        return f"{better} catches more than {worse} with equally many alerts"
    if not by_alerts:
        text = volume_difference or "no significant difference in what their alerts find"
        return f"{better} ranks frauds higher than {worse}; {text}"
    if not by_rank:
        text = "no significant difference in how they rank"
        return f"{better} finds more frauds than {worse} with equally many alerts; {text}"
    text = f"with equally many alerts {worse} finds more of them"
    return f"{better} ranks frauds higher than {worse}; {text}"


def _overlap_text(drift: Drift) -> str:
    share = drift.alerts_in_common
    if share is None:
        return "neither alerts at all"
    return f"of the events with an alert, {format_percent(share)} have one of both"


def _difference_text(compared: Difference, sign: int) -> str:
    """The difference from one run's side. sign: 1 for the other run, -1 for the first."""
    measure, difference = compared.measure, compared.difference
    if difference.value is None:
        return f"{measure} is not defined"
    if difference.value == 0.0 and difference.low is None:
        return f"{measure} the same"
    value = f"{measure} {format_difference(sign * difference.value)}"
    if difference.low is None or difference.high is None:
        return f"{value} ({'the same in every resample of days' if compared.sign else 'too few days for an interval'})"
    low, high = sorted((sign * difference.low, sign * difference.high))
    return f"{value} (95 %: {format_difference(low)} to {format_difference(high)})"
