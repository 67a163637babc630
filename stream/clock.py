"""The wall clock as text, for what the log does not determine; nothing in the fold reads it."""

from datetime import UTC, datetime


def now_text() -> str:
    """Now, ISO 8601 in UTC with milliseconds."""
    return _text(datetime.now(UTC))


def format_time_ms(time_ms: int) -> str:
    """A time in milliseconds since 1970, in the same form."""
    return _text(datetime.fromtimestamp(time_ms / 1000, UTC))


def parse_time_ms(text: str) -> int:
    """Milliseconds since 1970 of an ISO 8601 date or time, UTC where it has no offset. Raises
    ValueError."""
    time = datetime.fromisoformat(text)
    return round((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1000)


def _text(time: datetime) -> str:
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
