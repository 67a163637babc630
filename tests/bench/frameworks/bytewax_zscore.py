"""Bytewax: a z-score per key, state and offsets in its recovery store, a snapshot every second.

Arguments: bootstrap, topic, output topic, number of events, folder. Prints what it took as JSON.
Its outputs are at least once; there is no exactly-once to turn on.
"""

import sys
import time
from datetime import timedelta
from math import sqrt
from pathlib import Path

import bytewax.operators as op  # type: ignore[import-not-found]  # in .tools/bench-env
import orjson
from bytewax.connectors.kafka import (  # type: ignore[import-not-found]
    KafkaSinkMessage,
    KafkaSourceMessage,
)
from bytewax.connectors.kafka import operators as kop
from bytewax.dataflow import Dataflow  # type: ignore[import-not-found]
from bytewax.recovery import (  # type: ignore[import-not-found]
    RecoveryConfig,
    init_db_dir,
)
from bytewax.run import cli_main  # type: ignore[import-not-found]

SURPRISING = 6.0
Moments = tuple[int, float, float]


class ZScore:
    """The z-score of an amount under its key's history; and when the first and last one was."""

    def __init__(self, events: int) -> None:
        self.left = self.events = events
        self.begun = self.ended = (0.0, 0.0)

    def decode(self, message: KafkaSourceMessage) -> tuple[str, float]:
        """Key and amount."""
        if self.begun == (0.0, 0.0):
            self.begun = time.perf_counter(), time.process_time()
        return message.key.decode(), orjson.loads(message.value)["amount"]

    def score(self, moments: Moments | None, amount: float) -> tuple[Moments, float]:
        """Judge, then learn (Welford)."""
        count, mean, squares = moments or (0, 0.0, 0.0)
        z = (amount - mean) / sqrt(squares / count) if count > 1 and squares else 0.0
        count += 1
        step = amount - mean
        mean += step / count
        self.left -= 1
        if self.left == 0:
            self.ended = time.perf_counter(), time.process_time()
        return (count, mean, squares + step * (amount - mean)), z


def main() -> None:
    """Process the topic to its end."""
    bootstrap, topic, out, events, folder = sys.argv[1:]
    z = ZScore(int(events))
    flow = Dataflow("bench")
    more = {"fetch.queue.backoff.ms": "5"}
    source = kop.input("in", flow, brokers=[bootstrap], topics=[topic], tail=False, add_config=more)
    amounts = op.map("decode", source.oks, z.decode)
    scored = op.stateful_map("score", amounts, z.score)
    rare = op.filter("rare", scored, lambda item: item[1] > SURPRISING)
    written = op.map(
        "encode",
        rare,
        lambda item: KafkaSinkMessage(key=item[0].encode(), value=orjson.dumps(item[1])),
    )
    kop.output("out", written, brokers=[bootstrap], topic=out)
    store = Path(folder) / f"bytewax-{time.time_ns()}"
    store.mkdir()
    init_db_dir(store, 1)
    recovery = RecoveryConfig(str(store), timedelta(0))
    cli_main(flow, epoch_interval=timedelta(seconds=1), recovery_config=recovery)
    wall_s, cpu_s = (b - a for a, b in zip(z.begun, z.ended, strict=True))
    print(orjson.dumps({"events": z.events, "wall_s": wall_s, "cpu_s": cpu_s}).decode())


if __name__ == "__main__":
    main()
