"""A live group starts from a replay's saved state: its alerts equal those of a group that has read
the history live."""

from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from confluent_kafka import Producer

from schemas.records import Records
from stream.config import load
from stream.pipeline.alerting import RunInfo
from stream.pipeline.shard import ShardFactory
from stream.replay import replay
from stream.simulator import Shop as Simulated
from stream.simulator import lines
from tests.broker.shop import (
    Shop,
    WorkerProcess,
    as_records,
    make_shop,
    published_alert,
    wait_for,
    worker,
)

EVENTS, HISTORY, AGAIN = 6_000, 1_000, 500
"""Of the events the first are replayed; the topic holds the last of these again, and all others."""


def values() -> list[bytes]:
    """The simulator's events in the order of their times."""
    made = [line.value for line in lines(Simulated(EVENTS, 7), 0.0)]
    return sorted(made, key=time_of)


def time_of(value: bytes) -> int:
    """An event's time in milliseconds."""
    return int(orjson.loads(value)["time"])


def put(shop: Shop, some: list[bytes]) -> None:
    """Write events with the times at which they happened."""
    producer = Producer({"bootstrap.servers": shop.bootstrap})
    for value in some:
        producer.produce(shop.topic, value, b"key", timestamp=time_of(value))
        producer.poll(0)
    assert producer.flush(30) == 0


def replayed(
    shop: Shop, folder: Path, some: list[bytes], place: str | None
) -> list[dict[str, Any]]:
    """The alerts of a replay of these events; its state is saved."""
    folder.mkdir()
    path = folder / "events"
    path.write_bytes(b"\n".join(some))
    inputs = [("shop", path)]
    replay(load(shop.config), inputs, folder / "out", lambda *_: None, save_state=place)
    written = (folder / "out" / "alerts.ndjson").read_bytes()
    return [orjson.loads(line) for line in written.splitlines()]


def without_positions(alert: dict[str, Any]) -> dict[str, Any]:
    """An alert without its run, positions, and the ids derived from them."""
    [evidence] = alert["evidence"]
    left = {"run", "alert_id", "incident_id", "evidence"}
    rest = {name: value for name, value in alert.items() if name not in left}
    return rest | {"event": evidence["event_id"]}


def begun_at(process: WorkerProcess, topic: str) -> list[int]:
    """The offsets at which partitions of a topic started from a saved state."""
    return [
        line["next_offset"]
        for line in process.log()
        if line["event"] == "starting from a saved state" and line["topic"] == topic
    ]


@pytest.mark.parametrize("internal_topics", [False, True], ids=["direct", "internal"])
def test_a_group_continues_where_a_replay_ended(
    broker: str, tmp_path: Path, internal_topics: bool
) -> None:
    """The topic reaches back into the history, which is neither learned nor alerted on again;
    alerts on further events equal those of a replay over everything, except for positions."""
    place = str(tmp_path / "saved")
    start_from: dict[str, object] = {"start_from": place}
    shop = make_shop(broker, tmp_path, "saved", 1, start_from, internal_topics=internal_topics)
    made = values()
    replayed(shop, tmp_path / "history", made[:HISTORY], place)
    put(shop, made[HISTORY - AGAIN :])
    with worker(shop) as process:
        shop.wait_until_caught_up()
        wait_for(lambda: process.get("/readyz")[0] == 200, "readiness")
        assert process.stop() == 0
    until_ms = max(map(time_of, made[:HISTORY]))
    [start] = begun_at(process, shop.topic)
    again = made[HISTORY - AGAIN :][:start]
    assert AGAIN - 20 < start <= AGAIN
    assert max(map(time_of, again)) < until_ms <= time_of(made[HISTORY - AGAIN + start])
    live = [
        orjson.loads(one.value) | {"run": None} for some in shop.alerts({}).values() for one in some
    ]
    whole = replayed(shop, tmp_path / "whole", made, None)
    new = {orjson.loads(value)["event_id"] for value in made[HISTORY:]}

    def of_monitors(alerts: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The alerts of monitors on new events. The order in which reports of several partitions
        reach assess is known only from its log."""
        found = [without_positions(one) for one in alerts if one["monitor"] != "assess"]
        return sorted(
            (one for one in found if one["event"] in new), key=lambda a: (a["event"], a["monitor"])
        )

    assert of_monitors(live) == of_monitors(whole)
    assert len(of_monitors(live)) > 20
    assert {without_positions(one)["event"] for one in live} <= new
    if internal_topics:
        assert any(one["monitor"] == "assess" for one in live)
        return
    # Byte for byte, with positions: one fold over the history, then over what the worker has read.
    shard = ShardFactory(load(shop.config), RunInfo("live", "reference", str)).input_shard("shop")
    nowhere = np.full(HISTORY, -1, np.int64)
    history: list[bytes | None] = [*made[:HISTORY]]
    shard.process(Records(shop.topic, 0, np.arange(HISTORY), nowhere, history))
    output = shard.process(as_records(shop.topic, shop.log(shop.topic)[0][start:]))
    [published] = shop.alerts({}).values()
    assert published == [published_alert(one) for one in output.alerts]
