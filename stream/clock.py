"""Clocks, and times as text. No shard reads a clock: its time is that of its events."""

import time
from datetime import UTC, datetime
from typing import Final, Protocol


def now_text() -> str:
    """Now, ISO 8601 in UTC with milliseconds."""
    return _text(datetime.now(UTC))


def format_time_ms(time_ms: int) -> str:
    """A time in milliseconds since 1970, in the same form."""
    return _text(datetime.fromtimestamp(time_ms / 1000, UTC))


def parse_time_ms(text: str) -> int:
    """Milliseconds since 1970 of an ISO 8601 date or time, UTC where it has no offset. Raises
    ValueError."""
    parsed = datetime.fromisoformat(text)
    return round((parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp() * 1000)


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Clock(Protocol):
    """The clocks of the machine; injected, so that a simulation decides how time passes."""

    def monotonic(self) -> float:
        """Seconds since some fixed time; never goes back."""

    def now_text(self) -> str:
        """The wall clock, ISO 8601 in UTC with milliseconds."""


class SystemClock:
    """The clocks of this machine."""

    def monotonic(self) -> float:
        """Seconds since some fixed time; never goes back."""
        return time.monotonic()

    def now_text(self) -> str:
        """The wall clock, ISO 8601 in UTC with milliseconds."""
        return now_text()


SYSTEM_CLOCK: Final = SystemClock()
