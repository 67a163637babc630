"""Popularity: how many of the shard's events had this value of a field recently?

Independent of the entity: a page that nobody visits, an address that nobody else came from, a user
agent never seen before. The value is the decayed number of events with it, this one included, of all
entities of the shard: 1 for a value never seen. Counted in a count-min sketch (G. Cormode, S.
Muthukrishnan, J. Algorithms 2005) of `ROWS` rows by the value's keyed hash, with conservative update
(C. Estan, G. Varghese, SIGCOMM 2002). Its error is one-sided: among many values a rare one can look
more common than it is, and nobody outside can choose values that share cells.

No words an entity; shared: 2 · 4 · 4,096 words (count and its time), 256 KiB a shard. The time of a
cell never decreases: an event of an entity that lags is counted at the cell's time.
"""

from typing import Final

import numpy as np

from detectors.entities import AdmittedEvents
from detectors.features.kind import Durations, FeatureInput, FeatureKind, FeatureMemory
from detectors.numeric.decay import decayed
from detectors.numeric.kernels import kernel
from schemas.columns import F64

ROWS: Final = 4
CELLS: Final = 4_096
WORDS: Final = 2 * ROWS * CELLS
BITS: Final = np.uint64(16)
"""Bits of the hash for each row."""


@kernel
def _cell(hashed: np.uint64, k: int) -> int:
    """The index of the value's cell in row k: its count, then its time."""
    part = np.int64((hashed >> (BITS * np.uint64(k))) & np.uint64(CELLS - 1))
    return int(2 * (CELLS * k + part))


@kernel
def _count_at(shared: F64, cell: int, time_ms: float, half_life_ms: float) -> float:
    """The cell's count at a time, or at its own time where that is later."""
    return decayed(shared[cell], max(time_ms - shared[cell + 1], 0.0), half_life_ms)


@kernel
def popularity(
    memory: FeatureMemory,
    admitted: AdmittedEvents,
    field: FeatureInput,
    durations: Durations,
    out: F64,
) -> None:
    """Decayed number of the shard's events with this value, this one included."""
    shared = memory.shared
    for i in range(len(admitted.row)):
        if admitted.set_back[i]:
            for cell in range(0, WORDS, 2):
                shared[cell + 1] = min(shared[cell + 1], admitted.stream_ms[i])
        out[i] = np.nan
        if not field.active[i]:
            continue
        time_ms = admitted.time_ms[i]
        least = np.inf
        for k in range(ROWS):
            cell = _cell(field.hashed[i], k)
            least = min(least, _count_at(shared, cell, time_ms, durations.half_life_ms))
        out[i] = least + 1.0
        if not admitted.learn[i]:
            continue
        for k in range(ROWS):
            cell = _cell(field.hashed[i], k)
            shared[cell] = max(
                _count_at(shared, cell, time_ms, durations.half_life_ms), least + 1.0
            )
            shared[cell + 1] = max(shared[cell + 1], time_ms)


KINDS: Final = (
    FeatureKind(
        name="popularity",
        meaning="decayed number of the whole shard's events with this value of a field, this one"
        " included",
        update=popularity,
        words=0,
        shared=WORDS,
        reads="text",
        decays=True,
        family="normal",
        side="low",
        shift=1.0,
        has_ties=True,
    ),
)
