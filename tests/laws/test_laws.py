"""The laws that every feature, detector and monitor obeys; each test runs over the whole registry."""

import dataclasses
from itertools import pairwise

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors import models
from detectors.features import counting
from detectors.monitor import Monitor, MonitorOutput
from detectors.state import Arrays
from schemas.columns import EventBatch
from tests.laws.registry import DETECTORS, MONITORS, NOT_KEPT_PER_ROW
from tests.streams import START_MS, batch, same

KEY = (1, 2)
EVENTS = 400
LATER_MS = START_MS + 10 * 86_400_000
every_monitor = pytest.mark.parametrize("name", MONITORS)
few = settings(max_examples=5, deadline=None)


def findings(parts: list[MonitorOutput]) -> Arrays:
    """A monitor's whole output for a stream, as arrays; equal findings give equal alerts."""
    named = [
        {
            "row": w.admitted.row,
            "fresh": w.admitted.fresh,
            "values": w.feature_values.values,
            "raw": w.tail_output.surprise,
            "centre": w.tail_output.centre,
            "calibrated": w.calibrated.p,
            "without": w.calibrated.counterfactual_p,
            "order": w.calibrated.order,
            "p": w.p,
            "activity": w.policy_outcome.activity,
            "threshold": w.policy_outcome.threshold,
            "incident": w.policy_outcome.incident.T,
            "paths": w.trees.path_share if w.trees else np.empty((1, 0)),
        }
        for w in parts
    ]
    return {key: np.concatenate([part[key] for part in named], axis=-1) for key in named[0]}


def run(monitor: Monitor, events: EventBatch, cuts: list[int]) -> Arrays:
    """Process the events in batches with the given boundaries."""
    edges = [0, *sorted({cut for cut in cuts if 0 < cut < len(events)}), len(events)]
    return findings([monitor.process(events.slice(a, b)) for a, b in pairwise(edges)])


def assert_same(one: Arrays, other: Arrays) -> None:
    """Every array equal bit for bit, or a message that names the first that is not."""
    assert one.keys() == other.keys()
    for name, array in one.items():
        assert same(array, other[name]), f"{name} differs"


def sizes(monitor: Monitor) -> dict[str, int]:
    """Bytes of each array that the monitor saves."""
    return {name: array.nbytes for name, array in monitor.save().items()}


def hostile_stream(seed: int) -> EventBatch:
    """Late and absent values, times from the future, extreme numbers, labels, more accounts than
    rows; for some seeds over three hours, for others over three days, so that detectors of the
    hours of a day have a score; some streams begin in the future, and in some the broker sets half
    of the times."""
    events = batch(seed, EVENTS, entities=40, late=0.1, absent=0.2, hostile=True, labels=0.1)
    if seed % 2:
        events.time_ms[:] = START_MS + 20 * (events.time_ms - START_MS)
    append_ms = np.maximum.accumulate(events.time_ms)
    draw = np.random.Generator(np.random.PCG64([seed, 2]))
    ahead = draw.random(EVENTS) < 0.05
    ahead[:5] |= seed % 3 == 0
    events.time_ms[ahead] += 20 * 365 * 86_400_000
    append_ms[draw.random(EVENTS) < 0.5] = -1
    return dataclasses.replace(events, append_ms=append_ms if seed % 5 == 0 else None)


def test_every_detector_is_registered() -> None:
    """Every detector of the configuration is in the registry of the laws."""
    assert {name: type(spec) for name, spec in DETECTORS.items()} == models.DETECTORS


@every_monitor
@few
@given(seed=st.integers(0, 2**32), cuts=st.lists(st.integers(1, EVENTS), max_size=20))
def test_batch_cuts_do_not_matter(name: str, seed: int, cuts: list[int]) -> None:
    """However the stream is cut into batches, findings and state are the same bytes."""
    events = hostile_stream(seed)
    whole, cut = Monitor(MONITORS[name], KEY), Monitor(MONITORS[name], KEY)
    assert_same(run(whole, events, []), run(cut, events, cuts))
    assert_same(whole.save(), cut.save())


@every_monitor
@few
@given(seed=st.integers(0, 2**32), stop=st.integers(1, EVENTS - 1))
def test_save_and_load_are_invisible(name: str, seed: int, stop: int) -> None:
    """A monitor loaded from a saved state continues exactly as one that never stopped."""
    events = hostile_stream(seed)
    running, first = Monitor(MONITORS[name], KEY), Monitor(MONITORS[name], KEY)
    run(running, events.slice(0, stop), [])
    run(first, events.slice(0, stop), [])
    second = Monitor(MONITORS[name], KEY)
    run(second, batch(1, 50), [])  # what stood there before must not shine through
    second.load(first.save())
    assert_same(running.save(), second.save())
    rest = events.slice(stop, EVENTS)
    assert_same(run(running, rest, []), run(second, rest, [7]))
    assert_same(running.save(), second.save())


@every_monitor
@few
@given(seed=st.integers(0, 2**32))
def test_same_input_gives_the_same_bytes(name: str, seed: int) -> None:
    """Two monitors with the same stream agree in every byte, and do not change their input."""
    events = hostile_stream(seed)
    untouched = hostile_stream(seed)
    one, other = Monitor(MONITORS[name], KEY), Monitor(MONITORS[name], KEY)
    assert_same(run(one, events, []), run(other, events, []))
    assert_same(one.save(), other.save())
    assert events.text == untouched.text
    assert all(same(events.number[n], untouched.number[n]) for n in events.number)
    assert same(events.time_ms, untouched.time_ms)


@every_monitor
@few
@given(seed=st.integers(0, 2**32))
def test_hostile_values_are_safe(name: str, seed: int) -> None:
    """With absent, extreme and late values every p-value is in (0, 1] and the state is finite."""
    monitor = Monitor(MONITORS[name], KEY)
    found = run(monitor, hostile_stream(seed), [])
    assert np.all((found["p"] > 0.0) & (found["p"] <= 1.0))
    p_values = found["calibrated"][~np.isnan(found["calibrated"])]
    assert np.all((p_values > 0.0) & (p_values <= 1.0))
    assert np.all(np.isfinite(monitor.cohort))
    # What reads texts remembers hashes, which are no numbers.
    if not any(kind.reads == "text" for kind in monitor.kinds):
        assert np.all(np.isfinite(monitor.words))
        assert all(np.all(np.isfinite(shared)) for shared in monitor.shared)


@every_monitor
@few
@given(seed=st.integers(0, 2**32))
def test_rows_are_bounded(name: str, seed: int) -> None:
    """Once every row is taken, ten times as many entities leave the size of the saved state
    unchanged: they evict each other."""
    monitor = Monitor(MONITORS[name], KEY)
    capacity = monitor.spec.capacity
    # Every row's entity returns often enough to be given whatever it may have beside its row.
    run(monitor, batch(seed, 1_000, entities=capacity), [])
    assert monitor.measures()["entities"] == capacity
    full = sizes(monitor)
    found = run(monitor, batch(seed, EVENTS, entities=10 * capacity, start_ms=LATER_MS), [])
    assert sizes(monitor) == full
    assert monitor.measures()["entities"] == capacity
    if monitor.spec.session_gap is None:  # else sessions begin beside
        assert monitor.measures()["evictions"] == found["fresh"].sum()
    assert found["fresh"].sum() > 3 * capacity
    assert found["row"].max() < capacity


@every_monitor
@few
@given(seed=st.integers(0, 2**32))
def test_an_evicted_row_equals_a_fresh_one(name: str, seed: int) -> None:
    """An entity that was evicted and returns is treated as new: as in a table with a row for every
    entity, where it returns under another name."""
    if name in NOT_KEPT_PER_ROW:
        pytest.skip(NOT_KEPT_PER_ROW[name])
    spec = MONITORS[name]
    events = batch(seed, EVENTS, entities=60)
    found = run(Monitor(spec, KEY), events, [])
    account = np.array(events.text["account"].to_pylist())
    life = np.zeros(EVENTS, np.int64)
    for who in set(account.tolist()):
        life[account == who] = np.cumsum(found["fresh"][account == who])
    assert life.max() > 1
    renamed = [f"{who}, life {k}" for who, k in zip(account, life, strict=True)]
    text = {**events.text, "account": pa.array(renamed, pa.string())}
    ample = Monitor(msgspec.structs.replace(spec, capacity=EVENTS), KEY)
    expected = run(ample, dataclasses.replace(events, text=text), [])
    assert same(found["values"], expected["values"])
    assert same(found["raw"], expected["raw"])


@every_monitor
@few
@given(seed=st.integers(0, 2**32), late_s=st.integers(1, 3_000))
def test_a_late_event_never_moves_time(name: str, seed: int, late_s: int) -> None:
    """A late event is scored at its entity's last time, which it does not change."""
    events = batch(seed, EVENTS, entities=5)
    monitor = Monitor(MONITORS[name], KEY)
    run(monitor, events, [])
    last_ms = monitor.entities.table.last_ms.copy()
    late = events.slice(EVENTS - 1, EVENTS).take(np.zeros(1, np.int64))
    late.time_ms[0] -= 1000 * late_s
    found = monitor.process(late)
    assert found.admitted.late.all()
    assert found.admitted.learn.all()
    assert same(monitor.entities.table.last_ms, last_ms)


@every_monitor
@few
@given(seed=st.integers(0, 2**32), appended=st.booleans())
def test_an_event_from_the_future_never_moves_time(name: str, seed: int, appended: bool) -> None:
    """An event of 2099 is scored at stream time, which it does not move, nor its entity's time;
    findings and stream time equal those of an event at stream time."""
    events = batch(seed, EVENTS, entities=5)
    arrived_ms = events.time_ms if appended else np.full(EVENTS, -1)
    events = dataclasses.replace(events, append_ms=arrived_ms)
    one, other = Monitor(MONITORS[name], KEY), Monitor(MONITORS[name], KEY)
    run(one, events, [])
    run(other, events, [])
    now_ms = one.clock.now_ms
    future, present = (events.slice(EVENTS - 1, EVENTS).take(np.zeros(1, np.int64)) for _ in "ab")
    future.time_ms[0] = 4_070_908_800_000
    present.time_ms[0] = now_ms
    found, expected = one.process(future), other.process(present)
    assert found.ahead.all()
    assert not expected.ahead.any()
    assert one.clock.now_ms == now_ms
    assert one.entities.table.last_ms.max() <= now_ms
    assert_same(findings([found]), findings([expected]))


def test_too_late_events_are_scored_but_not_learned() -> None:
    """An event later than `lateness_max` gets a p-value and changes no statistics of its entity,
    except for the count of such events."""
    events = batch(3, EVENTS, entities=5)
    monitor = Monitor(MONITORS["whole"], KEY)
    run(monitor, events, [])
    of_late = np.zeros(monitor.calibration_first_word, np.bool_)
    for memory, kind in zip(monitor.memories, monitor.kinds, strict=True):
        if kind.name == "count":
            of_late[
                memory.first_word + counting.WORDS : memory.first_word + counting.COUNT_WORDS
            ] = True
    before = monitor.words[:, : monitor.calibration_first_word].copy()
    shared = [own.copy() for own in monitor.shared]
    late = events.slice(EVENTS - 1, EVENTS).take(np.zeros(1, np.int64))
    late.time_ms[0] -= 3_601_000
    found = monitor.process(late)
    assert not found.admitted.learn.any()
    assert 0.0 < found.p[0] <= 1.0
    after = monitor.words[:, : monitor.calibration_first_word].copy()
    assert same(after[:, ~of_late], before[:, ~of_late])
    assert not same(after, before)
    assert all(same(one, other) for one, other in zip(monitor.shared, shared, strict=True))
