"""Checks: decoded records become events only where every value is allowed; the others are faults.

The first fault of a record stands, in this order: what its codec found; then the event's id, its
time, its type; then its fields in the order of `events.FIELDS`, a number's finiteness before its
range. Good records cost a few passes over columns and no Python object each.
"""

from collections.abc import Callable
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.codecs.decoded import Decoded
from schemas.columns import F64, I64, U8, Bools, EventBatch
from schemas.dead_letters import DeadLetterCode, Fault
from schemas.events import EVENT_ID_BYTES_MAX, FIELDS, TIME_MS_MAX, TIME_MS_MIN, TYPES
from schemas.records import Records

_TYPE_NAMES: Final = pa.array(TYPES, pa.string())
NO_TYPE: Final = 255


def check(
    decoded: Decoded, records: Records, time_ahead_max_ms: int
) -> tuple[EventBatch, list[Fault]]:
    """The events among n decoded records, in their order, and the faults of all others.

    Faults are in the order of the records. Never raises for what a record holds.
    """
    verdicts = _Verdicts(decoded)
    event_id = _check_id(verdicts, decoded, records)
    time_ms = _check_time(verdicts, decoded, records, time_ahead_max_ms)
    type_code = _check_type(verdicts, decoded)
    number = {}
    for name in FIELDS:
        if name in decoded.text:
            _check_length(verdicts, name, decoded.text[name], FIELDS[name].bytes_max)
        elif name in decoded.number:
            number[name] = _check_number(verdicts, name, decoded.number[name])
    size = len(decoded.rows)
    batch = EventBatch(
        ((records.topic, records.partition),),
        np.zeros(size, np.int32),
        records.offset[decoded.rows],
        time_ms,
        type_code,
        event_id,
        decoded.text,
        number,
    )
    good = batch if not verdicts.bad.any() else batch.take(np.flatnonzero(~verdicts.bad))
    return good, sorted(verdicts.faults)


class _Verdicts:
    """Which of the k decoded records are bad, and why; the first verdict on a record stands."""

    def __init__(self, decoded: Decoded) -> None:
        self.rows = decoded.rows
        self.faults = list(decoded.faults)
        self.bad: Bools = np.isin(decoded.rows, [fault.row for fault in decoded.faults])

    def reject(
        self, wrong: Bools, code: DeadLetterCode, message: str | Callable[[int], str]
    ) -> None:
        """Find the given records bad. wrong: bool[k]; message: one, or one by position."""
        if not wrong.any():
            return
        for i in np.flatnonzero(wrong & ~self.bad).tolist():
            text = message if isinstance(message, str) else message(i)
            self.faults.append(Fault(int(self.rows[i]), code, text))
        self.bad |= wrong


def _check_id(verdicts: _Verdicts, decoded: Decoded, records: Records) -> pa.StringArray:
    if decoded.event_id is None:
        offsets = pa.array(records.offset[decoded.rows]).cast(pa.string())
        return pc.binary_join_element_wise(f"{records.topic}:{records.partition}", offsets, ":")
    missing = decoded.event_id.is_null().to_numpy(zero_copy_only=False)
    verdicts.reject(missing, "missing_id", "event_id: missing")
    _check_length(verdicts, "event_id", decoded.event_id, EVENT_ID_BYTES_MAX)
    return decoded.event_id


def _check_time(
    verdicts: _Verdicts, decoded: Decoded, records: Records, time_ahead_max_ms: int
) -> I64:
    missing = decoded.time_ms.is_null().to_numpy(zero_copy_only=False)
    verdicts.reject(missing, "missing_time", "time: missing")
    time_ms: I64 = decoded.time_ms.fill_null(TIME_MS_MIN).to_numpy(zero_copy_only=False)
    far = (time_ms < TIME_MS_MIN) | (time_ms > TIME_MS_MAX)
    verdicts.reject(
        far, "bad_time", "time: before 1970 or after 2100 in the mapped unit; is the unit right?"
    )
    broker_ms = records.timestamp_ms[decoded.rows]
    ahead_ms = time_ms - broker_ms
    verdicts.reject(
        (broker_ms >= 0) & (ahead_ms > time_ahead_max_ms),
        "time_ahead",
        lambda i: f"time: {int(ahead_ms[i])} ms ahead of the broker's; at most {time_ahead_max_ms}",
    )
    return time_ms


def _check_type(verdicts: _Verdicts, decoded: Decoded) -> U8:
    place = pc.index_in(decoded.type, value_set=_TYPE_NAMES, skip_nulls=True)
    code: U8 = place.fill_null(NO_TYPE).to_numpy(zero_copy_only=False).astype(np.uint8)
    expected = f"type: expected one of {', '.join(TYPES)}, as it is or by the mapping's values"
    verdicts.reject(code == NO_TYPE, "unknown_type", expected)
    return code


def _check_number(verdicts: _Verdicts, name: str, column: pa.DoubleArray) -> F64:
    """The column as float64[k], NaN where it is null."""
    field = FIELDS[name]
    given: F64 = (column.fill_null(field.low) if column.null_count else column).to_numpy(
        zero_copy_only=False
    )
    verdicts.reject(~np.isfinite(given), "not_finite", f"{name}: expected a finite number")
    verdicts.reject(
        (given < field.low) | (given > field.high),
        "out_of_range",
        lambda i: f"{name}: got {given[i]:g}; expected {field.low:g} to {field.high:g}",
    )
    values: F64 = column.to_numpy(zero_copy_only=False)
    return values


def _check_length(verdicts: _Verdicts, name: str, column: pa.StringArray, bytes_max: int) -> None:
    length = pc.binary_length(column)
    longest = pc.max(length).as_py()
    if longest is None or longest <= bytes_max:
        return
    sizes = length.fill_null(0).to_numpy(zero_copy_only=False)
    verdicts.reject(
        sizes > bytes_max,
        "text_too_long",
        lambda i: f"{name}: {int(sizes[i])} bytes; expected at most {bytes_max}",
    )
