"""Keyed hashes of text columns, which identify entities, event ids and compared values.

SipHash with a secret key, so that nobody outside can construct collisions, and of 128 bits, so that
none occur by chance. Formula: J.-P. Aumasson, D. J. Bernstein, "SipHash: a fast short-input PRF"
(2012), and its 128-bit variant in the authors' reference code. Content checksums use xxh3 instead.
The key is stretched by scrypt (C. Percival, RFC 7914), so that each guess at a weak secret costs 16
MiB of memory and some 50 ms. A change of the derivation raises the state version.
"""

import hashlib
from collections.abc import Mapping
from functools import cache
from math import isnan
from typing import Final

import numpy as np
import pyarrow as pa

from detectors.numeric.kernels import kernel
from schemas.columns import F64, I32, I64, U8, U64

HashKey = tuple[int, int]
"""Two 64-bit words of secret key."""

ROUNDS: Final = (1, 3)
"""SipHash-1-3, as in the hash tables of Rust and Python: enough against flooding."""

SALT: Final = b"eddy hash key"
"""The same for every group: a state saved by a replay must fit any group with the same secret."""

_INITIAL: Final = np.array(
    [0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573], np.uint64
)
"""SipHash's initial state, before the key."""


@cache
def hash_key(secret: str) -> HashKey:
    """Derive the hash key from a secret of any length, once per process."""
    derived = hashlib.scrypt(secret.encode(), salt=SALT, n=2**14, r=8, p=1, dklen=16)
    return int.from_bytes(derived[:8]), int.from_bytes(derived[8:])


def hash_text(column: pa.StringArray, key: HashKey) -> U64:
    """uint64[n, 2]: the keyed 128-bit hash of each text; (0, 0) for null, and only for null."""
    out = np.zeros((len(column), 2), np.uint64)
    if len(column) == 0:
        return out
    validity, offsets, data = column.buffers()
    first = column.offset
    stop = first + len(column)
    bounds = np.frombuffer(offsets, np.int32)[first : stop + 1]
    text = np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8)
    nulls = np.frombuffer(validity, np.uint8) if column.null_count else np.empty(0, np.uint8)
    _siphash(text, bounds, nulls, first, np.uint64(key[0]), np.uint64(key[1]), *ROUNDS, out)
    return out


def hash_rows(texts: Mapping[int, pa.StringArray], numbers: Mapping[int, F64], key: HashKey) -> U64:
    """uint64[n]: the keyed hash of each row over one or more columns, which are identified by numbers. An
    absent value (null, NaN) counts as an absent column."""
    columns = [*texts.values(), *numbers.values()]
    state = np.empty((len(columns[0]), 4), np.uint64)
    state[:] = np.array([key[0], key[1], key[0], key[1]], np.uint64) ^ _INITIAL
    for name, column in texts.items():
        validity, offsets, data = column.buffers()
        bounds = np.frombuffer(offsets, np.int32)[column.offset : column.offset + len(column) + 1]
        text = np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8)
        nulls = np.frombuffer(validity, np.uint8) if column.null_count else np.empty(0, np.uint8)
        if len(column):
            _absorb_texts(text, bounds, nulls, column.offset, name, state)
    # a copy: for read-only columns the kernel would be compiled once more
    values = np.array([*numbers.values()]).reshape(len(numbers), len(state))
    column_numbers = np.array([*numbers], np.int64)
    _absorb_numbers(values, values.view(np.uint64), column_numbers, state)
    out = np.empty(len(state), np.uint64)
    _finish(state, out)
    return out


def pseudonym(hashed: U64) -> str:
    """32 hex digits in place of an entity's id, where that must not be shown. hashed: uint64[2]."""
    return f"{int(hashed[0]):016x}{int(hashed[1]):016x}"


@kernel
def _round(
    v0: np.uint64, v1: np.uint64, v2: np.uint64, v3: np.uint64
) -> tuple[np.uint64, np.uint64, np.uint64, np.uint64]:
    v0 += v1
    v2 += v3
    v1 = (v1 << np.uint64(13)) | (v1 >> np.uint64(51))
    v3 = (v3 << np.uint64(16)) | (v3 >> np.uint64(48))
    v1 ^= v0
    v3 ^= v2
    v0 = (v0 << np.uint64(32)) | (v0 >> np.uint64(32))
    v2 += v1
    v0 += v3
    v1 = (v1 << np.uint64(17)) | (v1 >> np.uint64(47))
    v3 = (v3 << np.uint64(21)) | (v3 >> np.uint64(43))
    v1 ^= v2
    v3 ^= v0
    v2 = (v2 << np.uint64(32)) | (v2 >> np.uint64(32))
    return v0, v1, v2, v3


@kernel
def _word(text: U8, start: int) -> np.uint64:
    """Eight bytes from an index on, little-endian; the compiler turns this into one load."""
    word = np.uint64(0)
    for b in range(8):
        word |= np.uint64(text[start + b]) << np.uint64(8 * b)
    return word


@kernel
def _siphash(
    text: U8,
    bounds: I32,
    nulls: U8,
    first: int,
    k0: np.uint64,
    k1: np.uint64,
    word_rounds: int,
    last_rounds: int,
    out: U64,
) -> None:
    for i in range(len(bounds) - 1):
        if len(nulls) > 0 and not (nulls[(first + i) >> 3] >> ((first + i) & 7)) & 1:
            continue
        start = bounds[i]
        size = bounds[i + 1] - start
        v0 = k0 ^ np.uint64(0x736F6D6570736575)
        v1 = k1 ^ np.uint64(0x646F72616E646F6D) ^ np.uint64(0xEE)
        v2 = k0 ^ np.uint64(0x6C7967656E657261)
        v3 = k1 ^ np.uint64(0x7465646279746573)
        words = size >> 3
        for w in range(words + 1):
            if w < words:
                m = _word(text, start + 8 * w)
            else:
                m = np.uint64(size & 0xFF) << np.uint64(56)
                for b in range(size & 7):
                    m |= np.uint64(text[start + 8 * w + b]) << np.uint64(8 * b)
            v3 ^= m
            for _ in range(word_rounds):
                v0, v1, v2, v3 = _round(v0, v1, v2, v3)
            v0 ^= m
        v2 ^= np.uint64(0xEE)
        for _ in range(last_rounds):
            v0, v1, v2, v3 = _round(v0, v1, v2, v3)
        low = v0 ^ v1 ^ v2 ^ v3
        v1 ^= np.uint64(0xDD)
        for _ in range(last_rounds):
            v0, v1, v2, v3 = _round(v0, v1, v2, v3)
        out[i, 0] = low
        out[i, 1] = v0 ^ v1 ^ v2 ^ v3
        if out[i, 0] == 0 and out[i, 1] == 0:
            out[i, 1] = 1  # (0, 0) means absent


@kernel
def _absorb(state: U64, i: int, word: np.uint64) -> None:
    """Absorb a word into a row's state, by one round."""
    v0, v1, v2, v3 = _round(state[i, 0], state[i, 1], state[i, 2], state[i, 3] ^ word)
    state[i, 0] = v0 ^ word
    state[i, 1] = v1
    state[i, 2] = v2
    state[i, 3] = v3


@kernel
def _absorb_texts(text: U8, bounds: I32, nulls: U8, first: int, name: int, state: U64) -> None:
    for i in range(len(bounds) - 1):
        if len(nulls) > 0 and not (nulls[(first + i) >> 3] >> ((first + i) & 7)) & 1:
            continue
        start = bounds[i]
        size = bounds[i + 1] - start
        _absorb(state, i, np.uint64(name) << np.uint64(32) | np.uint64(size))
        for w in range(size >> 3):
            _absorb(state, i, _word(text, start + 8 * w))
        if size & 7:
            word = np.uint64(0)
            for b in range(size & 7):
                word |= np.uint64(text[start + (size & ~7) + b]) << np.uint64(8 * b)
            _absorb(state, i, word)


@kernel
def _absorb_numbers(numbers: F64, bits: U64, names: I64, state: U64) -> None:
    for k in range(len(names)):
        for i in range(len(state)):
            if not isnan(numbers[k, i]):
                _absorb(state, i, np.uint64(names[k]) << np.uint64(32))
                _absorb(state, i, bits[k, i])


@kernel
def _finish(state: U64, out: U64) -> None:
    for i in range(len(out)):
        v0, v1, v2, v3 = state[i, 0], state[i, 1], state[i, 2] ^ np.uint64(0xFF), state[i, 3]
        for _ in range(3):
            v0, v1, v2, v3 = _round(v0, v1, v2, v3)
        out[i] = v0 ^ v1 ^ v2 ^ v3
