"""What a worker process has in memory before it is forked: its modules, and the compiled kernels.

Importing this loads them; it starts no thread that a fork would lose, and connects to nothing.
"""

import tomllib
from pathlib import Path

import numpy as np

import stream.cli  # noqa: F401 - and what it loads
import tests.broker.crash_points  # noqa: F401 - the worker's modules
from schemas.records import Records
from stream.config import parse
from stream.config.stage_graph import logs
from stream.pipeline.alerting import RunInfo
from stream.pipeline.shard import ShardFactory
from stream.simulator import Shop as Simulated
from stream.simulator import lines
from tests.broker.shop import Shop, configuration


def _records(topic: str, values: list[bytes]) -> Records:
    times = np.full(len(values), 1_900_000_000_000, np.int64)
    return Records(topic, 0, np.arange(len(values), dtype=np.int64), times, [*values])


def warm_up(*, internal_topics: bool) -> None:
    """Fold a few events through every stage of a shop."""
    shop = Shop(
        "nowhere:1", "warm", 2 if internal_topics else 1, Path("warm.toml"), internal_topics
    )
    config = parse(tomllib.loads(configuration(shop, {}, {}, {})), {})
    shards = ShardFactory(config, RunInfo("live", "warm", str))
    values = [line.value for line in lines(Simulated(400, 1), 0.05)]
    sent = shards.input_shard("shop").process(_records(shop.topic, values)).internal_records
    for log in logs(config):
        mine = [one.value for one in sent if one.log == log.name]
        if log.internal and mine:
            sent += shards.make(log).process(_records(log.topic, mine)).internal_records


warm_up(internal_topics=False)
warm_up(internal_topics=True)
