"""What every codec ends in: raw values by path become columns by field, as the mapping says.

Texts and numbers are made one here whatever a producer wrote (ids as integers, money as decimal
strings, times in any unit); formats are the codecs' business, and limits that of `schemas.codecs.checks`.
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

from schemas.columns import I64, text_bytes
from schemas.dead_letters import Fault
from schemas.events import FIELDS, EventField
from schemas.mapping import CompiledField, Mapping, Path, TimeUnit
from schemas.records import Records
from schemas.repairs import FieldRepair, RepairCode, RepairLog, decode_text

_DECIMAL: Final = re.compile(
    r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?|[+-]?(nan|inf|infinity)", re.ASCII | re.IGNORECASE
)
_DECIMAL_CHARACTERS_MAX: Final = 64
_FAR_MS: Final = 1e16
"""A time that is certainly out of range, and still an int64."""


@dataclass(frozen=True, slots=True)
class DecodedColumns:
    """Raw columns of the k records that decoded, null where a value is absent.

    rows: int64[k], indices of these records in their batch. event_id: Arrow string[k], or None
    where an event's position is its id. time_ms: Arrow int64[k]. type: Arrow string[k]. text:
    field → Arrow string[k], never empty. number: field → Arrow float64[k], which may be NaN or
    infinite. faults: of records that did not decode, and of some in `rows` whose time cannot be
    read; at most one a record. repaired: fields that could not be read as they were; its rows are
    positions among the k.
    """

    rows: I64
    event_id: pa.StringArray | None
    time_ms: pa.Int64Array
    type: pa.StringArray
    text: dict[str, pa.StringArray]
    number: dict[str, pa.DoubleArray]
    faults: list[Fault]
    repaired: list[FieldRepair]


class RawColumns(ABC):
    """The raw values of k decoded records by path, as a codec found them.

    A value of another type than asked for is null, and noted in `repaired`: by path and code,
    positions among the k. Times are noted in `bad_times` instead, position → message.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.repaired: dict[tuple[Path, RepairCode], list[int]] = {}
        self.bad_times: dict[int, str] = {}

    @abstractmethod
    def text(self, path: Path) -> pa.StringArray:
        """string[k]: the texts at a path; integers become their decimal digits, and booleans "true"
        and "false" where the mapping translates them."""

    @abstractmethod
    def number(self, path: Path) -> pa.DoubleArray:
        """float64[k]: the numbers at a path; decimal strings are numbers too."""

    def time_ms(self, path: Path, unit: TimeUnit) -> pa.Int64Array:
        """int64[k]: the times at a path, milliseconds since 1970 UTC; finer ones are cut off."""
        if unit != "iso":
            numbers = self.number(path)
            values = numbers.fill_null(0.0).to_numpy(zero_copy_only=False)
            unreadable = np.flatnonzero(~np.isfinite(values)).tolist()
            times, expected = (
                ms_of_numbers(numbers, unit),
                "a finite number, or one as decimal text",
            )
        else:
            times, unreadable = ms_of_texts(_without_empty(self.text(path)))
            expected = "an ISO 8601 date and time"
        for code in ("wrong_type", "not_finite"):
            unreadable += self.repaired.get((path, code), [])
        for position in unreadable:
            self.bad_times.setdefault(position, f"{path_text(path)}: expected {expected}")
        return times

    def note(self, path: Path, code: RepairCode, positions: Sequence[int]) -> None:
        """Note the same repair of some records' values at a path."""
        if positions:
            self.repaired.setdefault((path, code), []).extend(positions)


def path_text(path: Path) -> str:
    """A path as a message names it."""
    return ".".join(path)


def assemble(
    mapping: Mapping, leaves: RawColumns, records: Records, rows: I64, faults: list[Fault]
) -> DecodedColumns:
    """The columns that a mapping asks for. faults: of the records that are not in `rows`."""
    event_id = None if mapping.event_id is None else _text(leaves, mapping.event_id)
    paths = [leaves.time_ms(path, mapping.unit) for path in mapping.time.paths]
    time_ms = paths[0] if len(paths) == 1 else pc.coalesce(*paths)
    text: dict[str, pa.StringArray] = {}
    number: dict[str, pa.DoubleArray] = {}
    for name, source in mapping.fields.items():
        if FIELDS[name].kind == "text":
            text[name] = _text(leaves, source)
        elif source.derived:
            number[name] = _number_within(_derived(leaves, source), FIELDS[name])
        else:
            number[name] = _number(leaves, source)
    found = [Fault(int(rows[i]), "bad_time", text) for i, text in leaves.bad_times.items()]
    types = _type(mapping, leaves, records, rows)
    repaired = _repaired(mapping, leaves)
    return DecodedColumns(rows, event_id, time_ms, types, text, number, faults + found, repaired)


def _repaired(mapping: Mapping, leaves: RawColumns) -> list[FieldRepair]:
    """The fields whose values, or those that they are made of, could not be read as they were."""
    if not leaves.repaired:
        return []
    notes = RepairLog()
    for name, source in {"event_id": mapping.event_id or CompiledField(), **mapping.fields}.items():
        for (path, code), positions in leaves.repaired.items():
            if path in source.paths:
                notes.add(name, code, np.array(positions, np.int64))
    return notes.repaired()


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


def readable(column: pa.StringArray) -> tuple[pa.StringArray, list[int]]:
    """The texts with U+FFFD for each byte that is not UTF-8, and the positions that have any."""
    if text_bytes(column).max(initial=0) < 0x80:
        return column, []
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        raw = column.cast(pa.binary()).to_pylist()
        read = [None if value is None else decode_text(value) for value in raw]
        pairs = enumerate(zip(read, raw, strict=True))
        wrong = [i for i, (text, value) in pairs if text is not None and text.encode() != value]
        return pa.array(read, pa.string()), wrong
    return column, []


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


def ms_of_numbers(values: pa.DoubleArray, unit: TimeUnit) -> pa.Int64Array:
    """int64[k]: milliseconds of times in a unit; what is not finite or far off stays far off."""
    raw = values.fill_null(0.0).to_numpy(zero_copy_only=False)
    with np.errstate(over="ignore", invalid="ignore"):  # infinities are clipped below
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


def _text(leaves: RawColumns, source: CompiledField) -> pa.StringArray:
    if not source.paths:
        constant = None if source.constant is None else str(source.constant)
        return pa.repeat(pa.scalar(constant, pa.string()), leaves.size)
    return _translated(_derived(leaves, source), source)


def _derived(leaves: RawColumns, source: CompiledField) -> pa.StringArray:
    """The text at the source's paths, and what it makes of it. RE2's time is linear in the text,
    whatever a stranger puts into a path."""
    columns = [_without_empty(leaves.text(path)) for path in source.paths]
    if source.joined:
        # Arrow drops a row of nulls alone, so each row begins with an empty text
        column = pc.binary_join_element_wise("", *columns, " ", null_handling="skip")
        column = _without_empty(pc.utf8_slice_codeunits(column, 1))
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


def _number(leaves: RawColumns, source: CompiledField) -> pa.DoubleArray:
    if not source.paths:
        return pa.repeat(pa.scalar(source.constant, pa.float64()), leaves.size)
    columns = [leaves.number(path) for path in source.paths]
    return columns[0] if len(columns) == 1 else pc.coalesce(*columns)


def _number_within(column: pa.StringArray, field: EventField) -> pa.DoubleArray:
    """The texts that are numbers in the field's range. Other texts are absent without a repair: a
    client wrote them, so that they are no mistake of the producer."""
    found, _ = numbers(column.to_pylist())
    inside = pc.and_(pc.greater_equal(found, field.low), pc.less_equal(found, field.high))
    return pc.if_else(inside, found, None)


def _type(mapping: Mapping, leaves: RawColumns, records: Records, rows: I64) -> pa.StringArray:
    if mapping.type_header is None:
        return _text(leaves, mapping.type)
    headers = records.headers or [()] * len(records)
    found = [dict(headers[row]).get(mapping.type_header) for row in rows.tolist()]
    names = [None if body is None else body.decode("utf-8", "replace") for body in found]
    return _translated(pa.array(names, pa.string()), mapping.type)


def _translated(column: pa.StringArray, source: CompiledField) -> pa.StringArray:
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
