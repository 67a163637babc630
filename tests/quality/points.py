"""KDD'99 HTTP and SMTP in stored order, a row a second, straight into a monitor: they are no events.

They have neither days nor entities, so that intervals are by hour. Bases are fitted on the first
tenth.
"""

from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa

from detectors.models.half_space_trees import TreesSpec
from detectors.models.tail import TailSpec
from detectors.monitor import Monitor, MonitorSpec
from detectors.spec import FeatureSpec
from schemas.columns import EventBatch
from tests.quality.bases.points import point_bases
from tests.quality.figures import Row
from tests.quality.intervals import blocks, ranking

BATCH: Final = 20_000
EARLY: Final = 0.1


def http(data: Path) -> list[Row]:
    """KDD'99 HTTP."""
    return _points(data, "http", 0.95, "River's half-space trees .378 (shuffled .996)")


def smtp(data: Path) -> list[Row]:
    """KDD'99 SMTP."""
    return _points(data, "smtp", 0.85, "River's half-space trees .83 to .85")


def _points(data: Path, name: str, target: float, others: str) -> list[Row]:
    """One set: its features as they are, all of one entity."""
    stored = np.load(data / "points" / f"{name}.npz")
    features, fraud = stored["X"], stored["y"].ravel() == 1
    n, width = features.shape
    fields = [f"x{j}" for j in range(width)]
    batch = EventBatch(
        sources=((name, 0),),
        source=np.zeros(n, np.int32),
        offset=np.arange(n, dtype=np.int64),
        time_ms=1_600_000_000_000 + 1000 * np.arange(n, dtype=np.int64),
        type_code=np.zeros(n, np.uint8),
        event_id=pa.array([str(i) for i in range(n)], pa.string()),
        text={"session": pa.array(["all"] * n, pa.string())},
        # The sets hold logarithms, and the tail takes logarithms.
        number={f: np.exp(features[:, j].astype(np.float64)) for j, f in enumerate(fields)},
    )
    spec = MonitorSpec(
        name="points",
        entity="session",
        inputs=["points"],
        features=[FeatureSpec(name=f, kind="value", field=f) for f in fields],
        detectors=[TailSpec(), TreesSpec()],
    )
    monitor = Monitor(spec, (1, 2))
    p = [monitor.process(batch.slice(s, min(s + BATCH, n))).p for s in range(0, n, BATCH)]
    hours = blocks(np.arange(n) // 3_600)
    auc = ranking(-np.log(np.concatenate(p)), fraud, hours).auc
    bases = {
        base: ranking(score, fraud, hours).auc
        for base, score in point_bases(features, np.arange(n) < EARLY * n).items()
    }
    what = f"KDD'99 {name}, stored order, AUC"
    return [Row(f"kdd_{name}_auc", what, auc, target, others, bases=bases)]
