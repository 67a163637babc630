"""A Kafka broker in memory, as far as workers depend on one: topics, transactions, groups.

Its semantics are those of a real broker, and `test_contract.py` runs the same cases on both.
Transactions are completed in two steps, as there: the outcome is decided at once, and the markers
are written to one partition after the other a little later.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Final, NamedTuple

import pyarrow as pa

from stream.errors import Abortable, Fatal, Fenced, KafkaFailure, Retriable
from stream.inputs.partitioning import partition_of
from stream.kafka.messages import OutRecord
from stream.kafka.positions import CommittedOffset, Partition
from tests.simulation.group import Group
from tests.simulation.log import ABORTED, COMMITTED, OPEN, Entry, PartitionLog, Transaction
from tests.simulation.world import World

MARKER_S: Final = 0.002
"""Mean simulated time until the marker of a transaction is written to a partition."""

DEFAULTS: Final = {
    "cleanup.policy": "delete",
    "retention.ms": "604800000",
    "retention.bytes": "-1",
    "max.message.bytes": "1048588",
    "message.timestamp.type": "CreateTime",
}


@dataclass(slots=True)
class Topic:
    """A topic and its settings."""

    name: str
    logs: list[PartitionLog]
    settings: dict[str, str]

    def takes_append_time(self) -> bool:
        """Whether records get the broker's time instead of the producer's."""
        return self.settings["message.timestamp.type"] == "LogAppendTime"


@dataclass(slots=True)
class TransactionalId:
    """What the coordinator knows of a transactional id. current: its last transaction."""

    epoch: int = -1
    timeout_s: float = 0.0
    current: Transaction | None = None

    def is_completing(self) -> bool:
        """Whether markers of its last transaction are still to be written."""
        one = self.current
        return one is not None and one.outcome != OPEN and not one.is_complete()


class ProducerId(NamedTuple):
    """The identity of a producer: all its requests are refused once another has a higher epoch."""

    name: str
    epoch: int


@dataclass(slots=True)
class GroupOffsets:
    """Committed offsets of a group, each with its number among all that were ever added, and the
    transactions that are about to commit others."""

    committed: dict[Partition, tuple[int, int, str]] = field(default_factory=dict)
    pending: list[Transaction] = field(default_factory=list)


class MemoryBroker:
    """Topics, groups and transactional ids. wall_ms: the wall clock at simulated time 0."""

    def __init__(self, world: World, wall_ms: int) -> None:
        self.world = world
        self.topics: dict[str, Topic] = {}
        self._wall_ms = wall_ms
        self._groups: dict[str, Group] = {}
        self._offsets: dict[str, GroupOffsets] = {}
        self._ids: dict[str, TransactionalId] = {}
        self._group_of: dict[int, str] = {}
        self._added = 0

    def wall_ms(self) -> int:
        """The broker's wall clock."""
        return self._wall_ms + round(1000 * self.world.now)

    # -- topics -----------------------------------------------------------------------------------

    def create(self, name: str, partitions: int, settings: Mapping[str, str]) -> None:
        """Make a topic; one that is there already is left as it is."""
        if name not in self.topics:
            logs = [PartitionLog(Partition(name, number)) for number in range(partitions)]
            self.topics[name] = Topic(name, logs, {**DEFAULTS, **settings})

    def log(self, place: Partition) -> PartitionLog:
        """A partition's log. Raises Fatal where it does not exist."""
        topic = self.topics.get(place.topic)
        if topic is None or place.partition >= len(topic.logs):
            raise _failure(Fatal, "UNKNOWN_TOPIC_OR_PART", str(place))
        return topic.logs[place.partition]

    def append(
        self, record: OutRecord, timestamp_ms: int | None = None, by: Transaction | None = None
    ) -> Partition:
        """Add a record to its partition, else to the one of its key; where it went."""
        topic = self.topics.get(record.topic)
        if topic is None:
            raise _failure(Fatal, "UNKNOWN_TOPIC_OR_PART", record.topic)
        number = record.partition
        if number is None:
            number = _partition(record.key, len(topic.logs))
        if timestamp_ms is None or topic.takes_append_time():
            timestamp_ms = self.wall_ms()
        log = self.log(Partition(record.topic, number))
        log.append(Entry(record.key, record.value, record.headers, timestamp_ms, by))
        return log.place

    def delete_before(self, place: Partition, offset: int) -> None:
        """Retention: the log begins there from now on."""
        log = self.log(place)
        log.start = max(log.start, min(offset, log.end()))

    # -- groups -----------------------------------------------------------------------------------

    def group(self, name: str) -> Group:
        """A consumer group."""
        if name not in self._groups:
            self._groups[name] = Group(self.world, lambda topic: len(self.topics[topic].logs))
        return self._groups[name]

    def committed(self, group: str, place: Partition) -> CommittedOffset | None:
        """The committed offset. Raises Retriable while a transaction is about to change it."""
        offsets = self._offsets_of(group)
        if any(place in one.offsets for one in offsets.pending):
            raise _failure(Retriable, "UNSTABLE_OFFSET_COMMIT", str(place))
        found = offsets.committed.get(place)
        return found and CommittedOffset(found[1], found[2])

    def offsets_decided(self, group: str) -> dict[Partition, int]:
        """The next offset of each partition, transactions included that are decided but not
        complete."""
        offsets = self._offsets_of(group)
        found = dict(offsets.committed)
        for one in offsets.pending:
            for place, added in one.offsets.items() if one.outcome == COMMITTED else ():
                if place not in found or found[place][0] < added[0]:
                    found[place] = added
        return {place: offset for place, (_, offset, _) in found.items()}

    def _offsets_of(self, group: str) -> GroupOffsets:
        return self._offsets.setdefault(group, GroupOffsets())

    # -- transactions -----------------------------------------------------------------------------

    def take_over(self, name: str, timeout_s: float) -> ProducerId:
        """Give a transactional id to a new producer: a former one is fenced, its open transaction
        aborted. Raises Retriable until that is complete."""
        known = self._ids.setdefault(name, TransactionalId())
        if known.current is not None and known.current.outcome == OPEN:
            known.epoch += 1
            self._decide(known.current, ABORTED)
        if known.is_completing():
            raise _failure(Retriable, "CONCURRENT_TRANSACTIONS", name)
        known.epoch += 1
        known.timeout_s = timeout_s
        return ProducerId(name, known.epoch)

    def _enlist(self, producer: ProducerId) -> Transaction:
        """The producer's open transaction, begun where there is none."""
        known = self._checked(producer)
        if known.is_completing():
            raise _failure(Retriable, "CONCURRENT_TRANSACTIONS", producer.name)
        if known.current is None or known.current.outcome != OPEN:
            begun = Transaction(producer.name, producer.epoch, self.world.now)
            known.current = begun
            self.world.after(known.timeout_s, lambda: self._time_out(known, begun))
        return known.current

    def _checked(self, producer: ProducerId) -> TransactionalId:
        known = self._ids[producer.name]
        if known.epoch != producer.epoch:
            raise _failure(Fenced, "INVALID_PRODUCER_EPOCH", producer.name)
        return known

    def _time_out(self, known: TransactionalId, begun: Transaction) -> None:
        """Abort a transaction that is open for too long; its producer is fenced."""
        if begun.outcome == OPEN:
            known.epoch += 1
            self._decide(begun, ABORTED)

    def produce(self, producer: ProducerId, record: OutRecord) -> None:
        """Add a record to the producer's transaction. Raises Fenced and Retriable."""
        self.append(record, by=self._enlist(producer))

    def add_offsets(
        self,
        producer: ProducerId,
        group: str,
        member: tuple[str, int] | None,
        positions: Mapping[Partition, CommittedOffset],
    ) -> None:
        """Add offsets to the producer's transaction. member: its id and generation, None of one
        that never joined. Raises Abortable where the group has gone on without it."""
        transaction = self._enlist(producer)
        if member is not None:
            problem = self.group(group).problem_of(*member)
            if problem:
                raise _failure(Abortable, problem, group)
        offsets = self._offsets_of(group)
        if not transaction.offsets_pending:
            transaction.offsets_pending = True
            offsets.pending.append(transaction)
            self._group_of[id(transaction)] = group
        self._added += 1
        for place, (offset, note) in positions.items():
            transaction.offsets[place] = (self._added, offset, note)

    def end(self, producer: ProducerId, outcome: int) -> None:
        """Commit or abort the producer's transaction; asked again, the answer is the same."""
        known = self._checked(producer)
        current = known.current
        if current is not None and current.epoch == producer.epoch and current.outcome == OPEN:
            self._decide(current, outcome)

    def _decide(self, transaction: Transaction, outcome: int) -> None:
        transaction.outcome = outcome
        self.world.note("broker", transaction.producer, ("open", "commit", "abort")[outcome])
        for place in sorted(transaction.unmarked):
            delay_s = self.world.random.expovariate(1.0) * MARKER_S
            self.world.after(delay_s, lambda p=place: self.log(p).mark(transaction, self.wall_ms()))  # type: ignore[misc]
        if transaction.offsets_pending:
            delay_s = self.world.random.expovariate(1.0) * MARKER_S
            self.world.after(delay_s, lambda: self._settle_offsets(transaction))

    def _settle_offsets(self, transaction: Transaction) -> None:
        """Put the offsets of a decided transaction in force. Those that were added later win."""
        offsets = self._offsets_of(self._group_of.pop(id(transaction)))
        offsets.pending.remove(transaction)
        transaction.offsets_pending = False
        if transaction.outcome == COMMITTED:
            for place, found in transaction.offsets.items():
                if place not in offsets.committed or offsets.committed[place][0] < found[0]:
                    offsets.committed[place] = found

    def is_quiet(self) -> bool:
        """Whether no transaction is open or being completed."""
        currents = (known.current for known in self._ids.values())
        return all(one is None or one.is_complete() for one in currents)


def _failure(kind: type[KafkaFailure], code: str, of: str) -> KafkaFailure:
    made = kind(f"{of}: {code}")
    made.code = code
    return made


@cache
def _partition(key: bytes | None, partitions: int) -> int:
    """The partition of a key, as Java's producer chooses it."""
    if key is None or partitions == 1:
        return 0
    return int(partition_of(pa.array([key.decode()]), partitions, "murmur2")[0])


def values(entries: Iterable[tuple[int, Entry]]) -> list[bytes]:
    """The values of records."""
    return [entry.value or b"" for _, entry in entries]
