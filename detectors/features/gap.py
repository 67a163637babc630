"""Gap: seconds since the entity's last event that matched. One word an entity: that time + 1.

The first event has no gap (NaN). A late event has gap 0: its age was clamped before it got here.
"""

from typing import Final

import numpy as np

from detectors.entities import Admitted
from detectors.features.kind import Field, Kind, Memory, Spans
from detectors.kernels import kernel
from schemas.columns import F64


@kernel
def gap(memory: Memory, events: Admitted, field: Field, spans: Spans, out: F64) -> None:
    """Seconds since the last matching event; the word holds its time + 1, so that 0 is "none"."""
    words = memory.words
    at = memory.at
    for i in range(len(events.row)):
        r = events.row[i]
        if events.fresh[i]:
            words[r, at] = 0.0
        out[i] = np.nan
        if not field.active[i]:
            continue
        if words[r, at] > 0.0:
            out[i] = (events.time_ms[i] + 1.0 - words[r, at]) / 1000.0
        if events.learn[i]:
            words[r, at] = events.time_ms[i] + 1.0


KINDS: Final = (
    Kind(
        name="gap",
        meaning="seconds since the entity's last event that matched",
        update=gap,
        words=1,
        reads=None,
        decays=False,
        family="normal",
        side="low",
        shift=0.1,
    ),
)
