"""What the client says when something goes wrong, and what is done about it: its errors become
those of `stream.errors`, some are worth another try, and those of its callbacks are kept until
somebody can be told. What each code means stands in `stream.kafka.codes`.
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
from stream.kafka.codes import TABLE, UNKNOWN, Kind
from stream.kafka.properties import without_values
from stream.place import without_credentials

log = structlog.stdlib.get_logger(__name__)

PATIENCE_S: Final = 60.0
"""How long anything is tried again before the worker gives up and its supervisor takes over."""

CALL_S: Final = 10.0
"""How long one call to the broker may take before it counts as failed and is tried again."""

PAUSE_S: Final = 5.0
"""The longest pause between two tries. With CALL_S it bounds how long waiting for a broker is
silent: before every pause the pulse beats."""

SAY_AGAIN_S: Final = 5.0
"""The client's reports of one code are logged no more often."""

CLIENT_LOG: Final = logging.getLogger("stream.kafka.client")
"""Takes the lines that the client would write to standard error by itself. It hands them over in
calls that serve its queue: consume, poll and flush."""

Client = TypeVar("Client")

Beat = Callable[[], None]
"""Called while a broker is waited for: the worker is alive."""


def unheard() -> None:
    """A beat that nobody listens to."""


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
def border(doing: str) -> Iterator[None]:
    """Turn the client's exceptions into Eddy's own, the cause kept."""
    try:
        yield
    except KafkaException as exception:
        raise failure(exception.args[0], doing) from exception


def patiently(
    *kinds: type[KafkaFailure],
    patience_s: float = PATIENCE_S,
    sleep: Callable[[float], None] = time.sleep,
    beat: Beat = unheard,
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


class Latch:
    """Keeps the first thing that went wrong inside a client's callback until somebody can be told.

    An exception that left a callback would be lost in the client, or break it.
    """

    def __init__(self) -> None:
        self._kept: Exception | None = None
        self._said_at: dict[str, float] = {}

    def keep(self, error: Exception) -> None:
        """Keep it, unless something went wrong before."""
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
            log.warning("kafka client", code=code, error=without_credentials(error.str()))
        if code in TABLE and classify(error) in {Fatal, Fenced}:
            self.keep(failure(error, "connecting"))


def made(make: Callable[[dict[str, Any]], Client], properties: dict[str, Any]) -> Client:
    """The client, whose own log goes through the logger. Raises ConfigError where it knows no such
    property, or no such value."""
    try:
        return make({**properties, "logger": CLIENT_LOG})
    except KafkaException as exception:
        text = without_values(exception.args[0].str().strip(), properties)
        raise ConfigError([f"kafka: {text}"]) from None  # the cause has the hidden values in clear
