"""What the client says when something goes wrong, and what is done about it: its errors become
those of `stream.errors`, some are worth another try, and those of its callbacks are kept until
somebody can be told. What each code means stands in `stream.kafka.error_codes`.
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

log = structlog.stdlib.get_logger(__name__)

RETRY_FOR_S: Final = 60.0
"""How long anything is tried again before the worker gives up and its supervisor takes over."""

CALL_TIMEOUT_S: Final = 10.0
"""How long one call to the broker may take before it counts as failed and is tried again."""

RETRY_PAUSE_MAX_S: Final = 5.0
"""The longest pause between two tries. With CALL_TIMEOUT_S it bounds how long waiting for a broker is
silent: before every pause the pulse beats."""

LOG_INTERVAL_S: Final = 5.0
"""The client's reports of one code are logged no more often."""

CLIENT_LOG: Final = logging.getLogger("stream.kafka.client")
"""Takes the lines that the client would write to standard error by itself. It hands them over in
calls that serve its queue: consume, poll and flush."""

Client = TypeVar("Client")

Beat = Callable[[], None]
"""Called while a broker is waited for: the worker is alive."""


def no_beat() -> None:
    """A beat that nobody listens to."""


def classify(error: KafkaError) -> ErrorClass:
    """The class of an error; an unknown one is fatal.

    A code that no retry can help is fatal whatever the client hopes. Else the client's own flags
    say more than the code, since they know in which state the producer is left.
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
    """The exception for a client's error: what was being done, code, cause and action."""
    meaning = CODE_MEANINGS.get(error.name(), UNKNOWN_CODE)
    kind = classify(error)
    error_raised = kind(
        f"{operation}: {error.name()}: {error.str()} ({meaning.cause}; {meaning.action})"
    )
    error_raised.code = error.name()
    return error_raised


@contextmanager
def map_client_errors(operation: str) -> Iterator[None]:
    """Turn the client's exceptions into Eddy's own, the cause kept."""
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
    """Attempts, with growing random pauses, while one of these errors comes and patience lasts."""

    def say(state: RetryCallState) -> None:
        assert state.outcome is not None
        beat()
        log.warning(
            "trying again", attempt=state.attempt_number, error=str(state.outcome.exception())
        )

    return Retrying(
        retry=retry_if_exception_type(kinds),
        wait=wait_random_exponential(multiplier=0.05, max=RETRY_PAUSE_MAX_S),
        stop=stop_after_delay(retry_for_s),
        sleep=sleep,
        before_sleep=say,
        reraise=True,
    )


class DeferredError:
    """Keeps the first thing that went wrong inside a client's callback until somebody can be told.

    An exception that left a callback would be lost in the client, or break it.
    """

    def __init__(self) -> None:
        self._kept: Exception | None = None
        self._logged_at: dict[str, float] = {}

    def set(self, error: Exception) -> None:
        """Keep it, unless something went wrong before."""
        self._kept = self._kept or error

    def raise_if_set(self) -> None:
        """Raise what was kept, once."""
        kept, self._kept = self._kept, None
        if kept is not None:
            raise kept

    def on_error(self, error: KafkaError) -> None:
        """What the client reports by itself, often many times; it mends most of it by itself."""
        code, now = error.name(), time.monotonic()
        if now - self._logged_at.get(code, -math.inf) >= LOG_INTERVAL_S:
            self._logged_at[code] = now
            log.warning("kafka client", code=code, error=hide_credentials(error.str()))
        if code in CODE_MEANINGS and classify(error) in {Fatal, Fenced}:
            self.set(kafka_failure(error, "connecting"))


def create_client(make: Callable[[dict[str, Any]], Client], properties: dict[str, Any]) -> Client:
    """The client, whose own log goes through the logger. Raises ConfigError where it knows no such
    property, or no such value."""
    try:
        return make({**properties, "logger": CLIENT_LOG})
    except KafkaException as exception:
        text = hide_values(exception.args[0].str().strip(), properties)
        raise ConfigError([f"kafka: {text}"]) from None  # the cause has the hidden values in clear
