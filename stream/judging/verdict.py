"""What a run, or a pair of runs, comes to, in the sentences that are read first.

Both stand in the JSON beside the page. A run is called better only where an interval says so, and
never for alerting more: what alerts find is compared where both alert equally often, and each
one's volume and precision are told beside it, first of all where they are what differs.
"""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from stream.judging.comparison import Difference, Drift
from stream.judging.figures import Judgement
from stream.words import number, percent, signed, some, whole

AVERAGE_PRECISION: Final = "average precision"
PRECISION: Final = "precision at the alert budget"
RECALL: Final = "recall at the alert budget"
EQUAL_RECALL: Final = "recall at equally many alerts"


class Verdict(NamedTuple):
    """Of a pair: which is better, if that can be told; at what cost; and by how much."""

    verdict: str
    cost: str
    because: str


# -- a run ----------------------------------------------------------------------------------------


def of_run(judged: Judgement | None, alerts: int, incidents: int) -> str:
    """What a run led to. alerts, incidents: in the time that is judged."""
    if judged is None:
        return f"{some(alerts, 'alert')} in {some(incidents, 'incident')}"
    if judged.named and not judged.frauds:
        told = f"{some(alerts, 'alert')} in {some(incidents, 'incident')}"
        return f"Fraud is confirmed of entities, of no event; {told}"
    if not judged.frauds:
        return f"No confirmed fraud; {some(alerts, 'alert')}"
    caught = judged.frauds - judged.missed.frauds
    share = judged.views[0].amount.caught_share.value
    amount = "" if share is None else f", and {percent(share)} of their amount,"
    return (
        f"{whole(caught)} of {some(judged.frauds, 'fraud')} caught{amount} "
        f"by {some(alerts, 'alert')} in {some(incidents, 'incident')}"
    )


def unjudged(given: int, heard: int) -> str:
    """Why nothing says which alerts were right. given: labels that were read, from files or among
    the events; heard: those of them that could be understood and are of these events."""
    if not given:
        return "No labels were given, so nothing here says which alerts were right."
    if not heard:
        return f"Of the {some(given, 'label')} none is of an event that was read."
    return f"{some(heard, 'label')} were given, but no event lies in the time that is judged."


# -- a pair ---------------------------------------------------------------------------------------


def of_pair(
    first: str,
    other: str,
    differences: Sequence[Difference],
    with_alert: tuple[int, int],
    drift: Drift,
) -> Verdict:
    """Which of two runs is better: by how it ranks, and by what its alerts find. with_alert:
    how many events of either have one."""
    by_measure = {one.measure: one for one in differences}
    precision = by_measure.get(PRECISION)
    shares = (precision.first, precision.other) if precision else (None, None)
    cost = "; ".join(map(_cost, (first, other), with_alert, shares))
    if not differences:
        said = f"Without labels of events nobody can say whether {first} or {other} is better"
        return Verdict(said, cost, _common(drift))
    by_rank, by_alerts = by_measure[AVERAGE_PRECISION].sign, by_measure[EQUAL_RECALL].sign
    sign = by_rank or by_alerts or 1
    one, than = (other, first) if sign > 0 else (first, other)
    apart = _apart((first, other), with_alert, by_measure)
    left_out = [*([] if min(with_alert) else [EQUAL_RECALL]), *([] if apart else [RECALL])]
    because = "; ".join(
        _said(by_measure[measure], sign)
        for measure in (AVERAGE_PRECISION, EQUAL_RECALL, RECALL)
        if measure in by_measure and measure not in left_out
    )
    return Verdict(_better(one, than, by_rank, by_alerts, apart), cost, because)


def _cost(name: str, with_alert: int, precision: float | None) -> str:
    said = f"{name} has {some(with_alert, 'event')} with an alert"
    return said if precision is None else f"{said}, {percent(precision)} of them fraud"


def _apart(
    names: tuple[str, str], with_alert: tuple[int, int], by_measure: Mapping[str, Difference]
) -> str:
    """How much more one alerts, and at what precision; "" where neither recall nor precision at the
    alert budget can be told apart."""
    (fewer, few), (more, many) = sorted(zip(names, with_alert, strict=True), key=lambda one: one[1])
    if not few:
        return f"{fewer} has no alert, so none can be compared at equally many" if many else ""
    shown = [by_measure[one] for one in (RECALL, PRECISION) if one in by_measure]
    if few == many or not any(one.sign for one in shown):
        return ""
    said = f"{more} alerts on {number(many / few)} times as many events as {fewer}"
    precision = by_measure[PRECISION]
    shares = {name: precision.first if name == names[0] else precision.other for name in names}
    theirs, its = shares[more], shares[fewer]
    return f"{said}, at {number(theirs / its)} times its precision" if theirs and its else said


def _better(one: str, than: str, by_rank: int, by_alerts: int, apart: str) -> str:
    """one: the better one by rank, else by alerts. apart: how much more one alerts, or ""."""
    if not by_rank and not by_alerts:
        if apart:
            return f"No difference can be told in how {than} and {one} rank; {apart}"
        return f"No difference between {than} and {one} can be told"
    if by_rank == by_alerts:
        return f"{one} catches more than {than} with equally many alerts"
    if not by_alerts:
        said = apart or "in what their alerts find no difference can be told"
        return f"{one} ranks frauds higher than {than}; {said}"
    if not by_rank:
        said = "in how they rank no difference can be told"
        return f"{one} finds more frauds than {than} with equally many alerts; {said}"
    said = f"with equally many alerts {than} finds more of them"
    return f"{one} ranks frauds higher than {than}; {said}"


def _common(drift: Drift) -> str:
    share = drift.alerts_in_common
    if share is None:
        return "neither alerts at all"
    return f"of the events with an alert, {percent(share)} have one of both"


def _said(one: Difference, sign: int) -> str:
    """The difference as one run has it. sign: 1 for the other, -1 for the first."""
    measure, difference = one.measure, one.difference
    if difference.value is None:
        return f"{measure} is not defined"
    if difference.value == 0.0 and difference.low is None:
        return f"{measure} the same"
    value = f"{measure} {signed(sign * difference.value)}"
    if difference.low is None or difference.high is None:
        return f"{value} ({'on whichever days' if one.sign else 'too few days for an interval'})"
    low, high = sorted((sign * difference.low, sign * difference.high))
    return f"{value} (95 %: {signed(low)} to {signed(high)})"
