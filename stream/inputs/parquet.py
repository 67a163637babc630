"""Parquet in bounded memory, although a small file may decompress to any size.

The header of every page is checked before the page is decompressed, and the rows of a batch fit in
memory even if each held the longest text of its column's dictionary.
"""

from collections.abc import Callable, Iterator
from typing import IO, Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stream.errors import InputError
from stream.inputs.parquet_pages import GuardedFile

BUFFER_BYTES: Final = 4 * 1024 * 1024
BATCH_BYTES: Final = 32 * 1024 * 1024
"""Approximate size of a batch; a single row may be larger."""
COLUMNS_MAX: Final = 10_000
ROWS_MIN: Final = 1_000
"""Batches of this size are fast enough without measuring the longest text."""


def read_batches(
    file: IO[bytes], name: str, batch_records: int, on_progress: Callable[[float], None]
) -> Iterator[pa.Table]:
    """The rows of a file in order, at most `batch_records` at a time. name: for errors.

    Columns have no dictionaries or views, except texts in lists and maps, which are dictionaries.
    INT96 is read in milliseconds, since nanoseconds overflow after 2262. Raises InputError where a
    page or a row is too large.
    """
    guarded = GuardedFile(file, name)
    source = pa.PythonFile(guarded, mode="r")
    parquet = _open_parquet(source)
    parquet = _open_parquet(source, _dictionary_columns(parquet, repeated=True))
    if parquet.metadata.num_columns > COLUMNS_MAX:
        raise InputError(
            f"{name}: {parquet.metadata.num_columns} columns; expected at most {COLUMNS_MAX}"
        )
    guarded.check_pages(parquet)
    schema = pa.schema([_plain_field(field) for field in parquet.schema_arrow])
    read = 0
    pending: list[pa.RecordBatch] = []
    for group in range(parquet.num_row_groups):
        rows = min(_rows_per_batch(source, parquet, group), batch_records)
        for batch in parquet.iter_batches(rows, row_groups=[group]):
            read += len(batch)
            rest = batch if batch.schema.equals(schema) else batch.cast(schema)
            while sum(map(len, pending)) + len(rest) >= batch_records:
                room = batch_records - sum(map(len, pending))
                yield pa.Table.from_batches([*pending, rest.slice(0, room)])
                pending, rest = [], rest.slice(room)
            pending += [rest] if len(rest) else []
            if sum(batch.nbytes for batch in pending) > BATCH_BYTES:
                yield pa.Table.from_batches(pending)
                pending = []
            on_progress(read / parquet.metadata.num_rows)
    if pending:
        yield pa.Table.from_batches(pending)


def _open_parquet(source: Any, dictionaries: list[str] | None = None) -> pq.ParquetFile:
    # no prefetch: a row group may be the whole file
    return pq.ParquetFile(
        source,
        buffer_size=BUFFER_BYTES,
        pre_buffer=False,
        read_dictionary=dictionaries,
        coerce_int96_timestamp_unit="ms",
    )


def _plain_field(field: pa.Field) -> pa.Field:
    return field.with_type(_plain_type(field.type))


def _plain_type(kind: pa.DataType) -> pa.DataType:
    """The type without dictionaries and views, which many Arrow functions do not support."""
    if pa.types.is_dictionary(kind):
        return _plain_type(kind.value_type)
    if pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_struct(kind):
        return pa.struct([_plain_field(field) for field in kind])
    return kind


# -- rows per batch -------------------------------------------------------------------------------


def _dictionary_columns(parquet: pq.ParquetFile, *, repeated: bool = False) -> list[str]:
    """The columns of texts and bytes that Arrow can read as dictionaries. repeated: only those with
    any number of values per row."""
    deltas = {
        chunk.path_in_schema
        for group in range(parquet.num_row_groups)
        for index in range(parquet.metadata.num_columns)
        if "DELTA_BYTE_ARRAY"
        in (chunk := parquet.metadata.row_group(group).column(index)).encodings
    }
    columns = (parquet.schema.column(i) for i in range(parquet.metadata.num_columns))
    return [
        column.path
        for column in columns
        if column.physical_type == "BYTE_ARRAY"
        and column.path not in deltas
        and (column.max_repetition_level > 0 or not repeated)
    ]


def _rows_per_batch(source: Any, parquet: pq.ParquetFile, group: int) -> int:
    """How many rows of a row group fit, if every text is the longest of its dictionary."""
    metadata = parquet.metadata.row_group(group)
    fixed, texts, deltas = 1, 0, 0
    for index in range(metadata.num_columns):
        chunk = metadata.column(index)
        if chunk.physical_type == "FIXED_LEN_BYTE_ARRAY":
            fixed += parquet.schema.column(index).length
        elif "DELTA_BYTE_ARRAY" in chunk.encodings:
            # a text repeats the beginning of the one before it, of any length
            deltas += chunk.total_uncompressed_size
        elif chunk.physical_type == "BYTE_ARRAY":
            texts += chunk.total_uncompressed_size
    if BATCH_BYTES // (fixed + deltas + texts) < min(ROWS_MIN, metadata.num_rows):
        probe = _open_parquet(source, _dictionary_columns(parquet))
        first = next(probe.iter_batches(1, row_groups=[group]), None)
        texts = 0 if first is None else sum(map(_longest_value_bytes, first.columns))
    return max(BATCH_BYTES // (fixed + deltas + texts), 1)


def _longest_value_bytes(column: pa.Array) -> int:
    """Sum of the longest texts, in bytes, of a column's dictionaries. A dictionary is read as a whole
    with its first value; other texts are bounded by their pages."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        values = column.dictionary
        if pa.types.is_primitive(values.type):
            return 8
        return int(pc.max(pc.binary_length(values)).as_py() or 0)
    if isinstance(column, pa.ExtensionArray):
        return _longest_value_bytes(column.storage)
    if pa.types.is_struct(kind):
        return sum(_longest_value_bytes(column.field(i)) for i in range(kind.num_fields))
    return _longest_value_bytes(column.values) if pa.types.is_nested(kind) else 0
