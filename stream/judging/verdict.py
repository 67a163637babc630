"""What a run, or a pair of runs, comes to, in the sentences that are read first.

Both stand in the JSON beside the page. A run is called better only where an interval says so, and
never for alerting more: what alerts find is compared where both alert equally often, and each
one's volume and precision are told beside it.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from stream.judging.comparison import Difference, Drift
from stream.judging.figures import Figure, Judgement
from stream.words import percent, signed, some, whole

AVERAGE_PRECISION: Final = "average precision"
PRECISION: Final = "precision at the alert budget"
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
    ranks, finds = by_measure[AVERAGE_PRECISION].difference, by_measure[EQUAL_RECALL].difference
    by_rank, by_alerts = _sign(ranks), _sign(finds)
    sign = by_rank or by_alerts or 1
    because = f"{_said(AVERAGE_PRECISION, ranks, sign)}; {_said(EQUAL_RECALL, finds, sign)}"
    one, than = (other, first) if sign > 0 else (first, other)
    return Verdict(_better(one, than, by_rank, by_alerts), cost, because)


def _cost(name: str, with_alert: int, precision: float | None) -> str:
    said = f"{name} has {some(with_alert, 'event')} with an alert"
    return said if precision is None else f"{said}, {percent(precision)} of them fraud"


def _better(one: str, than: str, by_rank: int, by_alerts: int) -> str:
    """one: the better one by rank, else by alerts."""
    if not by_rank and not by_alerts:
        return f"No difference between {than} and {one} can be told"
    if by_rank == by_alerts:
        return f"{one} catches more than {than} with equally many alerts"
    if not by_alerts:
        said = "in what their alerts find no difference can be told"
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


def _sign(difference: Figure) -> int:
    """1 where the other run's measure is higher, -1 where the first one's, 0 where its interval
    does not say."""
    if difference.low is None or difference.high is None:
        return 0
    return 1 if difference.low > 0.0 else -1 if difference.high < 0.0 else 0


def _said(measure: str, difference: Figure, sign: int) -> str:
    """The difference as one run has it. sign: 1 for the other, -1 for the first."""
    if difference.value is None:
        return f"{measure} is not defined"
    if difference.value == 0.0 and difference.low is None:
        return f"{measure} the same"
    value = f"{measure} {signed(sign * difference.value)}"
    if difference.low is None or difference.high is None:
        return f"{value} (too few days for an interval)"
    low, high = sorted((sign * difference.low, sign * difference.high))
    return f"{value} (95 %: {signed(low)} to {signed(high)})"
