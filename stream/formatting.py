"""Numbers, durations, times and contributions formatted for people."""

from datetime import UTC, datetime
from math import floor
from typing import Final

from schemas.alerts import Contribution

UNDEFINED: Final = "–"
"""Shown for a value that is not defined."""
_NO_BREAK_SPACE: Final = "\N{NO-BREAK SPACE}"
"""Between thousands and before units, so that no line breaks there."""
_CONTROL: Final = (*range(9), *range(11, 32), *range(127, 160), 0x061C, 0x200E, 0x200F)
"""C0 (except tab and line feed), C1, and direction marks."""
_DIRECTION: Final = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
"""Embeddings, overrides and isolates, which reorder the text that follows."""
_ESCAPES: Final = {code: f"\\u{code:04x}" for code in (*_CONTROL, *_DIRECTION)}


def escape_control_characters(text: str) -> str:
    """Replace control characters, except tab and line feed, by their JSON escapes. Terminals act on
    such characters, and an attacker may have written them."""
    return text.translate(_ESCAPES)


def format_number(value: float | None) -> str:
    """A number with about three digits, thousands separated."""
    if value is None:
        return UNDEFINED
    if abs(value) < 1e-9:
        return "0"  # a count that has decayed for days
    if abs(value) >= 100:
        return f"{value:,.0f}".replace(",", _NO_BREAK_SPACE)
    if value == round(value, 1):
        return f"{value:g}"
    return f"{value:.1f}" if abs(value) >= 1 else f"{value:.2g}"


def format_amount(value: float | None) -> str:
    """An amount with two decimals, thousands separated."""
    return UNDEFINED if value is None else f"{value:,.2f}".replace(",", _NO_BREAK_SPACE)


def format_count(value: int) -> str:
    """A count with all digits, thousands separated."""
    return f"{value:,}".replace(",", _NO_BREAK_SPACE)


def format_quantity(count: int, what: str) -> str:
    """A count with its noun: "1 alert", "2 alerts"."""
    return f"{format_count(count)} {what}{'' if count == 1 else 's'}"


def format_percent(share: float | None) -> str:
    """A share as a percentage: "7.4 %"."""
    if share is None:
        return UNDEFINED
    digits = 0 if share in {0.0, 1.0} else 1 if abs(share) >= 0.001 else 3
    return f"{share * 100:.{digits}f}{_NO_BREAK_SPACE}%"


def format_ratio(value: float | None) -> str:
    """A measure between 0 and 1 with three decimals: ".483"."""
    return UNDEFINED if value is None else f"{value:.3f}".removeprefix("0")


def format_value(value: float | None) -> str:
    """A value with four digits: "0.4831", "1200", "1e-05"."""
    return UNDEFINED if value is None else f"{value:.4g}"


def format_score(value: float | None) -> str:
    """A score with two decimals, rounded down, so that one below a limit never looks equal to it."""
    return UNDEFINED if value is None else f"{floor(round(value, 6) * 100) / 100:g}"


def format_difference(value: float | None) -> str:
    """A signed difference of two measures between 0 and 1: "+.034", "−.002"."""
    if value is None:
        return UNDEFINED
    sign = "−" if round(value, 3) < 0 else "+"
    return sign + format_ratio(abs(value))


def format_bytes(count: float) -> str:
    """A number of bytes: "12 MB"."""
    for unit, unit_bytes in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= unit_bytes:
            return f"{format_number(round(count / unit_bytes, 1))}{_NO_BREAK_SPACE}{unit}"
    return f"{count:.0f}{_NO_BREAK_SPACE}bytes"


def format_duration(ms: float) -> str:
    """A duration: "8 s", "4 min", "1.5 h", "2.1 d"."""
    for unit, unit_ms in (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000)):
        if ms >= unit_ms:
            return f"{format_number(round(ms / unit_ms, 1 if ms < 10 * unit_ms else 0))} {unit}"
    return f"{ms / 1000:.0f} s"


def format_time(ms: int) -> str:
    """A time in UTC with its weekday: "Mon 02 Mar 2026 00:00:00"."""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%a %d %b %Y %H:%M:%S")


def format_contribution(part: Contribution) -> str:
    """A contribution to an alert: "payments_1h: 41 seen, 0–6 expected (61 %)"."""
    expected = ""
    if part.expected_low is not None and part.expected_high is not None:
        low, high = format_number(part.expected_low), format_number(part.expected_high)
        expected = f", {low if low == high else f'{low}–{high}'} expected"
    elif part.expected_high is not None:
        expected = f", at most {format_number(part.expected_high)} expected"
    elif part.expected_low is not None:
        expected = f", at least {format_number(part.expected_low)} expected"
    return f"{part.feature}: {format_number(part.actual)} seen{expected} ({part.share * 100:.0f}{_NO_BREAK_SPACE}%)"
