"""When checkpoints are due, what becomes of those that fail or are given up, and what is named."""

import time
from pathlib import Path

import pytest
from obstore.store import LocalStore

from detectors.state import copied
from stream.checkpoints.keeping import Keeper, Kept
from stream.checkpoints.loading import load
from stream.checkpoints.manifest import offset_of
from stream.checkpoints.store import Folder
from stream.config import CheckpointsSpec
from stream.errors import StoreFailure
from stream.kafka.positions import Committed
from stream.metrics import Board
from tests.broker.shop import value_of
from tests.checkpoints.shop import RUN, WHERE, Group, config, stream
from tests.laws.test_laws import assert_same

SPEC = CheckpointsSpec(rewind_records_max=300)


class Unsteady(Folder):
    """A real folder that fails, or takes its time, when it is told to."""

    failing = False
    slow_s = 0.0

    def put_block(self, digest: str, packed: bytes) -> int:
        """Write it, or not."""
        if self.failing:
            raise StoreFailure("no room")
        time.sleep(self.slow_s)
        return super().put_block(digest, packed)


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    """A partition that was just taken, its empty state published at offset 0."""
    group = Group(LocalStore(tmp_path), config())
    made = Kept(Unsteady(group.objects, "group", *WHERE), group.start())
    keeper(Board()).begin(made, 0)
    assert made.publish()
    return made


def keeper(board: Board) -> Keeper:
    """A worker's keeper."""
    return Keeper(SPEC, board, RUN.now)


def wait(of: Keeper) -> None:
    """Until nothing is being written."""
    while not of.idle():
        time.sleep(0.001)


def test_a_checkpoint_is_due_by_records_or_by_time(kept: Kept) -> None:
    """A third of the bound, or the interval while anything is behind; never where nothing is."""
    one = keeper(Board())
    assert not one.due(kept, 99)
    assert one.due(kept, 100)
    kept.taken_at -= 601.0
    assert one.due(kept, 1)
    assert not one.due(kept, 0)


def test_a_checkpoint_is_named_once_it_is_whole(kept: Kept) -> None:
    """Until then every note names the one before; from then on, with the next commit, the new
    one."""
    one, before = keeper(Board()), kept.note()
    kept.state.shard.process(stream().slice(0, 200))
    expected = copied(kept.state.shard.save())
    one.take(kept, 200)
    assert kept.note() == before
    kept.state.shard.process(stream().slice(200, 400))
    wait(one)
    assert kept.offset() == 200
    assert kept.ready is not None
    assert kept.ready in kept.note()
    assert kept.publish()
    assert not kept.publish()
    manifest = kept.folder.manifest(kept.published[0])
    assert_same(load(kept.folder, manifest, lambda: None), expected)
    one.close()


def test_a_failure_is_counted_and_tried_again_until_the_bound(kept: Kept) -> None:
    """What fails leaves the former checkpoint in place; beyond the bound it is an error."""
    board = Board()
    one, folder = keeper(board), kept.folder
    assert isinstance(folder, Unsteady)
    folder.failing = True
    kept.state.shard.process(stream().slice(0, 200))
    one.take(kept, 200)
    wait(one)
    assert value_of(board.exposition().decode(), "eddy_checkpoint_failures_total") == 1
    assert kept.ready is None
    assert not one.due(kept, 200), "tried again at once"
    folder.failing, kept.not_before = False, 0.0
    assert one.due(kept, 200)
    one.take(kept, 200)
    wait(one)
    assert kept.publish()
    folder.failing = True
    kept.state.shard.process(stream().slice(200, 602))
    with pytest.raises(
        StoreFailure, match=r"re-learn 402 offsets, and .*rewind_records_max is 300"
    ):
        one.take_now(kept, 602)
    one.close()


def test_what_takes_too_long_is_dropped(kept: Kept) -> None:
    """Giving partitions away waits no longer than it may; nothing of it is named."""
    one, folder = keeper(Board()), kept.folder
    assert isinstance(folder, Unsteady)
    folder.slow_s = 0.2
    kept.state.shard.process(stream().slice(0, 200))
    one.take_now(kept, 200, within_s=0.05)
    assert kept.ready is None
    one.close()
    assert [offset_of(name) for name in folder.names()] == [0]


def test_a_partition_that_is_lost_is_written_no_more(kept: Kept) -> None:
    """Its checkpoint is given up, and the keeper is free for the next."""
    one, folder = keeper(Board()), kept.folder
    assert isinstance(folder, Unsteady)
    folder.slow_s = 0.2
    kept.state.shard.process(stream().slice(0, 200))
    one.take(kept, 200)
    one.give_up(kept)
    assert one.idle()
    assert kept.ready is None
    one.close()
    assert [offset_of(name) for name in folder.names()] == [0]


def test_a_state_that_has_none_begins_with_a_checkpoint_or_not_at_all(tmp_path: Path) -> None:
    """A worker whose store fails from the start says so at once."""
    group = Group(LocalStore(tmp_path), config())
    folder = Unsteady(group.objects, "group", *WHERE)
    folder.failing = True
    one = keeper(Board())
    with pytest.raises(StoreFailure, match="no checkpoint to begin with"):
        one.begin(Kept(folder, group.start()), 0)
    one.close()


def test_a_state_that_begins_anew_needs_a_checkpoint_of_its_own(kept: Kept) -> None:
    """One of the state before it that waits to be named, as after a fallback, does not do."""
    one, folder = keeper(Board()), kept.folder
    assert isinstance(folder, Unsteady)
    kept.ready = kept.published[0]
    kept.state.shard.process(stream().slice(0, 200))
    folder.failing = True
    with pytest.raises(StoreFailure, match="no checkpoint to begin with"):
        one.begin(kept, 200)
    folder.failing = False
    one.begin(kept, 200)
    assert kept.offset() == 200
    one.close()


def test_old_checkpoints_go_when_newer_ones_are_published(kept: Kept) -> None:
    """Two stay, whatever the group went through; a restart finds the last."""
    one = keeper(Board())
    for stop in (100, 200, 300, 400):
        kept.state.shard.process(stream().slice(stop - 100, stop))
        one.take_now(kept, stop)
        assert kept.publish()
        one.collect(kept)
    one._thread.submit(int).result()  # what was asked for before is done by then
    one.close()
    assert [offset_of(name) for name in kept.folder.names()] == [400, 300]
    group = Group(kept.folder._objects, config())
    group.committed = Committed(400, kept.note())
    assert_same(group.start().shard.save(), kept.state.shard.save())
