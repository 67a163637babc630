"""Numbers of the event itself, without state: a field's value, and the local time of day."""

from math import isnan
from typing import Final

import numpy as np

from detectors.entities import AdmittedEvents
from detectors.features.kind import Durations, FeatureInput, FeatureKind, FeatureMemory
from detectors.numeric.decay import DAY_MS
from detectors.numeric.kernels import kernel
from schemas.columns import F64


@kernel
def value(
    memory: FeatureMemory,
    admitted: AdmittedEvents,
    field: FeatureInput,
    durations: Durations,
    out: F64,
) -> None:
    """The magnitude of the field: a refund of 50 is as large as a payment of 50."""
    for i in range(len(admitted.row)):
        out[i] = abs(field.number[i]) if field.active[i] else np.nan


@kernel
def time_of_day(
    memory: FeatureMemory,
    admitted: AdmittedEvents,
    field: FeatureInput,
    durations: Durations,
    out: F64,
) -> None:
    """Hours since local midnight, in [0, 24); extra field: minutes of offset to UTC (NaN: none)."""
    for i in range(len(admitted.row)):
        if not field.active[i]:
            out[i] = np.nan
            continue
        offset_ms = 0.0 if isnan(field.extra_fields[0, i]) else field.extra_fields[0, i] * 60_000.0
        out[i] = ((admitted.time_ms[i] + offset_ms) % DAY_MS) / 3_600_000.0


KINDS: Final = (
    FeatureKind(
        name="value",
        meaning="magnitude of a number of the event itself",
        update=value,
        words=0,
        reads="number",
        decays=False,
        family="normal",
        side="both",
        shift=0.01,
    ),
    FeatureKind(
        name="time_of_day",
        meaning="local hour of the event, for the trees (UTC unless utc_offset_min is mapped)",
        update=time_of_day,
        words=0,
        reads=None,
        decays=False,
        family="range",
        side="both",
        high=24.0,
        extra_fields=("utc_offset_min",),
    ),
)
