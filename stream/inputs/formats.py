"""File formats: Parquet and CSV as tables, or text with one record per line (NDJSON, access logs),
plain or compressed.

Compression and Parquet are recognised by the first bytes, CSV by the file's name. Does not decode
lines, which is the codec's task, and knows neither topics nor partitions.
"""

import csv
import gzip
import re
import tempfile
import zlib
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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

from schemas.codecs.interface import FileFormat
from schemas.columns import I64
from stream.errors import InputError
from stream.inputs.files import InputFile
from stream.inputs.folders import folder_column_value
from stream.inputs.parquet import BATCH_BYTES, COLUMNS_MAX, read_batches

CHUNK_BYTES: Final = 4 * 1024 * 1024
MAGIC_BYTES_MAX: Final = 16
HEADER_CHUNK_CHARS: Final = 4096
HEADER_CHARS_MAX: Final = 1024 * 1024
DECOMPRESSED_BYTES_ALLOWED: Final = 64 * 1024 * 1024
DECOMPRESSION_RATIO_MAX: Final = 100
"""A compressed Parquet file may decompress to this many times its size, or to the bytes above."""
LINE_BYTES_MAX: Final = 64 * 1024 * 1024
GZIP, ZSTD, PARQUET = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1"
ZSTD_SKIPPABLE_FRAME: Final = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18")
"""A zstd frame without data, with which pzstd begins a file."""
COMPRESSED_SUFFIXES: Final = frozenset({".gz", ".zst", ".zstd"})
_READ_ERRORS: Final = (
    OSError,
    EOFError,
    zlib.error,
    UnicodeDecodeError,
    pa.ArrowException,
    csv.Error,
)

Values: TypeAlias = "list[bytes | None] | pa.Table"
OnProgress = Callable[[float], None]
"""Called with the share of a file that has been read, 0 to 1."""


class FileRows(NamedTuple):
    """Consecutive records of a file. row: int64[n], line or row from 0; a CSV's header is not
    counted, a blank line is. values: as in `Records`."""

    row: I64
    values: Values


class ReadOptions(NamedTuple):
    """How the files of an input are read, in every format.

    null_values: texts of a CSV's cells that mean no value, besides the empty cell. columns: those in
    the folders' names. json_columns: which of them are put into objects of NDJSON: the mapped ones.
    codec_formats: the file formats that the input's codec reads itself.
    """

    null_values: Sequence[str] = ()
    columns: Mapping[str, pa.DataType] = MappingProxyType({})
    json_columns: Sequence[str] = ()
    codec_formats: Sequence[FileFormat] = ()


def read_rows(
    file: InputFile, batch_records: int, on_progress: OnProgress, options: ReadOptions
) -> Iterator[FileRows]:
    """The file's records in order, at most `batch_records` at a time, in bounded memory.

    Raises InputError where the file cannot be read.
    """
    try:
        yield from _FileFormatReader(file, batch_records, on_progress, options).rows()
    except _READ_ERRORS as error:
        if isinstance(error, UnicodeDecodeError) or "UTF8" in str(error):
            raise InputError(
                f"{file.name}: not UTF-8 ({error}); expected UTF-8: if it is Latin-1 or "
                "Windows-1252, convert it with iconv -f WINDOWS-1252 -t UTF-8 OLD > NEW"
            ) from error
        raise InputError(f"{file.name}: {error}") from error
    on_progress(1.0)


@dataclass
class _FileFormatReader:
    """A file that is being read."""

    file: InputFile
    batch_records: int
    on_progress: OnProgress
    options: ReadOptions

    def rows(self) -> Iterator[FileRows]:
        with ExitStack() as exit_stack:
            raw = exit_stack.enter_context(self.file.open())
            decompressed = _decompressed(raw)
            codec_format = self._codec_format(decompressed)
            if codec_format is not None:
                yield from self._batches(raw, self._codec_records(codec_format, decompressed))
            elif decompressed.peek(4).startswith(PARQUET):
                yield from self._parquet(
                    raw if decompressed is raw else self._seekable(decompressed, exit_stack)
                )
            elif _is_csv(self.file.name):
                yield from self._csv(raw, decompressed)
            else:
                yield from self._batches(raw, self._lines(decompressed))

    def _report_progress(self, raw: IO[bytes]) -> None:
        """Report the share of the file's own (compressed) bytes that has been read."""
        self.on_progress(min(raw.tell() / max(self.file.size_bytes, 1), 1.0))

    def _parquet(self, file: IO[bytes]) -> Iterator[FileRows]:
        first = 0
        for table in read_batches(file, self.file.name, self.batch_records, self.on_progress):
            self._check_column_names(table.column_names)
            yield self._table_rows(first, table)
            first += len(table)

    def _csv(self, raw: IO[bytes], decompressed: IO[bytes]) -> Iterator[FileRows]:
        """All columns as texts, which the mapping interprets. An empty cell is null."""
        names, header_only = self._header()
        if not names:
            return
        source: IO[bytes] = cast("IO[bytes]", _UnsplitLineEnds(decompressed))
        if header_only:  # Arrow recognises a header only if its line ends
            source = BytesIO(decompressed.read(HEADER_CHARS_MAX * 4) + b"\n")
        invalid_rows: list[pa_csv.InvalidRow] = []

        def on_invalid_row(row: pa_csv.InvalidRow) -> str:
            invalid_rows.append(row)
            return "error"

        first = 0
        try:
            reader = pa_csv.open_csv(
                source,
                pa_csv.ReadOptions(use_threads=False, block_size=CHUNK_BYTES),
                pa_csv.ParseOptions(newlines_in_values=True, invalid_row_handler=on_invalid_row),
                pa_csv.ConvertOptions(
                    column_types=dict.fromkeys(names, pa.string()),
                    null_values=["", *self.options.null_values],
                    strings_can_be_null=True,
                ),
            )
            if any(kind != pa.string() for kind in reader.schema.types):
                raise InputError(
                    f"{self.file.name}: two names in the header are equal for Arrow; expected names "
                    "without quotation marks"
                )
            for block in reader:
                for start in range(0, len(block), self.batch_records):
                    rows = block.slice(start, self.batch_records)
                    yield self._table_rows(first + start, pa.Table.from_batches([rows]))
                first += len(block)
                self._report_progress(raw)
        except pa.ArrowInvalid as error:
            if not invalid_rows and "straddling" in str(error):
                raise InputError(
                    f"{self.file.name}: a row of more than {CHUNK_BYTES} bytes, after {first} rows; "
                    "expected shorter rows: a quotation mark may not be closed"
                ) from error
            if not invalid_rows:
                raise
            actual, expected = invalid_rows[0].actual_columns, invalid_rows[0].expected_columns
            number = "" if invalid_rows[0].number is None else f" {invalid_rows[0].number - 2}"
            raise InputError(
                f"{self.file.name}: row{number} has {actual} columns; expected {expected}, as in "
                "the header; quote cells that contain a comma"
            ) from error

    def _header(self) -> tuple[list[str], bool]:
        """The names of a CSV's columns, none where the file is empty; and whether at most blank
        lines follow them."""
        with self.file.open() as raw:
            text = TextIOWrapper(_decompressed(raw), "utf-8-sig", newline="")
            lines = csv.reader(self._header_lines(text))
            try:
                names = next(filter(None, lines), [])  # Arrow skips blank lines, too
            except csv.Error as error:  # a cell is too long
                raise self._header_error() from error
            parts = iter(partial(text.read, HEADER_CHUNK_CHARS), "")
            header_only = not any(part.strip("\r\n") for part in parts)
            text.detach()
        self._check_column_names(names)
        separator = next((mark for mark in ";\t|" if len(names) == 1 and mark in names[0]), None)
        if separator is not None:
            raise InputError(
                f"{self.file.name}: the header has no comma and seems to be separated by {separator!r}; "
                "expected commas between columns and points in decimal numbers: export it again as such"
            )
        return names, header_only

    def _header_lines(self, text: TextIOWrapper) -> Iterator[str]:
        """The first lines of a file, up to the largest size of a header."""
        chars_left = HEADER_CHARS_MAX
        while line := text.readline(chars_left):
            yield line
            chars_left -= len(line.rstrip("\r\n"))
            if chars_left <= 0:
                raise self._header_error()

    def _header_error(self) -> InputError:
        return InputError(
            f"{self.file.name}: a header of more than {HEADER_CHARS_MAX} characters, or a name in it of "
            f"more than {csv.field_size_limit()}; expected a CSV whose first line names its columns"
        )

    def _check_column_names(self, names: list[str]) -> None:
        """Raise InputError for too many columns, and for two columns of one name."""
        named = list(filter(None, names))
        if len(names) > COLUMNS_MAX:
            raise InputError(
                f"{self.file.name}: {len(names)} columns; expected at most {COLUMNS_MAX}"
            )
        if len(set(named)) < len(named):
            duplicate = next(name for name in named if named.count(name) > 1)
            raise InputError(f"{self.file.name}: two columns are named {duplicate}; expected one")

    def _codec_format(self, decompressed: BufferedReader) -> FileFormat | None:
        """The file's format, where the input's codec reads it itself."""
        name, first_bytes = _without_compression(self.file.name), decompressed.peek(MAGIC_BYTES_MAX)
        formats = (each for each in self.options.codec_formats if each.claims(name, first_bytes))
        return next(formats, None)

    def _codec_records(
        self, file_format: FileFormat, file: IO[bytes]
    ) -> Iterator[tuple[int, bytes]]:
        """The number and the payload of each record, as the codec cuts the file."""
        try:
            yield from enumerate(file_format.split(iter(partial(file.read, CHUNK_BYTES), b"")))
        except ValueError as error:
            raise InputError(f"{self.file.name}: {error}") from error

    def _lines(self, file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
        """The number and the text of each line. Blank lines are no records, but count as rows; a byte
        order mark before the first is dropped."""
        folder_members = self._folder_columns_in_json()
        for row, line in enumerate(self._split_lines(file)):
            if line and not line.isspace():
                yield row, _with_folder_columns(line, folder_members) if folder_members else line

    def _batches(self, raw: IO[bytes], records: Iterable[tuple[int, bytes]]) -> Iterator[FileRows]:
        """The records in batches of bounded size. records: (row, payload)."""
        rows: list[int] = []
        values: list[bytes | None] = []
        size = 0
        for row, payload in records:
            rows.append(row)
            values.append(payload)
            size += len(payload)
            if len(rows) == self.batch_records or size > BATCH_BYTES:
                yield FileRows(np.array(rows), values)
                self._report_progress(raw)
                rows, values, size = [], [], 0
        if rows:
            yield FileRows(np.array(rows), values)

    def _folder_columns_in_json(self) -> bytes:
        """The columns in folder names, as members of a JSON object."""
        columns = self.options.columns
        members = {
            name: folder_column_value(self.file.folder_columns, name, columns[name]).as_py()
            for name in self.options.json_columns
        }
        return orjson.dumps({name: value for name, value in members.items() if value is not None})[
            1:-1
        ]

    def _table_rows(self, first: int, table: pa.Table) -> FileRows:
        """A table's rows with the columns in folder names, unless the table has columns of these names."""
        for name, kind in self.options.columns.items():
            if name not in table.column_names:
                value = folder_column_value(self.file.folder_columns, name, kind)
                table = table.append_column(name, pa.repeat(value, len(table)))
        return FileRows(np.arange(first, first + len(table)), table)

    def _seekable(self, compressed: IO[bytes], exit_stack: ExitStack) -> IO[bytes]:
        """A compressed Parquet file decompressed on disk, since Parquet is read from its end."""
        bytes_left = max(DECOMPRESSED_BYTES_ALLOWED, DECOMPRESSION_RATIO_MAX * self.file.size_bytes)
        try:
            file = exit_stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115  # `exit_stack` closes it
            while chunk := compressed.read(CHUNK_BYTES):
                bytes_left -= file.write(chunk)
                if bytes_left < 0:
                    raise InputError(
                        f"{self.file.name}: a compressed Parquet file of {self.file.size_bytes} bytes that "
                        f"decompresses to more than {DECOMPRESSION_RATIO_MAX} times as much; expected an "
                        "uncompressed file"
                    )
            file.seek(0)
        except OSError as error:
            if error.errno is None:
                raise
            raise InputError(
                f"{self.file.name}: cannot be decompressed into {tempfile.gettempdir()}: "
                f"{error.strerror}; expected an uncompressed file, or free space there (TMPDIR)"
            ) from error
        return file

    def _split_lines(self, file: IO[bytes]) -> Iterator[bytes]:
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


def _with_folder_columns(line: bytes, members: bytes) -> bytes:
    """A line with members added at the beginning of its object, where equal members of the line
    override them."""
    inside = line.lstrip()
    if not inside.startswith(b"{"):
        return line
    rest = inside[1:].lstrip()
    return b"{" + members + (b"" if rest.startswith(b"}") else b",") + rest


class _UnsplitLineEnds:
    """A file whose reads never end between CR and LF. Otherwise Arrow drops the LF as the rest of a
    line end, even within a quoted cell."""

    closed = False

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._held_back = b""

    def read(self, size: int = -1) -> bytes:
        """As any file."""
        data = self._held_back + self._file.read(size - len(self._held_back) if size > 1 else size)
        self._held_back = b""
        if size > 1 and data.endswith(b"\r") and len(data) > 1:
            data, self._held_back = data[:-1], b"\r"
        return data

    def close(self) -> None:
        """Do nothing: the opener closes the file."""


def _is_csv(name: str) -> bool:
    """Whether a name ends in .csv, without the suffix of a compression."""
    return _without_compression(name).endswith(".csv")


def _without_compression(name: str) -> str:
    """A file's name in lower case, without the suffix of a compression."""
    path = PurePosixPath(name.lower())
    return path.stem if path.suffix in COMPRESSED_SUFFIXES else path.name


def _decompressed(raw: BufferedReader) -> BufferedReader:
    """A newly opened file, decompressed."""
    magic = raw.peek(4)[:4]
    if magic.startswith(GZIP):
        return BufferedReader(cast("RawIOBase", gzip.open(raw)))
    if magic.startswith(ZSTD) or ZSTD_SKIPPABLE_FRAME.fullmatch(magic):
        # Arrow's reader reports a truncated file; zstandard's does not
        compressed = pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd")
        return BufferedReader(cast("RawIOBase", compressed))
    return raw
