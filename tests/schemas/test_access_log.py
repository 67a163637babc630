"""Combined access logs become requests."""

from pathlib import Path

import numpy as np
import pytest

from schemas.checks import check
from schemas.codecs import AccessLogCodec
from schemas.columns import EventBatch
from schemas.dead_letters import Fault
from schemas.mapping import LOG_FIELDS, Class, FieldsSpec, Place, compile_mapping
from schemas.records import Records

LINE = (
    '10.0.0.7 - jo [17/May/2015:10:05:03 +0200] "GET /a?b=1 HTTP/1.1" 200 512 '
    '"http://example.org/" "Mozilla/5.0 (X11; \\"odd\\")"'
)


def run(lines: list[bytes]) -> tuple[EventBatch, list[Fault]]:
    """Decode and check lines."""
    size = len(lines)
    records = Records("request", 0, np.arange(size), np.full(size, -1, np.int64), list(lines))
    mapping = compile_mapping("access_log", None, None, LOG_FIELDS)
    return check(AccessLogCodec(mapping).decode(records), records, 1)


@pytest.mark.parametrize("wrap", ["{}", '"{}"', "{}\r", "{} 0.004 -"])
def test_a_line_is_a_request(wrap: str) -> None:
    """A line gives every field of a request, plain, wrapped in quotes, or with fields behind."""
    events, faults = run([wrap.format(LINE).encode()])
    assert faults == []
    assert {name: column.to_pylist() for name, column in events.text.items()} == {
        "ip": ["10.0.0.7"],
        "method": ["GET"],
        "path": ["/a?b=1"],
        "referrer": ["http://example.org/"],
        "user_agent": ['Mozilla/5.0 (X11; \\"odd\\")'],
    }
    assert {name: column.tolist() for name, column in events.number.items()} == {
        "status": [200.0],
        "bytes": [512.0],
    }
    assert events.time_ms.tolist() == [1_431_849_903_000]
    assert events.type_code.tolist() == [1]
    assert events.event_id.to_pylist() == ["request:0:0"]


def test_a_dash_is_absent() -> None:
    """What a server logs as a dash is no value."""
    line = LINE.replace("512", "-").replace('"http://example.org/"', '"-"')
    events, _ = run([line.encode()])
    assert events.text["referrer"].to_pylist() == [None]
    assert np.isnan(events.number["bytes"]).all()


@pytest.mark.parametrize(
    ("request_line", "method", "path"),
    [
        ("GET /", "GET", "/"),
        ("-", None, None),
        ("\\x16\\x03\\x01", None, "\\x16\\x03\\x01"),
        ("GET /a b HTTP/1.0", "GET", "/a b"),
    ],
)
def test_odd_request_lines_are_still_requests(
    request_line: str, method: str | None, path: str | None
) -> None:
    """Scanners send anything; what is no request line is all path, and the event is kept."""
    events, faults = run([LINE.replace("GET /a?b=1 HTTP/1.1", request_line).encode()])
    assert faults == []
    assert events.text["method"].to_pylist() == [method]
    assert events.text["path"].to_pylist() == [path]


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"", "malformed"),
        (b"hello", "malformed"),
        (LINE.replace("10.0.0.7", "\udcff").encode("utf-8", "surrogateescape"), "malformed"),
        (LINE.replace("17/May", "31/Feb").encode(), "bad_time"),
        (LINE.replace("17/May", "17/Mai").encode(), "bad_time"),
        (LINE.replace(":10:05", ":25:05").encode(), "bad_time"),
        (LINE.replace("2015", "1955").encode(), "bad_time"),
        (LINE.replace("/a?b=1", "/" + "a" * 9000).encode(), "text_too_long"),
        (LINE.replace(" 512 ", f" {2**60} ").encode(), "out_of_range"),
    ],
)
def test_a_bad_line_is_one_fault_with_its_code(line: bytes, code: str) -> None:
    """A line that is no request gets the right code, and its neighbours pass."""
    events, faults = run([LINE.encode(), line, LINE.encode()])
    assert [(fault.row, fault.code) for fault in faults] == [(1, code)]
    assert len(events) == 2


def test_a_hostile_line_costs_no_more_than_its_length() -> None:
    """A megabyte made to send a pattern back and forth is refused in a moment."""
    start = b"1 - "
    for piece in (b'[17/May/2015:10:05:03 +0000] "', b'\\"', b'" "', b"[ "):
        _, faults = run([start + piece * (1_000_000 // len(piece))])
        assert [fault.code for fault in faults] == ["malformed"]


@pytest.mark.parametrize("name", ["access_may17_18.log", "scanner_acunetix.log"])
def test_real_logs_decode_whole(shared_data: Path, name: str) -> None:
    """Every line of a real site's log and of a real scan is a request."""
    lines = (shared_data / "traffic" / name).read_bytes().splitlines()
    events, faults = run(lines)
    assert faults == []
    assert len(events) == len(lines) > 4000


def test_fields_are_made_of_a_lines_own() -> None:
    """The first class that is found stands for the path; a number is taken out of it; what is
    joined has a space between; what is not found, or is none that the field may have, is absent and
    no fault: whoever asks for such a path must not be seen by nobody."""
    fields: FieldsSpec = {
        "route": Place(
            path="path",
            classes=[Class(name="asset", pattern=r"\.css$"), Class(name="item", pattern="^/item")],
        ),
        "outcome": Place(path="status", classes=[Class(name="error", pattern="^[45]")]),
        "product": Place(path="path", extract=r"^/item/(?P<id>\w+)"),
        "item": Place(path="path", extract=r"^/item/(?P<id>\w+)"),
        "session": Place(path=["ip", "user_agent"], joined=True),
        "network": Place(path="ip", extract=r"^(?P<block>.*)\."),
    }
    long = "/item/" + "9" * 300
    paths = ("/item/17", "/item/17.css", "/about", "/item/x", long, "/item/" + "9" * 17)
    lines = [LINE.replace("/a?b=1", path).replace(" 200 ", " 404 ").encode() for path in paths]
    lines[2] = lines[2].replace(b" 404 ", b" 200 ").replace(b'"Mozilla', b'"-" "Mozilla')
    size = len(lines)
    records = Records("request", 0, np.arange(size), np.full(size, -1, np.int64), list(lines))
    mapping = compile_mapping("access_log", None, fields, [*fields, "ip"])
    events, faults = check(AccessLogCodec(mapping).decode(records), records, 1)
    assert faults == []
    assert events.text["route"].to_pylist() == ["item", "asset", None, *["item"] * 3]
    assert events.text["outcome"].to_pylist() == ["error", "error", None, *["error"] * 3]
    assert events.text["network"].to_pylist() == ["10.0.0"] * 6
    assert events.text["product"].to_pylist() == ["17", "17", None, "x", None, "9" * 17]
    assert events.text["session"].to_pylist()[2] == "10.0.0.7"
    assert events.text["session"].to_pylist()[0] == '10.0.0.7 Mozilla/5.0 (X11; \\"odd\\")'
    np.testing.assert_array_equal(events.number["item"], [17.0, 17.0, *[np.nan] * 4])


def test_the_longest_agent_still_makes_a_session() -> None:
    """Address and agent joined fit a session whenever the agent itself is allowed."""
    line = LINE.replace("Mozilla/5.0", "m" * 4_000).encode()
    fields: FieldsSpec = {"session": Place(path=["ip", "user_agent"], joined=True)}
    records = Records("request", 0, np.arange(1), np.full(1, -1, np.int64), [line])
    mapping = compile_mapping("access_log", None, fields, ["session", "user_agent"])
    events, faults = check(AccessLogCodec(mapping).decode(records), records, 1)
    assert faults == []
    assert len(events.text["session"][0].as_py()) > 4_000
