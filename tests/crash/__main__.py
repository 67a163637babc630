"""`make crash`: every point, then seeds drawn at random; a table, and out/crash.json.

    python -m tests.crash [--seeds N] [--points NAME ...] [--seed SEED ...]

With --points only those, and seeds only where they are asked for; with --points alone no point,
and with --seed no point that is not asked for.
What fails says what differs, and keeps its logs in out/crash/.
"""

import argparse
import os
import shutil
import sys
import time
import traceback
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Final, NamedTuple

import orjson
from rich.console import Console
from rich.table import Table

from tests.broker.own_broker import OwnBroker, own_broker
from tests.broker.shop import ROOT
from tests.crash.environment import BROKER_SETTINGS, Environment
from tests.crash.injected_bugs import INJECTED_BUGS
from tests.crash.pauses import PAUSES
from tests.crash.scenarios import POINTS, Scenario
from tests.crash.schedules import REGRESSIONS, restarts_broker, scenario_of

CONCURRENT: Final = POINTS | INJECTED_BUGS
OUT: Final = ROOT / "out"
SEEDS: Final = 40
PARALLEL: Final = (os.cpu_count() or 2) + 1
"""Stories told at once: much of their time they wait for a time-out."""


class Outcome(NamedTuple):
    """How a point or a seed went; wrong: what differs, empty where nothing does."""

    name: str
    difference: str
    seconds: float


class Runner:
    """Tells stories on one broker, those of seeds that restart it on another, one at a time."""

    def __init__(
        self,
        broker: OwnBroker,
        restarted_broker: OwnBroker,
        work: Path,
        failed_folder: Path,
        console: Console,
    ) -> None:
        self._broker, self._restarted_broker = broker, restarted_broker
        self._work, self._failed_folder, self._console = work, failed_folder, console
        self._restarting = Lock()
        self.figures: dict[str, float] = {}

    def _record_figure(self, name: str, value: float) -> None:
        self.figures[name] = round(value, 2)
        self._console.print(f"{name} = {value:.2f}")

    def points(self, names: list[str]) -> list[Outcome]:
        """The outcomes of the points; those that measure come last, one by one."""
        concurrent = [name for name in names if name in CONCURRENT]
        sequential = [name for name in names if name in PAUSES]
        with ThreadPoolExecutor(PARALLEL) as pool:
            found = list(
                pool.map(lambda n: self._run_scenario(n, CONCURRENT[n], self._broker), concurrent)
            )
        return found + [self._run_scenario(name, PAUSES[name], self._broker) for name in sequential]

    def seeds(self, seeds: Iterable[int]) -> list[Outcome]:
        """The outcomes of the seeds."""
        with ThreadPoolExecutor(PARALLEL) as pool:
            return list(pool.map(self._seed, seeds))

    def _seed(self, seed: int) -> Outcome:
        if not restarts_broker(seed):
            return self._run_scenario(f"seed-{seed}", scenario_of(seed), self._broker)
        with self._restarting:
            return self._run_scenario(
                f"seed-{seed}", scenario_of(seed, self._restarted_broker), self._restarted_broker
            )

    def _run_scenario(self, name: str, scenario: Scenario, broker: OwnBroker) -> Outcome:
        """Tell it in a folder of its own, which is kept where it ends badly."""
        folder, begun, difference = self._work / name, time.monotonic(), ""
        folder.mkdir()
        shutil.rmtree(self._failed_folder / name, ignore_errors=True)
        try:
            scenario(Environment(broker.bootstrap, folder, self._record_figure))
        except Exception as error:  # noqa: BLE001 - whatever goes wrong belongs into the table
            difference = "\n".join([str(error) or repr(error), *getattr(error, "__notes__", [])])
            (folder / "wrong.txt").write_text(traceback.format_exc())
            shutil.copytree(folder, self._failed_folder / name)
        shutil.rmtree(folder)
        seconds = time.monotonic() - begun
        self._console.print(f"{'FAILED' if difference else 'passed'} {name} ({seconds:.1f} s)")
        if difference:
            self._console.print(f"{difference}\n  logs: {self._failed_folder / name}", markup=False)
        return Outcome(name, difference, seconds)


def main(arguments: list[str], out: Path = OUT) -> int:
    """Run what was asked for; 1 where anything failed."""
    parser = argparse.ArgumentParser(description="Kill workers, and compare with the oracle.")
    parser.add_argument(
        "--points", nargs="*", choices=CONCURRENT | PAUSES, help="only these, by default all"
    )
    parser.add_argument("--seeds", type=int, help=f"how many random schedules (default: {SEEDS})")
    parser.add_argument(
        "--seed", type=int, nargs="+", help="these seeds, and points that are named"
    )
    points, seeds = selected(parser.parse_args(arguments))
    console, begun = Console(), time.monotonic()
    out.mkdir(exist_ok=True)
    with ExitStack() as stack:
        work = Path(stack.enter_context(TemporaryDirectory(prefix="eddy-crash-")))
        broker = stack.enter_context(own_broker(work / "broker", BROKER_SETTINGS))
        restarted_broker = broker
        if any(map(restarts_broker, seeds)):
            restarted_broker = stack.enter_context(own_broker(work / "fragile", BROKER_SETTINGS))
        runner = Runner(broker, restarted_broker, work, out / "crash", console)
        outcomes = {"points": runner.points(points), "seeds": runner.seeds(seeds)}
    figures = {
        f"{what}_{how}": sum(bool(one.difference) == (how == "failed") for one in found)
        for what, found in outcomes.items()
        for how in ("passed", "failed")
    }
    show(console, outcomes)
    seconds = round(time.monotonic() - begun, 1)
    console.print(f"{figures}, {seconds} s")
    (out / "crash.json").write_bytes(
        orjson.dumps({**figures, "seconds": seconds, **runner.figures}, option=orjson.OPT_INDENT_2)
    )
    return int(figures["points_failed"] + figures["seeds_failed"] > 0)


def selected(arguments: argparse.Namespace) -> tuple[list[str], list[int]]:
    """The points and the seeds to run, seeds that failed once before all others."""
    if arguments.seed:
        return arguments.points or [], arguments.seed
    only_points = arguments.points is not None and arguments.seeds is None
    count = 0 if only_points else SEEDS if arguments.seeds is None else arguments.seeds
    regressions = REGRESSIONS if count else ()
    others = [seed for seed in range(1, count + 1) if seed not in regressions]
    return (
        [*CONCURRENT, *PAUSES] if arguments.points is None else arguments.points,
        [*regressions, *others],
    )


def show(console: Console, outcomes: dict[str, list[Outcome]]) -> None:
    """The table."""
    table = Table("what", "", "seconds", title="crashes against the oracle")
    for one in (one for found in outcomes.values() for one in found):
        table.add_row(one.name, "FAILED" if one.difference else "passed", f"{one.seconds:.1f}")
    console.print(table)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
