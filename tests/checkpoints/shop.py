"""A small shop for tests of checkpoints without Kafka: configurations, records, starts."""

from functools import cache
from typing import Any

import numpy as np

from schemas.records import Records
from stream.checkpoints.manager import CheckpointManager, PartitionCheckpoints
from stream.checkpoints.manifest import offset_of
from stream.checkpoints.recovered import RecoveredState, StartContext
from stream.checkpoints.recovery import recover
from stream.checkpoints.store import Folder, ObjectStorage
from stream.config import CheckpointsSpec, Config, parse
from stream.config.stage_graph import logs
from stream.config.topology import Log
from stream.kafka.positions import CommittedOffset, Partition
from stream.pipeline.alerting import RunInfo
from stream.pipeline.internal_topics import InternalTopicWriter
from stream.pipeline.shard import ShardFactory
from stream.simulator import Shop, lines
from stream.telemetry.collector import MetricsCollector

SHOP = Log("shop", "shop-events", 1)
WHERE = Partition(SHOP.topic, 0)
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
    """A configuration before it is parsed."""
    shop = {"topic": WHERE.topic, "type": {"field": "type"}}
    chosen = list(monitors) or [monitor("account"), monitor("ip")]
    return {"secret": "s", "inputs": {"shop": shop}, "monitors": chosen, **more}


def config(*monitors: dict[str, Any], **more: Any) -> Config:
    """A configuration."""
    return parse(document(*monitors, **more), {})


@cache
def stream() -> Records:
    """The shop's records, one partition."""
    values: list[bytes | None] = [line.value for line in lines(Shop(EVENTS, seed=3), 0.01)]
    count = len(values)
    return Records(WHERE.topic, 0, np.arange(count), np.full(count, -1), values)


def internal_records(made: Config, into: Log) -> Records:
    """The records of an internal topic with one partition, ten events each: a monitor's events, or
    reports of them all by the monitor account."""
    shards, values = ShardFactory(made, RUN), list[bytes | None]()
    source = shards.input_shard("shop")
    for start in range(0, EVENTS, 10):
        output = source.process(stream().slice(start, start + 10))
        if into.name == "assess":
            subscription = shards._subscriptions["assess"]
            subject = output.events.text[subscription._spec.subject]
            rows = np.flatnonzero(subject.is_valid().to_numpy(zero_copy_only=False))
            p_value = np.linspace(1e-9, 9e-3, len(output.events))
            reports = subscription._reports("account", output.events, rows, p_value, {})
            found = list(InternalTopicWriter(into, subscription, shards._key)._records(reports))
        else:
            found = [one for one in output.internal_records if one.log == into.name]
        values += (one.value for one in found)
    count = len(values)
    return Records(into.topic, 0, np.arange(count), np.full(count, -1), values)


class Group:
    """What a group leaves of a log with one partition: checkpoints in a store, and a committed
    offset with its metadata. records: the log's, by default the shop's. saved: a state to start
    from. allowed_drops: arguments of --drop-state of its next worker."""

    def __init__(
        self, objects: ObjectStorage, made: Config, log: Log = SHOP, records: Records | None = None
    ) -> None:
        self.objects = objects
        self.config = made
        self.log = log
        self.records = stream() if records is None else records
        self.committed: CommittedOffset | None = None
        self.low, self.high = 0, EVENTS * 2
        self.saved: Folder | None = None
        self.allowed_drops: list[str] = []

    def folder(self) -> Folder:
        """The partition's folder, as a new worker sees it."""
        return Folder(self.objects, "group", self.log.topic, 0)

    def start(self, made: Config | None = None) -> RecoveredState:
        """Recover the partition, as a worker that takes it."""
        chosen = made or self.config
        log = next(one for one in logs(chosen) if one.topic == self.log.topic)
        span = (self.low, self.high)
        asked = (chosen, RUN, log, 0, self.folder(), self.committed, *span)
        more: dict[str, Any] = {"saved": self.saved, "allowed_drops": self.allowed_drops}
        return recover(StartContext(*asked, beat=lambda: None, **more))

    def work(
        self, start: int, stop: int, checkpoints: list[int], made: Config | None = None
    ) -> PartitionCheckpoints:
        """Process the records start … stop - 1 and commit the end; write and publish checkpoints at
        these offsets."""
        manager = CheckpointManager(CheckpointsSpec(), MetricsCollector())
        state = self.start(made)
        kept = PartitionCheckpoints(self.folder(), state, 0.0)
        if state.needs_migration:
            state.migrate(made or self.config, RUN)
        if state.checkpoint is None:
            manager.write_first(kept, state.head.offset)
        else:
            kept.published = [state.checkpoint]
        assert offset_of(kept.unpublished or kept.published[0]) == start
        for at in [*checkpoints, stop]:
            if at > start:
                kept.state.shard.process(self.records.slice(start, at))
            start = at
            if at in checkpoints:
                manager.write_now(kept, at)
            self.committed = CommittedOffset(at, kept.metadata())
            kept.mark_published()
        manager.close()
        return kept
