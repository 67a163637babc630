"""The output of every codec: raw values by path become columns by field, as the mapping says.

Texts and numbers get one form here, whatever a producer wrote: ids as integers, money as decimal
strings, times in any unit. Limits of values are checked later, in `schemas.codecs.checks`.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.codecs.values import ms_of_numbers, ms_of_texts, number_column, without_empty
from schemas.columns import I64
from schemas.dead_letters import Fault
from schemas.events import FIELDS, EventField
from schemas.mapping import CompiledField, Mapping, Path, TimeUnit
from schemas.records import Records
from schemas.repairs import FieldRepair, RepairCode, RepairLog


@dataclass(frozen=True, slots=True)
class DecodedColumns:
    """Raw columns of the k records that were decoded, null where a value is absent.

    rows: int64[k], the indices of these records in their batch.
    event_id: Arrow string[k]; None where an event's id is its position.
    time_ms: Arrow int64[k]. type: Arrow string[k].
    text: field → Arrow string[k], never empty texts.
    number: field → Arrow float64[k], which may be NaN or infinite.
    faults: at most one a record: for each record that was not decoded, and for records in `rows`
        with an unreadable time.
    repaired: fields that could not be read as they were; their rows are positions among the k.
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
    """The raw values of k decoded records, a column for each path.

    A value that is not of the requested type is null and noted in `repaired`, which maps a path and
    a code to positions among the k. Unreadable times are noted in `bad_times` instead, which maps a
    position to a message.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.repaired: dict[tuple[Path, RepairCode], list[int]] = {}
        self.bad_times: dict[int, str] = {}

    @abstractmethod
    def text(self, path: Path) -> pa.StringArray:
        """string[k]: the texts at a path. Integers become decimal digits; booleans become "true" and
        "false" where the mapping translates them."""

    @abstractmethod
    def number(self, path: Path) -> pa.DoubleArray:
        """float64[k]: the numbers at a path; decimal strings count as numbers."""

    def time_ms(self, path: Path, unit: TimeUnit) -> pa.Int64Array:
        """int64[k]: the times at a path in milliseconds since 1970 UTC, fractions truncated."""
        if unit == "iso":
            times, unreadable = ms_of_texts(without_empty(self.text(path)))
            expected = "an ISO 8601 date and time"
        else:
            numbers = self.number(path)
            values = numbers.fill_null(0.0).to_numpy(zero_copy_only=False)
            times = ms_of_numbers(numbers, unit)
            unreadable = np.flatnonzero(~np.isfinite(values)).tolist()
            expected = "a finite number, or one as decimal text"
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
    """A path as messages name it."""
    return ".".join(path)


def assemble(
    mapping: Mapping, raw: RawColumns, records: Records, rows: I64, faults: list[Fault]
) -> DecodedColumns:
    """The columns of a mapping's fields. faults: of the records that are not in `rows`."""
    event_id = None if mapping.event_id is None else _text(raw, mapping.event_id)
    times = [raw.time_ms(path, mapping.unit) for path in mapping.time.paths]
    text: dict[str, pa.StringArray] = {}
    number: dict[str, pa.DoubleArray] = {}
    for name, source in mapping.fields.items():
        if FIELDS[name].kind == "text":
            text[name] = _text(raw, source)
        elif source.derived:
            number[name] = _number_within(_derived(raw, source), FIELDS[name])
        else:
            number[name] = _number(raw, source)
    bad_times = [Fault(int(rows[i]), "bad_time", text) for i, text in raw.bad_times.items()]
    return DecodedColumns(
        rows=rows,
        event_id=event_id,
        time_ms=times[0] if len(times) == 1 else pc.coalesce(*times),
        type=_type(mapping, raw, records, rows),
        text=text,
        number=number,
        faults=faults + bad_times,
        repaired=_repaired(mapping, raw),
    )


def _repaired(mapping: Mapping, raw: RawColumns) -> list[FieldRepair]:
    """The repairs by field instead of by path."""
    if not raw.repaired:
        return []
    log = RepairLog()
    for name, source in {"event_id": mapping.event_id or CompiledField(), **mapping.fields}.items():
        for (path, code), positions in raw.repaired.items():
            if path in source.paths:
                log.add(name, code, np.array(positions, np.int64))
    return log.repaired()


def _text(raw: RawColumns, source: CompiledField) -> pa.StringArray:
    if not source.paths:
        constant = None if source.constant is None else str(source.constant)
        return pa.repeat(pa.scalar(constant, pa.string()), raw.size)
    return _translated(_derived(raw, source), source)


def _derived(raw: RawColumns, source: CompiledField) -> pa.StringArray:
    """The text at the source's paths, joined, extracted from and classified as declared. RE2 takes
    time linear in the text, so that no text can stall it."""
    columns = [without_empty(raw.text(path)) for path in source.paths]
    if source.joined:
        # Arrow skips a row that has nulls only, so each row begins with an empty text
        column = pc.binary_join_element_wise("", *columns, " ", null_handling="skip")
        column = without_empty(pc.utf8_slice_codeunits(column, 1))
    else:
        column = columns[0] if len(columns) == 1 else pc.coalesce(*columns)
    if source.extract is not None:
        column = without_empty(pc.struct_field(pc.extract_regex(column, source.extract), 0))
    if source.classes:
        matches = [pc.match_substring_regex(column, pattern) for _, pattern in source.classes]
        names = [pa.scalar(name, pa.string()) for name, _ in source.classes]
        conditions = pa.StructArray.from_arrays(matches, [str(i) for i in range(len(matches))])
        column = pc.case_when(conditions, *names)
    return column


def _number(raw: RawColumns, source: CompiledField) -> pa.DoubleArray:
    if not source.paths:
        return pa.repeat(pa.scalar(source.constant, pa.float64()), raw.size)
    columns = [raw.number(path) for path in source.paths]
    return columns[0] if len(columns) == 1 else pc.coalesce(*columns)


def _number_within(column: pa.StringArray, field: EventField) -> pa.DoubleArray:
    """The texts that are numbers in the field's range. Other texts are absent and no repair: their
    author is a client, not the producer."""
    numbers, _ = number_column(column.to_pylist())
    inside = pc.and_(pc.greater_equal(numbers, field.low), pc.less_equal(numbers, field.high))
    return pc.if_else(inside, numbers, None)


def _type(mapping: Mapping, raw: RawColumns, records: Records, rows: I64) -> pa.StringArray:
    if mapping.type_header is None:
        return _text(raw, mapping.type)
    headers = records.headers or [()] * len(records)
    bodies = [dict(headers[row]).get(mapping.type_header) for row in rows.tolist()]
    names = [None if body is None else body.decode("utf-8", "replace") for body in bodies]
    return _translated(pa.array(names, pa.string()), mapping.type)


def _translated(column: pa.StringArray, source: CompiledField) -> pa.StringArray:
    """The column with the source's `values` applied; other texts pass unchanged."""
    if not source.values:
        return column
    originals, translations = (
        pa.array(list(texts), pa.string()) for texts in (source.values, source.values.values())
    )
    index = pc.index_in(column, value_set=originals, skip_nulls=True)
    return pc.coalesce(translations.take(index), column)
