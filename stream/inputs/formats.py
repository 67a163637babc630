"""What a file holds, as records: Parquet and CSV as tables, or text with one record a line (NDJSON,
access logs), plain or packed.

A packing and Parquet are told by their first bytes, CSV by the file's name. Decodes nothing that a
codec decodes, and knows neither topics nor partitions.
"""

import csv
import gzip
import re
import tempfile
import zlib
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from io import BufferedReader, BytesIO, RawIOBase, TextIOWrapper
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import IO, Final, NamedTuple, TypeAlias, cast

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.csv as pa_csv

from schemas.columns import I64
from stream.errors import InputError
from stream.inputs.folders import key_value
from stream.inputs.parquet import BATCH_BYTES, COLUMNS_MAX, batches_of
from stream.inputs.places import File

CHUNK_BYTES: Final = 4 * 1024 * 1024
GLANCE_CHARS: Final = 4096
HEADER_CHARS_MAX: Final = 1024 * 1024
UNPACKED_BYTES_MIN: Final = 64 * 1024 * 1024
UNPACKED_TIMES: Final = 100
"""A packed Parquet file may unpack into so many times its size, or the bytes above."""
LINE_BYTES_MAX: Final = 64 * 1024 * 1024
GZIP, ZSTD, PARQUET = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1"
SKIPPABLE: Final = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18")
"""A frame of zstd without data, with which pzstd begins a file."""
PACKED: Final = frozenset({".gz", ".zst", ".zstd"})
_UNREADABLE: Final = (
    OSError,
    EOFError,
    zlib.error,
    UnicodeDecodeError,
    pa.ArrowException,
    csv.Error,
)

Values: TypeAlias = "list[bytes | None] | pa.Table"
Share = Callable[[float], None]
"""Told how much of a file has been read, 0 to 1."""


class Rows(NamedTuple):
    """Consecutive records of a file. row: int64[n], the line or row that each stands in, from 0;
    a CSV's header is none, a blank line is one. values: as `Records` holds them."""

    row: I64
    values: Values


class Shape(NamedTuple):
    """How the files of an input are read, in every format.

    null_values: texts of a CSV's cells that mean no value, besides the empty cell. columns: those in
    the folders' names. in_lines: which of them are put into objects of NDJSON: the mapped ones.
    """

    null_values: Sequence[str] = ()
    columns: Mapping[str, pa.DataType] = MappingProxyType({})
    in_lines: Sequence[str] = ()


def rows_of(file: File, batch_records: int, share: Share, shape: Shape) -> Iterator[Rows]:
    """The file's records in its order, at most so many at a time, in bounded memory.

    Raises InputError where it cannot be read.
    """
    try:
        yield from _Reading(file, batch_records, share, shape).rows()
    except _UNREADABLE as error:
        if isinstance(error, UnicodeDecodeError) or "UTF8" in str(error):
            raise InputError(
                f"{file.name}: not UTF-8 ({error}); expected UTF-8: where it is Latin-1 or "
                "Windows-1252, convert it with iconv -f WINDOWS-1252 -t UTF-8 OLD > NEW"
            ) from error
        raise InputError(f"{file.name}: {error}") from error
    share(1.0)


@dataclass
class _Reading:
    """A file on its way in."""

    file: File
    batch_records: int
    share: Share
    shape: Shape

    def rows(self) -> Iterator[Rows]:
        with ExitStack() as opened:
            raw = opened.enter_context(self.file.open())
            unpacked = _unpacked(raw)
            if unpacked.peek(4).startswith(PARQUET):
                yield from self._parquet(
                    raw if unpacked is raw else self._seekable(unpacked, opened)
                )
            elif _is_csv(self.file.name):
                yield from self._csv(raw, unpacked)
            else:
                yield from self._lines(raw, unpacked)

    def _told(self, raw: IO[bytes]) -> None:
        """Say how much has been read, going by the bytes of the file as it is."""
        self.share(min(raw.tell() / max(self.file.size_bytes, 1), 1.0))

    def _parquet(self, file: IO[bytes]) -> Iterator[Rows]:
        first = 0
        for table in batches_of(file, self.file.name, self.batch_records, self.share):
            self._refuse_twins(table.column_names)
            yield self._table_rows(first, table)
            first += len(table)

    def _csv(self, raw: IO[bytes], unpacked: IO[bytes]) -> Iterator[Rows]:
        """Every column as text: what it means is the mapping's business. An empty cell is null."""
        names, alone = self._header()
        if not names:
            return
        source: IO[bytes] = cast("IO[bytes]", _LineEnds(unpacked))
        if alone:  # Arrow takes a header for one only where its line is ended
            source = BytesIO(unpacked.read(HEADER_CHARS_MAX * 4) + b"\n")
        wrong: list[pa_csv.InvalidRow] = []

        def refuse(row: pa_csv.InvalidRow) -> str:
            wrong.append(row)
            return "error"

        first = 0
        try:
            reader = pa_csv.open_csv(
                source,
                pa_csv.ReadOptions(use_threads=False, block_size=CHUNK_BYTES),
                pa_csv.ParseOptions(newlines_in_values=True, invalid_row_handler=refuse),
                pa_csv.ConvertOptions(
                    column_types=dict.fromkeys(names, pa.string()),
                    null_values=["", *self.shape.null_values],
                    strings_can_be_null=True,
                ),
            )
            if any(kind != pa.string() for kind in reader.schema.types):
                raise InputError(
                    f"{self.file.name}: two names in the header are the same to Arrow; expected names "
                    "without quotation marks in them"
                )
            for block in reader:
                for start in range(0, len(block), self.batch_records):
                    rows = block.slice(start, self.batch_records)
                    yield self._table_rows(first + start, pa.Table.from_batches([rows]))
                first += len(block)
                self._told(raw)
        except pa.ArrowInvalid as error:
            if not wrong and "straddling" in str(error):
                raise InputError(
                    f"{self.file.name}: a row of more than {CHUNK_BYTES} bytes, after {first} rows; "
                    "expected shorter ones: is a quotation mark in it never closed?"
                ) from error
            if not wrong:
                raise
            found, expected = wrong[0].actual_columns, wrong[0].expected_columns
            where = "" if wrong[0].number is None else f" {wrong[0].number - 2}"
            raise InputError(
                f"{self.file.name}: row{where} has {found} columns; expected {expected}, as the "
                "header has; quote what holds a comma"
            ) from error

    def _header(self) -> tuple[list[str], bool]:
        """The names of a CSV's columns, none where the file is empty; and whether at most blank
        lines follow them."""
        with self.file.open() as raw:
            text = TextIOWrapper(_unpacked(raw), "utf-8-sig", newline="")
            lines = csv.reader(self._header_lines(text))
            try:
                names = next(filter(None, lines), [])  # blank lines are none, as to Arrow
            except csv.Error as error:  # a cell has its limit
                raise self._no_header() from error
            parts = iter(partial(text.read, GLANCE_CHARS), "")
            alone = not any(part.strip("\r\n") for part in parts)
            text.detach()
        self._refuse_twins(names)
        other = next((mark for mark in ";\t|" if len(names) == 1 and mark in names[0]), None)
        if other is not None:
            raise InputError(
                f"{self.file.name}: the header has no comma and is parted by {other!r}; expected "
                "commas between columns, and points in decimal numbers: save it anew as such a CSV"
            )
        return names, alone

    def _header_lines(self, text: TextIOWrapper) -> Iterator[str]:
        """The lines of a file, as long as a header may be in them."""
        left = HEADER_CHARS_MAX
        while line := text.readline(left):
            yield line
            left -= len(line.rstrip("\r\n"))
            if left <= 0:
                raise self._no_header()

    def _no_header(self) -> InputError:
        return InputError(
            f"{self.file.name}: a header of more than {HEADER_CHARS_MAX} characters, or a name in it of "
            f"more than {csv.field_size_limit()}; expected a CSV whose first line names its columns"
        )

    def _refuse_twins(self, names: list[str]) -> None:
        """Raise InputError for a name that two columns have: either could be meant."""
        named = list(filter(None, names))
        if len(names) > COLUMNS_MAX:
            raise InputError(
                f"{self.file.name}: {len(names)} columns; expected at most {COLUMNS_MAX}"
            )
        if len(set(named)) < len(named):
            twin = next(name for name in named if named.count(name) > 1)
            raise InputError(f"{self.file.name}: two columns are named {twin}; expected one")

    def _lines(self, raw: IO[bytes], unpacked: IO[bytes]) -> Iterator[Rows]:
        """Blank lines are no records, but count as rows; a byte order mark before the first is dropped."""
        rows: list[int] = []
        values: list[bytes | None] = []
        size = 0
        within = self._keys_in_json()
        for row, line in enumerate(self._split(unpacked)):
            if line and not line.isspace():
                rows.append(row)
                values.append(_with_keys(line, within) if within else line)
                size += len(line)
            if len(rows) == self.batch_records or size > BATCH_BYTES:
                yield Rows(np.array(rows), values)
                self._told(raw)
                rows, values, size = [], [], 0
        if rows:
            yield Rows(np.array(rows), values)

    def _keys_in_json(self) -> bytes:
        """The columns in the folders' names, as members of a JSON object."""
        columns = self.shape.columns
        found = {
            name: key_value(self.file.keys, name, columns[name]).as_py()
            for name in self.shape.in_lines
        }
        return orjson.dumps({name: value for name, value in found.items() if value is not None})[
            1:-1
        ]

    def _table_rows(self, first: int, table: pa.Table) -> Rows:
        """A table's rows, with the columns in the folders' names, unless it has such columns itself."""
        for name, kind in self.shape.columns.items():
            if name not in table.column_names:
                value = key_value(self.file.keys, name, kind)
                table = table.append_column(name, pa.repeat(value, len(table)))
        return Rows(np.arange(first, first + len(table)), table)

    def _seekable(self, packed: IO[bytes], opened: ExitStack) -> IO[bytes]:
        """A packed Parquet file unpacked on disk: it is read from its end."""
        left = max(UNPACKED_BYTES_MIN, UNPACKED_TIMES * self.file.size_bytes)
        try:
            file = opened.enter_context(tempfile.TemporaryFile())  # noqa: SIM115  # closed with the rest
            while chunk := packed.read(CHUNK_BYTES):
                left -= file.write(chunk)
                if left < 0:
                    raise InputError(
                        f"{self.file.name}: a packed Parquet file of {self.file.size_bytes} bytes that "
                        f"unpacks into more than {UNPACKED_TIMES} times as much; expected it unpacked"
                    )
            file.seek(0)
        except OSError as error:
            if error.errno is None:
                raise
            raise InputError(
                f"{self.file.name}: cannot be unpacked into {tempfile.gettempdir()}: "
                f"{error.strerror}; expected the file unpacked, or room there (TMPDIR)"
            ) from error
        return file

    def _split(self, file: IO[bytes]) -> Iterator[bytes]:
        rest = file.read(len(BOM_UTF8)).removeprefix(BOM_UTF8)
        while chunk := file.read(CHUNK_BYTES):
            *lines, rest = (rest + chunk).split(b"\n")
            yield from lines
            if len(rest) > LINE_BYTES_MAX:
                raise InputError(
                    f"{self.file.name}: a line of more than {LINE_BYTES_MAX} bytes; expected "
                    "Parquet, CSV (a name that ends in .csv), or text with one record a line"
                )
        if rest:
            yield rest


def _with_keys(line: bytes, members: bytes) -> bytes:
    """A line with members put at the beginning of its object: the same members further on in it
    win, since they are the last."""
    inside = line.lstrip()
    if not inside.startswith(b"{"):
        return line
    rest = inside[1:].lstrip()
    return b"{" + members + (b"" if rest.startswith(b"}") else b",") + rest


class _LineEnds:
    """A file whose reads never end between CR and LF: Arrow takes the LF for the rest of a line's end
    then, in the middle of a quoted cell, too, and drops it."""

    closed = False

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._kept = b""

    def read(self, size: int = -1) -> bytes:
        """As any file."""
        data = self._kept + self._file.read(size - len(self._kept) if size > 1 else size)
        self._kept = b""
        if size > 1 and data.endswith(b"\r") and len(data) > 1:
            data, self._kept = data[:-1], b"\r"
        return data

    def close(self) -> None:
        """Does nothing: the opener closes the file."""


def _is_csv(name: str) -> bool:
    """Whether a name ends in .csv, its packing aside."""
    path = PurePosixPath(name.lower())
    return (PurePosixPath(path.stem) if path.suffix in PACKED else path).suffix == ".csv"


def _unpacked(raw: BufferedReader) -> BufferedReader:
    """A file just opened, read without its packing."""
    magic = raw.peek(4)[:4]
    if magic.startswith(GZIP):
        return BufferedReader(cast("RawIOBase", gzip.open(raw)))
    if magic.startswith(ZSTD) or SKIPPABLE.fullmatch(magic):
        # Arrow's reader tells a file cut short; zstandard's takes it for the end
        packed = pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd")
        return BufferedReader(cast("RawIOBase", packed))
    return raw
