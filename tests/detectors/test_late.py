"""Events later than `lateness_max`: not learned, but counted in the window of their own time."""

import msgspec
import numpy as np
import pyarrow as pa

from detectors.models.half_space_trees import TreesSpec
from detectors.models.tail import TailSpec
from detectors.monitor import Monitor
from detectors.scoring.policy import OPENED, UPDATED
from detectors.spec import FeatureSpec, PolicySpec
from schemas.columns import F64, I64, EventBatch
from schemas.events import TYPES
from tests.laws.registry import monitor
from tests.streams import START_MS

KEY = (1, 2)
HOUR_MS = 3_600_000
COUNT = FeatureSpec(name="n1h", kind="count", half_life="1h")
SPEC = msgspec.structs.replace(
    monitor([FeatureSpec(name="amount", kind="value", field="amount"), COUNT], []),
    capacity=1_000,
    detectors=[TailSpec(), TreesSpec()],
    policy=PolicySpec(p_max=1e-3, alerts_per_day=100, warm_up_events=1_000),
)


def events(time_ms: I64, who: list[str], amount: F64) -> EventBatch:
    """Payments of accounts."""
    n = len(time_ms)
    return EventBatch(
        sources=(("shop", 0),),
        source=np.zeros(n, np.int32),
        offset=np.arange(n),
        time_ms=time_ms,
        type_code=np.full(n, TYPES.index("transaction"), np.uint8),
        event_id=pa.array([f"e{i}" for i in range(n)], pa.string()),
        text={"account": pa.array(who, pa.string())},
        number={"amount": amount},
    )


def shop(n: int) -> EventBatch:
    """A shop's payments: 200 accounts over a day and more."""
    draw = np.random.Generator(np.random.PCG64(1))
    time_ms = START_MS + np.cumsum(draw.exponential(20_000.0, n)).astype(np.int64)
    who = [f"a{k}" for k in draw.integers(0, 200, n)]
    return events(time_ms, who, np.exp(draw.normal(3.0, 0.5, n)))


def late_counts(late_ms: list[int]) -> list[float]:
    """n1h at events of one account that are so much older than its only current one."""
    times = np.array([0, *(-b for b in late_ms)]) + 1_000 * HOUR_MS
    rows = events(times, ["a"] * len(times), np.ones(len(times)))
    found: list[float] = Monitor(SPEC, KEY).process(rows).feature_values.values[1].tolist()
    return found[1:]


def test_a_burst_of_late_events_alerts() -> None:
    """199 payments of one account, two hours older than its current one, have the count that they
    would have in time and raise alerts; its time and others' learned counts do not change."""
    watching = Monitor(SPEC, KEY)
    watching.process(shop(8_000))
    now_ms = int(watching.clock.now_ms)
    times = now_ms - 2 * HOUR_MS + 500 * np.arange(199)
    burst = events(np.array([now_ms, *times]), ["thief"] * 200, np.full(200, 20.0))
    found = watching.process(burst)
    assert not found.admitted.learn[1:].any()
    assert found.feature_values.values[1, 1:].tolist() == list(range(1, 200))
    assert np.isin(found.policy_outcome.activity, [OPENED, UPDATED]).sum() >= 3
    assert found.p[-1] < 1e-3
    assert watching.clock.now_ms == now_ms
    again = watching.process(events(np.array([now_ms]), ["thief"], np.array([20.0])))
    assert again.feature_values.values[1].tolist() == [2.0]


def test_late_events_count_in_the_window_of_their_own_time() -> None:
    """Late events of a whole day are counted hour by hour, in the order of their times."""
    hours = np.repeat(np.arange(24, 2, -1), 5)
    assert late_counts((hours * HOUR_MS - 1).tolist()) == [1, 2, 3, 4, 5] * 22


def test_no_entity_empties_a_window_by_moving_back_and_forth() -> None:
    """Late events that alternate between windows reset a cell only for a later window: the largest
    count is not below the fair share of a cell."""
    draw = np.random.Generator(np.random.PCG64(3))
    for spread in (2, 5, 8, 40):
        late_ms = 2 * HOUR_MS + HOUR_MS * draw.integers(0, spread, 400)
        counts = late_counts(late_ms.tolist())
        assert max(counts) >= 400 / max(4, spread)
        forth = np.tile([2 + k for k in range(spread)], 400 // spread)
        assert max(late_counts((HOUR_MS * forth).tolist())) >= 400 / max(4, spread) - 1


def test_on_time_counts_exclude_late_events() -> None:
    """A late event within the limit is counted and learned at its entity's time."""
    assert late_counts([1_000, 2_000, HOUR_MS]) == [2.0, 3.0, 4.0]
    assert late_counts([HOUR_MS + 1, 1_000]) == [1.0, 2.0]
