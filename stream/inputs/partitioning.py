"""Partitions of records as the topic's producer assigns them, and a check of the configured
partitioner.
"""

import zlib
from typing import Final, Literal, NamedTuple

import numpy as np
import pyarrow as pa

from detectors.numeric.kernels import kernel
from schemas.columns import I64, U8, EventBatch
from schemas.records import Records
from stream.config import InputSpec
from stream.inputs.formats import Values
from stream.pipeline.decoding import codec_for

CHECKED_EVERY: Final = 16
"""One in this many records is checked."""


class TimesAndPartitions(NamedTuple):
    """Times and partitions of n records. time_ms: int64[n], -1 without a time. partition: int64[n], 0
    without a key or where the record cannot be decoded."""

    time_ms: I64
    partition: I64


class TimePartitionDecoder:
    """Decodes only the times and the partition keys of an input's records."""

    def __init__(self, spec: InputSpec) -> None:
        self._spec = spec
        self.partitioned = spec.partitions > 1 and spec.keyed_by is not None
        """Whether the partition depends on the record; else all records are in partition 0."""
        self._codec = codec_for(spec, [spec.keyed_by] if spec.keyed_by else [])

    def decode(self, values: Values) -> TimesAndPartitions:
        """Times and partitions of records."""
        zeros = np.zeros(len(values), np.int64)
        decoded = self._codec.decode(Records("", 0, zeros, zeros, values))
        result = TimesAndPartitions(np.full(len(values), -1, np.int64), zeros.copy())
        times_ms = decoded.time_ms.fill_null(-1)
        result.time_ms[decoded.rows] = times_ms.to_numpy(zero_copy_only=False)
        spec = self._spec
        if self.partitioned and spec.keyed_by is not None and spec.partitioner is not None:
            keys = decoded.text[spec.keyed_by]
            result.partition[decoded.rows] = partition_of(keys, spec.partitions, spec.partitioner)
        return result


def partition_of(
    keys: pa.StringArray, partitions: int, partitioner: Literal["murmur2", "crc32"]
) -> I64:
    """int64[n]: the partition that a producer chooses for each key; 0 for null.

    murmur2: as Java's producer and librdkafka's `murmur2_random`. crc32: as librdkafka's
    `consistent_random`. Producers send null keys to random partitions, which cannot be reproduced.
    """
    if partitioner == "murmur2":
        hashed = murmur2(keys) & np.int64(0x7FFF_FFFF)
    else:
        hashed = np.array(
            [0 if key is None else zlib.crc32(key.encode()) for key in keys.to_pylist()], np.int64
        )
    present = keys.is_valid().to_numpy(zero_copy_only=False)
    return np.where(present, hashed % partitions, 0)


class MisplacedEvents(NamedTuple):
    """Events in another partition than the partitioner gives their key. checked: events of the
    sample that have a key. rows: int64, indexes of misplaced events."""

    checked: int
    rows: I64


def find_misplaced(events: EventBatch, spec: InputSpec) -> MisplacedEvents:
    """Check whether events are in the partitions that `keyed_by` and `partitioner` imply: one in
    `CHECKED_EVERY`, by offset. None is checked if the input has one partition or no `keyed_by`, or
    if no monitor reads that field."""
    name = spec.keyed_by
    if name not in events.text or spec.partitions == 1 or spec.partitioner is None:
        return MisplacedEvents(0, np.empty(0, np.int64))
    rows = np.flatnonzero(events.offset % CHECKED_EVERY == 0).astype(np.int64)
    keys = events.text[name].take(pa.array(rows))
    present = keys.is_valid().to_numpy(zero_copy_only=False)
    partitions = np.array([partition for _, partition in events.sources], np.int64)
    actual = partitions[events.source[rows]]
    wrong = present & (partition_of(keys, spec.partitions, spec.partitioner) != actual)
    return MisplacedEvents(int(np.count_nonzero(present)), rows[wrong])


def murmur2(keys: pa.StringArray) -> I64:
    """int64[n]: Kafka's 32-bit murmur2 of each text's UTF-8, as an unsigned number."""
    _, offsets, data = keys.buffers()
    out: I64 = np.zeros(len(keys), np.int64)
    if len(keys) > 0:
        first = keys.offset
        bounds = np.frombuffer(offsets, np.int32)[first : first + len(keys) + 1]
        text = np.empty(0, np.uint8) if data is None else np.frombuffer(data, np.uint8)
        _murmur2(text, bounds.astype(np.int64), out)
    return out


@kernel
def _murmur2(text: U8, bounds: I64, out: I64) -> None:
    m = np.uint32(0x5BD1E995)
    for i in range(len(out)):
        start = bounds[i]
        size = bounds[i + 1] - start
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
