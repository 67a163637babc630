"""Rows that lie on disk come back whole: those of a part in their order, or all in order."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from numpy.random import default_rng

from stream.replay import spilling
from stream.replay.spilling import PARTS, PartitionedRows, SortedRows

ROWS = 5_000


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spilling, "CHUNK_ROWS", 200)
    monkeypatch.setattr(spilling, "PIECE_ROWS", 10)


def test_a_part_keeps_its_order_and_comes_some_rows_at_a_time(tmp_path: Path) -> None:
    """Every row is in its part, behind those that were written before it, however one part is
    preferred."""
    part = default_rng(3).integers(PARTS, size=ROWS).astype(np.uint8)
    part[: ROWS // 2] = 7
    table = pa.table({"part": pa.array(part), "row": pa.array(np.arange(ROWS))})
    parts = PartitionedRows(tmp_path / "parts", table.schema)
    for batch in table.to_batches(max_chunksize=37):
        parts.add(batch)
    for number in range(PARTS):
        found = list(parts.part(number))
        rows = [row for batch in found for row in batch.column("row").to_pylist()]
        assert rows == np.flatnonzero(part == number).tolist()
        assert all(len(batch) < 500 for batch in found)


def test_rows_come_in_order_some_at_a_time(tmp_path: Path) -> None:
    """By their first column, then by the second, then by the third, of runs that overlap all over;
    with texts and nulls; in batches that do not grow with the rows."""
    rng = default_rng(5)
    first, second, third = *rng.integers(20, size=(2, ROWS)), rng.permutation(ROWS)
    texts = pa.array([None if i % 3 else f"t{i}" for i in third.tolist()])
    names = ["first", "second", "third"]
    table = pa.table([*map(pa.array, (first, second, third)), texts], [*names, "text"])
    ordered = SortedRows(tmp_path / "ordered", table.schema)
    for batch in table.to_batches(max_chunksize=37):
        ordered.add(batch)
    found = list(ordered.batches())
    expected = table.sort_by([(name, "ascending") for name in names])
    assert pa.Table.from_batches(found).equals(expected.combine_chunks())
    pieces = ROWS // spilling.CHUNK_ROWS * spilling.PIECE_ROWS  # of each run one is held back
    assert max(map(len, found)) <= spilling.CHUNK_ROWS + 2 * pieces
    assert len(found) > ROWS // (spilling.CHUNK_ROWS + 2 * pieces)


def test_no_rows_are_none(tmp_path: Path) -> None:
    """What was never written is empty."""
    schema = pa.schema([(name, pa.int64()) for name in ("first", "second", "third")])
    assert sum(map(len, SortedRows(tmp_path / "ordered", schema).batches())) == 0
    schema = pa.schema([("part", pa.uint8())])
    assert list(PartitionedRows(tmp_path / "parts", schema).part(3)) == []
