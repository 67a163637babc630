"""Measure, print, and write out/bench.json: the parts that are named, or all.

    python -m tests.bench [part …]
    python -m tests.bench engine|kafka --against FOLDER

With --against, processor time is compared with that of another tree of this project, such as a
checkout of an earlier commit.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from tests.bench import (
    against,
    checkpoints,
    end_to_end,
    engine,
    exactly_once,
    memory,
    processes,
    replay,
    starting,
)
from tests.bench.broker import ROOT
from tests.bench.figures import Figures

OUT = ROOT / "out" / "bench.json"
PARTS: dict[str, Callable[[Figures], None]] = {
    "checkpoints": checkpoints.run,
    "engine": engine.run,
    "eos": exactly_once.run,
    "kafka": end_to_end.run,
    "memory": memory.run,
    "processes": processes.run,
    "replay": replay.run,
    "start": starting.run,
}

AGAINST: dict[str, Callable[[Figures, Path], None]] = {
    "engine": against.run,
    "kafka": against.run_kafka,
}


def main() -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench")
    parser.add_argument("parts", nargs="*", metavar="part", help=", ".join(PARTS))
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="the other tree")
    asked = parser.parse_args()
    chosen = asked.parts or list(PARTS)
    if asked.against and not set(chosen) <= set(AGAINST):
        parser.error(f"--against FOLDER compares {' and '.join(AGAINST)}, named before it")
    if strange := [part for part in chosen if part not in PARTS]:
        parser.error(f"no part {strange[0]}; there are {', '.join(PARTS)}")
    figures = Figures(Console(width=110))
    for part in chosen:
        figures.say(f"part {part}")
        if asked.against:
            AGAINST[part](figures, asked.against)
        else:
            PARTS[part](figures)
        figures.write(OUT)
    figures.show()


if __name__ == "__main__":
    main()
