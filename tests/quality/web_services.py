"""Metrics of web services, a value a minute: mean average precision over series.

Two published sets (WSD and AIOPS), 50 series, each a train part and then a test part; counted are the
points of the test parts of the 39 series that have anomalies there. All series go through one replay,
merged by time, as one topic of a fleet's measurements; Eddy's score of a point is the replay's. The
interval is by series. Bases know one series each; their constants were chosen on the train parts.
"""

import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.columns import F64, I64, Bools
from stream.config import load
from stream.evaluation.measures import average_precision
from tests.quality.bases.series import web_service_bases
from tests.quality.figures import Row
from tests.quality.intervals import Draws, blocks, ratio
from tests.quality.replay_file import CONFIGS, replay_file


class LabelledSeries(NamedTuple):
    """One series: its rows in the file, in order of time, its values and labels there. early: how
    many of them belong to the train part."""

    rows: I64
    values: F64
    anomaly: Bools
    early: int


def web_services(data: Path) -> list[Row]:
    """Mean average precision over the series with anomalies in their test part."""
    folder = data / "series"
    table = pq.read_table(folder / "web_services.parquet")
    counted = [one for one in labelled_series(folder, table) if one.anomaly[one.early :].any()]
    scores = _replayed(table)
    bases: dict[str, list[F64]] = {}
    for one in counted:
        for name, score in web_service_bases(one.values, one.early).items():
            bases.setdefault(name, []).append(score)
    ours = mean_precision([scores[one.rows] for one in counted], counted)
    what = f"web services, AUC-PR, mean of {len(counted)} series"
    row = Row(
        "web_services_auc_pr",
        what,
        ours,
        0.34,
        "all series in one replay",
        bases={name: mean_precision(own, counted) for name, own in bases.items()},
    )
    return [row]


def mean_precision(scores: list[F64], series: list[LabelledSeries]) -> Draws:
    """Of one score of each series. Series are drawn."""
    each = [
        average_precision(score[one.early :], one.anomaly[one.early :])
        for score, one in zip(scores, series, strict=True)
    ]
    return ratio(np.array(each), np.ones(len(each)), blocks(range(len(each))))


def labelled_series(folder: Path, table: pa.Table) -> list[LabelledSeries]:
    """Every series, in the order of their first rows. table: the values, in the labels' order."""
    labels = pq.read_table(folder / "web_services_labels.parquet")
    assert table["series"].equals(labels["series"]), "labels in another order"
    assert table["ts"].equals(labels["ts"]), "labels in another order"
    code = table["series"].combine_chunks().dictionary_encode().indices.to_numpy()
    values = table["value"].to_numpy()
    anomaly, test = labels["is_anomaly"].to_numpy() == 1, labels["is_test"].to_numpy() == 1
    order = np.argsort(code, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(code[order])) + 1)
    return [
        LabelledSeries(rows, values[rows], anomaly[rows], int(np.count_nonzero(~test[rows])))
        for rows in parts
    ]


def _replayed(table: pa.Table) -> F64:
    """float64[n]: the score of each row."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "measurements.parquet"
        pq.write_table(table.rename_columns(["series", "timestamp", "value"]), path)
        found = replay_file(load(CONFIGS / "nab.toml"), "measurement", path)
    return found.scores_of([f"measurement:0:{i}" for i in range(len(table))])
