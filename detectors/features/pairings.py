"""Pairings: the (entity, value) pairs that the shard has seen, beyond each entity's own memory.

Two panes of a Bloom filter (B. Bloom, CACM 1970), shared by all entities: pairs are added to the
current pane; when it holds `PAIRS_MAX`, it becomes the earlier one and the next starts empty. So the
last 65,536 to 131,072 pairs are always found, and a pair that was never added is found in less than
0.5 % of cases: (1 - e^(-4/16))^4 = 0.24 % for each full pane, with 16
bits a pair and 4 hash functions. The hashes are keyed: nobody outside can target a pair.

This is no feature: `novelty` uses it. Words of a shard: 2 + 2 · 16,384, that is 256 KiB.
"""

from typing import Final

import numpy as np

from detectors.numeric.kernels import kernel
from schemas.columns import U64

PAIRS_MAX: Final = 65_536
BITS: Final = 1 << 20
HASHES: Final = 4
PANE_WORDS: Final = BITS // 64

PAIRS, PANE = range(2)
"""The number of pairs in the current pane, and which of the two panes it is."""
PANES: Final = 2
WORDS: Final = PANES + 2 * PANE_WORDS


@kernel
def pair(entity_hash: np.uint64, value: np.uint64) -> np.uint64:
    """One hash of both (the finaliser of S. Vigna's splitmix64)."""
    z = entity_hash + value * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.uint64(z ^ (z >> np.uint64(31)))


@kernel
def _bit(hashed: np.uint64, k: int) -> np.uint64:
    """The position of the pair's kth bit (A. Kirsch and M. Mitzenmacher's double hashing, 2006)."""
    step = (hashed >> np.uint64(32)) | np.uint64(1)
    return np.uint64((hashed + np.uint64(k) * step) & np.uint64(BITS - 1))


@kernel
def _in_pane(shared: U64, start: np.int64, hashed: np.uint64) -> bool:
    for k in range(HASHES):
        bit = _bit(hashed, k)
        word = shared[start + np.int64(bit >> np.uint64(6))]
        if (word >> (bit & np.uint64(63))) & np.uint64(1) == 0:
            return False
    return True


@kernel
def contains(shared: U64, hashed: np.uint64) -> bool:
    """Whether the pair was added recently."""
    first = np.int64(PANES)
    return _in_pane(shared, first, hashed) or _in_pane(shared, first + PANE_WORDS, hashed)


@kernel
def add(shared: U64, hashed: np.uint64) -> None:
    """Add the pair, unless the current pane has it."""
    start = PANES + PANE_WORDS * np.int64(shared[PANE])
    if _in_pane(shared, start, hashed):
        return
    if shared[PAIRS] >= np.uint64(PAIRS_MAX):
        shared[PANE] = np.uint64(1) - shared[PANE]
        shared[PAIRS] = 0
        start = PANES + PANE_WORDS * np.int64(shared[PANE])
        shared[start : start + PANE_WORDS] = 0
    for k in range(HASHES):
        bit = _bit(hashed, k)
        shared[start + np.int64(bit >> np.uint64(6))] |= np.uint64(1) << (bit & np.uint64(63))
    shared[PAIRS] += np.uint64(1)
