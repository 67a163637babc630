"""Inputs of a replay as logs: files of all formats and places, and ranges of Kafka topics.

A log is read once, in batches, in bounded memory. Of files the topic is the input's name, and an
offset the row, in one file, else the record's number in the log that they are together, so that a
replay names positions that anyone can find again. Where the configuration gives the topic several
partitions, records go to them as the topic's producer would have sent them.
"""

from collections.abc import Iterator, Sequence
from typing import Final, Protocol

import numpy as np

from schemas.columns import I64
from schemas.records import Records
from stream.config import InputSpec
from stream.inputs.merging import Stretch, merged
from stream.inputs.partitioning import Partitioning
from stream.inputs.places import File

BATCH_RECORDS: Final = 10_000


class Reading(Protocol):
    """A log, or some of its partitions, on the way in.

    name: the input's. size_bytes: for the share of all inputs that was read. share_read: of this
    one, 0 to 1. ordered: whether disorder is a mistake; what a broker holds is as it is.
    """

    name: str
    size_bytes: int
    ordered: bool

    @property
    def share_read(self) -> float:
        """How much has been read, 0 to 1."""

    def __iter__(self) -> Iterator[list[Records]]:
        """The next records in their order, one batch for each of their partitions."""

    def where(self, partition: int, offset: int) -> str:
        """Where a record of the last batches stands, as a person finds it."""


class FileReading:
    """One input's files as one log, to be read once. Iterating raises InputError where one cannot
    be read."""

    ordered = True

    def __init__(
        self,
        name: str,
        files: Sequence[File],
        spec: InputSpec,
        batch_records: int = BATCH_RECORDS,
    ) -> None:
        self.name = name
        self.size_bytes = max(sum(file.size_bytes for file in files), 1)
        self._files = files
        self._spec = spec
        self._batch_records = batch_records
        self._shares = [0.0] * len(files)
        self._last: dict[int, tuple[I64, Stretch]] = {}

    @property
    def share_read(self) -> float:
        """How much of the files has been read, 0 to 1."""
        done = (share * f.size_bytes for share, f in zip(self._shares, self._files, strict=True))
        return min(sum(done) / self.size_bytes, 1.0) if min(self._shares) < 1.0 else 1.0

    def __iter__(self) -> Iterator[list[Records]]:
        """See `Reading`."""
        partitioning = Partitioning(self._spec)
        next_offset: I64 = np.zeros(self._spec.partitions, np.int64)
        for stretch in merged(self._files, self._spec, self._batch_records, self._read):
            size = len(stretch.row)
            # alone in its log, a file's records stand at their rows
            alone = len(self._files) == 1 and not partitioning.needed
            offset = stretch.row if alone else np.arange(size) + next_offset[0]
            whole = self._records(0, offset, stretch)
            self._last = {}
            if not partitioning.needed:
                next_offset[0] += size
                self._last[0] = offset, stretch
                yield [whole]
                continue
            partition = partitioning.of(whole)
            parts = []
            for chosen in np.unique(partition).tolist():
                mine = np.flatnonzero(partition == chosen)
                offset = np.arange(len(mine)) + next_offset[chosen]
                next_offset[chosen] += len(mine)
                part = Stretch(stretch.file[mine], stretch.row[mine], whole.take(mine).values)
                self._last[chosen] = offset, part
                parts.append(self._records(chosen, offset, part))
            yield parts

    def where(self, partition: int, offset: int) -> str:
        """See `Reading`."""
        offsets, stretch = self._last[partition]
        at = int(np.searchsorted(offsets, offset))
        return f"{self._files[int(stretch.file[at])].name}: row {int(stretch.row[at])}"

    def _read(self, index: int, share: float) -> None:
        self._shares[index] = share

    def _records(self, partition: int, offset: I64, stretch: Stretch) -> Records:
        nowhen = np.full(len(offset), -1, np.int64)
        return Records(self.name, partition, offset, nowhen, stretch.values)
