"""What a worker process has in memory before it is forked: its modules, and the compiled kernels.

Importing this loads them; it starts no thread that a fork would lose, and connects to nothing.
"""

import numpy as np

import tests.broker.dying  # noqa: F401 - the worker's modules
from schemas.records import Records
from stream.alerting import RunInfo
from stream.config import load
from stream.shard import build_shard
from stream.simulator import Shop, lines
from tests.broker.shop import ROOT

_LINES = list(lines(Shop(300, 1), 0.05))
build_shard(
    load(ROOT / "deploy" / "configs" / "shop.toml"), "shop", RunInfo("live", "warm", str)
).process(
    Records(
        "warm",
        0,
        np.arange(len(_LINES), dtype=np.int64),
        np.full(len(_LINES), 1_900_000_000_000, np.int64),
        [line.value for line in _LINES],
        [()] * len(_LINES),
    )
)
