"""Label risk against a reference that keeps every label and sums them at each event."""

from math import log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.models.label_risk import LabelRiskSpec
from detectors.models.tail import TailSpec
from detectors.monitor import Monitor, MonitorSpec
from detectors.spec import FeatureSpec
from tests.detectors.harness import LABEL_TYPE, DetectorHarness, Row
from tests.streams import batch

HOUR_S = 3600.0
SPEC = LabelRiskSpec(name="risk", half_life="14d")


def event(time_s: float, account: str = "a", **text: str) -> Row:
    """An event of the account."""
    return Row(time_s, {"account": account, **text})


def label(time_s: float, verdict: str, account: str = "a", of: str = "", **text: str) -> Row:
    """A label of one of the account's events."""
    named = {"labelled_event_id": of} if of else {}
    return Row(time_s, {"account": account, "verdict": verdict, **named, **text}, "label")


def reference(rows: list[Row], half_life_s: float) -> list[float]:
    """The posterior mean at each event, from the whole past."""
    labels: list[tuple[float, str, str]] = []
    by_event: dict[str, int] = {}
    judged: list[float] = []
    now = 0.0
    means = []
    for row in rows:
        now = max(now, row.time_s)
        account = row.text["account"]
        if row.type == "label":
            if row.text["verdict"] not in ("fraud", "honest"):
                continue
            of = row.text.get("labelled_event_id")
            if of in by_event:
                labels[by_event[of]] = (0.0, "", "")
            if of:
                by_event[of] = len(labels)
            labels.append((now, row.text["verdict"], account))
            continue
        judged.append(now)

        def total(verdict: str, of: str | None, now: float = now) -> float:
            ages = (now - t for t, v, a in labels if v == verdict and of in (None, a))
            return float(sum(0.5 ** (age / half_life_s) for age in ages))

        silent = sum(0.5 ** ((now - t) / half_life_s) for t in judged)
        labelled = total("fraud", None) + total("honest", None)
        m = (total("fraud", None) + 1.0) / (max(labelled, silent) + 100.0)
        fraud, honest = total("fraud", account), total("honest", account)
        means.append((4.0 * m + fraud) / (4.0 + fraud + honest))
    return means


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(-3, 40),
            st.sampled_from("abc"),
            st.sampled_from(["", "", "fraud", "honest", "perhaps"]),
            st.sampled_from(["", "e1", "e2", "e3", "e4"]),
        ),
        min_size=1,
        max_size=60,
    )
)
def test_it_is_the_posterior_mean_as_known_at_that_time(
    steps: list[tuple[int, str, str, str]],
) -> None:
    """A label counts, decayed, from the time at which it is known; a later label of an event
    replaces the earlier one, whatever its key; a late label counts as known now."""
    time_s = 10 * HOUR_S
    rows = []
    for hours, account, verdict, of in steps:
        time_s += max(hours, 0) * HOUR_S
        late_s = min(hours, 0) * HOUR_S
        is_label = verdict != ""
        rows.append(
            label(time_s + late_s, verdict, account, of) if is_label else event(time_s, account)
        )
    if all(row.type == "label" for row in rows):
        rows.append(event(time_s))
    expected = reference(rows, 14 * 24 * HOUR_S)
    found = DetectorHarness(SPEC).process(rows)["value"]
    assert found.tolist() == pytest.approx(expected, rel=1e-9)


def test_surprise_grows_with_the_share_and_its_evidence() -> None:
    """No label, one honest, one fraud, three frauds, and three frauds among thirty labels."""
    rows = [event(k, f"x{k}") for k in range(1000)]
    for who, frauds, honest in [("b", 0, 1), ("c", 1, 0), ("d", 3, 0), ("e", 3, 27)]:
        rows += [label(1000.0, "fraud", who)] * frauds + [label(1000.0, "honest", who)] * honest
    rows += [event(1001.0, who) for who in "abcde"]
    nothing, honest, one, three, of_thirty = DetectorHarness(SPEC).process(rows)["surprise"][-5:]
    assert honest < nothing < 0.5 < one < three
    assert 0.5 < of_thirty < three


def test_the_surprise_is_the_beta_tail() -> None:
    """For one fraud and no other label: I_m(4m + 1, 4(1 - m)), integrated by hand."""
    found = DetectorHarness(SPEC).process([label(0.0, "fraud"), event(0.0)])
    m = 2.0 / 101.0
    a, b = 4.0 * m + 1.0, 4.0 * (1.0 - m)
    x = (np.arange(2_000_000) + 0.5) / 2_000_000
    density = x ** (a - 1.0) * (1.0 - x) ** (b - 1.0)
    share = density[x <= m].sum() / density.sum()
    assert found["surprise"][0] == pytest.approx(-log(share), rel=1e-3)
    assert found["expected"][0] == pytest.approx(m)


def test_the_key_may_be_another_field() -> None:
    """Labels that name a terminal count for every account there; an event without a terminal is not
    scored."""
    spec = LabelRiskSpec(name="risk", field="terminal")
    rows = [
        label(0.0, "fraud", "a", terminal="t1"),
        event(1.0, "b", terminal="t1"),
        event(1.0, "a", terminal="t2"),
        event(1.0, "a"),
    ]
    value = DetectorHarness(spec).process(rows)["value"]
    assert value[0] > 10 * value[1]
    assert np.isnan(value[2])


def test_memory_is_bounded_and_the_oldest_is_evicted() -> None:
    """With more labelled accounts than slots, the accounts labelled last are known."""
    spec = LabelRiskSpec(name="risk", keys_max=16, labels_max=16)
    rows = [label(float(k), "fraud", f"a{k}", of=f"e{k}") for k in range(200)]
    harness = DetectorHarness(spec)
    value = harness.process([*rows, event(200.0, "a199"), event(200.0, "a0")])["value"]
    assert value[0] > value[1]
    state = harness.detector.save()
    for name in ("key", "event"):
        assert len(np.unique(state[name])) == np.count_nonzero(state[name]) == 16


@pytest.mark.parametrize("count", [1, 3, 8])
def test_the_last_label_of_an_event_counts_in_every_slot(count: int) -> None:
    """In a memory of eight labels, up to eight events are labelled five times: the last label of each
    counts, once. A label without an event takes no other label's slot."""
    spec = LabelRiskSpec(name="risk", labels_max=8)

    def labels(verdict: str) -> list[Row]:
        return [label(0.0, verdict, "a", of=f"e{k}") for k in range(count)]

    rows = [row for verdict in ("fraud", "honest", "fraud", "honest") for row in labels(verdict)]
    rows += [event(0.0), label(0.0, "honest", "b"), *labels("fraud"), event(0.0)]
    found = DetectorHarness(spec).process(rows)
    m = np.array([1.0 / (100.0 + count), (count + 1.0) / (101.0 + count)])
    assert found["expected"] == pytest.approx(m)
    assert found["value"] == pytest.approx((4.0 * m + np.array([0.0, count])) / (4.0 + count))


def test_a_label_never_subtracts_more_than_was_added() -> None:
    """A correction of a label whose account was displaced leaves no negative sum."""
    spec = LabelRiskSpec(name="risk", keys_max=8, labels_max=100)
    harness = DetectorHarness(spec)
    rows = [label(0.0, "fraud", "a", of="e")]
    rows += [label(1.0 + k, "honest", f"b{k}") for k in range(8)]
    rows += [label(20.0, "honest", "a", of="e"), event(21.0)]
    assert harness.process(rows)["value"][0] > 0.0
    assert all(np.all(array >= 0) for array in harness.detector.save().values())


@pytest.mark.parametrize("apart_s", [0.0, 1.0])
def test_a_label_subtracts_only_its_own_contribution(apart_s: float) -> None:
    """An account that was displaced and came back, even within a millisecond, no longer has its
    earlier label: subtracting that leaves a later event's label."""
    rows = [label(0.0, "fraud", "a", of="e1")]
    rows += [label(k * apart_s, "fraud", f"b{k}") for k in range(1, 9)]
    rows += [label(9 * apart_s, "fraud", "a", of="e2"), event(9 * apart_s)]
    rows += [label(9 * apart_s, "honest", "a", of="e1"), event(9 * apart_s)]
    rows += [label(9 * apart_s, "honest", "a", of="e2"), event(9 * apart_s)]
    found = DetectorHarness(LabelRiskSpec(name="risk", keys_max=8, labels_max=100)).process(rows)
    m = found["expected"]
    assert m == pytest.approx(np.array([11.0, 10.0, 9.0]) / 110.0, rel=1e-5)
    frauds, labels = np.array([1.0, 1.0, 0.0]), np.array([1.0, 2.0, 2.0])
    assert found["value"] == pytest.approx((4.0 * m + frauds) / (4.0 + labels), rel=1e-5)


def test_a_field_that_names_no_entity_is_a_problem() -> None:
    """The field must name an entity, since labels name entities."""
    (line,) = LabelRiskSpec(name="risk", field="path").problems()
    assert line.startswith("field: got path; expected one of account, ")


def test_labels_train_and_are_not_behaviour() -> None:
    """A monitor scores no label and counts it as one; its features are the same without it."""
    spec = MonitorSpec(
        name="account",
        entity="account",
        inputs=["shop"],
        features=[FeatureSpec(name="events_1h", kind="count", half_life="1h")],
        detectors=[TailSpec(), SPEC],
    )
    events = batch(5, 500, labels=0.2)
    behaviour = np.flatnonzero(events.type_code != LABEL_TYPE)
    with_label_input, without = Monitor(spec, (1, 2)), Monitor(spec, (1, 2))
    taught, untaught = with_label_input.process(events), without.process(events.take(behaviour))
    assert taught.labels == 500 - len(behaviour) > 50
    assert np.array_equal(taught.index, behaviour)
    assert np.array_equal(taught.feature_values.values[0], untaught.feature_values.values[0])
    assert not np.array_equal(taught.feature_values.values[1], untaught.feature_values.values[1])
