"""Combined access logs become requests."""

from pathlib import Path
from typing import Final

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.addresses import parse_address
from schemas.codecs.access_log import ACCESS_LOG_FIELDS, AccessLogCodec, AccessLogSpec
from schemas.codecs.checks import CheckedBatch, check
from schemas.columns import EventBatch
from schemas.dead_letters import Fault
from schemas.mapping import (
    FieldMapping,
    FieldMappings,
    TextClass,
    compile_mapping,
)
from schemas.records import Records
from schemas.repairs import shorten

LINE = (
    '10.0.0.7 - jo [17/May/2015:10:05:03 +0200] "GET /a?b=1 HTTP/1.1" 200 512 '
    '"http://example.org/" "Mozilla/5.0 (X11; \\"odd\\")"'
)


def run(lines: list[bytes]) -> tuple[EventBatch, list[Fault]]:
    """The events and faults of lines."""
    return checked(lines)[:2]


def checked(lines: list[bytes]) -> CheckedBatch:
    """Decode and check lines."""
    size = len(lines)
    records = Records("request", 0, np.arange(size), np.full(size, -1, np.int64), list(lines))
    mapping = compile_mapping(AccessLogSpec.layout, None, None, ACCESS_LOG_FIELDS)
    return check(AccessLogCodec(mapping).decode(records), records)


@pytest.mark.parametrize("wrap", ["{}", '"{}"', "{}\r", "{} 0.004 -"])
def test_a_line_is_a_request(wrap: str) -> None:
    """A line gives every field of a request, whether plain, in quotes, or with further fields."""
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
    """A dash in a log line is an absent value."""
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
    """A text that is no request line, as scanners send, is a path, and the event is kept."""
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
        (LINE[: LINE.index(' "http')].encode(), "malformed"),
        (LINE.replace("17/May", "31/Feb").encode(), "bad_time"),
        (LINE.replace("17/May", "17/Mai").encode(), "bad_time"),
        (LINE.replace(":10:05", ":25:05").encode(), "bad_time"),
        (LINE.replace("2015", "1955").encode(), "bad_time"),
    ],
)
def test_a_bad_line_is_one_fault_with_its_code(line: bytes, code: str) -> None:
    """A line that is no request has the right code, and its neighbours are decoded."""
    events, faults = run([LINE.encode(), line, LINE.encode()])
    assert [(fault.row, fault.code) for fault in faults] == [(1, code)]
    assert len(events) == 2


@pytest.mark.parametrize(
    ("before", "after", "field", "code"),
    [
        (b"/a?b=1", b"/" + b"a" * 9000, "path", "text_too_long"),
        (b" 512 ", b" %d " % 2**60, "bytes", "out_of_range"),
        (b"X11", b"X\xff1", "user_agent", "not_utf8"),
        (b"X11", b"m" * 5000, "user_agent", "text_too_long"),
        (b"example", b"ex\xe9mple", "referrer", "not_utf8"),
        (b"/a?b", b"/\xf0\x9f?b", "path", "not_utf8"),
    ],
)
def test_a_bad_field_leaves_its_line_in_place(
    before: bytes, after: bytes, field: str, code: str
) -> None:
    """A line with bytes that are not UTF-8, or with a text or number beyond its limit, is a request
    with all its other fields."""
    line = LINE.encode()
    assert before in line
    events, faults, repaired = checked([line, line.replace(before, after), line])
    assert faults == []
    assert [(one.field, one.code, one.rows.tolist()) for one in repaired] == [(field, code, [1])]
    for name, column in events.text.items():
        assert (column[1] == column[0]) == (name != field)
    assert events.text["ip"].to_pylist() == ["10.0.0.7"] * 3


@pytest.mark.parametrize("user", ["jo", "a b", "9.9.9.9 - -", "x" * 9_000, "\udcff[x] \\x22"])
def test_a_clients_own_name_hides_no_address(user: str) -> None:
    """The client chooses the user name: the address before it stays the client's, even where the
    name looks like the start of another line."""
    line = LINE.replace("- jo", f"- {user}").encode("utf-8", "surrogateescape")
    events, faults = run([line])
    assert faults == []
    assert events.text["ip"].to_pylist() == ["10.0.0.7"]


def test_unescaped_quotes_leave_a_line_in_place() -> None:
    """Where a server does not escape quotes, a line with quotes in its texts is a request."""
    line = LINE.replace("b=1", 'b="1" x').replace("Mozilla/5.0", 'M"o" "z')
    events, faults = run([line.encode()])
    assert faults == []
    assert events.text["path"].to_pylist() == ['/a?b="1" x']
    assert events.text["user_agent"].to_pylist() == ['M"o" "z (X11; \\"odd\\")']


PREFIXES: Final = (
    "www.shop.example:443 ",
    "shop_1 ",
    "203.0.113.9:8080 ",
    "[2001:db8::9]:443 ",
    "Mar 15 05:40:00 web1 nginx: ",
    "<190>Mar  5 05:40:00 web1 nginx[12]: ",
    "2026-03-05T05:40:00.123+00:00 web1 nginx: ",
    "<165>1 2026-03-05T05:40:00.1Z web1 nginx 12 access - ",
    '<165>1 2026-03-05T05:40:00.1Z web1 nginx - - [a@1 b="\\]"][c@2] \ufeff',
    "2026-03-05T05:40:00.1Z stdout F ",
    "2026-03-05T05:40:00.1Z stdout F www.shop.example ",
    "Mar 15 05:40:00 web1 nginx: www.shop.example:443 ",
    "\ufeff",
    "\0" * 300,
    "\ufeff\0www.shop.example:443 ",
)
NO_ADDRESS_FIRST: Final = [one for one in PREFIXES if parse_address(one.strip()) is None]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_known_prefixes_are_recognised(prefix: str) -> None:
    """A prefix of a virtual host, syslog, a container runtime or a file's first bytes leaves the
    request unchanged."""
    for line in (LINE, LINE.replace("- jo", "- -"), LINE.replace("10.0.0.7", "2001:db8::7")):
        plain, add_prefix = run([line.encode()])[0], run([(prefix + line).encode()])[0]
        assert add_prefix.text == plain.text
        assert add_prefix.time_ms.tolist() == plain.time_ms.tolist()


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ("68.75.44.1, 172.68.146.54, 127.0.0.1 ", "a list of addresses"),
        ("68.75.44.1,127.0.0.1 ", "a list of addresses"),
        ("unknown, 127.0.0.1 ", "a list of addresses"),
        ("www.shop.example:443 68.75.44.1, 127.0.0.1 ", "a list of addresses"),
        ("68.75.44.1 172.68.146.54 127.0.0.1 ", "several addresses"),
        ("unix: ", "no address"),
        ("crawl-66-249-66-1.googlebot.com ", "no address"),
        ("www.shop.example:443 crawl-66-249-66-1.googlebot.com ", "no address"),
        ("1.2.3.256 ", "no address"),
        ("level=info msg= 10.0.0.7 ", "no address"),
    ],
)
def test_a_non_address_is_a_dead_letter_with_its_reason(start: str, message: str) -> None:
    """A list of addresses, nginx's `unix:`, a host name and an unknown prefix never become an ip:
    the fault names what is expected."""
    line = LINE.replace("10.0.0.7 - jo", f"{start}- -")
    events, faults = run([line.encode()])
    assert len(events) == 0
    assert [fault.code for fault in faults] == ["malformed"]
    assert faults[0].message.startswith(message)
    assert "expected a line of the combined format: ADDRESS IDENT USER [TIME]" in faults[0].message


@settings(max_examples=400, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.text(max_size=6),
            st.sampled_from(
                [" ", "-", ",", ":", "[", '"', "unix:", "nginx: ", "www:443", *NO_ADDRESS_FIRST]
            ),
        ),
        max_size=6,
    ).map("".join)
)
def test_no_prefix_makes_a_non_address_an_ip(prefix: str) -> None:
    """With any text before a line, the ip is the address directly before `- -`, or the record is a
    dead letter that names the expected format. Prefixes that begin with an address and a dash are
    left out: the text after these is a user name that the client chooses."""
    line = LINE.replace("- jo", "- -")
    events, faults = run([(prefix + line).encode("utf-8", "surrogatepass")])
    if faults:
        assert "ADDRESS IDENT USER [TIME]" in faults[0].message
    else:
        token = f"{prefix}10.0.0.7".rpartition(" ")[2].lstrip('\ufeff\0\r\n"')
        assert events.text["ip"][0].as_py() == parse_address(token) is not None


@pytest.mark.parametrize(
    "text",
    [
        "203.0.113.1",
        "203.0.113.1:52100",
        "::ffff:203.0.113.1",
        "::FFFF:cb00:7101",
        "[::ffff:203.0.113.1]:443",
    ],
)
def test_forms_of_an_address_are_one(text: str) -> None:
    """A mapped address, a port and another spelling name the same client."""
    events, _ = run([LINE.replace("10.0.0.7", text).encode()])
    assert events.text["ip"].to_pylist() == ["203.0.113.1"]


def test_a_hostile_line_takes_linear_time() -> None:
    """A megabyte that would make a regular expression backtrack is rejected in a moment."""
    start = b"1 - "
    for piece in (b'[17/May/2015:10:05:03 +0000] "', b'\\"', b'" "', b"[ "):
        _, faults = run([start + piece * (1_000_000 // len(piece))])
        assert [fault.code for fault in faults] == ["malformed"]


@pytest.mark.parametrize("name", ["access_may17_18.log", "scanner_acunetix.log"])
def test_real_logs_decode_completely(shared_data: Path, name: str) -> None:
    """Every line of a real site's log and of a real scan is a request."""
    lines = (shared_data / "traffic" / name).read_bytes().splitlines()
    events, faults = run(lines)
    assert faults == []
    assert len(events) == len(lines) > 4000


def test_fields_are_derived_from_the_lines_fields() -> None:
    """The first class that is found replaces the path; a number is extracted from it; joined texts
    have a space between them. A text that is not found, or a number that the field may not hold, is
    absent: an invented path must not hide its client."""
    fields: FieldMappings = {
        "route": FieldMapping(
            path="path",
            classes=[
                TextClass(name="asset", pattern=r"\.css$"),
                TextClass(name="item", pattern="^/item"),
            ],
        ),
        "outcome": FieldMapping(path="status", classes=[TextClass(name="error", pattern="^[45]")]),
        "product": FieldMapping(path="path", extract=r"^/item/(?P<id>\w+)"),
        "item": FieldMapping(path="path", extract=r"^/item/(?P<id>\w+)"),
        "session": FieldMapping(path=["ip", "user_agent"], joined=True),
        "network": FieldMapping(path="ip", extract=r"^(?P<block>.*)\."),
    }
    long = "/item/" + "9" * 300
    paths = ("/item/17", "/item/17.css", "/about", "/item/x", long, "/item/" + "9" * 17)
    lines = [LINE.replace("/a?b=1", path).replace(" 200 ", " 404 ").encode() for path in paths]
    lines[2] = lines[2].replace(b" 404 ", b" 200 ").replace(b'"Mozilla', b'"-" "Mozilla')
    size = len(lines)
    records = Records("request", 0, np.arange(size), np.full(size, -1, np.int64), list(lines))
    mapping = compile_mapping(AccessLogSpec.layout, None, fields, [*fields, "ip"])
    events, faults, _ = check(AccessLogCodec(mapping).decode(records), records)
    assert faults == []
    assert events.text["route"].to_pylist() == ["item", "asset", None, *["item"] * 3]
    assert events.text["outcome"].to_pylist() == ["error", "error", None, *["error"] * 3]
    assert events.text["network"].to_pylist() == ["10.0.0"] * 6
    assert events.text["product"].to_pylist() == [
        "17",
        "17",
        None,
        "x",
        shorten("product", "9" * 300, 256),
        "9" * 17,
    ]
    assert events.text["session"].to_pylist()[2] == "10.0.0.7"
    assert events.text["session"].to_pylist()[0] == '10.0.0.7 Mozilla/5.0 (X11; \\"odd\\")'
    np.testing.assert_array_equal(events.number["item"], [17.0, 17.0, *[np.nan] * 4])


def test_the_longest_agent_fits_into_a_session() -> None:
    """Address and user agent joined fit into a session whenever the agent itself is allowed."""
    line = LINE.replace("Mozilla/5.0", "m" * 4_000).encode()
    fields: FieldMappings = {"session": FieldMapping(path=["ip", "user_agent"], joined=True)}
    records = Records("request", 0, np.arange(1), np.full(1, -1, np.int64), [line])
    mapping = compile_mapping(AccessLogSpec.layout, None, fields, ["session", "user_agent"])
    events, faults, _ = check(AccessLogCodec(mapping).decode(records), records)
    assert faults == []
    assert len(events.text["session"][0].as_py()) > 4_000
