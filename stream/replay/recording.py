"""What a run writes down: its alerts, dead letters and scores, under other names until all of it is
there. Judges nothing and reads nothing back.
"""

import math
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from detectors.combination import P_MIN, combine
from detectors.kernels import kernel
from detectors.monitor import LABEL
from schemas.alerts import Alert, alert_record
from schemas.columns import F64
from schemas.dead_letters import DeadLetter, as_json_line
from stream.chain import Judged
from stream.config import ASSESS
from stream.errors import InputError
from stream.replay.last_words import LabelBatch, LastWords
from stream.replay.span import Span
from stream.replay.summary import Summary

ALERTS, DEAD_LETTERS, SCORES, LABELS, SUMMARY = FILES = (
    *("alerts.ndjson", "dead_letters.ndjson", "scores.parquet", "labels.parquet", "summary.json"),
)
PART: Final = ".part"
"""Ends the name of a file that is still being written."""
WORK: Final = f"work{PART}"
"""The folder of what is needed only while a replay runs."""
ROW_GROUP_ROWS: Final = 100_000


def make_folder(path: Path) -> None:
    """Create a folder for results. Raises InputError where that cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: the folder cannot be made: {error}") from error


def refuse_foreign(out_dir: Path) -> None:
    """Raise InputError if the folder holds anything that no replay wrote."""
    if not out_dir.exists():
        return
    if not out_dir.is_dir():
        raise InputError(f"{out_dir}: is a file; expected a folder, or a new name")
    ours = {*FILES, *(name + PART for name in FILES), WORK}
    foreign = sorted(entry.name for entry in out_dir.iterdir() if entry.name not in ours)
    if foreign:
        raise InputError(
            f"{out_dir}: holds {foreign[0]}, which no replay wrote; "
            "expected an empty folder, a former replay's, or a new name"
        )


class Recording:
    """The files of a run, under other names until `finish`; left without it, they are removed."""

    def __init__(self, out_dir: Path, monitors: list[str], span: Span) -> None:
        self._span = span
        self._parts = {name: out_dir / (name + PART) for name in FILES}
        self._out_dir = out_dir
        self._monitors = monitors
        self._opened = ExitStack()

        self.work = out_dir / WORK

    def __enter__(self) -> Self:
        shutil.rmtree(self.work, ignore_errors=True)  # of a replay that was killed
        self.work.mkdir()
        self._opened.callback(shutil.rmtree, self.work)
        self._alerts: IO[bytes] = self._opened.enter_context(self._parts[ALERTS].open("wb"))
        self._letters: IO[bytes] = self._opened.enter_context(self._parts[DEAD_LETTERS].open("wb"))
        self._scores = self._opened.enter_context(
            _ScoreFile(self._parts[SCORES], self._monitors, self._span)
        )
        self._labels = self._opened.enter_context(LastWords(self._parts[LABELS], self.work))
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

    def add_labels(self, labels: LabelBatch) -> None:
        """Write down labels as they were known."""
        self._labels.add(labels)

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
        self._labels.finish()
        self._opened.close()
        text = orjson.dumps(asdict(summary), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
        self._parts[SUMMARY].write_bytes(text)
        # A folder with a summary is a whole run: the old one goes first, the new one comes last.
        (self._out_dir / SUMMARY).unlink(missing_ok=True)
        for name in FILES:
            self._parts[name].replace(self._out_dir / name)


class _ScoreFile:
    """scores.parquet: a row for each event, with its score and each monitor's, and whether it is
    judged or only learned."""

    def __init__(self, path: Path, monitors: list[str], span: Span) -> None:
        self._monitors = monitors
        self._span = span
        self._schema = pa.schema(
            [
                pa.field("event_id", pa.string(), nullable=False),
                pa.field("event_time", pa.timestamp("ms"), nullable=False),
                pa.field("score", pa.float64(), nullable=False),
                *(pa.field(f"score_{name}", pa.float64()) for name in monitors),
                pa.field("judged", pa.bool_(), nullable=False),
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
        """Append events; labels among them are not judged."""
        rows = np.flatnonzero(judged.events.type_code != LABEL)
        if len(rows) < len(judged.events):
            of_events = {name: p[rows] for name, p in judged.p_values.items()}
            judged = Judged(judged.events.take(rows), of_events)
        silent = np.full(len(judged.events), np.nan)
        p_values = [judged.p_values.get(name, silent) for name in self._monitors]
        learned = judged.p_values.get(ASSESS)
        p_value = combine(p_values) if learned is None else learned
        columns = [
            judged.events.event_id,
            pa.array(judged.events.time_ms).cast(pa.timestamp("ms")),
            pa.array(scores(p_value)),
            *(pa.array(scores(p), mask=np.isnan(p)) for p in p_values),
            pa.array(self._span.holds(judged.events.time_ms)),
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
