"""Travel: how fast would the entity have moved since its last event with coordinates?

Kilometres per hour along the great circle (haversine formula; R. Sinnott, Sky and Telescope 1984;
earth's mean radius 6371 km). Geolocation is coarse: less than `NEAR_KM` counts as no movement, and
the time is at least `TIME_MIN_H`. NaN at the first event, without coordinates, and at a late
event, whose predecessor is unknown; a late event is not remembered.

Three words an entity: latitude, longitude, time + 1 (0: none).
"""

from math import asin, cos, isnan, pi, sin, sqrt
from typing import Final

import numpy as np

from detectors.entities import AdmittedEvents
from detectors.features.kind import (
    Durations,
    FeatureInput,
    FeatureKind,
    FeatureMemory,
    begin_event,
    prefetch_ahead,
    undo_unless_learned,
)
from detectors.numeric.kernels import kernel
from schemas.columns import F64

LATITUDE, LONGITUDE, LAST_MS = range(3)
WORDS: Final = 3
NEAR_KM: Final = 50.0
TIME_MIN_H: Final = 1.0 / 60.0
DIAMETER_KM: Final = 2.0 * 6371.0
RADIANS: Final = pi / 180.0


@kernel
def distance_km(
    latitude: float, longitude: float, other_latitude: float, other_longitude: float
) -> float:
    """Great-circle distance of two points in degrees."""
    up = sin(0.5 * RADIANS * (latitude - other_latitude))
    along = sin(0.5 * RADIANS * (longitude - other_longitude))
    a = up * up + cos(RADIANS * latitude) * cos(RADIANS * other_latitude) * along * along
    return DIAMETER_KM * asin(sqrt(min(max(a, 0.0), 1.0)))


@kernel
def impossible_travel(
    memory: FeatureMemory,
    admitted: AdmittedEvents,
    field: FeatureInput,
    durations: Durations,
    out: F64,
) -> None:
    """km/h since the last event with coordinates; extra fields: latitude, longitude."""
    first_word = memory.first_word
    for i in range(len(admitted.row)):
        prefetch_ahead(memory, admitted, i)
        state = memory.words[admitted.row[i], first_word : first_word + WORDS]
        begin_event(state, admitted, i, memory.backup)
        out[i] = np.nan
        latitude = field.extra_fields[0, i]
        longitude = field.extra_fields[1, i]
        if not field.active[i] or isnan(latitude) or isnan(longitude) or admitted.late[i]:
            continue
        if state[LAST_MS] > 0.0:
            hours = (admitted.time_ms[i] + 1.0 - state[LAST_MS]) / 3_600_000.0
            km = distance_km(latitude, longitude, state[LATITUDE], state[LONGITUDE])
            out[i] = km / max(hours, TIME_MIN_H) if km >= NEAR_KM else 0.0
        state[LATITUDE] = latitude
        state[LONGITUDE] = longitude
        state[LAST_MS] = admitted.time_ms[i] + 1.0
        undo_unless_learned(state, admitted, i, memory.backup)


KINDS: Final = (
    FeatureKind(
        name="impossible_travel",
        meaning="km/h from the coordinates of the entity's last event to this one's; 0 within"
        " 50 km",
        update=impossible_travel,
        words=WORDS,
        reads=None,
        decays=False,
        family="normal",
        side="high",
        shift=10.0,
        extra_fields=("latitude", "longitude"),
    ),
)
