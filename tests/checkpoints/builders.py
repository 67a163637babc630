"""Builders for tests of checkpoints: manifests, folders in memory, written checkpoints."""

from obstore.store import MemoryStore

from detectors.state import STATE_VERSION, Arrays
from stream.checkpoints.manifest import Manifest
from stream.checkpoints.snapshot import Snapshot
from stream.checkpoints.store import Folder, ObjectStorage
from stream.checkpoints.writing import WrittenCheckpoint, write
from stream.config.topology import Log


def folder(objects: ObjectStorage | None = None, partition: int = 0) -> Folder:
    """A partition's folder, as a worker that has just started sees it."""
    return Folder(objects or MemoryStore(), "group", "shop-events", partition)


def empty_manifest(offset: int, first: int | None = 0) -> Manifest:
    """A manifest without arrays, of any configuration."""
    return Manifest(
        state_version=STATE_VERSION,
        fingerprint="0" * 32,
        state_config={},
        superseded=[],
        log=Log("shop", "shop-events", 1),
        partition=0,
        first_offset=first,
        offset=offset,
        created_at="2026-01-01T00:00:00Z",
    )


def written_checkpoint(into: Folder, offset: int, state: Arrays) -> WrittenCheckpoint:
    """Write the state as a checkpoint at that offset."""
    made = write(into, empty_manifest(offset), Snapshot(state, set()), lambda: True)
    assert made is not None
    return made
