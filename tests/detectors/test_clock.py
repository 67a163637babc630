"""The clock: a minority of events from the future moves no time, and honest traffic always does."""

from itertools import pairwise

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.clock import AHEAD_MAX_MS, WINDOW, BoundedTimes, LogClock, StreamClock
from schemas.columns import F64, I64, Bools
from stream.simulator import START_MS as SHOP_START_MS
from stream.simulator import Shop, lines
from tests.streams import START_MS, same

FUTURE_MS = 4_070_908_800_000
"""1 January 2099."""
HOUR_MS = 3_600_000


def take(
    clock: StreamClock, time_ms: I64, entity: I64, append_ms: I64 | None = None, source: int = 0
) -> BoundedTimes:
    """Bound the times of events of one source."""
    where = np.full(len(time_ms), source, np.int32)
    return clock.advance(time_ms, append_ms, where, entity.astype(np.uint64))


def steady(n: int, every_ms: float, first_ms: int = START_MS) -> I64:
    """int64[n]: times of random events at an average distance."""
    draw = np.random.Generator(np.random.PCG64(n))
    return (first_ms + np.cumsum(draw.exponential(every_ms, n))).astype(np.int64)


@pytest.mark.parametrize("every_ms", [1.0, 60_000.0, 3.0 * HOUR_MS])
@pytest.mark.parametrize("entities", [1, 10, 100_000])
def test_steady_traffic_moves_time_exactly(every_ms: float, entities: int) -> None:
    """At any rate and with any number of entities no event is ahead, and stream time is the latest
    event's."""
    time_ms = steady(3_000, every_ms)
    found = take(StreamClock(), time_ms, np.arange(3_000) % entities)
    assert not found.ahead.any()
    assert same(found.time_ms, time_ms)
    assert same(found.stream_ms, np.maximum.accumulate(time_ms).astype(np.float64))


def mixed(honest: I64, attack: Bools, of: I64) -> tuple[I64, I64]:
    """(Times, entities) of honest traffic of 500 entities with events of 2099 among it. attack:
    bool[n], which these are; of: int64, their entities."""
    time_ms = honest.copy()
    entity = np.arange(len(honest)) % 500
    time_ms[attack] = FUTURE_MS + np.arange(attack.sum())
    entity[attack] = 10_000 + of
    return time_ms, entity


@pytest.mark.parametrize(
    ("places", "entities"),
    [
        ([1_000], 1),
        (range(1_000, 1_040), 1),
        (range(1_000, 1_031), 31),
        (range(1_000, 1_100, 2), 25),
        (range(1_000, 1_150, 3), 50),
    ],
    ids=["one", "forty of one", "31 of 31", "every other one of 25", "every third one of 50"],
)
def test_a_minority_from_the_future_moves_no_time(places: list[int], entities: int) -> None:
    """Fewer than half of the window, of events or of entities, is ahead: honest events keep their
    times, and stream time follows them."""
    attack = np.zeros(2_000, np.bool_)
    attack[list(places)] = True
    time_ms, entity = mixed(steady(2_000, 1_000.0), attack, np.arange(attack.sum()) % entities)
    found = take(StreamClock(), time_ms, entity)
    assert same(found.ahead, attack)
    assert same(found.time_ms[~attack], time_ms[~attack])
    latest_ms = np.maximum.accumulate(np.where(attack, 0, time_ms))
    assert same(found.stream_ms, latest_ms.astype(np.float64))
    assert same(found.time_ms[attack].astype(np.float64), found.stream_ms[attack])


@pytest.mark.parametrize("entities", [10, 500])
@pytest.mark.parametrize("old_ms", [0, START_MS - 365 * 24 * HOUR_MS])
@pytest.mark.parametrize("count", [8, 31, 300])
def test_old_events_do_not_let_one_of_the_future_move_time(
    entities: int, old_ms: int, count: int
) -> None:
    """After events of the past, each of another entity, an event of 2099 is still ahead."""
    clock, before = StreamClock(), steady(2_000, 1_000.0)
    take(clock, before, np.arange(2_000) % entities)
    take(clock, np.full(count, old_ms), 10_000 + np.arange(count))
    honest = steady(64, 1_000.0, int(before[-1]))
    take(clock, honest, np.arange(64) % entities)
    assert take(clock, np.array([FUTURE_MS]), np.array([99_999])).ahead.all()
    assert clock.now_ms == honest[-1]


@pytest.mark.parametrize("count", [1, 8, 20, 31])
def test_old_events_in_the_first_window_do_not_widen_the_bound(count: int) -> None:
    """With fewer than half of the first 64 events from 1970, an event of 2099 is ahead
    afterwards."""
    clock, time_ms = StreamClock(), steady(3_000, 1_000.0)
    time_ms[5 : 5 + count] = 0
    take(clock, time_ms, np.arange(3_000) % 500)
    assert take(clock, np.array([FUTURE_MS]), np.array([99_999])).ahead.all()


@pytest.mark.parametrize("entities", [3, 40, 64, 1_000])
@pytest.mark.parametrize("gap_ms", [HOUR_MS, 30 * 24 * HOUR_MS, 20 * 365 * 24 * HOUR_MS])
def test_after_a_gap_time_moves_on_within_a_window(entities: int, gap_ms: int) -> None:
    """After silence of any length at most 64 events, or 64 entities, are ahead, and then none."""
    time_ms = np.concatenate(
        [before := steady(1_000, 1_000.0), steady(400, 1_000.0, int(before[-1]) + gap_ms)]
    )
    found = take(StreamClock(), time_ms, np.arange(1_400) % entities)
    ahead = np.flatnonzero(found.ahead)
    assert len(ahead) <= WINDOW
    assert ahead.max(initial=1_000) < 1_000 + WINDOW
    assert same(found.time_ms[1_064:], time_ms[1_064:])


def test_traffic_that_slows_down_moves_time_again() -> None:
    """From a thousand events a second to one a day: events are ahead for a while, not for ever."""
    time_ms = np.concatenate(
        [before := steady(5_000, 1.0), steady(600, 24.0 * HOUR_MS, int(before[-1]))]
    )
    found = take(StreamClock(), time_ms, np.arange(5_600) % 200)
    assert not found.ahead[5_200:].any()


def is_event(value: bytes | None) -> bool:
    """Whether a line of the simulator is an event with a time."""
    try:
        row = orjson.loads(value or b"")
    except orjson.JSONDecodeError:
        return False
    return isinstance(row, dict) and type(row.get("time")) is int


def by_day(per_day: int, days: int, entities: int) -> tuple[I64, I64]:
    """(Times, entities) of traffic with hardly any events at night."""
    draw = np.random.Generator(np.random.PCG64(per_day))
    weight = 0.05 + np.clip(np.sin((np.arange(24) - 6) / 12 * np.pi), 0, None)
    hour = draw.choice(24, per_day * days, p=weight / weight.sum())
    day = np.repeat(np.arange(days), per_day)
    time_ms = START_MS + ((day * 24 + hour) * HOUR_MS) + draw.integers(0, HOUR_MS, len(hour))
    order = np.argsort(time_ms, kind="stable")
    return time_ms[order], draw.integers(0, entities, len(hour))


@pytest.mark.parametrize("entities", [10, 60, 400])
def test_nights_and_one_entity_that_never_sleeps_are_not_ahead(entities: int) -> None:
    """A few hundred events a day, almost none at night, and a crawler with most of all events:
    after a few days no event is ahead, whichever way the window counts."""
    time_ms, entity = by_day(400, 14, entities)
    crawler_ms = np.arange(START_MS, int(time_ms[-1]), 60_000)
    both = np.concatenate([time_ms, crawler_ms])
    who = np.concatenate([entity, np.full(len(crawler_ms), 99_999)])
    order = np.argsort(both, kind="stable")
    found = take(StreamClock(), both[order], who[order])
    settled = both[order] > START_MS + 3 * 24 * HOUR_MS
    assert found.ahead[settled].sum() == 0
    alone = take(StreamClock(), time_ms, entity)
    assert alone.ahead[time_ms > START_MS + 3 * 24 * HOUR_MS].sum() == 0


def test_time_moves_on_though_most_entities_have_stopped() -> None:
    """Where only ten of many entities are left, their events move time: entities without a recent
    event no longer count."""
    many = steady(5_000, 1_000.0)
    few = steady(20_000, 60_000.0, int(many[-1]))
    clock = StreamClock()
    take(clock, many, np.arange(5_000) % 1_000)
    found = take(clock, few, np.arange(20_000) % 10)
    assert not found.ahead[-10_000:].any()
    assert found.stream_ms[-1] == few[-1]


@pytest.mark.parametrize("field", ["ip", "account", "card"])
def test_no_event_of_an_honest_shop_is_ahead(field: str) -> None:
    """In the simulated shop, with a crawler and attacks at night, only the events that the
    simulator puts into the future are ahead."""
    made = (orjson.loads(line.value) for line in lines(Shop(30_000, 7)) if is_event(line.value))
    rows = [
        row for row in made if row.get(field) and row["time"] < SHOP_START_MS + 30 * 24 * HOUR_MS
    ]
    time_ms = np.array([row["time"] for row in rows])
    _, entity = np.unique([str(row[field]) for row in rows], return_inverse=True)
    assert len(rows) > 1_000
    assert take(StreamClock(), time_ms, entity).ahead.sum() <= 2


def test_a_log_that_starts_in_the_future_is_reset() -> None:
    """Where the first events are of 2099, stream time is set back once, as soon as a window is
    full."""
    time_ms = np.concatenate([FUTURE_MS + np.arange(20), steady(500, 1_000.0)])
    found = take(StreamClock(), time_ms, np.arange(520) % 90)
    assert np.flatnonzero(found.set_back).tolist() == [WINDOW - 1]
    assert found.stream_ms[WINDOW - 1] < START_MS + HOUR_MS
    assert same(found.time_ms[WINDOW:], time_ms[WINDOW:])
    assert found.stream_ms[-1] == time_ms[-1]


def test_append_times_bound_stream_time() -> None:
    """Where the broker sets the times, stream time never exceeds the append time; an event further
    ahead of it than the limit is ahead, from the first event on, however many there are."""
    append_ms = steady(300, 1_000.0)
    time_ms = append_ms - 500
    time_ms[100:200] = append_ms[100:200] + int(AHEAD_MAX_MS)
    time_ms[200:] = FUTURE_MS
    found = take(StreamClock(), time_ms, np.arange(300), append_ms)
    assert same(found.ahead, np.arange(300) >= 200)
    assert (found.stream_ms <= append_ms).all()
    assert same(found.time_ms[:100], time_ms[:100])
    assert same(found.time_ms[100:200], append_ms[100:200])
    assert same(np.unique(found.stream_ms[199:]), append_ms[199:200].astype(np.float64))
    first = take(StreamClock(), np.array([FUTURE_MS, FUTURE_MS]), np.arange(2), append_ms[:2])
    assert first.ahead.all()
    assert (first.stream_ms <= append_ms[:2]).all()


def test_a_lagging_source_does_not_delay_another() -> None:
    """Each source has its own bound: where one lags by a day, no event of the other is ahead."""
    ahead, lagging = steady(1_000, 1_000.0), steady(1_000, 1_000.0, START_MS - 24 * HOUR_MS)
    clock = StreamClock(2)
    time_ms = np.stack([ahead, lagging]).T.ravel()
    source = np.tile(np.arange(2, dtype=np.int32), 1_000)
    found = clock.advance(time_ms, None, source, np.arange(2_000).astype(np.uint64) % 300)
    assert not found.ahead.any()
    assert same(found.time_ms, time_ms)


events = st.lists(
    st.tuples(
        st.integers(-3_600, 3_600),
        st.sampled_from([0, 0, 0, 1, 86_400, 2_000_000_000]),
        st.integers(0, 90),
        st.integers(0, 1),
        st.booleans(),
    ),
    max_size=300,
)


@settings(max_examples=50, deadline=None)
@given(events, st.lists(st.integers(0, 300), max_size=5), st.integers(0, 300))
def test_cuts_and_saved_states_do_not_matter(
    drawn: list[tuple[int, int, int, int, bool]], cuts: list[int], stop: int
) -> None:
    """Wherever the events are cut into batches and a state is saved and loaded, bounded times and
    state are the same bytes; no time is later than stream time."""
    n = len(drawn)
    late, far, entity, source, appended = (
        np.array([one[k] for one in drawn], np.int64) for k in range(5)
    )
    arrival_ms = START_MS + 1_000 * np.arange(n, dtype=np.int64)
    time_ms = arrival_ms + 1_000 * (late + far)
    append_ms = np.where(appended > 0, arrival_ms, -1)
    whole, cut = StreamClock(2), StreamClock(2)

    def run(clock: StreamClock, a: int, b: int) -> BoundedTimes:
        return clock.advance(
            time_ms[a:b],
            append_ms[a:b],
            source[a:b].astype(np.int32),
            entity[a:b].astype(np.uint64),
            entity[a:b] % 7 > 0,
        )

    expected = run(whole, 0, n)
    parts = []
    for a, b in pairwise([0, *sorted(min(c, n) for c in [*cuts, stop]), n]):
        if a == min(stop, n):
            saved, cut = cut.save(), StreamClock(2)
            cut.load(saved)
        parts.append(run(cut, a, b))
    for one, other in zip(expected, zip(*parts, strict=True), strict=True):
        assert same(one, np.concatenate(other))
    assert all(same(array, cut.save()[name]) for name, array in whole.save().items())
    moving = entity % 7 > 0
    assert (expected.time_ms <= expected.stream_ms)[moving].all()
    falls = np.diff(expected.stream_ms) < 0
    assert not (falls & ~expected.set_back[1:]).any()


@pytest.mark.parametrize("at", [0, 1, 500, 999])
def test_a_recorded_log_is_ordered_despite_a_time_from_the_future(at: int) -> None:
    """One record of 2099, even the first, does not change the order of the others; a record without
    a time is ordered with the record before it."""
    time_ms = steady(1_000, 1_000.0)
    time_ms[[3, 700]] = -1
    time_ms[at] = FUTURE_MS
    clock = LogClock()
    latest: F64 = np.concatenate([clock.latest(part) for part in np.split(time_ms, [400, 401])])
    honest = np.where(time_ms == FUTURE_MS, -1, time_ms)
    expected = np.maximum.accumulate(honest)
    expected[0] = max(expected[0], expected[1] if at == 0 else -1)
    assert same(latest, expected)
