"""Values of many forms as columns of one type: texts, numbers and times, whatever a producer wrote.

A column of one type is converted at once; a mixed one value by value, with the same results.
"""

import re
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.columns import I64, text_bytes
from schemas.mapping import TimeUnit
from schemas.repairs import decode_text

_DECIMAL: Final = re.compile(
    r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?|[+-]?(nan|inf|infinity)", re.ASCII | re.IGNORECASE
)
_DECIMAL_CHARACTERS_MAX: Final = 64
_OUT_OF_RANGE_MS: Final = 1e16
"""A time that is out of range for certain, and still an int64."""


def text_column(values: list[Any]) -> pa.StringArray:
    """string[k] of str, int, bool and None."""
    try:
        return pa.array(values, pa.string())
    except (pa.ArrowTypeError, pa.ArrowInvalid):
        return pa.array([_as_text(value) for value in values], pa.string())


def _as_text(value: str | int | bool | None) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int) else value


def valid_utf8(column: pa.StringArray) -> tuple[pa.StringArray, list[int]]:
    """The texts with U+FFFD for each byte that is not UTF-8, and the positions that had any."""
    if text_bytes(column).max(initial=0) < 0x80:
        return column, []
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        raw = column.cast(pa.binary()).to_pylist()
        decoded = [None if value is None else decode_text(value) for value in raw]
        pairs = enumerate(zip(decoded, raw, strict=True))
        wrong = [i for i, (text, value) in pairs if text is not None and text.encode() != value]
        return pa.array(decoded, pa.string()), wrong
    return column, []


def number_column(values: list[Any]) -> tuple[pa.DoubleArray, list[int]]:
    """float64[k] of numbers, decimal strings and None, and the positions of all other values.

    An empty string is None, as many producers write it.
    """
    try:
        return pa.array(values, pa.float64()), []
    except (pa.ArrowTypeError, pa.ArrowInvalid):
        pass
    try:
        texts = pa.array(values, pa.string())
        if (pc.max(pc.binary_length(texts)).as_py() or 0) <= _DECIMAL_CHARACTERS_MAX:
            numbers = texts.cast(pa.float64())
            if pc.all(pc.is_finite(numbers)).as_py() is not False:
                return numbers, []
    except (pa.ArrowTypeError, pa.ArrowInvalid):
        pass
    parsed = [_parse_number(value) for value in values]
    wrong = [
        i
        for i, (number, value) in enumerate(zip(parsed, values, strict=True))
        if number is None and value not in {None, ""}
    ]
    return pa.array(parsed, pa.float64()), wrong


def ms_of_numbers(values: pa.DoubleArray, unit: TimeUnit) -> pa.Int64Array:
    """int64[k]: milliseconds of times in a unit; a value that is not finite becomes a time that is
    out of range."""
    raw = values.fill_null(0.0).to_numpy(zero_copy_only=False)
    with np.errstate(over="ignore", invalid="ignore"):  # infinities are clipped below
        if unit == "s":
            # 1525132800.123 s is .12299… in binary: truncation would lose its last millisecond
            scaled = np.rint(raw * 1000.0)
        else:
            scaled = np.floor(raw / 1000.0 if unit == "us" else raw)
    clipped = np.clip(scaled, -_OUT_OF_RANGE_MS, _OUT_OF_RANGE_MS)
    return _with_nulls(np.nan_to_num(clipped, nan=_OUT_OF_RANGE_MS).astype(np.int64), values)


def ms_of_texts(values: pa.StringArray) -> tuple[pa.Int64Array, list[int]]:
    """int64[k]: milliseconds of ISO 8601 texts, UTC where they have no offset; and the positions
    of texts that are not ISO 8601."""
    for zone in (None, "UTC"):
        try:
            micros = values.cast(pa.timestamp("us", zone)).cast(pa.int64())
        except pa.ArrowInvalid:
            continue
        raw = micros.fill_null(0).to_numpy(zero_copy_only=False)
        # Arrow has a year 0 and Python has not; a time before 1970 is out of range anyway
        if raw.min(initial=0) >= 0:
            return _with_nulls(raw // 1000, values), []
    parsed = [_parse_iso(text) for text in values.to_pylist()]
    given = values.is_valid().to_numpy(zero_copy_only=False)
    wrong = [i for i, ms in enumerate(parsed) if ms is None and given[i]]
    return pa.array(parsed, pa.int64()), wrong


def without_empty(column: pa.StringArray) -> pa.StringArray:
    """Null for the empty text: many producers write it for "none", and it would name an entity."""
    if pc.min(pc.binary_length(column)).as_py() != 0:
        return column
    return pc.if_else(pc.equal(column, ""), pa.scalar(None, pa.string()), column)


def _with_nulls(values: I64, like: pa.Array) -> pa.Int64Array:
    mask = like.is_null().to_numpy(zero_copy_only=False) if like.null_count else None
    return pa.array(values, pa.int64(), mask=mask)


def _parse_number(value: Any) -> float | None:
    if not isinstance(value, str):
        return None if value is None else float(value)
    is_decimal = len(value) <= _DECIMAL_CHARACTERS_MAX and _DECIMAL.fullmatch(value)
    return float(value) if is_decimal else None


def _parse_iso(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    aware = time if time.tzinfo else time.replace(tzinfo=UTC)
    since = aware - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1000 + since.microseconds // 1000
