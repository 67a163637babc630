"""The law of decoders: the outcome of a record depends on that record alone, not on the others in
its batch, for every codec and every form of input; and no optional field costs the event."""

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.codecs.access_log import ACCESS_LOG_FIELDS
from schemas.columns import EventBatch
from schemas.events import FIELDS
from schemas.mapping import FieldMapping, TextClass, TypeLocation
from schemas.records import Headers, Records
from stream.config import InputSpec, LimitsSpec
from stream.pipeline.decoding import Decoder
from stream.pipeline.stages.route import Route
from tests.laws.test_laws import KEY, assert_same

TIME_MS: Final = 1_772_409_600_000
LIMITS: Final = LimitsSpec(record_bytes_max=3_000, duplicate_window=100)
OWN: Final = InputSpec(topic="own")
"""Eddy's own fields."""
THEIRS: Final = InputSpec(
    topic="theirs",
    type=TypeLocation(field="kind.of", values={"buy": "transaction"}),
    fields={
        "event_id": ["id", "meta.id"],
        "time": FieldMapping(path=["at", "meta.at"], unit="iso"),
        "account": ["user.id", "user.name"],
        "ip": "ip",
        "amount": ["sum.value", "sum.total"],
        "verdict": FieldMapping(path="fraud", values={"true": "fraud", "false": "honest"}),
        "session": FieldMapping(path=["ip", "agent"], joined=True),
        "user_agent": "agent",
        "item": FieldMapping(path="page", extract=r"/item/(?P<id>\w+)"),
        "route": FieldMapping(path="page", classes=[TextClass(name="asset", pattern=r"\.css")]),
    },
)
IN_SECONDS: Final = InputSpec(
    topic="seconds",
    type=TypeLocation(header="type"),
    fields={
        "event_id": "id",
        "time": FieldMapping(path="at", unit="s"),
        "card": "card",
        "level": "level",
    },
)
SITE: Final = InputSpec(
    topic="site",
    codec="access_log",
    fields={
        "session": FieldMapping(path=["ip", "user_agent"], joined=True),
        "outcome": FieldMapping(path="status", classes=[TextClass(name="error", pattern="^[45]")]),
    },
)
LOG_WANTED: Final = [*ACCESS_LOG_FIELDS, "session", "outcome"]
LINE: Final = (
    b'10.0.0.7 - - [17/May/2015:10:05:03 +0200] "GET /a?b=1 HTTP/1.1" 200 512 "http://e.org/" "M"'
)


def decoder(spec: InputSpec) -> Decoder:
    """Decodes an input with all the fields that it can fill."""
    names = LOG_WANTED if spec.codec == "access_log" else spec.fields or FIELDS
    return Decoder(spec, LIMITS, [name for name in FIELDS if name in names])


# -- records --------------------------------------------------------------------------------------

SCALARS: Final = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.floats(),
    st.text(max_size=6),
    st.sampled_from(
        ["", "nan", "-Infinity", "1e400", "+1", "1_0", " 1", "0x1", "1" * 70, "a" * 300]
    ),
    st.sampled_from(["203.0.113.1:80", "::FFFF:1.2.3.4", "fe80::1%e", "\ud800", "é" * 200, "1.0"]),
    st.sampled_from(
        ["2026-03-02T00:00:00.5Z", "2026-03-02", "2026-W10-1", "1969-12-31", "20260302"]
    ),
    st.sampled_from(["2026-03-02 00:00:00+01:00", "2026-03-02T24:00:00", "0000-01-01T00:00:00"]),
    st.decimals(allow_nan=False, allow_infinity=False, places=3).map(str),
    st.integers(TIME_MS - 5, TIME_MS + 5),
)
VALUES: Final = st.one_of(SCALARS, st.lists(SCALARS, max_size=2), st.just({"id": 1}))


def record(names: list[str], must: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Records with these fields sometimes, and mostly with the required ones."""
    needed = {
        name: st.one_of(st.just(value), st.just(value), VALUES) for name, value in must.items()
    }
    return st.fixed_dictionaries(needed, optional=dict.fromkeys(names, VALUES))


def brackets(start: bytes) -> st.SearchStrategy[bytes]:
    """Records nested about as deeply as allowed, whole and truncated."""
    depth = st.sampled_from([1, 190, 198, 199, 200, 201, 210, 500])
    return st.builds(
        lambda n, ends, pad: (
            start + b"[" * n + b"]" * (n if ends else 0) + b"}" * ends + b" " * pad
        ),
        depth,
        st.booleans(),
        st.sampled_from([0, 100, 400]),
    )


def with_changed_byte(record: bytes, at: float, byte: int) -> bytes:
    """The record with another byte somewhere."""
    place = int(at * len(record))
    return record[:place] + bytes([byte]) + record[place + 1 :]


def bytes_of(whole: st.SearchStrategy[bytes], start: bytes) -> st.SearchStrategy[bytes | None]:
    """Records whole, with a changed byte, of random bytes, deep, too large, and tombstones."""
    spoiling = st.builds(with_changed_byte, whole, st.floats(0, 0.999), st.integers(0, 255))
    odd = st.sampled_from([None, b"", b"x" * 3_001, b"[1]", b"null", LINE])
    return st.one_of(whole, whole, spoiling, st.binary(max_size=20), brackets(start), odd)


def as_json(event: dict[str, Any]) -> bytes:
    """JSON as Python writes it, NaN included, with as few escapes as possible."""
    return json.dumps(event, ensure_ascii=False).encode("utf-8", "surrogatepass")


MINE: Final = record(
    ["account", "ip", "amount", "currency", "latitude", "user_agent", "verdict", "x"],
    {"event_id": "e1", "time": TIME_MS, "type": "transaction"},
)
THEIR: Final = record(
    ["user", "ip", "sum", "fraud", "agent", "page"],
    {"id": "e1", "at": "2026-03-02T00:00:00", "kind": {"of": "buy"}, "meta": {"id": 7, "at": None}},
)
SECONDS: Final = record(["card", "level"], {"id": "e1", "at": TIME_MS / 1000})
LINES: Final = st.builds(
    lambda ip, user, agent, tail: (
        LINE.replace(b"10.0.0.7", ip)
        .replace(b"- -", b"- " + user)
        .replace(b'"M"', b'"' + agent + b'"' + tail)
    ),
    st.sampled_from([b"10.0.0.7", b"unix:", b"a:1 ::1", b"1.1.1.1, 2.2.2.2", b"::ffff:1.2.3.4"]),
    st.sampled_from([b"-", b"jo", b"a b", b"9.9.9.9 - -"]),
    st.one_of(st.binary(max_size=6), st.sampled_from([b"m" * 5_000, b"m" * 2_900, b'"', b"-"])),
    st.sampled_from([b"", b"\r", b" x", b"x"]),
)
INPUTS: Final[dict[str, tuple[InputSpec, st.SearchStrategy[bytes | None]]]] = {
    "own": (OWN, bytes_of(MINE.map(as_json), b'{"event_id":"a","time":1,"type":')),
    "theirs": (THEIRS, bytes_of(THEIR.map(as_json), b'{"id":"a","kind":')),
    "seconds": (IN_SECONDS, bytes_of(SECONDS.map(as_json), b'{"id":"a","at":')),
    "site": (SITE, bytes_of(LINES, LINE[:60])),
}


def column(kind: pa.DataType, values: st.SearchStrategy[Any]) -> st.SearchStrategy[pa.Array]:
    """A column of five rows."""
    each = st.one_of(st.none(), values)
    return st.lists(each, min_size=5, max_size=5).map(lambda given: pa.array(given, kind))


COLUMNS: Final = st.one_of(
    column(pa.string(), SCALARS.filter(lambda one: isinstance(one, str) and one.isprintable())),
    column(pa.string(), st.sampled_from(["1.5", "7", "", "nan", "::1", "2026-03-02", "a" * 9_000])),
    column(pa.large_string(), st.sampled_from(["a", "", "1"])),
    column(pa.string(), st.sampled_from(["a", "b"])).map(lambda one: one.dictionary_encode()),
    column(pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    column(pa.int64(), st.integers(TIME_MS - 5, TIME_MS + 5)),
    column(pa.float64(), st.floats()),
    column(pa.bool_(), st.booleans()),
    column(pa.timestamp("ms"), st.integers(0, 10**13)),
    column(pa.decimal128(9, 2), st.sampled_from([Decimal("1.50"), Decimal(7)])),
    column(pa.struct([("id", pa.string())]), st.sampled_from([{"id": "a"}, {"id": None}])),
    column(pa.list_(pa.int64()), st.just([1])),
)
TABLES: Final = st.fixed_dictionaries(
    {
        "event_id": st.one_of(st.just(pa.array(["a", "b", "c", "d", "e"])), COLUMNS),
        "time": st.one_of(st.just(pa.array([TIME_MS] * 5)), COLUMNS),
        "type": st.just(pa.array(["transaction", "login", "transaction", None, "x"])),
    },
    optional=dict.fromkeys(["account", "ip", "amount", "user_agent", "session"], COLUMNS),
).map(pa.table)


def batch(values: list[bytes | None] | pa.Table, first: int = 0) -> Records:
    """Records of one partition, of which every third has another type in its headers."""
    size = len(values)
    types: list[Headers] = [[("type", b"login" if i % 3 else b"?")] for i in range(size)]
    times = np.full(size, TIME_MS, np.int64)
    return Records("in", 0, np.arange(first, first + size), times, values, types)


# -- what became of them --------------------------------------------------------------------------


def plain(events: EventBatch) -> list[dict[str, Any]]:
    """The events one by one, numbers by their bits."""
    return [
        {
            "offset": int(events.offset[i]),
            "time": int(events.time_ms[i]),
            "type": int(events.type_code[i]),
            "id": events.event_id[i].as_py(),
            **{name: texts[i].as_py() for name, texts in events.text.items()},
            **{name: float(numbers[i]).hex() for name, numbers in events.number.items()},
        }
        for i in range(len(events))
    ]


def outcome(reading: Decoder, records: Records) -> tuple[Any, ...]:
    """Events, faults and repairs of records, by offset."""
    events, faults, tombstones, repaired = reading.read(records)
    return (
        plain(events),
        [fault._replace(row=int(records.offset[fault.row])) for fault in faults],
        tombstones,
        sorted((int(records.offset[row]), *one[:2]) for one in repaired for row in one.rows),
    )


def alone_as_together(spec: InputSpec, records: Records) -> None:
    """Each record alone has the same outcome as among the others, in either order."""
    reading = decoder(spec)
    together = outcome(reading, records)
    singles = [outcome(reading, records.slice(i, i + 1)) for i in range(len(records))]
    events, faults, tombstones, repaired = together
    assert events == [event for one in singles for event in one[0]]
    assert faults == [fault for one in singles for fault in one[1]]
    assert tombstones == sum(one[2] for one in singles)
    assert repaired == sorted(repair for one in singles for repair in one[3])
    back = records.take(np.arange(len(records))[::-1].copy())
    backwards = outcome(reading, back)
    assert events == backwards[0][::-1]
    assert sorted(faults) == sorted(backwards[1])
    assert repaired == backwards[3]


def routed_alike(spec: InputSpec, records: Records) -> None:
    """Dead letters, examples, tallies and state are the same record by record as in one batch."""
    whole, cut = (Route(decoder(spec), LIMITS.duplicate_window, KEY) for _ in range(2))
    once = whole.process(records)
    parts = [cut.process(records.slice(i, i + 1)) for i in range(len(records))]
    assert once.dead_letters == [letter for part in parts for letter in part.dead_letters]
    assert whole.counts() == cut.counts()
    assert_same(whole.save(), cut.save())


@pytest.mark.parametrize("name", INPUTS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_records_outcome_is_its_own(name: str, data: st.DataObject) -> None:
    """Events, fault codes, messages, repairs, dead letters and tallies of records as bytes."""
    spec, values = INPUTS[name]
    records = batch(data.draw(st.lists(values, max_size=6)))
    alone_as_together(spec, records)
    routed_alike(spec, records)


@settings(max_examples=25, deadline=None)
@given(TABLES)
def test_a_rows_outcome_is_its_own(table: pa.Table) -> None:
    """The same for rows of tables, with columns of any type."""
    alone_as_together(OWN, batch(table))
    routed_alike(OWN, batch(table))


@pytest.mark.parametrize("brackets_", [198, 199, 200, 201])
def test_depth_does_not_depend_on_a_neighbours_size(brackets_: int) -> None:
    """A record that is nested too deeply has the same code and message beside a long and a short
    record."""
    deep = b'{"event_id":"a","time":1,"type":' + b"[" * brackets_
    for neighbour in (b"{}", b'{"x":"' + b"y" * 500 + b'"}'):
        alone_as_together(OWN, batch([deep, neighbour, deep]))


def test_text_that_is_not_utf8_stays_in_its_row() -> None:
    """In a table with bytes that are not UTF-8 in one row, the other rows are unchanged."""
    offsets = pa.array([0, 2, 4, 6, 6], pa.int32()).buffers()[1]
    texts = pa.Array.from_buffers(pa.string(), 4, [None, offsets, pa.py_buffer(b"\xffb\xc3\xa9cd")])
    columns = {"event_id": texts, "type": ["login"] * 4, "time": [1] * 4, "account": texts}
    alone_as_together(OWN, batch(pa.table({**columns, "ip": texts, "amount": texts})))


# -- no optional field takes an event away --------------------------------------------------------

OPTIONAL: Final = ["account", "user_agent", "ip", "amount", "session", "currency", "latitude"]
Written = Callable[[str, bytes], Records]


def json_string(name: str, value: bytes) -> Records:
    """The bytes in a JSON string, with as few escapes as JSON allows."""
    raw = value.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
    start = b'{"event_id":"a","type":"login","time":1,"%s":' % name.encode()
    return batch([start + b'"' + raw + b'"}'])


def json_as_nginx(name: str, value: bytes) -> Records:
    """The bytes in a string as nginx's access log in JSON escapes them by default."""
    raw = b"".join(
        b"\\x%02X" % byte if byte < 32 or byte > 126 or byte in b'"\\' else bytes([byte])
        for byte in value
    )
    return batch([b'{"event_id":"a","type":"login","time":1,"%s":"%s"}' % (name.encode(), raw)])


def table_text(name: str, value: bytes) -> Records:
    """The bytes in a table's column of texts."""
    offsets = pa.array([0, len(value)], pa.int32()).buffers()[1]
    text = pa.Array.from_buffers(pa.string(), 1, [None, offsets, pa.py_buffer(value or b" ")])
    return batch(pa.table({"event_id": ["a"], "type": ["login"], "time": [1], name: text}))


@pytest.mark.parametrize("written", [json_string, json_as_nginx, table_text])
@settings(max_examples=80, deadline=None)
@given(
    name=st.sampled_from(OPTIONAL),
    value=st.one_of(st.binary(max_size=40), st.binary().map(lambda b: b * 300)),
)
def test_any_bytes_in_an_optional_field_leave_the_event(
    written: Written, name: str, value: bytes
) -> None:
    """With any bytes in one of its fields, the event keeps its id, time and type."""
    reading = Decoder(OWN, LimitsSpec(), OPTIONAL)
    events, faults, _, _ = reading.read(written(name, value))
    assert faults == []
    assert (events.event_id.to_pylist(), events.time_ms.tolist()) == (["a"], [1])
    if name in events.text and value.strip(b"\0"):
        assert len(events.text[name][0].as_py().encode()) <= FIELDS[name].bytes_max


@settings(max_examples=120, deadline=None)
@given(
    field=st.sampled_from([b"GET /a?b=1 HTTP/1.1", b"http://e.org/", b"M"]),
    value=st.one_of(st.binary(max_size=40), st.binary().map(lambda b: b * 300)),
    escaped=st.booleans(),
)
def test_any_bytes_in_a_text_of_a_log_leave_the_request(
    field: bytes, value: bytes, escaped: bool
) -> None:
    """With any bytes in one of its texts, escaped as servers write them or raw, the request keeps
    its address."""
    if escaped:
        value = value.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
    line = LINE.replace(b'"' + field + b'"', b'"' + value + b'"')
    events, faults, _, _ = Decoder(SITE, LimitsSpec(), LOG_WANTED).read(batch([line]))
    assert faults == []
    assert events.text["ip"].to_pylist() == ["10.0.0.7"]


@pytest.mark.parametrize(
    "value", [[], {}, [{"a": [1]}], True, 1.5, float("nan"), 10**400, "9" * 99]
)
@pytest.mark.parametrize("name", OPTIONAL)
def test_any_value_in_an_optional_field_leaves_the_event(name: str, value: Any) -> None:
    """The same holds for an array, an object, a boolean, or a number without bounds."""
    event = {"event_id": "a", "type": "login", "time": 1, name: value}
    events, faults, _, _ = Decoder(OWN, LimitsSpec(), OPTIONAL).read(batch([as_json(event)]))
    assert faults == []
    assert events.event_id.to_pylist() == ["a"]
