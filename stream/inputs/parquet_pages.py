"""Checks of a Parquet file's pages before Arrow decompresses them, by the sizes in page headers.

The headers are written in Thrift's compact protocol.
"""

from bisect import bisect_right
from dataclasses import dataclass
from typing import IO, Any, Final

import pyarrow.parquet as pq

from stream.errors import InputError

PAGES_BYTES_MAX: Final = 256 * 1024 * 1024
"""Bound on the sum of the largest decompressed page of each column of a row group, all of which are
in memory at once."""
PAGE_VALUES_MAX: Final = 16_000_000
"""Bound on values that need memory before they are read although they take no space in the file."""
_HEADER_BYTES_MAX: Final = 16 * 1024 * 1024
_DICTIONARY_PAGE: Final = 2
_DELTA_BYTE_ARRAY: Final = 7
_COUNTED_FIRST: Final = frozenset({6, _DELTA_BYTE_ARRAY})
"""Encodings of texts that decompress all lengths at once."""


@dataclass(slots=True)
class _Chunk:
    """A column chunk: its pages are at `start` to `stop`.

    unpacked: bytes of all its pages, as the file declares. repeated: a row may have any number of
    values. delta_encoded: the chunk declares an encoding in which texts repeat the beginnings of others.
    next_header: the position of the next page's header. partial_header: the part of it that was read.
    largest_page: unpacked bytes of the largest page so far. values, packed: totals of all pages so far.
    """

    start: int
    stop: int
    group: int
    column: str
    unpacked: int
    repeated: bool
    delta_encoded: bool
    next_header: int
    partial_header: bytes = b""
    largest_page: int = 0
    values: int = 0
    packed: int = 0


class GuardedFile:
    """A file that raises an error where a page is too large.

    Arrow reads the bytes of a column in order and decompresses a page after reading it.
    """

    closed = False

    def __init__(self, file: IO[bytes], name: str) -> None:
        self._file = file
        self._name = name
        self._chunks: list[_Chunk] = []
        self._starts: list[int] = []
        self._pages: dict[int, int] = {}

    def check_pages(self, parquet: pq.ParquetFile) -> None:
        """Check the pages of this file from now on."""
        chunks = [
            _chunk(parquet, group, index)
            for group in range(parquet.num_row_groups)
            for index in range(parquet.metadata.num_columns)
        ]
        self._chunks = sorted(chunks, key=lambda chunk: chunk.start)
        self._starts = [chunk.start for chunk in self._chunks]
        for before, after in zip(self._chunks, self._chunks[1:], strict=False):
            if after.start < before.stop:
                raise InputError(
                    f"{self._name}: its columns overlap; expected a valid Parquet file"
                )

    def read(self, size: int = -1) -> bytes:
        """See `io.RawIOBase`."""
        position = self._file.tell()
        data = self._file.read(size)
        for chunk in self._chunks[max(bisect_right(self._starts, position) - 1, 0) :]:
            if chunk.start >= position + len(data):
                break
            self._check_headers(chunk, position, data)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        """See `io.RawIOBase`."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """See `io.RawIOBase`."""
        return self._file.tell()

    def close(self) -> None:
        """Do nothing: the opener closes the file."""

    def _check_headers(self, chunk: _Chunk, position: int, data: bytes) -> None:
        """Check the page headers in bytes that were read."""
        if chunk.partial_header and chunk.next_header + len(chunk.partial_header) == position:
            position, data = chunk.next_header, chunk.partial_header + data
        chunk.partial_header = b""
        while position <= chunk.next_header < min(position + len(data), chunk.stop):
            at = chunk.next_header - position
            try:
                header, after = _read_struct(data, at)
            except IndexError:
                chunk.partial_header = data[at:]
                if len(chunk.partial_header) > _HEADER_BYTES_MAX:
                    raise self._refused(chunk, "a page header does not end") from None
                return
            packed = header.get(3, -1)
            if packed < 0 or header.get(2, -1) < 0:
                raise self._refused(chunk, "a page header has no size")
            chunk.packed += packed
            self._check(chunk, header)
            chunk.next_header += after - at + packed

    def _check(self, chunk: _Chunk, header: dict[int, Any]) -> None:
        """Raise InputError for a page that is too large or contradicts the file's metadata."""
        unpacked = header[2]
        metadata = header.get(5) or header.get(7) or header.get(8) or {}
        values = metadata.get(1, 0)
        encoding = metadata.get(4 if header.get(8) else 2, 0)
        if unpacked > chunk.unpacked:
            text = f"a page of {unpacked} bytes, in a column that declares {chunk.unpacked} in all"
            raise self._refused(chunk, text)
        chunk.values += values
        if header.get(1) == _DICTIONARY_PAGE:
            oversized = values > unpacked
        else:
            counted = chunk.repeated or encoding in _COUNTED_FIRST
            many = chunk.values > max(PAGE_VALUES_MAX, 8 * chunk.packed)
            oversized = counted and many
            if encoding == _DELTA_BYTE_ARRAY and not chunk.delta_encoded:
                raise self._refused(chunk, "a page has an encoding that the file does not declare")
        if oversized:
            text = f"{chunk.values} values in {chunk.packed} bytes would not fit into memory"
            raise self._refused(chunk, text)
        growth = max(unpacked - chunk.largest_page, 0)
        chunk.largest_page += growth
        total = self._pages[chunk.group] = self._pages.get(chunk.group, 0) + growth
        if total > PAGES_BYTES_MAX:
            text = f"pages of {total} bytes; expected at most {PAGES_BYTES_MAX}"
            raise self._refused(chunk, text)

    def _refused(self, chunk: _Chunk, text: str) -> InputError:
        return InputError(
            f"{self._name}: row group {chunk.group}, column {chunk.column}: {text}; expected a file "
            "that fits into memory page by page: write it again with smaller pages"
        )


def _chunk(parquet: pq.ParquetFile, group: int, index: int) -> _Chunk:
    metadata = parquet.metadata.row_group(group).column(index)
    start = metadata.data_page_offset
    if metadata.has_dictionary_page and 0 < metadata.dictionary_page_offset < start:
        start = metadata.dictionary_page_offset
    column = parquet.schema.column(index)
    return _Chunk(
        start=start,
        stop=start + metadata.total_compressed_size,
        group=group,
        column=metadata.path_in_schema,
        unpacked=metadata.total_uncompressed_size,
        repeated=column.max_repetition_level > 0,
        delta_encoded="DELTA_BYTE_ARRAY" in metadata.encodings,
        next_header=start,
    )


# -- Thrift's compact protocol --------------------------------------------------------------------


def _read_struct(data: bytes, at: int, depth: int = 0) -> tuple[dict[int, Any], int]:
    """The integer and struct fields of a struct, by number, and its end. Raises IndexError where the
    bytes end first."""
    fields: dict[int, Any] = {}
    number = 0
    while True:
        head = data[at]
        at += 1
        kind = head & 15
        if kind == 0:
            return fields, at
        if head >> 4:
            number += head >> 4
        else:
            number, at = _read_zigzag(data, at)
        value, at = _read_value(data, at, kind, depth + 1)
        if value is not None:
            fields[number] = value


def _read_value(data: bytes, at: int, kind: int, depth: int) -> tuple[Any, int]:
    """A field's value and its end; None for types that are not needed."""
    if depth > 8:
        raise InputError("a Parquet page's header is nested too deep")
    if kind in {1, 2}:  # a boolean: the type is the value
        return None, at
    if kind in {4, 5, 6}:
        return _read_zigzag(data, at)
    if kind == 12:
        return _read_struct(data, at, depth)
    if kind == 8:
        size, at = _read_varint(data, at)
        end = at + size
    elif kind in {3, 7}:
        end = at + (1 if kind == 3 else 8)
    elif kind in {9, 10}:
        return None, _skip_list(data, at, depth)
    else:
        raise InputError("a Parquet page's header cannot be read")
    data[end - 1]  # raises IndexError if cut
    return None, end


def _skip_list(data: bytes, at: int, depth: int) -> int:
    head = data[at]
    size, at = (head >> 4, at + 1) if head >> 4 < 15 else _read_varint(data, at + 1)
    for _ in range(size):
        # each boolean of a list is a byte
        _, at = _read_value(data, at, 3 if head & 15 in {1, 2} else head & 15, depth + 1)
    return at


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise InputError("a Parquet page's header cannot be read")


def _read_zigzag(data: bytes, at: int) -> tuple[int, int]:
    value, at = _read_varint(data, at)
    return value >> 1 ^ -(value & 1), at
