"""What assess learned, held to its word: calibrated p-values whoever is labelled, whatever memory keeps
and however reports come; and nothing that a label says can be said too often."""

from itertools import pairwise
from typing import Final

import numpy as np
import pyarrow as pa
import pytest
from msgspec import structs

from detectors.fusion import boosting, daily_refit, label_learning, model_state
from detectors.fusion.assessment import Assessment
from detectors.fusion.boosting import BoostedTrees
from detectors.fusion.event_memory import SLOTS_PER_SET
from detectors.fusion.model_state import (
    BOOSTED,
    HARMONIC,
    LOGISTIC,
    NOT_SURPRISED,
    SAMPLE,
    SURPRISED,
)
from detectors.scoring.policy import HELD_BACK, NO_ALERT, OPENED, SUPPRESSED, SUPPRESSED_COUNT
from schemas.columns import F64, Bools
from schemas.labels import FRAUD
from tests.pipeline import report_stream
from tests.pipeline.report_stream import (
    DAY_MS,
    LATE_MS,
    START_MS,
    Report,
    ReportStream,
    assessment,
    label,
    sampled_ids,
    take,
    unreported_sample,
)
from tests.streams import same

A_DAY: Final = 250
FRAUDS: Final = 0.05


def stream(
    days: int, *, honest: float = 1.0, silent: float = 1.0, seed: int = 3, apart: float = 3.0
) -> tuple[ReportStream, set[str]]:
    """Days of reports of one monitor, of which the feature tells frauds, and their labels: all
    frauds', and those of a share of the honest and of the silent sample; the honest ones."""
    draw = np.random.default_rng(seed)
    rows, good = [], set()
    for k, at in enumerate(np.sort(draw.integers(0, days * DAY_MS, days * A_DAY)).tolist()):
        fraud, event, at_ms = draw.uniform() < FRAUDS, f"e{k}", START_MS + at
        rows.append(
            Report(at_ms, event, 0, 10.0 ** -draw.uniform(2, 5), draw.normal(apart * fraud))
        )
        if fraud or draw.uniform() < honest:
            rows.append(label(at_ms + LATE_MS, event, "fraud" if fraud else "honest"))
        good |= set() if fraud else {event}
    return report_stream.report_stream(rows + unreported_sample(days, A_DAY, silent, seed)), good


def rarer(p: F64, of: Bools, days: float, alpha: float) -> float:
    """How many of these have p ≤ α, divided by what α promises of all events of so many days."""
    return float(
        np.count_nonzero(p[of] <= alpha) / (days * A_DAY / report_stream.SURPRISED) / alpha
    )


@pytest.mark.slow
@pytest.mark.parametrize("reports_grouped", [False, True])
def test_p_is_honest_at_each_report(reports_grouped: bool) -> None:
    """Two monitors report honest events, frauds only the first: where reports come one by one, all
    look like frauds for a while; an event is judged by the least p of its reports, as alarms are."""
    draw = np.random.default_rng(3)
    days, rows, good = 30, list[Report](), set[str]()
    for k, at in enumerate(np.sort(draw.integers(0, days * DAY_MS, days * A_DAY)).tolist()):
        fraud, event, at_ms = draw.uniform() < FRAUDS, f"e{k}", START_MS + at
        rows.append(Report(at_ms, event, 0, 10.0 ** -draw.uniform(2, 5), draw.normal()))
        if not fraud or draw.uniform() < 0.02:
            rows.append(Report(at_ms, event, 1, 10.0 ** -draw.uniform(2, 5)))
        rows.append(label(at_ms + LATE_MS, event, "fraud" if fraud else "honest"))
        good |= set() if fraud else {event}
    it = report_stream.report_stream(rows + unreported_sample(days, A_DAY, 1.0, 3))
    of = assessment(monitors=2, reports_grouped=reports_grouped)
    said = take(of, it)
    assert of.learner.sums.status[model_state.ACTIVE_MODEL] != HARMONIC
    first = it.event(good) & (it.day() >= 15) & (it.monitor == 0)
    places = np.flatnonzero(first)
    least = np.minimum(said.p[places], said.p[places + 1])
    assert rarer(least, np.ones(len(least), np.bool_), 15, 1e-3) < 3.0
    bad = ~it.event(good) & (it.monitor == 0) & (it.p < report_stream.LIMIT) & (it.day() >= 15)
    found = float(np.mean(said.p[bad] <= 2e-3))
    assert (
        found > 0.9 if reports_grouped else found < 0.5
    )  # what is known at once is known at the last only


@pytest.mark.slow
@pytest.mark.parametrize(("honest", "silent"), [(0.1, 1.0), (1.0, 0.0), (1.0, 0.1)])
def test_p_is_calibrated_whoever_is_labelled(honest: float, silent: float) -> None:
    """A tenth of what was reported and honest, or nothing of the sample: the share of events that
    are reported is known without labels."""
    it, good = stream(30, honest=honest, silent=silent)
    of = assessment()
    said = take(of, it)
    assert of.learner.sums.status[model_state.ACTIVE_MODEL] != HARMONIC
    late = it.event(good) & (it.day() >= 10)
    for alpha, factor in ((3e-3, 1.5), (1e-3, 2.0)):
        assert 1.0 / factor < rarer(said.p, late, 20, alpha) < factor, alpha


@pytest.mark.slow
def test_a_small_memory_makes_trees_no_worse() -> None:
    """Where frauds are kept and honest events are not, the trees' odds are those of all labels, not
    of what is remembered."""
    it, _ = stream(50)
    small, ample = assessment(events_max=2_400), assessment()
    take(small, it)
    take(ample, it)
    excess = [
        float(of.learner.sums.excess_loss[BOOSTED] / of.learner.sums.evaluated[BOOSTED])
        for of in (small, ample)
    ]
    assert excess[1] < -0.1
    assert excess[0] < excess[1] + 0.02
    verdict = small.learner.memory.verdict
    kept = (verdict == FRAUD).sum() / (verdict >= 0).sum()
    assert kept > 4 * FRAUDS  # what made the difference


def test_a_fit_takes_so_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more labelled events than that, the frauds rather, and others evenly."""
    fitted: list[F64] = []

    def fit(trees: BoostedTrees, inputs: F64, outcome: F64) -> None:
        fitted.append(outcome)
        trees.base[0] = 0.0
        del inputs

    monkeypatch.setattr(daily_refit, "FIT_ROWS", 300)
    monkeypatch.setattr(boosting, "fit", fit)
    it, _ = stream(8)
    take(assessment(), it)
    assert max(len(outcome) for outcome in fitted) == 300
    assert [outcome.sum() for outcome in fitted] == sorted(min(o.sum(), 150) for o in fitted)


@pytest.mark.slow
def test_p_is_honest_where_values_are_alike() -> None:
    """One in fifty honest reports has what most frauds have, and nothing else differs: its p is not
    much less than their share of all events."""
    draw = np.random.default_rng(4)
    days, rows, ones = 40, list[Report](), set[str]()
    for k, at in enumerate(np.sort(draw.integers(0, days * DAY_MS, days * A_DAY)).tolist()):
        fraud, event, at_ms = draw.uniform() < FRAUDS, f"e{k}", START_MS + at
        x = float(draw.uniform() < (0.8 if fraud else 0.02))
        rows.append(Report(at_ms, event, 0, 1e-3, x))
        rows.append(label(at_ms + LATE_MS, event, "fraud" if fraud else "honest"))
        ones |= {event} if x and not fraud else set()
    it = report_stream.report_stream(rows + unreported_sample(days, A_DAY, 1.0, 4))
    said = take(assessment(), it)
    late = it.event(ones) & (it.day() >= 20)
    assert np.median(said.p[late]) > 0.5 * 0.02 * report_stream.SURPRISED


def test_the_last_bin_also_holds_ties() -> None:
    """Odds beyond all bins are no rarer than the honest events in the last, and more of them is
    still less."""
    of = assessment().learner
    of.sums.honest_bins[LOGISTIC, [100, -1]] = 900, 100
    of.sums.not_fraud[:] = 1_000.0, 19_000.0
    daily_refit._update_tail_share(of.sums)
    of.sums.status[model_state.ACTIVE_MODEL] = LOGISTIC
    p = []
    for odds in (11.97, 12.5, 13.0):
        of.logistic_model.intercept[0] = odds
        p.append(label_learning.p_of_inputs(of, np.array([3.0, np.nan]), np.ones(1), 0.5))
    assert p == pytest.approx([0.05 * 0.1] * 3, rel=0.01)
    assert p[0] > p[1] > p[2]


def test_a_flipped_label_is_learned_twice() -> None:
    """However often one event's label changes, the regression learns its first word and its
    correction."""
    flips = [label(START_MS + k, "e", "fraud" if k % 2 else "honest") for k in range(1, 200)]
    lines = []
    for count in (2, 199):
        of = assessment()
        take(of, report_stream.report_stream([Report(START_MS, "e", x=1.0), *flips[:count]]))
        lines.append(of.learner.logistic_model)
        assert of.counts()["labels_changed"] == count - 1
    assert all(same(one, other) for one, other in zip(*lines, strict=True))


def test_a_correction_subtracts_exactly_what_was_added() -> None:
    """Of three honest events of the sample one becomes a fraud sixty days later: two thirds of what
    is left stay; and none of what a report between label and correction moved."""
    one, two, three = sampled_ids(3)
    silent = [Report(START_MS, event, p=0.5) for event in (one, two, three)]
    labels = [label(START_MS + 1, event, "honest") for event in (one, two, three)]
    later = START_MS + 60 * DAY_MS
    of = assessment()
    take(of, report_stream.report_stream([*silent, *labels, label(later, one, "fraud")]))
    assert of.learner.sums.not_fraud.tolist() == [0.0, pytest.approx(500.0)]
    moved = [Report(START_MS + 2, two, p=1e-3), label(START_MS + 3, two, "fraud")]
    of = assessment()
    take(of, report_stream.report_stream([*silent, *labels, *moved]))
    assert of.learner.sums.not_fraud.tolist() == [0.0, 2_000.0]
    assert not of.learner.sums.honest_bins.any()


def test_a_correction_after_days_leaves_no_trace() -> None:
    """Honest labels that all become frauds sixty days later are no longer counted among the
    honest, nor their events among those reported."""
    events = [f"e{k}" for k in range(40)]
    later = START_MS + 60 * DAY_MS
    rows = [Report(START_MS, event, x=1.0) for event in events]
    rows += [label(START_MS + DAY_MS, event, "honest") for event in events]
    of = assessment()
    take(of, report_stream.report_stream(rows))
    assert of.learner.sums.honest_bins[LOGISTIC].sum() == pytest.approx(40 * 0.5 ** (1 / 30))
    take(of, report_stream.report_stream([label(later, event, "fraud") for event in events]))
    sums = of.learner.sums
    assert sums.honest_bins.sum() == pytest.approx(0.0, abs=1e-9)
    assert sums.not_fraud[[SURPRISED, NOT_SURPRISED]] == pytest.approx([0.0, 0.0], abs=1e-9)


def test_days_of_which_nothing_is_reported_change_nothing() -> None:
    """What is only scored begins no day: the sums of an assessment that is shown every event are
    those of one that is shown reports alone, bit for bit."""
    rows = [Report(START_MS + k, f"e{k}", x=1.0) for k in range(50)]
    rows += [label(START_MS + 100 + k, f"e{k}", "honest") for k in range(50)]
    quiet = [Report(START_MS + k * DAY_MS, f"q{k}", p=0.5, x=0.0) for k in range(1, 5)]
    last = [Report(START_MS + 5 * DAY_MS, "last")]
    states = []
    for between in ([], quiet):
        of = assessment()
        take(of, report_stream.report_stream([*rows, *between, *last]))
        states.append(of.save())
    one, other = states
    changed = {name for name in one if not same(one[name], other[name])}
    assert changed == {"remembered/position", "words"}  # offsets, which the rows between have moved


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_no_value_is_infinite(value: float) -> None:
    """A feature that is not finite counts as absent."""
    of = assessment()
    take(
        of,
        report_stream.report_stream(
            [Report(START_MS, "e", x=value), label(START_MS + 1, "e", "fraud")]
        ),
    )
    assert np.isfinite(of.learner.logistic_model.mean).all()
    assert np.isfinite(of.learner.memory.log_odds[of.learner.memory.event != 0, LOGISTIC]).all()


def test_memory_keeps_its_size() -> None:
    """Whatever is said, no more events are remembered than asked for, in sets of `SLOTS_PER_SET`, and each
    costs the bytes that are promised."""
    it, _ = stream(8)
    of = assessment(events_max=160)
    take(of, it)
    held = of.remembered.position[:, 0] >= 0
    assert held.all()
    assert len(held) == 160
    assert len(np.unique(of.learner.memory.event)) == 160
    assert of.learner.memory.event.reshape(-1, SLOTS_PER_SET).all()
    inputs, monitors = of.learner.memory.inputs.shape[1], of.learner.memory.surprised.shape[1]
    held_bytes = sum(column.nbytes for column in of.learner.memory)
    assert held_bytes == 160 * (8 * inputs + 8 * monitors + 104)


@pytest.mark.parametrize("reports_grouped", [False, True])
def test_warm_up_counts_only_earlier_events(reports_grouped: bool) -> None:
    """What is sampled itself does not end the warm-up at a later report on it, however reports are
    cut into batches."""
    one, other = sampled_ids(2)
    at = START_MS + DAY_MS
    it = report_stream.report_stream(
        [Report(at + k, e, m) for k, e in enumerate((one, other)) for m in (0, 1)]
    )
    for cuts in ([0, 4], [0, 1, 2, 3, 4]):
        policy = structs.replace(report_stream.FREQUENT_ALERTS, warm_up_events=SAMPLE)
        of = Assessment(
            policy,
            report_stream.KEY,
            2,
            100,
            160,
            1,
            report_stream.LIMIT,
            [0],
            reports_grouped=reports_grouped,
        )
        warm = np.concatenate([take(of, it, a, b).warm for a, b in pairwise(cuts)])
        deciding = [1, 3] if reports_grouped else [0, 1, 2, 3]
        assert warm[deciding].tolist() == [k >= 2 for k in deciding]


def test_an_event_with_several_reports_is_counted_once() -> None:
    """As held back, and as counted into its subject's incident, whose number of counted events it
    raises by one; a later report that raises its score asks again."""
    p = {"a": (1e-9, 1e-9), "b": (1e-4, 1e-7)}
    rows = [Report(START_MS + k, f"e{k}", m, p[w][m]) for k, w in enumerate("ab") for m in (0, 1)]
    it = report_stream.report_stream(rows)
    it.reports.events.text["account"] = pa.array(["x"] * len(rows))
    of = Assessment(
        report_stream.FREQUENT_ALERTS, report_stream.KEY, 2, 100, 160, 1, report_stream.LIMIT
    )
    none = np.empty((len(rows), 0))
    said = of.process(it.reports.events, "account", it.monitor, it.p, none)
    assert said.policy_outcome.activity.tolist() == [OPENED, NO_ALERT, SUPPRESSED, SUPPRESSED]
    assert of.policy.counts()["alerts_suppressed"] == 1
    assert of.words[0, SUPPRESSED_COUNT] == 1.0
    poor = structs.replace(report_stream.FREQUENT_ALERTS, alerts_per_day=1)
    of = Assessment(poor, report_stream.KEY, 2, 100, 160, 1, report_stream.LIMIT)
    it.reports.events.text["account"] = pa.array(["x", "x", "y", "y"])
    said = of.process(it.reports.events, "account", it.monitor, it.p, none)
    assert said.policy_outcome.activity.tolist() == [OPENED, NO_ALERT, HELD_BACK, HELD_BACK]
    assert of.policy.counts()["alerts_held_back"] == 1
