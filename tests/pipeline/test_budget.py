"""The alert budget across shards: each knows its number, and together they stay within it."""

import tomllib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import orjson
import pyarrow.parquet as pq
import pytest
from obstore.store import MemoryStore

from schemas.alerts import Alert
from schemas.records import Records
from stream.checkpoints.recovered import StartContext
from stream.checkpoints.recovery import recover
from stream.checkpoints.store import Folder
from stream.config import Config, parse
from stream.config.stage_graph import logs
from stream.pipeline.alerting import RunInfo
from stream.pipeline.shard import ShardFactory
from stream.pipeline.stages.assess import Assess
from stream.pipeline.stages.watch import Watch
from stream.replay import replay

DAY_MS: Final = 86_400_000
START_MS: Final = 1_772_409_600_000
DAYS: Final = 4
CONFIG: Final = """
secret = "0123456789abcdef0123456789abcdef"
[inputs.shop]
topic = "shop"
type = "transaction"
[inputs.shop.fields]
event_id = "id"
time = "at"
account = "who"
amount = "amount"

[[monitors]]
name = "spend"
entity = "account"
inputs = ["shop"]
partitions = 4
features = [{ name = "amount", kind = "value", field = "amount", side = "high" }]
rules = [{ name = "large", at_least = { amount = 100 }, p = 1e-4 }]
policy = { p_max = 1e-3, warm_up_events = 0, alerts_per_day = 2 }

[assess]
subject = "account"
partitions = 4
policy = { p_max = 1e-3, warm_up_events = 0, alerts_per_day = 2 }
"""
RUN: Final = RunInfo("live", "one", lambda: "2026-01-01T00:00:00Z")


@pytest.fixture(scope="module")
def config() -> Config:
    """A monitor over four partitions, and assess over four, with two alerts a day."""
    return parse(tomllib.loads(CONFIG), {})


@pytest.fixture(scope="module")
def payments() -> list[bytes]:
    """On each day 100 small payments, then a large one of each of 40 accounts."""
    found = []
    for day in range(DAYS):
        for i in range(140):
            amount = 5.0 if i < 100 else 150.0 + i
            at = START_MS + day * DAY_MS + i * 60_000
            row = {"id": f"e{day}.{i}", "at": at, "who": f"a{i % 40}", "amount": amount}
            found.append(orjson.dumps(row))
    return found


def as_log(topic: str, partition: int, values: Sequence[bytes]) -> Records:
    """Messages as a partition of a log."""
    nowhere = np.full(len(values), -1)
    return Records(topic, partition, np.arange(len(values)), nowhere, list(values))


def live(config: Config, payments: list[bytes]) -> list[Alert]:
    """The monitor's alerts, each partition of its log folded alone."""
    shards = ShardFactory(config, RUN)
    sent = shards.input_shard("shop").process(as_log("shop", 0, payments)).internal_records
    [log] = [one for one in logs(config) if one.name == "spend"]
    alerts = []
    for partition in range(log.partitions):
        mine = [one.value for one in sent if (one.log, one.partition) == ("spend", partition)]
        alerts += shards.make(log, partition).process(as_log(log.topic, partition, mine)).alerts
    return alerts


def test_all_shards_together_publish_the_days_budget(config: Config, payments: list[bytes]) -> None:
    """Four shards with half an alert a day each publish two a day in all. An alert names both
    budgets, and the alerts held back since its shard's last one."""
    alerts = live(config, payments)
    days = Counter((alert.event_time_ms - START_MS) // DAY_MS for alert in alerts)
    assert days == dict.fromkeys(range(DAYS), 2)
    assert {(one.alerts_per_day, one.budget_per_day) for one in alerts} == {(2.0, 0.5)}
    assert all(one.budget_used == 1.0 for one in alerts)
    assert sum(one.held_back > 0 for one in alerts) >= 4


def test_a_replay_publishes_the_same(config: Config, payments: list[bytes], tmp_path: Path) -> None:
    """A replay of the same events has the same alerts, of the monitor
    and of assess within each one's budget, and counts the displaced."""
    (tmp_path / "shop").write_bytes(b"\n".join(payments))
    shop = [("shop", tmp_path / "shop")]
    summary = replay(config, shop, tmp_path / "out", lambda _records, _share: None)
    table = pq.read_table(tmp_path / "out" / "alerts.parquet")
    rows = table.select(["monitor", "event_time", "event_id"]).to_pylist()
    spent = [row["event_id"] for row in rows if row["monitor"] == "spend"]
    assert sorted(spent) == sorted(one.evidence[0].event_id for one in live(config, payments))
    of_assess = Counter(row["event_time"].date() for row in rows if row["monitor"] == "assess")
    assert set(of_assess.values()) == {2}
    counts = summary.monitors["spend"]
    assert counts["alerts_held_back"] == 40 * DAYS - len(spent)
    assert "budget_displaced" in counts


def test_a_recovered_shard_has_the_number_of_its_partition(config: Config) -> None:
    """A worker's shard of a partition has that partition's number, and so its days."""
    for log in logs(config):
        for partition in range(log.partitions):
            folder = Folder(MemoryStore(), "group", log.topic, partition)
            at = StartContext(config, RUN, log, partition, folder, None, 0, 10, lambda: None)
            shard = recover(at).shard
            for stage in shard.stages.values():
                if isinstance(stage, Watch):
                    assert stage.monitor.policy.limits.shard == partition
                elif isinstance(stage, Assess):
                    assert stage.assessment.policy.limits.shard == partition
