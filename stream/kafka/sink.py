"""The producers: the transactional one of the worker, and a plain one that feeds a topic."""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from functools import partial
from threading import Thread
from typing import Final, Literal

import structlog
from confluent_kafka import KafkaError, KafkaException, Message, Producer, TopicPartition

from stream.errors import Abortable, CommitOutcomeUnknown, Fatal, Fenced, KafkaFailure, Retriable
from stream.kafka.client_errors import (
    CALL_TIMEOUT_S,
    RETRY_FOR_S,
    Beat,
    DeferredError,
    create_client,
    kafka_failure,
    map_client_errors,
    no_beat,
    retrying,
)
from stream.kafka.error_codes import CODE_MEANINGS, UNKNOWN_TOPIC_CODES
from stream.kafka.messages import OutRecord
from stream.kafka.positions import CommittedOffset, Membership, Partition
from stream.kafka.properties import Properties, producer_properties

log = structlog.stdlib.get_logger(__name__)

RETRY_FRACTION: Final = 0.6
"""All tries of one transaction end when this share of transaction.timeout.ms is over. What is left
is for aborting it: where the broker does that itself, it takes the worker for a zombie."""

CALL_GRACE_S: Final = 2.0
"""A call that takes so much longer than it was told to will never return."""

TOPIC_MISSING_S: Final = 2.0
"""A topic counts as missing when brokers have not known it for so long: one that has just started
may learn of its topics late."""


def produce(producer: Producer, record: OutRecord, deadline: float = math.inf) -> None:
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
            operation = f"writing a record of {_size_bytes(record)} bytes to topic {topic}"
            raise kafka_failure(exception.args[0], operation) from exception
        else:
            return
    raise Abortable(f"writing to topic {topic}: the client's queue has been full for too long")


def _size_bytes(record: OutRecord) -> int:
    headers = sum(len(name) + len(body or b"") for name, body in record.headers)
    return len(record.key or b"") + len(record.value) + headers


def _returns_within(call: Callable[[], object], within_s: float) -> bool:
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


class KafkaSink:
    """The transactional producer. Outputs and offsets go together, or not at all.

    It has no callbacks: a record that is not delivered fails the commit, and a client that meets a
    fatal error while it calls back breaks (`SystemError`) and forgets the error's code.
    """

    def __init__(self, properties: Properties, group: str, slot: str, beat: Beat = no_beat) -> None:
        own = producer_properties(properties, {"transactional.id": f"{group}-{slot}"})
        self._timeout_s = int(own["transaction.timeout.ms"]) / 1000
        # The client waits for one answer nearly as long as the transaction may last.
        answer_ms = int(self._timeout_s * 1000 * RETRY_FRACTION / 2)
        self._own = {"socket.timeout.ms": answer_ms, **own}
        self._producer = create_client(Producer, self._own)
        self._begun_at = -math.inf
        self._stuck = False
        self._beat = beat

    def open(self) -> None:
        """Take over the slot: a predecessor's open transaction is aborted, itself fenced."""
        for attempt in retrying(Retriable, beat=self._beat):
            with attempt, map_client_errors("taking over the transactional id"):
                self._producer.init_transactions(CALL_TIMEOUT_S)

    def transact(
        self,
        records: Iterable[OutRecord],
        positions: Mapping[Partition, CommittedOffset],
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
                raise Abortable(f"{error}; {self._elapsed_text()}") from error
            self._commit()
        except (Fenced, Fatal) as error:
            if self._age_s() >= self._timeout_s:  # the broker has aborted it, and shut us out
                raise CommitOutcomeUnknown(f"{error}; {self._elapsed_text()}") from error
            self._abort_if_possible()
            raise _with_largest_record(error, records) from error.__cause__
        except Abortable as error:
            self._abort()
            self._refuse_missing_topics(records, error)
            raise

    def _begin(self) -> None:
        self._begun_at = time.monotonic()
        with map_client_errors("beginning a transaction"):
            self._producer.begin_transaction()

    def _write(self, records: list[OutRecord]) -> None:
        for record in records:
            produce(self._producer, record, self._deadline())

    def _add_offsets(
        self, positions: Mapping[Partition, CommittedOffset], membership: Membership
    ) -> None:
        offsets = [
            TopicPartition(*where, offset, metadata)
            for where, (offset, metadata) in positions.items()
        ]
        operation = "adding offsets to the transaction"
        for attempt in retrying(Retriable, retry_for_s=self._left_s(), beat=self._beat):
            with attempt, map_client_errors(operation):
                send = partial(
                    self._producer.send_offsets_to_transaction,
                    *(offsets, membership.metadata, self._call_s()),
                )
                if not _returns_within(send, self._call_s() + CALL_GRACE_S):
                    self._stuck = True
                    raise Abortable(
                        f"{operation}: the client does not return; {self._elapsed_text()}"
                    )

    def _deliver(self) -> None:
        """Wait until brokers have every record: a commit that waited could not be aborted."""
        while undelivered := self._flush():
            self._beat()
            if not self._left_s():
                raise Abortable(
                    f"writing: {undelivered} records not delivered; {self._elapsed_text()}"
                )

    def _flush(self) -> int:
        """Wait for deliveries; return how many records are left. It raises once fenced."""
        with map_client_errors("writing"):
            return self._producer.flush(self._call_s())

    def _commit(self) -> None:
        """Once the broker is asked to commit, only it knows what became of it: ask until it
        says."""
        try:
            for attempt in retrying(Retriable, beat=self._beat):
                with attempt, map_client_errors("committing"):
                    self._producer.commit_transaction(CALL_TIMEOUT_S)
        except Retriable as error:
            raise CommitOutcomeUnknown(f"{error}; {self._elapsed_text()}") from error

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
            raise CommitOutcomeUnknown(f"{error}; {self._elapsed_text()}") from error
        except KafkaFailure as error:
            log.warning("could not abort", error=str(error))
        log.warning("a new producer takes over")
        self._producer, self._stuck = create_client(Producer, self._own), False
        self.open()

    def _abort_once(self) -> None:
        for attempt in retrying(Retriable, beat=self._beat):
            with attempt, map_client_errors("aborting"):
                self._producer.abort_transaction(CALL_TIMEOUT_S)

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
                if time.monotonic() - since >= TOPIC_MISSING_S:
                    meaning = CODE_MEANINGS["UNKNOWN_TOPIC_OR_PART"]
                    raise Fatal(f"topic {topic}: {meaning.cause}; {meaning.action}") from why
                time.sleep(0.2)

    def _is_missing(self, topic: str) -> bool:
        try:
            found = self._producer.list_topics(topic, timeout=self._call_s() or 1.0).topics[topic]
        except KafkaException:
            return False  # nobody answers, so nobody says so
        return found.error is not None and found.error.name() in UNKNOWN_TOPIC_CODES

    def _age_s(self) -> float:
        return time.monotonic() - self._begun_at

    def _deadline(self) -> float:
        return self._begun_at + self._timeout_s * RETRY_FRACTION

    def _left_s(self) -> float:
        return max(0.0, self._deadline() - time.monotonic())

    def _call_s(self) -> float:
        return min(CALL_TIMEOUT_S, self._left_s())

    def _elapsed_text(self) -> str:
        return f"after {self._age_s():.1f} s of transaction.timeout.ms = {self._timeout_s:g} s"


def _with_largest_record(error: Fenced | Fatal, records: list[OutRecord]) -> KafkaFailure:
    """The error; where a broker refused a record for its size, it does not say which."""
    if error.code in {"MSG_SIZE_TOO_LARGE", "RECORD_LIST_TOO_LARGE"} and records:
        largest = max(records, key=_size_bytes)
        return type(error)(
            f"{error}; the transaction's largest record has {_size_bytes(largest)} bytes, for topic "
            f"{largest.topic}"
        )
    return error


class PlainProducer:
    """A plain producer for the simulator: at least once, in order, keyed."""

    def __init__(
        self, properties: Properties, topic: str, partitioner: Literal["murmur2", "crc32"] | None
    ) -> None:
        self._deferred_error = DeferredError()
        self._topic = topic
        name = "consistent_random" if partitioner == "crc32" else "murmur2_random"
        own = producer_properties(properties, {"partitioner": name})
        self._producer = create_client(Producer, {**own, "on_delivery": self._on_delivery})

    def _on_delivery(self, error: KafkaError | None, _: Message) -> None:
        if error is not None:
            self._deferred_error.set(kafka_failure(error, f"writing to {self._topic}"))

    def send(self, key: bytes | None, value: bytes) -> None:
        """Send one record; returns as soon as the client has taken it."""
        produce(self._producer, OutRecord(self._topic, key, value, []))
        self._producer.poll(0)
        self._deferred_error.raise_if_set()

    def close(self) -> None:
        """Wait until everything is delivered. Raises what a delivery failed with."""
        left = self._producer.flush(RETRY_FOR_S)
        self._deferred_error.raise_if_set()
        if left:
            raise Retriable(f"writing to {self._topic}: {left} records not delivered")
