"""Timestamp types of records, and a replay of a topic with a time in the future."""

from pathlib import Path

import msgspec
import orjson
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from stream.replay import replay
from tests.pipeline.test_future_times import AT, FUTURE_MS, config, payments


@pytest.mark.parametrize("kind", ["CreateTime", "LogAppendTime"])
def test_a_topic_continues_after_a_time_from_the_future(
    broker: str, tmp_path: Path, kind: str
) -> None:
    """With both timestamp types an event of 2099 is scored and counted, and alerts continue; with
    CreateTime the record's time is 2099, too."""
    topic = f"times-{kind.lower()}"
    settings = {"message.timestamp.type": kind, "message.timestamp.after.max.ms": str(2**62)}
    admin = AdminClient({"bootstrap.servers": broker})
    admin.create_topics([NewTopic(topic, 1, config=settings)])[topic].result()
    producer = Producer({"bootstrap.servers": broker})
    rows = payments(["x"])[AT - 3_000 : AT + 7_000]
    for row in rows:
        producer.produce(topic, orjson.dumps(row), timestamp=int(str(row["t"])))
    assert producer.flush(30) == 0
    made = msgspec.structs.replace(config(), kafka={"bootstrap.servers": broker})
    [at] = [i for i, row in enumerate(rows) if row["t"] == FUTURE_MS]
    summary = replay(made, [("pay", f"kafka://{topic}")], tmp_path / "out", lambda *_: None)
    assert summary.monitors["card"]["ahead"] == 1
    alerts = map(orjson.loads, (tmp_path / "out" / "alerts.ndjson").read_bytes().splitlines())
    late = [one for one in alerts if one["evidence"][0]["offset"] > at]
    assert len(late) > 10
    assert summary.dead_letters == 0
