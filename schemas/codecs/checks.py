"""Checks: decoded records become events; those without an id, a time or a known type are faults.

A record has at most one fault, the first in this order: its codec's, then of the event's id, time
and type. A bad value of any other field, by the limits of `events.FIELDS`, is repaired and noted; so
is an id that is too long. Good records cost a few passes over columns and no Python object each.
"""

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.addresses import normalise_addresses
from schemas.codecs.decoded import DecodedColumns
from schemas.columns import F64, I64, U8, Bools, EventBatch
from schemas.dead_letters import DeadLetterCode, Fault
from schemas.events import EVENT_ID_BYTES_MAX, FIELDS, TIME_MS_MAX, TIME_MS_MIN, TYPES
from schemas.records import Records
from schemas.repairs import FieldRepair, RepairLog, replace_invalid, shorten

_TYPE_NAMES: Final = pa.array(TYPES, pa.string())
NO_TYPE: Final = 255


class CheckedBatch(NamedTuple):
    """The events among n records, in their order; the faults of all other records, in their order; and
    the repairs in the events, by the records' rows."""

    events: EventBatch
    faults: list[Fault]
    repaired: list[FieldRepair]


def check(decoded: DecodedColumns, records: Records) -> CheckedBatch:
    """Turn decoded records into events. Never raises because of a record's content."""
    rejections = _Rejections(decoded)
    repair_log = RepairLog()
    repair_log.extend(decoded.repaired)
    event_id = _check_id(rejections, repair_log, decoded, records)
    time_ms = _check_time(rejections, decoded)
    type_code = _check_type(rejections, decoded)
    text = {
        name: _fit_text(repair_log, name, normalise_addresses(column) if name == "ip" else column)
        for name, column in decoded.text.items()
    }
    number = {
        name: _fit_number(repair_log, name, column) for name, column in decoded.number.items()
    }
    size = len(decoded.rows)
    append_ms = records.append_ms
    batch = EventBatch(
        ((records.topic, records.partition),),
        np.zeros(size, np.int32),
        records.offset[decoded.rows],
        time_ms,
        type_code,
        event_id,
        text,
        number,
        None if append_ms is None else append_ms[decoded.rows],
    )
    good = batch if not rejections.bad.any() else batch.take(np.flatnonzero(~rejections.bad))
    return CheckedBatch(
        good, sorted(rejections.faults), list(rejections.repairs_of_events(repair_log.repaired()))
    )


def normalise_entity_id(field: str, text: str) -> str:
    """An entity's id as in events: an address in normal form, bytes that are not UTF-8 replaced, a long
    text shortened."""
    column = pa.array([replace_invalid(text)], pa.string())
    normal = normalise_addresses(column) if field == "ip" else column
    return str(_fit_text(RepairLog(), field, normal)[0])


class _Rejections:
    """Which of the k decoded records are rejected, and why; a record is rejected once."""

    def __init__(self, decoded: DecodedColumns) -> None:
        self.rows = decoded.rows
        self.faults = list(decoded.faults)
        self.bad: Bools = np.isin(decoded.rows, [fault.row for fault in decoded.faults])

    def reject(
        self, wrong: Bools, code: DeadLetterCode, message: str | Callable[[int], str]
    ) -> None:
        """Reject records. wrong: bool[k]; message: for all, or by position."""
        if not wrong.any():
            return
        for i in np.flatnonzero(wrong & ~self.bad).tolist():
            text = message if isinstance(message, str) else message(i)
            self.faults.append(Fault(int(self.rows[i]), code, text))
        self.bad |= wrong

    def repairs_of_events(self, repaired: list[FieldRepair]) -> Iterator[FieldRepair]:
        """The repairs of records that are not rejected, by their rows."""
        for field, code, positions in repaired:
            good = positions[~self.bad[positions]]
            if len(good):
                yield FieldRepair(field, code, self.rows[good])


def _check_id(
    rejections: _Rejections, repair_log: RepairLog, decoded: DecodedColumns, records: Records
) -> pa.StringArray:
    if decoded.event_id is None:
        offsets = pa.array(records.offset[decoded.rows]).cast(pa.string())
        return pc.binary_join_element_wise(f"{records.topic}:{records.partition}", offsets, ":")
    missing = decoded.event_id.is_null().to_numpy(zero_copy_only=False)
    expected = "event_id: missing; expected a text or an integer"
    rejections.reject(missing, "missing_id", expected)
    return _fit_text(repair_log, "event_id", decoded.event_id)


def _check_time(rejections: _Rejections, decoded: DecodedColumns) -> I64:
    missing = decoded.time_ms.is_null().to_numpy(zero_copy_only=False)
    rejections.reject(missing, "missing_time", "time: missing")
    time_ms: I64 = decoded.time_ms.fill_null(TIME_MS_MIN).to_numpy(zero_copy_only=False)
    far = (time_ms < TIME_MS_MIN) | (time_ms > TIME_MS_MAX)
    rejections.reject(
        far, "bad_time", "time: before 1970 or after 2100 in the mapped unit; check the unit"
    )
    return time_ms


def _check_type(rejections: _Rejections, decoded: DecodedColumns) -> U8:
    index = pc.index_in(decoded.type, value_set=_TYPE_NAMES, skip_nulls=True)
    code: U8 = index.fill_null(NO_TYPE).to_numpy(zero_copy_only=False).astype(np.uint8)
    expected = f"type: expected one of {', '.join(TYPES)}, or a name that the mapping's values translate to one"
    rejections.reject(code == NO_TYPE, "unknown_type", expected)
    return code


def _fit_number(repair_log: RepairLog, name: str, column: pa.DoubleArray) -> F64:
    """The column as float64[k], NaN where it is null or outside the field's range."""
    field = FIELDS[name]
    without_nulls: F64 = (column.fill_null(field.low) if column.null_count else column).to_numpy(
        zero_copy_only=False
    )
    values: F64 = column.to_numpy(zero_copy_only=False)
    inside = (without_nulls >= field.low) & (without_nulls <= field.high)
    if inside.all():
        return values
    finite = np.isfinite(without_nulls)
    repair_log.add(name, "not_finite", np.flatnonzero(~finite))
    repair_log.add(name, "out_of_range", np.flatnonzero(finite & ~inside))
    return np.where(inside, values, np.nan)


def _fit_text(repair_log: RepairLog, name: str, column: pa.StringArray) -> pa.StringArray:
    """The column with every text within its field's limit."""
    bytes_max = FIELDS[name].bytes_max if name in FIELDS else EVENT_ID_BYTES_MAX
    length = pc.binary_length(column)
    longest = pc.max(length).as_py()
    if longest is None or longest <= bytes_max:
        return column
    wrong = length.fill_null(0).to_numpy(zero_copy_only=False) > bytes_max
    long = np.flatnonzero(wrong)
    repair_log.add(name, "text_too_long", long)
    texts = [shorten(name, text, bytes_max) for text in column.take(pa.array(long)).to_pylist()]
    return pc.replace_with_mask(column, pa.array(wrong), pa.array(texts, pa.string()))
