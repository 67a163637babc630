"""What every codec ends in: raw values by path become columns by field, as the mapping says.

Texts and numbers are made one here whatever a producer wrote (ids as integers, money as decimal
strings, times in any unit); formats are the codecs' business, and limits that of `schemas.checks`.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.columns import I64
from schemas.dead_letters import DeadLetterCode, Fault
from schemas.events import FIELDS, Field
from schemas.mapping import Mapping, Path, Source, Unit
from schemas.records import Records

_DECIMAL: Final = re.compile(
    r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?|[+-]?(nan|inf|infinity)", re.ASCII | re.IGNORECASE
)
_DECIMAL_CHARACTERS_MAX: Final = 64
_FAR_MS: Final = 1e16
"""A time that is certainly out of range, and still an int64."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """Raw columns of the k records that decoded, null where a value is absent.

    rows: int64[k], indices of these records in their batch. event_id: Arrow string[k], or None
    where an event's position is its id. time_ms: Arrow int64[k]. type: Arrow string[k]. text:
    field → Arrow string[k], never empty. number: field → Arrow float64[k], which may be NaN or
    infinite. faults: of records that did not decode, and of some in `rows`, whose values are then
    null; at most one a record.
    """

    rows: I64
    event_id: pa.StringArray | None
    time_ms: pa.Int64Array
    type: pa.StringArray
    text: dict[str, pa.StringArray]
    number: dict[str, pa.DoubleArray]
    faults: list[Fault]


class Leaves(ABC):
    """The raw values of k decoded records by path, as a codec found them.

    A value that is not what it is asked for as is null, and noted in `wrong`: position among the
    k → code and message; the first note of a record stands.
    """

    def __init__(self, size: int, times: tuple[Path, ...]) -> None:
        self.size = size
        self._times = times
        self.wrong: dict[int, tuple[DeadLetterCode, str]] = {}

    @abstractmethod
    def text(self, path: Path) -> pa.StringArray:
        """string[k]: the texts at a path; integers become their decimal digits, and booleans "true"
        and "false" where the mapping translates them."""

    @abstractmethod
    def number(self, path: Path) -> pa.DoubleArray:
        """float64[k]: the numbers at a path; decimal strings are numbers too."""

    def time_ms(self, path: Path, unit: Unit) -> pa.Int64Array:
        """int64[k]: the times at a path, milliseconds since 1970 UTC; finer ones are cut off."""
        if unit != "iso":
            numbers = self.number(path)
            self._note_not_finite(path, numbers)
            return ms_of_numbers(numbers, unit)
        texts = _without_empty(self.text(path))
        times, unreadable = ms_of_texts(texts)
        self.note(unreadable, "bad_time", f"{shown(path)}: expected an ISO 8601 date and time")
        return times

    def note(self, positions: Sequence[int], code: DeadLetterCode, message: str) -> None:
        """Note the same fault for some records."""
        for position in positions:
            self.wrong.setdefault(position, (code, message))

    def note_no_number(self, path: Path, positions: Sequence[int]) -> None:
        """Note values at a path that are neither a number nor a decimal text."""
        code: DeadLetterCode = "bad_time" if path in self._times else "wrong_type"
        self.note(positions, code, f"{shown(path)}: expected a number, or one as decimal text")

    def _note_not_finite(self, path: Path, numbers: pa.DoubleArray) -> None:
        values = numbers.fill_null(0.0).to_numpy(zero_copy_only=False)
        message = f"{shown(path)}: expected a finite number"
        self.note(np.flatnonzero(~np.isfinite(values)).tolist(), "not_finite", message)


def shown(path: Path) -> str:
    """A path as a message names it."""
    return ".".join(path)


def assemble(
    mapping: Mapping, leaves: Leaves, records: Records, rows: I64, faults: list[Fault]
) -> Decoded:
    """The columns that a mapping asks for. faults: of the records that are not in `rows`."""
    event_id = None if mapping.event_id is None else _text(leaves, mapping.event_id)
    paths = [leaves.time_ms(path, mapping.unit) for path in mapping.time.paths]
    time_ms = paths[0] if len(paths) == 1 else pc.coalesce(*paths)
    text: dict[str, pa.StringArray] = {}
    number: dict[str, pa.DoubleArray] = {}
    for name, source in mapping.fields.items():
        if FIELDS[name].kind == "text":
            column = _text(leaves, source)
            text[name] = _within(column, FIELDS[name].bytes_max) if source.derived else column
        elif source.derived:
            number[name] = _number_within(_derived(leaves, source), FIELDS[name])
        else:
            number[name] = _number(leaves, source)
    found = [Fault(int(rows[i]), code, text) for i, (code, text) in leaves.wrong.items()]
    types = _type(mapping, leaves, records, rows)
    return Decoded(rows, event_id, time_ms, types, text, number, faults + found)


def texts(values: list[Any]) -> pa.StringArray:
    """string[k] of str, int, bool and None."""
    try:
        return pa.array(values, pa.string())
    except (pa.ArrowTypeError, pa.ArrowInvalid):
        return pa.array([_written(value) for value in values], pa.string())


def _written(value: str | int | bool | None) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int) else value


def numbers(values: list[Any]) -> tuple[pa.DoubleArray, list[int]]:
    """float64[k] of numbers, decimal strings and None, and the positions that are none of these.

    An empty string is None, as many producers write it. Columns of one type go the fast way; it
    accepts nothing that the slow one would not.
    """
    try:
        return pa.array(values, pa.float64()), []
    except (pa.ArrowTypeError, pa.ArrowInvalid):
        pass
    try:
        written = pa.array(values, pa.string())
        if (pc.max(pc.binary_length(written)).as_py() or 0) <= _DECIMAL_CHARACTERS_MAX:
            fast = written.cast(pa.float64())
            if pc.all(pc.is_finite(fast)).as_py() is not False:
                return fast, []
    except (pa.ArrowTypeError, pa.ArrowInvalid):
        pass
    slow = [_read_number(value) for value in values]
    wrong = [
        i
        for i, (got, given) in enumerate(zip(slow, values, strict=True))
        if got is None and given not in {None, ""}
    ]
    return pa.array(slow, pa.float64()), wrong


def ms_of_numbers(values: pa.DoubleArray, unit: Unit) -> pa.Int64Array:
    """int64[k]: milliseconds of times in a unit; what is not finite or far off stays far off."""
    raw = values.fill_null(0.0).to_numpy(zero_copy_only=False)
    if unit == "s":
        # 1525132800.123 s is .12299… in binary: cutting off would lose its last millisecond
        scaled = np.rint(raw * 1000.0)
    else:
        scaled = np.floor(raw / 1000.0 if unit == "us" else raw)
    ms = np.nan_to_num(np.clip(scaled, -_FAR_MS, _FAR_MS), nan=_FAR_MS).astype(np.int64)
    return _with_nulls(ms, values)


def ms_of_texts(values: pa.StringArray) -> tuple[pa.Int64Array, list[int]]:
    """int64[k]: milliseconds of ISO 8601 texts, UTC where they have no offset; and the positions
    of texts that are none.
    """
    for zone in (None, "UTC"):
        try:
            micros = values.cast(pa.timestamp("us", zone)).cast(pa.int64())
        except pa.ArrowInvalid:
            continue
        raw = micros.fill_null(0).to_numpy(zero_copy_only=False)
        # Arrow knows a year 0 and Python does not; what is before 1970 is no time for us anyway
        if raw.min(initial=0) >= 0:
            return _with_nulls(raw // 1000, values), []
    slow = [_read_iso(text) for text in values.to_pylist()]
    given = values.is_valid().to_numpy(zero_copy_only=False)
    unreadable = [i for i, ms in enumerate(slow) if ms is None and given[i]]
    return pa.array(slow, pa.int64()), unreadable


def _with_nulls(values: I64, like: pa.Array) -> pa.Int64Array:
    mask = like.is_null().to_numpy(zero_copy_only=False) if like.null_count else None
    return pa.array(values, pa.int64(), mask=mask)


def _read_number(value: Any) -> float | None:
    if not isinstance(value, str):
        return None if value is None else float(value)
    readable = len(value) <= _DECIMAL_CHARACTERS_MAX and _DECIMAL.fullmatch(value)
    return float(value) if readable else None


def _read_iso(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    aware = time if time.tzinfo else time.replace(tzinfo=UTC)
    since = aware - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1000 + since.microseconds // 1000


def _text(leaves: Leaves, source: Source) -> pa.StringArray:
    if not source.paths:
        constant = None if source.constant is None else str(source.constant)
        return pa.repeat(pa.scalar(constant, pa.string()), leaves.size)
    return _translated(_derived(leaves, source), source)


def _derived(leaves: Leaves, source: Source) -> pa.StringArray:
    """The text at the source's paths, and what it makes of it. RE2's time is linear in the text,
    whatever a stranger puts into a path."""
    columns = [_without_empty(leaves.text(path)) for path in source.paths]
    if source.joined:
        column = pc.binary_join_element_wise(*columns, " ", null_handling="skip")
        column = _without_empty(column)
    else:
        column = columns[0] if len(columns) == 1 else pc.coalesce(*columns)
    if source.extract is not None:
        column = _without_empty(pc.struct_field(pc.extract_regex(column, source.extract), 0))
    if source.classes:
        found = [pc.match_substring_regex(column, pattern) for _, pattern in source.classes]
        names = [pa.scalar(name, pa.string()) for name, _ in source.classes]
        members = pa.StructArray.from_arrays(found, [str(i) for i in range(len(found))])
        column = pc.case_when(members, *names)
    return column


def _number(leaves: Leaves, source: Source) -> pa.DoubleArray:
    if not source.paths:
        return pa.repeat(pa.scalar(source.constant, pa.float64()), leaves.size)
    columns = [leaves.number(path) for path in source.paths]
    return columns[0] if len(columns) == 1 else pc.coalesce(*columns)


# What a pattern finds in a text that a stranger wrote is no fault of the record: where it does not
# fit it is absent, else whoever asks for a path with 300 digits in it would be seen by nobody.


def _within(column: pa.StringArray, bytes_max: int) -> pa.StringArray:
    """The texts that are not too long."""
    return pc.if_else(pc.less_equal(pc.binary_length(column), bytes_max), column, None)


def _number_within(column: pa.StringArray, field: Field) -> pa.DoubleArray:
    """The texts that are a number which the field may have."""
    found, _ = numbers(column.to_pylist())
    inside = pc.and_(pc.greater_equal(found, field.low), pc.less_equal(found, field.high))
    return pc.if_else(inside, found, None)


def _type(mapping: Mapping, leaves: Leaves, records: Records, rows: I64) -> pa.StringArray:
    if mapping.type_header is None:
        return _text(leaves, mapping.type)
    headers = records.headers or [()] * len(records)
    found = [dict(headers[row]).get(mapping.type_header) for row in rows.tolist()]
    names = [None if body is None else body.decode("utf-8", "replace") for body in found]
    return _translated(pa.array(names, pa.string()), mapping.type)


def _translated(column: pa.StringArray, source: Source) -> pa.StringArray:
    """The column with the source's values in place of theirs; others pass as they are."""
    if not source.values:
        return column
    theirs, ours = (
        pa.array(list(part), pa.string()) for part in (source.values, source.values.values())
    )
    place = pc.index_in(column, value_set=theirs, skip_nulls=True)
    return pc.coalesce(ours.take(place), column)


def _without_empty(column: pa.StringArray) -> pa.StringArray:
    """Null for the empty text: many producers write it for "none", and it would be an entity."""
    if pc.min(pc.binary_length(column)).as_py() != 0:
        return column
    return pc.if_else(pc.equal(column, ""), pa.scalar(None, pa.string()), column)
