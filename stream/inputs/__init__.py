"""Inputs of a replay as logs: files in all formats and locations, and ranges of Kafka topics.

A log is read once, in batches, in bounded memory. For files, the topic of a record is the input's
name, and its offset is its row (one file) or its number in the merged log (several files). If the
configuration gives the topic several partitions, records are
partitioned as the topic's producer would do.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, Protocol

import numpy as np

from schemas.codecs import codec_spec
from schemas.columns import I64
from schemas.events import FIELDS
from schemas.mapping import compile_mapping
from schemas.records import Records
from stream.config import InputSpec
from stream.inputs.files import InputFile
from stream.inputs.folders import folder_column_types
from stream.inputs.formats import ReadOptions, Values
from stream.inputs.merging import merge_files
from stream.inputs.partitioning import TimePartitionDecoder

BATCH_RECORDS: Final = 10_000
BATCHES_REMEMBERED: Final = 8
"""Batches whose record positions are remembered."""


class InputReader(Protocol):
    """Reads a log, or some of its partitions, once.

    name: of the input. topic: of its records. size_bytes: the weight of the log in the progress of all
    inputs. needs_time_order: whether records out of time order are an error: in files, not in topics.
    """

    name: str
    topic: str
    size_bytes: int
    needs_time_order: bool

    @property
    def fraction_read(self) -> float:
        """Share of the log that has been read, 0 to 1."""

    def __iter__(self) -> Iterator[list[Records]]:
        """Yields the next records in order, as one batch for each partition."""

    def describe_position(self, partition: int, offset: int) -> str:
        """Position of a record in one of the last batches, as text for messages."""

    def log_index(self, partition: int, offset: I64) -> I64:
        """int64[n]: indexes, in the log over all partitions, of records in one of the last batches."""


class FileReader:
    """The files of an input as one log. Iterating raises InputError where a file cannot be read."""

    needs_time_order = True

    def __init__(
        self,
        name: str,
        files: Sequence[InputFile],
        spec: InputSpec,
        batch_records: int = BATCH_RECORDS,
    ) -> None:
        self.name = self.topic = name
        self.size_bytes = max(sum(file.size_bytes for file in files), 1)
        self._files = files
        self._spec = spec
        self._read_options = _read_options(files, spec)
        self._batch_records = batch_records
        self._shares = [0.0] * len(files)
        self._last_batches: deque[_BatchPositions] = deque(maxlen=BATCHES_REMEMBERED)

    @property
    def fraction_read(self) -> float:
        """Share of the files that has been read, 0 to 1."""
        read_bytes = (
            share * file.size_bytes for share, file in zip(self._shares, self._files, strict=True)
        )
        return min(sum(read_bytes) / self.size_bytes, 1.0) if min(self._shares) < 1.0 else 1.0

    def __iter__(self) -> Iterator[list[Records]]:
        """See `InputReader`."""
        decoder = TimePartitionDecoder(self._spec)
        next_offset: I64 = np.zeros(self._spec.partitions, np.int64)
        first = 0
        for rows_read in merge_files(
            self._files, decoder, self._batch_records, self._on_progress, self._read_options
        ):
            batch = _BatchPositions(first, rows_read.file, rows_read.row, {})
            self._last_batches.append(batch)
            first += len(rows_read.row)
            if not decoder.partitioned:
                is_single_file = len(self._files) == 1
                offset = rows_read.row if is_single_file else np.arange(batch.first, first)
                batch.partitions[0] = offset, np.arange(len(offset))
                yield [self._records(0, offset, rows_read.values)]
                continue
            all_records = self._records(0, rows_read.row, rows_read.values)
            batches = []
            for partition in np.unique(rows_read.partition).tolist():
                indexes = np.flatnonzero(rows_read.partition == partition)
                offset = np.arange(len(indexes)) + next_offset[partition]
                next_offset[partition] += len(indexes)
                batch.partitions[partition] = offset, indexes
                batches.append(self._records(partition, offset, all_records.take(indexes).values))
            if batches:
                yield batches

    def describe_position(self, partition: int, offset: int) -> str:
        """See `InputReader`."""
        batch, [index] = self._find(partition, np.array([offset]))
        return f"{self._files[int(batch.file[index])].name}: row {int(batch.row[index])}"

    def log_index(self, partition: int, offset: I64) -> I64:
        """See `InputReader`."""
        if not len(offset):
            return offset
        batch, indexes = self._find(partition, offset)
        return batch.first + indexes

    def _find(self, partition: int, offset: I64) -> tuple["_BatchPositions", I64]:
        """The batch that holds the records, and their indexes in it."""
        with_partition = (batch for batch in self._last_batches if partition in batch.partitions)
        batch = next(
            batch for batch in with_partition if batch.partitions[partition][0][-1] >= offset[-1]
        )
        offsets, indexes = batch.partitions[partition]
        return batch, indexes[np.searchsorted(offsets, offset)]

    def _on_progress(self, index: int, share: float) -> None:
        self._shares[index] = share

    def _records(self, partition: int, offset: I64, values: Values) -> Records:
        no_times = np.full(len(offset), -1, np.int64)
        return Records(self.name, partition, offset, no_times, values)


def _read_options(files: Sequence[InputFile], spec: InputSpec) -> ReadOptions:
    """How to read an input's files."""
    columns = folder_column_types(file.folder_columns for file in files)
    mapped: set[str] = set()
    codec = codec_spec(spec.codec)
    if columns and codec.json_objects:
        mapping = compile_mapping(spec.layout, spec.type, spec.fields, FIELDS)
        mapped = {path[0] for path in mapping.path_kinds() if len(path) == 1}
    json_columns = [name for name in columns if name in mapped]
    return ReadOptions(spec.null_values, columns, json_columns, codec.file_formats())


class _BatchPositions(NamedTuple):
    """Positions of a batch's records.

    first: index of its first record in the log. file, row: int64[n]. partitions: partition → offsets
    of its records and their indexes in the batch, both int64[m].
    """

    first: int
    file: I64
    row: I64
    partitions: dict[int, tuple[I64, I64]]
