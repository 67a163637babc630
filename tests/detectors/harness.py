"""The input of a standalone detector, made from rows that a test writes, without a monitor."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from detectors.clock import unbounded_times
from detectors.entities import EntityTable
from detectors.models.interface import (
    DetectorInput,
    LabelEvents,
    StandaloneDetector,
    StandaloneSpec,
)
from detectors.numeric.hashing import hash_text
from schemas.columns import F64, U64, EventBatch
from schemas.events import TYPES

KEY = (1, 2)
LABEL_TYPE = TYPES.index("label")
LATENESS_MAX_MS = 3_600_000.0


class Row(NamedTuple):
    """An event: its time in seconds, its text fields and its type."""

    time_s: float
    text: dict[str, str]
    type: str = "transaction"


def events_of(rows: list[Row]) -> EventBatch:
    """The rows as columns."""
    n = len(rows)
    fields = {field for row in rows for field in row.text}
    return EventBatch(
        sources=(("shop", 0),),
        source=np.zeros(n, np.int32),
        offset=np.arange(n, dtype=np.int64),
        time_ms=np.array([int(1000 * row.time_s) for row in rows], np.int64),
        type_code=np.array([TYPES.index(row.type) for row in rows], np.uint8),
        event_id=pa.array([f"e{i}" for i in range(n)], pa.string()),
        text={f: pa.array([row.text.get(f) for row in rows], pa.string()) for f in fields},
        number={},
    )


class DetectorHarness:
    """A detector and the entity table of the monitor around it; the entity is the account."""

    def __init__(self, spec: StandaloneSpec, features: int = 1, capacity: int = 1000) -> None:
        self.detector: StandaloneDetector = spec.build(features, capacity)
        self.entities = EntityTable(capacity)

    def process(self, rows: list[Row], values: F64 | None = None) -> dict[str, F64]:
        """value, surprise and expected at each row that is no label."""
        batch = events_of(rows)
        index = np.flatnonzero(batch.type_code != LABEL_TYPE)
        labelled = np.flatnonzero(batch.type_code == LABEL_TYPE)
        events, labels = batch.take(index), batch.take(labelled)
        keys = hash_text(events.text["account"], KEY)
        if values is None:
            values = np.full((1, len(index)), np.nan)
        seen = DetectorInput(
            events,
            self.entities.admit(keys, unbounded_times(events.time_ms), LATENESS_MAX_MS),
            LabelEvents(labels, np.searchsorted(index, labelled), hashed(labels)),
            "account",
            [f"f{j}" for j in range(len(values))],
            values,
            values,
            hashed(events),
        )
        verdict: dict[str, Any] = self.detector.process(seen)._asdict()
        return verdict


def hashed(events: EventBatch) -> Callable[[str], U64]:
    """The keyed hash of a text field as in a monitor: uint64[n], 0 where absent."""

    def of(field: str) -> U64:
        if field not in events.text:
            return np.zeros(len(events), np.uint64)
        return np.ascontiguousarray(hash_text(events.text[field], KEY)[:, 0])

    return of
