"""One start, timed by itself: the imports of `eddy run`, a shard, a batch. Run by `starting`.

Imports nothing before its clock runs; prints what it found as JSON.
"""

import json
import time
from typing import Any, Final

EVENTS: Final = 10_000


def start() -> dict[str, Any]:
    """Import, build, process a batch; seconds of each, and how many kernels were compiled."""
    import_s = time.perf_counter()
    from numba.core import event

    compiled = event.RecordingListener()  # type: ignore[no-untyped-call]  # numba ships no types
    event.register("numba:compile", compiled)  # type: ignore[no-untyped-call]
    import stream.runtime.start  # noqa: F401  # what `eddy run` imports
    from stream.config import parse
    from stream.pipeline.alerting import RunInfo
    from stream.pipeline.shard import ShardFactory

    build_s = time.perf_counter()
    from tests.bench.events import document, monitor_document, payments, skewed

    detectors = [{"kind": "tail"}, {"kind": "half_space_trees"}]
    config = parse(document([monitor_document(100_000, detectors)]), {})
    shard = ShardFactory(config, RunInfo("live", "bench", str)).input_shard("bench")
    records = payments(skewed(100, EVENTS, 1), 1, 1000.0).records()
    batch_s = time.perf_counter()
    shard.process(records)
    ended_s = time.perf_counter()
    return {
        "import_s": build_s - import_s,
        "build_s": batch_s - build_s,
        "batch_s": ended_s - batch_s,
        "compiled": sum(one.is_start for _, one in compiled.buffer),
    }


if __name__ == "__main__":
    print(json.dumps(start()))
