"""Producers: the worker's transactional one, and a plain one for the simulated shop."""

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

logger = structlog.stdlib.get_logger(__name__)

RETRY_FRACTION: Final = 0.6
"""The fraction of transaction.timeout.ms in which a transaction must reach its commit. The rest is for
aborting it: once the broker aborts a transaction itself, it fences the worker."""

CALL_GRACE_S: Final = 2.0
"""A call that exceeds its time-out by so much is taken to hang."""

TOPIC_MISSING_S: Final = 2.0
"""A topic counts as missing only when brokers have not known it for so long: a broker that has just
started learns of its topics late."""


def produce(producer: Producer, record: OutRecord, deadline: float = math.inf) -> None:
    """Queue a record in the client; if its queue is full, wait until deliveries make room."""
    topic, key, value, headers, partition = record
    any_partition = -1
    while time.monotonic() < deadline:
        try:
            producer.produce(
                topic,
                value,
                key,
                any_partition if partition is None else partition,
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
    return len(record.key or b"") + len(record.value or b"") + headers


def _returns_within(call: Callable[[], object], within_s: float) -> bool:
    """Run the call in a thread; return whether it returned in that time, and raise what it raised.

    A call that hangs is abandoned with its thread. The client's `send_offsets_to_transaction` takes
    a time-out, yet may wait for ever: seen in 2.16 after a transaction was aborted because its
    broker did not answer (the next one's commit to the group's coordinator is never sent).
    """
    future = Future[None]()

    def run() -> None:
        try:
            call()
        except BaseException as exception:  # noqa: BLE001 - raised by `result`
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
    """The worker's transactional producer: publishes records and commits offsets, both or neither.

    It sets no callbacks: a record that is not delivered fails the commit, and a client that meets a
    fatal error inside a callback breaks (`SystemError`) and loses the error's code.
    """

    def __init__(self, properties: Properties, group: str, slot: str, beat: Beat = no_beat) -> None:
        client_properties = producer_properties(properties, {"transactional.id": f"{group}-{slot}"})
        self._timeout_s = int(client_properties["transaction.timeout.ms"]) / 1000
        # By default the client waits for one answer nearly as long as a transaction may last.
        answer_ms = int(self._timeout_s * 1000 * RETRY_FRACTION / 2)
        self._properties = {"socket.timeout.ms": answer_ms, **client_properties}
        self._producer = create_client(Producer, self._properties)
        self._began_at = -math.inf
        self._hangs = False
        self._beat = beat

    def open(self) -> None:
        """Fence the slot's previous worker, and abort its open transaction."""
        for attempt in retrying(Retriable, beat=self._beat):
            with attempt, map_client_errors("taking over the transactional id"):
                self._producer.init_transactions(CALL_TIMEOUT_S)

    def transact(
        self,
        records: Iterable[OutRecord],
        offsets: Mapping[Partition, CommittedOffset],
        membership: Membership,
    ) -> None:
        """Publish the records and commit the offsets in one transaction.

        On an error nothing of the transaction becomes visible, except after CommitOutcomeUnknown.
        After Abortable it may be tried again; any other error is final for this sink.
        """
        records = list(records)
        try:
            self._begin()
            try:
                self._write(records)
                self._add_offsets(offsets, membership)
                self._deliver()
            except Retriable as error:
                raise Abortable(f"{error}; {self._elapsed_text()}") from error
            self._commit()
        except (Fenced, Fatal) as error:
            if (
                self._age_s() >= self._timeout_s
            ):  # the broker has aborted it and fenced this producer
                raise CommitOutcomeUnknown(f"{error}; {self._elapsed_text()}") from error
            self._abort_if_possible()
            raise _with_largest_record(error, records) from error.__cause__
        except Abortable as error:
            self._abort()
            self._refuse_missing_topics(records, error)
            raise

    def _begin(self) -> None:
        self._began_at = time.monotonic()
        with map_client_errors("beginning a transaction"):
            self._producer.begin_transaction()

    def _write(self, records: list[OutRecord]) -> None:
        for record in records:
            produce(self._producer, record, self._deadline())

    def _add_offsets(
        self, offsets: Mapping[Partition, CommittedOffset], membership: Membership
    ) -> None:
        positions = [
            TopicPartition(*partition, next_offset, metadata)
            for partition, (next_offset, metadata) in offsets.items()
        ]
        operation = "adding offsets to the transaction"
        for attempt in retrying(Retriable, retry_for_s=self._left_s(), beat=self._beat):
            with attempt, map_client_errors(operation):
                send = partial(
                    self._producer.send_offsets_to_transaction,
                    *(positions, membership.metadata, self._call_s()),
                )
                if not _returns_within(send, self._call_s() + CALL_GRACE_S):
                    self._hangs = True
                    raise Abortable(f"{operation}: the client hangs; {self._elapsed_text()}")

    def _deliver(self) -> None:
        """Wait until brokers have every record: a transaction whose commit has begun cannot be aborted."""
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
        """Ask the broker to commit until it answers: from the first request on, only the broker knows
        the outcome."""
        try:
            for attempt in retrying(Retriable, beat=self._beat):
                with attempt, map_client_errors("committing"):
                    self._producer.commit_transaction(CALL_TIMEOUT_S)
        except Retriable as error:
            raise CommitOutcomeUnknown(f"{error}; {self._elapsed_text()}") from error

    def _abort(self) -> None:
        """Abort the transaction, whose commit was not requested yet.

        If the client cannot abort it, for example because the broker does not know the transaction yet, a
        new producer is started, which aborts it. After fencing none is started, because another worker
        may own the slot.
        """
        try:
            if not self._hangs:
                self._abort_once()
                return
        except Fenced as error:
            raise CommitOutcomeUnknown(f"{error}; {self._elapsed_text()}") from error
        except KafkaFailure as error:
            logger.warning("could not abort", error=str(error))
        logger.warning("starting a new producer to abort the transaction")
        self._producer, self._hangs = create_client(Producer, self._properties), False
        self.open()

    def _abort_once(self) -> None:
        for attempt in retrying(Retriable, beat=self._beat):
            with attempt, map_client_errors("aborting"):
                self._producer.abort_transaction(CALL_TIMEOUT_S)

    def _abort_if_possible(self) -> None:
        """Abort; an error is only logged, since another one is about to be raised."""
        try:
            self._abort_once()
        except KafkaFailure as error:
            logger.warning("could not abort", error=str(error))

    def _refuse_missing_topics(self, records: list[OutRecord], cause: Abortable) -> None:
        """Raise Fatal if a topic does not exist: trying again would not help."""
        for topic in sorted({record.topic for record in records}):
            since = time.monotonic()
            while self._is_missing(topic):
                if time.monotonic() - since >= TOPIC_MISSING_S:
                    meaning = CODE_MEANINGS["UNKNOWN_TOPIC_OR_PART"]
                    raise Fatal(f"topic {topic}: {meaning.cause}; {meaning.action}") from cause
                time.sleep(0.2)

    def _is_missing(self, topic: str) -> bool:
        try:
            metadata = self._producer.list_topics(topic, timeout=self._call_s() or 1.0).topics[
                topic
            ]
        except KafkaException:
            return False  # no broker answers
        return metadata.error is not None and metadata.error.name() in UNKNOWN_TOPIC_CODES

    def _age_s(self) -> float:
        return time.monotonic() - self._began_at

    def _deadline(self) -> float:
        return self._began_at + self._timeout_s * RETRY_FRACTION

    def _left_s(self) -> float:
        return max(0.0, self._deadline() - time.monotonic())

    def _call_s(self) -> float:
        return min(CALL_TIMEOUT_S, self._left_s())

    def _elapsed_text(self) -> str:
        return f"after {self._age_s():.1f} s of transaction.timeout.ms = {self._timeout_s:g} s"


def _with_largest_record(error: Fenced | Fatal, records: list[OutRecord]) -> KafkaFailure:
    """Add the largest record to an error about a record's size: the broker does not name it."""
    if error.code in {"MSG_SIZE_TOO_LARGE", "RECORD_LIST_TOO_LARGE"} and records:
        largest = max(records, key=_size_bytes)
        return type(error)(
            f"{error}; the transaction's largest record has {_size_bytes(largest)} bytes, for topic "
            f"{largest.topic}"
        )
    return error


class PlainProducer:
    """A producer without transactions, for the simulated shop: at least once, in order, keyed."""

    def __init__(
        self, properties: Properties, topic: str, partitioner: Literal["murmur2", "crc32"] | None
    ) -> None:
        self._deferred_error = DeferredError()
        self._topic = topic
        name = "consistent_random" if partitioner == "crc32" else "murmur2_random"
        client_properties = producer_properties(properties, {"partitioner": name})
        self._producer = create_client(
            Producer, {**client_properties, "on_delivery": self._on_delivery}
        )

    def _on_delivery(self, error: KafkaError | None, _: Message) -> None:
        if error is not None:
            self._deferred_error.set(kafka_failure(error, f"writing to {self._topic}"))

    def send(self, key: bytes | None, value: bytes) -> None:
        """Queue one record in the client."""
        produce(self._producer, OutRecord(self._topic, key, value, []))
        self._producer.poll(0)
        self._deferred_error.raise_if_set()

    def close(self) -> None:
        """Wait until everything is delivered. Raises the first error of a delivery."""
        left = self._producer.flush(RETRY_FOR_S)
        self._deferred_error.raise_if_set()
        if left:
            raise Retriable(f"writing to {self._topic}: {left} records not delivered")
