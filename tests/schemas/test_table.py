"""Columnar files give the events that the same rows would give as JSON."""

import uuid
from contextlib import suppress
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DataObject, DrawFn

from detectors.numeric.hashing import hash_key
from schemas.codecs import table_rows
from schemas.codecs.checks import CheckedBatch, check
from schemas.codecs.decoded import DecodedColumns
from schemas.codecs.json_records import JsonCodec
from schemas.codecs.table import TableCodec
from schemas.columns import EventBatch
from schemas.dead_letters import DISPOSITION, Fault, as_json_line
from schemas.mapping import FieldMapping, FieldMappings, RecordLayout, compile_mapping
from schemas.records import Records
from schemas.repairs import FieldRepair
from stream.config import InputSpec, LimitsSpec
from stream.pipeline.decoding import Decoder
from stream.pipeline.stages.route import Route

TIME_MS = 1_772_409_600_123
TIME = datetime(2026, 3, 2, 0, 0, 0, 123_000, UTC)
FIELDS: FieldMappings = {"event_id": "id", "time": "t", "account": "user.id", "amount": "sum"}


def run(columns: dict[str, Any]) -> tuple[EventBatch, list[Fault]]:
    """The events and faults of the rows of a table."""
    return checked(columns)[:2]


def checked(columns: dict[str, Any]) -> CheckedBatch:
    """Decode and check the rows of a table."""
    return check(decoded(columns, FIELDS), records_of(columns))


def records_of(columns: dict[str, Any]) -> Records:
    """The rows of a table as records."""
    table = pa.table(columns)
    size = len(table)
    return Records("in", 0, np.arange(size), np.full(size, -1, np.int64), table)


def decoded(columns: dict[str, Any], fields: FieldMappings) -> DecodedColumns:
    """Decode the rows of a table."""
    mapping = compile_mapping(RecordLayout(), "transaction", fields, list(fields))
    return TableCodec(mapping).decode(records_of(columns))


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
    """A missing column is absent in every row: a fault only where it is required."""
    _, faults = run({"t": [1, 1]})
    assert [fault.code for fault in faults] == ["missing_id"] * 2


def test_rows_are_checked_as_records_are() -> None:
    """Rows that cannot be events become faults with their codes; null in a column of a wrong type
    is valid."""
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
    """A value of a type that the field cannot have, a text that is no number, and bytes that are
    not UTF-8 do not cost the row its event; null is only absent."""
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


def rows_of(repaired: list[FieldRepair]) -> list[tuple[str, str, list[int]]]:
    """Repairs as plain values."""
    return [(one.field, one.code, one.rows.tolist()) for one in repaired]


def test_a_verdict_may_be_a_boolean_and_an_id_may_not() -> None:
    """Where the mapping translates a field, a boolean is allowed, in a table as in JSON; elsewhere
    it would be one huge entity, and is absent."""
    fields: FieldMappings = {
        "event_id": "id",
        "time": "t",
        "account": "who",
        "verdict": FieldMapping(path="is_fraud", values={"true": "fraud", "false": "honest"}),
    }
    rows = [
        {"id": "a", "t": TIME_MS, "who": "x", "is_fraud": True},
        {"id": "b", "t": TIME_MS, "who": "y", "is_fraud": False},
        {"id": "c", "t": TIME_MS, "who": "z", "is_fraud": None},
    ]
    mapping = compile_mapping(RecordLayout(), "label", fields, list(fields))

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


@pytest.mark.parametrize(
    ("amounts", "expected"),
    [
        (pa.array([Decimal("12.5"), None], pa.decimal32(5, 2)), 12.5),
        (pa.array([Decimal("12.5"), None], pa.decimal256(50, 2)), 12.5),
        (pa.array([12.5, None], pa.float16()), 12.5),
        (pa.array([2**64 - 1, None], pa.uint64()), float(2**64 - 1)),
        (pa.array(["12.5", None], pa.string_view()), 12.5),
        (pa.array([b"12.5", None], pa.large_binary()), 12.5),
        (pa.array([12.5, None]).dictionary_encode(), 12.5),
    ],
)
def test_numbers_of_rarer_column_types_have_a_value(amounts: pa.Array, expected: float) -> None:
    """Decimals of any width, halves, unsigned integers, views and bytes that are decimal texts."""
    fields: FieldMappings = {**FIELDS, "bytes": "sum"}
    found = decoded({"id": ["a", "b"], "t": [1, 1], "sum": amounts}, fields).number["bytes"]
    np.testing.assert_array_equal(found.to_numpy(zero_copy_only=False), [expected, np.nan])


UUID = uuid.UUID("12345678-1234-5678-1234-567812345678")


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (pa.array(["7", None], pa.string_view()), "7"),
        (pa.array([7.0, None]), "7"),
        (pa.array([7.0, np.nan], from_pandas=False), "7"),
        (pa.array([-7.0, None], pa.float16()), "-7"),
        (pa.array([Decimal("7.00"), None], pa.decimal128(20, 2)), "7"),
        (pa.array([Decimal("7e9"), None], pa.decimal256(5, -9)), "7000000000"),
        (pa.array([2**64 - 1, None], pa.uint64()), str(2**64 - 1)),
        (pa.array(["ü".encode(), None], pa.binary()), "ü"),
        (pa.array(["ü".encode(), None], pa.binary_view()), "ü"),
        (pa.array([UUID.bytes, None], pa.uuid()), str(UUID)),
        (pa.array(['{"a":1}', None], pa.json_()), '{"a":1}'),
        (pa.array([7, None], pa.int8()).dictionary_encode(), "7"),
        (pa.RunEndEncodedArray.from_arrays([1, 2], pa.array(["7", None])), "7"),
    ],
)
def test_ids_of_rarer_column_types_have_a_value(ids: pa.Array, expected: str) -> None:
    """Views, whole floats (integers with gaps, as pandas writes them), whole decimals, bytes that
    are UTF-8, UUIDs and run-end encoded columns name entities; null and NaN are absent."""
    columns = {"id": ["a", "b"], "t": [1, 1], "who": ids}
    found = decoded(columns, {**FIELDS, "account": "who"})
    assert found.faults == []
    assert found.text["account"].to_pylist() == [expected, None]


@pytest.mark.parametrize(
    "ids",
    [
        pa.array([7.5, None]),
        pa.array([2.0**53 + 2, None]),
        pa.array([float("inf"), None]),
        pa.array([Decimal("7.5"), None]),
        pa.array([b"ab", None], pa.binary(2)),
        pa.array([datetime(2026, 1, 1, tzinfo=UTC), None]),
        pa.array([1, None], pa.duration("ns")),
        pa.array([1, None], pa.time64("ns")),
        pa.array([[1], None]),
        pa.array([{"a": 1}, None]),
        pa.array([True, None]),
        pa.array([1, None], pa.bool8()),
    ],
)
def test_columns_that_hold_no_id_are_absent_and_counted(ids: pa.Array) -> None:
    """A value that is neither a text nor an integer is a repair; null is only absent."""
    found = decoded({"id": ["a", "b"], "t": [1, 1], "who": ids}, {**FIELDS, "account": "who"})
    assert found.faults == []
    assert rows_of(found.repaired) == [("account", "wrong_type", [0])]
    assert found.text["account"].to_pylist() == [None, None]


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view()])
def test_bytes_that_are_not_utf8_are_replaced_in_a_column_of_bytes(kind: pa.DataType) -> None:
    """One byte 0xFF hides no entity and no event, whether the writer marked the column as text or
    not."""
    raw = pa.array([b"b\xff", None], kind)
    ids = pa.array([b"a\xff", b"b"], kind)
    found = decoded({"id": ids, "t": [1, 1], "who": raw}, {**FIELDS, "account": "who"})
    assert found.faults == []
    assert rows_of(found.repaired) == [("event_id", "not_utf8", [0]), ("account", "not_utf8", [0])]
    assert found.text["account"].to_pylist() == ["b\ufffd", None]


def test_paths_lead_into_maps_and_not_into_lists() -> None:
    """A path leads through a map with texts as keys as through a struct; through anything else it
    is a repair where there is a value."""
    maps = pa.array([[("id", "7")], None], pa.map_(pa.string(), pa.string()))
    found = decoded({"id": ["a", "b"], "t": [1, 1], "user": maps}, FIELDS)
    assert (found.faults, found.text["account"].to_pylist()) == ([], ["7", None])
    lists = pa.array([[{"id": "7"}], None])
    found = decoded({"id": ["a", "b"], "t": [1, 1], "user": lists}, FIELDS)
    assert rows_of(found.repaired) == [("account", "wrong_type", [0])]


@pytest.mark.parametrize(
    ("time", "ms"),
    [
        (pa.array([datetime(2611, 1, 1)], pa.timestamp("us")), 20_227_968_000_000),  # noqa: DTZ001
        (pa.array([TIME_MS * 1000 + 999], pa.timestamp("us")), TIME_MS),
        (pa.array([TIME_MS * 10**6 + 999], pa.timestamp("ns")), TIME_MS),
        (pa.array([2**62], pa.timestamp("s")), 4 * 10**18),
        (pa.array([2**31 - 1], pa.int32()).cast(pa.date32()), (2**31 - 1) * 86_400_000),
        (pa.array([TIME_MS], pa.date64()), TIME_MS),
        (pa.array([TIME_MS], pa.timestamp("ms")).dictionary_encode(), TIME_MS),
    ],
)
def test_times_never_wrap(time: pa.Array, ms: int) -> None:
    """A time that no event may have stays out of range."""
    assert decoded({"id": ["a"], "t": time}, FIELDS).time_ms.to_pylist() == [ms]


# -- any row of any type --------------------------------------------------------------------------

PRIMITIVES = [
    *(pa.int8(), pa.uint16(), pa.int32(), pa.int64(), pa.uint64()),
    *(pa.float16(), pa.float32(), pa.float64(), pa.date32(), pa.date64()),
    *(pa.time32("s"), pa.time64("ns"), pa.month_day_nano_interval()),
    *(pa.timestamp(unit) for unit in ("s", "ms", "us", "ns")),
    *(pa.timestamp("us", zone) for zone in ("UTC", "+05:30", "Europe/Paris", "No/Where")),
    *(pa.duration(unit) for unit in ("s", "ns")),
    *(pa.decimal32(9, 2), pa.decimal128(38, -3), pa.decimal256(76, 40)),
    *(pa.binary(4), pa.uuid(), pa.bool8()),
]


def bits(kind: pa.DataType, draw: DrawFn, size: int) -> pa.Array:
    """Values of a fixed width, of any bits."""
    storage = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    count = size * storage.byte_width
    usual = st.binary(min_size=count, max_size=count)
    plain = st.lists(st.integers(0, 3), min_size=count, max_size=count).map(bytes)
    body = pa.py_buffer(draw(usual | plain))
    valid = pa.py_buffer(bytes([draw(st.sampled_from([7, 7, 2]))]))
    array = pa.Array.from_buffers(storage, size, [valid, body])
    return pa.ExtensionArray.from_storage(kind, array) if storage is not kind else array


@st.composite
def arrays(draw: DrawFn, size: int, depth: int = 0) -> pa.Array:
    """An array of that many values of some type, of which some may be null."""
    kind = draw(st.sampled_from(["bits", "text", "bool", "null", "nested"]))
    inner = arrays(size, depth + 1)
    if kind == "nested" and depth < 2:
        shape = draw(st.sampled_from(["struct", "list", "map", "dictionary", "runs", "union"]))
        found = draw(inner)
        if shape == "struct":
            return pa.StructArray.from_arrays([found], ["id"])
        if shape == "list":
            return pa.ListArray.from_arrays([0, *([size] * size)], found)
        if shape == "map":
            keys = draw(st.sampled_from([["id"] * size, [1] * size]))
            return pa.MapArray.from_arrays(range(size + 1), keys, found)
        if shape == "dictionary":
            return pa.DictionaryArray.from_arrays(pa.array([0] * size, pa.int8()), found)
        if shape == "runs" and not pa.types.is_run_end_encoded(found.type):
            with suppress(pa.ArrowInvalid):  # that refuses text that is not UTF-8
                return pa.RunEndEncodedArray.from_arrays(list(range(1, size + 1)), found)
        return pa.UnionArray.from_sparse(pa.array([0] * size, pa.int8()), [found])
    if kind == "bits":
        found = bits(draw(st.sampled_from(PRIMITIVES)), draw, size)
    elif kind == "bool":
        found = pa.array(draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    elif kind == "null":
        return pa.nulls(size)
    else:
        raw = draw(st.lists(st.none() | st.binary(max_size=12), min_size=size, max_size=size))
        to = draw(st.sampled_from([pa.string(), pa.binary()]))
        found = pa.Array.from_buffers(to, size, pa.array(raw, pa.binary()).buffers())
        wide = {
            pa.string(): (pa.large_string(), pa.string_view()),
            pa.binary(): (pa.binary_view(),),
        }
        found = found.cast(draw(st.sampled_from([to, *wide[to]])))
    return found


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_any_row_of_any_arrow_type_is_an_event_or_a_dead_letter(data: DataObject) -> None:
    """With columns of any type and bits, mapped or not, every row is counted once, and its dead letter
    is JSON."""
    size = data.draw(st.integers(1, 3))
    names = ["id", "t", "user", "sum", "verdict", "unmapped"]
    columns = {
        name: data.draw(st.one_of(arrays(size), st.just(pa.array([f"{i}" for i in range(size)]))))
        for name in names
    }
    columns["more"] = pa.array([float("nan")] * size)
    fields: FieldMappings = {
        **FIELDS,
        "verdict": FieldMapping(path="verdict", values={"true": "fraud"}),
        "time": FieldMapping(path="t", unit=data.draw(st.sampled_from(["ms", "s", "us", "iso"]))),
        "bytes": data.draw(st.sampled_from(["sum", "more"])),
    }
    spec = InputSpec(topic="in", type="transaction", fields=fields)
    route = Route(Decoder(spec, LimitsSpec(), list(fields)), 100, hash_key(""))
    routed = route.process(records_of(columns))
    known = route.counts()["duplicate"]
    lost = [one for one in routed.dead_letters if dict(one.headers)[DISPOSITION] != b"event_kept"]
    assert len(lost) + len(routed.events) + known == size
    for one in routed.dead_letters:
        assert orjson.loads(one.value).keys() == columns.keys()
        assert orjson.loads(as_json_line(one))
    for texts in (routed.events.event_id, *routed.events.text.values()):
        texts.validate(full=True)


def test_a_long_row_is_cut_at_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each value counts eight bytes, a text its own besides; once the row has more than its share the
    lists that go on end there."""
    monkeypatch.setattr(table_rows, "ROW_BYTES_MAX", 40)
    rows = pa.table({"a": [[1, 2, 3, 4, 5, 6]], "b": [["x", "y"]]})
    assert orjson.loads(table_rows.row_as_json(rows, 0)) == {"a": [1, 2, 3, 4, 5, "…"], "b": ["…"]}
    texts = pa.table({"a": [["x" * 16, "y", "z"]], "b": [None]})
    assert orjson.loads(table_rows.row_as_json(texts, 0)) == {"a": ["x" * 16, "y", "…"], "b": None}


def test_a_deep_value_is_shown_as_its_type() -> None:
    """Lists and dictionaries in each other count one level each; below `DEPTH_MAX` there is the type."""
    values: pa.Array = pa.array([1])
    for _ in range(60):
        lists = pa.ListArray.from_arrays([0, 1], values)
        values = pa.DictionaryArray.from_arrays(pa.array([0]), lists)
    found = orjson.loads(table_rows.row_as_json(pa.table({"a": values}), 0))["a"]
    levels = 0
    while isinstance(found, list):
        [found] = found
        levels += 1
    assert levels == table_rows.DEPTH_MAX // 2
    assert found.startswith("list<")
