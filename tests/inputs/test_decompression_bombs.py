"""Small files that unpack into anything are read, or refused by name, in bounded memory."""

import gzip
import subprocess
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from stream.config import InputSpec
from stream.errors import InputError
from stream.inputs import FileReader, parquet_pages
from stream.inputs.files import find_files
from stream.inputs.formats import DECOMPRESSED_BYTES_ALLOWED, HEADER_CHARS_MAX

LONG = "x" * 1_000_000
READ = """
import sys
from stream.config import InputSpec
from stream.pipeline.decoding import Decoder
from stream.config import LimitsSpec
from stream.errors import InputError
from stream.inputs import FileReader
from stream.inputs.files import find_files
from stream.pipeline.stages.route import to_dead_letter

spec = InputSpec(topic="shop", type="transaction",
                 fields={"event_id": "id", "time": "t", "account": "s", "card": "l", "ip": "m.k"})
decoder = Decoder(spec, LimitsSpec(), ["account", "card", "ip"])

def peak():
    # in MiB; rusage begins with the parent's
    [line] = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    return int(line.split()[1]) >> 10

sys.stdout.write(f"{peak()}\\n")
for path in sys.argv[1:]:
    rows = 0
    try:
        for parts in FileReader("shop", find_files(path), spec):
            for records in parts:
                rows += len(records)
                read = decoder.read(records)
                [to_dead_letter(fault, records) for fault in read.faults[:3]]
        found = f"{rows} rows"
    except InputError as error:
        found = error.message[:200].replace(chr(10), " ")
    sys.stdout.write(f"{peak()} {path} {found}\\n")
"""


def repeated_in_turn(values: list[str], count: int) -> pa.Array:
    """The same texts over and over, which a dictionary makes small."""
    return pa.DictionaryArray.from_arrays(np.zeros(count, np.int32), pa.array(values))


def write(path: Path, column: str, values: pa.Array, **options: object) -> None:
    """A Parquet file of events with a further column."""
    size = len(values)
    ids = pa.array([f"e{i}" for i in range(size)])
    table = pa.table({"id": ids, "t": pa.array(np.arange(size)), column: values})
    pq.write_table(table, path, compression="zstd", store_schema=False, **options)


def write_repeated(path: Path, part: bytes, times: int) -> None:
    """The same bytes over and over, packed."""
    pack = zstandard.ZstdCompressor(level=3).compressobj()
    with path.open("wb") as file:
        for _ in range(times):
            file.write(pack.compress(part))
        file.write(pack.flush())


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="says how much memory was taken")
def test_every_file_is_read_in_bounded_memory(tmp_path: Path) -> None:
    """An endless header, long lines, long texts in dictionaries, in lists and maps, and as beginnings
    of each other, and lists of nothing: each is less than a megabyte on disk."""
    mega = 1024 * 1024
    write_repeated(tmp_path / "header.csv.zst", b"x" * mega, 500)
    write_repeated(tmp_path / "names.csv.zst", b"x," * mega, 250)
    write_repeated(tmp_path / "lines.ndjson.zst", b'{"id": "' + b"x" * 20 * mega + b'"}\n', 20)
    write_repeated(tmp_path / "line.ndjson.zst", b"x" * mega, 500)
    write_repeated(tmp_path / "blank.ndjson.zst", b"\n" * mega, 200)
    write(tmp_path / "text.parquet", "s", repeated_in_turn([LONG], 1_500))
    write(tmp_path / "wide.parquet", "s", pa.array([b"x" * mega] * 50, pa.binary(mega)))
    offsets = [0, 500_000, 1_000_000]
    write(
        tmp_path / "list.parquet",
        "l",
        pa.ListArray.from_arrays(offsets, repeated_in_turn([LONG], 1_000_000)),
    )
    keys = repeated_in_turn(["k"], 1_000_000).cast(pa.string())
    maps = pa.MapArray.from_arrays(offsets, keys, repeated_in_turn([LONG], 1_000_000))
    write(tmp_path / "map.parquet", "m", maps)
    nothing = pa.ListArray.from_arrays([0, 20_000_000], pa.nulls(20_000_000, pa.int8()))
    write(tmp_path / "nothing.parquet", "l", nothing, data_page_size=2**30)
    prefixes = [LONG, *(LONG + str(i) for i in range(300))]
    deltas = {"use_dictionary": False, "column_encoding": {"s": "DELTA_BYTE_ARRAY"}}
    write(tmp_path / "prefixes.parquet", "s", pa.array(prefixes), **deltas)
    paths = sorted(map(str, tmp_path.iterdir()))
    assert max(Path(path).stat().st_size for path in paths) < mega
    child = subprocess.run(  # ourselves
        [sys.executable, "-c", READ, *paths],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    base, *lines = child.stdout.splitlines()
    assert len(lines) == len(paths), child.stdout
    peaks = {Path(path).name: int(mib) for mib, path, *_ in map(str.split, lines)}
    assert max(peaks.values()) - int(base) < 700, child.stdout


def read(path: Path) -> int:
    """How many records a file has."""
    reading = FileReader("shop", find_files(str(path)), InputSpec(topic="shop"))
    return sum(len(part) for parts in reading for part in parts)


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress])
def test_an_endless_header_is_refused_by_name(
    tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    """In one cell, in many, or in a quoted one of many lines."""
    for name, cell in (("one", b"x"), ("many", b"x,"), ("lines", b'"x\n",')):
        path = tmp_path / f"{name}.csv"
        path.write_bytes(pack(cell * (HEADER_CHARS_MAX // len(cell) * 2)))
        with pytest.raises(InputError, match=rf"{name}\.csv: "):
            read(path)


def test_a_compressed_parquet_file_decompresses_to_a_bounded_size(tmp_path: Path) -> None:
    """A temporary file is bounded as memory is."""
    path = tmp_path / "data.gz"
    path.write_bytes(gzip.compress(b"PAR1" + bytes(DECOMPRESSED_BYTES_ALLOWED)))
    with pytest.raises(InputError, match=r"data\.gz: .*decompresses to more than"):
        read(path)


def test_pages_are_checked_before_they_are_decompressed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages too large together, and a page larger than its column declares, are refused with the file,
    the row group and the column."""
    path = tmp_path / "data.parquet"
    write(path, "s", pa.array([f"{i % 500:05}" * 20 for i in range(20_000)]))
    assert read(path) == 20_000
    monkeypatch.setattr(parquet_pages, "PAGES_BYTES_MAX", 100_000)
    with pytest.raises(InputError, match=r"data\.parquet: row group 0, column \w+: pages of"):
        read(path)
    monkeypatch.undo()
    chunk = parquet_pages._chunk

    def lying(parquet: pq.ParquetFile, group: int, index: int) -> parquet_pages._Chunk:
        found = chunk(parquet, group, index)
        found.unpacked = 1_000
        return found

    monkeypatch.setattr(parquet_pages, "_chunk", lying)
    with pytest.raises(InputError, match=r"data\.parquet: .*a column that declares 1000"):
        read(path)


def test_every_page_is_checked_however_the_file_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Headers are found though a read ends within one, in files of many pages and all codecs."""
    monkeypatch.setattr("stream.inputs.parquet.BUFFER_BYTES", 1_000)
    count = 30_000
    table = pa.table(
        {
            "event_id": [f"e{i}" for i in range(count)],
            "time": np.arange(count),
            "tags": [[f"t{i % 7}"] * (i % 3) for i in range(count)],
            "flag": [None, True, False] * (count // 3),
        }
    )
    for version in ("1.0", "2.0"):
        for codec in ("none", "snappy", "gzip", "zstd"):
            path = tmp_path / f"{codec}.parquet"
            options = {"data_page_version": version, "data_page_size": 2_000}
            pq.write_table(table, path, compression=codec, row_group_size=7_000, **options)
            opened = parquet_pages.GuardedFile(path.open("rb"), "x")
            parquet = pq.ParquetFile(
                pa.PythonFile(opened, mode="r"), buffer_size=1_000, pre_buffer=False
            )
            opened.check_pages(parquet)
            rows = sum(len(batch) for batch in parquet.iter_batches(1_000))
            assert rows == count
            assert all(one.next_header == one.stop for one in opened._chunks)
            opened._file.close()
            batches = FileReader("shop", find_files(str(path)), InputSpec(topic="shop"))
            found = [
                part.values
                for parts in batches
                for part in parts
                if isinstance(part.values, pa.Table)
            ]
            assert pa.concat_tables(found).column("event_id") == table.column("event_id")
            assert [len(one) for one in found] == [10_000] * 3
            assert orjson.dumps(found[0].slice(4, 1).to_pylist()[0]["tags"]) == b'["t4"]'


@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_a_page_in_an_undeclared_encoding_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    """Texts that repeat each other's beginnings, in a column that does not declare it, in both
    versions of pages."""
    path = tmp_path / "data.parquet"
    encoded = {"use_dictionary": False, "column_encoding": {"s": "DELTA_BYTE_ARRAY"}}
    texts = pa.array([f"text {i}" for i in range(1_000)])
    write(path, "s", texts, data_page_version=version, **encoded)
    assert read(path) == 1_000
    chunk = parquet_pages._chunk

    def undeclared(parquet: pq.ParquetFile, group: int, index: int) -> parquet_pages._Chunk:
        found = chunk(parquet, group, index)
        found.delta_encoded = False
        return found

    monkeypatch.setattr(parquet_pages, "_chunk", undeclared)
    with pytest.raises(InputError, match=r"data\.parquet: .*an encoding that the file does not"):
        read(path)


def test_the_largest_page_of_each_column_counts() -> None:
    """Smaller pages after it, and a larger one, change the sum of a row group by what is more."""
    guarded = parquet_pages.GuardedFile(BytesIO(), "x")
    columns = [
        parquet_pages._Chunk(0, 9, group, "c", 1_000, False, False, 0) for group in (0, 0, 1)
    ]
    for column, unpacked, sums in (
        (0, 100, {0: 100}),
        (0, 40, {0: 100}),
        (1, 7, {0: 107}),
        (0, 120, {0: 127}),
        (2, 1, {0: 127, 1: 1}),
        (1, 7, {0: 127, 1: 1}),
    ):
        guarded._check(columns[column], {1: 0, 2: unpacked, 5: {1: 1, 2: 0}})
        assert guarded._pages == sums
    assert [one.largest_page for one in columns] == [120, 7, 1]


@pytest.mark.parametrize(
    ("encoding", "repeated", "refused"),
    [(0, False, False), (0, True, True), (5, False, False), (6, False, True), (7, False, True)],
)
def test_values_that_take_no_space_are_bounded(
    monkeypatch: pytest.MonkeyPatch, encoding: int, repeated: bool, refused: bool
) -> None:
    """In columns with any number of values in a row, and in texts whose lengths are all decompressed at
    once; eight values a byte are no attack."""
    monkeypatch.setattr(parquet_pages, "PAGE_VALUES_MAX", 100)
    guarded = parquet_pages.GuardedFile(BytesIO(), "x")
    column = parquet_pages._Chunk(0, 9, 0, "c", 1_000, repeated, True, 0)
    column.packed = 20
    guarded._check(column, {1: 0, 2: 10, 5: {1: 160, 2: encoding}})
    one_more = {1: 0, 2: 10, 5: {1: 1, 2: encoding}}
    if refused:
        with pytest.raises(InputError, match="161 values in 20 bytes would not fit"):
            guarded._check(column, one_more)
    else:
        guarded._check(column, one_more)
