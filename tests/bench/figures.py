"""What a run of the bench finds: figures by name, and the tables in which they are shown."""

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np
import orjson
from rich.console import Console
from rich.table import Table

from schemas.columns import F64
from tests.bench.timing import TimeSpent

TARGETS: Final[dict[str, tuple[str, float]]] = {
    "features_vs_river_stats": ("at least", 15.0),
    "engine_vs_river_trees": ("at least", 40.0),
    "engine_cpu_ratio": ("at most", 1.05),
    "kafka_cpu_ratio": ("at most", 1.03),
    "e2e_vs_consume_orjson": ("at least", 0.30),
    "e2e_vs_quix": ("at least", 5.0),
    "e2e_vs_river_trees_new": ("at least", 300.0),
    "rss_gib_1m": ("at most", 8.0),
    "known_kept_share": ("at least", 0.99),
    "warm_start_compiled": ("at most", 0.0),
    "checkpoint_1gib_throughput_loss_pct": ("at most", 10.0),
    "checkpoint_longest_batch_ratio": ("at most", 5.0),
    "checkpoint_unchanged_pct": ("at most", 1.0),
    "relearn_vs_live": ("at least", 1.2),
    "eos_loss_pct": ("at most", 10.0),
    "latency_p99_ms": ("at most", 150.0),
    "latency_internal_topic_p99_ms": ("at most", 150.0),
    "processes_cpu_ratio": ("at most", 1.15),
    "replay_peak_growth_at_10x": ("at most", 0.20),
}
"""What is to be reached, by figure."""

Row = tuple[str, ...]


class Figures:
    """Collects figures and tables; knows how repetitions become a median with its spread."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.values: dict[str, float] = {}
        self.tables: dict[str, tuple[Row, list[Row]]] = {}
        self.notes: list[str] = []
        self._started_s = time.monotonic()

    def say(self, text: str) -> None:
        """Progress, with the seconds since the start."""
        self.console.print(f"[dim]{time.monotonic() - self._started_s:5.0f} s  {text}")

    def put(self, name: str, value: float) -> None:
        """One figure; six significant digits."""
        self.values[name] = float(f"{value:.6g}")

    def spread(self, name: str, values: Sequence[float]) -> None:
        """A figure that was measured several times: median, least and largest."""
        self.put(name, median(values))
        self.put(f"{name}_min", min(values))
        self.put(f"{name}_max", max(values))

    def ratio(self, name: str, ours: Sequence[float], theirs: Sequence[float]) -> None:
        """How many times theirs is ours, turn by turn."""
        self.spread(name, [a / b for a, b in zip(ours, theirs, strict=True)])

    def row(self, table: str, header: Row, *cells: str) -> None:
        """One more row of a table."""
        self.tables.setdefault(table, (header, []))[1].append(cells)

    def rate(self, what: str, took: Sequence[TimeSpent]) -> None:
        """One more row of the table of rates."""
        per_s = [one.per_s for one in took]
        cpu_s_per_million = [one.cpu_s_per_million for one in took]
        header = ("what", "events/s", "least … largest", "CPU s per million")
        cells = (f"{median(per_s):,.0f}", f"{min(per_s):,.0f} … {max(per_s):,.0f}")
        self.row("side by side", header, what, *cells, f"{median(cpu_s_per_million):.2f}")

    def steps(self, table: str, seconds: dict[str, F64], events: int) -> None:
        """A table of what each step took. seconds: wall and computing, by step."""
        header = ("step", "µs an event", "share", "of it computing")
        whole = sum(seconds.values(), start=np.zeros(2))
        for step, (wall_s, cpu_s) in (seconds | {"all": whole}).items():
            cells = (f"{1e6 * wall_s / events:.3f}", f"{wall_s / whole[0]:.0%}")
            self.row(table, header, step, *cells, f"{1e6 * cpu_s / events:.3f}")

    def show(self) -> None:
        """Print the tables, the figures that have a bar, and the notes."""
        bars = ("figure", "found", "least … largest", "bar", "")
        for name, value in self.values.items():
            if name.endswith(("_min", "_max")):
                continue
            span = ""
            if f"{name}_min" in self.values:
                span = f"{self.values[f'{name}_min']:,.3g} … {self.values[f'{name}_max']:,.3g}"
            kind, bar = TARGETS.get(name, ("", 0.0))
            reached = value >= bar if kind == "at least" else value <= bar
            verdict = ("reached" if reached else "SHORT") if kind else ""
            self.row(
                "figures",
                bars,
                name,
                f"{value:,.4g}",
                span,
                f"{kind} {bar:g}" * bool(kind),
                verdict,
            )
        for title, (header, rows) in self.tables.items():
            table = Table(title=title, title_justify="left")
            for i, column in enumerate(header):
                table.add_column(column, justify="left" if i == 0 else "right")
            for row in rows:
                table.add_row(*row)
            self.console.print(table)
        for note in self.notes:
            self.console.print(note)

    def write(self, path: Path) -> None:
        """Flat JSON, name → number; figures of parts that did not run now stay as they were."""
        path.parent.mkdir(parents=True, exist_ok=True)
        before = {}
        with suppress(FileNotFoundError, orjson.JSONDecodeError):  # a killed run leaves half a file
            before = orjson.loads(path.read_bytes())
        path.write_bytes(orjson.dumps(before | self.values, option=orjson.OPT_INDENT_2) + b"\n")
