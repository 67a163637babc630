"""Loads a checkpoint from the store: reads and checks every block.

A missing or damaged block is an error that names it; a state is never loaded in part. `recovery`
decides what happens then.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from detectors.state import Arrays
from stream.checkpoints.manifest import Manifest, StoredArray
from stream.checkpoints.store import Folder, each_block
from stream.errors import CheckpointCorrupt
from stream.executor import ExecutorFactory, Task, ThreadExecutor
from stream.pipeline.shard import Shard

CONCURRENT_GETS: Final = 8


def load(
    folder: Folder,
    manifest: Manifest,
    beat: Callable[[], None],
    executors: ExecutorFactory = ThreadExecutor,
) -> Arrays:
    """Load the arrays of a checkpoint. beat: called now and then while loading.

    Raises CheckpointCorrupt and StoreFailure.
    """
    state: Arrays = {}
    executor = executors(CONCURRENT_GETS, "checkpoint-get")
    try:
        pending: deque[Task[None]] = deque()
        for stored in manifest.arrays:
            array = _allocate(stored)
            state[stored.name] = array
            edges = each_block(len(array), stored.block_rows)
            for (start, stop), digest in zip(edges, stored.blocks, strict=True):
                pending.append(executor.submit(_fill, folder, digest, array[start:stop]))
                if len(pending) > 2 * CONCURRENT_GETS:
                    pending.popleft().result()
                    beat()
        for task in pending:
            task.result()
    finally:
        executor.shutdown()
    return state


def load_into(
    shard: Shard,
    folder: Folder,
    manifest: Manifest,
    beat: Callable[[], None],
    executors: ExecutorFactory = ThreadExecutor,
) -> None:
    """Load a checkpoint into an empty shard of its own configuration.

    Raises CheckpointCorrupt where the arrays do not fit the shard. Their rows are compared before
    memory is allocated for them. Raises StoreFailure.
    """
    if problem := _difference(shard.save(), manifest):
        raise CheckpointCorrupt(f"{folder.path}: {problem}")
    state = load(folder, manifest, beat, executors)
    try:
        shard.load(state)
    except (ArithmeticError, AssertionError, LookupError, TypeError, ValueError) as error:
        raise CheckpointCorrupt(f"{folder.path}: its arrays do not fit: {error!r}") from error
    for name, array in shard.save().items():
        if array.shape != state[name].shape:
            expected = f"expected {len(array)}, as its other arrays have it"
            raise CheckpointCorrupt(
                f"{folder.path}: array {name} has {len(state[name])} rows; {expected}"
            )


def _difference(expected: Arrays, manifest: Manifest) -> str:
    """The first difference that keeps arrays from being loaded; their lengths may differ."""
    stored = {array.name: (array.dtype, tuple(array.shape[1:])) for array in manifest.arrays}
    if strange := expected.keys() ^ stored.keys():
        return f"array {min(strange)} is on one side only"
    for name, array in expected.items():
        if (rows := (array.dtype.str, array.shape[1:])) != stored[name]:
            return f"array {name} has rows of {stored[name]}; expected {rows}"
    return ""


def _allocate(stored: StoredArray) -> NDArray[Any]:
    """An array of that size; the system gives it memory only as it is filled."""
    try:
        return np.empty(stored.shape, np.dtype(stored.dtype))
    except (MemoryError, ValueError) as error:
        raise CheckpointCorrupt(f"array {stored.name}: {error}") from error


def _fill(folder: Folder, digest: str, rows: NDArray[Any]) -> None:
    raw = folder.block(digest, rows.nbytes)
    rows.reshape(-1).view(np.uint8)[:] = np.frombuffer(raw, np.uint8)
