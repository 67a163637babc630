"""The way of recorded events into the runs: which input goes next, and how far all have come."""

import heapq
import math
from collections.abc import Callable, Sequence

from stream.inputs import InputFile
from stream.replay.run import Run

Progress = Callable[[int, float], None]
"""Called with the records read so far and the share of all input read, 0 to 1."""


def drive(files: Sequence[InputFile], runs: Sequence[Run], progress: Progress) -> None:
    """Read every file into the runs that read it; the input that is furthest behind in event time
    goes next."""
    readers = [[run for run in runs if run.reads(file)] for file in files]
    sizes = [max(file.path.stat().st_size, 1) for file in files]
    batches = [iter(file) for file in files]
    waiting = [(-1, i) for i in range(len(files))]
    read = 0
    while waiting:
        reached_ms, i = heapq.heappop(waiting)
        parts = next(batches[i], None)
        for records in parts or ():
            reached_ms = max(reached_ms, *(run.put(files[i].name, records) for run in readers[i]))
            read += len(records)
        if parts is not None:
            heapq.heappush(waiting, (reached_ms, i))
        for run in readers[i]:
            others = (reached for reached, k in waiting if run in readers[k])
            run.advance(min(others, default=math.inf))
        shares = (file.share_read * size for file, size in zip(files, sizes, strict=True))
        progress(read, sum(shares) / sum(sizes) if waiting else 1.0)
