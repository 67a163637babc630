"""`make quality`: runs the parts (all, or those named) and prints one table with bars and remarks.

    python -m tests.quality [part …] [--against FILE]

Labelled sets, without labels: the models see events alone, and labels only judge; payments also with
labels that come a week late, as their sets say. Sets go through `replay` with the ready
configurations; KDD's points, which are no events, straight into a monitor. And `calibration`: the
honesty of p on made-up payments (`tests.quality.calibration`). Each part's module says which part of
its data settings were chosen on, and what was looked at.

Beside each figure stand simple bases (`tests.quality.bases`): the same figure of one feature, a fixed
rule or accumulated evidence, on the same rows, and Eddy's less it, as a paired difference on the same
draws of the bootstrap. Where labels are used, there is a batch model too, which decides nothing.

Writes out/quality.json, which holds the parts of the last run: each figure, and its 95 % interval as
`<key>_low` and `<key>_high` (`tests.quality.intervals`); beside them `<key>_best_simple_base` and
`<key>_batch`, likewise. With --against, the figures are compared with such a file of an earlier run:
worse is a figure beyond its former interval on the bad side. The exit code is 1 where a bar is missed,
a figure is worse, or a figure is below its best simple base by the whole paired interval. The file is
written in any case.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import orjson
from rich.console import Console
from rich.table import Table

from tests.quality import calibration, logins, nab, payments, points, signups, traffic, web_services
from tests.quality.figures import Row, regressions, table_lines
from tests.quality.replay_file import DATA, ROOT

PARTS: Final[dict[str, Callable[[Path], list[Row]]]] = {
    "handbook": payments.handbook,
    "sparkov": payments.sparkov,
    "http": points.http,
    "smtp": points.smtp,
    "web_bots": traffic.web_bots,
    "crawlers": traffic.crawlers,
    "scan": traffic.scan,
    "sshd": logins.sshd,
    "signups": signups.signups,
    "nab": nab.nab,
    "web_services": web_services.web_services,
}
"""What is measured on labelled data. `calibration` needs none."""
CALIBRATION: Final = "calibration"


def main(
    arguments: list[str],
    data: Path = DATA,
    sizes: calibration.Sizes = calibration.FULL,
    out: Path = ROOT / "out",
) -> int:
    """Run the chosen parts, or all that can be run here; 1 where a bar is missed, a simple base is
    better, or a figure is worse than in the file that it is compared with. sizes: of `calibration`."""
    every = [*PARTS, CALIBRATION]
    parser = argparse.ArgumentParser(prog="python -m tests.quality")
    parser.add_argument("parts", nargs="*", metavar="part", help=", ".join(every))
    parser.add_argument("--against", type=Path, metavar="FILE", help="figures of an earlier run")
    asked = parser.parse_args(arguments)
    if unknown := [part for part in asked.parts if part not in every]:
        parser.error(f"no part {unknown[0]}; there are {', '.join(every)}")
    before = orjson.loads(asked.against.read_bytes()) if asked.against else None
    console = Console()
    out.mkdir(exist_ok=True)
    rows: list[Row] = []
    for name in asked.parts or every:
        if name != CALIBRATION and not data.is_dir():
            console.print(f"{name} left out: no labelled data, there is no folder {data}")
            continue
        console.print(f"running {name} …")
        rows += calibration.calibration_rows(sizes) if name == CALIBRATION else PARTS[name](data)
        write(out, rows)
    show(console, rows)
    worse = False
    for line, is_worse in regressions(rows, before) if before is not None else ():
        console.print(line, markup=False, highlight=False, soft_wrap=True)
        worse |= is_worse
    below = [row.key for row in rows if row.below_base()]
    if below:
        console.print(f"below the best simple base: {', '.join(below)}")
    return int(worse or bool(below) or not all(row.reached() for row in rows))


def write(out: Path, rows: list[Row]) -> None:
    """The figures so far: a part that fails takes away no other's."""
    figures = {key: value for row in rows for key, value in row.figures().items()}
    (out / "quality.json").write_bytes(orjson.dumps(figures, option=orjson.OPT_INDENT_2))


def show(console: Console, rows: list[Row]) -> None:
    """The table."""
    table = Table(title="quality")
    for heading in ("what", "figure (95 %)", "Eddy less it (paired 95 %)", "bar", "remarks"):
        table.add_column(heading)
    for row in rows:
        for line in table_lines(row):
            table.add_row(*line)
    console.print(table)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
