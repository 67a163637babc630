"""Writes a checkpoint to the store: first the blocks that changed, then the manifest.

The manifest is written last, so that a checkpoint is either complete or does not exist. One thread
compresses blocks, several wait for the store. A checkpoint takes effect only when a committed offset
names it, which is the worker's task.
"""

from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec
import numpy as np

from stream.checkpoints.manifest import Manifest, StoredArray
from stream.checkpoints.snapshot import Snapshot, rows_in_block
from stream.checkpoints.store import Folder, compress, digest_of
from stream.executor import Executor, ExecutorFactory, Task, ThreadExecutor

CONCURRENT_PUTS: Final = 8
"""Blocks written at the same time: an object store takes tens of milliseconds for each."""


class WrittenCheckpoint(NamedTuple):
    """A complete checkpoint. written_bytes: compressed size of the blocks that changed;
    state_bytes: size of all blocks in memory."""

    name: str
    manifest: Manifest
    written_bytes: int
    written_blocks: int
    state_bytes: int


def write(
    folder: Folder,
    head: Manifest,
    snapshot: Snapshot,
    should_continue: Callable[[], bool] = lambda: True,
    executors: ExecutorFactory = ThreadExecutor,
) -> WrittenCheckpoint | None:
    """Write a checkpoint; return None if `should_continue`, asked before each block, says no.

    head: the manifest without arrays. Raises StoreFailure. Blocks that were written by then are
    not written again by the next try.
    """
    executor = executors(CONCURRENT_PUTS, "checkpoint-put")
    blocks = _BlockWriter(folder, executor)
    try:
        arrays: list[StoredArray] = []
        for name, (dtype, shape) in snapshot.arrays().items():
            digests: list[str] = []
            for block in snapshot.blocks(name):
                if not should_continue():
                    return None
                digests.append(blocks.put(block.reshape(-1).view(np.uint8)))
            arrays.append(
                StoredArray(
                    name=name,
                    dtype=dtype.str,
                    shape=list(shape),
                    block_rows=rows_in_block(dtype, shape),
                    blocks=digests,
                )
            )
        written_bytes = blocks.wait()
    finally:
        executor.shutdown()
        blocks.record_written()
    manifest = msgspec.structs.replace(head, arrays=arrays)
    name = folder.put_manifest(manifest)
    return WrittenCheckpoint(name, manifest, written_bytes, len(blocks.tasks), blocks.state_bytes)


class _BlockWriter:
    """Puts the blocks of one checkpoint that the store does not have yet."""

    def __init__(self, folder: Folder, executor: Executor) -> None:
        self.tasks: dict[str, Task[int]] = {}
        self.state_bytes = 0
        self._folder = folder
        self._executor = executor
        self._pending: deque[Task[int]] = deque()

    def put(self, raw: np.ndarray[tuple[int], np.dtype[np.uint8]]) -> str:
        """Put a block in the background; return its digest. Waits while too many are pending."""
        digest = digest_of(raw)
        self.state_bytes += raw.nbytes
        if digest in self._folder.stored_blocks or digest in self.tasks:
            return digest
        task = self._executor.submit(self._folder.put_block, digest, compress(raw))
        self.tasks[digest] = task
        self._pending.append(task)
        if len(self._pending) > 2 * CONCURRENT_PUTS:
            self._pending.popleft().result()
        return digest

    def wait(self) -> int:
        """Wait for all blocks; return their compressed size. Raises StoreFailure."""
        return sum(task.result() for task in self.tasks.values())

    def record_written(self) -> None:
        """Note which blocks are in the store."""
        self._folder.stored_blocks |= {
            digest for digest, task in self.tasks.items() if task.exception() is None
        }
