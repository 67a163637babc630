"""JSON records give the same columns and faults however a batch is cut, and none ever raises."""

import json
import math
from typing import Any, Final

import numpy as np
import orjson
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.codecs.checks import check
from schemas.codecs.json_records import CHUNK_RECORDS, DEPTH_MAX, JsonCodec
from schemas.codecs.values import ms_of_numbers, ms_of_texts, number_column
from schemas.columns import EventBatch
from schemas.dead_letters import CODES, Fault
from schemas.events import TIME_MS_MAX
from schemas.mapping import (
    FieldMapping,
    FieldMappings,
    Mapping,
    RecordLayout,
    TimeUnit,
    TypeLocation,
    TypeSpec,
    compile_mapping,
)
from schemas.records import Headers, Records
from schemas.repairs import shorten

TIME_MS = 1_772_409_600_000
GOOD: dict[str, Any] = {
    "type": "transaction",
    "event_id": "e1",
    "time": TIME_MS,
    "account": "acct-1",
    "amount": 12.5,
    "currency": "EUR",
}
WANTED = ["account", "amount", "currency"]


def records(
    values: list[bytes], timestamp_ms: int = -1, headers: list[Headers] | None = None
) -> Records:
    """Records of one partition."""
    size = len(values)
    return Records(
        "in", 0, np.arange(size), np.full(size, timestamp_ms, np.int64), list(values), headers
    )


def identity(wanted: list[str] = WANTED) -> Mapping:
    """Eddy's own field names."""
    return compile_mapping(RecordLayout(), None, None, wanted)


def run(
    values: list[bytes], mapping: Mapping | None = None, timestamp_ms: int = -1
) -> tuple[EventBatch, list[Fault]]:
    """Decode and check."""
    batch = records(values, timestamp_ms)
    decoded = JsonCodec(mapping or identity()).decode(batch)
    return check(decoded, batch)[:2]


def one(
    event: dict[str, Any], fields: FieldMappings, type_spec: TypeSpec = "transaction"
) -> EventBatch:
    """The batch of one event without a fault."""
    events, faults = run(
        [orjson.dumps(event)], compile_mapping(RecordLayout(), type_spec, fields, list(fields))
    )
    assert faults == []
    return events


def changed(**fields: Any) -> bytes:
    """The valid event with some fields changed."""
    return json.dumps({**GOOD, **fields}).encode()


@pytest.mark.parametrize(
    ("record", "code"),
    [
        (b"", "malformed"),
        (b"payment of 3", "malformed"),
        (orjson.dumps(GOOD)[:-9], "malformed"),
        (orjson.dumps(GOOD) + b"{}", "malformed"),
        (orjson.dumps(GOOD).replace(b'"acct-1"', b'"acct-1'), "malformed"),
        (changed(unmapped=0).replace(b": 0", b": " + b"[" * 300 + b"]" * 300), "malformed"),
        (b"[" * 100_000, "malformed"),
        (b'"' + b'\\"' * 300_000, "malformed"),
        (b"[1]", "wrong_type"),
        (b'"text"', "wrong_type"),
        (b"null", "wrong_type"),
        (changed(event_id=None), "missing_id"),
        (changed(event_id=""), "missing_id"),
        (changed(event_id=[1]), "missing_id"),
        (changed(event_id=math.nan), "missing_id"),
        (changed(time=None), "missing_time"),
        (changed(time=""), "missing_time"),
        (changed(time="yesterday at noon"), "bad_time"),
        (changed(time={}), "bad_time"),
        (changed(time=math.nan), "bad_time"),
        (changed(time="nan"), "bad_time"),
        (changed(time=0).replace(b": 0", b": 1e999"), "bad_time"),
        (changed(time=-1), "bad_time"),
        (changed(time=TIME_MS_MAX + 1), "bad_time"),
        (changed(time=1e300), "bad_time"),
        (changed(type="purchase"), "unknown_type"),
        (changed(type=None), "unknown_type"),
        (changed(type=[]), "unknown_type"),
    ],
)
def test_a_bad_record_is_one_fault_with_its_code_and_its_neighbours_pass(
    record: bytes, code: str
) -> None:
    """A record that cannot be an event has the right code, and its neighbours are decoded."""
    good = orjson.dumps(GOOD)
    events, faults = run([good, record, good], timestamp_ms=TIME_MS)
    assert [(fault.row, fault.code) for fault in faults] == [(1, code)]
    assert events.offset.tolist() == [0, 2]
    assert events.text["account"].to_pylist() == ["acct-1", "acct-1"]


LONG: Final = "x" * 300
TWO_BYTES: Final = "é" * 129


@pytest.mark.parametrize(
    ("record", "field", "code", "value"),
    [
        (changed(account="x").replace(b'"x"', b'"a\xff\xfeb"'), "account", "not_utf8", "a��b"),
        (changed(account="x").replace(b'"x"', b'"a\\ud800b"'), "account", "not_utf8", "a�b"),
        (changed(account="x").replace(b'"x"', b'"a\x01\nb"'), "account", "not_utf8", "a\x01\nb"),
        (changed(account="x").replace(b'"x"', rb'"a\x22\xc3\xa9"'), "account", "not_utf8", 'a"é'),
        (changed(account="x").replace(b'"x"', rb'"a\q\u12"'), "account", "not_utf8", r"a\q\u12"),
        (changed(account={"id": 1}), "account", "wrong_type", None),
        (changed(account=True), "account", "wrong_type", None),
        (changed(account=1.5), "account", "wrong_type", None),
        (changed(account=math.nan), "account", "not_finite", None),
        (changed(amount=[1]), "amount", "wrong_type", None),
        (changed(amount=False), "amount", "wrong_type", None),
        (changed(amount="twelve"), "amount", "wrong_type", None),
        (changed(amount="1_000"), "amount", "wrong_type", None),
        (changed(amount="1" * 1000), "amount", "wrong_type", None),
        (changed(amount=math.nan), "amount", "not_finite", None),
        (changed(amount=-math.inf), "amount", "not_finite", None),
        (changed(amount=0).replace(b": 0", b": 1e999"), "amount", "not_finite", None),
        (changed(amount="nan"), "amount", "not_finite", None),
        (changed(amount="-Infinity"), "amount", "not_finite", None),
        (changed(amount=1e300), "amount", "out_of_range", None),
        (changed(amount="1e300"), "amount", "out_of_range", None),
        (changed(currency="é" * 9), "currency", "text_too_long", "é" * 8),
        (changed(currency="x" + "é" * 8), "currency", "text_too_long", "x" + "é" * 7),
        (changed(account=LONG), "account", "text_too_long", shorten("account", LONG, 256)),
        (
            changed(account=TWO_BYTES),
            "account",
            "text_too_long",
            shorten("account", TWO_BYTES, 256),
        ),
        (
            changed(account=0).replace(b": 0", b": " + b"9" * 5000),
            "account",
            "text_too_long",
            shorten("account", "9" * 5000, 256),
        ),
    ],
)
def test_a_bad_field_leaves_its_event_in_place(
    record: bytes, field: str, code: str, value: str | None
) -> None:
    """A field of a wrong type, not finite, out of range, not UTF-8 or too long is absent or
    repaired, and noted once; its event keeps all other fields, and no neighbour changes."""
    batch = records([orjson.dumps(GOOD), record, orjson.dumps(GOOD)])
    events, faults, repaired = check(JsonCodec(identity()).decode(batch), batch)
    assert faults == []
    assert [(one.field, one.code, one.rows.tolist()) for one in repaired] == [(field, code, [1])]
    for name in WANTED:
        good = "nan" if field == name == "amount" else GOOD[name]
        expected = value if field == name != "amount" else good
        assert str(column(events, name, as_text=True)[1]) == str(expected)
    assert events.offset.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "spoilt",
    [b'"\xff"', b'"\\ud800"', b"NaN", b"-Infinity", b'"\x00"', rb'"\x1b"', b"1e999", b"9" * 9000],
)
def test_an_unmapped_field_costs_no_record(spoilt: bytes) -> None:
    """The content of a field that nobody reads does not matter."""
    batch = records([changed(unmapped="x").replace(b'"x"', spoilt)])
    events, faults, repaired = check(JsonCodec(identity()).decode(batch), batch)
    assert (faults, repaired) == ([], [])
    assert events.text["account"].to_pylist() == ["acct-1"]


def test_the_last_of_duplicate_keys_counts() -> None:
    """A key that comes twice has its last value, in a record that decodes at once and in one that
    is decoded value by value."""
    twice = b'{"account": [1], "account": "a", ' + orjson.dumps({**GOOD, "account": "b"})[1:]
    first, second = one_of(twice), one_of(twice.replace(b'"EUR"', b'"EU\xff"'))
    assert first == second == "b"


def one_of(record: bytes) -> str | None:
    """The account of one record."""
    account: str | None = run([record])[0].text["account"][0].as_py()
    return account


def test_a_path_through_no_object_is_absent() -> None:
    """Where a value is in place of an object, the fields inside are absent, and the next of several
    paths is read."""
    fields: FieldMappings = {
        "event_id": "id",
        "time": "time",
        "account": ["user.id", "customer"],
        "card": "user.card",
    }
    event = {"id": "a", "time": 1, "user": [5], "customer": "c"}
    mapping = compile_mapping(RecordLayout(), "transaction", fields, list(fields))
    batch = records([orjson.dumps(event)])
    events, faults, repaired = check(JsonCodec(mapping).decode(batch), batch)
    assert faults == []
    assert events.text["account"].to_pylist() == ["c"]
    assert events.text["card"].to_pylist() == [None]
    assert {(one.field, one.code) for one in repaired} == {
        ("account", "wrong_type"),
        ("card", "wrong_type"),
    }


def test_a_shortened_id_stays_unique() -> None:
    """Ids with the same first 200 bytes stay distinct; a label still names its event, with an id of
    any length."""
    ids = ["é" * 150 + tail for tail in ("a", "b", "a")]
    fields: FieldMappings = {
        "event_id": "id",
        "time": "t",
        "account": "id",
        "labelled_event_id": "id",
    }
    mapping = compile_mapping(RecordLayout(), "label", fields, list(fields))
    batch = records([orjson.dumps({"id": one, "t": 1}) for one in ids])
    events, faults, repaired = check(JsonCodec(mapping).decode(batch), batch)
    assert faults == []
    found = events.event_id.to_pylist()
    assert found[0] == found[2] != found[1]
    assert found == events.text["labelled_event_id"].to_pylist()
    assert found == events.text["account"].to_pylist()
    assert all(one.startswith("é" * 100 + "~") and len(one.encode()) == 233 for one in found)
    assert {(one.field, one.code) for one in repaired} == {
        (name, "text_too_long") for name in ("event_id", "account", "labelled_event_id")
    }


def test_no_message_names_an_entity() -> None:
    """Whatever is wrong with a record, the fault's message never holds the value of an entity
    field."""
    name = "raw-account-77"
    bad = [
        changed(account=name, event_id=None),
        changed(account={"id": name}, time=None),
        changed(account=name * 40, time=name),
        changed(account=name, type="x"),
        changed(account=name, time="x"),
        changed(account=name)[:-3],
    ]
    _, faults = run(bad)
    assert len(faults) == len(bad)
    assert not [fault for fault in faults if name in fault.message]


def test_unbalanced_brackets_affect_no_neighbour() -> None:
    """Records are decoded one by one: unbalanced ones do not swallow or split others."""
    good = orjson.dumps(GOOD)
    events, faults = run([b'{"event_id": "a', good, b'", "time": 1}', good])
    assert [fault.row for fault in faults] == [0, 2]
    assert len(events) == 2


def test_the_depth_limit_does_not_depend_on_the_stack() -> None:
    """Nesting up to the codec's own limit is decoded, and beyond it fails, however deep the call
    stack is."""

    def nested(depth: int) -> bytes:
        inner = b"[" * (depth - 1) + b"]" * (depth - 1)
        return changed(unmapped=0).replace(b": 0}", b": " + inner + b"}")

    quoted = changed(unmapped="[" * 500 + '"{\\' + "{" * 500)

    def outcome(frames: int) -> list[int]:
        if frames:
            return outcome(frames - 1)
        return [f.row for f in run([nested(DEPTH_MAX), nested(DEPTH_MAX + 1), quoted])[1]]

    assert outcome(0) == outcome(300) == [1]


def test_integers_in_text_fields_become_their_digits() -> None:
    """An id written as a number and the same id written as a text are the same entity."""
    events, _ = run([changed(account=42), changed(account="42"), changed(account=10**30)])
    assert events.text["account"].to_pylist() == ["42", "42", str(10**30)]


def test_decimal_texts_are_numbers() -> None:
    """Amounts as decimal texts, as numbers and absent ones keep their meaning in one batch."""
    given_ = ["12.50", 12.5, None, "", "-3", "+.5", "1e2", 7]
    events, faults = run([changed(amount=value) for value in given_])
    assert faults == []
    want = [12.5, 12.5, math.nan, math.nan, -3.0, 0.5, 100.0, 7.0]
    np.testing.assert_array_equal(events.number["amount"], want)


def test_an_empty_text_is_absent() -> None:
    """An empty text must not become an entity that many events share."""
    events, _ = run([changed(account=""), changed(account="a")])
    assert events.text["account"].to_pylist() == [None, "a"]


def test_a_time_falls_back_to_further_paths() -> None:
    """Of two or three paths the first that has a time gives it."""
    for paths in (["meta.at", "at"], ["none", "meta.at", "at"]):
        fields: FieldMappings = {
            "event_id": "id",
            "account": "id",
            "time": FieldMapping(path=paths, unit="ms"),
        }
        for event, at in (({"meta": {"at": TIME_MS}, "at": 7}, TIME_MS), ({"at": 7}, 7)):
            assert one({"id": "e", **event}, fields).time_ms.tolist() == [at]


def test_paths_nest_escape_and_fall_back() -> None:
    """A mapping reads nested and dotted keys, and takes the first present of several paths."""
    fields: FieldMappings = {
        "event_id": "meta.id",
        "time": FieldMapping(path="meta.at", unit="s"),
        "account": ["user.id", "customer"],
        "ip": r"client\.ip",
        "kind": FieldMapping(path="what", values={"BUY": "payment"}),
        "currency": FieldMapping(constant="EUR"),
        "amount": FieldMapping(constant=1),
    }
    event = {
        "meta": {"id": 7, "at": 1_772_409_600.123},
        "user": None,
        "customer": "c",
        "client.ip": "10.0.0.1",
        "what": "BUY",
    }
    events = one(event, fields)
    assert events.time_ms.tolist() == [TIME_MS + 123]
    assert {n: column.to_pylist() for n, column in events.text.items()} == {
        "kind": ["payment"],
        "account": ["c"],
        "ip": ["10.0.0.1"],
        "currency": ["EUR"],
    }
    assert events.number["amount"].tolist() == [1.0]
    assert events.event_id.to_pylist() == ["7"]
    both = one({**event, "user": {"id": "u"}}, fields)
    assert both.text["account"].to_pylist() == ["u"]


def test_joined_texts_stay_in_their_row() -> None:
    """A record without any of the texts to be joined has none, and does not shift the others."""
    fields: FieldMappings = {
        "event_id": "id",
        "time": "t",
        "session": FieldMapping(path=["ip", "agent"], joined=True),
    }
    mapping = compile_mapping(RecordLayout(), "request", fields, list(fields))
    parts: list[dict[str, str]] = [{}, {"ip": "a"}, {}, {"agent": "é "}, {"ip": "a", "agent": "b"}]
    batch = records([orjson.dumps({"id": i, "t": 1, **part}) for i, part in enumerate(parts)])
    events, faults, _ = check(JsonCodec(mapping).decode(batch), batch)
    assert faults == []
    assert events.text["session"].to_pylist() == [None, "a", None, "é ", "a b"]


def test_position_stands_in_for_an_id() -> None:
    """Events without ids have topic, partition and offset as their id."""
    fields: FieldMappings = {"event_id": FieldMapping(position=True), "time": "time"}
    assert one({"time": 1}, fields).event_id.to_pylist() == ["in:0:0"]


def test_the_type_is_read_from_a_field_or_a_header() -> None:
    """A topic with several types names them in a field or a header, by its own names."""
    by_field = TypeLocation(field="event.name", values={"order_paid": "transaction"})
    fields: FieldMappings = {"event_id": "id", "time": "time"}
    event = {"id": "a", "time": 1, "event": {"name": "order_paid"}}
    assert one(event, fields, by_field).type_code.tolist() == [0]
    mapping = compile_mapping(
        RecordLayout(), TypeLocation(header="kind", values={"li": "login"}), fields, list(fields)
    )
    headers: list[Headers] = [[("kind", b"li")], [("kind", b"label")], [], [("kind", b"\xff")]]
    batch = records([orjson.dumps(event)] * 4, headers=headers)
    events, faults, _ = check(JsonCodec(mapping).decode(batch), batch)
    assert events.type_code.tolist() == [2, 3]
    assert [fault.code for fault in faults] == ["unknown_type"] * 2


@pytest.mark.parametrize(
    ("unit", "value", "ms"),
    [
        ("ms", 1_772_409_600_123, 123),
        ("ms", 1_772_409_600_123.9, 123),
        ("ms", "1772409600123", 123),
        ("s", 1_772_409_600.123, 123),
        ("us", 1_772_409_600_123_999, 123),
        ("iso", "2026-03-02T00:00:00.123Z", 123),
        ("iso", "2026-03-02T00:00:00.123999", 123),
        ("iso", "2026-03-02 02:00:00.123456789+02:00", 123),
        ("iso", "2026-03-02", 0),
    ],
)
def test_times_are_read_in_their_unit(unit: TimeUnit, value: Any, ms: int) -> None:
    """Every unit gives the same millisecond; fractions are truncated."""
    fields: FieldMappings = {"event_id": "id", "time": FieldMapping(path="t", unit=unit)}
    assert one({"id": 1, "t": value}, fields).time_ms.tolist() == [TIME_MS + ms]


def test_an_empty_batch_is_an_empty_batch() -> None:
    """No records give no events and no faults."""
    events, faults = run([])
    assert (len(events), faults) == (0, [])


VALUES = st.one_of(
    st.none(),
    st.integers(-(10**20), 10**20),
    st.floats(),
    st.text(max_size=8),
    st.decimals(allow_nan=False, allow_infinity=False, places=3).map(str),
    st.lists(st.integers(), max_size=2),
    st.booleans(),
)
EVENTS = st.fixed_dictionaries(
    {},
    optional={name: st.one_of(st.just(GOOD[name]), VALUES) for name in GOOD},
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.one_of(EVENTS.map(lambda e: json.dumps(e).encode()), st.binary(max_size=12))),
    st.integers(1, 5),
)
def test_cutting_a_batch_changes_nothing(values: list[bytes], cut: int) -> None:
    """Events and faults equal those of every smaller batch, and add up."""
    events, faults = run(values, timestamp_ms=TIME_MS)
    parts = [run(values[i : i + cut], timestamp_ms=TIME_MS) for i in range(0, len(values), cut)]
    assert len(events) + len(faults) == len(values)
    assert all(fault.code in CODES for fault in faults)
    moved = [
        fault._replace(row=fault.row + i * cut)
        for i, (_, found) in enumerate(parts)
        for fault in found
    ]
    assert faults == moved
    for name in WANTED:
        whole = column(events, name)
        assert whole == [value for part, _ in parts for value in column(part, name)]
    assert events.time_ms.tolist() == [ms for part, _ in parts for ms in part.time_ms.tolist()]


def column(events: EventBatch, name: str, *, as_text: bool = False) -> list[Any]:
    """A field of the events, floats by their bits, or as texts."""
    if name in events.text:
        values: list[Any] = events.text[name].to_pylist()
        return values
    if as_text:
        return [str(value) for value in events.number[name].tolist()]
    return [value.hex() for value in events.number[name].tolist()]


def test_faults_keep_their_rows_over_many_chunks() -> None:
    """Records are decoded in chunks; a fault in a later chunk names its own row."""
    values = [changed(event_id=i) for i in range(2 * CHUNK_RECORDS + 10)]
    bad = [0, CHUNK_RECORDS - 1, CHUNK_RECORDS, 2 * CHUNK_RECORDS + 9]
    for row in bad:
        values[row] = b"{"
    values[CHUNK_RECORDS + 3] = changed(event_id=CHUNK_RECORDS + 3, amount="x", account=[])
    batch = records(values)
    events, faults, repaired = check(JsonCodec(identity()).decode(batch), batch)
    assert [fault.row for fault in faults] == bad
    assert [(one.field, one.rows.tolist()) for one in repaired] == [
        ("account", [CHUNK_RECORDS + 3]),
        ("amount", [CHUNK_RECORDS + 3]),
    ]
    assert len(events) == len(values) - 4
    ids = [int(text) for text in events.event_id.to_pylist()]
    assert ids == events.offset.tolist()


DECIMALS = st.text("0123456789.+-eEnaifty_x ", max_size=10)


@settings(deadline=None)
@given(st.lists(st.one_of(DECIMALS, st.floats(allow_nan=False).map(repr)), min_size=1, max_size=4))
def test_a_column_of_texts_reads_as_each_of_them_does(values: list[str]) -> None:
    """Decimal texts have the same values as a column and one by one."""
    column_, wrong = number_column(values)
    single = [number_column([value, 1.0]) for value in values]
    assert wrong == [i for i, (_, bad) in enumerate(single) if bad]
    want = [part[0].as_py() for part, _ in single]
    assert [repr(v) for v in column_.to_pylist()] == [repr(v) for v in want]


ISO_PARTS = st.tuples(
    st.sampled_from(
        ["1969-12-31", "2026-03-02", "2026-02-29", "2000-02-29", "0000-01-01", "20260302"]
    ),
    st.sampled_from(["", "T", " ", "t"]),
    st.sampled_from(["", "00", "23:59", "23:59:59", "24:00:00", "12:00:60", "1:2:3", "235959"]),
    st.sampled_from(["", ".", ".1", ".123", ".123456", ".1234567", ".123456789", ",5"]),
    st.sampled_from(["", "Z", "z", "+01:00", "-0130", "+02", "+24:00", "+00:00:30"]),
)


@settings(max_examples=500, deadline=None)
@given(ISO_PARTS.map("".join))
def test_a_column_of_iso_times_reads_as_each_of_them_does(text: str) -> None:
    """ISO times have the same values as a column and one by one."""
    mixed, mixed_bad = ms_of_texts(pa.array([text, "2026-03-02T00:00:00", "2026-03-02T00:00:00Z"]))
    alone, alone_bad = ms_of_texts(pa.array([text]))
    assert alone.to_pylist() == mixed.to_pylist()[:1]
    assert (alone_bad == [0]) == (0 in mixed_bad)


def test_times_far_out_of_range_stay_out_of_range() -> None:
    """A time far out of range stays out of range instead of wrapping around."""
    far = pa.array([1e300, -1e300, math.inf, math.nan])
    for unit in ("ms", "s", "us"):
        ms = ms_of_numbers(far, unit).to_numpy()
        assert ((ms < 0) | (ms > TIME_MS_MAX)).all()
