"""A shard's state held still while the shard goes on.

Small arrays are copied at once. The large ones announce which rows a batch is about to write
(`detectors.state.WriteHook`): rows that are not read yet are copied aside before, so that a
batch pays for the rows that it touches, not for the blocks that these lie in, and the rest is read
at leisure by another thread. At worst, when every row is written before it is read, a snapshot
takes as much memory again as the announced arrays.
"""

from collections.abc import Iterator
from threading import Lock
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detectors.state import Arrays
from schemas.columns import I64
from stream.checkpoints.store import each_block

BLOCK_BYTES: Final = 512 * 1024
NOT_COPIED: Final = -1


class Block(NamedTuple):
    """Whole rows of an array, which nobody writes to."""

    name: str
    rows: NDArray[Any]


class Snapshot:
    """The state at the moment when this is made, which must be between two batches.

    state: as saved. announced: names of those of its arrays whose writes are announced.
    `before_write` is called by the thread that runs the shard, all else by another one.
    """

    def __init__(self, state: Arrays, hooked_arrays: set[str]) -> None:
        self.copied_bytes = 0
        """Copied aside so far: what a batch had to wait for, and memory until it is read."""
        self._lock = Lock()
        self._live = {name: _CopyOnWrite(a) for name, a in state.items() if name in hooked_arrays}
        self._copies = {name: a.copy() for name, a in state.items() if name not in hooked_arrays}

    def before_write(self, name: str, rows: I64) -> None:
        """Copy aside what the rows hold, where it is still to be read."""
        with self._lock:
            saved_array = self._live.get(name)
            if saved_array is not None:
                self.copied_bytes += saved_array.keep(rows)

    def arrays(self) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
        """Name → dtype and shape of every array, those first that are read first."""
        with self._lock:
            lives = {name: saved_array.live for name, saved_array in self._live.items()}
        return {name: (a.dtype, a.shape) for name, a in (lives | self._copies).items()}

    def blocks(self, name: str) -> Iterator[NDArray[Any]]:
        """An array's blocks in order; may be gone through once."""
        if name in self._copies:
            array = self._copies.pop(name)
            for start, stop in each_block(len(array), rows_in_block(array.dtype, array.shape)):
                yield array[start:stop]
            return
        saved_array = self._live[name]
        rows = rows_in_block(saved_array.live.dtype, saved_array.live.shape)
        for start, stop in each_block(len(saved_array.live), rows):
            with self._lock:
                block = saved_array.read(start, stop)
            yield block
        with self._lock:
            del self._live[name]


class _CopyOnWrite:
    """An array that goes on changing, and what was in the rows that changed since."""

    def __init__(self, live: NDArray[Any]) -> None:
        self.live = live
        self._read = 0
        # Memory that is not touched yet is not there yet.
        self._kept = np.empty_like(live)
        self._kept_count = 0
        self._place = np.full(len(live), NOT_COPIED, np.int32)

    def keep(self, rows: I64) -> int:
        """Copy the rows aside that are neither read nor aside yet; how many bytes these are."""
        rows = rows[(rows >= self._read) & (rows < len(self.live))]
        rows = np.unique(rows[self._place[rows] == NOT_COPIED])
        stop = self._kept_count + len(rows)
        np.take(self.live, rows, 0, self._kept[self._kept_count : stop], "clip")
        self._place[rows] = np.arange(self._kept_count, stop)
        self._kept_count = stop
        return len(rows) * self.live[:1].nbytes

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """The rows as they were; they may be written from now on."""
        # A batch may be writing rows just now: their copies aside then replace what is read here.
        block = self.live[start:stop].copy()
        place = self._place[start:stop]
        changed = place != NOT_COPIED
        block[changed] = self._kept[place[changed]]
        self._read = stop
        return block


def rows_in_block(dtype: np.dtype[Any], shape: tuple[int, ...]) -> int:
    """How many rows of such an array make a block."""
    row_bytes = dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))
    return max(1, BLOCK_BYTES // max(1, row_bytes))
