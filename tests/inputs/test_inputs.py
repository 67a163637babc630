"""Files are read as logs: every row once, in order, under its own position."""

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedReader
from itertools import cycle
from pathlib import Path
from threading import Thread
from typing import ClassVar, Literal
from unittest.mock import MagicMock
from urllib.parse import parse_qs, urlsplit

import msgspec
import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from confluent_kafka import Message, TopicPartition
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.columns import EventBatch
from schemas.records import Records
from stream.config import InputSpec
from stream.errors import InputError
from stream.inputs import FileReader
from stream.inputs.files import InputFile, find_files
from stream.inputs.formats import LINE_BYTES_MAX, Values
from stream.inputs.partitioning import (
    TimePartitionDecoder,
    TimesAndPartitions,
    find_misplaced,
    murmur2,
    partition_of,
)
from stream.inputs.ranges import topic_of
from stream.kafka import topic_reader
from stream.kafka.positions import Partition
from stream.kafka.source import to_records

PLAIN = InputSpec(topic="shop")
LINES = [orjson.dumps({"event_id": i, "time": i, "account": f"a{i % 5}"}) for i in range(25)]


def read(path: Path, spec: InputSpec = PLAIN, batch_records: int = 10) -> list[Records]:
    """All batches of a file, a folder or a glob."""
    reading = FileReader("shop", find_files(str(path)), spec, batch_records)
    return [part for parts in reading for part in parts]


def gzipped(data: bytes) -> bytes:
    """Two gzip members."""
    return gzip.compress(data[:100]) + gzip.compress(data[100:])


def zstd(data: bytes) -> bytes:
    """Two zstd frames."""
    pack = zstandard.ZstdCompressor()
    return pack.compress(data[:100]) + pack.compress(data[100:])


def pzstd(data: bytes) -> bytes:
    """Two zstd frames, each after one that holds its size and no data."""
    pack = zstandard.ZstdCompressor()
    frames = pack.compress(data[:100]), pack.compress(data[100:])
    return b"".join(b"\x50\x2a\x4d\x18\4\0\0\0" + len(f).to_bytes(4, "little") + f for f in frames)


@pytest.mark.parametrize("pack", [bytes, gzipped, zstd, pzstd])
@pytest.mark.parametrize("end", [b"", b"\n"])
def test_lines_are_records_whatever_the_compression(
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


@pytest.mark.parametrize("pack", [bytes, gzipped])
def test_a_byte_order_mark_is_dropped(tmp_path: Path, pack: "type[bytes]") -> None:
    """It is dropped at the beginning of a file, and nowhere else; a file of it alone has no line."""
    path, mark = tmp_path / "data", b"\xef\xbb\xbf"
    path.write_bytes(pack(mark + b"\n".join([*LINES, mark])))
    assert [value for batch in read(path) for value in batch.values] == [*LINES, mark]
    path.write_bytes(pack(mark))
    assert read(path) == []


def test_blank_lines_count_as_rows_but_give_no_records(tmp_path: Path) -> None:
    """A record's offset is its line, so that it can be found again."""
    path = tmp_path / "data"
    path.write_bytes(b"\na\n  \r\nb\n\n")
    (batch,) = read(path)
    assert batch.values == [b"a", b"b"]
    assert batch.offset.tolist() == [1, 3]


@pytest.mark.parametrize("pack", [bytes, gzipped, zstd])
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
    file = FileReader("shop", find_files(str(path)), PLAIN, 10)
    shares = [file.fraction_read for _ in file] + [file.fraction_read]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


@pytest.mark.parametrize(
    "content", [gzip.compress(b"\n".join(LINES))[:-20], zstd(b"x" * 200)[:9] + b"junk", b"PAR1junk"]
)
def test_a_broken_file_is_an_input_error(tmp_path: Path, content: bytes) -> None:
    """A file cut short or garbled is told by name, not by a library's exception."""
    path = tmp_path / "data"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"data: "):
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


CSV = b'id,who,note\n1,a1,"one, two"\n2,,"two\nlines"\n3,a3,\n'


@pytest.mark.parametrize("name", ["data.csv", "data.CSV.gz", "data.csv.zst"])
def test_csv_is_read_as_text(tmp_path: Path, name: str) -> None:
    """Quoted commas and line breaks stay in their cells, an empty cell is null, and nothing is
    taken for a number."""
    path = tmp_path / name
    path.write_bytes({"z": gzipped, "t": zstd}.get(name[-1], bytes)(CSV))
    (batch,) = read(path)
    assert isinstance(batch.values, pa.Table)
    assert batch.values.to_pydict() == {
        "id": ["1", "2", "3"],
        "who": ["a1", None, "a3"],
        "note": ["one, two", "two\nlines", None],
    }
    assert batch.offset.tolist() == [0, 1, 2]


def test_texts_of_a_csv_stay_as_they_are_written(tmp_path: Path) -> None:
    """Only the empty cell is null, and what the input declares; nothing is taken for a number."""
    path = tmp_path / "data.csv"
    path.write_text("id,who\n007,NA\n1.0,nan\n,NULL\n1e3, \n")
    (batch,) = read(path)
    assert isinstance(batch.values, pa.Table)
    assert batch.values.column("id").to_pylist() == ["007", "1.0", None, "1e3"]
    assert batch.values.column("who").to_pylist() == ["NA", "nan", "NULL", " "]
    (batch,) = read(path, InputSpec(topic="shop", null_values=["NA", "NULL"]))
    assert isinstance(batch.values, pa.Table)
    assert batch.values.column("who").to_pylist() == [None, "nan", None, " "]
    assert batch.values.column("id").to_pylist() == ["007", "1.0", None, "1e3"]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_line_break_in_a_cell_survives_any_block_boundary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """CR and LF of one cell may lie in two blocks that Arrow reads."""
    monkeypatch.setattr("stream.inputs.formats.CHUNK_BYTES", 64)
    path = tmp_path / "data.csv"
    ids = [f"a{'x' * (i % 40)}\r\nb" for i in range(200)]
    path.write_bytes(("id,n" + end + "".join(f'"{one}",1{end}' for one in ids)).encode())
    tables = [part.values for part in read(path) if isinstance(part.values, pa.Table)]
    assert pa.concat_tables(tables).column("id").to_pylist() == ids


def test_int96_timestamps_keep_their_time(tmp_path: Path) -> None:
    """In nanoseconds a time of 2611 would be one of 2026."""
    times = [datetime(2611, 1, 1), datetime(9999, 12, 31), datetime(1600, 1, 1)]  # noqa: DTZ001
    table = pa.table({"t": pa.array(times, pa.timestamp("us"))})
    pq.write_table(table, tmp_path / "data", use_deprecated_int96_timestamps=True)
    (batch,) = read(tmp_path / "data")
    assert isinstance(batch.values, pa.Table)
    assert batch.values.column("t").to_pylist() == times


def test_views_and_dictionaries_are_read_as_plain_values(tmp_path: Path) -> None:
    """Files of several writers have the same columns, and can be merged and parted by key."""
    kinds = [pa.string_view(), pa.dictionary(pa.int32(), pa.string()), pa.string()]
    for i, kind in enumerate(kinds):
        whos = pa.array([f"a{i}", None]).cast(kind)
        nested = pa.StructArray.from_arrays([whos], ["id"])
        columns = {"event_id": [f"e{i}", f"f{i}"], "time": [1, 9], "account": whos, "user": nested}
        pq.write_table(pa.table(columns), tmp_path / f"{i}.parquet")
    spec = InputSpec(topic="shop", partitions=2, keyed_by="account", partitioner="crc32")
    for one in (PLAIN, spec):
        tables = pa.concat_tables([part.values for part in read(tmp_path, one)])
        assert sorted(filter(None, tables.column("account").to_pylist())) == ["a0", "a1", "a2"]


def test_a_large_csv_comes_in_batches_and_a_wrong_row_is_named(tmp_path: Path) -> None:
    """Rows count on over blocks, and one with too many cells is an error with its number and
    without its content."""
    lines = [f"{i},{'x' * 90}" for i in range(60_000)]
    path = tmp_path / "data.csv"
    path.write_text("\n".join(["id,pad", *lines]))
    batches = read(path, batch_records=10_000)
    assert np.concatenate([batch.offset for batch in batches]).tolist() == list(range(60_000))
    assert max(map(len, batches)) == 10_000
    lines[55_555] = "1,secret,2"
    path.write_text("\n".join(["id,pad", *lines]))
    with pytest.raises(InputError, match=r"row 55555 has 3 columns; expected 2") as caught:
        read(path)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("id;amount\n1;2,5\n", "separated by ';'; expected commas"),
        ("id\tamount\n1\t2\n", r"separated by '\\t'; expected commas"),
        ("id,who\n1,Müller\n".encode("latin-1"), "expected UTF-8: .*iconv"),
        ("id,händler\n1,a\n".encode("latin-1"), "expected UTF-8: .*iconv"),
    ],
)
def test_a_csv_in_another_dialect_gets_a_remedy(
    tmp_path: Path, content: str | bytes, expected: str
) -> None:
    """Another separator and another encoding are named, with what to do, in header and rows."""
    path = tmp_path / "data.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=expected):
        read(path)


def test_an_endless_row_gets_a_likely_cause(tmp_path: Path) -> None:
    """A quotation mark that nobody closes makes one row of all that follow: it is named, with the
    number of rows before it, and memory stays bounded."""
    path = tmp_path / "data.csv"
    rows = b"1,%s\n" % (b"a" * 10_000) * 1_000
    path.write_bytes(b"id,who\n" + rows + b'7,"a\n' + rows)
    with pytest.raises(InputError, match=r"data\.csv: a row of .* after 1000 rows; .* closed$"):
        read(path)


def test_blank_lines_before_a_header_are_skipped(tmp_path: Path) -> None:
    """A CSV that begins with them has the columns that it has without."""
    path = tmp_path / "data.csv"
    path.write_bytes(b"\n\r\n" + CSV)
    (batch,) = read(path)
    assert isinstance(batch.values, pa.Table)
    assert batch.values.column("id").to_pylist() == ["1", "2", "3"]


@pytest.mark.parametrize("name", ["data.csv", "data.csv.gz", "data.csv.zst"])
@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\n\n\n", b"\n" * 10_000])
@pytest.mark.parametrize("header", [b"id,who", b"id", b'\xef\xbb\xbf\n"id","two\nlines"'])
def test_a_csv_with_only_a_header_has_no_rows(
    tmp_path: Path, name: str, end: bytes, header: bytes
) -> None:
    """Whether its line is ended or not, and whatever blank lines follow."""
    path = tmp_path / name
    path.write_bytes({"z": gzipped, "t": zstd}.get(name[-1], bytes)(header + end))
    assert read(path) == []


def test_a_header_with_an_unclosed_quote_is_refused(tmp_path: Path) -> None:
    """All the rows would be in its last cell: that they are not read is told."""
    path = tmp_path / "data.csv"
    path.write_bytes(b'id,"who\n1,a1\n2,a2\n')
    with pytest.raises(InputError, match=r"data\.csv: "):
        read(path)


@pytest.mark.parametrize("name", ["data.csv", "data.parquet"])
def test_two_columns_of_one_name_are_refused(tmp_path: Path, name: str) -> None:
    """Either could be meant; cells without a name may be many."""
    table = pa.Table.from_arrays([pa.array(["1"])] * 4, names=["id", "", "", "id"])
    if name == "data.parquet":
        pq.write_table(table, tmp_path / name)
    else:
        (tmp_path / name).write_text("id,,,id\n1,,,2\n")
    with pytest.raises(InputError, match=rf"{name}: two columns are named id"):
        read(tmp_path / name)
    (tmp_path / "fine.csv").write_text("id,,,\n1,,,2\n")
    assert sum(map(len, read(tmp_path / "fine.csv"))) == 1


def test_an_unreadable_input_is_an_input_error(tmp_path: Path) -> None:
    """A header of one endless cell, and a file that the system does not give out, are told by
    name."""
    (tmp_path / "data.csv").write_text("x" * 200_000 + "\n1\n")
    with pytest.raises(
        InputError, match=r"data\.csv: a header of .*expected a CSV whose first line"
    ):
        read(tmp_path / "data.csv")
    memory = Path("/proc/self/mem")
    if memory.is_file():
        with pytest.raises(InputError, match=r"^/proc/self/mem: "):
            find_files(str(memory))[0].content_id()


def test_a_file_is_opened_once_and_decoded_once_for_its_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a file is is told by what is read of it anyway, and of files that are merged into
    partitions time and key come of one look."""
    opened: list[str] = []
    looked: list[int] = []

    def at(self: TimePartitionDecoder, values: Values) -> TimesAndPartitions:
        looked.append(len(values))
        return glanced(self, values)

    def noted(file: InputFile) -> BufferedReader:
        opened.append(file.name)
        return file.open()

    glanced = TimePartitionDecoder.decode
    monkeypatch.setattr(TimePartitionDecoder, "decode", at)
    for k in range(2):
        (tmp_path / f"{k}.gz").write_bytes(gzip.compress(b"\n".join(LINES)))
    files = [replace(file, open=partial(noted, file)) for file in find_files(str(tmp_path))]
    spec = InputSpec(topic="shop", partitions=3, keyed_by="account", partitioner="murmur2")
    assert sum(len(part) for parts in FileReader("shop", files[:1], spec) for part in parts) == 25
    assert (len(opened), looked) == (1, [25])
    looked.clear()
    assert sum(len(part) for parts in FileReader("shop", files, spec) for part in parts) == 50
    assert looked == [25, 25, 25, 25]  # the first time of each, before it is opened


def partitions_by_poll(monkeypatch: pytest.MonkeyPatch, sizes: list[int]) -> list[list[int]]:
    """The offsets of each batch of partition 0, when messages come in turns of such sizes."""
    messages = [Message(topic="t", partition=i % 2, offset=i // 2) for i in range(60)]
    turns = cycle(sizes)

    def consume(_most: int, _seconds: float) -> list[Message]:
        size = next(turns)
        some, messages[:size] = messages[:size], []
        reached.update({one.partition() or 0: (one.offset() or 0) + 1 for one in some})
        return some

    def position(asked: list[TopicPartition]) -> list[TopicPartition]:
        return [TopicPartition(one.topic, one.partition, reached[one.partition]) for one in asked]

    reached = {0: -1001, 1: -1001}
    consumer = MagicMock(consume=consume, position=position)
    monkeypatch.setattr(topic_reader, "create_client", lambda *_: consumer)
    reader = topic_reader.TopicReader({}, "g", "t")
    reader.start({0: topic_reader.OffsetRange(0, 30), 1: topic_reader.OffsetRange(0, 30)})
    return [records.offset.tolist() for records in reader.records(0, 8)]


def test_batches_of_a_topic_do_not_depend_on_how_records_arrive(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Batches of a range are full, but for the last: what follows from them is repeatable."""
    whole = partitions_by_poll(monkeypatch, [60])
    assert [len(batch) for batch in whole] == [8, 8, 8, 6]
    assert (
        partitions_by_poll(monkeypatch, [1]) == partitions_by_poll(monkeypatch, [5, 0, 17]) == whole
    )


def test_records_carry_the_timestamp_type() -> None:
    """Where the broker set a record's time it is its append time, among others, too, and in any
    part of a batch; a time of the producer, or none, is none."""
    stamps = [(1, 10), (2, 20), (0, -1), (2, 30)]
    found = to_records(
        Partition("t", 0),
        [Message(topic="t", offset=i, timestamp=one) for i, one in enumerate(stamps)],
    )
    assert found.timestamp_ms.tolist() == [10, 20, -1, 30]
    append_ms = [one.append_ms for one in (found, found.slice(1, 4), found.take(np.array([3, 0])))]
    assert [one.tolist() for one in append_ms if one is not None] == [
        [-1, 20, -1, 30],
        [20, -1, 30],
        [30, -1],
    ]
    produced = to_records(Partition("t", 0), [Message(topic="t", offset=0, timestamp=(1, 5))])
    assert produced.append_ms is None


@pytest.mark.parametrize("at", [0, 1, 150, 299])
def test_a_future_time_does_not_reorder_files(tmp_path: Path, at: int) -> None:
    """Of two files that overlap one has a record of 2099: the order of all other records does not
    change."""
    own, other = list(range(0, 3_000_000, 10_000)), list(range(5_000, 3_000_000, 10_000))
    (tmp_path / "b").write_bytes(b"\n".join(records_at(other, "b")))
    (tmp_path / "a").write_bytes(b"\n".join(records_at(own, "a")))
    expected = ids(read(tmp_path, batch_records=1_000))
    own[at] = 4_070_908_800_000
    (tmp_path / "a").write_bytes(b"\n".join(records_at(own, "a")))
    found = ids(read(tmp_path, batch_records=1_000))
    odd = f"a{at}"
    assert [one for one in found if one != odd] == [one for one in expected if one != odd]


def records_at(times: list[int], name: str) -> list[bytes]:
    """A line for each time, its id the file's name and a number."""
    return [orjson.dumps({"event_id": f"{name}{i}", "time": time}) for i, time in enumerate(times)]


def ids(batches: list[Records]) -> list[str]:
    """The event ids in the order of the log; offsets must count on."""
    values = [value for batch in batches for value in batch.values]
    offsets = np.concatenate([batch.offset for batch in batches])
    assert offsets.tolist() == list(range(len(values)))
    return [orjson.loads(value)["event_id"] for value in values if value is not None]


@pytest.mark.parametrize("batch_records", [1, 3, 1_000])
def test_files_of_an_input_are_merged_by_event_time(tmp_path: Path, batch_records: int) -> None:
    """However large the batches: a file keeps its own order, of two at the same time the first by
    name goes first, and one whose times follow comes after."""
    draw = np.random.Generator(np.random.PCG64(3))
    times = {
        "a": np.sort(draw.integers(0, 60, 40)).tolist(),
        "b": [5, 50, 20, 50, 61],  # one is late in its own file
        "d": [200, 210],
        "c": [100, 110],
    }
    for name, own in times.items():
        (tmp_path / name).write_bytes(b"\n".join(records_at(own, name)))
    due = [
        (max(own[: i + 1]), order, i, f"{name}{i}")
        for order, (name, own) in enumerate(sorted(times.items()))
        for i in range(len(own))
    ]
    expected = [one for *_, one in sorted(due)]
    assert ids(read(tmp_path, batch_records=batch_records)) == expected
    assert ids(read(tmp_path / "[a-d]", batch_records=batch_records)) == expected


def test_a_file_that_begins_in_1970_is_merged_by_that_time(tmp_path: Path) -> None:
    """A first record at 0 ms opens its file first."""
    (tmp_path / "a").write_bytes(b"\n".join(records_at([5, 6], "a")))
    (tmp_path / "b").write_bytes(b"\n".join(records_at([0, 10], "b")))
    assert ids(read(tmp_path, batch_records=1_000)) == ["b0", "a0", "a1", "b1"]


def test_files_that_follow_each_other_are_opened_one_by_one(tmp_path: Path) -> None:
    """A folder of many files takes memory for those that overlap: the next is opened when the one
    before it is read."""
    for k in range(5):
        (tmp_path / f"{k}").write_bytes(
            b"\n".join(records_at([100 * k + i for i in range(50)], "e"))
        )
    reading = FileReader("shop", find_files(str(tmp_path)), PLAIN, 10)
    shares = [[*reading._shares] for _ in reading]
    assert max(sum(0.0 < share < 1.0 for share in one) for one in shares) <= 1
    assert reading.fraction_read == 1.0


def test_overlapping_files_of_one_input_must_have_the_same_columns(tmp_path: Path) -> None:
    """Two that cannot be merged are named."""
    (tmp_path / "a.csv").write_text("event_id,time\n1,1\n2,5\n")
    (tmp_path / "b.csv").write_text("event_id,time,more\n3,2,x\n4,6,x\n")
    with pytest.raises(InputError, match=r"a\.csv and .*b\.csv overlap in time"):
        read(tmp_path)


def test_folders_globs_and_addresses_name_files(tmp_path: Path) -> None:
    """Names come sorted, hidden ones not at all; what names nothing is an error."""
    for name in ("b.csv", "sub/a.csv", ".hidden", "sub/.tmp/x", "c.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")

    def named(text: str) -> list[str]:
        return [str(Path(file.name).relative_to(tmp_path)) for file in find_files(text)]

    assert named(str(tmp_path)) == ["b.csv", "c.json", "sub/a.csv"]
    assert named(f"{tmp_path}/**/*.csv") == ["b.csv", "sub/a.csv"]
    assert named(f"file://{tmp_path}/c.json") == ["c.json"]
    assert (
        find_files(f"{tmp_path}/b.csv")[0].content_id() != find_files(f"{tmp_path}/b.csv")[0].name
    )
    for nothing in (f"{tmp_path}/*.parquet", f"{tmp_path}/none", "nowhere://bucket/x"):
        with pytest.raises(InputError, match=r"nowhere|no such file"):
            find_files(nothing)


class Bucket(BaseHTTPRequestHandler):
    """As much of S3 as reading takes: an object's head, ranges of it, and a list of names."""

    objects: ClassVar[dict[str, bytes]] = {}
    asked: ClassVar[list[str]] = []

    def do_HEAD(self) -> None:
        """An object's size."""
        self.answer(self.objects.get(self.path.removeprefix("/bucket/")))

    def do_GET(self) -> None:
        """A range of an object, or the names under a prefix."""
        address = urlsplit(self.path)
        if "list-type" not in address.query:
            self.answer(self.objects.get(address.path.removeprefix("/bucket/")))
            return
        prefix = parse_qs(address.query).get("prefix", [""])[0]
        entries = "".join(
            f"<Contents><Key>{key}</Key><Size>{len(body)}</Size>"
            '<LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>"e"</ETag></Contents>'
            for key, body in self.objects.items()
            if key.startswith(prefix)
        )
        self.answer(
            f"<ListBucketResult><IsTruncated>false</IsTruncated>{entries}"
            "</ListBucketResult>".encode()
        )

    def answer(self, body: bytes | None) -> None:
        """Send the part of a body that was asked for."""
        asked = self.headers.get("Range", "")
        self.asked.append(asked)
        whole = body or b""
        first, last = 0, len(whole) - 1
        if asked:
            first, last = (int(x) for x in asked.removeprefix("bytes=").split("-"))
            last = min(last, len(whole) - 1)
        self.send_response(404 if body is None else 206 if asked else 200)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(whole)}")
        self.send_header("Content-Length", str(last - first + 1))
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.send_header("ETag", '"e"')
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(whole[first : last + 1])

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    """The objects of an empty bucket, served on this machine."""
    Bucket.objects.clear()
    Bucket.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Bucket)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
        monkeypatch.setenv(name, "us-east-1")
    yield Bucket.objects
    server.shutdown()
    server.server_close()


def test_objects_of_a_store_are_read_in_ranges(tmp_path: Path, bucket: dict[str, bytes]) -> None:
    """An object, a folder and a glob of a bucket are read as files are; of a Parquet file only the
    parts that are needed at the time."""
    lines = b"\n".join(LINES)
    bucket |= {"logs/a.ndjson": lines, "logs/b.ndjson.gz": gzip.compress(lines), "other/x": b"x"}

    def values(text: str) -> list[bytes | None]:
        reading = FileReader("shop", find_files(text), PLAIN)
        return [value for parts in reading for part in parts for value in part.values]

    assert values("s3://bucket/logs/a.ndjson") == LINES
    assert values("s3://bucket/logs/*.gz") == LINES
    assert len(values("s3://bucket/logs")) == len(values("s3://bucket/logs/*")) == 2 * len(LINES)
    with pytest.raises(InputError, match="no such file"):
        values("s3://bucket/nothing")
    path = tmp_path / "large.parquet"
    numbers = np.random.Generator(np.random.PCG64(1)).random(3_000_000)
    pq.write_table(pa.table({"n": numbers}), path, row_group_size=500_000, compression="none")
    bucket["large.parquet"] = path.read_bytes()
    [file] = find_files("s3://bucket/large.parquet")
    Bucket.asked.clear()
    first = next(iter(FileReader("shop", [file], PLAIN)))[0]
    assert isinstance(first.values, pa.Table)
    assert first.values.column("n").to_pylist() == numbers[:10_000].tolist()
    ranges = [one.removeprefix("bytes=").split("-") for one in Bucket.asked if one]
    fetched = sum(int(last) - int(start) + 1 for start, last in ranges)
    assert fetched < file.size_bytes / 2
    assert file.content_id() == 'store:"e"'


def keyed(partitions: int, name: str) -> InputSpec:
    """An input whose producer chooses the partition by the card, by its configuration."""
    spec = {"topic": "pay", "type": "transaction", "partitions": partitions}
    return msgspec.convert({**spec, "keyed_by": "card", "partitioner": name}, InputSpec)


def in_partition(cards: list[str | None], partition: int) -> EventBatch:
    """Events of these cards in a partition, at offsets from 0 on."""
    count = len(cards)
    return EventBatch(
        (("pay", partition),),
        np.zeros(count, np.int32),
        np.arange(count),
        np.zeros(count, np.int64),
        np.zeros(count, np.uint8),
        pa.array([str(i) for i in range(count)]),
        {"card": pa.array(cards, pa.string())},
        {},
    )


@pytest.mark.parametrize("name", ["murmur2", "crc32"])
@settings(deadline=None)  # murmur2 compiles
@given(
    cards=st.lists(st.one_of(st.none(), st.text(max_size=9)), min_size=1, max_size=200),
    cut=st.integers(0, 200),
)
def test_an_event_is_misplaced_where_the_partitioner_gives_another_partition(
    name: Literal["murmur2", "crc32"], cards: list[str | None], cut: int
) -> None:
    """Of one record of 16, chosen by offset, so that cutting the batch elsewhere changes nothing;
    one without a key is anywhere."""
    events, spec = in_partition(cards, 2), keyed(3, name)
    right = partition_of(events.text["card"], 3, name).tolist()
    expected = [i for i in range(0, len(cards), 16) if cards[i] is not None and right[i] != 2]
    found = find_misplaced(events, spec)
    assert found.rows.tolist() == expected
    assert found.checked == sum(card is not None for card in cards[::16])
    parts = [events.slice(0, min(cut, len(cards))), events.slice(min(cut, len(cards)), len(cards))]
    of_parts = [part.offset[find_misplaced(part, spec).rows] for part in parts]
    assert np.concatenate(of_parts).tolist() == expected


def test_no_event_is_misplaced_without_a_declared_key() -> None:
    """One partition, no keyed_by, or a field that no monitor reads."""
    events = in_partition(["a"] * 40, 7)
    without = msgspec.structs.replace(keyed(3, "murmur2"), keyed_by=None, partitioner=None)
    other = msgspec.structs.replace(keyed(3, "murmur2"), keyed_by="device")
    for spec in (keyed(1, "murmur2"), without, other):
        assert find_misplaced(events, spec).checked == 0


@pytest.mark.parametrize("address", ["kafka://u:word@pay?from=0", "kafka://broker/pay", "kafka://"])
def test_a_topic_address_holds_a_topic_name_and_no_path(address: str) -> None:
    """Brokers and users are in the configuration: else a password would be part of a topic's name,
    and the broker would be asked for it."""
    with pytest.raises(InputError, match=r"expected a topic name: kafka://TOPIC"):
        topic_of(address)
    assert topic_of("kafka://pay.a-b_1?from=0:1&until=0:3") == "pay.a-b_1"
