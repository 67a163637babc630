"""The laws of codecs, over every codec that is registered: Eddy's own, and those of other packages."""

import random
from importlib.metadata import entry_points
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.codecs import CODECS, ENTRY_POINTS, Codec, StaticSchemas, build_codec, codec_spec
from schemas.codecs.decoded import DecodedColumns
from schemas.dead_letters import CODES
from schemas.mapping import available_fields, compile_mapping
from schemas.records import Records

NAMES = sorted(CODECS)


def codec(name: str) -> Codec:
    """The codec with its default options, without a mapping: every field under Eddy's own name."""
    layout = CODECS[name].layout
    mapping = compile_mapping(layout, None, None, available_fields(layout, None, None))
    return build_codec(codec_spec(name), mapping, StaticSchemas())


def records(values: list[bytes], first: int = 0) -> Records:
    """Payloads as consecutive records of one partition."""
    size = len(values)
    offset = np.arange(first, first + size, dtype=np.int64)
    return Records("topic", 0, offset, np.full(size, -1, np.int64), list(values))


def by_row(decoded: DecodedColumns, first: int = 0) -> dict[str, Any]:
    """The columns as rows, faults and repairs, by the row in the whole batch."""
    rows = (decoded.rows + first).tolist()
    columns = {
        "event_id": decoded.event_id if decoded.event_id is not None else pa.nulls(len(rows)),
        "time_ms": decoded.time_ms,
        "type": decoded.type,
        **decoded.text,
        **decoded.number,
    }
    values = {name: map(repr, column.to_pylist()) for name, column in columns.items()}
    return {
        "events": dict(zip(rows, zip(*values.values(), strict=True), strict=True)),
        "faults": sorted(fault._replace(row=fault.row + first) for fault in decoded.faults),
        "repairs": sorted(
            (one.field, one.code, rows[k]) for one in decoded.repaired for k in one.rows.tolist()
        ),
    }


def joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """The rows, faults and repairs of several batches."""
    return {
        "events": {row: event for part in parts for row, event in part["events"].items()},
        "faults": sorted(fault for part in parts for fault in part["faults"]),
        "repairs": sorted(repair for part in parts for repair in part["repairs"]),
    }


def hostile(name: str, draw: random.Random) -> list[bytes]:
    """Payloads of a codec, whole, cut, changed in one byte, doubled and made up."""
    examples = CODECS[name]().examples() or [b""]
    payloads = []
    for _ in range(40):
        payload = bytearray(draw.choice(examples))
        match draw.randrange(6):
            case 0 if payload:
                payload[draw.randrange(len(payload))] = draw.randrange(256)
            case 1 if payload:
                del payload[draw.randrange(len(payload)) :]
            case 2:
                payload = bytearray(draw.randbytes(draw.randrange(64)))
            case 3:
                payload = payload * 2
        payloads.append(bytes(payload))
    return payloads


def test_every_codec_is_registered_under_its_own_name() -> None:
    """The name of an entry point is the name that its declaration has in a configuration."""
    points = {point.name: point.load() for point in entry_points(group=ENTRY_POINTS)}
    assert points == CODECS
    assert {"access_log", "json"} <= points.keys()


@pytest.mark.parametrize("name", NAMES)
def test_examples_are_decoded(name: str) -> None:
    """Every example of a codec has a time and a type, no fault and no repair."""
    examples = CODECS[name]().examples()
    assert examples
    decoded = codec(name).decode(records(examples))
    assert decoded.rows.tolist() == list(range(len(examples)))
    assert decoded.faults == []
    assert decoded.repaired == []
    assert decoded.time_ms.null_count == 0
    assert decoded.type.null_count == 0


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), cuts=st.lists(st.integers(0, 40), max_size=6))
def test_batch_cuts_do_not_matter(name: str, seed: int, cuts: list[int]) -> None:
    """A record's columns, fault and repairs do not depend on its neighbours in the batch."""
    payloads, one = hostile(name, random.Random(seed)), codec(name)
    edges = sorted({0, len(payloads), *cuts})
    whole = by_row(one.decode(records(payloads)))
    parts = [by_row(one.decode(records(payloads[a:b], a)), a) for a, b in pairwise(edges)]
    assert joined(parts) == whole


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_hostile_bytes_are_faults(name: str, seed: int) -> None:
    """Whatever the bytes, nothing is raised: a record is decoded or has one fault, with a code of
    dead letters."""
    payloads = hostile(name, random.Random(seed))
    decoded = codec(name).decode(records(payloads))
    rows = [fault.row for fault in decoded.faults]
    assert len(set(rows)) == len(rows)
    assert {*rows, *decoded.rows.tolist()} == set(range(len(payloads)))
    assert np.all(np.diff(decoded.rows) > 0)
    assert {fault.code for fault in decoded.faults} <= set(CODES)
    columns = [*decoded.text.values(), *decoded.number.values(), decoded.time_ms, decoded.type]
    assert {len(column) for column in columns} == {len(decoded.rows)}
    for column in decoded.text.values():
        column.validate(full=True)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_same_records_give_the_same_columns(name: str, seed: int) -> None:
    """A codec keeps nothing of earlier batches: a used one and a new one decode alike."""
    payloads, used = hostile(name, random.Random(seed)), codec(name)
    before = by_row(used.decode(records(payloads)))
    assert by_row(used.decode(records(payloads))) == before
    assert by_row(codec(name).decode(records(payloads))) == before
