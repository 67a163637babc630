"""Edges: a sudden burst between the entity and another field's value, in constant memory.

MIDAS-F (S. Bhatia, R. Liu, B. Hooi, M. Yoon, K. Shin, C. Faloutsos, "Real-time anomaly detection in
edge streams", TKDD 2022). Stream time is divided into ticks. Count–min sketches hold, for every edge
(entity, value), every source (the entity) and every destination (the value), a count `a` of the
current tick, which includes half of the last tick's, and a total `s` of the ticks before. After t
ticks the mean level is s/(t - 1), and the paper's score, equation 1,

    χ² = (a + s - a t)² / (s (t - 1)) = (a - e)²/e,   e = s/(t - 1)

is a chi-squared statistic of one degree of freedom, of the edge, the source or the destination,
whichever is largest. At the end of a tick `a` is merged into `s` only where χ² < `threshold`.

Departures from the paper. Only a > e surprises: z = (a - e)/√e, surprise = -ln(½ erfc(z/√2)), one
side of the chi-squared tail. Calibration corrects for taking the largest of three. e is at least
`LEVEL_MIN`: the paper scores a new edge as 0, and so merges its burst. Where χ² ≥
threshold the paper merges e; here the largest count below the threshold is merged, e + √(threshold
e), so that a lasting change is learned within some ticks and a burst is not. s and t - 1 are decayed
with `half_life`, since a total without decay cannot follow drift. A cell is merged when it is next
read, with all ticks since in one formula, not by a walk over the sketch at every tick; it is
filtered by its own count, not by the smallest of its event's cells. Late events count in the
current tick.

value: a of the edge; expected: e of the edge. NaN where the field is absent, and for all events in
the first `TICKS_MIN` ticks. An event that may not be learned is scored and not counted.

Shapes: float64[3, rows, buckets] twice, int64 once: 72 bytes · rows · buckets (2.4 MB by default),
none for each entity. A count is too large by more than e · total/buckets with probability e^-rows.
Cost: about 0.7 µs an event.
"""

from math import exp, sqrt
from typing import Annotated, Final, NamedTuple

import numpy as np
from msgspec import Meta

from detectors.entities import AdmittedEvents
from detectors.features.pairings import pair
from detectors.models.gaussian import surprise_of_normal
from detectors.models.interface import DetectorInput, DetectorOutput, StandaloneSpec
from detectors.numeric.decay import LN2
from detectors.numeric.kernels import kernel
from detectors.spec import Duration, seconds
from detectors.state import Arrays, load, state_arrays
from schemas.columns import F64, I64, U64
from schemas.events import FIELDS

EDGE, SOURCE, DESTINATION = range(3)
FADE: Final = 0.5
LEVEL_MIN: Final = 1.0
TICKS_MIN: Final = 10.0
HALF_LIFE_TICKS_MIN: Final = 10.0

FIRST, NOW = range(2)
STARTED: Final = 2


class EdgesSpec(StandaloneSpec, frozen=True, kw_only=True, tag="edges"):
    """Bursts of co-occurrence of the entity with a value of a text field (MIDAS-F)."""

    field: str
    """Text field at the other end of the edge."""
    tick: Duration = "1min"
    """Length of the current time slice, which is compared with the past."""
    half_life: Duration = "7d"
    """Half-life of the past totals."""
    threshold: Annotated[float, Meta(gt=0)] = 100.0
    """χ² statistic above which the current slice is not added to the totals as it is."""
    rows: Annotated[int, Meta(ge=1, le=16)] = 2
    """Rows of the count-min sketches."""
    buckets: Annotated[int, Meta(ge=16, le=16_777_216)] = 16_384
    """Buckets per row of the count-min sketches."""

    def build(self, features: int, capacity: int) -> "Edges":
        """Empty sketches, whose size does not depend on the number of entities."""
        del features, capacity
        return Edges(self)

    def fields(self) -> list[str]:
        """The text field at the other end of the edges."""
        return [self.field]

    def problems(self) -> list[str]:
        """Report a field that is no text, and a half-life that is too short for totals."""
        problems = []
        if self.field not in FIELDS or FIELDS[self.field].kind != "text":
            problems.append(f"field: got {self.field}; expected an event field that is a text")
        if seconds(self.half_life) < HALF_LIFE_TICKS_MIN * seconds(self.tick):
            problems.append(
                f"half_life: got {self.half_life}; expected at least {HALF_LIFE_TICKS_MIN:.0f} "
                f"ticks of {self.tick}"
            )
        return problems

    def discrete(self) -> bool:
        """Most edges have few events."""
        return True


class Sketches(NamedTuple):
    """current, total: float64[3, rows, buckets], by kind: edge, source, destination. merged:
    int64[3, rows, buckets], the tick, counted from the first, up to which a cell is merged. clock:
    int64[3], the first and the current tick, counted from 1970, and 1 once there is a first."""

    current: F64
    total: F64
    merged: I64
    clock: I64


class EdgesSettings(NamedTuple):
    """decay: of totals, ln 2 over the half-life in ticks. threshold: as declared."""

    tick_ms: float
    decay: float
    threshold: float


class Edges:
    """The sketches of one monitor."""

    def __init__(self, spec: EdgesSpec) -> None:
        self.field = spec.field
        tick_s = seconds(spec.tick)
        self.settings = EdgesSettings(
            1000.0 * tick_s, LN2 * tick_s / seconds(spec.half_life), spec.threshold
        )
        shape = (3, spec.rows, spec.buckets)
        self.sketches = Sketches(
            current=np.zeros(shape),
            total=np.zeros(shape),
            merged=np.zeros(shape, np.int64),
            clock=np.zeros(3, np.int64),
        )

    def process(self, batch: DetectorInput) -> DetectorOutput:
        """Score, then count, each event in order."""
        n = len(batch.admitted.row)
        out = DetectorOutput(np.full(n, np.nan), np.full(n, np.nan), np.full(n, np.nan))
        ends = batch.hashed(batch.entity_field), batch.hashed(self.field)
        _process(self.sketches, self.settings, batch.admitted, *ends, out)
        return out

    def save(self) -> Arrays:
        """The sketches."""
        return state_arrays(self.sketches)

    def load(self, state: Arrays) -> None:
        """Replace the sketches by saved ones of the same declaration."""
        load(self.sketches, state)


@kernel
def _ticks(settings: EdgesSettings, tick: int) -> float:
    """The decayed number of ticks before this one. tick: counted from the first."""
    return (1.0 - exp(-settings.decay * tick)) / (1.0 - exp(-settings.decay))


@kernel
def _level(settings: EdgesSettings, total: float, tick: int) -> float:
    """The mean level e of a total at a tick."""
    return max(total / _ticks(settings, tick), LEVEL_MIN) if tick > 0 else LEVEL_MIN


@kernel
def _merge(
    sketches: Sketches, settings: EdgesSettings, kind: int, r: int, b: int, tick: int
) -> None:
    """Merge the cell's count into its total for each tick that is over, and decay both."""
    since = tick - sketches.merged[kind, r, b]
    if since == 0:
        return
    a = sketches.current[kind, r, b]
    s = sketches.total[kind, r, b]
    if a > 0.0 or s > 0.0:
        decay_factor = exp(-settings.decay)
        e = _level(settings, s, sketches.merged[kind, r, b])
        merged_max = e + sqrt(settings.threshold * e)
        while since > 0 and a > merged_max:
            s = decay_factor * s + merged_max
            a *= FADE
            since -= 1
        decay_all = exp(-settings.decay * since)
        fade_all = exp(-LN2 * since)
        s = decay_all * s + a * (decay_all - fade_all) / (decay_factor - FADE)
        sketches.total[kind, r, b] = s
        sketches.current[kind, r, b] = a * fade_all
    sketches.merged[kind, r, b] = tick


@kernel
def _count(
    sketches: Sketches,
    settings: EdgesSettings,
    kind: int,
    hashed: np.uint64,
    tick: int,
    learn: bool,
) -> tuple[float, float]:
    """(a, e) after one more event of that hash. The event is counted if `learn`."""
    rows, buckets = sketches.current.shape[1:]
    a = np.inf
    s = np.inf
    for r in range(rows):
        b = int(pair(hashed, np.uint64(r + 1)) % np.uint64(buckets))
        _merge(sketches, settings, kind, r, b, tick)
        a = min(a, sketches.current[kind, r, b] + 1.0)
        s = min(s, sketches.total[kind, r, b])
        if learn:
            sketches.current[kind, r, b] += 1.0
    return a, _level(settings, s, tick)


@kernel
def _tick(sketches: Sketches, settings: EdgesSettings, time_ms: float) -> int:
    """The current tick, counted from the first; an event may advance it, never set it back."""
    clock = sketches.clock
    tick_number = np.int64(time_ms // settings.tick_ms)
    if clock[STARTED] == 0:
        clock[STARTED] = 1
        clock[FIRST] = tick_number
        clock[NOW] = tick_number
    clock[NOW] = max(clock[NOW], tick_number)
    return int(clock[NOW] - clock[FIRST])


@kernel
def _clear(sketches: Sketches) -> None:
    """Clear the sketches after stream time was set back: the times so far were wrong."""
    sketches.current[:] = 0.0
    sketches.total[:] = 0.0
    sketches.merged[:] = 0
    sketches.clock[:] = 0


@kernel
def _process(
    sketches: Sketches,
    settings: EdgesSettings,
    admitted: AdmittedEvents,
    source: U64,
    destination: U64,
    out: DetectorOutput,
) -> None:
    for i in range(len(admitted.row)):
        if admitted.set_back[i]:
            _clear(sketches)
        tick = _tick(sketches, settings, admitted.time_ms[i])
        if destination[i] == 0:
            continue
        learn = admitted.learn[i]
        edge = pair(source[i], destination[i])
        a, e = _count(sketches, settings, EDGE, edge, tick, learn)
        a_from, e_from = _count(sketches, settings, SOURCE, source[i], tick, learn)
        a_to, e_to = _count(sketches, settings, DESTINATION, destination[i], tick, learn)
        if _ticks(settings, tick) < TICKS_MIN:
            continue
        z = max((a - e) / sqrt(e), (a_from - e_from) / sqrt(e_from), (a_to - e_to) / sqrt(e_to))
        out.value[i] = a
        out.surprise[i] = surprise_of_normal(z)
        out.expected[i] = e
