"""The consumer of a worker's group, on the in-memory broker.

It behaves as `stream.kafka.source.KafkaSource` does: the same calls of its listener, the same errors,
the same time-outs. Each call is a step of its process, at which that may be killed or suspended.
"""

from collections import deque
from collections.abc import Callable
from typing import Final, Self

import numpy as np

from schemas.records import Records
from stream.errors import RetentionGap, Retriable
from stream.kafka.messages import PartitionBatch, RebalanceListener
from stream.kafka.positions import CommittedOffset, Membership, Partition
from tests.simulation.broker import MemoryBroker
from tests.simulation.faults import NetworkFaults
from tests.simulation.group import Assignment
from tests.simulation.log import Entry
from tests.simulation.world import Process

SESSION_S: Final = 0.6
HEARTBEAT_S: Final = 0.12

ANSWER_S: Final = 0.003
"""Mean simulated time until a member hears that a rebalance is over."""

RETRY_S: Final = 0.01
"""How long a request waits before it is tried again."""

PART_SHARE: Final = 0.2
"""Share of the fetches that bring only a part of what is there."""


class MemorySource:
    """A member of the group: records in, assignments reported to a listener."""

    def __init__(
        self, process: Process, broker: MemoryBroker, group: str, faults: NetworkFaults
    ) -> None:
        self._process = process
        self._broker = broker
        self._group_name = group
        self._group = broker.group(group)
        self._faults = faults
        self._topics: tuple[str, ...] = ()
        self._listener: RebalanceListener | None = None
        self._member_id = ""
        self._generation = -1
        self._is_joining = False
        self._is_calling = False
        self._closed = False
        self._heard_at = 0.0
        self._owned: dict[Partition, int] = {}
        self._calls: deque[Callable[[RebalanceListener], None]] = deque()
        self.membership = Membership(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the group; partitions still owned are revoked first."""
        if self._process.dead or self._listener is None:
            return
        self._process.step("source", "close")
        self._calls.clear()
        owned = sorted(self._owned)
        self._owned.clear()
        if owned:
            self._listener.on_revoke(owned)
        self._closed = True
        self._group.leave(self._member_id)

    # -- membership: what the client does in the background ---------------------------------------

    def subscribe(self, topics: list[str], listener: RebalanceListener) -> None:
        """Join the group; the listener is called from within `poll`, `serve_rebalances` and exit."""
        self._process.step("source", "subscribe")
        self._topics, self._listener = tuple(topics), listener
        self._join()
        self._process.world.after(HEARTBEAT_S, self._beat, self._process)

    def is_member(self) -> bool:
        """Whether the broker counts it as a member of the current generation."""
        return self._group.problem_of(self._member_id, self._generation) == ""

    def _join(self) -> None:
        if self._member_id and not self._group.knows(self._member_id):
            self._lose()
            return
        self._is_joining = True
        self._member_id = self._group.join(
            self._member_id, self._topics, frozenset(self._owned), SESSION_S, self._answered
        )

    def _answered(self, assignment: Assignment) -> None:
        world = self._process.world
        delay_s = world.random.expovariate(1.0) * ANSWER_S
        world.after(delay_s, lambda: self._take(assignment), self._process)

    def _take(self, assignment: Assignment) -> None:
        """Note the outcome of a rebalance; the listener hears of it at the next call."""
        if self._closed:
            return
        self._is_joining = False
        self._generation = assignment.generation
        self._heard_at = self._process.world.now
        self._calls.append(lambda listener: self._change(listener, assignment.partitions))

    def _change(self, listener: RebalanceListener, assigned: frozenset[Partition]) -> None:
        revoked = sorted(self._owned.keys() - assigned)
        added = sorted(assigned - self._owned.keys())
        if revoked:
            self._renew_membership()
            for where in revoked:
                del self._owned[where]
            listener.on_revoke(revoked)
        if added or not revoked:
            starts = listener.on_assign(added) if added else {}
            self._owned.update({where: starts[where] for where in added})
            self._renew_membership()
        if revoked and self._member_id:
            self._join()

    def _renew_membership(self) -> None:
        self.membership = Membership((self._member_id, self._generation))

    def _lose(self) -> None:
        """The group goes on without this member: it joins anew once the listener has let go."""
        self._member_id = ""
        self._calls.clear()
        self._calls.append(self._let_go)

    def _let_go(self, listener: RebalanceListener) -> None:
        lost = sorted(self._owned)
        self._owned.clear()
        if lost:
            listener.on_lost(lost)
        self._join()

    def _beat(self) -> None:
        """Send a heartbeat, and act on the answer."""
        if self._closed:
            return
        world = self._process.world
        world.after(HEARTBEAT_S * world.random.uniform(0.8, 1.2), self._beat, self._process)
        if not self._member_id or self._is_joining:
            return
        if world.now - self._heard_at > SESSION_S:
            self._lose()
        elif world.now >= self._faults.silent_until:
            problem = self._group.heartbeat(self._member_id, self._generation)
            if problem in {"", "REBALANCE_IN_PROGRESS"}:
                self._heard_at = world.now
            if problem == "REBALANCE_IN_PROGRESS" and not (self._calls or self._is_calling):
                self._join()
            elif problem not in {"", "REBALANCE_IN_PROGRESS"}:
                self._lose()

    def _call_listener(self) -> None:
        while self._calls:
            call = self._calls.popleft()
            assert self._listener is not None
            self._is_calling = True
            call(self._listener)
            self._is_calling = False

    def next_offsets(self) -> dict[Partition, int]:
        """The partitions that it owns, each with the offset to read next."""
        return dict(self._owned)

    def seek(self, partition: Partition, offset: int) -> bool:
        """Read a partition from there on; whether it is owned."""
        if partition in self._owned:
            self._owned[partition] = offset
        return partition in self._owned

    # -- reading ----------------------------------------------------------------------------------

    def poll(self, records_max: int, timeout_s: float) -> list[PartitionBatch]:
        """Records and advances, at most so many records, as one batch for each partition."""
        self._process.step("source", "poll")
        random = self._process.world.random
        if self._waiting() < records_max:
            early = random.random()
            self._process.sleep(timeout_s * early)
            self._call_listener()
            self._process.sleep(timeout_s * (1.0 - early))
        self._call_listener()
        places = sorted(self._owned)
        random.shuffle(places)
        found: list[PartitionBatch] = []
        for where in places:
            arrived = self._fetch(where, records_max)
            if arrived is not None:
                records_max -= len(arrived.records or ())
                found.append(arrived)
        if found:
            self._process.step("source", "poll answered")
        return found

    def _waiting(self) -> int:
        """Offsets that are there to be read."""
        return sum(
            max(0, self._broker.log(where).stable_end() - at) for where, at in self._owned.items()
        )

    def _fetch(self, where: Partition, records_max: int) -> PartitionBatch | None:
        log, offset = self._broker.log(where), self._owned[where]
        if offset < log.start:
            raise RetentionGap(f"{where}: offset {offset} is before the log start {log.start}")
        if records_max <= 0 or offset >= log.stable_end():
            return None
        random = self._process.world.random
        if random.random() < PART_SHARE:
            records_max = min(records_max, random.randint(1, 4))
        entries, next_offset = log.visible(offset, records_max)
        self._owned[where] = next_offset
        appended = self._broker.topics[where.topic].takes_append_time()
        return PartitionBatch(
            where, as_records(where, entries, appended) if entries else None, next_offset
        )

    def serve_rebalances(self, seconds: float) -> None:
        """Wait, letting rebalances happen but reading no records."""
        self._process.step("source", "serve")
        self._process.sleep(seconds)
        self._call_listener()

    def committed(self, partitions: list[Partition]) -> dict[Partition, CommittedOffset | None]:
        """What the group has committed for each; waits while a transaction is open."""
        while True:
            self._process.step("source", "committed")
            try:
                return {p: self._broker.committed(self._group_name, p) for p in partitions}
            except Retriable:
                self._process.sleep(RETRY_S)

    def offset_range(self, where: Partition) -> tuple[int, int]:
        """The offset of the partition's first record, and the last stable offset."""
        self._process.step("source", "span")
        log = self._broker.log(where)
        return log.start, log.stable_end()

    def offset_at(self, where: Partition, time_ms: int) -> int:
        """The offset of the first record of that time or a later one, else the end."""
        self._process.step("source", "offset_at")
        log = self._broker.log(where)
        later = (
            offset
            for offset in range(log.start, log.stable_end())
            if log.entries[offset].timestamp_ms >= time_ms
        )
        return next(later, log.stable_end())

    def end_offset(self, where: Partition) -> int:
        """The last stable offset, as of the last fetch."""
        return self._broker.log(where).stable_end()


def as_records(
    where: Partition, entries: list[tuple[int, Entry]], appended: bool = False
) -> Records:
    """Entries of one partition as records."""
    values: list[bytes | None] = [entry.value for _, entry in entries]
    return Records(
        where.topic,
        where.partition,
        np.array([offset for offset, _ in entries], np.int64),
        np.array([entry.timestamp_ms for _, entry in entries], np.int64),
        values,
        [entry.headers for _, entry in entries],
        np.ones(len(entries), np.bool_) if appended else None,
    )
