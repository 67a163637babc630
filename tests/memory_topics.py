"""Topics in memory, for replays that read stretches of them without a broker."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
import orjson
import pytest

from schemas.records import Records
from stream.kafka.topic_reader import OffsetRange
from stream.replay import inputs

Partitions = Sequence[Sequence[dict[str, Any] | bytes]]


def patch_topics(monkeypatch: pytest.MonkeyPatch, topics: Mapping[str, Partitions]) -> None:
    """Replays find these topics, the records of each partition as JSON, or
    as they are."""

    class MemoryTopicReader:
        """As `stream.kafka.topic_reader.TopicReader`; `start` begins again."""

        def __init__(self, _properties: object, _group: str, topic: str) -> None:
            self.topic = topic
            self._waiting: dict[int, deque[tuple[int, bytes]]] = {}

        def __enter__(self) -> Self:
            return self

        def __exit__(
            self,
            kind: type[BaseException] | None,
            error: BaseException | None,
            trace: TracebackType | None,
        ) -> None:
            pass

        def offset_ranges(self) -> dict[int, OffsetRange]:
            return {p: OffsetRange(0, len(rows)) for p, rows in enumerate(topics[self.topic])}

        def start(self, ranges: Mapping[int, OffsetRange]) -> None:
            held = topics[self.topic]
            self._waiting = {
                p: deque((o, _value(held[p][o])) for o in range(*span))
                for p, span in ranges.items()
            }

        def records(self, partition: int, records_max: int) -> Iterator[Records]:
            waiting = self._waiting[partition]
            while waiting:
                some = [waiting.popleft() for _ in range(min(records_max, len(waiting)))]
                offset = np.array([offset for offset, _ in some])
                values: list[bytes | None] = [value for _, value in some]
                yield Records(self.topic, partition, offset, np.full(len(some), 2**41), values)

    monkeypatch.setattr(inputs, "TopicReader", MemoryTopicReader)


def _value(record: dict[str, Any] | bytes) -> bytes:
    return record if isinstance(record, bytes) else orjson.dumps(record)
