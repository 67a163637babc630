"""Corrupt checkpoints: whatever their files contain, a start ends with the same state or an error
that names the file, and allocates no more than the state needs."""

import struct
import tracemalloc
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
import xxhash
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from obstore.store import MemoryStore

from detectors.state import Arrays, copy_arrays
from stream.checkpoints.loading import load, load_into
from stream.checkpoints.manifest import Manifest, decode
from stream.config import Config
from stream.errors import CheckpointCorrupt
from stream.pipeline.shard import ShardFactory
from tests.checkpoints.builders import folder, written_checkpoint
from tests.checkpoints.shop import RUN, Group, config, stream
from tests.laws.test_laws import assert_same

STOP = 150
BOMB_BYTES = 2**30
MODEST_BYTES = 16 * 2**20


@pytest.fixture(scope="module")
def group() -> Group:
    """A group that has committed 150 records, its checkpoints at 0, 50 and 100."""
    made = Group(MemoryStore(), config(limits={"duplicate_window": 64}))
    made.work(0, STOP, [50, 100])
    return made


@pytest.fixture(scope="module")
def expected(group: Group) -> Arrays:
    """The state at the committed offset."""
    return finished(group)


def finished(group: Group, made: Config | None = None) -> Arrays:
    """The state at the committed offset, recovered from the store."""
    found = group.start(made)
    found.shard.process(stream().slice(found.head.offset, STOP))
    return copy_arrays(found.shard.save())


def files(group: Group) -> list[str]:
    """The paths of everything in the store."""
    return sorted(each["path"] for page in group.objects.list() for each in page)


class Changed:
    """Replaces the content of a file while the block runs."""

    def __init__(self, group: Group, path: str, body: bytes) -> None:
        self._objects, self._path, self._body = group.objects, path, body
        self._before = bytes(group.objects.get(path).bytes())

    def __enter__(self) -> None:
        self._objects.put(self._path, self._body)

    def __exit__(self, *_: object) -> None:
        self._objects.put(self._path, self._before)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_any_flipped_bit_leaves_the_state_or_is_corrupt(
    group: Group, expected: Arrays, data: st.DataObject
) -> None:
    """Of any byte of any file: the state comes from that checkpoint or an earlier one; where the
    log was deleted, the error is CheckpointCorrupt."""
    path = data.draw(st.sampled_from(files(group)))
    body = bytearray(group.objects.get(path).bytes())
    at = data.draw(st.integers(0, min(len(body), data.draw(st.sampled_from([24, 2**20]))) - 1))
    body[at] ^= 1 << data.draw(st.integers(0, 7))
    with Changed(group, path, bytes(body)):
        assert_same(finished(group), expected)
        group.low = 1  # so that nothing can be re-learned from the first record
        try:
            assert_same(finished(group), expected)
        except CheckpointCorrupt as error:
            named = path.rpartition("/")[2].removesuffix(".json")
            assert named in error.message  # noqa: PT017 - a bit may matter to nothing
        finally:
            group.low = 0


def test_a_flipped_bit_of_a_blocks_header_leaves_the_state_or_is_corrupt() -> None:
    """Of any bit of the frame's header, which holds its size, and the next bytes; most are corrupt,
    and none allocates more than the block needs."""
    one = folder(objects := MemoryStore())
    state = {"words": np.arange(3_000.0)}
    manifest = written_checkpoint(one, 5, state).manifest
    [digest] = manifest.blocks()
    path = f"{one.path}/blocks/{digest}"
    whole = bytes(objects.get(path).bytes())
    tracemalloc.start()
    for bit in range(8 * 24):
        body = bytearray(whole)
        body[bit // 8] ^= 1 << bit % 8
        objects.put(path, bytes(body))
        try:
            found = load(folder(objects), manifest, lambda: None)
        except CheckpointCorrupt as error:
            assert digest in error.message  # noqa: PT017 - a bit may matter to nothing
        else:
            assert_same(found, state)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MODEST_BYTES


def bomb() -> bytes:
    """A frame of a gibibyte."""
    piece = zstandard.ZstdCompressor().compressobj(size=BOMB_BYTES)
    zeros = bytes(2**20)
    return b"".join(piece.compress(zeros) for _ in range(BOMB_BYTES // 2**20)) + piece.flush()


def false_header() -> bytes:
    """An empty frame that declares four gibibytes."""
    return b"\x28\xb5\x2f\xfd" + bytes([0b10100000]) + struct.pack("<I", 2**32 - 1) + b"\x01\0\0"


@pytest.mark.parametrize("frame", [bomb, false_header])
def test_a_frame_allocates_no_more_than_its_block(frame: Callable[[], bytes]) -> None:
    """The declared size is compared with the block's size in the manifest before any allocation."""
    one = folder(objects := MemoryStore())
    manifest = written_checkpoint(one, 5, {"words": np.arange(3_000.0)}).manifest
    [digest] = manifest.blocks()
    objects.put(f"{one.path}/blocks/{digest}", frame())
    tracemalloc.start()
    with pytest.raises(CheckpointCorrupt, match=digest):
        load(folder(objects), manifest, lambda: None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MODEST_BYTES


HOSTILE: list[dict[str, Any]] = [
    {"shape": [-1, 8]},
    {"shape": [2**62, 8]},
    {"shape": [2**64]},
    {"shape": []},
    {"shape": [1] * 40},
    {"shape": [3_000, 2**62]},
    {"shape": [2**40, 2**40, 2**40]},
    {"shape": [4], "blocks": []},
    {"dtype": "O"},
    {"dtype": "<i3"},
    {"dtype": "V100000"},
    {"dtype": "(9,9)i4"},
    {"dtype": "<M8[s]"},
    {"dtype": "|i8"},
    {"name": "account/cohort"},
    {"name": ""},
    {"block_rows": 0},
    {"block_rows": -4},
    {"block_rows": 2**70},
    {"block_rows": 2**60, "shape": [2**60]},
    {"blocks": ["../../../../etc/passwd"]},
    {"blocks": ["0" * 31 + "/"]},
    {"blocks": ["0" * 32] * 9},
    {"blocks": [7]},
]


def rewritten(group: Group, change: Callable[[dict[str, Any]], None]) -> tuple[str, bytes]:
    """The group's newest manifest, changed so that its name and hash match."""
    folder_of = group.folder()
    document: dict[str, Any] = msgspec.to_builtins(folder_of.manifest(folder_of.names()[0]))
    change(document)
    body = msgspec.json.encode(document)
    return f"{100:019d}-{xxhash.xxh3_64_hexdigest(body)}", body


def refused(group: Group, expected: Arrays, name: str, body: bytes) -> None:
    """A group whose offset names that manifest falls back and has the same state; where the log was
    deleted, the error is CheckpointCorrupt and names it."""
    assert group.committed is not None
    path, before = f"{group.folder().path}/manifests/{name}.json", group.committed
    pointed = before.metadata.rpartition("=")[0] + f"={name}"
    group.objects.put(path, body)
    group.committed = before._replace(metadata=pointed)
    try:
        found = group.start()
        assert found.broken_checkpoints > 0
        assert_same(finished(group), expected)
    finally:
        group.objects.delete(path)
        group.committed = before


@pytest.mark.parametrize("array", HOSTILE, ids=str)
def test_a_hostile_array_is_corrupt(group: Group, expected: Arrays, array: dict[str, Any]) -> None:
    """Impossible shapes, types, names and hashes are refused before memory is allocated, and the
    start falls back to an earlier checkpoint."""

    def change(document: dict[str, Any]) -> None:
        first = next(one for one in document["arrays"] if one["name"] == "account/words")
        first |= array

    assert any(one.name == "account/cohort" for one in newest(group).arrays)
    refused(group, expected, *rewritten(group, change))


def newest(group: Group) -> Manifest:
    """The manifest of the last checkpoint."""
    return group.folder().manifest(group.folder().names()[0])


@pytest.mark.parametrize(
    "fields",
    [
        {"offset": -1},
        {"offset": 99},
        {"offset": 10**30},
        {"partition": -1},
        {"first_offset": -3},
        {"fingerprint": "../" * 8},
        {"superseded": ["x"]},
        {"log": ["shop", "shop-events", 1, True]},
        {"log": ["another", "shop-events", 1, False]},
        {"steering": {}, "state_version": 1.5},
        {"arrays": []},
        {"arrays": {}},
        {"unknown": 1},
    ],
    ids=str,
)
def test_a_hostile_manifest_is_corrupt(
    group: Group, expected: Arrays, fields: dict[str, Any]
) -> None:
    """Other fields that contradict each other."""
    refused(group, expected, *rewritten(group, lambda document: document.update(fields)))


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"[]", b'{"format":2}', b"[" * 100_000, b'{"format":2,"log":"\xff"}', b"\xff"],
    ids=range(7),
)
def test_bytes_that_are_no_manifest_are_corrupt(
    group: Group, expected: Arrays, body: bytes
) -> None:
    """Nested without end, not UTF-8, or of another structure."""
    name = f"{100:019d}-{xxhash.xxh3_64_hexdigest(body)}"
    with pytest.raises(CheckpointCorrupt, match=name):
        decode(name, body)
    refused(group, expected, name, body)


def test_arrays_that_do_not_belong_together_are_corrupt(group: Group, expected: Arrays) -> None:
    """A state whose arrays have other lengths than its shard's is never used."""
    shard = ShardFactory(group.config, RUN).input_shard("shop")
    shard.process(stream().slice(0, 100))
    for name in sorted(shard.save()):
        state = copy_arrays(shard.save())
        if len(state[name]) < 2:
            continue
        state[name] = state[name][:1].copy()
        one = folder(objects := MemoryStore())
        arrays = written_checkpoint(one, 100, state).manifest.arrays
        head = msgspec.structs.replace(newest(group), arrays=arrays)
        fresh = ShardFactory(group.config, RUN).input_shard("shop")
        with pytest.raises(CheckpointCorrupt):
            load_into(fresh, folder(objects), head, lambda: None)
