"""The offsets that a worker commits, over a scripted source and sink.

The broker tests run the same worker with a real client; here a test scripts what each poll returns.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest
from structlog.testing import capture_logs

from schemas.records import Records
from stream.checkpoints.manifest import offset_of, parse_pointer
from stream.config import Config, parse
from stream.errors import Abortable, PartitionCountChanged
from stream.inputs.diagnostics import MISPLACED_KEYS
from stream.inputs.partitioning import CHECKED_EVERY, partition_of
from stream.kafka.messages import OutRecord, PartitionBatch
from stream.kafka.positions import CommittedOffset, Membership, Partition
from stream.kafka.sink import KafkaSink
from stream.kafka.source import KafkaSource
from stream.runtime.system import System
from stream.runtime.worker import COMMIT_RETRY_S, RETRY_PAUSE_MAX_S, Worker
from stream.simulator import Shop, lines
from stream.telemetry.collector import MetricsCollector
from stream.telemetry.health import WorkerHealth
from tests.checkpoints.shop import RUN, document

ONE, TWO = Partition("shop-events", 0), Partition("shop-events", 1)


class ScriptedSource(KafkaSource):
    """A source without a broker: committed offsets and the result of each poll are set by the
    test."""

    def __init__(self) -> None:
        self.group: dict[Partition, CommittedOffset] = {}
        self.arriving: list[list[PartitionBatch]] = []
        self.low, self.end = 0, 1_000_000
        self.membership = Membership(None)

    def poll(self, records_max: int, timeout_s: float) -> list[PartitionBatch]:
        """The next scripted result; the limits are ignored."""
        return self.arriving.pop(0)

    def committed(self, partitions: list[Partition]) -> dict[Partition, CommittedOffset | None]:
        """Offsets set by the test or committed by the sink."""
        return {where: self.group.get(where) for where in partitions}

    def offset_range(self, where: Partition) -> tuple[int, int]:
        """A long log."""
        return self.low, self.end

    def end_offset(self, where: Partition) -> int:
        """Where the log ends, as the last poll has told."""
        return self.end

    def serve_rebalances(self, seconds: float) -> None:
        """Return at once."""


@dataclass
class Transaction:
    """A committed transaction."""

    values: list[bytes | None]
    offsets: dict[Partition, int]


@dataclass
class ScriptedSink(KafkaSink):
    """A sink without a broker: commits to the source's group."""

    source: ScriptedSource
    committed: list[Transaction] = field(default_factory=list)
    aborts_left: int = 0

    def transact(
        self,
        records: Iterable[OutRecord],
        positions: Mapping[Partition, CommittedOffset],
        membership: Membership,
    ) -> None:
        """Commit at once, or abort."""
        values = [record.value for record in records]
        if self.aborts_left:
            self.aborts_left -= 1
            raise Abortable("set to fail")
        offsets = {where: position.next_offset for where, position in positions.items()}
        self.committed.append(Transaction(values, offsets))
        self.source.group.update(positions)


class SteppedClock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        """As set."""
        return self.now_s

    def now_text(self) -> str:
        """Always the same."""
        return "2026-01-01T00:00:00.000Z"


class Driven:
    """A worker whose steps the test calls."""

    def __init__(self, folder: Path, **checkpoints: Any) -> None:
        self.folder = folder
        self.source = ScriptedSource()
        self.sink = ScriptedSink(self.source)
        self.config = configuration(folder, **checkpoints)
        self.worker = self.started()

    def started(self) -> Worker:
        """Another worker of the same group, with the same store."""
        self.sink.committed.clear()
        self.metrics = MetricsCollector()
        self.clock = SteppedClock()
        system = System(clock=self.clock)
        health = WorkerHealth()
        made = Worker(self.config, self.source, self.sink, RUN, self.metrics, health, (), system)
        self.worker = made
        return made

    def reads(self, *arrived: PartitionBatch) -> None:
        """Poll these batches."""
        self.source.arriving.append(list(arrived))
        self.worker._read()

    def commits(self) -> list[Transaction]:
        """Commit, and return the transactions."""
        before = len(self.sink.committed)
        self.worker._commit()
        return self.sink.committed[before:]

    def stops(self) -> None:
        """Stop, as `Worker.run` does."""
        self.worker._commit()
        self.worker._write_checkpoints(list(self.worker._assignment.partitions))
        self.worker._commit()
        self.worker._assignment.manager.close()


def configuration(folder: Path, **checkpoints: Any) -> Config:
    """One monitor that reads two partitions directly."""
    made = document(checkpoints={"url": str(folder), **checkpoints})
    made["inputs"]["shop"] |= {"partitions": 2, "keyed_by": "account", "partitioner": "murmur2"}
    made["monitors"] = made["monitors"][:1]
    return parse(made, {})


def bad(where: Partition, *offsets: int, next_offset: int | None = None) -> PartitionBatch:
    """Records that become dead letters, one each; by default nothing follows the last."""
    count = len(offsets)
    values: list[bytes | None] = [b"no event"] * count
    at = np.array(offsets, np.int64)
    records = Records(where.topic, where.partition, at, np.full(count, -1, np.int64), values)
    return PartitionBatch(where, records, offsets[-1] + 1 if next_offset is None else next_offset)


def over(where: Partition, next_offset: int) -> PartitionBatch:
    """An advance over transaction markers alone."""
    return PartitionBatch(where, None, next_offset)


@pytest.fixture
def driven(tmp_path: Path) -> Driven:
    """A worker with both partitions, before its first poll."""
    made = Driven(tmp_path)
    made.worker.on_assign([ONE, TWO])
    return made


def test_a_marker_after_the_last_record_is_committed_with_it(driven: Driven) -> None:
    """The committed offset is after everything that no consumer gets, not after the last record."""
    driven.reads(bad(ONE, 0, 1, 2, next_offset=4))
    [done] = driven.commits()
    assert (len(done.values), done.offsets) == (3, {ONE: 4})


def test_an_advance_over_markers_alone_waits_for_the_next_commit(driven: Driven) -> None:
    """It makes no transaction of its own; the next one includes it."""
    driven.reads(bad(ONE, 0), bad(TWO, 0))
    driven.commits()
    driven.reads(over(ONE, 40), over(TWO, 7))
    assert driven.commits() == []
    driven.reads(bad(TWO, 9))
    [done] = driven.commits()
    assert (len(done.values), done.offsets) == (1, {ONE: 40, TWO: 10})
    assert driven.commits() == []


def test_a_log_of_markers_alone_is_committed_once(driven: Driven) -> None:
    """A group without an offset gets one, which names its first checkpoint."""
    driven.reads(over(TWO, 7))
    assert [done.offsets for done in driven.commits()] == [{TWO: 7}]
    driven.reads(over(TWO, 9))
    assert driven.commits() == []
    driven.stops()
    assert driven.source.group[TWO].next_offset == 9
    assert driven.started().on_assign([TWO]) == {TWO: 9}


def test_a_clean_stop_leaves_the_state_after_the_markers(driven: Driven) -> None:
    """Checkpoint and committed offset are both after them, so that the log may be deleted up to
    there; the next worker continues."""
    driven.reads(bad(ONE, 0, 1), bad(TWO, 0))
    driven.commits()
    driven.reads(over(ONE, 40))
    driven.stops()
    assert driven.source.group[ONE].next_offset == 40
    pointer = parse_pointer(driven.source.group[ONE].metadata)
    assert pointer is not None
    assert offset_of(pointer.checkpoint) == 40
    driven.source.low = 40
    assert driven.started().on_assign([ONE]) == {ONE: 40}


def test_a_due_checkpoint_includes_an_advance_over_markers(tmp_path: Path) -> None:
    """Also of an idle partition: a restart may start after the markers."""
    driven = Driven(tmp_path, interval="1ms")
    driven.worker.on_assign([ONE])
    driven.reads(bad(ONE, 0, 1))
    driven.commits()
    driven.reads(over(ONE, 40))
    driven.clock.now_s += 0.001
    driven.worker._start_checkpoint()
    while not driven.worker._assignment.manager.is_idle():
        pass
    [done] = driven.commits()
    assert (done.values, done.offsets) == ([], {ONE: 40})
    assert driven.worker._assignment.partitions[ONE].checkpoints.offset() == 40
    driven.worker._assignment.manager.close()


def test_re_learning_ends_on_markers(driven: Driven) -> None:
    """A committed offset after markers is reached although it has no record."""
    driven.reads(bad(ONE, 0, 1, next_offset=5))
    driven.commits()
    worker = driven.started()
    assert worker.on_assign([ONE]) == {ONE: 0}
    driven.reads(bad(ONE, 0, 1))
    assert worker._assignment.partitions[ONE].offsets_left() == 3
    driven.reads(over(ONE, 5))
    assert worker._assignment.partitions[ONE].offsets_left() == 0
    assert driven.commits() == []
    driven.reads(bad(ONE, 5))
    [done] = driven.commits()
    assert (len(done.values), done.offsets) == (1, {ONE: 6})


def test_while_re_learning_only_the_committed_offset_is_committed(driven: Driven) -> None:
    """A commit for another partition does not move the offset of the one that re-learns."""
    driven.reads(bad(ONE, 0, 1, 2, next_offset=5))
    driven.commits()
    worker = driven.started()
    worker.on_assign([ONE, TWO])
    driven.reads(bad(ONE, 0), bad(TWO, 0))
    assert [done.offsets for done in driven.commits()] == [{TWO: 1}]


def test_a_position_is_not_committed_before_its_records_are_processed(
    driven: Driven, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A poll returns records of two partitions; a commit between them, because the outbox is full,
    leaves the second offset unchanged, although the client's position has moved."""
    monkeypatch.setattr("stream.runtime.outbox.RECORDS_MAX", 1)
    driven.reads(bad(ONE, 0, 1, next_offset=4), bad(TWO, 0, 1, next_offset=9))
    assert [(len(done.values), done.offsets) for done in driven.sink.committed] == [
        (2, {ONE: 4}),
        (2, {TWO: 9}),
    ]


def test_an_aborted_commit_is_retried_for_a_bounded_time(
    driven: Driven, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With growing pauses, in which rebalances are handled; then the last error ends the worker."""
    driven.reads(bad(ONE, 0))
    driven.sink.aborts_left = 1_000
    pauses_s: list[float] = []

    def pause(seconds: float) -> None:
        pauses_s.append(seconds)
        driven.clock.now_s += seconds

    monkeypatch.setattr(driven.source, "serve_rebalances", pause)
    with pytest.raises(Abortable, match="set to fail"):
        driven.commits()
    assert pauses_s[:8] == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, RETRY_PAUSE_MAX_S]
    assert set(pauses_s[8:]) == {RETRY_PAUSE_MAX_S}
    assert COMMIT_RETRY_S <= sum(pauses_s) < COMMIT_RETRY_S + RETRY_PAUSE_MAX_S


def test_a_lost_partition_commits_nothing(driven: Driven) -> None:
    """Neither when it is lost nor with the next commit: another worker may own it."""
    driven.reads(bad(ONE, 0, 1), bad(TWO, 0))
    driven.worker.on_lost([ONE])
    assert driven.sink.committed == []
    [done] = driven.commits()
    assert (len(done.values), done.offsets) == (1, {TWO: 1})


def test_a_revoked_partition_is_committed_once_more(driven: Driven) -> None:
    """While it is still owned, with its checkpoint, and not afterwards."""
    driven.reads(bad(ONE, 0, 1, next_offset=3), bad(TWO, 0))
    driven.worker.on_revoke([ONE])
    assert [done.offsets for done in driven.sink.committed] == [{ONE: 3, TWO: 1}, {ONE: 3}]
    assert driven.commits() == []


def test_records_of_a_partition_lost_in_mid_batch_are_dropped(
    driven: Driven, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A retried commit lets rebalances happen. Records of a partition that is lost meanwhile are
    not processed, and its offset is not committed."""
    monkeypatch.setattr("stream.runtime.outbox.RECORDS_MAX", 1)
    driven.sink.aborts_left = 1
    monkeypatch.setattr(driven.source, "serve_rebalances", lambda _: driven.worker.on_lost([TWO]))
    driven.reads(bad(ONE, 0, 1), bad(TWO, 0, 1, next_offset=9))
    assert [done.offsets for done in driven.sink.committed] == [{ONE: 2}]
    assert driven.commits() == []


def test_a_partition_that_the_configuration_does_not_know_is_refused(driven: Driven) -> None:
    """A topic that has grown: nothing of it is read or committed, and the assignment stays."""
    driven.reads(bad(ONE, 0))
    with pytest.raises(
        PartitionCountChanged, match=r"shop-events\[2\]: .* has 2 partitions for the topic"
    ):
        driven.worker.on_assign([Partition(ONE.topic, 2)])
    assert driven.sink.committed == []
    assert driven.worker._assignment.partitions.keys() == {ONE, TWO}
    assert "eddy replay CONFIG --input" in PartitionCountChanged.remedy
    assert "checkpoints.start_from" in PartitionCountChanged.remedy


def test_events_in_another_partition_than_their_keys_are_counted_and_logged_once(
    driven: Driven,
) -> None:
    """All events are in one partition, although `keyed_by` implies two. The log line names no
    key."""
    values: list[bytes | None] = [line.value for line in lines(Shop(400, seed=3), 0.0)]
    accounts = [orjson.loads(value or b"").get("account") for value in values]
    right = partition_of(pa.array(accounts), 2, "murmur2")
    checked = right[::CHECKED_EVERY]
    with capture_logs() as logged:
        for start in range(0, len(values), 50):
            at = np.arange(start, start + 50)
            records = Records(*ONE, at, np.full(50, -1, np.int64), values[start : start + 50])
            driven.reads(PartitionBatch(ONE, records, start + 50))
    [line_logged] = [line for line in logged if line["event"] == MISPLACED_KEYS]
    assert line_logged["offset"] == CHECKED_EVERY * int(np.flatnonzero(checked == 1)[0])
    assert not any(account in str(line_logged) for account in accounts if account)
    count = np.count_nonzero(checked == 1)
    assert f"eddy_keys_misplaced_total {count:.1f}" in driven.metrics.exposition().decode()


def test_the_lag_is_what_a_partition_has_not_read(driven: Driven) -> None:
    """It is never negative, also where the end that the client knows is older than the last record;
    without a known end there is none."""
    driven.reads(bad(ONE, 0, 1))
    lags = []
    for end in (-1, 0, 1, 2, 3, 10):
        driven.source.end = end
        [one, _] = driven.worker._status._partition_statuses()
        lags.append(one.lag)
    assert lags == [None, 0, 0, 0, 1, 8]


def test_a_worker_without_partitions_warns_once(tmp_path: Path) -> None:
    """After ten seconds, with the likely reasons; once more after it has joined the group anew."""
    driven = Driven(tmp_path)
    with capture_logs() as logged:
        warned = []
        for now_s in (0.0, 9.9, 10.0, 10.1, 99.0):
            driven.clock.now_s = now_s
            driven.worker._status.publish()
            warned.append(len(_without_partition(logged)))
        assert warned == [0, 0, 1, 1, 1]
        driven.worker._status.joined()
        driven.worker._status.publish()
    assert [line["log_level"] for line in _without_partition(logged)] == ["warning"] * 2


def _without_partition(logged: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The lines on it; threads of other tests may log, too."""
    return [line for line in logged if line["event"].startswith("this worker has no partition")]


def test_re_learning_is_logged_where_there_is_any(driven: Driven) -> None:
    """With the offsets that are left; a partition taken at its committed offset has none."""
    driven.reads(bad(ONE, 0, 1, next_offset=5), bad(TWO, 0))
    driven.commits()
    driven.stops()
    with capture_logs() as logged:
        driven.started().on_assign([ONE, TWO])
    assert not any(line["event"] == "re-learning" for line in logged)
    driven.reads(bad(ONE, 5, 6))
    driven.commits()
    with capture_logs() as logged:
        driven.started().on_assign([ONE, TWO])
    left = [
        (one["partition"], one["offsets_left"]) for one in logged if one["event"] == "re-learning"
    ]
    assert left == [(0, 2)]
