"""Part `eos`: what exactly once costs, and how long an alert takes.

The cost: the worker with its transactions beside the same worker that publishes at least once (see
`at_least_once`), in turns. The latency: from an event's sending to its alert in the hands of a
read_committed consumer, all clocks being one; for a monitor that reads its topic, and for one that
reads an internal topic.
"""

import os
import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread
from typing import Any, Final, NamedTuple

import numpy as np
import orjson
from confluent_kafka import OFFSET_END, Consumer, Producer, TopicPartition

from schemas.columns import F64
from tests.bench import broker, end_to_end, launching
from tests.bench.broker import WAIT_MAX_S
from tests.bench.end_to_end import DEFAULT, EDDY, Bench, Topic
from tests.bench.events import document, monitor_document, payments, skewed, toml
from tests.bench.figures import Figures
from tests.bench.timing import TimeSpent

AT_LEAST_ONCE: Final = "tests.bench.at_least_once"
ENTITIES: Final = 20_000
RATE_PER_S: Final = 2_000


class Sizes(NamedTuple):
    """How much is measured. pairs, events: of the cost, and warm: events of the worker that loads
    every kernel, if it does; turns: of the latency. before: events before its clock runs, as fast as
    it goes, so that there are models to alert; paced_s: its seconds at an even rate, of which the
    first settled_s do not count, since the worker comes out of its catching up; after_s: how long
    alerts are still awaited."""

    pairs: int = 5
    events: int = 800_000
    warm: int = 30_000
    warm_up: bool = True
    turns: int = 3
    before: int = 60_000
    paced_s: int = 30
    settled_s: float = 2.0
    after_s: float = 2.0


FULL: Final = Sizes()
MANY_ALERTS: Final[dict[str, Any]] = {"p_max": 0.01, "alerts_per_day": 1e9, "incident_gap": "1s"}


def run(figures: Figures, sizes: Sizes = FULL) -> None:
    """Both on one broker; the machine's load is said, since it is in every figure."""
    with ExitStack() as stack:
        try:
            bootstrap = stack.enter_context(broker.running_broker())
        except broker.NoBrokerError as error:
            figures.notes.append(f"part eos did not run: {error}")
            return
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="eddy-bench-")))
        events = {
            "many": payments(skewed(ENTITIES, sizes.events, 3), 3, 4_000),
            "warm": payments(skewed(50, sizes.warm, 6), 6, 4_000),
        }
        topics = {
            name: Topic(broker.unused_name(f"bench-{name}"), own) for name, own in events.items()
        }
        bench = Bench(bootstrap, folder, topics)
        loads = [os.getloadavg()[0]]
        _cost(figures, bench, sizes)
        loads.append(os.getloadavg()[0])
        _latency(figures, bench, sizes)
        loads.append(os.getloadavg()[0])
    before, between, after = loads
    figures.notes.append(
        f"load of the machine ({os.cpu_count()} cores), the bench's own included: {before:.1f} "
        f"before, {between:.1f} behind the throughputs, {after:.1f} behind the latencies"
    )


def _cost(figures: Figures, bench: Bench, sizes: Sizes) -> None:
    """Pairs, each the other way round than the one before."""
    for topic in bench.topics.values():
        broker.fill(bench.bootstrap, topic.name, topic.events)
    sides = {"exactly once": EDDY, "at least once": AT_LEAST_ONCE}
    took: dict[str, list[TimeSpent]] = {name: [] for name in sides}
    for module in sides.values() if sizes.warm_up else ():
        bench.eddy("warm", DEFAULT, module)
    for pair in range(sizes.pairs):
        for name in sorted(sides, reverse=bool(pair % 2)):
            took[name].append(bench.eddy("many", DEFAULT, sides[name]))
        figures.say(f"exactly and at least once, pair {pair + 1} of {sizes.pairs}")
    for name, spent in took.items():
        figures.rate(f"Eddy end to end, {name}, commits at 100 ms", spent)
    pairs = list(zip(took["exactly once"], took["at least once"], strict=True))
    figures.spread(
        "eos_loss_pct", [100.0 * (1.0 - eos.per_s / plain.per_s) for eos, plain in pairs]
    )
    figures.spread(
        "eos_cpu_more_pct",
        [100.0 * (eos.cpu_s_per_million / plain.cpu_s_per_million - 1.0) for eos, plain in pairs],
    )


def _latency(figures: Figures, bench: Bench, sizes: Sizes) -> None:
    """One hop and two, in turns; a further hop's is the difference of the two."""
    took: dict[bool, list[F64]] = {False: [], True: []}
    for turn in range(sizes.turns):
        for over_internal, turns in took.items():
            turns.append(_latencies_ms(bench, over_internal, sizes))
        figures.say(f"latency, turn {turn + 1} of {sizes.turns}")
    header = ("event → alert, ms", "alerts", "p50", "p99", "longest")
    p99 = {}
    for over_internal, turns in took.items():
        p50, p99[over_internal] = (
            [float(np.percentile(one, share)) for one in turns] for share in (50, 99)
        )
        name = "latency_two_hops" if over_internal else "latency"
        figures.spread(f"{name}_p50_ms", p50)
        figures.spread(f"{name}_p99_ms", p99[over_internal])
        whole = np.concatenate(turns)
        cells = (f"{np.percentile(whole, share):,.0f}" for share in (50, 99, 100))
        what = "over an internal topic" if over_internal else "from its topic"
        figures.row("latency", header, what, f"{len(whole):,}", *cells)
    extra_latency = [two - one for one, two in zip(p99[False], p99[True], strict=True)]
    figures.spread("latency_internal_topic_p99_ms", extra_latency)


def _latencies_ms(bench: Bench, over_internal: bool, sizes: Sizes) -> F64:
    """float64[n]: of each alert on the paced events, in the order of their arrival."""
    name = f"latency-{time.time_ns()}"
    config = _configuration(bench, name, over_internal)
    broker.make_topics(bench.bootstrap, name)
    if over_internal:
        launching.output_of(EDDY, ["topics", "create", str(config)], WAIT_MAX_S)
    gap_ms = 1000 / RATE_PER_S
    start_ms = round(time.time() * 1000 - sizes.before * gap_ms)
    warm_up = payments(skewed(ENTITIES, sizes.before, 8), 8, gap_ms, start_ms=start_ms)
    broker.fill(bench.bootstrap, name, warm_up)
    log = f"{name}-account-events" if over_internal else name
    with (
        end_to_end.worker(config) as process,
        broker.consumer(bench.bootstrap, name) as group,
        broker.consumer(bench.bootstrap, f"{name}-reader") as reader,
    ):
        _wait_until_read(group, [name, log], config)
        reader.assign([TopicPartition("bench-alerts", 0, OFFSET_END)])
        reader.poll(1.0)
        done = Event()
        took: list[float] = []
        since_ms = 1000 * (time.time() + sizes.settled_s)
        thread = Thread(target=_read, args=(reader, since_ms, done, took))
        thread.start()
        try:
            _send(bench.bootstrap, name, sizes)
            time.sleep(sizes.after_s)
        finally:
            done.set()
            thread.join()
        assert process.poll() is None, config.with_suffix(".log").read_text()
    return np.array(took)


def _configuration(bench: Bench, name: str, over_internal: bool) -> Path:
    monitor = monitor_document(100_000, DEFAULT) | {"policy": MANY_ALERTS}
    written = document(
        [monitor | {"partitions": 1} if over_internal else monitor],
        *(name, name),
        kafka={"bootstrap.servers": bench.bootstrap},
        worker={"http_port": 0, "commit_interval": "100ms"},
        checkpoints={"url": str(bench.folder / "store")},
    )
    path = bench.folder / f"{name}.toml"
    path.write_text(toml(written))
    return path


def _wait_until_read(group: Consumer, topics: list[str], config: Path) -> None:
    """Until all of the first topic is committed, and then all that is in the others."""
    for topic in topics:
        scaled = TopicPartition(topic, 0)
        deadline = time.monotonic() + WAIT_MAX_S
        while not broker.is_caught_up(group, [scaled]):
            assert time.monotonic() < deadline, config.with_suffix(".log").read_text()
            time.sleep(0.1)


def _send(bootstrap: str, topic: str, sizes: Sizes) -> None:
    """Events that say when they were sent, at an even rate."""
    count = RATE_PER_S * sizes.paced_s
    events = payments(skewed(ENTITIES, count, 9), 9, 1.0, first=sizes.before)
    events.time_ms[:] = 0
    lines = list(events.lines())
    producer = Producer({"bootstrap.servers": bootstrap, "log_level": 2, "linger.ms": 0})
    began = time.monotonic()
    for i, (key, value) in enumerate(lines):
        while (early_s := began + i / RATE_PER_S - time.monotonic()) > 0:
            time.sleep(max(early_s, 0.002))
        now_ms = int(time.time() * 1000)
        producer.produce(topic, value.replace(b'"time":0', b'"time":%d' % now_ms), key)
        producer.poll(0)
    assert producer.flush(WAIT_MAX_S) == 0, topic


def _read(reader: Consumer, since_ms: float, done: Event, took: list[float]) -> None:
    """Milliseconds from each alert's event to now, of events sent since then."""
    while not done.is_set():
        message = reader.poll(0.1)
        if message is None or message.error() is not None:
            continue
        now_ms = time.time() * 1000
        sent_ms = orjson.loads(message.value() or b"")["event_time_ms"]
        if sent_ms >= since_ms:
            took.append(now_ms - sent_ms)
