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

from stream.kafka.sink import PlainProducer
from tests.broker.own_broker import own_broker
from tests.broker.shop import Shop, WorkerProcess, workers
from tests.crash.environment import (
    BROKER_SETTINGS,
    Environment,
    finish_and_check,
    make_crash_shop,
    simulated_lines,
)
from tests.crash.processes import running_worker, wait_for

EVENTS: Final = 6_000
STREAMS: Final = 14
"""Simulated streams, one behind the other: each holds attacks."""
CHUNK: Final = 20
CHUNK_S: Final = 0.05
PARTITIONS: Final = 4
SHARDS: Final = 8
"""Partitions of the topic that a fleet shares."""

STABLE_S: Final = 4.0
IN_FLIGHT_S: Final = 0.5
"""A commit that is seen within so long after a kill may have been made before it."""
DEFAULT_TIMEOUTS: Final[dict[str, object]] = {
    "transaction.timeout.ms": 30_000,
    "session.timeout.ms": 6_000,
}
"""What a user has, and the shortest session that a broker grants by default."""
TIMEOUTS_BY_PROTOCOL: Final[dict[str, dict[str, object]]] = {
    "classic": DEFAULT_TIMEOUTS,
    "consumer": {"transaction.timeout.ms": 30_000},
}
"""By protocol: of a new one sessions are the broker's business."""


@contextmanager
def under_load(shop: Shop, seed: int = 7) -> Iterator[None]:
    """About 350 events a second, as long as the block lasts, and a little malformed."""
    stop = Event()
    failed: list[Exception] = []

    def send() -> None:
        streams = (simulated_lines(EVENTS, seed * STREAMS + k) for k in range(STREAMS))
        writer = PlainProducer({"bootstrap.servers": shop.bootstrap}, shop.topic, "murmur2")
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
class CommitRecorder:
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

    def wait_until_all_move(self, since: float) -> None:
        """Return a little after every partition has moved again."""
        wait_for(
            lambda: all(moved[-1] > since + IN_FLIGHT_S for moved in self.moved_at.values()),
            "partitions to go on",
        )
        time.sleep(STABLE_S)

    def longest_pause_s(self, since: float, partitions: set[int]) -> float:
        """The longest pause after that moment, of those partitions' worst."""
        return max(self._longest_pause_s(since, self.moved_at[one]) for one in partitions)

    def _longest_pause_s(self, since: float, moved_at: list[float]) -> float:
        moments = [since, *(at for at in moved_at if at > since), time.monotonic()]
        return max(b - a for a, b in pairwise(moments))

    def stop(self) -> None:
        """No more."""
        self._stop.set()


@contextmanager
def recorded_commits(shop: Shop) -> Iterator[CommitRecorder]:
    """The watch, in a thread of its own."""
    commits = CommitRecorder(shop)
    thread = Thread(target=commits.run)
    thread.start()
    try:
        yield commits
    finally:
        commits.stop()
        thread.join()


ALL_PARTITIONS: Final = set(range(PARTITIONS))


def three_brokers(environment: Environment) -> None:
    """One of three brokers is killed and comes back under load; two workers outlast it."""
    with own_broker(environment.folder / "three", BROKER_SETTINGS, nodes=3) as brokers:
        own = Environment(brokers.bootstrap, environment.folder, environment.record_figure)
        shop = make_crash_shop(own, "three brokers", PARTITIONS, kafka=DEFAULT_TIMEOUTS, worker={})
        with (
            under_load(shop),
            recorded_commits(shop) as commits,
            running_worker(shop, "a") as a,
            running_worker(shop, "b") as b,
        ):
            wait_for(lambda: commits.moved_at.keys() >= ALL_PARTITIONS, "commits", a, b)
            time.sleep(STABLE_S)
            began_s = time.monotonic()
            environment.record_figure(
                "three_brokers_steady_s", commits.longest_pause_s(began_s - 2, ALL_PARTITIONS)
            )
            brokers.kill_second()
            commits.wait_until_all_move(began_s)
            environment.record_figure(
                "three_brokers_pause_s", commits.longest_pause_s(began_s, ALL_PARTITIONS)
            )
            assert a.is_alive(), a.log_file
            assert b.is_alive(), b.log_file
            assert (a.stop(), b.stop()) == (0, 0)
        finish_and_check(shop)


def two_workers(environment: Environment) -> None:
    """One of two workers is killed under load and nobody starts it again."""
    shop = make_crash_shop(
        environment, "two workers", PARTITIONS, kafka=DEFAULT_TIMEOUTS, worker={}
    )
    with (
        under_load(shop),
        recorded_commits(shop) as commits,
        running_worker(shop, "a") as a,
        running_worker(shop, "b") as b,
    ):
        wait_for(
            lambda: len(a.owned_partitions()) == len(b.owned_partitions()) == 2,
            "two partitions each",
            a,
            b,
        )
        time.sleep(STABLE_S)
        survivors = {partition for _, partition in b.owned_partitions()}
        began_s = time.monotonic()
        a.stop(signal.SIGKILL)
        commits.wait_until_all_move(began_s)
        record_pauses(environment, "without_restart", commits, began_s, survivors)
        assert b.stop() == 0
    finish_and_check(shop)


def two_supervised(protocol: str, environment: Environment) -> None:
    """One of two workers is killed under load; the supervisor starts it again into its slot."""
    shop = make_crash_shop(
        environment,
        f"supervised {protocol}",
        PARTITIONS,
        protocol,
        kafka=DEFAULT_TIMEOUTS,
        worker={},
    )
    with under_load(shop), recorded_commits(shop) as commits, workers(shop, 2) as both:
        wait_for(lambda: partition_counts(both) == [2, 2], "two partitions each")
        wait_for(lambda: commits.moved_at.keys() >= ALL_PARTITIONS, "commits")
        time.sleep(STABLE_S)
        survivors = owned_partitions(both)["shop-1"]
        began_s = time.monotonic()
        os.kill(pids_started(both, "shop-0")[-1], signal.SIGKILL)
        commits.wait_until_all_move(began_s)
        record_pauses(environment, f"supervised_{protocol}", commits, began_s, survivors)
        assert both.stop() == 0
    finish_and_check(shop)


def rolling_restart(protocol: str, fleets: Sequence[int], environment: Environment) -> None:
    """So many processes, then so many on the same eight partitions: all are somebody's, in equal
    shares; under load every worker is stopped in turn, and its supervisor starts it again."""
    shop = make_crash_shop(
        environment,
        f"rolling {protocol}",
        SHARDS,
        protocol,
        kafka=TIMEOUTS_BY_PROTOCOL[protocol],
        worker={},
    )
    for processes in fleets:
        even = [SHARDS // processes] * processes
        with (
            under_load(shop, seed=processes),
            recorded_commits(shop) as commits,
            workers(shop, processes) as fleet,
        ):
            wait_for(lambda f=fleet, e=even: partition_counts(f) == e, "equal shares")  # type: ignore[misc]
            wait_for(lambda w=commits: len(w.moved_at) == SHARDS, "commits")  # type: ignore[misc]
            time.sleep(STABLE_S)
            began_s = time.monotonic()
            for slot in sorted(owned_partitions(fleet)):
                restart_worker(fleet, slot)
                wait_for(lambda f=fleet, e=even: partition_counts(f) == e, "equal shares")  # type: ignore[misc]
            commits.wait_until_all_move(time.monotonic())
            pause_s = commits.longest_pause_s(began_s, set(range(SHARDS)))
            environment.record_figure(f"rolling_restart_{protocol}_{processes}_pause_s", pause_s)
            assert fleet.stop() == 0
        codes = [line["code"] for line in fleet.log() if line["event"] == "worker ended"]
        assert codes == [0] * (2 * processes), f"{codes}: {fleet.log_file}"
        finish_and_check(shop)


def restart_worker(fleet: WorkerProcess, slot: str) -> None:
    """Stop the worker of a slot as an operator does, and wait for its successor."""
    before = pids_started(fleet, slot)
    os.kill(before[-1], signal.SIGTERM)
    wait_for(lambda: len(pids_started(fleet, slot)) > len(before), f"a successor in {slot}")


def pids_started(fleet: WorkerProcess, slot: str) -> list[int]:
    """The process ids of the supervised workers that have been in a slot, one after the other."""
    return [line["pid"] for line in fleet.log() if line.get("worker") == slot and "pid" in line]


def partition_counts(fleet: WorkerProcess) -> list[int]:
    """How many partitions each slot's worker has now; empty where one is two workers'."""
    found = list(owned_partitions(fleet).values())
    held = [where for some in found for where in some]
    return [] if len(held) > len(set(held)) else [len(some) for some in found]


def owned_partitions(fleet: WorkerProcess) -> dict[str, set[int]]:
    """The partitions of each supervised worker now, by slot."""
    found: dict[str, set[int]] = {}
    for line in fleet.log():
        match line["event"]:
            case "starting":
                found[line["slot"]] = set()
            case "partition taken":
                found[line["slot"]].add(line["partition"])
            case "partition revoked" | "partition lost":
                found[line["slot"]].discard(line["partition"])
    return found


def record_pauses(
    environment: Environment, how: str, commits: CommitRecorder, began_s: float, survivors: set[int]
) -> None:
    """The pauses of the killed worker's partitions, and of those of the one that survives."""
    killed = ALL_PARTITIONS - survivors
    environment.record_figure(
        f"worker_killed_{how}_its_pause_s", commits.longest_pause_s(began_s, killed)
    )
    environment.record_figure(
        f"worker_killed_{how}_survivor_pause_s", commits.longest_pause_s(began_s, survivors)
    )


PAUSES: Final[dict[str, Callable[[Environment], None]]] = {
    "three-brokers": three_brokers,
    "two-workers-without-restart": two_workers,
    "two-workers-supervised": partial(two_supervised, "classic"),
    "two-workers-supervised-static": partial(two_supervised, "static"),
    "rolling-restart": partial(rolling_restart, "classic", (2, 4)),
    "rolling-restart-consumer": partial(rolling_restart, "consumer", (4,)),
}
"""What `--points` may name, too; told one after the other, since others would be measured as well."""
