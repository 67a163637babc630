"""Made-up reports and labels of one log, as assess reads them."""

from functools import cache
from math import inf
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from detectors.fusion.arrays import AssessmentOutput
from detectors.fusion.assessment import Assessment
from detectors.fusion.model_state import SAMPLE
from detectors.numeric.hashing import hash_text
from detectors.spec import PolicySpec
from schemas.columns import F64, I64, Bools, EventBatch
from schemas.events import LABEL_TYPE
from schemas.reports import ReportBatch

DAY_MS = 86_400_000
START_MS = 1_772_409_600_000 // DAY_MS * DAY_MS
LATE_MS = 2 * DAY_MS
KEY = (1, 2)
LIMIT = 0.01
SURPRISED = 0.02
"""Of honest events, in the streams below."""
MONITORS = ("a", "b")
FEATURE = "a.x"
FREQUENT_ALERTS = PolicySpec(
    p_max=LIMIT, alerts_per_day=1000, incident_gap="1min", warm_up_events=0
)


class Report(NamedTuple):
    """What a monitor says of an event, or (monitor -1) a label."""

    at_ms: int
    event: str
    monitor: int = 0
    p: float = 1e-3
    x: float = np.nan
    verdict: str | None = None


def label(at_ms: int, event: str, verdict: str) -> Report:
    """A label of an event."""
    return Report(at_ms, event, -1, np.nan, np.nan, verdict)


class ReportStream(NamedTuple):
    """Rows as one batch, with what `Assessment.process` takes beside it."""

    rows: list[Report]
    reports: ReportBatch
    monitor: I64
    p: F64
    x: F64

    def event(self, ids: set[str]) -> Bools:
        """bool[rows]: the rows that speak of one of these events, labels left out."""
        return np.array([row.monitor >= 0 and row.event in ids for row in self.rows])

    def day(self) -> F64:
        """float64[rows]: days since the start."""
        return np.asarray((self.reports.time_ms - START_MS) / DAY_MS)


def report_stream(rows: list[Report]) -> ReportStream:
    """In the order of their times; what is said of one event at one time stands together."""
    rows = sorted(rows, key=lambda row: row.at_ms)
    places: dict[str, int] = {}
    offset = [
        len(rows) + i if row.monitor < 0 else places.setdefault(row.event, len(places))
        for i, row in enumerate(rows)
    ]
    who = np.array([row.monitor for row in rows])
    event = [row.event for row in rows]
    p, x = np.array([row.p for row in rows]), np.array([row.x for row in rows])
    names = [MONITORS[k] if k >= 0 else None for k in who.tolist()]
    text: dict[str, list[Any]] = {
        "account": [f"a{sum(map(ord, one)) % 50}" for one in event],
        "verdict": [row.verdict for row in rows],
        "labelled_event_id": [e if k < 0 else None for e, k in zip(event, who, strict=True)],
    }
    batch = EventBatch(
        sources=(("shop", 0),),
        source=np.zeros(len(rows), np.int32),
        offset=np.array(offset, np.int64),
        time_ms=np.array([row.at_ms for row in rows], np.int64),
        type_code=np.where(who < 0, LABEL_TYPE, 0).astype(np.uint8),
        event_id=pa.array([f"l{i}" if who[i] < 0 else e for i, e in enumerate(event)]),
        text={name: pa.array(values, pa.string()) for name, values in text.items()},
        number={},
    )
    monitor = pa.array(names, pa.string())
    return ReportStream(rows, ReportBatch(batch, monitor, p, {FEATURE: x}), who, p, x)


@cache
def sampled_ids(count: int) -> list[str]:
    """So many ids of events that are always reported."""
    found: list[str] = []
    start = 0
    while len(found) < count:
        ids = [f"s{k}" for k in range(start, start + 100_000)]
        chosen = hash_text(pa.array(ids), KEY)[:, 1] % np.uint64(SAMPLE) == 0
        found += [ids[k] for k in np.flatnonzero(chosen)]
        start += 100_000
    return found[:count]


def unreported_sample(days: int, a_day: int, labelled: float, seed: int) -> list[Report]:
    """The sample of the events that nobody reported, where so many a day were reported, and the
    labels of a share of them."""
    draw = np.random.default_rng(seed)
    rows = []
    for event in sampled_ids(round(days * a_day / SURPRISED / SAMPLE)):
        at_ms = START_MS + int(draw.integers(0, days * DAY_MS))
        rows.append(Report(at_ms, event, 0, draw.uniform(LIMIT, 1.0), 0.0))
        if draw.uniform() < labelled:
            rows.append(label(at_ms + LATE_MS, event, "honest"))
    return rows


def assessment(
    events_max: int = 60_000, *, monitors: int = 1, reports_grouped: bool = False
) -> Assessment:
    """One that learns from a feature of the first monitor."""
    return Assessment(
        FREQUENT_ALERTS,
        KEY,
        monitors,
        100,
        events_max,
        1,
        LIMIT,
        [0],
        reports_grouped=reports_grouped,
        ahead_max_ms=inf,
    )


def take(
    of: Assessment, stream: ReportStream, start: int = 0, stop: int | None = None
) -> AssessmentOutput:
    """Let it take some of the rows."""
    some = slice(start, len(stream.rows) if stop is None else stop)
    batch = stream.reports.events.slice(some.start, some.stop)
    return of.process(batch, "account", stream.monitor[some], stream.p[some], stream.x[some, None])
