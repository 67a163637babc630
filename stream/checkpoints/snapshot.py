"""A consistent copy of a shard's state, read while the shard continues.

Small arrays are copied at once. Large ones are copied on write: before a batch writes to rows, a
hook (`detectors.state.WriteHook`) copies those that are not read yet. A batch pays only for the rows
that it touches, and another thread reads the rest. In the worst case, when every row is written
before it is read, a snapshot takes as much memory again as the large arrays.
"""

from collections.abc import Iterator
from threading import Lock
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from detectors.state import Arrays
from schemas.columns import I64
from stream.checkpoints.store import each_block

BLOCK_BYTES: Final = 512 * 1024
NOT_COPIED: Final = -1


class Snapshot:
    """The state as it was when this was created, which must be between two batches.

    state: the saved arrays. copy_on_write_arrays: names of those that are copied on write. `before_write`
    is called by the shard's thread, everything else by another one.
    """

    def __init__(self, state: Arrays, copy_on_write_arrays: set[str]) -> None:
        self.copied_bytes = 0
        """Bytes copied on write so far. Copying delays a batch; a copy takes memory until it is read."""
        self._lock = Lock()
        self._live = {
            name: _CopyOnWrite(a) for name, a in state.items() if name in copy_on_write_arrays
        }
        self._copies = {
            name: a.copy() for name, a in state.items() if name not in copy_on_write_arrays
        }

    def before_write(self, name: str, rows: I64) -> None:
        """Copy the rows, if they are not read yet."""
        with self._lock:
            array = self._live.get(name)
            if array is not None:
                self.copied_bytes += array.copy_rows(rows)

    def arrays(self) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
        """Name → dtype and shape of every array, in the order to read them."""
        with self._lock:
            live = {name: array.live for name, array in self._live.items()}
        return {name: (a.dtype, a.shape) for name, a in (live | self._copies).items()}

    def blocks(self, name: str) -> Iterator[NDArray[Any]]:
        """The blocks of an array, in order. Can be iterated once."""
        if name in self._copies:
            copy = self._copies.pop(name)
            for start, stop in each_block(len(copy), rows_in_block(copy.dtype, copy.shape)):
                yield copy[start:stop]
            return
        array = self._live[name]
        rows = rows_in_block(array.live.dtype, array.live.shape)
        for start, stop in each_block(len(array.live), rows):
            with self._lock:
                block = array.read(start, stop)
            yield block
        with self._lock:
            del self._live[name]


class _CopyOnWrite:
    """A live array, and copies of the rows that were written to before they were read."""

    def __init__(self, live: NDArray[Any]) -> None:
        self.live = live
        self._read = 0
        # The system provides this memory only as it is written to.
        self._copies = np.empty_like(live)
        self._copied = 0
        self._copy_of = np.full(len(live), NOT_COPIED, np.int32)

    def copy_rows(self, rows: I64) -> int:
        """Copy the rows that are neither read nor copied yet; return the number of bytes."""
        rows = rows[(rows >= self._read) & (rows < len(self.live))]
        rows = np.unique(rows[self._copy_of[rows] == NOT_COPIED])
        stop = self._copied + len(rows)
        np.take(self.live, rows, 0, self._copies[self._copied : stop], "clip")
        self._copy_of[rows] = np.arange(self._copied, stop)
        self._copied = stop
        return len(rows) * self.live[:1].nbytes

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """The rows as they were; from now on they may be written to without a copy."""
        # A batch may be writing to these rows now: where it does, the copy replaces what is read.
        block = self.live[start:stop].copy()
        copy_of = self._copy_of[start:stop]
        changed = copy_of != NOT_COPIED
        block[changed] = self._copies[copy_of[changed]]
        self._read = stop
        return block


def rows_in_block(dtype: np.dtype[Any], shape: tuple[int, ...]) -> int:
    """How many rows of such an array make a block."""
    row_bytes = dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))
    return max(1, BLOCK_BYTES // max(1, row_bytes))
