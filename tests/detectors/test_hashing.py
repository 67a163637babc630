"""Keyed hashes against the published vectors of SipHash's authors."""

import hashlib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
