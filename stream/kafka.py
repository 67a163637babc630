"""The border to Kafka, and the only module that imports its client: properties, errors, clients.

Everything that leaves this module is Eddy's own: records, partitions, offsets, errors of
`stream.errors`. It decides nothing: what to read, to emit and to commit is the worker's business.
"""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from operator import itemgetter
from threading import Thread
from typing import Any, Final, Literal, NamedTuple, Protocol, Self, TypeVar, overload

import numpy as np
import structlog
from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.admin._resource import ResourceType
from confluent_kafka.cimpl import NewTopic
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_delay
from tenacity.wait import wait_random_exponential

from schemas.records import Headers, Records
from stream.errors import (
    Abortable,
    ConfigError,
    Fatal,
    Fenced,
    KafkaFailure,
    Outlived,
    RetentionGap,
    Retriable,
)
from stream.kafka_codes import TABLE, UNKNOWN, Kind
from stream.kafka_properties import (
    Properties,
    admin_properties,
    consumer_properties,
    producer_properties,
)

log = structlog.stdlib.get_logger(__name__)

PATIENCE_S: Final = 60.0
"""How long anything is tried again before the worker gives up and its supervisor takes over."""

SAY_AGAIN_S: Final = 5.0
"""The client's reports of one code are logged no more often."""

CALL_S: Final = 10.0
"""How long one call to the broker may take before it counts as failed and is tried again."""

PAUSE_S: Final = 5.0
"""The longest pause between two tries. With CALL_S it bounds how long waiting for a broker is
silent: before every pause the pulse beats."""

TRIED_SHARE: Final = 0.6
"""All tries of one transaction end when this share of transaction.timeout.ms is over. What is left
is for aborting it: where the broker does that itself, it takes the worker for a zombie."""

NAME_TAKEN: Final = KafkaError(KafkaError.UNRELEASED_INSTANCE_ID).str()
"""What the broker says under the new protocol while the session of a static member that was killed
lasts; under the classic one its successor takes its place at once."""

OVERTIME_S: Final = 2.0
"""A call that takes so much longer than it was told to will never return."""

ASKED_S: Final = 2.0
"""A topic counts as missing when brokers have not known it for so long: one that has just started
may learn of its topics late."""

Client = TypeVar("Client")

Beat = Callable[[], None]
"""Called while a broker is waited for: the worker is alive."""


def _unheard() -> None:
    """A beat that nobody listens to."""


# -- errors ---------------------------------------------------------------------------------------


def classify(error: KafkaError) -> Kind:
    """The class of an error; an unknown one is fatal.

    A code that no retry can help is fatal whatever the client hopes. Else the client's own flags
    say more than the code, since they know in which state the producer is left.
    """
    row = TABLE.get(error.name())
    if row is not None and row.kind is Fatal:
        return Fatal
    if error.fatal():
        return Fenced if row is not None and row.kind is Fenced else Fatal
    if error.txn_requires_abort():
        return Abortable
    if error.retriable():
        return Retriable
    return row.kind if row is not None else Fatal


def failure(error: KafkaError, doing: str) -> KafkaFailure:
    """The exception for a client's error: what was being done, code, cause and action."""
    row = TABLE.get(error.name(), UNKNOWN)
    kind = classify(error)
    made = kind(f"{doing}: {error.name()}: {error.str()} ({row.cause}; {row.action})")
    made.code = error.name()
    return made


@contextmanager
def _border(doing: str) -> Iterator[None]:
    """Turn the client's exceptions into Eddy's own, the cause kept."""
    try:
        yield
    except KafkaException as exception:
        raise failure(exception.args[0], doing) from exception


def patiently(
    *kinds: type[KafkaFailure],
    patience_s: float = PATIENCE_S,
    sleep: Callable[[float], None] = time.sleep,
    beat: Beat = _unheard,
) -> Retrying:
    """Attempts, with growing random pauses, while one of these errors comes and patience lasts."""

    def say(state: RetryCallState) -> None:
        assert state.outcome is not None
        beat()
        log.warning(
            "trying again", attempt=state.attempt_number, error=str(state.outcome.exception())
        )

    return Retrying(
        retry=retry_if_exception_type(kinds),
        wait=wait_random_exponential(multiplier=0.05, max=PAUSE_S),
        stop=stop_after_delay(patience_s),
        sleep=sleep,
        before_sleep=say,
        reraise=True,
    )


class _Latch:
    """Keeps the first thing that went wrong inside a client's callback until somebody can be told.

    An exception that left a callback would be lost in the client, or break it.
    """

    def __init__(self) -> None:
        self._kept: Exception | None = None
        self._said_at: dict[str, float] = {}

    def keep(self, error: Exception) -> None:
        self._kept = self._kept or error

    def check(self) -> None:
        """Raise what was kept, once."""
        kept, self._kept = self._kept, None
        if kept is not None:
            raise kept

    def on_error(self, error: KafkaError) -> None:
        """What the client reports by itself, often many times; it mends most of it by itself."""
        code, now = error.name(), time.monotonic()
        if now - self._said_at.get(code, -math.inf) >= SAY_AGAIN_S:
            self._said_at[code] = now
            log.warning("kafka client", code=code, error=error.str())
        if code in TABLE and classify(error) in {Fatal, Fenced}:
            self.keep(failure(error, "connecting"))


def _made(make: Callable[[dict[str, Any]], Client], properties: dict[str, Any]) -> Client:
    """The client. Raises ConfigError where it knows no such property, or no such value."""
    try:
        return make(properties)
    except KafkaException as exception:
        raise ConfigError([f"kafka: {exception.args[0].str().strip()}"]) from exception


# -- reading --------------------------------------------------------------------------------------


class Partition(NamedTuple):
    """One partition of a topic."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]"


class Committed(NamedTuple):
    """What a group has committed for a partition: the next offset to read, and a note with it."""

    next_offset: int
    note: str


class Owner(Protocol):
    """Who is told of assignments, between two batches, never inside a transaction."""

    def on_assign(self, partitions: list[Partition]) -> dict[Partition, int]:
        """New partitions; returns for each the offset to start reading at."""

    def on_revoke(self, partitions: list[Partition]) -> None:
        """Partitions to give away: a last commit for them is still possible."""

    def on_lost(self, partitions: list[Partition]) -> None:
        """Partitions that others may already have: nothing may be committed for them."""


class Membership(NamedTuple):
    """What a commit says of us to the group; opaque, taken when an assignment is accepted."""

    metadata: object


class _LazyHeaders(Sequence[Headers]):
    """The headers of messages, read only where somebody looks: few records need them."""

    def __init__(self, messages: list[Message]) -> None:
        self._messages = messages

    def __len__(self) -> int:
        return len(self._messages)

    @overload
    def __getitem__(self, index: int) -> Headers: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Headers]: ...
    def __getitem__(self, index: int | slice) -> Headers | Sequence[Headers]:
        if isinstance(index, slice):
            return _LazyHeaders(self._messages[index])
        headers: Any = self._messages[index].headers()
        return headers or ()


def to_records(where: Partition, messages: list[Message]) -> Records:
    """Messages of one partition as records, at about 0.2 µs each."""
    count = len(messages)
    return Records(
        topic=where.topic,
        partition=where.partition,
        offset=np.fromiter(map(Message.offset, messages), np.int64, count),
        timestamp_ms=np.fromiter(
            map(itemgetter(1), map(Message.timestamp, messages)), np.int64, count
        ),
        values=list(map(Message.value, messages)),
        headers=_LazyHeaders(messages),
    )


class Source:
    """The group's consumer. Not for more than one thread."""

    def __init__(self, properties: Properties, group: str, beat: Beat = _unheard) -> None:
        self._latch = _Latch()
        self._beat = beat
        merged = consumer_properties(properties, group)
        self._epochs_pass_unsaid = merged.get("group.protocol") == "consumer"
        self._consumer = _made(Consumer, {**merged, "error_cb": self._latch.on_error})
        self._owned: set[Partition] = set()
        self._held = False
        self._closing = False
        self.membership = Membership(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        """Leave the group; partitions still held are revoked first."""
        self._closing = True
        self._consumer.close()
        if failed is None:
            self._latch.check()

    def subscribe(self, topics: list[str], owner: Owner) -> None:
        """Join the group; the owner is told of partitions from within `poll`, `serve` and exit."""

        def assign(_: Consumer, given: list[TopicPartition]) -> None:
            if self._closing:  # what we are given while we leave, we leave with the rest
                return
            partitions = [Partition(one.topic, one.partition) for one in given]
            starts = owner.on_assign(partitions) if partitions else {}
            placed = [TopicPartition(*where, starts[where]) for where in partitions]
            with _border("taking partitions"):
                self._consumer.incremental_assign(placed)
                self._owned.update(partitions)
                # The client remembers a pause from the last time that it had the partition.
                (self._consumer.pause if self._held else self._consumer.resume)(placed)
            # A rebalance that leaves us what we have comes here too, with no partitions.
            self.membership = Membership(self._consumer.consumer_group_metadata())

        def revoke(_: Consumer, given: list[TopicPartition]) -> None:
            # The group has a new generation already, and we own these until we let go.
            self.membership = Membership(self._consumer.consumer_group_metadata())
            release(given, owner.on_revoke)

        def lose(_: Consumer, given: list[TopicPartition]) -> None:
            release(given, owner.on_lost)

        def release(given: list[TopicPartition], tell: Callable[[list[Partition]], None]) -> None:
            partitions = [Partition(one.topic, one.partition) for one in given]
            self._owned.difference_update(partitions)
            tell(partitions)

        with _border("subscribing"):
            self._consumer.subscribe(
                topics,
                on_assign=self._guarded(assign),
                on_revoke=self._guarded(revoke),
                on_lost=self._guarded(lose),
            )

    def _guarded(
        self, callback: Callable[[Consumer, list[TopicPartition]], None]
    ) -> Callable[[Consumer, list[TopicPartition]], None]:
        def call(consumer: Consumer, given: list[TopicPartition]) -> None:
            try:
                callback(consumer, given)
            except Exception as exception:  # noqa: BLE001 - kept, and raised by poll
                self._latch.keep(exception)

        return call

    def poll(self, records_max: int, timeout_s: float) -> list[Records]:
        """What arrived, at most so many records, as one batch for each partition.

        Waits for the whole time-out unless so many come earlier. Rebalances happen in here.
        """
        with _border("reading"):
            messages = self._consumer.consume(records_max, timeout_s)
        self._latch.check()
        self._renew_membership()
        groups: defaultdict[Partition, list[Message]] = defaultdict(list)
        for message in messages:
            groups[message.topic(), message.partition()].append(message)  # type: ignore[index]
        if any(map(Message.error, messages)):
            groups = self._without_errors(groups)
        return [
            to_records(Partition(*where), group)
            for where, group in groups.items()
            if where in self._owned
        ]

    def _renew_membership(self) -> None:
        """Under the new protocol the epoch grows with every change of the group, and nobody is told.

        Read only where rebalances have been served: one who was thrown out joins again no sooner
        than it has let go of what it lost, so that no epoch of ours vouches for that.
        """
        if self._epochs_pass_unsaid:
            self.membership = Membership(self._consumer.consumer_group_metadata())

    def _without_errors(
        self, groups: Mapping[Partition, list[Message]]
    ) -> defaultdict[Partition, list[Message]]:
        """The messages that are records; raises for an error that is not merely passing."""
        records: defaultdict[Partition, list[Message]] = defaultdict(list)
        for where, group in groups.items():
            for message in group:
                error = message.error()
                if error is None:
                    records[where].append(message)
                elif error.name() == "_AUTO_OFFSET_RESET":
                    raise RetentionGap(f"{Partition(*where)}: {error.str()}")
                elif classify(error) is Retriable:
                    log.warning("kafka client", code=error.name(), error=error.str())
                elif NAME_TAKEN in error.str():  # its code is only that it is fatal
                    raise Retriable(
                        f"joining the group: {error.str()} (a member of this group.instance.id died "
                        "and is not missed yet; start again when its session is over)"
                    )
                else:
                    raise failure(error, f"reading {where}")
        return records

    def serve(self, seconds: float) -> None:
        """Wait, letting rebalances happen but reading no records."""
        with _border("waiting"):
            self._held = True
            self._consumer.pause(self._consumer.assignment())
            deadline = time.monotonic() + seconds
            while (left := deadline - time.monotonic()) > 0:
                message = self._consumer.poll(left)
                self._latch.check()
                if message is not None:
                    where = Partition(message.topic() or "", message.partition() or 0)
                    kept = self._without_errors({where: [message]})
                    assert not kept, "a paused partition gave a record"
            self._held = False
            self._consumer.resume(self._consumer.assignment())
        self._renew_membership()

    def committed(self, partitions: list[Partition]) -> dict[Partition, Committed | None]:
        """What the group has committed for each, None where nothing.

        While a transaction of a predecessor is open the broker does not say: then we wait.
        """
        asked = [TopicPartition(*where) for where in partitions]
        for attempt in patiently(Retriable, beat=self._beat):
            with attempt, _border("asking for committed offsets"):
                found = self._consumer.committed(asked, timeout=CALL_S)
                for one in found:
                    if one.error is not None:
                        raise failure(one.error, "asking for committed offsets")
        return {
            Partition(one.topic, one.partition): (
                None if one.offset < 0 else Committed(one.offset, one.metadata or "")
            )
            for one in found
        }

    def span(self, where: Partition) -> tuple[int, int]:
        """The offset of the partition's first record, and that behind its last, asked now.

        The partition is there, since the group has given it to us: a broker that does not know it
        has only just started, and is asked again.
        """
        doing = f"asking for the span of {where}"
        for attempt in patiently(Retriable, beat=self._beat):
            with attempt:
                try:
                    with _border(doing):
                        found = self._consumer.get_watermark_offsets(
                            TopicPartition(*where), timeout=CALL_S
                        )
                except Fatal as error:
                    if TABLE.get(error.code, UNKNOWN) is TABLE["UNKNOWN_TOPIC_OR_PART"]:
                        raise Retriable(str(error)) from error
                    raise
        return found

    def end(self, where: Partition) -> int:
        """The offset behind the partition's last record, as of the last fetch; -1001 if none."""
        with _border(f"looking up the end of {where}"):
            return self._consumer.get_watermark_offsets(TopicPartition(*where), cached=True)[1]


# -- writing --------------------------------------------------------------------------------------


class OutRecord(NamedTuple):
    """One record to be published: to that partition, else to the one of its key."""

    topic: str
    key: bytes | None
    value: bytes
    headers: list[tuple[str, bytes]]
    partition: int | None = None


def _produce(producer: Producer, record: OutRecord, deadline: float = math.inf) -> None:
    """Hand a record to the client; where its queue is full, wait until deliveries make room."""
    topic, key, value, headers, partition = record
    anywhere = -1
    while time.monotonic() < deadline:
        try:
            producer.produce(
                topic,
                value,
                key,
                anywhere if partition is None else partition,
                headers=[*headers],
            )
        except BufferError:
            producer.poll(0.1)
        except KafkaException as exception:
            doing = f"writing a record of {_size_bytes(record)} bytes to topic {topic}"
            raise failure(exception.args[0], doing) from exception
        else:
            return
    raise Abortable(f"writing to topic {topic}: the client's queue has been full for too long")


def _size_bytes(record: OutRecord) -> int:
    headers = sum(len(name) + len(body or b"") for name, body in record.headers)
    return len(record.key or b"") + len(record.value) + headers


def _returns(call: Callable[[], object], within_s: float) -> bool:
    """Whether the call returns in that time; raises what it raises.

    One that does not is left behind in a thread of its own. The client's
    `send_offsets_to_transaction` takes a time-out and yet may wait for ever: seen in 2.16 where a
    transaction was aborted because its broker did not answer (the commit to the group's coordinator
    is never sent in the next one).
    """
    future = Future[None]()

    def run() -> None:
        try:
            call()
        except BaseException as exception:  # noqa: BLE001 - raised by whoever waits
            future.set_exception(exception)
        else:
            future.set_result(None)

    Thread(target=run, name="offsets", daemon=True).start()
    try:
        future.result(within_s)
    except TimeoutError:
        return False
    return True


class Sink:
    """The transactional producer. Outputs and offsets go together, or not at all.

    It has no callbacks: a record that is not delivered fails the commit, and a client that meets a
    fatal error while it calls back breaks (`SystemError`) and forgets the error's code.
    """

    def __init__(
        self, properties: Properties, group: str, slot: str, beat: Beat = _unheard
    ) -> None:
        own = producer_properties(properties, {"transactional.id": f"{group}-{slot}"})
        self._timeout_s = int(own["transaction.timeout.ms"]) / 1000
        # The client waits for one answer nearly as long as the transaction may last.
        answer_ms = int(self._timeout_s * 1000 * TRIED_SHARE / 2)
        self._own = {"socket.timeout.ms": answer_ms, **own}
        self._producer = _made(Producer, self._own)
        self._begun_at = -math.inf
        self._stuck = False
        self._beat = beat

    def open(self) -> None:
        """Take over the slot: a predecessor's open transaction is aborted, itself fenced."""
        for attempt in patiently(Retriable, beat=self._beat):
            with attempt, _border("taking over the transactional id"):
                self._producer.init_transactions(CALL_S)

    def transact(
        self,
        records: Iterable[OutRecord],
        positions: Mapping[Partition, Committed],
        membership: Membership,
    ) -> None:
        """Publish the records and commit the positions in one transaction.

        On any error the transaction is aborted: nothing of it will be seen. After Abortable the
        same may be tried again; every other error is the end of this sink. Outlived where nobody
        knows here whether it was committed.
        """
        records = list(records)
        try:
            self._begin()
            try:
                self._write(records)
                self._add_offsets(positions, membership)
                self._deliver()
            except Retriable as error:
                raise Abortable(f"{error}; {self._tried()}") from error
            self._commit()
        except (Fenced, Fatal) as error:
            if self._age_s() >= self._timeout_s:  # the broker has aborted it, and shut us out
                raise Outlived(f"{error}; {self._tried()}") from error
            self._abort_if_possible()
            raise _explained(error, records) from error.__cause__
        except Abortable as error:
            self._abort()
            self._refuse_missing_topics(records, error)
            raise

    def _begin(self) -> None:
        self._begun_at = time.monotonic()
        with _border("beginning a transaction"):
            self._producer.begin_transaction()

    def _write(self, records: list[OutRecord]) -> None:
        for record in records:
            _produce(self._producer, record, self._deadline())

    def _add_offsets(
        self, positions: Mapping[Partition, Committed], membership: Membership
    ) -> None:
        offsets = [
            TopicPartition(*where, offset, note) for where, (offset, note) in positions.items()
        ]
        doing = "adding offsets to the transaction"
        for attempt in patiently(Retriable, patience_s=self._left_s(), beat=self._beat):
            with attempt, _border(doing):
                send = partial(
                    self._producer.send_offsets_to_transaction,
                    *(offsets, membership.metadata, self._call_s()),
                )
                if not _returns(send, self._call_s() + OVERTIME_S):
                    self._stuck = True
                    raise Abortable(f"{doing}: the client does not return; {self._tried()}")

    def _deliver(self) -> None:
        """Wait until brokers have every record: a commit that waited could not be aborted."""
        while undelivered := self._producer.flush(self._call_s()):
            self._beat()
            if not self._left_s():
                raise Abortable(f"writing: {undelivered} records not delivered; {self._tried()}")

    def _commit(self) -> None:
        """Once the broker is asked to commit, only it knows what became of it: ask until it says."""
        try:
            for attempt in patiently(Retriable, beat=self._beat):
                with attempt, _border("committing"):
                    self._producer.commit_transaction(CALL_S)
        except Retriable as error:
            raise Outlived(f"{error}; {self._tried()}") from error

    def _abort(self) -> None:
        """Nobody was asked to commit: where the client cannot abort, a new one does by starting.

        The client gives up where the broker did not yet know of the transaction that it ends. But
        where another worker may have the slot by now, taking it over again would only change sides.
        """
        try:
            if not self._stuck:
                self._abort_once()
                return
        except Fenced as error:
            raise Outlived(f"{error}; {self._tried()}") from error
        except KafkaFailure as error:
            log.warning("could not abort", error=str(error))
        log.warning("a new producer takes over")
        self._producer, self._stuck = _made(Producer, self._own), False
        self.open()

    def _abort_once(self) -> None:
        for attempt in patiently(Retriable, beat=self._beat):
            with attempt, _border("aborting"):
                self._producer.abort_transaction(CALL_S)

    def _abort_if_possible(self) -> None:
        """Where it is not, the error that led here is the one to report."""
        try:
            self._abort_once()
        except KafkaFailure as error:
            log.warning("could not abort", error=str(error))

    def _refuse_missing_topics(self, records: list[OutRecord], why: Abortable) -> None:
        """Raise Fatal where a topic does not exist: then every try would end like this one."""
        for topic in sorted({record.topic for record in records}):
            since = time.monotonic()
            while self._is_missing(topic):
                if time.monotonic() - since >= ASKED_S:
                    row = TABLE["UNKNOWN_TOPIC_OR_PART"]
                    raise Fatal(f"topic {topic}: {row.cause}; {row.action}") from why
                time.sleep(0.2)

    def _is_missing(self, topic: str) -> bool:
        try:
            found = self._producer.list_topics(topic, timeout=self._call_s() or 1.0).topics[topic]
        except KafkaException:
            return False  # nobody answers, so nobody says so
        return found.error is not None and found.error.name() == "UNKNOWN_TOPIC_OR_PART"

    def _age_s(self) -> float:
        return time.monotonic() - self._begun_at

    def _deadline(self) -> float:
        return self._begun_at + self._timeout_s * TRIED_SHARE

    def _left_s(self) -> float:
        return max(0.0, self._deadline() - time.monotonic())

    def _call_s(self) -> float:
        return min(CALL_S, self._left_s())

    def _tried(self) -> str:
        return f"after {self._age_s():.1f} s of transaction.timeout.ms = {self._timeout_s:g} s"


def _explained(error: Fenced | Fatal, records: list[OutRecord]) -> KafkaFailure:
    """The error; where a broker refused a record for its size, it does not say which."""
    if error.code in {"MSG_SIZE_TOO_LARGE", "RECORD_LIST_TOO_LARGE"} and records:
        largest = max(records, key=_size_bytes)
        return type(error)(
            f"{error}; the transaction's largest record has {_size_bytes(largest)} bytes, for topic "
            f"{largest.topic}"
        )
    return error


class Admin:
    """Looks at topics, and makes them."""

    def __init__(self, properties: Properties, beat: Beat = _unheard) -> None:
        self._latch = _Latch()
        self._beat = beat
        own = {**admin_properties(properties), "error_cb": self._latch.on_error}
        self._client = _made(AdminClient, own)

    def partition_counts(self, topics: Iterable[str]) -> dict[str, int]:
        """Topic → number of its partitions; a topic that does not exist is missing."""
        return {topic: count for topic in topics if (count := self._partition_count(topic))}

    def _partition_count(self, topic: str) -> int:
        for attempt in patiently(Retriable, beat=self._beat):
            with attempt, _border(f"asking for topic {topic}"):
                self._client.poll(0)  # lets the client say what keeps it from connecting
                self._latch.check()
                found = self._client.list_topics(topic, timeout=CALL_S).topics[topic]
                if found.error is None:
                    return len(found.partitions)
                if TABLE.get(found.error.name(), UNKNOWN) is not TABLE["UNKNOWN_TOPIC_OR_PART"]:
                    raise failure(found.error, f"asking for topic {topic}")
        return 0

    def settings(self, topic: str, names: Iterable[str]) -> dict[str, str]:
        """The topic's settings of these names, as the broker applies them."""
        asked = ConfigResource(ResourceType.TOPIC, topic)
        for attempt in patiently(Retriable, beat=self._beat):
            with attempt, _border(f"asking for the settings of topic {topic}"):
                [future] = self._client.describe_configs([asked], request_timeout=CALL_S).values()
                found = future.result()
        return {name: found[name].value for name in names}

    def create(
        self, topic: str, partitions: int, settings: Mapping[str, str], copies: int | None
    ) -> None:
        """Make a topic, and wait until it is known. copies: its replication factor, None for the
        broker's own."""
        new = NewTopic(topic, partitions, copies or -1, config=dict(settings))
        for attempt in patiently(Retriable, beat=self._beat):
            with attempt, _border(f"creating topic {topic}"):
                [future] = self._client.create_topics([new], request_timeout=CALL_S).values()
                future.result()
        for attempt in patiently(Retriable, beat=self._beat):
            with attempt:
                if not self._partition_count(topic):
                    raise Retriable(f"creating topic {topic}: the broker does not list it yet")


class Feed:
    """A plain producer for the simulator: at least once, in order, keyed."""

    def __init__(
        self, properties: Properties, topic: str, partitioner: Literal["murmur2", "crc32"] | None
    ) -> None:
        self._latch = _Latch()
        self._topic = topic
        name = "consistent_random" if partitioner == "crc32" else "murmur2_random"
        own = producer_properties(properties, {"partitioner": name})
        self._producer = _made(Producer, {**own, "on_delivery": self._on_delivery})

    def _on_delivery(self, error: KafkaError | None, _: Message) -> None:
        if error is not None:
            self._latch.keep(failure(error, f"writing to {self._topic}"))

    def send(self, key: bytes | None, value: bytes) -> None:
        """Send one record; returns as soon as the client has taken it."""
        _produce(self._producer, OutRecord(self._topic, key, value, []))
        self._producer.poll(0)
        self._latch.check()

    def close(self) -> None:
        """Wait until everything is delivered. Raises what a delivery failed with."""
        left = self._producer.flush(PATIENCE_S)
        self._latch.check()
        if left:
            raise Retriable(f"writing to {self._topic}: {left} records not delivered")
