"""Generated event batches for tests: seeded, small, and hostile on demand."""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.columns import EventBatch
from schemas.events import TYPES

START_MS = 1_767_225_600_000


def batch(
    seed: int,
    events: int,
    *,
    entities: int = 20,
    late: float = 0.0,
    absent: float = 0.0,
    hostile: bool = False,
    labels: float = 0.0,
    start_ms: int = START_MS,
) -> EventBatch:
    """Events of some accounts in time order, except for the share `late`; the share `absent` of
    each field is missing, and the share `labels` are labels of one of the twenty events before;
    hostile numbers are at the edges of what a mapping allows."""
    draw = np.random.Generator(np.random.PCG64(seed))
    # A few accounts have most events, as in life.
    who = (entities * draw.random(events) ** 3).astype(np.int64)
    time_ms = start_ms + np.cumsum(draw.integers(0, 60_000, events))
    behind = draw.random(events) < late
    time_ms[behind] -= draw.integers(0, 7_200_000, int(behind.sum()))
    amount = np.exp(draw.normal(3.0 + who % 3, 0.5))
    status = draw.choice([200.0, 200.0, 404.0], events)
    if hostile:
        edges = np.array([0.0, -0.0, 1e12, -1e12, 5e-324, 1e-300])
        chosen = draw.random(events) < 0.3
        amount[chosen] = draw.choice(edges, int(chosen.sum()))
    amount[draw.random(events) < absent] = np.nan

    def texts(prefix: str, numbers: "np.ndarray[tuple[int], np.dtype[np.int64]]") -> pa.StringArray:
        gone = draw.random(events) < absent
        return pa.array(
            [None if g else f"{prefix}{k}" for g, k in zip(gone, numbers, strict=True)], pa.string()
        )

    # Drawn apart, so that the fields above are the same with and without those below.
    more = np.random.Generator(np.random.PCG64([seed, 1]))
    product = more.integers(0, 12, events)
    latitude = np.clip(40.0 + who + more.normal(0.0, 0.2, events), -90.0, 90.0)
    longitude = np.clip(who + more.choice([0.0, 0.0, 90.0], events), -180.0, 180.0)
    if hostile:
        latitude[more.random(events) < 0.1] = -90.0
        longitude[more.random(events) < 0.1] = 180.0
    latitude[more.random(events) < absent] = np.nan

    type_code = draw.integers(0, 3, events).astype(np.uint8)
    is_label = more.random(events) < labels
    type_code[is_label] = TYPES.index("label")
    labelled = np.arange(events) - more.integers(1, 20, events)
    verdict = more.choice(["fraud", "honest", "perhaps"], events).tolist()

    strange = ["", "\0", "é" * 50, "a" * 256, "😀"] if hostile else ["login", "login", "payment"]
    return EventBatch(
        sources=(("shop", 0),),
        source=np.zeros(events, np.int32),
        offset=np.arange(events, dtype=np.int64),
        time_ms=time_ms.astype(np.int64),
        type_code=type_code,
        event_id=pa.array([f"e{i}" for i in range(events)], pa.string()),
        text={
            "account": texts("a", who),
            "device": texts("d", who * 2 + draw.integers(0, 2, events)),
            "ip": texts("ip", draw.integers(0, 40, events)),
            "currency": texts("C", who % 2),
            "product": pa.array([f"p{k}" for k in product], pa.string()),
            "verdict": pa.array(verdict, pa.string(), mask=~is_label),
            "labelled_event_id": pa.array([f"e{k}" for k in labelled], pa.string(), mask=~is_label),
            "kind": pa.array(draw.choice(np.array(strange, object), events), pa.string()),
        },
        number={
            "amount": amount,
            "status": status,
            "item": more.integers(0, 4, events).astype(np.float64),
            "utc_offset_min": np.full(events, np.nan),
            "latitude": latitude,
            "longitude": longitude,
        },
    )


def same(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Equal bit for bit, NaN included."""
    return (
        one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    )
