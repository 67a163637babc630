"""When checkpoints are due, how failures and cancellation are handled, and which checkpoint is
named."""

import time
from pathlib import Path

import pytest
from obstore.store import LocalStore

from detectors.state import copy_arrays
from stream.checkpoints.loading import load
from stream.checkpoints.manager import CheckpointManager, PartitionCheckpoints
from stream.checkpoints.manifest import offset_of
from stream.checkpoints.store import Folder
from stream.config import CheckpointsSpec
from stream.errors import StoreFailure
from stream.kafka.positions import CommittedOffset
from stream.telemetry.collector import MetricsCollector
from tests.broker.shop import value_of
from tests.checkpoints.shop import WHERE, Group, config, stream
from tests.laws.test_laws import assert_same

SPEC = CheckpointsSpec(rewind_records_max=300)


class FailingFolder(Folder):
    """A real folder that fails, or is slow, when told to."""

    failing = False
    slow_s = 0.0

    def put_block(self, digest: str, packed: bytes) -> int:
        """Write the block, or fail."""
        if self.failing:
            raise StoreFailure("no room")
        time.sleep(self.slow_s)
        return super().put_block(digest, packed)


@pytest.fixture
def kept(tmp_path: Path) -> PartitionCheckpoints:
    """A partition that was just assigned, with its empty state published at offset 0."""
    group = Group(LocalStore(tmp_path), config())
    made = PartitionCheckpoints(
        FailingFolder(group.objects, "group", *WHERE), group.start(), time.monotonic()
    )
    manager(MetricsCollector()).write_first(made, 0)
    assert made.mark_published()
    return made


def manager(metrics: MetricsCollector) -> CheckpointManager:
    """A worker's checkpoint manager."""
    return CheckpointManager(SPEC, metrics)


def wait(of: CheckpointManager) -> None:
    """Wait until nothing is being written."""
    while not of.is_idle():
        time.sleep(0.001)


def test_a_checkpoint_is_due_by_records_or_by_time(kept: PartitionCheckpoints) -> None:
    """After a third of the bound, or after the interval if there is anything to write."""
    one = manager(MetricsCollector())
    assert not one.is_due(kept, 99)
    assert one.is_due(kept, 100)
    kept.taken_at -= 601.0
    assert one.is_due(kept, 1)
    assert not one.is_due(kept, 0)


def test_only_a_complete_checkpoint_is_referenced(kept: PartitionCheckpoints) -> None:
    """Until it is complete, the committed metadata names the previous one; the next commit names
    the new one."""
    one, before = manager(MetricsCollector()), kept.metadata()
    kept.state.shard.process(stream().slice(0, 200))
    expected = copy_arrays(kept.state.shard.save())
    one.start(kept, 200)
    assert kept.metadata() == before
    kept.state.shard.process(stream().slice(200, 400))
    wait(one)
    assert kept.offset() == 200
    assert kept.unpublished is not None
    assert kept.unpublished in kept.metadata()
    assert kept.mark_published()
    assert not kept.mark_published()
    manifest = kept.folder.manifest(kept.published[0])
    assert_same(load(kept.folder, manifest, lambda: None), expected)
    one.close()


def test_a_failure_is_counted_and_tried_again_until_the_bound(kept: PartitionCheckpoints) -> None:
    """A failure leaves the previous checkpoint in place; beyond the bound it is an error."""
    metrics = MetricsCollector()
    one, folder = manager(metrics), kept.folder
    assert isinstance(folder, FailingFolder)
    folder.failing = True
    kept.state.shard.process(stream().slice(0, 200))
    one.start(kept, 200)
    wait(one)
    assert value_of(metrics.exposition().decode(), "eddy_checkpoint_failures_total") == 1
    assert kept.unpublished is None
    assert not one.is_due(kept, 200), "tried again at once"
    folder.failing, kept.not_before = False, 0.0
    assert one.is_due(kept, 200)
    one.start(kept, 200)
    wait(one)
    assert kept.mark_published()
    folder.failing = True
    kept.state.shard.process(stream().slice(200, 602))
    with pytest.raises(
        StoreFailure, match=r"re-learn 402 offsets, and .*rewind_records_max is 300"
    ):
        one.write_now(kept, 602)
    one.close()


def test_a_slow_write_is_dropped(kept: PartitionCheckpoints) -> None:
    """Releasing partitions does not wait longer than allowed, and the dropped checkpoint is not
    named."""
    one, folder = manager(MetricsCollector()), kept.folder
    assert isinstance(folder, FailingFolder)
    folder.slow_s = 0.2
    kept.state.shard.process(stream().slice(0, 200))
    one.write_now(kept, 200, within_s=0.05)
    assert kept.unpublished is None
    one.close()
    assert [offset_of(name) for name in folder.names()] == [0]


def test_a_partition_that_is_lost_is_written_no_more(kept: PartitionCheckpoints) -> None:
    """Its checkpoint is cancelled, and the manager is idle."""
    one, folder = manager(MetricsCollector()), kept.folder
    assert isinstance(folder, FailingFolder)
    folder.slow_s = 0.2
    kept.state.shard.process(stream().slice(0, 200))
    one.start(kept, 200)
    one.cancel(kept)
    assert one.is_idle()
    assert kept.unpublished is None
    one.close()
    assert [offset_of(name) for name in folder.names()] == [0]


def test_a_state_without_a_checkpoint_writes_one_first(tmp_path: Path) -> None:
    """A worker whose store fails from the start ends at once."""
    group = Group(LocalStore(tmp_path), config())
    folder = FailingFolder(group.objects, "group", *WHERE)
    folder.failing = True
    one = manager(MetricsCollector())
    with pytest.raises(
        StoreFailure, match="the first checkpoint of the state could not be written"
    ):
        one.write_first(PartitionCheckpoints(folder, group.start(), 0.0), 0)
    one.close()


def test_a_reset_state_needs_its_own_checkpoint(kept: PartitionCheckpoints) -> None:
    """A checkpoint of the replaced state that waits to be named, as after a fallback, is not
    enough."""
    one, folder = manager(MetricsCollector()), kept.folder
    assert isinstance(folder, FailingFolder)
    kept.unpublished = kept.published[0]
    kept.state.shard.process(stream().slice(0, 200))
    folder.failing = True
    with pytest.raises(
        StoreFailure, match="the first checkpoint of the state could not be written"
    ):
        one.write_first(kept, 200)
    folder.failing = False
    one.write_first(kept, 200)
    assert kept.offset() == 200
    one.close()


def test_old_checkpoints_go_when_newer_ones_are_published(kept: PartitionCheckpoints) -> None:
    """Two are kept; a restart finds the last."""
    one = manager(MetricsCollector())
    for stop in (100, 200, 300, 400):
        kept.state.shard.process(stream().slice(stop - 100, stop))
        one.write_now(kept, stop)
        assert kept.mark_published()
        one.collect(kept)
    one._executor.submit(int).result()  # what was asked for before is done by then
    one.close()
    assert [offset_of(name) for name in kept.folder.names()] == [400, 300]
    group = Group(kept.folder._objects, config())
    group.committed = CommittedOffset(400, kept.metadata())
    assert_same(group.start().shard.save(), kept.state.shard.save())
