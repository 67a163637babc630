"""Loads the modules and compiled kernels of a worker, before worker processes are forked.

Importing this module processes a few simulated events through every stage of the demo's shop: that
takes a few seconds, or half a minute if kernels must be compiled, but only once for all workers of a
machine and their restarts. It starts no thread and connects to nothing.
"""

from pathlib import Path

import numpy as np

import stream.runtime.start  # noqa: F401 - what a worker loads
from schemas.records import Records
from stream.config import load
from stream.pipeline.alerting import RunInfo
from stream.pipeline.shard import ShardFactory
from stream.simulator import Shop, lines, shop_config

EVENTS = 400


def _warm_up(config: Path) -> None:
    values: list[bytes | None] = [line.value for line in lines(Shop(EVENTS, seed=1), 0.0)]
    no_times = np.full(len(values), -1, np.int64)
    records = Records("shop", 0, np.arange(len(values), dtype=np.int64), no_times, values)
    ShardFactory(load(config), RunInfo("replay", "preloaded", str)).input_shard("shop").process(
        records
    )


_warm_up(shop_config())
