"""Every part of `make quality` runs to its end on a small cut of the data, by the target's own code."""

from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests.quality import traffic
from tests.quality.__main__ import CALIBRATION, PARTS, main
from tests.quality.bases import boosting
from tests.quality.calibration import Sizes
from tests.quality.honest_payments import Shape

pytestmark = pytest.mark.slow

SIZES = Sizes(
    Shape(
        events=12_000,
        days=9.0,
        regulars=100,
        newcomers=600,
        drift=(4_000, 2_000, 2.0),
        jump=(9_000, 1.5),
    ),
    seeds=(1,),
    window=1_000,
    step=500,
)
SCANS = 2
SERIES = ("wsd-204", "wsd-109")


@pytest.fixture(scope="module")
def cut(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a little of each set, in the layout of the whole; logs end within a line."""
    folder = tmp_path_factory.mktemp("data")
    for name in ("transactions", "traffic", "logins", "signups", "points", "series/nab"):
        (folder / name).mkdir(parents=True)
    cut_payments(shared_data, folder, "handbook", "customer_id", 60)
    cut_payments(shared_data, folder, "sparkov", "card_id", 8)
    for name in ("http", "smtp"):
        stored = np.load(shared_data / "points" / f"{name}.npz")
        frauds = np.flatnonzero(stored["y"].ravel() == 1)
        rows = slice(max(0, int(frauds[0]) - 5_000), int(frauds[0]) + 1_000)
        np.savez(folder / "points" / f"{name}.npz", X=stored["X"][rows], y=stored["y"][rows])
    cut_sessions(shared_data, folder)
    agents = (shared_data / "traffic" / "crawler_user_agents.json").read_bytes()
    (folder / "traffic" / "crawler_user_agents.json").write_bytes(agents)
    for name, lines in {
        "traffic/access_may17_18.log": 1_200,
        "traffic/scanner_acunetix.log": 150,
        "logins/auth_first.log": 1_500,
        "signups/registrations.csv": 1_500,
    }.items():
        cut_lines(shared_data / name, folder / name, lines)
    windows = orjson.loads((shared_data / "series/nab/windows.json").read_bytes())
    (folder / "series/nab/windows.json").write_bytes(orjson.dumps(windows))
    for name in sorted(windows)[:3]:
        (folder / "series/nab" / name).parent.mkdir(exist_ok=True)
        cut_lines(shared_data / "series/nab" / name, folder / "series/nab" / name, 1_000)
    for name in ("web_services", "web_services_labels"):
        path = f"series/{name}.parquet"
        some = pq.read_table(shared_data / path, filters=[("series", "in", SERIES)])
        pq.write_table(some, folder / path)
    return folder


def cut_payments(data: Path, folder: Path, name: str, entity: str, entities: int) -> None:
    """The payments of the first so many entities, with their labels."""
    table = pq.read_table(data / "transactions" / f"{name}.parquet")
    some = pc.unique(table[entity])[:entities]
    chosen = pc.is_in(table[entity], some)
    pq.write_table(table.filter(chosen), folder / "transactions" / f"{name}.parquet")
    labels = pq.read_table(data / "transactions" / f"{name}_labels.parquet")
    pq.write_table(labels.filter(chosen), folder / "transactions" / f"{name}_labels.parquet")


def cut_sessions(data: Path, folder: Path) -> None:
    """Five sessions of people and five of bots."""
    labels = pq.read_table(data / "traffic" / "webbot_dev_labels.parquet")
    human = pc.equal(labels["label"], "human")
    some = pa.concat_tables([labels.filter(which)[:5] for which in (human, pc.invert(human))])
    table = pq.read_table(data / "traffic" / "webbot_dev.parquet")
    own = pc.is_in(table["session"], some["session"].combine_chunks())
    pq.write_table(some, folder / "traffic" / "webbot_dev_labels.parquet")
    pq.write_table(table.filter(own), folder / "traffic" / "webbot_dev.parquet")


def cut_lines(source: Path, target: Path, lines: int) -> None:
    """Every so many-th line, so many in all; the last one is cut in half."""
    every = source.read_text(errors="replace").splitlines()
    head, body = every[:1], every[1:]
    some = body[:: max(1, len(body) // lines)][:lines]
    target.write_text("\n".join([*head, *some, some[-1][: len(some[-1]) // 2]]))


@pytest.fixture(autouse=True)
def _less_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scan is laid into the log at two hours, not at sixteen; batch models have few trees."""
    monkeypatch.setattr(traffic, "SCANS_FROM", traffic.SCANS_FROM[:SCANS])
    monkeypatch.setattr(boosting, "TREES", 3)


@pytest.mark.parametrize("part", PARTS)
def test_a_part_on_labelled_data_runs(part: str, cut: Path, tmp_path: Path) -> None:
    """Each of its figures is written with an interval around it; records that are no events, such
    as a log's truncated last line, stop nothing."""
    main([part], data=cut, out=tmp_path)
    found = figures_of(tmp_path)
    assert found
    for key, (value, low, high) in found.items():
        assert low - 1e-9 <= value <= high + 1e-9 or "median" in key, (key, value, low, high)


def test_calibration_runs(tmp_path: Path) -> None:
    """On made-up payments, which need no data."""
    main([CALIBRATION], data=tmp_path / "nowhere", sizes=SIZES, out=tmp_path)
    assert len(figures_of(tmp_path)) == 11


def test_parts_without_data_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The output says so, and a part that did not run is not worse than before."""
    former = tmp_path / "former.json"
    former.write_bytes(b'{"sshd_recall": 1.0, "sshd_recall_low": 1.0, "sshd_recall_high": 1.0}')
    assert main(["sshd", "--against", str(former)], data=tmp_path / "no", out=tmp_path) == 0
    assert "sshd left out" in capsys.readouterr().out


def test_a_worse_figure_ends_with_1_and_is_named(
    cut: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Against an earlier run that was better; against itself nothing is worse."""
    code = main(["signups"], data=cut, out=tmp_path)
    capsys.readouterr()
    former = tmp_path / "former.json"
    former.write_bytes((tmp_path / "quality.json").read_bytes())
    assert main(["signups", "--against", str(former)], data=cut, out=tmp_path) == code
    assert "signups_ap: " not in capsys.readouterr().out
    better = {"signups_ap": 1.0, "signups_ap_low": 0.99, "signups_ap_high": 1.0}
    former.write_bytes(orjson.dumps(better))
    assert main(["signups", "--against", str(former)], data=cut, out=tmp_path) == 1
    assert "signups_ap: " in capsys.readouterr().out


def figures_of(out: Path) -> dict[str, tuple[float, float, float]]:
    """Each figure with its interval; every key of the file is one of a figure's three."""
    written = orjson.loads((out / "quality.json").read_bytes())
    keys = [key for key in written if not key.endswith(("_low", "_high"))]
    assert {f"{key}{end}" for key in keys for end in ("", "_low", "_high")} == written.keys()
    return {key: (written[key], written[f"{key}_low"], written[f"{key}_high"]) for key in keys}
