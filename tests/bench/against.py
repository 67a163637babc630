"""Parts `engine` and `kafka` with --against: processor time beside another tree of this project.

Pairs of processes, one in each tree, in alternating order, process the same events under the same
configuration: `engine` runs one script (`tree_probe`), `kafka` each tree's `eddy run` on a broker. A
process of each tree runs first and does not count, so that kernels are compiled. The ratio of a pair
is this tree's processor time divided by the other's.
"""

import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Final, NamedTuple

import orjson

from tests.bench import broker, end_to_end
from tests.bench.broker import ROOT
from tests.bench.figures import Figures
from tests.bench.timing import TimeSpent

SCRIPT: Final = (Path(__file__).parent / "tree_probe.py").read_text()
WAIT_MAX_S: Final = 900
STEPS: Final = {
    "engine": "a monitor on columns",
    "decode": "JSON records to columns, checked",
    "shard": "JSON records to alerts, one shard",
}


class Sizes(NamedTuple):
    """How much is measured. warm_up: events before the clock runs; events: of each step."""

    pairs: int = 10
    warm_up: int = 100_000
    events: int = 400_000


FULL: Final = Sizes()


class OtherTreeError(Exception):
    """The script does not run in a tree; the message is what it printed."""


def run(figures: Figures, other: Path, sizes: Sizes = FULL) -> None:
    """Measure in pairs, and show each pair's ratios."""
    trees = {"this": ROOT, "other": other.resolve()}
    made = {_probe(tree, sizes)["events"] for tree in set(trees.values())}
    assert len(made) == 1, "the two trees' tests.bench.events make different events"
    figures.say("kernels of both trees compiled")
    took: dict[str, list[dict[str, Any]]] = {name: [] for name in trees}
    for pair in range(sizes.pairs):
        for name in sorted(trees, reverse=bool(pair % 2)):
            took[name].append(_probe(trees[name], sizes))
        ours, theirs = took["this"][-1]["cpu_s"], took["other"][-1]["cpu_s"]
        ratios = {step: ours[step] / theirs[step] for step in STEPS}
        header = ("pair", *STEPS)
        figures.row(
            f"against {other}", header, f"{pair + 1}", *(f"{x:.3f}" for x in ratios.values())
        )
        figures.say(f"pair {pair + 1} of {sizes.pairs}")
    compiled = sum(one["compiled"] for some in took.values() for one in some)
    if compiled:
        figures.notes.append(f"{compiled} kernels were compiled in measured processes")
    header = ("CPU s per million events", "this tree", "other tree")
    for step, meaning in STEPS.items():
        cpu = {
            name: [1e6 * one["cpu_s"][step] / sizes.events for one in some]
            for name, some in took.items()
        }
        figures.row("both trees", header, meaning, *(f"{median(x):.3f}" for x in cpu.values()))
        figures.ratio(f"{step}_cpu_ratio", cpu["this"], cpu["other"])
        figures.put(f"{step}_cpu_s_per_million", median(cpu["this"]))
        figures.put(f"{step}_other_cpu_s_per_million", median(cpu["other"]))


def run_kafka(
    figures: Figures,
    other: Path,
    sizes: end_to_end.Sizes = end_to_end.FULL,
    pairs: int = FULL.pairs,
) -> None:
    """`eddy run` of both trees on one topic, in pairs, and the interval of the median ratio."""
    trees = {"this": ROOT, "other": other.resolve()}
    with ExitStack() as stack:
        try:
            bootstrap = stack.enter_context(broker.running_broker())
        except broker.NoBrokerError as error:
            figures.notes.append(f"part kafka did not run: {error}")
            return
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="eddy-bench-")))
        topics = {
            name: topic
            for name, topic in end_to_end.topics(sizes).items()
            if name in {"many", "warm"}
        }
        bench = end_to_end.Bench(bootstrap, folder, topics)
        for topic in topics.values():
            broker.fill(bootstrap, topic.name, topic.events)
        for tree in trees.values() if sizes.warm_up else ():
            bench.eddy("warm", end_to_end.DEFAULT, tree=tree)
        took: dict[str, list[TimeSpent]] = {name: [] for name in trees}
        for pair in range(pairs):
            for name in sorted(trees, reverse=bool(pair % 2)):
                took[name].append(bench.eddy("many", end_to_end.DEFAULT, tree=trees[name]))
            figures.say(f"eddy run, pair {pair + 1} of {pairs}")
    for name, spent in took.items():
        figures.rate(f"Eddy end to end, {name} tree", spent)
    cpu = {name: [one.cpu_s_per_million for one in spent] for name, spent in took.items()}
    figures.ratio("kafka_cpu_ratio", cpu["this"], cpu["other"])
    figures.put("kafka_cpu_s_per_million", median(cpu["this"]))
    figures.put("kafka_other_cpu_s_per_million", median(cpu["other"]))


def _probe(tree: Path, sizes: Sizes) -> dict[str, Any]:
    """What the script prints in a process with that tree's modules."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(sizes.warm_up), str(sizes.events)],
        cwd=tree,
        capture_output=True,
        text=True,
        timeout=WAIT_MAX_S,
        check=False,
    )
    if done.returncode:
        raise OtherTreeError(f"{tree}: {done.stderr}")
    found: dict[str, Any] = orjson.loads(done.stdout.splitlines()[-1])
    return found
