"""The transactional producer of a worker, and its admin client, on the in-memory broker.

The producer behaves as `stream.kafka.sink.KafkaSink` does, with the same steps and errors. Each step
is one of its process, at which that may be killed or suspended.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from stream.errors import Abortable, CommitOutcomeUnknown, Fatal, Fenced, Retriable
from stream.kafka.messages import OutRecord
from stream.kafka.positions import CommittedOffset, Membership, Partition
from stream.kafka.sink import RETRY_FRACTION
from tests.simulation.broker import MemoryBroker, ProducerId
from tests.simulation.faults import NetworkFaults
from tests.simulation.log import ABORTED, COMMITTED
from tests.simulation.source import RETRY_S
from tests.simulation.world import Process

TRANSACTION_S: Final = 3.0
RECORDS_A_STEP: Final = 8


class MemorySink:
    """A transactional producer: outputs and offsets go together, or not at all."""

    def __init__(
        self,
        process: Process,
        broker: MemoryBroker,
        group: str,
        slot: str,
        faults: NetworkFaults,
        timeout_s: float = TRANSACTION_S,
    ) -> None:
        self._process = process
        self._broker = broker
        self._group = group
        self._name = f"{group}-{slot}"
        self._faults = faults
        self._timeout_s = timeout_s
        self._producer = ProducerId(self._name, -1)
        self.on_open: Callable[[], None] = lambda: None
        """Called when the slot is taken over."""
        self._began_at = 0.0

    def open(self) -> None:
        """Take over the slot: a predecessor's open transaction is aborted, itself fenced."""
        self._producer = self._patiently(
            "open", lambda: self._broker.take_over(self._name, self._timeout_s)
        )
        self.on_open()

    def _patiently(self, step: str, call: Callable[[], Any]) -> Any:
        """Make a call until the broker is not busy with an earlier transaction."""
        while True:
            self._process.step("sink", step)
            try:
                return call()
            except Retriable:
                self._process.sleep(RETRY_S)

    def transact(
        self,
        records: Iterable[OutRecord],
        positions: Mapping[Partition, CommittedOffset],
        membership: Membership,
    ) -> None:
        """Publish the records and commit the positions in one transaction."""
        self._began_at = self._process.world.now
        try:
            self._write(list(records))
            self._add_offsets(positions, membership)
            self._deliver()
            self._commit()
        except (Fenced, Fatal) as error:
            if self._age_s() >= self._timeout_s:
                raise CommitOutcomeUnknown(str(error)) from error
            raise
        except Abortable:
            self._abort()
            raise

    def _write(self, records: list[OutRecord]) -> None:
        self._process.step("sink", "begin")
        self._faults.take("write")
        for number, record in enumerate(records):
            if number % RECORDS_A_STEP == 0:
                self._process.step("sink", "write")
            self._patient_write(record)

    def _patient_write(self, record: OutRecord) -> None:
        try:
            self._broker.produce(self._producer, record)
        except Retriable:
            self._process.sleep(RETRY_S)
            self._patiently("write", lambda: self._broker.produce(self._producer, record))

    def _add_offsets(
        self, positions: Mapping[Partition, CommittedOffset], membership: Membership
    ) -> None:
        self._faults.take("offsets")
        member: Any = membership.metadata
        self._patiently(
            "add offsets",
            lambda: self._broker.add_offsets(self._producer, self._group, member, positions),
        )

    def _deliver(self) -> None:
        self._process.step("sink", "flush")
        self._faults.take("flush")
        if self._age_s() > self._timeout_s * RETRY_FRACTION:
            raise Abortable("flush: the transaction is open for too long")

    def _commit(self) -> None:
        self._process.step("sink", "commit")
        outcome, self._faults.commit = self._faults.commit, ""
        if outcome != "lost":
            self._broker.end(self._producer, COMMITTED)
        self._process.step("sink", "commit answered")
        if outcome:
            raise CommitOutcomeUnknown(f"commit: {outcome}, set by the schedule")

    def _abort(self) -> None:
        self._process.step("sink", "abort")
        try:
            self._broker.end(self._producer, ABORTED)
        except Fenced as error:
            raise CommitOutcomeUnknown(str(error)) from error

    def _age_s(self) -> float:
        return self._process.world.now - self._began_at


class MemoryAdmin:
    """Looks at topics, and makes them."""

    def __init__(self, process: Process, broker: MemoryBroker) -> None:
        self._process = process
        self._broker = broker

    def partition_counts(self, topics: Iterable[str]) -> dict[str, int]:
        """Topic → number of its partitions; a topic that does not exist is missing."""
        self._process.step("source", "partition counts")
        known = self._broker.topics
        return {topic: len(known[topic].logs) for topic in topics if topic in known}

    def settings(self, topic: str, names: Iterable[str]) -> dict[str, str]:
        """The topic's settings of these names."""
        self._process.step("source", "settings")
        return {name: self._broker.topics[topic].settings[name] for name in names}

    def create(
        self, topic: str, partitions: int, settings: Mapping[str, str], copies: int | None
    ) -> None:
        """Make a topic; one that is there already is left as it is."""
        self._process.step("source", "create")
        self._broker.create(topic, partitions, settings)
