"""What every monitor of the laws finds in fixed streams, as numbers: `python -m tests.laws.golden_scores`
writes them to golden_scores.json, which is done only when scores are meant to change.

A number stands for a row of an array: the sum of its values, each scaled to its order of magnitude
and weighted by its place, so that any other value, or the same values in another order, make another
sum.
"""

from pathlib import Path
from typing import Final

import numpy as np
import orjson

from detectors.monitor import Monitor
from detectors.state import Arrays
from schemas.columns import EventBatch
from tests.laws.registry import MONITORS
from tests.laws.test_laws import KEY, hostile_stream, run
from tests.streams import batch

FILE: Final = Path(__file__).with_name("golden_scores.json")
LONG: Final = 2_500
STREAMS: Final = ("long", "hostile 0", "hostile 1", "hostile 5")

Sums = dict[str, list[float]]


def stream(name: str) -> EventBatch:
    """Weeks of a few accounts' events and labels; or one of the streams of the laws."""
    if name.startswith("hostile"):
        return hostile_stream(int(name.split()[1]))
    events = batch(11, LONG, entities=14, late=0.03, absent=0.05, labels=0.05)
    events.time_ms[:] = events.time_ms[0] + 20 * (events.time_ms - events.time_ms[0])
    return events


def sums(arrays: Arrays) -> Sums:
    """A number for each row of each array; of an array of one dimension, one."""
    found: Sums = {}
    for name, array in arrays.items():
        if not array.size:
            continue
        rows = np.atleast_2d(array.astype(np.float64))
        rows = rows.reshape(-1, rows.shape[-1])
        scaled = np.sign(rows) * np.log1p(np.abs(rows))
        scaled[np.isnan(scaled)] = -0.7  # so that an absent value counts, too
        weights = np.random.Generator(np.random.PCG64(3)).uniform(0.5, 1.5, rows.shape[-1])
        found[name] = [
            float(f"{x:.12g}") for x in np.sum(np.clip(scaled, -1e3, 1e3) * weights, axis=-1)
        ]
    return found


def found(name: str) -> dict[str, Sums]:
    """By stream, what a monitor finds."""
    return {one: sums(run(Monitor(MONITORS[name], KEY), stream(one), [])) for one in STREAMS}


if __name__ == "__main__":
    every = {name: found(name) for name in MONITORS}
    FILE.write_bytes(orjson.dumps(every, option=orjson.OPT_SORT_KEYS) + b"\n")
