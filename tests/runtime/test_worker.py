"""Parts of the worker that need no broker: batches split at an offset, and the outbox."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.dead_letters import HEADERS_BYTES_MAX, Fault, dead_letter
from schemas.records import Records
from stream.kafka.messages import OutRecord
from stream.kafka.positions import Partition
from stream.runtime.assignment import split_at
from stream.runtime.outbox import Outbox

WHERE = Partition("events", 3)


@given(
    offsets=st.lists(st.integers(0, 200), min_size=1, unique=True).map(sorted),
    live_from=st.integers(0, 210),
)
def test_batch_is_cut_at_the_boundary(offsets: list[int], live_from: int) -> None:
    """Whatever gaps the log has, no part is on both sides, and no record is lost."""
    parts = list(split_at(records(offsets), live_from))
    assert [offset for part in parts for offset in part.offset] == offsets
    assert all(len(part) for part in parts)
    assert all(
        (part.offset >= live_from).all() or (part.offset < live_from).all() for part in parts
    )


def test_outbox_forgets_lost_partitions_and_keeps_the_others() -> None:
    """Neither records nor the offset of a lost partition are committed."""
    outbox, lost = Outbox(), Partition("events", 0)
    for where in (WHERE, lost):
        outbox.add(where, [out(b"1")], 5)
        outbox.add(where, [out(b"2")], 9)
    outbox.drop([lost, Partition("events", 1)])
    assert outbox.next_offsets == {WHERE: 9}
    assert outbox.records == {WHERE: [out(b"1"), out(b"2")]}
    outbox.clear()
    assert not outbox.next_offsets
    assert not outbox.records


def test_outbox_never_goes_back() -> None:
    """A next offset that does not grow would publish something twice."""
    outbox = Outbox()
    outbox.add(WHERE, [], 5)
    with pytest.raises(AssertionError):
        outbox.add(WHERE, [], 5)


@pytest.mark.parametrize(("count", "size"), [(5_001, 1), (40, 512 * 1024)])
def test_outbox_is_full_by_records_and_by_bytes(count: int, size: int) -> None:
    """Many small and few large records both require a commit; half as many do not."""
    outbox = Outbox()
    outbox.add(WHERE, [out(b"x" * size)] * (count // 2), 1)
    assert not outbox.is_full()
    outbox.add(WHERE, [out(b"x" * size)] * (count - count // 2), 2)
    assert outbox.is_full()


@given(sizes=st.lists(st.integers(0, 40_000), max_size=6))
def test_dead_letters_headers_are_bounded(sizes: list[int]) -> None:
    """Original headers are kept in order while they fit; the dead letter holds the number of the
    others."""
    headers = [(f"h{index}", b"x" * size) for index, size in enumerate(sizes)]
    letter = dead_letter(Fault(0, "malformed", "m"), b"v", headers, "t", 0, 0)
    kept = [(n, body) for n, body in letter.headers if n.startswith("original-")]
    assert [name for name, _ in kept] == [f"original-h{index}" for index in range(len(kept))]
    assert sum(len(name) + len(body) for name, body in kept) <= HEADERS_BYTES_MAX
    assert int(dict(letter.headers)["eddy-headers-dropped"]) == len(sizes) - len(kept)


def records(offsets: list[int]) -> Records:
    """Records at these offsets."""
    count = len(offsets)
    values: list[bytes | None] = [b""] * count
    return Records("events", 3, np.array(offsets, np.int64), np.zeros(count, np.int64), values)


def out(value: bytes) -> OutRecord:
    """A record to publish."""
    return OutRecord("alerts", b"key", value, [])
