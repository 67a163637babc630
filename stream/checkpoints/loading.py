"""How a checkpoint gets out of the store: every block read, checked, and put in its place.

A checkpoint that is not whole is an error that names the block, never a state with a hole in it.
What to do then is for `recovery` to say.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from detectors.state import Arrays
from stream.checkpoints.manifest import Manifest, StoredArray
from stream.checkpoints.store import Folder, each_block
from stream.errors import CheckpointCorrupt

GETS_AT_ONCE: Final = 8


def load(folder: Folder, manifest: Manifest, beat: Callable[[], None]) -> Arrays:
    """The arrays of a checkpoint. beat: called as it goes on, for whoever watches.

    Raises CheckpointCorrupt and StoreFailure.
    """
    state: Arrays = {}
    with ThreadPoolExecutor(GETS_AT_ONCE, "checkpoint-get") as getting:
        waiting: deque[Future[None]] = deque()
        for stored in manifest.arrays:
            array = _allocated(stored)
            state[stored.name] = array
            edges = each_block(len(array), stored.block_rows)
            for (start, stop), digest in zip(edges, stored.blocks, strict=True):
                rows = array[start:stop]
                waiting.append(getting.submit(_fill, folder, digest, rows))
                if len(waiting) > 2 * GETS_AT_ONCE:
                    waiting.popleft().result()
                    beat()
        for one in waiting:
            one.result()
    return state


def _allocated(stored: StoredArray) -> NDArray[Any]:
    """An array of that size; the system gives it memory only as it is filled."""
    try:
        return np.empty(stored.shape, np.dtype(stored.dtype))
    except (MemoryError, ValueError) as error:
        raise CheckpointCorrupt(f"array {stored.name}: {error}") from error


def _fill(folder: Folder, digest: str, rows: NDArray[Any]) -> None:
    raw = folder.block(digest, rows.nbytes)
    rows.reshape(-1).view(np.uint8)[:] = np.frombuffer(raw, np.uint8)
