"""One interface over the in-memory broker and a real one, for cases that run on both."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final

from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from stream.kafka.admin import TopicAdmin
from stream.kafka.messages import OutRecord
from stream.kafka.positions import Partition
from stream.kafka.sink import KafkaSink
from stream.kafka.source import KafkaSource
from stream.runtime.interfaces import Admin, Sink, Source
from tests.simulation.broker import MemoryBroker
from tests.simulation.faults import NetworkFaults
from tests.simulation.sink import MemoryAdmin, MemorySink
from tests.simulation.source import MemorySource
from tests.simulation.world import Process, World

LIMIT_S: Final = 60.0


class Cut(Exception):
    """Raised inside a transaction where a case cuts it off."""


class Cluster(ABC):
    """A broker, and clients of it. Every topic and group is the case's own."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._made = 0

    def unique(self, kind: str) -> str:
        """A name that no other case has."""
        self._made += 1
        return f"{self._name}-{kind}-{self._made}"

    def topic(self, partitions: int = 1, **settings: str) -> str:
        """Create a topic. settings: with `_` for `.`."""
        name = self.unique("topic")
        self.admin().create(
            name, partitions, {key.replace("_", "."): x for key, x in settings.items()}, None
        )
        return name

    def until(self, condition: Callable[[], bool], *sources: Source) -> None:
        """Poll the sources until the condition holds."""
        deadline = self.now_s() + LIMIT_S
        while not condition():
            assert self.now_s() < deadline, "the condition does not come true"
            self.turn(*sources)

    @abstractmethod
    def turn(self, *sources: Source) -> None:
        """Let each source poll once; what it reads is lost. Without sources, wait a little."""

    @abstractmethod
    def now_s(self) -> float:
        """Seconds since some fixed time."""

    @abstractmethod
    def admin(self) -> Any:
        """An admin client, which also creates topics."""

    @abstractmethod
    def source(self, group: str, protocol: str = "classic") -> AbstractContextManager[Source]:
        """A member of the group; it leaves the group at the end."""

    @abstractmethod
    def sink(self, group: str, slot: str, timeout_s: float = 30.0) -> Any:
        """A transactional producer, a `Sink`; its steps may be replaced to cut a transaction off."""

    @abstractmethod
    def send(self, record: OutRecord, timestamp_ms: int | None = None) -> None:
        """Write a record outside of any transaction."""

    @abstractmethod
    def delete_before(self, partition: Partition, offset: int) -> None:
        """Have the partition begin at the offset."""


class MemoryCluster(Cluster):
    """The in-memory broker; all clients are of one process."""

    def __init__(self, process: Process) -> None:
        super().__init__("case")
        self._process = process
        self._broker = MemoryBroker(process.world, round(time.time() * 1000))

    def turn(self, *sources: Source) -> None:
        """Let each source poll once."""
        self._process.sleep(0.01)
        for source in sources:
            source.poll(100, 0.01)

    def now_s(self) -> float:
        """Simulated time."""
        return self._process.world.now

    def admin(self) -> Admin:
        """An admin client."""
        return MemoryAdmin(self._process, self._broker)

    @contextmanager
    def source(self, group: str, protocol: str = "classic") -> Iterator[Source]:
        """A member of the group."""
        assert protocol == "classic", "the in-memory broker knows the classic protocol only"
        with MemorySource(self._process, self._broker, group, NetworkFaults()) as source:
            yield source

    def sink(self, group: str, slot: str, timeout_s: float = 30.0) -> Sink:
        """A transactional producer."""
        return MemorySink(self._process, self._broker, group, slot, NetworkFaults(), timeout_s)

    def send(self, record: OutRecord, timestamp_ms: int | None = None) -> None:
        """Write a record."""
        self._broker.append(record, timestamp_ms)

    def delete_before(self, partition: Partition, offset: int) -> None:
        """Have the partition begin at the offset."""
        self._broker.delete_before(partition, offset)


class KafkaCluster(Cluster):
    """A real broker."""

    def __init__(self, bootstrap: str) -> None:
        super().__init__(f"contract-{time.time_ns()}")
        self._bootstrap: dict[str, str | int | float | bool] = {"bootstrap.servers": bootstrap}
        self._producer = Producer(
            {**self._bootstrap, "partitioner": "murmur2_random", "log_level": 0}
        )

    def turn(self, *sources: Source) -> None:
        """Let each source poll once."""
        time.sleep(0.0 if sources else 0.01)
        for source in sources:
            source.poll(100, 0.02)

    def now_s(self) -> float:
        """This machine's time."""
        return time.monotonic()

    def admin(self) -> TopicAdmin:
        """An admin client."""
        return TopicAdmin(self._bootstrap)

    @contextmanager
    def source(self, group: str, protocol: str = "classic") -> Iterator[Source]:
        """A member of the group."""
        own = {**self._bootstrap, "group.protocol": protocol}
        if protocol == "classic":
            own["session.timeout.ms"] = 6_000
        with KafkaSource(own, group) as source:
            yield source

    def sink(self, group: str, slot: str, timeout_s: float = 30.0) -> KafkaSink:
        """A transactional producer."""
        own = {"transaction.timeout.ms": round(timeout_s * 1000)}
        return KafkaSink({**self._bootstrap, **own}, group, slot)

    def send(self, record: OutRecord, timestamp_ms: int | None = None) -> None:
        """Write a record."""
        anywhere = -1
        self._producer.produce(
            record.topic,
            record.value,
            record.key,
            anywhere if record.partition is None else record.partition,
            timestamp=timestamp_ms or 0,
        )
        assert self._producer.flush(10) == 0

    def delete_before(self, partition: Partition, offset: int) -> None:
        """Have the partition begin at the offset."""
        admin = AdminClient(self._bootstrap)
        for future in admin.delete_records([TopicPartition(*partition, offset)]).values():
            future.result()


def in_memory(case: Callable[[Cluster], None], seed: int = 0) -> None:
    """Run a case on the in-memory broker."""
    world = World(seed)
    process = Process(world, "case")
    task = process.start(lambda: case(MemoryCluster(process)))
    try:
        world.run(task.done, 10 * LIMIT_S)
        task.result()
    finally:
        world.kill_all()
