"""State as arrays by name: how every part of a monitor is saved and loaded.

A part holds its arrays in a NamedTuple, which its kernels take as an argument. The fields' names are
the names in a checkpoint, unless the part saves other names by `rename_arrays`. `save` returns the
live arrays, not copies: a caller that needs them while the monitor runs copies them, or sets a write
hook, which is called before rows change. Files are read and written elsewhere.
"""

from collections.abc import Callable
from math import prod
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]
Number = TypeVar("Number", bound=np.generic)
ROWS_AT_ONCE: Final = 65_536
CACHE_LINE_BYTES: Final = 64


def aligned_zeros(shape: tuple[int, ...], dtype: type[Number]) -> NDArray[Number]:
    """Zeros that begin at a cache line; they use no memory until they are written."""
    size_bytes = prod(shape) * np.dtype(dtype).itemsize
    memory = np.zeros(size_bytes + CACHE_LINE_BYTES, np.uint8)
    start = -memory.ctypes.data % CACHE_LINE_BYTES
    return memory[start : start + size_bytes].view(dtype).reshape(shape)


STATE_VERSION: Final = 10
"""Raised by one with every change of what a state holds or of how an event changes it: a state of
another version is never loaded."""

WriteHook = Callable[[str, NDArray[np.int64]], None]
"""Called with the name of a saved array and the rows that are about to be written, in any order, some
perhaps twice, some perhaps beyond the saved ones."""


def state_arrays(part: NamedTuple, rows_used: dict[str, int] | None = None) -> Arrays:
    """The part's live arrays. rows_used: by an array's name, how many of its first rows to return."""
    lengths = rows_used or {}
    arrays: Arrays = part._asdict()
    return {name: array[: lengths.get(name)] for name, array in arrays.items()}


def rename_arrays(state: Arrays, names: dict[str, str]) -> Arrays:
    """The arrays by their new names; names: old → new, others stay."""
    return {names.get(name, name): array for name, array in state.items()}


def copy_arrays(state: Arrays) -> Arrays:
    """Copies of the arrays."""
    return {name: array.copy() for name, array in state.items()}


def load(part: NamedTuple, state: Arrays) -> None:
    """Write saved arrays back into the part's; rows beyond them are cleared.

    Rows that are zero already are not written, which would bring their pages into memory.
    """
    arrays: Arrays = part._asdict()
    assert arrays.keys() == state.keys(), (sorted(arrays), sorted(state))
    for name, array in arrays.items():
        array[: len(state[name])] = state[name]
        clear(array[len(state[name]) :])


def clear(rows: NDArray[Any]) -> None:
    """Set the rows to zero where they are not; reading a row uses no memory."""
    for start in range(0, len(rows), ROWS_AT_ONCE):
        block = rows[start : start + ROWS_AT_ONCE]
        if block.any():
            block[:] = np.zeros((), rows.dtype)


def select_prefix(prefix: str, state: Arrays) -> Arrays:
    """The arrays whose names start with `prefix/`, by the rest of their names."""
    return {n.removeprefix(f"{prefix}/"): a for n, a in state.items() if n.startswith(f"{prefix}/")}


def add_prefix(parts: dict[str, Arrays]) -> Arrays:
    """Several parts' arrays in one dict, each name prefixed with its part's."""
    return {f"{part}/{name}": a for part, arrays in parts.items() for name, a in arrays.items()}


def prefixed_hook(part: str, before_write: WriteHook) -> WriteHook:
    """The hook for one part, which adds the part's prefix to the array's name, as `add_prefix` does."""
    return lambda name, rows: before_write(f"{part}/{name}", rows)
