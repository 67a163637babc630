"""assess with labels: which event one reaches, what a correction changes, what gives way."""

import numpy as np
import pytest

from detectors.fusion.assessment import Assessment
from detectors.fusion.event_memory import SLOTS_PER_SET, empty_memory, new_slot
from detectors.fusion.model_state import BOOSTED, LOGISTIC, new_learner
from schemas.columns import F64
from schemas.labels import FRAUD, HONEST
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


@pytest.mark.parametrize("frauds", range(SLOTS_PER_SET + 1))
def test_a_full_set_replaces_a_fraud_only_where_most_are_frauds(frauds: int) -> None:
    """Another event takes the next slot in rotation whose event is a fraud where more than half of the
    set are frauds, and otherwise one that is none."""
    draw = np.random.default_rng(frauds)
    for start in range(SLOTS_PER_SET):
        remembered, learner = empty_memory(SLOTS_PER_SET, 1), new_learner(SLOTS_PER_SET, 1, [])
        verdict = np.array([FRAUD] * frauds + [HONEST] * (SLOTS_PER_SET - frauds))
        draw.shuffle(verdict)
        remembered.position[:, 0] = 0
        remembered.position[:, 1] = np.arange(SLOTS_PER_SET)
        remembered.next_slot[:] = start
        learner.memory.verdict[:] = verdict
        slot = new_slot(remembered, learner, np.uint64(5), 0, 99)
        replaced = FRAUD if 2 * frauds > SLOTS_PER_SET else HONEST
        rotation = [(start + k) % SLOTS_PER_SET for k in range(SLOTS_PER_SET)]
        assert slot == next(k for k in rotation if verdict[k] == replaced)
        assert remembered.position[slot].tolist() == [0, 99]
        assert remembered.next_slot[0] == (slot + 1) % SLOTS_PER_SET
