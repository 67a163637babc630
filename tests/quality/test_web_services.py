"""The web services' protocol on three made-up series, and every row's score in its place."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import average_precision_score

from tests.quality.web_services import labelled_series, mean_precision, web_services

DRAW = np.random.default_rng(6)
STEPS = 4_000
NAMES = ("b", "a", "quiet")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three series side by side, a value a minute; two have anomalies in the test half, one of 10
    points at its own scale."""
    time = np.datetime64("2024-01-01T00:00", "ms") + np.arange(STEPS) * np.timedelta64(1, "m")
    values: np.ndarray[tuple[int, int], np.dtype[np.float64]] = DRAW.normal(100.0, 1.0, (STEPS, 3))
    anomaly = np.zeros((STEPS, 3), np.int8)
    values[3_000:3_010, 0] += 50.0
    values[:, 1] /= 100.0
    values[3_500:3_510, 1] += 0.5
    anomaly[3_000:3_010, 0] = anomaly[3_500:3_510, 1] = 1
    test = np.repeat(np.arange(STEPS) >= STEPS // 2, 3).astype(np.int8)
    keys = {
        "series": pa.array(NAMES * STEPS, pa.large_string()),
        "ts": pa.array(np.repeat(time, 3), pa.timestamp("ms")),
    }
    (tmp_path / "series").mkdir()
    pq.write_table(
        pa.table(keys | {"value": values.ravel()}), tmp_path / "series" / "web_services.parquet"
    )
    labels = keys | {"is_anomaly": anomaly.ravel(), "is_test": test}
    pq.write_table(pa.table(labels), tmp_path / "series" / "web_services_labels.parquet")
    return tmp_path


def test_each_series_has_its_rows_and_labels(data: Path) -> None:
    """In order of time, the train part first."""
    folder = data / "series"
    found = labelled_series(folder, pq.read_table(folder / "web_services.parquet"))
    assert [one.rows[:2].tolist() for one in found] == [[0, 3], [1, 4], [2, 5]]
    assert [one.early for one in found] == [STEPS // 2] * 3
    assert np.flatnonzero(found[1].anomaly).tolist() == list(range(3_500, 3_510))


def test_the_figure_is_the_mean_over_series_of_their_test_parts(data: Path) -> None:
    """Average precision as scikit-learn has it; each series counts the same."""
    folder = data / "series"
    series = labelled_series(folder, pq.read_table(folder / "web_services.parquet"))[:2]
    scores = [DRAW.normal(size=STEPS) for _ in series]
    scores[0][3_000:3_010] += 5.0
    expected = np.mean(
        [
            average_precision_score(one.anomaly[one.early :], score[one.early :])
            for one, score in zip(series, scores, strict=True)
        ]
    )
    assert mean_precision(scores, series).values[0] == pytest.approx(expected)


@pytest.mark.slow
def test_every_row_has_its_own_score(data: Path) -> None:
    """Two loud series that anything finds are found by Eddy and by the bases; the quiet one, which
    has no anomaly in its test part, does not count."""
    (row,) = web_services(data)
    assert "2 series" in row.what
    assert row.ours.values[0] > 0.3
    assert all(its.values[0] > 0.3 for its in row.bases.values())
