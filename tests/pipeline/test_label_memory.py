"""assess with labels: which event one reaches, what a correction changes, what gives way."""

import numpy as np
import pytest

from detectors.fusion.assessment import Assessment
from detectors.fusion.event_memory import SLOTS_PER_SET
from detectors.fusion.model_state import BOOSTED, LOGISTIC
from schemas.columns import F64
from schemas.labels import FRAUD
from tests.pipeline.report_stream import (
    DAY_MS,
    START_MS,
    Report,
    assessment,
    label,
    report_stream,
    take,
)

LABELLED, LATER = 300, 200
"""Events labelled before the first fit, and those after it whose labels are corrected."""
JUDGED_MS, CORRECTED_MS = START_MS + 6 * DAY_MS, START_MS + 40 * DAY_MS
OTHER = {"fraud": "honest", "honest": "fraud"}


def corrected(said: dict[str, list[str]]) -> Assessment:
    """Events of which trees are fitted, then more, that are labelled on the sixth day and corrected
    on the fortieth: those that are the verdict in truth by what is said of it, one after the
    other. In between some are reported anew."""
    draw = np.random.default_rng(3)
    rows = []
    for k in range(LABELLED + LATER):
        fraud = k % 3 == 0
        verdict = "fraud" if fraud else "honest"
        at_ms = START_MS + (k if k < LABELLED else 4 * DAY_MS + k)
        x = draw.normal(2.0 if fraud else 0.0)
        rows.append(Report(at_ms, f"e{k}", 0, 10.0 ** -draw.uniform(2.0, 5.0), x))
        if k < LABELLED:
            rows.append(label(START_MS + DAY_MS + k, f"e{k}", verdict))
            continue
        first, *further = said[verdict]
        rows.append(label(JUDGED_MS + k, f"e{k}", first))
        if k % 5 == 0:
            rows.append(Report(JUDGED_MS + 9 * DAY_MS + k, f"e{k}", 0, 1e-5, 4.0))
        rows += [label(CORRECTED_MS + k * 1000 + j, f"e{k}", v) for j, v in enumerate(further)]
    rows.append(Report(CORRECTED_MS + 3 * DAY_MS, "last"))
    of = assessment()
    take(of, report_stream(rows))
    return of


def judged(of: Assessment) -> F64:
    """float64[3, 2]: log loss beyond the harmonic mean's, labels, frauds, by way that learns."""
    sums = of.learner.sums
    every = np.stack([sums.excess_loss, sums.evaluated, sums.frauds])
    return every[:, [LOGISTIC, BOOSTED]]


@pytest.mark.parametrize(
    "said",
    [
        {"fraud": ["honest", "fraud"], "honest": ["honest"]},
        {"fraud": ["fraud"], "honest": ["fraud", "honest"]},
        {"fraud": ["fraud", "honest", "fraud"], "honest": ["honest", "fraud", "honest"]},
    ],
)
def test_a_correction_replaces_the_first_label_in_the_evaluation(
    said: dict[str, list[str]],
) -> None:
    """Weeks later, too, the sums are those of the right label given at once; and not those of
    the wrong one."""
    right = judged(corrected({verdict: [verdict] for verdict in OTHER}))
    wrong = judged(corrected({verdict: [labels[0]] for verdict, labels in said.items()}))
    found = judged(corrected(said))
    assert (right[1:] > 50.0).any()
    assert (right[1:, 1] > 0.0).all()
    assert found == pytest.approx(right, rel=1e-9)
    if any(labels[0] != verdict for verdict, labels in said.items()):
        assert (np.abs(wrong - right)[[0, 2]] > 1.0).all()


def test_honest_until_charged_back_is_learned_from() -> None:
    """Where every event counts as honest until its chargeback, learning comes to know frauds."""
    rows = []
    for k in range(400):
        at_ms, fraud = START_MS + k * 1000, k % 4 == 0
        rows += [Report(at_ms, f"e{k}", x=float(fraud)), label(at_ms + 1, f"e{k}", "honest")]
        if fraud:
            rows.append(label(at_ms + 20 * DAY_MS, f"e{k}", "fraud"))
    of = assessment()
    take(of, report_stream([*rows, Report(START_MS + 21 * DAY_MS, "last")]))
    # what is left of 100 after 21 days
    assert of.counts()["learning_frauds"] == int(100 * 0.5 ** (21 / 30))


@pytest.mark.parametrize("others", range(2 * SLOTS_PER_SET))
def test_a_label_of_an_id_on_two_events_reaches_the_first(others: int) -> None:
    """Whatever else was reported before, and so whichever slots the two are in."""
    twins = report_stream(
        [
            *(Report(START_MS + k, f"e{k}") for k in range(others)),
            Report(START_MS + 100, "twin", x=1.0),
            Report(START_MS + 200, "twin", x=2.0),
            label(START_MS + 300, "twin", "fraud"),
        ]
    )
    twins.reports.events.offset[:] = np.arange(len(twins.rows))
    of = assessment(SLOTS_PER_SET)
    take(of, twins)
    memory = of.learner.memory
    assert memory.inputs[memory.verdict == FRAUD, 1].tolist() == [1.0]


@pytest.mark.parametrize("frauds", range(SLOTS_PER_SET))
def test_no_fraud_is_evicted_while_there_is_room(frauds: int) -> None:
    """A set that is not full takes another event beside all it has."""
    rows = [Report(START_MS + k, f"e{k}") for k in range(frauds)]
    rows += [label(START_MS + 100 + k, f"e{k}", "fraud") for k in range(frauds)]
    rows += [Report(START_MS + 200 + k, f"n{k}") for k in range(SLOTS_PER_SET - frauds)]
    of = assessment(SLOTS_PER_SET)
    take(of, report_stream(rows))
    assert (of.remembered.position[:, 0] >= 0).all()
    assert (of.learner.memory.verdict == FRAUD).sum() == frauds
