"""The worker's parts that need no broker: where a partition starts, what waits to be published."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.dead_letters import HEADERS_BYTES_MAX, Fault, dead_letter
from schemas.records import Records
from stream.errors import ForeignOffset, RetentionGap
from stream.kafka import Committed, OutRecord, Partition
from stream.worker import Outbox, cut, note, plan

WHERE = Partition("events", 3)


def test_partition_without_commit_starts_live_at_the_beginning() -> None:
    """Nothing was published yet, so nothing is re-learned in silence."""
    assert plan(WHERE, None, 7, 100) == (7, 7)


@given(low=st.integers(0, 50), first=st.integers(50, 60), done=st.integers(60, 100))
def test_committed_state_is_relearned_from_where_it_began(low: int, first: int, done: int) -> None:
    """The note's offset is where reading starts, the committed one where publishing does."""
    assert plan(WHERE, Committed(done, note(first)), low, 100) == (first, done)


@pytest.mark.parametrize("text", ["", "eddy1 from=", "eddy1 from=-3", "eddy2 from=3", "x eddy1"])
def test_offset_with_another_note_is_refused(text: str) -> None:
    """An offset that says nothing of its state is never taken for a cold start."""
    with pytest.raises(ForeignOffset, match=r"events\[3\].* 5 "):
        plan(WHERE, Committed(5, text), 0, 100)


def test_log_that_no_longer_holds_the_state_is_refused() -> None:
    """Both ends count: records gone from the front, and a log shorter than what was read."""
    with pytest.raises(RetentionGap, match=r"events\[3\].*began at offset 4.*begins at 9"):
        plan(WHERE, Committed(20, note(4)), 9, 100)
    with pytest.raises(RetentionGap, match=r"committed offset 20, and the log ends at 12"):
        plan(WHERE, Committed(20, note(4)), 4, 12)


@given(
    offsets=st.lists(st.integers(0, 200), min_size=1, unique=True).map(sorted),
    live_from=st.integers(0, 210),
)
def test_batch_is_cut_at_the_boundary(offsets: list[int], live_from: int) -> None:
    """Whatever gaps the log has, no part lies on both sides, and no record is lost."""
    parts = list(cut(records(offsets), live_from))
    assert [offset for part in parts for offset in part.offset] == offsets
    assert all(len(part) for part in parts)
    assert all(
        (part.offset >= live_from).all() or (part.offset < live_from).all() for part in parts
    )


def test_outbox_forgets_lost_partitions_and_keeps_the_others() -> None:
    """Of a lost partition neither record nor position is committed."""
    outbox, lost = Outbox(), Partition("events", 0)
    for where in (WHERE, lost):
        outbox.put(where, [out(b"1")], Committed(5, note(0)))
        outbox.put(where, [out(b"2")], Committed(9, note(0)))
    outbox.drop([lost, Partition("events", 1)])
    assert outbox.positions == {WHERE: Committed(9, note(0))}
    assert outbox.records == {WHERE: [out(b"1"), out(b"2")]}
    outbox.clear()
    assert not outbox.positions
    assert not outbox.records


def test_outbox_never_goes_back() -> None:
    """A position that does not grow would publish something twice."""
    outbox = Outbox()
    outbox.put(WHERE, [], Committed(5, note(0)))
    with pytest.raises(AssertionError):
        outbox.put(WHERE, [], Committed(5, note(0)))


@pytest.mark.parametrize(("count", "size"), [(5_001, 1), (40, 512 * 1024)])
def test_outbox_is_full_by_records_and_by_bytes(count: int, size: int) -> None:
    """Many small and few large records both call for a commit; half as many do not."""
    outbox = Outbox()
    outbox.put(WHERE, [out(b"x" * size)] * (count // 2), Committed(1, note(0)))
    assert not outbox.full()
    outbox.put(WHERE, [out(b"x" * size)] * (count - count // 2), Committed(2, note(0)))
    assert outbox.full()


@given(sizes=st.lists(st.integers(0, 40_000), max_size=6))
def test_dead_letters_headers_are_bounded(sizes: list[int]) -> None:
    """Original headers are kept in order while they fit, and the letter says how many do not."""
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
