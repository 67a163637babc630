"""`make quality`: runs the parts (all, or those named) and prints one table with bars and remarks.

Labelled sets, without labels: the models see events alone, and labels only judge. Payments go
through `replay` with the ready configurations; the point sets, which are no events, straight into a
monitor. Settings were chosen on payments before 18 July 2018 and before 21 June 2020. And
`calibration`: the honesty of p on made-up payments (`tests.quality.calibration`). Web traffic,
logins, sign-ups and series have modules of their own, which say what was looked at. Writes
out/quality.json, which holds the parts of the last run.
"""

import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Final

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from detectors.models.half_space_trees import TreesSpec
from detectors.models.tail import TailSpec
from detectors.monitor import Monitor, MonitorSpec
from detectors.spec import FeatureSpec
from schemas.columns import F64, Bools, EventBatch
from stream.config import load
from stream.judging.measures import average_precision, roc_auc
from stream.replay import replay
from tests.quality import logins, nab, signups, traffic
from tests.quality.calibration import ALPHAS, WINDOW, measure
from tests.quality.measures import handbook_week
from tests.quality.rows import Row

ROOT: Final = Path(__file__).resolve().parents[2]
DATA: Final = ROOT.parent / "shared" / "data"
TEST_WEEKS: Final = (date(2018, 7, 18), date(2018, 7, 25), date(2018, 8, 1), date(2018, 8, 8))
SPARKOV_TEST_FROM: Final = datetime(2020, 6, 21, tzinfo=UTC)
BATCH: Final = 20_000


def scores(config: str, data: Path) -> F64:
    """Every payment's score, in the file's order, by a replay of the ready configuration."""
    using = load(ROOT / "deploy" / "configs" / config)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        replay(using, [("transaction", data)], out, lambda _read, _share: None)
        table = pq.read_table(out / "scores.parquet")
    given = pq.read_table(data, columns=["transaction_id"])
    assert table["event_id"].to_pylist() == given["transaction_id"].to_pylist()
    return np.asarray(table["score"].to_numpy())


def labels(name: str) -> Bools:
    """Whether each payment is a fraud."""
    table = pq.read_table(DATA / "transactions" / f"{name}_labels.parquet")
    return np.asarray(table["is_fraud"].to_numpy() == 1)


def handbook() -> list[Row]:
    """Four test weeks of the Fraud Detection Handbook, by its protocol."""
    path = DATA / "transactions" / "handbook.parquet"
    score, fraud = scores("handbook.toml", path), labels("handbook")
    table = pq.read_table(path, columns=["ts", "customer_id"])
    time_ms = table["ts"].combine_chunks().cast(pa.int64()).to_numpy()
    card = table["customer_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    weeks = [handbook_week(time_ms, card.astype(np.int64), fraud, week) for week in TEST_WEEKS]
    ap = float(np.mean([average_precision(score[week], fraud[week]) for week in weeks]))
    auc = float(np.mean([roc_auc(score[week], fraud[week]) for week in weeks]))
    others = "shrunken, winsorised z .256; ceiling without labels .334; River's trees .008"
    return [
        Row("handbook_unlabelled_ap", "Handbook, AP, mean of four weeks", ap, 0.27, others),
        Row("handbook_unlabelled_auc", "Handbook, AUC, mean of four weeks", auc, 0.0, "z .61"),
    ]


def sparkov() -> list[Row]:
    """Sparkov from 21 June 2020."""
    path = DATA / "transactions" / "sparkov.parquet"
    score, fraud = scores("sparkov.toml", path), labels("sparkov")
    time_ms = pq.read_table(path, columns=["ts"])["ts"].combine_chunks().cast(pa.int64()).to_numpy()
    test = time_ms >= SPARKOV_TEST_FROM.timestamp() * 1000
    ap = average_precision(score[test], fraud[test])
    auc = roc_auc(score[test], fraud[test])
    others = "half-space trees .391; amount .159"
    return [
        Row("sparkov_unlabelled_ap", "Sparkov, AP", ap, 0.42, others),
        Row("sparkov_unlabelled_auc", "Sparkov, AUC", auc, 0.0, "half-space trees .892"),
    ]


def points(name: str, bar: float, others: str) -> list[Row]:
    """A KDD'99 set in stored order: one entity, a row a second, its features as they are."""
    stored = np.load(DATA / "points" / f"{name}.npz")
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
    auc = roc_auc(-np.log(np.concatenate(p)), fraud)
    return [Row(f"kdd_{name}_auc", f"KDD'99 {name}, stored order, AUC", auc, bar, others)]


def honesty() -> list[Row]:
    """Of made-up honest payments, how many have p < α, divided by α."""
    found = measure()
    worst = float(max(found.drift.max(), 1.0 / max(found.drift.min(), 1e-9)))
    span = f"over {len(found.drift)} windows: {found.drift.min():.2f} to {found.drift.max():.2f}"
    excess = (found.jump - 1.0) * 1e-3 * WINDOW
    late = f"in the {WINDOW:,} events from x 1.5 on: {found.jump:.2f} times those promised"
    of = f"first five events of {found.newcomers:,} newcomers"
    young = "first five events of all, in a young monitor"
    rows = [
        Row("calibration_drift_worst_ratio", "p < 1e-3, worst window", worst, 2.0, span, True),
        Row("calibration_abrupt_excess", "p < 1e-3 too many after the jump", excess, 0.0, late),
        Row("calibration_cold_start_ratio", "p < 1e-2, newcomers", found.cold, 2.0, of, True),
        Row("calibration_cold_start_events", "newcomers' events", found.cold_events, 500_000, ""),
        Row("calibration_young_ratio", "p < 1e-2, all are new", found.young, 0.0, young),
    ]
    for k, alpha in enumerate(ALPHAS):
        name = f"{alpha:.0e}".replace("-0", "-")
        key = f"calibration_{name.replace('-', '')}"
        rows.append(Row(f"{key}_ratio", f"p < {name}, all events", found.overall[k], 0.0, ""))
        of_one = {detector: float(rates[k]) for detector, rates in found.rates.items()}
        most, least = max(of_one, key=of_one.__getitem__), min(of_one, key=of_one.__getitem__)
        who = f"{most}; least: {least}, {of_one[least]:.2f}"
        what = f"p < {name}, a detector alone, most"
        rows.append(Row(f"{key}_detector_ratio", what, of_one[most], 0.0, who))
    return rows


PARTS: Final[dict[str, Callable[[], list[Row]]]] = {
    "handbook": handbook,
    "sparkov": sparkov,
    "http": lambda: points("http", 0.95, "River's half-space trees .378 (shuffled .996)"),
    "smtp": lambda: points("smtp", 0.85, "River's half-space trees .83 to .85"),
    "calibration": honesty,
    "web_bots": traffic.web_bots,
    "crawlers": traffic.crawlers,
    "scan": traffic.scan,
    "sshd": logins.sshd,
    "signups": signups.signups,
    "nab": nab.nab,
}
WITHOUT_DATA: Final = ("calibration",)


def main(chosen: list[str]) -> int:
    """Run the chosen parts, or all that can be run here; 1 where a bar was not reached."""
    console = Console()
    table = Table(title="without labels")
    for heading in ("what", "Eddy", "bar", "remarks"):
        table.add_column(heading)
    rows = []
    for name in chosen or list(PARTS):
        if name not in WITHOUT_DATA and not DATA.is_dir():
            console.print(f"{name} left out: no labelled data, there is no folder {DATA}")
            continue
        console.print(f"running {name} …")
        rows += PARTS[name]()
    for row in rows:
        ours = f"{row.ours:,.0f}" if row.ours > 1000 else f"{row.ours:.3f}"
        table.add_row(row.what, ours, row.asked(), row.remark)
    console.print(table)
    out = ROOT / "out"
    out.mkdir(exist_ok=True)
    figures = {row.key: round(float(row.ours), 4) for row in rows}
    (out / "quality.json").write_bytes(orjson.dumps(figures, option=orjson.OPT_INDENT_2))
    return int(not all(row.reached() for row in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
