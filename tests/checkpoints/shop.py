"""A small shop that tests of checkpoints fold without Kafka: configurations, records, starts."""

from typing import Any

import numpy as np
from obstore.store import ObjectStore

from schemas.records import Records
from stream.checkpoints.keeping import Keeper, Kept
from stream.checkpoints.manifest import offset_of
from stream.checkpoints.recovery import Circumstances, Recovered, recover
from stream.checkpoints.store import Folder
from stream.config import CheckpointsSpec, Config, parse
from stream.kafka import Committed, Partition
from stream.metrics import Board
from stream.simulator import Shop, lines
from stream.stages.watch import RunInfo

WHERE = Partition("shop-events", 0)
RUN = RunInfo("live", "run", lambda: "2026-01-01T00:00:00Z")
EVENTS = 600


def monitor(entity: str, **more: Any) -> dict[str, Any]:
    """A monitor with one feature and tails."""
    return {
        "name": entity,
        "entity": entity,
        "inputs": ["shop"],
        "capacity": 200,
        "features": [{"name": "amount", "kind": "value", "field": "amount"}],
        "detectors": [{"kind": "tail"}],
        "policy": {"p_max": 0.01, "alerts_per_day": 100_000},
        **more,
    }


def document(*monitors: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A configuration as it is parsed."""
    shop = {"topic": WHERE.topic, "type": {"field": "type"}}
    chosen = list(monitors) or [monitor("account"), monitor("ip")]
    return {"secret": "s", "inputs": {"shop": shop}, "monitors": chosen, **more}


def config(*monitors: dict[str, Any], **more: Any) -> Config:
    """A configuration."""
    return parse(document(*monitors, **more), {})


def stream() -> Records:
    """The shop's records, one partition."""
    values: list[bytes | None] = [line.value for line in lines(Shop(EVENTS, seed=3), 0.01)]
    count = len(values)
    return Records(WHERE.topic, 0, np.arange(count), np.full(count, -1), values)


class Group:
    """What a group leaves behind: checkpoints in a store, and a committed offset with its note."""

    def __init__(self, objects: ObjectStore, made: Config) -> None:
        self.objects = objects
        self.config = made
        self.committed: Committed | None = None
        self.low, self.high = 0, EVENTS * 2

    def folder(self) -> Folder:
        """The partition's folder, as a new worker sees it."""
        return Folder(self.objects, "group", *WHERE)

    def start(self, made: Config | None = None) -> Recovered:
        """What a worker that takes the partition makes of it."""
        span = (self.low, self.high)
        asked = (made or self.config, RUN, WHERE, self.folder(), self.committed, *span)
        return recover(Circumstances(*asked, beat=lambda: None))

    def work(
        self, start: int, stop: int, checkpoints: list[int], made: Config | None = None
    ) -> Kept:
        """A worker that folds the records start … stop - 1 and commits the end; it writes and
        publishes checkpoints at these offsets."""
        keeper = Keeper(CheckpointsSpec(), Board(), RUN.now)
        state = self.start(made)
        kept = Kept(self.folder(), state)
        if state.converts:
            state.convert(made or self.config, RUN)
        if state.checkpoint is None:
            keeper.begin(kept, state.head.offset)
        else:
            kept.published = [state.checkpoint]
        assert offset_of(kept.ready or kept.published[0]) == start
        records = stream()
        for at in [*checkpoints, stop]:
            if at > start:
                kept.state.shard.process(records.slice(start, at))
            start = at
            if at in checkpoints:
                keeper.take_now(kept, at)
            self.committed = Committed(at, kept.note())
            kept.was_committed()
        keeper.close()
        return kept
