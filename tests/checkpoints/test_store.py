"""The store of checkpoints: complete or absent, checked when read, only changes are written."""

import os
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from obstore.store import LocalStore, MemoryStore

from detectors.state import Arrays
from stream.checkpoints import store
from stream.checkpoints.loading import load
from stream.checkpoints.manifest import (
    Manifest,
    Pointer,
    commit_metadata,
    decode,
    encode,
    parse_pointer,
)
from stream.checkpoints.snapshot import BLOCK_BYTES, Snapshot
from stream.checkpoints.store import Folder, open_store
from stream.checkpoints.writing import write
from stream.errors import (
    CheckpointCorrupt,
    CheckpointIncompatible,
    ConfigError,
    StoreFailure,
)
from stream.executor import ThreadExecutor
from tests.checkpoints.builders import empty_manifest, folder, written_checkpoint
from tests.streams import same


def arrays(seed: int, rows: int = 3_000) -> Arrays:
    """Arrays of several kinds: rows of many words, flags, and one that is empty."""
    draw = np.random.Generator(np.random.PCG64(seed))
    return {
        "words": draw.normal(size=(rows, 100)),
        "mass": draw.integers(0, 2**16, (rows, 4, 5, 1), np.uint16),
        "flags": draw.random(rows) < 0.5,
        "none": np.zeros((0, 7)),
        "zeros": np.zeros((4, BLOCK_BYTES // 8)),
    }


def read(of: Folder, name: str) -> Arrays:
    """The arrays of a checkpoint."""
    return load(of, of.manifest(name), lambda: None)


@settings(deadline=None)
@given(seed=st.integers(0, 2**32), rows=st.integers(0, 3_000))
def test_a_state_is_read_as_written(seed: int, rows: int) -> None:
    """Every array comes back with its dtype, its shape and its bytes, from a new folder."""
    objects = MemoryStore()
    state = arrays(seed, rows)
    name = written_checkpoint(folder(objects), 5, state).name
    found = read(folder(objects), name)
    assert found.keys() == state.keys()
    assert all(
        same(found[one], state[one]) and found[one].dtype == state[one].dtype for one in state
    )


def test_a_folder_is_a_store(tmp_path: Path) -> None:
    """A path, and a file URL, open a folder that is made; nothing lies outside of it."""
    for url in (str(tmp_path / "a" / "b"), f"file://{tmp_path}/c"):
        name = written_checkpoint(folder(open_store(url)), 5, arrays(1)).name
        assert same(read(folder(open_store(url)), name)["words"], arrays(1)["words"])
    paths = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.json")}
    assert {path.rpartition("/")[0] for path in paths} == {
        f"{one}/group/shop-events/0/manifests" for one in ("a/b", "c")
    }


def test_a_store_out_of_reach_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing listens there: an error of the store, not a missing checkpoint."""
    for name, text in {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, text)
    monkeypatch.setitem(store.REMOTE, "retry_config", {"max_retries": 1})
    nowhere = folder(open_store("s3://bucket/prefix"))
    for ask in (nowhere.names, lambda: nowhere.manifest("x"), lambda: nowhere.put_block("x", b"")):
        with pytest.raises(StoreFailure, match="group/shop-events/0"):
            ask()


def test_an_impossible_store_is_a_configuration_error(tmp_path: Path) -> None:
    """A path through a file, and an unknown scheme, are named with what was expected."""
    (tmp_path / "file").touch()
    for url in (f"{tmp_path}/file/folder", "nowhere://bucket"):
        with pytest.raises(
            ConfigError, match=r"checkpoints\.url: got .*; expected a writable folder"
        ):
            open_store(url)


def test_unchanged_state_is_not_written_again() -> None:
    """Of an unchanged state only the manifest is written; of a changed row its block; equal blocks
    are stored once."""
    objects = MemoryStore()
    one, state = folder(objects), arrays(2)
    first = written_checkpoint(one, 5, state)
    assert first.written_blocks < sum(len(a.blocks) for a in first.manifest.arrays)
    assert written_checkpoint(one, 6, state).written_blocks == 0
    state["words"][7] += 1.0
    assert written_checkpoint(one, 7, state).written_blocks == 1
    other = folder(objects)
    other.stored_blocks = first.manifest.blocks()  # as after a load
    assert written_checkpoint(other, 8, arrays(2)).written_blocks == 0


@pytest.mark.parametrize("harm", ["missing", "truncated", "changed", "another"])
def test_a_changed_block_is_detected(harm: str, tmp_path: Path) -> None:
    """Whatever happens to a block's file, the checkpoint is corrupt, and the file is named."""
    name = written_checkpoint(folder(LocalStore(tmp_path)), 5, arrays(3)).name
    one, other, *_ = sorted(tmp_path.rglob("blocks/*"))
    body = bytearray(one.read_bytes())
    match harm:
        case "missing":
            one.unlink()
        case "truncated":
            one.write_bytes(body[: len(body) // 2])
        case "changed":
            body[len(body) // 2] ^= 1
            one.write_bytes(body)
        case _:
            one.write_bytes(other.read_bytes())
    with pytest.raises(CheckpointCorrupt, match=one.name):
        read(folder(LocalStore(tmp_path)), name)


@pytest.mark.parametrize("harm", ["missing", "truncated", "changed"])
def test_a_changed_manifest_is_detected(harm: str, tmp_path: Path) -> None:
    """A manifest's name holds the hash of its bytes."""
    name = written_checkpoint(folder(LocalStore(tmp_path)), 5, arrays(3)).name
    [file] = tmp_path.rglob("*.json")
    body = file.read_bytes()
    match harm:
        case "missing":
            file.unlink()
        case "truncated":
            file.write_bytes(body[:-3])
        case _:
            file.write_bytes(body.replace(b'"offset":5', b'"offset":6'))
    with pytest.raises(CheckpointCorrupt, match=name):
        folder(LocalStore(tmp_path)).manifest(name)


def test_another_format_is_refused() -> None:
    """A manifest of another format is incompatible, whatever else it contains."""
    name, body = encode(msgspec.structs.replace(empty_manifest(5), format=99))
    with pytest.raises(CheckpointIncompatible, match="format 99; this version reads format 2"):
        decode(name, body)


class Failing(Folder):
    """A real folder that rejects the third block, like a full disk."""

    puts = 0

    def put_block(self, digest: str, packed: bytes) -> int:
        """Write it, unless it is the third."""
        self.puts += 1
        if self.puts == 3:
            raise StoreFailure("no room")
        return super().put_block(digest, packed)


def test_a_failed_checkpoint_is_absent_and_its_blocks_are_reused() -> None:
    """Without all its blocks no manifest is written; the next try writes only the missing ones."""
    one = Failing(MemoryStore(), "group", "shop-events", 0)
    with pytest.raises(StoreFailure, match="no room"):
        written_checkpoint(one, 5, arrays(4))
    assert one.names() == []
    put_before, state = len(one.stored_blocks), arrays(4)
    again = written_checkpoint(one, 5, state)
    assert put_before > 0
    assert again.written_blocks == len(again.manifest.blocks()) - put_before
    assert same(read(one, again.name)["words"], state["words"])


class CountedExecutor(ThreadExecutor):
    """A real executor that counts those that are not shut down."""

    running = 0

    def __init__(self, threads: int, name: str) -> None:
        super().__init__(threads, name)
        CountedExecutor.running += 1

    def shutdown(self, *, cancel: bool = False) -> None:
        """Wait for the tasks, and end the threads."""
        super().shutdown(cancel=cancel)
        CountedExecutor.running -= 1


def test_no_thread_outlives_its_checkpoint() -> None:
    """Whether it is written, abandoned or failed, the threads that put its blocks are ended."""
    CountedExecutor.running = 0
    for should_continue in (True, False):
        snapshot = Snapshot(arrays(4), set())
        made = write(
            folder(), empty_manifest(5), snapshot, partial(bool, should_continue), CountedExecutor
        )
        assert (made is not None) == should_continue
        assert CountedExecutor.running == 0
    failing = Failing(MemoryStore(), "group", "shop-events", 0)
    with pytest.raises(StoreFailure, match="no room"):
        write(failing, empty_manifest(5), Snapshot(arrays(4), set()), executors=CountedExecutor)
    assert CountedExecutor.running == 0


def test_an_abandoned_checkpoint_leaves_no_manifest() -> None:
    """A cancelled write stops at the next block; nothing refers to its blocks."""
    one, left = folder(), iter([True, True, False])
    assert write(one, empty_manifest(5), Snapshot(arrays(5), set()), lambda: next(left)) is None
    assert one.names() == []


def test_old_checkpoints_are_collected_with_the_blocks_that_only_they_have() -> None:
    """The last two published checkpoints stay intact, and so do later ones."""
    objects = MemoryStore()
    one, states = folder(objects), [arrays(seed) for seed in range(5)]
    for state in states[1:]:
        state["mass"] = states[0]["mass"]  # blocks that all have in common
    names = [written_checkpoint(one, 10 * k, state).name for k, state in enumerate(states)]
    published = [names[3], names[2], names[1]]
    assert one.collect(published, lambda: False) > 0
    assert one.names() == names[::-1]
    removed = one.collect(published, lambda: True)
    assert one.names() == [names[4], names[3], names[2]]
    assert removed > 0
    for k in (2, 3, 4):
        assert same(read(folder(objects), names[k])["words"], states[k]["words"])
        assert same(read(folder(objects), names[k])["mass"], states[0]["mass"])
    assert one.collect(published, lambda: True) == 0


def test_old_leftovers_of_a_crash_are_collected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks without a manifest stay while they could be another worker's, and are removed after a
    day."""
    one = folder(LocalStore(tmp_path))
    orphan = "f" * 32
    folder(LocalStore(tmp_path)).put_block(orphan, b"left over")
    name = written_checkpoint(one, 5, arrays(6)).name
    [file] = tmp_path.rglob(orphan)
    assert one.collect([name], lambda: True) == 0
    day_ago = file.stat().st_mtime - store.ORPHAN_AGE.total_seconds() - 60
    os.utime(file, (day_ago, day_ago))
    assert one.collect([name], lambda: True) == 1
    assert not file.exists()
    assert same(read(one, name)["words"], arrays(6)["words"])


@given(first=st.none() | st.integers(0, 2**62), offset=st.integers(0, 2**62), config=st.integers(0))
def test_a_note_points_at_its_checkpoint(first: int | None, offset: int, config: int) -> None:
    """Whatever the offsets, the metadata is short and names the checkpoint."""
    pointer = Pointer(first, f"{config % 2**128:032x}", encode(empty_manifest(offset))[0])
    assert parse_pointer(commit_metadata(pointer)) == pointer
    assert len(commit_metadata(pointer)) < 200


@pytest.mark.parametrize("text", ["", "eddy1 from=3", "eddy2 from=3 config=0 checkpoint=1"])
def test_another_note_points_at_nothing(text: str) -> None:
    """Metadata that differs in any way is not Eddy's."""
    assert parse_pointer(text) is None


@pytest.mark.parametrize("name", ["a/b", "..", "naïve group", "a.b"])
def test_groups_of_any_name_have_a_folder_of_their_own(name: str, tmp_path: Path) -> None:
    """No group's name leads out of the store or into another group's folder."""
    objects = LocalStore(tmp_path)
    for group in (name, "group"):
        written_checkpoint(Folder(objects, group, "shop-events", 0), 5, arrays(7, rows=1))
    files = list(tmp_path.rglob("*.json"))
    assert len(files) == 2
    assert len({file.relative_to(tmp_path).parts[0] for file in files}) == 2
    assert all(len(file.relative_to(tmp_path).parts) == 5 for file in files)


def test_names_sort_by_offset() -> None:
    """The newest checkpoint is the one with the largest offset, whatever the hashes."""
    heads: list[Manifest] = [empty_manifest(offset) for offset in (9, 10, 123_456_789_012)]
    names = [encode(one)[0] for one in heads]
    assert sorted(names) == names
