"""Processor time of one tree's engine, decoder and shard; `against` runs it in other trees, too.

Run as text, in the folder of the tree: it may use only names that earlier commits have, and asks
where one is new. Arguments: events before the clock runs, events. Prints JSON.
"""

import gc
import hashlib
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numba.core import event

from detectors.monitor import Monitor
from detectors.numeric.hashing import hash_key
from schemas.records import Records
from stream.config import extracted_fields, parse
from stream.pipeline.alerting import RunInfo
from stream.pipeline.decoding import Decoder
from stream.pipeline.shard import ShardFactory
from tests.bench.events import Payments, document, monitor_document, payments, skewed

BATCH = 10_000
ENTITIES = 20_000


def records_of(events: Payments) -> Any:
    """The events as records of one partition."""
    made = getattr(events, "records", None)
    if made is not None:
        return made()
    n = len(events)
    values: list[bytes | None] = [value for _, value in events.lines()]
    offsets = np.arange(events.first, events.first + n, dtype=np.int64)
    return Records("bench", 0, offsets, np.full(n, -1), values, None)


def cpu_s(process: Callable[[Any], object], whole: Any, warm_up: int) -> float:
    """Processor seconds for the events after the first so many."""
    n = len(whole)
    batches = [whole.slice(start, min(start + BATCH, n)) for start in range(0, n, BATCH)]
    first = warm_up // BATCH
    for batch in batches[:first]:
        process(batch)
    gc.collect()
    began = time.process_time()
    for batch in batches[first:]:
        process(batch)
    return time.process_time() - began


def main() -> None:
    """Measure each step on the same events."""
    warm_up, measured = int(sys.argv[1]), int(sys.argv[2])
    compiled = event.RecordingListener()  # type: ignore[no-untyped-call]  # numba ships no types
    event.register("numba:compile", compiled)  # type: ignore[no-untyped-call]
    detectors: list[dict[str, Any]] = [{"kind": "tail"}, {"kind": "half_space_trees"}]
    config = parse(document([monitor_document(100_000, detectors)]), {})
    events = payments(skewed(ENTITIES, warm_up + measured, 11), 11, 4_000)
    records = records_of(events)
    monitor = Monitor(config.monitors[0], hash_key("bench"))
    decoder = Decoder(config.inputs["bench"], config.limits, extracted_fields(config, "bench"))
    shard = ShardFactory(config, RunInfo("live", "bench", str)).input_shard("bench")
    took = {
        "engine": cpu_s(monitor.process, events.batch(), warm_up),
        "decode": cpu_s(decoder.read, records, warm_up),
        "shard": cpu_s(shard.process, records, warm_up),
    }
    lines = hashlib.sha256(b"".join(value for _, value in events.lines())).hexdigest()
    started = sum(one.is_start for _, one in compiled.buffer)
    print(json.dumps({"cpu_s": took, "events": lines, "compiled": started}))


if __name__ == "__main__":
    main()
