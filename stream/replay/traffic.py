"""Counts events and alerts by time bucket for the traffic chart, in bounded memory."""

from collections import Counter
from dataclasses import dataclass
from typing import Final

import numpy as np

from schemas.alerts import Alert, Severity
from schemas.columns import I64, U8
from schemas.events import TYPES
from stream.replay.incidents import SEVERITIES

BUCKETS_MAX: Final = 250
BUCKET_MINUTES: Final = (1, 5, 15, 30, 60, 120, 240, 480, 1_440, 10_080, 40_320, 524_160)
"""Widths of buckets. Each is a multiple of the one before, so that buckets can be merged. The
last is 364 days: enough for every time that an event may have."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """Counts per bucket; bucket i starts at start_ms + i·bucket_ms.

    by_type: type → counts of events; alerts: severity → counts of alerts; types and severities
    without any are left out.
    """

    start_ms: int
    bucket_ms: int
    by_type: dict[str, list[int]]
    alerts: dict[Severity, list[int]]


class TrafficCounter:
    """Counts events and alerts by time in bounded memory, whatever the span."""

    def __init__(self) -> None:
        self._width_index = 0
        self._counts: Counter[tuple[int, str, bool]] = Counter()
        self._first_ms: int | None = None
        self._last_ms = 0

    def add(self, time_ms: I64, type_code: U8) -> None:
        """Count events. time_ms: int64[n]; type_code: uint8[n], indexes into `events.TYPES`."""
        if len(time_ms):
            self._widen(int(time_ms.min()), int(time_ms.max()))
            bucket_and_type = time_ms // self._bucket_ms * len(TYPES) + type_code
            for index, count in zip(*np.unique(bucket_and_type, return_counts=True), strict=True):
                bucket, code = divmod(int(index), len(TYPES))
                self._counts[bucket, TYPES[code], False] += int(count)

    def add_alerts(self, alerts: list[Alert]) -> None:
        """Count alerts; their times may be in any order."""
        for alert in alerts:
            self._widen(alert.event_time_ms, alert.event_time_ms)
            self._counts[alert.event_time_ms // self._bucket_ms, alert.severity, True] += 1

    def traffic(self) -> Traffic:
        """All counts so far."""
        first_ms = self._first_ms or 0
        first = first_ms // self._bucket_ms
        size = self._last_ms // self._bucket_ms - first + 1 if self._first_ms is not None else 0
        counts: dict[tuple[str, bool], list[int]] = {}
        for (bucket, name, alerts), count in self._counts.items():
            counts.setdefault((name, alerts), [0] * size)[bucket - first] = count
        return Traffic(
            start_ms=first * self._bucket_ms,
            bucket_ms=self._bucket_ms,
            by_type={name: counts[name, False] for name in TYPES if (name, False) in counts},
            alerts={name: counts[name, True] for name in SEVERITIES if (name, True) in counts},
        )

    @property
    def _bucket_ms(self) -> int:
        return BUCKET_MINUTES[self._width_index] * 60_000

    def _widen(self, first_ms: int, last_ms: int) -> None:
        """Include these times; widen the buckets until there are at most `BUCKETS_MAX`."""
        self._first_ms = first_ms if self._first_ms is None else min(first_ms, self._first_ms)
        self._last_ms = max(last_ms, self._last_ms)
        before_ms = self._bucket_ms
        while (
            self._last_ms // self._bucket_ms - self._first_ms // self._bucket_ms >= BUCKETS_MAX
            and self._width_index < len(BUCKET_MINUTES) - 1
        ):
            self._width_index += 1
        if self._bucket_ms != before_ms:
            factor = self._bucket_ms // before_ms
            wider: Counter[tuple[int, str, bool]] = Counter()
            for (bucket, name, alerts), count in self._counts.items():
                wider[bucket // factor, name, alerts] += count
            self._counts = wider
