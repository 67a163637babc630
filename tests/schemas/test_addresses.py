"""An address has one normal form, in every codec."""

import json
from ipaddress import ip_address

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.addresses import normalise_addresses, parse_address
from schemas.codecs.checks import check
from schemas.codecs.json_records import JsonCodec
from schemas.codecs.table import TableCodec
from schemas.mapping import RecordLayout, compile_mapping
from schemas.records import Records

EVENT_KINDS = [
    (
        "203.0.113.1",
        ["203.0.113.1:1", "::ffff:203.0.113.1", "::FFFF:CB00:7101", "[::ffff:203.0.113.1]"],
    ),
    (
        "2001:db8::1",
        ["2001:DB8:0:0::1", "[2001:db8::1]:443", "2001:db8::1%eth0", "[2001:db8::1%25e]"],
    ),
    ("fe80::1", ["FE80::1%1", "fe80:0:0:0:0:0:0:1"]),
]
NO_ADDRESSES = ["", "-", "unix:", "1.2.3", "1.2.3.04", "1.2.3.256", "1.2.3.4:x", "1.1.1.1, 2.2.2.2"]
NO_ADDRESSES += [
    "www.shop.example",
    "::ffff:1.2.3.4.5",
    "[1.2.3.4]",
    ":::",
    "acct:7",
    "[::1",
    "1.2.3.4%e",
]


@pytest.mark.parametrize(("one", "others"), EVENT_KINDS)
def test_every_form_is_one_address_in_every_codec(one: str, others: list[str]) -> None:
    """Ports, zones, brackets, letter case and mapped forms name the same entity, in JSON and in
    tables; texts that are no address are unchanged."""
    texts = [one, *others, "10.0.0.7", "acct:7", "unknown"]
    table = pa.table(
        {"event_id": texts, "type": ["login"] * len(texts), "time": [1] * len(texts), "ip": texts}
    )
    mapping = compile_mapping(RecordLayout(), None, None, ["ip"])
    size = len(texts)
    for codec, values in (
        (TableCodec(mapping), table),
        (JsonCodec(mapping), [json.dumps(row).encode() for row in table.to_pylist()]),
    ):
        records = Records("in", 0, np.arange(size), np.full(size, -1), values)
        events, faults, repaired = check(codec.decode(records), records)
        assert (faults, repaired) == ([], [])
        found = events.text["ip"].to_pylist()
        assert found == [one] * (1 + len(others)) + ["10.0.0.7", "acct:7", "unknown"]


@pytest.mark.parametrize("text", NO_ADDRESSES)
def test_a_non_address_stays_unchanged(text: str) -> None:
    """A text that is no address has no other form."""
    assert parse_address(text) is None
    assert normalise_addresses(pa.array([text, "::1"])).to_pylist() == [text, "::1"]


@settings(deadline=None)
@given(st.ip_addresses())
def test_an_address_is_its_own_form(ip: object) -> None:
    """The normal form is that of Python's `ipaddress`, for every address but a mapped one."""
    mapped = getattr(ip_address(str(ip)), "ipv4_mapped", None)
    assert parse_address(str(ip)) == str(mapped or ip)
    assert parse_address(str(ip).upper()) == str(mapped or ip)


@settings(deadline=None)
@given(st.lists(st.one_of(st.none(), st.text(max_size=6), st.ip_addresses().map(str))))
def test_a_column_is_as_each_of_its_texts(texts: list[str | None]) -> None:
    """The form of a text depends neither on the others in its batch nor on where a slice begins."""
    column = pa.array(["skipped", *texts], pa.string()).slice(1)
    each = [normalise_addresses(pa.array([text], pa.string()))[0].as_py() for text in texts]
    assert normalise_addresses(column).to_pylist() == each
