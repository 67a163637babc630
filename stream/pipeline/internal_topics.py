"""Writes a stage's output to the internal topic of the next stage: all rows of one key go to the same
partition.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np

from detectors.numeric.hashing import HashKey, hash_text
from detectors.state import Arrays
from schemas.columns import I64, EventBatch
from stream.config.topology import Log
from stream.pipeline.counters import SENT_COUNTERS
from stream.pipeline.stages import Batch, InternalRecord, StageOutput, Subscription

SENT, NOT_APPLICABLE = range(2)


class InternalTopicWriter:
    """Writes to one internal topic the rows that its stage reads of one shard's output."""

    def __init__(self, log: Log, subscription: Subscription[Any], hash_key: HashKey) -> None:
        self.name = log.name
        self._partitions = log.partitions
        self._subscription = subscription
        self._hash_key = hash_key
        self._tally: I64 = np.zeros(2, np.int64)

    def write_events(self, events: EventBatch) -> Iterator[InternalRecord]:
        """The messages with the events of an input that the stage reads."""
        selected = self._subscription.select_events(events)
        count = len(selected.rows) if selected else 0
        self._tally += (count, len(events) - count)
        if selected:
            yield from self._records(selected.batch)

    def write_output(
        self, name: str, batch: Batch, output: StageOutput
    ) -> Iterator[InternalRecord]:
        """The messages with the rows that the stage reads of another stage's output."""
        selected = self._subscription.select_output(name, batch, output)
        if selected:
            yield from self._records(selected.batch)

    def _records(self, batch: Batch) -> Iterator[InternalRecord]:
        """The messages, in order for each partition and source."""
        hashed = hash_text(self._subscription.keys(batch), self._hash_key)
        # Not hashed[:, 0], which selects the slot in the entity table: the entities of one partition would
        # then use only some of the slots.
        partition = hashed[:, 1] % np.uint64(self._partitions)
        order = np.argsort(partition, kind="stable")
        in_order = batch.take(order)
        edges = np.searchsorted(partition[order], np.arange(self._partitions + 1))
        for k, (start, stop) in enumerate(pairwise(edges.tolist())):
            for message in self._subscription.codec.write(in_order.slice(start, stop)):
                yield InternalRecord(self.name, k, message)

    def counts(self) -> dict[str, int]:
        """Events sent to the internal topic, and events that do not concern its stage."""
        keys = (counter.key for counter in SENT_COUNTERS)
        return dict(zip(keys, self._tally.tolist(), strict=True))

    def events_counted(self) -> int:
        """The number of events so far, sent or not applicable."""
        return int(self._tally.sum())

    def backfill_not_applicable(self, events: int) -> None:
        """Count this number of events, from before the stage existed, as not applicable."""
        self._tally[NOT_APPLICABLE] += events

    def save(self) -> Arrays:
        """The counters."""
        return {"tally": self._tally}

    def load(self, state: Arrays) -> None:
        """Replace the counters by saved ones."""
        self._tally[:] = state["tally"]
