"""Stream time: the time that advances with the events. No minority of events can move it into the
future.

Each event gets a bounded time, the only "now" of features, models and the policy. An event whose
time exceeds its bound is *ahead*: it is scored at stream time and does not advance it.

- Where the broker sets the time of a record (LogAppendTime), the bounded time is at most the append
  time. An event more than `time_ahead_max` after its append time is ahead.
- Otherwise the bound follows M, the median time of a window of the source partition. The window
  holds the last event of each of the last `WINDOW` entities, provided that each of these events is
  among the partition's last `LIVE_EVENTS`; else it holds the last `WINDOW` events. M is about
  `AGREED` events old, so the bound is M + `time_ahead_max` + `LEAD` · spread. The spread is the time
  from the window's low end (`LOW` events) to M, or an earlier larger spread, halved every
  `SPREAD_HALF_LIFE_MS` of M. Fewer than `AGREED` events from the future can change neither M nor the
  spread. Nights and other gaps widen the spread once they have occurred. After a longer gap, stream
  time advances with M as soon as half of the window agrees. The bound never falls.

A source with fewer than `WINDOW` events uses the largest bound of the shard's other sources; until
the first source has `WINDOW` events, there is no bound. If stream time exceeds the first bound, it is
set back to M, once, since a log may begin with events from the future.

A source takes 3 KiB and an event some 40 ns; M is computed every `AGREED` events, and when an event
lies beyond the bound. No wall clock is read. Results do not depend on batch boundaries.
"""

from math import exp, inf
from typing import Final, NamedTuple

import numpy as np

from detectors.numeric.decay import DAY_MS, LN2
from detectors.numeric.kernels import kernel
from detectors.state import Arrays, load, state_arrays
from schemas.columns import F64, I32, I64, U8, U64, Bools

WINDOW: Final = 64
BUCKETS: Final = 8 * WINDOW
AGREED: Final = WINDOW // 2
MEDIAN_RANK: Final = WINDOW - AGREED + 1
"""Rank, from the smallest, of the largest time that `AGREED` events have reached."""
LOW: Final = WINDOW // 8
"""Number of events that may be far too old without widening the spread."""
LIVE_EVENTS: Final = WINDOW * WINDOW
LEAD: Final = 8.0
SPREAD_HALF_LIFE_MS: Final = 2.0 * DAY_MS
AHEAD_MAX_MS: Final = 600_000.0
"""The default of `limits.time_ahead_max`."""

FIRST_EVENTS_MIN: Final = 16
"""Events that a recorded log's first batch needs for its first times to be bounded."""

EVENTS, ENTITIES = range(2)
BOUND_MS, MEDIAN_MS, SPREAD_MS = range(3)
NOW_MS, SHARD_BOUND_MS = range(2)


class ClockWindows(NamedTuple):
    """The state; all arrays but `stream` have a row for each source.

    event_ms: float64[sources, 64], times of the last events. entity: uint64[sources, 64], the last
    entities; entity_ms: float64[sources, 64], the time of each one's last event; entity_at:
    int64[sources, 64], the number of events up to it. buckets: uint8[sources, 512], the number of
    these entities by the remainder of their hash. counts: int64[sources, 2], events and entities
    seen. bound: float64[sources, 3], the bound (0: none), M and the spread. stream: float64[2],
    stream time (-1 before the first event) and the largest bound (0: none).
    """

    event_ms: F64
    entity: U64
    entity_ms: F64
    entity_at: I64
    buckets: U8
    counts: I64
    bound: F64
    stream: F64


class BoundedTimes(NamedTuple):
    """Bounded times of n events.

    - time_ms: int64[n].
    - stream_ms: float64[n], stream time after each event.
    - ahead: bool[n], the event's time exceeds its bound.
    - set_back: bool[n], stream time is set back to stream_ms before the event; at most once.
    """

    time_ms: I64
    stream_ms: F64
    ahead: Bools
    set_back: Bools


class StreamClock:
    """Stream time of one shard. sources: the number of partitions that its events come from."""

    def __init__(self, sources: int = 1, ahead_max_ms: float = AHEAD_MAX_MS) -> None:
        self.ahead_max_ms = ahead_max_ms
        self.windows = ClockWindows(
            event_ms=np.zeros((sources, WINDOW)),
            entity=np.zeros((sources, WINDOW), np.uint64),
            entity_ms=np.zeros((sources, WINDOW)),
            entity_at=np.zeros((sources, WINDOW), np.int64),
            buckets=np.zeros((sources, BUCKETS), np.uint8),
            counts=np.zeros((sources, 2), np.int64),
            bound=np.zeros((sources, 3)),
            stream=np.array([-1.0, 0.0]),
        )

    @property
    def now_ms(self) -> float:
        """Stream time, -1 before the first event."""
        return float(self.windows.stream[NOW_MS])

    def advance(
        self,
        time_ms: I64,
        append_ms: I64 | None,
        source: I32,
        entity_hash: U64,
        moves_time: Bools | None = None,
    ) -> BoundedTimes:
        """Bound the times of n events, in order.

        append_ms: int64[n], -1 where the broker did not set it; None where it never did. source:
        int32[n]. entity_hash: uint64[n]. moves_time: bool[n], False for labels: their times
        are bounded, and they do not advance stream time.
        """
        n = len(time_ms)
        out = BoundedTimes(
            np.empty(n, np.int64), np.empty(n), np.empty(n, np.bool_), np.zeros(n, np.bool_)
        )
        append_times = np.empty(0, np.int64) if append_ms is None else append_ms
        moves_time = np.empty(0, np.bool_) if moves_time is None else moves_time
        _advance(
            self.windows,
            self.ahead_max_ms,
            time_ms,
            append_times,
            source,
            entity_hash,
            moves_time,
            out,
        )
        return out

    def save(self) -> Arrays:
        """The windows and stream time."""
        return state_arrays(self.windows)

    def load(self, state: Arrays) -> None:
        """Replace the windows and stream time by saved ones of as many sources."""
        load(self.windows, state)


class LogClock:
    """Stream time of a recorded log. The window is filled with the log's first batch (repeated, where
    it is small), so that time never has to be set back."""

    def __init__(self) -> None:
        self._clock = StreamClock()
        self._latest_ms = -1

    def latest(self, time_ms: I64) -> I64:
        """int64[n]: stream time after each of n events; it never falls. time_ms: -1 where an event has
        no time."""
        times = time_ms[time_ms >= 0]
        if self._clock.now_ms < 0 and len(times) >= FIRST_EVENTS_MIN:
            self._fill(times[:WINDOW])
            # at the start of a log, M is no lower bound of the present yet
            in_bound = times[:WINDOW] <= self._clock.windows.bound[0, BOUND_MS]
            first = times[:WINDOW][np.argmax(in_bound)]
            times[:WINDOW] = np.maximum.accumulate(np.where(in_bound, times[:WINDOW], first))
        zeros = np.zeros(len(times), np.int32)
        stream_ms = self._clock.advance(times, None, zeros, zeros.astype(np.uint64)).stream_ms
        stream_ms = np.concatenate([[self._latest_ms], stream_ms])[np.cumsum(time_ms >= 0)]
        latest_ms = np.maximum.accumulate(np.maximum(stream_ms, self._latest_ms)).astype(np.int64)
        self._latest_ms = int(latest_ms[-1]) if len(latest_ms) else self._latest_ms
        return latest_ms

    def _fill(self, times: I64) -> None:
        windows = self._clock.windows
        windows.event_ms[0] = np.resize(times, WINDOW)
        windows.counts[0, EVENTS] = WINDOW
        _update_bound(windows, 0, self._clock.ahead_max_ms)
        windows.stream[SHARD_BOUND_MS] = windows.bound[0, BOUND_MS]


def unbounded_times(time_ms: I64) -> BoundedTimes:
    """Unbounded times, without stream time: no event is ahead."""
    n = len(time_ms)
    return BoundedTimes(time_ms, np.full(n, inf), np.zeros(n, np.bool_), np.zeros(n, np.bool_))


@kernel
def _add_to_window(windows: ClockWindows, s: int, time_ms: float, entity_hash: np.uint64) -> None:
    """Add an event to its source's window."""
    counts = windows.counts
    windows.event_ms[s, counts[s, EVENTS] % WINDOW] = time_ms
    counts[s, EVENTS] += 1
    index = -1
    filled = min(counts[s, ENTITIES], WINDOW)
    buckets = windows.buckets[s]
    bucket = np.int64(entity_hash % np.uint64(BUCKETS))
    if buckets[bucket] > 0:  # else the entity is not in the window
        for k in range(filled):
            if windows.entity[s, k] == entity_hash:
                index = k
                break
    if index < 0:
        index = counts[s, ENTITIES] % WINDOW
        if counts[s, ENTITIES] >= WINDOW:
            buckets[np.int64(windows.entity[s, index] % np.uint64(BUCKETS))] -= 1
        buckets[bucket] += 1
        windows.entity[s, index] = entity_hash
        counts[s, ENTITIES] += 1
    windows.entity_ms[s, index] = time_ms
    windows.entity_at[s, index] = counts[s, EVENTS]


@kernel
def _time_at_rank(times: F64, rank: int) -> float:
    """The smallest time that at least `rank` times of the window do not exceed."""
    smallest = inf
    for k in range(WINDOW):
        count = 0
        for j in range(WINDOW):
            count += 1 if times[j] <= times[k] else 0
        if count >= rank:
            smallest = min(smallest, times[k])
    return smallest


@kernel
def _deviation(times: F64, median: float) -> float:
    """The median distance of the times from their median: fewer than `AGREED` wrong times, of the past
    or the future, cannot make it exceed the distances of the honest ones."""
    smallest = inf
    for k in range(WINDOW):
        distance = abs(times[k] - median)
        nearer = 0
        for j in range(WINDOW):
            nearer += 1 if abs(times[j] - median) <= distance else 0
        if nearer >= AGREED:
            smallest = min(smallest, distance)
    return smallest


@kernel
def _all_live(windows: ClockWindows, s: int) -> bool:
    """Whether each of a source's last entities had an event among the last `LIVE_EVENTS`."""
    since = windows.counts[s, EVENTS] - LIVE_EVENTS
    for k in range(WINDOW):
        if windows.entity_at[s, k] <= since:
            return False
    return bool(windows.counts[s, ENTITIES] >= WINDOW)


@kernel
def _update_bound(windows: ClockWindows, s: int, ahead_max_ms: float) -> bool:
    """Compute a source's bound from its window; whether it is the first one."""
    counts, bound = windows.counts, windows.bound
    by_entity = _all_live(windows, s)
    if not by_entity and counts[s, EVENTS] < WINDOW:
        return False
    times = windows.entity_ms[s] if by_entity else windows.event_ms[s]
    median = _time_at_rank(times, MEDIAN_RANK)
    first = bound[s, BOUND_MS] == 0.0
    if first:
        bound[s, MEDIAN_MS] = median
        bound[s, SPREAD_MS] = _deviation(times, median)
        for k in range(WINDOW):  # later, only events from M on enter the window
            windows.event_ms[s, k] = max(windows.event_ms[s, k], median)
            windows.entity_ms[s, k] = max(windows.entity_ms[s, k], median)
    moved_ms = max(median - bound[s, MEDIAN_MS], 0.0)
    earlier_ms = bound[s, SPREAD_MS] * exp(-LN2 * moved_ms / SPREAD_HALF_LIFE_MS)
    bound[s, SPREAD_MS] = max(earlier_ms, median - _time_at_rank(times, LOW))
    bound[s, MEDIAN_MS] += moved_ms
    lead_ms = ahead_max_ms + LEAD * bound[s, SPREAD_MS]
    bound[s, BOUND_MS] = max(bound[s, BOUND_MS], bound[s, MEDIAN_MS] + lead_ms)
    return bool(first)


@kernel
def _bounded(
    windows: ClockWindows, s: int, time_ms: float, entity_hash: np.uint64, ahead_max_ms: float
) -> tuple[float, bool]:
    """(The bounded time of an event whose time its producer set, whether stream time is set back)."""
    bound, stream = windows.bound, windows.stream
    set_back = is_due = False
    if time_ms >= bound[s, MEDIAN_MS]:  # late events do not enter: old ones would widen the spread
        _add_to_window(windows, s, time_ms, entity_hash)
        is_due = windows.counts[s, EVENTS] % AGREED == 0
    if is_due or bound[s, BOUND_MS] == 0.0 or time_ms > bound[s, BOUND_MS]:
        is_first = stream[SHARD_BOUND_MS] == 0.0
        if (
            _update_bound(windows, s, ahead_max_ms)
            and is_first
            and stream[NOW_MS] > bound[s, BOUND_MS]
        ):
            stream[NOW_MS] = bound[s, MEDIAN_MS]
            set_back = True
        stream[SHARD_BOUND_MS] = max(stream[SHARD_BOUND_MS], bound[s, BOUND_MS])
    bound_ms = bound[s, BOUND_MS] if bound[s, BOUND_MS] > 0.0 else stream[SHARD_BOUND_MS]
    if bound_ms == 0.0 or time_ms <= bound_ms:
        return time_ms, set_back
    return max(stream[NOW_MS], bound[s, MEDIAN_MS]), set_back


@kernel
def _advance(
    windows: ClockWindows,
    ahead_max_ms: float,
    time_ms: I64,
    append_ms: I64,
    source: I32,
    entity_hash: U64,
    moves_time: Bools,
    out: BoundedTimes,
) -> None:
    stream = windows.stream
    for i in range(len(time_ms)):
        time = float(time_ms[i])
        if len(moves_time) > 0 and not moves_time[i]:
            bounded = time
            if stream[SHARD_BOUND_MS] > 0.0 and time > stream[SHARD_BOUND_MS]:
                bounded = stream[NOW_MS]
            out.ahead[i] = bounded < time
        elif len(append_ms) > 0 and append_ms[i] >= 0:
            append_time = float(append_ms[i])
            stream[SHARD_BOUND_MS] = max(stream[SHARD_BOUND_MS], append_time + ahead_max_ms)
            bounded = min(time, append_time)
            if time > append_time + ahead_max_ms and stream[NOW_MS] >= 0.0:
                bounded = min(stream[NOW_MS], append_time)
            out.ahead[i] = time > append_time + ahead_max_ms
        else:
            bounded, set_back = _bounded(windows, source[i], time, entity_hash[i], ahead_max_ms)
            out.set_back[i] = set_back
            out.ahead[i] = bounded < time
        if len(moves_time) == 0 or moves_time[i]:
            stream[NOW_MS] = max(stream[NOW_MS], bounded)
        out.time_ms[i] = np.int64(bounded)
        out.stream_ms[i] = stream[NOW_MS]
