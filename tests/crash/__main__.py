"""`make crash`: every point, then seeds drawn at random; a table, and out/crash.json.

    python -m tests.crash [--seeds N] [--points NAME ...]

What fails says what differs, and keeps its logs in out/crash/.
"""

import argparse
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

import orjson
from rich.console import Console
from rich.table import Table

from tests.broker.own_broker import own_broker
from tests.broker.shop import ROOT
from tests.crash.ground import BROKER_SETTINGS, Ground
from tests.crash.points import POINTS

OUT: Final = ROOT / "out"
KEPT: Final = OUT / "crash"
AT_ONCE: Final = max(2, (os.cpu_count() or 2))


class Outcome(NamedTuple):
    """How a point or a seed went; wrong: what differs, empty where nothing does."""

    name: str
    wrong: str
    seconds: float


def run(name: str, story: Callable[[Ground], None], bootstrap: str, work: Path) -> Outcome:
    """Tell one story in a folder of its own, which is kept where it ends badly."""
    folder, begun = work / name, time.monotonic()
    folder.mkdir()
    wrong = ""
    try:
        story(Ground(bootstrap, folder))
    except Exception as error:  # noqa: BLE001 - whatever goes wrong belongs into the table
        wrong = str(error) or repr(error)
        (folder / "wrong.txt").write_text(traceback.format_exc())
        shutil.copytree(folder, KEPT / name, dirs_exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    return Outcome(name, wrong, time.monotonic() - begun)


def run_all(
    stories: dict[str, Callable[[Ground], None]], bootstrap: str, work: Path, console: Console
) -> list[Outcome]:
    """As many at once as there are processors; each is reported when it is over."""

    def one(name: str) -> Outcome:
        outcome = run(name, stories[name], bootstrap, work)
        console.print(f"{'FAILED' if outcome.wrong else 'passed'} {name} ({outcome.seconds:.1f} s)")
        if outcome.wrong:
            console.print(f"{outcome.wrong}\n  logs: {KEPT / name}", markup=False)
        return outcome

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(one, stories))


def main() -> int:
    """Run what was asked for; 1 where anything failed."""
    parser = argparse.ArgumentParser(description="Kill workers, and compare with the oracle.")
    parser.add_argument("--seeds", type=int, default=40, help="how many random schedules")
    parser.add_argument("--points", nargs="*", choices=POINTS, help="only these, and no seeds")
    arguments = parser.parse_args()
    console, begun = Console(), time.monotonic()
    shutil.rmtree(KEPT, ignore_errors=True)
    KEPT.mkdir(parents=True)
    work = KEPT / "running"
    work.mkdir()
    chosen = arguments.points or list(POINTS)
    with own_broker(work / "broker", BROKER_SETTINGS) as broker:
        points = run_all({name: POINTS[name] for name in chosen}, broker.bootstrap, work, console)
    shutil.rmtree(work)
    seconds = time.monotonic() - begun
    table = Table("point", "", "seconds", title="crashes against the oracle")
    for one in points:
        table.add_row(one.name, "FAILED" if one.wrong else "passed", f"{one.seconds:.1f}")
    console.print(table)
    figures = {
        "points_passed": sum(not one.wrong for one in points),
        "points_failed": sum(bool(one.wrong) for one in points),
        "seconds": round(seconds, 1),
    }
    console.print(f"{figures}")
    (OUT / "crash.json").write_bytes(orjson.dumps(figures, option=orjson.OPT_INDENT_2))
    return int(any(one.wrong for one in points))


if __name__ == "__main__":
    sys.exit(main())
