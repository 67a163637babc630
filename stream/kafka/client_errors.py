"""Errors of Kafka's client: translated to those of `stream.errors`, retried, or deferred.

`stream.kafka.error_codes` lists what each code means.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import structlog
from confluent_kafka import KafkaError, KafkaException
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_delay
from tenacity.wait import wait_random_exponential

from stream.errors import Abortable, ConfigError, Fatal, Fenced, KafkaFailure, Retriable
from stream.kafka.error_codes import CODE_MEANINGS, UNKNOWN_CODE, ErrorClass
from stream.kafka.properties import hide_values
from stream.location import hide_credentials

logger = structlog.stdlib.get_logger(__name__)

RETRY_FOR_S: Final = 60.0
"""How long an operation is retried before the worker gives up and its supervisor takes over."""

CALL_TIMEOUT_S: Final = 10.0
"""Time-out of one call to the broker, which is then retried."""

RETRY_PAUSE_MAX_S: Final = 5.0
"""The longest pause between two tries. The worker beats before every pause, so that two beats are
never further apart than CALL_TIMEOUT_S and this."""

LOG_INTERVAL_S: Final = 5.0
"""The minimum time between two log lines about the same error code."""

CLIENT_LOG: Final = logging.getLogger("stream.kafka.client")
"""Receives the lines that the client would otherwise write to standard error. The client passes them
on from within consume, poll and flush."""

Client = TypeVar("Client")

Beat = Callable[[], None]
"""Called while a broker is awaited, to show that the worker is alive."""


def no_beat() -> None:
    """Do nothing."""


def classify(error: KafkaError) -> ErrorClass:
    """The class of an error; an unknown one is fatal.

    A code that no retry can help is fatal, whatever the client's flags say. Otherwise the flags
    take precedence over the code, since they reflect the state of the producer.
    """
    meaning = CODE_MEANINGS.get(error.name())
    if meaning is not None and meaning.kind is Fatal:
        return Fatal
    if error.fatal():
        return Fenced if meaning is not None and meaning.kind is Fenced else Fatal
    if error.txn_requires_abort():
        return Abortable
    if error.retriable():
        return Retriable
    return meaning.kind if meaning is not None else Fatal


def kafka_failure(error: KafkaError, operation: str) -> KafkaFailure:
    """The exception for a client's error: operation, code, cause and remedy."""
    meaning = CODE_MEANINGS.get(error.name(), UNKNOWN_CODE)
    kind = classify(error)
    raised = kind(f"{operation}: {error.name()}: {error.str()} ({meaning.cause}; {meaning.action})")
    raised.code = error.name()
    return raised


@contextmanager
def map_client_errors(operation: str) -> Iterator[None]:
    """Translate the client's exceptions to Eddy's own, with their cause."""
    try:
        yield
    except KafkaException as exception:
        raise kafka_failure(exception.args[0], operation) from exception


def retrying(
    *kinds: type[KafkaFailure],
    retry_for_s: float = RETRY_FOR_S,
    sleep: Callable[[float], None] = time.sleep,
    beat: Beat = no_beat,
) -> Retrying:
    """Attempts, with growing random pauses, until one succeeds, another error comes, or time is up."""

    def before_pause(state: RetryCallState) -> None:
        assert state.outcome is not None
        beat()
        logger.warning(
            "trying again", attempt=state.attempt_number, error=str(state.outcome.exception())
        )

    return Retrying(
        retry=retry_if_exception_type(kinds),
        wait=wait_random_exponential(multiplier=0.05, max=RETRY_PAUSE_MAX_S),
        stop=stop_after_delay(retry_for_s),
        sleep=sleep,
        before_sleep=before_pause,
        reraise=True,
    )


class DeferredError:
    """Holds the first error of a client's callback until it can be raised.

    An exception raised from a callback would be lost in the client, or break it.
    """

    def __init__(self) -> None:
        self._error: Exception | None = None
        self._logged_at: dict[str, float] = {}

    def set(self, error: Exception) -> None:
        """Hold the error, unless there is an earlier one."""
        self._error = self._error or error

    def raise_if_set(self) -> None:
        """Raise the error, once."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def on_error(self, error: KafkaError) -> None:
        """Log an error that the client reports, often repeatedly; it recovers from most by itself."""
        code, now = error.name(), time.monotonic()
        if now - self._logged_at.get(code, -math.inf) >= LOG_INTERVAL_S:
            self._logged_at[code] = now
            logger.warning("kafka client", code=code, error=hide_credentials(error.str()))
        if code in CODE_MEANINGS and classify(error) in {Fatal, Fenced}:
            self.set(kafka_failure(error, "connecting"))


def create_client(make: Callable[[dict[str, Any]], Client], properties: dict[str, Any]) -> Client:
    """Create a client that logs to `CLIENT_LOG`. Raises ConfigError for a property or a value that the
    client does not accept."""
    try:
        return make({**properties, "logger": CLIENT_LOG})
    except KafkaException as exception:
        text = hide_values(exception.args[0].str().strip(), properties)
        raise ConfigError([f"kafka: {text}"]) from None  # the cause shows the hidden values
