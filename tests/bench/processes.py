"""Part `processes`: what it costs to share a topic among processes, and to watch six entity types.

All workers start once and stay. What is measured is put into a topic by one transaction, so that
it is there at once for workers that have everything loaded and every partition in hand.
"""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Final, NamedTuple

import orjson
from confluent_kafka import Consumer, Producer, TopicPartition

from stream.config import load
from stream.config.stage_graph import logs
from stream.config.topology import Log
from tests.bench import broker, launching
from tests.bench.broker import WAIT_MAX_S
from tests.bench.end_to_end import DEFAULT, EDDY
from tests.bench.events import TEXTS, Payments, document, monitor_document, payments, skewed, toml
from tests.bench.figures import Figures
from tests.bench.timing import TimeSpent, cpu_s

PARTITIONS: Final = 8
INTERNAL_PARTITIONS: Final = 2
ENTITIES: Final = 20_000
CAPACITY: Final = 20_000


class Sizes(NamedTuple):
    """How much is measured. warm_up: events before the first pair or turn; events: of a side of a
    pair; events_six: of a turn with six monitors."""

    pairs: int = 4
    turns: int = 3
    warm_up: int = 100_000
    events: int = 300_000
    events_six: int = 60_000


FULL: Final = Sizes()
CHANGES: Final = {"partition taken": 1, "partition revoked": -1, "partition lost": -1}
"""What a worker's log says of how many partitions it has."""


def run(figures: Figures, sizes: Sizes = FULL) -> None:
    """Fleets of one process and of two in turns; then one process with six monitors."""
    with ExitStack() as stack:
        try:
            bootstrap = stack.enter_context(broker.running_broker())
        except broker.NoBrokerError as error:
            figures.notes.append(f"part processes did not run: {error}")
            return
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="eddy-bench-")))
        broker.make_outputs(bootstrap)
        one_us = _sharing(figures, bootstrap, folder, sizes)
        _six(figures, bootstrap, folder, one_us, sizes)


def _sharing(figures: Figures, bootstrap: str, folder: Path, sizes: Sizes) -> float:
    """Processor time of one process and of two; of one, in µs an event."""
    warm_up, each = sizes.warm_up, sizes.events
    events = payments(skewed(ENTITIES, warm_up + sizes.pairs * each, 3), 3, 4_000)
    took: dict[int, list[TimeSpent]] = {1: [], 2: []}
    with ExitStack() as stack:
        fleets: dict[int, Fleet] = {}
        for processes in took:  # one after the other: the first compiles what is not compiled yet
            config = _configured(bootstrap, folder, f"of-{processes}", TEXTS[:1])
            fleets[processes] = stack.enter_context(fleet(config, processes))
            fleets[processes].wait_until_shared()
            fleets[processes].take(events.slice(0, warm_up))
        figures.say("one process and two have everything loaded")
        for pair in range(sizes.pairs):
            first = warm_up + pair * each
            for processes in sorted(took, reverse=bool(pair % 2)):
                load_ = events.slice(first, first + each)
                took[processes].append(fleets[processes].take(load_))
            figures.say(f"one process and two, pair {pair + 1} of {sizes.pairs}")
    cpu = {n: [one.cpu_s_per_million for one in spent] for n, spent in took.items()}
    for n, spent in took.items():
        what = f"Eddy end to end, 8 partitions, {n} process{'es' * (n > 1)}"
        figures.rate(what, spent)
        figures.spread(f"processes_{n}_cpu_s_per_million", cpu[n])
    figures.ratio("processes_cpu_ratio", cpu[2], cpu[1])
    return median(cpu[1])


def _six(figures: Figures, bootstrap: str, folder: Path, one_us: float, sizes: Sizes) -> None:
    """route and watch in one worker: the account's monitor reads the topic, five read theirs."""
    warm_up, each = sizes.warm_up, sizes.events_six
    events = payments(skewed(ENTITIES, warm_up + sizes.turns * each, 4), 4, 4_000)
    with fleet(_configured(bootstrap, folder, "six", TEXTS), 1) as one:
        one.wait_until_shared()
        one.take(events.slice(0, warm_up))
        figures.say("six monitors have everything loaded")
        starts = range(warm_up, len(events), each)
        took = [one.take(events.slice(start, start + each)) for start in starts]
    cpu = [spent.cpu_s_per_million for spent in took]
    figures.rate("the same, 1 process, 6 monitors, 5 over internal topics", took)
    figures.spread("six_monitors_us_per_event_and_monitor", [us / len(TEXTS) for us in cpu])
    figures.put("one_monitor_us_per_event_and_monitor", one_us)


def _configured(bootstrap: str, folder: Path, name: str, entities: Sequence[str]) -> Path:
    """A configuration with a monitor for each of these entities, and its topics; its path."""
    group = f"bench-{name}-{time.time_ns()}"
    broker.make_topics(bootstrap, group, partitions=PARTITIONS)
    written = document(
        [_monitor(entity) for entity in entities],
        *(group, group),
        kafka={"bootstrap.servers": bootstrap},
        worker={"http_port": 0, "commit_interval": "100ms"},
        checkpoints={"url": str(folder / "store")},
    )
    written["inputs"]["bench"] |= {
        "partitions": PARTITIONS,
        "keyed_by": TEXTS[0],
        "partitioner": "murmur2",
    }
    path = folder / f"{group}.toml"
    path.write_text(toml(written))
    if any(log.internal for log in logs(load(path))):
        launching.output_of(EDDY, ["topics", "create", str(path)], WAIT_MAX_S)
    return path


def _monitor(entity: str) -> dict[str, Any]:
    """The account's monitor, of another entity: all but its own way are internal."""
    over = {} if entity == TEXTS[0] else {"partitions": INTERNAL_PARTITIONS}
    return monitor_document(CAPACITY, DEFAULT) | {"name": entity, "entity": entity} | over


@dataclass
class Fleet:
    """Processes that share a group. process: the supervisor, or the only worker. reads: every log
    that they read, internal ones last."""

    process: launching.Process
    processes: int
    config: Path
    bootstrap: str
    group: Consumer
    reads: list[Log]

    def take(self, events: Payments) -> TimeSpent:
        """What the processes spend on events that come at once, until all of them are committed."""
        with self._writing() as producer:
            broker.write(producer, self.reads[0].topic, events)
            wall, cpu = time.perf_counter(), self._cpu_s()
            producer.commit_transaction(WAIT_MAX_S)
        for log in self.reads:  # an internal one is whole when what is read before it is committed
            self._wait_until_read(log)
        return TimeSpent(len(events), time.perf_counter() - wall, self._cpu_s() - cpu)

    def wait_until_shared(self) -> None:
        """Until every process has its share of the partitions."""
        deadline = time.monotonic() + WAIT_MAX_S
        share = sum(log.partitions for log in self.reads) // self.processes
        while list(self._held().values()) != [share] * self.processes:
            self._check(deadline)

    @contextmanager
    def _writing(self) -> Iterator[Producer]:
        """A producer in a transaction that nobody sees anything of before it commits."""
        producer = Producer(
            {
                "bootstrap.servers": self.bootstrap,
                "log_level": 2,
                "compression.type": "zstd",
                "linger.ms": 20,
                "partitioner": "murmur2_random",
                "queue.buffering.max.messages": 1_000_000,
                "transactional.id": f"{self.config.stem}-load",
                "transaction.timeout.ms": int(WAIT_MAX_S * 1000),
            }
        )
        producer.init_transactions(WAIT_MAX_S)
        producer.begin_transaction()
        yield producer

    def _wait_until_read(self, log: Log) -> None:
        deadline = time.monotonic() + WAIT_MAX_S
        places = [TopicPartition(log.topic, p) for p in range(log.partitions)]
        while not broker.is_caught_up(self.group, places):
            self._check(deadline)

    def _held(self) -> Counter[str]:
        """How many partitions the worker of each slot has, as it says."""
        held: Counter[str] = Counter()
        for line in self._log():
            held[line.get("slot", "")] += CHANGES.get(line.get("event", ""), 0)
        return +held

    def _log(self) -> list[dict[str, Any]]:
        """The log's lines; the last one may still be being written."""
        lines = self.config.with_suffix(".log").read_bytes().splitlines(keepends=True)
        return [orjson.loads(one) for one in lines if one[:1] == b"{" and one.endswith(b"}\n")]

    def _check(self, deadline: float) -> None:
        failed = self.process.poll() is not None or time.monotonic() > deadline
        assert not failed, self.config.with_suffix(".log").read_text()
        time.sleep(0.01)

    def _workers(self) -> list[int]:
        """Those that the supervisor has started, or the only process itself."""
        if self.processes == 1:
            return [self.process.pid]
        return [line["pid"] for line in self._log() if line.get("event") == "worker started"]

    def _cpu_s(self) -> float:
        return sum(map(cpu_s, self._workers()))


@contextmanager
def fleet(config: Path, processes: int) -> Iterator[Fleet]:
    """Workers that log beside their configuration; asked to stop at the end."""
    own = ["--processes", str(processes)] if processes > 1 else []
    arguments = ["run", str(config), "--slot", "bench", *own]
    process = launching.start_module(EDDY, arguments, config.with_suffix(".log"))
    loaded = load(config)
    bootstrap = str(loaded.kafka["bootstrap.servers"])
    reads = sorted(logs(loaded), key=lambda log: log.internal)
    try:
        with broker.consumer(bootstrap, config.stem) as group:
            yield Fleet(process, processes, config, bootstrap, group, reads)
        process.terminate()
        process.wait(WAIT_MAX_S)
    finally:
        process.kill()
        process.wait()
