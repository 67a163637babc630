"""Files as logs: Parquet, or text with one record a line (NDJSON, access logs), plain or packed.

A file's topic is its input's name and its offsets are its rows, so that a replay names positions
that anyone can find again. Where the configuration gives the topic several partitions, records go
to them as the topic's producer would have sent them. Decodes only what that needs.
"""

import gzip
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Final, Literal, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from detectors.kernels import kernel
from schemas.codecs import TableCodec, codec_named
from schemas.columns import I64, U8
from schemas.mapping import compile_mapping
from schemas.records import Records
from stream.config import InputSpec
from stream.errors import InputError

BATCH_RECORDS: Final = 10_000
CHUNK_BYTES: Final = 4 * 1024 * 1024
LINE_BYTES_MAX: Final = 64 * 1024 * 1024
GZIP, ZSTD, PARQUET = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1"
_UNREADABLE: Final = (OSError, EOFError, zlib.error, pa.ArrowException)


class InputFile:
    """A file to be read once, in batches of at most `batch_records`, in bounded memory.

    Its format is told by its content. Iterating raises InputError where it cannot be read.
    """

    def __init__(
        self, name: str, path: Path, spec: InputSpec, batch_records: int = BATCH_RECORDS
    ) -> None:
        self.name = name
        self.path = path
        self.spec = spec
        self.batch_records = batch_records
        self.share_read = 0.0
        """How much of the file has been read, 0 to 1, for a progress bar."""

    def __iter__(self) -> Iterator[list[Records]]:
        """The file's records in its order: the next ones, one batch for each of their
        partitions."""
        try:
            yield from _partitioned(self._batches(), self.spec)
        except _UNREADABLE as error:
            raise InputError(f"{self.name}: {self.path}: {error}") from error
        self.share_read = 1.0

    def _batches(self) -> Iterator[Records]:
        with ExitStack() as opened:
            with self.path.open("rb") as first:
                magic = _unpacked(first).read(4)
            raw = opened.enter_context(self.path.open("rb"))
            unpacked = _unpacked(raw)
            if magic == PARQUET:
                if unpacked is not raw:
                    unpacked = _seekable(unpacked, opened)
                yield from self._tables(unpacked)
            else:
                yield from self._lines(raw, unpacked)

    def _tables(self, file: IO[bytes]) -> Iterator[Records]:
        parquet = pq.ParquetFile(file)
        row = 0
        for batch in parquet.iter_batches(self.batch_records):
            rows = np.arange(row, row + len(batch))
            row += len(batch)
            yield self._records(rows, pa.Table.from_batches([batch]))
            self.share_read = row / parquet.metadata.num_rows

    def _lines(self, raw: IO[bytes], unpacked: IO[bytes]) -> Iterator[Records]:
        """Blank lines are no records, but count as rows."""
        size = self.path.stat().st_size
        rows: list[int] = []
        values: list[bytes | None] = []
        for row, line in enumerate(self._split(unpacked)):
            if line and not line.isspace():
                rows.append(row)
                values.append(line)
            if len(rows) == self.batch_records:
                yield self._records(np.array(rows), values)
                self.share_read = min(raw.tell() / size, 1.0)
                rows, values = [], []
        if rows:
            yield self._records(np.array(rows), values)

    def _split(self, file: IO[bytes]) -> Iterator[bytes]:
        rest = b""
        while chunk := file.read(CHUNK_BYTES):
            *lines, rest = (rest + chunk).split(b"\n")
            yield from lines
            if len(rest) > LINE_BYTES_MAX:
                raise InputError(
                    f"{self.name}: {self.path}: a line of more than {LINE_BYTES_MAX} bytes; "
                    "expected Parquet, or text with one record a line"
                )
        if rest:
            yield rest

    def _records(self, rows: I64, values: list[bytes | None] | pa.Table) -> Records:
        return Records(self.name, 0, rows, np.full(len(rows), -1, np.int64), values)


def partition_of(
    keys: pa.StringArray, partitions: int, partitioner: Literal["murmur2", "crc32"]
) -> I64:
    """int64[n]: the partition that a producer chose for each key; 0 for null.

    murmur2 as Java's producer and librdkafka's `murmur2_random`, crc32 as librdkafka's
    `consistent_random`. Those send a null key anywhere, which nobody can repeat.
    """
    if partitioner == "murmur2":
        hashed = murmur2(keys) & np.int64(0x7FFF_FFFF)
    else:
        hashed = np.array(
            [0 if key is None else zlib.crc32(key.encode()) for key in keys.to_pylist()], np.int64
        )
    present = keys.is_valid().to_numpy(zero_copy_only=False)
    return np.where(present, hashed % partitions, 0)


def murmur2(keys: pa.StringArray) -> I64:
    """int64[n]: Kafka's 32-bit murmur2 of each text's UTF-8, as an unsigned number."""
    _, offsets, data = keys.buffers()
    out: I64 = np.zeros(len(keys), np.int64)
    if len(keys) > 0:
        first = keys.offset
        places = np.frombuffer(offsets, np.int32)[first : first + len(keys) + 1]
        text = np.empty(0, np.uint8) if data is None else np.frombuffer(data, np.uint8)
        _murmur2(text, places.astype(np.int64), out)
    return out


@kernel
def _murmur2(text: U8, places: I64, out: I64) -> None:
    m = np.uint32(0x5BD1E995)
    for i in range(len(out)):
        start = places[i]
        size = places[i + 1] - start
        h = np.uint32(0x9747B28C) ^ np.uint32(size)
        words = size >> 2
        for w in range(words):
            k = np.uint32(0)
            for b in range(4):
                k |= np.uint32(text[start + 4 * w + b]) << np.uint32(8 * b)
            k = np.uint32(k * m)
            k ^= k >> np.uint32(24)
            k = np.uint32(k * m)
            h = np.uint32(h * m) ^ k
        for b in range((size & 3) - 1, -1, -1):
            h ^= np.uint32(text[start + 4 * words + b]) << np.uint32(8 * b)
        if size & 3:
            h = np.uint32(h * m)
        h ^= h >> np.uint32(13)
        h = np.uint32(h * m)
        h ^= h >> np.uint32(15)
        out[i] = np.int64(h)


def _partitioned(batches: Iterator[Records], spec: InputSpec) -> Iterator[list[Records]]:
    """Each batch as one batch a partition; offsets then count in each partition."""
    if spec.partitions == 1 or spec.keyed_by is None or spec.partitioner is None:
        yield from ([batch] for batch in batches)
        return
    mapping = compile_mapping(spec.codec, spec.type, spec.fields, [spec.keyed_by])
    codec, table_codec = codec_named(spec.codec, mapping), TableCodec(mapping)
    next_offset = np.zeros(spec.partitions, np.int64)
    for batch in batches:
        decoded = (codec if isinstance(batch.values, list) else table_codec).decode(batch)
        partition = np.zeros(len(batch), np.int64)
        keys = decoded.text[spec.keyed_by]
        partition[decoded.rows] = partition_of(keys, spec.partitions, spec.partitioner)
        parts = []
        for chosen in np.unique(partition).tolist():
            part = batch.take(np.flatnonzero(partition == chosen))
            offset = np.arange(len(part)) + next_offset[chosen]
            next_offset[chosen] += len(part)
            parts.append(Records(part.topic, chosen, offset, part.timestamp_ms, part.values))
        yield parts


def _unpacked(raw: IO[bytes]) -> IO[bytes]:
    """A file just opened, read without its packing."""
    magic = raw.read(4)
    raw.seek(0)
    if magic.startswith(GZIP):
        return cast("IO[bytes]", gzip.open(raw))
    if magic == ZSTD:
        # Arrow's reader tells a file cut short; zstandard's takes it for the end
        return cast("IO[bytes]", pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd"))
    return raw


def _seekable(packed: IO[bytes], opened: ExitStack) -> IO[bytes]:
    """A packed Parquet file unpacked on disk: it is read from its end."""
    file = opened.enter_context(tempfile.TemporaryFile())  # noqa: SIM115  # closed with the rest
    shutil.copyfileobj(packed, file, CHUNK_BYTES)
    file.seek(0)
    return file
