"""Internal events are read as they were written, in messages of bounded size; anything else is
refused."""

import contextlib
import dataclasses
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from schemas.codecs.internal_events import MESSAGE_BYTES_MAX, VERSION, InternalEventCodec
from schemas.columns import EventBatch, concat_batches
from tests.streams import batch, same

FIELDS = ["account", "device", "ip", "currency", "amount", "status", "utc_offset_min"]
SOURCES = (("pay", 0), ("pay", 1), ("shop", 0))
few = settings(max_examples=20, deadline=None)


def codec() -> InternalEventCodec:
    """The codec of a monitor that reads some of the fields of the events, and one more."""
    return InternalEventCodec([*FIELDS, "longitude", "card"], SOURCES)


def events(seed: int, count: int = 200, absent: float = 0.3) -> EventBatch:
    """Hostile events of the last of the sources."""
    return batch(seed, count, hostile=True, absent=absent, labels=0.1)


def assert_same(one: EventBatch, other: EventBatch) -> None:
    """Equal in everything that a monitor with these fields reads."""
    for name in ("offset", "time_ms", "type_code"):
        assert same(getattr(one, name), getattr(other, name)), name
    assert one.event_id.to_pylist() == other.event_id.to_pylist()
    for name in FIELDS[:4]:
        assert one.text[name].to_pylist() == other.text[name].to_pylist(), name
    for name in [*FIELDS[4:], "longitude"]:
        assert same(one.number[name], other.number[name]), name


@few
@given(seed=st.integers(0, 2**32), cuts=st.lists(st.integers(1, 199), max_size=5, unique=True))
def test_events_come_back_however_they_are_cut(seed: int, cuts: list[int]) -> None:
    """What is written in several messages is read as one batch: same events, same order."""
    given_events, internal_codec = events(seed), codec()
    edges = [0, *sorted(cuts), 200]
    parts = [given_events.slice(a, b) for a, b in pairwise(edges)]
    back = internal_codec.read(
        [message for part in parts for message in internal_codec.write(part)]
    )
    assert_same(back, given_events)
    assert back.sources == SOURCES
    assert set(back.source.tolist()) == {2}
    assert back.source.dtype == np.int32
    own: list[NDArray[Any]] = [back.source, back.offset, back.time_ms, back.type_code]
    own += back.number.values()
    assert all(array.flags.writeable for array in own)  # as kernels were compiled for


def test_every_field_of_the_monitor_is_a_column() -> None:
    """A field that no message has is null, one that only some have is null in the others' events,
    and a field that the monitor does not use is not written."""
    with_device = events(1)
    text = {name: c for name, c in with_device.text.items() if name != "device"}
    without = dataclasses.replace(with_device, text=text)
    internal_codec = codec()
    back = internal_codec.read([*internal_codec.write(with_device), *internal_codec.write(without)])
    assert list(back.text) == ["account", "device", "ip", "currency", "card"]
    assert list(back.number) == ["amount", "status", "utc_offset_min", "longitude"]
    assert back.text["card"].null_count == 400
    device = with_device.text["device"].to_pylist()
    assert back.text["device"].to_pylist() == device + [None] * 200
    assert b"product" not in b"".join(internal_codec.write(with_device))


def test_append_times_travel_where_there_are_any() -> None:
    """Append times are read back, -1 where a message or an event has none; where no message has any
    there is no column."""
    some = dataclasses.replace(events(1, 3), append_ms=np.array([7, -1, 9]))
    none = dataclasses.replace(events(2, 2), append_ms=np.full(2, -1))
    internal_codec = codec()
    back = internal_codec.read(
        [
            *internal_codec.write(some),
            *internal_codec.write(none),
            *internal_codec.write(events(3, 1)),
        ]
    )
    assert back.append_ms is not None
    assert back.append_ms.tolist() == [7, -1, 9, -1, -1, -1]
    assert internal_codec.read([*internal_codec.write(none)]).append_ms is None
    assert list(internal_codec.write(none)) == list(internal_codec.write(events(2, 2)))
    both = concat_batches(
        [some, dataclasses.replace(none, append_ms=None), some.take(np.array([2]))]
    )
    assert both.append_ms is not None
    assert both.append_ms.tolist() == [7, -1, 9, -1, -1, 9]


def test_no_message_is_no_event() -> None:
    """No events give no message, and no message gives an empty batch with every column."""
    internal_codec = codec()
    assert list(internal_codec.write(events(1, 0))) == []
    back = internal_codec.read([])
    assert (
        len(back) == len(back.source) == len(back.text["card"]) == len(back.number["amount"]) == 0
    )


def test_sources_keep_their_place() -> None:
    """An event's source indexes the monitor's whole table of sources, whatever messages are read
    together."""
    internal_codec = codec()
    one = dataclasses.replace(events(1, 3), sources=(("pay", 1),))
    back = internal_codec.read(
        [
            *internal_codec.write(one),
            *internal_codec.write(events(2, 2)),
            *internal_codec.write(one),
        ]
    )
    assert back.source.tolist() == [1, 1, 1, 2, 2, 1, 1, 1]


def test_messages_are_bounded() -> None:
    """However large the events, each message fits into a default broker's limit, and none is
    lost."""
    large = events(3, 300, absent=0.0)
    long_text = pa.array([f"{i}" + "x" * 8_000 for i in range(300)])
    large = dataclasses.replace(large, text={**large.text, "device": long_text})
    internal_codec = codec()
    messages = list(internal_codec.write(large))
    assert len(messages) > 4
    assert max(map(len, messages)) < MESSAGE_BYTES_MAX + 10_000
    assert_same(internal_codec.read(messages), large)


def test_an_invalid_message_is_refused() -> None:
    """A tombstone, a text, another version and another source each have their error."""
    internal_codec = codec()
    [message] = internal_codec.write(events(1))
    for value in (None, b"", b'{"event_id": 1}', message[1:]):
        with pytest.raises(ValueError, match="is not a message of Eddy"):
            internal_codec.read([message, value])
    newer = message[:3] + bytes([VERSION + 1]) + message[4:]
    with pytest.raises(ValueError, match=f"version {VERSION + 1}; expected version {VERSION}"):
        internal_codec.read([newer])
    with pytest.raises(ValueError, match=r"events of shop\[0\], which its reader does not know"):
        InternalEventCodec(FIELDS, (("pay", 0),)).read([message])


@few
@given(seed=st.integers(0, 2**32), data=st.data())
def test_no_damaged_message_is_read(seed: int, data: st.DataObject) -> None:
    """Truncated anywhere, or with any byte changed, a message raises ValueError and nothing
    else."""
    internal_codec = codec()
    [message] = internal_codec.write(events(seed, 20))
    place = data.draw(st.integers(0, len(message) - 1))
    flipped = message[place] ^ data.draw(st.integers(1, 255))
    for damaged in (message[:place], message[:place] + bytes([flipped]) + message[place + 1 :]):
        with pytest.raises(ValueError, match=r"not a message|version|checksum"):
            internal_codec.read([damaged])


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 5), st.data())
def test_every_damaged_message_gives_the_declared_error(seed: int, data: st.DataObject) -> None:
    """With bytes changed, removed or inserted under a valid checksum, reading gives events or
    ValueError."""
    [message] = codec().write(events(seed, count=5))
    body = bytearray(message[12:])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, max(len(body) - 1, 0)))
        kind = data.draw(st.sampled_from(["change", "cut", "insert", "end"]))
        if kind == "change":
            body[at : at + 1] = bytes([data.draw(st.integers(0, 255))])
        elif kind == "cut":
            del body[at : at + data.draw(st.integers(1, 8))]
        elif kind == "insert":
            body[at:at] = data.draw(st.binary(min_size=1, max_size=8))
        else:
            del body[at:]
    checksum = xxhash.xxh3_64_intdigest(bytes(body)).to_bytes(8, "little")
    with contextlib.suppress(ValueError):
        codec().read([message[:4] + checksum + bytes(body)])


@pytest.mark.parametrize("body", [b"", b"\0\0\0\0", b"\xff\xff\xff\xff\0\0\0\0"])
def test_a_message_without_events_is_refused(body: bytes) -> None:
    """Arrow reads it as the end of a stream, which is no message."""
    [message] = codec().write(events(1, count=5))
    end = 16 + int.from_bytes(message[12:16], "little")
    rest = message[12:end] + body
    checksum = xxhash.xxh3_64_intdigest(rest).to_bytes(8, "little")
    with pytest.raises(ValueError, match="cannot be read"):
        codec().read([message[:4] + checksum + rest])
