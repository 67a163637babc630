"""The Numenta Anomaly Benchmark's own standard score, ours and the windowed Gaussian's.

The scorer is NAB's as published (A. Lavin, S. Ahmad, "Evaluating real-time anomaly detection
algorithms: the Numenta Anomaly Benchmark", ICMLA 2015; nab/sweeper.py of its repository): the first
15 % of a file are not scored; of a window's detections the earliest counts, by a sigmoid of its
place; a false one costs `FALSE_COST`, less close behind a window; a missed window costs 1 (standard
profile). One threshold for all files is chosen as the best for the detector, as NAB does, and the
sum is normalised: 0 for a detector that says nothing, 100 for a perfect one.

The files are the development part: the two artificial sets and realAWSCloudwatch. All series go
through one replay, merged by time, as one topic of a fleet's measurements, and what the detector
says of a row is the score of the alert on it, 0 where there is none: an alert is what somebody is
called for. The bases see each file by itself. Half-life and incident gap were chosen on these files, as NAB's detectors' settings were on all.
"""

import csv
import math
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.columns import F64, I64
from stream.config import load
from tests.quality.bases.series import nab_bases
from tests.quality.figures import Row
from tests.quality.intervals import Blocks, Draws, blocks
from tests.quality.replay_file import CONFIGS, replay_file

FALSE_COST: Final = 0.11
PROBATION: Final = 0.15
PROBATION_ROWS_MAX: Final = PROBATION * 5000
STEPS_A_DAY: Final = 288
NO_WINDOW: Final = -1


class Series(NamedTuple):
    """A file: its times as written, its values, and its windows as (first, last) row."""

    times: list[str]
    values: F64
    windows: list[tuple[int, int]]


class Marks(NamedTuple):
    """What a detection is worth. worth: float64[n], at each row; window: int64[n], the row's window
    or `NO_WINDOW`; scored: from which row on."""

    worth: F64
    window: I64
    scored: int


def marks(rows: int, windows: list[tuple[int, int]]) -> Marks:
    """Of a file with so many rows."""
    worth = np.full(rows, -FALSE_COST)
    window = np.full(rows, NO_WINDOW, np.int64)
    earliest = _sigmoid(-1.0)
    for k, (first, last) in enumerate(windows):
        width = last - first + 1
        after = windows[k + 1][0] if k + 1 < len(windows) else rows
        for i in range(first, last + 1):
            worth[i] = _sigmoid(-(last - i + 1) / width) / earliest
        for i in range(last + 1, after):
            worth[i] = FALSE_COST * _sigmoid((i - last) / (width - 1))
        window[first : last + 1] = k
    return Marks(worth, window, math.floor(min(math.floor(PROBATION * rows), PROBATION_ROWS_MAX)))


def _sigmoid(place: float) -> float:
    """-1 … 0 is inside of a window, above 0 behind it."""
    return -1.0 if place >= 3.0 else 2.0 / (1.0 + math.exp(5.0 * place)) - 1.0


def standard_score(scores: list[F64], of: list[Marks], windows: int) -> float:
    """NAB's, over all files at the threshold that is best for them together."""
    every = blocks(range(len(of)))
    return float(score_of(scores, of, np.full(len(of), windows / len(of)), every).values[0])


def score_of(scores: list[F64], of: list[Marks], windows: F64, files: Blocks) -> Draws:
    """The same with its interval, whose blocks are files: a window is longer than a day. windows:
    float64[files], how many each has."""
    file = np.repeat(np.arange(len(of)), [len(mark.worth) - mark.scored for mark in of])
    score = np.concatenate([own[mark.scored :] for own, mark in zip(scores, of, strict=True)])
    order = np.argsort(-score, kind="stable")
    gains = np.concatenate([_gains(own, mark) for own, mark in zip(scores, of, strict=True)])[order]
    missed = np.array([_windows_scored(mark) for mark in of], np.float64)
    ends = np.append(np.diff(score[order]) != 0.0, True)
    best = -missed @ files.weights
    for draw, weight in enumerate(files.weights.T):
        reached = np.cumsum(gains * weight[file[order]])[ends]
        best[draw] += max(0.0, float(reached.max()))
    in_all = windows @ files.weights
    return files.draws(100.0 * (best + in_all) / (2.0 * np.maximum(in_all, 1.0)))


def _windows_scored(mark: Marks) -> int:
    """Windows with any row that is scored."""
    return int(np.count_nonzero(np.unique(mark.window[mark.scored :]) != NO_WINDOW))


def _gains(score: F64, mark: Marks) -> F64:
    """float64[rows scored]: by how much each detection changes the file's score, when its rows are
    detected by falling score; a window is worth its best detection, and -1 without any."""
    own, worth, window = (x[mark.scored :] for x in (score, mark.worth, mark.window))
    order = np.argsort(-own, kind="stable")
    gains = np.where(window == NO_WINDOW, worth, 0.0)
    for k in range(int(window.max(initial=NO_WINDOW)) + 1):
        inside = order[window[order] == k]
        if len(inside):
            best = np.maximum.accumulate(np.append(-1.0, worth[inside]))
            gains[inside] = np.diff(best)
    return gains


def series(folder: Path) -> dict[str, Series]:
    """Every file that is there, by its name; a row without a whole time and value is left out, and
    so is a window whose ends are no rows."""
    found = {}
    for name, spans in sorted(orjson.loads((folder / "windows.json").read_bytes()).items()):
        if not (folder / name).is_file():
            continue
        with (folder / name).open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if _is_whole(row)]
        times = [row["timestamp"] for row in rows]
        at = {time: i for i, time in reversed(list(enumerate(times)))}
        # the windows' times have microseconds, which are none
        ends = [(first[:19], last[:19]) for first, last in spans]
        windows = [(at[first], at[last]) for first, last in ends if first in at and last in at]
        found[name] = Series(times, np.array([float(row["value"]) for row in rows]), windows)
    return found


def _is_whole(row: dict[str, Any]) -> bool:
    try:
        datetime.strptime(f"{row['timestamp']} +0000", "%Y-%m-%d %H:%M:%S %z")
        return math.isfinite(float(row["value"]))
    except (TypeError, ValueError):
        return False


def _alert_scores(found: dict[str, Series]) -> list[F64]:
    rows = sorted(
        (datetime.fromisoformat(time), name, i)
        for name, one in found.items()
        for i, time in enumerate(one.times)
    )
    table = pa.table(
        {
            "timestamp": pa.array([time for time, _, _ in rows], pa.timestamp("ms")),
            "series": [name for _, name, _ in rows],
            "value": [float(found[name].values[i]) for _, name, i in rows],
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "measurements.parquet"
        pq.write_table(table, path)
        scored = replay_file(load(CONFIGS / "nab.toml"), "measurement", path)
    scores = {name: np.zeros(len(one.values)) for name, one in found.items()}
    for alert in scored.alerts:
        _, name, i = rows[alert["evidence"][0]["offset"]]
        scores[name][i] = alert["score"]
    return list(scores.values())


def nab(data: Path) -> list[Row]:
    """The development files."""
    found = series(data / "series" / "nab")
    of = [marks(len(one.values), one.windows) for one in found.values()]
    windows = np.array([len(one.windows) for one in found.values()], np.float64)
    files = blocks(range(len(of)))
    ours = score_of(_alert_scores(found), of, windows, files)
    each = [
        nab_bases(one.values, STEPS_A_DAY, mark.scored)
        for one, mark in zip(found.values(), of, strict=True)
    ]
    bases = {
        name: score_of([scores[name] for scores in each], of, windows, files) for name in each[0]
    }
    gaussian = bases["windowed Gaussian"]
    what = f"NAB, standard score, {len(found)} files, {windows.sum():g} windows"
    as_run = "as NAB runs it; with 1,000 values moved by 1: 37.5"
    return [
        Row("nab_standard", what, ours, 0.0, "alerts as detections", bases=bases),
        Row(
            "nab_windowed_gaussian",
            "NAB, windowed Gaussian on them",
            gaussian,
            0.0,
            as_run,
            "neither",
        ),
    ]
