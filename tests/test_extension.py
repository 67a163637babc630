"""Extension as a user would do it: a package with a feature kind and a detector of its own, found
by its entry points, named in a configuration, replayed, and put through the laws."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest
from numpy.random import default_rng

ROOT = Path(__file__).resolve().parents[1]

FEATURES = '''
"""What Acme measures beside Eddy: how an amount compares with the entity's last one."""

from math import isnan

import numpy as np

from detectors.entities import AdmittedEvents
from detectors.features.kind import (
    Durations,
    FeatureInput,
    FeatureKind,
    FeatureMemory,
    begin_event,
    undo_unless_learned,
)
from detectors.numeric.kernels import kernel
from schemas.columns import F64


@kernel
def amount_step(
    memory: FeatureMemory,
    admitted: AdmittedEvents,
    field: FeatureInput,
    durations: Durations,
    out: F64,
) -> None:
    """The number over the entity's last one. One word: the last."""
    first_word = memory.first_word
    for i in range(len(admitted.row)):
        state = memory.words[admitted.row[i], first_word : first_word + 1]
        begin_event(state, admitted, i, memory.backup)
        out[i] = np.nan
        if field.active[i] and not isnan(field.number[i]):
            now = abs(field.number[i]) + 0.01
            if state[0] > 0.0:
                out[i] = now / state[0]
            state[0] = now
        undo_unless_learned(state, admitted, i, memory.backup)


AMOUNT_STEP = FeatureKind(
    name="amount_step",
    meaning="a number over the entity's last one",
    update=amount_step,
    words=1,
    reads="number",
    decays=False,
    family="normal",
    side="high",
    shift=0.01,
)
'''
DETECTORS = '''
"""What Acme judges beside Eddy: rushes on the whole shop."""

from math import sqrt

import numpy as np

from detectors.entities import AdmittedEvents
from detectors.numeric.kernels import kernel
from detectors.models.gaussian import surprise_of_normal
from detectors.models.interface import DetectorInput, DetectorOutput, StandaloneSpec
from schemas.columns import F64


class RushSpec(StandaloneSpec, frozen=True, kw_only=True, tag="rush"):
    """More events in this minute than in the minutes before, whoever's they are."""

    memory: float = 60.0

    def build(self, features: int, capacity: int) -> "Rush":
        """Nothing seen yet."""
        return Rush(self.memory)

    def discrete(self) -> bool:
        """Most minutes have few events."""
        return True


class Rush:
    """State: the minute, its events, the mean of the minutes before."""

    def __init__(self, memory: float) -> None:
        self.memory = memory
        self.state = np.zeros(3)

    def process(self, batch: DetectorInput) -> DetectorOutput:
        n = len(batch.admitted.row)
        out = DetectorOutput(np.full(n, np.nan), np.full(n, np.nan), np.full(n, np.nan))
        _process(self.state, self.memory, batch.admitted, out)
        return out

    def save(self) -> dict[str, F64]:
        return {"state": self.state.copy()}

    def load(self, state: dict[str, F64]) -> None:
        self.state[:] = state["state"]


@kernel
def _process(state: F64, memory: float, admitted: AdmittedEvents, out: DetectorOutput) -> None:
    for i in range(len(admitted.row)):
        minute = admitted.time_ms[i] // 60_000.0
        if minute > state[0]:
            state[2] += (state[1] - state[2]) / memory
            state[0] = minute
            state[1] = 0.0
        count = state[1] + 1.0
        if admitted.learn[i]:
            state[1] = count
        mean = max(state[2], 1.0)
        out.value[i] = count
        out.surprise[i] = surprise_of_normal((count - mean) / sqrt(mean))
        out.expected[i] = mean + 2.0 * sqrt(mean)
'''
ENTRY_POINTS = """
[eddy.features]
amount_step = acme_risk.features:AMOUNT_STEP

[eddy.detectors]
rush = acme_risk.detectors:RushSpec
"""
CONFIG = """
[inputs.shop]
topic = "shop"
type = { field = "type" }

[[monitors]]
name = "account"
entity = "account"
inputs = ["shop"]
features = [
  { name = "events_1h", kind = "count", half_life = "1h" },
  { name = "step", kind = "amount_step", field = "amount" },
]
detectors = [
  { kind = "tail" },
  { kind = "rush", name = "shop_rush" },
  { kind = "label_risk", name = "fraud_share" },
]
policy = { p_max = 1e-2, alerts_per_day = 10_000 }
"""
START_MS = 1_772_409_600_000
EVENTS = 4_000


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of installed packages with Acme's in it, as pip would leave it."""
    folder = tmp_path_factory.mktemp("site")
    package = folder / "acme_risk"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "features.py").write_text(FEATURES)
    (package / "detectors.py").write_text(DETECTORS)
    info = folder / "acme_risk-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-risk\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    return folder


def python(site: Path | None, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python in the project's folder, with the package installed or without."""
    path = os.pathsep.join(map(str, [*([site] if site else []), ROOT]))
    command = [sys.executable, *arguments]
    environment = {**os.environ, "PYTHONPATH": path}
    environment.pop("EDDY_REQUIRE_BROKER", None)  # the inner run has no broker test to require
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def events() -> list[dict[str, Any]]:
    """Payments of thirty accounts, some labelled; one suddenly pays a thousand times as much."""
    rng = default_rng(3)
    made: list[dict[str, Any]] = []
    for i in range(EVENTS):
        one = {"event_id": f"e{i}", "time": START_MS + 5_000 * i, "account": f"a{i % 30}"}
        if rng.random() < 0.02:
            said = {"verdict": "honest", "labelled_event_id": f"e{i - 30}"}
            made.append({**one, "type": "label", **said})
        else:
            amount = round(float(rng.lognormal(3, 0.2)), 2)
            made.append({**one, "type": "transaction", "amount": amount})
    made[-1] |= {"type": "transaction", "amount": 1e5}
    return made


@pytest.mark.slow
def test_a_package_adds_a_feature_and_a_detector(site: Path, tmp_path: Path) -> None:
    """Named in a configuration, both run in `eddy replay`, and an alert speaks of them."""
    rows = events()
    config, log, out = tmp_path / "acme.toml", tmp_path / "log.ndjson", tmp_path / "out"
    config.write_text(CONFIG)
    log.write_bytes(b"\n".join(map(orjson.dumps, rows)))
    where = ("--input", f"shop={log}", "--out", str(out))
    done = python(site, "-m", "stream.cli", "replay", str(config), *where)
    assert done.returncode == 0, done.stderr
    summary = orjson.loads((out / "summary.json").read_bytes())
    labels = sum(row["type"] == "label" for row in rows)
    assert summary["adds_up"] == {"account": True}
    assert summary["monitors"]["account"]["labels"] == labels
    assert summary["monitors"]["account"]["scored"] == EVENTS - labels
    scores = pq.read_table(out / "scores.parquet").column("score_account").to_pylist()
    assert len(scores) == EVENTS - labels
    assert None not in scores
    alert = orjson.loads((out / "alerts.ndjson").read_bytes().splitlines()[-1])
    assert alert["evidence"][0]["event_id"] == rows[-1]["event_id"]
    assert alert["contributions"][0]["feature"] == "step"
    said = {one["feature"] for one in alert["contributions"]}
    assert {"shop_rush", "fraud_share"} <= said


@pytest.mark.slow
def test_the_laws_take_in_what_a_package_adds(site: Path) -> None:
    """The law suite finds both by their entry points and runs every law over them."""
    chosen = ("-k", "amount_step or rush or registered", "-q")
    done = python(site, "-m", "pytest", "tests/laws", *chosen)
    assert done.returncode == 0, done.stdout
    assert "test_laws.py" not in done.stdout.partition("short test summary")[2]
    laws = python(site, "-m", "pytest", "tests/laws", "--collect-only", *chosen).stdout
    for law in ("test_batch_cuts_do_not_matter", "test_save_and_load_are_invisible"):
        assert f"{law}[feature-amount_step]" in laws
        assert f"{law}[detector-rush]" in laws


def test_without_the_package_its_names_are_mistakes(tmp_path: Path) -> None:
    """`eddy config check` names both, and where they stand."""
    config = tmp_path / "acme.toml"
    config.write_text(CONFIG)
    done = python(None, "-m", "stream.cli", "config", "check", str(config))
    said = " ".join((done.stdout + done.stderr).split())
    assert done.returncode == 2
    assert "monitors[0].features[1].kind: got amount_step" in said
    assert 'monitors[0].detectors[1].kind: got "rush"' in said
