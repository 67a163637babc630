"""Re-keying: events into the partitions of an internal log, each entity's into one of them.

What is sent is the sender's choice (a monitor's events by route, reports by watch); here it is only
spread by a keyed hash, and packed.
"""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from detectors.numeric.hashing import HashKey, hash_text
from schemas.codecs.internal_events import InternalEventCodec
from schemas.columns import EventBatch
from stream.config import Log
from stream.pipeline.stages import InternalRecord


class Rekeyer:
    """The way into one internal log. entity: the field whose value chooses the partition."""

    def __init__(self, log: Log, entity: str, codec: InternalEventCodec, hash_key: HashKey) -> None:
        self.name = log.name
        self._partitions = log.partitions
        self._entity = entity
        self._codec = codec
        self._hash_key = hash_key

    def process(self, events: EventBatch) -> Iterator[InternalRecord]:
        """The messages with all these events, in order for each partition and source."""
        hashed = hash_text(events.text[self._entity], self._hash_key)
        # the other half of the hash finds an entity's row: one for both would crowd its table
        partition = hashed[:, 1] % np.uint64(self._partitions)
        order = np.argsort(partition, kind="stable")
        in_order = events.take(order)
        edges = np.searchsorted(partition[order], np.arange(self._partitions + 1))
        for k, (start, stop) in enumerate(pairwise(edges.tolist())):
            for message in self._codec.write(in_order.slice(start, stop)):
                yield InternalRecord(self.name, k, message)
