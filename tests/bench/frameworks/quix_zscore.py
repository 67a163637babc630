"""Quix Streams: a z-score per key, exactly once, committed every 100 ms, state with a changelog.

Arguments: bootstrap, topic, output topic, number of events, folder. Prints what it took as JSON.
"""

import json
import sys
import time
from collections.abc import Callable
from math import sqrt

from quixstreams import Application  # type: ignore[import-not-found]  # in .tools/bench-env
from quixstreams.state import State  # type: ignore[import-not-found]  # in .tools/bench-env

SURPRISING = 6.0


class ZScore:
    """The z-score of an amount under its key's history; and when the first and last one was."""

    def __init__(self, events: int, stop: Callable[[], None]) -> None:
        self.left = self.events = events
        self.stop = stop
        self.begun = self.ended = (0.0, 0.0)

    def score(self, value: dict[str, float], state: State) -> dict[str, float]:
        """Judge, then learn (Welford)."""
        if self.left == self.events:
            self.begun = time.perf_counter(), time.process_time()
        count, mean, squares = state.get("amount") or (0, 0.0, 0.0)
        amount = value["amount"]
        value["z"] = (amount - mean) / sqrt(squares / count) if count > 1 and squares else 0.0
        count += 1
        step = amount - mean
        mean += step / count
        state.set("amount", (count, mean, squares + step * (amount - mean)))
        self.left -= 1
        if self.left == 0:
            self.ended = time.perf_counter(), time.process_time()
            self.stop()
        return value


def main() -> None:
    """Process so many events."""
    bootstrap, topic, out, events, folder = sys.argv[1:]
    app = Application(
        broker_address=bootstrap,
        consumer_group=f"quix-{time.time_ns()}",
        auto_offset_reset="earliest",
        processing_guarantee="exactly-once",
        commit_interval=0.1,
        state_dir=f"{folder}/quix-{time.time_ns()}",
        consumer_extra_config={"fetch.queue.backoff.ms": 5},
        loglevel="WARNING",
    )
    z = ZScore(int(events), app.stop)
    scored = app.dataframe(app.topic(topic)).apply(z.score, stateful=True)
    scored[scored["z"] > SURPRISING].to_topic(app.topic(out))
    app.run()
    wall_s, cpu_s = (b - a for a, b in zip(z.begun, z.ended, strict=True))
    print(json.dumps({"events": z.events, "wall_s": wall_s, "cpu_s": cpu_s}))


if __name__ == "__main__":
    main()
