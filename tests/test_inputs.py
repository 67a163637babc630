"""Files are read as logs: every row once, in order, under its own position."""

import gzip
import zlib
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from schemas.records import Records
from stream.config import InputSpec
from stream.errors import InputError
from stream.inputs import LINE_BYTES_MAX, InputFile, murmur2, partition_of

PLAIN = InputSpec(topic="shop")
LINES = [orjson.dumps({"event_id": i, "time": i, "account": f"a{i % 5}"}) for i in range(25)]


def read(path: Path, spec: InputSpec = PLAIN, batch_records: int = 10) -> list[Records]:
    """All batches of a file."""
    return [part for parts in InputFile("shop", path, spec, batch_records) for part in parts]


def zipped(data: bytes) -> bytes:
    """Two gzip members."""
    return gzip.compress(data[:100]) + gzip.compress(data[100:])


def zstd(data: bytes) -> bytes:
    """Two zstd frames."""
    pack = zstandard.ZstdCompressor()
    return pack.compress(data[:100]) + pack.compress(data[100:])


@pytest.mark.parametrize("pack", [bytes, zipped, zstd])
@pytest.mark.parametrize("end", [b"", b"\n"])
def test_lines_are_records_however_they_are_packed(
    tmp_path: Path, pack: "type[bytes]", end: bytes
) -> None:
    """Plain, gzip and zstd files, of one part or several, give the same records and positions."""
    path = tmp_path / "data"
    path.write_bytes(pack(b"\n".join(LINES) + end))
    batches = read(path)
    assert [len(batch) for batch in batches] == [10, 10, 5]
    assert [value for batch in batches for value in batch.values] == LINES
    assert np.concatenate([batch.offset for batch in batches]).tolist() == list(range(25))
    assert {(batch.topic, batch.partition) for batch in batches} == {("shop", 0)}
    assert {stamp for batch in batches for stamp in batch.timestamp_ms.tolist()} == {-1}


def test_blank_lines_are_no_records_but_count_as_rows(tmp_path: Path) -> None:
    """A record's offset is its line, so that it can be found again."""
    path = tmp_path / "data"
    path.write_bytes(b"\na\n  \r\nb\n\n")
    (batch,) = read(path)
    assert batch.values == [b"a", b"b"]
    assert batch.offset.tolist() == [1, 3]


@pytest.mark.parametrize("pack", [bytes, zipped, zstd])
def test_parquet_is_read_as_tables(tmp_path: Path, pack: "type[bytes]") -> None:
    """Parquet files stay columns, batch by batch, even where someone packed them again."""
    plain, path = tmp_path / "plain", tmp_path / "data"
    pq.write_table(pa.table({"n": list(range(25))}), plain, row_group_size=7)
    path.write_bytes(pack(plain.read_bytes()))
    batches = read(path)
    tables = [batch.values for batch in batches if isinstance(batch.values, pa.Table)]
    assert pa.concat_tables(tables).column("n").to_pylist() == list(range(25))
    assert np.concatenate([batch.offset for batch in batches]).tolist() == list(range(25))
    assert max(map(len, batches)) <= 10


def test_progress_ends_at_one(tmp_path: Path) -> None:
    """The share of a file that was read grows and ends at all of it."""
    path = tmp_path / "data"
    path.write_bytes(b"\n".join(LINES))
    file = InputFile("shop", path, PLAIN, 10)
    shares = [file.share_read for _ in file] + [file.share_read]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


@pytest.mark.parametrize(
    "content", [gzip.compress(b"\n".join(LINES))[:-20], zstd(b"x" * 200)[:9] + b"junk", b"PAR1junk"]
)
def test_a_broken_file_is_an_input_error(tmp_path: Path, content: bytes) -> None:
    """A file cut short or garbled is told by name, not by a library's exception."""
    path = tmp_path / "data"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"shop: .*data"):
        read(path)


def test_a_file_without_lines_is_refused_in_bounded_memory(tmp_path: Path) -> None:
    """A file that is one endless line is no text with one record a line."""
    path = tmp_path / "data"
    with path.open("wb") as file:
        file.truncate(LINE_BYTES_MAX + 10_000_000)
    with pytest.raises(InputError, match="a line of more than"):
        read(path)


def test_murmur2_is_kafkas() -> None:
    """The known answers of Kafka's own tests and of librdkafka's hold."""
    known = {
        "21": -973932308,
        "foobar": -790332482,
        "a-little-bit-long-string": -985981536,
        "a-little-bit-longer-string": -1486304829,
        "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
        "abc": 479470107,
        "kafka": 0xD067CF64,
        "giberish123456789": 0x8F552B0C,
        "1234": 0x9FC97B14,
        "234": 0xE7C009CA,
        "34": 0x873930DA,
        "4": 0x5A4B5CA1,
        "": 0x106E08D9,
    }
    keys = pa.array(["padding", *known])[1:]
    assert murmur2(keys).tolist() == [value % 2**32 for value in known.values()]


def test_partitions_are_those_of_the_producer() -> None:
    """murmur2 drops the sign bit as Java does, crc32 is zlib's, and null goes to the first."""
    keys = pa.array(["21", "foobar", None, "ü"])
    by_murmur2 = [h & 0x7FFFFFFF for h in murmur2(keys).tolist()]
    assert partition_of(keys, 7, "murmur2").tolist() == [
        0 if key is None else h % 7 for key, h in zip(keys.to_pylist(), by_murmur2, strict=True)
    ]
    crc = [0 if k is None else zlib.crc32(k.encode()) % 7 for k in keys.to_pylist()]
    assert partition_of(keys, 7, "crc32").tolist() == crc


def test_records_go_to_the_partition_of_their_key(tmp_path: Path) -> None:
    """Each key's records lie in one partition, in order, with offsets that count there."""
    path = tmp_path / "data"
    path.write_bytes(b"\n".join([*LINES, b"{", b'{"event_id": 1, "time": 1}']))
    spec = InputSpec(topic="shop", partitions=3, keyed_by="account", partitioner="murmur2")
    offsets: dict[int, list[int]] = {}
    partitions: dict[str, set[int]] = {}
    values: list[bytes] = []
    for batch in read(path, spec):
        offsets.setdefault(batch.partition, []).extend(batch.offset.tolist())
        for value in filter(None, batch.values):
            values.append(value)
            if b"account" in value:
                partitions.setdefault(orjson.loads(value)["account"], set()).add(batch.partition)
    assert sorted(values) == sorted([*LINES, b"{", b'{"event_id": 1, "time": 1}'])
    assert all(seen == list(range(len(seen))) for seen in offsets.values())
    assert len(offsets) > 1
    names = list(partitions)
    want = partition_of(pa.array(names), 3, "murmur2").tolist()
    assert [partitions[name] for name in names] == [{partition} for partition in want]
