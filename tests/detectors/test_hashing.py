"""Keyed hashes against the published vectors of SipHash's authors."""

import hashlib
import struct

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors.features.pairings import pair
from detectors.numeric import hashing
from detectors.numeric.hashing import hash_key, hash_rows, hash_text, pseudonym

KEY = (0x0706050403020100, 0x0F0E0D0C0B0A0908)
VECTORS = {
    0: "a3817f04ba25a8e66df67214c7550293",
    1: "da87c1d86b99af44347659119b22fc45",
    15: "5493e99933b0a8117e08ec0f97cfc3d9",
}


@pytest.mark.parametrize("size", VECTORS)
def test_siphash_2_4_equals_the_authors_vectors(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the reference's rounds, bytes 0, 1, 2, … hash to the reference's 128-bit digests."""
    monkeypatch.setattr(hashing, "ROUNDS", (2, 4))
    text = pa.array([bytes(range(size)).decode()], pa.string())
    assert hash_text(text, KEY).tobytes().hex() == VECTORS[size]


@settings(deadline=None)  # the first case compiles
@given(st.lists(st.one_of(st.none(), st.text(max_size=40)), max_size=30), st.integers(0, 10))
def test_a_slice_hashes_as_the_whole(texts: list[str | None], start: int) -> None:
    """A column's hashes do not depend on where its Arrow buffers begin; null alone is (0, 0)."""
    column = pa.array(texts, pa.string())
    whole = hash_text(column, KEY)
    assert (hash_text(column.slice(start), KEY) == whole[start:]).all()
    assert [bool((row == 0).all()) for row in whole] == [text is None for text in texts]


ROWS = st.lists(
    st.tuples(st.none() | st.text(max_size=20), st.none() | st.text(max_size=20), st.floats()),
    max_size=20,
)


@settings(deadline=None)  # the first case compiles
@given(ROWS, st.integers(0, 10))
def test_a_row_hash_covers_values_and_columns(
    rows: list[tuple[str | None, str | None, float]], start: int
) -> None:
    """Two rows have the same hash where all values are the same; an absent value is an absent column,
    and where a slice begins does not matter."""
    one, other = (pa.array([row[k] for row in rows], pa.string()) for k in range(2))
    number = np.array([row[2] for row in rows], np.float64)
    whole = hash_rows({0: one, 1: other}, {2: number}, KEY)
    cut = hash_rows({0: one.slice(start), 1: other.slice(start)}, {2: number[start:]}, KEY)
    assert (cut == whole[start:]).all()
    alike = {
        (a, b, None if np.isnan(x) else np.float64(x).tobytes()): hashed
        for (a, b, x), hashed in zip(rows, whole.tolist(), strict=True)
    }
    assert len(set(alike.values())) == len(alike) == len(set(whole.tolist()))
    absent = pa.nulls(len(rows), pa.string())
    assert (hash_rows({0: one, 1: absent}, {}, KEY) == hash_rows({0: one}, {}, KEY)).all()
    if any(row[0] is not None for row in rows):
        assert (hash_rows({0: one}, {}, KEY) != hash_rows({1: one}, {}, KEY)).any()


@pytest.mark.parametrize("secret", ["", "s", "0123456789abcdef0123456789abcdef", "schön"])
def test_the_key_is_stretched_by_scrypt_once_per_process(secret: str) -> None:
    """The key is scrypt's (n = 2**14, r = 8, p = 1) output, high word first, and is cached."""
    derived = hashlib.scrypt(secret.encode(), salt=b"eddy hash key", n=2**14, r=8, p=1, dklen=16)
    assert hash_key(secret) == (int.from_bytes(derived[:8]), int.from_bytes(derived[8:]))
    assert hash_key(secret) is hash_key(secret)


def test_texts_keys_and_secrets_all_matter() -> None:
    """Different texts and different secrets give different hashes; a pseudonym is 32 hex digits."""
    column = pa.array(["a", "b"], pa.string())
    one, other = (hash_text(column, hash_key(secret)) for secret in ("s", "t"))
    assert len({pseudonym(row) for row in np.concatenate([one, other])}) == 4
    assert len(pseudonym(one[0])) == 32


MASK = 2**64 - 1


def sip_round(v0: int, v1: int, v2: int, v3: int) -> tuple[int, int, int, int]:
    """SipRound as J.-P. Aumasson and D. J. Bernstein define it (2012, figure 2.1)."""

    def turned(x: int, bits: int) -> int:
        return (x << bits | x >> (64 - bits)) & MASK

    v0, v2 = (v0 + v1) & MASK, (v2 + v3) & MASK
    v1, v3 = turned(v1, 13) ^ v0, turned(v3, 16) ^ v2
    v0 = turned(v0, 32)
    v2, v0 = (v2 + v1) & MASK, (v0 + v3) & MASK
    v1, v3 = turned(v1, 17) ^ v2, turned(v3, 21) ^ v0
    return v0, v1, turned(v2, 32), v3


def row_hash(texts: dict[int, str], numbers: dict[int, float]) -> int:
    """SipHash-1-3 of a row: each present column's number and size, then its bytes in words."""
    words: list[int] = []
    for name, text in texts.items():
        data = text.encode()
        words.append(name << 32 | len(data))
        words += (int.from_bytes(data[k : k + 8], "little") for k in range(0, len(data), 8))
    for name, number in numbers.items():
        words += (name << 32, int.from_bytes(struct.pack("<d", number), "little"))
    k0, k1 = KEY
    v = k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D, k0 ^ 0x6C7967656E657261
    state = (*v, k1 ^ 0x7465646279746573)
    for word in words:
        v0, v1, v2, v3 = sip_round(*state[:3], state[3] ^ word)
        state = v0 ^ word, v1, v2, v3
    state = (*state[:2], state[2] ^ 0xFF, state[3])
    for _ in range(3):
        state = sip_round(*state)
    return state[0] ^ state[1] ^ state[2] ^ state[3]


@settings(deadline=None)  # the first case compiles
@given(st.text(max_size=40), st.text(max_size=40), st.floats(allow_nan=False))
def test_a_row_hash_is_siphash_1_3(one: str, other: str, number: float) -> None:
    """As a plain SipHash-1-3 of the columns' numbers, sizes and bytes."""
    columns = {name: pa.array([text], pa.string()) for name, text in ((3, one), (5, other))}
    found = hash_rows(columns, {7: np.array([number])}, KEY)
    assert found.tolist() == [row_hash({3: one, 5: other}, {7: number})]


def test_a_pairs_hash_is_splitmix64s_finaliser() -> None:
    """The first outputs of S. Vigna's splitmix64 with seed 1234567."""
    outputs = [pair(np.uint64(1234567), np.uint64(k)) for k in (1, 2, 3)]
    assert outputs == [6457827717110365317, 3203168211198807973, 9817491932198370423]
