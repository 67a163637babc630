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
from stream.pipeline.shard import Shard

CONCURRENT_GETS: Final = 8


def load(folder: Folder, manifest: Manifest, beat: Callable[[], None]) -> Arrays:
    """The arrays of a checkpoint. beat: called as it goes on, for whoever watches.

    Raises CheckpointCorrupt and StoreFailure.
    """
    state: Arrays = {}
    with ThreadPoolExecutor(CONCURRENT_GETS, "checkpoint-get") as executor:
        pending: deque[Future[None]] = deque()
        for stored in manifest.arrays:
            array = _allocate(stored)
            state[stored.name] = array
            edges = each_block(len(array), stored.block_rows)
            for (start, stop), digest in zip(edges, stored.blocks, strict=True):
                rows = array[start:stop]
                pending.append(executor.submit(_fill, folder, digest, rows))
                if len(pending) > 2 * CONCURRENT_GETS:
                    pending.popleft().result()
                    beat()
        for one in pending:
            one.result()
    return state


def load_into(shard: Shard, folder: Folder, manifest: Manifest, beat: Callable[[], None]) -> None:
    """Load a checkpoint into an empty shard of its configuration. Raises CheckpointCorrupt: a state
    of our own version that does not fit its shard has been changed. The rows of its arrays are
    compared before anything is allocated for them."""
    if problem := _difference(shard.save(), manifest):
        raise CheckpointCorrupt(f"{folder.path}: {problem}")
    state = load(folder, manifest, beat)
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
    found = {one.name: (one.dtype, tuple(one.shape[1:])) for one in manifest.arrays}
    if strange := expected.keys() ^ found.keys():
        return f"array {min(strange)} is on one side only"
    for name, array in expected.items():
        if (rows := (array.dtype.str, array.shape[1:])) != found[name]:
            return f"array {name} has rows of {found[name]}; expected {rows}"
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
