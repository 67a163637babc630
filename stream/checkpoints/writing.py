"""How a checkpoint gets into the store: blocks that changed, then the manifest.

The manifest comes last, so that a checkpoint is either whole or not there. One thread compresses,
several wait for the store. What has been written counts for nothing until a committed offset names
it: that is the worker's business.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, NamedTuple

import msgspec
import numpy as np

from stream.checkpoints.manifest import Manifest, StoredArray
from stream.checkpoints.snapshot import Snapshot, rows_in_block
from stream.checkpoints.store import Folder, digest_of, packed

CONCURRENT_PUTS: Final = 8
"""Blocks on their way to the store: an object store takes tens of milliseconds for each."""


class WrittenCheckpoint(NamedTuple):
    """A checkpoint that is whole in the store. written_bytes: of changed blocks, compressed;
    state_bytes: of all blocks, as they are in memory."""

    name: str
    manifest: Manifest
    written_bytes: int
    written_blocks: int
    state_bytes: int


def write(
    folder: Folder, head: Manifest, snapshot: Snapshot, should_continue: Callable[[], bool]
) -> WrittenCheckpoint | None:
    """Write a checkpoint; None where `should_continue`, asked before each block, said no.

    head: the manifest, still without arrays. Raises StoreFailure. What was put by then is not put
    again by the next try.
    """
    arrays: list[StoredArray] = []
    put: dict[str, Future[int]] = {}
    state_bytes = 0
    try:
        with ThreadPoolExecutor(CONCURRENT_PUTS, "checkpoint-put") as executor:
            pending: deque[Future[int]] = deque()
            for name, (dtype, shape) in snapshot.arrays().items():
                digests: list[str] = []
                for block in snapshot.blocks(name):
                    if not should_continue():
                        return None
                    raw = block.reshape(-1).view(np.uint8)
                    digests.append(digest := digest_of(raw))
                    state_bytes += block.nbytes
                    if digest in folder.stored_blocks or digest in put:
                        continue
                    put[digest] = executor.submit(folder.put_block, digest, packed(raw))
                    pending.append(put[digest])
                    if len(pending) > 2 * CONCURRENT_PUTS:
                        pending.popleft().result()
                arrays.append(
                    StoredArray(
                        name=name,
                        dtype=dtype.str,
                        shape=list(shape),
                        block_rows=rows_in_block(dtype, shape),
                        blocks=digests,
                    )
                )
            written_bytes = sum(one.result() for one in put.values())
    finally:
        folder.stored_blocks |= {digest for digest, one in put.items() if one.exception() is None}
    manifest = msgspec.structs.replace(head, arrays=arrays)
    name = folder.put_manifest(manifest)
    return WrittenCheckpoint(name, manifest, written_bytes, len(put), state_bytes)
