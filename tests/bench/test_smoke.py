"""Each part of `make bench` runs to its end and leaves its figures, at sizes that take seconds.

The code is the targets' own, but processes are forked from a warm one. Left out are starts that
compile every kernel, and other frameworks.
"""

import math
from collections.abc import Callable
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from tests.bench import (
    against,
    checkpoints,
    end_to_end,
    engine,
    exactly_once,
    launching,
    memory,
    processes,
    replay,
    starting,
)
from tests.bench.__main__ import PARTS
from tests.bench.broker import ROOT
from tests.bench.figures import Figures
from tests.bench.profile import TIMED_CALLS

pytestmark = pytest.mark.slow

ON_A_BROKER: dict[str, tuple[Callable[[Figures], None], set[str]]] = {
    "checkpoints": (
        lambda figures: checkpoints.run(
            figures, checkpoints.Sizes(2_000, 500, 1, quiet=2, made=3, relearned=20_000)
        ),
        {"checkpoint_1gib_throughput_loss_pct", "checkpoint_unchanged_pct", "relearn_vs_live"},
    ),
    "eos": (
        lambda figures: exactly_once.run(
            figures,
            exactly_once.Sizes(
                *(1, 30_000, 0, False),
                turns=1,
                before=3_000,
                paced_s=1,
                settled_s=0.0,
                after_s=0.5,
            ),
        ),
        {"eos_loss_pct", "latency_p99_ms", "latency_two_hops_p99_ms"},
    ),
    "kafka": (
        lambda figures: end_to_end.run(
            figures,
            end_to_end.Sizes(
                *(1, 30_000, 0),
                new=100,
                new_at_once=50,
                new_to_river=2,
                warm=1_000,
                warm_up=False,
                others=False,
            ),
        ),
        {"e2e_vs_consume_orjson", "eddy_cpu_s_per_million", "e2e_vs_river_trees_new"},
    ),
    "processes": (
        lambda figures: processes.run(
            figures, processes.Sizes(1, 1, warm_up=2_000, events=4_000, events_six=2_000)
        ),
        {"processes_cpu_ratio", "six_monitors_us_per_event_and_monitor"},
    ),
}
"""By part: its run at tiny sizes, and some of the figures that it must leave."""


@pytest.fixture
def figures() -> Figures:
    """Nothing yet."""
    return Figures(Console(width=110))


def complete(figures: Figures, names: set[str], folder: Path) -> None:
    """The tables print, and the figures are numbers in a flat file."""
    figures.show()
    figures.write(folder / "out" / "bench.json")
    found = orjson.loads((folder / "out" / "bench.json").read_bytes())
    assert names <= found.keys(), figures.notes
    assert all(isinstance(value, float) and math.isfinite(value) for value in found.values())


@pytest.mark.parametrize("part", ON_A_BROKER)
def test_a_part_on_a_broker_runs(
    part: str, broker: str, figures: Figures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From filling its topics to its figures."""
    monkeypatch.setenv("EDDY_TEST_BOOTSTRAP", broker)
    monkeypatch.setattr(launching, "launch", launching.fork_module)
    run, names = ON_A_BROKER[part]
    run(figures)
    complete(figures, names, tmp_path)
    if part == "kafka":
        _, steps = figures.tables["worker, where the time goes"]
        found = {row[0] for row in steps}
        # No alert need come, and so short a run may end before metrics are read for the first time.
        rare = {"alerts, explained", "alerts, encoded", "metrics"}
        assert {label for _, _, label in TIMED_CALLS} - rare <= found


def test_the_engine_beside_river_runs(figures: Figures, tmp_path: Path) -> None:
    """Statistics, trees, and the table of steps."""
    engine.run(
        figures, engine.Sizes(1, 5_000, entities=4, before=2_000, events=500, river_events=500)
    )
    complete(figures, {"engine_vs_river_trees", "features_vs_river_stats"}, tmp_path)


def test_the_engine_beside_another_tree_runs(figures: Figures, tmp_path: Path) -> None:
    """Pairs of processes, here both of this tree: each step has a ratio."""
    against.run(figures, ROOT, against.Sizes(pairs=1, warm_up=10_000, events=10_000))
    names = {f"{step}_cpu_ratio" for step in against.STEPS}
    complete(figures, names, tmp_path)
    assert figures.notes == []


def test_eddy_run_beside_another_tree_runs(
    broker: str, figures: Figures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pairs of workers on one topic, here both of this tree."""
    monkeypatch.setenv("EDDY_TEST_BOOTSTRAP", broker)
    monkeypatch.setattr(launching, "launch", launching.fork_module)
    sizes = end_to_end.Sizes(1, 30_000, 0, new=1, new_at_once=1, warm=1_000, warm_up=False)
    against.run_kafka(figures, ROOT, sizes, pairs=1)
    complete(figures, {"kafka_cpu_ratio", "kafka_cpu_s_per_million"}, tmp_path)


def test_another_tree_that_is_none_is_an_error_with_its_reason(
    figures: Figures, tmp_path: Path
) -> None:
    """The folder, and what its process printed."""
    (tmp_path / "detectors").mkdir()
    (tmp_path / "detectors" / "__init__.py").write_text("raise ImportError('not this project')")
    with pytest.raises(against.OtherTreeError, match=f"{tmp_path}(.|\n)*not this project"):
        against._probe(tmp_path, against.Sizes(1, 10_000, 10_000))


def test_memory_is_measured(
    figures: Figures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Entities with history, and keys rotated through a table."""
    monkeypatch.setattr(launching, "launch", launching.fork_module)
    sizes = memory.Sizes(
        *(2_000, 500, 1_000),
        capacity=1_000,
        known=500,
        rotated=4_000,
        rotated_a_turn=1_000,
        known_a_turn=250,
    )
    memory.run(figures, sizes)
    complete(figures, {"rss_gib_1m", "known_kept_share", "rotation_evictions"}, tmp_path)


def test_replay_is_measured(
    figures: Figures, tmp_path: Path, shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cut of the Handbook's payments, once and two copies long."""
    monkeypatch.setattr(launching, "launch", launching.fork_module)
    folder = shared_data / "transactions"
    events = pq.read_table(folder / "handbook.parquet").slice(0, 4_000)
    labels = pq.read_table(folder / "handbook_labels.parquet")
    known = pc.is_in(labels["transaction_id"], events["transaction_id"].combine_chunks())
    pq.write_table(pa.table(events), tmp_path / "handbook.parquet")
    pq.write_table(labels.filter(known), tmp_path / "handbook_labels.parquet")
    replay.run(figures, replay.Sizes(tmp_path, times_as_long=2))
    complete(figures, {"replay_s", "replay_peak_growth_at_10x"}, tmp_path)


def test_a_start_is_measured(figures: Figures, tmp_path: Path) -> None:
    """A start of this tree, with or without compiled kernels."""
    starting.show(figures, "warm", starting.start(ROOT, {}))
    complete(figures, {"warm_start_s", "warm_start_compiled"}, tmp_path)


def test_a_module_runs_alike_in_a_new_process_and_in_a_fork(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its output comes back, and another exit code than 0 is an error that names it."""
    for launch in (launching.spawn_module, launching.fork_module):
        monkeypatch.setattr(launching, "launch", launch)
        assert b"--slot" in launching.output_of("stream.cli", ["run", "--help"], 60)
        with pytest.raises(launching.ProcessFailedError, match="nothing: exit code 2"):
            launching.output_of("stream.cli", ["nothing"], 60)


def test_every_part_has_its_smoke_test() -> None:
    """A part that is added without one is named here."""
    alone = {"engine", "memory", "replay", "start"}
    assert ON_A_BROKER.keys() | alone == PARTS.keys()


def test_figures_of_other_parts_stay_and_half_a_file_is_replaced(
    figures: Figures, tmp_path: Path
) -> None:
    """Figures of an earlier run stay; the half-written file of a killed run is replaced."""
    path = tmp_path / "bench.json"
    path.write_bytes(b'{"before": 1.0}')
    figures.put("now", 2.0)
    figures.write(path)
    assert orjson.loads(path.read_bytes()) == {"before": 1.0, "now": 2.0}
    path.write_bytes(path.read_bytes()[:10])
    figures.write(path)
    assert orjson.loads(path.read_bytes()) == {"now": 2.0}
