"""`python -m tests.bench [part …]`: measure, print, and write out/bench.json. All parts without one."""

import argparse
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from tests.bench import (
    checkpoints,
    end_to_end,
    engine,
    exactly_once,
    memory,
    processes,
    replay,
    starting,
)
from tests.bench.figures import Figures

OUT = Path("out/bench.json")
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


def main() -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="part", help=", ".join(PARTS))
    chosen = parser.parse_args().parts or list(PARTS)
    if strange := [part for part in chosen if part not in PARTS]:
        parser.error(f"no part {strange[0]}; there are {', '.join(PARTS)}")
    figures = Figures(Console(width=110))
    for part in chosen:
        figures.say(f"part {part}")
        PARTS[part](figures)
        figures.write(OUT)
    figures.show()


if __name__ == "__main__":
    main()
