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
called for. The windowed Gaussian is NAB's (6,400 values, moved by 100), each file by itself.
Half-life and incident gap were chosen on these files, as NAB's detectors' settings were on all.
"""

import csv
import math
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.columns import F64, I64
from stream.config import load
from tests.quality.replayed import CONFIGS, DATA, replayed
from tests.quality.rows import Row

FOLDER: Final = DATA / "series" / "nab"
FALSE_COST: Final = 0.11
PROBATION: Final = 0.15
PROBATION_ROWS_MAX: Final = PROBATION * 5000
WINDOW_VALUES: Final = 6_400
WINDOW_STEP: Final = 100
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
    detections = sorted(
        (
            (-score[i], f, i)
            for f, (score, mark) in enumerate(zip(scores, of, strict=True))
            for i in range(mark.scored, len(score))
        ),
    )
    best_of: dict[tuple[int, int], float] = {
        (f, k): -1.0
        for f, mark in enumerate(of)
        for k in np.unique(mark.window[mark.scored :]).tolist()
        if k != NO_WINDOW
    }
    total = best = -float(len(best_of))
    for n, (score, f, i) in enumerate(detections):
        worth, key = float(of[f].worth[i]), (f, int(of[f].window[i]))
        if key[1] == NO_WINDOW:
            total += worth
        elif worth > best_of[key]:
            total += worth - best_of[key]
            best_of[key] = worth
        if n + 1 == len(detections) or detections[n + 1][0] != score:
            best = max(best, total)
    return 100.0 * (best + windows) / (2.0 * windows)


def windowed_gaussian(values: F64) -> F64:
    """1 less the tail probability of each value under the normal distribution of the window."""
    scores = np.zeros(len(values))
    held: list[float] = []
    waiting: list[float] = []
    mean, spread = 0.0, 1.0
    for i, value in enumerate(values.tolist()):
        if held:
            scores[i] = 1.0 - 0.5 * math.erfc(abs(value - mean) / spread / math.sqrt(2.0))
        if len(held) < WINDOW_VALUES:
            held.append(value)
        else:
            waiting.append(value)
            if len(waiting) < WINDOW_STEP:
                continue
            held = [*held[WINDOW_STEP:], *waiting]
            waiting = []
        mean, spread = float(np.mean(held)), float(np.std(held)) or 1e-6
    return scores


def series() -> dict[str, Series]:
    """Every file by its name."""
    found = {}
    for name, spans in sorted(orjson.loads((FOLDER / "windows.json").read_bytes()).items()):
        with (FOLDER / name).open(newline="") as file:
            rows = list(csv.DictReader(file))
        times = [row["timestamp"] for row in rows]
        # the windows' times have microseconds, which are none
        windows = [(times.index(first[:19]), times.index(last[:19])) for first, last in spans]
        found[name] = Series(times, np.array([float(row["value"]) for row in rows]), windows)
    return found


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
        scored = replayed(load(CONFIGS / "nab.toml"), "measurement", path)
    scores = {name: np.zeros(len(one.values)) for name, one in found.items()}
    for alert in scored.alerts:
        _, name, i = rows[alert["evidence"][0]["offset"]]
        scores[name][i] = alert["score"]
    return list(scores.values())


def nab() -> list[Row]:
    """The development files."""
    found = series()
    of = [marks(len(one.values), one.windows) for one in found.values()]
    windows = sum(len(one.windows) for one in found.values())
    ours = standard_score(_alert_scores(found), of, windows)
    gaussian = standard_score(
        [windowed_gaussian(one.values) for one in found.values()], of, windows
    )
    what = f"NAB, standard score, {len(found)} files, {windows} windows"
    remark = "alerts as detections"
    return [
        Row("nab_standard", what, ours, 0.0, remark),
        Row(
            "nab_windowed_gaussian",
            "NAB, windowed Gaussian on them",
            gaussian,
            0.0,
            "as NAB runs it; with 1,000 values moved by 1: 37.5",
        ),
    ]
