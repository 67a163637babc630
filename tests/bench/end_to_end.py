"""Part `kafka`: Eddy end to end on a real broker, beside plain reading and other frameworks.

Every rate is of the stretch from the first records done to the last: no start-up, no compiling.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, NamedTuple

from confluent_kafka import TopicPartition

from tests.bench import broker, engine, frameworks, launching, profile
from tests.bench.broker import WAIT_MAX_S
from tests.bench.events import (
    RIVER_TREES,
    Payments,
    document,
    monitor_document,
    payments,
    skewed,
    toml,
    visits,
)
from tests.bench.figures import Figures
from tests.bench.timing import TimeSpent, cpu_s

EDDY: Final = "stream.cli"
TAIL: Final[dict[str, Any]] = {"kind": "tail"}
DEFAULT: Final[list[dict[str, Any]]] = [TAIL, {"kind": "half_space_trees"}]
"""The default detectors; with them calibration, combination, policy and explanation."""
RIVER_SIZE: Final = [TAIL, RIVER_TREES | {"min_events": 0}]
OTHERS: Final = {"quix": ("Quix Streams", "quix_zscore.py")} | {
    "bytewax": ("Bytewax", "bytewax_zscore.py")
}


class Sizes(NamedTuple):
    """How much is measured. many, fewer: events of these topics; new: accounts with 100 events each,
    of which so many are active at a time; warm_up: whether workers load every kernel first; others:
    whether the other frameworks take part."""

    turns: int = 3
    many: int = 1_200_000
    fewer: int = 200_000
    new: int = 6_000
    new_at_once: int = 500
    new_to_river: int = engine.NEW_ENTITIES
    warm: int = 30_000
    warm_up: bool = True
    others: bool = True


FULL: Final = Sizes()


@dataclass
class Topic:
    """A topic and what is in it."""

    name: str
    events: Payments


def topics(sizes: Sizes) -> dict[str, Topic]:
    """many: 20,000 accounts, some busy. fewer: the same kind, for what is slow. new: every account
    has 100 events. warm: just enough to compile and cache every kernel."""
    made = {
        "many": payments(skewed(20_000, sizes.many, 3), 3, 4_000),
        "fewer": payments(skewed(20_000, sizes.fewer, 4), 4, 4_000),
        "new": payments(visits(sizes.new, 100, sizes.new_at_once, 5), 5, 4_000),
        "warm": payments(skewed(50, sizes.warm, 6), 6, 4_000),
    }
    return {
        name: Topic(broker.unused_name(f"bench-{name}"), events) for name, events in made.items()
    }


def run(figures: Figures, sizes: Sizes = FULL) -> None:
    """Fill the topics once; then measure in turns."""
    with ExitStack() as stack:
        try:
            bootstrap = stack.enter_context(broker.running_broker())
        except broker.NoBrokerError as error:
            figures.notes.append(f"part kafka did not run: {error}")
            return
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="eddy-bench-")))
        bench = Bench(bootstrap, folder, topics(sizes))
        for topic in bench.topics.values():
            broker.fill(bootstrap, topic.name, topic.events)
        figures.say("topics filled")
        for detectors in (DEFAULT, RIVER_SIZE) if sizes.warm_up else ():
            bench.eddy("warm", detectors)
        figures.say("kernels compiled")
        others = _installed(figures) if sizes.others else []
        _side_by_side(figures, bench, others, sizes.turns)
        _new_entities(figures, bench, sizes)
        path = bench.configuration("many", DEFAULT)
        profile.run(figures, path, bench.configuration("warm", DEFAULT))


def _installed(figures: Figures) -> list[str]:
    try:
        frameworks.install()
    except frameworks.NotAvailableError as error:
        figures.notes.append(f"Quix Streams and Bytewax are not compared: {error}")
        return []
    return list(OTHERS)


def _side_by_side(figures: Figures, bench: "Bench", others: list[str], turns: int) -> None:
    took: dict[str, list[TimeSpent]] = {name: [] for name in ("consume", "eddy", *others)}
    many, fewer = bench.topics["many"], bench.topics["fewer"]
    for turn in range(turns):
        plain = broker.consume_and_load(bench.bootstrap, many.name, len(many.events))
        took["consume"].append(plain)
        took["eddy"].append(bench.eddy("many", DEFAULT))
        for name in list(others):
            try:
                took[name].append(
                    frameworks.measure(
                        *(OTHERS[name][1], bench.bootstrap, fewer.name, "bench-out"),
                        *(len(fewer.events), bench.folder),
                    )
                )
            except frameworks.NotAvailableError as error:
                figures.notes.append(f"{OTHERS[name][0]} is not compared: {error}")
                others.remove(name)
        figures.say(f"end to end, turn {turn + 1} of {turns}")
    shown = {"consume": "consume(10_000) + orjson.loads"} | {
        "eddy": "Eddy end to end, exactly once at 100 ms",
        "quix": "Quix Streams, z-score, exactly once at 100 ms",
        "bytewax": "Bytewax, z-score, recovery at 1 s",
    }
    for name in ("consume", "eddy", *others):
        figures.rate(shown[name], took[name])
        figures.spread(f"{name}_per_s", [one.per_s for one in took[name]])
        figures.spread(f"{name}_cpu_s_per_million", [one.cpu_s_per_million for one in took[name]])
    rate = {name: [one.per_s for one in took[name]] for name in took}
    figures.ratio("e2e_vs_consume_orjson", rate["eddy"], rate["consume"])
    for name in others:
        figures.ratio(f"e2e_vs_{name}", rate["eddy"], rate[name])


def _new_entities(figures: Figures, bench: "Bench", sizes: Sizes) -> None:
    ours, theirs = [], []
    for turn in range(sizes.turns):
        ours.append(bench.eddy("new", RIVER_SIZE))
        theirs.append(engine.new_entities(figures, sizes.new_to_river))
        figures.say(f"new entities, turn {turn + 1} of {sizes.turns}")
    figures.rate("Eddy end to end, 10 × 8, 100 events an account", ours)
    of = f"{sizes.new_to_river} new accounts, 100 events each"
    figures.rate(f"River, trees 10 × 8, {of}", theirs)
    pairs = ([one.per_s for one in side] for side in (ours, theirs))
    figures.ratio("e2e_vs_river_trees_new", *pairs)


@dataclass
class Bench:
    """The broker, a folder for what belongs to this run, and the topics, which are made here."""

    bootstrap: str
    folder: Path
    topics: dict[str, Topic]

    def __post_init__(self) -> None:
        broker.make_outputs(self.bootstrap)
        broker.make_topics(self.bootstrap, *(topic.name for topic in self.topics.values()))

    def configuration(self, topic: str, detectors: list[dict[str, Any]]) -> Path:
        """A configuration with a group of its own, in a file."""
        group = f"bench-{time.time_ns()}"
        path = self.folder / f"{group}.toml"
        written = document(
            [monitor_document(100_000, detectors)],
            *(self.topics[topic].name, group),
            kafka={"bootstrap.servers": self.bootstrap},
            worker={"http_port": 0, "commit_interval": "100ms"},
            checkpoints={"url": str(self.folder / "store")},
        )
        path.write_text(toml(written))
        return path

    def eddy(
        self,
        topic: str,
        detectors: list[dict[str, Any]],
        module: str = EDDY,
        tree: Path = broker.ROOT,
    ) -> TimeSpent:
        """What `eddy run` of a tree takes for the topic, from its first commit to its last; where one commit
        holds all, from its start."""
        config = self.configuration(topic, detectors)
        events = len(self.topics[topic].events)
        scaled = [TopicPartition(self.topics[topic].name, 0)]
        with (
            worker(config, module, tree) as process,
            broker.consumer(self.bootstrap, config.stem) as client,
        ):
            started = 0, time.perf_counter(), cpu_s(process.pid)
            begun: tuple[int, float, float] | None = None
            deadline = time.monotonic() + WAIT_MAX_S
            while True:
                [done] = broker.committed(client, scaled)
                failed = process.poll() is not None or time.monotonic() > deadline
                assert not failed, config.with_suffix(".log").read_text()
                now = time.perf_counter(), cpu_s(process.pid)
                if begun is None and done > 0:
                    begun = (done, *now) if done < events else started
                if begun is not None and done >= events:
                    return TimeSpent(events - begun[0], now[0] - begun[1], now[1] - begun[2])
                time.sleep(0.01)


@contextmanager
def worker(
    config: Path, module: str = EDDY, tree: Path = broker.ROOT
) -> Iterator[launching.Process]:
    """A worker process that logs beside its configuration; asked to stop at the end."""
    arguments = ["run", str(config), "--slot", "bench"]
    process = launching.start_module(module, arguments, config.with_suffix(".log"), tree)
    try:
        yield process
        process.terminate()
        process.wait(WAIT_MAX_S)
    finally:
        process.kill()
        process.wait()
