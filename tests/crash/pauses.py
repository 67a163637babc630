"""How long a shop stands still when a broker of three, or a worker of two, is killed under load, or
all workers are started anew, one after the other.

Events come in all the time, on every partition; a pause is the longest time in which a partition's
committed offset does not move. The pauses are reported, not judged; that nothing is lost or doubled
is.
"""

import os
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, pairwise
from threading import Event, Thread
from typing import Final

from confluent_kafka import Consumer, KafkaException, TopicPartition

from stream.kafka.writing import Feed
from tests.broker.own_broker import own_broker
from tests.broker.shop import Shop, WorkerProcess, workers
from tests.crash.ground import (
    BROKER_SETTINGS,
    Ground,
    finish_and_check,
    made,
    open_shop,
)
from tests.crash.processes import forked, wait_for

EVENTS: Final = 6_000
STREAMS: Final = 14
"""Simulated streams, one behind the other: each holds attacks."""
CHUNK: Final = 20
CHUNK_S: Final = 0.05
PARTITIONS: Final = 4
SHARDS: Final = 8
"""Partitions of the topic that a fleet shares."""

STEADY_S: Final = 4.0
IN_FLIGHT_S: Final = 0.5
"""A commit that is seen within so long after a kill may have been made before it."""
USUAL: Final[dict[str, object]] = {"transaction.timeout.ms": 30_000, "session.timeout.ms": 6_000}
"""What a user has, and the shortest session that a broker grants by default."""
LASTING: Final[dict[str, dict[str, object]]] = {
    "classic": USUAL,
    "consumer": {"transaction.timeout.ms": 30_000},
}
"""By protocol: of a new one sessions are the broker's business."""


@contextmanager
def load_on(shop: Shop, seed: int = 7) -> Iterator[None]:
    """About 350 events a second, as long as the block lasts, and a little malformed."""
    stop = Event()
    failed: list[Exception] = []

    def send() -> None:
        streams = (made(EVENTS, seed * STREAMS + k, spans_ago=STREAMS - k) for k in range(STREAMS))
        writer = Feed({"bootstrap.servers": shop.bootstrap}, shop.topic, "murmur2")
        try:
            for number, line in enumerate(chain.from_iterable(streams)):
                writer.send(line.key, line.value)
                if number % CHUNK == 0 and stop.wait(CHUNK_S):
                    break
            writer.close()
        except Exception as error:  # noqa: BLE001 - raised where the load is waited for
            failed.append(error)

    thread = Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    if failed:
        raise failed[0]


@dataclass
class Watch:
    """When each partition's committed offset moved."""

    shop: Shop
    moved_at: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    _stop: Event = field(default_factory=Event)

    def run(self) -> None:
        """Ask until told to stop; while no broker answers nothing is known to move."""
        before: dict[int, int] = {}
        asked = [TopicPartition(self.shop.topic, p) for p in range(self.shop.partitions)]
        # A read_committed client is not told while a transaction is open, and here one always is.
        names = {"bootstrap.servers": self.shop.bootstrap, "group.id": self.shop.group}
        with closing(Consumer({**names, "isolation.level": "read_uncommitted"})) as client:
            while not self._stop.wait(0.02):
                try:
                    found = client.committed(asked, timeout=2)
                except KafkaException:
                    continue
                for one in found:
                    if one.offset > before.get(one.partition, -1):
                        before[one.partition] = one.offset
                        self.moved_at[one.partition].append(time.monotonic())

    def wait_until_all_go_on(self, since: float) -> None:
        """Return a little after every partition has moved again."""
        wait_for(
            lambda: all(moved[-1] > since + IN_FLIGHT_S for moved in self.moved_at.values()),
            "partitions to go on",
        )
        time.sleep(STEADY_S)

    def longest_s(self, since: float, partitions: set[int]) -> float:
        """The longest pause after that moment, of those partitions' worst."""
        return max(self._longest_s(since, self.moved_at[one]) for one in partitions)

    def _longest_s(self, since: float, moved_at: list[float]) -> float:
        moments = [since, *(at for at in moved_at if at > since), time.monotonic()]
        return max(b - a for a, b in pairwise(moments))

    def stop(self) -> None:
        """No more."""
        self._stop.set()


@contextmanager
def watched(shop: Shop) -> Iterator[Watch]:
    """The watch, in a thread of its own."""
    watch = Watch(shop)
    thread = Thread(target=watch.run)
    thread.start()
    try:
        yield watch
    finally:
        watch.stop()
        thread.join()


EVERYWHERE: Final = set(range(PARTITIONS))


def three_brokers(ground: Ground) -> None:
    """One of three brokers is killed and comes back under load; two workers outlast it."""
    with own_broker(ground.folder / "three", BROKER_SETTINGS, nodes=3) as brokers:
        own = Ground(brokers.bootstrap, ground.folder, ground.measured)
        shop = open_shop(own, "three brokers", PARTITIONS, kafka=USUAL, worker={})
        with load_on(shop), watched(shop) as watch, forked(shop, "a") as a, forked(shop, "b") as b:
            wait_for(lambda: watch.moved_at.keys() >= EVERYWHERE, "commits", a, b)
            time.sleep(STEADY_S)
            began = time.monotonic()
            ground.measured("three_brokers_steady_s", watch.longest_s(began - 2, EVERYWHERE))
            brokers.kill_one()
            watch.wait_until_all_go_on(began)
            ground.measured("three_brokers_pause_s", watch.longest_s(began, EVERYWHERE))
            assert a.alive(), a.log_file
            assert b.alive(), b.log_file
            assert (a.stop(), b.stop()) == (0, 0)
        finish_and_check(shop)


def two_workers(ground: Ground) -> None:
    """One of two workers is killed under load and nobody starts it again."""
    shop = open_shop(ground, "two workers", PARTITIONS, kafka=USUAL, worker={})
    with load_on(shop), watched(shop) as watch, forked(shop, "a") as a, forked(shop, "b") as b:
        wait_for(lambda: len(a.owned()) == len(b.owned()) == 2, "two partitions each", a, b)
        time.sleep(STEADY_S)
        survivors = {partition for _, partition in b.owned()}
        began = time.monotonic()
        a.stop(signal.SIGKILL)
        watch.wait_until_all_go_on(began)
        tell(ground, "without_restart", watch, began, survivors)
        assert b.stop() == 0
    finish_and_check(shop)


def two_supervised(protocol: str, ground: Ground) -> None:
    """One of two workers is killed under load; the supervisor starts it again into its slot."""
    shop = open_shop(ground, f"supervised {protocol}", PARTITIONS, protocol, kafka=USUAL, worker={})
    with load_on(shop), watched(shop) as watch, workers(shop, 2) as both:
        wait_for(lambda: shares(both) == [2, 2], "two partitions each")
        wait_for(lambda: watch.moved_at.keys() >= EVERYWHERE, "commits")
        time.sleep(STEADY_S)
        survivors = owned(both)["shop-1"]
        began = time.monotonic()
        os.kill(started(both, "shop-0")[-1], signal.SIGKILL)
        watch.wait_until_all_go_on(began)
        tell(ground, f"supervised_{protocol}", watch, began, survivors)
        assert both.stop() == 0
    finish_and_check(shop)


def rolling_restart(protocol: str, fleets: Sequence[int], ground: Ground) -> None:
    """So many processes, then so many on the same eight partitions: all are somebody's, in equal
    shares; under load every worker is stopped in turn, and its supervisor starts it again."""
    shop = open_shop(
        ground, f"rolling {protocol}", SHARDS, protocol, kafka=LASTING[protocol], worker={}
    )
    for processes in fleets:
        even = [SHARDS // processes] * processes
        with (
            load_on(shop, seed=processes),
            watched(shop) as watch,
            workers(shop, processes) as fleet,
        ):
            wait_for(lambda f=fleet, e=even: shares(f) == e, "equal shares")  # type: ignore[misc]
            wait_for(lambda w=watch: len(w.moved_at) == SHARDS, "commits")  # type: ignore[misc]
            time.sleep(STEADY_S)
            began = time.monotonic()
            for slot in sorted(owned(fleet)):
                start_anew(fleet, slot)
                wait_for(lambda f=fleet, e=even: shares(f) == e, "equal shares")  # type: ignore[misc]
            watch.wait_until_all_go_on(time.monotonic())
            pause_s = watch.longest_s(began, set(range(SHARDS)))
            ground.measured(f"rolling_restart_{protocol}_{processes}_pause_s", pause_s)
            assert fleet.stop() == 0
        codes = [line["code"] for line in fleet.log() if line["event"] == "worker ended"]
        assert codes == [0] * (2 * processes), f"{codes}: {fleet.log_file}"
        finish_and_check(shop)


def start_anew(fleet: WorkerProcess, slot: str) -> None:
    """Stop the worker of a slot as an operator does, and wait for its successor."""
    before = started(fleet, slot)
    os.kill(before[-1], signal.SIGTERM)
    wait_for(lambda: len(started(fleet, slot)) > len(before), f"a successor in {slot}")


def started(fleet: WorkerProcess, slot: str) -> list[int]:
    """The process ids of the supervised workers that have been in a slot, one after the other."""
    return [line["pid"] for line in fleet.log() if line.get("worker") == slot and "pid" in line]


def shares(fleet: WorkerProcess) -> list[int]:
    """How many partitions each slot's worker has now; empty where one is two workers'."""
    found = list(owned(fleet).values())
    held = [where for some in found for where in some]
    return [] if len(held) > len(set(held)) else [len(some) for some in found]


def owned(fleet: WorkerProcess) -> dict[str, set[int]]:
    """The partitions of each supervised worker now, by slot."""
    found: dict[str, set[int]] = {}
    for line in fleet.log():
        match line["event"]:
            case "starting":
                found[line["slot"]] = set()
            case "partition taken":
                found[line["slot"]].add(line["partition"])
            case "partition given back" | "partition lost":
                found[line["slot"]].discard(line["partition"])
    return found


def tell(ground: Ground, how: str, watch: Watch, began: float, survivors: set[int]) -> None:
    """The pauses of the killed worker's partitions, and of those of the one that survives."""
    killed = EVERYWHERE - survivors
    ground.measured(f"worker_killed_{how}_its_pause_s", watch.longest_s(began, killed))
    ground.measured(f"worker_killed_{how}_survivor_pause_s", watch.longest_s(began, survivors))


PAUSES: Final[dict[str, Callable[[Ground], None]]] = {
    "three-brokers": three_brokers,
    "two-workers-without-restart": two_workers,
    "two-workers-supervised": partial(two_supervised, "classic"),
    "two-workers-supervised-static": partial(two_supervised, "static"),
    "rolling-restart": partial(rolling_restart, "classic", (2, 4)),
    "rolling-restart-consumer": partial(rolling_restart, "consumer", (4,)),
}
"""What `--points` may name, too; told one after the other, since others would be measured as well."""
