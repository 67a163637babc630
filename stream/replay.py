"""replay: recorded events through the stages that run live, with every score written down.

Reads files, drives the shards of all their partitions, and writes alerts, dead letters,
scores and a summary into a folder. Never touches Kafka; its alerts can never reach enforcement.
"""

import heapq
import math
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import IO, Final, Self

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from detectors.combination import P_MIN, combine
from detectors.kernels import kernel
from schemas.alerts import Alert, alert_record
from schemas.columns import F64
from schemas.dead_letters import DeadLetter, as_json_line
from stream.alerting import RunInfo
from stream.chain import Chain, Judged
from stream.clock import now_text, text_of
from stream.config import ASSESS, Config, fingerprint
from stream.errors import InputError
from stream.inputs import InputFile
from stream.shard import Emitted

ALERTS, DEAD_LETTERS, SCORES, SUMMARY = FILES = (
    *("alerts.ndjson", "dead_letters.ndjson", "scores.parquet", "summary.json"),
)
PART: Final = ".part"
"""Ends the name of a file that is still being written."""
ROW_GROUP_ROWS: Final = 100_000
DAY_MS: Final = 86_400_000

Progress = Callable[[int, float], None]
"""Called with the records read so far and the share of all input read, 0 to 1."""
Counts = dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a replay led to; `summary.json` holds the same.

    inputs: route's counters by input, over its partitions. monitors: watch's counters by monitor,
    and assess's by "assess". adds_up: by monitor, whether read = scored + not applicable + labels +
    duplicate + tombstone + dead letters. alerts: by monitor; alerts_per_day: the same over the span
    of event times, null where there is none. Times are ISO 8601, null where there was no event.
    """

    fingerprint: str
    inputs: dict[str, Counts]
    monitors: dict[str, Counts]
    adds_up: dict[str, bool]
    events: int
    alerts: Counts
    alerts_per_day: dict[str, float | None]
    dead_letters: int
    first_event_time: str | None
    last_event_time: str | None
    seconds: float
    events_per_s: float


def make_folder(path: Path) -> None:
    """Create a folder for results. Raises InputError where that cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: the folder cannot be made: {error}") from error


def replay(
    config: Config, inputs: list[tuple[str, Path]], out_dir: Path, progress: Progress
) -> Summary:
    """Run the files through the configuration and write `FILES` into out_dir.

    inputs: (the name of an input, its file); inputs with no file have no events. Files appear
    under their names only when the whole run has succeeded. Raises InputError for names, files
    and folders that cannot be used.
    """
    files = _files(config, inputs)
    _refuse_foreign(out_dir)
    make_folder(out_dir)
    began = perf_counter()
    run = RunInfo("replay", f"replay-{fingerprint(config)[:12]}", now_text)
    chain = Chain(config, run, {name: name for name in config.inputs})
    tally = _Tally()
    with _Outputs(out_dir, [monitor.name for monitor in config.monitors]) as outputs:
        _fold(chain, files, tally, outputs, progress)
        summary = _summary(config, chain, tally, perf_counter() - began)
        outputs.finish(summary)
    return summary


def _files(config: Config, inputs: list[tuple[str, Path]]) -> list[InputFile]:
    """The files to read. Raises InputError where a name or a path is not usable."""
    names = [name for name, _ in inputs]
    for name, path in inputs:
        if name not in config.inputs:
            known = ", ".join(config.inputs)
            raise InputError(f"{name}={path}: no input is named {name}; expected one of {known}")
        if names.count(name) > 1:
            raise InputError(f"{name}={path}: {name} was given twice; expected one file an input")
        if not path.is_file():
            what = "is a folder; expected a file" if path.is_dir() else "no such file"
            raise InputError(f"{name}={path}: {what}")
    if not inputs:
        raise InputError("no input was given; expected NAME=PATH for at least one input")
    return [InputFile(name, path, config.inputs[name]) for name, path in inputs]


def _refuse_foreign(out_dir: Path) -> None:
    """Raise InputError if the folder holds anything that no replay wrote."""
    if not out_dir.exists():
        return
    if not out_dir.is_dir():
        raise InputError(f"{out_dir}: is a file; expected a folder, or a new name")
    ours = {*FILES, *(name + PART for name in FILES)}
    foreign = sorted(entry.name for entry in out_dir.iterdir() if entry.name not in ours)
    if foreign:
        raise InputError(
            f"{out_dir}: holds {foreign[0]}, which no replay wrote; "
            "expected an empty folder, a former replay's, or a new name"
        )


def _fold(
    chain: Chain, files: list[InputFile], tally: "_Tally", outputs: "_Outputs", progress: Progress
) -> None:
    """Read everything; the input that is furthest behind in event time goes next."""
    sizes = [max(file.path.stat().st_size, 1) for file in files]
    batches = [iter(file) for file in files]
    waiting = [(-1, i) for i in range(len(files))]
    read = 0
    while waiting:
        reached_ms, i = heapq.heappop(waiting)
        parts = next(batches[i], None)
        for records in parts or ():
            emitted = chain.put(files[i].name, records)
            tally.add(emitted)
            outputs.add(emitted.alerts, emitted.dead_letters)
            read += len(records)
            if len(emitted.events):
                reached_ms = max(reached_ms, int(emitted.events.time_ms.max()))
        if parts is not None:
            heapq.heappush(waiting, (reached_ms, i))
        alerts, judged = chain.advance(waiting[0][0] if waiting else math.inf)
        tally.alerts.update(alert.monitor for alert in alerts)
        outputs.add(alerts, [], judged)
        shares = (file.share_read * size for file, size in zip(files, sizes, strict=True))
        progress(read, sum(shares) / sum(sizes) if waiting else 1.0)


@dataclass(slots=True)
class _Tally:
    """What is counted over all batches."""

    events: int = 0
    dead_letters: int = 0
    alerts: Counter[str] = field(default_factory=Counter)
    first_ms: int | None = None
    last_ms: int | None = None

    def add(self, emitted: Emitted) -> None:
        """Count one batch."""
        times = emitted.events.time_ms
        self.events += len(times)
        self.dead_letters += len(emitted.dead_letters)
        self.alerts.update(alert.monitor for alert in emitted.alerts)
        if len(times):
            known = [ms for ms in (self.first_ms, self.last_ms) if ms is not None]
            self.first_ms = min([int(times.min()), *known])
            self.last_ms = max([int(times.max()), *known])


def _summary(config: Config, chain: Chain, tally: _Tally, seconds: float) -> Summary:
    inputs: dict[str, Counter[str]] = {}
    monitors: dict[str, Counter[str]] = {}
    for log, stages in chain.counts():
        for stage, counts in stages.items():
            totals, key = (inputs, log.name) if stage == "route" else (monitors, stage)
            totals.setdefault(key, Counter()).update(counts)
    span_ms = 0 if tally.first_ms is None else (tally.last_ms or 0) - tally.first_ms
    names = [*(monitor.name for monitor in config.monitors), *([ASSESS] if config.assess else [])]
    alerts = {name: tally.alerts[name] for name in names}
    return Summary(
        fingerprint=fingerprint(config),
        inputs={name: dict(counts) for name, counts in inputs.items()},
        monitors={name: dict(counts) for name, counts in monitors.items()},
        adds_up={
            monitor.name: _adds_up(
                monitors.get(monitor.name, Counter()),
                sum((inputs.get(name, Counter()) for name in monitor.inputs), Counter()),
            )
            for monitor in config.monitors
        },
        events=tally.events,
        alerts=alerts,
        alerts_per_day={n: k * DAY_MS / span_ms if span_ms else None for n, k in alerts.items()},
        dead_letters=tally.dead_letters,
        first_event_time=_iso(tally.first_ms),
        last_event_time=_iso(tally.last_ms),
        seconds=round(seconds, 3),
        events_per_s=round(tally.events / seconds, 1),
    )


def _adds_up(watched: Counter[str], routed: Counter[str]) -> bool:
    """Guarantee 3: every record read became exactly one of these."""
    dead_letters = sum(n for name, n in routed.items() if name.startswith("dead_letter_"))
    not_passed = routed["duplicate"] + routed["tombstone"] + dead_letters
    passed = watched["scored"] + watched["not_applicable"] + watched["labels"]
    return routed["read"] == passed + not_passed


def _iso(time_ms: int | None) -> str | None:
    return None if time_ms is None else text_of(time_ms)


class _Outputs:
    """The files of a run, under other names until `finish`; left without it, they are removed."""

    def __init__(self, out_dir: Path, monitors: list[str]) -> None:
        self._parts = {name: out_dir / (name + PART) for name in FILES}
        self._out_dir = out_dir
        self._monitors = monitors
        self._opened = ExitStack()

    def __enter__(self) -> Self:
        self._alerts: IO[bytes] = self._opened.enter_context(self._parts[ALERTS].open("wb"))
        self._letters: IO[bytes] = self._opened.enter_context(self._parts[DEAD_LETTERS].open("wb"))
        self._scores = self._opened.enter_context(_ScoreFile(self._parts[SCORES], self._monitors))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._opened.close()
        finally:
            for part in self._parts.values():
                part.unlink(missing_ok=True)

    def add(
        self, alerts: list[Alert], letters: list[DeadLetter], judged: Sequence[Judged] = ()
    ) -> None:
        """Write down what a batch led to."""
        self._alerts.writelines(alert_record(alert).value + b"\n" for alert in alerts)
        self._letters.writelines(map(as_json_line, letters))
        for one in judged:
            self._scores.add(one)

    def finish(self, summary: Summary) -> None:
        """Write the summary and give every file its name, the summary last."""
        self._opened.close()
        text = orjson.dumps(asdict(summary), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
        self._parts[SUMMARY].write_bytes(text)
        # A folder with a summary is a whole run: the old one goes first, the new one comes last.
        (self._out_dir / SUMMARY).unlink(missing_ok=True)
        for name in FILES:
            self._parts[name].replace(self._out_dir / name)


class _ScoreFile:
    """scores.parquet: a row for each event, with its score and each monitor's."""

    def __init__(self, path: Path, monitors: list[str]) -> None:
        self._monitors = monitors
        self._schema = pa.schema(
            [
                pa.field("event_id", pa.string(), nullable=False),
                pa.field("event_time", pa.timestamp("ms"), nullable=False),
                pa.field("score", pa.float64(), nullable=False),
                *(pa.field(f"score_{name}", pa.float64()) for name in monitors),
            ]
        )
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")
        self._waiting: list[pa.RecordBatch] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._flush()
        self._writer.close()

    def add(self, judged: Judged) -> None:
        """Append events."""
        silent = np.full(len(judged.events), np.nan)
        p_values = [judged.p_values.get(name, silent) for name in self._monitors]
        columns = [
            judged.events.event_id,
            pa.array(judged.events.time_ms).cast(pa.timestamp("ms")),
            pa.array(scores(combine(p_values))),
            *(pa.array(scores(p), mask=np.isnan(p)) for p in p_values),
        ]
        self._waiting.append(pa.RecordBatch.from_arrays(columns, schema=self._schema))
        if sum(map(len, self._waiting)) >= ROW_GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.Table.from_batches(self._waiting, self._schema))
            self._waiting = []


def scores(p_values: F64) -> F64:
    """float64[n]: −log10 of each p-value, 0 where it is NaN (nobody judged the event)."""
    out = np.zeros(len(p_values))
    _scores(p_values, out)
    return out


@kernel
def _scores(p_values: F64, out: F64) -> None:
    for i in range(len(p_values)):
        if not math.isnan(p_values[i]):
            out[i] = 0.0 - math.log10(max(p_values[i], P_MIN))  # never -0.0
