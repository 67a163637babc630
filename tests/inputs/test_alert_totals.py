"""What a run gathers for its page while it passes, in bounded memory: traffic and incidents."""

import pytest
from numpy import arange, array, int64, uint8
from numpy.random import default_rng

from stream.replay.incidents import TopIncidents
from stream.replay.traffic import BUCKETS_MAX, TrafficCounter
from tests.report.test_page import START_MS, alert

HOUR_MS = 3_600_000


@pytest.mark.parametrize("span_h", [1, 30, 4_000, 200_000])
def test_traffic_counts_all_in_a_bounded_number_of_buckets(span_h: int) -> None:
    """Whatever the span and the order, each event and alert is counted in the bucket of its time,
    as if the width had been known from the start."""
    times = (START_MS + default_rng(1).random(3_000) * span_h * HOUR_MS).astype(int64).tolist()
    counter = TrafficCounter()
    for start in range(0, len(times), 100):
        part = array(times[start : start + 100], int64)
        counter.add(part, (arange(len(part)) % 2).astype(uint8))
    counter.add_alerts([alert(0, event_time_ms=time, severity="low") for time in times[:50]])
    traffic = counter.traffic()
    counts = list(traffic.by_type.values())
    assert len(counts[0]) <= BUCKETS_MAX + 1
    assert [sum(one) for one in counts] == [1_500, 1_500]
    first = traffic.start_ms // traffic.bucket_ms
    expected = [0] * len(counts[0])
    for time in times[:50]:
        expected[time // traffic.bucket_ms - first] += 1
    assert traffic.alerts == {"low": expected}


def test_worst_incidents_are_those_of_all_alerts() -> None:
    """The incidents kept are the ones with the highest scores, though most alerts were let go, and
    each tells what its last alert knew."""
    rng = default_rng(2)
    last = dict.fromkeys((f"incident-{i}" for i in range(300)), 0)
    alerts = []
    for index in range(5_000):
        name = f"incident-{rng.integers(300)}"
        last[name] += 1
        activity = "opened" if last[name] == 1 else "updated"
        score = float(rng.exponential())
        alerts.append(
            alert(index, incident_id=name, score=score, revision=last[name], activity=activity)
        )
    gathered = TopIncidents(limit=10)
    gathered.add(alerts)
    peaks: dict[str, float] = {}
    for one in alerts:
        peaks[one.incident_id] = max(one.score, peaks.get(one.incident_id, 0.0))
    expected = sorted(peaks, key=lambda name: -peaks[name])[:10]
    worst = gathered.top()
    assert [one.top_alert.incident_id for one in worst] == expected
    assert [one.top_alert.score for one in worst] == [peaks[name] for name in expected]
    assert gathered.opened == len(peaks)
    assert [one.alerts for one in worst] == [last[name] for name in expected]
