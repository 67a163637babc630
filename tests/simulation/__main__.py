"""`make simulate`: seeds, each a schedule of faults, in parallel; a table, and out/simulate.json.

    python -m tests.simulation [--seeds N] [--from SEED] [--seed SEED] [--bugs]

--seed runs one seed again and prints its schedule and the end of its trace. --bugs puts each of ten
bugs in, and prints how many seeds it takes to find it.
"""

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from random import Random
from statistics import median
from typing import Final

import orjson
from rich.console import Console
from rich.table import Table

from tests.simulation.bugs import BUGS
from tests.simulation.run import Outcome, simulate
from tests.simulation.schedule import draw

OUT: Final = Path(__file__).resolve().parents[2] / "out"
SEEDS: Final = 1_000
TRACE_LINES: Final = 60
PROGRESS_S: Final = 5.0
FAILURES_SHOWN: Final = 20


def command(seed: int) -> str:
    """What repeats a seed."""
    return f"python -m tests.simulation --seed {seed}"


def run_one(seed: int, console: Console) -> bool:
    """Run a seed and show all about it; whether it passed."""
    outcome = simulate(seed, keep_trace=True)
    console.print(f"seed {seed}: {draw(Random(seed))}", highlight=False, markup=False)
    for line in outcome.trace[-TRACE_LINES:]:
        console.print(line, highlight=False, markup=False)
    console.print(f"trace {outcome.digest}; {outcome.cpu_s / outcome.reference_s:.1f} × reference")
    for problem in outcome.problems:
        console.print(f"FAILED {problem}", highlight=False, markup=False)
    return not outcome.problems


def run_many(seeds: range, console: Console) -> bool:
    """Run seeds in parallel, print a table and write out/simulate.json; whether all passed."""
    simulate(seeds[0])  # compiles what all processes need
    began = shown_at = time.monotonic()
    outcomes: list[Outcome] = []
    with multiprocessing.get_context("fork").Pool(os.cpu_count()) as pool:
        for outcome in pool.imap_unordered(simulate, seeds, chunksize=4):
            outcomes.append(outcome)
            if outcome.problems:
                show_failure(outcome, console)
            if time.monotonic() - shown_at >= PROGRESS_S:
                shown_at = time.monotonic()
                failed = sum(bool(one.problems) for one in outcomes)
                console.print(f"{len(outcomes):,} of {len(seeds):,} seeds, {failed} failed")
    minutes = (time.monotonic() - began) / 60
    figures = figures_of(outcomes, minutes)
    OUT.mkdir(exist_ok=True)
    (OUT / "simulate.json").write_bytes(orjson.dumps(figures, option=orjson.OPT_INDENT_2))
    table = Table("figure", "value")
    for name, value in figures.items():
        table.add_row(name, f"{value:,}")
    console.print(table)
    return not figures["seeds_failed"]


def show_failure(outcome: Outcome, console: Console) -> None:
    """Print what is wrong with a seed, and the command that repeats it."""
    lines = "\n  ".join(outcome.problems[:FAILURES_SHOWN])
    console.print(
        f"seed {outcome.seed} failed:\n  {lines}\n  repeat: {command(outcome.seed)}",
        highlight=False,
        markup=False,
    )


def figures_of(outcomes: Iterable[Outcome], minutes: float) -> dict[str, float]:
    """What out/simulate.json holds. cpu_vs_reference: median CPU time of a run as a multiple of
    that of its reference run."""
    found = list(outcomes)
    failed = sum(bool(one.problems) for one in found)
    return {
        "seeds_passed": len(found) - failed,
        "seeds_failed": failed,
        "per_minute": round(len(found) / minutes),
        "cpu_vs_reference": round(median(one.cpu_s / one.reference_s for one in found), 2),
    }


def find_bugs(seeds: range, console: Console) -> bool:
    """Print how many seeds each bug takes to be found; whether all are."""
    table = Table("bug", "seeds needed", "found by")
    missed = 0
    for name, bug in BUGS.items():
        failing = (one for one in (simulate(seed, bug) for seed in seeds) if one.problems)
        found = next(failing, None)
        missed += found is None
        needed = "not found" if found is None else str(found.seed - seeds[0] + 1)
        table.add_row(name, needed, found.problems[0] if found else f"{len(seeds)} seeds pass")
    console.print(table, markup=False)
    return not missed


def main() -> int:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="how many seeds (default 1000)")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first seed")
    parser.add_argument("--seed", type=int, help="run this seed alone and print its trace")
    parser.add_argument("--bugs", action="store_true", help="put bugs in and count seeds")
    arguments = parser.parse_args()
    console = Console(soft_wrap=True)
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    if arguments.seed is not None:
        passed = run_one(arguments.seed, console)
    elif arguments.bugs:
        passed = find_bugs(seeds, console)
    else:
        passed = run_many(seeds, console)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
