"""Columnar files give the events that the same rows would give as JSON."""

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest

from schemas.checks import Checked, check
from schemas.codecs import JsonCodec, TableCodec
from schemas.columns import EventBatch
from schemas.dead_letters import Fault
from schemas.mapping import FieldsSpec, Place, compile_mapping
from schemas.records import Records
from schemas.repairs import Repaired

TIME_MS = 1_772_409_600_123
TIME = datetime(2026, 3, 2, 0, 0, 0, 123_000, UTC)
FIELDS: FieldsSpec = {"event_id": "id", "time": "t", "account": "user.id", "amount": "sum"}


def run(columns: dict[str, Any]) -> tuple[EventBatch, list[Fault]]:
    """The events and faults of the rows of a table."""
    return checked(columns)[:2]


def checked(columns: dict[str, Any]) -> Checked:
    """Decode and check the rows of a table."""
    table = pa.table(columns)
    size = len(table)
    records = Records("in", 0, np.arange(size), np.full(size, -1, np.int64), table)
    mapping = compile_mapping("json", "transaction", FIELDS, list(FIELDS))
    return check(TableCodec(mapping).decode(records), records)


def user(ids: pa.Array) -> pa.Array:
    """A nested column."""
    return pa.StructArray.from_arrays([ids], names=["id"])


@pytest.mark.parametrize(
    ("time", "ms"),
    [
        (pa.array([TIME.replace(tzinfo=None)], pa.timestamp("ms")), TIME_MS),
        (pa.array([TIME], pa.timestamp("us", "Europe/Paris")), TIME_MS),
        (pa.array([TIME], pa.timestamp("ns", "UTC")), TIME_MS),
        (pa.array([TIME.replace(microsecond=0)], pa.timestamp("s")), TIME_MS - 123),
        (pa.array([date(2026, 3, 2)]), TIME_MS - 123),
        (pa.array([TIME_MS]), TIME_MS),
        (pa.array([float(TIME_MS)]), TIME_MS),
        (pa.array([str(TIME_MS)]), TIME_MS),
    ],
)
@pytest.mark.filterwarnings("default::DeprecationWarning")
def test_times_of_any_column_type_are_the_same_millisecond(time: pa.Array, ms: int) -> None:
    """A timestamp column has its own unit; others are read in the mapped one."""
    events, faults = run({"id": ["a"], "t": time})
    assert faults == []
    assert events.time_ms.tolist() == [ms]


@pytest.mark.parametrize(
    "ids",
    [
        pa.array(["7", None]),
        pa.array(["7", None], pa.large_string()),
        pa.array([7, None], pa.int32()),
        pa.array(["7", None]).dictionary_encode(),
    ],
)
def test_ids_of_any_column_type_are_the_same_text(ids: pa.Array) -> None:
    """Texts, large texts, integers and dictionaries name the same entity; null is absent."""
    events, faults = run({"id": ["a", "b"], "t": [1, 1], "user": user(ids)})
    assert faults == []
    assert events.text["account"].to_pylist() == ["7", None]


@pytest.mark.parametrize(
    "amounts",
    [
        pa.array([12.5, None]),
        pa.array([12.5, None], pa.float32()),
        pa.array(["12.50", None]),
        pa.array([Decimal("12.50"), None]),
    ],
)
def test_amounts_of_any_column_type_are_the_same_number(amounts: pa.Array) -> None:
    """Floats, decimals and decimal texts are numbers; null is absent."""
    events, faults = run({"id": ["a", "b"], "t": [1, 1], "sum": amounts})
    assert faults == []
    np.testing.assert_array_equal(events.number["amount"], [12.5, np.nan])


def test_missing_columns_are_absent_values() -> None:
    """A column that is not there is absent in every row: a fault only where it must be present."""
    _, faults = run({"t": [1, 1]})
    assert [fault.code for fault in faults] == ["missing_id"] * 2


def test_rows_are_checked_as_records_are() -> None:
    """Rows that cannot be events become faults with their codes; null in a wrong column is fine."""
    columns = {
        "id": ["a", "b", None, "d", "e"],
        "t": pa.array([1, None, 1, 2**62, 1]),
        "sum": [1.0, 1.0, 1.0, 1.0, float("nan")],
    }
    _, faults, repaired = checked(columns)
    assert [(fault.row, fault.code) for fault in faults] == [
        (1, "missing_time"),
        (2, "missing_id"),
        (3, "bad_time"),
    ]
    assert rows_of(repaired) == [("amount", "not_finite", [4])]


def test_a_bad_value_leaves_its_row_in_place() -> None:
    """Of a column of a type that the field cannot have, a text that is no number, and bytes that are
    not UTF-8, the row keeps its event; null is just absent."""
    raw = pa.Array.from_buffers(
        pa.string(),
        3,
        [None, pa.array([0, 3, 5, 5], pa.int32()).buffers()[1], pa.py_buffer(b"a\xffbok")],
    )
    columns = {
        "id": ["a", "b", "c"],
        "t": [1, 1, 1],
        "user": user(raw),
        "sum": pa.array(["1e300", "x", None]),
    }
    events, faults, repaired = checked(columns)
    assert faults == []
    assert events.text["account"].to_pylist() == ["a�b", "ok", None]
    assert np.isnan(events.number["amount"]).all()
    assert rows_of(repaired) == [
        ("account", "not_utf8", [0]),
        ("amount", "wrong_type", [1]),
        ("amount", "out_of_range", [0]),
    ]
    wrong = {"user": user(pa.array([1.5, None, 2.5])), "sum": [True, None, False]}
    events, faults, repaired = checked({"id": ["a", "b", "c"], "t": [1, 1, 1], **wrong})
    assert faults == []
    assert events.text["account"].null_count == len(events) == 3
    assert rows_of(repaired) == [
        ("account", "wrong_type", [0, 2]),
        ("amount", "wrong_type", [0, 2]),
    ]


def rows_of(repaired: list[Repaired]) -> list[tuple[str, str, list[int]]]:
    """Repairs as plain values."""
    return [(one.field, one.code, one.rows.tolist()) for one in repaired]


def test_a_verdict_may_be_a_boolean_and_an_id_may_not() -> None:
    """Where the mapping translates a field a boolean is a choice, in a table as in JSON; elsewhere
    it would be one huge entity, and is absent."""
    fields: FieldsSpec = {
        "event_id": "id",
        "time": "t",
        "account": "who",
        "verdict": Place(path="is_fraud", values={"true": "fraud", "false": "honest"}),
    }
    rows = [
        {"id": "a", "t": TIME_MS, "who": "x", "is_fraud": True},
        {"id": "b", "t": TIME_MS, "who": "y", "is_fraud": False},
        {"id": "c", "t": TIME_MS, "who": "z", "is_fraud": None},
    ]
    mapping = compile_mapping("json", "label", fields, list(fields))

    def verdicts(codec: TableCodec | JsonCodec, values: Any) -> list[str | None]:
        records = Records("in", 0, np.arange(3), np.full(3, -1, np.int64), values)
        events, faults, _ = check(codec.decode(records), records)
        assert faults == []
        found: list[str | None] = events.text["verdict"].to_pylist()
        return found

    expected = ["fraud", "honest", None]
    assert verdicts(TableCodec(mapping), pa.Table.from_pylist(rows)) == expected
    assert verdicts(JsonCodec(mapping), [orjson.dumps(row) for row in rows]) == expected
    _, _, repaired = checked({"id": ["a"], "t": [TIME_MS], "user": user(pa.array([True]))})
    assert rows_of(repaired) == [("account", "wrong_type", [0])]
