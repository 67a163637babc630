"""A time from the future ends no alerting: a whole shard over records as a broker gives them."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from schemas.alerts import Alert, alert_record, without_run
from schemas.records import Records
from stream.config import Config, parse
from stream.config.stage_graph import logs
from stream.pipeline.alerting import RunInfo
from stream.pipeline.shard import Shard, ShardFactory
from stream.replay import replay

START_MS = 1_772_409_600_000
FUTURE_MS = 4_070_908_800_000
EVENTS = 40_000
AT = 5_000
"""Where the events of the future are."""
CONFIG: dict[str, Any] = {
    "group": "t",
    "secret": "0123456789abcdef0123456789abcdef",
    "reveal": ["card"],
    "inputs": {
        "pay": {
            "topic": "pay",
            "partitions": 1,
            "type": "transaction",
            "fields": {
                "event_id": "id",
                "time": {"path": "t", "unit": "ms"},
                "card": "card",
                "amount": "amount",
                "currency": {"constant": "EUR"},
            },
        }
    },
    "monitors": [
        {
            "name": "card",
            "entity": "card",
            "inputs": ["pay"],
            "features": [
                {"name": "amount", "kind": "value", "field": "amount"},
                {"name": "n1h", "kind": "count", "half_life": "1h"},
            ],
            "policy": {"p_max": 1e-2, "alerts_per_day": 8, "warm_up_events": 500},
        }
    ],
}


def payments(future: list[str], *, first: bool = False) -> list[dict[str, object]]:
    """Forty days of payments of 300 cards, one card in two hundred events in a hurry; among them
    events of 2099 of these cards."""
    draw = np.random.Generator(np.random.PCG64(5))
    rows: list[dict[str, object]] = []
    t = float(START_MS)
    while len(rows) < EVENTS:
        t += draw.exponential(90_000.0)
        card, amount = f"c{draw.integers(300)}", round(float(np.exp(draw.normal(3.0, 0.4))), 2)
        hurry = 12 if draw.random() < 0.004 else 1
        rows += [{"card": card, "t": int(t) + 2_000 * k, "amount": amount} for k in range(hurry)]
    at = 0 if first else AT
    ahead = [{"card": c, "t": FUTURE_MS + k, "amount": 20.0} for k, c in enumerate(future)]
    # one of the honest cards between two of them
    mixed = [row for one, other in zip(ahead, rows[at:], strict=False) for row in (one, other)]
    rows = [*rows[:at], *mixed, *rows[at + len(ahead) :]]
    return [{"id": f"e{i}", **row} for i, row in enumerate(rows)]


def records(rows: list[dict[str, object]], *, appended: bool) -> Records:
    """The rows as a broker's records: it sets their times, or takes the producer's."""
    times = np.array([row["t"] for row in rows], np.int64)
    append_ms = np.maximum.accumulate(np.where(times < FUTURE_MS, times, 0))
    append_ms[append_ms == 0] = START_MS
    return Records(
        "pay",
        0,
        np.arange(len(rows)),
        append_ms if appended else times,
        [orjson.dumps(row) for row in rows],
        None,
        np.full(len(rows), appended) if appended else None,
    )


def config(**limits: str) -> Config:
    """Base configuration B of the trials."""
    return parse({**CONFIG, **({"limits": limits} if limits else {})}, {})


@cache
def without_future(appended: bool) -> tuple[Shard, list[Alert]]:
    """The payments without any event of the future."""
    return watched(payments([]), appended=appended)


def watched(rows: list[dict[str, object]], *, appended: bool) -> tuple[Shard, list[Alert]]:
    """A fresh shard after these rows, and its alerts."""
    shard = ShardFactory(
        config(), RunInfo("live", "one", lambda: "2026-01-01T00:00:00Z")
    ).input_shard("pay")
    return shard, shard.process(records(rows, appended=appended)).alerts


@pytest.mark.parametrize("appended", [False, True], ids=["CreateTime", "LogAppendTime"])
@pytest.mark.parametrize(
    "future",
    [["x"], ["x"] * 40, [f"x{k}" for k in range(20)]],
    ids=["one", "forty of one card", "one each of twenty cards"],
)
@pytest.mark.parametrize("first", [False, True], ids=["amid", "first"])
def test_alerts_continue_after_a_time_from_the_future(
    future: list[str], appended: bool, first: bool
) -> None:
    """With both timestamp types, and with the events of 2099 first or later, at least nine tenths of
    the alerts on all other cards stay; the events of 2099 are scored and counted."""
    if first and not appended:
        future = future[:30]  # of the first 64 events fewer than half
    quiet, expected = without_future(appended)
    shard, alerts = watched(payments(future, first=first), appended=appended)

    def after(some: list[Alert]) -> set[tuple[str, int]]:
        return {
            (one.entity.id, one.event_time_ms)
            for one in some
            if not one.entity.id.startswith("x") and one.event_time_ms > START_MS + 6 * 86_400_000
        }

    assert len(after(expected)) >= 30
    assert len(after(alerts)) >= 0.9 * len(after(expected))
    counts, usual = shard.counts(), quiet.counts()["card"]["ahead"]
    assert usual < 5  # of the burst that the log begins with
    assert counts["card"]["scored"] == EVENTS + len(future)
    assert not any(n for name, n in counts["route"].items() if name.startswith("dead_letter"))
    if appended or not first:  # else nothing is known to be ahead before a first window is full
        assert counts["card"]["ahead"] - usual == len(future)


def test_a_longer_limit_lets_time_go_further() -> None:
    """`limits.time_ahead_max` is how far an event may lie beyond what the others bear out."""
    rows = payments([])
    rows[AT]["t"] = int(str(rows[AT]["t"])) + 40 * 86_400_000
    for most, ahead in (("10min", True), ("90d", False)):
        run = RunInfo("live", "one", lambda: "2026-01-01T00:00:00Z")
        shard = ShardFactory(config(time_ahead_max=most), run).input_shard("pay")
        shard.process(records(rows, appended=False))
        assert (shard.counts()["card"]["ahead"] > 0) == ahead


@pytest.mark.parametrize("at", [0, 2_500, EVENTS // 8 - 1])
def test_a_replay_of_a_file_continues_as_live(tmp_path: Path, at: int) -> None:
    """One row of 2099 is no disorder and ends no run: a replay's alerts are those of a shard that
    took the same records, but for `run`."""
    rows = payments([])[: EVENTS // 8]
    rows[at]["t"] = FUTURE_MS
    path = tmp_path / "pay.ndjson"
    path.write_bytes(b"\n".join(orjson.dumps(row) for row in rows))
    summary = replay(config(), [("pay", str(path))], tmp_path / "out", lambda *_: None)
    _, alerts = watched(rows, appended=False)
    lines = (tmp_path / "out" / "alerts.ndjson").read_bytes().splitlines()
    expected = [without_run(alert_record(one).value) for one in alerts]
    assert [without_run(line) for line in lines] == expected
    assert len(expected) > 5
    assert summary.monitors["card"]["ahead"] >= (at > 0)
    assert summary.dead_letters == 0


@pytest.mark.parametrize("appended", [False, True], ids=["CreateTime", "LogAppendTime"])
def test_over_an_internal_log_scores_are_the_same(appended: bool) -> None:
    """A monitor that reads its events over an internal log gets their append times, too: the same
    alerts, but for the budget's share."""
    given = records(payments(["x"] * 3)[: EVENTS // 4], appended=appended)
    monitor = {**CONFIG["monitors"][0], "partitions": 1}
    made = parse({**CONFIG, "monitors": [monitor]}, {})
    shards = ShardFactory(made, RunInfo("live", "one", lambda: "2026-01-01T00:00:00Z"))
    log = next(log for log in logs(made) if log.internal)
    sent = shards.input_shard("pay").process(given).internal_records
    offset = np.arange(len(sent))
    hopped = Records("t-card", 0, offset, offset, [one.value for one in sent])
    over = shards.make(log)
    alerts = over.process(hopped).alerts
    direct = ShardFactory(config(), RunInfo("live", "one", str)).input_shard("pay")
    expected = direct.process(given).alerts
    assert [(a.evidence, a.p_value) for a in alerts] == [(a.evidence, a.p_value) for a in expected]
    assert over.counts()["card"]["ahead"] == direct.counts()["card"]["ahead"]
